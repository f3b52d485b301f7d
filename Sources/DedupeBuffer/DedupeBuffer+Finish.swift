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

// The end, for those who cannot wait for ever, and for tasks.

extension DedupeBuffer {
    /// Delivers what was received before the call, then stops; returns when that is done. No thread
    /// waits.
    ///
    /// As the synchronous `finish()`: an update that would go to the back of the queue after the
    /// call is dropped, and statuses are ignored; if nothing delivers, the buffer stops at once.
    /// Called by the consumer of ``events``, or by the sink of ``run(sink:)`` or a task that it
    /// began, it returns at once, and the buffer stops when the queue is empty; until then updates
    /// and statuses are still queued.
    ///
    /// - Important: the consumer of ``events`` is recognised if it is the task that made the
    ///   iterator, and itself asks for events. If other tasks call `next()`, child tasks for
    ///   instance, it must not wait for this with an event in hand.
    ///
    /// If the calling task is cancelled it returns at once, and the buffer still finishes.
    public func finish() async {
        observer?.finishing()
        defer { observer?.report() }
        let isCurrent = delivery.isCurrentTask
        guard beginFinish(whenEmpty: isCurrent), !isCurrent else { return }
        await delivery.end(by: nil)
    }

    /// Delivers what was received before the call, but stops at `deadline` if that takes longer;
    /// returns when that is done. No thread waits.
    ///
    /// If nothing delivers yet, though something is pending, it first waits for a loop or a
    /// consumer to begin: the task that is to consume may not have run so far. Meanwhile updates
    /// are still queued. Else as `finish()`. At the deadline it returns even if the sink does not.
    /// If the calling task is cancelled, the deadline has come.
    ///
    /// - Parameter deadline: may have passed already: then it stops at once.
    /// - Returns: what was not delivered. Updates that came too late to be queued are not in it:
    ///   they count as dropped. If it returns at once because it was called by the sink, that is
    ///   what is still to be delivered; the deadline holds.
    @discardableResult
    public func finish(deadline: ContinuousClock.Instant) async -> DedupeBufferUndelivered {
        observer?.finishing(by: deadline)
        let deadline = deadline.bounded
        let isCurrent = delivery.isCurrentTask
        if !isCurrent && isAnythingPending { await delivery.beginning(by: deadline) }
        if beginFinish(whenEmpty: isCurrent) {
            if isCurrent { return stopLater(deadline) }
            await delivery.end(by: deadline)
        }
        return stopNow()
    }

    /// Delivers what was received before the call, but stops at `deadline` if that takes longer;
    /// returns when that is done.
    ///
    /// If nothing delivers yet, though something is pending, it first waits for a loop or a
    /// consumer to begin. Meanwhile updates are still queued. Else as the synchronous `finish()`.
    /// At the deadline it returns even if the sink does not.
    ///
    /// - Important: blocks the calling thread until then.
    /// - Parameter deadline: may have passed already: then it stops at once.
    /// - Returns: what was not delivered. Updates that came too late to be queued are not in it:
    ///   they count as dropped. If it returns at once because it was called by the sink, that is
    ///   what is still to be delivered; the deadline holds.
    @available(*, noasync)
    @discardableResult
    public func finish(deadline: ContinuousClock.Instant) -> DedupeBufferUndelivered {
        observer?.finishing(by: deadline)
        let deadline = deadline.bounded
        if !delivery.isCurrent && isAnythingPending { delivery.waitForBeginning(until: deadline) }
        if beginFinish(whenEmpty: delivery.isCurrent) {
            if delivery.isCurrent { return stopLater(deadline) }
            delivery.waitForEnd(until: deadline)
        }
        return stopNow()
    }

    // MARK: - Implementation

    private var isAnythingPending: Bool {
        let statistics = core.statistics
        return statistics.pendingKeys + statistics.pendingStatuses > 0
    }

    private func stopNow() -> DedupeBufferUndelivered {
        stop()
        return undelivered
    }

    private func stopLater(_ deadline: ContinuousClock.Instant) -> DedupeBufferUndelivered {
        if deadline <= .now { return stopNow() }
        // Not by a task: sinks that block may have all the threads that tasks run on.
        DispatchQueue.global().asyncAfter(deadline: .now() + (deadline - .now) / .seconds(1)) { [weak self] in
            self?.stop()
        }
        return undelivered
    }

    private var undelivered: DedupeBufferUndelivered {
        // Asked first: what the sink gives back afterwards is counted twice, rather than not at
        // all.
        let isBatchInFlight = core.isDelivering
        let statistics = core.statistics
        return DedupeBufferUndelivered(
            updates: statistics.pendingKeys, statuses: statistics.pendingStatuses, isBatchInFlight: isBatchInFlight,
            isOverflowed: statistics.isOverflowed)
    }
}

extension ContinuousClock.Instant {
    /// Neither before now nor so far away that what timers calculate with overflows: within a
    /// century.
    fileprivate var bounded: Self { min(max(self, .now), .now + .seconds(100 * 365 * 86_400)) }
}
