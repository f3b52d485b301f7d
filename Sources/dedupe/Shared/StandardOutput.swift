// SPDX-License-Identifier: Apache-2.0

/// Standard output, as filters use it: a reader that goes away ends the filter, quietly.
struct StandardOutput: Sendable {
    let diagnostics: Diagnostics
    /// The line that changes must not end up in the middle of the output.
    private let sharesTerminal: Bool

    init(diagnostics: Diagnostics) {
        self.diagnostics = diagnostics
        sharesTerminal = isatty(STDOUT_FILENO) == 1 && diagnostics.isTerminal
    }

    /// Writes all the bytes, or ends the process.
    func write(_ bytes: UnsafeRawBufferPointer) {
        if sharesTerminal {
            diagnostics.withoutLive { writeNow(bytes) }
        } else {
            writeNow(bytes)
        }
    }

    private func writeNow(_ bytes: UnsafeRawBufferPointer) {
        do throws(SystemError) {
            try writeAll(bytes, to: STDOUT_FILENO)
        } catch {
            if error.code == EPIPE {
                endOfBrokenPipe()
            }
            diagnostics.report("standard output: \(error)", patience: Diagnostics.lastPatience)
            // Not exit(): the main thread is at work, and what it uses must not be torn down under
            // it.
            _exit(ExitStatus.failure)
        }
    }
}
