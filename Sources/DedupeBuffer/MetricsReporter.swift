// SPDX-License-Identifier: Apache-2.0

internal import CoreMetrics
internal import Synchronization

/// A buffer's metrics, and when they are updated.
final class MetricsReporter: @unchecked Sendable {
    // Sendable: `counters` changes only in `reporting`, which runs one thread at a time.

    private let core: Core
    private let gauges: [GaugeBinding]
    private var counters: [CounterBinding]
    private let timeInSink: Timer
    private let oldestPendingAge: Timer
    private let resync: Timer
    private let destroysMetricsOnDeinit: Bool
    private let reporting = OneAtATime()

    private let interval: Duration
    private let epoch = ContinuousClock.now
    /// When a call of the source reported last, in nanoseconds since `epoch`.
    private let latestReport = Atomic<Int64>(0)

    init(_ metrics: DedupeBufferConfiguration.Metrics, core: Core) {
        self.core = core
        let make = MetricsFactoryScope(metrics)
        gauges = [
            GaugeBinding(gauge: make.gauge("pending_keys")) { $0.pendingKeys },
            GaugeBinding(gauge: make.gauge("live_keys")) { $0.liveKeys },
            GaugeBinding(gauge: make.gauge("memory_bytes")) { $0.memory },
            GaugeBinding(gauge: make.gauge("is_overflowed")) { $0.isOverflowed ? 1 : 0 },
        ]
        counters = [
            CounterBinding(counter: make.counter("received_total")) { $0.received },
            CounterBinding(counter: make.counter("delivered_total")) { $0.delivered },
            CounterBinding(counter: make.counter("replaced_total")) { $0.replaced },
            CounterBinding(counter: make.counter("cancelled_total")) { $0.cancelled },
            CounterBinding(counter: make.counter("synthesized_total")) { $0.synthesizedDeletions },
            CounterBinding(counter: make.counter("suppressed_total")) { $0.suppressed },
            CounterBinding(counter: make.counter("dropped_total")) { $0.dropped },
            CounterBinding(counter: make.counter("overflows_total")) { $0.overflows },
        ]
        timeInSink = make.timer("sink_seconds")
        oldestPendingAge = make.timer("oldest_pending_age_seconds")
        resync = make.timer("resync_seconds")
        interval = metrics.interval
        destroysMetricsOnDeinit = metrics.destroysMetricsOnDeinit
    }

    deinit {
        report()
        for gauge in gauges { gauge.gauge.record(0) }
        if destroysMetricsOnDeinit { destroy() }
    }

    // MARK: - Gauges and counters

    /// Updates gauges and counters. If another thread is doing that, the other thread does it once
    /// more, unless it is already at its second round.
    func report() {
        reporting.run {
            let statistics = core.statistics
            for gauge in gauges { gauge.report(statistics) }
            for i in counters.indices { counters[i].report(statistics) }
        }
    }

    /// The same, if the last report of a source's call is long ago. Of several threads that come at
    /// once, one reports and the others go on.
    func reportIfDue() {
        let now = (ContinuousClock.now - epoch).nanoseconds
        // Relaxed: it decides who reports, and publishes nothing.
        let latest = latestReport.load(ordering: .relaxed)
        guard .nanoseconds(now - latest) >= interval else { return }
        if latestReport.compareExchange(expected: latest, desired: now, ordering: .relaxed).exchanged { report() }
    }

    // MARK: - Timers

    func sinkTook(_ time: Duration) {
        timeInSink.recordNanoseconds(time.nanoseconds)
    }

    func tookBatch(ofAge age: Duration) {
        oldestPendingAge.recordNanoseconds(age.nanoseconds)
    }

    func resyncTook(_ time: Duration) {
        resync.recordNanoseconds(time.nanoseconds)
    }

    private func destroy() {
        for gauge in gauges { gauge.gauge.destroy() }
        for counter in counters { counter.counter.destroy() }
        for timer in [timeInSink, oldestPendingAge, resync] { timer.destroy() }
    }
}

/// Metrics of one configuration.
private struct MetricsFactoryScope {
    private let metrics: DedupeBufferConfiguration.Metrics
    private let factory: any MetricsFactory

    init(_ metrics: DedupeBufferConfiguration.Metrics) {
        self.metrics = metrics
        factory = metrics.factory ?? MetricsSystem.factory
    }

    func gauge(_ name: String) -> Gauge {
        Gauge(label: label(name), dimensions: metrics.dimensions, factory: factory)
    }

    func counter(_ name: String) -> Counter {
        Counter(label: label(name), dimensions: metrics.dimensions, factory: factory)
    }

    func timer(_ name: String) -> Timer {
        Timer(label: label(name), dimensions: metrics.dimensions, preferredDisplayUnit: .seconds, factory: factory)
    }

    private func label(_ name: String) -> String { "\(metrics.label)_\(name)" }
}

/// One of the statistics as a gauge.
private struct GaugeBinding {
    let gauge: Gauge
    let figure: (DedupeBufferStatistics) -> Int

    func report(_ statistics: DedupeBufferStatistics) {
        gauge.record(figure(statistics))
    }
}

/// One of the statistics as a counter, which only goes up.
private struct CounterBinding {
    let counter: Counter
    let figure: (DedupeBufferStatistics) -> Int
    private var reported = 0

    init(counter: Counter, figure: @escaping (DedupeBufferStatistics) -> Int) {
        self.counter = counter
        self.figure = figure
    }

    /// Putting back lowers what was delivered. Nothing is reported then until the figure is higher
    /// than before.
    mutating func report(_ statistics: DedupeBufferStatistics) {
        let increase = figure(statistics) - reported
        guard increase > 0 else { return }
        reported += increase
        counter.increment(by: increase)
    }
}

extension Duration {
    /// Whole nanoseconds.
    package var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        return seconds * 1_000_000_000 + attoseconds / 1_000_000_000
    }
}
