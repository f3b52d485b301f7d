// SPDX-License-Identifier: Apache-2.0

internal import Dispatch

/// How long a caller waits at most.
enum WaitLimit: Sendable {
    case none
    case deadline(ContinuousClock.Instant)
    case period(Duration, any Clock<Duration>)

    /// A period that begins now.
    init(_ period: Duration, on clock: any Clock<Duration>) {
        // A deadline where that is possible: waiting until it needs no task.
        self = clock is ContinuousClock ? .deadline(.now + period.bounded) : .period(period.bounded, clock)
    }

    /// Sleeps until the limit, or until the task is cancelled. Not called for ``none``.
    fileprivate func sleep() async {
        switch self {
        case .none: return
        case .deadline(let deadline): try? await Task.sleep(until: deadline, clock: .continuous)
        case .period(let period, let clock): try? await clock.sleep(for: period)
        }
    }
}

/// The callers that wait for a loop to begin, as a state that returns what has to be resumed.
struct BeginningState<Waiter> {
    private var waiters: [Waiter] = []
    private var hasBegun = false
    private var isOver = false

    /// A loop delivers from now on.
    mutating func begin() -> [Waiter] {
        hasBegun = true
        return takeWaiters()
    }

    /// The loop has ended; another one may begin.
    mutating func end() { hasBegun = false }

    /// No loop can begin any more.
    mutating func close() -> [Waiter] {
        isOver = true
        return takeWaiters()
    }

    /// Returns the waiter if it has nothing to wait for.
    mutating func wait(_ waiter: Waiter) -> Waiter? {
        if hasBegun || isOver { return waiter }
        waiters.append(waiter)
        return nil
    }

    private mutating func takeWaiters() -> [Waiter] {
        defer { waiters = [] }
        return waiters
    }
}

/// When a buffer's loops begin and end, for the callers that wait for it.
final class LoopLifetime: Sendable {
    typealias Waiter = @Sendable () -> Void

    private let beginning = Locked(BeginningState<Waiter>())
    /// Entered while a loop exists.
    private let existing = DispatchGroup()

    // MARK: - The loop's side

    /// Called before the loop's claim becomes visible: a caller that sees the claim can wait for
    /// its end. ``didEnd()`` follows, also if the claim fails.
    func willClaim() { existing.enter() }

    func didBegin() { resume { $0.begin() } }

    /// The loop takes no more.
    func willEnd() { beginning.withLock { $0.end() } }

    /// Everything that the loop does has been done.
    func didEnd() { existing.leave() }

    /// No loop can begin any more.
    func close() { resume { $0.close() } }

    private func resume(_ event: (inout BeginningState<Waiter>) -> [Waiter]) {
        for waiter in beginning.withLock(event) { waiter() }
    }

    // MARK: - The callers' side

    private func whenBegun(_ body: @escaping Waiter) {
        beginning.withLock { $0.wait(body) }?()
    }

    private func whenEnded(_ body: @escaping Waiter) {
        existing.notify(queue: .global(), execute: body)
    }

    /// Waits until a loop has begun, or none can any more. Blocks the thread.
    func waitForBeginning(atMost limit: WaitLimit) { Self.block(atMost: limit, until: whenBegun) }

    /// As ``waitForBeginning(atMost:)``, or until the task is cancelled. Blocks no thread.
    func beginning(atMost limit: WaitLimit) async { await Self.suspend(atMost: limit, until: whenBegun) }

    /// Waits until no loop exists. Blocks the thread.
    func waitForEnd(atMost limit: WaitLimit) {
        if case .none = limit { return existing.wait() }
        Self.block(atMost: limit, until: whenEnded)
    }

    /// As ``waitForEnd(atMost:)``, or until the task is cancelled. Blocks no thread.
    func end(atMost limit: WaitLimit) async { await Self.suspend(atMost: limit, until: whenEnded) }

    private static func block(atMost limit: WaitLimit, until event: (@escaping Waiter) -> Void) {
        let over = DispatchSemaphore(value: 0)
        event { over.signal() }
        switch limit {
        case .none: over.wait()
        case .deadline(let deadline):
            // Again, because the clocks of Dispatch and of the deadline differ. Not by a task:
            // sinks that block may occupy all the threads that tasks run on.
            while over.wait(timeout: .now() + (deadline - .now) / .seconds(1)) == .timedOut && deadline > .now {}
        case .period:
            let timer = Task {
                await limit.sleep()
                over.signal()
            }
            over.wait()
            timer.cancel()
        }
    }

    private static func suspend(atMost limit: WaitLimit, until event: (@escaping Waiter) -> Void) async {
        let over = Signal()
        event { over.send() }
        if case .none = limit { return await over.wait() }
        let timer = Task {
            await limit.sleep()
            over.send()
        }
        await over.wait()
        timer.cancel()
    }
}

extension Duration {
    /// A century: more than anybody waits for, and little enough for what timers calculate with.
    static var longest: Duration { .seconds(100 * 365 * 86_400) }

    /// Not negative, and not so long that a timer's arithmetic overflows.
    @usableFromInline package var bounded: Duration { min(max(self, .zero), .longest) }
}
