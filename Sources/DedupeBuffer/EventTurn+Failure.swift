// SPDX-License-Identifier: Apache-2.0

// A sink that may fail, on a whole event or on some of its keys.

extension EventTurn {
    /// Waits for the next event and delivers it.
    ///
    /// - Returns: `false`: the turn has ended, because the buffer has stopped or the task was
    ///   cancelled.
    /// - Throws: what the whole event failed with. The event has then gone back to the queue.
    @inlinable
    func deliverNext(
        to sink: some AsyncSyncerCallbacks<Key, Value>, retry policy: DedupeBufferConfiguration.RetryPolicy
    ) async throws -> Bool {
        let selfWait = storage.delivery.selfWait
        var event = await next()
        // The event ends here, so that none lives on during a pause. A value that ends with it may
        // finish the buffer, which waits for this task.
        defer { selfWait.whileInside { event = nil } }
        guard event != nil else { return false }
        do {
            try await selfWait.whileInSink { try await deliver(event!, to: sink, retry: policy) }
            failure = nil
            return true
        } catch {
            selfWait.whileInside { giveBack(event!) }
            failure = error
            throw error
        }
    }

    /// Delivers the latest event. Throws what the whole event failed with.
    @usableFromInline
    func deliver(
        _ event: DedupeBufferEvent<Key, Value>, to sink: some AsyncSyncerCallbacks<Key, Value>,
        retry policy: DedupeBufferConfiguration.RetryPolicy
    ) async throws {
        do {
            try await sink.handle(event)
            if let backOff, !backOff.isEmpty, case .updates(let updates) = event {
                for update in updates { backOff.remove(bytes(of: update.key)) }
            }
        } catch let failure as DeliveryFailure<Key> {
            guard case .updates(let updates) = event else { throw failure }
            try await holdBack(updates, failure, sink, policy)
        }
    }

    /// Puts the updates back on which the sink has failed. The others have been delivered.
    private func holdBack(
        _ updates: [Update<Key, Value>], _ failure: DeliveryFailure<Key>,
        _ sink: some AsyncSyncerCallbacks<Key, Value>, _ policy: DedupeBufferConfiguration.RetryPolicy
    ) async throws {
        let keys = updates.map { bytes(of: $0.key) }
        let failed = Set(failure.keys.map { bytes(of: $0) }).intersection(keys)
        let backOff = backOff ?? KeyBackOff(policy, maximumCount: storage.core.maximumHeldBack)
        guard backOff.hasRoom(for: failed) else { throw failure }
        self.backOff = backOff
        var retried: Set<Int> = []
        for (i, key) in keys.enumerated() {
            guard failed.contains(key) else {
                backOff.remove(key)
                continue
            }
            let failures = backOff.failed(key)
            storage.delivery.observer?.keyFailed(failure, failures: failures)
            switch await sink.onFailure(of: updates[i], failures: failures) {
            case .retry: retried.insert(i)
            case .drop:
                backOff.remove(key)
                storage.core.countAbandoned()
            }
        }
        storage.delivery.selfWait.whileInside { putBack(updates, at: retried) }
    }

    private func putBack(_ updates: [Update<Key, Value>], at offsets: Set<Int>) {
        endEvent()
        for i in offsets { restore(updates[i], at: start + i) }
        let count = storage.core.taken.moveToEnd(start..<position) { offsets.contains($0 - start) }
        position -= offsets.count
        storage.putBackTail(from: count)
        storage.delivery.observer?.report()
    }

    private func bytes(of key: Key) -> [UInt8] {
        key.withKeyBytes { span in span.withUnsafeBytes { Array($0) } }
    }
}
