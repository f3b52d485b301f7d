// SPDX-License-Identifier: Apache-2.0

internal import CDedupe

/// A batch that was taken, for its one owner.
@usableFromInline
final class TakenBatch {
    @exclusivity(unchecked) @usableFromInline var count = 0
    /// The payload of each item; `nil`: a status, or a deletion that nobody sent.
    @usableFromInline let payloads: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    let raw: UnsafeMutablePointer<cdedupe_item_t>
    let capacity: Int

    init(capacity: Int) {
        self.capacity = capacity
        raw = .allocate(capacity: capacity)
        payloads = .allocate(capacity: capacity)
    }

    /// In bytes.
    var memory: Int {
        capacity * (MemoryLayout<cdedupe_item_t>.stride + MemoryLayout<UnsafeMutableRawPointer?>.stride)
    }

    deinit {
        raw.deallocate()
        payloads.deallocate()
    }

    /// The status that item `i` is, or `nil`: it is an update.
    @usableFromInline
    func status(_ i: Int) -> SyncStatus? {
        raw[i].kind == UInt8(CDEDUPE_ITEM_STATUS.rawValue) ? SyncStatus(rawValue: raw[i].status)! : nil
    }

    @usableFromInline
    func updateType(_ i: Int) -> UpdateType {
        switch UInt32(raw[i].kind) {
        case CDEDUPE_ITEM_NEW.rawValue: .new
        case CDEDUPE_ITEM_UPDATED.rawValue: .updated
        default: .deleted
        }
    }

    /// How many items from `i` on are updates.
    @usableFromInline
    func runLength(from i: Int) -> Int {
        var end = i
        while end < count && raw[end].kind != UInt8(CDEDUPE_ITEM_STATUS.rawValue) { end += 1 }
        return end - i
    }

    /// The key's bytes; valid until the next batch is taken.
    @usableFromInline
    func keyBytes(_ i: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: raw[i].key, count: raw[i].key_length)
    }
}
