// SPDX-License-Identifier: Apache-2.0
// The syncer as users have it, against a server that misbehaves as a test says.

#if Etcd

import DedupeBuffer
import Foundation
import GRPCCore
import InMemoryLogging
import Logging
import ServiceLifecycle
import SyncerEngine
import Testing

@testable import DedupeBufferEtcd

@Suite struct SyncerTests {
    private let store = FakeStore()

    @Test func snapshotAndChanges_reachTheSink() async throws {
        for i in 0..<30 { store.put("/k/\(i)", "\(i)") }
        try await follow(
            store.script { [store] _, request, stream, requests in
                try await store.follow(stream, from: request.startRevision, &requests)
            }
        ) { follower, store in
            try await follower.waitUntil("the snapshot", content: store.content())
            store.put("/k/1", nil)
            store.put("/k/new", "1")
            try await follower.waitUntil("the changes", content: store.content())
        }
    }

    /// Scene 7: the only name stands for two members. The one that the connections go to loses its
    /// leader, and goes on answering.
    @Test func scene07_oneNameForSeveralMembers_isFollowedAtAMemberWithALeader() async throws {
        store.put("/k/1", "1")
        let isAlone = Locked(false)
        let well = plainScript
        var alone = store.script { [store] _, request, stream, requests in
            if isAlone.withLock({ $0 }) { throw RPCError(code: .unavailable, message: "etcdserver: no leader") }
            try await stream.send(.created(0, revision: store.revision))
            while !isAlone.withLock({ $0 }) { try await Task.sleep(for: .milliseconds(5)) }
            throw RPCError(code: .unavailable, message: "etcdserver: no leader")
        }
        let range = alone.range
        alone.range = { call in
            if isAlone.withLock({ $0 }) { throw RPCError(code: .unavailable, message: "etcdserver: no leader") }
            return try await range(call)
        }
        try await within("the test") { [alone, store] in
            try await FakeEtcd.run(alone) { first in
                try await FakeEtcd.run(well) { second in
                    let proxy = try Proxy(to: first.port)
                    try await Follower.run(through(proxy)) { follower in
                        try await follower.waitUntil("the snapshot", content: store.content())
                        proxy.redirect(to: second.port)
                        isAlone.withLock { $0 = true }
                        store.put("/k/2", "2")
                        try await follower.waitUntil("the change", content: store.content())
                        #expect(follower.syncer.statistics.resyncs == [.initial: 1])
                    }
                }
            }
        }
    }

    /// A configuration with one endpoint. The proxy stands for a name.
    private func through(_ proxy: Proxy) throws -> EtcdConfiguration {
        patient(
            EtcdConfiguration(
                endpoints: [try .init(host: "127.0.0.1", port: proxy.port, usesTLS: false)], prefix: "/k/"))
    }

    /// Scene 8: the connection for requests is idle between audits. A router drops it without a
    /// sign, so each audit uses a new one.
    @Test func scene08_audits_readOnNewConnections() async throws {
        store.put("/k/1", "1")
        try await follow(plainScript, auditInterval: .milliseconds(50)) { follower, store in
            try await within("three audits") {
                while store.pagePeers.count < 4 { try await Task.sleep(for: .milliseconds(5)) }
            }
            let peers = store.pagePeers
            #expect(Set(peers).count == peers.count, "\(peers)")
        }
    }

    /// Scene 12: a name moves to another cluster, and the old one still answers on the connections
    /// that are open.
    @Test func scene12_nameMovesToAnotherCluster_whileTheOldOneLives() async throws {
        let other = FakeStore(cluster: 2)
        store.put("/k/1", "old")
        for i in 1..<4 { other.put("/k/\(i)", "new") }
        let (oldScript, newScript) = (
            plainScript,
            other.script { _, request, stream, requests in
                try await other.follow(stream, from: request.startRevision, &requests)
            }
        )
        try await within("the test") { [store] in
            try await FakeEtcd.run(oldScript) { old in
                try await FakeEtcd.run(newScript) { new in
                    let proxy = try Proxy(to: old.port)
                    var configuration = try through(proxy)
                    configuration.auditInterval = .milliseconds(300)
                    try await Follower.run(configuration) { follower in
                        try await follower.waitUntil("the old cluster", content: store.content())
                        proxy.redirect(to: new.port)
                        try await follower.waitUntil("the new cluster", content: other.content())
                    }
                }
            }
        }
    }

    // MARK: - Overflows and decoding

    /// An adapter in front of a buffer, as a user may write one.
    private struct Adapter: RestartAwareCallbacks {
        let buffer: DedupeBuffer<[UInt8], [UInt8]>

        func onConnectionRestarted() { buffer.onConnectionRestarted() }
        func onStatusUpdated(_ status: SyncStatus) { buffer.onStatusUpdated(status) }
        func onUpdates(_ updates: [Update<[UInt8], [UInt8]>]) { buffer.onUpdates(updates) }
    }

    /// The buffer has no room for the snapshot while nothing delivers.
    @Test(arguments: ["adapter", "buffer", "decoded bytes", "decoded strings"])
    func overflow_isFollowedByAResync(target: String) async throws {
        for i in 0..<10 { store.put("/k/\(i)", "\(i)") }
        let script = plainScript
        try await within("the test") {
            try await FakeEtcd.run(script) { endpoint in
                let (states, continuation) = AsyncStream.makeStream(of: EtcdSyncerState.self)
                var configuration = patient(EtcdConfiguration(endpoints: [endpoint], prefix: "/k/"))
                configuration.onStateChange = { continuation.yield($0) }
                let bytes = DedupeBuffer<[UInt8], [UInt8]>(bound: .keys(5))
                let strings = DedupeBuffer<String, Int>(bound: .keys(5))
                let syncer =
                    switch target {
                    case "adapter":
                        EtcdSyncer(
                            configuration: configuration, target: Adapter(buffer: bytes), overflows: bytes.overflows)
                    case "buffer": EtcdSyncer(configuration: configuration, target: bytes)
                    case "decoded bytes":
                        EtcdSyncer(configuration: configuration, target: bytes) { (_: [UInt8], value) in value }
                    default: EtcdSyncer(configuration: configuration, target: strings) { (_: String, _) in 1 }
                    }
                let task = Task { await syncer.run() }
                for await state in states where state == .resyncing(.overflow) { break }
                task.cancel()
                await task.value
            }
        }
    }

    private struct NotANumber: Error {}

    private struct NumberSink: SyncerCallbacks {
        let content = Locked<[String: Int]>([:])

        func onStatusUpdated(_ status: SyncStatus) {}

        func onUpdates(_ updates: [Update<String, Int>]) {
            content.withLock { content in for update in updates { content[update.key] = update.value } }
        }
    }

    @Test func valuesThatCannotBeDecoded_areRejected_andTheOthersReachTheSink() async throws {
        for (key, value) in [("1", "1"), ("2", "two"), ("3", "3")] { store.put("/k/\(key)", value) }
        let script = plainScript
        try await within("the test") { [store] in
            try await FakeEtcd.run(script) { endpoint in
                let configuration = patient(EtcdConfiguration(endpoints: [endpoint], prefix: "/k/"))
                let buffer = DedupeBuffer<String, Int>()
                let (rejections, continuation) = AsyncStream.makeStream(of: EtcdSyncer.Rejection.self)
                let syncer = EtcdSyncer(configuration: configuration, target: buffer) {
                    continuation.yield($0)
                } decode: { (_: String, value) throws -> Int in
                    guard let number = Int(String(decoding: value, as: UTF8.self)) else { throw NotANumber() }
                    return number
                }
                let task = Task { await syncer.run() }
                var iterator = rejections.makeAsyncIterator()
                let first = try #require(await iterator.next())
                #expect(first.key == Array("/k/2".utf8) && first.error is NotANumber && first.revision == 3)
                store.put("/k/1", "one")
                let second = try #require(await iterator.next())
                #expect(second.key == Array("/k/1".utf8))
                #expect(syncer.statistics.rejected == 2)
                task.cancel()
                await task.value
                let sink = NumberSink()
                try buffer.sendNextBatchToSink(sink)
                #expect(sink.content.withLock { $0 } == ["/k/1": 1, "/k/3": 3])
            }
        }
    }

    /// Scene 5: an answer to a progress request is ahead of the changes. The next watch begins
    /// after the last change that came.
    @Test func scene05_progressAnswerAheadOfChanges_doesNotMoveTheCursor() async throws {
        store.put("/k/1", "1")
        try await follow(
            store.script { [store] number, request, stream, requests in
                guard number == 0 else { return try await store.follow(stream, from: request.startRevision, &requests) }
                try await stream.send(.created(0, revision: store.revision))
                // The change comes last, and the stream ends before it.
                while try await requests.next() != .progress {}
                store.put("/k/2", "overtaken")
                try await stream.send(.of(-1, revision: store.revision + 100))
                throw RPCError(code: .unavailable, message: "the end")
            }
        ) { follower, store in
            try await follower.sink.waitUntil("the change") { $0.content[Array("/k/2".utf8)] != nil }
            #expect(store.creations.map(\.startRevision) == [2, 2])
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
        }
    }

    /// Scene 8: the connection lives, and the watch says nothing at all.
    @Test func scene08_silentWatch_isReplacedOnANewConnection() async throws {
        store.put("/k/1", "1")
        try await follow(
            heartbeatInterval: .milliseconds(500), heartbeatTimeout: .seconds(3),
            store.script { [store] number, request, stream, requests in
                guard number == 0 else { return try await store.follow(stream, from: request.startRevision, &requests) }
                try await stream.send(.created(0, revision: store.revision))
                store.put("/k/2", "never told")
                while try await requests.next() != nil {}
            }
        ) { follower, store in
            try await follower.sink.waitUntil("the change") { $0.content[Array("/k/2".utf8)] != nil }
            #expect(Set(store.peers).count == store.peers.count)
            #expect(follower.syncer.statistics.heartbeatMisses >= 1)
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
        }
    }

    /// Scene 29: nothing is written, and the server still answers requests for progress.
    @Test func scene29_idleCluster_isNotTakenForDead() async throws {
        store.put("/k/1", "1")
        try await follow(heartbeatInterval: .milliseconds(50), heartbeatTimeout: .seconds(5), plainScript) {
            follower, store in
            try await within("four requests for progress") {
                while store.progressRequests < 4 { try await Task.sleep(for: .milliseconds(5)) }
            }
            #expect(follower.syncer.statistics.heartbeatMisses == 0)
            #expect(store.creations.count == 1)
        }
    }

    /// Scenes 14 and 15: changes that came before come again, on the same stream and on the next.
    @Test func scene14_scene15_oldChanges_areDropped() async throws {
        store.put("/k/1", "1")
        try await follow(
            store.script { [store] number, request, stream, requests in
                try await stream.send(.created(0, revision: store.revision))
                if number == 0 {
                    let old = store.events(from: 0)
                    let new = [store.put("/k/1", "2"), store.put("/k/1", nil), store.put("/k/2", "2")]
                    let revision = store.revision
                    for events in [new, new] {
                        try await stream.send(.of(0, revision: revision) { $0.events = old + events })
                    }
                    throw RPCError(code: .unavailable, message: "the end")
                }
                // A watch that goes back in time.
                let revision = store.revision
                try await stream.send(.of(0, revision: revision) { $0.events = store.events(from: 0) })
                store.put("/k/3", "3")
                try await store.follow(stream, from: request.startRevision, &requests, isCreated: true)
            }
        ) { follower, store in
            try await follower.waitUntil("the last change", content: ["/k/2": "2", "/k/3": "3"].bytes)
            #expect(follower.syncer.statistics.duplicatesDropped >= 1 + 3 + 1 + 4)
            #expect(follower.sink.snapshot.content == store.content())
        }
    }

    /// Scene 16: the stream breaks after the first fragment of a response.
    @Test func scene16_breakBetweenFragments_repeatsTheResponse() async throws {
        store.put("/k/1", "1")
        try await follow(
            store.script { [store] number, request, stream, requests in
                guard number == 0 else { return try await store.follow(stream, from: request.startRevision, &requests) }
                try await stream.send(.created(0, revision: store.revision))
                let entry = store.put("/k/2", "2")
                store.put("/k/3", "3")
                try await stream.send(
                    .of(0, revision: entry.revision) { response in
                        response.events = [entry]
                        response.isFragment = true
                    })
                throw RPCError(code: .unavailable, message: "the end")
            }
        ) { follower, store in
            try await follower.sink.waitUntil("all changes") { $0.content[Array("/k/3".utf8)] != nil }
            #expect(store.creations.map(\.startRevision) == [2, 2])
            #expect(follower.sink.snapshot.content == store.content())
        }
    }

    /// Scene 19: the server loses a change and says nothing.
    @Test func scene19_changeThatTheServerLost_isFoundByAnAudit() async throws {
        store.put("/k/1", "1")
        let script = store.script { [store] _, _, stream, requests in
            try await stream.send(.created(0, revision: store.revision))
            store.put("/k/1", nil)
            store.put("/k/lost \(store.revision)", "1")
            // The changes after these come.
            try await store.follow(stream, from: store.revision + 1, &requests, isCreated: true)
        }
        try await follow(script, auditInterval: .milliseconds(300)) { follower, _ in
            try await follower.sink.waitUntil("the deletion") { snapshot in
                snapshot.content[Array("/k/1".utf8)] == nil && snapshot.deletions > 0
                    && snapshot.content.keys.contains { $0.starts(with: Array("/k/lost".utf8)) }
            }
            #expect(follower.syncer.statistics.resyncs[.audit] ?? 0 >= 1)
        }
    }

    /// Scene 28: reading everything again brings the sink nothing that it has.
    @Test func scene28_audit_tellsTheSinkOnlyWhatHasChanged() async throws {
        for i in 0..<100 { store.put("/k/\(i)", "\(i)") }
        try await follow(plainScript, auditInterval: .milliseconds(100)) { follower, store in
            try await follower.waitUntil("the snapshot", content: store.content())
            let buffer = follower.buffer
            try await within("three audits") {
                while buffer.statistics.suppressed < 300 { await Task.yield() }
            }
            #expect(follower.sink.snapshot.updates == 100)
        }
    }

    // MARK: - The service

    @Test func syncer_inAGroup_endsAtAGracefulShutdown() async throws {
        store.put("/k/1", "1")
        let script = plainScript
        try await within("the test") {
            try await FakeEtcd.run(script) { endpoint in
                let (states, continuation) = AsyncStream.makeStream(of: EtcdSyncerState.self)
                var configuration = patient(EtcdConfiguration(endpoints: [endpoint], prefix: "/k/"))
                configuration.onStateChange = { continuation.yield($0) }
                let buffer = DedupeBuffer<[UInt8], [UInt8]>()
                let syncer = EtcdSyncer(configuration: configuration, target: buffer)
                let group = ServiceGroup(
                    services: [syncer], gracefulShutdownSignals: [], logger: .init(label: "test"))
                async let run: Void = group.run()
                var seen: [EtcdSyncerState] = []
                for await state in states {
                    seen.append(state)
                    if state == .inSync { break }
                }
                await group.triggerGracefulShutdown()
                try await run
                #expect(seen == [.resyncing(.initial), .connected(endpoint), .inSync])
                #expect("\(syncer)" == "EtcdSyncer(\(endpoint))")
                #expect(buffer.statistics.pendingKeys == 1)
            }
        }
    }

    @Test func cancelledSyncer_returnsAndCanRunAgain() async throws {
        store.put("/k/1", "1")
        let script = plainScript
        try await within("the test") {
            try await FakeEtcd.run(script) { endpoint in
                let (states, continuation) = AsyncStream.makeStream(of: EtcdSyncerState.self)
                var configuration = patient(EtcdConfiguration(endpoints: [endpoint], prefix: "/k/"))
                configuration.onStateChange = { continuation.yield($0) }
                let syncer = EtcdSyncer(configuration: configuration, target: DedupeBuffer<[UInt8], [UInt8]>())
                for _ in 0..<2 {
                    let task = Task { await syncer.run() }
                    for await state in states where state == .inSync { break }
                    task.cancel()
                    await task.value
                }
                #expect(syncer.statistics.resyncs == [.initial: 2])
            }
        }
    }

    @Test func endpointByHostName_works() async throws {
        store.put("/k/1", "1")
        try await FakeEtcd.run(plainScript) { [store] endpoint in
            let byName = try EtcdConfiguration.Endpoint(host: "localhost", port: endpoint.port, usesTLS: false)
            try await Follower.run(patient(EtcdConfiguration(endpoints: [byName], prefix: "/k/"))) { follower in
                try await follower.waitUntil("by name", content: store.content())
            }
        }
    }

    @Test(.enabled(if: hasIPv6, "there is no IPv6 here")) func endpointOfIPv6_works() async throws {
        store.put("/k/1", "1")
        try await FakeEtcd.run(plainScript, host: "::1") { [store] endpoint in
            let endpoint = try EtcdConfiguration.Endpoint("http://[::1]:\(endpoint.port)")
            try await Follower.run(patient(EtcdConfiguration(endpoints: [endpoint], prefix: "/k/"))) { follower in
                try await follower.waitUntil("by IPv6", content: store.content())
            }
        }
    }

    private static var hasIPv6: Bool {
        (try? String(contentsOfFile: "/proc/net/if_inet6", encoding: .utf8))?.isEmpty == false
    }

    /// What etcd does.
    private var plainScript: FakeEtcd.Script {
        store.script { [store] _, request, stream, requests in
            try await store.follow(stream, from: request.startRevision, &requests)
        }
    }

    // MARK: - Support

    private func follow(
        heartbeatInterval: Duration = .seconds(120), heartbeatTimeout: Duration = .seconds(120),
        _ script: FakeEtcd.Script, auditInterval: Duration? = nil,
        _ body: @escaping @Sendable (Follower, FakeStore) async throws -> Void
    ) async throws {
        var template = patient(EtcdConfiguration(endpoints: [], prefix: "/k/"))
        template.auditInterval = auditInterval
        template.heartbeatInterval = heartbeatInterval
        template.heartbeatTimeout = heartbeatTimeout
        try await within("the test") { [store, template] in
            try await FakeEtcd.run(script) { endpoint in
                var configuration = template
                configuration.endpoints = [endpoint]
                try await Follower.run(configuration) { follower in try await body(follower, store) }
            }
        }
    }
}

extension [String: String] {
    var bytes: [[UInt8]: [UInt8]] {
        [[UInt8]: [UInt8]](uniqueKeysWithValues: map { (Array($0.key.utf8), Array($0.value.utf8)) })
    }
}

extension EtcdConfiguration {
    fileprivate mutating func useTLS(serverName: String?) {
        endpoints = [try! Endpoint("https://127.0.0.1:1")]
        tls = .init(serverName: serverName)
    }
}

@Suite struct EtcdConfigurationTests {
    private let valid = EtcdConfiguration(
        endpoints: [try! EtcdConfiguration.Endpoint("http://127.0.0.1:1")], prefix: "/k/")

    @Test func defaults_areValid() throws {
        try valid.validate()
        #expect(valid.syncerConfiguration.firstFault == nil)
        var several = valid
        several.prefixes = [Array("/a/".utf8), Array("/b/".utf8)]
        try several.validate()
    }

    private static let faults: [(String, @Sendable (inout EtcdConfiguration) -> Void)] = [
        ("endpoints", { $0.endpoints = [] }), ("prefixes", { $0.prefixes = [] }),
        ("prefixes", { $0.prefixes = [Array("/a/".utf8), Array("/a/b/".utf8)] }),
        ("prefixes", { $0.prefixes = [[], Array("/a/b/".utf8)] }),
        ("prefixes", { $0.prefixes = [Array("/a/".utf8), Array("/a/".utf8)] }),
        ("endpoints", { $0.tls = .init() }), ("user.name", { $0.user = .init(name: "", password: "x") }),
        ("requestTimeout", { $0.requestTimeout = .zero }), ("pageTimeout", { $0.pageTimeout = .zero }),
        ("keepaliveInterval", { $0.keepaliveInterval = .milliseconds(4999) }),
        ("keepaliveTimeout", { $0.keepaliveTimeout = .zero }),
        ("keepaliveTimeout", { $0.keepaliveTimeout = $0.keepaliveInterval }),
        ("heartbeatInterval", { $0.heartbeatInterval = .zero }),
        ("heartbeatTimeout", { $0.heartbeatTimeout = .zero }), ("auditInterval", { $0.auditInterval = .zero }),
        ("gracePeriod", { $0.gracePeriod = .seconds(-1) }),
        ("minimumResyncInterval", { $0.minimumResyncInterval = .seconds(-1) }),
        ("backOff.initialDelay", { $0.backOff.initialDelay = .seconds(-1) }),
        ("backOff.maximumDelay", { $0.backOff.maximumDelay = .seconds(-1) }),
        ("backOff.resetAfter", { $0.backOff.resetAfter = .seconds(-1) }),
        ("backOff.factor", { $0.backOff.factor = 0.5 }), ("backOff.factor", { $0.backOff.factor = .nan }),
        ("pages.initialKeys", { $0.pages.initialKeys = 0 }), ("pages.maximumKeys", { $0.pages.maximumKeys = 0 }),
        ("pages.targetBytes", { $0.pages.targetBytes = 0 }), ("warningKeyCount", { $0.warningKeyCount = 0 }),
        ("tls.serverName", { $0.useTLS(serverName: "") }), ("tls.serverName", { $0.useTLS(serverName: "10.0.0.1") }),
        ("tls.serverName", { $0.useTLS(serverName: "::1") }), ("tls.serverName", { $0.useTLS(serverName: "a b") }),
    ]

    @Test func valuesForTheEngine_arePassedOn() throws {
        var configuration = valid
        configuration.warningKeyCount = 7
        #expect(configuration.syncerConfiguration.resyncs.warningKeyCount == 7)
        #expect(!configuration.syncerConfiguration.hasUser)
        configuration.user = .init(name: "ann", password: "x")
        #expect(configuration.syncerConfiguration.hasUser)
        configuration.useTLS(serverName: "etcd.example")
        try configuration.validate()
    }

    @Test func passwordWithoutEncryption_isLoggedOnce() {
        let handler = InMemoryLogHandler()
        for (isUser, usesTLS) in [(false, false), (true, true), (true, false)] {
            var configuration = valid
            if usesTLS { configuration.useTLS(serverName: nil) }
            if isUser { configuration.user = .init(name: "ann", password: "secret") }
            configuration.logger = Logger(label: "test") { _ in handler }
            _ = EtcdSyncer(configuration: configuration, target: DedupeBuffer<[UInt8], [UInt8]>())
        }
        #expect(handler.entries.map(\.level) == [.warning])
        #expect(!"\(handler.entries)".contains("secret"))
    }

    @Test(arguments: faults.indices) func valueOutOfRange_isNamed(index: Int) {
        let (member, change) = Self.faults[index]
        var configuration = valid
        change(&configuration)
        let error = #expect(throws: DedupeBufferConfiguration.ValidationError.self) { try configuration.validate() }
        #expect(error?.member == member)
    }
}

#endif
