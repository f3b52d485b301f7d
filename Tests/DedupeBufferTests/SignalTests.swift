// SPDX-License-Identifier: Apache-2.0

// The two small state machines behind a task's loop, alone.

import Testing

@testable import DedupeBuffer

@Suite("Signals")
struct SignalTests {
    @Test func wait_whileIdle_isKept_andSendGivesItBack() {
        var state = SignalState<Int>.idle
        #expect(state.wait(1) == nil)
        #expect(state.send() == 1)
        #expect(state.wait(2) == nil)
        #expect(state.send() == 2)
    }

    @Test func wait_afterASend_isGivenBackAtOnce() {
        var state = SignalState<Int>.idle
        #expect(state.send() == nil)
        #expect(state.wait(1) == 1)
        #expect(state.wait(2) == nil)
    }

    @Test func sends_thatNobodyWaitsFor_areOne() {
        var state = SignalState<Int>.idle
        for _ in 0..<3 { #expect(state.send() == nil) }
        #expect(state.wait(1) == 1)
        #expect(state.wait(2) == nil)
    }

    @Test func wait_whenCancelled_returns_beforeAndAfter() async throws {
        let signal = Signal()
        let waiting = Task { await signal.wait() }
        waiting.cancel()
        try await within("a cancelled wait") { await waiting.value }
        try await within("a wait after the cancellation") {
            withUnsafeCurrentTask { $0?.cancel() }
            await signal.wait()
        }
    }
}

@Suite("Retry policy")
struct RetryPolicyTests {
    @Test func failures_inARow_waitLongerEachTime_upToTheMaximum() {
        let policy = DedupeBufferConfiguration.RetryPolicy(
            initialDelay: .seconds(1), factor: 3, maximumDelay: .seconds(20), maximumAttempts: nil)
        var state = RetryState(policy)
        let delays = (0..<6).map { _ in state.failed() }
        #expect(delays == [.seconds(1), .seconds(3), .seconds(9), .seconds(20), .seconds(20), .seconds(20)])
    }

    @Test func failure_thatIsTheLastOneAllowed_givesUp() {
        var state = RetryState(.init(maximumAttempts: 3))
        #expect(state.failed() != nil)
        #expect(state.failed() != nil)
        #expect(state.failed() == nil)
        var once = RetryState(.init(maximumAttempts: 1))
        #expect(once.failed() == nil)
    }

    @Test func maximum_isReachedOnceInARow() {
        let policy = DedupeBufferConfiguration.RetryPolicy(
            initialDelay: .seconds(1), factor: 2, maximumDelay: .seconds(4), maximumAttempts: nil)
        var state = RetryState(policy)
        for _ in 0..<2 {
            var reached: [Bool] = []
            for _ in 0..<5 {
                _ = state.failed()
                reached.append(state.hasJustReachedMaximum)
            }
            #expect(reached == [false, false, true, false, false])
            state.succeeded()
        }
    }

    @Test func success_startsOver() {
        let policy = DedupeBufferConfiguration.RetryPolicy(initialDelay: .seconds(1), factor: 2, maximumAttempts: 3)
        var state = RetryState(policy)
        for _ in 0..<5 {
            #expect(state.failed() == .seconds(1))
            #expect(state.failed() == .seconds(2))
            state.succeeded()
        }
    }

    @Test func delays_neverOverflow_orExceedTheMaximum() {
        let policy = DedupeBufferConfiguration.RetryPolicy(
            initialDelay: .seconds(5), factor: .infinity, maximumDelay: .seconds(2), maximumAttempts: nil)
        var state = RetryState(policy)
        for _ in 0..<3 { #expect(state.failed() == .seconds(2)) }
        var none = RetryState(.init(initialDelay: .zero, maximumAttempts: nil))
        for _ in 0..<3 { #expect(none.failed() == .zero) }
        var long = RetryState(
            DedupeBufferConfiguration.RetryPolicy(
                initialDelay: .seconds(1), factor: 1e300, maximumDelay: .seconds(Int64.max), maximumAttempts: nil))
        #expect(long.failed() == .seconds(1))
        #expect(long.failed() == .longest)
        var first = RetryState(
            DedupeBufferConfiguration.RetryPolicy(
                initialDelay: .seconds(Int64.max), maximumDelay: .seconds(Int64.max), maximumAttempts: nil))
        #expect(first.failed() == .longest)
    }

    // MARK: With a sink

    private func policyWithoutBound(clock: any Clock<Duration>) -> DedupeBufferConfiguration.RetryPolicy {
        .init(initialDelay: .seconds(Int64.max), maximumDelay: .seconds(Int64.max), clock: clock)
    }

    @Test func run_whoseDelayExceedsACentury_sleepsACentury_andTriesAgain() async throws {
        let clock = TestClock()
        let buffer = StringBuffer(retry: policyWithoutBound(clock: clock))
        let sink = ScriptedSink<Int> { _, number in if number < 2 { throw SinkFailure() } }
        buffer.set("a", 1)
        let running = Task { try await buffer.run(sink: sink) }
        for number in 1...2 {
            try await clock.waitForSleeper(number)
            clock.advance()
        }
        try await sink.wait(forCalls: 3)
        buffer.stop()
        try await outcome(of: running, "run")
        #expect(clock.asked == [.longest, .longest])
        #expect(sink.delivered == [.updates([.new("a", 1)])])
    }

    /// The system's clock accepts the delay.
    @Test func run_whoseDelayExceedsACentury_onTheSystemsClock_endsWithAStop() async throws {
        let buffer = StringBuffer(retry: policyWithoutBound(clock: ContinuousClock()))
        let sink = ScriptedSink<Int> { _, _ in throw SinkFailure() }
        buffer.set("a", 1)
        let running = Task { try await buffer.run(sink: sink) }
        try await sink.wait(forCalls: 1)
        try await eventually("the pause") { buffer.statistics.pendingKeys == 1 }
        buffer.stop()
        await #expect(throws: SinkFailure.self) { try await outcome(of: running, "run") }
        #expect(sink.calls.count == 1)
    }
}
