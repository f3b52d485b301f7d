// SPDX-License-Identifier: Apache-2.0

public import CoreMetrics

extension DedupeBufferConfiguration {
    /// The metrics that a buffer reports to swift-metrics.
    ///
    /// Labels begin with ``label``:
    ///
    /// | label | kind | what |
    /// |---|---|---|
    /// | `…_pending_keys` | gauge | updates in the queue |
    /// | `…_live_keys` | gauge | keys that are live at the sink |
    /// | `…_memory_bytes` | gauge | bytes that the buffer holds, without what values refer to |
    /// | `…_is_overflowed` | gauge | 1 from an overflow to the restart that ends it, else 0 |
    /// | `…_received_total` | counter | updates that came in |
    /// | `…_delivered_total` | counter | updates that were taken |
    /// | `…_replaced_total` | counter | updates that a newer one displaced |
    /// | `…_cancelled_total` | counter | values never taken, and the deletions that met them |
    /// | `…_synthesized_total` | counter | deletions that a resync made for vanished keys |
    /// | `…_suppressed_total` | counter | values that the sink had already |
    /// | `…_dropped_total` | counter | updates dropped by a restart, overflow or end, or refused |
    /// | `…_overflows_total` | counter | how often a bound was exceeded |
    /// | `…_sink_seconds` | timer | time in the sink, for each batch; for tasks, for each event |
    /// | `…_oldest_pending_age_seconds` | timer | for each batch, the age of its oldest update |
    /// | `…_resync_seconds` | timer | from a restart to the end of the next in-sync |
    ///
    /// Gauges and counters have the values of ``DedupeBuffer/statistics``. Timers are recorded in
    /// nanoseconds, as swift-metrics expects, with seconds as their unit of display.
    ///
    /// Counters never go down. Updates that a failing sink puts back after a report stay counted as
    /// delivered, and the next deliveries are not counted until they have made up for that. Except
    /// for this, the updates received and synthesized are those delivered, replaced, cancelled,
    /// suppressed, dropped and pending.
    ///
    /// The buffer updates gauges and counters after each batch, at the end of a resync, after a
    /// restart and at the end of delivery. The source's calls update them too, once in each
    /// ``interval``, so that a sink that is stuck shows.
    ///
    /// Handlers are called by the threads that deliver, and sometimes by a thread of the source,
    /// with no lock held. One thread at a time calls the handlers of gauges and counters, and no
    /// other thread waits for it. A report that another thread requests meanwhile is made by the
    /// thread that is already reporting. A request during that second report waits for the next
    /// one.
    public struct Metrics: Sendable {
        /// The prefix of the metrics' labels.
        public var label: String

        /// Dimensions of each metric. Buffers that live at the same time need different dimensions
        /// or different labels, because otherwise their gauges overwrite each other.
        public var dimensions: [(String, String)]

        /// The factory that makes the metrics. With `nil` a buffer uses the factory that
        /// `MetricsSystem` has when the buffer is made.
        public var factory: (any MetricsFactory)?

        /// How often the source's calls update gauges and counters while nothing is delivered. Zero
        /// or more; with zero each call does.
        public var interval: Duration

        /// Whether the buffer destroys its metrics when it is deinitialised.
        ///
        /// If not, the gauges are set to zero then, and a later buffer of the same name continues
        /// with the metrics. Set this for buffers that come and go, each with its own dimensions.
        public var destroysMetricsOnDeinit: Bool

        /// Makes metrics. The properties describe the parameters.
        public init(
            label: String = "dedupe_buffer", dimensions: [(String, String)] = [], factory: (any MetricsFactory)? = nil,
            interval: Duration = .seconds(1), destroysMetricsOnDeinit: Bool = false
        ) {
            self.label = label
            self.dimensions = dimensions
            self.factory = factory
            self.interval = interval
            self.destroysMetricsOnDeinit = destroysMetricsOnDeinit
        }
    }
}
