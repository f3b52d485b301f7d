// SPDX-License-Identifier: Apache-2.0

// What a buffer tells swift-metrics: what its statistics say, under the names and at the times that
// the configuration says; and the statistics that came with it.

import CoreMetrics
import DedupeBuffer
import Dispatch
import Foundation
import MetricsTestKit
import Testing

private let never = Duration.seconds(1_000_000)

/// Metrics that are kept, and a buffer's view of them.
private struct Watch {
    let kept = TestMetrics()
    var label = "dedupe_buffer"
    var dimensions: [(String, String)] = []
    var interval = never
    var destroysMetricsOnDeinit = false

    var configuration: DedupeBufferConfiguration.Metrics {
        DedupeBufferConfiguration.Metrics(
            label: label, dimensions: dimensions, factory: kept, interval: interval,
            destroysMetricsOnDeinit: destroysMetricsOnDeinit)
    }

    func makeBuffer(batchSize: Int = 100, retry: DedupeBufferConfiguration.RetryPolicy = .init()) -> StringBuffer {
        StringBuffer(
            configuration: DedupeBufferConfiguration(batchSize: batchSize, retry: retry).with {
                $0.metrics = configuration
                $0.skipsUnchangedRevisions = true
            }, bound: .keys(1_000))
    }

    func gauge(_ name: String) throws -> TestRecorder { try kept.expectGauge("\(label)_\(name)", dimensions) }
    func counter(_ name: String) throws -> TestCounter { try kept.expectCounter("\(label)_\(name)", dimensions) }
    func timer(_ name: String) throws -> TestTimer { try kept.expectTimer("\(label)_\(name)", dimensions) }

    /// What gauges and counters say now, as statistics.
    func figures() throws -> [Int] {
        let gauges = try ["pending_keys", "live_keys", "memory_bytes"].map { try gauge($0).lastValue ?? 0 }
        let counters = [
            "received", "delivered", "replaced", "cancelled", "synthesized", "suppressed", "dropped", "overflows",
        ]
        return try gauges.map { Int($0) } + counters.map { Int(try counter("\($0)_total").totalValue) }
    }
}

/// Metrics whose gauges make a call of their own when one is recorded.
private final class CallingMetrics: MetricsFactory {
    private let kept: TestMetrics
    private let action = Kept<(isOnce: Bool, body: @Sendable () -> Void)?>(nil)

    init(kept: TestMetrics) { self.kept = kept }

    /// The first time only.
    func callOnce(_ body: @escaping @Sendable () -> Void) { action.change { $0 = (true, body) } }
    func callEachTime(_ body: @escaping @Sendable () -> Void) { action.change { $0 = (false, body) } }
    func callNoMore() { action.change { $0 = nil } }

    fileprivate func call() {
        let body = action.change { action in
            defer { if action?.isOnce == true { action = nil } }
            return action?.body
        }
        body?()
    }

    func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        Recorder(owner: self, kept: kept.makeRecorder(label: label, dimensions: dimensions, aggregate: aggregate))
    }

    func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        kept.makeCounter(label: label, dimensions: dimensions)
    }

    func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        kept.makeTimer(label: label, dimensions: dimensions)
    }

    func destroyRecorder(_ handler: any RecorderHandler) {}
    func destroyCounter(_ handler: any CounterHandler) {}
    func destroyTimer(_ handler: any TimerHandler) {}

    private final class Recorder: RecorderHandler {
        private let owner: CallingMetrics
        private let kept: any RecorderHandler

        init(owner: CallingMetrics, kept: any RecorderHandler) {
            self.owner = owner
            self.kept = kept
        }

        func record(_ value: Int64) {
            owner.call()
            kept.record(value)
        }

        func record(_ value: Double) { kept.record(value) }
    }
}

extension DedupeBufferStatistics {
    fileprivate var figures: [Int] {
        [
            pendingKeys, liveKeys, memory, received, delivered, replaced, cancelled, synthesizedDeletions, suppressed,
            dropped, overflows,
        ]
    }
}

extension DedupeBuffer<String, Int> {
    /// Whatever is counted happens at least once, and nothing twice as often as something else.
    fileprivate func goThroughEverything() throws {
        onUpdates((0...1_000).map { Update(key: "too many \($0)", value: 0) })
        onConnectionRestarted()
        onUpdates((0..<7).map { Update(key: "key \($0)", value: 0, revision: 1) })
        _ = try flush()
        set("key 1", 0, revision: 1)
        for n in 0..<3 { set("key 0", n) }
        set("cancelled", 1)
        delete("cancelled")
        onConnectionRestarted()
        set("key 0", 1)
        onStatusUpdated(.inSync)
    }
}

@Suite("Metrics")
struct MetricsTests {
    private let watch = Watch()

    // MARK: - Figures

    @Test func gaugesAndCounters_areTheStatistics() throws {
        let buffer = watch.makeBuffer(batchSize: 3)
        try buffer.goThroughEverything()
        let statistics = buffer.statistics
        #expect(statistics.figures.allSatisfy { $0 > 0 })
        #expect(try watch.figures() == statistics.figures)
        _ = try buffer.nextBatch()
        #expect(try watch.figures() == buffer.statistics.figures)
        #expect(buffer.statistics.delivered == 10)
        // The sum, as a dashboard has it.
        let figures = try watch.figures()
        #expect(figures[3] + figures[7] == figures[4] + figures[5] + figures[6] + figures[8] + figures[9] + figures[0])
        // A status that was delivered is no update.
        _ = try buffer.flush()
        #expect(buffer.statistics.statusesDelivered > 0)
        #expect(try watch.figures() == buffer.statistics.figures)
    }

    @Test func figures_areUpToDate_afterARestart() throws {
        let buffer = watch.makeBuffer()
        buffer.set("a", 1)
        buffer.set("a", 2)
        buffer.onConnectionRestarted()
        #expect(try watch.figures() == buffer.statistics.figures)
    }

    @Test func figures_areUpToDate_afterAResync() throws {
        let buffer = watch.makeBuffer()
        buffer.set("a", 1)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.set("b", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(try watch.counter("synthesized_total").totalValue == 1)
        #expect(try watch.figures() == buffer.statistics.figures)
    }

    @Test func figures_areUpToDate_afterAStop() throws {
        let buffer = watch.makeBuffer()
        buffer.set("a", 1)
        buffer.stop()
        #expect(try watch.figures() == buffer.statistics.figures)
    }

    @Test(arguments: LoopKind.allCases)
    func figures_areUpToDate_afterAFinish(_ kind: LoopKind) throws {
        let (buffer, sink) = (watch.makeBuffer(batchSize: 3), StringSink())
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "first", 1)
        for n in 0..<100 { buffer.set("key \(n % 10)", n) }
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(try watch.figures() == buffer.statistics.figures)
        #expect(try watch.counter("received_total").totalValue == 101)
    }

    @Test func figures_areUpToDate_afterAFinishWithNothingToDeliver() throws {
        let buffer = watch.makeBuffer()
        buffer.set("a", 1)
        buffer.delete("a")
        try bounded("finish") { buffer.finishAndWait() }
        #expect(try watch.counter("cancelled_total").totalValue == 2)
    }

    @Test func figures_areUpToDate_whenAConsumerHasEnded() async throws {
        let buffer = watch.makeBuffer()
        for n in 0..<5 { buffer.set("key \(n)", n) }
        for try await _ in buffer.events {
            buffer.set("one more", 1)
            break
        }
        #expect(try watch.figures() == buffer.statistics.figures)
        #expect(buffer.statistics.received == 6)
    }

    @Test func counters_neverGoDown_whenASinkGivesBack() async throws {
        // The sink's own calls report what it has and is going to give back.
        var watch = watch
        watch.interval = .zero
        let buffer = watch.makeBuffer(retry: .init(maximumAttempts: nil, clock: ImpatientClock()))
        let sink = ScriptedSink<Int> { _, number in
            // What it fails on is replaced meanwhile, every other time.
            if number % 4 == 1 { buffer.set("key 1", number) }
            if number % 4 < 3 { throw SinkFailure(number: number) }
        }
        let running = Task { try await buffer.run(sink: sink) }
        for n in 0..<20 {
            buffer.set("key \(n % 3)", n)
            try await sink.wait(forCalls: 4 * n + 4)
        }
        await buffer.finish()
        try await outcome(of: running, "run")
        for counter in watch.kept.counters { #expect(counter.values.allSatisfy { $0 > 0 }, "\(counter.label)") }
        #expect(try watch.figures() == buffer.statistics.figures)
    }

    @Test func figures_ofManyThreads_addUp() throws {
        var watch = watch
        watch.interval = .zero
        let (buffer, sink) = (watch.makeBuffer(batchSize: 5), StringSink())
        try buffer.startSending(to: sink)
        let line = StartingLine(4)
        let workers = (0..<4).map { thread in
            Worker("a source") {
                line.ready()
                for n in 0..<rounds(500) { buffer.set("key \((n + thread) % 20)", n) }
            }
        }
        for worker in workers { try worker.join() }
        try bounded("finish") { buffer.finishAndWait() }
        #expect(try watch.figures() == buffer.statistics.figures)
        for counter in watch.kept.counters { #expect(counter.values.allSatisfy { $0 > 0 }) }
    }

    /// Whatever happens while the figures are reported is reported as well.
    @Test func figures_areUpToDate_ifTheyChangeMeanwhile() throws {
        let calling = CallingMetrics(kept: watch.kept)
        let metrics = DedupeBufferConfiguration.Metrics(factory: calling, interval: never)
        let buffer = StringBuffer(configuration: .with { $0.metrics = metrics })
        calling.callOnce { [unowned buffer] in
            buffer.set("b", 1)
            buffer.onConnectionRestarted()
            buffer.set("c", 1)
            buffer.onConnectionRestarted()
        }
        try bounded("a batch") {
            buffer.set("a", 1)
            _ = try buffer.nextBatch()
        }
        #expect(buffer.statistics.received == 3)
        #expect(try watch.figures() == buffer.statistics.figures)
    }

    // MARK: - Handlers that keep a thread

    private func makeBuffer(_ calling: CallingMetrics) -> StringBuffer {
        let metrics = DedupeBufferConfiguration.Metrics(factory: calling, interval: .zero)
        return StringBuffer(configuration: .with { ($0.batchSize, $0.metrics) = (1, metrics) })
    }

    enum Call: CaseIterable { case stop, restart, put }

    @Test(arguments: Call.allCases)
    func handler_thatCallsTheBufferEachTime_comesToAnEnd(_ call: Call) throws {
        let calling = CallingMetrics(kept: watch.kept)
        let (buffer, count) = (makeBuffer(calling), Kept(0))
        calling.callEachTime { [unowned buffer] in
            guard
                count.change({ count in
                    count += 1
                    return count < 1_000
                })
            else { return }
            switch call {
            case .stop: buffer.stop()
            case .restart: buffer.onConnectionRestarted()
            case .put: buffer.set("a", 1)
            }
        }
        try bounded("a call") { buffer.set("b", 1) }
        // Two rounds of four gauges.
        #expect(count.value == 8)
        calling.callNoMore()
    }

    @Test func sourceCall_thatReports_returns_thoughBatchesKeepComing() throws {
        let calling = CallingMetrics(kept: watch.kept)
        let (buffer, sink, keys) = (makeBuffer(calling), StringSink(), 600)
        for n in 0..<keys { buffer.set("key \(n)", n) }
        sink.onEachCall { _ in usleep(300) }
        calling.callEachTime { usleep(500) }
        let source = Worker("a call of the source") { buffer.set("one more", 1) }
        usleep(100)
        try buffer.startSending(to: sink)
        try sink.wait(forItems: keys / 2)
        #expect(source.hasReturned)
        calling.callNoMore()
        try source.join()
        try bounded("finish") { buffer.finishAndWait() }
        #expect(try watch.figures() == buffer.statistics.figures)
    }

    // MARK: - A sink that is stuck

    @Test func backlog_ofAStuckSink_shows() throws {
        var watch = watch
        watch.interval = .zero
        let (buffer, sink, gate) = (watch.makeBuffer(), StringSink(), Gate())
        sink.onEachCall { _ in gate.pass() }
        try buffer.startSending(to: sink)
        buffer.set("first", 0)
        try gate.waitForArrival()
        for n in 1...10 {
            buffer.set("key \(n)", n)
            #expect(try watch.gauge("pending_keys").lastValue == Double(n))
        }
        buffer.onUpdatesKeysKnown([Update(key: "b", value: 1)], keys: ["b"])
        #expect(try watch.gauge("pending_keys").lastValue == 11)
        buffer.onUpdatesKeysKnown([Update(key: "c", value: 1)], keys: [[99]])
        #expect(try watch.gauge("pending_keys").lastValue == 12)
        #expect(try watch.counter("delivered_total").totalValue <= 1)
        gate.open()
        try bounded("finish") { buffer.finishAndWait() }
        #expect(try watch.gauge("pending_keys").lastValue == 0)
    }

    @Test func sourceCalls_doNotReport_beforeTheIntervalIsOver() throws {
        let buffer = watch.makeBuffer()
        for n in 0..<100 { buffer.set("key \(n)", n) }
        buffer.onStatusUpdated(.inSync)
        #expect(try watch.gauge("pending_keys").values == [])
        #expect(try watch.counter("received_total").values == [])
    }

    // MARK: - Timers

    @Test func timers_haveAValueForEachBatch() throws {
        let buffer = watch.makeBuffer(batchSize: 2)
        for n in 0..<6 { buffer.set("key \(n)", n) }
        let sink = StringSink()
        sink.onEachCall { _ in usleep(2000) }
        for _ in 0..<3 { try bounded("a batch") { try buffer.sendNextBatchToSink(sink) } }
        let times = try watch.timer("sink_seconds").values
        #expect(times.count == 3)
        #expect(times.allSatisfy { $0 >= 2_000_000 })
        #expect(buffer.statistics.timeInSink == .nanoseconds(times.reduce(0, +)))
        #expect(try watch.timer("oldest_pending_age_seconds").values.count == 3)
        #expect(try watch.timer("oldest_pending_age_seconds").values.allSatisfy { $0 >= 0 })
    }

    @Test func ageTimer_getsHowLongABatchWasPending() throws {
        let watch = Watch()
        let buffer = watch.makeBuffer()
        buffer.set("a", 1)
        usleep(30_000)
        _ = try buffer.flush()
        #expect(try watch.timer("oldest_pending_age_seconds").values.contains { $0 >= 20_000_000 })
    }

    @Test func ageTimer_hasNothing_forABatchOfStatuses() throws {
        let buffer = watch.makeBuffer()
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        #expect(try watch.timer("oldest_pending_age_seconds").values == [])
    }

    @Test func timeInSink_ofATask_hasAValueForEachEvent() async throws {
        let buffer = watch.makeBuffer()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        buffer.set("b", 1)
        var events = 0
        for try await _ in buffer.events {
            events += 1
            if events == 3 { break }
        }
        #expect(try watch.timer("sink_seconds").values.count == 3)
        #expect(try watch.timer("oldest_pending_age_seconds").values.count == 1)
    }

    @Test func resync_isTimed_onceForEach() throws {
        let buffer = watch.makeBuffer()
        buffer.onStatusUpdated(.inSync)
        #expect(try watch.timer("resync_seconds").values == [])
        for _ in 0..<2 {
            buffer.onConnectionRestarted()
            usleep(2000)
            buffer.onStatusUpdated(.inSync)
            _ = try buffer.flush()
            buffer.onStatusUpdated(.resyncInProgress)
            buffer.onStatusUpdated(.inSync)
        }
        let values = try watch.timer("resync_seconds").values
        #expect(values.count == 2)
        #expect(values.allSatisfy { $0 >= 2_000_000 })
    }

    @Test func timers_askForSeconds() throws {
        _ = watch.makeBuffer()
        for timer in watch.kept.timers { #expect(timer.displayUnit == .seconds) }
        #expect(watch.kept.timers.count == 3)
    }

    // MARK: - Names

    @Test func labelsAndDimensions_areTheConfigurations() throws {
        var watch = watch
        watch.label = "routes"
        watch.dimensions = [("table", "main"), ("zone", "1")]
        let buffer = watch.makeBuffer()
        try buffer.goThroughEverything()
        #expect(try watch.figures() == buffer.statistics.figures)
        let labels =
            watch.kept.counters.map(\.label) + watch.kept.recorders.map(\.label) + watch.kept.timers.map(\.label)
        #expect(labels.count == 15)
        #expect(labels.allSatisfy { $0.hasPrefix("routes_") })
    }

    @Test func defaults() {
        let metrics = DedupeBufferConfiguration.Metrics()
        #expect(metrics.label == "dedupe_buffer")
        #expect(metrics.dimensions.isEmpty)
        #expect(metrics.factory == nil)
        #expect(metrics.interval == .seconds(1))
        #expect(!metrics.destroysMetricsOnDeinit)
        #expect(DedupeBufferConfiguration().metrics == nil)
        #expect(DedupeBufferConfiguration().logger == nil)
    }

    /// The only test that may bootstrap the metrics' system: that can be done once.
    @Test func theSystemsFactory_isUsed_whereMetricsAreOn() throws {
        let system = TestMetrics()
        MetricsSystem.bootstrap(system)
        let off = StringBuffer()
        off.set("a", 1)
        _ = try off.flush()
        off.stop()
        #expect(system.counters.isEmpty && system.recorders.isEmpty && system.timers.isEmpty)

        let on = StringBuffer(configuration: .with { $0.metrics = .init() })
        on.set("a", 1)
        _ = try on.flush()
        #expect(try system.expectCounter("dedupe_buffer_received_total").totalValue == 1)
    }

    // MARK: - The end

    @Test func gauges_areZero_whenTheBufferHasGone() throws {
        do {
            let buffer = watch.makeBuffer()
            buffer.set("a", 1)
            _ = try buffer.flush()
            buffer.set("b", 1)
            buffer.set("b", 2)
        }
        #expect(try watch.figures() == [0, 0, 0, 3, 1, 1, 0, 0, 0, 0, 0])
    }

    @Test func isOverflowed_isOne_fromAnOverflowToTheRestart() throws {
        do {
            let buffer = watch.makeBuffer()
            #expect(try watch.gauge("is_overflowed").values.allSatisfy { $0 == 0 })
            buffer.onUpdates((0...1_000).map { Update(key: "key \($0)", value: 1) })
            #expect(try watch.gauge("is_overflowed").lastValue == 1)
            buffer.onConnectionRestarted()
            #expect(try watch.gauge("is_overflowed").lastValue == 0)
            buffer.onUpdates((0...1_000).map { Update(key: "key \($0)", value: 1) })
            #expect(try watch.gauge("is_overflowed").lastValue == 1)
        }
        #expect(try watch.gauge("is_overflowed").lastValue == 0)
    }

    @Test func metrics_areDestroyed_whereAskedFor() throws {
        var watch = watch
        watch.destroysMetricsOnDeinit = true
        do {
            let buffer = watch.makeBuffer()
            buffer.set("a", 1)
            #expect(watch.kept.counters.count == 8)
        }
        #expect(watch.kept.counters.isEmpty && watch.kept.recorders.isEmpty && watch.kept.timers.isEmpty)
    }
}

@Suite("Statistics of time and memory")
struct TimeAndMemoryTests {
    private let buffer = StringBuffer()

    @Test func timeInSink_isWhatTheSinkTook() throws {
        let sink = StringSink()
        sink.onEachCall { _ in usleep(1000) }
        #expect(buffer.statistics.timeInSink == .zero)
        for n in 1...3 {
            buffer.set("a", n)
            buffer.onStatusUpdated(n % 2 == 0 ? .inSync : .resyncInProgress)
            try bounded("a batch") { [buffer] in try buffer.sendNextBatchToSink(sink) }
            #expect(buffer.statistics.timeInSink >= .milliseconds(2 * n))
        }
    }

    @Test(arguments: LoopKind.allCases)
    func timeInSink_isCounted_byEveryLoop(_ kind: LoopKind) throws {
        let sink = StringSink()
        sink.onEachCall { _ in usleep(1000) }
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 1)
        buffer.set("b", 1)
        try bounded("finish") { [buffer] in buffer.finishAndWait() }
        try loop.end()
        #expect(buffer.statistics.timeInSink >= .milliseconds(2))
    }

    @Test func timeInSink_isCounted_untilTheConsumerAsksForMore() async throws {
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        var events = 0
        for try await _ in buffer.events {
            #expect(buffer.statistics.timeInSink >= .milliseconds(2 * events))
            events += 1
            try await Task.sleep(for: .milliseconds(2))
            if events == 2 { break }
        }
        #expect(buffer.statistics.timeInSink >= .milliseconds(4))
    }

    /// While a consumer waits for an event there is none with it.
    @Test func timeInSink_doesNotGrow_whileNothingIsThere() async throws {
        buffer.set("a", 1)
        let began = ContinuousClock.now
        let (inside, waiting) = (Kept(Duration.zero), Kept(Duration.zero))
        let consuming = Task { [buffer] in
            for try await _ in buffer.events { inside.change { $0 = .now - began } }
        }
        try await eventually("an event") { inside.value > .zero }
        try await eventually("a consumer that waits") { [buffer] in buffer.statistics.timeInSink > .zero }
        waiting.change { [buffer] in $0 = buffer.statistics.timeInSink }
        try await Task.sleep(for: .milliseconds(2))
        #expect(buffer.statistics.timeInSink == waiting.value)
        buffer.stop()
        try await outcome(of: consuming, "a consumer")
        #expect(buffer.statistics.timeInSink == waiting.value)
    }

    @Test func timeInSink_countsCallsThatThrow() async throws {
        buffer.set("a", 1)
        let sink = ScriptedSink<Int> { _, _ in
            usleep(2000)
            throw SinkFailure()
        }
        let once = StringBuffer(retry: .init(maximumAttempts: 1))
        once.set("a", 1)
        await #expect(throws: SinkFailure.self) { try await within("run") { try await once.run(sink: sink) } }
        #expect(once.statistics.timeInSink >= .milliseconds(2))
        #expect(once.statistics.delivered == 0)
    }

    @Test func conflationRatio_isReceivedByDelivered() throws {
        #expect(buffer.statistics.conflationRatio == 1)
        for n in 0..<6 { buffer.set("a", n) }
        #expect(buffer.statistics.conflationRatio == 1)
        _ = try buffer.flush()
        #expect(buffer.statistics.conflationRatio == 6)
        buffer.set("a", 1)
        _ = try buffer.flush()
        #expect(buffer.statistics.conflationRatio == 3.5)
    }

    @Test func memory_isWhatTheBufferHolds() {
        let before = buffer.statistics.memory
        #expect(before > 0)
        let long = String(repeating: "x", count: 1000)
        for n in 0..<1000 { buffer.set("\(long)\(n)", n) }
        #expect(buffer.statistics.memory >= before + 1_000_000)
    }

    /// A buffer that delivers nothing has no room for a batch.
    @Test func memory_hasTheRoomForABatch_fromTheFirstDeliveryOn() throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 65_536)
        #expect(buffer.statistics.memory < 65_536)
        buffer.set("a", 1)
        try bounded("a batch") { try buffer.sendNextBatchToSink(StringSink()) }
        #expect(buffer.statistics.memory > 65_536 * 16)
    }

    @Test func oldestPendingAge_isZero_whereNothingIsPending() throws {
        #expect(buffer.statistics.oldestPendingAge == .zero)
        buffer.set("a", 1)
        _ = try buffer.flush()
        #expect(buffer.statistics.oldestPendingAge == .zero)
    }
}
