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

    /// The most updates in one chunk: as many as the core puts before it yields its lock.
    @usableFromInline static let capacity = 100

    /// What is written for each update. The first `slotCount` of its slots are free and belong to
    /// this batch, which keeps them from call to call. During a call, the updates' payloads are in
    /// the first `count` of them.
    @exclusivity(unchecked) @usableFromInline var page: PutPage
    @exclusivity(unchecked) var slotCount = 0

    /// After the put: the slots whose payloads came back, which the caller destroys.
    @usableFromInline let returned: UnsafeSlots
    @exclusivity(unchecked) @usableFromInline var returnedCount = 0

    @exclusivity(unchecked) @usableFromInline var hasOverflowed = false
    /// The length of each key that was too long.
    @exclusivity(unchecked) @usableFromInline var rejected: [Int] = []

    /// How many updates it has.
    @usableFromInline var count: Int { page.count }

    /// The updates as the core takes them.
    let updates: UnsafeArray<cdedupe_update_t>

    init() {
        page = PutPage()
        // The core's reserved member must be zero, and `prepareUpdates()` leaves it alone.
        updates = UnsafeArray(repeating: cdedupe_update_t(), capacity: Self.capacity)
        // An update can bring back its own payload and an older one.
        returned = UnsafeSlots(capacity: 2 * Self.capacity)
    }

    deinit {
        page.deallocate()
        updates.deallocate()
        returned.deallocate()
    }

    func reset() {
        page.count = 0
        page.keysLength = 0
        returnedCount = 0
        hasOverflowed = false
        if !rejected.isEmpty { rejected = [] }
    }

    /// After the put: keeps slots that came back, and whose payloads were destroyed, in the place
    /// of those that the updates took, as many as there is room for.
    ///
    /// - Returns: how many of the slots that came back it keeps. The caller discards the others.
    func keepReturnedSlots() -> Int {
        let unused = slotCount - count
        let kept = min(returnedCount, Self.capacity - unused)
        if unused > 0 && kept != count { page.slots.copy(unused, of: page.slots, from: count, to: kept) }
        if kept > 0 { page.slots.copy(kept, of: returned, from: 0, to: 0) }
        slotCount = kept + unused
        return kept
    }

    /// The next update cannot be put, because its key is too long. There is no payload.
    @usableFromInline
    func reject(keyLength: Int) {
        precondition(keyLength > maximumKeyLength, "withKeyBytes must call its body")
        rejected.append(keyLength)
    }

    /// Writes the updates as the core takes them, now that the keys' memory has stopped moving.
    func prepareUpdates() {
        var keyStart = 0
        for i in 0..<count {
            updates.update(i) { update in
                update.key = page.keys.pointer(at: keyStart)
                update.key_length = page.keyEnds[i] - keyStart
                update.slot = page.slots.handles[i]
                update.pin = page.pins[i]
                update.deletion = page.deletions[i]
            }
            keyStart = page.keyEnds[i]
        }
    }
}

/// What is written for each update of a batch. It is a struct of plain memory, so that the code
/// that writes keeps it in registers and retains nothing.
@usableFromInline
struct PutPage {
    /// Where the payload of each update goes.
    @usableFromInline let slots: UnsafeSlots
    @usableFromInline let deletions: UnsafeArray<Bool>
    /// The core's names of pins, or zero where the key names the update.
    @usableFromInline let pins: UnsafeArray<UInt32>
    /// How many updates are complete.
    @usableFromInline var count = 0

    /// The keys' bytes end to end, and where each ends.
    @usableFromInline var keys: UnsafeBytes
    @usableFromInline let keyEnds: UnsafeArray<Int>
    @usableFromInline var keysLength = 0
    /// The length of the next update's key, which lies behind those that are complete. Otherwise
    /// ``missing`` or ``noRoom``, or the negative length of a key that is too long.
    ///
    /// The page keeps the length, because what the key's `withKeyBytes` returns does not say it:
    /// that is the user's code, which may call its body more than once.
    @usableFromInline var nextLength = missing
    @usableFromInline var nextPin: UInt32 = 0

    /// Nothing was written yet.
    @inlinable static var missing: Int { -1 }
    /// The update goes into the next chunk. So the keys of a chunk take no more memory than the
    /// longest key, and a call with many long keys leaves no large memory behind.
    @inlinable static var noRoom: Int { -2 }

    init() {
        slots = UnsafeSlots(capacity: PutBatch.capacity)
        deletions = UnsafeArray(capacity: PutBatch.capacity)
        pins = UnsafeArray(capacity: PutBatch.capacity)
        keyEnds = UnsafeArray(capacity: PutBatch.capacity)
        keys = UnsafeBytes(capacity: 8192)
    }

    func deallocate() {
        slots.deallocate()
        deletions.deallocate()
        pins.deallocate()
        keyEnds.deallocate()
        keys.deallocate()
    }

    /// Writes the key of the next update, in the place of what was written of it before. A key
    /// that calls its body twice is written twice, and the last call counts.
    @inlinable
    mutating func write(key: RawSpan) {
        let length = key.byteCount
        guard length <= maximumKeyLength else {
            nextLength = -length
            return
        }
        if keysLength + length > keys.capacity && !growKeys(for: length) {
            nextLength = Self.noRoom
            return
        }
        keys.write(key, at: keysLength)
        nextLength = length
    }

    /// The next update is named by a pin, in the place of a key.
    @inlinable
    mutating func write(pin: UInt32) {
        nextPin = pin
        nextLength = 0
    }

    /// The next update is complete: its key of `keyLength` bytes was written, and its payload was
    /// constructed in `slots[count]`.
    @inlinable
    mutating func commit(keyLength: Int, deletion: Bool) {
        keysLength += keyLength
        keyEnds[count] = keysLength
        deletions[count] = deletion
        pins[count] = nextPin
        count += 1
    }

    /// False: there is no room for that much.
    @usableFromInline
    mutating func growKeys(for length: Int) -> Bool {
        guard keysLength + length <= maximumKeyLength else { return false }
        let capacity = min(max(2 * keys.capacity, keysLength + length), maximumKeyLength)
        keys.grow(to: capacity, keeping: keysLength)
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
