// SPDX-License-Identifier: Apache-2.0

// The state machines behind a delivery loop, event by event. A loop is a word here.

import Testing

@testable import DedupeBuffer

@Suite("Delivery state machine")
struct DeliveryStateMachineTests {
    typealias Machine = DeliveryStateMachine<String, Int>

    private var machine = Machine()

    @Test func idle_hasNoLoop_andNothingIsTold() {
        var machine = machine
        #expect(machine.loop == nil)
        #expect(machine.stop() == nil)
        #expect(machine.end().loop == nil)
        #expect(machine.finish() == nil)
        guard case .none = machine.abandon() else {
            Issue.record("an action")
            return
        }
        #expect(machine.isAbandoned)
    }

    @Test(arguments: [Machine.Place.queue, .thread, .task])
    func begin_whenIdle_theLoopIsThere_untilItEnds(place: Machine.Place) {
        var machine = machine
        #expect(machine.begin("loop", at: place) == .none)
        #expect(machine.loop == "loop")
        #expect(machine.end().loop == "loop")
        #expect(machine.loop == nil)
        #expect(machine.begin("another", at: place) == .none)
        #expect(machine.loop == "another")
    }

    /// Loops on queues and threads hear of a stop from the core.
    @Test(arguments: [Machine.Place.queue, .thread, .task])
    func stop_whenDelivering_tellsOnlyATask(place: Machine.Place) {
        var machine = machine
        _ = machine.begin("loop", at: place)
        #expect(machine.stop() == (place == .task ? "loop" : nil))
        #expect(machine.loop == "loop")
    }

    @Test(arguments: [Machine.Place.queue, .thread, .task])
    func begin_afterAStop_tellsOnlyATask(place: Machine.Place) {
        var machine = machine
        _ = machine.stop()
        #expect(machine.begin("loop", at: place) == (place == .task ? .tellOfStop : .none))
    }

    @Test func abandon_whenDeliveringOnAQueue_endsTheLoop() {
        var machine = machine
        _ = machine.begin("loop", at: .queue)
        guard case .end("loop") = machine.abandon() else {
            Issue.record("another action")
            return
        }
        #expect(machine.loop == nil)
        #expect(machine.isAbandoned)
    }

    @Test func abandon_whenATaskDelivers_wakesIt() {
        var machine = machine
        _ = machine.begin("loop", at: .task)
        #expect(!machine.isAbandoned)
        guard case .wake("loop") = machine.abandon() else {
            Issue.record("another action")
            return
        }
        #expect(machine.loop == "loop")
        #expect(machine.isAbandoned)
    }

    /// A thread that delivers keeps the buffer alive.
    @Test func abandon_whenDeliveringOnAThread_doesNothing() {
        var machine = machine
        _ = machine.begin("loop", at: .thread)
        guard case .none = machine.abandon() else {
            Issue.record("an action")
            return
        }
        #expect(machine.loop == "loop")
    }
}

extension DeliveryStateMachineTests {
    // MARK: Pauses

    private func delivering() -> Machine {
        var machine = Machine()
        _ = machine.begin("loop", at: .queue)
        return machine
    }

    @Test func pause_whenDelivering_cancelsTheOneBefore() {
        var machine = delivering()
        #expect(machine.pause(1, endsWithFinish: true) == (nil, false))
        #expect(machine.pause(2, endsWithFinish: true) == (1, false))
    }

    @Test(arguments: [true, false])
    func finish_inAPause_endsIt_once(endsWithFinish: Bool) {
        var machine = delivering()
        _ = machine.pause(1, endsWithFinish: endsWithFinish)
        #expect(machine.finish() == Machine.PauseEnd(timer: 1, loop: "loop"))
        #expect(machine.finish() == nil)
    }

    /// A finish does not wait for an interval, and waits for a key that the sink failed on.
    @Test func pause_afterAFinish_isRefusedIfTheFinishEndsIt() {
        var machine = delivering()
        _ = machine.finish()
        #expect(machine.pause(1, endsWithFinish: true) == (1, true))
        #expect(machine.pause(2, endsWithFinish: false) == (nil, false))
    }

    @Test func pause_afterAStop_isRefused() {
        var machine = delivering()
        _ = machine.stop()
        #expect(machine.pause(1, endsWithFinish: false) == (1, true))
    }

    @Test func end_inAPause_givesTheTimerBack() {
        var machine = delivering()
        _ = machine.pause(1, endsWithFinish: true)
        let ended = machine.end()
        #expect(ended == ("loop", 1))
        #expect(machine.finish() == nil)
    }
}

extension DeliveryStateMachine.PauseEnd: Equatable where Loop: Equatable, Timer: Equatable {
    public static func == (left: Self, right: Self) -> Bool { left.timer == right.timer && left.loop == right.loop }
}

@Suite("Waiting for a loop to begin")
struct BeginningStateTests {
    @Test func wait_beforeTheBeginning_isKept_andBeginGivesAllBackOnce() {
        var state = BeginningState<Int>()
        #expect(state.wait(1) == nil)
        #expect(state.wait(2) == nil)
        #expect(state.begin() == [1, 2])
        #expect(state.begin() == [])
    }

    @Test func wait_afterTheBeginning_isGivenBackAtOnce_andAfterTheEndIsKept() {
        var state = BeginningState<Int>()
        _ = state.begin()
        #expect(state.wait(1) == 1)
        state.end()
        #expect(state.wait(2) == nil)
        #expect(state.close() == [2])
    }

    @Test func wait_whenNoLoopCanBegin_isGivenBackAtOnce() {
        var state = BeginningState<Int>()
        #expect(state.close() == [])
        #expect(state.wait(1) == 1)
    }
}
