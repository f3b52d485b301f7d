// SPDX-License-Identifier: Apache-2.0

public import Dispatch

// The sink's side: ways to deliver. Inlinable, so that moving updates out of their slots is
// specialised for their types.

extension DedupeBuffer {
    /// Delivers to `sink` from now on, on a Dispatch queue, until ``stop()`` or `finish()`. Returns
    /// at once.
    ///
    /// Work is put on the queue when there is something to deliver; no thread waits when there is
    /// nothing. The sink is called serially even if `queue` is concurrent.
    ///
    /// - Parameters:
    ///   - sink: kept until the loop has ended, or the buffer is let go.
    ///   - queue: where to call it; `nil`: a queue of the buffer's own.
    /// - Throws: ``DedupeBufferError/alreadySending`` or ``DedupeBufferError/stopped``.
    @inlinable
    public func startSending(
        to sink: some SyncerCallbacks<Key, Value>, on queue: DispatchQueue? = nil
    ) throws(DedupeBufferError) {
        // Unowned: the loop belongs to the buffer, and what runs on the queue keeps it alive.
        let body = LoopBody { [unowned self] in
            deliver(to: sink)
        } collect: { [unowned self] in
            core.collect(Storage<Key, Value>.destroy)
        }
        try delivery.start(on: queue, body: body) { [unowned self] in self }
    }

    /// Delivers to a closure, as ``startSending(to:on:)`` does to a sink.
    ///
    /// ```swift
    /// try buffer.startSending { event in
    ///     switch event {
    ///     case .updates(let updates): print(updates.map(\.key))
    ///     case .status(let status): print(status)
    ///     }
    /// }
    /// ```
    ///
    /// - Parameters:
    ///   - queue: where to call it; `nil`: a queue of the buffer's own.
    ///   - handle: called with one event at a time, in order.
    /// - Throws: ``DedupeBufferError/alreadySending`` or ``DedupeBufferError/stopped``.
    @inlinable
    public func startSending(
        on queue: DispatchQueue? = nil, _ handle: @escaping @Sendable (DedupeBufferEvent<Key, Value>) -> Void
    ) throws(DedupeBufferError) {
        try startSending(to: ClosureSink(handle: handle), on: queue)
    }

    /// Delivers to `sink` on the calling thread until ``stop()`` or `finish()`.
    ///
    /// - Important: blocks the calling thread, also when there is nothing to deliver.
    /// - Throws: ``DedupeBufferError/alreadySending`` or ``DedupeBufferError/stopped``.
    @available(*, noasync)
    @inlinable
    public func sendToSinkForever(_ sink: some SyncerCallbacks<Key, Value>) throws(DedupeBufferError) {
        let body = LoopBody { [unowned self] in
            deliver(to: sink)
        } collect: { [unowned self] in
            core.collect(Storage<Key, Value>.destroy)
        }
        try delivery.runForever(body)
    }

    /// Delivers one batch to `sink` on the calling thread. Waits for no other call, except a merge.
    ///
    /// - Throws: ``DedupeBufferError/emptyQueue`` if there is nothing to deliver, or nothing before
    ///   ``DedupeBufferConfiguration/minimumInterval`` is over;
    ///   ``DedupeBufferError/alreadySending`` if a loop runs, or from inside the sink;
    ///   ``DedupeBufferError/stopped``.
    @inlinable
    public func sendNextBatchToSink(_ sink: some SyncerCallbacks<Key, Value>) throws(DedupeBufferError) {
        do throws(DedupeBufferError) {
            try deliverBatch(to: sink)
        } catch {
            observer?.didNotDeliver("by hand", error)
            throw error
        }
    }

    // MARK: - Implementation

    @inlinable
    func deliverBatch(to sink: some SyncerCallbacks<Key, Value>) throws(DedupeBufferError) {
        try core.claim(loop: false)
        defer { core.release() }
        switch delivery.take() {
        case .batch: deliver(to: sink)
        case .empty, .later: throw .emptyQueue
        case .stopped: throw .stopped
        }
    }

    /// Hands the taken batch to the sink: a call for each run of updates, a call for each status.
    @inlinable
    func deliver(to sink: some SyncerCallbacks<Key, Value>) {
        let batch = core.taken
        let called = ContinuousClock.now
        var i = 0
        while i < batch.count {
            if let status = batch.status(i) {
                sink.onStatusUpdated(status)
                i += 1
            } else {
                let length = batch.runLength(from: i)
                sink.onUpdates(Self.updates(of: batch, from: i, count: length))
                i += length
            }
        }
        delivery.sinkReturned(calledAt: called)
        delivery.endBatch()
    }

    /// Moves updates out of their slots.
    @inlinable
    static func updates(of batch: TakenBatch, from start: Int, count: Int) -> [Update<Key, Value>] {
        Array(unsafeUninitializedCapacity: count) { array, initialized in
            for i in start..<(start + count) {
                array.initializeElement(at: initialized, to: update(of: batch, i))
                initialized += 1
            }
        }
    }

    @inlinable
    static func update(of batch: TakenBatch, _ i: Int) -> Update<Key, Value> {
        let key = readKey(of: batch, i)
        guard let slot = batch.slots[i] else {
            return Update(key: key, value: nil, updateType: batch.updateType(i))
        }
        let (value, revision) = slot.move(Value.self)
        return Update(key: key, value: value, revision: revision, updateType: batch.updateType(i))
    }

    /// Makes the key of item `i` from its bytes, which the core lends until the next take.
    @inlinable
    static func readKey(of batch: TakenBatch, _ i: Int) -> Key {
        guard let key = Key(keyBytes: batch.keyBytes(i).bytes) else {
            failToRead(Key.self)
        }
        return key
    }
}

/// Ends the program. Not `preconditionFailure`, which says nothing in release builds.
@usableFromInline
func failToRead(_ key: Any.Type) -> Never {
    fatalError(
        "DedupeBuffer: \(key)(keyBytes:) returned nil for bytes that withKeyBytes wrote, or that a caller gave as its key"
    )
}
