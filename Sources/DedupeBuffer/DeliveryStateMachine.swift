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
///     delivering  stop         delivering   tell a task's loop, and end the loop's pause
///     delivering  end          idle         release the loop
///     delivering  abandon      idle         of a loop on a queue: end it, nothing is left
///     delivering  abandon      delivering   of a task: wake it, so that it takes what is left
///
/// `Loop` is what runs the loop; the machine never looks into it.
struct DeliveryStateMachine<Loop> {
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

    /// The loop, if it is a task's, which must hear of the stop.
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

    /// The buffer is being destroyed.
    mutating func abandon() -> AbandonAction {
        isAbandoned = true
        switch state {
        case .delivering(let loop, .queue):
            state = .idle
            return .end(loop)
        case .delivering(let loop, .task): return .wake(loop)
        case .delivering(_, .thread), .idle: return .none
        }
    }

    /// The loop takes no more. It is returned, so that the caller releases the sink without a lock.
    mutating func end() -> Loop? {
        defer { state = .idle }
        return loop
    }
}
