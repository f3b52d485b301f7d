// SPDX-License-Identifier: Apache-2.0

public import DedupeBuffer
public import Logging

/// How a hub works. The defaults suit most programs.
///
/// A hub ends the program if a member has a value that is out of range, with a message that names
/// the member. Call ``validate()`` first where values come from outside the program.
public struct DedupeHubConfiguration: Sendable {
    /// The most updates and statuses that are taken for a subscriber at once, from 1 to 65,536.
    ///
    /// What was taken is committed. So a smaller batch lets a slow subscriber skip more updates,
    /// and a larger batch costs less for each update.
    public var batchSize = 100

    /// The least number of changes that the change log holds, from 1 to 2²⁶; it is rounded up to a
    /// power of two. Each takes 4 bytes. The log grows with the number of keys.
    ///
    /// A subscriber that falls further behind looks through the table for what it has missed. Then
    /// the order among these keys is not specified, and only the latest status is delivered, after
    /// them.
    public var changeLogCapacity = 65_536

    /// The most deletions that the hub remembers for subscribers that come back, from 0 to 2²⁴.
    /// Each takes 40 bytes in a ring whose length is a power of two, by default 80 bytes, and keeps
    /// its key and what belongs to a key.
    public var maximumTombstones = 65_536

    /// How long the hub remembers deletions for subscribers that come back. Zero or more.
    ///
    /// Deletions are forgotten when updates come in. Subscribers that are connected hear of all
    /// deletions, however old these are.
    public var tombstoneAge = Duration.seconds(600)

    /// The label of the queue that wakes subscribers, and of the hub in logs.
    public var label = "dedupe-hub"

    /// The clock that measures ``tombstoneAge`` and the intervals of subscribers. It is read with
    /// no lock held, and may call the hub.
    public var clock: any Clock<Duration> = ContinuousClock()

    /// The logger that the hub logs to. `nil` turns logging off.
    ///
    /// - `debug`: each call of the source, and each subscription.
    /// - `info`: a subscription that could not go on from its position; the end of the hub.
    ///
    /// The hub never logs keys or values. The log handler is called with no lock held, and may call
    /// the hub.
    public var logger: Logger?

    /// What the hub reports to swift-metrics. `nil` turns metrics off.
    public var metrics: Metrics?

    /// For tests: the epoch of positions, which otherwise is random; and whether the change log
    /// grows.
    var epoch: UInt64?
    var growsChangeLog = true
    var steps = Steps()

    /// How much a take does at a time. Tests choose small steps.
    struct Steps: Sendable {
        /// Changes, slots or queue entries that a take looks at while it has the lock. A writer
        /// waits for no more.
        var size = 2048
        /// Items that are taken in one step.
        var items = 512
        /// Stale entries of a queue that are always allowed.
        var stale = 64
        /// For tests: called with no lock held after each step, and before the take lets go of the
        /// subscriber.
        var afterEach: (@Sendable () -> Void)?
    }

    /// A configuration with the defaults.
    public init() {}

    /// Checks that every member has a value that a hub accepts.
    ///
    /// - Throws: the first member that is out of range.
    /// - Complexity: O(1).
    public func validate() throws(DedupeBufferConfiguration.ValidationError) {
        try require(1...65_536 ~= batchSize, "batchSize", "between 1 and 65536")
        try require(1...(1 << 26) ~= changeLogCapacity, "changeLogCapacity", "between 1 and \(1 << 26)")
        try require(0...(1 << 24) ~= maximumTombstones, "maximumTombstones", "between 0 and \(1 << 24)")
        try require(tombstoneAge >= .zero, "tombstoneAge", "zero or more")
        try require(metrics?.interval ?? .zero >= .zero, "metrics.interval", "zero or more")
    }
}
