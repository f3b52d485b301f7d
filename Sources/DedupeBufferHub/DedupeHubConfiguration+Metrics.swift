// SPDX-License-Identifier: Apache-2.0

public import CoreMetrics

extension DedupeHubConfiguration {
    /// What a hub tells swift-metrics, and under which names.
    ///
    /// Labels begin with ``label``:
    ///
    /// | label | kind | what |
    /// |---|---|---|
    /// | `…_keys` | gauge | keys that have a value |
    /// | `…_deleted_keys` | gauge | deleted keys that are still remembered |
    /// | `…_subscribers` | gauge | subscribers |
    /// | `…_waiting_subscribers` | gauge | subscribers that wait for something to happen |
    /// | `…_lag_median`, `_lag_99`, `_lag_maximum` | gauge | over the subscribers: changes behind |
    /// | `…_memory_bytes` | gauge | bytes of the table and the logs, without keys and values |
    /// | `…_subscriber_memory_bytes` | gauge | bytes of all subscribers together |
    /// | `…_received_total` | counter | updates that came in |
    /// | `…_delivered_total` | counter | updates taken by subscribers, all together |
    /// | `…_dropped_total` | counter | updates that came after the end |
    /// | `…_resumed_total` | counter | subscriptions that went on from a position |
    /// | `…_restarts_total` | counter | subscriptions that could not, and began again |
    /// | `…_scans_total` | counter | times that a subscriber had to look through the table |
    ///
    /// The values are those of ``DedupeHub/statistics``. No series is made for a single subscriber.
    ///
    /// The hub updates them on a queue of its own, at most once in each ``interval``, when
    /// something comes in or is taken, and at its end.
    public struct Metrics: Sendable {
        /// What all labels begin with.
        public var label: String
        /// The dimensions of all metrics, which tell this hub from others.
        public var dimensions: [(String, String)]
        /// Where the metrics go. `nil`: to the system's factory.
        public var factory: (any MetricsFactory)?
        /// The shortest time between two reports. Zero or more.
        public var interval: Duration

        /// What to report. The properties describe the parameters.
        public init(
            label: String = "dedupe_hub", dimensions: [(String, String)] = [], factory: (any MetricsFactory)? = nil,
            interval: Duration = .seconds(1)
        ) {
            self.label = label
            self.dimensions = dimensions
            self.factory = factory
            self.interval = interval
        }
    }
}
