// SPDX-License-Identifier: Apache-2.0

extension DedupeBufferConfiguration {
    /// When a buffer calls a failing sink again, and when it gives up.
    ///
    /// The first pause takes ``initialDelay``. Each further pause takes ``factor`` times as long as
    /// the one before, but never longer than ``maximumDelay``. After a success the next failure
    /// starts with ``initialDelay`` again.
    public struct RetryPolicy: Sendable {
        /// The pause after the first failure. Zero or more.
        public var initialDelay: Duration
        /// By how much each further pause is longer than the one before. 1 or more.
        public var factor: Double
        /// The longest pause. Zero or more; the buffer waits no longer than a century.
        public var maximumDelay: Duration
        /// The number of consecutive failures after which ``DedupeBuffer/run(sink:)`` rethrows the
        /// sink's error. 1 disables retries; `nil` retries forever.
        public var maximumAttempts: Int?
        /// The clock that measures the pauses.
        public var clock: any Clock<Duration>

        /// A policy. The properties describe the parameters. With the defaults a buffer gives up
        /// after half a minute of failures.
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

        /// Checks that every property has a value that a buffer and a service accept.
        ///
        /// ``DedupeBufferConfiguration/validate()`` calls it.
        ///
        /// - Throws: the first property that is out of range.
        /// - Complexity: O(1).
        public func validate() throws(ValidationError) {
            try require(initialDelay >= .zero, "retry.initialDelay", "zero or more")
            try require(factor >= 1, "retry.factor", "1 or more")
            try require(maximumDelay >= .zero, "retry.maximumDelay", "zero or more")
            try require(maximumAttempts ?? 1 >= 1, "retry.maximumAttempts", "1 or more, or nil")
        }
    }
}

/// Where a sink is in its policy.
@usableFromInline
struct RetryState: Sendable {
    @usableFromInline let policy: DedupeBufferConfiguration.RetryPolicy
    /// In a row.
    @usableFromInline private(set) var failures = 0
    private var delay: Duration
    private var hasReachedMaximum = false
    /// Whether the latest wait is the longest that the policy has, and the one before was not.
    @usableFromInline private(set) var hasJustReachedMaximum = false

    @usableFromInline
    init(_ policy: DedupeBufferConfiguration.RetryPolicy) {
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
