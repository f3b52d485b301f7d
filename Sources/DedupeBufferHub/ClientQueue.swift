// SPDX-License-Identifier: Apache-2.0

internal import DedupeBuffer

/// What a subscriber has to be told, in order: slots and statuses, 4 bytes each.
///
/// A key can leave the queue from the middle. Its entry stays and is *stale*: it is passed over
/// when its turn comes. Of several entries of one slot only the last is not stale, so it is enough
/// to count the stale ones of each slot.
struct ClientQueue: ~Copyable {
    /// Entries lie behind the header.
    private struct Block {
        var next: UnsafeMutablePointer<Block>?
        var capacity: Int

        static func make(_ capacity: Int) -> UnsafeMutablePointer<Block> {
            let raw = UnsafeMutableRawPointer.allocate(
                byteCount: MemoryLayout<Block>.stride + 4 * capacity, alignment: MemoryLayout<Block>.alignment)
            let block = raw.bindMemory(to: Block.self, capacity: 1)
            block.initialize(to: Block(next: nil, capacity: capacity))
            return block
        }
    }

    private var front: UnsafeMutablePointer<Block>?
    private var frontIndex = 0
    private var back: UnsafeMutablePointer<Block>?
    private var backCount = 0
    private var stale: [Slot: UInt32] = [:]
    private(set) var staleCount = 0
    private(set) var statusCount = 0
    /// Entries that were ever taken out, the stale ones too.
    private(set) var popped: UInt64 = 0
    /// Entries that were ever put in.
    private(set) var pushed: UInt64 = 0

    deinit {
        removeAllBlocks()
    }

    private func removeAllBlocks() {
        var block = front
        while let current = block {
            block = current.pointee.next
            UnsafeMutableRawPointer(current).deallocate()
        }
    }

    private mutating func free(_ block: UnsafeMutablePointer<Block>) {
        blockBytes -= MemoryLayout<Block>.stride + 4 * block.pointee.capacity
        UnsafeMutableRawPointer(block).deallocate()
    }

    /// Entries in the queue that are not stale.
    var count: Int { Int(pushed - popped) - staleCount }
    var isEmpty: Bool { count == 0 }

    private var blockBytes = 0
    var memory: Int { blockBytes + stale.capacity * 12 }

    private static func entries(_ block: UnsafeMutablePointer<Block>) -> UnsafeMutablePointer<Change> {
        (UnsafeMutableRawPointer(block) + MemoryLayout<Block>.stride).assumingMemoryBound(to: Change.self)
    }

    // MARK: - At the back

    mutating func append(_ entry: Change) {
        if back == nil || backCount == back!.pointee.capacity { addBlock() }
        (Self.entries(back!) + backCount).initialize(to: entry)
        backCount += 1
        pushed += 1
    }

    /// A status that follows a status takes its place.
    mutating func append(_ status: SyncStatus) {
        if pushed > popped, let back, Self.entries(back)[backCount - 1].status != nil {
            Self.entries(back)[backCount - 1] = Change(status: status)
        } else {
            append(Change(status: status))
            statusCount += 1
        }
    }

    /// The key leaves the queue.
    mutating func leave(_ slot: Slot) {
        stale[slot, default: 0] += 1
        staleCount += 1
    }

    /// Blocks become larger with the queue: 128 bytes, 1 KiB and 4 KiB.
    private mutating func addBlock() {
        let length = Int(pushed - popped)
        let block = Block.make(length < 28 ? 28 : length < 1000 ? 252 : 1020)
        blockBytes += MemoryLayout<Block>.stride + 4 * block.pointee.capacity
        if let back { back.pointee.next = block } else { (front, frontIndex) = (block, 0) }
        (back, backCount) = (block, 0)
    }

    // MARK: - At the front

    /// The first entry. ``settleFront(_:)`` has said that it counts.
    var first: Change? { pushed > popped ? Self.entries(front!)[frontIndex] : nil }

    /// Brings the first entry that counts to the front. Stale ones go, and so does a status with
    /// nothing but stale entries between it and another status.
    ///
    /// Looks at `left` entries at most, and takes what it has looked at from it. Returns false if
    /// there are more to look at.
    mutating func settleFront(_ left: inout Int) -> Bool {
        while let entry = first {
            guard left > 0 else { return false }
            left -= 1
            if takeStale(entry) {
                removeEntry()
                continue
            }
            guard entry.status != nil, let next = second else { return true }
            if next.pointee.status == nil {
                guard takeStale(next.pointee) else { return true }
                // The status goes on in the stale entry's place.
                next.pointee = entry
            } else {
                statusCount -= 1
            }
            removeEntry()
        }
        return true
    }

    /// The entry behind the first one.
    private var second: UnsafeMutablePointer<Change>? {
        guard pushed > popped + 1, let front else { return nil }
        let (block, index) =
            frontIndex + 1 < front.pointee.capacity ? (front, frontIndex + 1) : (front.pointee.next!, 0)
        return Self.entries(block) + index
    }

    /// If the entry is stale, it does not count as one of the stale ones any more.
    private mutating func takeStale(_ entry: Change) -> Bool {
        guard staleCount > 0, entry.status == nil, let number = stale[entry.slot] else { return false }
        stale[entry.slot] = number == 1 ? nil : number - 1
        staleCount -= 1
        return true
    }

    /// Removes the first entry, which counts.
    mutating func removeFirst() {
        if first?.status != nil { statusCount -= 1 }
        removeEntry()
    }

    private mutating func removeEntry() {
        popped += 1
        frontIndex += 1
        guard popped < pushed else { return removeAll() }
        guard frontIndex == front!.pointee.capacity else { return }
        let next = front!.pointee.next
        free(front!)
        (front, frontIndex) = (next, 0)
    }

    /// Forgets everything, and gives back all memory.
    mutating func removeAll() {
        removeAllBlocks()
        (front, frontIndex, back, backCount, blockBytes) = (nil, 0, nil, 0, 0)
        (stale, staleCount, statusCount, popped) = ([:], 0, 0, pushed)
    }

    // MARK: - Stale entries

    /// Whether there are many stale entries: more than `slack` and an eighth of the keys.
    ///
    /// Between two statuses there is a key or a stale entry. So the statuses, too, are not many
    /// more than the keys.
    func isWorthCompacting(slack: Int) -> Bool { staleCount > slack + (count - statusCount) / 8 }

    /// Makes room for stale entries, if there are so many that making room takes long. Then the
    /// next step does not have to do it while it has the lock.
    mutating func reserveStale(_ more: Int) {
        if stale.count > 8192 { stale.reserveCapacity(stale.count + more) }
    }

    /// Removes the stale entries, and statuses that are followed by a status then. Returns how many
    /// entries there are before each of the two `marks`, which count as ``popped`` and ``pushed``
    /// do. A status that takes an earlier one's place is before a mark if the earlier one was.
    mutating func compact(_ marks: (UInt64, UInt64)) -> (UInt64, UInt64) {
        var (block, index) = (front, frontIndex)
        (front, back) = (nil, nil)
        var (remaining, position, result) = (stale, popped, marks)
        let end = pushed
        pushed = popped
        if marks.0 >= position { result.0 = position }
        if marks.1 >= position { result.1 = position }
        (stale, staleCount, statusCount) = ([:], 0, 0)
        while position < end, let current = block {
            let entry = Self.entries(current)[index]
            if let status = entry.status {
                append(status)
            } else if let number = remaining[entry.slot] {
                remaining[entry.slot] = number == 1 ? nil : number - 1
            } else {
                append(entry)
            }
            (position, index) = (position + 1, index + 1)
            if position <= marks.0 { result.0 = pushed }
            if position <= marks.1 { result.1 = pushed }
            if index == current.pointee.capacity || position == end {
                block = current.pointee.next
                index = 0
                free(current)
            }
        }
        return result
    }
}
