// SPDX-License-Identifier: Apache-2.0

public import Logging

/// How a buffer works. The defaults suit most programs.
///
/// The initialiser has parameters for delivery. A program sets the other members afterwards:
///
/// ```swift
/// var configuration = DedupeBufferConfiguration(batchSize: 500)
/// configuration.logger = logger
/// configuration.skipsUnchangedRevisions = true
/// let buffer = DedupeBuffer<String, Endpoint>(configuration: configuration, bound: .keys(100_000))
/// ```
///
/// A buffer ends the program if a member has a value that is out of range, with a message that
/// names the member. Call ``validate()`` first where values come from outside the program, for
/// example from its environment.
public struct DedupeBufferConfiguration: Sendable {
    /// The most queue entries (updates and statuses) that one batch takes, from 1 to 65,536.
    ///
    /// Newer updates do not replace the entries of a batch that was taken. So a smaller batch lets
    /// a slow sink skip more updates, and a larger batch costs less for each update.
    public var batchSize: Int

    /// The label of the Dispatch queue that the delivery loop runs on, and of the buffer in the
    /// logs of a service.
    public var label: String

    /// How ``DedupeBuffer/run(sink:)`` continues after its sink has failed.
    public var retry: RetryPolicy

    /// How long a finish waits for a loop or a consumer to begin, if something is pending. Zero or
    /// more; 1 second by default.
    ///
    /// When a program finishes the buffer, the task that delivers may not have begun yet.
    public var gracePeriod = Duration.seconds(1)

    /// The shortest time from the beginning of one round of delivery to the next. Zero or more.
    /// `nil`, the default: a round begins as soon as something is pending.
    ///
    /// A round delivers what was pending when it began, in as many batches as that takes, so each
    /// key comes at most once in a round. The first update after an idle time goes at once. Updates
    /// that come in during the interval are conflated until the next round begins. An attempt after
    /// a failure of the sink begins a round, too.
    ///
    /// This holds for all ways to deliver; ``DedupeBuffer/sendNextBatchToSink(_:)`` throws
    /// ``DedupeBufferError/emptyQueue`` when it is too early. `finish()` does not wait for the
    /// interval, and delivers the pending updates at once. Until the interval is over, a loop on a
    /// queue keeps the buffer alive.
    public var minimumInterval: Duration?

    /// The clock that measures ``gracePeriod`` and ``minimumInterval``.
    public var clock: any Clock<Duration> = ContinuousClock()

    /// The logger that the buffer logs to. `nil` turns logging off.
    ///
    /// - `debug`: each call that the source or the owner makes, and each batch.
    /// - `info`: each resync, from ``DedupeBuffer/onConnectionRestarted()`` to the end of the next
    ///   ``SyncStatus/inSync``, with its duration and the number of keys that it deleted.
    /// - `warning`: a resync deleted all keys that were live at the restart, or all keys that were
    ///   live when it ended; an overflow dropped the backlog, and a resync is needed; the sink of
    ///   ``DedupeBuffer/run(sink:)`` failed, and how often in a row.
    ///
    /// The buffer never logs keys or values, except those that the errors of a sink mention.
    ///
    /// The log handler is called by the thread that makes the call, with no lock held, and may call
    /// the buffer.
    public var logger: Logger?

    /// What the buffer reports to swift-metrics. `nil` turns metrics off.
    public var metrics: Metrics?

    /// Whether the buffer skips a value that the sink already has, judged by its revision.
    ///
    /// A value is skipped if its key is live, nothing is pending for the key, and the value's
    /// revision equals the revision of the update of this key that was taken last. Revision 0 means
    /// "no revision" and never equals another one.
    ///
    /// After a reconnect the source sends the whole datastore again. With this setting, values that
    /// have not changed do not reach the sink again. Their keys still count as seen since the
    /// restart. An update of a key that has something pending replaces it as always.
    ///
    /// This takes 8 bytes for each live key. ``DedupeBufferStatistics/suppressed`` counts the
    /// values that were skipped.
    public var skipsUnchangedRevisions = false

    /// Called when a bound was exceeded. The source must then send everything again, beginning with
    /// ``DedupeBuffer/onConnectionRestarted()``, which ``DedupeBuffer/withResync(isolation:_:)``
    /// does in one call. ``DedupeBuffer/overflows`` tells tasks of the same overflows.
    ///
    /// Until the restart the buffer drops everything that comes in, statuses too. The callback is
    /// called once for each overflow, by the thread whose update exceeded the bound, after the
    /// other updates of that call, with no lock held. It may call the buffer.
    public var onOverflow: (@Sendable () -> Void)?

    /// Called for each update that the buffer had to reject, by the thread that brought the update,
    /// with no lock held, after the other updates of the call were put.
    ///
    /// Such updates count as received and dropped, and ``DedupeBufferStatistics/rejected`` counts
    /// them.
    public var onRejection: (@Sendable (Rejection) -> Void)?

    /// A configuration with these values, and with the defaults for all other members.
    public init(batchSize: Int = 100, label: String = "dedupe-buffer", retry: RetryPolicy = .init()) {
        self.batchSize = batchSize
        self.label = label
        self.retry = retry
    }
}

extension DedupeBufferConfiguration {
    /// Why an update was rejected: its key is too long.
    public struct Rejection: Sendable, Hashable {
        /// The key's length in bytes.
        public var keyLength: Int
        /// The greatest possible length of a key, in bytes.
        public var maximumKeyLength: Int

        public init(keyLength: Int, maximumKeyLength: Int) {
            self.keyLength = keyLength
            self.maximumKeyLength = maximumKeyLength
        }
    }
}

// MARK: - Validation

extension DedupeBufferConfiguration {
    /// A member of a configuration, or of a bound, that has a value out of range.
    public struct ValidationError: Error, Sendable, Hashable, CustomStringConvertible {
        /// The name of the member, as in `retry.factor`.
        public let member: String
        /// The requirement that its value does not meet, as in `1 or more`.
        public let requirement: String

        package init(member: String, requirement: String) {
            self.member = member
            self.requirement = requirement
        }

        /// A sentence that names the member and what its value must be.
        public var description: String { "\(member) must be \(requirement)" }
    }

    /// Checks that every member has a value that a buffer accepts.
    ///
    /// A buffer that is made with other values ends the program. So this call is for values that
    /// come from outside the program:
    ///
    /// ```swift
    /// configuration.batchSize = environment["BATCH_SIZE"].flatMap(Int.init) ?? 100
    /// try configuration.validate()
    /// ```
    ///
    /// - Throws: the first member that is out of range.
    /// - Complexity: O(1).
    public func validate() throws(ValidationError) {
        try require(1...maximumBatchSize ~= batchSize, "batchSize", "between 1 and \(maximumBatchSize)")
        try retry.validate()
        try require(gracePeriod >= .zero, "gracePeriod", "zero or more")
        try require(minimumInterval ?? .zero >= .zero, "minimumInterval", "zero or more")
        try require(metrics?.interval ?? .zero >= .zero, "metrics.interval", "zero or more")
    }

    /// Ends the program if `validate` throws. Not by `precondition`, which has no message in
    /// release builds.
    @usableFromInline
    package static func trapUnlessValid(_ validate: () throws(ValidationError) -> Void) {
        do { try validate() } catch { fatalError("DedupeBuffer: \(error)") }
    }
}

/// Throws unless `isMet`.
package func require(
    _ isMet: Bool, _ member: String, _ requirement: String
) throws(DedupeBufferConfiguration.ValidationError) {
    guard !isMet else { return }
    throw DedupeBufferConfiguration.ValidationError(member: member, requirement: requirement)
}
