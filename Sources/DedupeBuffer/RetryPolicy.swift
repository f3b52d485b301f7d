// SPDX-License-Identifier: Apache-2.0

/// How often, and after what pauses, a failing sink is tried again.
///
/// The first pause takes ``initialDelay``; each one after it takes ``factor`` times as long as the
/// one before, but never more than ``maximumDelay``. A success starts over.
public struct DedupeBufferRetry: Sendable {
    /// How long to wait after the first failure. Not negative.
    public var initialDelay: Duration
    /// How much longer each further wait is. 1 or more.
    public var factor: Double
    /// The longest wait. A century is the limit.
    public var maximumDelay: Duration
    /// How many failures in a row are one too many, 1 or more: that error is thrown. 1: nothing is
    /// tried again. `nil`: no number is.
    public var maximumAttempts: Int?
    /// What the waits are measured by.
    public var clock: any Clock<Duration>

    /// A policy; see the properties for what the parameters mean. By default it gives up after half
    /// a minute.
    public init(
        initialDelay: Duration = .milliseconds(100), factor: Double = 2, maximumDelay: Duration = .seconds(10),
        maximumAttempts: Int? = 10, clock: any Clock<Duration> = ContinuousClock()
    ) {
        self.initialDelay = initialDelay
        self.factor = factor
        self.maximumDelay = maximumDelay
        self.maximumAttempts = maximumAttempts
        self.clock = clock
    }
}

/// Where a sink is in its policy.
@usableFromInline
struct RetryState: Sendable {
    @usableFromInline let policy: DedupeBufferRetry
    /// In a row.
    @usableFromInline private(set) var failures = 0
    private var delay: Duration
    private var hasReachedMaximum = false
    /// Whether the latest wait is the longest that the policy has, and the one before was not.
    @usableFromInline private(set) var hasJustReachedMaximum = false

    @usableFromInline
    init(_ policy: DedupeBufferRetry) {
        precondition(policy.initialDelay >= .zero && policy.maximumDelay >= .zero, "delays must not be negative")
        precondition(policy.factor >= 1, "factor must be 1 or more")
        precondition(policy.maximumAttempts ?? 1 >= 1, "maximumAttempts must be 1 or more")
        self.policy = policy
        delay = min(policy.initialDelay, policy.maximumDelay).bounded
    }

    @usableFromInline
    mutating func succeeded() {
        guard failures > 0 else { return }
        self = RetryState(policy)
    }

    /// How long to wait before the next attempt; `nil`: give up.
    @usableFromInline
    mutating func failed() -> Duration? {
        let delay = failedWithoutLimit()
        if let maximum = policy.maximumAttempts, failures >= maximum { return nil }
        return delay
    }

    /// How long to wait before the next attempt, however many there were.
    mutating func failedWithoutLimit() -> Duration {
        failures += 1
        let maximum = policy.maximumDelay.bounded
        hasJustReachedMaximum = delay == maximum && !hasReachedMaximum
        hasReachedMaximum = delay == maximum
        defer { delay = delay >= maximum / policy.factor ? maximum : delay * policy.factor }
        return delay
    }
}
