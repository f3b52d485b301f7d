// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import ServiceLifecycle
import Synchronization

// What a server does not have: the datastore, here in memory, and what happens to it in a day.

/// A datastore that sends each client a snapshot when it connects, and then each change.
final class Datastore: Sendable {
    typealias Changes = AsyncThrowingStream<[Update<String, Route>], any Error>
    struct ConnectionLost: Error {}

    private struct State {
        var entries: [String: Update<String, Route>] = [:]
        var revision: UInt64 = 0
        var connection: Changes.Continuation?
        var isClosed = false
    }
    private let state = Mutex(State())

    var routes: [String: Route] { state.withLock { $0.entries.compactMapValues(\.value) } }
    var isClosed: Bool { state.withLock { $0.isClosed } }

    func connect() -> (snapshot: [Update<String, Route>], changes: Changes) {
        state.withLock { state in
            let (changes, connection) = Changes.makeStream()
            if state.isClosed { connection.finish() } else { state.connection = connection }
            return (Array(state.entries.values), changes)
        }
    }

    /// One change for all keys, to a route or to nothing.
    func change(_ keys: [String], to route: Route?) {
        state.withLock { state in
            state.revision += 1
            let updates = keys.map { Update(key: $0, value: route, revision: state.revision) }
            for update in updates { state.entries[update.key] = update.value == nil ? nil : update }
            state.connection?.yield(updates)
        }
    }

    func loseConnection() { state.withLock { $0.connection.take()?.finish(throwing: ConnectionLost()) } }

    func close() {
        state.withLock { state in
            state.isClosed = true
            state.connection.take()?.finish()
        }
    }
}

/// What happens; when it is over, the group shuts down.
struct Day: Service {
    let datastore: Datastore
    let table: RouteTable
    let buffer: DedupeBuffer<String, Route>

    func run() async throws {
        let keys = (0..<1_000).map { "10.0.\($0 / 250).\($0 % 250)/32" }
        datastore.change(keys, to: Route(nextHop: "192.0.2.1", weight: 1))
        try await wait { await table.isInSync }

        // A few routes that flap, faster than the table can be written.
        for weight in 1...1_000 {
            datastore.change(Array(keys[..<10]), to: Route(nextHop: "192.0.2.2", weight: weight))
        }
        try await wait { await table.routes == datastore.routes }

        // The connection is lost, and routes vanish before the next one begins. No message says so:
        // the snapshot just lacks them.
        datastore.loseConnection()
        datastore.change(Array(keys[990...]), to: nil)
        try await wait { await table.routes == datastore.routes }

        // While the table is down, thousands of routes come and go: more than may be pending.
        await table.setDown(true)
        let storm = (0..<5_000).map { "10.9.\($0 / 250).\($0 % 250)/32" }
        datastore.change(storm, to: Route(nextHop: "192.0.2.3", weight: 1))
        datastore.change(storm, to: nil)
        datastore.change(Array(keys[..<300]), to: Route(nextHop: "192.0.2.4", weight: 1))
        try await wait { await table.failures > 0 && buffer.statistics.overflows > 0 }
        await table.setDown(false)
        try await wait { await table.routes == datastore.routes }

        // What has just come is delivered in the shutdown, within its deadline.
        datastore.change(Array(keys[300..<600]), to: Route(nextHop: "192.0.2.5", weight: 1))
    }

    private struct TookTooLong: Error {}

    private func wait(until condition: () async -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(30)
        while !(await condition()) {
            guard .now < deadline else { throw TookTooLong() }
            try await Task.sleep(for: .milliseconds(1))
        }
    }
}
