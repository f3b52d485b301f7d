// SPDX-License-Identifier: Apache-2.0

// Findings of a review: each test says what the documentation or the issue promises, and fails where that is not kept.

import CoreMetrics
import DedupeBuffer
import Dispatch
import Foundation
import InMemoryLogging
import Logging
import MetricsTestKit
import Synchronization
import Testing

// MARK: - Logging

private struct ReviewLog {
    let handler = InMemoryLogHandler()
    let logger: Logger

    init() {
        var logger = Logger(label: "review") { [handler] _ in handler }
        logger.logLevel = .debug
        self.logger = logger
    }

    var resyncs: [String] {
        handler.entries.filter { "\($0.message)".contains("Resync") }.map { "\($0.level): \($0.message)" }
    }
}

@Suite("Review: logging")
struct ReviewLoggingTests {
    private let log = ReviewLog()

    private func makeBuffer(maximumPendingKeys: Int? = nil, metrics: DedupeBufferMetrics? = nil) -> StringBuffer {
        StringBuffer(
            configuration: DedupeBufferConfiguration(
                retry: DedupeBufferRetry(maximumAttempts: 1), logger: log.logger, metrics: metrics,
                maximumPendingKeys: maximumPendingKeys))
    }

    /// The in-sync is ignored between an overflow and the next restart: no resync has ended.
    @Test func inSync_thatAnOverflowIgnores_endsNoResync() throws {
        let kept = TestMetrics()
        let buffer = makeBuffer(maximumPendingKeys: 1, metrics: DedupeBufferMetrics(factory: kept))
        buffer.set("live", 1)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        buffer.set("b", 1)
        #expect(buffer.statistics.overflows == 1)
        buffer.onStatusUpdated(.inSync)
        #expect(buffer.statistics.pendingStatuses == 0, "it was dropped")
        #expect(log.resyncs == [])
        #expect(try kept.expectTimer("dedupe_buffer_resync_seconds").values == [])
    }

    /// One key's deletion comes from the source, all that is live then is deleted by the resync.
    @Test func resync_thatDeletesAllThatIsLive_isAWarning_althoughTheSourceDeletedOne() throws {
        let buffer = makeBuffer()
        buffer.set("a", 1)
        buffer.set("b", 1)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.delete("a")
        _ = try buffer.flush()
        #expect(buffer.statistics.liveKeys == 1)
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        #expect(buffer.statistics.liveKeys == 0)
        #expect(log.resyncs == ["warning: Resync deleted all live keys"])
    }

    /// A key that the sink failed on is not live; it counted at the restart.
    @Test func resync_thatDeletesAllThatIsLive_isAWarning_afterASinkHasFailed() async throws {
        let buffer = makeBuffer()
        try await bounded0 {
            buffer.set("a", 1)
            _ = try buffer.flush()
        }
        buffer.set("b", 1)
        let sink = ScriptedSink<Int> { _, _ in
            buffer.onConnectionRestarted()
            throw SinkFailure()
        }
        await #expect(throws: SinkFailure()) { try await within("run") { try await buffer.run(sink: sink) } }
        #expect(buffer.statistics.liveKeys == 1)
        buffer.onStatusUpdated(.inSync)
        try await bounded0 { _ = try buffer.flush() }
        #expect(buffer.statistics.liveKeys == 0)
        #expect(log.resyncs == ["warning: Resync deleted all live keys"])
    }

    private func bounded0(_ body: @escaping @Sendable () throws -> Void) async throws {
        let worker = Worker("a call", body)
        try await eventually("a call") { worker.hasReturned }
        try worker.join()
    }

    /// Nothing started.
    @Test func startSending_thatIsRefused_isNotLoggedAsABeginning() throws {
        let buffer = makeBuffer()
        buffer.stop()
        #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: StringSink()) }
        #expect(!log.handler.entries.contains { "\($0.message)".contains("Starting") })
    }

    /// `debug`: each call that the source or the owner makes.
    @Test func sendNextBatchToSink_isLogged_whenThereIsNothing() {
        let buffer = makeBuffer()
        #expect(throws: DedupeBufferError.emptyQueue) { try buffer.sendNextBatchToSink(StringSink()) }
        #expect(!log.handler.entries.isEmpty)
    }
}

// MARK: - Metrics

/// Metrics whose gauges run a hook each time.
private final class HookedMetrics: MetricsFactory, @unchecked Sendable {
    let kept = TestMetrics()
    let hook = Kept<(@Sendable () -> Void)?>(nil)

    func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        Recorder(owner: self)
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
        let owner: HookedMetrics
        init(owner: HookedMetrics) { self.owner = owner }
        func record(_ value: Int64) { owner.hook.value?() }
        func record(_ value: Double) {}
    }
}

@Suite("Review: metrics")
struct ReviewMetricsTests {
    /// "Gauges and counters are those of statistics, exactly"; "updates that were taken and did not come back".
    @Test func deliveredCounter_doesNotCountWhatCameBack() async throws {
        let kept = TestMetrics()
        let buffer = StringBuffer(
            configuration: DedupeBufferConfiguration(
                retry: DedupeBufferRetry(maximumAttempts: 1),
                metrics: DedupeBufferMetrics(factory: kept, interval: .zero)))
        buffer.set("a", 1)
        let sink = ScriptedSink<Int> { _, _ in
            buffer.set("b", 1)
            throw SinkFailure()
        }
        await #expect(throws: SinkFailure()) { try await within("run") { try await buffer.run(sink: sink) } }
        #expect(buffer.statistics.delivered == 0)
        #expect(try kept.expectCounter("dedupe_buffer_delivered_total").totalValue == 0)
    }

    /// A batch without an update has no oldest one.
    @Test func ageTimer_hasNothing_forABatchOfStatuses() throws {
        let kept = TestMetrics()
        let buffer = StringBuffer(
            configuration: DedupeBufferConfiguration(metrics: DedupeBufferMetrics(factory: kept)))
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        #expect(try kept.expectTimer("dedupe_buffer_oldest_pending_age_seconds").values == [])
    }

    /// Observing.md: handlers "may call the buffer".
    @Test(arguments: [0, 1, 2])
    func handler_thatCallsTheBufferEachTime_comesToAnEnd(_ which: Int) throws {
        let hooked = HookedMetrics()
        let buffer = StringBuffer(
            configuration: DedupeBufferConfiguration(metrics: DedupeBufferMetrics(factory: hooked, interval: .zero)))
        let count = Kept(0)
        hooked.hook.change {
            $0 = { [unowned buffer] in
                // So that the test comes to an end.
                guard
                    count.change({
                        $0 += 1
                        return $0 < 10_000
                    })
                else { return }
                switch which {
                case 0: buffer.stop()
                case 1: buffer.onConnectionRestarted()
                default: buffer.set("a", 1)
                }
            }
        }
        try bounded("a call") { buffer.set("b", 1) }
        #expect(count.value < 1_000)
        hooked.hook.change { $0 = nil }
    }

    /// "The methods of the source's side never wait for the sink"; "one thread at a time, for which no other waits".
    @Test func sourceCall_thatReports_returns_thoughBatchesKeepComing() throws {
        let hooked = HookedMetrics()
        let buffer = StringBuffer(
            configuration: DedupeBufferConfiguration(
                batchSize: 1, metrics: DedupeBufferMetrics(factory: hooked, interval: .zero)))
        let keys = 2_000
        for n in 0..<keys { buffer.set("key \(n)", n) }
        let sink = StringSink()
        sink.onEachCall { _ in usleep(300) }
        // A handler that takes half a millisecond for a gauge.
        hooked.hook.change { $0 = { usleep(500) } }
        let source = Worker("a call of the source") { buffer.set("one more", 1) }
        usleep(100)
        try buffer.startSending(to: sink)
        try sink.wait(forItems: keys / 2)
        #expect(source.hasReturned, "the source's call is still at it after \(keys / 2) batches")
        hooked.hook.change { $0 = nil }
        try source.join()
        try bounded("finish") { buffer.finish() }
    }
}

// MARK: - finish

@Suite("Review: finish")
struct ReviewFinishTests {
    /// "Parameter deadline: may have passed already: then it stops at once."
    @Test(arguments: LoopKind.allCases)
    func deadlineThatHasPassed_bySink_stopsAtOnce(_ kind: LoopKind) throws {
        let (buffer, sink): (StringBuffer, _) = (makeBuffer(batchSize: 1), StringSink())
        let isStopped = Kept<Bool?>(nil)
        sink.onEachCall { _ in
            guard isStopped.value == nil else { return }
            buffer.finish(deadline: .now - .seconds(1))
            let dropped = buffer.statistics.dropped
            buffer.set("late", 1)
            isStopped.change { $0 = buffer.statistics.dropped > dropped }
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("a", 1)
        try eventually("a call") { isStopped.value != nil }
        try loop.end()
        #expect(isStopped.value == true)
    }

    /// "The consumer may call any method of the buffer." It asks with a time limit, as one does: by a child task.
    @Test func finish_byAConsumer_whoseNextRanInAChildTask_returns() async throws {
        let buffer = DedupeBuffer<String, Tracked>()
        buffer.onStatusUpdated(.inSync)
        let box = IteratorBox(buffer.events.makeAsyncIterator())
        let returned = Kept(false)
        let consumer = Task {
            async let event = box.next()
            _ = try await event
            await buffer.finish()
            returned.change { $0 = true }
        }
        for _ in 0..<500 where !returned.value { try await Task.sleep(for: .milliseconds(2)) }
        #expect(returned.value, "it waits for itself")
        consumer.cancel()
        box.letGo()
    }

    /// Safe code: an actor that is asked twice. The second call gets an error, not the end of the program.
    @Test func iterator_usedTwiceAtOnce_byAnActor_isNoCrash() async {
        await #expect(processExitsWith: .success) {
            let consumer = ConsumingActor(DedupeBuffer<String, Int>())
            let (first, second) = (Task { try await consumer.next() }, Task { try await consumer.next() })
            try await Task.sleep(for: .milliseconds(300))
            await consumer.buffer.stop()
            _ = (await first.result, await second.result)
            exit(0)
        }
    }

    /// Far away, but not for ever.
    @Test func distantDeadline_synchronous_isNoCrash() async {
        await #expect(processExitsWith: .success) {
            let buffer = DedupeBuffer<String, Int>()
            try buffer.startSending(to: NullSink())
            let far = ContinuousClock.now + .seconds(Int64.max / 4)
            let thread = Thread {
                _ = buffer.finish(deadline: far)
                exit(0)
            }
            thread.start()
            sleep(60)
        }
    }

    @Test func distantDeadline_asynchronous_isNoCrash() async {
        await #expect(processExitsWith: .success) {
            let buffer = DedupeBuffer<String, Int>()
            let gate = DispatchSemaphore(value: 0)
            try buffer.startSending(to: BlockingSink(gate: gate))
            buffer.onUpdates([Update(key: "a", value: 1)])
            let far = ContinuousClock.now + .seconds(Int64.max / 4)
            let finishing = Task { await buffer.finish(deadline: far) }
            try await Task.sleep(for: .milliseconds(200))
            gate.signal()
            let left = await finishing.value
            precondition(left.isEmpty)
            exit(0)
        }
    }

    /// Tasks that come and go ask for events, one each; then another one finishes the buffer, and waits for the delivery.
    /// If the first task is kept alive nobody can have its address: then all is well.
    @Test(arguments: [true, false])
    func finish_byATaskThatIsNotTheConsumer_waits_whateverItsAddress(_ keepsFirst: Bool) async throws {
        var early = 0
        for _ in 0..<200 {
            let buffer = DedupeBuffer<String, Tracked>()
            let tracker = LifetimeTracker()
            buffer.onStatusUpdated(.inSync)
            buffer.set("a", tracker.make())
            let box = IteratorBox(buffer.events.makeAsyncIterator())
            var first: Task<Void, any Error>? = Task { _ = try await box.next() }
            try await first?.value
            if !keepsFirst { first = nil }
            defer { withExtendedLifetime(first) {} }
            let returned = Kept(false)
            let finishing = Task {
                await buffer.finish()
                returned.change { $0 = true }
            }
            try await Task.sleep(for: .milliseconds(1))
            if returned.value { early += 1 }
            while try await box.next() != nil {}
            await finishing.value
        }
        #expect(early == 0, "of 200 finishes returned before the delivery ended")
    }

    /// "Every value is destroyed ... Its `deinit` may call the buffer", from "any thread".
    @Test func deinit_thatFinishes_whenAnIteratorIsLetGoElsewhere_goesOn() async throws {
        let tracker = LifetimeTracker()
        let buffer = DedupeBuffer<String, Tracked>()
        buffer.onStatusUpdated(.inSync)
        buffer.set("a", tracker.make { [unowned buffer] in buffer.finish() })
        let box = IteratorBox(buffer.events.makeAsyncIterator())
        // The status; the update is taken, and not handed out.
        _ = try await within("an event") { try await box.next() }
        // Something newer is pending: what comes back is displaced.
        buffer.set("a", tracker.make())
        let dropping = Worker("letting go of an iterator") { box.letGo() }
        for _ in 0..<1_000 where !dropping.hasReturned { try await Task.sleep(for: .milliseconds(3)) }
        #expect(dropping.hasReturned, "finish() in the deinit waits for the turn that runs it")
    }
}

private actor ConsumingActor {
    let buffer: DedupeBuffer<String, Int>
    private let iterator: DedupeBufferEvents<String, Int>.Iterator

    init(_ buffer: DedupeBuffer<String, Int>) {
        self.buffer = buffer
        iterator = buffer.events.makeAsyncIterator()
    }

    func next() async throws -> DedupeBufferEvent<String, Int>? {
        var copy = iterator
        return try await copy.next(isolation: self)
    }
}

private struct NullSink: SyncerCallbacks {
    func onStatusUpdated(_ status: SyncStatus) {}
    func onUpdates(_ updates: [Update<String, Int>]) {}
}

private struct BlockingSink: SyncerCallbacks {
    let gate: DispatchSemaphore
    func onStatusUpdated(_ status: SyncStatus) {}
    func onUpdates(_ updates: [Update<String, Int>]) { gate.wait() }
}

/// `@unchecked`: one at a time uses it, as an actor's property would be.
private final class IteratorBox: @unchecked Sendable {
    private var iterator: DedupeBufferEvents<String, Tracked>.Iterator?

    init(_ iterator: sending DedupeBufferEvents<String, Tracked>.Iterator) { self.iterator = iterator }

    func next() async throws -> DedupeBufferEvent<String, Tracked>? { try await iterator?.next(isolation: nil) }
    func letGo() { iterator = nil }
}

// MARK: - Memory

@Suite("Review: memory")
struct ReviewMemoryTests {
    /// "Bytes that the buffer holds: queue, index, copies of keys, and room for updates."
    @Test func memory_hasTheRoomForABatch() {
        let buffer: StringBuffer = makeBuffer(batchSize: 65_536)
        #expect(buffer.statistics.memory > 65_536 * 16)
    }

    /// "Memory is bounded by the number of keys that are pending or live, and goes back to the system after a peak."
    @Test func memory_ofLongKeys_goesBack() {
        let buffer = DedupeBuffer<[UInt8], Int>()
        let keys = (0..<100).map { n in [UInt8](repeating: UInt8(n), count: 65_536) }
        let put = keys.map { Update(key: $0, value: 1) }
        let cancel = keys.map { Update<[UInt8], Int>(key: $0, value: nil) }
        buffer.onUpdates([Update(key: keys[0], value: 1)])
        buffer.onUpdates([Update(key: keys[0], value: nil)])
        let (before, held) = (inUse(), buffer.statistics.memory)
        buffer.onUpdates(put)
        buffer.onUpdates(cancel)
        for _ in 0..<1_000 {
            buffer.onUpdates([Update(key: [1], value: 1)])
            buffer.onUpdates([Update(key: [1], value: nil)])
        }
        #expect(buffer.statistics.pendingKeys == 0)
        let grown = inUse() - before
        #expect(grown < 4_000_000, "by \(grown); statistics.memory by \(buffer.statistics.memory - held)")
        withExtendedLifetime(keys) {}
    }

    /// Bytes that are resident.
    private func inUse() -> Int {
        let text = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)) ?? ""
        return (text.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) * 4096
    }
}

// MARK: - Merging

@Suite("Review: merging")
struct ReviewMergeTests {
    enum Call: CaseIterable { case status, inSync, restart, stop, batch, statistics, finish }

    /// All but puts of updates are not forbidden in `merge`.
    @Test(arguments: Call.allCases)
    func merge_thatCallsTheBuffer_goesOn(_ call: Call) throws {
        let holder = Kept<StringBuffer?>(nil)
        let buffer = StringBuffer(merge: { older, newer in
            guard let buffer = holder.value else { return older + newer }
            switch call {
            case .status: buffer.onStatusUpdated(.resyncInProgress)
            case .inSync:
                buffer.onStatusUpdated(.resyncInProgress)
                buffer.onStatusUpdated(.inSync)
            case .restart: buffer.onConnectionRestarted()
            case .stop: buffer.stop()
            case .batch: _ = try? buffer.sendNextBatchToSink(StringSink())
            case .statistics: _ = buffer.statistics
            case .finish: buffer.finish()
            }
            return older + newer
        })
        buffer.set("live", 1)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        holder.change { $0 = buffer }
        defer { holder.change { $0 = nil } }
        buffer.set("a", 1)
        try bounded("merging") { buffer.set("a", 2) }
        let statistics = buffer.statistics
        #expect(statistics.unaccounted == 0)
        if call == .status || call == .inSync || call == .statistics || call == .batch {
            #expect(try buffer.flush().items().contains(.new("a", 3)))
        }
    }
}
