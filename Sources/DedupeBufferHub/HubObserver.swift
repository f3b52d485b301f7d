// SPDX-License-Identifier: Apache-2.0

internal import CoreMetrics
internal import DedupeBuffer
internal import Dispatch
internal import Logging
internal import Synchronization

/// What a hub tells its logger and its metrics. Handlers are called with no lock held.
@usableFromInline
final class HubObserver: @unchecked Sendable {
    // Sendable: `counters` belongs to `queue`; the rest does not change, or is atomic.

    private let core: HubCore
    private let logger: Logger?
    private let gauges: [(gauge: Gauge, figure: (DedupeHubStatistics) -> Int)]
    private var counters: [(counter: Counter, figure: (DedupeHubStatistics) -> Int, reported: Int)]
    private let interval: Duration
    private let hasMetrics: Bool
    /// Reports are made here.
    let queue: DispatchQueue
    private let epoch = ContinuousClock.now
    /// When the latest report was made, in nanoseconds since `epoch`.
    private let latestReport = Atomic<Int64>(.min / 2)
    /// Whether a report waits for its turn.
    private let isReportDue = Atomic<Bool>(false)

    init?(_ core: HubCore) {
        let configuration = core.configuration
        guard configuration.logger != nil || configuration.metrics != nil else { return nil }
        self.core = core
        logger = configuration.logger
        hasMetrics = configuration.metrics != nil
        interval = configuration.metrics?.interval ?? .zero
        queue = DispatchQueue(label: configuration.label + ".metrics")
        guard let metrics = configuration.metrics else {
            (gauges, counters) = ([], [])
            return
        }
        let factory = metrics.factory ?? MetricsSystem.factory
        func gauge(_ name: String, _ figure: @escaping (DedupeHubStatistics) -> Int) -> (
            gauge: Gauge, figure: (DedupeHubStatistics) -> Int
        ) {
            (Gauge(label: "\(metrics.label)_\(name)", dimensions: metrics.dimensions, factory: factory), figure)
        }
        func counter(_ name: String, _ figure: @escaping (DedupeHubStatistics) -> Int) -> (
            counter: Counter, figure: (DedupeHubStatistics) -> Int, reported: Int
        ) {
            (Counter(label: "\(metrics.label)_\(name)", dimensions: metrics.dimensions, factory: factory), figure, 0)
        }
        gauges = [
            gauge("keys", \.keys), gauge("deleted_keys", \.deletedKeys), gauge("subscribers", \.subscribers),
            gauge("waiting_subscribers", \.waitingSubscribers), gauge("lag_median", \.lag.median),
            gauge("lag_99", \.lag.percentile99), gauge("lag_maximum", \.lag.maximum), gauge("memory_bytes", \.memory),
            gauge("subscriber_memory_bytes", \.subscriberMemory),
        ]
        counters = [
            counter("received_total", \.received), counter("delivered_total", \.delivered),
            counter("dropped_total", \.dropped), counter("resumed_total", \.resumed),
            counter("restarts_total", \.restarts), counter("scans_total", \.scans),
        ]
    }

    // MARK: - Metrics

    /// Updates the metrics, if the latest report is long ago. The work is done on the queue: it
    /// grows with the number of subscribers, and the caller may be a writer.
    @usableFromInline
    func reportIfDue() {
        guard hasMetrics else { return }
        let now = (ContinuousClock.now - epoch).nanoseconds
        // Relaxed: it decides who reports, and publishes nothing.
        let latest = latestReport.load(ordering: .relaxed)
        guard .nanoseconds(now - latest) >= interval else { return }
        guard latestReport.compareExchange(expected: latest, desired: now, ordering: .relaxed).exchanged else { return }
        guard !isReportDue.exchange(true, ordering: .sequentiallyConsistent) else { return }
        queue.async { [self] in
            // Before the figures are read: a report that becomes due later has later ones.
            isReportDue.store(false, ordering: .sequentiallyConsistent)
            report()
        }
    }

    private func report() {
        let statistics = core.statistics
        for (gauge, figure) in gauges { gauge.record(figure(statistics)) }
        for i in counters.indices {
            let increase = counters[i].figure(statistics) - counters[i].reported
            counters[i].reported += increase
            counters[i].counter.increment(by: increase)
        }
    }

    // MARK: - Events

    @usableFromInline
    func received(updates: Int) {
        logger?.debug("Received updates", metadata: ["dedupe.updates": "\(updates)"])
        reportIfDue()
    }

    func received(_ status: SyncStatus) {
        logger?.debug("Received status", metadata: ["dedupe.status": "\(status)"])
        reportIfDue()
    }

    func subscribed(from position: DedupeHubPosition?) {
        logger?.debug("Subscribed", metadata: ["dedupe.position": "\(position.map(String.init) ?? "none")"])
        reportIfDue()
    }

    func restarted() {
        logger?.info("Subscription could not go on from its position, and begins again")
    }

    func ended() {
        logger?.debug("Subscription ended")
        reportIfDue()
    }

    func finished() {
        logger?.info("Hub finished")
        queue.async { [self] in report() }
    }
}
