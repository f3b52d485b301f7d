// SPDX-License-Identifier: Apache-2.0

#if Service

// The service in a group, and alone.

import DedupeBuffer
import Dispatch
import Foundation
import Logging
import ServiceLifecycle
import ServiceLifecycleTestKit
import Testing

@testable import DedupeBufferService

@Suite("Service")
struct ServiceTests {
    private typealias Undelivered = DedupeBufferUndelivered

    private let buffer: DedupeBuffer<String, Int>
    private let shutdowns = Kept<[Undelivered]>([])

    init() {
        buffer = DedupeBuffer(configuration: DedupeBufferConfiguration(batchSize: 2))
    }

    private func service(
        _ sink: Sink, gracePeriod: Duration = .seconds(1_000_000)
    ) -> DedupeBufferService<Sink> {
        DedupeBufferService(buffer: buffer, sink: sink, gracePeriod: gracePeriod) { [shutdowns] undelivered in
            shutdowns.change { $0.append(undelivered) }
        }
    }

    private func put(_ count: Int) {
        for n in 0..<count { buffer.onUpdates([Update(key: "key \(n)", value: n)]) }
    }

    private func expectStopped() {
        let dropped = buffer.statistics.dropped
        put(1)
        #expect(buffer.statistics.dropped == dropped + 1)
    }

    // MARK: Graceful shutdown

    @Test func gracefulShutdown_deliversWhatWasReceived_andStops() async throws {
        let (sink, door) = (Sink(), Door())
        sink.onEachCall { _ in await door.pass() }
        try await testGracefulShutdown { trigger in
            let running = Task { try await service(sink).run() }
            put(5)
            try await eventually("a call") { sink.calls == 1 }
            trigger.triggerGracefulShutdown()
            door.open()
            try await running.value
        }
        #expect(sink.updates == 5)
        #expect(shutdowns.value.map(\.isEmpty) == [true])
        expectStopped()
    }

    /// The service took the end of the finish for the end of its time, and cancelled the delivery
    /// that was about to return.
    @Test func gracefulShutdown_thatDeliversAll_neverThrows() async throws {
        for _ in 0..<1000 {
            let buffer = DedupeBuffer<String, Int>()
            let sink = Sink()
            try await testGracefulShutdown { trigger in
                let running = Task { try await DedupeBufferService(buffer: buffer, sink: sink).run() }
                buffer.onUpdates([Update(key: "a", value: 1)])
                try await eventually("a call") { sink.calls == 1 }
                trigger.triggerGracefulShutdown()
                try await running.value
            }
        }
    }

    @Test func update_afterGracefulShutdown_whenItsKeyIsPending_isDelivered_otherwiseIsDropped() async throws {
        let (sink, door) = (Sink(), Door())
        sink.onEachCall { _ in await door.pass() }
        put(3)
        try await testGracefulShutdown { trigger in
            let running = Task { try await service(sink).run() }
            try await eventually("a call") { sink.calls == 1 }
            trigger.triggerGracefulShutdown()
            // A new key that was not dropped leaves the queue again.
            try await eventually("the queue's end to close") {
                buffer.onUpdates([Update(key: "new", value: 0)])
                if buffer.statistics.dropped > 0 { return true }
                buffer.onUpdates([Update(key: "new", value: nil)])
                return false
            }
            let before = buffer.statistics
            // The sink has keys 0 and 1, and key 2 is pending.
            put(3)
            #expect(buffer.statistics.dropped == before.dropped + 2)
            #expect(buffer.statistics.replaced == before.replaced + 1)
            door.open()
            try await running.value
        }
        #expect(shutdowns.value.map(\.isEmpty) == [true])
        #expect(sink.updates == 3)
        expectStopped()
    }

    @Test func gracefulShutdown_beforeItRuns_deliversWhatWasReceived() async throws {
        let sink = Sink()
        put(5)
        try await testGracefulShutdown { trigger in
            trigger.triggerGracefulShutdown()
            try await service(sink).run()
        }
        #expect(sink.updates == 5)
        expectStopped()
    }

    @Test func gracefulShutdown_whileItWaits_ends() async throws {
        let sink = Sink()
        try await testGracefulShutdown { trigger in
            let running = Task { try await service(sink).run() }
            put(1)
            try await eventually("a call") { sink.calls == 1 }
            trigger.triggerGracefulShutdown()
            try await running.value
        }
        expectStopped()
    }

    /// The sink waits for its cancellation.
    @Test func gracePeriod_passes_theSinkIsCancelled_andTheRestIsLeft() async throws {
        let (sink, door) = (Sink(), Door())
        sink.onEachCall { _ in
            await door.pass()
            try Task.checkCancellation()
        }
        put(5)
        try await testGracefulShutdown { trigger in
            let running = Task { try await service(sink, gracePeriod: .milliseconds(5)).run() }
            try await eventually("a call") { sink.calls == 1 }
            trigger.triggerGracefulShutdown()
            try await running.value
        }
        #expect(shutdowns.value == [Undelivered(updates: 3, statuses: 0, isBatchInFlight: true)])
        #expect(buffer.statistics.pendingKeys == 5)
        #expect(buffer.statistics.delivered == 0)
        expectStopped()
    }

    @Test func gracefulShutdown_whoseSinkGivesUp_throws() async throws {
        let sink = Sink()
        sink.onEachCall { _ in throw Failure() }
        buffer.onUpdates([Update(key: "a", value: 1)])
        await testGracefulShutdown { trigger in
            trigger.triggerGracefulShutdown()
            await #expect(throws: Failure.self) {
                try await DedupeBufferService(buffer: buffer, sink: sink, retry: once).run()
            }
        }
        #expect(buffer.statistics.pendingKeys == 1)
    }

    /// A sink that fails until the grace period is over: how long `onShutdown` takes has no say in
    /// how it ends.
    @Test(arguments: [0, 20_000] as [UInt32])
    func gracePeriod_passesInAPause_returns(microseconds: UInt32) async throws {
        let sink = Sink()
        sink.onEachCall { _ in throw Failure() }
        for _ in 0..<20 {
            let left = Kept<Undelivered?>(nil)
            let buffer = DedupeBuffer<String, Int>()
            let retry = DedupeBufferConfiguration.RetryPolicy(
                initialDelay: .seconds(1_000), maximumDelay: .seconds(1_000))
            buffer.onUpdates([Update(key: "a", value: 1)])
            try await testGracefulShutdown { trigger in
                trigger.triggerGracefulShutdown()
                let service = DedupeBufferService(
                    buffer: buffer, sink: sink, retry: retry, gracePeriod: .milliseconds(3)
                ) { undelivered in
                    usleep(microseconds)
                    left.change { $0 = undelivered }
                }
                try await service.run()
            }
            #expect(left.value?.updates == 1)
        }
    }

    @Test(arguments: [.seconds(Int64.max), Duration(attoseconds: .max)])
    func gracePeriod_forEver_takesAsLongAsTheSink(_ gracePeriod: Duration) async throws {
        let sink = Sink()
        sink.onEachCall { _ in try await Task.sleep(for: .milliseconds(20)) }
        put(1)
        try await testGracefulShutdown { trigger in
            trigger.triggerGracefulShutdown()
            try await service(sink, gracePeriod: gracePeriod).run()
        }
        #expect(sink.updates == 1)
        #expect(shutdowns.value.map(\.isEmpty) == [true])
    }

    // MARK: Cancellation

    @Test func cancellation_stops_andWhatWasNotDealtWithIsLeft() async throws {
        let (sink, door) = (Sink(), Door())
        sink.onEachCall { _ in
            await door.pass()
            try Task.checkCancellation()
        }
        put(5)
        let running = Task { try await service(sink).run() }
        try await eventually("a call") { sink.calls == 1 }
        running.cancel()
        await #expect(throws: CancellationError.self) { try await running.value }
        #expect(buffer.statistics.pendingKeys == 5)
        #expect(shutdowns.value == [])
        expectStopped()
    }

    @Test func cancellation_inTheGracePeriod_ends() async throws {
        let (sink, door) = (Sink(), Door())
        sink.onEachCall { _ in
            await door.pass()
            try Task.checkCancellation()
        }
        put(5)
        try await testGracefulShutdown { trigger in
            let running = Task { try await service(sink).run() }
            try await eventually("a call") { sink.calls == 1 }
            trigger.triggerGracefulShutdown()
            running.cancel()
            do { try await running.value } catch is CancellationError {}
        }
        #expect(buffer.statistics.pendingKeys == 5)
        expectStopped()
    }

    // MARK: Its own ends

    @Test func sink_thatGivesUp_failsTheService() async throws {
        let sink = Sink()
        sink.onEachCall { _ in throw Failure() }
        buffer.onUpdates([Update(key: "a", value: 1)])
        await #expect(throws: Failure.self) {
            try await DedupeBufferService(buffer: buffer, sink: sink, retry: once).run()
        }
        #expect(buffer.statistics.pendingKeys == 1)
    }

    /// Whatever it throws: nobody has cancelled the service.
    @Test func sink_thatGivesUp_leavesTheBufferAsItWas() async throws {
        for error in [Failure(), CancellationError()] as [any Error] {
            let sink = Sink()
            let buffer = DedupeBuffer<String, Int>()
            sink.onEachCall { _ in throw error }
            buffer.onUpdates([Update(key: "a", value: 1)])
            await #expect(throws: (any Error).self) {
                try await DedupeBufferService(buffer: buffer, sink: sink, retry: once).run()
            }
            buffer.onUpdates([Update(key: "b", value: 1)])
            #expect(buffer.statistics.dropped == 0)
        }
    }

    /// Longer than the buffer's own policy allows: a sink that is down does not end a group.
    @Test func sink_thatFailsForLong_isTriedAgain_andTheServiceGoesOn() async throws {
        let (sink, clock) = (Sink(), NoClock())
        sink.onEachCall { number in if number <= 40 { throw Failure() } }
        #expect(DedupeBufferConfiguration().retry.maximumAttempts == 10)
        let retry = DedupeBufferConfiguration.RetryPolicy(maximumAttempts: nil, clock: clock)
        let service = DedupeBufferService(buffer: buffer, sink: sink, retry: retry)
        #expect(DedupeBufferService(buffer: buffer, sink: sink).retry.maximumAttempts == nil)
        put(1)
        let running = Task { try await service.run() }
        try await eventually("a call that does not fail") { sink.updates == 1 }
        buffer.stop()
        try await running.value
        #expect(sink.calls == 41)
    }

    @Test func stop_ofTheBuffer_endsTheService() async throws {
        let (buffer, sink) = (buffer, Sink())
        sink.onEachCall { _ in buffer.stop() }
        put(1)
        try await service(sink).run()
        await #expect(throws: DedupeBufferError.stopped) { try await service(sink).run() }
    }

    @Test func service_whileSomebodyElseDelivers_fails() async throws {
        var iterator = buffer.events.makeAsyncIterator()
        put(1)
        _ = try await iterator.next()
        await #expect(throws: DedupeBufferError.alreadySending) { try await service(Sink()).run() }
        withExtendedLifetime(iterator) {}
    }

    // MARK: In a group

    /// The source ends first, since it comes after the delivery; what it brought last arrives.
    @Test func group_shutsDownTheSourceFirst_andAllArrives() async throws {
        let (buffer, sink) = (buffer, Sink())
        let source = Source(buffer: buffer)
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [.init(service: service(sink)), .init(service: source)], logger: quiet))
        let running = Task { try await group.run() }
        try await eventually("a call") { sink.calls > 0 }
        await group.triggerGracefulShutdown()
        try await running.value
        #expect(sink.latest == ["last": -1])
        #expect(shutdowns.value.map(\.isEmpty) == [true])
    }

    @Test func policyOutOfRange_endsTheProgram_withAMessageThatNamesTheProperty() async throws {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            _ = DedupeBufferService(
                buffer: DedupeBuffer<String, Int>(), sink: Sink(), retry: .init(factor: .nan))
        }
        let message = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
        #expect(message.contains("DedupeBuffer: retry.factor must be 1 or more"))
    }

    @Test func description_hasTheBuffersLabel() {
        let buffer = DedupeBuffer<String, Int>(configuration: DedupeBufferConfiguration(label: "routes"))
        #expect("\(DedupeBufferService(buffer: buffer, sink: Sink()))" == "DedupeBufferService(routes)")
    }

    @Test func group_cancelled_ends() async throws {
        let (sink, buffer) = (Sink(), buffer)
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(services: [.init(service: service(sink))], logger: quiet))
        let running = Task { try await group.run() }
        put(1)
        try await eventually("a call") { sink.calls == 1 }
        running.cancel()
        _ = await running.result
        try await eventually("the stop") {
            let dropped = buffer.statistics.dropped
            buffer.onUpdates([Update(key: "b", value: 1)])
            return buffer.statistics.dropped > dropped
        }
    }
}

private let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

private struct Failure: Error {}

private let once = DedupeBufferConfiguration.RetryPolicy(maximumAttempts: 1)

/// A sleeper is awake again at once.
private struct NoClock: Clock {
    var now: ContinuousClock.Instant { .now }
    let minimumResolution = Duration.zero

    func sleep(until deadline: ContinuousClock.Instant, tolerance: Duration?) async throws {
        try Task.checkCancellation()
    }
}

/// Brings one update more when it is shut down.
private struct Source: Service {
    let buffer: DedupeBuffer<String, Int>

    func run() async throws {
        buffer.onUpdates([Update(key: "first", value: 1)])
        try await gracefulShutdown()
        buffer.onUpdates([Update(key: "first", value: nil), Update(key: "last", value: -1)])
    }
}

// MARK: - Support

/// A value shared between tasks.
///
/// `@unchecked`: `state` is touched with `lock` held.
private final class Kept<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var state: Value

    init(_ value: Value) { state = value }

    var value: Value { lock.withLock { state } }

    @discardableResult
    func change<R>(_ body: (inout Value) -> R) -> R { lock.withLock { body(&state) } }
}

private struct Stuck: Error {
    var what: String
}

/// Looks again and again, for a minute at least.
private func eventually(_ what: String, _ condition: () -> Bool) async throws {
    for _ in 0..<300_000 {
        if condition() { return }
        try await Task.sleep(for: .microseconds(200))
    }
    throw Stuck(what: what)
}

/// Holds back whoever wants to pass until it is opened, or they are cancelled.
private final class Door: Sendable {
    private let isOpen = Kept(false)

    func open() { isOpen.change { $0 = true } }

    func pass() async {
        while !isOpen.value && !Task.isCancelled { try? await Task.sleep(for: .microseconds(200)) }
    }
}

private final class Sink: AsyncSyncerCallbacks {
    private let heard = Kept<(calls: Int, updates: Int, latest: [String: Int])>((0, 0, [:]))
    private let hook = Kept<(@Sendable (Int) async throws -> Void)?>(nil)

    func onEachCall(_ body: @escaping @Sendable (Int) async throws -> Void) { hook.change { $0 = body } }

    func onStatusUpdated(_ status: SyncStatus) async throws { try await call() }

    func onUpdates(_ updates: [Update<String, Int>]) async throws {
        try await call()
        heard.change { heard in
            heard.updates += updates.count
            for update in updates { heard.latest[update.key] = update.value }
        }
    }

    private func call() async throws {
        let number = heard.change { heard in
            heard.calls += 1
            return heard.calls
        }
        try await hook.value?(number)
    }

    var calls: Int { heard.value.calls }
    var updates: Int { heard.value.updates }
    var latest: [String: Int] { heard.value.latest }
}

#endif
