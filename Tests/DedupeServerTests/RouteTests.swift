// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeBuffer
import DedupeBufferHub
import DedupeServer
import Foundation
import Synchronization
import Testing

@Suite struct RouteTests {
    @Test func unknownPath_isRefused() async throws {
        try await withServer { server in
            let response = try await server.get("/nothing")
            #expect(response.status == 404)
            #expect(response.body == "There is no /nothing. There are /, /events, /lines, /snapshot and /statistics.\n")
        }
    }

    @Test(arguments: ["/events", "/lines", "/snapshot", "/statistics", "/"])
    func otherMethod_isRefused_namingThoseThatAreAllowed(path: String) async throws {
        try await withServer { server in
            for method in ["PUT", "DELETE", "POST"] {
                let response = try await server.get(path, method: method)
                #expect(response.status == 405)
                #expect(response.head.headers["allow"] == "GET, HEAD, OPTIONS")
            }
        }
    }

    @Test(arguments: [
        ("/events?colour=red", "There is no parameter colour. There are prefix, interval, since and token.\n"),
        ("/lines?interval=soon", "interval=soon is no number of milliseconds up to 3600000.\n"),
        ("/lines?interval=-1", "interval=-1 is no number of milliseconds up to 3600000.\n"),
        ("/lines?interval=3600001", "interval=3600001 is no number of milliseconds up to 3600000.\n"),
        (
            "/lines?interval=99999999999999999999",
            "interval=99999999999999999999 is no number of milliseconds up to 3600000.\n"
        ),
        ("/lines?interval=1&interval=2", "interval= can be given once.\n"),
        ("/events?since=yesterday", "since=yesterday is no position. One is the id of an event.\n"),
        ("/events?prefix=%zz", "prefix=%zz is not percent-encoded UTF-8.\n"),
        ("/events?prefix=%ff", "prefix=%ff is not percent-encoded UTF-8.\n"),
        ("/snapshot?interval=5", "A snapshot has no interval= and no since=.\n"),
        ("/statistics?history=all", "The statistics have one parameter: history= and a number.\n"),
        ("/events?" + String(repeating: "prefix=a&", count: 101), "At most 100 prefixes can be given.\n"),
    ])
    func wrongQuery_isRefused_withTheReason(target: String, reason: String) async throws {
        try await withServer { server in
            let response = try await server.get(target)
            #expect(response.status == 400)
            #expect(response.body == reason)
        }
    }

    @Test(arguments: ["/events", "/lines", "/snapshot", "/statistics", "/"])
    func head_hasTheHeadersOnly(path: String) async throws {
        try await withServer { server in
            let response = try await server.get(path, method: "HEAD")
            #expect(response.status == 200)
            #expect(response.head.headers["content-type"] != nil)
            #expect(server.server.clientCount == 0)
        }
    }

    @Test func connection_isUsedForSeveralRequests() async throws {
        try await withServer { server in
            try await blocking {
                let client = try server.connect()
                for status in [200, 404, 400, 200] {
                    try client.request(
                        ["/statistics", "/nothing", "/lines?x", "/"][[200, 404, 400].firstIndex(of: status)!])
                    #expect(try client.response().status == status)
                }
            }
        }
    }

    @Test(arguments: ["/events", "/lines", "/snapshot", "/statistics", "/", "/nothing", "/lines?x"])
    func browser_mayNotGuessTheType(target: String) async throws {
        try await withServer { server in
            let response = try await server.get(target, method: "HEAD")
            #expect(response.head.headers["x-content-type-options"] == "nosniff")
        }
    }

    // MARK: - Snapshots

    @Test func snapshot_hasEveryKey_andThePosition() async throws {
        try await withServer { server in
            server.put([("a", "1"), ("b", "[2]"), ("c", "3")])
            server.put("c", nil)
            server.hub.onStatusUpdated(.inSync)
            let response = try await server.get("/snapshot")
            #expect(response.head.headers["content-type"] == "application/json")
            #expect(response.head.headers["content-length"] == String(response.body.utf8.count))
            let object = try JSONDecoder().decode(SnapshotObject.self, from: Data(response.body.utf8))
            #expect(object.status == "in-sync")
            #expect(object.count == 2)
            #expect(object.entries.map(\.key) == ["a", "b"])

            server.put("a", "9")
            let lines = try await server.stream("/lines?since=" + object.position)
            let first = try await blocking { try lines.line() }
            #expect(first?.hasPrefix(#"{"type":"updated","key":"a","value":9,"position":"#) == true)
        }
    }

    @Test func snapshot_ofNothing_isEmpty() async throws {
        try await withServer { server in
            let response = try await server.get("/snapshot?prefix=x")
            #expect(response.body.contains(#""status":null,"count":0,"entries":[]}"#))
        }
    }

    @Test func snapshot_withPrefixes_hasTheirKeysOnly() async throws {
        try await withServer { server in
            server.put([("a/1", "1"), ("b/1", "1"), ("c/1", "1"), ("é x/1", "1")])
            let response = try await server.get("/snapshot?prefix=a/&prefix=%C3%A9+x")
            let object = try JSONDecoder().decode(SnapshotObject.self, from: Data(response.body.utf8))
            #expect(object.entries.map(\.key) == ["a/1", "é x/1"])
        }
    }

    @Test func snapshot_whileValuesChange_hasEveryKeyOnce() async throws {
        try await withServer { server in
            let keys = (0..<3000).map { "k\($0)" }
            server.put(keys.map { ($0, "0") })
            // Not `for round in 1... where !Task.isCancelled`: such a loop passes over each further
            // round when the task is cancelled, and never ends.
            let writing = Task {
                var round = 0
                while !Task.isCancelled {
                    round += 1
                    server.put(keys.map { ($0, String(round)) })
                    await Task.yield()
                }
            }
            defer { writing.cancel() }
            for _ in 0..<5 {
                let response = try await server.get("/snapshot")
                let object = try JSONDecoder().decode(SnapshotObject.self, from: Data(response.body.utf8))
                #expect(object.entries.map(\.key).sorted() == keys.sorted())
            }
        }
    }

    @Test func snapshot_whileKeysComeThatItDoesNotWant_ends() async throws {
        // Each question about a key brings another key.
        let hub = DedupeHub<String, String>()
        let number = Atomic(0)
        var types = ServedTypes<String, String>.test
        types.hasPrefix = { key, prefix in
            let new = number.add(1, ordering: .relaxed).newValue
            hub.onUpdates([Update(key: "new \(new)", value: "1")])
            return key.utf8.starts(with: prefix)
        }
        hub.onUpdates((0..<250).map { Update(key: "k\($0)", value: "1") })
        let snapshot = await HubFeed(hub, types: types).snapshot(prefixes: [Array("k".utf8)])
        #expect(snapshot.entries.count == 250)
    }

    @Test func snapshots_beyondTheLimit_areToldToComeBack() async throws {
        try await withServer(configured { $0.maximumSnapshots = 0 }) { server in
            let response = try await server.get("/snapshot")
            #expect(response.status == 503)
            #expect(response.head.headers["retry-after"] == "1")
        }
    }

    @Test func snapshot_thatIsNotRead_isGivenUp() async throws {
        try await withServer(
            configured {
                $0.idleTimeout = .seconds(1)
                $0.maximumSnapshots = 1
            }
        ) { server in
            let value = "\"" + String(repeating: "x", count: 100_000) + "\""
            server.put((0..<100).map { ("k\($0)", value) })
            let client = try WireClient(port: server.port, receiveBuffer: 4096)
            try await blocking {
                try client.request("/snapshot")
                _ = try client.head()
            }
            try await eventually("the end of the connection") {
                try await server.get("/statistics").body.contains(#""connections":1,"#)
            }
            // There is room for another one.
            try await eventually("another snapshot") { try await server.get("/snapshot?prefix=none").status == 200 }
            let rest = try await blocking { try client.readToEnd() }
            #expect(rest.utf8.count < 9_000_000)
        }
    }

    // MARK: - Statistics

    @Test func statistics_countKeysAndClients() async throws {
        try await withServer { server in
            server.put([("a", "1"), ("b", "2")])
            let stream = try await server.stream("/events?prefix=a&interval=20")
            _ = try await blocking { try stream.event() }
            try await server.waitForClients(1)
            let response = try await server.get("/statistics")
            #expect(response.head.headers["content-type"] == "application/json")
            let object = try #require(
                try JSONSerialization.jsonObject(with: Data(response.body.utf8)) as? [String: Any])
            let hub = try #require(object["hub"] as? [String: Any])
            #expect(hub["keys"] as? Int == 2)
            #expect(object["version"] as? String == "1.2.3")
            let clients = try #require(object["clients"] as? [String: Any])
            #expect(clients["now"] as? Int == 1)
            let client = try #require((clients["list"] as? [[String: Any]])?.first)
            #expect(client["path"] as? String == "/events")
            #expect(client["prefixes"] as? [String] == ["a"])
            #expect(client["interval"] as? Int == 20)
            #expect(client["delivered"] as? Int == 1)
            #expect(client["address"] as? String == "127.0.0.1")
            #expect(client["version"] as? String == "HTTP/1.1")
        }
    }

    @Test func statistics_haveARowForEachSecond_andOnlyLaterOnesOnRequest() async throws {
        try await withServer { server in
            func history(_ first: Int) async throws -> (next: Int, rows: [[String: Any]]) {
                let body = try await server.get("/statistics?history=\(first)").body
                let object = try #require(try JSONSerialization.jsonObject(with: Data(body.utf8)) as? [String: Any])
                let part = try #require(object["history"] as? [String: Any])
                return (try #require(part["next"] as? Int), try #require(part["rows"] as? [[String: Any]]))
            }
            try await eventually("two rows") { try await history(0).rows.count >= 2 }
            let all = try await history(0)
            #expect(all.rows.count == all.next)
            let later = try await history(all.next - 1)
            #expect(later.rows.count == later.next - (all.next - 1))
            #expect(try await history(1_000_000).rows.isEmpty)
            #expect(try await history(-5).rows.count >= 2)
        }
    }

    // MARK: - The page

    @Test func page_isOneFile_withAStrictPolicy() async throws {
        try await withServer { server in
            let response = try await server.get("/")
            #expect(response.status == 200)
            #expect(response.head.headers["content-type"] == "text/html; charset=utf-8")
            let policy = try #require(response.head.headers["content-security-policy"])
            #expect(policy.hasPrefix("default-src 'none';"))
            #expect(!policy.contains("unsafe"))
            #expect(!policy.contains("http"))
            #expect(!response.body.contains("http://"))
            #expect(!response.body.contains("https://"))
        }
    }
}

private struct SnapshotObject: Decodable {
    struct Entry: Decodable { var key: String }

    var position: String
    var status: String?
    var count: Int
    var entries: [Entry]
}

#endif
