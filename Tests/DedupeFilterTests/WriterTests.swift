// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Foundation
import Testing

@testable import dedupe

/// What the sink writes.
@Suite struct WriterTests {
    private func update(
        _ key: String, _ value: String?, revision: UInt64 = 0, type: UpdateType
    ) -> Update<LineKey, LineValue> {
        let line = Array(key.utf8).withUnsafeBytes { key in
            Array((value ?? "").utf8).withUnsafeBytes { Line(key: key, value: $0) }
        }
        return Update(
            key: LineKey(of: line), value: value == nil ? nil : LineValue(of: line), revision: revision,
            updateType: type)
    }

    private func written(_ updates: Update<LineKey, LineValue>...) -> String {
        let collector = Collector()
        LineWriter { collector.write($0) }.onUpdates(updates)
        return String(decoding: collector.take().joined(), as: UTF8.self)
    }

    @Test func lines() {
        #expect(written(update("a", "1", type: .new)) == #"{"type":"new","key":"a","value":1}"# + "\n")
        #expect(
            written(update("a", #"{ "x":[] }"#, revision: 7, type: .updated))
                == #"{"type":"updated","key":"a","value":{ "x":[] },"revision":7}"# + "\n")
        #expect(
            written(update("a", nil, revision: .max, type: .deleted))
                == #"{"type":"deleted","key":"a","value":null,"revision":18446744073709551615}"# + "\n")
        #expect(written(update("", "\"\"", type: .new)) == #"{"type":"new","key":"","value":""}"# + "\n")
    }

    @Test func statuses() {
        let collector = Collector()
        let writer = LineWriter { collector.write($0) }
        writer.onStatusUpdated(.waitForDatastore)
        writer.onStatusUpdated(.resyncInProgress)
        writer.onStatusUpdated(.inSync)
        #expect(
            collector.take().map { String(decoding: $0, as: UTF8.self) } == [
                #"{"status":"wait-for-ready"}"# + "\n", #"{"status":"resync"}"# + "\n", #"{"status":"in-sync"}"# + "\n",
            ])
    }

    @Test(arguments: [
        "a/b", "é😀", "\u{7F}", "\u{2028}", "quote\"", "back\\slash", "\0", "\u{1}\u{1F}", "\n\r\t\u{8}\u{C}", "\\u0041",
        "mixed é \" / \\ 😀 \0",
    ])
    func keysAreEscapedAsNeeded(_ key: String) throws {
        let line = written(update(key, "1", type: .new))
        let object = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
        #expect(Array((object["key"] as? String ?? "?").utf8) == Array(key.utf8))
        // And a dedupe that reads it finds the same key.
        #expect(try events(of: line) == [.update(key, "1")])
        #expect(line.filter { $0 == "\n" }.count == 1)
    }

    private func written(_ value: [UInt8], as notation: Notation) -> String {
        var text = ByteText()
        let line = value.withUnsafeBytes { Line(key: $0, value: $0) }
        let update = Update(key: LineKey(of: line), value: LineValue(of: line), updateType: .new)
        text.append(update, as: EnvelopeFormat(key: notation, value: notation))
        var result = ""
        text.withBytes { result = String(decoding: $0, as: UTF8.self) }
        return result
    }

    @Test(arguments: 0..<70) func base64_isWhatFoundationMakes(_ count: Int) {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 * 37 + count) }
        let text = Data(bytes).base64EncodedString()
        #expect(written(bytes, as: .base64) == #"{"type":"new","key":"\#(text)","value":"\#(text)"}"# + "\n")
    }

    @Test func text_isEscaped_andBytesThatAreNotAreReplacedOnlyInAnyText() {
        #expect(written(Array("é\"\n".utf8), as: .text) == #"{"type":"new","key":"é\"\n","value":"é\"\n"}"# + "\n")
        #expect(
            written([0x61, 0xFF], as: .anyText) == "{\"type\":\"new\",\"key\":\"a\u{FFFD}\",\"value\":\"a\u{FFFD}\"}\n")
    }

    @Test func oneWriteForEachCall() {
        let collector = Collector()
        let writer = LineWriter { collector.write($0) }
        writer.onUpdates((0..<100).map { update("\($0)", "1", type: .new) })
        #expect(collector.take().count == 1)
    }

    /// Large values do not add up to a batch's worth in memory.
    @Test func largeValuesAreWrittenOnTheWay() {
        let collector = Collector()
        let writer = LineWriter { collector.write($0) }
        let value = "\"" + String(repeating: "x", count: 700_000) + "\""
        writer.onUpdates((0..<6).map { update("\($0)", value, type: .new) })
        let pieces = collector.take()
        #expect(pieces.count == 3)
        #expect(String(decoding: pieces.joined(), as: UTF8.self).split(separator: "\n").count == 6)
    }

    @Test func batchSizes() {
        #expect(Pacer.batchSize(100, LineRate(linesPerSecond: 1)) == 1)
        #expect(Pacer.batchSize(100, LineRate(linesPerSecond: 19)) == 1)
        #expect(Pacer.batchSize(100, LineRate(linesPerSecond: 500)) == 50)
        #expect(Pacer.batchSize(100, LineRate(linesPerSecond: 1_000_000)) == 100)
        #expect(Pacer.batchSize(100, LineRate(linesPerSecond: 0.2)) == 1)
        #expect(Pacer.batchSize(7, LineRate(linesPerSecond: 500)) == 7)
    }

    /// A pace cannot be tested from above without trusting the machine, but it can from below.
    @Test(arguments: [50, 5000]) func paceIsNotExceeded(_ rate: Int) {
        let collector = Collector()
        let writer = LineWriter(pacer: Pacer(LineRate(linesPerSecond: Double(rate)))) { collector.write($0) }
        let count = rate / 5 + 1
        let begin = DispatchTime.now().uptimeNanoseconds
        writer.onUpdates((0..<count).map { update("\($0)", "1", type: .new) })
        writer.onStatusUpdated(.inSync)
        let seconds = Double(DispatchTime.now().uptimeNanoseconds - begin) / 1e9
        // Lines that share a turn, and the turn that may be late, are all the tolerance there is.
        #expect(seconds >= Double(count - rate / 1000) / Double(rate) - 0.011)
        #expect(collector.take().joined().filter { $0 == 0x0A }.count == count + 1)
    }

    @Test(.timeLimit(.minutes(1))) func lastLineIsNotWaitedAfter() {
        let collector = Collector()
        let pacer = Pacer(nanosecondsPerLine: 1e18)
        pacer.drain { true }
        LineWriter(pacer: pacer) { collector.write($0) }.onUpdates([update("a", "1", type: .new)])
        #expect(collector.take().count == 1)
    }

    /// The line before the end may have been written long ago, and its rest be going on.
    @Test(.timeLimit(.minutes(1))) func drainingEndsTheRest() async {
        let collector = Collector()
        let pacer = Pacer(nanosecondsPerLine: 1e18)
        let updates = [update("a", "1", type: .new)]
        await withCheckedContinuation { continuation in
            DispatchQueue(label: "delivery").async {
                LineWriter(pacer: pacer) { collector.write($0) }.onUpdates(updates)
                continuation.resume()
            }
            DispatchQueue(label: "main").asyncAfter(deadline: .now() + 0.05) {
                pacer.drain { true }
            }
        }
        #expect(collector.take().count == 1)
    }

    /// In nanoseconds. So long that what the test itself takes does not count.
    private static let day = 86_400_000_000_000

    /// By how many days a call of a new writer moves the pacer's next turn. Does not wait for it.
    private func daysUntilNextTurn(_ pacer: Pacer, after call: (LineWriter) -> Void) -> Int {
        pacer.drain { true }
        let begin = Int(DispatchTime.now().uptimeNanoseconds)
        call(LineWriter(pacer: pacer) { _ in })
        return (Int(pacer.nextTurn) - begin) / Self.day
    }

    /// Lines that share a turn are charged as what they are, also if they are fewer than may share.
    @Test(arguments: [1, 2, 99, 100]) func groupOfLines_isChargedByItsLines(_ count: Int) {
        let pacer = Pacer(nanosecondsPerLine: Double(Self.day), linesAtOnce: 100)
        let updates = (0..<count).map { update("\($0)", "1", type: .new) }
        #expect(daysUntilNextTurn(pacer) { $0.onUpdates(updates) } == count)
    }

    @Test func status_isChargedAsALine() {
        let pacer = Pacer(nanosecondsPerLine: Double(Self.day))
        #expect(daysUntilNextTurn(pacer) { $0.onStatusUpdated(.inSync) } == 1)
    }

    /// Turns that were not used are gone.
    @Test func lineAfterAQuietTime_doesNotBeginABurst() {
        let pacer = Pacer(nanosecondsPerLine: 1)
        pacer.nextTurn = 1
        let begin = DispatchTime.now().uptimeNanoseconds
        pacer.rest(afterLines: 1)
        #expect(pacer.nextTurn > begin)
    }

    @Test func liveLine_countsStatusesInItsRates() {
        let input = InputSummary(count: 0, text: "", older: 0)
        var report = StatisticsReport(input: input, buffer: .init(), nanoseconds: 1_000_000_000)
        report.buffer.statusesDelivered = 50
        report.buffer.delivered = 7
        var later = report
        later.nanoseconds += 1_000_000_000
        later.buffer.statusesDelivered += 2
        later.buffer.delivered += 1
        #expect(later.live(since: report).hasPrefix("in 0/s, out 3.0/s, "))
        #expect(report.live(since: nil).hasPrefix("in 0/s, out 57/s, "))
    }

    /// What an end drops is said in updates.
    @Test func pendingUpdates_areNoStatuses() {
        let input = InputSummary(count: 0, text: "", older: 0)
        var report = StatisticsReport(input: input, buffer: .init(), nanoseconds: 0)
        report.buffer.pendingKeys = 5
        report.buffer.pendingStatuses = 1
        #expect(report.pendingUpdates == 5)
    }

    @Test func report() {
        let input = InputCounters()
        input.lines.store(1002, ordering: .relaxed)
        input.badLines.store(2, ordering: .relaxed)
        var statistics = DedupeBufferStatistics()
        statistics.received = 1000
        statistics.delivered = 300
        statistics.statusesDelivered = 1
        statistics.replaced = 690
        statistics.pendingKeys = 10
        statistics.peakPendingKeys = 77
        statistics.oldestPendingAge = .milliseconds(2540)
        let summary = InputSummary(input, updates: statistics.received)
        let report = StatisticsReport(input: summary, buffer: statistics, nanoseconds: 1_050_000_000)
        #expect(report.live(since: nil) == "in 954/s, out 287/s, pending 10, x3.33, oldest 2.5s")
        var later = report
        later.input.count += 15_000_000
        later.buffer.delivered += 1500
        later.nanoseconds += 1_000_000_000
        #expect(later.live(since: report).hasPrefix("in 15M/s, out 1.5k/s, pending 10, x"))
        let text = report.summary.joined(separator: "\n")
        for part in [
            "1002 lines", "1000 updates", "2 bad", "301 lines", "690 replaced", "77 pending", "3.33", "1.050 s",
        ] {
            #expect(text.contains(part), "\(part) in \(text)")
        }
        #expect(StatisticsReport(input: summary, buffer: .init(), nanoseconds: 0).live(since: nil).contains("x-"))
    }
}
