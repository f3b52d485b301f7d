// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Foundation
import Testing

@testable import dedupe

/// How bytes become lines, and what the feed does with them.
@Suite struct ReaderTests {
    static let line = #"{"key":"a","value":1}"#

    @Test func nothing() throws {
        #expect(try events(of: "") == [])
    }

    @Test func lastLineWithoutNewline() throws {
        #expect(try events(of: Self.line) == [.update("a", "1")])
        #expect(try events(of: Self.line + "\n" + Self.line) == [.update("a", "1"), .update("a", "1")])
        #expect(try events(of: "\n  ") == [])
    }

    @Test func blankLines() throws {
        #expect(
            try events(of: "\n\n  \t \n\r\n\(Self.line)\n\nbad\n")
                == [.update("a", "1"), .bad(line: 7, reason: "a value is expected here")])
    }

    @Test func carriageReturns() throws {
        #expect(try events(of: "\(Self.line)\r\n\(Self.line)\r\n\r\n") == [.update("a", "1"), .update("a", "1")])
        // To JSON a carriage return is a space.
        #expect(try events(of: "\(Self.line)\r\(Self.line)\n") == [.update("a", "1"), .update("a", "1")])
    }

    @Test func byteOrderMark() throws {
        #expect(try events(of: "\u{FEFF}\(Self.line)\n") == [.update("a", "1")])
        #expect(try events(of: "\u{FEFF}\n\(Self.line)\n") == [.update("a", "1")])
        #expect(
            try events(of: "\n\u{FEFF}\(Self.line)\n")
                == [.bad(line: 2, reason: "a byte order mark inside the stream; only the beginning may have one")])
    }

    @Test(arguments: [2, 3, 7, 16, 64, 100, 1000], [2, 3, 256]) func chunks(_ chunkSize: Int, _ eventsAtOnce: Int)
        throws
    {
        let input = (0..<50).map { #"{"key":"\#($0)","value":"\#(String(repeating: "x", count: $0 * 3))"}"# }
        let expected = (0..<50).map { Event.update("\($0)", "\"" + String(repeating: "x", count: $0 * 3) + "\"") }
        let bytes = Array(input.joined(separator: "\n\n").utf8)
        #expect(try events(of: bytes, chunkSize: chunkSize, eventsAtOnce: eventsAtOnce) == expected)
    }

    @Test(arguments: [2, 10, 64, 4096]) func linesThatAreTooLong(_ chunkSize: Int) throws {
        let tooLong = "too long a value"
        func line(_ length: Int) -> String {
            #"{"key":"a","value":""# + String(repeating: "x", count: length - 22) + #""}"#
        }
        func value(_ length: Int) -> String { "\"" + String(repeating: "x", count: length - 22) + "\"" }
        func run(_ input: String) throws -> [Event] {
            try events(of: Array(input.utf8), maximumLineLength: 100, chunkSize: chunkSize)
        }
        #expect(try run(line(100) + "\n") == [.update("a", value(100))])
        #expect(try run(line(101) + "\n") == [.bad(line: 1, reason: tooLong)])
        #expect(try run(line(101)) == [.bad(line: 1, reason: tooLong)])
        #expect(try run(line(5000)) == [.bad(line: 1, reason: tooLong)])
        #expect(try run("[" + String(repeating: "1,", count: 2500) + "1]") == [.bad(line: 1, reason: tooLong)])
        #expect(
            try run("\(line(50))\n\(line(5000))\n\n\(line(60))\n\(line(101))\n\(line(5000))\nbad\n\(line(70))") == [
                .update("a", value(50)), .bad(line: 2, reason: tooLong), .update("a", value(60)),
                .bad(line: 5, reason: tooLong), .bad(line: 6, reason: tooLong),
                .bad(line: 7, reason: "a value is expected here"), .update("a", value(70)),
            ])
    }

    /// The real limit. What is passed over is not kept, so the line may be of any length.
    @Test func longestLine() throws {
        let limit = LineReader.maximumLineLength
        #expect(limit == 64 << 20)
        let head = Array(#"{"key":"a","value":""#.utf8)
        let longest = head + [UInt8](repeating: UInt8(ascii: "x"), count: limit - head.count - 2) + Array(#""}"#.utf8)
        let expected = Event.update(key: [UInt8(ascii: "a")], value: Array(longest[19...].dropLast()), revision: 0)
        // Comparing by hand: a failure would print all of it.
        let outcome = try events(of: longest + [0x0A] + [UInt8(ascii: "y")] + longest + [0x0A] + Array(Self.line.utf8))
        #expect(outcome.count == 3)
        #expect(outcome[0] == expected ? true : false)
        #expect(outcome[1] == .bad(line: 2, reason: "too long a value") ? true : false)
        #expect(outcome[2] == .update("a", "1"))
    }

    @Test func memory_afterALineThatWasTooLong_isThatOfAChunk() throws {
        let file = ScratchFile(Array((#"{"key":"a","value":""# + String(repeating: "x", count: 5000)).utf8))
        let reader = try LineReader(descriptor: file.descriptor, maximumLineLength: 1000, chunkSize: 64)
        var largest = 0
        while try reader.receive() == .bytes {
            while reader.nextEvents() != nil {}
            largest = max(largest, reader.capacity)
        }
        #expect(largest > 1000)
        #expect(reader.capacity == 64)
    }

    /// A line is handed over before the reader waits for the next.
    @Test func nothingIsHeldBack() throws {
        let pipe = Pipe()
        let recorder = Recorder()
        let reader = try LineReader(descriptor: pipe.fileHandleForReading.fileDescriptor)
        var feed = EventFeed(target: recorder, counters: InputCounters(), log: BadInputLog { _ in })
        func pumpOnce() throws {
            #expect(try reader.receive() == .bytes)
            while let events = reader.nextEvents() {
                _ = feed.take(events)
            }
        }

        pipe.fileHandleForWriting.write(Data("\(Self.line)\n{\"ke".utf8))
        try pumpOnce()
        #expect(recorder.events == [.update("a", "1")])
        pipe.fileHandleForWriting.write(Data("y\":\"b\",\"value\":null}\n\(Self.line)".utf8))
        try pumpOnce()
        #expect(recorder.events == [.update("a", "1"), .deletion("b")])
        pipe.fileHandleForWriting.closeFile()
        let wantsMore = try pump(reader, into: &feed)
        #expect(wantsMore)
        #expect(recorder.events == [.update("a", "1"), .deletion("b"), .update("a", "1")])
    }

    @Test(arguments: [InputFormat(), FormatTests.text(",", 1)])
    func utf16_whoseFirstByteIsANewline_andComesAlone_isNamed(format: InputFormat) throws {
        let pipe = Pipe()
        let recorder = Recorder()
        let reader = try LineReader(format: format, descriptor: pipe.fileHandleForReading.fileDescriptor)
        let log = BadInputLog {
            guard case .bad(let bad) = $0 else { return }
            recorder.append(.bad(line: bad.line, reason: bad.reason))
        }
        var feed = EventFeed(
            target: recorder, rules: EventFeed<Recorder>.Rules(format: format), counters: InputCounters(), log: log)
        pipe.fileHandleForWriting.write(Data([0x0A]))
        #expect(try reader.receive() == .bytes)
        #expect(reader.nextEvents() == nil)
        pipe.fileHandleForWriting.write(Data([0x00, 0x0A, 0x00]))
        pipe.fileHandleForWriting.closeFile()
        #expect(try !pump(reader, into: &feed))
        let reason = "the input looks like UTF-16; convert it with iconv -f UTF-16 -t UTF-8"
        #expect(recorder.events == [.bad(line: 1, reason: reason)])
    }

    @Test func aNewlineThatIsAll_isALine() throws {
        let pipe = Pipe()
        let reader = try LineReader(descriptor: pipe.fileHandleForReading.fileDescriptor)
        pipe.fileHandleForWriting.write(Data([0x0A]))
        #expect(try reader.receive() == .bytes)
        #expect(reader.nextEvents() == nil)
        pipe.fileHandleForWriting.closeFile()
        #expect(try reader.receive() == .end)
        #expect(reader.nextEvents() == nil)
        #expect(reader.lines == 1)
    }

    @Test func interruption() throws {
        let input = Pipe()
        let interruption = Pipe()
        let reader = try LineReader(
            descriptor: input.fileHandleForReading.fileDescriptor,
            interruption: interruption.fileHandleForReading.fileDescriptor)
        input.fileHandleForWriting.write(Data("{\"key\":\"a\"".utf8))
        #expect(try reader.receive() == .bytes)
        interruption.fileHandleForWriting.write(Data([0]))
        #expect(try reader.receive() == .interrupted)
        // It goes before input that is there.
        input.fileHandleForWriting.write(Data("\n".utf8))
        #expect(try reader.receive() == .interrupted)
        #expect(reader.nextEvents() == nil)
    }

    @Test func unreadable() throws {
        let directory = open("/", O_RDONLY)
        defer { close(directory) }
        #expect(throws: SystemError(code: EISDIR)) { _ = try LineReader(descriptor: directory).receive() }
    }

    @Test func strictEndsWithTheFirstBadLine() throws {
        #expect(
            try events(of: "\(Self.line)\n\(Self.line)\nbad\n\(Self.line)\nbad\n", maximumErrors: 1)
                == [.update("a", "1"), .update("a", "1"), .bad(line: 3, reason: "a value is expected here")])
        #expect(try events(of: "bad\n\(Self.line)\nbad\n\(Self.line)\nbad\n", maximumErrors: 2).count == 3)
    }

    @Test func counters() throws {
        let file = ScratchFile(
            Array("\(Self.line)\n\nbad\n{\"status\":\"resync\"}\n{\"restart\":true}\n\(Self.line)".utf8))
        let counters = InputCounters()
        let reader = try LineReader(descriptor: file.descriptor)
        var feed = EventFeed(target: Recorder(), counters: counters, log: BadInputLog { _ in })
        let wantsMore = try pump(reader, into: &feed)
        #expect(wantsMore)
        #expect(reader.lines == 6)
        #expect(counters.badLines.load(ordering: .relaxed) == 1)
        #expect(counters.statuses.load(ordering: .relaxed) == 1)
        #expect(counters.restarts.load(ordering: .relaxed) == 1)
    }
}
