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
        let first: UnsafeMutablePointer<SlotLink>
        let mask: UInt32

        /// - Parameter count: a power of two.
        init(_ count: Int) {
            // The system gives zeros only for what is used. So a large table is made at once.
            guard let memory = calloc(count, MemoryLayout<SlotLink>.stride) else {
                fatalError("DedupeBufferHub: no memory for the index")
            }
            first = memory.bindMemory(to: SlotLink.self, capacity: count)
            mask = UInt32(count - 1)
        }

        var count: Int { Int(mask) + 1 }

        func destroy() { free(first) }
    }

    private var buckets = Buckets(64)
    /// The smaller table, while it is being emptied.
    private var old: Buckets?
    /// The old table's buckets before this one are empty.
    private var moved: UInt32 = 0
    private(set) var count = 0

    deinit {
        buckets.destroy()
        old?.destroy()
    }

    var memory: Int { (buckets.count + (old?.count ?? 0)) * MemoryLayout<SlotLink>.stride }

    /// The slot of the key with these bytes.
    func find(_ bytes: UnsafeRawBufferPointer, hash: UInt32, in table: borrowing SlotTable) -> Slot? {
        var link = bucket(hash).pointee
        while link != 0 {
            let key = table.key(link - 1)
            if key.pointee.hash == hash, Int(key.pointee.length) == bytes.count,
                bytes.isEmpty || memcmp(key.pointee.bytes!, bytes.baseAddress!, bytes.count) == 0
            {
                return link - 1
            }
            link = key.pointee.next
        }
        return nil
    }

    /// Adds a slot, whose key is not there yet.
    mutating func insert(_ slot: Slot, _ bytes: UnsafeRawBufferPointer, hash: UInt32, in table: borrowing SlotTable) {
        let copy = UnsafeMutableRawPointer.allocate(byteCount: max(bytes.count, 1), alignment: 1)
        copy.copyMemory(from: bytes.baseAddress ?? UnsafeRawPointer(copy), byteCount: bytes.count)
        let (head, key) = (bucket(hash), table.key(slot))
        (key.pointee.bytes, key.pointee.length, key.pointee.hash) = (copy, UInt32(bytes.count), hash)
        (key.pointee.next, head.pointee) = (head.pointee, slot + 1)
        count += 1
        grow(table)
    }

    /// Takes a slot out, and returns the bytes that the caller frees.
    mutating func remove(_ slot: Slot, in table: borrowing SlotTable) -> UnsafeMutableRawPointer? {
        let key = table.key(slot)
        var link = bucket(key.pointee.hash)
        while link.pointee != slot + 1 {
            link = nextLink(table.key(link.pointee - 1))
        }
        link.pointee = key.pointee.next
        count -= 1
        defer { key.pointee.bytes = nil }
        return key.pointee.bytes
    }

    private func nextLink(_ key: UnsafeMutablePointer<SlotKey>) -> UnsafeMutablePointer<SlotLink> {
        let offset = MemoryLayout<SlotKey>.offset(of: \.next)!
        return (UnsafeMutableRawPointer(key) + offset).assumingMemoryBound(to: SlotLink.self)
    }

    private func bucket(_ hash: UInt32) -> UnsafeMutablePointer<SlotLink> {
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
        var link = old.first[Int(moved)]
        while link != 0 {
            let key = table.key(link - 1)
            let next = key.pointee.next
            let head = buckets.first + Int(key.pointee.hash & buckets.mask)
            (key.pointee.next, head.pointee) = (head.pointee, link)
            link = next
        }
        moved += 1
        guard moved == UInt32(old.count) else { return }
        old.destroy()
        self.old = nil
    }
}
