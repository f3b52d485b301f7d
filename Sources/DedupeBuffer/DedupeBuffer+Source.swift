// SPDX-License-Identifier: Apache-2.0

// The source's side: what an upstream calls.

extension DedupeBuffer {
    /// Puts a status at the back of the queue.
    ///
    /// A status that equals the latest one received is dropped; one that follows another status in the queue takes its
    /// place. ``SyncStatus/inSync`` after ``onConnectionRestarted()`` first queues deletions for the keys that vanished.
    ///
    /// - Complexity: O(1); O(keys) for the first ``SyncStatus/inSync`` after a restart, in small steps that let other
    ///   callers in.
    public func onStatusUpdated(_ status: SyncStatus) {
        let resync = status == .inSync ? observer?.currentResync : nil
        let isTaken = core.put(status)
        observer?.received(status, ending: isTaken ? resync : nil)
        clearUp()
    }

    /// Puts updates, in order.
    ///
    /// An update of a key that is pending replaces what is pending, in its place; others go to the back of the queue. The
    /// deletion of a key whose value the sink has never got cancels that value. The update types are ignored. Never
    /// waits for the sink.
    ///
    /// - Complexity: O(*n*) plus the keys' lengths, expected.
    @inlinable
    public func onUpdates(_ updates: [Update<Key, Value>]) {
        putAll(updates) { batch, update, _ in
            update.key.withKeyBytes { batch.write(key: $0, deletion: update.value == nil) }
        }
        observer?.received(updates: updates.count)
    }

    /// Puts updates whose keys' bytes are known already, as strings; else as ``onUpdates(_:)``.
    ///
    /// - Parameters:
    ///   - updates: the updates.
    ///   - keys: for each update the bytes of its key, exactly as `withKeyBytes` gives them, as UTF-8. Where one is
    ///     empty, or the array is shorter than `updates`, they are computed.
    @inlinable
    public func onUpdatesKeysKnown(_ updates: [Update<Key, Value>], keys: [String]) {
        putAll(updates) { batch, update, i in
            guard i < keys.count, !keys[i].isEmpty else {
                return update.key.withKeyBytes { batch.write(key: $0, deletion: update.value == nil) }
            }
            return keys[i].withKeyBytes { batch.write(key: $0, deletion: update.value == nil) }
        }
        observer?.received(updates: updates.count, keysKnown: keys.count)
    }

    /// Puts updates whose keys' bytes are known already; else as ``onUpdates(_:)``.
    ///
    /// - Parameters:
    ///   - updates: the updates.
    ///   - keys: for each update the bytes of its key, exactly as `withKeyBytes` gives them. Where they are empty, or
    ///     the array is shorter than `updates`, they are computed.
    @inlinable
    public func onUpdatesKeysKnown(_ updates: [Update<Key, Value>], keys: [[UInt8]]) {
        putAll(updates) { batch, update, i in
            guard i < keys.count, !keys[i].isEmpty else {
                return update.key.withKeyBytes { batch.write(key: $0, deletion: update.value == nil) }
            }
            return keys[i].withKeyBytes { batch.write(key: $0, deletion: update.value == nil) }
        }
        observer?.received(updates: updates.count, keysKnown: keys.count)
    }

    /// The source lost its connection and will send everything again.
    ///
    /// Drops all that is pending. Keys that are live at the sink and are not heard of before the next
    /// ``SyncStatus/inSync`` are deleted then. A batch that is being delivered is not disturbed.
    ///
    /// - Complexity: O(1) under the lock; the dropped values are destroyed afterwards, in small steps: by this call, or
    ///   if there are many, by the loop when it has nothing else to do.
    public func onConnectionRestarted() {
        core.restart()
        observer?.restarted()
        clearUp()
    }

    // MARK: - Implementation

    /// Puts all updates, a share at a time; `writeKey` writes the key of an update, whose number it is told, to a
    /// batch, and says whether it could.
    @inlinable
    @inline(__always)
    func putAll(_ updates: [Update<Key, Value>], writeKey: (PutBatch, borrowing Update<Key, Value>, Int) -> Bool) {
        var next = 0
        while next < updates.count {
            let end = min(next + PutBatch.capacity, updates.count)
            let batch = core.beginPut(count: end - next)
            for i in next..<end {
                // The one copy of it: what is in the array stays the caller's, this goes to the slot.
                let update = updates[i]
                if writeKey(batch, update, i) {
                    batch.payloads[batch.count].initializeMemory(as: Update<Key, Value>.self, to: update)
                    batch.commit()
                } else {
                    batch.refuse()
                }
            }
            finishPut(batch)
            next = end
        }
    }

    @inlinable
    func finishPut(_ batch: PutBatch) {
        core.put(batch)
        for i in 0..<batch.returned { Self.destroy(batch.backPayloads[i]) }
        let refused = core.endPut(batch)
        if !refused.isEmpty { report(refused) }
    }

    @usableFromInline
    func report(_ refused: [Int]) {
        guard let onRejection else { return }
        for length in refused {
            onRejection(DedupeBufferRejection(keyLength: length, maximumKeyLength: maximumKeyLength))
        }
    }

    /// Destroys what restarts dropped: all of it, unless it is much and a loop is there to do the rest.
    private func clearUp() {
        var steps = 0
        while core.hasGarbage && core.collect(Self.destroy) {
            steps += 1
            if steps == 64 && delivery.exists { return }
        }
    }
}
