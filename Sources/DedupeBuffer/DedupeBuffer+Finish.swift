// SPDX-License-Identifier: Apache-2.0

internal import Dispatch

/// What was not delivered when a buffer stopped.
public struct DedupeBufferUndelivered: Sendable, Hashable {
    /// Updates that stay pending.
    public var updates: Int
    /// Statuses that stay pending.
    public var statuses: Int
    /// Whether a batch was being delivered: the sink had not returned, or the consumer had not
    /// asked for more. What it holds is counted neither as delivered to the end nor as pending.
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
    /// Delivers what was received before the call, then stops as ``stop()`` does; returns when the
    /// loop or the consumer has ended. Blocks no thread.
    ///
    /// The call closes the queue's end. From then on an update that would go to the back of the
    /// queue is dropped, and counted in ``DedupeBufferStatistics/dropped``; statuses are ignored.
    /// An update of a key that is pending still replaces the pending one, and is delivered.
    ///
    /// If something is pending and nothing delivers yet, the call first waits for a loop or a
    /// consumer to begin, for at most ``DedupeBufferConfiguration/gracePeriod``. Meanwhile updates
    /// are still queued. If none begins, the buffer stops. So this delivers everything:
    ///
    /// ```swift
    /// let running = Task { try await buffer.run(sink: sink) }
    /// await buffer.finish()
    /// ```
    ///
    /// Called by the sink of ``run(sink:)``, or by a task that the sink began and during the call
    /// of the sink that began it, it returns at once: it would wait for itself. The buffer then
    /// stops when the queue is empty, and until then updates and statuses are still queued. A task
    /// that outlives the sink's call waits like any other caller.
    ///
    /// If the calling task is cancelled the call returns at once, and the buffer still finishes.
    ///
    /// - Important: nothing else that waits for itself is detected. The sink must not await a
    ///   *detached* task that awaits `finish()`, and the consumer of ``events`` must not await
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
    /// Called from inside the sink, or from a handler or a value's `deinit` that the loop runs, or
    /// from work on the queue that was given to ``startSending(to:on:)``, it returns at once, and
    /// the loop ends when the queue is empty. In that case the queue stays open: until the loop
    /// ends, updates and statuses are queued and delivered.
    ///
    /// - Important: not to be called on a serial queue that the queue given to
    ///   ``startSending(to:on:)`` has as its target: the loop could not run meanwhile. Nor by the
    ///   consumer of ``events`` with an event in hand.
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

    /// Delivers what was received before the call, but stops at `deadline` if that takes longer;
    /// returns when that is done. Blocks no thread.
    ///
    /// As `finish()`, but waits for a loop or a consumer to begin until the deadline. At the
    /// deadline it returns even if the sink does not. If the calling task is cancelled, the
    /// deadline has come.
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
