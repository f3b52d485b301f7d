// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import dedupe

/// Messages whose reader does not read.
@Suite struct DiagnosticsTests {
    /// A pipe that takes nothing more.
    private final class FullPipe {
        let reading: CInt
        let writing: CInt

        init() throws {
            var ends: [CInt] = [-1, -1]
            try #require(pipe(&ends) == 0)
            (reading, writing) = (ends[0], ends[1])
            let flags = fcntl(writing, F_GETFL)
            _ = fcntl(writing, F_SETFL, flags | O_NONBLOCK)
            let zeros = [UInt8](repeating: 0, count: 4096)
            while write(writing, zeros, zeros.count) > 0 {}
            while write(writing, zeros, 1) > 0 {}
            _ = fcntl(writing, F_SETFL, flags)
        }

        deinit {
            close(reading)
            close(writing)
        }

        /// What was written, without the zeros, up to a text.
        func read(until end: String) -> String {
            var text: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 1 << 16)
            while !String(decoding: text, as: UTF8.self).contains(end) {
                var entry = pollfd(fd: reading, events: Int16(POLLIN), revents: 0)
                guard poll(&entry, 1, 30_000) > 0 else { break }
                let count = Foundation.read(reading, &buffer, buffer.count)
                guard count > 0 else { break }
                text += buffer[..<count].filter { $0 != 0 }
            }
            return String(decoding: text, as: UTF8.self)
        }
    }

    /// Whether something ends although the messages' reader does not read.
    private func ends(_ body: @escaping @Sendable () -> Void) -> Bool {
        let hasEnded = DispatchSemaphore(value: 0)
        DispatchQueue(label: "test").async {
            body()
            hasEnded.signal()
        }
        return hasEnded.wait(timeout: .now() + 30) == .success
    }

    @Test func report_whenTheReaderDoesNotRead_returns_andIsWrittenLater() throws {
        let pipe = try FullPipe()
        let diagnostics = Diagnostics(descriptor: pipe.writing)
        for number in 0..<1000 {
            #expect(ends { diagnostics.report("message \(number)") })
        }
        let text = pipe.read(until: "were left out\n")
        let lines = text.split(separator: "\n")
        #expect(lines.prefix(200).map(String.init) == (0..<200).map { "dedupe: message \($0)" })
        let left = lines.count - 1
        #expect(lines.last == "dedupe: \(1000 - left) messages were left out")
    }

    @Test func linesThatChange_areNotCountedAsMessages_whenTheyFindNoRoom() throws {
        let pipe = try FullPipe()
        let diagnostics = Diagnostics(descriptor: pipe.writing)
        for number in 0..<300 { diagnostics.report("message \(number)") }
        for number in 0..<100 { diagnostics.showLive("line \(number)") }
        let lines = pipe.read(until: "were left out\n").split(separator: "\n")
        #expect(lines.last == "dedupe: \(300 - (lines.count - 1)) messages were left out")
    }

    @Test func report_whileTheOutputBlocks_returns() throws {
        let pipe = try FullPipe()
        let diagnostics = Diagnostics(descriptor: pipe.writing)
        let (isWriting, mayEnd) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
        let hasEnded = DispatchSemaphore(value: 0)
        DispatchQueue(label: "output").async {
            diagnostics.withoutLive {
                isWriting.signal()
                mayEnd.wait()
            }
            hasEnded.signal()
        }
        isWriting.wait()
        #expect(ends { diagnostics.report("a message", patience: 1) })
        #expect(ends { diagnostics.showLive("a line") })
        mayEnd.signal()
        #expect(hasEnded.wait(timeout: .now() + 30) == .success)
        #expect(pipe.read(until: "\n").hasPrefix("dedupe: a message\n"))
    }

    @Test func flush_whenTheReaderReads_waitsForAllMessages() throws {
        let file = ScratchFile()
        let diagnostics = Diagnostics(descriptor: file.descriptor)
        for number in 0..<100 {
            diagnostics.report("message \(number)")
        }
        diagnostics.flush(patience: 30_000)
        #expect(file.content == (0..<100).map { "dedupe: message \($0)\n" }.joined())
    }
}
