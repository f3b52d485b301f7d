// SPDX-License-Identifier: Apache-2.0

/// The overflows of a buffer, for any number of consumers; see ``DedupeBuffer/overflows``.
public struct DedupeBufferOverflows: AsyncSequence, Sendable {
    public typealias Element = Void
    public typealias Failure = Never

    let signal: OverflowSignal

    /// An iterator that has not been told of any overflow.
    public func makeAsyncIterator() -> Iterator { Iterator(signal: signal) }

    /// Waits for overflows. Each iterator is told of each overflow at most once.
    public struct Iterator: AsyncIteratorProtocol {
        let signal: OverflowSignal
        /// The number of the overflow that this iterator was told of last.
        private var latest = 0

        init(signal: OverflowSignal) { self.signal = signal }

        /// Returns when the buffer overflows, or at once if it is overflowed and this iterator was
        /// not told. No thread waits.
        ///
        /// - Returns: `nil` when the buffer has ended, or when the task was cancelled.
        public mutating func next(isolation actor: isolated (any Actor)?) async -> Void? {
            guard let overflow = await signal.next(after: latest, isolation: actor) else { return nil }
            latest = overflow
            return ()
        }
    }
}

extension DedupeBuffer {
    /// The overflows of this buffer: an element each time that a bound was exceeded, and the
    /// source must send everything again.
    ///
    /// ```swift
    /// for await _ in buffer.overflows {
    ///     try await buffer.withResync { session in
    ///         for try await page in datastore.pages() { session.send(page) }
    ///     }
    /// }
    /// ```
    ///
    /// Any number of tasks may iterate, one after another or at the same time, and each iterator is
    /// told of each overflow once. A consumer that comes while the buffer is overflowed is told at
    /// once. An overflow that a restart has ended is not told to a consumer that comes later. A
    /// consumer that was busy during several overflows is told of the latest one, if that lasts.
    ///
    /// A consumer whose task is cancelled leaves the sequence, and the other consumers stay. The
    /// sequence ends for all of them when the buffer ends: after ``stop()`` or a finish, and when
    /// the buffer is deinitialised. Neither the sequence nor a consumer keeps the buffer alive.
    public var overflows: DedupeBufferOverflows { DedupeBufferOverflows(signal: core.overflows) }
}

/// Tells the consumers of overflows.
@usableFromInline
final class OverflowSignal: Sendable {
    private typealias Continuation = CheckedContinuation<Int?, Never>

    private struct State {
        weak var core: Core?
        var waiters = OverflowWaiters<Continuation>()
    }

    private let state = Locked(State())

    /// Whom to ask for overflows. Called once, before anything else.
    func watch(_ core: Core) {
        state.withLock { $0.core = core }
    }

    /// The number of an overflow after `number`: the current one, or the next one. `nil`: the
    /// buffer has ended, or the task was cancelled.
    func next(after number: Int, isolation: isolated (any Actor)?) async -> Int? {
        let id = state.withLock { $0.waiters.makeID() }
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let answer: OverflowWaiters<Continuation>.Answer = state.withLock { state in
                    // Asked with the lock: a cancellation that came earlier found no continuation
                    // to resume, and a later one finds it.
                    if Task.isCancelled { return .resume(nil) }
                    return state.waiters.wait(continuation, id: id, after: number, state.core?.overflowFigures)
                }
                if case .resume(let overflow) = answer { continuation.resume(returning: overflow) }
            }
        } onCancel: {
            state.withLock { $0.waiters.remove(id) }?.resume(returning: nil)
        }
    }

    /// A bound of `core` was exceeded.
    func overflowed() {
        let (number, waiting) = state.withLock { state in
            let number = state.core?.overflowFigures.number ?? 0
            return (number, state.waiters.take(before: number))
        }
        for waiter in waiting { waiter.resume(returning: number) }
    }

    /// The core may have been stopped.
    func endIfStopped() {
        let waiting = state.withLock { state in
            state.waiters.isEmpty || state.core?.isStopped == false ? [] : state.waiters.end()
        }
        for waiter in waiting { waiter.resume(returning: nil) }
    }

    /// The buffer has gone: nothing can overflow any more.
    @usableFromInline
    func end() {
        for waiter in state.withLock({ $0.waiters.end() }) { waiter.resume(returning: nil) }
    }
}

/// What a core says of its overflows.
struct OverflowFigures {
    /// How many overflows there were, and so the number of the latest one.
    var number: Int
    /// Whether the latest one has not been ended by a restart.
    var isOverflowed: Bool
    /// Whether there can be no other.
    var isStopped: Bool
}

/// The consumers that wait for an overflow. It returns the waiters that the caller must resume,
/// after it has released its lock.
struct OverflowWaiters<Waiter> {
    enum Answer {
        /// The waiter was added.
        case wait
        /// The waiter was not added, and gets the number of an overflow, or `nil` at the end.
        case resume(Int?)
    }

    private var waiting: [(id: Int, number: Int, waiter: Waiter)] = []
    private var latestID = 0
    private var isEnded = false

    var isEmpty: Bool { waiting.isEmpty }

    mutating func makeID() -> Int {
        latestID += 1
        return latestID
    }

    /// `figures` is `nil` if the core has gone.
    mutating func wait(_ waiter: Waiter, id: Int, after number: Int, _ figures: OverflowFigures?) -> Answer {
        guard !isEnded, let figures, !figures.isStopped else { return .resume(nil) }
        if figures.isOverflowed && figures.number > number { return .resume(figures.number) }
        waiting.append((id, number, waiter))
        return .wait
    }

    /// The waiter is cancelled. `nil` if it does not wait.
    mutating func remove(_ id: Int) -> Waiter? {
        waiting.firstIndex { $0.id == id }.map { waiting.remove(at: $0).waiter }
    }

    /// Those that have not been told of overflow `number`.
    mutating func take(before number: Int) -> [Waiter] {
        let taken = waiting.filter { $0.number < number }
        waiting.removeAll { $0.number < number }
        return taken.map(\.waiter)
    }

    mutating func end() -> [Waiter] {
        isEnded = true
        defer { waiting = [] }
        return waiting.map(\.waiter)
    }
}
