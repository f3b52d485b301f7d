// SPDX-License-Identifier: Apache-2.0

#if Etcd

import Foundation
import Testing

/// `dedupe etcd` as its users meet it, with a real etcd.
@Suite(.serialized) struct EtcdProcessTests {
    private func follow(_ server: EtcdServer, _ arguments: String...) throws -> RunningProcess {
        try RunningProcess(["etcd", "--endpoint", server.url] + arguments, input: "")
    }

    private func once(_ server: EtcdServer, _ arguments: String...) throws -> Outcome {
        try RunningProcess(["etcd", "--endpoint", server.url, "--once"] + arguments, input: "").end()
    }

    /// Reads lines without their revisions.
    private func lines(_ process: RunningProcess, _ count: Int) -> [String] {
        (0..<count).map { _ in withoutRevision(process.readLine() ?? "(end of the output)") }
    }

    private func withoutRevision(_ line: String) -> String {
        line.replacing(#/,"revision":\d+/#, with: "")
    }

    private func snapshot(_ lines: String...) -> [String] {
        [Self.restart, #"{"status":"resync"}"#] + lines + [#"{"status":"in-sync"}"#]
    }

    private static let restart = #"{"restart":true}"#

    private func written(_ key: String, _ value: String, type: String = "new") -> String {
        #"{"type":"\#(type)","key":"\#(key)","value":\#(value)}"#
    }

    /// Ends the process by a signal, and expects that it says so.
    private func end(_ process: RunningProcess, _ signal: CInt = SIGTERM) -> Outcome {
        process.signal(signal)
        let outcome = process.end()
        #expect(outcome.status == 128 + signal)
        return outcome
    }

    // MARK: - What is written

    @Test func once_afterInSync_endsWithStatusZero() throws {
        let server = try EtcdServer()
        try server.put("/a/1", "one")
        try server.put("/a/2", "a \"quoted\"\nvalue")
        try server.put("/b/1", "other")
        let outcome = try once(server, "--prefix", "/a/")
        #expect(outcome.status == 0 && outcome.errors == "")
        #expect(
            outcome.output.map(withoutRevision)
                == snapshot(written("/a/1", #""one""#), written("/a/2", #""a \"quoted\"\nvalue""#)))
        #expect(outcome.output[2].hasSuffix(#","revision":2}"#), "\(outcome.output[2])")
        let empty = try once(server, "--prefix", "/c/")
        #expect(empty.status == 0 && empty.output == snapshot())
    }

    @Test func prefixes_whenSeveral_areFollowedTogether() throws {
        let server = try EtcdServer()
        for key in ["/a/1", "/b/1", "/c/1"] { try server.put(key, "v") }
        let outcome = try once(server, "--prefix", "/a/", "--prefix", "/c/")
        #expect(outcome.output.map(withoutRevision) == snapshot(written("/a/1", #""v""#), written("/c/1", #""v""#)))
        #expect(try once(server, "--prefix", "").output.count == 6)
    }

    @Test func changes_afterTheSnapshot_areWrittenAsTheyCome() throws {
        let server = try EtcdServer()
        try server.put("/a/1", "one")
        let process = try follow(server, "--prefix", "/a/")
        #expect(lines(process, 4) == snapshot(written("/a/1", #""one""#)))
        try server.put("/a/2", "two")
        #expect(lines(process, 1) == [written("/a/2", #""two""#)])
        try server.put("/b", "outside")
        try server.put("/a/1", "uno")
        #expect(lines(process, 1) == [written("/a/1", #""uno""#, type: "updated")])
        try server.etcdctl("del", "/a/2")
        #expect(lines(process, 1) == [written("/a/2", "null", type: "deleted")])
        let outcome = end(process)
        #expect(outcome.output == [] && outcome.errors == "")
    }

    @Test func valuesOfEachForm_areWritten_andOthersLeftOut() throws {
        let server = try EtcdServer()
        try server.put("/1", "{ \"a\" : [1,\n 2]\n}\n")
        try server.put("/2", "[ 1 ]")
        try server.put("/3", "no JSON")
        try server.etcdctl("put", "/4", "--", "")
        try server.put("/6", " null")
        try #require(try shell("printf '\\377' | ETCDCTL_API=3 etcdctl --endpoints \(server.url) put /5").status == 0)

        let json = try once(server, "--prefix", "/", "--values", "json")
        #expect(json.status == 1)
        #expect(json.output.map(withoutRevision) == snapshot(written("/1", #"{"a":[1,2]}"#), written("/2", "[ 1 ]")))
        #expect(json.errors.contains("dedupe: \"/3\": the value is not JSON: "))
        #expect(json.errors.contains("dedupe: \"/4\": the value is not JSON: it is empty"))
        #expect(json.errors.contains("dedupe: \"/6\": the value is null, which would be a deletion\n"))

        let string = try once(server, "--prefix", "/", "--stats")
        #expect(string.status == 1)
        #expect(
            string.output.map(withoutRevision).suffix(4)
                == snapshot(written("/3", #""no JSON""#), written("/4", "\"\""), written("/6", "\" null\"")).suffix(4))
        #expect(string.errors.contains("dedupe: \"/5\": the value is not UTF-8; --values base64 takes it\n"))
        #expect(string.errors.contains("6 keys of snapshots, 0 changes"))
        #expect(string.errors.contains("1 left out"))

        let base64 = try once(server, "--prefix", "/", "--values", "base64", "--keys", "base64")
        #expect(base64.status == 0 && base64.output.count == 9)
        #expect(base64.output.map(withoutRevision)[6] == written("LzU=", "\"/w==\""))
    }

    @Test func keyThatIsNotText_isReported_andWrittenAsBase64() throws {
        let server = try EtcdServer()
        // etcdctl takes its keys from the command line as they are.
        let key = "$(printf '/\\377')"
        try #require(try shell("ETCDCTL_API=3 etcdctl --endpoints \(server.url) put \"\(key)\" v").status == 0)
        let text = try once(server, "--prefix", "/")
        #expect(text.status == 1 && text.output == snapshot())
        #expect(text.errors.contains("the key is not UTF-8; --keys base64 takes it"))
        let base64 = try once(server, "--prefix", "/", "--keys", "base64")
        #expect(base64.status == 0 && base64.output.map(withoutRevision) == snapshot(written("L/8=", "\"v\"")))
    }

    /// The filter has marks that begin with these bytes. In etcd they are a key.
    @Test func key_withTheBytesOfAMark_isAKey() throws {
        let server = try EtcdServer()
        let key = "\"$(printf '\\376\\n12345678')\""
        try #require(try shell("ETCDCTL_API=3 etcdctl --endpoints \(server.url) put \(key) v").status == 0)
        let outcome = try once(server, "--prefix", "", "--keys", "base64")
        #expect(outcome.output.map(withoutRevision) == snapshot(written("/goxMjM0NTY3OA==", "\"v\"")))
    }

    // MARK: - Runs one after the other

    @Test func runs_behindOneAnother_deleteWhatTheLastOneLacks() throws {
        let server = try EtcdServer()
        try server.put("/r/1", "one")
        try server.put("/r/2", "two")
        let run = "$0 etcd --endpoint \(server.url) --prefix /r/ --once"
        let delete = "ETCDCTL_API=3 etcdctl --endpoints \(server.url) del /r/2 > /dev/null"
        let outcome = try shell("{ \(run); \(delete); \(run); } | $0")
        #expect(outcome.status == 0 && outcome.errors == "")
        #expect(outcome.output.last == #"{"status":"in-sync"}"#)
        // Under load, the second dedupe may leave out the new line and the deletion.
        let news = outcome.output.filter { $0.contains("/r/2") && !$0.contains("deleted") }.count
        let deletions = outcome.output.filter { $0.contains("/r/2") && $0.contains("deleted") }.count
        #expect(news == deletions && outcome.output.contains { $0.contains("/r/1") }, "\(outcome.output)")
    }

    @Test func run_behindOneWithGreaterRevisions_isReadByNewerOnly() throws {
        let server = try EtcdServer()
        try server.put("/e", "new")
        let earlier = #"{"key":"/e","value":"old","revision":281474976710658}"#
        let outcome = try shell(
            "{ echo '\(earlier)'; $0 etcd --endpoint \(server.url) --prefix /e --once; } | $0 --newer-only")
        #expect(outcome.output.contains { $0.contains(#""key":"/e","value":"new""#) }, "\(outcome.output)")
    }

    // MARK: - Slow readers

    /// The output is more than fits in the pipe. The statistics say what has come in.
    @Test func readerThatDoesNotRead_neverSlowsTheWatch() throws {
        let server = try EtcdServer()
        let process = try follow(server, "--prefix", "/k")
        #expect(lines(process, 3) == snapshot())
        let (count, rounds) = (128, 20)
        for round in 0..<rounds {
            try server.putMany("/k", count: count) { _ in "\(round)" + String(repeating: "x", count: 2000) }
        }
        let isIn = waitUntil {
            process.signal(SIGUSR1)
            return process.errorsSoFar.contains("\(count * rounds) changes")
        }
        #expect(isIn, "\(process.errorsSoFar.suffix(500))")
        // The reader now gets what was written before the pipe was full, and each newest value.
        var newest: [String: String] = [:]
        var lines = 0
        while newest.values.filter({ $0.hasPrefix("\(rounds - 1)x") }).count < count, let line = process.readLine() {
            let object = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
            newest[object["key"] as! String] = object["value"] as? String
            lines += 1
        }
        #expect(newest.count == count && lines < count * rounds / 2)
        #expect(end(process).output == [])
    }

    @Test func sigterm_withLinesPending_writesThemBeforeTheEnd() throws {
        let server = try EtcdServer()
        try server.putMany("/k", count: 100) { "\($0)" }
        let process = try follow(server, "--prefix", "/k", "--max-rate", "100")
        #expect(lines(process, 3)[2].contains("/k"))
        process.signal(SIGTERM)
        let outcome = process.end()
        #expect(outcome.status == 143)
        #expect(outcome.output.filter { $0.contains("/k") }.count == 99)
        #expect(outcome.errors == "")
    }

    @Test func drainTimeout_endsTheDrain() throws {
        let server = try EtcdServer()
        try server.putMany("/k", count: 100) { "\($0)" }
        let process = try follow(server, "--prefix", "/k", "--max-rate", "1", "--drain-timeout", "100ms", "--stats")
        #expect(lines(process, 2) == [Self.restart, #"{"status":"resync"}"#])
        process.signal(SIGINT)
        let outcome = process.end()
        #expect(outcome.status == 130)
        #expect(outcome.errors.contains("the drain timeout is over: "))
        #expect(outcome.errors.contains("100 keys of snapshots"))
    }

    @Test func readerThatGoesAway_endsTheProgram_alsoInSilence() throws {
        let server = try EtcdServer()
        let process = try follow(server, "--prefix", "/")
        #expect(lines(process, 3) == snapshot())
        process.closeOutput()
        #expect(process.end().status == 128 + SIGPIPE)
    }

    // MARK: - Connections

    @Test func unreachableCluster_isReportedOncePerChange_andWatchedOn() throws {
        let server = try EtcdServer()
        let process = try follow(server, "--prefix", "/a/")
        #expect(lines(process, 3) == snapshot())
        let lost = "dedupe: the cluster cannot be reached, and is tried again: \(server.url): "
        for round in 1...2 {
            server.kill()
            #expect(waitUntil { count(lost, in: process.errorsSoFar) == round })
            try server.start()
            try server.put("/a/1", "\(round)")
            #expect(lines(process, 1) == [written("/a/1", "\"\(round)\"", type: round == 1 ? "new" : "updated")])
        }
        let outcome = end(process)
        #expect(count(lost, in: outcome.errors) == 2)
        #expect(count("dedupe: connected to \(server.url)\n", in: outcome.errors) == 2)
        let others = outcome.errors.split(separator: "\n").filter { !$0.contains("still fails") }
        #expect(others.count == 4, "\(outcome.errors)")
    }

    @Test func secondEndpoint_whenTheFirstIsDown_isUsed() throws {
        let (down, server) = (try EtcdServer(), try EtcdServer())
        down.kill()
        try server.put("/a", "v")
        let arguments = ["etcd", "--endpoint", down.url, "--endpoint", server.url, "--prefix", "/a", "--once"]
        let outcome = try RunningProcess(arguments, input: "").end()
        #expect(outcome.status == 0 && outcome.output.count == 4)
    }

    @Test func userWithPassword_reads_andWithAWrongOneIsRefused() throws {
        let server = try EtcdServer()
        try server.put("/a/1", "v")
        for command in [
            "user add root:rootpw", "role add root", "user grant-role root root", "user add reader:secret",
            "role add reading", "role grant-permission reading read --prefix=true /a/",
            "user grant-role reader reading", "auth enable",
        ] {
            let outcome = try shell("ETCDCTL_API=3 etcdctl --endpoints \(server.url) \(command)")
            try #require(outcome.status == 0, "\(command): \(outcome.errors)")
        }
        let (right, wrong) = (try NamedFile("secret\n"), try NamedFile("guess\n"))
        let outcome = try once(server, "--prefix", "/a/", "--user", "reader", "--password-file", right.path)
        #expect(outcome.status == 0 && outcome.output.map(withoutRevision) == snapshot(written("/a/1", "\"v\"")))
        for arguments in [
            ["--prefix", "/a/", "--user", "reader", "--password-file", wrong.path],
            ["--prefix", "/b/", "--user", "reader", "--password-file", right.path],
        ] {
            let refused = "dedupe: the cluster refuses the user, and is tried again: \(server.url): etcdserver: "
            let process = try RunningProcess(["etcd", "--endpoint", server.url] + arguments, input: "")
            #expect(waitUntil { process.errorsSoFar.contains(refused) })
            let outcome = end(process)
            #expect(outcome.output == [])
            #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome.errors)")

            let once = try RunningProcess(["etcd", "--endpoint", server.url, "--once"] + arguments, input: "").end()
            #expect(once.status == 2 && once.output == [])
            #expect(once.errors.hasPrefix(refused) && once.errors.split(separator: "\n").count == 1, "\(once.errors)")
        }
    }

    @Test func mutualTLS_withTheRightFiles_isUsed() throws {
        let folder = try NamedFolder()
        let made = try shell(
            """
            set -e; cd \(folder.path)
            new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
            openssl req -x509 $new -days 2 -subj /CN=authority -keyout ca.key -out ca.crt
            for name in server client; do
                openssl req $new -subj /CN=$name -keyout $name.key -out $name.csr
                printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth' > ext
                openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $name.crt
            done
            """)
        try #require(made.status == 0, "\(made.errors)")
        func file(_ name: String) -> String { folder.path + "/" + name }
        let server = try EtcdServer(
            scheme: "https",
            arguments: [
                "--cert-file", file("server.crt"), "--key-file", file("server.key"), "--client-cert-auth",
                "--trusted-ca-file", file("ca.crt"),
            ],
            client: ["--cacert", file("ca.crt"), "--cert", file("client.crt"), "--key", file("client.key")])
        try server.put("/a", "v")
        let outcome = try once(
            server, "--prefix", "/a", "--ca", file("ca.crt"), "--cert", file("client.crt"), "--key", file("client.key"))
        #expect(outcome.status == 0 && outcome.output.count == 4)
        let process = try follow(server, "--prefix", "/a", "--ca", file("ca.crt"))
        #expect(waitUntil { process.errorsSoFar.contains("cannot be reached") })
        #expect(end(process).output == [])
    }

    // MARK: - The command line

    @Test(arguments: [
        [], ["--prefix"], ["--prefix", "/a", "--prefix", "/a/b"], ["--prefix", "/a", "--prefix", "/a"],
        ["--prefix", "/", "--endpoint", "ftp://a"], ["--prefix", "/", "--endpoint", "http://a:port"],
        ["--prefix", "/", "--user", "a"], ["--prefix", "/", "--password-file", "/dev/null"],
        ["--prefix", "/", "--user", "", "--password-file", "/dev/null"], ["--prefix", "/", "--ca", "/dev/null"],
        ["--prefix", "/", "--endpoint", "https://a", "--cert", "/dev/null"],
        ["--prefix", "/", "--endpoint", "https://a", "--endpoint", "http://b", "--ca", "/dev/null"],
        ["--prefix", "/", "--values", "yaml"], ["--prefix", "/", "--keys", "json"], ["--prefix", "/", "file"],
        ["--prefix", "e", "--prefix", "e\u{301}"], ["--prefix", "a\r", "--prefix", "a\r\n"],
        ["--prefix", "/", "--endpoint", "127.0.0.1:2379"], ["--prefix", "/", "--endpoint", "http://a:1,http://b:1"],
        ["--prefix", "/", "--user", "a", "--user", "b", "--password-file", "/dev/null"],
        ["--prefix", "/", "--endpoint", "https://a", "--ca", "/dev/null", "--ca=/dev/null"],
        ["--prefix", "/", "--max-rate", "0"], ["--prefix", "/", "--key", "/id", "--envelope"],
    ])
    func badCommandLine(_ arguments: [String]) throws {
        let outcome = try RunningProcess(["etcd"] + arguments, input: "").end()
        #expect(outcome.status == 64 && outcome.output == [])
        #expect(outcome.errors.contains("Usage: dedupe etcd ") || outcome.errors.contains("USAGE: dedupe etcd "))
        #expect(!outcome.errors.contains("'etcd --help'"))
    }

    @Test func prefixes_withEqualTextAndOtherBytes_areTwo() throws {
        let server = try EtcdServer()
        try server.put("\u{e9}", "1")
        try server.put("e\u{301}", "2")
        let outcome = try once(server, "--prefix", "\u{e9}", "--prefix", "e\u{301}")
        #expect(outcome.status == 0 && outcome.output.count == 5, "\(outcome)")
    }

    @Test func prefix_thatIsNotUTF8_isRefused() throws {
        let outcome = try shell("$0 etcd --prefix \"$(printf '\\377')\" --once --endpoint http://127.0.0.1:1")
        #expect(outcome.status == 64 && outcome.errors.contains("--prefix must be UTF-8"))
    }

    @Test(arguments: [
        "--password-file /nowhere --user a", "--password-file /dev/null --user a", "--ca /nowhere", "--ca /",
        "--ca /dev/null", "--ca /etc/passwd", "--cert /etc/passwd --key /etc/passwd",
    ])
    func unusableFile_endsWithStatusTwo(_ arguments: String) throws {
        let outcome = try shell("$0 etcd --prefix / --endpoint https://127.0.0.1:1 \(arguments)")
        #expect(outcome.status == 2 && outcome.errors.split(separator: "\n").count == 1)
        #expect(outcome.errors.hasPrefix("dedupe: /"))
    }

    @Test func filesOfAnotherKind_areNamed() throws {
        let certificate = try NamedFile("-----BEGIN CERTIFICATE-----\n")
        let key = try NamedFile("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
        let bytes = try NamedFile("")
        let descriptor = open(bytes.path, O_WRONLY)
        try #require(write(descriptor, [0xFF, 0x0A] as [UInt8], 2) == 2)
        close(descriptor)
        let url = "--prefix / --endpoint https://127.0.0.1:1"
        for (arguments, message) in [
            ("--ca \(key.path)", "\(key.path): there is no certificate in PEM form"),
            (
                "--cert \(certificate.path) --key \(certificate.path)",
                "\(certificate.path): there is no private key in PEM form"
            ),
            (
                "--cert \(certificate.path) --key \(key.path)",
                "\(key.path): the private key is encrypted, and must not be"
            ),
            ("--user a --password-file \(bytes.path)", "\(bytes.path): the password is not UTF-8"),
        ] {
            let outcome = try shell("$0 etcd \(url) \(arguments)")
            #expect(outcome.status == 2 && outcome.errors == "dedupe: \(message)\n")
        }
    }

    /// The password comes through a pipe that nobody writes to.
    @Test func sigterm_whileThePasswordIsRead_endsTheProgram() throws {
        let path = "\(NSTemporaryDirectory())/dedupe-\(UUID().uuidString)"
        try #require(mkfifo(path, 0o600) == 0)
        defer { unlink(path) }
        let arguments = ["etcd", "--endpoint", "http://127.0.0.1:1", "--prefix", "/", "--user", "a"]
        let process = try RunningProcess(arguments + ["--password-file", path], input: "")
        // Opening succeeds when the program has opened the pipe.
        var writer: CInt = -1
        #expect(
            waitUntil {
                writer = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC)
                return writer >= 0
            })
        process.signal(SIGTERM)
        #expect(process.end().status == 128 + SIGTERM)
        close(writer)
    }

    @Test func exampleOfTheReadme_isWhatTheProgramWrites() throws {
        let readme = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../README.md")
            .standardized
        let text = try String(contentsOf: readme, encoding: .utf8)
        let server = try EtcdServer()
        try server.put("/config/greeting", "hello")
        let outcome = try once(server, "--prefix", "/config/")
        #expect(
            text.contains("$ dedupe etcd --prefix /config/ --once\n" + outcome.output.joined(separator: "\n") + "\n"))
    }

    @Test func help_hasEveryOption() throws {
        let outcome = try run("etcd", "--help")
        let text = outcome.output.joined(separator: "\n")
        #expect(outcome.status == 0)
        for part in [
            "--endpoint", "--prefix", "--values", "--keys", "--user", "--password-file", "--ca", "--cert", "--key",
            "--once", "--max-rate", "--interval", "--drain-timeout", "--stats", "EXIT STATUS", "grpc-proxy",
        ] {
            #expect(text.contains(part), "\(part)")
        }
        #expect(outcome.output.allSatisfy { $0.count <= 90 })
        for shell in ["bash", "zsh", "fish"] {
            #expect(try run("--generate-completion-script", shell).output.contains { $0.contains("password-file") })
        }
    }

    // MARK: - Helpers

    private func count(_ part: String, in text: String) -> Int { text.ranges(of: part).count }

    /// Waits for something that another process does.
    private func waitUntil(_ isMet: () -> Bool) -> Bool {
        for _ in 0..<3000 {
            if isMet() { return true }
            usleep(20_000)
        }
        return false
    }
}

#endif
