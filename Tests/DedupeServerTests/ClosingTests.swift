// SPDX-License-Identifier: Apache-2.0

// When a connection is closed, and what is sent before.

#if Server

import DedupeServer
import Foundation
import Testing

@Suite struct ClosingTests {
    /// Five megabytes.
    private func fill(_ server: TestServer) {
        let value = "\"" + String(repeating: "x", count: 100_000) + "\""
        server.put((0..<50).map { ("k\($0)", value) })
    }

    /// A client that reads slowly, and its snapshot, after something has happened meanwhile.
    private func slowSnapshot(
        _ server: TestServer, pause: UInt32 = 1000, meanwhile: @escaping @Sendable (WireClient) -> Void = { _ in }
    ) async throws -> String {
        let client = try WireClient(port: server.port, receiveBuffer: 4096)
        return try await blocking {
            try client.request("/snapshot")
            let head = try client.head()
            meanwhile(client)
            return try client.body(of: head, pause: pause)
        }
    }

    @Test func serverThatEnds_sendsASnapshotWhole() async throws {
        try await withServer { server in
            fill(server)
            let body = try await slowSnapshot(server) { _ in
                server.hub.finish()
                server.server.shutDown(deadline: .now + .seconds(60))
            }
            #expect(body.hasSuffix("]}\n"))
        }
    }

    /// All of it has been handed to the connection, and the client does not read for longer than
    /// an idle connection may last.
    @Test func serverThatEnds_waitsForTheEndOfASnapshot() async throws {
        try await withServer(configured { $0.closingTimeout = .milliseconds(200) }) { server in
            server.put("a", "\"" + String(repeating: "x", count: 180_000) + "\"")
            let body = try await slowSnapshot(server) { _ in
                usleep(300_000)
                server.hub.finish()
                server.server.shutDown(deadline: .now + .seconds(60))
                usleep(500_000)
            }
            #expect(body.hasSuffix("]}\n"))
        }
    }

    @Test func clientThatClosesItsSide_getsASnapshotWhole() async throws {
        try await withServer { server in
            fill(server)
            let body = try await slowSnapshot(server) { $0.closeOutput() }
            #expect(body.hasSuffix("]}\n"))
        }
    }

    /// The whole takes longer than a client may take without reading anything.
    @Test func clientThatReadsSteadily_getsALongValueWhole() async throws {
        try await withServer(configured { $0.idleTimeout = .seconds(4) }) { server in
            server.put("a", "\"" + String(repeating: "x", count: 8_000_000) + "\"")
            let body = try await slowSnapshot(server, pause: 60_000)
            #expect(body.hasSuffix("]}\n"))
        }
    }

    /// The server would end the answer with an empty chunk, which the client would take for the
    /// beginning of the next one.
    @Test(arguments: ["/events", "/lines"])
    func headOfAStream_isTheLastAnswerOfAConnection(path: String) async throws {
        try await withServer { server in
            try await blocking {
                let client = try server.connect()
                try client.request(path, method: "HEAD")
                let head = try client.response(isHead: true).head
                #expect(head.headers["connection"] == "close")
                _ = try client.readToEnd()
            }
        }
    }

    @Test(arguments: [
        ("localhost", true), ("LOCALHOST", true), ("127.0.0.1", true), ("127.1", true), ("::1", true),
        ("0:0:0:0:0:0:0:1", true), ("::ffff:127.0.0.1", true), ("0.0.0.0", false), ("::", false), ("10.0.0.1", false),
    ])
    func loopback_isKnownByEveryName(host: String, isLoopback: Bool) {
        #expect(configured { $0.host = host }.isLoopback == isLoopback)
    }

    @Test func serverAtAnotherNameOfTheLoopback_checksTheName() async throws {
        try await withServer(configured { $0.host = "127.1" }) { server in
            let (other, own) = (
                try await server.get("/snapshot", ["Host: example.org"]),
                try await server.get("/snapshot", ["Host: 127.1:\(server.port)"])
            )
            #expect(other.status == 403)
            #expect(own.status == 200)
        }
    }
}

#endif
