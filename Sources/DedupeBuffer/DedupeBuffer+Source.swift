// SPDX-License-Identifier: Apache-2.0

// The source's side: the calls of an upstream.

extension DedupeBuffer {
    /// Puts a status at the back of the queue.
    ///
    /// A status that equals the latest one received is dropped, unless it is the
    /// ``SyncStatus/inSync`` that ends a resync. A status that follows another status in the queue
    /// takes its place. After ``onConnectionRestarted()``, the next ``SyncStatus/inSync`` ends the
    /// resync: it first queues deletions for the keys that vanished. After ``stop()`` or
    /// `finish()`, and from an overflow to the restart that ends it, statuses are ignored.
    ///
    /// - Complexity: O(1); O(keys) for the first ``SyncStatus/inSync`` after a restart, in small
    ///   steps that let other callers in.
    public func onStatusUpdated(_ status: SyncStatus) {
        let end = status == .inSync ? observer?.nextEnd : nil
        let isAccepted = core.put(status)
        observer?.received(status, ending: isAccepted ? end : nil)
        clearUp()
    }

    /// Puts updates, in order.
    ///
    /// An update of a key that is pending replaces the pending update, in its place. Other updates
    /// go to the back of the queue. The deletion of a key whose value the sink has never got
    /// cancels that value. The buffer ignores the update types. The call never waits for the sink.
    ///
    /// After ``stop()`` every update is dropped. After `finish()` an update that would go to the
    /// back of the queue is dropped, and one that replaces a pending update is delivered.
    /// ``DedupeBufferStatistics/dropped`` counts.
    ///
    /// - Complexity: O(*n*) plus the keys' lengths, expected.
    @inlinable
    public func onUpdates(_ updates: [Update<Key, Value>]) {
        put(updates, of: nil)
    }

    /// Puts one update: `key` has this value now.
    ///
    /// The same as ``onUpdates(_:)`` with this update alone, without an array. A source that has
    /// several updates at hand passes them in one call of ``onUpdates(_:)``, which costs less for
    /// each.
    ///
    /// ```swift
    /// buffer.update("sensor/1", to: 20)
    /// buffer.remove("sensor/2")
    /// ```
    ///
    /// - Parameters:
    ///   - key: what the update is about.
    ///   - value: its new value.
    ///   - revision: the datastore's revision. 0 means "no revision".
    /// - Complexity: O(1) plus the key's length, expected.
    @inlinable
    public func update(_ key: Key, to value: Value, revision: UInt64 = 0) {
        if Key.isBuiltIn && core.putsSingly {
            return putSingle(Payload(revision: revision, value: .some(value))) { single in
                key.withKeyBytes { core.putSingle(&single, key: $0, deletion: false) }
            }
        }
        put(Update(key: key, value: .some(value), revision: revision), of: nil)
    }

    /// Puts one deletion: `key` is gone.
    ///
    /// The same as ``onUpdates(_:)`` with this deletion alone, without an array.
    ///
    /// - Parameters:
    ///   - key: what was deleted.
    ///   - revision: the datastore's revision. 0 means "no revision".
    /// - Complexity: O(1) plus the key's length, expected.
    @inlinable
    public func remove(_ key: Key, revision: UInt64 = 0) {
        if Key.isBuiltIn && core.putsSingly {
            return putSingle(Payload(revision: revision, value: nil)) { single in
                key.withKeyBytes { core.putSingle(&single, key: $0, deletion: true) }
            }
        }
        put(Update(key: key, value: nil, revision: revision), of: nil)
    }

    /// Puts updates whose keys' bytes are known already, as strings. Otherwise as
    /// ``onUpdates(_:)``.
    ///
    /// Prefer ``onUpdates(_:)`` unless the bytes are at hand. Bytes that are not those of the key
    /// end the program at the latest when the update is delivered, or they make two keys one.
    ///
    /// - Parameters:
    ///   - updates: the updates.
    ///   - keys: for each update the bytes of its key, exactly as `withKeyBytes` gives them, as
    ///     UTF-8. If a string is empty, or the array is shorter than `updates`, the buffer computes
    ///     the bytes.
    @inlinable
    public func onUpdatesKeysKnown(_ updates: [Update<Key, Value>], keys: [String]) {
        BorrowedUpdates.with(updates) { updates in
            putAll(updates, of: nil) { page, key, i in
                guard i < keys.count, !keys[i].isEmpty else { return key.withKeyBytes { page.write(key: $0) } }
                return keys[i].withKeyBytes { page.write(key: $0) }
            }
        }
        observer?.received(updates: updates.count, keysKnown: keys.count)
    }

    /// Puts updates whose keys' bytes are known already. Otherwise as ``onUpdates(_:)``. Prefer
    /// that unless the bytes are at hand.
    ///
    /// - Parameters:
    ///   - updates: the updates.
    ///   - keys: for each update the bytes of its key, exactly as `withKeyBytes` gives them. If the
    ///     bytes are empty, or the array is shorter than `updates`, the buffer computes them.
    @inlinable
    public func onUpdatesKeysKnown(_ updates: [Update<Key, Value>], keys: [[UInt8]]) {
        BorrowedUpdates.with(updates) { updates in
            putAll(updates, of: nil) { page, key, i in
                guard i < keys.count, !keys[i].isEmpty else { return key.withKeyBytes { page.write(key: $0) } }
                return keys[i].withKeyBytes { page.write(key: $0) }
            }
        }
        observer?.received(updates: updates.count, keysKnown: keys.count)
    }

    /// The source lost its connection and will send everything again.
    ///
    /// The buffer drops everything that is pending. At the next ``SyncStatus/inSync`` it deletes
    /// the keys that are live at the sink and that were not seen since the restart. The restart
    /// does not disturb a batch that is being delivered. It supersedes a resync of
    /// ``withResync(isolation:_:)`` that is under way.
    ///
    /// After ``stop()`` or `finish()` a restart is ignored, so that a finish still delivers what
    /// was received before it.
    ///
    /// - Complexity: O(1) under the lock. Afterwards this call destroys the dropped values in small
    ///   steps. If there are many, the loop does so when it has nothing else to do.
    public func onConnectionRestarted() {
        resyncs.restart()
        observer?.restarted()
        clearUp()
    }

    // MARK: - Implementation

    /// Puts updates, if `resync` is the current one, or is `nil`.
    @inlinable
    @inline(__always)
    func put(_ updates: [Update<Key, Value>], of resync: ResyncGate.ID?) {
        BorrowedUpdates.with(updates) { updates in
            putAll(updates, of: resync) { page, key, _ in key.withKeyBytes { page.write(key: $0) } }
        }
        observer?.received(updates: updates.count)
    }

    /// The same with one update, which lies on the stack and not in an array.
    @inlinable
    @inline(__always)
    func put(_ update: Update<Key, Value>, of resync: ResyncGate.ID?) {
        BorrowedUpdates.with(update) { update in
            putAll(update, of: resync) { page, key, _ in key.withKeyBytes { page.write(key: $0) } }
        }
        observer?.received(updates: 1)
    }

    /// Puts all updates, a chunk at a time. `writeKey` writes the key of an update, whose number it
    /// is told, to a batch.
    @inlinable
    @inline(__always)
    func putAll(
        _ updates: BorrowedUpdates<Key, Value>, of resync: ResyncGate.ID?,
        writeKey: (inout PutPage, borrowing Key, Int) -> Void
    ) {
        var hasOverflowed = false
        var rejected: [Int] = []
        var next = 0
        while next < updates.count {
            var end = min(next + PutBatch.capacity, updates.count)
            let batch = core.beginPut(count: end - next)
            var page = batch.page
            for i in next..<end where !fill(&page, updates, i, writeKey) {
                if page.nextLength == PutPage.noRoom {
                    end = i
                    break
                }
                batch.reject(keyLength: -page.nextLength)
            }
            batch.page = page
            if let resync { put(batch, of: resync) } else { core.put(batch) }
            hasOverflowed = hasOverflowed || batch.hasOverflowed
            rejected += endPut(batch)
            next = end
        }
        // Not before the last of the updates: what the handlers put comes after them.
        if !rejected.isEmpty { report(rejected) }
        if hasOverflowed { reportOverflow() }
    }

    /// Puts a chunk of a session's updates, or drops it if the session has ended.
    @inlinable
    func put(_ batch: PutBatch, of resync: ResyncGate.ID) {
        if resyncs.whileCurrent(resync, { core.put(batch) }) { return }
        for i in 0..<batch.count { batch.page.slots[i].destroy(Value.self) }
        core.drop(batch)
    }

    /// Writes update `i` into the batch. Returns false if its key is not there; the page says why.
    @inlinable
    @inline(__always)
    func fill(
        _ page: inout PutPage, _ updates: BorrowedUpdates<Key, Value>, _ i: Int,
        _ writeKey: (inout PutPage, borrowing Key, Int) -> Void
    ) -> Bool {
        page.nextLength = PutPage.missing
        page.nextPin = 0
        updates.withKey(i) { writeKey(&page, $0, i) }
        let keyLength = page.nextLength
        guard keyLength >= 0 else { return false }
        let slot = page.slots[page.count]
        slot.initialize(updates.payload(i))
        storage.values.weigh(slot)
        page.commit(keyLength: keyLength, deletion: updates.isDeletion(i))
        return true
    }

    @inlinable
    func endPut(_ batch: PutBatch) -> [Int] {
        for i in 0..<batch.returnedCount { batch.returned[i].destroy(Value.self) }
        return core.endPut(batch)
    }

    @usableFromInline
    func reportOverflow() {
        clearUp()
        observer?.overflowed()
        core.overflows.overflowed()
        onOverflow?()
    }

    @usableFromInline
    func report(_ rejected: [Int]) {
        guard let onRejection else { return }
        for length in rejected {
            onRejection(DedupeBufferConfiguration.Rejection(keyLength: length, maximumKeyLength: maximumKeyLength))
        }
    }

    /// Destroys what restarts and overflows dropped. If that is much and there is a loop, the loop
    /// does the rest.
    func clearUp() {
        var steps = 0
        while core.hasDropped && core.collect(Storage<Key, Value>.destroy) {
            steps += 1
            if steps == 64 && delivery.exists { return }
        }
    }
}
