// SPDX-License-Identifier: Apache-2.0

/// The latest deletions, which subscribers that come back may have to be told of.
///
/// While a deletion is here, its slot keeps its key. Guarded by the hub's read-write lock.
struct Tombstones: ~Copyable {
    /// One life of a key: it had values from `birth` on, and was deleted at `death`.
    struct Life {
        let slot: Slot
        let birth: UInt64
        let death: UInt64
        /// When the key was deleted, on the hub's clock.
        let time: Duration
    }

    private let ring: UnsafeMutablePointer<Life>
    private let capacity: Int
    /// The number of the earliest life; each later one has the next number.
    private(set) var first = 0
    /// The number that the next life gets.
    private(set) var end = 0
    /// Deletions up to this revision may have been forgotten.
    private(set) var horizon: UInt64 = 0

    /// - Parameter maximum: the most deletions that are in it at once. The system gives memory only
    ///   for those that there were.
    init(maximum: Int) {
        capacity = maximum.roundedUpToPowerOfTwo
        ring = .allocate(capacity: capacity)
    }

    deinit {
        ring.deallocate()
    }

    var count: Int { end - first }
    var memory: Int { min(end, capacity) * MemoryLayout<Life>.stride }

    subscript(_ number: Int) -> Life { ring[number & (capacity - 1)] }

    mutating func append(_ life: Life) {
        (ring + (end & (capacity - 1))).initialize(to: life)
        end += 1
    }

    /// Forgets the earliest deletion, and returns it.
    mutating func forgetFirst() -> Life {
        let life = self[first]
        first += 1
        horizon = life.death
        return life
    }

    /// The number of the earliest life that ended after a revision.
    func firstEnded(after revision: UInt64) -> Int {
        var (low, high) = (first, end)
        while low < high {
            let middle = low + (high - low) / 2
            if self[middle].death > revision { high = middle } else { low = middle + 1 }
        }
        return low
    }
}

extension Int {
    /// The least power of two that is not less; for 1 and more.
    var roundedUpToPowerOfTwo: Int { self <= 1 ? 1 : 1 << (Int.bitWidth - (self - 1).leadingZeroBitCount) }
}
