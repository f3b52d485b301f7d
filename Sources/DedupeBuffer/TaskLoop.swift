// SPDX-License-Identifier: Apache-2.0

/// How a delivery loop that is a task's own sleeps and pauses.
@usableFromInline
final class TaskLoop: Sendable {
    private struct Pause {
        var timer: Task<Void, Never>?
        var isStopped = false
    }

    private let signal = Signal()
    private let pause = Locked(Pause())

    func wake() {
        signal.send()
    }

    /// Returns after ``wake()``, or when the task is cancelled.
    @usableFromInline
    func sleep(isolation: isolated (any Actor)? = #isolation) async {
        await signal.wait()
    }

    /// Returns when the time is over, the buffer is stopped, or the task is cancelled. Blocks no
    /// thread.
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

    /// Whether ``stop()`` was called. The end of a finish does not count.
    @usableFromInline
    var isStopped: Bool { pause.withLock { $0.isStopped } }
}
