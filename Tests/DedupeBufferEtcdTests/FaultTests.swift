// SPDX-License-Identifier: Apache-2.0
// Random faults beside random writes. DEDUPE_ETCD_MINUTES says for how long; without it the run
// takes some seconds.

#if Etcd

import DedupeBuffer
import Foundation
import Testing

@testable import DedupeBufferEtcd

@Suite(.serialized) struct FaultTests {
    /// The cluster is broken and repaired, again and again. After each round it rests, and the sink
    /// has what etcd has.
    @Test func randomFaults_besideRandomWrites_loseNothing() async throws {
        let minutes = ProcessInfo.processInfo.environment["DEDUPE_ETCD_MINUTES"].flatMap(Double.init)
        let end = ContinuousClock.now + .seconds((minutes ?? 0) * 60)
        let field = try await FaultyField()
        var memory: [Int] = []
        try await Follower.run(field.configuration) { follower in
            var round = 0
            repeat {
                round += 1
                try await field.disturb(rounds: 6, seed: UInt64(round))
                try await field.heal()
                let content = try field.cluster.content(prefix: "/k/")
                try await follower.waitUntil("round \(round)", content: content)
                memory.append(residentBytes())
            } while minutes.map { _ in ContinuousClock.now < end } ?? (round < 2)
            print("faults: \(round) rounds, \(follower.syncer.statistics), resident bytes \(memory)")
            #expect(follower.sink.snapshot.updates > 0)
        }
        // A run of some rounds says nothing about memory.
        if memory.count >= 20 {
            let third = memory.count / 3
            #expect(memory[(2 * third)...].max()! < memory[third..<(2 * third)].max()! + 64 << 20)
        }
    }
}

/// Three members, each behind a proxy, and what can happen to them.
private struct FaultyField {
    private enum Fault: CaseIterable {
        case kill, pause, cut, freeze, cutAll, compact, moveLeader, nothing
    }

    let cluster: EtcdCluster
    let proxies: [Proxy]

    init() async throws {
        cluster = try await EtcdCluster(3)
        proxies = try cluster.members.map { try Proxy(to: $0.port) }
    }

    var configuration: EtcdConfiguration {
        let endpoints = proxies.map {
            try! EtcdConfiguration.Endpoint(host: "127.0.0.1", port: $0.port, usesTLS: false)
        }
        var configuration = quick(EtcdConfiguration(endpoints: endpoints, prefix: "/k/"))
        configuration.auditInterval = .seconds(5)
        return configuration
    }

    /// Breaks one thing after another, while writers write to the members that run.
    func disturb(rounds: Int, seed: UInt64) async throws {
        var generator = SplitMix64(seed: seed)
        for _ in 0..<rounds {
            let fault = Fault.allCases.randomElement(using: &generator)!
            let index = Int.random(in: 0..<3, using: &generator)
            try await apply(fault, to: index)
            let others = cluster.members.indices.filter { $0 != index }.map { cluster.members[$0] }
            try await write(to: cluster, members: others, writers: 3, rounds: 25)
            // What was missed may be gone before the network returns.
            if fault == .cutAll, Bool.random(using: &generator) { try await apply(.compact, to: index) }
            try await repair(fault, of: index)
        }
    }

    private func apply(_ fault: Fault, to index: Int) async throws {
        let member = cluster.members[index]
        switch fault {
        case .kill: member.kill()
        case .pause: member.pause()
        case .cut: proxies[index].set(.cut)
        case .freeze: proxies[index].set(.frozen)
        case .cutAll: for proxy in proxies { proxy.set(.cut) }
        case .compact:
            // A member that was just paused may have to find the leader first.
            try await retrying {
                let admin = try await EtcdAdmin(cluster.endpoints[index])
                try await admin.compact(try await admin.put("/other", "x"))
            }
        // A leader that has just changed may refuse.
        case .moveLeader: try? cluster.moveLeader()
        case .nothing: break
        }
    }

    private func repair(_ fault: Fault, of index: Int) async throws {
        let member = cluster.members[index]
        switch fault {
        case .kill:
            try cluster.start(member)
            // The next writers may use this member.
            try await cluster.waitUntilHealthy()
        case .pause: member.resume()
        case .cutAll: for proxy in proxies { proxy.set(.open) }
        case .cut, .freeze: proxies[index].set(.open)
        case .compact, .moveLeader, .nothing: break
        }
    }

    func heal() async throws {
        for proxy in proxies { proxy.set(.open) }
        try await cluster.waitUntilHealthy()
    }
}

/// The memory of this process, as the system counts it.
private func residentBytes() -> Int {
    guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return 0 }
    return (text.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) * 4096
}

#endif
