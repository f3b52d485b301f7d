// SPDX-License-Identifier: Apache-2.0

// Contract section 6: D1–D6, where the original's faults are not copied. D1 with every kind of loop
// asleep.

import DedupeBuffer
import Testing

@Suite("Deviations from the original")
struct DeviationTests {
    // MARK: D1

    @Test(arguments: LoopKind.allCases)
    func d1_repeatedInSyncAfterARestart_wakesTheSleepingLoop(kind: LoopKind) throws {
        let buffer = StringBuffer()
        let sink = StringSink()
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 1)
        buffer.onStatusUpdated(.inSync)
        try sink.wait(forCalls: 1)
        try loop.settle()
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        try sink.wait(forCalls: 3)
        try loop.settle()
        #expect(sink.calls == [.status(.inSync), .updates([.deleted("a")]), .status(.inSync)])
        buffer.set("b", 2)
        try sink.wait(forCalls: 4)
        #expect(sink.calls.last == .updates([.new("b", 2)]))
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases)
    func d1_everyTimeAnew(kind: LoopKind) throws {
        let buffer = StringBuffer()
        let sink = StringSink()
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "key 0", 0)
        buffer.onStatusUpdated(.inSync)
        try sink.wait(forCalls: 1)
        for round in 1...rounds(100) {
            sink.takeCalls()
            buffer.onConnectionRestarted()
            buffer.onStatusUpdated(.inSync)
            try sink.wait(forCalls: 2)
            #expect(sink.takeCalls().flatMap(\.items) == [.deleted("key \(round - 1)")])
            buffer.set("key \(round)", round)
            try sink.wait(forItems: 1)
        }
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    // MARK: D2

    @Test func d2_statusDroppedByTheRestart_isSentWhenItComesAgain() throws {
        let buffer = StringBuffer()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.resyncInProgress)
        #expect(try buffer.flush() == [.status(.resyncInProgress)])
    }

    @Test func d2_afterARestart_theLatestReceivedIsTheLatestTaken() throws {
        let buffer = StringBuffer()
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.resyncInProgress)  // not equal to the latest taken
        #expect(try buffer.flush() == [.status(.resyncInProgress)])
    }

    @Test func d2_whenNoStatusWasTaken_waitForDatastoreCountsAsReceived() throws {
        let buffer = StringBuffer()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.waitForDatastore)
        #expect(try buffer.nextBatch() == nil)
    }

    @Test func d2_inSyncDroppedByTheRestart_comesAgain_withItsDeletions() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.deleted("a")]), .status(.inSync)])
    }

    @Test func d2_severalRestarts_fallBackToTheSameTakenStatus() throws {
        let buffer = StringBuffer()
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        for _ in 0..<3 {
            buffer.onStatusUpdated(.resyncInProgress)
            buffer.onConnectionRestarted()
            buffer.onConnectionRestarted()
        }
        buffer.onStatusUpdated(.inSync)  // ends the resync
        #expect(try buffer.flush() == [.status(.inSync)])
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.nextBatch() == nil)
    }

    @Test func d2_statusTakenButNotYetWithTheSink_countsAsTaken() throws {
        let buffer = StringBuffer()
        let sink = StringSink()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        sink.onEachCall { call in
            guard call == .updates([.new("a", 1)]) else { return }
            buffer.onConnectionRestarted()
            buffer.set("a", 2)
            buffer.onStatusUpdated(.inSync)
        }
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.updates([.new("a", 1)]), .status(.inSync)])
        #expect(try buffer.flush() == [.updates([.updated("a", 2)]), .status(.inSync)])
    }

    // MARK: D7

    @Test func d7_inSyncThatEndsAResync_isDeliveredEvenIfItRepeats() throws {
        let buffer = StringBuffer()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.nextBatch() == nil)
    }

    // MARK: D3

    @Test func d3_oneStatusPerRound_doesNotPileUp() throws {
        let buffer = StringBuffer()
        for round in 0..<1_000 {
            buffer.set("a", round)
            buffer.onStatusUpdated(round % 2 == 0 ? .resyncInProgress : .inSync)
            buffer.delete("a")
            #expect(buffer.statistics.pendingStatuses == 1)
        }
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    // MARK: D4

    @Test(arguments: 1...6)
    func d4_deletionsOfAnUnknownKey_areOneDeletion(times: Int) throws {
        let buffer = StringBuffer()
        buffer.onUpdates((0..<times).map { Update(key: "a", value: nil, revision: UInt64($0)) })
        #expect(try buffer.flush() == [.updates([.deleted("a", revision: UInt64(times - 1))])])
        let statistics = buffer.statistics
        #expect(statistics.delivered == 1)
        #expect(statistics.replaced == times - 1)
        #expect(statistics.cancelled == 0)
    }

    @Test func d4_oncePerBatch_thatTookIt() throws {
        let buffer = StringBuffer()
        for _ in 0..<3 {
            buffer.delete("a")
            buffer.delete("a")
            #expect(try buffer.flush() == [.updates([.deleted("a")])])
        }
    }

    // MARK: D5

    @Test(arguments: [UpdateType.unknown, .new, .updated, .deleted])
    func d5_aNilValue_isDeleted_whateverItsTypeWas(type: UpdateType) throws {
        let buffer = StringBuffer()
        buffer.onUpdates([Update(key: "a", value: nil, updateType: type)])
        #expect(try buffer.flush() == [.updates([.deleted("a")])])
        buffer.set("b", 1)
        _ = try buffer.flush()
        buffer.onUpdatesKeysKnown([Update(key: "b", value: nil, updateType: type)], keys: ["b"])
        #expect(try buffer.flush() == [.updates([.deleted("b")])])
    }

    // MARK: D6

    /// That the steps are bounded cannot be told without a clock. That the steps lose nothing can:
    /// producers and a loop work while 20,000 live keys are remembered and swept.
    @Test func d6_restartAndSweepOfALargeLiveSet_besideProducersAndALoop_loseNothing() throws {
        let count = 20_000
        let buffer = StringBuffer()
        let sink = ReplayingSink()
        buffer.onUpdates((0..<count).map { Update(key: "key \($0)", value: $0) })
        let loop = try RunningLoop(.ownQueue, of: buffer, to: sink)
        try sink.wait(forUpdates: count)

        // The producer touches only keys of its own, so that what must be left in the end is known.
        let stop = Kept(false)
        let producer = Worker("producer") {
            var round = 0
            while !stop.value {
                buffer.set("mine \(round % 50)", round)
                round += 1
            }
        }
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onUpdates((0..<count / 2).map { Update(key: "key \($0)", value: -$0) })
        buffer.onStatusUpdated(.inSync)
        stop.change { $0 = true }
        try producer.join()
        for n in 0..<50 { buffer.set("mine \(n)", n) }
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()

        #expect(sink.violations == [])
        var expected: [String: Int] = [:]
        for n in 0..<count / 2 { expected["key \(n)"] = -n }
        for n in 0..<50 { expected["mine \(n)"] = n }
        #expect(sink.state == expected)
        #expect(buffer.statistics.liveKeys == expected.count)
        #expect(buffer.statistics.unaccounted == 0)
    }
}
