// SPDX-License-Identifier: Apache-2.0

public import Logging

/// How a buffer works; the defaults suit most.
public struct DedupeBufferConfiguration: Sendable {
    /// The most queue entries (updates and statuses) that one batch takes, 1 to 65,536.
    ///
    /// What was taken is committed: a smaller batch lets a slow sink skip more, a larger one costs
    /// less per update.
    public var batchSize: Int

    /// Label of the Dispatch queue that the delivery loop runs on, and of the buffer where a
    /// service is logged.
    public var label: String

    /// How ``DedupeBuffer/run(sink:)`` goes on after its sink has failed.
    public var retry: DedupeBufferRetry

    /// How long a finish waits for a loop or a consumer to begin, if something is pending. Not
    /// negative; 1 second by default.
    ///
    /// The task that is to deliver may not have run yet when the buffer is finished.
    public var gracePeriod: Duration

    /// The shortest time from the beginning of one round of delivery to the next. `nil`, the
    /// default: a round begins as soon as something is pending.
    ///
    /// A round delivers what was pending when it began, in as many batches as that takes, so each
    /// key comes at most once in a round. The first update after an idle time goes at once. What
    /// comes in during the interval is conflated until the next round begins. An attempt after a
    /// failure of the sink begins a round, too.
    ///
    /// This holds for all ways to deliver; ``DedupeBuffer/sendNextBatchToSink(_:)`` throws
    /// ``DedupeBufferError/emptyQueue`` when it is too early. `finish()` does not wait for the
    /// interval: what is pending then is delivered at once. Until the interval is over, a loop on a
    /// queue keeps the buffer alive.
    ///
    /// Not negative.
    public var minimumInterval: Duration?

    /// What ``gracePeriod`` and ``minimumInterval`` are measured by.
    public var clock: any Clock<Duration>

    /// What the buffer is logged to; `nil`: it is not.
    ///
    /// - `debug`: each call that the source or the owner makes, and each batch.
    /// - `info`: each resync, from ``DedupeBuffer/onConnectionRestarted()`` to the end of the next
    ///   ``SyncStatus/inSync``, with its duration and how many keys it deleted.
    /// - `warning`: a resync deleted all keys that were live at the restart, or all that were when
    ///   it ended; an overflow dropped the backlog, and a resync is needed; the sink of
    ///   ``DedupeBuffer/run(sink:)`` failed, and how often in a row.
    ///
    /// Keys and values are never logged, but for what the errors of sinks tell.
    ///
    /// The handler is called by the thread that the call is on, with no lock held, and may call the
    /// buffer.
    public var logger: Logger?

    /// What the buffer tells swift-metrics; `nil`: nothing.
    public var metrics: DedupeBufferMetrics?

    /// Whether a value is suppressed if the sink has it already: its key is live with nothing
    /// pending, and its revision is that of the update of the key that was taken last. 0 is no
    /// revision, and never the same.
    ///
    /// After a reconnect the whole datastore comes again; this keeps what has not changed from the
    /// sink. The key still counts as heard of. With something pending an update replaces as always.
    /// Takes 8 bytes for each live key; ``DedupeBufferStatistics/suppressed`` counts.
    public var suppressesUnchanged: Bool

    /// The most keys that may be pending, 1 or more; `nil`: no bound but the number of keys.
    ///
    /// When an update would make one more key pending, nothing is lost silently: the buffer drops
    /// its backlog, as ``DedupeBuffer/onConnectionRestarted()`` does, and asks for a resync, see
    /// ``onOverflow``. Updates of keys that are pending are never refused. Deletions that a resync
    /// finds, and what a failing sink gives back, may go beyond.
    public var maximumPendingKeys: Int?

    /// The most that pending values may weigh together, 1 or more, by the weight function given to
    /// the buffer; else as ``maximumPendingKeys``. With it, replacing a pending update takes the
    /// buffer's lock.
    public var maximumPendingBytes: Int?

    /// Called when a bound was exceeded: see to it that the source sends everything again,
    /// beginning with ``DedupeBuffer/onConnectionRestarted()``.
    ///
    /// Until that is called everything that comes in is dropped, statuses too. Called once for each
    /// overflow, by the thread whose update it was, after the other updates of its call, with no
    /// lock held. It may call the buffer.
    public var onOverflow: (@Sendable () -> Void)?

    /// Called for each update that the buffer had to refuse, by the thread that brought it, with no
    /// lock held, after the other updates of the call were put.
    ///
    /// Such updates count as received and dropped, and are counted in
    /// ``DedupeBufferStatistics/rejected``.
    public var onRejection: (@Sendable (DedupeBufferRejection) -> Void)?

    /// A configuration; see the properties for what the parameters mean.
    public init(
        batchSize: Int = 100, label: String = "dedupe-buffer", retry: DedupeBufferRetry = .init(),
        logger: Logger? = nil, metrics: DedupeBufferMetrics? = nil, suppressesUnchanged: Bool = false,
        maximumPendingKeys: Int? = nil, maximumPendingBytes: Int? = nil, onOverflow: (@Sendable () -> Void)? = nil,
        onRejection: (@Sendable (DedupeBufferRejection) -> Void)? = nil, gracePeriod: Duration = .seconds(1),
        minimumInterval: Duration? = nil,
        clock: any Clock<Duration> = ContinuousClock()
    ) {
        self.batchSize = batchSize
        self.label = label
        self.retry = retry
        self.logger = logger
        self.metrics = metrics
        self.suppressesUnchanged = suppressesUnchanged
        self.maximumPendingKeys = maximumPendingKeys
        self.maximumPendingBytes = maximumPendingBytes
        self.onOverflow = onOverflow
        self.onRejection = onRejection
        self.gracePeriod = gracePeriod
        self.minimumInterval = minimumInterval
        self.clock = clock
    }
}

/// Why an update was refused: its key is too long.
public struct DedupeBufferRejection: Sendable, Hashable {
    /// The key's length in bytes.
    public var keyLength: Int
    /// The longest possible, in bytes.
    public var maximumKeyLength: Int

    public init(keyLength: Int, maximumKeyLength: Int) {
        self.keyLength = keyLength
        self.maximumKeyLength = maximumKeyLength
    }
}
