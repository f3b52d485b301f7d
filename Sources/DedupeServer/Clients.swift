// SPDX-License-Identifier: Apache-2.0

#if Server

internal import DedupeBuffer
internal import NIOCore

/// The streams that are being served, and the connections.
final class Clients: Sendable {
    private struct State {
        var streams: [Int: StreamClient] = [:]
        var connections: [ObjectIdentifier: Connection] = [:]
        var admitted = 0
        var refused = 0
        var snapshots = 0
        /// Of clients that have gone.
        var bytes = 0
        var updates = 0
    }

    private struct Connection {
        let channel: any Channel
        /// Requests that have not been answered yet.
        var requests = 0
        /// When the latest answer was complete.
        var idleSince = ContinuousClock.now
    }

    private let state = Locked(State())
    private let maximum: Int
    private let maximumSnapshots: Int

    init(_ configuration: ServerConfiguration) {
        maximum = configuration.maximumClients
        maximumSnapshots = configuration.maximumSnapshots
    }

    // MARK: - Streams

    /// Admits a client if there is room.
    ///
    /// - Parameter make: is given the client's number. Called under the lock.
    func admit(_ make: (Int) -> StreamClient) throws(Refusal) -> StreamClient {
        let client = state.withLock { state -> StreamClient? in
            guard state.streams.count < maximum else {
                state.refused += 1
                return nil
            }
            state.admitted += 1
            let client = make(state.admitted)
            state.streams[state.admitted] = client
            return client
        }
        if let client { return client }
        throw .busy("The server has as many clients as it may have, \(maximum).", retryAfter: 10)
    }

    func remove(_ client: StreamClient) {
        state.withLock { state in
            state.streams[client.description.number] = nil
            state.bytes += client.bytes.load(ordering: .relaxed)
            state.updates += client.updates.load(ordering: .relaxed)
        }
    }

    // MARK: - Snapshots

    func beginSnapshot() throws(Refusal) {
        let isAdmitted = state.withLock { state in
            guard state.snapshots < maximumSnapshots else {
                state.refused += 1
                return false
            }
            state.snapshots += 1
            return true
        }
        if !isAdmitted {
            throw .busy("\(maximumSnapshots) snapshots are being sent, and no more are made at a time.", retryAfter: 1)
        }
    }

    func endSnapshot() {
        state.withLock { $0.snapshots -= 1 }
    }

    // MARK: - Connections

    /// Remembers a connection until it is closed.
    func add(_ connection: any Channel) {
        let identifier = ObjectIdentifier(connection)
        state.withLock { $0.connections[identifier] = Connection(channel: connection) }
        connection.closeFuture.whenComplete { _ in
            self.state.withLock { $0.connections[identifier] = nil }
        }
    }

    /// A request has come. ``endRequest(on:)`` follows.
    func beginRequest(on connection: any Channel) {
        state.withLock { $0.connections[ObjectIdentifier(connection)]?.requests += 1 }
    }

    func endRequest(on connection: any Channel) {
        let now = ContinuousClock.now
        state.withLock { state in
            state.connections[ObjectIdentifier(connection)]?.requests -= 1
            state.connections[ObjectIdentifier(connection)]?.idleSince = now
        }
    }

    /// Closes the connections that have had no request for longer than this.
    ///
    /// HTTP/1.1 has a timer for each connection, which is earlier. HTTP/2 asks the client to close
    /// an idle connection, and a client might never answer.
    ///
    /// - Complexity: O(*n*) in the number of connections.
    func closeIdle(longerThan limit: Duration) {
        let limit = ContinuousClock.now - limit
        let idle = state.withLock { state in
            state.connections.values.filter { $0.requests == 0 && $0.idleSince < limit }
        }
        for connection in idle { connection.channel.cutOff() }
    }

    /// Closes every connection, whatever its client has still to get.
    ///
    /// - Returns: How many there were.
    func closeAll() -> Int {
        let connections = state.withLock { Array($0.connections.values) }
        for connection in connections { connection.channel.cutOff() }
        return connections.count
    }

    // MARK: - Figures

    struct Figures {
        var now = 0
        var connections = 0
        var admitted = 0
        var refused = 0
        var bytes = 0
        var updates = 0
        var pending = 0
    }

    var streams: [StreamClient] { state.withLock { Array($0.streams.values) } }

    /// - Complexity: O(*n*) in the number of clients.
    var figures: Figures {
        var (figures, streams) = state.withLock { state in
            (
                Figures(
                    now: state.streams.count, connections: state.connections.count, admitted: state.admitted,
                    refused: state.refused, bytes: state.bytes, updates: state.updates), Array(state.streams.values)
            )
        }
        for stream in streams {
            figures.bytes += stream.bytes.load(ordering: .relaxed)
            figures.updates += stream.updates.load(ordering: .relaxed)
            figures.pending += stream.statistics?.pending ?? 0
        }
        streams.removeAll()
        return figures
    }
}

#endif
