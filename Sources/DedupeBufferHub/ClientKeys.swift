// SPDX-License-Identifier: Apache-2.0

/// What a subscriber knows of each slot: two bits, and one more if it has a filter.
struct ClientKeys: ~Copyable {
    /// The words of 64 slots lie side by side.
    private var words: UnsafeMutablePointer<UInt64>
    /// 2 or 3.
    private let stride: Int
    /// How many slots there is room for.
    private(set) var capacity: Slot = 0

    init(isFiltering: Bool) {
        stride = isFiltering ? 3 : 2
        words = .allocate(capacity: 0)
    }

    deinit {
        words.deallocate()
    }

    var memory: Int { Int(capacity) / 64 * stride * 8 }

    /// Makes room for `count` slots, and for some more so that growing costs little on average.
    mutating func grow(to count: Slot) {
        guard count > capacity else { return }
        let wanted = (Int(count) + Int(count) / 8 + 63) / 64
        let (before, after) = (Int(capacity) / 64 * stride, wanted * stride)
        let larger = UnsafeMutablePointer<UInt64>.allocate(capacity: after)
        larger.moveInitialize(from: words, count: before)
        (larger + before).initialize(repeating: 0, count: after - before)
        words.deallocate()
        (words, capacity) = (larger, Slot(wanted * 64))
    }

    mutating func removeAll() {
        words.deallocate()
        words = .allocate(capacity: 0)
        capacity = 0
    }

    @inline(__always)
    private func word(_ slot: Slot, _ kind: Int) -> UnsafeMutablePointer<UInt64> {
        words + (Int(slot >> 6) * stride + kind)
    }

    @inline(__always)
    private func bit(_ slot: Slot) -> UInt64 { 1 << UInt64(slot & 63) }

    /// The key is in the queue.
    @inline(__always)
    func isPending(_ slot: Slot) -> Bool { word(slot, 0).pointee & bit(slot) != 0 }

    @inline(__always)
    func setPending(_ slot: Slot) { word(slot, 0).pointee |= bit(slot) }

    @inline(__always)
    func clearPending(_ slot: Slot) { word(slot, 0).pointee &= ~bit(slot) }

    /// The subscriber has a value of the key, and counts as a holder of the slot.
    @inline(__always)
    func isLive(_ slot: Slot) -> Bool { word(slot, 1).pointee & bit(slot) != 0 }

    @inline(__always)
    func setLive(_ slot: Slot) { word(slot, 1).pointee |= bit(slot) }

    @inline(__always)
    func clearLive(_ slot: Slot) { word(slot, 1).pointee &= ~bit(slot) }

    /// The filter does not want the key.
    @inline(__always)
    func isRejected(_ slot: Slot) -> Bool { stride == 3 && word(slot, 2).pointee & bit(slot) != 0 }

    @inline(__always)
    func setRejected(_ slot: Slot) { word(slot, 2).pointee |= bit(slot) }

    @inline(__always)
    func clearRejected(_ slot: Slot) { if stride == 3 { word(slot, 2).pointee &= ~bit(slot) } }

    /// Clears the live bits of up to 64 slots, beginning with a multiple of 64, and calls `body`
    /// for those that had one.
    func takeLive(from slot: Slot, _ body: (Slot) -> Void) {
        let live = word(slot, 1)
        while live.pointee != 0 {
            let position = UInt32(live.pointee.trailingZeroBitCount)
            live.pointee &= live.pointee - 1
            body(slot + position)
        }
    }
}
