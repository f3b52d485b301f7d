// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// A delivery loop that is a task's own: how it sleeps, and which task it is.
@usableFromInline
final class TaskLoop: Sendable {
    /// The loops that this task delivers for: those whose sinks have called it, directly or by way
    /// of other tasks.
    @TaskLocal private static var current: [TaskLoop] = []

    private struct Pause {
        var timer: Task<Void, Never>?
        var isStopped = false
    }

    private let signal = Signal()
    private let pause = Locked(Pause())
    /// Names the task that made this.
    private let maker = nameOfTask()
    /// Names the task that has an event and deals with it; 0: that is not known.
    private let consumer = Atomic<Int>(0)

    // MARK: - Sleeping

    func wake() {
        signal.send()
    }

    /// Until ``wake()``, or until the task is cancelled.
    @usableFromInline
    func sleep(isolation: isolated (any Actor)? = #isolation) async {
        await signal.wait()
    }

    /// Until the time is over, the buffer is stopped, or the task is cancelled. No thread waits.
    @usableFromInline
    func pause(for duration: Duration, on clock: any Clock<Duration>) async {
        let timer = Task { _ = try? await clock.sleep(for: duration) }
        let isStopped = pause.withLock { pause in
            pause.timer = timer
            return pause.isStopped
        }
        if isStopped { timer.cancel() }
        await withTaskCancellationHandler {
            await timer.value
        } onCancel: {
            timer.cancel()
        }
        pause.withLock { $0.timer = nil }
    }

    /// The buffer was stopped: there is nothing to pause for.
    func stop() {
        let timer = pause.withLock { pause in
            pause.isStopped = true
            return pause.timer
        }
        timer?.cancel()
    }

    /// Whether ``stop()`` came; a finish that has run its course does not count.
    @usableFromInline
    var isStopped: Bool { pause.withLock { $0.isStopped } }

    // MARK: - Who it is

    /// The calling task is about to deal with an event, if it is the one that made this.
    ///
    /// Others are not marked. Names are addresses: that of a task which asks once and ends is soon
    /// another one's, who would be taken for the consumer. The maker has the iterator where it is,
    /// as a rule, and ends after it.
    @usableFromInline
    func markConsumer() {
        // Relaxed, as all of it: who finds its own name has written it.
        if Self.nameOfTask() == maker { consumer.store(maker, ordering: .relaxed) }
    }

    /// Whoever had an event has dealt with it.
    @usableFromInline
    func unmarkConsumer() {
        consumer.store(0, ordering: .relaxed)
    }

    /// Runs `body` as the loop's, and whatever tasks it begins.
    @usableFromInline
    func asCurrent(isolation: isolated (any Actor)? = #isolation, _ body: () async throws -> Void) async throws {
        try await Self.$current.withValue(Self.current + [self], operation: body)
    }

    /// Whether waiting for the loop here would be waiting for oneself.
    var isCurrent: Bool {
        if Self.current.contains(where: { $0 === self }) { return true }
        let name = Self.nameOfTask()
        return name != 0 && name == consumer.load(ordering: .relaxed)
    }

    private static func nameOfTask() -> Int {
        withUnsafeCurrentTask { $0?.hashValue ?? 0 }
    }
}
