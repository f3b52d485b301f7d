// SPDX-License-Identifier: Apache-2.0

#if canImport(Darwin)
internal import Darwin
#elseif canImport(Musl)
internal import Musl
#else
internal import Glibc
#endif

/// From a key's bytes to its slot: a hash table whose chains run through the slots.
///
/// It grows in steps: each insertion moves some buckets, and meanwhile there are two tables.
/// Belongs to the writer.
struct SlotIndex: ~Copyable {
    private struct Buckets {
        let first: UnsafeMutablePointer<Slot>
        let mask: UInt32

        init(_ count: Int) {
            first = .allocate(capacity: count)
            // Readable: a large block of ones is as quick to make as one of zeros is not.
            first.initialize(repeating: none, count: count)
            mask = UInt32(count - 1)
        }

        var count: Int { Int(mask) + 1 }
    }

    private static let none = Slot.max

    private var buckets = Buckets(64)
    /// The smaller table, while it is being emptied.
    private var old: Buckets?
    /// The old table's buckets before this one are empty.
    private var moved: UInt32 = 0
    private(set) var count = 0

    deinit {
        buckets.first.deallocate()
        old?.first.deallocate()
    }

    var memory: Int { (buckets.count + (old?.count ?? 0)) * MemoryLayout<Slot>.stride }

    /// The slot of the key with these bytes.
    func find(_ bytes: UnsafeRawBufferPointer, hash: UInt32, in table: borrowing SlotTable) -> Slot? {
        var slot = bucket(hash).pointee
        while slot != Self.none {
            let key = table.key(slot)
            if key.pointee.hash == hash, Int(key.pointee.length) == bytes.count,
                bytes.isEmpty || memcmp(key.pointee.bytes!, bytes.baseAddress!, bytes.count) == 0
            {
                return slot
            }
            slot = key.pointee.next
        }
        return nil
    }

    /// Adds a slot, whose key is not there yet.
    mutating func insert(_ slot: Slot, _ bytes: UnsafeRawBufferPointer, hash: UInt32, in table: borrowing SlotTable) {
        let copy = UnsafeMutableRawPointer.allocate(byteCount: max(bytes.count, 1), alignment: 1)
        copy.copyMemory(from: bytes.baseAddress ?? UnsafeRawPointer(copy), byteCount: bytes.count)
        let head = bucket(hash)
        table.key(slot).pointee = SlotKey(
            bytes: copy, length: UInt32(bytes.count), hash: hash, next: head.pointee)
        head.pointee = slot
        count += 1
        grow(table)
    }

    /// Takes a slot out, and returns the bytes that the caller frees.
    mutating func remove(_ slot: Slot, in table: borrowing SlotTable) -> UnsafeMutableRawPointer? {
        let key = table.key(slot)
        var link = bucket(key.pointee.hash)
        while link.pointee != slot {
            link = nextLink(table.key(link.pointee))
        }
        link.pointee = key.pointee.next
        count -= 1
        defer { key.pointee.bytes = nil }
        return key.pointee.bytes
    }

    private func nextLink(_ key: UnsafeMutablePointer<SlotKey>) -> UnsafeMutablePointer<Slot> {
        let offset = MemoryLayout<SlotKey>.offset(of: \.next)!
        return (UnsafeMutableRawPointer(key) + offset).assumingMemoryBound(to: Slot.self)
    }

    private func bucket(_ hash: UInt32) -> UnsafeMutablePointer<Slot> {
        if let old, hash & old.mask >= moved { return old.first + Int(hash & old.mask) }
        return buckets.first + Int(hash & buckets.mask)
    }

    // MARK: - Growing

    /// Moves two buckets, of the smaller table. So the table has grown before it is full again.
    private mutating func grow(_ table: borrowing SlotTable) {
        if old == nil {
            guard count > buckets.count else { return }
            (old, moved) = (buckets, 0)
            buckets = Buckets(2 * buckets.count)
        }
        for _ in 0..<2 { moveBucket(table) }
    }

    private mutating func moveBucket(_ table: borrowing SlotTable) {
        guard let old else { return }
        var slot = old.first[Int(moved)]
        while slot != Self.none {
            let key = table.key(slot)
            let next = key.pointee.next
            let head = buckets.first + Int(key.pointee.hash & buckets.mask)
            (key.pointee.next, head.pointee) = (head.pointee, slot)
            slot = next
        }
        moved += 1
        guard moved == UInt32(old.count) else { return }
        old.first.deallocate()
        self.old = nil
    }
}
