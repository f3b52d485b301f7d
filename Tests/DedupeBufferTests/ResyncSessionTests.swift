// SPDX-License-Identifier: Apache-2.0

// A resync in one call: what it puts, when it puts no in-sync, and which of several resyncs counts.

import DedupeBuffer
import Testing

@Suite("Resync in one call")
struct ResyncSessionTests {
    private let buffer = StringBuffer()

    /// Delivers these keys with the value 0.
    private func goLive(_ keys: String...) throws {
        for key in keys { buffer.set(key, 0) }
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
    }

    private struct Broken: Error {}

    // MARK: What it puts

    @Test func resync_putsTheSnapshotBetweenItsStatuses_andDeletesWhatVanished() throws {
        try goLive("a", "b", "c")
        buffer.set("pending", 1)
        buffer.withResync { session in
            session.update("a", to: 1, revision: 7)
            session.remove("b", revision: 8)
            session.send([Update(key: "d", value: 2), Update(key: "e", value: 3)])
        }
        #expect(
            try buffer.flush() == [
                .status(.resyncInProgress),
                .updates([
                    .updated("a", 1, revision: 7), .deleted("b", revision: 8), .new("d", 2), .new("e", 3),
                    .deleted("c"),
                ]),
                .status(.inSync),
            ])
        #expect(buffer.statistics.dropped == 1)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func asyncResync_doesTheSame_whileOthersPutChanges() async throws {
        try goLive("a", "b")
        let result = try await buffer.withResync { session in
            session.update("a", to: 1)
            await Task.yield()
            buffer.set("change", 1)
            return "the body's result"
        }
        #expect(result == "the body's result")
        #expect(
            try buffer.flush() == [
                .status(.resyncInProgress), .updates([.updated("a", 1), .new("change", 1), .deleted("b")]),
                .status(.inSync),
            ])
    }

    @Test func resync_returnsWhatTheBodyReturns() {
        #expect(buffer.withResync { _ in 42 } == 42)
    }

    @Test func snapshotOfManyChunks_isPutWhole() throws {
        let keys = (0..<1_234).map { "key \($0)" }
        buffer.withResync { session in session.send(keys.map { Update(key: $0, value: 1) }) }
        #expect(try buffer.flush().items().map(\.key) == keys)
    }

    // MARK: When it puts no in-sync

    @Test func bodyThatThrows_isNoCompleteSnapshot_andNothingIsDeleted() throws {
        try goLive("a", "b")
        #expect(throws: Broken.self) {
            try buffer.withResync { session in
                session.update("a", to: 1)
                throw Broken()
            }
        }
        #expect(try buffer.flush() == [.status(.resyncInProgress), .updates([.updated("a", 1)])])
        buffer.withResync { $0.update("a", to: 2) }
        #expect(try buffer.flush() == [.updates([.updated("a", 2), .deleted("b")]), .status(.inSync)])
    }

    @Test func asyncBodyThatThrows_isNoCompleteSnapshot() async throws {
        try goLive("a", "b")
        await #expect(throws: Broken.self) {
            try await buffer.withResync { session in
                session.update("a", to: 1)
                throw Broken()
            }
        }
        #expect(try buffer.flush() == [.status(.resyncInProgress), .updates([.updated("a", 1)])])
    }

    /// Many sequences end early when their task is cancelled, as this body does.
    @Test func bodyThatReturns_afterACancellation_isNoCompleteSnapshot() async throws {
        try goLive("a", "b")
        let (buffer, gate) = (buffer, AsyncGate())
        let task = Task {
            try await buffer.withResync { session in
                session.update("a", to: 1)
                await gate.pass()
            }
        }
        try await gate.waitForArrival()
        task.cancel()
        await #expect(throws: CancellationError.self) { try await outcome(of: task, "a cancelled resync") }
        #expect(try buffer.flush() == [.status(.resyncInProgress), .updates([.updated("a", 1)])])
    }

    @Test func overflowInTheBody_dropsTheSnapshotAndTheInSync_untilTheNextResync() throws {
        let buffer = StringBuffer(bound: .keys(2))
        buffer.withResync { session in
            for key in ["a", "b", "c", "d"] { session.update(key, to: 1) }
        }
        #expect(buffer.statistics.isOverflowed)
        #expect(try buffer.flush() == [])
        buffer.withResync { $0.update("a", to: 2) }
        #expect(
            try buffer.flush() == [.status(.resyncInProgress), .updates([.new("a", 2)]), .status(.inSync)])
    }

    @Test func afterTheStop_theBodyRuns_andNothingIsQueued() throws {
        buffer.stop()
        #expect(
            buffer.withResync { session in
                session.update("a", to: 1)
                return true
            })
        let statistics = buffer.statistics
        #expect(statistics.pendingKeys + statistics.pendingStatuses == 0)
        #expect(statistics.dropped == 1)
        #expect(statistics.unaccounted == 0)
    }

    // MARK: Which one counts

    @Test func resyncInsideAnother_supersedesIt() throws {
        try goLive("a", "b")
        buffer.withResync { outer in
            outer.update("old", to: 1)
            buffer.withResync { $0.update("a", to: 2) }
            outer.update("b", to: 3)
            outer.send([Update(key: "c", value: 3)])
            outer.remove("a")
        }
        #expect(
            try buffer.flush() == [
                .status(.resyncInProgress), .updates([.updated("a", 2), .deleted("b")]), .status(.inSync),
            ])
        #expect(buffer.statistics.dropped == 4)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func olderResync_whoseBodyIsLate_isIgnored_andPutsNoInSync() async throws {
        try goLive("a", "b")
        let (buffer, gate) = (buffer, AsyncGate())
        let older = Task {
            try await buffer.withResync { session in
                await gate.pass()
                session.update("stale", to: 1)
            }
        }
        try await gate.waitForArrival()
        try await buffer.withResync { session in
            session.update("a", to: 2)
            gate.open()
            try await outcome(of: older, "the older resync")
            // Its end was not taken for the end of this one.
            #expect(buffer.statistics.synthesizedDeletions == 0)
            session.update("b", to: 2)
        }
        #expect(
            try buffer.flush() == [
                .status(.resyncInProgress), .updates([.updated("a", 2), .updated("b", 2)]), .status(.inSync),
            ])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func restart_supersedesAResync() throws {
        try goLive("a", "b")
        buffer.withResync { session in
            session.update("a", to: 1)
            buffer.onConnectionRestarted()
            session.update("b", to: 1)
        }
        #expect(try buffer.flush() == [])
        #expect(buffer.statistics.liveKeys == 2)
    }

    @Test func sessionThatOutlivesItsBody_isIgnored() throws {
        let session = buffer.withResync { $0 }
        session.update("a", to: 1)
        session.remove("b")
        session.send([Update(key: "c", value: 1)])
        // Of two statuses with nothing left between them the later stays.
        #expect(try buffer.flush() == [.status(.inSync)])
        #expect(buffer.statistics.received == 3)
        #expect(buffer.statistics.dropped == 3)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func valuesOfAnEndedSession_areDestroyedOnce() throws {
        let tracker = LifetimeTracker()
        do {
            let buffer = DedupeBuffer<String, Tracked>()
            let session = buffer.withResync { $0 }
            for count in [1, 99, 100, 101, 250] {
                session.send((0..<count).map { Update(key: "key \($0)", value: tracker.make()) })
                session.update("one", to: tracker.make())
                #expect(tracker.alive == 0)
                buffer.onUpdates([Update(key: "pending", value: tracker.make())])
                #expect(tracker.alive == 1)
                buffer.onConnectionRestarted()
            }
        }
        #expect(tracker.alive == 0)
        #expect(tracker.destroyedTwice == [])
    }

    /// Each resync has values of its own. Whichever was the newest, the sink ends with its whole
    /// snapshot, and with nothing of any other.
    @Test(arguments: [1, 7, 100])
    func resyncsOfManyThreads_neverMix(batchSize: Int) throws {
        let (buffer, sink): (StringBuffer, _) = (makeBuffer(batchSize: batchSize), ReplayingSink())
        let loop = try RunningLoop(.ownQueue, of: buffer, to: sink)
        let line = StartingLine(4)
        let threads = (0..<4).map { thread in
            Worker<Void>("thread \(thread)") {
                line.ready()
                for round in 0..<rounds(60) {
                    let number = thread + 4 * round
                    let count = 50 + number * 37 % 400
                    buffer.withResync { session in
                        session.send((0..<count).map { Update(key: "key \($0)", value: number) })
                        for n in 0..<20 { session.update("single \(n + number % 5)", to: number) }
                    }
                }
            }
        }
        for thread in threads { try thread.join() }
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.violations == [])
        #expect(sink.latestStatus == .inSync)
        let newest = try #require(sink.state.values.first)
        let keys = (0..<50 + newest * 37 % 400).map { "key \($0)" } + (0..<20).map { "single \($0 + newest % 5)" }
        #expect(sink.state == Dictionary(uniqueKeysWithValues: keys.map { ($0, newest) }))
        #expect(buffer.statistics.unaccounted == 0)
    }
}
