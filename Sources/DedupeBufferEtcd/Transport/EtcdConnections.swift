// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import SyncerEngine

/// The open connections to all endpoints.
final class EtcdConnections: Sendable {
    private struct State {
        /// For each endpoint the connection that requests use, if there is one.
        var forRequests: [Int: EtcdConnection] = [:]
        /// The connections that are not yet closed, by a number, with their endpoints.
        var open: [Int: (endpoint: Int, connection: EtcdConnection)] = [:]
        var latestNumber = 0
    }

    /// How many connections to one endpoint may be closing. One that hangs while it connects closes
    /// when its look-up of the name, its connection or its handshake ends, which takes up to half a
    /// minute. Without a limit a long outage would collect such connections.
    static let maximumClosing = 8

    private let endpoints: [EtcdConfiguration.Endpoint]
    private let options: EtcdTransportOptions
    private let state = Locked(State())

    init(_ endpoints: [EtcdConfiguration.Endpoint], _ options: EtcdTransportOptions) {
        self.endpoints = endpoints
        self.options = options
    }

    var endpointCount: Int { endpoints.count }

    /// The connection for an endpoint's requests, which connects if there is none.
    func forRequests(endpoint: Int) throws(DatastoreError) -> EtcdConnection {
        try state.withLock { state throws(DatastoreError) in
            if let connection = state.forRequests[endpoint] { return connection }
            let connection = try open(endpoint, &state)
            state.forRequests[endpoint] = connection
            return connection
        }
    }

    /// A new connection to an endpoint.
    func forWatch(endpoint: Int) throws(DatastoreError) -> EtcdConnection {
        try state.withLock { state throws(DatastoreError) in try open(endpoint, &state) }
    }

    /// Begins to close the connections to one endpoint, or to all of them, and returns them. They
    /// are not used any more.
    @discardableResult
    func close(endpoint: Int? = nil) -> [EtcdConnection] {
        let (closing, forRequests) = state.withLock { state in
            // Connections are not destroyed under the lock.
            let forRequests = state.forRequests
            state.forRequests = forRequests.filter { endpoint != nil && $0.key != endpoint }
            return (state.open.values.filter { endpoint == nil || $0.endpoint == endpoint }, forRequests)
        }
        for open in closing { open.connection.close() }
        withExtendedLifetime(forRequests) {}
        return closing.map(\.connection)
    }

    private func open(_ endpoint: Int, _ state: inout State) throws(DatastoreError) -> EtcdConnection {
        let closing = state.open.values.count { $0.endpoint == endpoint && $0.connection.isClosing }
        guard closing < Self.maximumClosing else {
            throw DatastoreError(.unavailable, "\(closing) earlier connections are still closing")
        }
        state.latestNumber += 1
        let number = state.latestNumber
        let connection = try EtcdConnection(endpoints[endpoint], options) { [weak self] in self?.closed(number) }
        state.open[number] = (endpoint, connection)
        return connection
    }

    private func closed(_ number: Int) {
        // Not destroyed under the lock.
        _ = state.withLock { state in state.open.removeValue(forKey: number) }
    }
}

extension [EtcdConnection] {
    func waitUntilClosed() async {
        for connection in self { await connection.waitUntilClosed() }
    }
}

#endif
