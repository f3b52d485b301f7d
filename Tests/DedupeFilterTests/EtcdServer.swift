// SPDX-License-Identifier: Apache-2.0

#if Etcd

import Foundation

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A member of etcd on loopback, with a folder and ports of its own. It ends with the object, or
/// with the process of the tests.
final class EtcdServer {
    let url: String
    private let folder: NamedFolder
    private let words: [String]
    private let client: [String]
    private var process: RunningProcess?

    /// Starts a member and waits until it serves.
    ///
    /// - Parameters:
    ///   - scheme: `http` or `https`.
    ///   - arguments: more arguments of the member.
    ///   - client: more arguments of `etcdctl`.
    init(scheme: String = "http", arguments: [String] = [], client: [String] = []) throws {
        folder = try NamedFolder()
        let (port, peerPort) = (Self.freePort(), Self.freePort())
        url = "\(scheme)://127.0.0.1:\(port)"
        let peer = "http://127.0.0.1:\(peerPort)"
        words =
            [
                "etcd", "--data-dir", folder.path + "/data", "--listen-client-urls", url, "--advertise-client-urls",
                url,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster",
                "default=\(peer)",
            ] + arguments
        self.client = client
        try start()
    }

    /// Starts the member, which does not run, on the data that it has.
    func start() throws {
        // The shell ends the member when its own input ends, at the latest with the tests.
        let script = #""$@" > /dev/null 2>&1 < /dev/null & cat > /dev/null; kill -9 $!; wait $!"#
        process = try RunningProcess(["-c", script, "sh"] + words, of: "/bin/sh", longestLife: 600)
        for _ in 0..<600 {
            if try etcdctl("endpoint", "health").status == 0 { return }
            usleep(50_000)
        }
        throw NoServer()
    }

    /// Ends the member as a crash would.
    func kill() {
        process?.closeInput()
        process?.waitUntilEnded()
        process = nil
    }

    deinit { kill() }

    @discardableResult
    func etcdctl(_ arguments: String..., input: String = "") throws -> Outcome {
        // Debian's etcdctl speaks the older protocol unless it is told.
        let all = ["ETCDCTL_API=3", "etcdctl", "--endpoints", url] + client + arguments
        return try RunningProcess(all, of: "/usr/bin/env", input: input).end()
    }

    func put(_ key: String, _ value: String) throws { try etcdctl("put", key, input: value) }

    /// Puts many keys by one process: `PREFIX0`, `PREFIX1`, and so on.
    func putMany(_ prefix: String, count: Int, value: (Int) -> String) throws {
        // At most 128 operations are in a transaction.
        for start in stride(from: 0, to: count, by: 128) {
            let puts = (start..<min(start + 128, count)).map { "put \(prefix)\($0) \(value($0))\n" }.joined()
            try etcdctl("txn", input: "\n" + puts + "\n\n")
        }
    }

    private struct NoServer: Error, CustomStringConvertible {
        var description: String { "no etcd serves; `make setup-etcd` installs it" }
    }

    /// A port that nothing listens at.
    private static func freePort() -> Int {
        #if os(Linux)
        let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        #else
        let descriptor = socket(AF_INET, SOCK_STREAM, 0)
        #endif
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr = in_addr(s_addr: UInt32(0x7F00_0001).bigEndian)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutablePointer(to: &address) { address in
            address.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                precondition(bind(descriptor, address, length) == 0 && getsockname(descriptor, address, &length) == 0)
            }
        }
        return Int(UInt16(bigEndian: address.sin_port))
    }
}

#endif
