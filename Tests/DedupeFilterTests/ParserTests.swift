// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Testing

@testable import dedupe

/// What one line of input means, and what is wrong with those that mean nothing.
@Suite struct ParserTests {
    @Test func update() throws {
        #expect(try events(of: #"{"key":"a","value":1}"# + "\n") == [.update("a", "1")])
        #expect(try events(of: #"{"value":{},"key":"a"}"# + "\n") == [.update("a", "{}")])
        #expect(try events(of: #"{"key":"","value":""}"# + "\n") == [.update("", #""""#)])
    }

    @Test func deletion() throws {
        #expect(try events(of: #"{"key":"a","value":null}"# + "\n") == [.deletion("a")])
        #expect(try events(of: #"{"key":"a","revision":7,"value":null}"# + "\n") == [.deletion("a", revision: 7)])
    }

    @Test func status() throws {
        let input = """
            {"status":"wait-for-ready"}
            {"status":"resync"}
            {"status" : "in-sync"}
            {"status":"in\\u002dsync"}

            """
        #expect(
            try events(of: input)
                == [.status(.waitForDatastore), .status(.resyncInProgress), .status(.inSync), .status(.inSync)])
    }

    @Test func restart() throws {
        #expect(try events(of: #"{"restart":true}"# + "\n") == [.restart])
    }

    @Test func overflow() throws {
        let mark = Array(OverflowMark.update.key.withKeyBytes { $0.withUnsafeBytes { Array($0) } })
        #expect(try events(of: #"{"overflow" : true}"# + "\n") == [.deletion(key: mark, revision: 0)])
        #expect(try events(of: #"{"overflow":true,"key":"a","value":1}"# + "\n") == [.update("a", "1")])
        let reason = #"neither "key" nor "status" nor "restart"; --key says where the key of another format is"#
        #expect(try events(of: #"{"overflow":false}"# + "\n") == [.bad(line: 1, reason: reason)])
    }

    @Test func order() throws {
        let input = """
            {"key":"a","value":1}
            {"key":"b","value":2}
            {"status":"in-sync"}
            bad
            {"key":"a","value":3}
            {"restart":true}
            {"key":"c","value":null}

            """
        #expect(
            try events(of: input) == [
                .update("a", "1"), .update("b", "2"), .status(.inSync),
                .bad(line: 4, reason: "a value is expected here"),
                .update("a", "3"), .restart, .deletion("c"),
            ])
    }

    @Test(arguments: [
        "1", "-0", "1.5e-3", "true", "false", #""text""#, #""\u00e9\n\"""#, "[]", "{}", "[ 1 ,\t2 ]",
        #"{ "a" : [ { } , [ ] ] }"#, #"{"key":"inner","key":2,"status":3}"#, "1e400", "-1E+999", "1e-999",
        "123456789012345678901234567890", "0.000000000000000000000000000000000000000000001", #""é😀\/""#, #""\u0000""#,
        "[null]", #"{"a":null}"#, #""{\"key\":\"x\"}""#,
    ])
    func valueKeepsItsBytes(_ value: String) throws {
        let lines = [
            #"{"key":"k","value":\#(value)}"#, #"{"value":\#(value),"key":"k"}"#,
            "{ \"key\" : \"k\" , \"value\" : \(value) \t}", #"  {"key":"k","value": \#(value) ,"other":[1]} "#,
        ]
        for line in lines {
            #expect(try events(of: line + "\n") == [.update("k", value)], "\(line)")
        }
    }

    @Test func otherFieldsAreIgnored() throws {
        #expect(try events(of: #"{"type":"new","key":"a","value":1,"x":{"y":[]}}"# + "\n") == [.update("a", "1")])
        #expect(try events(of: #"{"x":1,"x":2,"status":"resync"}"# + "\n") == [.status(.resyncInProgress)])
    }

    @Test(arguments: [
        ("0", 0), ("1", 1), ("9223372036854775808", 9_223_372_036_854_775_808), ("18446744073709551615", UInt64.max),
        (" 5\t", 5),
    ])
    func revision(_ text: String, _ revision: UInt64) throws {
        #expect(
            try events(of: #"{"key":"a","value":1,"revision":\#(text)}"# + "\n")
                == [.update("a", "1", revision: revision)])
    }

    @Test(arguments: [
        (#""a\"b""#, "a\"b"), (#""\\""#, "\\"), (#""\/""#, "/"), (#""\b\f\n\r\t""#, "\u{8}\u{C}\n\r\t"),
        (#""\u00e9""#, "é"), (#""é""#, "é"), (#""e\u0301""#, "e\u{301}"), (#""\ud83d\ude00""#, "😀"),
        (#""\uD83D\uDE00""#, "😀"), (#""\u0000""#, "\0"), (#""a\u0000b""#, "a\0b"), ("\"\u{7F}\"", "\u{7F}"),
        (#""{\"x\":1}""#, #"{"x":1}"#),
    ])
    func keyIsDecoded(_ text: String, _ key: String) throws {
        #expect(try events(of: #"{"key":\#(text),"value":"\\"}"# + "\n") == [.update(key, #""\\""#)])
        #expect(try events(of: #"{"value":1,"key":\#(text)}"# + "\n") == [.update(key, "1")])
    }

    @Test func decodedKeysOfOneChunk() throws {
        // They share memory of the parser, and none may run into the next.
        let input = (0..<1000).map { #"{"key":"\t\#($0)","value":"\"\#($0)"}"# + "\n" }.joined()
        #expect(try events(of: input) == (0..<1000).map { .update("\t\($0)", #""\"\#($0)""#) })
    }

    @Test func fieldNamesAreDecoded() throws {
        #expect(try events(of: #"{"\u006bey":"a","v\u0061lue":1}"# + "\n") == [.update("a", "1")])
        #expect(try events(of: #"{"key":"a","value":1,"k\u0065y":"b"}"# + "\n") == [.update("b", "1")])
    }

    @Test func longKeys() throws {
        func line(_ key: String) -> String { #"{"key":"\#(key)","value":1}"# + "\n" }
        let longest = String(repeating: "k", count: 65_536)
        let tooLong = [Event.bad(line: 1, reason: "the key is longer than 65536 bytes")]
        #expect(try events(of: line(longest)) == [.update(longest, "1")])
        #expect(try events(of: line(longest + "k")) == tooLong)

        // What counts is what it decodes to.
        #expect(try events(of: line(longest.dropLast() + "\\n")) == [.update(longest.dropLast() + "\n", "1")])
        #expect(try events(of: line(longest + "\\n")) == tooLong)
        #expect(try events(of: line(String(repeating: "é", count: 32_769))) == tooLong)
    }

    @Test(arguments: [
        // Not JSON.
        (#"{"key":"a","value":[1}"#, "a comma or ] is expected behind an element"),
        (#"{"key":"a","value":1}}"#, "a closing bracket that nothing opens"),
        (#"{"key":"a","value":1}]"#, "a closing bracket that nothing opens"),
        (#"{"key":"a","value":1},"#, "a comma between values; a stream of values has none"),
        (#"{"key":"a","value":1} x"#, "only another value may follow a value"),
        (#"{"key":"a","value":1,}"#, "a comma before }"),
        (#"{"key":"a" "value":1}"#, "a comma or } is expected behind a member"),
        (#"{"key":"a","value" 1}"#, "a colon is expected behind a member's name"),
        (#"{"key":"a","value":}"#, "a value is expected here"),
        (#"{"key":"a","value":,}"#, "a value is expected here"),
        (#"{,"key":"a","value":1}"#, "a member's name in double quotes is expected here"),
        (#"{key:"a","value":1}"#, "a member's name in double quotes is expected here"),
        (#"{'key':"a","value":1}"#, "JSON has double quotes only"),
        (#"{"key":'a',"value":1}"#, "JSON has double quotes only"),
        (#"{"key":"a","value":[1,]}"#, "a comma before ]"),
        (#"{"key":"a","value":[,1]}"#, "a value is expected here"),
        (#"{"key":"a","value":["b":1]}"#, "a comma or ] is expected behind an element"),
        (#"{"key":"a","value":{"b"}}"#, "a colon is expected behind a member's name"),
        (#"{"key":"a","value":{1:2}}"#, "a member's name in double quotes is expected here"),
        (#"{"key":"a","value":abc}"#, "a value is expected here"),
        (#"{"key":"a","value":tru}"#, "a bad literal; JSON has true, false and null"),
        (#"{"key":"a","value":truex}"#, "a bad literal; JSON has true, false and null"),
        (#"{"key":"a","value":nul}"#, "a bad literal; JSON has true, false and null"),
        (#"{"key":"a","value":[falsy]}"#, "a bad literal; JSON has true, false and null"),
        (#"{"key":"a","value":NaN}"#, "a value is expected here"),
        (#"{"key":"a","value":01}"#, "a bad number"),
        (#"{"key":"a","value":-}"#, "a bad number"),
        (#"{"key":"a","value":1.}"#, "a bad number"),
        (#"{"key":"a","value":1e}"#, "a bad number"),
        (#"{"key":"a","value":1e+}"#, "a bad number"),
        (#"{"key":"a","value":0x10}"#, "a bad number"),
        (#"{"key":"a","value":+1}"#, "a value is expected here"),
        (#"{"key":"a","value":.5}"#, "a value is expected here"),
        (#"{"key":"a","value":1 2}"#, "a comma or } is expected behind a member"),
        (#"{"key":"a","value":[1 2]}"#, "a comma or ] is expected behind an element"),
        (#"{"key":"a","value":1"b"}"#, "a bad number"),
        (#"{"key":"a","value":"b"}"# + "\u{0}", "only another value may follow a value"),
        (#"{"key":"a","value":"b}"#, "a string that does not end in its line"),
        (#"{"key":"a","value":"b\"}"#, "a string that does not end in its line"),
        (#"{"key":"a","value":"\x"}"#, "a bad escape in a string"),
        (#"{"key":"a","value":"\u12"}"#, "a bad escape in a string"),
        (#"{"key":"a","value":["\u12x4"]}"#, "a bad escape in a string"),
        (#"{"key":"a","value":{"\q":1}}"#, "a bad escape in a string"),
        (#"{"key":"a","value":1,"\q":1}"#, "a bad escape in a string"),
        (#"{"key":"\ud800","value":1}"#, "half of a surrogate pair in a key"),
        (#"{"key":"\udc00","value":1}"#, "half of a surrogate pair in a key"),
        (#"{"key":"\ude00\ud83d","value":1}"#, "half of a surrogate pair in a key"),
        ("{\"key\":\"a\tb\",\"value\":1}", "a control character in a string; JSON needs it escaped"),
        ("{\"key\":\"a\",\"value\":\"\u{0}\"}", "a control character in a string; JSON needs it escaped"),
        ("bad", "a value is expected here"),
        ("}", "a closing bracket that nothing opens"),
        (",", "a comma between values; a stream of values has none"),

        // JSON, but no event.
        ("[]", "an array of updates is no stream of updates; use: jq -c '.[]' | dedupe"),
        (#"[{"key":"a","value":1}]"#, "an array of updates is no stream of updates; use: jq -c '.[]' | dedupe"),
        (#""key""#, "a value that is no object"),
        ("1", "a value that is no object"),
        ("null", "a value that is no object"),
        ("{}", noKnownField),
        (#"{"value":1}"#, noKnownField),
        (#"{"Key":"a","Value":1}"#, noKnownField),
        (#"{"key":"a"}"#, "there is a key and no value"),
        (#"{"key":"a","revision":1}"#, "there is a key and no value"),
        (#"{"key":1,"value":1}"#, notString),
        (#"{"key":null,"value":1}"#, notString),
        (#"{"key":["a"],"value":1}"#, notString),
        (#"{"key":"a","value":1,"status":"in-sync"}"#, #"more than one of "key", "status" and "restart""#),
        (#"{"restart":true,"status":"in-sync"}"#, #"more than one of "key", "status" and "restart""#),
        (#"{"status":"ready"}"#, #""status" is not "wait-for-ready", "resync" or "in-sync""#),
        (#"{"status":"In-Sync"}"#, #""status" is not "wait-for-ready", "resync" or "in-sync""#),
        (#"{"status":2}"#, #""status" is not "wait-for-ready", "resync" or "in-sync""#),
        (#"{"restart":false}"#, #""restart" is not true"#),
        (#"{"restart":"true"}"#, #""restart" is not true"#),
        (#"{"restart":1}"#, #""restart" is not true"#),
    ])
    func badLine(_ line: String, _ reason: String) throws {
        let bad = [Event.bad(line: 1, reason: reason)]
        #expect(try events(of: line + "\n") == bad, "\(line)")
        #expect(try events(of: line) == bad, "\(line), without a newline")

        // It costs itself and nothing else.
        let good = #"{"key":"good","value":1}"#
        #expect(
            try events(of: "\(good)\n\(line)\n\(good)\n")
                == [.update("good", "1"), .bad(line: 2, reason: reason), .update("good", "1")], "\(line)")
    }

    private static let noKnownField =
        #"neither "key" nor "status" nor "restart"; --key says where the key of another format is"#
    private static let notString = #""key" is not a string; --key /key takes any JSON"#

    /// A value that has not ended with its line may go on in the next one. The next line says that
    /// it does not.
    @Test(arguments: [
        "{", #"{"key":"a","value":1"#, #"{"key":"a","value":{}"#, #"{"key":"a","value":{"b":1}"#, #"{"key":"a","#,
        #"{"key":"a","value":"#, #"{"key":"#, #"{"key":"a","value":[1,2"#,
    ])
    func unendedLine(_ line: String) throws {
        #expect(try events(of: line) == [.bad(line: 1, reason: "the input ends inside a value")], "\(line)")

        let good = #"{"key":"good","value":1}"#
        let outcome = try events(of: "\(good)\n\(line)\n\(good)\n\(good)\n")
        #expect(outcome.filter { $0 == .update("good", "1") }.count == 3, "\(line): \(outcome)")
        #expect(outcome.count == 4, "\(line): \(outcome)")
    }

    /// A lone surrogate is an escape that JSON has. Only a key needs to be text.
    @Test(arguments: [#""\ud800x""#, #""\ude00\ud83d""#, #"["\ud83d"]"#, #"{"\ud83d":1}"#])
    func loneSurrogatesPassInValues(_ value: String) throws {
        #expect(try events(of: #"{"key":"a","value":\#(value)}"#) == [.update("a", value)])
    }

    /// As in jq.
    @Test func lastOfDuplicatesCounts() throws {
        #expect(try events(of: #"{"key":"a","key":"b","value":1,"value":2}"#) == [.update("b", "2")])
        #expect(try events(of: #"{"key":"a","value":1,"value":null}"#) == [.deletion("a")])
        #expect(try events(of: #"{"key":"a","value":null,"value":1}"#) == [.update("a", "1")])
        #expect(
            try events(of: #"{"key":"a","value":1,"revision":7,"revision":8}"#) == [.update("a", "1", revision: 8)])
        #expect(try events(of: #"{"status":"resync","status":"in-sync"}"#) == [.status(.inSync)])
    }

    @Test func deletionWithValue() throws {
        #expect(
            try events(of: #"{"type":"deleted","key":"a","value":{"b":1},"revision":3}"#) == [
                .deletion("a", revision: 3)
            ])
        #expect(try events(of: #"{"type":"deleted","key":"a"}"#) == [.deletion("a")])
        #expect(
            try events(of: #"{"type":"new","key":"a","value":{"type":"deleted"}}"#) == [
                .update("a", #"{"type":"deleted"}"#)
            ])
    }

    @Test func statusesMayHaveMore() throws {
        #expect(try events(of: #"{"status":"in-sync","revision":42,"value":1}"#) == [.status(.inSync)])
        #expect(try events(of: #"{"restart":true,"revision":"x"}"#) == [.restart])
    }

    @Test(arguments: [
        "-1", "1.0", "1e3", "18446744073709551616", "123456789012345678901234567890", #""1""#, "null", "true", "[1]",
        "-0",
    ])
    func badRevision(_ revision: String) throws {
        #expect(
            try events(of: #"{"key":"a","value":1,"revision":\#(revision)}"# + "\n") == [
                .bad(line: 1, reason: "the revision is not an integer from 0 to 18446744073709551615")
            ])
    }

    /// That it is not JSON is more worth knowing than what else is wrong.
    @Test func brokenGoesBeforeWrong() throws {
        #expect(try events(of: #"{"key":1,"value":01}"#) == [.bad(line: 1, reason: "a bad number")])
        #expect(try events(of: #"{"status":"x","y":}"#) == [.bad(line: 1, reason: "a value is expected here")])
    }

    @Test(
        arguments: [
            [0x80], [0xFF], [0xC3], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xE2, 0x82],
            [0xF8, 0x88, 0x80, 0x80, 0x80],
        ] as [[UInt8]])
    func invalidUTF8(_ bytes: [UInt8]) throws {
        let bad = [Event.bad(line: 1, reason: "bytes that are not UTF-8")]
        #expect(try events(of: Array(#"{"key":""#.utf8) + bytes + Array("\",\"value\":1}\n".utf8)) == bad)
        #expect(try events(of: Array(#"{"key":"a","value":[""#.utf8) + bytes + Array("\"]}\n".utf8)) == bad)
    }

    @Test func depth() throws {
        func line(_ open: String, _ close: String, levels: Int) -> String {
            let value = String(repeating: open, count: levels) + "1" + String(repeating: close, count: levels)
            return #"{"key":"a","value":\#(value)}"# + "\n"
        }
        let tooDeep = [Event.bad(line: 1, reason: "nested deeper than 1024 levels")]

        // The line's own object is the first level.
        for (open, close) in [("[", "]"), (#"{"a":"#, "}"), (#"[{"b":"#, "}]")] {
            let levels = open.first == "[" && open.count > 1 ? 511 : 1023
            let deepest = line(open, close, levels: levels)
            let value = deepest.dropFirst(19).dropLast(2)
            #expect(try events(of: deepest) == [.update("a", String(value))])
            #expect(try events(of: line(open, close, levels: levels + 1)) == tooDeep)
            #expect(try events(of: line(open, close, levels: 100_000)) == tooDeep)
        }
        #expect(
            try events(of: #"{"key":"a","value":"# + String(repeating: "[", count: 1_000_000) + "}\n") == tooDeep)
        #expect(
            try events(of: String(repeating: "[", count: 1_000_000) + "\n")
                == [.bad(line: 1, reason: "nested deeper than 1024 levels")])
    }

    /// Where one read ends and the next begins makes no difference, whatever comes in.
    @Test(arguments: 1...20) func mutatedLines(_ seed: UInt64) throws {
        var random = SplitMix(state: seed)
        let seeds = [
            #"{"key":"a","value":{"b":[1,2.5e3,"c\n\u00e9",null,true,{}]},"revision":12}"#,
            #"{"value":[[[]]],"key":"\ud83d\ude00"}"#, #"{"status":"in-sync"}"#, #"{"restart":true}"#,
        ].map { Array($0.utf8) }
        let pieces =
            ["{", "}", "[", "]", "\"", ",", ":", "\\", " ", "0", "-", "e", "n", "t", "\\u", "\u{0}"]
            .map { Array($0.utf8) } + [[0x80], [0xC3], [0xFF]]

        var input: [UInt8] = []
        for _ in 0..<300 {
            var line = seeds.randomElement(using: &random)!
            for _ in 0..<Int.random(in: 0...4, using: &random) where !line.isEmpty {
                let at = Int.random(in: 0..<line.count, using: &random)
                switch Int.random(in: 0...3, using: &random) {
                case 0: line.remove(at: at)
                case 1: line.replaceSubrange(at..<at, with: pieces.randomElement(using: &random)!)
                case 2: line.replaceSubrange(at...at, with: pieces.randomElement(using: &random)!)
                default: line.removeSubrange(max(at, 1)...)
                }
            }
            input += line + [0x0A]
        }
        let whole = try events(of: input)
        #expect(whole.count > 100, "seed \(seed)")
        let chunkSize = Int.random(in: 2...200, using: &random)
        let eventsAtOnce = Int.random(in: 2...9, using: &random)
        #expect(
            try events(of: input, chunkSize: chunkSize, eventsAtOnce: eventsAtOnce) == whole,
            "seed \(seed), chunks of \(chunkSize), \(eventsAtOnce) events")
    }
}

/// Random numbers that a seed repeats.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
