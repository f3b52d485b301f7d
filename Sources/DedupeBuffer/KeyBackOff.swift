// SPDX-License-Identifier: Apache-2.0

/// The keys whose updates the sink has failed on, and how long each still waits.
///
/// The update itself is in the core's queue, put back as if it had never been taken, so a newer
/// update takes its place there and its type is right. Each batch is taken with room for these keys
/// in addition, and the items of keys that still wait are put back at once.
///
/// Belongs to the task that delivers.
@usableFromInline
final class KeyBackOff {
    private struct Wait {
        var retry: RetryState
        var due: Duration
    }

    let clock: any Clock<Duration>
    private let policy: DedupeBufferConfiguration.RetryPolicy
    private let maximumCount: Int
    private let elapsed: () -> Duration
    private var waits: [[UInt8]: Wait] = [:]

    @usableFromInline
    init(_ policy: DedupeBufferConfiguration.RetryPolicy, maximumCount: Int) {
        self.policy = policy
        self.maximumCount = maximumCount
        clock = policy.clock
        elapsed = elapsedTime(on: policy.clock)
    }

    @usableFromInline var isEmpty: Bool { waits.isEmpty }
    var count: Int { waits.count }

    /// Whether these keys can wait, beside those that do already.
    @usableFromInline
    func hasRoom(for keys: Set<[UInt8]>) -> Bool {
        waits.count + keys.count { waits[$0] == nil } <= maximumCount
    }

    /// The sink has failed on the key. Returns how often in a row.
    @usableFromInline
    func failed(_ key: [UInt8]) -> Int {
        var wait = waits[key] ?? Wait(retry: RetryState(policy), due: .zero)
        wait.due = elapsed() + wait.retry.failedWithoutLimit()
        waits[key] = wait
        return wait.retry.failures
    }

    /// The sink has dealt with the key, or goes without it.
    @usableFromInline
    func remove(_ key: [UInt8]) { waits[key] = nil }

    /// Of the batch that was just taken, the items of keys that still wait move to the end. Returns
    /// how many items are before them. Keys that are due and not pending any more are forgotten.
    func separate(_ batch: TakenBatch) -> Int {
        let now = elapsed()
        var due = Set(waits.filter { $0.value.due <= now }.keys)
        let count = batch.moveToEnd(0..<batch.count) { i in
            let key = Array(batch.keyBytes(i))
            due.remove(key)
            return waits[key].map { $0.due > now } ?? false
        }
        for key in due { waits[key] = nil }
        return count
    }

    /// How long the first of the keys still waits.
    var delay: Duration {
        let now = elapsed()
        return max(.zero, (waits.values.map(\.due).min() ?? now) - now)
    }
}
