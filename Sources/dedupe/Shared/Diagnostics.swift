// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch

/// Messages on standard error, and the line there that changes each second.
///
/// Messages come from several threads, and a terminal or a pipe may not be read for hours. So a
/// queue of its own writes, one message at a time, and the lock is never held during a write. The
/// callers do not wait for the reader of standard error: data goes first. Messages that come while
/// many others wait are left out and counted.
final class Diagnostics: Sendable {
    private enum Item {
        case message(String)
        /// A text to show in place of the one shown before, or nil to take it away.
        case live(String?)
    }

    private struct State {
        var items: [Item] = []
        /// Whether the queue is at work, or will be.
        var isWriting = false
        var showsLiveLine = false
        /// Whether something else is being written to the terminal.
        var isTerminalBusy = false
        var lost = 0
    }

    /// Those of the process, which exits after the last one is written.
    static let ofProcess: Diagnostics = {
        atexit { Diagnostics.ofProcess.flush() }
        return Diagnostics()
    }()

    /// How long the last messages wait for their reader, in milliseconds.
    static let lastPatience: CInt = 1000

    /// How many messages may wait.
    private static let mostItems = 256

    private let descriptor: CInt
    private let state = Locked(State())
    private let queue = DispatchQueue(label: "dedupe.messages", qos: .userInitiated)

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
    /// - Parameter patience: How long to wait until it is written, in milliseconds.
    func report(_ message: String, patience: CInt = 0) {
        enqueue(.message(message))
        flush(patience: patience)
    }

    /// Waits until all messages are written.
    ///
    /// - Parameter patience: How long to wait at most, in milliseconds.
    func flush(patience: CInt = lastPatience) {
        guard patience > 0, state.withLock({ $0.isWriting }) else { return }
        let isWritten = DispatchSemaphore(value: 0)
        queue.async { isWritten.signal() }
        _ = isWritten.wait(timeout: .now() + .milliseconds(Int(patience)))
    }

    /// Shows a text in place of the one shown before, without a newline, or takes it away. The text
    /// is cut to the width of the terminal, because a line that wraps cannot be replaced.
    func showLive(_ text: String?) {
        enqueue(.live(text.map { String($0.prefix(columns - 1)) }))
    }

    /// Does something else to the terminal, with the line that changes out of the way.
    func withoutLive(_ body: () -> Void) {
        let isShown = state.withLock { state in
            state.isTerminalBusy = true
            return state.showsLiveLine
        }
        if isShown {
            enqueue(.live(nil))
            flush()
        }
        body()
        state.withLock { $0.isTerminalBusy = false }
    }

    private func enqueue(_ item: Item) {
        let mustStart = state.withLock { state in
            if case .live = item, case .live? = state.items.last { state.items.removeLast() }
            guard state.items.count < Self.mostItems else {
                if case .message = item { state.lost += 1 }
                return false
            }
            state.items.append(item)
            defer { state.isWriting = true }
            return !state.isWriting
        }
        if mustStart {
            queue.async { self.writeItems() }
        }
    }

    // MARK: - On the queue

    private func writeItems() {
        while var text = state.withLock({ Self.takeText(from: &$0) }) {
            text.withUTF8 { bytes in
                // A failure has nowhere to be reported to.
                do { try writeAll(UnsafeRawBufferPointer(bytes), to: descriptor) } catch {}
            }
        }
    }

    /// The bytes for the next item; nil if there is none, and then the work ends.
    private static func takeText(from state: inout State) -> String? {
        if state.items.isEmpty && state.lost > 0 {
            state.items.append(.message("\(state.lost) messages were left out"))
            state.lost = 0
        }
        guard !state.items.isEmpty else {
            state.isWriting = false
            return nil
        }
        let wasShown = state.showsLiveLine
        switch state.items.removeFirst() {
        case .message(let message):
            state.showsLiveLine = false
            return (wasShown ? toLineStart : "") + "dedupe: \(message)\n"
        case .live(let text?) where !state.isTerminalBusy:
            state.showsLiveLine = true
            return toLineStart + text
        case .live:
            state.showsLiveLine = false
            return wasShown ? toLineStart : ""
        }
    }

    /// To the first column, and clear to the end of the line.
    private static let toLineStart = "\r\u{1B}[K"
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
