// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import dedupe

/// Messages whose reader is slow.
@Suite struct DiagnosticsTests {
    /// A pipe that holds as much as it can, so that no message fits in.
    private func makeFullPipe() throws -> (reading: CInt, writing: CInt) {
        var ends: [CInt] = [-1, -1]
        try #require(pipe(&ends) == 0)
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, fcntl(end, F_GETFL) | O_NONBLOCK)
        }
        let space = [UInt8](repeating: 0x20, count: 4096)
        while write(ends[1], space, space.count) > 0 {}
        return (ends[0], ends[1])
    }

    /// All that the pipe holds, without the spaces.
    private func takeAll(from descriptor: CInt) -> String {
        var (all, buffer) = ([UInt8](), [UInt8](repeating: 0, count: 1 << 16))
        while case let count = read(descriptor, &buffer, buffer.count), count > 0 { all += buffer[..<count] }
        return String(decoding: all.drop { $0 == 0x20 }, as: UTF8.self)
    }

    @Test func messagesThatDoNotFit_areLeftOut_andCountedOnce() throws {
        let pipe = try makeFullPipe()
        defer {
            close(pipe.reading)
            close(pipe.writing)
        }
        let diagnostics = Diagnostics(descriptor: pipe.writing)
        for _ in 0..<3 { diagnostics.report("lost") }
        #expect(takeAll(from: pipe.reading) == "")
        diagnostics.report("later")
        diagnostics.report("again")
        #expect(takeAll(from: pipe.reading) == "dedupe: 3 messages were left out\ndedupe: later\ndedupe: again\n")
    }
}
