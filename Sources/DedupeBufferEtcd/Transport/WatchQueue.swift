// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import SyncerEngine

/// Messages on their way from the task that reads a watch to the task that handles them.
///
/// The reader waits while the queue has as many bytes as it may. HTTP/2 then makes the server wait.
/// So a slow handler costs no more memory than that.
final class WatchQueue: Sendable {
    private struct State {
        var messages: [WatchMessage] = []
        var byteCount = 0
        /// Why no more messages come.
        var end: DatastoreError?
        var reader: CheckedContinuation<Void, Never>?
        var handler: CheckedContinuation<Void, Never>?

        /// The task that waits for room and the task that waits for a message look again.
        mutating func takeWaiting() -> [CheckedContinuation<Void, Never>] {
            defer { (reader, handler) = (nil, nil) }
            return [reader, handler].compactMap { $0 }
        }
    }

    private let state = Locked(State())
    private let maximumBytes: Int

    init(maximumBytes: Int = 1 << 20) { self.maximumBytes = maximumBytes }

    /// Puts messages that took `byteCount` bytes, when there is room. For one task at a time.
    func send(_ messages: [WatchMessage], byteCount: Int) async {
        await waitUntil({ $0.byteCount < maximumBytes || $0.end != nil }, \.reader)
        change { state in
            guard state.end == nil else { return }
            state.messages += messages
            state.byteCount += byteCount
        }
    }

    /// The messages that have come, when there are some. An empty array means that the task was
    /// cancelled. For one task at a time.
    ///
    /// - Throws: why the watch ended, after its last message.
    func receive() async throws(DatastoreError) -> [WatchMessage] {
        await waitUntil({ !$0.messages.isEmpty || $0.end != nil }, \.handler)
        var taken: [WatchMessage] = []
        var end: DatastoreError?
        change { state in
            swap(&taken, &state.messages)
            state.byteCount = 0
            end = state.end
        }
        if let end, taken.isEmpty { throw end }
        return taken
    }

    /// Says why no more messages come. Only the first reason counts.
    func finish(_ error: DatastoreError) {
        change { state in state.end = state.end ?? error }
    }

    private func change(_ body: (inout State) -> Void) {
        let waiting = state.withLock { state in
            body(&state)
            return state.takeWaiting()
        }
        for continuation in waiting { continuation.resume() }
    }

    /// Waits until the state is such, or the task is cancelled.
    private func waitUntil(
        _ isMet: @Sendable (borrowing State) -> Bool,
        _ slot: WritableKeyPath<State, CheckedContinuation<Void, Never>?> & Sendable
    ) async {
        while !Task.isCancelled, !state.withLock({ isMet($0) }) {
            await withTaskCancellationHandler {
                await withCheckedContinuation { continuation in
                    let isWaiting = state.withLock { state in
                        guard !isMet(state), !Task.isCancelled else { return false }
                        state[keyPath: slot] = continuation
                        return true
                    }
                    if !isWaiting { continuation.resume() }
                }
            } onCancel: {
                change { _ in }
            }
        }
    }
}

#endif
