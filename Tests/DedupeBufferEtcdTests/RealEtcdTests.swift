// SPDX-License-Identifier: Apache-2.0
// A syncer against real clusters on loopback, with a slow sink. At rest the sink has exactly what
// `etcdctl get --prefix` reports, and no update came with a wrong type.

#if Etcd

import DedupeBuffer
import Foundation
import SyncerEngine

import Testing

@testable import DedupeBufferEtcd

/// The clusters share two cores, so one test runs at a time.
@Suite(.serialized) struct RealEtcdTests {
    // MARK: - Nothing goes wrong

    @Test(arguments: [1, 3]) func randomWrites_bySeveralWriters_reachTheSink(members: Int) async throws {
        let cluster = try await EtcdCluster(members)
        try await Follower.run(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/")) { follower in
            try await write(to: cluster, writers: 4, rounds: 100)
            try await follower.waitUntil("all writes", content: try cluster.content(prefix: "/"))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
        }
    }

    @Test func keysOutsideThePrefixes_doNotReachTheSink() async throws {
        let cluster = try await EtcdCluster()
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        for key in ["/a", "/a/1", "/a/2", "/a0", "/b/1", "/c/1", "c"] { try await admin.put(key, key) }
        let configuration = EtcdConfiguration(
            endpoints: cluster.endpoints, prefixes: ["/a/", "/c"].map { Array($0.utf8) })
        try await Follower.run(configuration) { follower in
            try await follower.waitUntilInSync()
            for key in ["/a/3", "/a0", "/b/1", "/c"] { try await admin.put(key, "new") }
            try await admin.delete("/a/1")
            var expected = try cluster.content(prefix: "/a/")
            expected.merge(try cluster.content(prefix: "/c")) { $1 }
            #expect(expected.count == 4)
            try await follower.waitUntil("two prefixes", content: expected)
        }
    }

    @Test func emptyPrefix_isTheWholeCluster() async throws {
        let cluster = try await EtcdCluster()
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        let keys: [[UInt8]] = [[0], [0, 0], [0xff], [0xff, 0xff], Array("a".utf8), [1, 0xff]]
        try await admin.commit(keys.map { .put($0, $0) })
        try await Follower.run(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "")) { follower in
            try await follower.waitUntil("every key", content: Dictionary(uniqueKeysWithValues: keys.map { ($0, $0) }))
            try await admin.commit(keys.map { .delete($0) })
            try await follower.waitUntil("no key", content: [:])
        }
    }

    // MARK: - Sizes

    @Test func hundredThousandKeys_comeInPages() async throws {
        let cluster = try await EtcdCluster()
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        let value = [UInt8](repeating: 0x76, count: 200)
        for page in 0..<20 {
            try await admin.commit((0..<5000).map { .put(Array("/k/\(page * 5000 + $0)".utf8), value) })
        }
        try await Follower.run(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/k/"), isSlow: false) {
            follower in
            try await follower.waitUntil("10^5 keys", content: try cluster.content(prefix: "/k/"))
            #expect(follower.sink.snapshot.content.count == 100_000)
        }
    }

    @Test func scene17_valuesOfOneMebibyte_come() async throws {
        let cluster = try await EtcdCluster()
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        for i in 0..<12 { try await admin.put("/v/\(i)", [UInt8](repeating: UInt8(i), count: 1 << 20)) }
        try await Follower.run(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/v/")) { follower in
            try await follower.waitUntilInSync()
            for i in 6..<18 { try await admin.put("/v/\(i)", [UInt8](repeating: UInt8(i + 100), count: 1 << 20)) }
            try await follower.waitUntil("large values", content: try cluster.content(prefix: "/v/"))
        }
    }

    /// Scenes 16, 17 and 26: one revision with 10,000 deletions, which comes in fragments.
    @Test func scene16_leaseOfTenThousandKeys_expiresInOneRevision() async throws {
        let cluster = try await EtcdCluster()
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        try await admin.grantLease(77, seconds: 600)
        let name = String(repeating: "n", count: 300)
        for page in 0..<5 {
            try await admin.commit(
                (0..<2000).map { .put(Array("/l/\(name)/\(page * 2000 + $0)".utf8), [1]) }, lease: 77)
        }
        try await admin.put("/l/stays", "1")
        try await Follower.run(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/l/"), isSlow: false) {
            follower in
            try await follower.waitUntil("10,001 keys", content: try cluster.content(prefix: "/l/"))
            try await admin.revokeLease(77)
            try await follower.waitUntil("one key", content: [Array("/l/stays".utf8): Array("1".utf8)])
            #expect(follower.sink.snapshot.deletions == 10_000)
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
        }
    }

    // MARK: - Members that fail

    @Test func scene09_memberKilledAndRestarted_resumesWithoutASnapshot() async throws {
        let cluster = try await EtcdCluster(3)
        try await Follower.run(quick(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/"))) { follower in
            try await follower.waitUntilInSync()
            for _ in 0..<2 {
                let endpoint = try #require(follower.syncer.statistics.endpoint)
                let member = cluster.members.first { $0.port == endpoint.port }!
                member.kill()
                let others = cluster.members.filter { $0 !== member }
                try await write(to: cluster, members: others, writers: 2, rounds: 20)
                try await follower.waitUntil(
                    "writes without a member", content: try cluster.content(prefix: "/", member: others[0]))
                try cluster.start(member)
                try await cluster.waitUntilHealthy()
            }
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
            #expect(follower.syncer.statistics.resumes >= 2)
        }
    }

    @Test func onlyMemberKilledAndRestarted_resumesWithoutASnapshot() async throws {
        let cluster = try await EtcdCluster()
        try await Follower.run(quick(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/"))) { follower in
            try await write(to: cluster, writers: 2, rounds: 20)
            try await follower.waitUntilInSync()
            cluster.members[0].kill()
            try await follower.sink.waitUntil("the sink is told") { $0.statuses.last == .waitForDatastore }
            try cluster.start(cluster.members[0])
            try await cluster.waitUntilHealthy()
            try await write(to: cluster, writers: 2, rounds: 20)
            try await follower.waitUntil("writes after a restart", content: try cluster.content(prefix: "/"))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
        }
    }

    /// Scene 6: a member that is stopped keeps its connections open and says nothing.
    @Test func scene06_memberStopped_isLeftAndNothingIsLost() async throws {
        let cluster = try await EtcdCluster(3)
        try await Follower.run(quick(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/"))) { follower in
            try await follower.waitUntilInSync()
            let endpoint = try #require(follower.syncer.statistics.endpoint)
            let member = cluster.members.first { $0.port == endpoint.port }!
            let others = cluster.members.filter { $0 !== member }
            member.pause()
            try await write(to: cluster, members: others, writers: 2, rounds: 30)
            try await follower.waitUntil(
                "writes without a member", content: try cluster.content(prefix: "/", member: others[0]))
            member.resume()
            try await write(to: cluster, writers: 2, rounds: 30)
            try await follower.waitUntil("writes with all members", content: try cluster.content(prefix: "/"))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
            #expect(follower.syncer.statistics.heartbeatMisses >= 1)
        }
    }

    /// Scene 6, with TLS, whose connections close slowly if the peer is silent. The only name works
    /// on a new connection.
    @Test func scene06_halfOpenConnectionsWithTLS_areReplacedAtTheSameName() async throws {
        let certificates = try Certificates(requiresClientCertificate: false)
        let cluster = try await EtcdCluster(certificates: certificates)
        let proxy = try Proxy(to: cluster.members[0].port)
        let admin = try await EtcdAdmin(cluster.endpoints[0], tls: certificates.clientTLS)
        var configuration = quick(
            EtcdConfiguration(
                endpoints: [try .init(host: "127.0.0.1", port: proxy.port, usesTLS: true)], prefix: "/k/"))
        configuration.tls = certificates.clientTLS
        try await Follower.run(configuration) { follower in
            try await follower.waitUntilInSync()
            proxy.freezeConnections()
            try await admin.put("/k/1", "1")
            try await follower.waitUntil("the change", content: try cluster.content(prefix: "/k/"))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
            #expect(follower.syncer.statistics.heartbeatMisses >= 1)
        }
    }

    /// Scene 7: a member that is alone answers pings, but has no leader.
    @Test func scene07_memberWithoutTheOthers_isLeftOrWaitedFor() async throws {
        let cluster = try await EtcdCluster(3)
        let alone = cluster.members[0]
        try await Follower.run(quick(EtcdConfiguration(endpoints: [cluster.endpoint(alone)], prefix: "/"))) {
            follower in
            try await write(to: cluster, writers: 2, rounds: 10)
            try await follower.waitUntilInSync()
            for member in cluster.members.dropFirst() { member.pause() }
            try await follower.sink.waitUntil("the sink is told") { $0.statuses.last == .waitForDatastore }
            for member in cluster.members.dropFirst() { member.resume() }
            try await cluster.waitUntilHealthy()
            try await write(to: cluster, writers: 2, rounds: 10)
            try await follower.waitUntil("writes with all members", content: try cluster.content(prefix: "/"))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
        }
    }

    @Test func scene23_leaderChanges_loseNothing() async throws {
        let cluster = try await EtcdCluster(3)
        try await Follower.run(quick(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/"))) { follower in
            try await follower.waitUntilInSync()
            for _ in 0..<3 {
                async let written: Void = write(to: cluster, writers: 2, rounds: 30)
                try cluster.moveLeader()
                try await written
            }
            try await follower.waitUntil("writes", content: try cluster.content(prefix: "/"))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
        }
    }

    // MARK: - History

    @Test func scene01_compactedWhileAway_resyncsOnce() async throws {
        let cluster = try await EtcdCluster()
        let proxy = try Proxy(to: cluster.members[0].port)
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        try await admin.commit((0..<50).map { .put(Array("/k/\($0)".utf8), [1]) })
        try await Follower.run(quick(try through(proxy))) { follower in
            try await follower.waitUntil("50 keys", content: try cluster.content(prefix: "/k/"))
            proxy.set(.cut)
            try await admin.commit((0..<20).map { .delete(Array("/k/\($0)".utf8)) })
            try await admin.commit((40..<60).map { .put(Array("/k/\($0)".utf8), [2]) })
            try await admin.compact(try await admin.put("/other", "x"))
            proxy.set(.open)
            try await follower.waitUntil("after compaction", content: try cluster.content(prefix: "/k/"))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1, .compacted: 1])
        }
    }

    @Test func awayWithoutCompaction_resumes() async throws {
        let cluster = try await EtcdCluster()
        let proxy = try Proxy(to: cluster.members[0].port)
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        try await Follower.run(quick(try through(proxy))) { follower in
            try await follower.waitUntilInSync()
            proxy.set(.cut)
            try await admin.commit((0..<50).map { .put(Array("/k/\($0)".utf8), [1]) })
            proxy.set(.open)
            try await follower.waitUntil("what was missed", content: try cluster.content(prefix: "/k/"))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
            #expect(follower.syncer.statistics.resumes >= 1)
        }
    }

    /// Scene 3: all changes are of other keys. Then progress notifications move the cursor, and a
    /// compaction before it does not matter.
    @Test func scene03_idlePrefixInABusyCluster_staysAheadOfCompaction() async throws {
        let cluster = try await EtcdCluster(arguments: ["--experimental-watch-progress-notify-interval", "100ms"])
        let proxy = try Proxy(to: cluster.members[0].port)
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        try await admin.put("/k/1", "1")
        try await Follower.run(quick(try through(proxy))) { follower in
            try await follower.waitUntilInSync()
            for resumes in 1...3 {
                let revision = try await admin.put("/other", "x")
                try await within("a notification of progress") {
                    while follower.syncer.driver.statistics.revision < revision {
                        try await Task.sleep(for: .milliseconds(10))
                    }
                }
                try await admin.compact(revision)
                proxy.set(.cut)
                proxy.set(.open)
                try await admin.put("/k/2", "\(resumes)")
                try await follower.waitUntil("the change", content: try cluster.content(prefix: "/k/"))
            }
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
            #expect(follower.syncer.statistics.resumes >= 3)
        }
    }

    /// Scene 20: a compaction comes between the last page and the watch. It removes the deletion at
    /// the compacted revision from the history.
    @Test func scene20_compactionReachesTheFirstRevision_endsTheWatch() async throws {
        let cluster = try await EtcdCluster()
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        let datastore = EtcdDatastore(endpoints: cluster.endpoints, prefixes: [Array("/k/".utf8)], options: .patient)
        try await admin.put("/k/1", "1")
        let known = try await admin.put("/k/2", "1")
        let deletion = try await admin.delete("/k/1")
        // What is known may be compacted.
        try await admin.compact(known)
        var messages = try await first(2, of: try await datastore.watch(endpoint: 0, starts: [deletion]))
        guard case .changes(_, let entries, _, _) = messages[1] else { throw DatastoreError(.other, "\(messages)") }
        #expect(entries.last == DatastoreEntry(key: Array("/k/1".utf8), value: nil, revision: deletion))
        try await admin.compact(deletion)
        messages = try await first(2, of: try await datastore.watch(endpoint: 0, starts: [deletion]))
        guard case .cancelled(_, _, let compacted, _) = messages[1] else {
            throw DatastoreError(.other, "\(messages)")
        }
        #expect(compacted == deletion)
        await datastore.close()
    }

    /// Scene 29: nothing is written after the watch has begun. etcd 3.4.23 answers at any revision,
    /// so with it this cannot show a watch that begins too late; a server of the tests does.
    @Test func scene29_idleCluster_answersRequestsForProgress() async throws {
        let cluster = try await EtcdCluster()
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        try await admin.put("/k/1", "1")
        var configuration = quick(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/k/"))
        configuration.heartbeatTimeout = .seconds(4)
        try await Follower.run(configuration) { follower in
            try await follower.waitUntilInSync()
            try await Task.sleep(for: .seconds(6))
            #expect(follower.syncer.statistics.heartbeatMisses == 0)
        }
    }

    /// Scene 2: every revision is compacted at once, so pages of one revision cannot be read.
    @Test func scene02_compactionBetweenPages_stillGetsInSync() async throws {
        let cluster = try await EtcdCluster()
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        try await admin.commit((0..<4000).map { .put(Array("/k/\($0)".utf8), [1]) })
        var configuration = quick(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/k/"))
        configuration.pages.initialKeys = 20
        configuration.pages.maximumKeys = 20
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                var number = 0
                while !Task.isCancelled {
                    number += 1
                    try await admin.compact(try await admin.put("/k/\(number % 5000)", "\(number)"))
                }
            }
            // The disturbance must have begun.
            try await Follower.run(configuration, isSlow: false) { follower in
                try await follower.sink.waitUntil("in sync") { $0.statuses.last == .inSync }
                #expect(follower.syncer.statistics.failures > 0)
                group.cancelAll()
                while let result = await group.nextResult() { _ = result }
                try await follower.waitUntil("all keys", content: try cluster.content(prefix: "/k/"))
            }
        }
    }

    /// Scenes 11 and 13, and revisions that name other values after the restore.
    @Test func scene11_restoredWithLowerRevisions_resyncs() async throws {
        let cluster = try await EtcdCluster()
        let admin = try await EtcdAdmin(cluster.endpoints[0])
        try await admin.put("/k/kept", "1")
        try await admin.put("/k/changed", "before")
        let snapshot = "\(cluster.folder.path)/snapshot.db"
        try cluster.control("snapshot", "save", snapshot, member: cluster.members[0])
        try await Follower.run(quick(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/k/"))) { follower in
            let revision = try await admin.put("/k/changed", "lost")
            try await admin.put("/k/lost", "1")
            for i in 0..<20 { try await admin.put("/k/changed", "lost \(i)") }
            try await follower.waitUntil("before", content: try cluster.content(prefix: "/k/"))
            try await cluster.restore(snapshot)
            // The same revision names another value now.
            let restored = try await EtcdAdmin(cluster.endpoints[0])
            #expect(try await restored.put("/k/changed", "after") == revision)
            try await follower.waitUntil("after the restore", content: try cluster.content(prefix: "/k/"))
            #expect(follower.sink.snapshot.content[Array("/k/changed".utf8)] == Array("after".utf8))
            #expect(follower.syncer.statistics.resyncs[.compacted] == nil)
            #expect(follower.syncer.statistics.resyncs.values.reduce(0, +) == 2)
        }
    }

    /// Scene 12: another cluster at the same address.
    @Test func scene12_otherClusterAtTheAddress_resyncs() async throws {
        let first = try await EtcdCluster()
        let second = try await EtcdCluster()
        let proxy = try Proxy(to: first.members[0].port)
        let admins = [try await EtcdAdmin(first.endpoints[0]), try await EtcdAdmin(second.endpoints[0])]
        try await admins[0].put("/k/1", "first")
        try await admins[0].put("/k/2", "first")
        try await admins[1].put("/k/2", "second")
        for i in 0..<10 { try await admins[1].put("/k/3", "second \(i)") }
        try await Follower.run(quick(try through(proxy))) { follower in
            try await follower.waitUntil("the first cluster", content: try first.content(prefix: "/k/"))
            proxy.set(.cut)
            proxy.redirect(to: second.members[0].port)
            proxy.set(.open)
            try await follower.waitUntil("the second cluster", content: try second.content(prefix: "/k/"))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1, .otherCluster: 1])
        }
    }

    // MARK: - Security

    /// Scene 21: tokens live for two seconds, and the watch is opened again and again.
    @Test func scene21_tokensThatExpire_areRenewed() async throws {
        let cluster = try await EtcdCluster(arguments: ["--auth-token-ttl", "2", "--bcrypt-cost", "4"])
        let root = EtcdConfiguration.User(name: "root", password: "r")
        let reader = EtcdConfiguration.User(name: "reader", password: "secret")
        for user in [root, reader] { try cluster.control("user", "add", "\(user.name):\(user.password)") }
        try cluster.control("user", "grant-role", "root", "root")
        try cluster.control("role", "add", "reads")
        try cluster.control("role", "grant-permission", "reads", "--prefix=true", "read", "/k/")
        try cluster.control("user", "grant-role", "reader", "reads")
        try cluster.control("auth", "enable")
        let proxy = try Proxy(to: cluster.members[0].port)
        var configuration = quick(try through(proxy))
        configuration.user = reader
        try await Follower.run(configuration) { follower in
            try await follower.waitUntilInSync()
            for i in 0..<3 {
                let admin = try await EtcdAdmin(cluster.endpoints[0], user: root)
                try await admin.put("/k/\(i)", "1")
                try await follower.waitUntil("write \(i)", content: try cluster.content(prefix: "/k/", user: root))
                // Longer than a token lives.
                try await Task.sleep(for: .seconds(3))
                proxy.set(.cut)
                proxy.set(.open)
            }
            let admin = try await EtcdAdmin(cluster.endpoints[0], user: root)
            try await admin.put("/k/last", "1")
            try await follower.waitUntil("the last write", content: try cluster.content(prefix: "/k/", user: root))
            #expect(follower.syncer.statistics.resyncs == [.initial: 1])
        }
    }

    @Test func scene21_userWhoMayNotRead_isDeniedUntilPermitted() async throws {
        let cluster = try await EtcdCluster(arguments: ["--bcrypt-cost", "4"])
        let root = EtcdConfiguration.User(name: "root", password: "r")
        let reader = EtcdConfiguration.User(name: "reader", password: "secret")
        for user in [root, reader] { try cluster.control("user", "add", "\(user.name):\(user.password)") }
        try cluster.control("user", "grant-role", "root", "root")
        try cluster.control("role", "add", "reads")
        try cluster.control("user", "grant-role", "reader", "reads")
        try cluster.control("auth", "enable")
        let states = Locked<[EtcdSyncerState]>([])
        let (changes, continuation) = AsyncStream.makeStream(of: EtcdSyncerState.self)
        var configuration = quick(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/k/"))
        configuration.user = reader
        configuration.onStateChange = { state in
            states.withLock { $0.append(state) }
            continuation.yield(state)
        }
        try await Follower.run(configuration) { follower in
            try await within("denied") {
                for await case .denied in changes { break }
            }
            #expect(follower.sink.snapshot.statuses.last != .inSync)
            try cluster.control(
                "role", "grant-permission", "reads", "--prefix=true", "read", "/k/", user: root)
            let admin = try await EtcdAdmin(cluster.endpoints[0], user: root)
            try await admin.put("/k/1", "1")
            try await follower.waitUntil("permitted", content: try cluster.content(prefix: "/k/", user: root))
            // Said once, however often it was tried.
            let denials = states.withLock { $0.filter { if case .denied = $0 { true } else { false } }.count }
            #expect(denials == 1)
        }
    }

    @Test(arguments: [false, true]) func tls_withAndWithoutAClientCertificate_works(isMutual: Bool) async throws {
        let certificates = try Certificates(requiresClientCertificate: isMutual)
        let cluster = try await EtcdCluster(certificates: certificates)
        let admin = try await EtcdAdmin(cluster.endpoints[0], tls: certificates.clientTLS)
        try await admin.put("/k/1", "1")
        var configuration = quick(EtcdConfiguration(endpoints: cluster.endpoints, prefix: "/k/"))
        configuration.tls = certificates.clientTLS
        try await Follower.run(configuration) { follower in
            try await follower.waitUntil("one key", content: try cluster.content(prefix: "/k/"))
            try await admin.put("/k/2", "2")
            try await follower.waitUntil("two keys", content: try cluster.content(prefix: "/k/"))
        }
    }

    @Test func tls_whenTheServerProvesNothing_isRefused() async throws {
        // The members' certificate is not good for their address, so names count.
        let certificates = try Certificates(requiresClientCertificate: false, serverNames: "DNS:etcd.example")
        let cluster = try await EtcdCluster(certificates: certificates, serverName: "etcd.example")
        let authority = certificates.path("ca.crt")
        let stranger = try Certificates(requiresClientCertificate: false)
        let refused = [
            EtcdConfiguration.TLS(certificateAuthorities: authority),
            EtcdConfiguration.TLS(certificateAuthorities: authority, serverName: "other.example"),
            EtcdConfiguration.TLS(
                certificateAuthorities: stranger.path("ca.crt"), serverName: "etcd.example"),
            EtcdConfiguration.TLS(serverName: "etcd.example"),
            EtcdConfiguration.TLS(certificateAuthorities: "/nonexistent/ca.crt"),
        ]
        for tls in refused {
            await expect(reason: .unavailable) { try await probe(cluster.endpoints[0], tls) }
        }
        let accepted = EtcdConfiguration.TLS(certificateAuthorities: authority, serverName: "etcd.example")
        #expect(try await probe(cluster.endpoints[0], accepted).revision == 1)
    }

    private func probe(
        _ endpoint: EtcdConfiguration.Endpoint, _ tls: EtcdConfiguration.TLS
    ) async throws -> HistoryPosition {
        var options = EtcdTransportOptions.patient
        options.tls = tls
        let datastore = EtcdDatastore(endpoints: [endpoint], prefixes: [[]], options: options)
        let result: Result<HistoryPosition, DatastoreError>
        do throws(DatastoreError) {
            result = .success(try await datastore.probe(endpoint: 0, resuming: nil))
        } catch {
            result = .failure(error)
        }
        await datastore.close()
        return try result.get()
    }

    /// A client's certificate is replaced, and so is the server's with its authority's file.
    @Test func tls_whenFilesAreReplaced_theNextConnectionUsesThem() async throws {
        let certificates = try Certificates(requiresClientCertificate: true)
        let cluster = try await EtcdCluster(certificates: certificates)
        var options = EtcdTransportOptions.patient
        options.tls = certificates.clientTLS
        let datastore = EtcdDatastore(endpoints: cluster.endpoints, prefixes: [[]], options: options)
        _ = try await datastore.probe(endpoint: 0, resuming: nil)
        // The key belongs to no certificate any more, as in the middle of a replacement.
        let stranger = try Certificates(requiresClientCertificate: true)
        let key = try Data(contentsOf: URL(filePath: certificates.path("client.key")))
        let otherKey = try Data(contentsOf: URL(filePath: stranger.path("client.key")))
        try otherKey.write(to: URL(filePath: certificates.path("client.key")))
        _ = try await datastore.probe(endpoint: 0, resuming: nil)
        datastore.disconnect(endpoint: 0)
        await expect(reason: .unavailable) { try await datastore.probe(endpoint: 0, resuming: nil) }
        datastore.disconnect(endpoint: 0)
        try key.write(to: URL(filePath: certificates.path("client.key")))
        try certificates.issue("client", extensions: "extendedKeyUsage=clientAuth")
        _ = try await datastore.probe(endpoint: 0, resuming: nil)
        await datastore.close()
    }

    // MARK: - Support

    private func through(_ proxy: Proxy) throws -> EtcdConfiguration {
        EtcdConfiguration(endpoints: [try .init(host: "127.0.0.1", port: proxy.port, usesTLS: false)], prefix: "/k/")
    }
}

/// The configuration with short times, so that a test need not wait long for what takes long in a
/// real failure.
func quick(_ configuration: EtcdConfiguration) -> EtcdConfiguration {
    var configuration = configuration
    configuration.gracePeriod = .milliseconds(200)
    configuration.backOff.maximumDelay = .milliseconds(500)
    configuration.heartbeatInterval = .milliseconds(500)
    configuration.heartbeatTimeout = .milliseconds(1500)
    configuration.requestTimeout = .seconds(2)
    configuration.minimumResyncInterval = .milliseconds(50)
    return configuration
}

/// Puts and deletes keys by chance.
func write(
    to cluster: EtcdCluster, members: [EtcdCluster.Member]? = nil, writers: Int, rounds: Int
) async throws {
    let members = members ?? cluster.members
    try await withThrowingTaskGroup(of: Void.self) { group in
        for writer in 0..<writers {
            let endpoint = cluster.endpoint(members[writer % members.count])
            group.addTask {
                let admin = try await EtcdAdmin(endpoint)
                for round in 0..<rounds {
                    let changes = (0..<Int.random(in: 1...5)).map { _ in Int.random(in: 0..<200) }
                    let distinct = Set(changes).map { number -> EtcdAdmin.Change in
                        let key = Array("/k/\(number)".utf8)
                        return Int.random(in: 0..<4) == 0
                            ? .delete(key) : .put(key, Array("\(writer) \(round)".utf8))
                    }
                    try await retrying { _ = try await admin.commit(distinct) }
                }
            }
        }
        try await group.waitForAll()
    }
}

/// Writers meet leader changes, too. They are not what is tested.
func retrying(_ body: () async throws -> Void) async throws {
    for attempt in 0... {
        do {
            return try await body()
        } catch let error as DatastoreError where attempt < 500 {
            guard [.noLeader, .timeout, .unavailable].contains(error.reason) else { throw error }
            try await Task.sleep(for: .milliseconds(20))
        }
    }
}

#endif
