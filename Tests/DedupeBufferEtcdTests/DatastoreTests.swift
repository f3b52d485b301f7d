// SPDX-License-Identifier: Apache-2.0
// The transport against a server that does what the test says. The numbers of scenes are those of
// the list in Sources/SyncerEngine/STATES.md.

#if Etcd

import DedupeBuffer
import GRPCCore
import SyncerEngine
import Testing

@testable import DedupeBufferEtcd

@Suite struct DatastoreRequestTests {
    @Test func page_ofAPrefix_asksForTheRangeAndReturnsItsEntries() async throws {
        let entries = [
            DatastoreEntry(key: Array("/a/1".utf8), value: [1], revision: 5),
            DatastoreEntry(key: Array("/a/2".utf8), value: [], revision: 9),
        ]
        let seen = Locked<[RangeRequest]>([])
        var script = FakeEtcd.Script()
        script.range = { call in
            seen.withLock { $0.append(call.request) }
            var response = RangeResponse.of(revision: 12, cluster: 3, entries)
            response.hasMore = true
            response.count = 7
            return response
        }
        try await withDatastore(script, prefixes: ["/a/", ""]) { datastore in
            let page = try await datastore.page(
                endpoint: 0, PageRequest(range: 0, after: nil, revision: nil, limit: 2))
            #expect(
                page
                    == Page(
                        position: HistoryPosition(cluster: 3, revision: 12), entries: entries, hasMore: true, count: 7))
            _ = try await datastore.page(
                endpoint: 0, PageRequest(range: 0, after: Array("/a/2".utf8), revision: 12, limit: 3))
            _ = try await datastore.page(endpoint: 0, PageRequest(range: 1, after: nil, revision: nil, limit: 4))
        }
        let end = Array("/a0".utf8)
        #expect(
            seen.withLock { $0 } == [
                RangeRequest(key: Array("/a/".utf8), rangeEnd: end, limit: 2),
                RangeRequest(key: Array("/a/2\0".utf8), rangeEnd: end, limit: 3, revision: 12),
                RangeRequest(key: [0], rangeEnd: [0], limit: 4),
            ])
    }

    /// Scene 17. Without a limit of its own, grpc-swift refuses more than 4 MiB.
    @Test func scene17_responseOverFourMebibytes_isAccepted() async throws {
        let entries = (0..<6).map {
            DatastoreEntry(key: [UInt8($0)], value: [UInt8](repeating: 7, count: 1 << 20), revision: 1)
        }
        var script = FakeEtcd.Script()
        script.range = { _ in .of(revision: 1, entries) }
        script.watch = { stream in
            try await stream.send(.created(0, revision: 1))
            try await stream.send(.of(0, revision: 1) { $0.events = entries })
            try await stream.staySilent()
        }
        try await withDatastore(script) { datastore in
            let page = try await datastore.page(endpoint: 0, firstPage)
            #expect(page.entries == entries)
            let watch = try await datastore.watch(endpoint: 0, starts: [1])
            let messages = try await first(2, of: watch)
            #expect(
                messages.last
                    == .changes(range: 0, entries, HistoryPosition(cluster: 1, revision: 1), isFragment: false))
        }
    }

    /// Scene 17. The engine asks for smaller pages then.
    @Test func scene17_responseOverTheLimit_isTooLarge() async throws {
        var script = FakeEtcd.Script()
        script.range = { _ in
            .of(revision: 1, [DatastoreEntry(key: [1], value: [UInt8](repeating: 7, count: 4096), revision: 1)])
        }
        try await withDatastore(script, options: EtcdTransportOptions(maximumMessageBytes: 4096)) { datastore in
            let error = await #expect(throws: DatastoreError.self) {
                try await datastore.page(endpoint: 0, firstPage)
            }
            #expect(error?.reason == .responseTooLarge, "\(String(describing: error))")
        }
    }

    @Test func response_whenBytesAreNotAMessage_isMalformed() async throws {
        var script = FakeEtcd.Script()
        script.range = { _ in .of(revision: 1, [DatastoreEntry(key: [], value: [], revision: 1)]) }
        script.watch = { stream in try await stream.send(bytes: [0xff]) }
        try await withDatastore(script) { datastore in
            await expect(reason: .malformed) { try await datastore.page(endpoint: 0, firstPage) }
            let watch = try await datastore.watch(endpoint: 0, starts: [1])
            await expect(reason: .malformed) { try await first(1, of: watch) }
        }
    }

    @Test func request_withoutAnswer_timesOut() async throws {
        var script = FakeEtcd.Script()
        script.range = { call in try await call.staySilent() }
        let options = EtcdTransportOptions(requestTimeout: .milliseconds(50), pageTimeout: .milliseconds(50))
        try await withDatastore(script, options: options) { datastore in
            await expect(reason: .timeout) { try await datastore.page(endpoint: 0, firstPage) }
            await expect(reason: .timeout) { _ = try await datastore.probe(endpoint: 0, resuming: nil) }
        }
    }

    @Test(
        arguments: [
            (.outOfRange, "etcdserver: mvcc: required revision has been compacted", .compacted),
            (.outOfRange, "etcdserver: mvcc: required revision is a future revision", .futureRevision),
            (.unavailable, "etcdserver: no leader", .noLeader),
            (.unavailable, "etcdserver: leader changed", .noLeader),
            (.failedPrecondition, "etcdserver: not leader", .noLeader),
            (.unknown, "raft proposal dropped", .noLeader),
            (.unavailable, "etcdserver: request timed out", .timeout),
            (.unavailable, "etcdserver: request timed out, possibly due to previous leader failure", .noLeader),
            (.unavailable, "etcdserver: request timed out, possibly due to connection lost", .timeout),
            (.unavailable, "etcdserver: server stopped", .unavailable),
            (.unavailable, "etcdserver: unhealthy cluster", .unavailable),
            (.unavailable, "etcdserver: not capable", .unavailable),
            (.unavailable, "something else", .unavailable),
            (.unavailable, "etcdserver: rpc not supported for learner", .unavailable),
            (.failedPrecondition, "etcdserver: rpc not supported for learner", .unavailable),
            (.unauthenticated, "etcdserver: invalid auth token", .unauthenticated),
            (.unauthenticated, "something else", .unauthenticated),
            (.invalidArgument, "etcdserver: revision of auth store is old", .unauthenticated),
            (.invalidArgument, "etcdserver: user name is empty", .unauthenticated),
            (.invalidArgument, "etcdserver: authentication failed, invalid user ID or password", .permissionDenied),
            (.permissionDenied, "etcdserver: permission denied", .permissionDenied),
            (.permissionDenied, "something else", .permissionDenied),
            (.resourceExhausted, "etcdserver: too many requests", .overloaded),
            (.resourceExhausted, "something else", .overloaded),
            (
                .resourceExhausted, "grpc: trying to send message larger than max (3000000000 vs. 2147483647)",
                .responseTooLarge
            ),
            (.dataLoss, "etcdserver: corrupt cluster", .dataLoss),
            (.dataLoss, "something else", .dataLoss),
            (.unimplemented, "unknown service etcdserverpb.KV", .unsupported),
            (.deadlineExceeded, "context deadline exceeded", .timeout),
            (.cancelled, "context canceled", .unavailable),
            (.aborted, "", .unavailable),
            (.internalError, "", .other),
            (.unknown, "etcdserver: something new", .other),
        ] as [(RPCError.Code, String, DatastoreError.Reason)])
    func status_ofARequestOrAStream_hasItsReason(
        code: RPCError.Code, message: String, reason: DatastoreError.Reason
    ) async throws {
        var script = FakeEtcd.Script()
        script.range = { _ in throw RPCError(code: code, message: message) }
        script.watch = { _ in throw RPCError(code: code, message: message) }
        try await withDatastore(script) { datastore in
            let error = await expect(reason: reason) { try await datastore.page(endpoint: 0, firstPage) }
            #expect(error?.message == message)
            let watch = try await datastore.watch(endpoint: 0, starts: [1])
            await expect(reason: reason) { try await first(1, of: watch) }
        }
    }

    // MARK: - Probes

    @Test func scene10_probe_isLinearizableAndReadsOneKeyOfTheRange() async throws {
        let seen = Locked<[RangeRequest]>([])
        var script = FakeEtcd.Script()
        script.range = { call in
            seen.withLock { $0.append(call.request) }
            return .of(revision: 40, cluster: 9)
        }
        try await withDatastore(script, prefixes: ["/a/"]) { datastore in
            let position = try await datastore.probe(endpoint: 0, resuming: nil)
            #expect(position == HistoryPosition(cluster: 9, revision: 40))
        }
        // The fake server refuses a request that has the field for serializable reads.
        #expect(seen.withLock { $0 } == [RangeRequest(key: Array("/a/".utf8), limit: 1, isKeysOnly: true)])
    }

    /// Scene 20. A watch from the compacted revision is accepted, but misses a deletion there.
    @Test func scene20_probe_readsAtTheRevisionBeforeTheWatch() async throws {
        var script = FakeEtcd.Script()
        script.range = { call in
            guard call.request.revision >= 30 else {
                throw RPCError(code: .outOfRange, message: "etcdserver: mvcc: required revision has been compacted")
            }
            return .of(revision: 40)
        }
        try await withDatastore(script) { datastore in
            await expect(reason: .compacted) { _ = try await datastore.probe(endpoint: 0, resuming: 30) }
            let position = try await datastore.probe(endpoint: 0, resuming: 31)
            #expect(position.revision == 40)
        }
    }

    /// A restored cluster may write on. So one answer decides: the next one would show a revision
    /// that looks like the old history.
    @Test func scene11_probe_whenRevisionsWentBack_andTheClusterWritesOn_saysSo() async throws {
        let revision = Locked<Int64>(998)
        var script = FakeEtcd.Script()
        script.range = { call in
            let newest = revision.withLock { revision in
                defer { revision += 5 }
                return revision
            }
            guard call.request.revision <= newest else {
                throw RPCError(code: .outOfRange, message: "etcdserver: mvcc: required revision is a future revision")
            }
            return .of(revision: newest)
        }
        try await withDatastore(script) { datastore in
            await expect(reason: .futureRevision) { try await datastore.probe(endpoint: 0, resuming: 1000) }
        }
    }

    @Test func probe_resumingAtTheFirstRevision_readsTheNewest() async throws {
        var script = FakeEtcd.Script()
        script.range = { call in .of(revision: call.request.revision == 0 ? 6 : 0) }
        try await withDatastore(script) { datastore in
            let first = try await datastore.probe(endpoint: 0, resuming: 1)
            #expect(first.revision == 6)
            let newest = try await datastore.probe(endpoint: 0, resuming: 0)
            #expect(newest.revision == 6)
        }
    }

    // MARK: - Connections

    @Test func scene07_everyCall_requiresALeader() async throws {
        let values = Locked<[String]>([])
        var script = FakeEtcd.Script()
        script.range = { call in
            values.withLock { $0 += Array(call.metadata[stringValues: "hasleader"]) }
            return .of(revision: 1)
        }
        script.watch = { stream in
            values.withLock { $0 += Array(stream.metadata[stringValues: "hasleader"]) }
            try await stream.send(.created(0, revision: 1))
        }
        try await withDatastore(script) { datastore in
            _ = try await datastore.probe(endpoint: 0, resuming: nil)
            _ = try await first(1, of: try await datastore.watch(endpoint: 0, starts: [1]))
        }
        #expect(values.withLock { $0 } == ["true", "true"])
    }

    @Test func scene08_disconnect_endsTheWatchAndOpensNewConnections() async throws {
        let peers = Locked<Set<String>>([])
        var script = FakeEtcd.Script()
        script.range = { call in
            peers.withLock { _ = $0.insert(call.peer) }
            return .of(revision: 1)
        }
        script.watch = { stream in
            try await stream.send(.created(0, revision: 1))
            try await stream.staySilent()
        }
        try await withDatastore(script) { datastore in
            for _ in 0..<3 { _ = try await datastore.probe(endpoint: 0, resuming: nil) }
            #expect(peers.withLock { $0.count } == 1)
            let watch = try await datastore.watch(endpoint: 0, starts: [1])
            _ = try await first(1, of: watch)
            datastore.disconnect(endpoint: 0)
            await expect(reason: .unavailable) { try await first(1, of: watch) }
            _ = try await datastore.probe(endpoint: 0, resuming: nil)
            #expect(peers.withLock { $0.count } == 2)
        }
    }

    @Test func scene09_endpointThatIsGone_failsAndTheNextOneWorks() async throws {
        var script = FakeEtcd.Script()
        script.range = { _ in .of(revision: 1) }
        try await FakeEtcd.run(script) { [script] alive in
            let gone = try await FakeEtcd.run(script) { $0 }
            let datastore = EtcdDatastore(endpoints: [gone, alive], prefixes: [[]], options: .patient)
            await expect(reason: .unavailable) { _ = try await datastore.probe(endpoint: 0, resuming: nil) }
            let position = try await datastore.probe(endpoint: 1, resuming: nil)
            #expect(position.revision == 1)
            let watch = try await datastore.watch(endpoint: 0, starts: [1])
            await expect(reason: .unavailable) { try await first(1, of: watch) }
            await datastore.close()
        }
    }

    /// The next attempt does not wait for a back-off of the transport, because each attempt makes a
    /// new connection. An old one would fail at once, while its back-off lasts.
    @Test func endpointThatReturns_isUsedAtTheNextRequest() async throws {
        var script = FakeEtcd.Script()
        script.range = { _ in .of(revision: 1) }
        let endpoint = try await FakeEtcd.run(script) { $0 }
        let datastore = EtcdDatastore(endpoints: [endpoint], prefixes: [[]], options: .patient)
        for _ in 0..<8 {
            await expect(reason: .unavailable) { _ = try await datastore.probe(endpoint: 0, resuming: nil) }
            datastore.disconnect(endpoint: 0)
        }
        try await FakeEtcd.run(script, port: endpoint.port) { _ in
            let position = try await datastore.probe(endpoint: 0, resuming: nil)
            #expect(position.revision == 1)
        }
        await datastore.close()
    }

    /// A peer that accepts connections and says nothing. Closing a connection in its TLS handshake
    /// takes seconds.
    @Test func connectionsThatHangWhileTheyClose_areLimited() async throws {
        let proxy = try Proxy(to: 1)
        proxy.set(.frozen)
        var options = EtcdTransportOptions.patient
        options.requestTimeout = .milliseconds(20)
        let datastore = EtcdDatastore(
            endpoints: [try .init(host: "127.0.0.1", port: proxy.port, usesTLS: true)], prefixes: [[]],
            options: options)
        var attempts = 0
        var error: DatastoreError?
        repeat {
            attempts += 1
            error = await #expect(throws: DatastoreError.self) {
                try await datastore.probe(endpoint: 0, resuming: nil)
            }
            // Returns at once, or the next attempt would wait for the old connection.
            datastore.disconnect(endpoint: 0)
        } while error?.message.contains("still closing") != true && attempts < 500
        #expect(error?.reason == .unavailable && attempts > EtcdConnections.maximumClosing, "\(attempts)")
        proxy.set(.cut)
        await datastore.close()
    }

    @Test func hostName_thatDoesNotResolve_isUnavailable() async throws {
        let datastore = EtcdDatastore(
            endpoints: [try EtcdConfiguration.Endpoint("http://no-such-host.invalid")], prefixes: [[]],
            options: .patient)
        await #expect(throws: DatastoreError.self) { _ = try await datastore.probe(endpoint: 0, resuming: nil) }
        await datastore.close()
    }

    /// Scene 24. Large responses on the same connection would hold the watch's messages up.
    @Test func scene24_watch_hasAConnectionOfItsOwn() async throws {
        let peers = Locked<[String]>([])
        var script = FakeEtcd.Script()
        script.range = { call in
            peers.withLock { $0.append(call.peer) }
            return .of(revision: 1)
        }
        script.watch = { stream in
            peers.withLock { $0.append(stream.peer) }
            try await stream.send(.created(0, revision: 1))
            try await stream.staySilent()
        }
        try await withDatastore(script) { datastore in
            _ = try await datastore.probe(endpoint: 0, resuming: nil)
            let watches = [
                try await datastore.watch(endpoint: 0, starts: [1]),
                try await datastore.watch(endpoint: 0, starts: [1]),
            ]
            for watch in watches { _ = try await first(1, of: watch) }
            _ = try await datastore.probe(endpoint: 0, resuming: nil)
        }
        let seen = peers.withLock { $0 }
        #expect(seen.count == 4 && seen[0] == seen[3] && Set(seen).count == 3, "\(seen)")
    }
}

// MARK: - Support

let firstPage = PageRequest(range: 0, after: nil, revision: nil, limit: 1000)

extension EtcdTransportOptions {
    init(maximumMessageBytes: Int) {
        self = .patient
        self.maximumMessageBytes = maximumMessageBytes
    }

    init(requestTimeout: Duration, pageTimeout: Duration) {
        self = .patient
        self.requestTimeout = requestTimeout
        self.pageTimeout = pageTimeout
    }
}

/// Runs a fake server, and a datastore that uses it.
func withDatastore(
    _ script: FakeEtcd.Script, prefixes: [String] = [""], options: EtcdTransportOptions = .patient,
    _ body: @escaping @Sendable (EtcdDatastore) async throws -> Void
) async throws {
    try await within("the test") {
        try await FakeEtcd.run(script) { endpoint in
            let datastore = EtcdDatastore(
                endpoints: [endpoint], prefixes: prefixes.map { Array($0.utf8) }, options: options)
            let result: Result<Void, any Error>
            do { result = .success(try await body(datastore)) } catch { result = .failure(error) }
            await datastore.close()
            try result.get()
        }
    }
}

/// The next messages of a watch.
func first(_ count: Int, of watch: EtcdWatch) async throws -> [WatchMessage] {
    try await within("\(count) messages of a watch") {
        var iterator = watch.messages.makeAsyncIterator()
        var messages: [WatchMessage] = []
        while messages.count < count, let message = try await iterator.next() { messages.append(message) }
        return messages
    }
}

/// Expects an error of the datastore, and returns it.
@discardableResult
func expect(
    reason: DatastoreError.Reason, sourceLocation: SourceLocation = #_sourceLocation,
    _ body: () async throws -> some Any
) async -> DatastoreError? {
    do {
        let result = try await body()
        Issue.record("expected \(reason), got \(result)", sourceLocation: sourceLocation)
        return nil
    } catch let error as DatastoreError {
        if error.reason != reason { Issue.record("expected \(reason), got \(error)", sourceLocation: sourceLocation) }
        return error
    } catch {
        Issue.record("expected \(reason), got \(error)", sourceLocation: sourceLocation)
        return nil
    }
}

#endif
