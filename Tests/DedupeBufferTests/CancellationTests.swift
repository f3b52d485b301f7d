// SPDX-License-Identifier: Apache-2.0

// Cancellation at each `await` of the library: one test for each, in which the task stands there
// and nowhere else. So the tests run the tasks by hand. Afterwards nothing is half taken: what was
// pending is there for the next consumer.
//
//     where the task is                                 what it awaits
//     -----------------------------------------------   ----------------------------------
//     it has not begun
//     EventTurn.next, the queue being empty             TaskLoop.sleep, Signal.wait
//     EventTurn.next, clearing up after a restart       Task.yield
//     DedupeBuffer.run, in the sink                     onUpdates, onStatusUpdated
//     DedupeBuffer.run, after a failure                 TaskLoop.pause
//     between two calls of the iterator                 whatever the consumer does
//     finish(), finish(deadline:)                       DeliveryLoop.end, Signal.wait

import Testing

@testable import DedupeBuffer

@Suite("Cancellation at every await")
struct CancellationTests {
    private typealias Sink = ScriptedSink<Int>

    enum Way: CaseIterable { case events, run }

    private let executor = SteppedExecutor()
    private let clock = TestClock()
    private let buffer: StringBuffer

    init() {
        buffer = StringBuffer(batchSize: 10, retry: .init(maximumAttempts: nil, clock: clock))
    }

    /// A status, two updates, a status.
    private func putSnapshot() {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1, revision: 7)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
    }

    private static let snapshot: [Event<String, Int>] = [
        .status(.resyncInProgress), .updates([.new("a", 1, revision: 7), .new("b", 2)]), .status(.inSync),
    ]

    private func consume(_ way: Way, _ sink: Sink = Sink()) -> Task<Void, any Error> {
        Task(executorPreference: executor) { [buffer] in
            switch way {
            case .run: try await buffer.run(sink: sink)
            case .events: for try await event in buffer.events { try await sink.handle(event) }
            }
        }
    }

    private func expectEnd(of consumer: Task<Void, any Error>, _ way: Way) async throws {
        switch way {
        case .run: await #expect(throws: CancellationError.self) { try await executor.outcome(of: consumer, "run") }
        case .events: try await executor.outcome(of: consumer, "end of the events")
        }
    }

    /// That a second consumer can begin, and gets this, and then what comes.
    private func expectPending(_ events: [Event<String, Int>]) async throws {
        #expect(buffer.core.validate() == nil)
        #expect(buffer.statistics.unaccounted == 0)
        try #require(buffer.statistics.pendingKeys == events.items().count)
        try #require(buffer.statistics.pendingStatuses == events.statuses().count)
        let (heard, last) = try await within("the second consumer") { [buffer] in
            var iterator = buffer.events.makeAsyncIterator()
            var heard: [Event<String, Int>] = []
            for _ in events { heard += try await iterator.next().map { [Event($0)] } ?? [] }
            buffer.set("last", 0)
            return (heard, try await iterator.next().map { Event($0) })
        }
        #expect(heard == events)
        #expect(last == .updates([.new("last", 0)]))
        #expect(buffer.statistics.unaccounted == 0)
    }

    /// What happens beside the cancellation, before the task can go on.
    enum Meanwhile: CaseIterable { case nothing, updateBefore, updateAfter, restartBefore, restartAfter }

    private func cancel(_ task: Task<Void, any Error>, _ meanwhile: Meanwhile) {
        switch meanwhile {
        case .updateBefore: buffer.set("c", 3)
        case .restartBefore: buffer.onConnectionRestarted()
        default: break
        }
        task.cancel()
        switch meanwhile {
        case .updateAfter: buffer.set("c", 3)
        case .restartAfter: buffer.onConnectionRestarted()
        default: break
        }
    }

    /// What is pending then, of these.
    private func pending(_ events: [Event<String, Int>], _ meanwhile: Meanwhile) -> [Event<String, Int>] {
        switch meanwhile {
        case .nothing: events
        case .updateBefore, .updateAfter: events + [.updates([.new("c", 3)])]
        case .restartBefore, .restartAfter: []
        }
    }

    // MARK: Those who consume

    @Test(arguments: Way.allCases, Meanwhile.allCases)
    func beforeItBegins_cancelled_takesNothing(way: Way, meanwhile: Meanwhile) async throws {
        let sink = Sink()
        putSnapshot()
        let consumer = consume(way, sink)
        #expect(executor.ready == 1)
        cancel(consumer, meanwhile)
        try await expectEnd(of: consumer, way)
        #expect(sink.calls == [])
        try await expectPending(pending(Self.snapshot, meanwhile))
    }

    @Test(arguments: Way.allCases, Meanwhile.allCases)
    func whileTheQueueIsEmpty_cancelled_takesNothingMore(way: Way, meanwhile: Meanwhile) async throws {
        let sink = Sink()
        putSnapshot()
        let consumer = consume(way, sink)
        executor.runUntilIdle()
        #expect(sink.delivered == Self.snapshot)
        cancel(consumer, meanwhile)
        #expect(executor.ready == 1)
        try await expectEnd(of: consumer, way)
        #expect(sink.delivered == Self.snapshot)
        #expect(buffer.statistics.liveKeys == 2)
        try await expectPending(pending([], meanwhile))
    }

    /// Woken up already, by an update, and cancelled before it runs.
    @Test(arguments: Way.allCases)
    func afterItsWakeUp_cancelled_takesNothingMore(way: Way) async throws {
        let sink = Sink()
        let consumer = consume(way, sink)
        executor.runUntilIdle()
        putSnapshot()
        #expect(executor.ready == 1)
        consumer.cancel()
        try await expectEnd(of: consumer, way)
        #expect(sink.calls == [])
        try await expectPending(Self.snapshot)
    }

    /// A restart leaves more than it clears up itself where somebody consumes, and more than he
    /// does without letting others run.
    @Test(arguments: Way.allCases, Meanwhile.allCases)
    func whileItClearsUp_cancelled_theRestIsClearedUpLater(way: Way, meanwhile: Meanwhile) async throws {
        let tracker = LifetimeTracker()
        let buffer = DedupeBuffer<String, Tracked>()
        let consumer = Task<Void, any Error>(executorPreference: executor) {
            switch way {
            case .run: try await buffer.run(sink: ScriptedSink<Tracked>())
            case .events: for try await event in buffer.events { Issue.record("\(event)") }
            }
        }
        executor.runUntilIdle()
        for n in 0..<10_000 { buffer.set("key \(n)", tracker.make()) }
        buffer.onConnectionRestarted()
        #expect(executor.ready == 1)
        executor.step()
        // It could go on at once, and so it has yielded.
        #expect(executor.ready == 1)
        let alive = tracker.alive
        #expect((1_000..<9_000).contains(alive))
        if meanwhile == .restartBefore { buffer.onConnectionRestarted() }
        if meanwhile == .updateBefore { buffer.set("c", tracker.make()) }
        consumer.cancel()
        if meanwhile == .restartAfter { buffer.onConnectionRestarted() }
        if meanwhile == .updateAfter { buffer.set("c", tracker.make()) }
        try await expectEnd(of: consumer, way)
        let isMore = meanwhile == .updateBefore || meanwhile == .updateAfter
        #expect(buffer.core.validate() == nil)
        #expect(buffer.statistics.unaccounted == 0)
        #expect(buffer.statistics.delivered == 0)
        #expect(buffer.statistics.pendingKeys == (isMore ? 1 : 0))
        #expect(tracker.alive > 0)
        let heard = Kept(0)
        let second = Task<Void, any Error>(executorPreference: executor) {
            for try await event in buffer.events { heard.change { $0 += Event(event).items.count } }
        }
        executor.runUntilIdle()
        #expect(heard.value == (isMore ? 1 : 0))
        #expect(tracker.alive == 0)
        #expect(tracker.destroyedTwice == [])
        buffer.stop()
        try await executor.outcome(of: second, "end of the events")
    }

    enum Answer: CaseIterable { case returns, throwsCancellation, throwsAnother }

    /// In each of the three calls. Of the consumer of `events` an event that it was handed is its
    /// own, whatever comes; so it stands in its own `await` between two calls of the iterator.
    @Test(arguments: Way.allCases, Answer.allCases)
    func inTheSink_cancelled_whatItDidNotDealWithGoesBack(way: Way, answer: Answer) async throws {
        for number in 0..<3 {
            for meanwhile in Meanwhile.allCases {
                try await CancellationTests().cancelInTheSink(way, answer, number, meanwhile)
            }
        }
    }

    private func cancelInTheSink(_ way: Way, _ answer: Answer, _ number: Int, _ meanwhile: Meanwhile) async throws {
        let gate = AsyncGate()
        let sink = Sink { _, call in
            guard call == number else { return }
            await gate.passUncancelled()
            switch answer {
            case .returns: return
            case .throwsCancellation: if way == .run { try Task.checkCancellation() }
            case .throwsAnother: if way == .run { throw SinkFailure() }
            }
        }
        putSnapshot()
        let consumer = consume(way, sink)
        executor.runUntilIdle()
        #expect(sink.calls == Array(Self.snapshot[...number]))
        cancel(consumer, meanwhile)
        // The sink does not listen.
        #expect(executor.ready == 0)
        gate.open()
        try await expectEnd(of: consumer, way)
        #expect(sink.calls.count == number + 1)
        #expect(clock.asked == [])
        let isDealtWith = way == .events || answer == .returns
        #expect(buffer.statistics.liveKeys == ((isDealtWith ? number + 1 : number) > 1 ? 2 : 0))
        try await expectPending(pending(Array(Self.snapshot[(isDealtWith ? number + 1 : number)...]), meanwhile))
    }

    @Test(arguments: Meanwhile.allCases)
    func inAPause_cancelled_whatFailedIsInTheQueue(meanwhile: Meanwhile) async throws {
        for number in 0..<3 { try await CancellationTests().cancelInAPause(number, meanwhile) }
    }

    private func cancelInAPause(_ number: Int, _ meanwhile: Meanwhile) async throws {
        let sink = Sink { _, call in if call == number { throw SinkFailure() } }
        putSnapshot()
        let consumer = consume(.run, sink)
        executor.runUntilIdle()
        try await clock.waitForSleeper()
        #expect(executor.ready == 0)
        cancel(consumer, meanwhile)
        try await expectEnd(of: consumer, .run)
        #expect(clock.asked.count == 1)
        #expect(sink.calls.count == number + 1)
        try await expectPending(pending(Array(Self.snapshot[number...]), meanwhile))
    }

    /// Its time is over already, and it is cancelled before it runs.
    @Test func afterAPause_cancelled_whatFailedIsInTheQueue() async throws {
        let sink = Sink { _, call in if call == 1 { throw SinkFailure() } }
        putSnapshot()
        let consumer = consume(.run, sink)
        executor.runUntilIdle()
        try await clock.waitForSleeper()
        clock.advance()
        try await eventually("the end of the pause") { [executor] in executor.ready == 1 }
        consumer.cancel()
        try await expectEnd(of: consumer, .run)
        #expect(sink.calls.count == 2)
        try await expectPending(Array(Self.snapshot[1...]))
    }

    // MARK: Those who finish

    enum Finish: CaseIterable { case plain, withDeadline }

    private func finish(_ kind: Finish) -> Task<DedupeBufferUndelivered?, any Error> {
        Task(executorPreference: executor) { [buffer] in
            switch kind {
            case .plain:
                await buffer.finish()
                return nil
            case .withDeadline: return await buffer.finish(deadline: .now + .seconds(1_000_000))
            }
        }
    }

    /// A consumer that has the first event of four, one of which came in later.
    private func consumeFirst(_ way: Way, _ gate: AsyncGate) -> (Sink, Task<Void, any Error>) {
        let sink = Sink { _, call in if call == 0 { await gate.passUncancelled() } }
        putSnapshot()
        let consumer = consume(way, sink)
        executor.runUntilIdle()
        buffer.set("c", 3)
        return (sink, consumer)
    }

    private func expectStopped() {
        let dropped = buffer.statistics.dropped
        buffer.set("too late", 0)
        #expect(buffer.statistics.dropped == dropped + 1)
        #expect(buffer.statistics.unaccounted == 0)
        #expect(buffer.core.validate() == nil)
    }

    /// The buffer finishes all the same, and so does who else waits for it.
    @Test(arguments: Way.allCases)
    func inFinish_cancelled_returns_andAllIsDelivered(way: Way) async throws {
        let gate = AsyncGate()
        let (sink, consumer) = consumeFirst(way, gate)
        let (finishing, other) = (finish(.plain), finish(.plain))
        executor.runUntilIdle()
        finishing.cancel()
        #expect(executor.ready == 1)
        try await executor.outcome(of: finishing, "finish")
        #expect(sink.calls.count == 1)
        #expect(executor.ready == 0)
        gate.open()
        try await executor.outcome(of: consumer, "the consumer")
        try await executor.outcome(of: other, "the other finish")
        #expect(sink.delivered == Self.snapshot + [.updates([.new("c", 3)])])
        expectStopped()
    }

    /// The deadline has come: the batch that was taken is delivered whole, nothing after it.
    @Test(arguments: Way.allCases)
    func inFinishWithADeadline_cancelled_stops_andTheBatchIsDelivered(way: Way) async throws {
        let gate = AsyncGate()
        let (sink, consumer) = consumeFirst(way, gate)
        let (finishing, other) = (finish(.withDeadline), finish(.plain))
        executor.runUntilIdle()
        finishing.cancel()
        #expect(executor.ready == 1)
        let left = try await executor.outcome(of: finishing, "finish")
        #expect(left == DedupeBufferUndelivered(updates: 1, statuses: 0, isBatchInFlight: true))
        expectStopped()
        gate.open()
        try await executor.outcome(of: consumer, "the consumer")
        try await executor.outcome(of: other, "the other finish")
        #expect(sink.delivered == Self.snapshot)
        #expect(buffer.statistics.pendingKeys == 1)
    }

    @Test(arguments: Finish.allCases)
    func beforeFinish_cancelled_returns(kind: Finish) async throws {
        let gate = AsyncGate()
        let (sink, consumer) = consumeFirst(.run, gate)
        let finishing = finish(kind)
        finishing.cancel()
        _ = try await executor.outcome(of: finishing, "finish")
        #expect(sink.calls.count == 1)
        gate.open()
        try await executor.outcome(of: consumer, "the consumer")
        #expect(sink.delivered == Self.snapshot + (kind == .plain ? [.updates([.new("c", 3)])] : []))
        expectStopped()
    }

    /// Not who finishes is cancelled, but whom he waits for.
    @Test(arguments: Way.allCases, Finish.allCases)
    func consumer_whileAFinishWaits_cancelled_theFinishReturns_andTheRestStays(way: Way, kind: Finish) async throws {
        let gate = AsyncGate()
        let (sink, consumer) = consumeFirst(way, gate)
        let finishing = finish(kind)
        executor.runUntilIdle()
        consumer.cancel()
        gate.open()
        try await expectEnd(of: consumer, way)
        let left = try await executor.outcome(of: finishing, "finish")
        #expect(sink.delivered == Array(Self.snapshot[..<1]))
        let statistics = buffer.statistics
        #expect(statistics.pendingKeys == 3)
        #expect(statistics.pendingStatuses == 1)
        #expect(statistics.liveKeys == 0)
        if kind == .withDeadline {
            #expect(left == DedupeBufferUndelivered(updates: 3, statuses: 1, isBatchInFlight: false))
        }
        expectStopped()
    }

    /// In a pause too.
    @Test(arguments: Finish.allCases)
    func consumer_inAPauseWhileAFinishWaits_cancelled_theFinishReturns(kind: Finish) async throws {
        putSnapshot()
        let consumer = consume(.run, Sink { _, _ in throw SinkFailure() })
        executor.runUntilIdle()
        try await clock.waitForSleeper()
        let finishing = finish(kind)
        executor.runUntilIdle()
        consumer.cancel()
        try await expectEnd(of: consumer, .run)
        _ = try await executor.outcome(of: finishing, "finish")
        #expect(buffer.statistics.pendingKeys == 2)
        #expect(buffer.statistics.pendingStatuses == 2)
        expectStopped()
    }
}
