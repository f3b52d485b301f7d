// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Testing

@testable import dedupe

/// What becomes of the lines when more is pending than the bound allows.
@Suite struct OverflowTests {
    private typealias Bench = FeedTests.Bench

    private static let overflow = #"{"overflow":true}"#

    private static func update(_ key: String, _ value: Int = 1) -> String {
        #"{"key":"\#(key)","value":\#(value)}"#
    }

    private static func written(_ key: String, _ value: Int = 1, type: String = "new") -> String {
        #"{"type":"\#(type)","key":"\#(key)","value":\#(value)}"#
    }

    /// A filter for the own format.
    private func makeBench(keys: Int, _ rule: OverflowRule = .drop) throws -> Bench {
        try Bench(InputFormat(), hasEnvelope: true, bound: .keys(keys), onOverflow: rule)
    }

    /// A filter for whole lines.
    private func makeLineBench(keys: Int, onMissing: MissingKeyRule = .error) throws -> Bench {
        try Bench(FeedTests.format, onMissing: onMissing, bound: .keys(keys), onOverflow: .drop)
    }

    // MARK: - Drop

    @Test func drop_goesOnWithLaterLines() throws {
        let bench = try makeBench(keys: 2)
        try bench.give(Self.update("a"), Self.update("b"))
        #expect(try bench.give(Self.update("c")))
        #expect(bench.overflows.all == [3])
        try bench.give(Self.update("d"))
        #expect(bench.take() == [Self.overflow, Self.written("d")])
        try bench.give(Self.update("e"))
        #expect(bench.take() == [Self.written("e")])
    }

    @Test func drop_whenLinesPassThrough_writesOnlyLines() throws {
        let bench = try makeLineBench(keys: 2)
        try bench.give(#"{"k":"a"}"#, #"{"k":"b"}"#, #"{"k":"c"}"#)
        try bench.give(#"{"k":"d"}"#, #"{"k":"e"}"#)
        #expect(bench.take() == [#"{"k":"d"}"#, #"{"k":"e"}"#])
        #expect(bench.overflows.all == [3])
    }

    @Test func drop_whenOverflowPending_saysItOnce() throws {
        let bench = try makeBench(keys: 2)
        for _ in 0..<3 {
            try bench.give(Self.update("a"), Self.update("b"), Self.update("c"))
        }
        try bench.give(Self.update("d"))
        #expect(bench.take() == [Self.overflow, Self.written("d")])
        #expect(bench.overflows.all.count == 3)
    }

    @Test func drop_keepsWhatIsBeingDelivered_beforeTheOverflow() throws {
        let bench = try makeBench(keys: 2)
        try bench.give(Self.update("a"))
        bench.inDelivery = { [unowned bench] in
            _ = try? bench.give(Self.update("b"), Self.update("c"), Self.update("d"))
        }
        #expect(bench.take() == [Self.written("a"), Self.overflow])
    }

    @Test func drop_ofLiveKey_isUpdatedAfterwards() throws {
        let bench = try makeBench(keys: 2)
        try bench.give(Self.update("a"))
        #expect(bench.take() == [Self.written("a")])
        try bench.give(Self.update("a", 2), Self.update("b"), Self.update("c"))
        try bench.give(Self.update("a", 3))
        #expect(bench.take() == [Self.overflow, Self.written("a", 3, type: "updated")])
    }

    @Test func replacing_neverOverflows() throws {
        let bench = try makeBench(keys: 1)
        try bench.give((0..<2000).map { Self.update("a", $0) })
        #expect(bench.take() == [Self.written("a", 1999)])
        #expect(bench.overflows.all == [])
    }

    @Test func bytes_areTheValues() throws {
        let bench = try Bench(
            InputFormat(), hasEnvelope: true, bound: .lines(bytes: 6, keys: nil), onOverflow: .drop)
        try bench.give(#"{"key":"a","value":"12"}"#, #"{"key":"long long key","value":12}"#)
        #expect(bench.overflows.all == [])
        try bench.give(Self.update("c"))
        #expect(bench.overflows.all == [3])
    }

    // MARK: - In-sync

    /// Keys that the source sent before the overflow were dropped. An in-sync that is not the end
    /// of a later snapshot would delete them.
    @Test func inSync_afterDrop_waitsForARestart() throws {
        let bench = try makeBench(keys: 2)
        for key in ["a", "b", "c"] {
            try bench.give(Self.update(key))
            _ = bench.take()
        }
        try bench.give(#"{"restart":true}"#, Self.update("a", 2), Self.update("x"), Self.update("y"))
        try bench.give(Self.update("b", 2), #"{"status":"in-sync"}"#, #"{"status":"resync"}"#)
        #expect(
            bench.take() == [Self.overflow, Self.written("b", 2, type: "updated"), #"{"status":"resync"}"#])
        // Both came in.
        #expect(bench.counters.statuses.load(ordering: .relaxed) == 2)
        try bench.give(#"{"restart":true}"#, Self.update("a", 3), Self.update("b", 3), #"{"status":"in-sync"}"#)
        #expect(
            bench.take() == [
                Self.written("a", 3, type: "updated"), Self.written("b", 3, type: "updated"),
                #"{"type":"deleted","key":"c","value":null}"#, #"{"status":"in-sync"}"#,
            ])
    }

    @Test func count_leavesOutWhatARestartDropped() throws {
        let bench = try makeBench(keys: 2)
        try bench.give(Self.update("a"), Self.update("b"), #"{"restart":true}"#)
        try bench.give(Self.update("a"), Self.update("b"), Self.update("c"))
        #expect(bench.overflows.all == [3])
    }

    @Test func olderRevision_afterDrop_isIgnored() throws {
        var format = FeedTests.format
        format.revision = ["/r"]
        let bench = try Bench(format, newerOnly: true, bound: .keys(1), onOverflow: .drop)
        try bench.give(#"{"k":"a","r":5,"gone":1}"#, #"{"k":"b","r":1}"#)
        try bench.give(#"{"k":"a","r":4}"#)
        #expect(bench.take() == [])
    }

    // MARK: - What the filter keeps beside the buffer

    @Test func deletionLines_ofDroppedDeletions_areForgotten() throws {
        let bench = try makeLineBench(keys: 2)
        for _ in 0..<3 {
            try bench.give(#"{"k":"a","gone":1}"#, #"{"k":"b","gone":1}"#, #"{"k":"c","gone":1}"#)
            #expect(bench.deletionLines.keptLines == 0)
        }
        try bench.give(#"{"k":"a","gone":2}"#)
        #expect(bench.take() == [#"{"k":"a","gone":2}"#])
    }

    /// The deletion was taken, and its line is still to be asked for.
    @Test func deletionLine_thatIsBeingDelivered_isKept() throws {
        let bench = try makeLineBench(keys: 2)
        try bench.give(#"{"k":"a","gone":1}"#)
        bench.inDelivery = { [unowned bench] in
            _ = try? bench.give(#"{"k":"b","gone":1}"#, #"{"k":"a","gone":2}"#)
            _ = try? bench.give(#"{"k":"c","gone":1}"#)
            _ = try? bench.give(#"{"k":"a","gone":3}"#)
        }
        #expect(bench.take() == [#"{"k":"a","gone":1}"#, #"{"k":"a","gone":3}"#])
        #expect(bench.deletionLines.keptLines == 0)
    }

    @Test func deletionLines_droppedDuringADelivery_areForgottenAfterIt() throws {
        let bench = try makeLineBench(keys: 2)
        try bench.give(#"{"k":"a","gone":1}"#)
        bench.inDelivery = { [unowned bench] in
            _ = try? bench.give(#"{"k":"b","gone":1}"#, #"{"k":"c","gone":1}"#, #"{"k":"d","gone":1}"#)
        }
        #expect(bench.take() == [#"{"k":"a","gone":1}"#])
        #expect(bench.deletionLines.keptLines == 0)
    }

    /// What is being written has all that it needs: however long that takes, nothing adds up.
    @Test func deletionLines_whileTheReaderDoesNotRead_areForgotten() throws {
        let bench = try makeLineBench(keys: 2)
        try bench.give(#"{"k":"a","gone":1}"#)
        let kept = Numbers()
        bench.inWriting = { [unowned bench] in
            for _ in 0..<3 {
                _ = try? bench.give(#"{"k":"b","gone":1}"#, #"{"k":"c","gone":1}"#, #"{"k":"d","gone":1}"#)
                kept.append(bench.deletionLines.keptLines)
            }
        }
        #expect(bench.take() == [#"{"k":"a","gone":1}"#])
        #expect(kept.all == [0, 0, 0])
    }

    @Test func keysOfDroppedLinesWithoutKey_areUsedAgain() throws {
        let bench = try makeLineBench(keys: 2, onMissing: .pass)
        for _ in 0..<100 {
            try bench.give(#"{"n":1}"#, #"{"n":2}"#, #"{"n":3}"#)
            try bench.give(#"{"n":4}"#, #"{"n":5}"#)
            #expect(bench.take() == [#"{"n":4}"#, #"{"n":5}"#])
        }
        #expect(bench.buffer.statistics.liveKeys <= 3)
    }

    /// Otherwise two pending lines would have one key, and one of them would be lost.
    @Test func keyOfLineThatIsBeingDelivered_isUsedAgainOnce() throws {
        let bench = try makeLineBench(keys: 3, onMissing: .pass)
        try bench.give(#"{"n":0}"#)
        bench.inDelivery = { [unowned bench] in
            _ = try? bench.give(#"{"n":1}"#, #"{"n":2}"#, #"{"n":3}"#, #"{"n":4}"#)
        }
        #expect(bench.take() == [#"{"n":0}"#])
        for _ in 0..<3 {
            let lines = [#"{"n":5}"#, #"{"n":6}"#, #"{"n":7}"#]
            try bench.give(lines)
            #expect(bench.take() == lines)
        }
    }

    // MARK: - Stop

    @Test func stop_endsTheReadingAfterTheOverflow() throws {
        let bench = try makeBench(keys: 2, .stop)
        try bench.give(Self.update("a"))
        bench.inDelivery = { [unowned bench] in
            let goesOn = try? bench.give(
                Self.update("b"), Self.update("c"), Self.update("d"), #"{"status":"in-sync"}"#, Self.update("e"))
            #expect(goesOn == false)
        }
        #expect(bench.take() == [Self.written("a"), Self.overflow])
        #expect(bench.overflows.all == [3])
    }

    /// The restart would end the overflow, and what follows it might be delivered.
    @Test func stop_beforeARestart_doesNotTakeIt() throws {
        let bench = try makeBench(keys: 1, .stop)
        let goesOn = try bench.give(
            Self.update("a"), Self.update("b"), #"{"status":"resync"}"#, #"{"restart":true}"#, Self.update("c"))
        #expect(!goesOn)
        #expect(bench.counters.restarts.load(ordering: .relaxed) == 0)
        #expect(bench.take() == [Self.overflow])
    }

    // MARK: - Messages

    @Test func messages_afterTwenty_areCounted() {
        var messages: [String] = []
        let log = OverflowLog(keys: 10, bytes: nil, rule: .drop) { messages.append($0) }
        for _ in 0..<23 {
            log.add(dropped: 11)
        }
        log.finish()
        #expect(messages.count == 21)
        #expect(messages[0] == "overflow: more than 10 keys were pending; 11 updates dropped")
        #expect(messages[20] == "3 more overflows: 33 updates dropped")
    }

    @Test(
        arguments: [
            (10, nil, "more than 10 keys were pending"), (nil, 64, "more than 64 bytes were pending"),
            (10, 64, "more than 10 keys or 64 bytes were pending"),
        ] as [(Int?, Int?, String)])
    func message_saysTheBound(_ keys: Int?, _ bytes: Int?, _ text: String) {
        var messages: [String] = []
        let log = OverflowLog(keys: keys, bytes: bytes, rule: .stop) { messages.append($0) }
        log.add(dropped: 11)
        log.finish()
        #expect(messages == ["overflow: \(text); 11 updates dropped, and nothing more is read"])
    }

    // MARK: - Another filter's output

    @Test func overflowOfTheSource_isPassedOnInItsPlace() throws {
        let bench = try Bench(InputFormat(), hasEnvelope: true)
        try bench.give(Self.update("a"), Self.overflow, Self.update("b"), #"{"status":"in-sync"}"#)
        #expect(
            bench.take() == [Self.written("a"), Self.overflow, Self.written("b"), #"{"status":"in-sync"}"#])
        #expect(bench.buffer.statistics.liveKeys == 2)
    }
}
