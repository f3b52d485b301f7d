// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import DedupeBufferService
import Foundation
import Logging
import Metrics
import MetricsTestKit
import ServiceLifecycle

struct Route: Sendable, Equatable {
    var nextHop: String
    var weight: Int
}

/// The slow side, which writes routes to a table that is not always there. The buffer sends again
/// what the table failed on, or what is newer by then.
actor RouteTable: AsyncSyncerCallbacks {
    struct Unavailable: Error {}

    private(set) var routes: [String: Route] = [:]
    private(set) var isInSync = false
    private(set) var failures = 0
    var isDown = false

    func setDown(_ isDown: Bool) { self.isDown = isDown }

    func onUpdates(_ updates: [Update<String, Route>]) async throws {
        try await Task.sleep(for: .milliseconds(1))  // the way to the table and back
        guard !isDown else {
            failures += 1
            throw Unavailable()
        }
        for update in updates { routes[update.key] = update.value }
    }

    func onStatusUpdated(_ status: SyncStatus) async throws { isInSync = status == .inSync }
}

/// The fast side, which follows the datastore. After each failure it connects again and begins with
/// a snapshot.
struct DatastoreClient: Service {
    let datastore: Datastore
    let buffer: DedupeBuffer<String, Route>
    let logger: Logger

    func run() async throws {
        // This task is cancelled when the client returns.
        async let _ = reconnectAtOverflows()
        // At shutdown the connection is closed. What came over it before is still handed on.
        try await withGracefulShutdownHandler {
            while !datastore.isClosed {
                do {
                    try await follow()
                } catch is Datastore.ConnectionLost {
                    logger.warning("connection lost")
                    try await Task.sleep(for: .milliseconds(20))
                }
            }
        } onGracefulShutdown: {
            datastore.close()
        }
    }

    private func follow() async throws {
        let (snapshot, changes) = datastore.connect()
        // The buffer skips what the table has already, and deletes what the snapshot lacks.
        try await buffer.withResync { session in session.send(snapshot) }
        for try await updates in changes { buffer.onUpdates(updates) }
    }

    /// A resync is what the client does after a lost connection. So an overflow makes it lose that.
    private func reconnectAtOverflows() async {
        for await _ in buffer.overflows {
            logger.warning("more than 2,000 routes pending: resync")
            datastore.loseConnection()
        }
    }
}

@main
struct Server {
    static func main() async throws {
        let metrics = TestMetrics()
        MetricsSystem.bootstrap(metrics)  // in a server: the factory of your backend
        LoggingSystem.bootstrap(StreamLogHandler.standardError)
        let logger = Logger(label: "routes")

        let datastore = Datastore()
        var configuration = DedupeBufferConfiguration()
        configuration.logger = logger
        configuration.metrics = .init(label: "routes")
        configuration.skipsUnchangedRevisions = true
        // The table is written at most every 2 ms. Routes that flap meanwhile are conflated.
        configuration.minimumInterval = .milliseconds(2)
        // More than a snapshot has. Otherwise a resync would overflow again.
        let buffer = DedupeBuffer<String, Route>(configuration: configuration, bound: .keys(2_000))
        let table = RouteTable()

        let retry = DedupeBufferConfiguration.RetryPolicy(
            initialDelay: .milliseconds(5), maximumDelay: .milliseconds(50), maximumAttempts: nil)
        let delivery = DedupeBufferService(
            buffer: buffer, sink: table, retry: retry, gracePeriod: .seconds(5)
        ) { undelivered in
            logger.notice("delivery has ended", metadata: ["undelivered": "\(undelivered.updates)"])
        }
        let client = DatastoreClient(datastore: datastore, buffer: buffer, logger: logger)
        // From the last to the first is how a group shuts down: the client ends before the
        // delivery.
        let group = ServiceGroup(
            configuration: .init(
                services: [
                    .init(service: delivery, serviceName: "delivery"),
                    .init(service: client, successTerminationBehavior: .ignore, serviceName: "client"),
                    .init(
                        service: Day(datastore: datastore, table: table, buffer: buffer),
                        successTerminationBehavior: .gracefullyShutdownGroup, serviceName: "day"),
                ],
                gracefulShutdownSignals: [.sigterm], logger: logger))
        try await group.run()

        let statistics = buffer.statistics
        print(
            "received \(statistics.received), delivered \(statistics.delivered), replaced \(statistics.replaced),",
            terminator: " ")
        print("suppressed \(statistics.suppressed), dropped \(statistics.dropped),", terminator: " ")
        print(
            "deletions found by resyncs \(statistics.synthesizedDeletions), overflows \(statistics.overflows),",
            terminator: " ")
        print("failures of the table \(await table.failures)")

        let counted = try metrics.expectCounter("routes_received_total").totalValue
        let isRight = await table.routes == datastore.routes && counted == statistics.received
        print(
            isRight
                ? "the table equals the datastore: \(datastore.routes.count) routes" : "WRONG: table or count differ")
        // What this program is here to show has happened.
        let hasShown = statistics.suppressed > 0 && statistics.synthesizedDeletions > 0 && statistics.overflows > 0
        exit(isRight && hasShown ? EXIT_SUCCESS : EXIT_FAILURE)
    }
}
