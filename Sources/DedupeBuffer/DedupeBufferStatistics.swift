// SPDX-License-Identifier: Apache-2.0

/// What became of everything that came in, at one moment.
///
/// For updates, in every snapshot:
///
///     received + synthesizedDeletions
///         == delivered + replaced + cancelled + suppressed + dropped + pendingKeys
public struct DedupeBufferStatistics: Sendable, Hashable {
    /// Updates in the queue now: one for each pending key.
    public var pendingKeys = 0
    /// Statuses in the queue now; never more than ``pendingKeys`` + 1.
    public var pendingStatuses = 0
    /// The most updates that the queue ever held.
    public var peakPendingKeys = 0
    /// Keys that are live at the sink now.
    public var liveKeys = 0
    /// Updates that came in.
    public var received = 0
    /// Updates that were taken for delivery, and did not come back.
    public var delivered = 0
    /// Updates that a newer one of their key displaced.
    public var replaced = 0
    /// Values that never left, and the deletions that met them: two for each pair.
    public var cancelled = 0
    /// Values that the sink had already; see ``DedupeBufferConfiguration/suppressesUnchanged``.
    public var suppressed = 0
    /// Updates that a restart or an overflow dropped; that came in after ``DedupeBuffer/stop()``,
    /// or after `finish()` and were not for a pending key; or that were ``rejected``; or
    /// that a sink failed on and goes without, see ``DeliveryFailure``.
    public var dropped = 0
    /// Updates whose key was too long; a part of ``dropped``.
    public var rejected = 0
    /// Deletions that nobody sent: a resync found that the keys had vanished.
    public var synthesizedDeletions = 0
    /// Statuses that came in.
    public var statusesReceived = 0
    /// Statuses that were taken for delivery, and did not come back.
    public var statusesDelivered = 0
    /// Batches that were taken.
    public var batches = 0
    /// How often a bound was exceeded; see ``DedupeBufferConfiguration/onOverflow``.
    public var overflows = 0
    /// Whether the last overflow has still to be ended by ``DedupeBuffer/onConnectionRestarted()``:
    /// until then all that comes in is dropped.
    public var isOverflowed = false
    /// What the pending values weigh together; 0 without
    /// ``DedupeBufferConfiguration/maximumPendingBytes``.
    public var pendingBytes = 0
    /// How long the oldest update in the queue has been pending, counted from when its place in the
    /// queue was taken. In whole milliseconds, rounded down, for ages up to 49 days. Zero if the
    /// queue holds no update.
    public var oldestPendingAge = Duration.zero
    /// How long all calls of the sink took that have returned, also those that threw. For the
    /// consumer of ``DedupeBuffer/events``: from each event until it asked for the next.
    ///
    /// The clock is read twice for each batch, for tasks twice for each event; that takes some tens
    /// of nanoseconds.
    public var timeInSink = Duration.zero
    /// Bytes that the buffer holds: queue, index, copies of keys, and room for updates and for one
    /// batch.
    ///
    /// Not what keys and values refer to; nor scratch memory for the source's calls, which is kept
    /// for as many as ever ran at once, but no more than 32, with at most 96 KiB each.
    public var memory = 0

    public init() {}

    /// Updates received for each one delivered. 1: the sink keeps up; 10: it gets every tenth. 1 as
    /// long as nothing was delivered; below 1 where synthesized deletions are many.
    public var conflationRatio: Double { delivered == 0 ? 1 : Double(received) / Double(delivered) }
}
