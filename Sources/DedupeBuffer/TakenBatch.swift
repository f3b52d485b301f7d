// SPDX-License-Identifier: Apache-2.0

internal import CDedupe
internal import Synchronization

/// A batch that was taken, for its one owner.
@usableFromInline
final class TakenBatch {
    @exclusivity(unchecked) @usableFromInline var count = 0
    /// The slot of each item. `nil`: a status, or a synthesized deletion.
    @exclusivity(unchecked) @usableFromInline private(set) var slots: UnsafeArray<UnsafeSlot?>
    @exclusivity(unchecked) private(set) var items: UnsafeArray<cdedupe_item_t>

    /// How many items there is room for, as other threads may read it.
    private let room: Atomic<Int>

    init(capacity: Int) {
        items = UnsafeArray(capacity: capacity)
        slots = UnsafeArray(capacity: capacity)
        room = Atomic(capacity)
    }

    /// In bytes. Any thread may ask.
    var memory: Int {
        room.load(ordering: .relaxed) * (MemoryLayout<cdedupe_item_t>.stride + MemoryLayout<UnsafeSlot?>.stride)
    }

    deinit {
        items.deallocate()
        slots.deallocate()
    }

    /// Makes room for as many items. The batch is empty.
    func reserve(_ needed: Int) {
        guard needed > items.capacity else { return }
        items.deallocate()
        slots.deallocate()
        (items, slots) = (UnsafeArray(capacity: needed), UnsafeArray(capacity: needed))
        room.store(needed, ordering: .relaxed)
    }

    /// Moves the items of `range` that `isLast` names behind all others of the batch. The order is
    /// kept otherwise. Returns how many items are before them.
    ///
    /// Only for updates: the core puts statuses back in the order in which they were taken.
    @usableFromInline
    func moveToEnd(_ range: Range<Int>, where isLast: (Int) -> Bool) -> Int {
        let moved = range.filter { status($0) == nil && isLast($0) }
        guard let first = moved.first else { return count }
        let behind = moved.map { (items[$0], slots[$0]) }
        let last = Set(moved)
        var next = first
        for i in first..<count where !last.contains(i) {
            (items[next], slots[next]) = (items[i], slots[i])
            next += 1
        }
        for (i, item) in behind.enumerated() { (items[next + i], slots[next + i]) = item }
        return next
    }

    /// The status that item `i` is, or `nil`: it is an update.
    @usableFromInline
    func status(_ i: Int) -> SyncStatus? {
        items[i].kind == UInt8(CDEDUPE_ITEM_STATUS.rawValue) ? SyncStatus(rawValue: items[i].status)! : nil
    }

    @usableFromInline
    func updateType(_ i: Int) -> UpdateType {
        switch UInt32(items[i].kind) {
        case CDEDUPE_ITEM_NEW.rawValue: .new
        case CDEDUPE_ITEM_UPDATED.rawValue: .updated
        default: .deleted
        }
    }

    /// How many items from `i` on are updates.
    @usableFromInline
    func runLength(from i: Int) -> Int {
        var end = i
        while end < count && items[end].kind != UInt8(CDEDUPE_ITEM_STATUS.rawValue) { end += 1 }
        return end - i
    }

    /// The key's bytes, which are valid until the next batch is taken.
    @usableFromInline
    func keyBytes(_ i: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: items[i].key, count: items[i].key_length)
    }
}
