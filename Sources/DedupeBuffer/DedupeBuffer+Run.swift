// SPDX-License-Identifier: Apache-2.0

/// The sink of ``DedupeBuffer/run(sink:)``: ``SyncerCallbacks`` that may suspend, and may fail.
///
/// The methods have the names of those of the synchronous sink. A sink that moves from one protocol
/// to the other adds `async` and `throws` where it needs them. An actor can be the sink.
public protocol AsyncSyncerCallbacks<Key, Value>: Sendable {
    associatedtype Key: DedupeKey
    associatedtype Value: Sendable

    /// The source's status changed.
    ///
    /// - Important: the buffer calls the sink serially, in order. If this throws, the status counts
    ///   as not delivered.
    func onStatusUpdated(_ status: SyncStatus) async throws

    /// Keys changed. Never called with an empty array, and the array belongs to the sink.
    ///
    /// - Important: the buffer calls the sink serially, in order. If this throws a
    ///   ``DeliveryFailure``, all updates except those of the failure's keys count as delivered. If
    ///   it throws another error, no update does.
    func onUpdates(_ updates: [Update<Key, Value>]) async throws

    /// Decides what becomes of an update that the sink has failed on, by a ``DeliveryFailure``.
    ///
    /// Called after each failure, before anything else is delivered. If a sink does not implement
    /// it, every update is tried again, forever.
    ///
    /// - Parameters:
    ///   - update: the update that the sink has failed on.
    ///   - failures: how many times in a row the sink has failed on this key, 1 or more.
    func onFailure(of update: Update<Key, Value>, failures: Int) async -> FailedUpdateAction
}

extension AsyncSyncerCallbacks {
    /// Tries again.
    @inlinable
    public func onFailure(of update: Update<Key, Value>, failures: Int) async -> FailedUpdateAction { .retry }
}

extension AsyncSyncerCallbacks {
    @inlinable
    func handle(_ event: DedupeBufferEvent<Key, Value>) async throws {
        switch event {
        case .updates(let updates): try await onUpdates(updates)
        case .status(let status): try await onStatusUpdated(status)
        }
    }
}

extension DedupeBuffer {
    /// Delivers to `sink`, one call at a time, until ``stop()`` or `finish()`.
    ///
    /// When the sink fails, the event that it failed on and the rest of its batch go back to the
    /// front of the queue, as if they had never been taken. A newer update that is pending takes
    /// the place of an older one. A restart in between drops them. After a pause the buffer calls
    /// the sink again. ``DedupeBufferConfiguration/retry`` says how long the pauses are, and when
    /// to give up. Then the call throws the sink's error, and the events stay in the queue. Neither
    /// a pause nor a wait for events blocks a thread.
    ///
    /// When the task is cancelled, the events that the sink has not handled go back to the queue.
    /// The event of a call that throws after the cancellation is one of them. After ``stop()`` the
    /// batch that was taken is delivered whole. If the sink fails on it, the rest of the batch
    /// stays pending.
    ///
    /// While the call runs, it keeps the buffer and the sink alive.
    ///
    /// `finish()` returns at once if the sink calls it, because it would wait for itself.
    ///
    /// A sink that throws a ``DeliveryFailure`` has failed on some keys only. These keys wait, and
    /// the others do not.
    ///
    /// - Throws: ``DedupeBufferError/alreadySending`` if another consumer or loop delivers,
    ///   ``DedupeBufferError/stopped`` if the buffer was stopped before; `CancellationError` if the
    ///   task was cancelled; otherwise the error that the sink has thrown.
    @inlinable
    public func run(sink: some AsyncSyncerCallbacks<Key, Value>) async throws {
        try await run(sink: sink, retry: retry.policy, whenBegun: {})
    }

    /// Delivers to a closure, as ``run(sink:)`` does to a sink.
    ///
    /// ```swift
    /// try await buffer.run { event in
    ///     switch event {
    ///     case .updates(let updates): try await table.apply(updates)
    ///     case .status(let status): await table.note(status)
    ///     }
    /// }
    /// ```
    ///
    /// - Parameter handle: called with one event at a time, in order.
    /// - Throws: as ``run(sink:)``.
    @inlinable
    public func run(_ handle: @escaping @Sendable (DedupeBufferEvent<Key, Value>) async throws -> Void) async throws {
        try await run(sink: AsyncClosureSink(handle: handle))
    }

    /// Delivers with another retry policy. Calls `whenBegun` when the buffer is claimed, so that a
    /// finish will wait.
    @inlinable
    package func run(
        sink: some AsyncSyncerCallbacks<Key, Value>, retry policy: DedupeBufferConfiguration.RetryPolicy,
        whenBegun: () -> Void
    ) async throws {
        let turn = EventTurn(storage)
        try turn.begin()
        defer { turn.end() }
        whenBegun()
        try await deliver(turn, to: sink, RetryState(policy))
    }

    @inlinable
    func deliver(
        _ turn: EventTurn<Key, Value>, to sink: some AsyncSyncerCallbacks<Key, Value>, _ retry: RetryState
    ) async throws {
        var retries = retry
        while true {
            do {
                guard try await turn.deliverNext(to: sink, retry: retry.policy) else { break }
                retries.succeeded()
            } catch {
                guard !Task.isCancelled else { break }
                guard let delay = delayAfter(error, &retries) else { throw error }
                await turn.loop.pause(for: delay, on: retry.policy.clock)
                // A stop ends the pause a little before it ends the queue.
                guard !turn.loop.isStopped else { break }
            }
        }
        try Task.checkCancellation()
        if let failure = turn.failure, turn.loop.isStopped { throw failure }
    }

    /// How long to pause after the sink's failure; `nil`: the sink is not tried again. Tells the
    /// log.
    @usableFromInline
    func delayAfter(_ failure: any Error, _ retries: inout RetryState) -> Duration? {
        delivery.selfWait.whileInside {
            let delay = retries.failed()
            observer?.sinkFailed(failure, failures: retries.failures)
            if let delay, retries.hasJustReachedMaximum { observer?.backOffReachedMaximum(delay) }
            return delay
        }
    }
}
