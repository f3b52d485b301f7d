// SPDX-License-Identifier: Apache-2.0

/// Updates on their way into the table: boxes, keys' bytes and hashes, made without a lock.
@usableFromInline
final class HubWrite: @unchecked Sendable {
    // Sendable: belongs to one call at a time.

    /// The most updates of one write: a writer keeps readers waiting for no more.
    @usableFromInline static let limit = 256

    struct Item {
        let box: Unmanaged<HubBox>
        let offset: Int
        let length: Int
        let hash: UInt32
        let isDeletion: Bool
        var slot: Slot?
    }

    var items: ContiguousArray<Item> = []
    /// Versions that newer ones displaced, and memory that is not needed any more. Released after
    /// the write, without a lock.
    var displaced: ContiguousArray<Unmanaged<HubBox>> = []
    var freed: ContiguousArray<UnsafeMutableRawPointer> = []
    private var bytes = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private var used = 0
    private var next = (length: 0, hash: UInt32(0), isWritten: false)

    @usableFromInline
    init() {}

    deinit {
        bytes.deallocate()
    }

    @usableFromInline var count: Int { items.count }

    /// Writes the key of the next update. The last call before ``add(_:isDeletion:)`` counts.
    @usableFromInline
    func writeKey(_ key: RawSpan) {
        key.withUnsafeBytes { key in
            reserve(key.count)
            if key.count > 0 { (bytes.baseAddress! + used).copyMemory(from: key.baseAddress!, byteCount: key.count) }
            var hasher = Hasher()
            hasher.combine(bytes: key)
            next = (key.count, UInt32(truncatingIfNeeded: hasher.finalize()), true)
        }
    }

    @usableFromInline
    func add(_ box: HubBox, isDeletion: Bool) {
        guard next.isWritten else {
            fatalError("DedupeBufferHub: withKeyBytes of a key did not call its argument")
        }
        let (length, hash, _) = next
        items.append(
            Item(
                box: .passRetained(box), offset: used, length: length, hash: hash, isDeletion: isDeletion, slot: nil))
        used += length
        next.isWritten = false
    }

    func key(_ item: Item) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[item.offset..<(item.offset + item.length)])
    }

    private func reserve(_ length: Int) {
        guard bytes.count - used < length else { return }
        let larger = UnsafeMutableRawBufferPointer.allocate(
            byteCount: max(used + length, 2 * bytes.count, 4096), alignment: 16)
        if used > 0 { larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<used])) }
        bytes.deallocate()
        bytes = larger
    }

    /// Releases what the write displaced. User code runs here: values end.
    func clear() {
        for box in displaced { box.release() }
        for memory in freed { memory.deallocate() }
        items.removeAll(keepingCapacity: true)
        displaced.removeAll(keepingCapacity: true)
        freed.removeAll(keepingCapacity: true)
        used = 0
    }

    /// Whether the scratch memory is small enough to keep for the next call.
    var isSmall: Bool { bytes.count <= 1 << 16 }
}
