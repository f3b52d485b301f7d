// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The filter as its users meet it: the built executable, its descriptors, its exit status, its
/// signals.
@Suite(.serialized) struct ProcessTests {
    static func update(_ key: String, _ value: Any = 1) -> String {
        #"{"key":"\#(key)","value":\#(value)}"# + "\n"
    }

    static func written(_ key: String, _ value: Any = 1, type: String = "new") -> String {
        #"{"type":"\#(type)","key":"\#(key)","value":\#(value)}"#
    }

    // MARK: - Input and output

    @Test func endOfInput() throws {
        let outcome = try run(input: Self.update("a") + Self.update("b", 2) + #"{"status":"in-sync"}"# + "\n")
        #expect(outcome.status == 0)
        #expect(outcome.output == [Self.written("a"), Self.written("b", 2), #"{"status":"in-sync"}"#])
        #expect(outcome.errors == "")
    }

    @Test func emptyInput() throws {
        let outcome = try run()
        #expect(outcome.status == 0 && outcome.output == [] && outcome.errors == "")
    }

    @Test func file() throws {
        let file = try NamedFile(Self.update("a"))
        #expect(try run(file.path).output == [Self.written("a")])
        #expect(try run("-", input: Self.update("b")).output == [Self.written("b")])
    }

    /// 20,000 keys are much more than fits in pipes and batches.
    @Test func everyKeyComesOut() throws {
        let keys = (0..<20_000).map { "key-\($0)" }
        let outcome = try run("--batch-size", "7", input: keys.map { Self.update($0) }.joined())
        #expect(outcome.status == 0)
        #expect(outcome.output.count == keys.count)
        #expect(outcome.output == keys.map { Self.written($0) })
    }

    @Test func valuesKeepTheirBytes() throws {
        let values = [
            #"{ "a" : [ 1 , 2.50 ] , "b":"\u00e9é\/" }"#, "1e400", "123456789012345678901234567890", "-0", "1.0",
            "\"\"", "[\t]", #""\ud83d\ude00""#,
        ]
        let input = values.enumerated().map { Self.update("k\($0)", $1) }.joined()
        #expect(try run(input: input).output == values.enumerated().map { Self.written("k\($0)", $1) })
    }

    @Test func keysAndRevisions() throws {
        let outcome = try run(
            input: #"{"key":"\u00e9\u0000\"\/","value":1,"revision":18446744073709551615}"# + "\n"
                + #"{"revision":3,"key":"z","value":null}"# + "\n" + #"{"key":"r","value":2,"revision":0}"# + "\n")
        #expect(
            outcome.output == [
                #"{"type":"new","key":"é\u0000\"/","value":1,"revision":18446744073709551615}"#,
                #"{"type":"deleted","key":"z","value":null,"revision":3}"#, Self.written("r", 2),
            ])
    }

    @Test func outputMayBeInput() throws {
        let first = try run(input: Self.update("a") + #"{"key":"b\n","value":null,"revision":4}"# + "\n")
        let second = try run(input: first.output.map { $0 + "\n" }.joined())
        #expect(second.status == 0 && second.output == first.output)
    }

    @Test func restart() throws {
        let filter = try RunningProcess([])
        filter.write(Self.update("a") + Self.update("b") + Self.update("c") + #"{"status":"in-sync"}"# + "\n")
        #expect((0..<3).map { _ in filter.readLine() } == ["a", "b", "c"].map { Self.written($0) })
        #expect(filter.readLine() == #"{"status":"in-sync"}"#)

        filter.write(#"{"restart":true}"# + "\n" + #"{"status":"resync"}"# + "\n" + Self.update("b", 2))
        filter.write(#"{"status":"in-sync"}"# + "\n")
        #expect(filter.readLine() == #"{"status":"resync"}"#)
        #expect(filter.readLine() == Self.written("b", 2, type: "updated"))
        let deletions = Set([filter.readLine(), filter.readLine()])
        #expect(deletions == [Self.written("a", "null", type: "deleted"), Self.written("c", "null", type: "deleted")])
        #expect(filter.readLine() == #"{"status":"in-sync"}"#)
        filter.closeInput()
        #expect(filter.end().status == 0)
    }

    /// A line goes out when it has come in, with nothing behind it.
    @Test func linesAreNotHeldBack() throws {
        let filter = try RunningProcess([])
        for i in 0..<20 {
            filter.write(Self.update("k", i))
            #expect(filter.readLine() == Self.written("k", i, type: i == 0 ? "new" : "updated"))
        }
        filter.write(#"{"key":"last","value":1}"#)
        filter.closeInput()
        #expect(filter.end().output == [Self.written("last")])
    }

    // MARK: - Conflation

    @Test func conflationUnderAPace() throws {
        let count = 20_000
        let input = Self.update("quiet") + (0..<count).map { Self.update("hot", $0) }.joined() + Self.update("last")
        let outcome = try run("--max-rate", "20", "--stats", input: input)
        #expect(outcome.status == 0)
        #expect(outcome.output.count < 100, "of \(count + 2) lines most were replaced on the way")
        #expect(outcome.output.first == Self.written("quiet"))
        #expect(outcome.output.last == Self.written("last"))
        let hot = outcome.output.filter { $0.contains(#""hot""#) }
        #expect(hot.last?.contains("\"value\":\(count - 1)}") == true, "the newest comes out")
        #expect(outcome.errors.contains("\(count + 2) lines"))
    }

    /// A reader that does not read holds up nobody but itself.
    @Test func conflationForASlowReader() throws {
        let filter = try RunningProcess([])
        let count = 30_000
        for i in 0..<count {
            filter.write(Self.update("key-\(i % 3000)", "\"\(i) \(String(repeating: "x", count: 100))\""))
        }
        filter.waitUntilInputIsRead()
        filter.closeInput()
        let outcome = filter.end()
        #expect(outcome.status == 0)
        #expect(outcome.output.count < count)
        var newest: [String: String] = [:]
        for line in outcome.output {
            // {"type":"new","key":"key-1","value":"1 xxx…"}
            let parts = line.split(separator: "\"")
            newest[String(parts[7])] = String(parts[11].prefix { $0 != " " })
        }
        let expected = (0..<3000).map { ("key-\($0)", "\(count - 3000 + $0)") }
        #expect(newest == Dictionary(uniqueKeysWithValues: expected))
    }

    // MARK: - Bad lines

    @Test func badLines() throws {
        let outcome = try run(input: Self.update("a") + "\nbad\n" + Self.update("b") + #"{"key":"c"}"# + "\n\n[]")
        #expect(outcome.status == 1)
        #expect(outcome.output == [Self.written("a"), Self.written("b")])
        #expect(
            outcome.errors == """
                dedupe: line 3, column 1: a value is expected here
                dedupe: line 5, column 1: there is a key and no value
                dedupe: line 7, column 1: an array of updates is no stream of updates; use: jq -c '.[]' | dedupe

                """)
    }

    @Test func strict() throws {
        let outcome = try run("--strict", input: Self.update("a") + Self.update("b") + "{]\n" + Self.update("c"))
        #expect(outcome.status == 1)
        #expect(outcome.output == [Self.written("a"), Self.written("b")])
        #expect(outcome.errors == "dedupe: line 3, column 2: a member's name in double quotes is expected here\n")
        #expect(try run("--strict", input: Self.update("a")).status == 0)
    }

    @Test func strictDoesNotWaitForMoreInput() throws {
        let filter = try RunningProcess(["--strict"])
        filter.write(Self.update("a") + "bad\n")
        let outcome = filter.end()
        #expect(outcome.status == 1)
        #expect(outcome.output == [Self.written("a")])
    }

    // MARK: - What cannot be read or written

    @Test func unreadableFiles() throws {
        let missing = try run("/nonexistent/file")
        #expect(missing.status == 2 && missing.output == [])
        #expect(missing.errors == "dedupe: /nonexistent/file: No such file or directory\n")

        let directory = try run("/")
        #expect(directory.status == 2 && directory.errors == "dedupe: /: Is a directory\n")

        let input = try shell(#""$0" < /"#)
        #expect(input.status == 2 && input.errors == "dedupe: standard input: Is a directory\n")

        let closed = try shell(#""$0" <&-"#)
        #expect(closed.status == 2 && closed.errors == "dedupe: standard input: Bad file descriptor\n")
    }

    @Test(.enabled(if: getuid() != 0, "root may read everything")) func forbiddenFile() throws {
        let file = try NamedFile(Self.update("a"))
        try FileManager.default.setAttributes([.posixPermissions: 0], ofItemAtPath: file.path)
        let outcome = try run(file.path)
        #expect(outcome.status == 2 && outcome.errors.hasSuffix(": Permission denied\n"))
    }

    #if os(Linux)
    @Test func readError() throws {
        // Nothing is mapped at address 0.
        let outcome = try run("/proc/self/mem")
        #expect(outcome.status == 2 && outcome.errors == "dedupe: /proc/self/mem: Input/output error\n")
    }

    /// The filter reads one side of a terminal. When the test closes the other side, the system
    /// reports a read error.
    @Test func readError_afterABadLine_isWhatTheStatusTells() throws {
        let (terminal, other) = try openTerminal()
        defer { close(terminal) }
        let filter = try RunningProcess([], standardInput: terminal)
        #expect(write(other, "bad\n", 4) == 4)
        close(other)
        let outcome = filter.end()
        #expect(
            outcome.errors == """
                dedupe: line 1, column 1: a value is expected here
                dedupe: standard input: Input/output error

                """)
        #expect(outcome.status == 2)
    }

    @Test func fullDevice() throws {
        let outcome = try shell(#""$0" > /dev/full"#, input: Self.update("a"))
        #expect(outcome.status == 2 && outcome.errors == "dedupe: standard output: No space left on device\n")
    }
    #endif

    @Test func closedOutput() throws {
        let outcome = try shell(#""$0" >&-"#, input: Self.update("a"))
        #expect(outcome.status == 2 && outcome.errors == "dedupe: standard output: Bad file descriptor\n")
    }

    /// The file's descriptor must not become standard error, nor messages be written to it.
    @Test func closedErrors() throws {
        let outcome = try shell(#""$0" 2>&-"#, input: "bad\n" + Self.update("a"))
        #expect(outcome.status == 1 && outcome.output == [Self.written("a")])
    }

    @Test func readerGone() throws {
        let file = try NamedFile((0..<20_000).map { Self.update("key-\($0)") }.joined())
        let status = try NamedFile("")
        // The status of the first command of a pipeline is not the shell's to tell; so it writes it
        // down.
        for trap in ["", "trap '' PIPE;"] {
            let outcome = try shell(
                #"{ \#(trap) "$0" "$1"; echo $? > "$2"; } | head -n 1"#, file.path, status.path)
            #expect(outcome.output == [Self.written("key-0")])
            #expect(outcome.errors == "")
            #expect(try String(contentsOfFile: status.path, encoding: .utf8) == "141\n", "\(trap)")
        }
    }

    /// Descriptors are shared with others, who may have made them non-blocking.
    @Test func nonBlockingDescriptors() throws {
        let filter = try RunningProcess([], nonBlocking: true)
        // More than a pipe holds, so that it has to wait for its reader, and then for its writer.
        let keys = (0..<5000).map { "key-\($0)" }
        let value = "\"\(String(repeating: "x", count: 100))\""
        filter.write(keys.map { Self.update($0, value) }.joined())
        filter.waitUntilInputIsRead()
        #expect(filter.readLine() == Self.written("key-0", value))
        filter.write(Self.update("last"))
        filter.closeInput()
        let outcome = filter.end()
        #expect(outcome.status == 0)
        #expect(outcome.output == keys.dropFirst().map { Self.written($0, value) } + [Self.written("last")])
    }

    // MARK: - Signals

    @Test(arguments: [SIGHUP, SIGINT, SIGTERM]) func firstSignal(_ signal: Int32) throws {
        let filter = try RunningProcess(["--max-rate", "50"])
        filter.write((0..<40).map { Self.update("key-\($0)") }.joined())
        #expect(filter.readLine() == Self.written("key-0"))
        filter.signal(signal)
        let outcome = filter.end()
        #expect(outcome.status == 128 + signal)
        #expect(outcome.output == (1..<40).map { Self.written("key-\($0)") }, "what was queued is delivered")
        #expect(outcome.errors == "")
    }

    @Test func firstSignalWithASlowReader() throws {
        let filter = try RunningProcess(["--stats"])
        let count = 5000
        let value = "\"\(String(repeating: "x", count: 100))\""
        for i in 0..<count {
            filter.write(Self.update("key-\(i)", value))
        }
        filter.waitUntilInputIsRead()
        filter.signal(SIGTERM)
        let outcome = filter.end()
        #expect(outcome.status == 143)
        #expect(outcome.output == (0..<count).map { Self.written("key-\($0)", value) })
        #expect(outcome.errors.contains("\(count) lines"))
    }

    /// The input does not end, and is not waited for.
    @Test func firstSignalWithNothingToDo() throws {
        let filter = try RunningProcess([])
        filter.write(Self.update("a"))
        #expect(filter.readLine() == Self.written("a"))
        filter.signal(SIGINT)
        #expect(filter.end().status == 130)
    }

    @Test func signalAfterEndOfInput() throws {
        let filter = try RunningProcess(["--max-rate", "50"])
        filter.write((0..<40).map { Self.update("key-\($0)") }.joined())
        filter.closeInput()
        #expect(filter.readLine() == Self.written("key-0"))
        filter.signal(SIGTERM)
        let outcome = filter.end()
        #expect(outcome.status == 143)
        #expect(outcome.output.count == 39)
    }

    @Test func secondSignal() throws {
        let filter = try RunningProcess(["--max-rate", "1"])
        filter.write((0..<1000).map { Self.update("key-\($0)") }.joined())
        #expect(filter.readLine() == Self.written("key-0"))
        filter.signal(SIGINT)
        filter.signal(SIGTERM)
        let outcome = filter.end()
        // Two that are pending at once may be seen in either order.
        #expect(outcome.status == 143 || outcome.status == 130)
        #expect(outcome.output.count < 999)
    }

    @Test func secondSignalInABlockedWrite() throws {
        let filter = try RunningProcess([])
        for i in 0..<5000 {
            filter.write(Self.update("key-\(i)", "\"\(String(repeating: "x", count: 100))\""))
        }
        filter.waitUntilInputIsRead()
        filter.signal(SIGTERM)
        filter.signal(SIGINT)
        filter.waitUntilEnded()
        let outcome = filter.end()
        #expect(outcome.status == 143 || outcome.status == 130)
        #expect(outcome.output.count < 5000)
    }

    /// A pipe that nobody has opened for writing yet.
    @Test func signalWhileWaitingForAWriter() throws {
        let path = "\(NSTemporaryDirectory())/dedupe-\(UUID().uuidString)"
        #expect(mkfifo(path, 0o600) == 0)
        defer { unlink(path) }

        let waiting = try RunningProcess([path])
        // Ready to be ended in order once it has said that it is there, which it cannot; so give it
        // a moment, and accept that a slow one is ended before it was.
        usleep(300_000)
        waiting.signal(SIGTERM)
        #expect(waiting.end().status == 143)

        let served = try RunningProcess([path])
        let writer = open(path, O_WRONLY)
        let line = Array(Self.update("a").utf8)
        #expect(write(writer, line, line.count) == line.count)
        #expect(served.readLine() == Self.written("a"))
        close(writer)
        #expect(served.end().status == 0)
    }

    /// What the writer has taken and not written counts as dropped.
    @Test func drainTimeout_withAFullPipe_countsWhatTheReaderCannotHave() throws {
        let (count, value) = (60, "\"\(String(repeating: "x", count: 3000))\"")
        let filter = try RunningProcess(["--drain-timeout", "100ms", "--stats"])
        for i in 0..<count {
            filter.write(Self.update("key-\(i)", value))
        }
        filter.waitUntilInputIsRead()
        filter.signal(SIGTERM)
        filter.waitUntilEnded()
        let outcome = filter.end()
        #expect(outcome.status == 143)
        let written = outcome.output.filter { $0.hasSuffix("}") }.count
        let message = try #require(
            outcome.errors.firstMatch(of: #/drain timeout is over: (?:(\d+) to )?(\d+) updates dropped/#))
        let most = try #require(Int(message.2))
        let least = message.1.flatMap { Int($0) } ?? most
        #expect(written < count && least...most ~= count - written, "\(written): \(outcome.errors)")
        let out = try #require(outcome.errors.firstMatch(of: #/out: (\d+) lines, (\d+) updates/#))
        #expect(Int(out.2) == count - most)
    }

    #if os(Linux)
    /// A terminal that nobody reads, as after Ctrl-S, takes some kilobytes.
    private func stall(_ arguments: [String]) throws -> (filter: RunningProcess, terminal: CInt, other: CInt) {
        let (terminal, other) = try openTerminal()
        let filter = try RunningProcess(arguments, standardOutput: other, standardError: other)
        filter.write((0..<2000).map { Self.update("key-\($0)", "\"\(String(repeating: "x", count: 100))\"") }.joined())
        filter.waitUntilInputIsRead()
        var entry = pollfd(fd: other, events: Int16(POLLOUT), revents: 0)
        while poll(&entry, 1, 0) > 0 { usleep(1000) }
        return (filter, terminal, other)
    }

    @Test(arguments: [SIGQUIT, SIGTERM]) func signal_whenTheTerminalStalls_endsTheProgram(_ signal: Int32) throws {
        let (filter, terminal, other) = try stall(["--drain-timeout", "100ms"])
        filter.write("bad\n")
        filter.waitUntilInputIsRead()
        filter.signal(signal)
        filter.waitUntilEnded()
        #expect(filter.end().status == 128 + signal)
        close(terminal)
        close(other)
    }

    @Test func messages_whenTheTerminalStalls_comeWhenItGoesOn() throws {
        let (filter, terminal, other) = try stall([])
        filter.write("bad\n")
        filter.waitUntilInputIsRead()
        let text = readTerminal(terminal) { $0.contains("a value is expected here") && $0.contains("key-1999") }
        #expect(text.contains("dedupe: line 2001, column 1: a value is expected here"))
        filter.closeInput()
        #expect(filter.end().status == 1)
        close(terminal)
        close(other)
    }
    #endif

    // MARK: - Options

    @Test(arguments: [
        ["--max-rate", "0"], ["--max-rate", "-1"], ["--max-rate", "1/week"], ["--max-rate", "x"],
        ["--max-rate", "inf"],
        ["--batch-size", "0"], ["--batch-size", "65537"], ["--unknown"], ["one", "two"], ["--max-errors", "0"],
        ["--drain-timeout", "soon"], ["--key", "id"], ["--key", "/a~2"], ["--key", "/id", "-k", "1"],
        ["--key", "/id", "--from", "kcat"], ["--from", "kafka"], ["-k", "0"], ["-t", ",,", "-k", "1"], ["-t", ","],
        ["--header"], ["--value", "/v", "--key", "/k"], ["--revision", "/r"], ["--envelope"], ["--on-missing", "skip"],
        ["--key", "/k", "--delete-when", "/op=d"], ["--key-field", "id"], ["--key-field", "id", "--from", "kcat"],
        ["--max-keys", "0"], ["--max-keys", "-1"], ["--max-bytes", "0"], ["--max-bytes", "many"],
        ["--max-keys", "1", "--on-overflow", "wait"], ["--on-overflow", "drop"], ["--interval", "0"],
        ["--interval", "soon"],
    ])
    func badCommandLine(_ arguments: [String]) throws {
        let outcome = try RunningProcess(arguments, input: "").end()
        #expect(outcome.status == 64 && outcome.output == [] && outcome.errors.contains("Usage"))
    }

    @Test(arguments: ["1", "0.5", "3/min", "1000", "1000/s", "9223372036854775807"]) func anyRate(_ rate: String) throws
    {
        #expect(try run("--max-rate", rate, input: Self.update("a")).output == [Self.written("a")])
    }

    // MARK: - Subcommands

    /// Only the first word is a subcommand. Behind an option, and with a path, it is a file.
    @Test func nameOfASubcommand_withAPathOrBehindAnOption_isAFile() throws {
        let folder = try NamedFolder()
        try folder.write(Self.update("a"), to: "etcd")
        for arguments in ["./etcd", "--stats etcd", "-- etcd"] {
            let outcome = try shell("cd \(folder.path) && $0 \(arguments)")
            #expect(outcome.output == [Self.written("a")], "\(arguments)")
        }
        #expect(try shell("cd \(folder.path) && $0 help").errors.contains("help: No such file"))
    }

    #if !Server
    @Test func serve_whenBuiltWithoutItsTrait_saysHowToBuildIt() throws {
        let outcome = try RunningProcess(["serve", "--listen", "127.0.0.1:0"], input: "").end()
        #expect(outcome.status == 64 && outcome.output == [])
        #expect(
            outcome.errors == "dedupe: this program was built without serve; "
                + "make install-filter TRAITS=\"--traits Server\" builds one with it; "
                + "to read a file of that name: dedupe ./serve\n")
    }
    #endif

    #if !Etcd
    @Test func etcd_whenBuiltWithoutItsTrait_saysHowToBuildIt() throws {
        for arguments in [["etcd"], ["etcd", "--help"], ["etcd", "--prefix", "/"]] {
            let outcome = try RunningProcess(arguments, input: "").end()
            #expect(outcome.status == 64 && outcome.output == [])
            #expect(
                outcome.errors == "dedupe: this program was built without etcd; "
                    + "make install-filter TRAITS=\"--traits Etcd\" builds one with it; "
                    + "to read a file of that name: dedupe ./etcd\n")
        }
    }
    #endif

    @Test(arguments: ["bash", "zsh", "fish"]) func completions_ofEachShell_haveTheOptions(_ shell: String) throws {
        let outcome = try run("--generate-completion-script", shell)
        #expect(outcome.status == 0)
        let text = outcome.output.joined(separator: "\n")
        #expect(text.contains("suppress-unchanged") && text.contains("drain-timeout"))
    }

    @Test func help() throws {
        let outcome = try run("--help")
        #expect(outcome.status == 0)
        let text = outcome.output.joined(separator: "\n")
        for part in [
            "--max-rate", "--batch-size", "--stats", "--strict", "EXIT STATUS", #"{"restart":true}"#, "--key", "--from",
            "--newer-only", "--drain-timeout", "--interval", "--max-keys", "--max-bytes", "--on-overflow", "141",
            "SIGHUP", "SIGUSR1", "A revision is", "./etcd",
        ] {
            #expect(text.contains(part))
        }
        #expect(outcome.output.allSatisfy { $0.count <= 90 })
    }

    @Test func statistics() throws {
        let outcome = try run(
            "--stats", input: Self.update("a") + Self.update("b") + "bad\n" + #"{"status":"in-sync"}"#)
        #expect(outcome.status == 1)
        #expect(outcome.output.count == 3)
        for part in ["4 lines", "2 updates", "1 statuses", "1 bad", "conflation 1.00", "seconds"] {
            #expect(outcome.errors.contains(part), "\(outcome.errors)")
        }
        #expect(!outcome.errors.contains("\u{1B}"), "no line that changes where there is no terminal")
    }

    @Test func statistics_countBlankLinesAtTheEnd() throws {
        #expect(try run("--stats", input: "\n\n\n").errors.contains("in: 3 lines, 0 updates"))
    }

    #if os(Linux)
    @Test func liveLineOnATerminal() throws {
        let (terminal, other) = try openTerminal()
        let filter = try RunningProcess(["--stats", "--max-rate", "2"], standardError: other)
        filter.write((0..<6).map { Self.update("key-\($0)") }.joined() + "bad\n")
        filter.closeInput()
        #expect(filter.end().status == 1)

        let text = readTerminal(terminal) { $0.contains("7 lines, 6 updates") }
        close(terminal)
        close(other)
        #expect(text.contains("dedupe: line 7, column 1: a value is expected here"))
        #expect(text.contains("\r\u{1B}[Kin "))
        #expect(text.contains("pending"))
        #expect(text.contains("7 lines, 6 updates"))
    }
    #endif
}
