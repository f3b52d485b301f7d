// SPDX-License-Identifier: Apache-2.0

internal import CDedupe

/// A batch that was taken, for its one owner.
@usableFromInline
final class TakenBatch {
    @exclusivity(unchecked) @usableFromInline var count = 0
    /// The payload of each item; `nil`: a status, or a deletion that nobody sent.
    @exclusivity(unchecked) @usableFromInline private(set) var payloads: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    @exclusivity(unchecked) private(set) var raw: UnsafeMutablePointer<cdedupe_item_t>
    private(set) var capacity: Int

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

    /// Makes room for as many items. The batch is empty.
    func reserve(_ needed: Int) {
        guard needed > capacity else { return }
        raw.deallocate()
        payloads.deallocate()
        (capacity, raw, payloads) = (needed, .allocate(capacity: needed), .allocate(capacity: needed))
    }

    /// Moves the items of `range` that `isLast` names behind all others of the batch. The order is
    /// kept otherwise. Returns how many items are before them.
    ///
    /// Only for updates: the core puts statuses back in the order in which they were taken.
    @usableFromInline
    func moveToEnd(_ range: Range<Int>, where isLast: (Int) -> Bool) -> Int {
        let moved = range.filter { status($0) == nil && isLast($0) }
        guard let first = moved.first else { return count }
        let items = moved.map { (raw[$0], payloads[$0]) }
        let last = Set(moved)
        var next = first
        for i in first..<count where !last.contains(i) {
            (raw[next], payloads[next]) = (raw[i], payloads[i])
            next += 1
        }
        for (i, item) in items.enumerated() { (raw[next + i], payloads[next + i]) = item }
        return next
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
