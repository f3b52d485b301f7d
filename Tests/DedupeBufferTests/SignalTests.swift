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
        #expect(long.failed() == .seconds(Int64.max))
    }
}
