// SPDX-License-Identifier: Apache-2.0

internal import CDedupe

/// A batch that was taken, for its one owner.
@usableFromInline
final class TakenBatch {
    @exclusivity(unchecked) @usableFromInline var count = 0
    /// The slot of each item. `nil`: a status, or a deletion that nobody sent.
    @usableFromInline let slots: UnsafeArray<UnsafeSlot?>
    let items: UnsafeArray<cdedupe_item_t>

    init(capacity: Int) {
        items = UnsafeArray(capacity: capacity)
        slots = UnsafeArray(capacity: capacity)
    }

    /// In bytes.
    var memory: Int {
        items.capacity * (MemoryLayout<cdedupe_item_t>.stride + MemoryLayout<UnsafeSlot?>.stride)
    }

    deinit {
        items.deallocate()
        slots.deallocate()
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
