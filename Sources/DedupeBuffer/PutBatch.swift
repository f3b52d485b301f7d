// SPDX-License-Identifier: Apache-2.0

internal import CDedupe
internal import Synchronization

/// The longest key, in bytes.
@usableFromInline let maximumKeyLength = 65_536

/// A chunk of one call's updates: the bytes of their keys end to end, and slots for their payloads.
/// It is used again by later calls.
@usableFromInline
final class PutBatch: @unchecked Sendable {
    // Sendable: one call at a time owns it, and the pool in between. For the same reason accesses
    // need not be checked for overlapping, which would cost as much as they do.

    /// The most updates in one share: what the core does in one hold of its lock.
    @usableFromInline static let capacity = 100

    /// What is written for each update.
    @exclusivity(unchecked) @usableFromInline var page: PutPage

    @exclusivity(unchecked) @usableFromInline var hasOverflowed = false

    /// After the put: the payloads that came back, which the caller destroys.
    @usableFromInline let backPayloads: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    @exclusivity(unchecked) @usableFromInline var payloadsBack = 0
    /// The length of each key that was too long.
    @exclusivity(unchecked) @usableFromInline var refused: [Int] = []

    /// How many updates it has.
    @usableFromInline var count: Int { page.count }

    let updates: UnsafeMutablePointer<cdedupe_update_t>
    /// The first `slotCount` are free slots that belong to this batch, with their payloads' memory
    /// in `page.payloads`. It keeps them from call to call. During a call, the updates' payloads
    /// are in the first `count` of them.
    let slots: UnsafeMutablePointer<cdedupe_slot_t>
    let backSlots: UnsafeMutablePointer<cdedupe_slot_t>
    @exclusivity(unchecked) var slotCount = 0

    init() {
        page = PutPage()
        updates = .allocate(capacity: Self.capacity)
        // The core's reserved members must be zero, and `prepareUpdates()` leaves them alone.
        updates.initialize(repeating: cdedupe_update_t(), count: Self.capacity)
        slots = .allocate(capacity: Self.capacity)
        // An update can bring back its own payload and an older one.
        backPayloads = .allocate(capacity: 2 * Self.capacity)
        backSlots = .allocate(capacity: 2 * Self.capacity)
    }

    deinit {
        page.deallocate()
        updates.deallocate()
        slots.deallocate()
        backPayloads.deallocate()
        backSlots.deallocate()
    }

    func reset() {
        page.count = 0
        page.keysLength = 0
        payloadsBack = 0
        hasOverflowed = false
        if !refused.isEmpty { refused = [] }
    }

    /// After the put: keeps slots that came back, and whose payloads were destroyed, in place of
    /// those that the updates took, as many as there is room for.
    ///
    /// - Returns: how many of the slots that came back it keeps; the others are still to be
    ///   discarded.
    func keepReturnedSlots() -> Int {
        let unused = slotCount - count
        let kept = min(payloadsBack, Self.capacity - unused)
        if unused > 0 && kept != count {
            (slots + kept).update(from: slots + count, count: unused)
            (page.payloads + kept).update(from: page.payloads + count, count: unused)
        }
        if kept > 0 {
            slots.update(from: backSlots, count: kept)
            page.payloads.update(from: backPayloads, count: kept)
        }
        slotCount = kept + unused
        return kept
    }

    /// The next update cannot be: its key is too long. There is no payload.
    @usableFromInline
    func refuse(keyLength: Int) {
        precondition(keyLength > maximumKeyLength, "withKeyBytes must call its body")
        refused.append(keyLength)
    }

    /// The updates as the core wants them, now that the keys' memory has stopped moving.
    func prepareUpdates() {
        var keyStart = 0
        for i in 0..<count {
            updates[i].key = UnsafeRawPointer(page.keys + keyStart)
            updates[i].key_length = page.keyEnds[i] - keyStart
            updates[i].slot = slots[i]
            updates[i].deletion = page.deletions[i]
            keyStart = page.keyEnds[i]
        }
    }
}

/// What is written for each update of a batch: plain memory, and a struct, so that whoever writes
/// keeps it in registers and retains nothing.
@usableFromInline
struct PutPage {
    /// Where the payload of each update goes.
    @usableFromInline let payloads: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    @usableFromInline let deletions: UnsafeMutablePointer<Bool>
    /// How many updates are complete.
    @usableFromInline var count = 0

    /// The keys' bytes end to end, and where each ends.
    @usableFromInline var keys: UnsafeMutableRawPointer
    @usableFromInline let keyEnds: UnsafeMutablePointer<Int>
    @usableFromInline var keysCapacity = 8192
    @usableFromInline var keysLength = 0
    /// The length of the next update's key, which lies behind those that are complete; or
    /// ``missing``, or ``noRoom``; or the length, negative, of one that is too long.
    ///
    /// Kept here and not told by what the key's `withKeyBytes` returns: that is foreign code, which
    /// may call its body more than once, and return any of the answers.
    @usableFromInline var nextLength = missing

    /// Nothing was written yet.
    @inlinable static var missing: Int { -1 }
    /// It goes into the next share. So the keys of a share take no more than the longest key, and
    /// nothing has to be given back after a call with many long ones: the system's allocator would
    /// keep it.
    @inlinable static var noRoom: Int { -2 }

    init() {
        payloads = .allocate(capacity: PutBatch.capacity)
        deletions = .allocate(capacity: PutBatch.capacity)
        keyEnds = .allocate(capacity: PutBatch.capacity)
        keys = .allocate(byteCount: keysCapacity, alignment: 16)
    }

    func deallocate() {
        payloads.deallocate()
        deletions.deallocate()
        keyEnds.deallocate()
        keys.deallocate()
    }

    /// Writes the key of the next update, in place of what was written of it before: a key that
    /// calls its body twice is written twice, and what the last call brought is the key.
    @inlinable
    mutating func write(key: RawSpan) {
        let length = key.byteCount
        guard length <= maximumKeyLength else {
            nextLength = -length
            return
        }
        if keysLength + length > keysCapacity && !growKeys(for: length) {
            nextLength = Self.noRoom
            return
        }
        key.withUnsafeBytes { bytes in
            guard let source = bytes.baseAddress else { return }
            (keys + keysLength).copyMemory(from: source, byteCount: length)
        }
        nextLength = length
    }

    /// The next update is complete: its key of `keyLength` bytes was written, and its payload was
    /// constructed at `payloads[count]`.
    @inlinable
    mutating func commit(keyLength: Int, deletion: Bool) {
        keysLength += keyLength
        keyEnds[count] = keysLength
        deletions[count] = deletion
        count += 1
    }

    /// False: there is no room for that much.
    @usableFromInline
    mutating func growKeys(for length: Int) -> Bool {
        guard keysLength + length <= maximumKeyLength else { return false }
        let capacity = min(max(2 * keysCapacity, keysLength + length), maximumKeyLength)
        let grown = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
        grown.copyMemory(from: keys, byteCount: keysLength)
        keys.deallocate()
        keys = grown
        keysCapacity = capacity
        return true
    }
}

/// Batches that no call is using. Claimed and given back by single atomic exchanges.
final class PutBatchPool: @unchecked Sendable {
    // Sendable: places are atomic; a batch is in one place or with one call.

    /// As many calls as may usefully run at once. Beyond that batches are made and thrown away.
    private static let size = 32

    /// Each holds one batch, or nothing.
    private let places: UnsafeMutablePointer<Atomic<Unmanaged<PutBatch>?>>

    init() {
        places = .allocate(capacity: Self.size)
        for i in 0..<Self.size { (places + i).initialize(to: Atomic(nil)) }
    }

    deinit {
        for i in 0..<Self.size {
            places[i].exchange(nil, ordering: .acquiring)?.release()
            (places + i).deinitialize(count: 1)
        }
        places.deallocate()
    }

    func take() -> PutBatch {
        for i in 0..<Self.size where places[i].load(ordering: .relaxed) != nil {
            // Acquire, with the release in giveBack(): the batch as its last user left it.
            if let batch = places[i].exchange(nil, ordering: .acquiring) { return batch.takeRetainedValue() }
        }
        return PutBatch()
    }

    /// False: there is no place for the batch.
    func giveBack(_ batch: PutBatch) -> Bool {
        let retained = Unmanaged.passRetained(batch)
        for i in 0..<Self.size where places[i].load(ordering: .relaxed) == nil {
            if places[i].compareExchange(expected: nil, desired: retained, ordering: .releasing).exchanged {
                return true
            }
        }
        retained.release()
        return false
    }

    /// Calls `body` with each batch that no call is using.
    func withIdle(_ body: (PutBatch) -> Void) {
        for i in 0..<Self.size where places[i].load(ordering: .relaxed) != nil {
            // Acquire, with the release in giveBack(), as in take().
            guard let batch = places[i].exchange(nil, ordering: .acquiring)?.takeRetainedValue() else { continue }
            body(batch)
            _ = giveBack(batch)
        }
    }
}
