// SPDX-License-Identifier: Apache-2.0

#if Server

internal import NIOCore
internal import Synchronization

/// Closes a connection of which nothing was heard for some time, in the middle of a request or of a
/// response.
///
/// The look comes at intervals of ``init(on:patience:)``'s patience. So a connection is given up
/// when it has made no progress for once to twice this time. A stream of HTTP/2 is given up first.
/// At the next look its connection follows if it has taken less than
/// ``ConnectionGuardian/leastBytes`` since, and still has something of the stream.
final class Progress: Sendable {
    private let steps: Steps
    private let task: RepeatedTask

    private final class Steps: Sendable {
        let count = Atomic(0)
        let seen = Atomic(0)
        /// What the connection had sent at the latest look that saw no progress.
        let sentByConnection = Atomic(-1)
    }

    init(on channel: any Channel, patience: Duration) {
        let (patience, steps) = (TimeAmount(patience), Steps())
        self.steps = steps
        task = channel.eventLoop.scheduleRepeatedTask(initialDelay: patience, delay: patience) { _ in
            let now = steps.count.load(ordering: .relaxed)
            guard steps.seen.exchange(now, ordering: .relaxed) == now else { return }
            let sent = channel.connectionGuardian?.sentBytes ?? -1
            let before = steps.sentByConnection.exchange(sent, ordering: .relaxed)
            let isStuck = before >= 0 && sent - before < ConnectionGuardian.leastBytes
            (isStuck ? Responder.connection(of: channel) : channel).cutOff()
        }
    }

    /// Something was sent or received.
    func advance() { steps.count.add(1, ordering: .relaxed) }

    /// Until then it goes on looking, also when a stream has been cut off: what the stream wrote
    /// may still wait in its connection.
    func stop() { task.cancel() }
}

#endif
