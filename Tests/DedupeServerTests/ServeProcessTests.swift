// SPDX-License-Identifier: Apache-2.0

#if Server

import Foundation
import Synchronization
import Testing

/// `dedupe serve` as its users see it.
///
/// A class, so that the processes live as long as the test that has started them, and no longer.
@Suite final class ServeProcessTests: Sendable {
    private let processes = Mutex<[ServeProcess]>([])

    private func start(_ arguments: [String], descriptors: Int? = nil) throws -> ServeProcess {
        let process = try ServeProcess(arguments, descriptors: descriptors)
        processes.withLock { $0.append(process) }
        return process
    }

    private func serve(_ arguments: String...) async throws -> (process: ServeProcess, port: Int) {
        let process = try start(["--listen", "127.0.0.1:0"] + arguments)
        return (process, try await process.port())
    }

    private func stream(_ port: Int, _ target: String, _ headers: [String] = []) async throws -> WireClient {
        try await blocking {
            let client = try WireClient(port: port)
            try client.request(target, headers)
            let head = try client.head()
            guard head.status == 200 else { throw WireError("\(target): \(head.status)") }
            return client
        }
    }

    private func get(_ port: Int, _ target: String, _ headers: [String] = []) async throws -> WireResponse {
        try await blocking {
            let client = try WireClient(port: port)
            try client.request(target, headers)
            return try client.response()
        }
    }

    @Test func exampleOfTheReadme_isWhatTheProgramServes() async throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..").standardized
        let readme = try String(contentsOf: root.appending(path: "README.md"), encoding: .utf8)
        let example = readme.components(separatedBy: "$ curl -sN http://127.0.0.1:8080/lines").last ?? ""
        let documented = try #require(example.split(separator: "\n").dropFirst().first)
        let (process, port) = try await serve("--key", "/device/id")
        process.write(try String(contentsOf: root.appending(path: "Examples/devices.ndjson"), encoding: .utf8))
        try await eventually("the last line is served") {
            try await get(port, "/snapshot").body.contains(#""at":4"#)
        }
        let lines = try await stream(port, "/lines")
        let first = try await blocking { try lines.line() }
        #expect(first == String(documented))
    }

    @Test func ownFormat_isServed_restartsEndInTheBuffer() async throws {
        let (process, port) = try await serve()
        process.write(
            """
            {"key":"a","value":{"x": 1}}
            {"key":"b","value":2,"revision":7}
            {"key":"c","value":"é"}
            {"status":"in-sync"}

            """)
        let events = try await stream(port, "/events")
        var state = try await blocking { try events.events(until: #"{"status":"in-sync"}"#).flatMap(\.data) }
        #expect(
            state.sorted() == [
                #"{"status":"in-sync"}"#, #"{"type":"new","key":"a","value":{"x": 1}}"#,
                #"{"type":"new","key":"b","value":2,"revision":7}"#, #"{"type":"new","key":"c","value":"é"}"#,
            ])
        // The snapshot lacks a key. Clients see that it is gone, and no restart.
        process.write(
            """
            {"restart":true}
            {"key":"a","value":3}
            {"key":"c","value":"é"}
            {"status":"in-sync"}
            {"key":"z","value":1}

            """)
        state = try await blocking { try events.events(until: #"{"type":"new","key":"z","value":1}"#).flatMap(\.data) }
        #expect(state.contains(#"{"type":"updated","key":"a","value":3}"#))
        #expect(state.contains(#"{"type":"deleted","key":"b","value":null}"#))
        #expect(!state.contains(#"{"restart":true}"#))
        process.signal(SIGTERM)
        #expect(try await process.wait() == 143)
    }

    @Test(arguments: [
        (["--key", "/topic"], #"{"topic":"t/1","payload":5}"#, #""key":"t/1","value":{"topic":"t/1","payload":5}"#),
        (["--key", "/topic", "--value", "/payload"], #"{"topic":"t/1","payload":5}"#, #""key":"t/1","value":5"#),
        (["-t", ",", "-k", "2"], #"x,"quoted",z"#, #""key":"\"quoted\"","value":"x,\"quoted\",z""#),
        (
            ["--from", "kcat"], #"{"topic":"t","key":"k","payload":"p","offset":3}"#,
            #""key":["t","k"],"value":"p","revision":3"#
        ),
    ])
    func optionsOfTheFilter_sayWhereTheKeyIs(options: [String], line: String, envelope: String) async throws {
        let process = try start(["--listen", "127.0.0.1:0"] + options)
        let port = try await process.port()
        process.write(line + "\n")
        let lines = try await stream(port, "/lines")
        let first = try #require(try await blocking { try lines.line() })
        #expect(first.hasPrefix(#"{"type":"new","# + envelope + #","position":"#), "\(first)")
    }

    @Test func prefix_ofAKeyOfSeveralParts_isItsJSON() async throws {
        let (process, port) = try await serve("--key", "/a", "--key", "/b", "--value", "/v")
        process.write(#"{"a":"x","b":1,"v":1}{"a":"y","b":1,"v":2}{"a":"x","b":2,"v":3}"# + "\n")
        let lines = try await stream(port, "/lines?prefix=%5B%22x%22")
        let all = try await blocking { try (0..<2).map { _ in try lines.line() ?? "" } }
        #expect(all[0].hasPrefix(#"{"type":"new","key":["x",1],"value":1"#))
        #expect(all[1].hasPrefix(#"{"type":"new","key":["x",2],"value":3"#))
    }

    @Test func linesOfAServer_areTheInputOfAnother() async throws {
        let (first, port) = try await serve()
        let (second, nextPort) = try await serve()
        first.write(#"{"key":"a","value":1}{"key":"b","value":2}{"status":"in-sync"}"# + "\n")
        let lines = try await stream(port, "/lines")
        for _ in 0..<3 { second.write(try await blocking { try lines.line() ?? "" } + "\n") }
        try await eventually("the same state") {
            let body = try await get(nextPort, "/snapshot").body
            return body.contains(#""key":"a","value":1"#) && body.contains(#""status":"in-sync""#)
        }
        #expect(!second.errors.contains("line"))
    }

    // MARK: - The end

    @Test func signal_whileClientsListen_theyGetWhatIsLeft_andALastEvent() async throws {
        let (process, port) = try await serve()
        let events = try await stream(port, "/events?interval=3600000")
        let lines = try await stream(port, "/lines")
        process.write(#"{"key":"a","value":1}"# + "\n")
        #expect(try await blocking { try events.event()?.data } == [#"{"type":"new","key":"a","value":1}"#])
        process.write(#"{"key":"a","value":2}"# + "\n")
        _ = try await blocking { try [lines.line(), lines.line()] }
        process.signal(SIGTERM)
        #expect(try await blocking { try events.event()?.data } == [#"{"type":"updated","key":"a","value":2}"#])
        let end = try #require(try await blocking { try events.event() })
        #expect(end.name == "end")
        #expect(2000...4000 ~= end.retry ?? 0)
        #expect(try await blocking { try events.event() } == nil)
        #expect(try await process.wait() == 143)
    }

    @Test func signal_withAClientThatNeverReads_endsAfterTheDrainTimeout() async throws {
        let (process, port) = try await serve("--drain-timeout", "300ms")
        let stalled = try WireClient(port: port, receiveBuffer: 4096)
        try await blocking { try stalled.request("/lines") }
        let value = String(repeating: "x", count: 1000)
        for number in 0..<5000 { process.write("{\"key\":\"k\(number)\",\"value\":\"\(value)\"}\n") }
        try await eventually("the keys") { try await get(port, "/statistics").body.contains(#""keys":5000,"#) }
        process.signal(SIGINT)
        #expect(try await process.wait() == 130)
    }

    /// The server writes up to 16 batches of 100 keys at a time.
    @Test(arguments: [8000, 8100])
    func signal_whileADeliveryIsUnderWay_clientStillGetsEverything(count: Int) async throws {
        let (process, port) = try await serve()
        let value = String(repeating: "x", count: 1000)
        for number in 0..<count { process.write("{\"key\":\"k\(number)\",\"value\":\"\(value)\"}\n") }
        try await eventually("the keys") { try await get(port, "/statistics").body.contains("\"keys\":\(count),") }
        let slow = try WireClient(port: port, receiveBuffer: 4096)
        try await blocking {
            try slow.request("/events")
            #expect(try slow.head().status == 200)
        }
        process.signal(SIGTERM)
        let (keys, last) = try await blocking {
            var (keys, last) = (0, "")
            while let event = try slow.event() {
                keys += event.name == "updates" ? event.data.count : 0
                last = event.name
            }
            return (keys, last)
        }
        #expect(keys == count)
        #expect(last == "end")
        #expect(try await process.wait() == 143)
    }

    @Test func inputEnds_lastStateIsServed_untilASignal() async throws {
        let (process, port) = try await serve()
        process.write(#"{"key":"a","value":1}"#)
        process.closeInput()
        try await eventually("the message") { process.errors.contains("the input has ended; its last state is served") }
        #expect(try await get(port, "/snapshot").body.contains(#""key":"a","value":1"#))
        #expect(try await get(port, "/statistics").body.contains(#""hasEnded":true"#))
        process.signal(SIGTERM)
        #expect(try await process.wait() == 143)
    }

    @Test func inputEnds_withEndWithInput_serverEndsToo() async throws {
        let (process, port) = try await serve("--end-with-input", "--stats")
        let lines = try await stream(port, "/lines")
        process.write(#"{"key":"a","value":1}"# + "\nnonsense\n")
        process.closeInput()
        #expect(try await blocking { try lines.line()?.hasPrefix(#"{"type":"new","key":"a","value":1"#) } == true)
        #expect(try await blocking { try lines.line() } == nil)
        #expect(try await process.wait() == 1)
        #expect(process.errors.contains("line 2"))
        #expect(process.errors.contains("1 updates"))
        #expect(process.errors.contains("clients: 1 in all"))
    }

    @Test func badLine_withStrict_endsTheServer() async throws {
        let (process, _) = try await serve("--strict")
        process.write("nonsense\n")
        #expect(try await process.wait() == 1)
    }

    // MARK: - Beginning

    @Test func file_isServed() async throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "serve-\(UUID().uuidString)").path
        try #"{"key":"a","value":1}"#.write(toFile: path, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let (process, port) = try await serve(path)
        try await eventually("the key") { try await get(port, "/snapshot").body.contains(#""key":"a""#) }
        process.signal(SIGTERM)
        #expect(try await process.wait() == 143)
    }

    @Test func missingFile_isNamed() async throws {
        let process = try start(["/nothing.ndjson"])
        #expect(try await process.wait() == 2)
        #expect(process.errors == "dedupe: /nothing.ndjson: No such file or directory\n")
    }

    @Test func portInUse_isNamed() async throws {
        let (_, port) = try await serve()
        let second = try start(["--listen", "127.0.0.1:\(port)"])
        #expect(try await second.wait() == 2)
        #expect(second.errors.hasPrefix("dedupe: cannot listen on 127.0.0.1:\(port): "))
    }

    @Test(arguments: [("/nothing.pem", "/nothing.pem"), ("/etc/hostname", "/etc/hostname")])
    func tlsFilesThatCannotBeUsed_areNamed(certificate: String, key: String) async throws {
        let process = try start(["--tls-cert", certificate, "--tls-key", key])
        #expect(try await process.wait() == 2)
        #expect(
            process.errors.hasPrefix("dedupe: the certificate \(certificate) and the key \(key) cannot be used: "),
            "\(process.errors)")
    }

    @Test(arguments: [128, 400])
    func fewDescriptors_areAsManyClientsAsThereCanBe(descriptors: Int) async throws {
        let process = try start(["--listen", "127.0.0.1:0"], descriptors: descriptors)
        let port = try await process.port()
        let message = try #require(
            process.errors.firstMatch(of: #/allows only (\d+) clients; see ulimit -n for more\n/#))
        let most = try #require(Int(message.1))
        #expect(1..<descriptors ~= most)
        var streams: [WireClient] = []
        for _ in 0..<most { streams.append(try await stream(port, "/lines")) }
        #expect(try await get(port, "/lines").status == 503)
        #expect(try await get(port, "/snapshot").status == 200)
        #expect(streams.count == most)
    }

    @Test(arguments: [
        (["--listen", "nonsense"], "--listen"), (["--tls-cert", "x"], "--tls-cert and --tls-key need each other."),
        (["--max-clients", "0"], "--max-clients must be from 1 to 1000000."),
        (["--allow-origin", "example.org"], "example.org is no origin."),
        (["--on-missing", "skip"], "--on-missing needs --key, -k or --from."),
        (["--key", "/a", "--on-missing", "pass"], "--on-missing pass is for the filter"),
        (["--strict", "--max-errors", "2"], "--strict stops at the first bad line"),
        (["--envelope"], "Unknown option '--envelope'"),
    ])
    func wrongCommandLine_isRefused(arguments: [String], message: String) async throws {
        let process = try start(arguments)
        #expect(try await process.wait() == 64)
        #expect(process.errors.contains(message), "\(process.errors)")
    }

    // MARK: - Tokens

    @Test func tokenFile_isAskedFor() async throws {
        let path = try file("# for the dashboard\n\n  0123456789abcdef  \nsecond-token-0123\n")
        defer { try? FileManager.default.removeItem(atPath: path) }
        let (_, port) = try await serve("--token-file", path)
        #expect(try await get(port, "/snapshot").status == 401)
        for token in ["0123456789abcdef", "second-token-0123"] {
            #expect(try await get(port, "/snapshot", ["Authorization: Bearer " + token]).status == 200)
        }
    }

    @Test(arguments: [
        ("short\n", "line 1 is no token"), ("\n# none\n", "there is no token in it"),
        ("0123456789abcdef\nwith;semicolon-and-more\n", "line 2 is no token"),
    ])
    func badTokenFile_isRefused(text: String, message: String) async throws {
        let path = try file(text)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let process = try start(["--token-file", path])
        #expect(try await process.wait() == 2)
        #expect(process.errors.hasPrefix("dedupe: \(path): \(message)"))
        // A message never shows a secret.
        #expect(!process.errors.contains("semicolon"))
    }

    @Test func missingTokenFile_isRefused() async throws {
        let process = try start(["--token-file", "/nothing"])
        #expect(try await process.wait() == 2)
        #expect(process.errors == "dedupe: /nothing: No such file or directory\n")
    }

    private func file(_ text: String) throws -> String {
        let path = FileManager.default.temporaryDirectory.appending(path: "tokens-\(UUID().uuidString)").path
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }
}

#endif
