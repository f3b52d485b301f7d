// SPDX-License-Identifier: Apache-2.0

internal import CoreMetrics
internal import DedupeBuffer

/// A syncer's metrics. Used by one task at a time.
///
/// | label | kind | what |
/// |---|---|---|
/// | `…_connects_total` | counter | probes that were answered before a snapshot or a watch |
/// | `…_resumes_total` | counter | watches that went on without a snapshot |
/// | `…_failures_total` | counter | attempts that failed |
/// | `…_resyncs_total` | counter | resyncs; the dimension `reason` says why |
/// | `…_snapshot_keys_total` | counter | keys of snapshots |
/// | `…_events_total` | counter | changes that were passed on |
/// | `…_duplicates_total` | counter | changes that were dropped because they were old |
/// | `…_heartbeat_misses_total` | counter | signs of life that did not come |
/// | `…_lag_revisions` | gauge | how far the watch was behind the latest probe |
/// | `…_endpoint` | gauge | the index of the endpoint in use |
/// | `…_is_in_sync` | gauge | 1 while the sink is in sync, else 0 |
struct SyncerMetrics {
    private var counters: [(counter: Counter, figure: (SyncerStatistics) -> Int, reported: Int)]
    private let gauges: [(gauge: Gauge, figure: (SyncerStatistics) -> Int)]
    private let interval: Duration
    private var latest: Duration?

    /// - Parameters:
    ///   - metrics: where to report, and under which label.
    ///   - reported: what earlier runs have reported.
    init(_ metrics: DedupeBufferConfiguration.Metrics, after reported: SyncerStatistics) {
        let factory = metrics.factory ?? MetricsSystem.factory
        func counter(_ name: String, _ dimensions: [(String, String)] = []) -> Counter {
            Counter(label: "\(metrics.label)_\(name)", dimensions: metrics.dimensions + dimensions, factory: factory)
        }
        func gauge(_ name: String) -> Gauge {
            Gauge(label: "\(metrics.label)_\(name)", dimensions: metrics.dimensions, factory: factory)
        }
        counters = [
            (counter("connects_total"), { $0.connects }, 0), (counter("resumes_total"), { $0.resumes }, 0),
            (counter("failures_total"), { $0.failures }, 0),
            (counter("snapshot_keys_total"), { $0.snapshotKeys }, 0), (counter("events_total"), { $0.events }, 0),
            (counter("duplicates_total"), { $0.duplicatesDropped }, 0),
            (counter("heartbeat_misses_total"), { $0.heartbeatMisses }, 0),
        ]
        counters += ResyncReason.allCases.map { reason in
            (counter("resyncs_total", [("reason", reason.rawValue)]), { $0.resyncs[reason] ?? 0 }, 0)
        }
        for i in counters.indices { counters[i].reported = counters[i].figure(reported) }
        gauges = [
            (gauge("lag_revisions"), { Int($0.lag) }), (gauge("endpoint"), { $0.endpoint ?? -1 }),
            (gauge("is_in_sync"), { $0.status == .inSync ? 1 : 0 }),
        ]
        interval = metrics.interval
    }

    /// Brings all metrics up to date. Without `isUrgent`, only once in each interval.
    mutating func report(_ statistics: SyncerStatistics, at now: Duration, isUrgent: Bool) {
        if !isUrgent, let latest, now - latest < interval { return }
        latest = now
        for i in counters.indices {
            let increase = counters[i].figure(statistics) - counters[i].reported
            guard increase > 0 else { continue }
            counters[i].reported += increase
            counters[i].counter.increment(by: increase)
        }
        for gauge in gauges { gauge.gauge.record(gauge.figure(statistics)) }
    }
}
