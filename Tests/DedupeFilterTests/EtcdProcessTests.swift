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
        [#"{"status":"resync"}"#] + lines + [#"{"status":"in-sync"}"#]
    }

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
        #expect(outcome.output[1].hasSuffix(#","revision":2}"#), "\(outcome.output[1])")
        let empty = try once(server, "--prefix", "/c/")
        #expect(empty.status == 0 && empty.output == snapshot())
    }

    @Test func prefixes_whenSeveral_areFollowedTogether() throws {
        let server = try EtcdServer()
        for key in ["/a/1", "/b/1", "/c/1"] { try server.put(key, "v") }
        let outcome = try once(server, "--prefix", "/a/", "--prefix", "/c/")
        #expect(outcome.output.map(withoutRevision) == snapshot(written("/a/1", #""v""#), written("/c/1", #""v""#)))
        #expect(try once(server, "--prefix", "").output.count == 5)
    }

    @Test func changes_afterTheSnapshot_areWrittenAsTheyCome() throws {
        let server = try EtcdServer()
        try server.put("/a/1", "one")
        let process = try follow(server, "--prefix", "/a/")
        #expect(lines(process, 3) == snapshot(written("/a/1", #""one""#)))
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
        try #require(try shell("printf '\\377' | ETCDCTL_API=3 etcdctl --endpoints \(server.url) put /5").status == 0)

        let json = try once(server, "--prefix", "/", "--values", "json")
        #expect(json.status == 1)
        #expect(json.output.map(withoutRevision) == snapshot(written("/1", #"{"a":[1,2]}"#), written("/2", "[ 1 ]")))
        #expect(json.errors.contains("dedupe: \"/3\": the value is not JSON: "))
        #expect(json.errors.contains("dedupe: \"/4\": the value is not JSON: it is empty"))

        let string = try once(server, "--prefix", "/", "--stats")
        #expect(string.status == 1)
        #expect(
            string.output.map(withoutRevision).suffix(3)
                == snapshot(written("/3", #""no JSON""#), written("/4", "\"\"")).suffix(3))
        #expect(string.errors.contains("dedupe: \"/5\": the value is not UTF-8; --values base64 takes it\n"))
        #expect(string.errors.contains("5 keys of snapshots, 0 changes"))
        #expect(string.errors.contains("1 left out"))

        let base64 = try once(server, "--prefix", "/", "--values", "base64", "--keys", "base64")
        #expect(base64.status == 0 && base64.output.count == 7)
        #expect(base64.output.map(withoutRevision)[5] == written("LzU=", "\"/w==\""))
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

    // MARK: - Slow readers

    /// The output is more than fits in the pipe. The statistics say what has come in.
    @Test func readerThatDoesNotRead_neverSlowsTheWatch() throws {
        let server = try EtcdServer()
        let process = try follow(server, "--prefix", "/k")
        #expect(lines(process, 2) == snapshot())
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
        #expect(lines(process, 2)[1].contains("/k"))
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
        #expect(lines(process, 1) == [#"{"status":"resync"}"#])
        process.signal(SIGINT)
        let outcome = process.end()
        #expect(outcome.status == 130)
        #expect(outcome.errors.contains("the drain timeout is over: "))
        #expect(outcome.errors.contains("100 keys of snapshots"))
    }

    @Test func readerThatGoesAway_endsTheProgram_alsoInSilence() throws {
        let server = try EtcdServer()
        let process = try follow(server, "--prefix", "/")
        #expect(lines(process, 2) == snapshot())
        process.closeOutput()
        #expect(process.end().status == 128 + SIGPIPE)
    }

    // MARK: - Connections

    @Test func unreachableCluster_isReportedOncePerChange_andWatchedOn() throws {
        let server = try EtcdServer()
        let process = try follow(server, "--prefix", "/a/")
        #expect(lines(process, 2) == snapshot())
        let lost = "dedupe: the cluster cannot be reached, and is tried again: "
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
        #expect(outcome.errors.split(separator: "\n").count == 4, "\(outcome.errors)")
    }

    @Test func secondEndpoint_whenTheFirstIsDown_isUsed() throws {
        let (down, server) = (try EtcdServer(), try EtcdServer())
        down.kill()
        try server.put("/a", "v")
        let arguments = ["etcd", "--endpoint", down.url, "--endpoint", server.url, "--prefix", "/a", "--once"]
        let outcome = try RunningProcess(arguments, input: "").end()
        #expect(outcome.status == 0 && outcome.output.count == 3)
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
            let process = try RunningProcess(["etcd", "--endpoint", server.url] + arguments, input: "")
            let refused = "dedupe: the cluster refuses the user, and is tried again: "
            #expect(waitUntil { process.errorsSoFar.contains(refused) })
            let outcome = end(process)
            #expect(outcome.output == [] && count(refused, in: outcome.errors) == 1)
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
        #expect(outcome.status == 0 && outcome.output.count == 3)
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
        ["--prefix", "/", "--max-rate", "0"], ["--prefix", "/", "--key", "/id", "--envelope"],
    ])
    func badCommandLine(_ arguments: [String]) throws {
        let outcome = try RunningProcess(["etcd"] + arguments, input: "").end()
        #expect(outcome.status == 64 && outcome.output == [])
        #expect(outcome.errors.contains("Usage: dedupe etcd ") || outcome.errors.contains("USAGE: dedupe etcd "))
        #expect(!outcome.errors.contains("'etcd --help'"))
    }

    @Test(arguments: ["--password-file /nowhere --user a", "--ca /nowhere", "--ca /"])
    func unreadableFile_endsWithStatusTwo(_ arguments: String) throws {
        let outcome = try shell("$0 etcd --prefix / --endpoint https://127.0.0.1:1 \(arguments)")
        #expect(outcome.status == 2 && outcome.errors.split(separator: "\n").count == 1)
        #expect(outcome.errors.hasPrefix("dedupe: /"))
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
