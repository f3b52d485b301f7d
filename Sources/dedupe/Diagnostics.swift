// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// Messages on standard error, and the line there that changes each second.
///
/// Messages come from several threads, so each is written by one call, and one at a time.
final class Diagnostics: Sendable {
    private let descriptor: CInt
    private let showsLiveLine = Mutex(false)

    /// - Parameter descriptor: Where to write: standard error, or something else in a test.
    init(descriptor: CInt = STDERR_FILENO) {
        self.descriptor = descriptor
    }

    /// Whether there is somebody to look at a line that changes.
    var isTerminal: Bool { isatty(descriptor) == 1 }

    /// Writes a line with the program's name in front.
    func report(_ message: String) {
        showsLiveLine.withLock { shown in
            write((shown ? Self.toLineStart : "") + "dedupe: " + message + "\n")
            shown = false
        }
    }

    /// Shows a text in place of the one shown before, without a newline, or takes it away.
    func showLive(_ text: String?) {
        showsLiveLine.withLock { shown in
            if let text {
                write(Self.toLineStart + text)
            } else if shown {
                write(Self.toLineStart)
            }
            shown = text != nil
        }
    }

    /// To the first column, and clear to the end of the line.
    private static let toLineStart = "\r\u{1B}[K"

    /// There is nowhere to report a failure of this to, so there is none.
    private func write(_ text: String) {
        var text = text
        text.withUTF8 { bytes in
            try? writeAll(UnsafeRawBufferPointer(bytes), to: descriptor)
        }
    }
}

/// Writes all the bytes, however many calls it takes.
func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: CInt) throws(SystemError) {
    var rest = bytes
    while let base = rest.baseAddress, !rest.isEmpty {
        let count = write(descriptor, base, rest.count)
        if count >= 0 {
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        } else if errno == EAGAIN || errno == EWOULDBLOCK {
            // Somebody who shares the open file made it non-blocking.
            _ = try waitUntilReady(descriptor, events: CInt(POLLOUT))
        } else if errno != EINTR {
            throw .last
        }
    }
}
