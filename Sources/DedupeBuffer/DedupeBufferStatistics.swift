// SPDX-License-Identifier: Apache-2.0

/// The counters of a buffer, at one moment.
///
/// In every snapshot the following holds for updates:
///
///     received + synthesizedDeletions
///         == delivered + replaced + cancelled + suppressed + dropped + pendingKeys
public struct DedupeBufferStatistics: Sendable, Hashable {
    /// Updates in the queue now: one for each pending key.
    public var pendingKeys = 0
    /// Statuses in the queue now. Never more than ``pendingKeys`` + 1.
    public var pendingStatuses = 0
    /// The most updates that the queue ever held.
    public var peakPendingKeys = 0
    /// Keys that are live at the sink now.
    public var liveKeys = 0
    /// Keys that have a pin; see ``DedupeBuffer/pin(_:)``.
    public var pinnedKeys = 0
    /// Updates that came in.
    public var received = 0
    /// Updates that were taken for delivery, and were not put back.
    public var delivered = 0
    /// Updates that were displaced by a newer update of their key.
    public var replaced = 0
    /// Values that were never taken, and the deletions that met them: two for each pair.
    public var cancelled = 0
    /// Values that the sink had already; see
    /// ``DedupeBufferConfiguration/skipsUnchangedRevisions``.
    public var suppressed = 0
    /// Updates that were dropped:
    ///
    /// - by a restart or an overflow,
    /// - because they came after ``DedupeBuffer/stop()``, or after a finish for a key that was not
    ///   pending,
    /// - because they came from a ``DedupeBuffer/ResyncSession`` that had ended,
    /// - because they were ``rejected``,
    /// - because a sink failed on them and chose to drop them, see ``DeliveryFailure``.
    public var dropped = 0
    /// Updates whose key was too long. These are a part of ``dropped``.
    public var rejected = 0
    /// Deletions that a resync made, for keys that had vanished.
    public var synthesizedDeletions = 0
    /// Statuses that came in.
    public var statusesReceived = 0
    /// Statuses that were taken for delivery, and were not put back.
    public var statusesDelivered = 0
    /// Batches that were taken.
    public var batches = 0
    /// How often a bound was exceeded; see ``DedupeBuffer/overflows``.
    public var overflows = 0
    /// Whether the buffer has overflowed and waits for ``DedupeBuffer/onConnectionRestarted()``.
    /// Until then it drops everything that comes in.
    public var isOverflowed = false
    /// The weight of all pending values together. 0 without a bound of bytes; see
    /// ``DedupeBufferConfiguration/Bound``.
    public var pendingBytes = 0
    /// How long the oldest update in the queue has been pending, since its place in the queue was
    /// taken. In milliseconds, at most 12 too few, for ages up to 24 days. Zero if the queue holds
    /// no update.
    public var oldestPendingAge = Duration.zero
    /// How long all calls of the sink took that have returned, including those that threw. For a
    /// consumer of ``DedupeBuffer/events`` this is the time from each event until the consumer
    /// asked for the next one.
    ///
    /// The buffer reads the clock twice for each batch, or for each event of a task. That takes
    /// some tens of nanoseconds.
    public var timeInSink = Duration.zero
    /// Bytes that the buffer holds: the queue, the index, copies of keys, and room for updates and
    /// for one batch.
    ///
    /// This does not include what keys and values refer to. Nor does it include scratch memory for
    /// the source's calls, which the buffer keeps for as many calls as ever ran at once, but for no
    /// more than 32, with at most 96 KiB each.
    public var memory = 0

    public init() {}

    /// Updates received for each one delivered. At 1 the sink keeps up; at 10 it gets every tenth
    /// update. 1 as long as nothing was delivered, and below 1 if there were many synthesized
    /// deletions.
    public var conflationRatio: Double { delivered == 0 ? 1 : Double(received) / Double(delivered) }
}
