// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeServer
import Foundation
import Testing

@Suite struct LimitTests {
    // MARK: - Clients

    @Test func oneClientTooMany_isToldToComeBack() async throws {
        try await withServer(configured { $0.maximumClients = 2 }) { server in
            var streams = [try await server.stream("/events"), try await server.stream("/lines")]
            for path in ["/events", "/lines"] {
                let response = try await server.get(path)
                #expect(response.status == 503)
                #expect(response.head.headers["retry-after"] == "10")
                #expect(response.body == "The server has as many clients as it may have, 2.\n")
            }
            // Everything else is served.
            #expect(try await server.get("/snapshot").status == 200)
            #expect(server.server.refusedClients == 2)
            streams.removeLast()
            try await server.waitForClients(1)
            _ = try await server.stream("/events")
            #expect(streams.count == 1)
        }
    }

    @Test func refusedClient_canAskAgainOnTheSameConnection() async throws {
        try await withServer(configured { $0.maximumClients = 1 }) { server in
            var stream: WireClient? = try await server.stream("/events")
            let client = try server.connect()
            try await blocking {
                try client.request("/events")
                #expect(try client.response().status == 503)
            }
            #expect(stream != nil)
            stream = nil
            try await server.waitForClients(0)
            try await blocking {
                try client.request("/events")
                #expect(try client.head().status == 200)
            }
        }
    }

    // MARK: - Malformed requests

    @Test(arguments: [
        "\r\n\r\nnonsense\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}", "GET / HTTP/1.1\r\n: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ])
    func malformedRequest_isAnsweredWith400_andTheConnectionEnds(text: String) async throws {
        try await withServer { server in
            let answer = try await blocking {
                let client = try server.connect()
                try client.send(text)
                return try client.readToEnd()
            }
            #expect(answer.hasPrefix("HTTP/1.1 400 Bad Request\r\n") || answer.hasPrefix("HTTP/1.1 403"), "\(answer)")
            #expect(try await server.get("/snapshot").status == 200)
        }
    }

    @Test(arguments: ["one header", "many headers", "the target"])
    func tooLargeHeaders_areAnsweredWith431(which: String) async throws {
        try await withServer { server in
            let answer = try await blocking {
                let client = try server.connect()
                let long = String(repeating: "x", count: 20_000)
                switch which {
                case "one header": try? client.request("/", ["X-Long: " + long])
                case "many headers": try? client.request("/", (0..<2000).map { "X-\($0): yyyyyyyyyyyyyy" })
                default: try? client.request("/events?prefix=" + long)
                }
                return try client.readToEnd()
            }
            #expect(answer.hasPrefix("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "\(answer)")
            #expect(answer.hasSuffix("The headers of the request are too large.\n"))
        }
    }

    @Test func malformedSecondRequest_doesNotSpoilTheStream() async throws {
        try await withServer { server in
            let stream = try await server.stream("/lines")
            try await server.waitForClients(1)
            try? stream.send("nonsense\r\n\r\n")
            // The stream ends, because nothing else can be understood.
            try await server.waitForClients(0)
            let rest = try await blocking { try stream.readToEnd() }
            #expect(!rest.contains("HTTP/1.1"))
        }
    }

    // MARK: - Slow requests

    @Test(arguments: ["nothing", "half a request", "a byte at a time", "a second request"])
    func requestThatDoesNotCome_endsTheConnection(which: String) async throws {
        try await withServer(configured { $0.idleTimeout = .seconds(1) }) { server in
            try await blocking {
                let client = try server.connect()
                switch which {
                case "nothing": break
                case "half a request": try client.send("GET / HTTP/1.1\r\nHost: local")
                case "a byte at a time":
                    try client.send("GET / HTTP/1.1\r\nX: ")
                    while (try? client.send("x")) != nil { usleep(20_000) }
                default:
                    try client.request("/statistics")
                    _ = try client.response()
                    try client.send("GET / HTTP/1.1\r\n")
                }
                // This fails if the server keeps the connection.
                _ = try client.readToEnd()
            }
            try await eventually("no connection") {
                try await server.get("/statistics").body.contains(#""connections":1,"#)
            }
        }
    }

    @Test func clientThatAsksAgainAndAgain_andReadsNothing_isGivenUp() async throws {
        try await withServer(configured { $0.idleTimeout = .milliseconds(300) }) { server in
            let client = try WireClient(port: server.port, receiveBuffer: 4096)
            let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
            // The answers would be more than a hundred megabytes.
            try await blocking { try? client.send(String(repeating: request, count: 5000)) }
            try await eventually("no connection") {
                try await server.get("/statistics").body.contains(#""connections":1,"#)
            }
        }
    }

    @Test func formThatComesAByteAtATime_isGivenUp() async throws {
        try await withServer(
            configured {
                $0.idleTimeout = .milliseconds(300)
                $0.tokens = [Token("0123456789abcdef")!]
            }
        ) { server in
            try await blocking {
                let client = try server.connect()
                try client.request("/", method: "POST", ["Content-Length: 4000"])
                var sent = 0
                while sent < 4000, (try? client.send("x")) != nil {
                    sent += 1
                    usleep(20_000)
                }
                #expect(sent < 4000)
            }
        }
    }

    @Test func quietStream_outlivesTheIdleTimeout() async throws {
        try await withServer(
            configured {
                $0.idleTimeout = .seconds(1)
                $0.heartbeat = .seconds(3600)
            }
        ) { server in
            let stream = try await server.stream("/lines")
            try await server.waitForClients(1)
            // Another connection is given up meanwhile, several times.
            for _ in 0..<3 {
                try await blocking { _ = try server.connect().readToEnd() }
            }
            server.put("a", "1")
            #expect(try await blocking { try stream.line() }?.hasPrefix(#"{"type":"new","key":"a""#) == true)
        }
    }

    @Test func connectionsBeyondTheReserve_waitUntilOthersEnd() async throws {
        try await withServer(
            configured {
                $0.maximumClients = 1
                $0.connectionReserve = 1
                $0.idleTimeout = .milliseconds(300)
            }
        ) { server in
            let stream = try await server.stream("/lines")
            // Idle connections take the rest, and are given up one after another.
            let idle = try (0..<20).map { _ in try server.connect() }
            try await eventually("a connection for one more") { try await server.get("/snapshot").status == 200 }
            #expect(idle.count == 20)
            _ = stream
        }
    }
}

#endif
