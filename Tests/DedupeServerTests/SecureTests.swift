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
            #expect(try await healthy(server))
        }
    }

    @Test func stream_outlivesTheTimeOfAHandshake() async throws {
        try await withSecureServer(configured { $0.idleTimeout = .milliseconds(300) }) { server in
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

    private func healthy(_ server: TestServer) async throws -> Bool {
        try await Tool.run(
            "curl", "-sS", "--cacert", certificate.certificate, "https://localhost:\(server.port)/snapshot"
        ).contains("entries")
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
        let process = Process()
        let (output, errors) = (Pipe(), Pipe())
        process.executableURL = URL(filePath: "/usr/bin/timeout")
        process.arguments = [String(patience.components.seconds), path] + arguments
        process.standardOutput = output
        process.standardError = mayFail ? FileHandle.nullDevice : errors
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        let complaint =
            mayFail ? "" : String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        if process.terminationStatus != 0 && !mayFail {
            throw WireError("\(name): status \(process.terminationStatus): \(complaint)")
        }
        return text
    }
}

#endif
