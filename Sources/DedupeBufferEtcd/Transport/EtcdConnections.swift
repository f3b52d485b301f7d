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
            if let connection = state.forRequests[endpoint], !connection.isClosing { return connection }
            let connection = try open(endpoint, &state)
            state.forRequests[endpoint] = connection
            return connection
        }
    }

    /// A new connection to an endpoint.
    func forWatch(endpoint: Int) throws(DatastoreError) -> EtcdConnection {
        try state.withLock { state throws(DatastoreError) in try open(endpoint, &state) }
    }

    /// Closes the connections to one endpoint, or to all of them, and returns them.
    @discardableResult
    func close(endpoint: Int? = nil) -> [EtcdConnection] {
        let closing = state.withLock { state in
            state.open.values.filter { endpoint == nil || $0.endpoint == endpoint }.map(\.connection)
        }
        for connection in closing { connection.close() }
        return closing
    }

    private func open(_ endpoint: Int, _ state: inout State) throws(DatastoreError) -> EtcdConnection {
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
