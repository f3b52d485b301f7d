// SPDX-License-Identifier: Apache-2.0

// A sink that fails on some keys: these wait, and nothing else does.

import Testing

@testable import DedupeBuffer

@Suite("A sink that fails on some keys")
struct DeliveryFailureTests {
    private let clock = ManualClock()
    private let buffer: StringBuffer
    private let sink: KeyedSink

    init() {
        let retry = DedupeBufferConfiguration.RetryPolicy(
            initialDelay: .seconds(1), factor: 2, maximumDelay: .seconds(4), maximumAttempts: 1, clock: clock)
        buffer = DedupeBuffer(batchSize: 10, retry: retry)
        sink = KeyedSink()
    }

    private func run() -> Task<Void, any Error> { Task { [buffer, sink] in try await buffer.run(sink: sink) } }

    private func finish(_ running: Task<Void, any Error>) async throws {
        sink.fail(on: [])
        let (buffer, clock) = (buffer, clock)
        let finishing = Task { await buffer.finish() }
        let moving = Task {
            while !Task.isCancelled {
                clock.advance(by: .seconds(4))
                await Task.yield()
            }
        }
        try await outcome(of: running, "run")
        moving.cancel()
        #expect(try await within("finish") { await finishing.value }.isEmpty)
        #expect(buffer.statistics.unaccounted == 0)
        #expect(buffer.core.validate() == nil)
    }

    /// Moves the clock until the condition holds. The loop may begin its pause late.
    private func moving(_ what: String, _ condition: @escaping @Sendable () -> Bool) async throws {
        let clock = clock
        try await eventually(what) {
            clock.advance(by: .seconds(1))
            return condition()
        }
    }

    @Test func failure_ofAKey_theRestIsDelivered_andTheKeyComesAgainAfterItsBackOff() async throws {
        for key in ["a", "b", "c"] { buffer.set(key, 1) }
        buffer.onStatusUpdated(.inSync)
        sink.fail(on: ["b"])
        let running = run()
        try await clock.waitForSleeper(1)
        #expect(sink.accepted == [.updates([.new("a", 1), .new("c", 1)]), .status(.inSync)])
        #expect(buffer.statistics.pendingKeys == 1)
        #expect(buffer.statistics.delivered == 2)
        #expect(buffer.statistics.liveKeys == 2)
        #expect(buffer.statistics.batches == 1)
        sink.fail(on: [])
        clock.advance(by: .seconds(1))
        try await eventually("the key") { [sink] in sink.accepted.count == 3 }
        #expect(sink.accepted.last == .updates([.new("b", 1)]))
        try await finish(running)
    }

    @Test func otherKeys_whileAKeyWaits_areDeliveredAtOnce() async throws {
        buffer.set("a", 1)
        sink.fail(on: ["a"])
        let running = run()
        for n in 1...50 {
            try await clock.waitForSleeper(n)
            buffer.set("other \(n)", n)
            try await eventually("the other key") { [sink] in sink.accepted.count == n }
        }
        buffer.onStatusUpdated(.inSync)
        try await eventually("the status") { [sink] in sink.accepted.last == .status(.inSync) }
        #expect(sink.calls.items().count { $0.key == "a" } == 1)
        #expect(buffer.statistics.pendingKeys == 1)
        try await finish(running)
    }

    @Test func newerUpdate_whileAKeyWaits_takesThePlace_withTheRightType() async throws {
        buffer.set("a", 1)
        sink.fail(on: ["a"])
        let running = run()
        try await clock.waitForSleeper(1)
        buffer.set("a", 2, revision: 9)
        buffer.set("b", 1)
        try await eventually("the other key") { [sink] in sink.accepted.count == 1 }
        sink.fail(on: [])
        try await moving("the key") { [sink] in sink.accepted.count == 2 }
        #expect(sink.accepted.last == .updates([.new("a", 2, revision: 9)]))
        #expect(buffer.statistics.replaced == 1)
        try await finish(running)
    }

    /// The sink has never accepted the key, so it hears of neither.
    @Test func deletion_ofANewKeyThatWaits_cancelsIt() async throws {
        buffer.set("a", 1)
        sink.fail(on: ["a"])
        let running = run()
        try await clock.waitForSleeper(1)
        buffer.delete("a")
        #expect(buffer.statistics.cancelled == 2)
        #expect(buffer.statistics.pendingKeys == 0)
        try await finish(running)
        #expect(sink.accepted == [])
    }

    @Test func valueAndDeletion_thatTheSinkFailsOn_keepTheirTypes() async throws {
        buffer.set("value", 1)
        buffer.set("deletion", 1)
        let running = run()
        try await eventually("both") { [sink] in sink.accepted.count == 1 }
        sink.fail(on: ["value", "deletion"])
        buffer.onUpdates([Update(key: "value", value: 2), Update(key: "deletion", value: nil)])
        try await clock.waitForSleeper(1)
        #expect(buffer.statistics.liveKeys == 2)
        sink.fail(on: [])
        clock.advance(by: .seconds(1))
        try await eventually("both again") { [sink] in sink.accepted.count == 2 }
        #expect(sink.accepted.last == .updates([.updated("value", 2), .deleted("deletion")]))
        #expect(buffer.statistics.liveKeys == 1)
        try await finish(running)
    }

    @Test func value_whileItsDeletionWaits_isAnUpdate() async throws {
        buffer.set("a", 1)
        let running = run()
        try await eventually("the value") { [sink] in sink.accepted.count == 1 }
        sink.fail(on: ["a"])
        buffer.delete("a")
        try await clock.waitForSleeper(1)
        buffer.set("a", 2)
        sink.fail(on: [])
        clock.advance(by: .seconds(1))
        try await eventually("the new value") { [sink] in sink.accepted.count == 2 }
        #expect(sink.accepted.last == .updates([.updated("a", 2)]))
        try await finish(running)
    }

    @Test func restart_dropsAKeyThatWaits_andTheResyncBringsItAgain() async throws {
        buffer.set("a", 1)
        buffer.set("b", 1)
        sink.fail(on: ["a"])
        let running = run()
        try await clock.waitForSleeper(1)
        buffer.onConnectionRestarted()
        #expect(buffer.statistics.dropped == 1)
        buffer.set("a", 2)
        buffer.onStatusUpdated(.inSync)
        try await eventually("the status") { [sink] in sink.accepted.contains(.status(.inSync)) }
        #expect(sink.accepted.items() == [.new("b", 1), .deleted("b")])
        sink.fail(on: [])
        try await moving("the key") { [sink] in sink.accepted.items().count == 3 }
        #expect(sink.accepted.items().last == .new("a", 2))
        try await finish(running)
    }

    @Test func failures_inARow_waitLonger_andASuccessStartsOver() async throws {
        buffer.set("a", 1)
        sink.fail(on: ["a"])
        let running = run()
        for (n, delay) in [1, 2, 4, 4].enumerated() {
            try await clock.waitForSleeper(n + 1)
            #expect(clock.asked.last == .seconds(delay))
            clock.advance(by: .seconds(delay - 1))
            if n == 3 { sink.fail(on: []) }
            clock.advance(by: .seconds(1))
        }
        try await eventually("the key") { [sink] in sink.accepted.count == 1 }
        sink.fail(on: ["a"])
        buffer.set("a", 2)
        try await clock.waitForSleeper(5)
        #expect(clock.asked.last == .seconds(1))
        #expect(sink.failures.map(\.failures) == [1, 2, 3, 4, 1])
        try await finish(running)
    }

    /// Each key has its own back-off; the loop sleeps until the first is due.
    @Test func keys_thatFailAtDifferentTimes_waitEachForItself() async throws {
        buffer.set("a", 1)
        sink.fail(on: ["a", "b"])
        let running = run()
        try await clock.waitForSleeper(1)
        clock.advance(by: .milliseconds(600))
        buffer.set("b", 1)
        try await clock.waitForSleeper(2)
        #expect(sink.calls.count == 2)
        #expect(clock.asked.last == .milliseconds(400))
        sink.fail(on: [])
        clock.advance(by: .milliseconds(400))
        try await eventually("a") { [sink] in sink.accepted.count == 1 }
        #expect(sink.accepted == [.updates([.new("a", 1)])])
        try await clock.waitForSleeper(3)
        #expect(clock.asked.last == .milliseconds(600))
        clock.advance(by: .milliseconds(600))
        try await eventually("b") { [sink] in sink.accepted.count == 2 }
        try await finish(running)
    }

    @Test func hook_afterSomeFailures_dropsTheUpdate_andTheKeyGoesOn() async throws {
        buffer.set("a", 1)
        sink.fail(on: ["a"], dropAfter: 2)
        let running = run()
        try await clock.waitForSleeper(1)
        clock.advance(by: .seconds(1))
        try await eventually("the drop") { [buffer] in buffer.statistics.dropped == 1 }
        #expect(buffer.statistics.pendingKeys == 0)
        #expect(buffer.statistics.delivered == 0)
        #expect(sink.failures.map(\.item) == [.new("a", 1), .new("a", 1)])
        sink.fail(on: [])
        buffer.set("a", 2)
        try await eventually("the next update") { [sink] in sink.accepted.count == 1 }
        #expect(sink.accepted == [.updates([.updated("a", 2)])])
        try await finish(running)
    }

    @Test func stop_whileAKeyWaits_leavesItPending() async throws {
        let (buffer, sink) = (buffer, sink)
        buffer.set("a", 1)
        sink.fail(on: ["a"])
        let running = run()
        try await clock.waitForSleeper(1)
        buffer.stop()
        try await outcome(of: running, "run")
        #expect(await buffer.finish() == DedupeBufferUndelivered(updates: 1, statuses: 0, isBatchInFlight: false))
        #expect(sink.calls.count == 1)
    }

    @Test func finish_whileAKeyWaits_deliversItAfterItsBackOff() async throws {
        let (buffer, sink, clock) = (buffer, sink, clock)
        buffer.set("a", 1)
        sink.fail(on: ["a"])
        let running = run()
        try await clock.waitForSleeper(1)
        let finishing = Task { await buffer.finish() }
        try await eventually("the queue's end to close") { buffer.dropsNewKeys() }
        #expect(sink.calls.count == 1)
        sink.fail(on: [])
        try await moving("the key") { sink.accepted.count == 1 }
        try await outcome(of: running, "run")
        #expect(try await within("finish") { await finishing.value }.isEmpty)
        #expect(sink.accepted == [.updates([.new("a", 1)])])
    }

    @Test func cancellation_whileAKeyWaits_theNextConsumerGetsItAtOnce() async throws {
        buffer.set("a", 1)
        sink.fail(on: ["a"])
        let running = run()
        try await clock.waitForSleeper(1)
        running.cancel()
        await #expect(throws: CancellationError.self) { try await outcome(of: running, "run") }
        #expect(try buffer.flush() == [.updates([.new("a", 1)])])
    }

    @Test func failure_inTheMiddleOfABatch_theRestOfTheBatchComes() async throws {
        buffer.set("a", 1)
        buffer.set("b", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("c", 1)
        sink.fail(on: ["a"])
        let running = run()
        try await clock.waitForSleeper(1)
        #expect(
            sink.accepted == [.updates([.new("b", 1)]), .status(.resyncInProgress), .updates([.new("c", 1)])])
        try await finish(running)
        #expect(sink.accepted.last == .updates([.new("a", 1)]))
    }

    /// More than can wait: the whole call counts as failed.
    @Test func failure_ofTooManyKeys_isAFailureOfTheCall() async throws {
        let buffer = StringBuffer(batchSize: 2_000, retry: DedupeBufferConfiguration.RetryPolicy(maximumAttempts: 1))
        let keys = (0...1_000).map { "key \($0)" }
        for key in keys { buffer.set(key, 1) }
        sink.fail(on: Set(keys))
        let running = Task { [sink] in try await buffer.run(sink: sink) }
        await #expect(throws: DeliveryFailure<String>.self) { try await outcome(of: running, "run") }
        #expect(buffer.statistics.pendingKeys == 1_001)
        #expect(buffer.statistics.delivered == 0)
    }

    @Test func failure_ofAsManyKeysAsCanWait_andOthersAreDelivered() async throws {
        let retry = DedupeBufferConfiguration.RetryPolicy(initialDelay: .seconds(1), clock: clock)
        let buffer = StringBuffer(batchSize: 1, retry: retry)
        let keys = (0..<1_000).map { "key \($0)" }
        for key in keys { buffer.set(key, 1) }
        sink.fail(on: Set(keys))
        let running = Task { [sink] in try await buffer.run(sink: sink) }
        try await eventually("all failures") { [sink] in sink.calls.count == 1_000 }
        for n in 0..<3 { buffer.set("other \(n)", 1) }
        try await eventually("others") { [sink] in sink.accepted.items().count == 3 }
        // Each batch takes them, and puts them back at once.
        try await eventually("all of them") { buffer.statistics.pendingKeys == 1_000 }
        buffer.stop()
        try await outcome(of: running, "run")
    }

    /// A status has no key.
    @Test func failure_ofAStatus_isAFailureOfTheCall() async throws {
        let buffer = StringBuffer(retry: DedupeBufferConfiguration.RetryPolicy(maximumAttempts: 1))
        buffer.onStatusUpdated(.inSync)
        await #expect(throws: DeliveryFailure<String>.self) {
            try await buffer.run { _ in throw DeliveryFailure(keys: ["a"]) }
        }
        #expect(buffer.statistics.pendingStatuses == 1)
    }

    @Test func description_hasNoKeys() {
        #expect("\(DeliveryFailure(keys: ["secret"]))" == "delivery of 1 keys failed")
        #expect("\(DeliveryFailure(keys: ["secret"], cause: SinkFailure(number: 3)))".contains("SinkFailure"))
    }
}

/// Fails on some keys, and keeps what it accepted.
final class KeyedSink: AsyncSyncerCallbacks {
    struct Failed: Sendable {
        var item: Item<String, Int>
        var failures: Int
    }

    private struct State {
        var failing: Set<String> = []
        var dropAfter = Int.max
        var calls: [Event<String, Int>] = []
        var accepted: [Event<String, Int>] = []
        var failures: [Failed] = []
    }

    private let state = Kept(State())

    func fail(on keys: Set<String>, dropAfter: Int = .max) {
        state.change { ($0.failing, $0.dropAfter) = (keys, dropAfter) }
    }

    func onStatusUpdated(_ status: SyncStatus) async throws {
        state.change { state in
            state.calls.append(.status(status))
            state.accepted.append(.status(status))
        }
    }

    func onUpdates(_ updates: [Update<String, Int>]) async throws {
        let failed = state.change { state in
            state.calls.append(.updates(updates.map { Item($0) }))
            let accepted = updates.filter { !state.failing.contains($0.key) }.map { Item($0) }
            if !accepted.isEmpty { state.accepted.append(.updates(accepted)) }
            return updates.map(\.key).filter { state.failing.contains($0) }
        }
        if !failed.isEmpty { throw DeliveryFailure(keys: failed) }
    }

    func onFailure(of update: Update<String, Int>, failures: Int) async -> FailedUpdateAction {
        state.change { state in
            state.failures.append(Failed(item: Item(update), failures: failures))
            return failures >= state.dropAfter ? .drop : .retry
        }
    }

    var calls: [Event<String, Int>] { state.change { $0.calls.map { $0 } } }
    var accepted: [Event<String, Int>] { state.change { $0.accepted.map { $0 } } }
    var failures: [Failed] { state.change { $0.failures.map { $0 } } }
}
