// SPDX-License-Identifier: Apache-2.0

// Configuration, statistics, logs and metrics.

import DedupeBuffer
import InMemoryLogging
import Logging
import MetricsTestKit
import Testing

@testable import DedupeBufferHub

@Suite struct ObservingTests {
    @Test func configuration_byDefault_isValid() throws {
        try DedupeHubConfiguration().validate()
    }

    @Test func configuration_outOfRange_isRefused() {
        func expectRefusal(of member: String, _ change: (inout DedupeHubConfiguration) -> Void) {
            var configuration = DedupeHubConfiguration()
            change(&configuration)
            do {
                try configuration.validate()
                Issue.record("\(member) was accepted")
            } catch {
                #expect(error.member == member)
            }
        }
        for size in [0, -1, 65_537, .max] { expectRefusal(of: "batchSize") { $0.batchSize = size } }
        for size in [0, -1, (1 << 26) + 1, .max] {
            expectRefusal(of: "changeLogCapacity") { $0.changeLogCapacity = size }
        }
        for count in [-1, (1 << 24) + 1, .max] {
            expectRefusal(of: "maximumTombstones") { $0.maximumTombstones = count }
        }
        expectRefusal(of: "tombstoneAge") { $0.tombstoneAge = .seconds(-1) }
        expectRefusal(of: "metrics.interval") { $0.metrics = .init(interval: .seconds(-1)) }
    }

    @Test func statistics_addUp() throws {
        let hub = Hub(configuration: configuration(log: 4))
        let (reader, stalled) = (hub.subscribe(), hub.subscribe(onReady: {}))
        for i in 0..<3 { hub.put("a", i) }
        hub.put("b", nil)
        hub.onStatusUpdated(.inSync)
        hub.onStatusUpdated(.inSync)
        _ = try reader.allEvents()
        let statistics = hub.statistics
        #expect(statistics.revision == 4)
        #expect(statistics.keys == 1)
        #expect(statistics.received == 4)
        #expect(statistics.ignored == 1)
        #expect(statistics.statusesReceived == 2)
        #expect(statistics.delivered == 1)
        #expect(statistics.statusesDelivered == 1)
        #expect(statistics.subscribers == 2)
        #expect(statistics.waitingSubscribers == 1)
        #expect(statistics.subscriptions == 2)
        #expect(statistics.lag.median == 0)
        #expect(statistics.lag.percentile99 == 4)
        #expect(statistics.lag.maximum == 4)
        #expect(statistics.memory > 0)
        #expect(reader.statistics.lag == 0)
        #expect(reader.statistics.delivered == 1)
        #expect(stalled.statistics.lag == 4)
    }

    @Test func lag_ofManySubscribers_isInPercentiles() {
        let lag = DedupeHubStatistics.Lag(Array(1...200))
        #expect(lag.median == 100)
        #expect(lag.percentile99 == 198)
        #expect(lag.maximum == 200)
        #expect(DedupeHubStatistics.Lag([]) == DedupeHubStatistics.Lag())
        #expect(DedupeHubStatistics.Lag([7]).percentile99 == 7)
    }

    @Test func logs_sayWhatHappens_withoutKeysAndValues() throws {
        let logs = InMemoryLogHandler()
        var logger = Logger(label: "test") { _ in logs }
        logger.logLevel = .debug
        var configuration = configuration()
        configuration.logger = logger
        let hub = Hub(configuration: configuration)
        hub.put("secret", 1234)
        hub.onStatusUpdated(.inSync)
        var subscription: Subscription? = hub.subscribe(from: Position(epoch: 1, revision: 2, horizon: 2))
        _ = try subscription!.take()
        subscription = nil
        hub.finish()
        let messages = logs.entries.map { "\($0.message)" }
        #expect(
            messages == [
                "Received updates", "Received status", "Subscribed",
                "Subscription could not go on from its position, and begins again", "Subscription ended",
                "Hub finished",
            ])
        #expect(!logs.entries.contains { "\($0)".contains("secret") || "\($0)".contains("1234") })
    }

    @Test func metrics_whenReportsAreSlow_areNotQueued() throws {
        let metrics = TestMetrics()
        var configuration = configuration()
        configuration.metrics = .init(factory: metrics, interval: .zero)
        let hub = Hub(configuration: configuration)
        let queue = hub.observer!.queue
        queue.suspend()
        for i in 0..<100 { hub.put("a", i) }
        queue.resume()
        queue.sync {}
        #expect(try metrics.expectGauge("dedupe_hub_keys").values.count == 1)
        hub.put("a", 1)
        queue.sync {}
        #expect(try metrics.expectGauge("dedupe_hub_keys").values.count == 2)
    }

    @Test func metrics_haveTheStatistics() async throws {
        let metrics = TestMetrics()
        var configuration = configuration()
        configuration.metrics = .init(label: "fleet", dimensions: [("hub", "1")], factory: metrics, interval: .zero)
        let hub = Hub(configuration: configuration)
        let subscription = hub.subscribe()
        hub.put("a", 1)
        _ = try subscription.allEvents()
        hub.put("b", 1)
        hub.finish()
        let dimensions = [("hub", "1")]
        try await bounded("the last report") {
            while try metrics.expectCounter("fleet_received_total", dimensions).totalValue != 2
                || metrics.expectGauge("fleet_lag_maximum", dimensions).lastValue != 1
            {
                try await Task.sleep(for: .milliseconds(1))
            }
        }
        #expect(try metrics.expectGauge("fleet_keys", dimensions).lastValue == 2)
        #expect(try metrics.expectGauge("fleet_subscribers", dimensions).lastValue == 1)
        #expect(try metrics.expectCounter("fleet_delivered_total", dimensions).totalValue == 1)
        withExtendedLifetime(subscription) {}
    }
}
