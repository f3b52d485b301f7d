// SPDX-License-Identifier: Apache-2.0

#if Etcd

import GRPCCore
import SyncerEngine

/// Ranges of keys in an etcd cluster.
///
/// Each endpoint has a connection for requests, which opens when the first request needs it, and
/// one for each watch: the answers to large requests would delay a watch's messages.
final class EtcdDatastore: Datastore {
    private let ranges: [KeyRange]
    private let options: EtcdTransportOptions
    private let credentials: EtcdCredentials
    private let connections: EtcdConnections

    /// - Parameters:
    ///   - endpoints: one or more.
    ///   - prefixes: the prefix of each range's keys.
    ///   - options: how to talk to etcd.
    init(endpoints: [EtcdConfiguration.Endpoint], prefixes: [[UInt8]], options: EtcdTransportOptions) {
        self.options = options
        ranges = prefixes.map(KeyRange.init(prefix:))
        credentials = EtcdCredentials(options.user)
        connections = EtcdConnections(endpoints, options)
    }

    deinit { connections.close() }

    var endpointCount: Int { connections.endpointCount }

    func probe(endpoint: Int, resuming: Int64?) async throws(DatastoreError) -> HistoryPosition {
        // One key is enough, and the user may read this one: it is in the range.
        var request = RangeRequest(key: ranges[0].start, limit: 1, isKeysOnly: true)
        // A read at the revision before fails as `.compacted` if a watch could miss something. It
        // also fails, as `.futureRevision`, if the history ends before that revision. That is the
        // only proof that the history is another one: a moment later it may have grown.
        if let resuming { request.revision = max(0, resuming - 1) }
        return try await call(.range, request, endpoint, options.requestTimeout).header.position
    }

    func page(endpoint: Int, _ request: PageRequest) async throws(DatastoreError) -> Page {
        let range = ranges[request.range]
        let response = try await call(
            .range,
            RangeRequest(
                key: request.after.map(KeyRange.start(after:)) ?? range.start, rangeEnd: range.end,
                limit: Int64(request.limit), revision: request.revision ?? 0),
            endpoint, options.pageTimeout)
        return Page(
            position: response.header.position, entries: response.entries, hasMore: response.hasMore,
            count: response.count)
    }

    /// Each range is watched from the revision before its start, for two reasons:
    ///
    /// * etcd lets a watch begin at the compacted revision itself, although the deletions of that
    ///   revision are gone. A watch that begins one revision earlier is refused instead. The
    ///   revision before the start may be compacted, because the engine has its changes and drops
    ///   them.
    /// * etcd does not answer a request for progress before the cluster has reached the first
    ///   revision of each watch of the stream. The revision before the start exists already.
    func watch(endpoint: Int, starts: [Int64]) async throws(DatastoreError) -> EtcdWatch {
        try await authenticateIfNeeded(endpoint: endpoint)
        let creations = zip(ranges, starts).map { range, start in
            // With a start revision of 0, etcd would watch only what comes from now on.
            WatchCreateRequest(
                key: range.start, rangeEnd: range.end, startRevision: max(1, start - 1), notifiesProgress: true,
                fragments: true)
        }
        return EtcdWatch(try connections.forWatch(endpoint: endpoint), creations, credentials.metadata)
    }

    func disconnect(endpoint: Int) { connections.close(endpoint: endpoint) }

    func authenticate(endpoint: Int) async throws(DatastoreError) {
        try await credentials.authenticate { request async throws(DatastoreError) in
            try await send(.authenticate, request, endpoint, options.requestTimeout, metadata: [:])
        }
    }

    /// Closes all connections, and returns when they are closed.
    func close() async {
        await connections.close().waitUntilClosed()
    }

    // MARK: - Implementation

    private func authenticateIfNeeded(endpoint: Int) async throws(DatastoreError) {
        if credentials.isMissing { try await authenticate(endpoint: endpoint) }
    }

    private func call<Request, Response>(
        _ method: EtcdMethod<Request, Response>, _ request: Request, _ endpoint: Int, _ timeout: Duration
    ) async throws(DatastoreError) -> Response {
        try await authenticateIfNeeded(endpoint: endpoint)
        return try await send(method, request, endpoint, timeout, metadata: credentials.metadata)
    }

    /// The connection stays in use after a failure, until the engine disconnects.

    private func send<Request, Response>(
        _ method: EtcdMethod<Request, Response>, _ request: Request, _ endpoint: Int, _ timeout: Duration,
        metadata: Metadata
    ) async throws(DatastoreError) -> Response {
        try await connections.forRequests(endpoint: endpoint)
            .call(method, request, metadata: metadata, timeout: timeout)
    }
}

#endif
