// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import Foundation
import SyncerEngine

@testable import DedupeBufferEtcd

/// A real cluster on loopback, with ports and folders of its own. Every member ends with the
/// object.
final class EtcdCluster: Sendable {
    let members: [Member]
    let folder: ScratchFolder
    private let certificates: Certificates?

    /// One member: its addresses stay the same when it is restarted.
    final class Member: Sendable {
        let name: String
        let port: Int
        let peerPort: Int
        fileprivate let process = Locked<Program?>(nil)

        fileprivate init(_ name: String) throws {
            self.name = name
            (port, peerPort) = (try freePort(), try freePort())
        }

        var peerURL: String { "http://127.0.0.1:\(peerPort)" }

        /// Ends the member as a crash would.
        func kill() { process.withLock { $0.take() }?.kill() }

        /// Stops the member where it is. Its connections stay open and silent.
        func pause() { process.withLock { $0 }?.signal(SIGSTOP) }

        func resume() { process.withLock { $0 }?.signal(SIGCONT) }
    }

    /// Starts a cluster and waits until it serves.
    ///
    /// - Parameters:
    ///   - count: how many members.
    ///   - arguments: more arguments of every member.
    ///   - certificates: for TLS between clients and members.
    ///   - serverName: the name that the members' certificate has, if that is not their address.
    init(
        _ count: Int = 1, arguments: [String] = [], certificates: Certificates? = nil, serverName: String? = nil
    ) async throws {
        try execute("etcd", ["--version"])
        folder = try ScratchFolder()
        members = try (0..<count).map { try Member("m\($0)") }
        self.certificates = certificates
        self.serverName = serverName
        self.arguments = arguments
        for member in members { try start(member) }
        try await waitUntilHealthy()
    }

    private let arguments: [String]
    private let serverName: String?

    deinit {
        for member in members { member.kill() }
    }

    var endpoints: [EtcdConfiguration.Endpoint] { members.map { endpoint($0) } }

    func endpoint(_ member: Member) -> EtcdConfiguration.Endpoint {
        // Constant and valid.
        try! EtcdConfiguration.Endpoint(host: "127.0.0.1", port: member.port, usesTLS: certificates != nil)
    }

    func dataFolder(_ member: Member) -> String { "\(folder.path)/\(member.name)" }

    /// Starts a member that does not run, on the data that it has.
    func start(_ member: Member) throws {
        let scheme = certificates == nil ? "http" : "https"
        let url = "\(scheme)://127.0.0.1:\(member.port)"
        var all = [
            "--name", member.name, "--data-dir", dataFolder(member), "--listen-client-urls", url,
            "--advertise-client-urls", url, "--listen-peer-urls", member.peerURL,
            "--initial-advertise-peer-urls", member.peerURL, "--initial-cluster", initialCluster,
            // A test machine may be slow, and its disk, too.
            "--heartbeat-interval", "50", "--election-timeout", "500", "--max-txn-ops", "20000",
            "--max-request-bytes", "3145728", "--experimental-watch-progress-notify-interval", "1s",
        ]
        if let certificates { all += certificates.serverArguments }
        let program = try Program("etcd", all + arguments, log: "\(folder.path)/\(member.name).log")
        member.process.withLock { $0 = program }
    }

    var initialCluster: String { members.map { "\($0.name)=\($0.peerURL)" }.joined(separator: ",") }

    /// Waits until every member that runs answers a linearizable read.
    func waitUntilHealthy(user: EtcdConfiguration.User? = nil) async throws {
        for member in members where member.process.withLock({ $0 != nil }) {
            try await within("a member of etcd is healthy") { [self] in
                let datastore = datastore(of: member, user: user)
                while true {
                    do throws(DatastoreError) {
                        _ = try await datastore.probe(endpoint: 0, resuming: nil)
                        break
                    } catch {
                        // Refused users, too, mean that the member serves.
                        if error.reason == .unauthenticated || error.reason == .permissionDenied { break }
                        datastore.disconnect(endpoint: 0)
                    }
                    try await Task.sleep(for: .milliseconds(20))
                }
                await datastore.close()
            }
        }
    }

    private func datastore(of member: Member, user: EtcdConfiguration.User?) -> EtcdDatastore {
        var options = EtcdTransportOptions()
        options.tls = certificates?.clientTLS
        options.tls?.serverName = serverName
        options.user = user
        options.requestTimeout = .seconds(2)
        return EtcdDatastore(endpoints: [endpoint(member)], prefixes: [[]], options: options)
    }

    // MARK: - Other programs

    /// Runs `etcdctl` on one member, or on all of them.
    @discardableResult
    func control(_ arguments: String..., member: Member? = nil, user: EtcdConfiguration.User? = nil) throws -> Data {
        let urls = (member.map { [$0] } ?? members).map { endpoint($0).description }
        var all = ["--endpoints", urls.joined(separator: ","), "--command-timeout", "20s"]
        if let user { all += ["--user", "\(user.name):\(user.password)"] }
        if let certificates { all += certificates.clientArguments }
        return try execute("etcdctl", all + arguments, environment: ["ETCDCTL_API": "3"])
    }

    /// All keys with a prefix, as `etcdctl get --prefix` reports them.
    func content(prefix: String = "", member: Member? = nil, user: EtcdConfiguration.User? = nil) throws -> [[UInt8]:
        [UInt8]]
    {
        struct Answer: Decodable {
            struct KeyValue: Decodable {
                let key: Data
                let value: Data?
            }
            let kvs: [KeyValue]?
        }
        let answer = try JSONDecoder().decode(
            Answer.self, from: control("get", prefix, "--prefix", "-w", "json", member: member, user: user))
        let pairs = (answer.kvs ?? []).map { ([UInt8]($0.key), [UInt8]($0.value ?? Data())) }
        return Dictionary(uniqueKeysWithValues: pairs)
    }

    /// The member that leads.
    func leader() throws -> Member {
        let leader = try members.first { member in
            let status = try status(of: member)
            return status.leader == status.header.memberID
        }
        guard let leader else { throw ProgramError("no member leads") }
        return leader
    }

    /// Lets another member lead.
    func moveLeader() throws {
        let leader = try leader()
        let other = members.first { $0 !== leader }!
        try control(
            "move-leader", String(try status(of: other).header.memberID, radix: 16), member: leader)
    }

    private struct Status: Decodable {
        struct Header: Decodable {
            let memberID: UInt64

            private enum CodingKeys: String, CodingKey {
                case memberID = "member_id"
            }
        }

        let header: Header
        let leader: UInt64
    }

    private func status(of member: Member) throws -> Status {
        struct Answer: Decodable {
            let status: Status

            private enum CodingKeys: String, CodingKey {
                case status = "Status"
            }
        }
        let data = try control("endpoint", "status", "-w", "json", member: member)
        return try JSONDecoder().decode([Answer].self, from: data)[0].status
    }

    /// Replaces all members' data by those of a snapshot, and starts the members again.
    func restore(_ snapshot: String) async throws {
        for member in members { member.kill() }
        for member in members {
            try FileManager.default.removeItem(atPath: dataFolder(member))
            try execute(
                "etcdctl",
                [
                    "snapshot", "restore", snapshot, "--name", member.name, "--data-dir", dataFolder(member),
                    "--initial-cluster", initialCluster, "--initial-advertise-peer-urls", member.peerURL,
                ], environment: ["ETCDCTL_API": "3"])
        }
        for member in members { try start(member) }
        try await waitUntilHealthy()
    }
}

#endif
