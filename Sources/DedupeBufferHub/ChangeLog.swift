// SPDX-License-Identifier: Apache-2.0

internal import DedupeBuffer

/// One change of the hub, in 4 bytes: a slot, or a status.
struct Change {
    let word: UInt32

    private static let statusBit = UInt32(1) << 31
    private static let deletionBit = UInt32(1) << 30
    private static let birthBit = UInt32(1) << 29

    init(word: UInt32) { self.word = word }

    init(status: SyncStatus) { word = Self.statusBit | UInt32(status.rawValue) }

    init(_ slot: Slot) { word = slot }

    /// The key got a value, and had none before.
    init(birthOf slot: Slot) { word = slot | Self.birthBit }

    init(deletionOf slot: Slot) { word = slot | Self.deletionBit }

    var status: SyncStatus? {
        word & Self.statusBit == 0 ? nil : SyncStatus(rawValue: UInt8(truncatingIfNeeded: word))
    }
    var slot: Slot { word & (Self.birthBit - 1) }
    var isBirth: Bool { word & Self.birthBit != 0 }
    var isDeletion: Bool { word & Self.deletionBit != 0 }
}

/// The latest changes, in a ring. The change with revision *r* is the *r*-th one of the hub.
///
/// The ring grows with the table, so that a subscriber that it has lapped has missed at least as
/// many changes as its scan looks at slots. Growing copies nothing: the old ring stays readable
/// until the new one is full.
///
/// Guarded by the hub's read-write lock.
struct ChangeLog: ~Copyable {
    private var ring: UnsafeMutablePointer<Change>
    private var capacity: Int
    /// The revisions after this one are in `ring`, those up to it in the older ring.
    private var start: UInt64 = 0
    private var older: UnsafeMutablePointer<Change>?
    private var olderCapacity = 0
    private var olderStart: UInt64 = 0
    /// The latest change's revision. 0: there was none.
    private(set) var head: UInt64 = 0

    /// - Parameter capacity: a power of two.
    init(capacity: Int) {
        self.capacity = capacity
        ring = .allocate(capacity: capacity)
    }

    deinit {
        ring.deallocate()
        older?.deallocate()
    }

    var memory: Int { (capacity + olderCapacity) * MemoryLayout<Change>.stride }

    /// The earliest revision that can be read. Greater than `head` if none can.
    var oldest: UInt64 {
        let inRing = head >= capacity ? head - UInt64(capacity) + 1 : 1
        guard inRing <= start else { return inRing }
        guard older != nil else { return start + 1 }
        // The older ring may have been replaced before it was full.
        return max(olderStart, start >= olderCapacity ? start - UInt64(olderCapacity) : 0) + 1
    }

    /// How many changes can be read.
    var length: Int { Int(head + 1 - oldest) }

    /// The change with this revision, which is not earlier than `oldest`.
    @inline(__always)
    subscript(_ revision: UInt64) -> Change {
        revision > start
            ? ring[Int(truncatingIfNeeded: revision) & (capacity - 1)]
            : older.unsafelyUnwrapped[Int(truncatingIfNeeded: revision) & (olderCapacity - 1)]
    }

    /// Appends a change, and returns its revision.
    mutating func append(_ change: Change) -> UInt64 {
        head += 1
        (ring + (Int(truncatingIfNeeded: head) & (capacity - 1))).initialize(to: change)
        return head
    }

    /// Whether the ring is smaller than a table of that many slots.
    func isSmaller(than slots: Slot) -> Bool { capacity < Int(slots) }

    /// Doubles the ring. Returns the memory that the caller frees without a lock.
    mutating func grow() -> UnsafeMutablePointer<Change>? {
        let unneeded = older
        (older, olderCapacity, olderStart, start) = (ring, capacity, start, head)
        capacity *= 2
        ring = .allocate(capacity: capacity)
        return unneeded
    }

    /// Gives up the older ring when the new one has been filled. Returns the memory that the caller
    /// frees without a lock.
    mutating func takeUnneeded() -> UnsafeMutablePointer<Change>? {
        guard let unneeded = older, head - start >= UInt64(capacity) else { return nil }
        (older, olderCapacity) = (nil, 0)
        return unneeded
    }
}
