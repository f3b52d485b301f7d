// SPDX-License-Identifier: Apache-2.0
// How long the syncer pauses: between attempts to connect, and between resyncs.

/// Pauses that grow with each failure. A random number from 0 to 1 chooses the part of the longest
/// pause, so that clients that failed together do not come back together.
struct BackOff: Sendable {
    private let policy: SyncerConfiguration.BackOffPolicy
    /// The longest pause after the next failure.
    private var longest: Duration

    init(_ policy: SyncerConfiguration.BackOffPolicy) {
        self.policy = policy
        longest = min(policy.initialDelay, policy.maximumDelay)
    }

    mutating func next(random: Double) -> Duration {
        defer {
            let maximum = policy.maximumDelay
            longest = longest >= maximum / policy.factor ? maximum : longest * policy.factor
        }
        return longest * random
    }

    mutating func reset() { self = BackOff(policy) }
}

/// Decides when a resync begins.
struct ResyncPacer: Sendable {
    private let minimumInterval: Duration
    private var backOff: BackOff
    /// When the latest resync began, or will begin.
    private var latest: Duration?
    /// Whether something other than the plan caused a resync since the last reset.
    private var hadUnplanned = false

    init(_ configuration: SyncerConfiguration) {
        minimumInterval = configuration.resyncs.minimumInterval
        backOff = BackOff(configuration.backOff)
    }

    /// The moment at which a resync may begin. The first unplanned one begins at once, except that
    /// an overflow waits: the sink is behind, and a snapshot makes that worse.
    mutating func begin(_ reason: ResyncReason, at now: Duration, random: Double) -> Duration {
        var start = latest.map { max(now, $0 + minimumInterval) } ?? now
        if !reason.isPlanned {
            if hadUnplanned || reason == .overflow { start = max(start, now + backOff.next(random: random)) }
            hadUnplanned = true
        }
        latest = start
        return start
    }

    /// The syncer was in sync for long enough.
    mutating func reset() {
        backOff.reset()
        hadUnplanned = false
    }
}
