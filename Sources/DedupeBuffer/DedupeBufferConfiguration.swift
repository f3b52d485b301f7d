// SPDX-License-Identifier: Apache-2.0

public import Logging

/// How a buffer works; the defaults suit most.
public struct DedupeBufferConfiguration: Sendable {
    /// The most queue entries (updates and statuses) that one batch takes, 1 to 65,536.
    ///
    /// What was taken is committed: a smaller batch lets a slow sink skip more, a larger one costs less per update.
    public var batchSize: Int

    /// Label of the Dispatch queue that the delivery loop runs on.
    public var label: String

    /// How ``DedupeBuffer/run(sink:)`` goes on after its sink has failed.
    public var retry: DedupeBufferRetry

    /// What the buffer is logged to; `nil`: it is not.
    ///
    /// `debug`: each call that the source or the owner makes, and each batch. `info`: each resync, from
    /// ``DedupeBuffer/onConnectionRestarted()`` to the end of the next ``SyncStatus/inSync``, with its duration and how
    /// many keys it deleted. `warning` instead: it deleted all that was live. Keys and values are never logged.
    ///
    /// The handler is called by the thread that the call is on, with no lock held, and may call the buffer.
    public var logger: Logger?

    /// What the buffer tells swift-metrics; `nil`: nothing.
    public var metrics: DedupeBufferMetrics?

    /// Called for each update that the buffer had to refuse, by the thread that brought it, with no lock held, after
    /// the other updates of the call were put.
    ///
    /// Such updates count as received and dropped, and are counted in ``DedupeBufferStatistics/rejected``.
    public var onRejection: (@Sendable (DedupeBufferRejection) -> Void)?

    /// A configuration; see the properties for what the parameters mean.
    public init(
        batchSize: Int = 100, label: String = "dedupe-buffer", retry: DedupeBufferRetry = .init(),
        logger: Logger? = nil, metrics: DedupeBufferMetrics? = nil,
        onRejection: (@Sendable (DedupeBufferRejection) -> Void)? = nil
    ) {
        self.batchSize = batchSize
        self.label = label
        self.retry = retry
        self.logger = logger
        self.metrics = metrics
        self.onRejection = onRejection
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
