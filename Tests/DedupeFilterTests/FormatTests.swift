// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Foundation
import Testing

@testable import dedupe

/// JSON pointers, conditions, sequences of values, and lines of text.
@Suite struct FormatTests {
    static func json(
        _ pointers: String..., value: [String] = [], revision: [String] = [], deletions: [String] = []
    ) -> InputFormat {
        InputFormat(
            shape: .json, key: pointers.map { InputFormat.KeyPart(pointers: [$0]) }, value: value, revision: revision,
            deletions: deletions)
    }

    static func text(_ delimiter: Character, _ fields: UInt32..., hasHeader: Bool = false) -> InputFormat {
        InputFormat(shape: .text(delimiter: delimiter.asciiValue!, fields: fields, hasHeader: hasHeader))
    }

    /// The key that a pointer finds in JSON; nil: none.
    private func key(_ pointer: String..., in line: String) throws -> String? {
        let format = InputFormat(shape: .json, key: pointer.map { InputFormat.KeyPart(pointers: [$0]) })
        let outcome = try events(of: line, format: format)
        guard case .update(let key, let value, _)? = outcome.first, outcome.count == 1 else { return nil }
        #expect(String(decoding: value, as: UTF8.self) == line)
        // The mark of keys that are no strings.
        return key.first == 0xFF
            ? "json:" + String(decoding: key.dropFirst(), as: UTF8.self) : String(decoding: key, as: UTF8.self)
    }

    // MARK: - Pointers

    @Test(arguments: [#"{"k":"a","x":{"\q":1}}"#, #"{"x":[{"\u12":1}],"k":"a"}"#])
    func badEscape_inANameThatNoPointerLooksAt_isReported(line: String) throws {
        #expect(
            try events(of: line, format: Self.json("/k"))
                == [.bad(line: 1, reason: "a bad escape in a string")])
    }

    /// The examples of RFC 6901, section 5.
    @Test func examplesOfTheStandard() throws {
        let document =
            #"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}"#
        #expect(try key("", in: document) == "json:" + document)
        for (pointer, expected) in [
            ("/foo", #"json:["bar","baz"]"#), ("/foo/0", "bar"), ("/foo/1", "baz"), ("/", "json:0"),
            ("/a~1b", "json:1"),
            ("/c%d", "json:2"), ("/e^f", "json:3"), ("/g|h", "json:4"), (#"/i\j"#, "json:5"), (#"/k"l"#, "json:6"),
            ("/ ", "json:7"), ("/m~0n", "json:8"),
        ] {
            #expect(try key(pointer, in: document) == expected, "\(pointer)")
        }
    }

    @Test(arguments: [
        ("/a", #"{"b":1}"#), ("/a", "[1]"), ("/a", "1"), ("/a", #""a""#), ("/a", "null"), ("/a", "{}"),
        ("/a", #"{"a":null}"#), ("/a/b", #"{"a":1}"#), ("/a/b", #"{"a":[1]}"#), ("/a/b", #"{"a/b":1}"#),
        ("/0", "[]"), ("/1", "[1]"), ("/00", "[1]"), ("/01", "[1,2]"), ("/-", "[1]"), ("/-1", "[1]"), ("/+0", "[1]"),
        ("/0", "[null]"), ("/1e0", "[1,2]"), ("/ 0", "[1]"), ("/99999999999999999999", "[1]"), ("/A", #"{"a":1}"#),
        ("/a", #"{"b":{"a":1}}"#), ("/a/", #"{"a":1}"#), ("//", #"{"":1}"#), ("", "null"),
    ])
    func pointersThatLeadNowhere(_ pointer: String, _ line: String) throws {
        #expect(try key(pointer, in: line) == nil, "\(pointer) in \(line)")
        let reason = "there is no key at \(pointer)"
        #expect(try events(of: line, format: Self.json(pointer)) == [.bad(line: 1, reason: reason)])
    }

    @Test(arguments: [
        ("/a", #"{"a":"x"}"#, "x"), ("/a", #"{"\u0061":"x"}"#, "x"), ("/é", #"{"é":"x"}"#, "x"),
        ("/é", #"{"\u00e9":"x"}"#, "x"), ("/😀", #"{"\ud83d\ude00":"x"}"#, "x"), ("/0", #"{"0":"x"}"#, "x"),
        ("/00", #"{"00":"x"}"#, "x"), ("/-", #"{"-":"x"}"#, "x"), ("/a//b", #"{"a":{"":{"b":"x"}}}"#, "x"),
        ("/~01", #"{"~1":"x"}"#, "x"), ("/~10", #"{"/0":"x"}"#, "x"), ("/a", #"{"a":""}"#, ""),
        ("/a", #"{"a":"\ud83d\ude00\n"}"#, "😀\n"), ("/a", #"{"a":1.0}"#, "json:1.0"), ("/a", #"{"a":1e2}"#, "json:1e2"),
        ("/a", #"{"a":-0}"#, "json:-0"), ("/a", #"{"a":true}"#, "json:true"), ("/a", #"{"a":false}"#, "json:false"),
        ("/a", #"{"a":[ 1 , "b c" ]}"#, #"json:[1,"b c"]"#), ("/a", #"{"a":{ "b" : null }}"#, #"json:{"b":null}"#),
        ("/a/b", #"{"a":{"b":1},"a":{"b":2}}"#, "json:2"), ("/a/1/c", #"{"a":[0,{"b":1,"c":"x"}]}"#, "x"),
        ("/1/0", "[[1],[\"x\"]]", "x"), ("/a", #"{"b":[{"a":1},[{"a":2}]],"a":"x","c":{"a":3}}"#, "x"),
    ])
    func pointersThatLeadSomewhere(_ pointer: String, _ line: String, _ expected: String) throws {
        #expect(try key(pointer, in: line) == expected, "\(pointer) in \(line)")
    }

    /// What the first of two members led to is gone with it.
    @Test func lastOfDuplicatesCounts() throws {
        #expect(try key("/a/b", in: #"{"a":{"b":1},"a":{"c":2}}"#) == nil)
        #expect(try key("/a/b", in: #"{"a":{"b":1},"a":3}"#) == nil)
        #expect(try key("/a", in: #"{"a":1,"\u0061":"x"}"#) == "x")
    }

    @Test(arguments: ["a", "a/b", "~", "/~", "/~2", "/a~", "#/a", " /a"]) func badPointers(_ pointer: String) {
        #expect(throws: InputFormat.Problem.noPointer(pointer)) {
            _ = try LineReader(format: Self.json(pointer), descriptor: -1)
        }
    }

    @Test func compoundKeys() throws {
        #expect(try key("/a", "/b", in: #"{"b":2,"a":"x"}"#) == #"json:["x",2]"#)
        #expect(try key("/a/0", "/a/1", "/a", in: #"{"a":["x",[ ]]}"#) == #"json:["x",[],["x",[]]]"#)
        // However a string is written, it is one key.
        #expect(try key("/a", "/b", in: #"{"a":"\u00e9\/\u0022","b":"\u0001\t"}"#) == #"json:["é/\"","\u0001\t"]"#)
        #expect(try key("/a", "/b", in: #"{"a":1}"#) == nil)
        #expect(
            try events(of: #"{"a":1}"#, format: Self.json("/a", "/b"))
                == [.bad(line: 1, reason: "there is no key at /b")])
    }

    @Test func optionalPartsAndChoices() throws {
        var format = Self.json()
        format.key = [.init(pointers: ["/x", "/y"]), .init(pointers: ["/z"], isOptional: true)]
        let input = #"{"x":1,"y":2,"z":3}{"y":2}{"x":null,"y":2,"z":null}{"z":1}"#
        let keys = try events(of: input, format: format).map { event -> String in
            if case .update(let key, _, _) = event { return String(decoding: key.dropFirst(), as: UTF8.self) }
            return "\(event)"
        }
        #expect(keys == ["[1,3]", "[2,null]", "[2,null]", "line 1: there is no key at /x or /y"])
    }

    @Test func keysThatAreTooLong() throws {
        let long = String(repeating: "k", count: 40_000)
        let bad = [Event.bad(line: 1, reason: "the key is longer than 65536 bytes")]
        #expect(try events(of: #"{"a":"\#(long)","b":"\#(long)"}"#, format: Self.json("/a", "/b")) == bad)
        #expect(try events(of: #"{"a":["\#(long)","\#(long)"]}"#, format: Self.json("/a")) == bad)
        #expect(try events(of: "\(long),\(long)", format: Self.text(",", 1, 2)) == bad)
    }

    // MARK: - Values, revisions, deletions

    @Test func membersOfTheOwnFormatMeanNothing() throws {
        #expect(try key("/id", in: #"{"id":"a","status":"in-sync","restart":true,"value":null}"#) == "a")
    }

    @Test func valueAndRevision() throws {
        let format = Self.json("/id", value: ["/v/x"], revision: ["/r"])
        #expect(
            try events(of: #"{"id":"a","v":{"x":[ 1 ]},"r":7}"#, format: format) == [.update("a", "[ 1 ]", revision: 7)]
        )
        #expect(
            try events(of: #"{"id":"a","v":{"x":1},"r":"1001"}"#, format: format) == [.update("a", "1", revision: 1001)]
        )
        #expect(try events(of: #"{"id":"a","v":{"x":null}}"#, format: format) == [.update("a", "null")])
        #expect(try events(of: #"{"id":"a","v":{"x":1},"r":null}"#, format: format) == [.update("a", "1")])
        #expect(
            try events(of: #"{"id":"a","v":1}"#, format: format) == [
                .bad(line: 1, reason: "there is a key and no value")
            ])
        for revision in ["-1", "1.5", #""""#, #""x""#, #""1x""#, "true", "[]", "18446744073709551616"] {
            #expect(
                try events(of: #"{"id":"a","v":{"x":1},"r":\#(revision)}"#, format: format)
                    == [.bad(line: 1, reason: "the revision is not an integer from 0 to 18446744073709551615")])
        }
    }

    @Test(arguments: [
        (#"/op="d""#, #"{"op":"d"}"#, true), (#"/op="d""#, #"{"op":"\u0064"}"#, true),
        (#"/op="d""#, #"{"op":"D"}"#, false), (#"/op="d""#, #"{"op":["d"]}"#, false), (#"/op="d""#, "{}", false),
        (#"/op="d""#, #"{"op":"\ud800"}"#, false), ("/v=null", #"{"v":null}"#, true), ("/v=null", "{}", false),
        ("/v=null", #"{"v":0}"#, false), ("/n=1", #"{"n":1}"#, true), ("/n=1", #"{"n":1.0}"#, false),
        ("/n=1", #"{"n":"1"}"#, false), ("/n=[1,2]", #"{"n":[ 1, 2 ]}"#, true),
        (#"/n={ "a":1}"#, #"{"n":{"a":1}}"#, true),
        ("/gone", #"{"gone":true}"#, true), ("/gone", #"{"gone":false}"#, false), ("/gone", #"{"gone":null}"#, false),
        ("/gone", #"{"gone":0}"#, true), ("/gone", #"{"gone":"false"}"#, true), ("/gone", "{}", false),
        ("/a=b=1", #"{"a=b":1}"#, true), (#"/a="=""#, #"{"a":"="}"#, true),
    ])
    func deletions(_ condition: String, _ line: String, _ deletes: Bool) throws {
        let format = InputFormat(
            shape: .json, key: [.init(pointers: [""])], deletions: [condition])
        let outcome = try events(of: line, format: format)
        #expect(outcome.count == 1)
        if case .deletion = try #require(outcome.first) {
            #expect(deletes, "\(condition) in \(line)")
        } else {
            #expect(!deletes, "\(condition) in \(line)")
        }
    }

    @Test(arguments: ["/op=d", "/op=", "/op='d'", "/op=\"d", "/a=1 2", "/a={"]) func badConditions(_ condition: String)
    {
        #expect(throws: InputFormat.Problem.noJSON(condition)) {
            _ = try LineReader(format: Self.json("/a", deletions: [condition]), descriptor: -1)
        }
    }

    // MARK: - Sequences of values

    @Test func valuesOverLines() throws {
        let input =
            "{\n  \"key\": \"a\",\n  \"value\": {\n    \"x\": [1,\n 2]\n  }\n}\n\n{\"key\":\n\"b\",\"value\":\"c d\"}"
        #expect(try events(of: input) == [.update("a", #"{"x":[1,2]}"#), .update("b", #""c d""#)])
        for chunkSize in [2, 3, 7, 20] {
            #expect(
                try events(of: Array(input.utf8), chunkSize: chunkSize) == [
                    .update("a", #"{"x":[1,2]}"#), .update("b", #""c d""#),
                ])
        }
    }

    @Test func valuesInALine() throws {
        #expect(
            try events(of: #"{"key":"a","value":1}{"key":"b","value":2} {"status":"in-sync"}"#)
                == [.update("a", "1"), .update("b", "2"), .status(.inSync)])
        #expect(
            try events(of: "{\"key\":\"a\",\"value\":1}{\"key\":\"b\",\n\"value\":2}{\"key\":\"c\",\"value\":3}\n")
                == [.update("a", "1"), .update("b", "2"), .update("c", "3")])
    }

    /// A line that holds one value and nothing else passes with the spaces around the value.
    @Test func wholeLinesKeepTheirBytes() throws {
        func values(_ input: String) throws -> [String] {
            try events(of: input, format: Self.json("/a")).map { event in
                guard case .update(_, let value, _) = event else { return "\(event)" }
                return String(decoding: value, as: UTF8.self)
            }
        }
        #expect(try values("  {\"a\" : 1}\t\r\n{\"a\":2}\r\n") == ["  {\"a\" : 1}\t\r", "{\"a\":2}\r"])
        #expect(try values(#" { "a":1} {"a": 2} "#) == [#"{ "a":1}"#, #"{"a": 2}"#])
        #expect(try values("{ \"a\"\n:1 }") == [#"{"a":1}"#])
    }

    /// A large value comes in many pieces, and is looked at once.
    @Test func largeValueOverManyLines() throws {
        let elements = (0..<100_000).map { "    {\"n\": \($0)}" }.joined(separator: ",\n")
        let input = "{\"key\": \"a\", \"value\": [\n\(elements)\n  ]\n}\n{\"key\":\"b\",\"value\":1}\n"
        let outcome = try events(of: Array(input.utf8), chunkSize: 5000)
        #expect(outcome.count == 2)
        let expected = "[" + (0..<100_000).map { "{\"n\":\($0)}" }.joined(separator: ",") + "]"
        #expect(outcome.first == .update("a", expected) ? true : false)
        #expect(outcome.last == .update("b", "1"))
    }

    // MARK: - Errors

    static let good = #"{"key":"good","value":1}"#

    @Test func placesOfErrors() throws {
        for (line, column) in [
            (#"{"key":"a","value":1,}"#, 22), ("bad", 1), ("   bad", 4), ("{\"key\":\"\u{1}\"}", 9),
            (#"{"key":"a","value":"b}"#, 20), (#"{"key":"a","value":"b\x"}"#, 22), (#"{"key":1,"value":1}"#, 8),
            (#"{"key":"a","value":1,"revision":-1}"#, 33), ("{\"é\":x}", 7),
        ] {
            let text = try messages(of: "\(Self.good)\n\(line)\n").messages
            #expect(text.count == 1 && text[0].hasPrefix("line 2, column \(column): "), "\(line): \(text)")
        }
        let bytes = Array("\(Self.good)\n{\"key\":\"a\",\"value\":\"".utf8) + [0xC3, 0x28] + Array("\"}\n".utf8)
        #expect(try events(of: bytes).last == .bad(line: 2, reason: "bytes that are not UTF-8"))
    }

    @Test func errorInAValueOverLines() throws {
        let input = """
            {
              "key": "a",
              "value": {
                "x": tru
              },
              "other": { "y": 1 }
            }
            \(Self.good)
            """
        let outcome = try messages(of: input)
        #expect(
            outcome.messages == [
                "line 4, column 10: a bad literal; JSON has true, false and null (the value begins in line 1)",
                "lines 1 to 7 were passed over",
            ])
        #expect(outcome.keys == ["good"])
    }

    /// What is inside the wrong value is no value of the stream, even on a line of its own.
    @Test func errorBeforeObjectsInsideAValue() throws {
        let inner = #"{"key":"inner","value":1}"#
        let outcome = try messages(
            of: "{\n  \"x\": tru,\n  \"list\": [\n    \(inner),\n    \(inner)\n  ]\n}\n\(Self.good)")
        #expect(outcome.messages.count == 2 && outcome.messages.last == "lines 1 to 7 were passed over")
        #expect(outcome.keys == ["good"])
    }

    @Test func errorInTheFirstLineOfAValue() throws {
        let outcome = try messages(of: "  {\"key\": tru,\n    \"value\": {\n      \"x\": 1 }\n  }\n  \(Self.good)\n")
        #expect(outcome.messages.count == 2 && outcome.messages[1] == "lines 1 to 4 were passed over")
        #expect(outcome.keys == ["good"])
    }

    @Test func lineThatEndsTooEarly() throws {
        let outcome = try messages(of: "{\"key\":\"a\",\"value\":1\n\(Self.good)\n\(Self.good)\n")
        #expect(
            outcome.messages
                == ["line 2, column 1: a comma or } is expected behind a member (the value begins in line 1)"])
        #expect(outcome.keys == ["good", "good"])
    }

    @Test func badBytesInsideAValueOverLines() throws {
        let outcome = try messages(of: "{\n\"key\":\"a\u{1}\",\n\"value\":1\n}\n\(Self.good)")
        #expect(outcome.messages.first?.hasPrefix("line 2, column 9: a control character") == true)
        #expect(outcome.messages.last == "lines 1 to 4 were passed over")
        #expect(outcome.keys == ["good"])
    }

    @Test func unendedValueAtTheEnd() throws {
        let outcome = try messages(of: "{\"key\":\"a\",\"value\":[\n\(Self.good)")
        #expect(outcome.messages == ["line 1, column 1: the input ends inside a value"])
        #expect(outcome.keys == ["good"])
    }

    @Test(arguments: [[0xFF, 0xFE], [0xFE, 0xFF], []] as [[UInt8]], [true, false])
    func utf16(_ mark: [UInt8], _ isLittleEndian: Bool) throws {
        let encoded = "\(Self.good)\n\(Self.good)\n".utf16.flatMap {
            isLittleEndian ? [UInt8($0 & 0xFF), UInt8($0 >> 8)] : [UInt8($0 >> 8), UInt8($0 & 0xFF)]
        }
        #expect(
            try events(of: mark + encoded)
                == [.bad(line: 1, reason: "the input looks like UTF-16; convert it with iconv -f UTF-16 -t UTF-8")])
    }

    /// Many bad lines cost little more than themselves.
    @Test func manyBadLines() throws {
        let bad = (0..<50_000).map { $0 % 2 == 0 ? "{\"key\":\"a\u{1}\"}" : #"{"key":"a",}"# }.joined(separator: "\n")
        let outcome = try events(of: "\(bad)\n\(Self.good)\n")
        #expect(outcome.count == 50_001 && outcome.last == .update("good", "1"))
    }

    @Test func countsAfterTheFirstMessages() {
        var messages: [String] = []
        let log = BadInputLog(maximum: 5, mostMessages: 2) { messages.append($0.description) }
        let results = (1...5).map { number in
            log.passedOver(1...2)
            return log.add(
                BadInput(line: number, column: nil, firstLine: number, reason: number % 2 == 0 ? "even" : "odd"))
        }
        log.finish()
        #expect(results == [true, true, true, true, false])
        #expect(
            messages == [
                "lines 1 to 2 were passed over", "line 1: odd", "lines 1 to 2 were passed over", "line 2: even",
                "lines 1 to 2 were passed over", "2 more: odd", "1 more: even",
            ])
    }

    // MARK: - Text

    @Test func fields() throws {
        #expect(
            try events(of: "a,b,c\n\n,x\r\nd\n", format: Self.text(",", 1))
                == [.update("a", "a,b,c"), .update("", ",x\r"), .update("d", "d")])
        #expect(
            try events(of: "a,b,c\r\nd\n", format: Self.text(",", 3))
                == [.update("c", "a,b,c\r"), .bad(line: 2, reason: "there is no field 3")])
        #expect(try events(of: "a\tb\tc", format: Self.text("\t", 3, 1)) == [.update("c\ta", "a\tb\tc")])
        #expect(try events(of: "a b", format: Self.text(" ", 2, 2)) == [.update("b b", "a b")])
        #expect(try events(of: "a,", format: Self.text(",", 2)) == [.update("", "a,")])
        #expect(try events(of: "a", format: Self.text(",", 2), onMissing: .skip) == [])
    }

    @Test func textIsBytes() throws {
        let line: [UInt8] = [0xFF, 0xC3, 0x2C, 0x22, 0x80]
        #expect(
            try events(of: line + [0x0A], format: Self.text(",", 1))
                == [.update(key: [0xFF, 0xC3], value: line, revision: 0)])
    }

    @Test(arguments: [2, 5, 4096]) func textInChunks(_ chunkSize: Int) throws {
        let lines = (0..<1000).map { "key-\($0 % 10),\(String(repeating: "x", count: $0 % 50))" }
        let outcome = try events(
            of: Array(lines.joined(separator: "\n").utf8), format: Self.text(",", 1), chunkSize: chunkSize,
            eventsAtOnce: 7)
        #expect(outcome == lines.enumerated().map { .update("key-\($0.offset % 10)", $0.element) })
    }

    // MARK: - Quantities

    @Test(
        arguments: [
            ("1", 1.0), ("0.2", 0.2), ("5/min", 5.0 / 60), ("5/m", 5.0 / 60), ("36/h", 0.01), ("7/s", 7), ("7/sec", 7),
            (".5", 0.5), ("1e3", nil), ("0", nil), ("-1", nil), ("", nil), ("/s", nil), ("1/", nil), ("1/d", nil),
            ("1/s/s", nil), ("nan", nil), ("inf", nil), ("0x10", nil), (" 1", nil),
        ] as [(String, Double?)])
    func rates(_ text: String, _ expected: Double?) {
        #expect(LineRate(argument: text)?.linesPerSecond == expected)
    }

    @Test(
        arguments: [
            ("1", 1_000_000_000), ("1s", 1_000_000_000), ("1.5m", 90_000_000_000), ("2min", 120_000_000_000),
            ("500ms", 500_000_000), ("1h", 3_600_000_000_000), ("0", nil), ("-1s", nil), ("s", nil), ("1 s", nil),
            ("1d", nil), ("99999999999h", nil), ("", nil), ("4000000000ms", 4_000_000_000_000_000), ("1000000h", nil),
        ] as [(String, UInt64?)])
    func durations(_ text: String, _ expected: UInt64?) {
        #expect(TimeSpan(argument: text)?.nanoseconds == expected)
    }
}
