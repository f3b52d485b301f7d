// SPDX-License-Identifier: Apache-2.0

/// What a hub holds and what became of what came in. The figures are read one after another, so
/// they need not belong to one moment.
public struct DedupeHubStatistics: Sendable, Hashable {
    /// The revision of the latest change. Each change of a key and each status is one.
    public var revision: UInt64 = 0
    /// Keys that have a value.
    public var keys = 0
    /// Deleted keys that the hub still remembers: those that subscribers who come back may have to
    /// be told of, and those that some subscriber still has.
    public var deletedKeys = 0
    /// Updates that came in.
    public var received = 0
    /// Deletions of keys that had no value. They change nothing.
    public var ignored = 0
    /// Updates that came after the end.
    public var dropped = 0
    /// Statuses that came in.
    public var statusesReceived = 0
    /// Updates that were taken by subscribers, all together.
    public var delivered = 0
    /// Statuses that were taken by subscribers, all together.
    public var statusesDelivered = 0
    /// Subscribers now.
    public var subscribers = 0
    /// Subscribers now that wait for something to happen.
    public var waitingSubscribers = 0
    /// Subscriptions that were ever made.
    public var subscriptions = 0
    /// Subscriptions that went on from a position.
    public var resumed = 0
    /// Subscriptions that could not go on from their position, and began again.
    public var restarts = 0
    /// How often a subscriber had fallen so far behind that it had to look through the table.
    public var scans = 0
    /// How many changes subscribers are behind.
    public var lag = Lag()
    /// Bytes that the hub holds: the table, the index, copies of keys' bytes excepted, the change
    /// log, and tombstones. Not included is what keys and values take.
    public var memory = 0
    /// Bytes that all subscribers together hold, as of the last time that each took something.
    public var subscriberMemory = 0

    public init() {}

    /// How many changes subscribers are behind: the changes since everything before had been taken.
    public struct Lag: Sendable, Hashable {
        /// Half of the subscribers are at most so far behind.
        public var median = 0
        /// 99 of 100 subscribers are at most so far behind.
        public var percentile99 = 0
        /// The slowest subscriber's.
        public var maximum = 0

        public init() {}
    }
}

/// What became of one subscription. The figures are those of its last call that took something,
/// except for ``lag``.
public struct DedupeHubSubscriptionStatistics: Sendable, Hashable {
    /// The changes of the hub since everything before had been taken.
    public var lag = 0
    /// Keys and statuses in the subscriber's queue, and in what an iterator has left of a batch.
    /// Changes that came after its last call are not in it yet.
    public var pendingEntries = 0
    /// Updates that were taken.
    public var delivered = 0
    /// Bytes for the keys' bits and for the queue.
    public var memory = 0

    public init() {}
}
