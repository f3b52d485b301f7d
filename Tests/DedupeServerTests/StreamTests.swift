// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeBufferHub
import DedupeServer
import Foundation
import Testing

@Suite struct StreamTests {
    // MARK: - Events

    @Test func newClient_getsTheState_thenTheStatus_thenChanges() async throws {
        try await withServer { server in
            server.put([("a", "1"), ("b", "2")])
            server.hub.onStatusUpdated(.inSync)
            let stream = try await server.stream("/events")
            let first = try await blocking { try stream.anyEvent() }
            #expect(2000...4000 ~= first?.retry ?? 0)
            #expect(first?.data == [])
            let state = try #require(try await blocking { try stream.event() })
            #expect(state.name == "updates")
            #expect(state.data == [#"{"type":"new","key":"a","value":1}"#, #"{"type":"new","key":"b","value":2}"#])
            let status = try #require(try await blocking { try stream.event() })
            #expect(status.name == "status")
            #expect(status.data == [#"{"status":"in-sync"}"#])
            #expect(status.id.flatMap { DedupeHubPosition($0) } != nil)

            server.put([("a", "3"), ("b", nil)])
            let change = try #require(try await blocking { try stream.event() })
            #expect(change.name == "updates")
            #expect(
                change.data == [
                    #"{"type":"updated","key":"a","value":3}"#, #"{"type":"deleted","key":"b","value":null}"#,
                ])
        }
    }

    @Test func headers_keepProxiesFromCollecting() async throws {
        try await withServer { server in
            let head = try await blocking {
                let client = try server.connect()
                try client.request("/events")
                return try client.head()
            }
            #expect(head.headers["content-type"] == "text/event-stream")
            #expect(head.headers["cache-control"] == "no-store")
            #expect(head.headers["x-accel-buffering"] == "no")
            #expect(head.headers["date"]?.hasSuffix(" GMT") == true)
        }
    }

    @Test func valueWithLineBreaks_staysOneLine() async throws {
        try await withServer { server in
            server.put("a", "{\"x\":\r1,\n\"y\":2}")
            let stream = try await server.stream("/events")
            let event = try #require(try await blocking { try stream.event() })
            #expect(event.data == [#"{"type":"new","key":"a","value":{"x": 1, "y":2}}"#])
        }
    }

    // MARK: - Resuming

    @Test(arguments: ["Last-Event-ID", "since"])
    func client_comesBackWithItsPosition_getsWhatChanged_deletionsToo(way: String) async throws {
        try await withServer { server in
            server.put((0..<250).map { ("k\($0)", "1") })
            server.hub.onStatusUpdated(.inSync)
            let id = try await blocking {
                let stream = try server.connect()
                try stream.request("/events")
                _ = try stream.head()
                return try #require(try stream.events(until: #"{"status":"in-sync"}"#).last?.id)
            }
            server.put([("k3", "2"), ("k5", nil), ("new", "1")])
            let stream =
                way == "since"
                ? try await server.stream("/events?since=" + id)
                : try await server.stream("/events", ["Last-Event-ID: " + id])
            let event = try #require(try await blocking { try stream.event() })
            #expect(
                event.data.sorted() == [
                    #"{"type":"deleted","key":"k5","value":null}"#, #"{"type":"new","key":"new","value":1}"#,
                    #"{"type":"updated","key":"k3","value":2}"#,
                ])
        }
    }

    @Test func headerStandsAboveSince() async throws {
        try await withServer { server in
            server.put("a", "1")
            let old = try await position(of: server)
            server.put("b", "1")
            let recent = try await position(of: server)
            server.put("c", "1")
            // A browser repeats the address that the page gave, with the header of the last event.
            let stream = try await server.stream("/events?since=" + old, ["Last-Event-ID: " + recent])
            let event = try #require(try await blocking { try stream.event() })
            #expect(event.data == [#"{"type":"new","key":"c","value":1}"#])
        }
    }

    @Test func positionInTheMiddleOfTheState_goesOnFromThere() async throws {
        try await withServer(hub: configuration { $0.batchSize = 10 }) { server in
            server.put((0..<30).map { ("k\($0)", "1") })
            let (first, id) = try await blocking {
                let stream = try server.connect()
                try stream.request("/events")
                _ = try stream.head()
                let event = try #require(try stream.event())
                return (event.data, try #require(event.id))
            }
            #expect(first.count == 10)
            let stream = try await server.stream("/events", ["Last-Event-ID: " + id])
            var replica = Replica()
            for line in first { try replica.take(line) }
            replica.isExact = false
            while replica.values.count < 30 {
                let event = try #require(try await blocking { try stream.event() })
                #expect(event.name == "updates")
                for line in event.data { try replica.take(line) }
            }
        }
    }

    @Test(arguments: [
        "8d1f20c4a96b5e37-120", "0000000000000000-0", "garbage", "", "8d1f20c4a96b5e37-120-431",
        "99999999999999999999999999999999999999999999999999",
    ])
    func positionOfAnotherServer_leadsToARestart(id: String) async throws {
        try await withServer { server in
            server.put("a", "1")
            let stream = try await server.stream("/events", ["Last-Event-ID: " + id])
            let restart = try #require(try await blocking { try stream.event() })
            #expect(restart.name == "restart")
            #expect(restart.data == [#"{"restart":true}"#])
            let state = try #require(try await blocking { try stream.event() })
            #expect(state.data == [#"{"type":"new","key":"a","value":1}"#])
        }
    }

    @Test func positionThatIsTooOld_leadsToARestart() async throws {
        try await withServer(hub: configuration { $0.maximumTombstones = 1 }) { server in
            server.put([("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")])
            let id = try await position(of: server)
            server.put([("a", nil), ("b", nil), ("c", nil)])
            let stream = try await server.stream("/events", ["Last-Event-ID: " + id])
            let restart = try #require(try await blocking { try stream.event() })
            #expect(restart.name == "restart")
            let state = try #require(try await blocking { try stream.event() })
            #expect(state.data == [#"{"type":"new","key":"d","value":1}"#])
        }
    }

    @Test func positionOfOtherPrefixes_leadsToARestart() async throws {
        try await withServer { server in
            server.put([("a/1", "1"), ("b/1", "1")])
            let stream = try await server.stream("/events?prefix=a/")
            let id = try #require(try await blocking { try stream.event()?.id })
            server.put("c", "1")
            let same = try await server.stream("/events?prefix=a/", ["Last-Event-ID: " + id])
            server.put("a/2", "1")
            #expect(try await blocking { try same.event()?.data } == [#"{"type":"new","key":"a/2","value":1}"#])
            for query in ["", "?prefix=b/", "?prefix=a/&prefix=b/"] {
                let other = try await server.stream("/events" + query, ["Last-Event-ID: " + id])
                #expect(try await blocking { try other.event()?.name } == "restart", "\(query)")
            }
        }
    }

    // MARK: - Filters and intervals

    @Test func prefixes_chooseKeys() async throws {
        try await withServer { server in
            server.put([("a/1", "1"), ("b/1", "1"), ("c/1", "1")])
            let stream = try await server.stream("/lines?prefix=a/&prefix=c/")
            let first = try await blocking { try [stream.line(), stream.line()] }
            #expect(first[0] == #"{"type":"new","key":"a/1","value":1}"#)
            #expect(first[1]?.hasPrefix(#"{"type":"new","key":"c/1","value":1,"position":"#) == true)
            server.put([("b/1", "2"), ("c/1", "2")])
            let next = try await blocking { try stream.line() }
            #expect(next?.hasPrefix(#"{"type":"updated","key":"c/1","value":2"#) == true)
        }
    }

    @Test func interval_conflatesUntilTheEnd() async throws {
        try await withServer { server in
            server.put("a", "0")
            let stream = try await server.stream("/events?interval=3600000")
            // The first delivery is at once.
            #expect(try await blocking { try stream.event()?.data } == [#"{"type":"new","key":"a","value":0}"#])
            for number in 1...100 { server.put("a", String(number)) }
            server.hub.finish()
            // The end lifts the interval.
            #expect(try await blocking { try stream.event()?.data } == [#"{"type":"updated","key":"a","value":100}"#])
            #expect(try await blocking { try stream.event()?.name } == "end")
        }
    }

    @Test func intervalOfTheServer_isTheLeast() async throws {
        try await withServer(configured { $0.minimumInterval = .seconds(3600) }) { server in
            server.put("a", "0")
            let stream = try await server.stream("/events?interval=1")
            #expect(try await blocking { try stream.event()?.data } == [#"{"type":"new","key":"a","value":0}"#])
            for number in 1...100 { server.put("a", String(number)) }
            server.hub.finish()
            #expect(try await blocking { try stream.event()?.data } == [#"{"type":"updated","key":"a","value":100}"#])
        }
    }

    @Test func interval_deliversAgainAfterItsTime() async throws {
        try await withServer { server in
            server.put("a", "0")
            let stream = try await server.stream("/events?interval=10")
            for number in 1...5 {
                _ = try await blocking { try stream.event() }
                server.put("a", String(number))
            }
            #expect(try await blocking { try stream.event()?.data } == [#"{"type":"updated","key":"a","value":5}"#])
        }
    }

    // MARK: - Quiet times

    @Test func quietStream_getsHeartbeats_withThePosition() async throws {
        try await withServer(configured { $0.heartbeat = .milliseconds(50) }) { server in
            server.put("b", "1")
            let stream = try await server.stream("/events?prefix=a")
            _ = try await blocking { try stream.anyEvent() }
            let beat = try #require(try await blocking { try stream.anyEvent() })
            #expect(beat.comments == ["heartbeat"])
            let id = try #require(beat.id)
            let again = try await server.stream("/events?prefix=a", ["Last-Event-ID: " + id])
            server.put("a", "1")
            #expect(try await blocking { try again.event()?.data } == [#"{"type":"new","key":"a","value":1}"#])
        }
    }

    @Test func quietLines_getBlankLines() async throws {
        try await withServer(configured { $0.heartbeat = .milliseconds(50) }) { server in
            let stream = try await server.stream("/lines")
            #expect(try await blocking { try stream.line() } == "")
            #expect(try await blocking { try stream.line() } == "")
        }
    }

    // MARK: - The end

    @Test func hubFinishes_clientGetsWhatIsLeft_andALastEvent() async throws {
        try await withServer { server in
            let events = try await server.stream("/events")
            let lines = try await server.stream("/lines")
            try await server.waitForClients(2)
            server.put((0..<500).map { ("k\($0)", "1") })
            server.hub.finish()
            let all = try await blocking { () -> [WireEvent] in
                var all: [WireEvent] = []
                while let event = try events.event() { all.append(event) }
                return all
            }
            #expect(all.dropLast().flatMap(\.data).count == 500)
            #expect(all.last?.name == "end")
            #expect(all.last?.data == [#"{"end":true}"#])
            #expect(2000...4000 ~= all.last?.retry ?? 0)
            let text = try await blocking { () -> [String] in
                var text: [String] = []
                while let line = try lines.line() { text.append(line) }
                return text
            }
            #expect(text.count == 500)
            try await server.waitForClients(0)
        }
    }

    @Test func clientGoesAway_leavesNothing() async throws {
        try await withServer { server in
            server.put("a", "1")
            for path in ["/events", "/lines"] {
                var stream: WireClient? = try await server.stream(path)
                try await server.waitForClients(1)
                _ = stream
                stream = nil
                try await server.waitForClients(0)
                try await eventually("no subscriber") { server.hub.statistics.subscribers == 0 }
            }
        }
    }

    @Test func clientsThatBreakOffAtOnce_leaveNothing() async throws {
        try await withServer { server in
            // Some are lost when their request has been read and their stream has not begun.
            try await blocking {
                for number in 0..<300 {
                    let client = try server.connect()
                    client.resetAtTheEnd()
                    try client.request("/lines")
                    usleep(UInt32(number))
                }
            }
            try await eventually("no other connection") {
                try await server.get("/statistics").body.contains(#""connections":1,"#)
            }
            try await eventually("no subscriber") { server.hub.statistics.subscribers == 0 }
            try await server.waitForClients(0)
        }
    }

    @Test func clientClosesItsOutput_isTakenForGone() async throws {
        try await withServer { server in
            let stream = try await server.stream("/events")
            try await server.waitForClients(1)
            stream.closeOutput()
            try await server.waitForClients(0)
            _ = try await blocking { try stream.readToEnd() }
        }
    }

    // MARK: - Slow clients

    @Test func clientThatDoesNotRead_isNotCutOff_andHoldsNoQueue() async throws {
        try await withServer { server in
            let stalled = try await blocking { () -> WireClient in
                let client = try WireClient(port: server.port, receiveBuffer: 4096)
                try client.request("/lines")
                _ = try client.head()
                return client
            }
            let reading = try await server.stream("/lines")
            try await server.waitForClients(2)
            let keys = (0..<1000).map { "k\($0)" }
            let filler = String(repeating: "x", count: 100)
            for round in 0..<200 {
                server.put(keys.map { ($0, "\"\(round) \(filler)\"") })
            }
            server.hub.onStatusUpdated(.inSync)
            let complete = Replica(
                values: Dictionary(uniqueKeysWithValues: keys.map { ($0, "199 \(filler)") }), status: "in-sync")
            #expect(try await replica(of: reading, until: complete) == complete)
            // 24 MB went by. The stalled client has taken what its connection holds.
            let body = try await server.get("/statistics").body
            let object = try #require(try JSONSerialization.jsonObject(with: Data(body.utf8)) as? [String: Any])
            let list = try #require((object["clients"] as? [String: Any])?["list"] as? [[String: Any]])
            let furthest = try #require(list.first)
            #expect(try #require(furthest["bytes"] as? Int) < 4_000_000)
            #expect(try #require(furthest["lag"] as? Int) > 0)
            // Then it reads, and gets the newest values.
            #expect(try await replica(of: stalled, until: complete) == complete)
        }
    }

    private func replica(of stream: WireClient, until end: Replica) async throws -> Replica {
        try await blocking {
            var replica = Replica()
            while replica != end, let line = try stream.line() { try replica.take(line) }
            return replica
        }
    }

    private func position(of server: TestServer) async throws -> String {
        let body = try await server.get("/snapshot").body
        let object = try #require(try JSONSerialization.jsonObject(with: Data(body.utf8)) as? [String: Any])
        return try #require(object["position"] as? String)
    }

    private func configuration(_ change: (inout DedupeHubConfiguration) -> Void) -> DedupeHubConfiguration {
        var configuration = DedupeHubConfiguration()
        change(&configuration)
        return configuration
    }
}

#endif
