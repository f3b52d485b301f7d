// SPDX-License-Identifier: Apache-2.0

#if Server

internal import NIOCore
internal import Synchronization

/// Closes a connection that has not taken anything of a response for some time.
final class Progress: Sendable {
    private let steps: Steps
    private let task: RepeatedTask

    private final class Steps: Sendable {
        let count = Atomic(0)
        let seen = Atomic(-1)
    }

    init(on channel: any Channel, patience: Duration) {
        let (patience, steps) = (TimeAmount(patience), Steps())
        self.steps = steps
        task = channel.eventLoop.scheduleRepeatedTask(initialDelay: patience, delay: patience) { task in
            let now = steps.count.load(ordering: .relaxed)
            if steps.seen.exchange(now, ordering: .relaxed) == now {
                channel.close(promise: nil)
                task.cancel()
            }
        }
    }

    /// Something was taken.
    func advance() { steps.count.add(1, ordering: .relaxed) }

    func stop() { task.cancel() }
}

#endif
