// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeServer
import Foundation
import Testing

/// TLS and HTTP/2, with the clients that Debian has: curl, nghttp and openssl.
@Suite(.enabled(if: Tool.areThere("curl", "nghttp", "openssl")))
struct SecureTests {
    private let certificate = TestCertificate.shared

    @Test(arguments: [("--http2", "2"), ("--http1.1", "1.1")])
    func client_choosesTheVersion(option: String, version: String) async throws {
        try await withSecureServer { server in
            server.put("a", "1")
            let output = try await Tool.run(
                "curl", "-sS", "--cacert", certificate.certificate, option, "-w", "%{http_version} %{http_code}",
                "https://localhost:\(server.port)/snapshot")
            #expect(output.hasSuffix("\(version) 200"))
            #expect(output.contains(#""key":"a""#))
        }
    }

    @Test(arguments: ["--http2", "--http1.1"])
    func stream_deliversUntilTheEnd(option: String) async throws {
        try await withSecureServer { server in
            server.put((0..<1000).map { ("k\($0)", "\"" + String(repeating: "x", count: 300) + "\"") })
            let output = Task {
                try await Tool.run(
                    "curl", "-sSN", "--cacert", certificate.certificate, option,
                    "https://localhost:\(server.port)/events")
            }
            try await server.waitForClients(1)
            server.put("last", "1")
            server.hub.finish()
            let text = try await output.value
            #expect(text.components(separatedBy: "data: {\"type\"").count == 1002)
            #expect(text.hasSuffix("\ndata: {\"end\":true}\n\n"))
        }
    }

    @Test func manyStreams_shareAConnection() async throws {
        try await withSecureServer { server in
            server.put("a", "1")
            let target = "https://localhost:\(server.port)/lines"
            let output = Task { try await Tool.run("nghttp", ["-m", "20", target]) }
            try await server.waitForClients(20)
            let statistics = try await Tool.run(
                "curl", "-sS", "--cacert", certificate.certificate, "https://localhost:\(server.port)/statistics")
            #expect(statistics.contains(#""connections":2,"#))
            #expect(statistics.contains(#""version":"HTTP/2""#))
            server.hub.finish()
            let lines = try await output.value.split(separator: "\n")
            #expect(lines.count == 20)
        }
    }

    @Test func stalledStream_delaysNoOtherOfItsConnection_andGetsTheNewestAtLast() async throws {
        try await withSecureServer { server in
            let client = try FrameClient(port: server.port, window: 1000)
            try await blocking {
                // The connection is open wide, and so is the second stream.
                try client.widen(0, by: 1 << 30)
                try client.get("/lines", stream: 1)
                try client.get("/lines", stream: 3)
                try client.widen(3, by: 1 << 30)
            }
            try await server.waitForClients(2)
            let keys = (0..<500).map { "k\($0)" }
            let filler = String(repeating: "x", count: 100)
            for round in 0..<100 { server.put(keys.map { ($0, "\"\(round) \(filler)\"") }) }
            server.hub.onStatusUpdated(.inSync)
            let complete = Replica(
                values: Dictionary(uniqueKeysWithValues: keys.map { ($0, "99 \(filler)") }), status: "in-sync")
            var streams = StreamsOfFrames()
            streams = try await blocking { [streams] in try streams.reading(client, until: complete, of: 3) }
            #expect(streams.count(of: 1) == 1000)
            // It holds one batch.
            let statistics = try await Tool.run(
                "curl", "-sS", "--cacert", certificate.certificate, "https://localhost:\(server.port)/statistics")
            let object = try #require(try JSONSerialization.jsonObject(with: Data(statistics.utf8)) as? [String: Any])
            let list = try #require((object["clients"] as? [String: Any])?["list"] as? [[String: Any]])
            #expect(try #require(list.first?["bytes"] as? Int) < 100 * 200)
            try await blocking { [streams] in
                try client.widen(1, by: 1 << 30)
                _ = try streams.reading(client, until: complete, of: 1)
            }
        }
    }

    @Test func idleConnection_thatAnswersNothing_isClosed() async throws {
        try await withSecureServer(
            configured {
                $0.idleTimeout = .seconds(1)
                $0.closingTimeout = .milliseconds(200)
            }
        ) { server in
            let silent = try FrameClient(port: server.port, window: 1000)
            let asked = try FrameClient(port: server.port, window: 1000)
            try await blocking { try? asked.get("/snapshot", stream: 1) }
            let connections = #""connections":([0-9]+),"#
            func count() async throws -> String? {
                try await Tool.run(
                    "curl", "-sS", "--cacert", certificate.certificate, "https://localhost:\(server.port)/statistics"
                ).firstMatch(of: try Regex(connections, as: (Substring, Substring).self)).map { String($0.1) }
            }
            try await eventually("no connection but this one") { try await count() == "1" }
            // This fails if the server keeps a connection.
            for client in [silent, asked] {
                try await blocking { while try client.frame() != nil {} }
            }
        }
    }

    /// The streams are closed before the connection could send what they wrote.
    @Test(arguments: [["/snapshot"], ["/snapshot", "/"]])
    func connectionThatTakesNothing_isGivenUp(targets: [String]) async throws {
        try await withSecureServer(
            configured {
                $0.idleTimeout = .seconds(1)
                $0.closingTimeout = .milliseconds(200)
                $0.maximumSnapshots = 1
            }
        ) { server in
            server.put("a", "\"" + String(repeating: "x", count: 40_000_000) + "\"")
            var client: FrameClient?
            // On a busy machine the server may give up a connection before the client has asked.
            try await eventually("the beginning of an answer") {
                client = try await blocking {
                    let client = try FrameClient(port: server.port, window: 1 << 30)
                    try client.widen(0, by: 1 << 30)
                    for (index, target) in targets.enumerated() {
                        try client.get(target, stream: UInt32(2 * index + 1))
                    }
                    try client.readHeaders()
                    return client
                }
                return true
            }
            try await eventually("room, and no other connection") {
                let hasRoom = try await get("/snapshot?prefix=none", from: server, headOnly: true).contains(" 200")
                let isAlone = try await get("/statistics", from: server).contains(#""connections":1,"#)
                return hasRoom && isAlone
            }
            withExtendedLifetime(client) {}
        }
    }

    /// The client reads steadily, and for longer than the server waits for a client that reads
    /// nothing. The answer to a second request waits behind a long update meanwhile.
    @Test func connectionThatIsReadSteadily_isKept() async throws {
        try await withSecureServer(configured { $0.idleTimeout = .seconds(3) }) { server in
            let client = try FrameClient(port: server.port, window: 1 << 30)
            try await blocking {
                try client.widen(0, by: 1 << 30)
                try client.get("/lines", stream: 1)
            }
            try await server.waitForClients(1)
            let count = 16_000_000
            server.put("a", "\"" + String(repeating: "x", count: count) + "\"")
            let received = try await blocking {
                var received = 0
                while received < count, let frame = try client.frame() {
                    if frame.type == .data && frame.stream == 1 {
                        if received == 0 { try client.get("/statistics", stream: 3) }
                        received += frame.payload.count
                    }
                    usleep(4000)
                }
                return received
            }
            #expect(received >= count)
        }
    }

    /// The client agrees that the connection ends, and takes longer for its stream.
    @Test func slowStream_thatIsLeftAtTheEnd_isSentWhole() async throws {
        try await withSecureServer(configured { $0.closingTimeout = .milliseconds(200) }) { server in
            let client = try FrameClient(port: server.port, window: 1000)
            try await blocking {
                try client.widen(0, by: 1 << 30)
                try client.get("/lines", stream: 1)
            }
            try await server.waitForClients(1)
            server.put((0..<100).map { ("k\($0)", "\"" + String(repeating: "x", count: 1000) + "\"") })
            server.hub.finish()
            server.server.shutDown(deadline: .now + .seconds(60))
            let text = try await blocking {
                var text: [UInt8] = []
                while let frame = try client.frame() {
                    if frame.type == .ping {
                        usleep(600_000)
                        try client.widen(1, by: 1 << 30)
                    }
                    if frame.type == .data { text += frame.payload }
                    if frame.type == .data && frame.flags & 1 == 1 { return text }
                }
                throw WireError("the connection ended after \(text.count) bytes")
            }
            #expect(String(decoding: text, as: UTF8.self).split(separator: "\n").count == 100)
        }
    }

    @Test func headersThatAreTooLarge_areRefusedOverHTTP2() async throws {
        try await withSecureServer { server in
            let output = try await Tool.run(
                "curl", "-sS", "--cacert", certificate.certificate, "--http2", "-o", "/dev/null", "-w", "%{http_code}",
                "-H", "X-Long: " + String(repeating: "x", count: 60_000), "https://localhost:\(server.port)/snapshot",
                mayFail: true)
            #expect(output != "200")
            #expect(try await healthy(server))
        }
    }

    @Test func cookie_isForTLSOnly() async throws {
        try await withSecureServer(configured { $0.tokens = [Token("0123456789abcdef")!] }) { server in
            let output = try await Tool.run(
                "curl", "-sS", "--cacert", certificate.certificate, "-i", "-d", "token=0123456789abcdef",
                "https://localhost:\(server.port)/")
            #expect(
                output.lowercased().contains(
                    "set-cookie: dedupe-token=0123456789abcdef; path=/; httponly; samesite=strict; secure"))
        }
    }

    @Test(arguments: ["", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "\u{16}\u{3}\u{1}"])
    func clientWithoutAHandshake_isGivenUp(text: String) async throws {
        try await withSecureServer(configured { $0.idleTimeout = .milliseconds(300) }) { server in
            try await blocking {
                let client = try server.connect()
                try client.send(text)
                _ = try client.readToEnd()
            }
            try await eventually("an answer for others") { try await healthy(server) }
        }
    }

    @Test func stream_outlivesTheTimeOfAHandshake() async throws {
        try await withSecureServer(configured { $0.idleTimeout = .seconds(1) }) { server in
            let output = Task {
                try await Tool.run(
                    "curl", "-sSN", "--cacert", certificate.certificate, "https://localhost:\(server.port)/lines")
            }
            try await server.waitForClients(1)
            // Others are given up meanwhile.
            for _ in 0..<3 {
                try await blocking { _ = try server.connect().readToEnd() }
            }
            server.put("a", "1")
            server.hub.finish()
            #expect(try await output.value.contains(#""key":"a""#))
        }
    }

    @Test func missingCertificate_isNamed() async throws {
        await #expect {
            try await withServer(configured { $0.tls = .init(certificate: "/nothing.pem", key: certificate.key) }) {
                _ in
            }
        } throws: {
            "\($0)".hasPrefix("the certificate /nothing.pem and the key \(certificate.key) cannot be used: ")
        }
    }

    @Test func keyOfAnotherCertificate_isRefused() async throws {
        let other = try TestCertificate()
        await #expect(throws: ServerProblem.self) {
            try await withServer(
                configured {
                    $0.tls = .init(certificate: certificate.certificate, key: other.key)
                }
            ) { _ in }
        }
    }

    private func withSecureServer(
        _ configuration: ServerConfiguration = configured { _ in }, _ body: (TestServer) async throws -> Void
    ) async throws {
        var configuration = configuration
        configuration.tls = .init(certificate: certificate.certificate, key: certificate.key)
        try await withServer(configuration, body)
    }

    /// What the server answers to curl: the head alone, or the body alone.
    private func get(_ target: String, from server: TestServer, headOnly: Bool = false) async throws -> String {
        let output = headOnly ? ["-o", "/dev/null", "-D", "-"] : []
        let address = "https://localhost:\(server.port)\(target)"
        return try await Tool.run("curl", ["-sS", "--cacert", certificate.certificate] + output + [address])
    }

    private func healthy(_ server: TestServer) async throws -> Bool {
        try await Tool.run(
            "curl", "-sS", "--cacert", certificate.certificate, "https://localhost:\(server.port)/snapshot"
        ).contains("entries")
    }
}

/// What came on the streams of a connection.
private struct StreamsOfFrames: Sendable {
    private var texts: [UInt32: [UInt8]] = [:]
    private var replicas: [UInt32: Replica] = [:]
    private var counts: [UInt32: Int] = [:]

    func count(of stream: UInt32) -> Int { counts[stream] ?? 0 }

    /// Reads until the stream's lines have made this.
    func reading(_ client: FrameClient, until end: Replica, of stream: UInt32) throws -> Self {
        var streams = self
        while streams.replicas[stream] != end {
            guard let frame = try client.frame() else { throw WireError("the connection ended before") }
            if frame.type == .data { try streams.take(frame) }
        }
        return streams
    }

    private mutating func take(_ frame: FrameClient.Frame) throws {
        counts[frame.stream, default: 0] += frame.payload.count
        var text = (texts[frame.stream] ?? []) + frame.payload
        while let end = text.firstIndex(of: UInt8(ascii: "\n")) {
            try replicas[frame.stream, default: Replica()].take(String(decoding: text[..<end], as: UTF8.self))
            text.removeFirst(end + 1)
        }
        texts[frame.stream] = text
    }
}

/// A certificate for `localhost`, made for this run.
final class TestCertificate: Sendable {
    static let shared = try! TestCertificate()

    let certificate: String
    let key: String
    private let folder: URL

    init() throws {
        folder = FileManager.default.temporaryDirectory.appending(path: "dedupe-server-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        certificate = folder.appending(path: "certificate.pem").path
        key = folder.appending(path: "key.pem").path
        _ = try Tool.runAndWait(
            "openssl",
            [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out",
                certificate,
            ])
    }

    deinit { try? FileManager.default.removeItem(at: folder) }
}

/// Programs of the system.
enum Tool {
    static func path(_ name: String) -> String? {
        ["/usr/bin/", "/usr/local/bin/", "/bin/"].map { $0 + name }.first {
            FileManager.default.isExecutableFile(atPath: $0)
        }
    }

    static func areThere(_ names: String...) -> Bool { names.allSatisfy { path($0) != nil } }

    /// - Returns: What the program wrote.
    static func run(_ name: String, _ arguments: String..., mayFail: Bool = false) async throws -> String {
        try await run(name, arguments, mayFail: mayFail)
    }

    static func run(_ name: String, _ arguments: [String], mayFail: Bool = false) async throws -> String {
        try await blocking { try runAndWait(name, arguments, mayFail: mayFail) }
    }

    static func runAndWait(_ name: String, _ arguments: [String], mayFail: Bool = false) throws -> String {
        guard let path = path(name) else { throw WireError("there is no \(name)") }
        let (nothing, output, errors) = (try OutputFile(), try OutputFile(), try OutputFile())
        let process = try ChildProcess(
            path, arguments, descriptors: [nothing.descriptor, output.descriptor, errors.descriptor])
        let status = try process.wait()
        if status != 0 && !mayFail { throw WireError("\(name): status \(status): \(errors.content)") }
        return output.content
    }
}

#endif
