// SPDX-License-Identifier: Apache-2.0

/// What a buffer's delivery loop is doing: a state machine that does nothing itself.
///
/// Each event changes the state and returns what the caller has to do, which it does without the
/// lock that guards the state.
///
///     state       event     -> state        action
///     ----------  --------     -----------  ------------------------------------------------
///     idle        begin        delivering   tell a task's loop of a stop that came before
///     delivering  wake         delivering   wake the loop: it looks at the queue
///     delivering  pause        delivering   end the pause before; or this one, if nothing waits
///     delivering  finish       delivering   end the pause and wake the loop
///     delivering  stop         delivering   tell a task's loop
///     delivering  end          idle         release the loop
///     delivering  abandon      idle         of a loop on a queue: end it, nothing is left
///     delivering  abandon      delivering   of a task: wake it, so that it takes what is left
///
/// `Loop` is what runs the loop, and `Timer` is what wakes it after a pause. The machine never
/// looks into them.
struct DeliveryStateMachine<Loop, Timer> {
    /// Where a loop runs.
    enum Place: String {
        case queue, thread, task
    }

    private enum State {
        case idle
        case delivering(Loop, Place)
    }

    private var state = State.idle
    private var isStopped = false
    private var isFinishing = false
    /// Wakes the loop after its latest pause.
    private var timer: Timer?
    /// The buffer no longer exists, so nothing comes in any more.
    private(set) var isAbandoned = false

    /// The loop, while there is one.
    var loop: Loop? {
        if case .delivering(let loop, _) = state { loop } else { nil }
    }

    enum BeginAction: Equatable {
        case none
        /// The buffer was stopped between the loop's claim and its beginning.
        case tellOfStop
    }

    /// A loop has its claim.
    mutating func begin(_ loop: Loop, at place: Place) -> BeginAction {
        state = .delivering(loop, place)
        return isStopped && place == .task ? .tellOfStop : .none
    }

    /// The timer that the caller cancels, and the loop that it then wakes.
    struct PauseEnd {
        var timer: Timer
        var loop: Loop
    }

    /// The timer of the latest pause, for the caller to cancel.
    mutating func takeTimer() -> Timer? {
        defer { timer = nil }
        return timer
    }

    private mutating func endPause() -> PauseEnd? {
        guard let loop, let timer else { return nil }
        self.timer = nil
        return PauseEnd(timer: timer, loop: loop)
    }

    /// The loop sleeps until `timer` wakes it, or an update does. `endsWithFinish`: a finish does
    /// not wait for this pause. Returns the timer that the caller cancels: the one before, or this
    /// one if the loop must not pause. In the second case the caller also wakes the loop.
    mutating func pause(_ timer: Timer, endsWithFinish: Bool) -> (cancelled: Timer?, isRefused: Bool) {
        if isStopped || (isFinishing && endsWithFinish) { return (timer, true) }
        defer { self.timer = timer }
        return (self.timer, false)
    }

    /// A finish has begun, or the buffer was stopped: the loop looks at the queue.
    mutating func finish() -> PauseEnd? {
        isFinishing = true
        return endPause()
    }

    /// A stop has begun. Returns a task's loop, which must hear of it. ``finish()`` follows when
    /// nothing can be taken any more.
    mutating func stop() -> Loop? {
        isStopped = true
        if case .delivering(let loop, .task) = state { return loop }
        return nil
    }

    enum AbandonAction {
        case none
        /// The loop sleeps on its queue and ends with the buffer.
        case end(Loop)
        case wake(Loop)
    }

    /// The buffer is being destroyed. ``takeTimer()`` follows.
    mutating func abandon() -> AbandonAction {
        (isAbandoned, isFinishing) = (true, true)
        switch state {
        case .delivering(let loop, .queue):
            state = .idle
            return .end(loop)
        case .delivering(let loop, .task): return .wake(loop)
        case .delivering(_, .thread), .idle: return .none
        }
    }

    /// The loop takes no more. It is returned, so that the caller releases the sink without a lock,
    /// and so is the timer, for the caller to cancel.
    mutating func end() -> (loop: Loop?, timer: Timer?) {
        defer { (state, timer) = (.idle, nil) }
        return (loop, timer)
    }
}
