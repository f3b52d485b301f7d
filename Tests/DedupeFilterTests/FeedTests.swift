// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Foundation
import Testing

@testable import dedupe

/// What the feed puts into a real buffer, and what the writer makes of what comes out.
@Suite struct FeedTests {
    /// A filter without processes and threads: lines are given and taken one step at a time.
    final class Bench {
        let buffer: DedupeBuffer<LineKey, LineValue>
        let deletionLines = DeletionLines()
        let passedLines = PassedLines()
        let counters = InputCounters()
        let collector = Collector()
        /// How many updates each overflow dropped.
        let overflows = Numbers()
        private let file = ScratchFile()
        private let reader: LineReader
        private var feed: EventFeed<DedupeBuffer<LineKey, LineValue>>
        /// Called once, between the taking and the writing of a batch.
        var inDelivery: (() -> Void)?
        /// Called once, when the first bytes are written.
        var inWriting: (() -> Void)? {
            get { writing.hook }
            set { writing.hook = newValue }
        }
        private let writing = WritingHook()

        private let hasEnvelope: Bool

        init(
            _ format: InputFormat, onMissing: MissingKeyRule = .error, newerOnly: Bool = false,
            hasEnvelope: Bool = false, bound: DedupeBufferConfiguration.Bound<LineValue>? = nil,
            onOverflow: OverflowRule? = nil
        ) throws {
            self.hasEnvelope = hasEnvelope
            reader = try LineReader(format: format, descriptor: file.descriptor)
            let buffer = DedupeBuffer<LineKey, LineValue>(bound: bound)
            self.buffer = buffer
            var rules = EventFeed<DedupeBuffer<LineKey, LineValue>>.Rules(
                format: format, onMissing: onMissing, newerOnly: newerOnly,
                deletionLines: hasEnvelope ? nil : deletionLines,
                passedLines: passedLines, statistics: { buffer.statistics })
            rules.onOverflow = onOverflow
            rules.overflowed = { [overflows] in overflows.append($0) }
            feed = EventFeed(target: buffer, rules: rules, counters: counters, log: BadInputLog { _ in })
        }

        @discardableResult
        func give(_ lines: String...) throws -> Bool { try give(lines) }

        /// - Returns: Whether the feed wants more.
        @discardableResult
        func give(_ lines: [String]) throws -> Bool {
            file.append(Array(lines.map { $0 + "\n" }.joined().utf8))
            return try pump(reader, into: &feed)
        }

        /// Delivers all that is pending.
        func take() -> [String] {
            let style: LineWriter.Style = hasEnvelope ? .envelopes : .lines(deletions: deletionLines)
            let writer = LineWriter(style: style, passedLines: passedLines) { [collector, writing] in
                writing.call()
                collector.write($0)
            }
            let sink = HookedSink(writer, hook: inDelivery)
            inDelivery = nil
            while (try? buffer.sendNextBatchToSink(sink)) != nil {}
            return String(decoding: collector.take().joined(), as: UTF8.self).split(separator: "\n").map(String.init)
        }
    }

    /// `@unchecked Sendable`: the writing runs on the thread of the test.
    private final class WritingHook: @unchecked Sendable {
        var hook: (() -> Void)?

        func call() {
            let hook = hook
            self.hook = nil
            hook?()
        }
    }

    /// Calls a hook when the buffer has taken the first batch, and before it is written.
    ///
    /// `@unchecked Sendable`: the delivery runs on the thread of the test.
    private final class HookedSink: SyncerCallbacks, @unchecked Sendable {
        private let writer: LineWriter
        private var hook: (() -> Void)?

        init(_ writer: LineWriter, hook: (() -> Void)?) {
            self.writer = writer
            self.hook = hook
        }

        func onStatusUpdated(_ status: SyncStatus) { writer.onStatusUpdated(status) }

        func onUpdates(_ updates: [Update<LineKey, LineValue>]) {
            let hook = hook
            self.hook = nil
            hook?()
            writer.onUpdates(updates)
        }
    }

    static let format = FormatTests.json("/k", deletions: ["/gone"])

    @Test func deletion_whenKeyLive_bringsItsLine() throws {
        let bench = try Bench(Self.format)
        try bench.give(#"{"k":"a","v":1}"#, #"{"k":"b","v":1}"#)
        #expect(bench.take() == [#"{"k":"a","v":1}"#, #"{"k":"b","v":1}"#])
        try bench.give(#" {"k":"a","gone":true} "#, #"{"k":"b","v":2}"#)
        #expect(bench.deletionLines.keptLines == 1)
        #expect(bench.take() == [#" {"k":"a","gone":true} "#, #"{"k":"b","v":2}"#])
        #expect(bench.deletionLines.keptLines == 0)
    }

    @Test func deletion_whenKeyUnknown_bringsItsLine() throws {
        let bench = try Bench(Self.format)
        try bench.give(#"{"k":"a","gone":1}"#)
        #expect(bench.take() == [#"{"k":"a","gone":1}"#])
        #expect(bench.deletionLines.keptLines == 0)
    }

    @Test func deletion_whenValuePending_andNotLive_leavesNoLine() throws {
        let bench = try Bench(Self.format)
        try bench.give(#"{"k":"a","v":1}"#, #"{"k":"a","gone":1}"#)
        #expect(bench.deletionLines.keptLines == 0)
        #expect(bench.take() == [])
    }

    @Test func value_whenDeletionPending_replacesItsLine() throws {
        let bench = try Bench(Self.format)
        try bench.give(#"{"k":"a","v":1}"#)
        _ = bench.take()
        try bench.give(#"{"k":"a","gone":1}"#, #"{"k":"a","v":2}"#)
        #expect(bench.deletionLines.keptLines == 0)
        #expect(bench.take() == [#"{"k":"a","v":2}"#])
    }

    @Test func deletion_whenDeletionPending_bringsTheNewerLine() throws {
        let bench = try Bench(Self.format)
        try bench.give(#"{"k":"a","gone":1}"#, #"{"k":"a","gone":2}"#)
        #expect(bench.deletionLines.keptLines == 1)
        #expect(bench.take() == [#"{"k":"a","gone":2}"#])
        #expect(bench.deletionLines.keptLines == 0)
    }

    /// What comes while a deletion is being delivered leaves that deletion its line.
    @Test(arguments: [
        ([#"{"k":"a","v":2}"#], [#"{"k":"a","v":2}"#]),
        ([#"{"k":"a","v":2}"#, #"{"k":"a","gone":2}"#], []),
        ([#"{"k":"a","gone":2}"#], [#"{"k":"a","gone":2}"#]),
        ([#"{"k":"a","gone":2}"#, #"{"k":"a","gone":3}"#], [#"{"k":"a","gone":3}"#]),
        ([#"{"k":"a","gone":2}"#, #"{"k":"a","v":3}"#], [#"{"k":"a","v":3}"#]),
        (
            [#"{"k":"a","v":2}"#, #"{"k":"a","v":3}"#, #"{"k":"b","gone":1}"#],
            [#"{"k":"a","v":3}"#, #"{"k":"b","gone":1}"#]
        ),
    ])
    func updates_whenDeletionIsBeingDelivered(_ more: [String], _ expected: [String]) throws {
        let bench = try Bench(Self.format)
        try bench.give(#"{"k":"a","v":1}"#)
        _ = bench.take()
        try bench.give(#"{"k":"a","gone":1}"#)
        bench.inDelivery = {
            for line in more {
                _ = try? bench.give(line)
            }
        }
        #expect(bench.take() == [#"{"k":"a","gone":1}"#] + expected)
        #expect(bench.deletionLines.keptLines == 0)
    }

    @Test func linesWithoutKey_whenPassed_keepTheirPlace() throws {
        let bench = try Bench(Self.format, onMissing: .pass)
        let lines = [#"{"n":1}"#, #"{"k":"a","v":1}"#, #"{"n":1}"#, "3", #"{"k":"b"}"#, #"{"k":null}"#]
        for line in lines {
            try bench.give(line)
        }
        try bench.give(#"{"k":"a","v":2}"#)
        #expect(bench.take() == [lines[0], #"{"k":"a","v":2}"#] + lines[2...])
    }

    /// Otherwise each such line would cost memory forever.
    @Test func linesWithoutKey_whenPassedOneByOne_shareAKey() throws {
        let bench = try Bench(Self.format, onMissing: .pass)
        for number in 0..<1000 {
            try bench.give(#"{"n":\#(number)}"#)
            #expect(bench.take() == [#"{"n":\#(number)}"#])
        }
        #expect(bench.buffer.statistics.liveKeys == 1)
    }

    @Test func header_isPassedFirst() throws {
        let bench = try Bench(FormatTests.text(",", 1, hasHeader: true))
        try bench.give("name,value", "a,1", "name,value", "a,2")
        #expect(bench.take() == ["name,value", "a,2", "name,value"])
    }

    @Test func olderRevision_whenPendingOrDeliveredOrDeleted_isIgnored() throws {
        var format = Self.format
        format.revision = ["/r"]
        let bench = try Bench(format, newerOnly: true)
        try bench.give(#"{"k":"a","r":5}"#, #"{"k":"a","r":4}"#, #"{"k":"b","r":5}"#)
        #expect(bench.take() == [#"{"k":"a","r":5}"#, #"{"k":"b","r":5}"#])
        try bench.give(#"{"k":"a","r":3}"#, #"{"k":"a","r":5,"same":1}"#, #"{"k":"b"}"#)
        #expect(bench.take() == [#"{"k":"a","r":5,"same":1}"#, #"{"k":"b"}"#])
        // An update without a revision leaves the key's greatest one as it was.
        try bench.give(#"{"k":"b","r":4}"#)
        #expect(bench.take() == [])
        try bench.give(#"{"k":"a","r":"6","gone":1}"#, #"{"k":"a","r":2}"#, #"{"k":"a","r":1,"gone":1}"#)
        #expect(bench.take() == [#"{"k":"a","r":"6","gone":1}"#])
        try bench.give(#"{"k":"a","r":2}"#)
        #expect(bench.take() == [])
        try bench.give(#"{"k":"a","r":7}"#)
        #expect(bench.take() == [#"{"k":"a","r":7}"#])
        #expect(bench.counters.older.load(ordering: .relaxed) == 6)
    }

    @Test func olderRevision_afterRestart_isTaken() throws {
        let bench = try Bench(InputFormat(), newerOnly: true)
        try bench.give(
            #"{"key":"a","value":1,"revision":9}"#, #"{"restart":true}"#, #"{"key":"a","value":2,"revision":1}"#)
        #expect(bench.take() == ["2"])
    }
}
