// SPDX-License-Identifier: Apache-2.0

public import CoreMetrics

/// What a buffer tells swift-metrics, and under which names.
///
/// Labels begin with ``label``:
///
/// | label | kind | what |
/// |---|---|---|
/// | `…_pending_keys` | gauge | updates in the queue |
/// | `…_live_keys` | gauge | keys that are live at the sink |
/// | `…_memory_bytes` | gauge | bytes that the buffer holds, without what values refer to |
/// | `…_received_total` | counter | updates that came in |
/// | `…_delivered_total` | counter | updates that were taken |
/// | `…_replaced_total` | counter | updates that a newer one displaced |
/// | `…_cancelled_total` | counter | values that never left, and the deletions that met them |
/// | `…_synthesized_total` | counter | deletions that a resync found to be owed |
/// | `…_suppressed_total` | counter | values that the sink had already |
/// | `…_dropped_total` | counter | updates dropped by a restart, overflow or end, or refused |
/// | `…_overflows_total` | counter | how often a bound was exceeded |
/// | `…_sink_seconds` | timer | time in the sink, for each batch; for tasks, for each event |
/// | `…_oldest_pending_age_seconds` | timer | for each batch, the age of its oldest update |
/// | `…_resync_seconds` | timer | from a restart to the end of the next in-sync |
///
/// Gauges and counters are those of ``DedupeBuffer/statistics``; timers are recorded in
/// nanoseconds, as swift-metrics has it, and ask for seconds as their unit of display. Counters
/// never go down: what a failing sink gives back after a report stays counted as delivered, and the
/// next deliveries are not counted until they have made up for it. But for that, received and
/// synthesized updates are those delivered, replaced, cancelled, suppressed, dropped and pending.
///
/// Gauges and counters are brought up to date after each batch, at the end of a resync, after a
/// restart, at the end of delivery, and every ``interval`` by the source's calls: so a sink that is
/// stuck shows. They are never touched for an update. Handlers are called by the threads that
/// deliver, and now and then by one of the source's; with no lock held, and, for gauges and
/// counters, one thread at a time, for which no other waits. Who asks for them meanwhile is served
/// by that thread, which brings them up to date once more; who asks during that, by the next
/// report.
public struct DedupeBufferMetrics: Sendable {
    /// What the metrics' labels begin with.
    public var label: String

    /// Dimensions of each metric. Buffers that live at the same time want different ones, or
    /// different labels: their gauges would overwrite each other.
    public var dimensions: [(String, String)]

    /// What makes the metrics; `nil`: the one that `MetricsSystem` has when the buffer is made.
    public var factory: (any MetricsFactory)?

    /// How often the source's calls bring gauges and counters up to date although nothing is
    /// delivered. Not negative; zero: each call does.
    public var interval: Duration

    /// Whether the metrics are destroyed when the buffer ends. If not, its gauges are set to zero
    /// then, and a later buffer of the same name goes on with them. For buffers that come and go,
    /// each with dimensions of its own.
    public var destroysAtEnd: Bool

    /// What to report; see the properties for what the parameters mean.
    public init(
        label: String = "dedupe_buffer", dimensions: [(String, String)] = [], factory: (any MetricsFactory)? = nil,
        interval: Duration = .seconds(1), destroysAtEnd: Bool = false
    ) {
        self.label = label
        self.dimensions = dimensions
        self.factory = factory
        self.interval = interval
        self.destroysAtEnd = destroysAtEnd
    }
}
