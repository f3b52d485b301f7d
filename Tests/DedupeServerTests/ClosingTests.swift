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

    @Test func serverThatEnds_sendsASnapshotWhole() async throws {
        try await withServer { server in
            fill(server)
            let client = try WireClient(port: server.port, receiveBuffer: 4096)
            let head = try await blocking {
                try client.request("/snapshot")
                return try client.head()
            }
            server.hub.finish()
            server.server.shutDown(deadline: .now + .seconds(60))
            let body = try await blocking { try client.body(of: head, pause: 1000) }
            #expect(body.hasSuffix("]}\n"))
        }
    }

    @Test func clientThatClosesItsSide_getsASnapshotWhole() async throws {
        try await withServer { server in
            fill(server)
            let client = try WireClient(port: server.port, receiveBuffer: 4096)
            let response = try await blocking {
                try client.request("/snapshot")
                client.closeOutput()
                let head = try client.head()
                return try client.body(of: head, pause: 1000)
            }
            #expect(response.hasSuffix("]}\n"))
        }
    }

    /// The whole takes longer than a client may take without reading anything.
    @Test func clientThatReadsSteadily_getsALongValueWhole() async throws {
        try await withServer(configured { $0.idleTimeout = .seconds(2) }) { server in
            server.put("a", "\"" + String(repeating: "x", count: 8_000_000) + "\"")
            let client = try WireClient(port: server.port, receiveBuffer: 4096)
            let body = try await blocking {
                try client.request("/snapshot")
                return try client.body(of: try client.head(), pause: 60_000)
            }
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
