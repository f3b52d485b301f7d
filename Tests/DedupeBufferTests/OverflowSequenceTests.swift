// SPDX-License-Identifier: Apache-2.0

// Overflows as a sequence: who is told of which overflow, and when the sequence ends.

import Testing

@testable import DedupeBuffer

/// A task that counts the overflows that it is told of.
private final class Listener: Sendable {
    private let count = Kept(0)
    private let ended = Kept(false)
    private let task = Kept<Task<Void, Never>?>(nil)

    init(_ overflows: DedupeBufferOverflows, on executor: SteppedExecutor) {
        let (count, ended) = (count, ended)
        let task = Task(executorPreference: executor) {
            for await _ in overflows { count.change { $0 += 1 } }
            ended.change { $0 = true }
        }
        self.task.change { $0 = task }
    }

    var heard: Int { count.value }
    var hasEnded: Bool { ended.value }
    func cancel() { task.value?.cancel() }
}

@Suite("Overflows as a sequence")
final class OverflowSequenceTests {
    private let executor = SteppedExecutor()
    private let buffer = StringBuffer(bound: .keys(1))

    /// Ends the listeners, which only this executor can run.
    deinit {
        buffer.stop()
        executor.runUntilIdle()
    }

    private func overflow() {
        for key in ["a", "b"] { buffer.set(key, 1) }
    }

    /// A consumer that has begun to wait, or has been told.
    private func listen() -> Listener {
        let listener = Listener(buffer.overflows, on: executor)
        executor.runUntilIdle()
        return listener
    }

    // MARK: Who is told

    @Test func overflow_whileAConsumerWaits_isToldOnce() {
        let listener = listen()
        #expect(listener.heard == 0)
        overflow()
        overflow()
        executor.runUntilIdle()
        #expect(listener.heard == 1)
        #expect(!listener.hasEnded)
    }

    @Test func overflow_beforeTheConsumer_isToldAtOnce() {
        overflow()
        #expect(listen().heard == 1)
        #expect(listen().heard == 1)
    }

    @Test func overflow_thatARestartHasEnded_isNotToldToALaterConsumer() {
        overflow()
        buffer.onConnectionRestarted()
        let listener = listen()
        #expect(listener.heard == 0)
        overflow()
        executor.runUntilIdle()
        #expect(listener.heard == 1)
    }

    @Test func eachOverflow_isToldToEachConsumer() {
        let listeners = (0..<3).map { _ in listen() }
        for round in 1...5 {
            overflow()
            executor.runUntilIdle()
            #expect(listeners.map(\.heard) == [round, round, round])
            buffer.onConnectionRestarted()
        }
    }

    @Test func overflows_whileTheConsumerIsBusy_areToldAsOne_ifTheLatestLasts() async {
        var iterator = buffer.overflows.makeAsyncIterator()
        overflow()
        #expect(await iterator.next() != nil)
        for _ in 0..<3 {
            buffer.onConnectionRestarted()
            overflow()
        }
        #expect(await iterator.next() != nil)
        buffer.stop()
        #expect(await iterator.next() == nil)
    }

    /// The obvious bridge, a stream that the callback feeds, is silent forever after this.
    @Test func consumerThatIsCancelled_leaves_andTheOthersStay() {
        let (first, second) = (listen(), listen())
        first.cancel()
        executor.runUntilIdle()
        #expect(first.hasEnded)
        overflow()
        executor.runUntilIdle()
        #expect(first.heard == 0)
        #expect(second.heard == 1)
        #expect(listen().heard == 1)
    }

    @Test func consumersOneAfterAnother_eachCancelled_areEachTold() {
        for _ in 0..<3 {
            let listener = listen()
            overflow()
            executor.runUntilIdle()
            #expect(listener.heard == 1)
            listener.cancel()
            executor.runUntilIdle()
            #expect(listener.hasEnded)
            buffer.onConnectionRestarted()
        }
    }

    @Test func consumerThatWasCancelledBefore_endsAtOnce() async throws {
        overflow()
        let overflows = buffer.overflows
        let heard = try await within("a cancelled consumer") {
            withUnsafeCurrentTask { $0?.cancel() }
            var iterator = overflows.makeAsyncIterator()
            return await iterator.next() != nil
        }
        #expect(!heard)
    }

    /// The cancellation comes at the moment when the consumer begins to wait. A thread that keeps
    /// the lock busy makes that moment longer.
    @Test func consumerThatIsCancelled_asItBeginsToWait_ends() async throws {
        let (overflows, isOver) = (buffer.overflows, Kept(false))
        let worker = Worker("the lock's user") { while !isOver.value { overflows.signal.overflowed() } }
        defer { isOver.change { $0 = true } }
        for _ in 0..<rounds(5_000) {
            let hasBegun = Kept(false)
            let consumer: Task<Bool, any Error> = Task {
                var iterator = overflows.makeAsyncIterator()
                hasBegun.change { $0 = true }
                return await iterator.next() != nil
            }
            while !hasBegun.value { await Task.yield() }
            consumer.cancel()
            try #require(try await outcome(of: consumer, "a cancelled consumer") == false)
        }
        withExtendedLifetime(worker) {}
    }

    @Test func callback_isCalledToo() {
        let told = Kept(0)
        let buffer = StringBuffer(configuration: .with { $0.onOverflow = { told.change { $0 += 1 } } }, bound: .keys(1))
        let listener = Listener(buffer.overflows, on: executor)
        executor.runUntilIdle()
        for key in ["a", "b", "c"] { buffer.set(key, 1) }
        executor.runUntilIdle()
        #expect(told.value == 1)
        #expect(listener.heard == 1)
        buffer.stop()
    }

    /// A consumer that resyncs at each overflow, and is cancelled and replaced now and then.
    @Test func consumersThatResync_leaveNoOverflowBehind() async throws {
        for round in 1...5 {
            let begun = AsyncGate()
            begun.open()
            let consumer = Task { [buffer] in
                for await _ in buffer.overflows {
                    try await buffer.withResync { $0.update("a", to: round) }
                    await begun.pass()
                }
            }
            for _ in 1...5 {
                overflow()
                try await begun.waitForArrival()
                try await eventually("a resync") { [buffer] in !buffer.statistics.isOverflowed }
            }
            consumer.cancel()
            _ = await consumer.result
        }
        #expect(buffer.statistics.overflows == 25)
        #expect(buffer.statistics.unaccounted == 0)
    }

    // MARK: The end

    @Test func stop_endsTheSequence_forThoseWhoWait_andForThoseWhoCome() {
        let listener = listen()
        buffer.stop()
        executor.runUntilIdle()
        #expect(listener.hasEnded)
        #expect(listen().hasEnded)
    }

    @Test func stop_endsTheSequence_evenIfTheBufferIsOverflowed() {
        overflow()
        buffer.stop()
        let listener = listen()
        #expect(listener.heard == 0)
        #expect(listener.hasEnded)
    }

    @Test(arguments: LoopKind.allCases)
    func finish_ofALoop_endsTheSequence(_ kind: LoopKind) throws {
        let listener = listen()
        let loop = try RunningLoop(kind, of: buffer, to: StringSink())
        buffer.set("a", 1)
        try bounded("finish") { [buffer] in buffer.finishAndWait() }
        try loop.end()
        executor.runUntilIdle()
        #expect(listener.hasEnded)
    }

    @Test func finish_ofATask_endsTheSequence() async throws {
        let (listener, sink) = (listen(), ScriptedSink<Int>())
        buffer.set("a", 1)
        let running = Task { [buffer] in try await buffer.run(sink: sink) }
        try await sink.wait(forCalls: 1)
        await buffer.finish()
        try await outcome(of: running, "run")
        executor.runUntilIdle()
        #expect(listener.hasEnded)
    }

    @Test func bufferThatIsLetGo_endsTheSequence_whichDidNotKeepIt() async throws {
        var buffer: StringBuffer? = StringBuffer(bound: .keys(1))
        weak let weakBuffer = buffer
        let overflows = buffer!.overflows
        let listener = Listener(overflows, on: executor)
        executor.runUntilIdle()
        buffer = nil
        executor.runUntilIdle()
        #expect(weakBuffer == nil)
        #expect(listener.hasEnded)
        var iterator = overflows.makeAsyncIterator()
        #expect(await iterator.next() == nil)
    }

    // MARK: The state machine alone

    private static func figures(_ number: Int, isOverflowed: Bool = true, isStopped: Bool = false) -> OverflowFigures {
        OverflowFigures(number: number, isOverflowed: isOverflowed, isStopped: isStopped)
    }

    @Test func waiter_isAnsweredAtOnce_onlyForAnOverflowThatLasts_andThatItDoesNotKnow() {
        var waiters = OverflowWaiters<String>()
        #expect(waiters.wait("a", id: 1, after: 0, Self.figures(1)) == .resume(1))
        #expect(waiters.wait("b", id: 2, after: 1, Self.figures(1)) == .wait)
        #expect(waiters.wait("c", id: 3, after: 0, Self.figures(1, isOverflowed: false)) == .wait)
        #expect(waiters.wait("d", id: 4, after: 0, Self.figures(1, isStopped: true)) == .resume(nil))
        #expect(waiters.wait("e", id: 5, after: 0, nil) == .resume(nil))
        #expect(waiters.end() == ["b", "c"])
        #expect(waiters.wait("f", id: 6, after: 0, Self.figures(1)) == .resume(nil))
    }

    /// A thread that reports an overflow late meets consumers that know of it already.
    @Test func take_leavesThoseWhoKnow() {
        var waiters = OverflowWaiters<String>()
        for (id, waiter) in ["a", "b", "c"].enumerated() {
            #expect(waiters.wait(waiter, id: id, after: id, Self.figures(2, isOverflowed: false)) == .wait)
        }
        #expect(waiters.take(before: 2) == ["a", "b"])
        #expect(waiters.take(before: 2) == [])
        #expect(waiters.take(before: 3) == ["c"])
        #expect(waiters.isEmpty)
    }

    @Test func remove_takesOneWaiter_once() {
        var waiters = OverflowWaiters<String>()
        for (id, waiter) in ["a", "b"].enumerated() {
            #expect(waiters.wait(waiter, id: id, after: 0, Self.figures(0, isOverflowed: false)) == .wait)
        }
        #expect(waiters.remove(0) == "a")
        #expect(waiters.remove(0) == nil)
        #expect(waiters.take(before: 1) == ["b"])
    }
}

extension OverflowWaiters.Answer: Equatable {
    public static func == (left: Self, right: Self) -> Bool {
        switch (left, right) {
        case (.wait, .wait): true
        case (.resume(let left), .resume(let right)): left == right
        default: false
        }
    }
}
