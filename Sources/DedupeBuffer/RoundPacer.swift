// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// Rounds of delivery that begin no more often than once in an interval.
///
/// A round is what was pending when it began: batches until one is not full, or until a key comes
/// up that the round has had. Times are counted from any fixed moment.
struct RoundPacer {
    private let interval: Duration
    private var began: Duration?
    private var isOver = true
    /// Hashes of the round's keys. Two keys with one hash end the round early, which is harmless.
    private var keys: Set<Int> = []

    init(interval: Duration) { self.interval = interval }

    /// How long the next batch has to wait. `nil`: it can be taken now.
    func delay(at now: Duration) -> Duration? {
        guard isOver, let began, now - began < interval else { return nil }
        return interval - (now - began)
    }

    /// A batch was taken, whose items have these hashes; a status has none. Returns how many of the
    /// items belong to the round. The others have to be put back.
    mutating func took(_ hashes: some Sequence<Int?>, isFull: Bool, at now: Duration) -> Int {
        if isOver || now - (began ?? now) >= interval { begin(at: now) }
        var count = 0
        for hash in hashes {
            if let hash, !keys.insert(hash).inserted {
                isOver = true
                return count
            }
            count += 1
        }
        isOver = !isFull
        return count
    }

    private mutating func begin(at now: Duration) {
        (began, isOver) = (now, false)
        keys.removeAll(keepingCapacity: true)
    }

    /// The queue was found empty: the next update begins a round.
    mutating func foundEmpty() { isOver = true }
}

/// Paces the batches of one buffer, until the buffer is finished. Belongs to the holder of the
/// claim, except that any thread can lift the pace.
final class Pacing: @unchecked Sendable {
    // Sendable: `pacer` belongs to the holder of the claim; the rest does not change, or is atomic.

    let clock: any Clock<Duration>
    private let elapsed: @Sendable () -> Duration
    private var pacer: RoundPacer
    private let isLifted = Atomic<Bool>(false)

    init?(_ configuration: DedupeBufferConfiguration) {
        guard let interval = configuration.minimumInterval else { return nil }
        clock = configuration.clock
        elapsed = elapsedTime(on: clock)
        pacer = RoundPacer(interval: interval.bounded)
    }

    /// Nothing waits from now on.
    func lift() { isLifted.store(true, ordering: .sequentiallyConsistent) }

    var delay: Duration? {
        isLifted.load(ordering: .sequentiallyConsistent) ? nil : pacer.delay(at: elapsed())
    }

    /// Returns how many of the batch's items may be delivered now.
    func took(_ batch: TakenBatch, isFull: Bool) -> Int {
        guard !isLifted.load(ordering: .relaxed) else { return batch.count }
        let hashes = (0..<batch.count).lazy.map { i -> Int? in
            guard batch.status(i) == nil else { return nil }
            var hasher = Hasher()
            hasher.combine(bytes: batch.keyBytes(i))
            return hasher.finalize()
        }
        return pacer.took(hashes, isFull: isFull, at: elapsed())
    }

    func foundEmpty() { pacer.foundEmpty() }
}

/// The time since this call, by `clock`.
package func elapsedTime(on clock: any Clock<Duration>) -> @Sendable () -> Duration {
    func since<C: Clock<Duration>>(_ clock: C) -> @Sendable () -> Duration {
        let start = clock.now
        return { start.duration(to: clock.now) }
    }
    return since(clock)
}
