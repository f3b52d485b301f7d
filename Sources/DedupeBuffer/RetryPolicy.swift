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
        /// The longest pause. Zero or more.
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
    }
}

/// Where a sink is in its policy.
@usableFromInline
struct RetryState: Sendable {
    @usableFromInline let policy: DedupeBufferConfiguration.RetryPolicy
    /// In a row.
    @usableFromInline private(set) var failures = 0
    private var delay: Duration

    @usableFromInline
    init(_ policy: DedupeBufferConfiguration.RetryPolicy) {
        self.policy = policy
        delay = min(policy.initialDelay, policy.maximumDelay)
    }

    @usableFromInline
    mutating func succeeded() {
        guard failures > 0 else { return }
        self = RetryState(policy)
    }

    /// How long to wait before the next attempt; `nil`: give up.
    @usableFromInline
    mutating func failed() -> Duration? {
        failures += 1
        if let maximum = policy.maximumAttempts, failures >= maximum { return nil }
        defer { delay = delay >= policy.maximumDelay / policy.factor ? policy.maximumDelay : delay * policy.factor }
        return delay
    }
}
