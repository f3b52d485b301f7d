// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The filter between programs that behave badly, and at a terminal.
@Suite(.serialized) struct SurroundingsTests {
    private static func update(_ key: String, _ value: Any = 1) -> String {
        #"{"key":"\#(key)","value":\#(value)}"# + "\n"
    }

    private static func written(_ key: String, _ value: Any = 1, type: String = "new") -> String {
        #"{"type":"\#(type)","key":"\#(key)","value":\#(value)}"#
    }

    /// A pipe; both ends are closed with the object.
    private final class OwnPipe {
        var reading: CInt
        let writing: CInt

        init() throws {
            var ends: [CInt] = [-1, -1]
            guard pipe(&ends) == 0 else { throw POSIXError(.EMFILE) }
            (reading, writing) = (ends[0], ends[1])
            for end in ends {
                _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            }
        }

        deinit {
            closeReading()
            close(writing)
        }

        func closeReading() {
            if reading >= 0 { close(reading) }
            reading = -1
        }

        /// Fills it, so that the next write waits.
        func fill() {
            let bytes = [UInt8](repeating: 0x20, count: 4096)
            let flags = fcntl(writing, F_GETFL)
            _ = fcntl(writing, F_SETFL, flags | O_NONBLOCK)
            while write(writing, bytes, bytes.count) > 0 {}
            while write(writing, bytes, 1) > 0 {}
            _ = fcntl(writing, F_SETFL, flags)
        }
    }

    // MARK: - Standard error

    @Test func messagesThatNobodyReads() throws {
        let errors = try OwnPipe()
        errors.fill()
        let filter = try RunningProcess(["--stats"], standardError: errors.writing)
        filter.write(String(repeating: "bad\n", count: 200_000) + Self.update("a"))
        #expect(filter.readLine() == Self.written("a"))
        filter.closeInput()
        #expect(filter.end().status == 1)
    }

    @Test func readerOfMessagesGone() throws {
        let errors = try OwnPipe()
        errors.closeReading()
        let filter = try RunningProcess(["--stats"], standardError: errors.writing)
        filter.write("bad\n" + Self.update("a"))
        #expect(filter.readLine() == Self.written("a"))
        filter.closeInput()
        #expect(filter.end().status == 1)
    }

    @Test func countsOfManyBadLines() throws {
        let outcome = try run(input: String(repeating: "bad\n{]\n", count: 15) + Self.update("a"))
        let messages = outcome.errors.split(separator: "\n")
        #expect(messages.count == 22)
        #expect(messages.suffix(2).allSatisfy { $0.hasPrefix("dedupe: 5 more: ") })
        #expect(outcome.output == [Self.written("a")])
    }

    @Test func maximumOfErrors() throws {
        let outcome = try run(
            "--max-errors", "3", input: Self.update("a") + "x\nx\n" + Self.update("b") + "x\n" + Self.update("c"))
        #expect(outcome.status == 1 && outcome.output == [Self.written("a"), Self.written("b")])
        #expect(outcome.errors.split(separator: "\n").count == 3)
    }

    // MARK: - The reader

    /// The input stays open and silent.
    @Test func readerGoneWhileTheSourceIsSilent() throws {
        let filter = try RunningProcess([])
        filter.write(Self.update("a"))
        #expect(filter.readLine() == Self.written("a"))
        filter.closeOutput()
        filter.waitUntilEnded()
        #expect(filter.end().status == 141)
    }

    // MARK: - Intervals and bounds

    /// The end of the input lifts the interval.
    @Test func interval() throws {
        let filter = try RunningProcess(["--interval", "1h"])
        filter.write(Self.update("a"))
        #expect(filter.readLine() == Self.written("a"))
        for value in 2..<100 {
            filter.write(Self.update("a", value) + Self.update("b", value))
        }
        filter.waitUntilInputIsRead()
        filter.closeInput()
        let outcome = filter.end()
        #expect(outcome.status == 0)
        #expect(outcome.output == [Self.written("a", 99, type: "updated"), Self.written("b", 99)])
    }

    /// More than a pipe holds: the filter cannot write it all before it is read.
    private static let large = "\"\(String(repeating: "x", count: 300_000))\""

    /// A filter that waits for the reader of its first line, and was given three more keys.
    private func startFull(_ arguments: [String]) throws -> RunningProcess {
        let filter = try RunningProcess(arguments)
        filter.write(Self.update("a", Self.large))
        filter.waitUntilOutputIsThere()
        filter.write(Self.update("b") + Self.update("c") + Self.update("d"))
        filter.waitUntilInputIsRead()
        return filter
    }

    @Test(arguments: [["--max-keys", "2"], ["--max-keys", "2", "--on-overflow", "stop"]])
    func overflowStops(_ arguments: [String]) throws {
        let outcome = try startFull(arguments).end()
        #expect(outcome.status == 3)
        #expect(outcome.output == [Self.written("a", Self.large), #"{"overflow":true}"#])
        #expect(outcome.errors.hasPrefix("dedupe: overflow: more than 2 keys were pending; "))
        #expect(outcome.errors.split(separator: "\n").count == 1)
    }

    @Test func overflowOfBytes() throws {
        let outcome = try run("--max-bytes", "1000", "--key", "/k", input: #"{"k":1,"v":\#(Self.large)}"# + "\n")
        #expect(outcome.status == 3 && outcome.output == [])
        #expect(outcome.errors.hasPrefix("dedupe: overflow: more than 1000 bytes were pending; 1 updates dropped"))
    }

    /// The caller must hear that updates were dropped.
    @Test func overflow_afterABadLine_isTheExitStatus() throws {
        let outcome = try run(
            "--max-bytes", "1000", "--key", "/k", input: "bad\n" + #"{"k":1,"v":\#(Self.large)}"# + "\n")
        #expect(outcome.status == 3)
    }

    @Test func overflowDrops() throws {
        let filter = try startFull(["--max-keys", "2", "--on-overflow", "drop", "--stats"])
        #expect(filter.readLine() == Self.written("a", Self.large))
        #expect(filter.readLine() == #"{"overflow":true}"#)
        filter.write(Self.update("e"))
        #expect(filter.readLine() == Self.written("e"))
        filter.closeInput()
        let outcome = filter.end()
        #expect(outcome.status == 0 && outcome.output == [])
        #expect(outcome.errors.hasPrefix("dedupe: overflow: more than 2 keys were pending; "))
        #expect(outcome.errors.contains("1 overflows"), "\(outcome.errors)")
    }

    // MARK: - Signals

    @Test(arguments: ["INT", "HUP", "TERM", "QUIT", "USR1"]) func ignoredSignal(_ name: String) throws {
        let numbers = ["INT": SIGINT, "HUP": SIGHUP, "TERM": SIGTERM, "QUIT": SIGQUIT, "USR1": SIGUSR1]
        let filter = try RunningProcess(["-c", "trap '' \(name); exec \"$0\" --stats", executable], of: "/bin/sh")
        filter.write(Self.update("a"))
        #expect(filter.readLine() == Self.written("a"))
        filter.signal(numbers[name]!)
        filter.write(Self.update("a", 2))
        #expect(filter.readLine() == Self.written("a", 2, type: "updated"))
        filter.closeInput()
        let outcome = filter.end()
        #expect(outcome.status == 0)
        // Only the summary of the end.
        #expect(outcome.errors.split(separator: "\n").count == 4)
    }

    @Test func drainTimeout() throws {
        let filter = try RunningProcess(["--max-rate", "10", "--drain-timeout", "300ms"])
        filter.write((0..<10_000).map { Self.update("key-\($0)") }.joined())
        filter.waitUntilInputIsRead()
        filter.signal(SIGTERM)
        let outcome = filter.end()
        #expect(outcome.status == 143)
        #expect(outcome.output.count < 10_000)
        #expect(outcome.errors.hasPrefix("dedupe: the drain timeout is over: "))
        #expect(outcome.errors.hasSuffix(" updates dropped\n"))
    }

    @Test func statisticsOnDemand() throws {
        let errors = try OwnPipe()
        let filter = try RunningProcess([], standardError: errors.writing)
        filter.write(Self.update("a"))
        #expect(filter.readLine() == Self.written("a"))
        filter.signal(SIGUSR1)
        var buffer = [UInt8](repeating: 0, count: 4096)
        var text = ""
        while !text.contains("seconds\n"), case let count = read(errors.reading, &buffer, buffer.count), count > 0 {
            text += String(decoding: buffer[..<count], as: UTF8.self)
        }
        #expect(text.hasPrefix("dedupe: in: 1 lines, 1 updates, "))
        filter.write(Self.update("b"))
        #expect(filter.readLine() == Self.written("b"))
        filter.closeInput()
        #expect(filter.end().status == 0)
    }

    @Test func quit() throws {
        let filter = try RunningProcess(["--max-rate", "1"])
        filter.write(Self.update("a") + Self.update("b") + Self.update("c"))
        #expect(filter.readLine() == Self.written("a"))
        filter.waitUntilInputIsRead()
        filter.signal(SIGQUIT)
        let outcome = filter.end()
        #expect(outcome.status == 131)
        #expect(
            outcome.errors.hasPrefix("dedupe: ended by SIGQUIT: ") && outcome.errors.hasSuffix(" updates dropped\n"))
        #expect(outcome.errors.split(separator: "\n").count == 1)
    }

    /// Sanitizers need more address space than there is.
    @Test(.enabled(if: !executable.contains("san/")))
    func outOfMemory() throws {
        let filter = try RunningProcess(
            ["-c", "ulimit -v 500000; exec \"$0\" --max-rate 1", executable], of: "/bin/sh")
        let value = "\"\(String(repeating: "x", count: 1 << 20))\""
        for number in 0..<1000 {
            filter.write(Self.update("key-\(number)", value))
        }
        let outcome = filter.end()
        #expect(outcome.status == 70)
        #expect(
            outcome.errors.split(separator: "\n").filter { $0.hasPrefix("dedupe: ") } == [
                "dedupe: out of memory, or a fault of the program; set SWIFT_BACKTRACE to see"
            ], "\(outcome.errors)")
    }

    // MARK: - Options

    @Test func version() throws {
        let outcome = try run("--version")
        let header = try String(
            contentsOf: URL(filePath: #filePath).deletingLastPathComponent()
                .appending(path: "../../Sources/CDedupe/include/CDedupe.h"), encoding: .utf8)
        #expect(outcome.status == 0 && outcome.output.count == 1)
        #expect(header.contains("#define CDEDUPE_VERSION \"\(outcome.output.first ?? "?")\""))
    }

    @Test func suppressUnchanged() throws {
        let filter = try RunningProcess(["--suppress-unchanged", "--key", "/k", "--revision", "/r"])
        for (line, isWritten) in [
            (#"{"k":1,"r":"1"}"#, true), (#"{"k":1,"r":"1","same":1}"#, false), (#"{"k":1,"r":"2"}"#, true),
            (#"{"k":1}"#, true), (#"{"k":1}"#, true),
        ] {
            filter.write(line + "\n")
            if isWritten {
                #expect(filter.readLine() == line)
            }
        }
        filter.closeInput()
        #expect(filter.end().output == [])
    }

    @Test func text() throws {
        let input = "name,site,value\na,x,1\nb,x,1\na,y,1\n"
        #expect(
            try run("-t,", "-k1", "-k", "2", "--header", input: input).output == [
                "name,site,value", "a,x,1", "b,x,1", "a,y,1",
            ])
        #expect(
            try run("-k1", "--envelope", input: "a\t\"1\"\n\u{E9}\t2\n").output == [
                #"{"type":"new","key":"a","value":"a\t\"1\""}"#, #"{"type":"new","key":"é","value":"é\t2"}"#,
            ])
    }

    @Test func slowRates() throws {
        let filter = try RunningProcess(["--max-rate", "1/h", "--drain-timeout", "1ms"])
        filter.write(Self.update("a") + Self.update("b"))
        #expect(filter.readLine() == Self.written("a"))
        filter.signal(SIGTERM)
        let outcome = filter.end()
        #expect(outcome.status == 143 && outcome.output == [])
    }

    // MARK: - Terminals

    #if os(Linux)
    /// What a terminal shows: only what was not cleared.
    private func screen(_ text: String) -> [String] {
        var lines = [""]
        for part in text.replacing("\r\n", with: "\n").split(separator: "\n", omittingEmptySubsequences: false) {
            let pieces = part.components(separatedBy: "\r\u{1B}[K")
            lines[lines.count - 1] = pieces.count == 1 ? lines[lines.count - 1] + pieces[0] : pieces.last!
            lines.append("")
        }
        return lines
    }

    @Test func narrowTerminal() throws {
        let (terminal, other) = try openTerminal(columns: 40)
        defer { close(terminal) }
        let filter = try RunningProcess(["--stats", "--max-rate", "1"], standardError: other)
        filter.write((0..<3).map { Self.update("key-\($0)") }.joined())
        filter.closeInput()
        #expect(filter.end().status == 0)
        let text = readTerminal(terminal) { $0.contains("seconds") }
        close(other)
        let live = text.components(separatedBy: "\r\u{1B}[K").filter { $0.hasPrefix("in ") }
        #expect(!live.isEmpty && live.allSatisfy { $0.count < 40 }, "\(live)")
    }

    /// Lines come between two of these lines, and later none. A rate since the beginning, or since
    /// the first of these lines, would only become smaller.
    @Test func liveLine_showsTheRateSinceTheOneBefore() throws {
        let (terminal, other) = try openTerminal()
        defer { close(terminal) }
        let filter = try RunningProcess(["--stats"], standardError: other)
        _ = readTerminal(terminal) { $0.contains("in 0/s") }
        filter.write((0..<100_000).map { Self.update("key-\($0 % 10)") }.joined())
        _ = readTerminal(terminal) { $0.contains("k/s, out ") }
        let end = Date(timeIntervalSinceNow: 8)
        let text = readTerminal(terminal) { $0.contains("in 0/s") || Date() > end }
        #expect(text.contains("in 0/s"))
        filter.closeInput()
        #expect(filter.end().status == 0)
        close(other)
    }

    @Test func outputAndMessagesOnOneTerminal() throws {
        let (terminal, other) = try openTerminal()
        defer { close(terminal) }
        let filter = try RunningProcess(
            ["--stats", "--max-rate", "2"], standardOutput: other, standardError: other)
        let keys = (0..<6).map { "key-\($0)" }
        filter.write(keys.map { Self.update($0) }.joined())
        filter.closeInput()
        #expect(filter.end().status == 0)
        let text = readTerminal(terminal) { $0.contains("seconds") }
        close(other)
        #expect(text.contains("\r\u{1B}[Kin "))
        let lines = screen(text)
        for key in keys {
            #expect(lines.contains(Self.written(key)), "\(lines)")
        }
    }
    #endif
}
