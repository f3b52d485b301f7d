// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import GRPCCore
import SyncerEngine

@testable import DedupeBufferEtcd

/// Keys with a history, behind a fake server. A test decides what the watches say.
final class FakeStore: Sendable {
    private struct State {
        var log: [DatastoreEntry] = []
        var compacted: Int64 = 0
        var revision: Int64 = 1
        var pagePeers: [String] = []
        var creations: [WatchCreateRequest] = []
        var peers: [String] = []
        var waiting: [AsyncStream<Void>.Continuation] = []
        var progressRequests = 0
    }

    private let cluster: UInt64
    private let state = Locked(State())

    init(cluster: UInt64 = 1) { self.cluster = cluster }

    /// The requests of the watches so far, and the connections that they came on.
    var creations: [WatchCreateRequest] { state.withLock { $0.creations } }
    var peers: [String] { state.withLock { $0.peers } }
    var revision: Int64 { state.withLock { $0.revision } }
    /// The connections that pages were read on, in their order.
    var pagePeers: [String] { state.withLock { $0.pagePeers } }
    /// Requests for progress so far, of all watches together.
    var progressRequests: Int { state.withLock { $0.progressRequests } }

    /// Puts a value, or deletes the key if the value is `nil`. The watches are told.
    @discardableResult
    func put(_ key: String, _ value: String?) -> DatastoreEntry {
        let (entry, waiting) = state.withLock { state in
            state.revision += 1
            let entry = DatastoreEntry(
                key: Array(key.utf8), value: value.map { Array($0.utf8) }, revision: state.revision)
            state.log.append(entry)
            return (entry, state.waiting)
        }
        for continuation in waiting { continuation.yield() }
        return entry
    }

    func content(at revision: Int64 = .max) -> [[UInt8]: [UInt8]] {
        entries(at: revision).compactMapValues(\.value)
    }

    private func entries(at revision: Int64) -> [[UInt8]: DatastoreEntry] {
        state.withLock { state in
            var entries: [[UInt8]: DatastoreEntry] = [:]
            for entry in state.log where entry.revision <= revision {
                entries[entry.key] = entry.value == nil ? nil : entry
            }
            return entries
        }
    }

    func events(from start: Int64) -> [DatastoreEntry] {
        state.withLock { state in state.log.filter { $0.revision >= start } }
    }

    // MARK: - The server

    /// Answers ranges from the store. `watch` gets the number of the watch, from 0 on, with its
    /// request.
    func script(
        watch: @escaping @Sendable (Int, WatchCreateRequest, FakeStream, inout FakeRequests) async throws -> Void
    ) -> FakeEtcd.Script {
        var script = FakeEtcd.Script()
        script.range = { [self] call in try range(call) }
        script.watch = { [self] stream in
            var requests = FakeRequests(iterator: stream.requests.makeAsyncIterator())
            guard case .create(let request)? = try await requests.next() else { return }
            let number = state.withLock { state in
                state.creations.append(request)
                state.peers.append(stream.peer)
                return state.creations.count - 1
            }
            try await watch(number, request, stream, &requests)
        }
        return script
    }

    private func range(_ call: FakeCall<RangeRequest>) throws -> RangeResponse {
        let request = call.request
        let (revision, compacted) = state.withLock { state in
            if !request.isKeysOnly { state.pagePeers.append(call.peer) }
            return (state.revision, state.compacted)
        }
        guard request.revision <= revision else {
            throw RPCError(code: .outOfRange, message: "etcdserver: mvcc: required revision is a future revision")
        }
        guard request.revision == 0 || request.revision >= compacted else {
            throw RPCError(code: .outOfRange, message: "etcdserver: mvcc: required revision has been compacted")
        }
        let found = entries(at: request.revision == 0 ? revision : request.revision).values
            .filter { isInRange($0.key, request) }.sorted { $0.key.lexicographicallyPrecedes($1.key) }
        var response = RangeResponse.of(revision: revision, cluster: cluster, Array(found.prefix(Int(request.limit))))
        response.count = Int64(found.count)
        response.hasMore = found.count > response.entries.count
        return response
    }

    private func isInRange(_ key: [UInt8], _ request: RangeRequest) -> Bool {
        if request.rangeEnd.isEmpty { return key == request.key }
        return !key.lexicographicallyPrecedes(request.key)
            && (request.rangeEnd == [0] || key.lexicographicallyPrecedes(request.rangeEnd))
    }

    /// Serves a watch as etcd does, until the client goes. Since 3.5.22 and 3.6.2, etcd answers no
    /// request for progress before the cluster has reached the watch's first revision.
    func follow(
        _ stream: FakeStream, from start: Int64, _ requests: inout FakeRequests, isCreated: Bool = false
    ) async throws {
        let (changes, continuation) = AsyncStream.makeStream(of: Void.self)
        state.withLock { $0.waiting.append(continuation) }
        if !isCreated { try await stream.send(.of(0, revision: revision, cluster: cluster) { $0.isCreated = true }) }
        let sender = Task { [self, cluster] in
            var next = start
            continuation.yield()
            for await _ in changes {
                let events = events(from: next)
                guard let last = events.last else { continue }
                try await stream.send(.of(0, revision: last.revision, cluster: cluster) { $0.events = events })
                next = last.revision + 1
            }
        }
        defer { sender.cancel() }
        while let request = try await requests.next() {
            guard request == .progress else { continue }
            state.withLock { $0.progressRequests += 1 }
            if revision >= start { try await stream.send(.of(-1, revision: revision, cluster: cluster)) }
        }
    }
}

/// The requests of a stream that have not been read yet.
struct FakeRequests {
    fileprivate var iterator: RPCAsyncSequence<WatchRequest, any Error>.AsyncIterator

    mutating func next() async throws -> WatchRequest? { try await iterator.next() }
}

#endif
