// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// The number of a key's place in the hub's table.
typealias Slot = UInt32

/// The revision of a slot's last change, and whether that change was a deletion. One word, so that
/// a scan reads 8 bytes for each slot.
struct Stamp: Equatable {
    private let word: UInt64

    init(_ revision: UInt64, isDeleted: Bool) { word = revision << 1 | (isDeleted ? 1 : 0) }

    var revision: UInt64 { word >> 1 }
    var isDeleted: Bool { word & 1 != 0 }
}

/// A slot in a list that runs through the slots: the slot's number and one. 0: none.
typealias SlotLink = UInt32

/// What the writer needs of a slot, and readers do not. Belongs to the writer.
struct SlotKey {
    var bytes: UnsafeMutableRawPointer?
    var length: UInt32 = 0
    var hash: UInt32 = 0
    /// The next slot of the index's bucket, or of the free slots.
    var next: SlotLink = 0
    /// The next slot of ``Retired``.
    var retired: SlotLink = 0
}

/// The keys and their newest values, in chunks that never move.
///
/// Guarded by the hub's read-write lock, except for `keys`, which belong to the writer.
struct SlotTable: ~Copyable {
    private struct Chunk {
        let stamps: UnsafeMutablePointer<Stamp>
        /// Since when the key has had values without a deletion between them.
        let births: UnsafeMutablePointer<UInt64>
        let boxes: UnsafeMutablePointer<Unmanaged<HubBox>?>
        /// How many subscribers have the key: it is live for them.
        let holders: UnsafeMutablePointer<Atomic<UInt32>>
        let keys: UnsafeMutablePointer<SlotKey>

        static let shift: UInt32 = 8
        static let size = 1 << Int(shift)
        static let bytes = size * (8 + 8 + 8 + 4 + MemoryLayout<SlotKey>.stride)

        init() {
            stamps = .allocate(capacity: Self.size)
            births = .allocate(capacity: Self.size)
            boxes = .allocate(capacity: Self.size)
            holders = .allocate(capacity: Self.size)
            keys = .allocate(capacity: Self.size)
            stamps.initialize(repeating: Stamp(0, isDeleted: true), count: Self.size)
            births.initialize(repeating: 0, count: Self.size)
            boxes.initialize(repeating: nil, count: Self.size)
            for i in 0..<Self.size { (holders + i).initialize(to: Atomic(0)) }
            keys.initialize(repeating: SlotKey(), count: Self.size)
        }

        func destroy() {
            for i in 0..<Self.size {
                boxes[i]?.release()
                keys[i].bytes?.deallocate()
            }
            stamps.deallocate()
            births.deallocate()
            boxes.deallocate()
            holders.deallocate()
            keys.deallocate()
        }
    }

    /// The most slots: change log entries have that many bits for a slot.
    static let limit = Slot(1) << 29

    private var chunks: UnsafeMutablePointer<Chunk>
    private var chunkCount = 0
    private var chunkCapacity = 16
    /// Slots that readers may look at: those before this one.
    private(set) var count: Slot = 0

    init() {
        chunks = .allocate(capacity: chunkCapacity)
    }

    deinit {
        for i in 0..<chunkCount { chunks[i].destroy() }
        chunks.deallocate()
    }

    var memory: Int { chunkCount * Chunk.bytes + chunkCapacity * MemoryLayout<Chunk>.stride }

    /// Makes room for the slots before `count`, which readers do not look at yet. Readers use the
    /// list of chunks meanwhile: the caller holds the lock as a writer.
    mutating func reserve(_ count: Slot) {
        while chunkCount << Chunk.shift < Int(count) {
            if chunkCount == chunkCapacity {
                let longer = UnsafeMutablePointer<Chunk>.allocate(capacity: 2 * chunkCapacity)
                longer.moveInitialize(from: chunks, count: chunkCount)
                chunks.deallocate()
                (chunks, chunkCapacity) = (longer, 2 * chunkCapacity)
            }
            (chunks + chunkCount).initialize(to: Chunk())
            chunkCount += 1
        }
    }

    func hasRoom(for count: Slot) -> Bool { chunkCount << Chunk.shift >= Int(count) }

    mutating func publish(_ count: Slot) { self.count = max(self.count, count) }

    @inline(__always)
    private func chunk(_ slot: Slot) -> Chunk { chunks[Int(slot >> Chunk.shift)] }

    @inline(__always)
    private func place(_ slot: Slot) -> Int { Int(slot) & (Chunk.size - 1) }

    @inline(__always)
    func stamp(_ slot: Slot) -> Stamp { chunk(slot).stamps[place(slot)] }

    @inline(__always)
    func setStamp(_ slot: Slot, _ stamp: Stamp) { chunk(slot).stamps[place(slot)] = stamp }

    @inline(__always)
    func birth(_ slot: Slot) -> UInt64 { chunk(slot).births[place(slot)] }

    @inline(__always)
    func setBirth(_ slot: Slot, _ revision: UInt64) { chunk(slot).births[place(slot)] = revision }

    /// The newest version. A slot that has had no key has none.
    @inline(__always)
    func box(_ slot: Slot) -> Unmanaged<HubBox>? { chunk(slot).boxes[place(slot)] }

    /// Returns the version before, which the caller releases without a lock.
    @inline(__always)
    func exchangeBox(_ slot: Slot, _ box: Unmanaged<HubBox>?) -> Unmanaged<HubBox>? {
        let before = chunk(slot).boxes[place(slot)]
        chunk(slot).boxes[place(slot)] = box
        return before
    }

    /// One more subscriber has the key. Readers do this, at the same time.
    @inline(__always)
    func addHolder(_ slot: Slot) { chunk(slot).holders[place(slot)].add(1, ordering: .relaxed) }

    @inline(__always)
    func removeHolder(_ slot: Slot) { chunk(slot).holders[place(slot)].subtract(1, ordering: .relaxed) }

    /// The caller holds the lock as a writer, so no reader changes the count.
    @inline(__always)
    func isHeld(_ slot: Slot) -> Bool { chunk(slot).holders[place(slot)].load(ordering: .relaxed) != 0 }

    @inline(__always)
    func key(_ slot: Slot) -> UnsafeMutablePointer<SlotKey> { chunk(slot).keys + place(slot) }
}
