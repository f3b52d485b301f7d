// SPDX-License-Identifier: Apache-2.0

internal import Dispatch

/// The updates and statuses that were not delivered when a buffer stopped.
public struct DedupeBufferUndelivered: Sendable, Hashable {
    /// Updates that stay pending.
    public var updates: Int
    /// Statuses that stay pending.
    public var statuses: Int
    /// Whether a batch was being delivered: the sink had not returned, or the consumer had not
    /// asked for more. The updates of that batch are not in ``updates``.
    public var isBatchInFlight: Bool
    /// Whether an overflow had dropped updates, and no restart had followed: the sink lacks those,
    /// and they are not counted here.
    public var isOverflowed: Bool

    public init(updates: Int, statuses: Int, isBatchInFlight: Bool, isOverflowed: Bool = false) {
        self.updates = updates
        self.statuses = statuses
        self.isBatchInFlight = isBatchInFlight
        self.isOverflowed = isOverflowed
    }

    /// Whether everything was delivered.
    public var isEmpty: Bool { updates == 0 && statuses == 0 && !isBatchInFlight && !isOverflowed }
}

// The end. The forms without a deadline wait for as long as the sink takes.

extension DedupeBuffer {
    /// Delivers everything that was received before the call, and then stops as ``stop()`` does.
    /// Returns when the loop or the consumer has ended. Blocks no thread.
    ///
    /// The call closes the queue's end. From then on an update that would go to the back of the
    /// queue is dropped, and counted in ``DedupeBufferStatistics/dropped``; statuses are ignored.
    /// An update of a key that is pending still replaces the pending one, and is delivered.
    ///
    /// If something is pending and no delivery has begun, the call first waits for a loop or a
    /// consumer to begin, for at most ``DedupeBufferConfiguration/gracePeriod``. Meanwhile updates
    /// are still queued. If none begins, the buffer stops. So this delivers everything:
    ///
    /// ```swift
    /// let running = Task { try await buffer.run(sink: sink) }
    /// await buffer.finish()
    /// ```
    ///
    /// The sink of ``run(sink:)`` may call this, and so may a task that the sink began, during the
    /// call of the sink that began it. The call then returns at once, because otherwise it would
    /// wait for itself. The buffer stops when the queue is empty, and until then updates and
    /// statuses are still queued. A task that outlives the sink's call waits like any other caller.
    ///
    /// If the calling task is cancelled the call returns at once, and the buffer still finishes.
    ///
    /// - Important: the buffer detects no other call that waits for itself. The sink must not await
    ///   a *detached* task that awaits `finish()`, and the consumer of ``events`` must not await
    ///   `finish()` with an event in hand.
    /// - Returns: what was not delivered, as `finish(deadline:)` does.
    @discardableResult
    public func finish() async -> DedupeBufferUndelivered {
        observer?.finishing()
        defer { observer?.report() }
        let isCurrent = delivery.selfWait.isCurrentTask
        if !isCurrent && hasToWaitForALoop {
            await delivery.lifetime.beginning(atMost: WaitLimit(gracePeriod, on: clock))
        }
        if beginFinish(whenEmpty: isCurrent), !isCurrent { await delivery.lifetime.end(atMost: .none) }
        return undelivered
    }

    /// As `finish()`, but blocks the calling thread until the loop has ended.
    ///
    /// The call returns at once where it would wait for itself: inside the sink, in a handler or a
    /// value's `deinit` that the loop runs, and in work on the queue that was given to
    /// ``startSending(to:on:)``. The loop then ends when the queue is empty. Until it ends, updates
    /// and statuses are queued and delivered.
    ///
    /// - Important: do not call this on a serial queue that is the target of the queue given to
    ///   ``startSending(to:on:)``, because the loop could not run meanwhile. The consumer of
    ///   ``events`` must not call it with an event in hand.
    /// - Returns: what was not delivered, as `finishAndWait(deadline:)` does.
    @available(*, noasync)
    @discardableResult
    public func finishAndWait() -> DedupeBufferUndelivered {
        observer?.finishing()
        defer { observer?.report() }
        if !delivery.selfWait.isCurrent && hasToWaitForALoop {
            delivery.lifetime.waitForBeginning(atMost: WaitLimit(gracePeriod, on: clock))
        }
        if beginFinish(whenEmpty: delivery.selfWait.isCurrent) {
            // Asked again: the loop may have begun on this queue since the first time.
            if !delivery.selfWait.isCurrent { delivery.lifetime.waitForEnd(atMost: .none) }
        }
        return undelivered
    }

    /// Delivers everything that was received before the call, but stops at `deadline` if the
    /// delivery takes longer. Then returns. Blocks no thread.
    ///
    /// As `finish()`, but waits for a loop or a consumer to begin until the deadline. At the
    /// deadline it returns even if the sink does not. A cancellation of the calling task counts as
    /// the deadline.
    ///
    /// - Parameter deadline: may have passed already: then the buffer stops at once.
    /// - Returns: what was not delivered. Updates that came too late to be queued are not in it:
    ///   they count as dropped. A call that returns at once, because the sink made it, returns what
    ///   is still to be delivered; the deadline holds.
    @discardableResult
    public func finish(deadline: ContinuousClock.Instant) async -> DedupeBufferUndelivered {
        observer?.finishing(by: deadline)
        let deadline = deadline.bounded
        let isCurrent = delivery.selfWait.isCurrentTask
        if !isCurrent && hasToWaitForALoop { await delivery.lifetime.beginning(atMost: .deadline(deadline)) }
        if beginFinish(whenEmpty: isCurrent) {
            if isCurrent { return stopLater(deadline) }
            await delivery.lifetime.end(atMost: .deadline(deadline))
        }
        return stopNow()
    }

    /// As `finish(deadline:)`, but blocks the calling thread until then. For the callers that it
    /// does not block, see ``finishAndWait()``.
    ///
    /// - Parameter deadline: may have passed already: then the buffer stops at once.
    /// - Returns: what was not delivered. Updates that came too late to be queued are not in it:
    ///   they count as dropped. A call that returns at once, because the sink made it, returns what
    ///   is still to be delivered; the deadline holds.
    @available(*, noasync)
    @discardableResult
    public func finishAndWait(deadline: ContinuousClock.Instant) -> DedupeBufferUndelivered {
        observer?.finishing(by: deadline)
        let deadline = deadline.bounded
        if !delivery.selfWait.isCurrent && hasToWaitForALoop {
            delivery.lifetime.waitForBeginning(atMost: .deadline(deadline))
        }
        if beginFinish(whenEmpty: delivery.selfWait.isCurrent) {
            if delivery.selfWait.isCurrent { return stopLater(deadline) }
            delivery.lifetime.waitForEnd(atMost: .deadline(deadline))
        }
        return stopNow()
    }

    // MARK: - Implementation

    /// Returns whether there is a loop that has still to end. If not, the buffer has stopped.
    private func beginFinish(whenEmpty: Bool) -> Bool {
        let hasLoop = core.finish(whenEmpty: whenEmpty)
        if hasLoop { delivery.finish() } else { delivery.stopped() }
        return hasLoop
    }

    /// Whether something is pending and nothing delivers it, not even a single batch.
    private var hasToWaitForALoop: Bool {
        if delivery.exists || core.isDelivering { return false }
        let statistics = core.statistics
        return statistics.pendingKeys + statistics.pendingStatuses > 0
    }

    private func stopNow() -> DedupeBufferUndelivered {
        stop()
        return undelivered
    }

    private func stopLater(_ deadline: ContinuousClock.Instant) -> DedupeBufferUndelivered {
        if deadline <= .now { return stopNow() }
        // Not by a task: sinks that block may occupy all the threads that tasks run on.
        DispatchQueue.global().asyncAfter(deadline: .now() + (deadline - .now) / .seconds(1)) { [weak self] in
            self?.stop()
        }
        return undelivered
    }

    private var undelivered: DedupeBufferUndelivered {
        // Read first: what the sink puts back afterwards is then counted twice, and not missed.
        let isBatchInFlight = core.isDelivering
        let statistics = core.statistics
        return DedupeBufferUndelivered(
            updates: statistics.pendingKeys, statuses: statistics.pendingStatuses, isBatchInFlight: isBatchInFlight,
            isOverflowed: statistics.isOverflowed)
    }
}

extension ContinuousClock.Instant {
    /// Neither before now nor so far away that a timer's arithmetic overflows.
    fileprivate var bounded: Self { min(max(self, .now), .now + .longest) }
}
