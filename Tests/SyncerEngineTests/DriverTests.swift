// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import InMemoryLogging
import Logging
import MetricsTestKit
import Testing

@testable import SyncerEngine

@Suite("Driver")
struct DriverTests {
    private let store = ScriptedStore()
    private let clock = ManualClock()
    private let buffer: DedupeBuffer<[UInt8], [UInt8]>
    private let states = Kept<[SyncerState]>([])

    init() {
        var configuration = DedupeBufferConfiguration()
        configuration.skipsUnchangedRevisions = true
        buffer = DedupeBuffer(configuration: configuration)
    }

    private func driver(
        _ store: ScriptedStore? = nil, _ change: (inout SyncerObserver) -> Void = { _ in }
    ) -> SyncerDriver<ScriptedStore, DedupeBuffer<[UInt8], [UInt8]>> {
        var observer = SyncerObserver()
        observer.onStateChange = { [states] state in states.change { $0.append(state) } }
        change(&observer)
        return SyncerDriver(
            datastore: store ?? self.store, target: buffer, observer: observer, clock: clock,
            generator: { SeededGenerator(seed: 1) })
    }

    /// What is pending, as the sink would get it.
    private func delivered() -> [String] {
        let sink = NaiveSink()
        while (try? buffer.sendNextBatchToSink(sink)) != nil {}
        return sink.updates.map(\.short)
    }

    /// Until the watch works.
    private func follow(_ entries: [DatastoreEntry] = [], at revision: Int64 = 10) async throws -> ScriptedWatch {
        try await store.expectProbe(revision: revision)
        try await store.expectPage(entries, revision: revision)
        return try await store.expectWatch(from: revision + 1)
    }

    private func inSync(_ driver: SyncerDriver<ScriptedStore, DedupeBuffer<[UInt8], [UInt8]>>) async throws {
        try await eventually("in sync") { driver.statistics.status == .inSync }
    }

    // MARK: Following

    @Test func run_readsTheSnapshot_andFollowsTheWatch() async throws {
        let driver = driver()
        let running = RunningDriver { await driver.run() }
        let watch = try await follow([.put("a", at: 5)])
        watch.send(.changes(range: 0, [.put("b", at: 11), .delete("a", at: 12)], .at(12), isFragment: false))
        try await eventually("the changes") { driver.statistics.events == 2 }
        #expect(delivered() == ["b@11"])
        #expect(driver.statistics.status == .inSync)
        #expect(states.value == [.resyncing(.initial), .connected(endpoint: 0), .inSync])
        running.cancel()
        try await running.end()
        #expect(watch.isClosed)
    }

    @Test func watchBreaksOff_resumes_withoutARestart() async throws {
        let driver = driver()
        let running = RunningDriver { await driver.run() }
        let watch = try await follow([.put("a", at: 5)])
        try await inSync(driver)
        watch.end(.failure(DatastoreError(.noLeader)))
        try await eventually("the failure") { driver.statistics.failures == 1 }
        clock.advance(by: .seconds(1))
        try await store.expectProbe(resuming: 11, revision: 20)
        _ = try await store.expectWatch(from: 11)
        try await eventually("the resume") { driver.statistics.resumes == 1 }
        #expect(buffer.statistics.synthesizedDeletions == 0)
        #expect(delivered() == ["a@5"])
        running.cancel()
        try await running.end()
    }

    @Test func watchEnds_withoutAnError_resumes_withNewConnections() async throws {
        let driver = driver()
        let running = RunningDriver { await driver.run() }
        try await follow().end(.success(()))
        try await eventually("the disconnection") { store.disconnected == [0] }
        clock.advance(by: .seconds(1))
        try await store.expectProbe(resuming: 11, revision: 20)
        #expect(store.disconnected == [0])
        running.cancel()
        try await running.end()
    }

    @Test func silence_asksForASignOfLife_thenDropsTheTransport() async throws {
        let driver = driver()
        let running = RunningDriver { await driver.run() }
        let watch = try await follow()
        try await inSync(driver)
        clock.advance(by: .seconds(20))
        let call = try await store.expect(.progress)
        store.answer(call, .done)
        watch.send(.heartbeat(.at(10)))
        // Shows that the heartbeat was dealt with.
        watch.send(.changes(range: 0, [.put("a", at: 11)], .at(11), isFragment: false))
        try await eventually("the heartbeat") { driver.statistics.events == 1 }
        clock.advance(by: .seconds(20))
        _ = try await store.expect(.progress)
        // This one hangs as well, and goes with the watch.
        clock.advance(by: .seconds(10))
        try await eventually("the end of the watch") {
            watch.isClosed && self.store.cancelled.contains(.progress) && self.store.disconnected == [0]
        }
        #expect(driver.statistics.heartbeatMisses == 1)
        running.cancel()
        try await running.end()
    }

    @Test func answerDoesNotCome_isCancelled_andTheNextEndpointIsAsked() async throws {
        let store = ScriptedStore(endpoints: 3)
        let driver = driver(store)
        let running = RunningDriver { await driver.run() }
        try await eventually("a probe") { store.untaken.count == 1 }
        let first = try #require(driver.statistics.endpoint)
        _ = try await store.expect(.probe(endpoint: first, resuming: nil))
        clock.advance(by: .seconds(5))
        try await eventually("the cancellation") {
            store.cancelled == [.probe(endpoint: first, resuming: nil)] && store.disconnected == [first]
        }
        clock.advance(by: .seconds(1))
        try await eventually("another probe") { store.untaken.count == 1 }
        #expect(driver.statistics.endpoint != first)
        running.cancel()
        try await running.end()
    }

    // MARK: Sinks

    /// The sink takes nothing at all, and the watch is drained all the same.
    @Test func scene27_sinkIsStuck_theWatchIsDrained() async throws {
        let driver = driver()
        let running = RunningDriver { await driver.run() }
        let watch = try await follow()
        let count: Int64 = 5000
        for i in 0..<count {
            watch.send(.changes(range: 0, [.put("k\(i % 10)", at: 11 + i)], .at(11 + i), isFragment: false))
        }
        try await eventually("the changes") { driver.statistics.events == Int(count) }
        #expect(watch.backlog == 0)
        #expect(buffer.statistics.pendingKeys == 10)
        running.cancel()
        try await running.end()
    }

    @Test func overflow_resyncsAfterAPause() async throws {
        let buffer = DedupeBuffer<[UInt8], [UInt8]>(bound: .keys(2))
        let driver = SyncerDriver(
            datastore: store, target: buffer, clock: clock, generator: { SeededGenerator(seed: 1) })
        let running = RunningDriver { await driver.run() }
        try await store.expectProbe(revision: 10)
        try await store.expectPage([.put("a", at: 5), .put("b", at: 6), .put("c", at: 7)], revision: 10)
        try await eventually("the overflow") { driver.statistics.resyncs[.overflow] == 1 }
        // The restart was told at once, so the buffer takes statuses again.
        #expect(!buffer.statistics.isOverflowed && driver.statistics.status == .resyncInProgress)
        clock.advance(by: .seconds(1))
        // A watch may have been asked for in between.
        try await eventually("the probe") { self.store.untaken.last == .probe(endpoint: 0, resuming: nil) }
        if case .watch? = store.untaken.first { _ = try await store.expect(.watch(endpoint: 0, starts: [11])) }
        try await store.expectProbe(revision: 20)
        try await store.expectPage([.put("a", at: 5)], revision: 20, limit: 2000)
        _ = try await store.expectWatch(from: 21)
        try await eventually("in sync") { driver.statistics.status == .inSync }
        running.cancel()
        try await running.end()
    }

    // MARK: The end

    /// The run is cancelled after each step of a life. It returns, and nothing is left open.
    @Test(arguments: 0..<12, [true, false])
    func end_atEveryAwait_returns_andLeavesNothingOpen(steps: Int, byShutdown: Bool) async throws {
        let driver = driver()
        let running = RunningDriver { await driver.run() }
        try await live(driver, steps: steps)
        if byShutdown { driver.shutdown() } else { running.cancel() }
        try await running.end()
        #expect(store.openCalls == 0)
        #expect(store.openWatches == 0)
        #expect(clock.sleeperCount == 0)
        let received = buffer.statistics.received
        clock.advance(by: .seconds(1000))
        for _ in 0..<10 { await Task.yield() }
        #expect(buffer.statistics.received == received)
    }

    /// The first `steps` steps of a life with every kind of request.
    private func live(
        _ driver: SyncerDriver<ScriptedStore, DedupeBuffer<[UInt8], [UInt8]>>, steps: Int
    ) async throws {
        var rest = steps
        func goesOn() -> Bool {
            rest -= 1
            return rest >= 0
        }
        guard goesOn() else { return }
        let denied = try await store.expect(.probe(endpoint: 0, resuming: nil))
        guard goesOn() else { return }
        store.fail(denied, .unauthenticated)
        let authentication = try await store.expect(.authenticate(endpoint: 0))
        guard goesOn() else { return }
        store.answer(authentication, .done)
        let probe = try await store.expect(.probe(endpoint: 0, resuming: nil))
        guard goesOn() else { return }
        store.answer(probe, .position(.at(10)))
        guard goesOn() else { return }
        try await store.expectPage([.put("a", at: 5)], revision: 10)
        guard goesOn() else { return }
        let watch = try await store.expectWatch(from: 11)
        guard goesOn() else { return }
        try await inSync(driver)
        guard goesOn() else { return }
        clock.advance(by: .seconds(20))
        _ = try await store.expect(.progress)
        guard goesOn() else { return }
        watch.end(.success(()))
        try await eventually("the disconnection") { store.disconnected == [0] }
        guard goesOn() else { return }
        clock.advance(by: .seconds(1))
        guard goesOn() else { return }
        _ = try await store.expect(.probe(endpoint: 0, resuming: 11))
    }

    @Test func shutdown_beforeTheRun_returnsAtOnce() async throws {
        let driver = driver()
        driver.shutdown()
        driver.shutdown()
        let running = RunningDriver { await driver.run() }
        try await running.end()
        #expect(store.openCalls == 0)
    }

    /// The target must not be left waiting for a datastore that is not asked.
    @Test func run_afterAShutdown_returnsAtOnce_andTellsTheTargetNothing() async throws {
        let driver = driver()
        let running = RunningDriver { await driver.run() }
        _ = try await follow([.put("a", at: 5)])
        try await inSync(driver)
        driver.shutdown()
        try await running.end()
        let told = (buffer.statistics.statusesReceived, states.value, driver.statistics)
        await driver.run()
        #expect((buffer.statistics.statusesReceived, states.value, driver.statistics) == told)
    }

    @Test func run_whileItIsRunning_endsTheProgram() async {
        await #expect(processExitsWith: .failure) {
            let store = ScriptedStore()
            let driver = SyncerDriver(datastore: store, target: DedupeBuffer<[UInt8], [UInt8]>())
            async let first: Void = driver.run()
            _ = try await store.expect(.probe(endpoint: 0, resuming: nil))
            await driver.run()
            await first
        }
    }

    /// Another syncer followed another cluster, in which the same revision had another value.
    @Test func scene12_bufferOfAnEarlierSyncer_getsRevisionsOfAnotherEpoch() async throws {
        buffer.onUpdates([Update(key: bytes("a"), value: bytes("before"), revision: 5)])
        let sink = NaiveSink()
        try buffer.sendNextBatchToSink(sink)
        let driver = driver()
        let running = RunningDriver { await driver.run() }
        _ = try await follow([.put("a", "after", at: 5)])
        try await inSync(driver)
        while (try? buffer.sendNextBatchToSink(sink)) != nil {}
        #expect(sink.state == [bytes("a"): bytes("after")])
        let revision = try #require(sink.updates.last?.revision)
        #expect(revision & (1 << 48 - 1) == 5 && 1...(1 << 15) ~= revision >> 48)
        running.cancel()
        try await running.end()
    }

    @Test func run_hasEnded_nothingKeepsTheDriverAlive() async throws {
        weak var weakDriver: SyncerDriver<ScriptedStore, DedupeBuffer<[UInt8], [UInt8]>>?
        weak var weakStore: ScriptedStore?
        do {
            let store = ScriptedStore()
            let driver = driver(store)
            (weakDriver, weakStore) = (driver, store)
            let running = RunningDriver { await driver.run() }
            _ = try await store.expect(.probe(endpoint: 0, resuming: nil))
            driver.shutdown()
            try await running.end()
        }
        try await eventually("the driver's end") { [weak weakDriver, weak weakStore] in
            weakDriver == nil && weakStore == nil
        }
    }

    // MARK: Logs and metrics

    @Test func clusterIsUnreachable_isSaidOnce() async throws {
        let handler = InMemoryLogHandler()
        var logger = Logger(label: "test") { _ in handler }
        logger.logLevel = .trace
        let driver = driver { [logger] in $0.logger = logger }
        let running = RunningDriver { await driver.run() }
        for attempt in 1...5 {
            store.fail(try await store.expect(.probe(endpoint: 0, resuming: nil)), .noLeader)
            try await eventually("attempt \(attempt)") { driver.statistics.failures == attempt }
            clock.advance(by: .seconds(60))
        }
        _ = try await follow()
        try await inSync(driver)
        #expect(states.value.filter { $0 == .unreachable(DatastoreError(.noLeader)) }.count == 1)
        let messages = handler.entries.map { "\($0.level) \($0.message)" }
        #expect(messages.filter { $0 == "warning No endpoint works" }.count == 1)
        #expect(messages.filter { $0 == "debug Attempt failed" }.count == 5)
        #expect(messages.last == "info Resync completed")
        running.cancel()
        try await running.end()
    }

    @Test func snapshotIsEmpty_warnsOnlyIfTheSinkHasKeys() async throws {
        let handler = InMemoryLogHandler()
        for keys in [0, 3] {
            var observer = SyncerObserver(logger: Logger(label: "test") { _ in handler })
            observer.bufferStatistics = {
                var statistics = DedupeBufferStatistics()
                statistics.liveKeys = keys
                return statistics
            }
            observer.report(.emptySnapshot)
        }
        #expect(handler.entries.map(\.metadata) == [["syncer.live_keys": "3"]])
    }

    @Test func metrics_showWhatTheStatisticsSay() async throws {
        let metrics = TestMetrics()
        let driver = driver { $0.metrics = .init(label: "test", factory: metrics, interval: .zero) }
        let running = RunningDriver { await driver.run() }
        let watch = try await follow([.put("a", at: 5), .put("b", at: 6)])
        watch.send(.changes(range: 0, [.put("c", at: 11)], .at(11), isFragment: false))
        watch.send(.changes(range: 0, [.put("c", at: 11)], .at(11), isFragment: false))
        try await eventually("the changes") { driver.statistics.duplicatesDropped == 1 }
        running.cancel()
        try await running.end()
        #expect(try metrics.expectCounter("test_connects_total").totalValue == 1)
        #expect(try metrics.expectCounter("test_snapshot_keys_total").totalValue == 2)
        #expect(try metrics.expectCounter("test_events_total").totalValue == 1)
        #expect(try metrics.expectCounter("test_duplicates_total").totalValue == 1)
        #expect(try metrics.expectCounter("test_resyncs_total", [("reason", "initial")]).totalValue == 1)
        #expect(try metrics.expectGauge("test_is_in_sync").lastValue == 1)
        #expect(try metrics.expectGauge("test_endpoint").lastValue == 0)
    }
}
