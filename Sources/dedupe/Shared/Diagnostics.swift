// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// Messages on standard error, and the line there that changes each second.
///
/// Messages come from several threads, so each is written by one call, and one at a time. A message
/// is left out when it would have to wait for the reader of standard error: data goes first.
final class Diagnostics: Sendable {
    private struct State {
        var showsLiveLine = false
        var lost = 0
    }

    /// How long the last messages wait for their reader, in milliseconds.
    static let lastPatience: CInt = 1000

    private let descriptor: CInt
    private let state = Mutex(State())

    /// - Parameter descriptor: Where to write: standard error, or something else in a test.
    init(descriptor: CInt = STDERR_FILENO) {
        self.descriptor = descriptor
    }

    /// Whether a person can see a line that changes.
    var isTerminal: Bool { isatty(descriptor) == 1 }

    /// The width of the terminal.
    private var columns: Int {
        var size = winsize()
        return ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0 ? Int(size.ws_col) : 80
    }

    /// Writes a line with the program's name in front.
    ///
    /// - Parameter patience: How long to wait for the reader, in milliseconds.
    func report(_ message: String, patience: CInt = 0) {
        state.withLock { state in
            let lost = state.lost == 0 ? "" : "dedupe: \(state.lost) messages were left out\n"
            let text = (state.showsLiveLine ? Self.toLineStart : "") + lost + "dedupe: " + message + "\n"
            if write(text, patience: patience) {
                state.lost = 0
            } else {
                state.lost += 1
            }
            state.showsLiveLine = false
        }
    }

    /// Shows a text in place of the one shown before, without a newline, or takes it away. The text
    /// is cut to the width of the terminal, because a line that wraps cannot be replaced.
    func showLive(_ text: String?) {
        state.withLock { state in
            if let text {
                _ = write(Self.toLineStart + text.prefix(columns - 1), patience: 0)
            } else if state.showsLiveLine {
                _ = write(Self.toLineStart, patience: 0)
            }
            state.showsLiveLine = text != nil
        }
    }

    /// Does something else to the terminal, with the line that changes out of the way.
    func withoutLive(_ body: () -> Void) {
        state.withLock { state in
            if state.showsLiveLine {
                _ = write(Self.toLineStart, patience: 0)
                state.showsLiveLine = false
            }
            body()
        }
    }

    /// To the first column, and clear to the end of the line.
    private static let toLineStart = "\r\u{1B}[K"

    /// A pipe that says it can be written to takes this much without waiting, as POSIX has it.
    private static let atOnce = 512

    /// Writes without waiting for longer than `patience`.
    ///
    /// - Returns: Whether the text could be written. A failure has nowhere to be reported to.
    private func write(_ text: String, patience: CInt) -> Bool {
        var text = text
        return text.withUTF8 { bytes in
            var rest = UnsafeRawBufferPointer(bytes)
            while !rest.isEmpty {
                var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                guard poll(&entry, 1, patience) > 0, entry.revents & Int16(POLLOUT) != 0 else { return false }
                let count = sysWrite(descriptor, rest.baseAddress!, min(rest.count, Self.atOnce))
                guard count > 0 else { return false }
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            }
            return true
        }
    }
}

/// The system's function, for types that have a `write` of their own.
private func sysWrite(_ descriptor: CInt, _ bytes: UnsafeRawPointer, _ count: Int) -> Int {
    write(descriptor, bytes, count)
}

/// Writes all the bytes, however many calls it takes.
func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: CInt) throws(SystemError) {
    var rest = bytes
    while let base = rest.baseAddress, !rest.isEmpty {
        let count = write(descriptor, base, rest.count)
        if count >= 0 {
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        } else if errno == EAGAIN || errno == EWOULDBLOCK {
            // Another process that shares the open file made it non-blocking.
            _ = try waitUntilReady(descriptor, events: CInt(POLLOUT))
        } else if errno != EINTR {
            throw .last
        }
    }
}
