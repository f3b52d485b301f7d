// SPDX-License-Identifier: Apache-2.0
// Watches of the transport, against a server that does what the test says.

#if Etcd

import DedupeBuffer
import GRPCCore
import SyncerEngine
import Testing

@testable import DedupeBufferEtcd

@Suite struct WatchTests {
    private let first5 = HistoryPosition(cluster: 1, revision: 5)
    private let entry = DatastoreEntry(key: [1], value: [2], revision: 6)

    /// Scene 20. etcd accepts a watch that begins at the compacted revision, and it has lost the
    /// deletions of that revision. So a watch begins at the revision before.
    @Test func scene20_watch_ofSeveralRanges_requestsEachFromTheRevisionBefore_inOneStream() async throws {
        let seen = Locked<[WatchRequest]>([])
        var script = FakeEtcd.Script()
        script.watch = { stream in
            var requests = stream.requests.makeAsyncIterator()
            for id in 0..<3 as Range<Int64> {
                let request = try await requests.next()!
                seen.withLock { $0.append(request) }
                try await stream.send(.created(id, revision: 5))
            }
            try await stream.staySilent()
        }
        try await withDatastore(script, prefixes: ["/a/", "/b/", "/c/"]) { datastore in
            let watch = try await datastore.watch(endpoint: 0, starts: [6, 2, 1])
            let messages = try await first(3, of: watch)
            #expect(messages == (0..<3).map { .created(range: $0, first5) })
        }
        func create(_ key: String, _ end: String, _ start: Int64) -> WatchRequest {
            .create(
                WatchCreateRequest(
                    key: Array(key.utf8), rangeEnd: Array(end.utf8), startRevision: start, notifiesProgress: true,
                    fragments: true))
        }
        // For etcd, 0 stands for the revision after the newest one.
        #expect(
            seen.withLock { $0 } == [create("/a/", "/a0", 5), create("/b/", "/b0", 1), create("/c/", "/c0", 1)])
    }

    /// The server chooses the identifiers, and announces them in the order of the requests.
    @Test func identifiers_areMappedToRanges() async throws {
        let messages = try await watch(ranges: 3) { stream in
            for id in [70, 3, -2] as [Int64] { try await stream.send(.created(id, revision: 5)) }
            try await stream.send(.events(3, revision: 6, entry))
            try await stream.send(.events(-2, revision: 6, entry))
            try await stream.send(.events(70, revision: 6, entry))
        }
        let position = HistoryPosition(cluster: 1, revision: 6)
        #expect(
            messages[3...] == [1, 2, 0].map { .changes(range: $0, [entry], position, isFragment: false) }[...])
    }

    @Test func scene16_fragments_areMarkedUntilTheLast() async throws {
        let messages = try await watch { stream in
            try await stream.send(.created(0, revision: 5))
            for i in 0..<3 as Range<Int64> {
                try await stream.send(
                    .of(0, revision: 6) { response in
                        response.isFragment = i < 2
                        response.events = i < 2 ? [entry] : []
                    })
            }
            try await stream.send(.of(0, revision: 9))
        }
        let position = HistoryPosition(cluster: 1, revision: 6)
        #expect(
            messages == [
                .created(range: 0, first5),
                .changes(range: 0, [entry], position, isFragment: true),
                .changes(range: 0, [entry], position, isFragment: true),
                // Even an empty last fragment ends the response, and is no progress.
                .changes(range: 0, [], position, isFragment: false),
                .progress(range: 0, HistoryPosition(cluster: 1, revision: 9)),
            ])
    }

    /// Scene 3: a notification of progress is of one watch. Scene 5: the answer to a request for
    /// progress is of none, and may have overtaken changes.
    @Test func scene03_scene05_progress_isOfItsRangeAndAnswersAreOfNone() async throws {
        let messages = try await watch(ranges: 2) { stream in
            try await stream.send(.created(0, revision: 5))
            try await stream.send(.created(1, revision: 5))
            try await stream.send(.of(1, revision: 8))
            try await stream.send(.of(-1, revision: 9))
            try await stream.send(.of(33, revision: 10))
            try await stream.send(.events(0, revision: 7, entry))
        }
        #expect(
            messages[2...] == [
                .progress(range: 1, HistoryPosition(cluster: 1, revision: 8)),
                .heartbeat(HistoryPosition(cluster: 1, revision: 9)),
                .heartbeat(HistoryPosition(cluster: 1, revision: 10)),
                .changes(range: 0, [entry], HistoryPosition(cluster: 1, revision: 7), isFragment: false),
            ])
    }

    @Test func progressRequest_reachesTheServerAndItsAnswerComes() async throws {
        var script = FakeEtcd.Script()
        script.watch = { stream in
            var requests = stream.requests.makeAsyncIterator()
            _ = try await requests.next()
            try await stream.send(.created(0, revision: 5))
            while let request = try await requests.next() {
                if request == .progress { try await stream.send(.of(-1, revision: 7)) }
            }
        }
        try await withDatastore(script) { datastore in
            let watch = try await datastore.watch(endpoint: 0, starts: [1])
            _ = try await first(1, of: watch)
            for _ in 0..<2 {
                try await watch.requestProgress()
                let answer = try await first(1, of: watch)
                #expect(answer == [.heartbeat(HistoryPosition(cluster: 1, revision: 7))])
            }
            await watch.cancel()
            await expect(reason: .unavailable) { try await watch.requestProgress() }
        }
    }

    // MARK: - Ends

    @Test func scene01_watchCancelledByCompaction_saysSo() async throws {
        let messages = try await watch { stream in
            try await stream.send(.created(0, revision: 5))
            try await stream.send(
                .of(0, revision: 50) { response in
                    response.isCancelled = true
                    response.compactRevision = 40
                })
            // Versions differ in whether they set `canceled`.
            try await stream.send(.of(9, revision: 50) { $0.compactRevision = 41 })
        }
        let position = HistoryPosition(cluster: 1, revision: 50)
        #expect(
            messages[1...] == [
                .cancelled(range: 0, reason: "", compacted: 40, position),
                .cancelled(range: nil, reason: "", compacted: 41, position),
            ])
    }

    @Test(
        arguments: [
            ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", .permissionDenied),
            ("etcdserver: permission denied", .permissionDenied),
            ("etcdserver: invalid auth token", .unauthenticated),
            ("etcdserver: revision of auth store is old", .unauthenticated),
            ("etcdserver: user name is empty", .unauthenticated),
            ("etcdserver: no leader", .noLeader),
            ("etcdserver: too many requests", .overloaded),
            ("etcdserver: corrupt cluster", .dataLoss),
            ("etcdserver: server stopped", .unavailable),
        ] as [(String, DatastoreError.Reason)])
    func scene21_watchRefusedOrCancelled_failsWithTheReason(text: String, reason: DatastoreError.Reason) async throws {
        for isRefused in [true, false] {
            let error = await expect(reason: reason) {
                try await watch { stream in
                    if !isRefused { try await stream.send(.created(0, revision: 5)) }
                    try await stream.send(
                        .of(isRefused ? -1 : 0, revision: 5) { response in
                            response.isCreated = isRefused
                            response.isCancelled = true
                            response.cancelReason = text
                        })
                    try await stream.staySilent()
                }
            }
            #expect(error?.message == text)
        }
    }

    @Test func watchCancelledForAnUnknownReason_saysSo() async throws {
        let messages = try await watch { stream in
            try await stream.send(
                .of(-1, revision: 5) { response in
                    response.isCreated = true
                    response.isCancelled = true
                    response.cancelReason = "a new reason"
                })
        }
        #expect(messages == [.cancelled(range: 0, reason: "a new reason", compacted: nil, first5)])
    }

    @Test(
        arguments: [
            ("changes before the watch is created", [.events(0, revision: 5, .init(key: [1], value: [], revision: 5))]),
            ("a watch that was not requested", [.created(0, revision: 5), .created(1, revision: 5)]),
            (
                "changes of another watch",
                [.created(0, revision: 5), .events(1, revision: 5, .init(key: [1], value: [], revision: 5))]
            ),
            (
                "changes of a cancelled watch",
                [
                    .created(0, revision: 5), .of(0, revision: 5) { $0.isCancelled = true },
                    .events(0, revision: 5, .init(key: [1], value: [], revision: 5)),
                ]
            ),
        ] as [(String, [WatchResponse])])
    func responseThatCannotBe_isMalformed(what: String, responses: [WatchResponse]) async {
        await expect(reason: .malformed) {
            try await watch { stream in
                for response in responses { try await stream.send(response) }
                try await stream.staySilent()
            }
        }
    }

    @Test func twoWatchesWithOneIdentifier_areMalformed() async {
        await expect(reason: .malformed) {
            try await watch(ranges: 2) { stream in
                try await stream.send(.created(4, revision: 5))
                try await stream.send(.created(4, revision: 5))
                try await stream.staySilent()
            }
        }
    }

    /// Scene 6: nothing comes any more, not even the answer to a ping.
    @Test func scene06_connectionThatIsHalfOpen_failsByItsPings() async throws {
        var script = FakeEtcd.Script()
        script.watch = { stream in
            try await stream.send(.created(0, revision: 5))
            try await stream.staySilent()
        }
        try await within("the test") { [script] in
            try await FakeEtcd.run(script) { endpoint in
                let proxy = try Proxy(to: endpoint.port)
                var options = EtcdTransportOptions.patient
                options.keepaliveInterval = .seconds(4)
                options.keepaliveTimeout = .seconds(3)
                let datastore = EtcdDatastore(
                    endpoints: [try .init(host: "127.0.0.1", port: proxy.port, usesTLS: false)], prefixes: [[]],
                    options: options)
                let watch = try await datastore.watch(endpoint: 0, starts: [1])
                _ = try await first(1, of: watch)
                proxy.set(.frozen)
                await expect(reason: .unavailable) { try await first(1, of: watch) }
                await datastore.close()
                proxy.set(.cut)
            }
        }
    }

    /// Messages that came before the end are not lost.
    @Test func serverThatEndsTheStream_isUnavailableAfterItsLastMessage() async throws {
        var script = FakeEtcd.Script()
        script.watch = { stream in
            for id in 0..<5 as Range<Int64> { try await stream.send(.of(id, revision: 5)) }
        }
        try await withDatastore(script) { datastore in
            let watch = try await datastore.watch(endpoint: 0, starts: [1])
            let messages = try await first(5, of: watch)
            #expect(messages.count == 5)
            await expect(reason: .unavailable) { try await first(1, of: watch) }
            // The reason stays.
            await expect(reason: .unavailable) { try await first(1, of: watch) }
        }
    }

    @Test func cancelledTask_endsTheIteration() async throws {
        var script = FakeEtcd.Script()
        script.watch = { stream in
            try await stream.send(.created(0, revision: 5))
            try await stream.staySilent()
        }
        try await withDatastore(script) { datastore in
            let watch = try await datastore.watch(endpoint: 0, starts: [1])
            let (arrivals, continuation) = AsyncStream.makeStream(of: WatchMessage.self)
            let iteration = Task {
                for try await message in watch.messages { continuation.yield(message) }
            }
            for await _ in arrivals { break }
            iteration.cancel()
            try await iteration.value
        }
    }

    // MARK: - The queue

    /// Scene 27: the reader waits for the handler, so memory stays bounded.
    @Test func scene27_queue_holdsNoMoreThanItsBound() async throws {
        let queue = WatchQueue(maximumBytes: 20)
        let count = 300
        async let sent: Void = {
            for i in 0..<count {
                await queue.send([.heartbeat(HistoryPosition(cluster: 1, revision: Int64(i)))], byteCount: 10)
            }
            queue.finish(DatastoreError(.unavailable))
        }()
        var received: [WatchMessage] = []
        await expect(reason: .unavailable) {
            while true {
                // The sender runs ahead as far as it may.
                for _ in 0..<20 { await Task.yield() }
                let messages = try await queue.receive()
                #expect((1...2).contains(messages.count))
                received += messages
            }
        }
        await sent
        #expect(
            received == (0..<count).map { .heartbeat(HistoryPosition(cluster: 1, revision: Int64($0))) })
    }

    @Test func queue_afterItsEnd_takesNothingAndNeverBlocks() async throws {
        let queue = WatchQueue(maximumBytes: 1)
        await queue.send([.heartbeat(first5)], byteCount: 1)
        queue.finish(DatastoreError(.noLeader))
        queue.finish(DatastoreError(.timeout))
        await queue.send([.heartbeat(first5)], byteCount: 1)
        let messages = try await queue.receive()
        #expect(messages == [.heartbeat(first5)])
        await expect(reason: .noLeader) { try await queue.receive() }
    }

    // MARK: - Support

    /// Follows some ranges, and returns the messages up to the end of the stream by the server.
    @discardableResult
    private func watch(
        ranges: Int = 1, _ script: @escaping @Sendable (FakeStream) async throws -> Void
    ) async throws -> [WatchMessage] {
        var all = FakeEtcd.Script()
        all.watch = script
        let messages = Locked<[WatchMessage]>([])
        try await withDatastore(all, prefixes: (0..<ranges).map { "/\($0)/" }) { datastore in
            let watch = try await datastore.watch(endpoint: 0, starts: Array(repeating: 1, count: ranges))
            do {
                for try await message in watch.messages { messages.withLock { $0.append(message) } }
            } catch let error as DatastoreError {
                if error != DatastoreError(.unavailable, "the server ended the watch") { throw error }
            }
        }
        return messages.withLock { $0 }
    }
}

#endif
