// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import Synchronization
import Testing

@testable import dedupe

/// What becomes of etcd's keys and values on their way to the buffer.
@Suite struct EtcdLinesTests {
    private func put(_ key: String, _ value: String?, revision: UInt64 = 1) -> Update<[UInt8], [UInt8]> {
        Update(key: Array(key.utf8), value: value.map { Array($0.utf8) }, revision: revision)
    }

    /// The lines with the messages, as one run gives them.
    private final class Run {
        let messages = Messages()
        let buffer = LineBuffer()
        let log: RefusedLog
        let lines: EtcdLines

        init(keys: KeyNotation = .string, values: ValueNotation = .string, endsInSync: Bool = false) {
            let messages = messages
            log = RefusedLog { messages.add($0) }
            lines = EtcdLines(buffer: buffer, keys: keys, values: values, log: log, endsInSync: endsInSync) {
                messages.add("in sync")
            }
        }

        /// What the buffer has for its sink.
        func output() -> [String] {
            let collector = Collector()
            let format = EnvelopeFormat(key: .text, value: .text)
            let writer = LineWriter(style: .objects(format, marks: false)) { collector.write($0) }
            while (try? buffer.sendNextBatchToSink(writer)) != nil {}
            return String(decoding: collector.take().joined(), as: UTF8.self).split(separator: "\n").map(String.init)
        }
    }

    private final class Messages: Sendable {
        private let messages = Mutex<[String]>([])
        var all: [String] { messages.withLock { $0 } }
        func add(_ message: String) { messages.withLock { $0.append(message) } }
    }

    @Test func updates_keepTheirRevisionsAndTypes() {
        let run = Run()
        run.lines.onUpdates([put("a", "1", revision: 7), put("b", "2", revision: 1 << 48 | 3)])
        #expect(
            run.output() == [
                #"{"type":"new","key":"a","value":"1","revision":7}"#,
                #"{"type":"new","key":"b","value":"2","revision":281474976710659}"#,
            ])
        run.lines.onUpdates([put("a", nil, revision: 8)])
        #expect(run.output() == [#"{"type":"deleted","key":"a","value":null,"revision":8}"#])
    }

    /// A reader that was given the key's earlier value keeps it, and a resync deletes the key.
    @Test func valueThatCannotBeWritten_isLeftOut_untilAResyncDeletesTheKey() {
        let run = Run()
        run.lines.onUpdates([put("a", "1")])
        _ = run.output()
        run.lines.onUpdates([Update(key: [0x61], value: [0xFF], revision: 2)])
        #expect(run.output() == [] && run.log.count == 1)
        #expect(run.messages.all == ["\"a\": the value is not UTF-8; --values base64 takes it"])
        run.lines.onConnectionRestarted()
        run.lines.onUpdates([Update(key: [0x61], value: [0xFF], revision: 2)])
        run.lines.onStatusUpdated(.inSync)
        #expect(run.output().first?.hasPrefix(#"{"type":"deleted","key":"a""#) == true)
    }

    @Test(arguments: ["null", " null", "null\n", "\tnull \r\n"])
    func jsonNull_isLeftOut_becauseItWouldBeADeletion(_ value: String) {
        let run = Run(values: .json)
        run.lines.onUpdates([put("a", value), put("b", "[null]"), put("c", "\"null\"")])
        #expect(run.output().map { $0.prefix(24) } == [#"{"type":"new","key":"b","#, #"{"type":"new","key":"c","#])
        #expect(run.messages.all == ["\"a\": the value is null, which would be a deletion"])
    }

    @Test func keysWithTheBytesOfTheFiltersMarks_areKeys() {
        let collector = Collector()
        let format = EnvelopeFormat(key: .base64, value: .text)
        let writer = LineWriter(style: .objects(format, marks: false)) { collector.write($0) }
        let mark: [UInt8] = [0xFE, 0x0A]
        for (key, type) in [(mark, UpdateType.deleted), (mark + Array("12345678".utf8), .updated)] {
            let line = key.withUnsafeBytes { key in
                Array("v".utf8).withUnsafeBytes { Line(key: key, value: $0) }
            }
            let value = type == .deleted ? nil : LineValue(of: line)
            writer.onUpdates([Update(key: LineKey(of: line), value: value, updateType: type)])
        }
        #expect(
            collector.take().map { String(decoding: $0, as: UTF8.self) } == [
                #"{"type":"deleted","key":"/go=","value":null}"# + "\n",
                #"{"type":"updated","key":"/goxMjM0NTY3OA==","value":"v"}"# + "\n",
            ])
    }

    @Test func restart_standsInFrontOfTheFirstLineOnly() {
        let collector = Collector()
        let writer = LineWriter(beginsWithRestart: true) { collector.write($0) }
        writer.onStatusUpdated(.resyncInProgress)
        writer.onStatusUpdated(.inSync)
        #expect(
            collector.take().map { String(decoding: $0, as: UTF8.self) } == [
                "{\"restart\":true}\n{\"status\":\"resync\"}\n", "{\"status\":\"in-sync\"}\n",
            ])
    }

    @Test func endsInSync_takesNothingBehindIt() {
        let run = Run(endsInSync: true)
        run.lines.onUpdates([put("a", "1")])
        run.lines.onStatusUpdated(.inSync)
        run.lines.onUpdates([put("b", "2")])
        run.lines.onStatusUpdated(.resyncInProgress)
        run.lines.onConnectionRestarted()
        run.lines.onStatusUpdated(.inSync)
        #expect(run.output().count == 2 && run.messages.all == ["in sync"])
    }

    @Test func messages_afterTwenty_areCounted() {
        let run = Run(keys: .string)
        run.lines.onUpdates((0..<25).map { Update(key: [0xFF, UInt8($0)], value: [], revision: 1) })
        #expect(run.messages.all.count == 20 && run.log.count == 25)
        run.log.finish()
        #expect(run.messages.all.last == "5 more keys or values were left out")
    }

    // MARK: - JSON

    private func checked(_ values: String...) -> [String] {
        var check = JSONCheck()
        return values.map { value in
            var text = ""
            let problem = check.check(Array(value.utf8)) { text = String(decoding: $0, as: UTF8.self) }
            return problem.map { "! \($0)" } ?? text
        }
    }

    @Test func json_isPassedThrough_onOneLine() {
        #expect(
            checked("1", " [1 ,2] ", "{\n\t\"a\" : 1e400\r\n}", "null", "\"\\ud800\"", "\"\\n\"\n") == [
                "1", " [1 ,2] ", "{\"a\":1e400}", "null", "\"\\ud800\"", "\"\\n\"",
            ])
        let long = "[" + String(repeating: "1,", count: 100_000) + "1]"
        #expect(checked(long, "2", long) == [long, "2", long])
    }

    /// Each bad value is followed by a good one, which an error before it must not spoil.
    @Test(arguments: [
        "", " \n", "{", "[1", "\"open", "1 2", "1\n2", "{}{}", "{}]", "nul", "'a'", "[1,]", "\u{FEFF}1", "}", "[\n1,\n",
        "{\"a\":1}\n{\"b\":", "a\0b", "1\0", "{\"key\":",
    ])
    func noJSON_isRefused_andTheNextValueIsNot(_ value: String) {
        let results = checked("[0]", value, "{\"a\":\n1}", value, "3")
        #expect(results[1].hasPrefix("! ") && results[3] == results[1], "\(results)")
        #expect([results[0], results[2], results[4]] == ["[0]", "{\"a\":1}", "3"])
    }

    /// A file may begin with a byte order mark. A value of JSON may not.
    @Test(arguments: [[], ["1"], ["{"], ["\u{FEFF}1"]])
    func byteOrderMark_isRefused_whateverCameBefore(_ before: [String]) {
        var check = JSONCheck()
        for value in before { _ = check.check(Array(value.utf8)) { _ in } }
        #expect(check.check(Array("\u{FEFF}1".utf8)) { _ in } == "it begins with a byte order mark")
        #expect(check.check(Array("1".utf8)) { _ in } == nil)
    }

    @Test func jsonOfOtherEncodings_isRefused() {
        var check = JSONCheck()
        let values: [[UInt8]] = [[0xFF, 0xFE, 0x31, 0], [0x22, 0xFF, 0x22], [0x22, 0xED, 0xA0, 0x80, 0x22]]
        for bytes in values + values {
            #expect(check.check(bytes) { _ in } != nil)
            #expect(check.check([0x31]) { _ in } == nil)
        }
    }

    @Test func depth_beyondTheLimit_isRefused() {
        func nested(_ depth: Int) -> String {
            String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
        }
        #expect(checked(nested(1024))[0].hasPrefix("[[") && checked(nested(1025))[0].hasPrefix("! "))
    }
}

#endif
