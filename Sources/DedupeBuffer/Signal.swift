// SPDX-License-Identifier: Apache-2.0

/// Whether a task waits for a signal, or a signal has come before any task waited for it.
///
/// The functions return the waiter that has to be resumed. The caller resumes it without a lock.
enum SignalState<Waiter> {
    case idle
    case signalled
    case waiting(Waiter)

    /// A signal without a waiter is kept, so the next wait returns at once.
    mutating func send() -> Waiter? {
        guard case .waiting(let waiter) = self else {
            self = .signalled
            return nil
        }
        self = .idle
        return waiter
    }

    /// One at a time waits.
    mutating func wait(_ waiter: Waiter) -> Waiter? {
        switch self {
        case .idle:
            self = .waiting(waiter)
            return nil
        case .signalled:
            self = .idle
            return waiter
        case .waiting:
            preconditionFailure("two tasks use one iterator at once")
        }
    }
}

/// What one task waits for, suspended, and any thread sends.
package final class Signal: Sendable {
    private let state = Locked(SignalState<CheckedContinuation<Void, Never>>.idle)

    package init() {}

    package func send() {
        state.withLock { $0.send() }?.resume()
    }

    /// Returns after a signal, which may have come before, or when the task is cancelled. The
    /// caller then checks for what it waits for, because the signal of a cancellation may outlive
    /// that cancellation.
    package func wait(isolation: isolated (any Actor)? = #isolation) async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                state.withLock { $0.wait(continuation) }?.resume()
            }
        } onCancel: {
            send()
        }
    }
}
