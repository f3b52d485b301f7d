// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeBuffer
import DedupeServer
import Dispatch

/// A server that runs beside the thread that reads.
final class ServingThread: Sendable {
    private let program: Program
    private let port = Locked<Int?>(nil)
    private let isReady = DispatchSemaphore(value: 0)
    private let isOver = DispatchSemaphore(value: 0)

    init(_ server: DedupeServer, _ program: Program) {
        self.program = program
        Task.detached { [self] in
            do {
                try await server.run { port in
                    self.port.withLock { $0 = port }
                    self.isReady.signal()
                }
            } catch {
                failed(error)
            }
            isOver.signal()
        }
    }

    /// - Returns: The port; `nil` if the server cannot begin. Then a message has said why.
    func waitUntilListening() -> Int? {
        isReady.wait()
        return port.withLock { $0 }
    }

    /// Waits for the end.
    func wait() { isOver.wait() }

    private func failed(_ error: any Error) {
        program.diagnostics.report("\(error)", patience: Diagnostics.lastPatience)
        if port.withLock({ $0 }) != nil {
            // The main thread reads, and would not notice.
            _exit(ExitStatus.failure)
        }
        isReady.signal()
    }
}

#endif
