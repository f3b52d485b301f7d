// SPDX-License-Identifier: Apache-2.0

// run(sink:): an asynchronous sink, which may fail.

import DedupeBuffer
import Dispatch
import Testing

@Suite("run(sink:)")
struct RunTests {
    private typealias Sink = ScriptedSink<Int>

    private let clock = TestClock()
    private let buffer: StringBuffer

    init() {
        buffer = DedupeBuffer(
            batchSize: 10,
            retry: .init(
                initialDelay: .seconds(1), factor: 2, maximumDelay: .seconds(60), maximumAttempts: 3, clock: clock))
    }

    /// A status, two updates, a status.
    private func putSnapshot() {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1, revision: 7)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
    }

    private static var snapshot: [Event<String, Int>] {
        [.status(.resyncInProgress), .updates([.new("a", 1, revision: 7), .new("b", 2)]), .status(.inSync)]
    }

    private func run(_ sink: Sink) -> Task<Void, any Error> {
        Task { [buffer] in try await buffer.run(sink: sink) }
    }

    /// A sink that fails at certain calls, counted from zero.
    private func failing(at numbers: Int..., doing: @escaping @Sendable () async -> Void = {}) -> Sink {
        Sink { _, number in
            guard numbers.contains(number) else { return }
            await doing()
            throw SinkFailure(number: number)
        }
    }

    // MARK: Delivery

    @Test func run_deliversInOrder_oneCallAtATime_untilFinish() async throws {
        let sink = Sink()
        putSnapshot()
        let running = run(sink)
        try await sink.wait(forCalls: 3)
        buffer.set("c", 3)
        try await sink.wait(forCalls: 4)
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(sink.calls == Self.snapshot + [.updates([.new("c", 3)])])
        #expect(!sink.hasOverlapped)
    }

    @Test func run_toAnActor() async throws {
        actor Sink: AsyncSyncerCallbacks {
            var heard: [Event<String, Int>] = []
            func onStatusUpdated(_ status: SyncStatus) { heard.append(.status(status)) }
            func onUpdates(_ updates: [Update<String, Int>]) { heard.append(.updates(updates.map { Item($0) })) }
        }
        let (buffer, sink) = (buffer, Sink())
        putSnapshot()
        let running = Task { try await buffer.run(sink: sink) }
        try await eventually("delivery") { buffer.statistics.delivered == 2 }
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(await sink.heard == Self.snapshot)
    }

    @Test func run_whileSomebodyElseDelivers_isRefused_andAfterStopToo() async throws {
        let running = run(Sink())
        buffer.set("a", 1)
        try await eventually("delivery") { [buffer] in buffer.statistics.delivered == 1 }
        await #expect(throws: DedupeBufferError.alreadySending) { try await buffer.run(sink: Sink()) }
        buffer.stop()
        try await outcome(of: running, "run")
        await #expect(throws: DedupeBufferError.stopped) { try await buffer.run(sink: Sink()) }
    }

    // MARK: Failure

    @Test(arguments: 0..<3)
    func failure_theEventAndTheRestComeAgain_asIfNeverTaken(number: Int) async throws {
        let sink = failing(at: number)
        putSnapshot()
        let running = run(sink)
        try await clock.waitForSleeper()
        #expect(buffer.statistics.pendingKeys == (number <= 1 ? 2 : 0))
        #expect(buffer.statistics.pendingStatuses == (number == 0 ? 2 : 1))
        #expect(buffer.statistics.liveKeys == (number <= 1 ? 0 : 2))
        clock.advance()
        try await sink.wait(forCalls: 4)
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(sink.delivered == Self.snapshot)
        #expect(sink.calls == Array(Self.snapshot[...number]) + Array(Self.snapshot[number...]))
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func failure_somethingNewerIsPending_takesThePlace() async throws {
        buffer.set("live", 0)
        _ = try buffer.nextBatch()
        buffer.onUpdates([
            Update(key: "a", value: 1), Update(key: "b", value: 1), Update(key: "live", value: nil),
        ])
        let sink = failing(at: 0) { [buffer] in
            buffer.set("c", 1)
            buffer.set("a", 10)
            buffer.delete("b")
            buffer.onStatusUpdated(.inSync)
            buffer.set("live", 2)
        }
        let running = run(sink)
        try await clock.waitForSleeper()
        clock.advance()
        try await sink.wait(forCalls: 3)
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(
            sink.delivered == [
                .updates([.new("a", 10), .updated("live", 2), .new("c", 1)]), .status(.inSync),
            ])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func failure_ofAStatus_mergesWithALaterOne() async throws {
        let sink = failing(at: 0) { [buffer] in buffer.onStatusUpdated(.inSync) }
        buffer.onStatusUpdated(.resyncInProgress)
        let running = run(sink)
        try await clock.waitForSleeper()
        clock.advance()
        try await sink.wait(forCalls: 2)
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(sink.delivered == [.status(.inSync)])
    }

    @Test func failure_afterARestart_dropsAll() async throws {
        let sink = failing(at: 1) { [buffer] in
            buffer.onConnectionRestarted()
            buffer.set("c", 3)
        }
        putSnapshot()
        let running = run(sink)
        try await clock.waitForSleeper()
        #expect(buffer.statistics.pendingKeys == 1)
        #expect(buffer.statistics.dropped == 2)
        clock.advance()
        try await sink.wait(forCalls: 3)
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(sink.delivered == [.status(.resyncInProgress), .updates([.new("c", 3)])])
    }

    @Test func failure_ofDeletionsThatNobodySent_comesAgain() async throws {
        let sink = failing(at: 1)
        buffer.set("a", 1)
        buffer.set("b", 1)
        let running = run(sink)
        try await sink.wait(forCalls: 1)
        try await eventually("delivery") { sink.delivered.count == 1 }
        buffer.onConnectionRestarted()
        buffer.set("a", 2)
        buffer.onStatusUpdated(.inSync)
        try await clock.waitForSleeper()
        clock.advance()
        try await sink.wait(forCalls: 4)
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(Array(sink.delivered.items().dropFirst(2)) == [.updated("a", 2), .deleted("b")])
        #expect(sink.delivered.last == .status(.inSync))
    }

    @Test func failures_inARow_waitLonger_andASuccessStartsOver() async throws {
        let sink = failing(at: 0, 1, 3, 4)
        putSnapshot()
        let running = run(sink)
        for number in 1...4 {
            try await clock.waitForSleeper(number)
            clock.advance()
        }
        try await sink.wait(forCalls: 7)
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(clock.asked == [.seconds(1), .seconds(2), .seconds(1), .seconds(2)])
        #expect(sink.delivered == Self.snapshot)
    }

    @Test func failures_tooManyInARow_throwTheLast_andTheEventsAreInTheQueue() async throws {
        let sink = failing(at: 1, 2, 3)
        putSnapshot()
        let running = run(sink)
        for number in 1...2 {
            try await clock.waitForSleeper(number)
            clock.advance()
        }
        await #expect(throws: SinkFailure(number: 3)) { try await outcome(of: running, "run") }
        #expect(try buffer.flush() == Array(Self.snapshot[1...]))
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func failure_thatIsNotTriedAgain_andRunAgain() async throws {
        let buffer = StringBuffer(retry: .init(maximumAttempts: 1))
        let sink = failing(at: 0, 2)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        await #expect(throws: SinkFailure(number: 0)) { try await buffer.run(sink: sink) }
        await #expect(throws: SinkFailure(number: 2)) { try await buffer.run(sink: sink) }
        #expect(sink.delivered == [.updates([.new("a", 1)])])
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    // MARK: Cancellation

    @Test func cancellation_whileItWaits_throws() async throws {
        let running = run(Sink())
        buffer.set("a", 1)
        try await eventually("delivery") { [buffer] in buffer.statistics.delivered == 1 }
        running.cancel()
        await #expect(throws: CancellationError.self) { try await outcome(of: running, "run") }
        buffer.set("a", 2)
        #expect(try buffer.flush() == [.updates([.updated("a", 2)])])
    }

    @Test func cancellation_beforeItBegins_takesNothing() async throws {
        let sink = Sink()
        putSnapshot()
        let running = Task { [buffer] in
            withUnsafeCurrentTask { $0?.cancel() }
            try await buffer.run(sink: sink)
        }
        await #expect(throws: CancellationError.self) { try await outcome(of: running, "run") }
        #expect(sink.calls == [])
        #expect(try buffer.flush() == Self.snapshot)
    }

    enum Answer: CaseIterable { case returns, throwsCancellation, throwsAnother }

    /// The sink hears of it in its second call.
    @Test(arguments: Answer.allCases)
    func cancellation_inASinkCall_whatWasNotDealtWithGoesBack(answer: Answer) async throws {
        let sink = Sink { _, number in
            guard number == 1 else { return }
            withUnsafeCurrentTask { $0?.cancel() }
            switch answer {
            case .returns: return
            case .throwsCancellation: try Task.checkCancellation()
            case .throwsAnother: throw SinkFailure()
            }
        }
        putSnapshot()
        await #expect(throws: CancellationError.self) { try await outcome(of: run(sink), "run") }
        #expect(sink.calls == Array(Self.snapshot[..<2]))
        #expect(try buffer.flush() == Array(Self.snapshot[(answer == .returns ? 2 : 1)...]))
        #expect(clock.asked == [])
    }

    @Test func cancellation_inAPause_throws_andTheEventsAreInTheQueue() async throws {
        let sink = failing(at: 1)
        putSnapshot()
        let running = run(sink)
        try await clock.waitForSleeper()
        running.cancel()
        await #expect(throws: CancellationError.self) { try await outcome(of: running, "run") }
        #expect(try buffer.flush() == Array(Self.snapshot[1...]))
    }

    @Test func cancellationError_ofASinkThatIsNotCancelled_isAFailure() async throws {
        let sink = Sink { _, number in if number == 0 { throw CancellationError() } }
        putSnapshot()
        let running = run(sink)
        try await clock.waitForSleeper()
        clock.advance()
        try await sink.wait(forCalls: 4)
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(sink.delivered == Self.snapshot)
    }

    // MARK: stop() and finish()

    @Test func stop_byTheSink_theBatchIsDeliveredWhole_nothingAfter() async throws {
        let sink = Sink { [buffer] _, number in
            if number == 0 {
                buffer.set("c", 3)
                buffer.stop()
            }
        }
        putSnapshot()
        try await outcome(of: run(sink), "run")
        #expect(sink.delivered == Self.snapshot)
        #expect(buffer.statistics.pendingKeys == 1)
    }

    @Test func stop_thenTheSinkFails_theRestStaysPending_andTheErrorComesOut() async throws {
        let sink = failing(at: 1) { [buffer] in buffer.stop() }
        putSnapshot()
        await #expect(throws: SinkFailure(number: 1)) { try await outcome(of: run(sink), "run") }
        #expect(sink.delivered == [.status(.resyncInProgress)])
        #expect(buffer.statistics.pendingKeys == 2)
        #expect(buffer.statistics.pendingStatuses == 1)
        #expect(clock.asked.count <= 1)
    }

    /// The pause was cut short before the core was stopped, and the sink was tried once more.
    @Test func stop_inAPause_doesNotTryTheSinkAgain() async throws {
        for _ in 0..<rounds(2000) {
            let (clock, calls) = (TestClock(), Kept(0))
            let buffer = StringBuffer(retry: .init(maximumAttempts: nil, clock: clock))
            let sink = ScriptedSink<Int> { _, _ in
                calls.change { $0 += 1 }
                throw SinkFailure()
            }
            let running = Task { try await buffer.run(sink: sink) }
            buffer.set("a", 1)
            try await clock.waitForSleeper()
            buffer.stop()
            await #expect(throws: SinkFailure()) { try await outcome(of: running, "run") }
            try #require(calls.value == 1)
        }
    }

    @Test func stop_inAPause_throwsTheError_withoutWaiting() async throws {
        let sink = failing(at: 1)
        putSnapshot()
        let running = run(sink)
        try await clock.waitForSleeper()
        buffer.stop()
        await #expect(throws: SinkFailure(number: 1)) { try await outcome(of: running, "run") }
        #expect(buffer.statistics.pendingKeys == 2)
    }

    /// The source deletes what the sink has failed on. Nothing is left, so nothing has failed.
    @Test func stop_whenNothingIsLeftOfAFailure_throwsNothing() async throws {
        let (buffer, sink, executor) = (buffer, failing(at: 0), SteppedExecutor())
        buffer.set("a", 1)
        let running = Task(executorPreference: executor) { try await buffer.run(sink: sink) }
        executor.runUntilIdle()
        try await clock.waitForSleeper()
        buffer.onUpdates([Update(key: "a", value: nil)])
        clock.advance()
        try await eventually("the end of the pause") { executor.ready > 0 }
        executor.runUntilIdle()
        buffer.stop()
        try await executor.outcome(of: running, "run")
        #expect(sink.calls.count == 1)
    }

    @Test func finish_inAPause_deliversAfterIt() async throws {
        let (buffer, sink) = (buffer, failing(at: 1))
        putSnapshot()
        let running = run(sink)
        try await clock.waitForSleeper()
        let finishing = Task { await buffer.finish() }
        clock.advance()
        try await outcome(of: running, "run")
        try await within("finish") { await finishing.value }
        #expect(sink.delivered == Self.snapshot)
    }

    /// The last event fails when everything that was owed has been taken.
    @Test func finish_ofWhatFailsThen_waitsUntilItIsDelivered() async throws {
        let (buffer, gate) = (buffer, AsyncGate())
        let sink = failing(at: 2) { await gate.pass() }
        putSnapshot()
        let running = run(sink)
        try await gate.waitForArrival()
        let finishing = Task { await buffer.finish() }
        gate.open()
        try await clock.waitForSleeper()
        clock.advance()
        try await outcome(of: running, "run")
        try await within("finish") { await finishing.value }
        #expect(sink.delivered == Self.snapshot)
    }

    @Test func finish_whoseSinkGivesUp_returns() async throws {
        let buffer = StringBuffer(retry: .init(maximumAttempts: 1))
        let gate = AsyncGate()
        let sink = failing(at: 0) { await gate.pass() }
        buffer.set("a", 1)
        let running = Task { try await buffer.run(sink: sink) }
        try await gate.waitForArrival()
        let finishing = Task { await buffer.finish() }
        gate.open()
        await #expect(throws: SinkFailure(number: 0)) { try await outcome(of: running, "run") }
        try await within("finish") { await finishing.value }
        #expect(buffer.statistics.pendingKeys == 1)
    }

    enum Caller: CaseIterable { case sink, synchronously, childTask, otherTask }

    @Test(arguments: Caller.allCases)
    func finish_byTheSink_returns_andTheRestIsDelivered(caller: Caller) async throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 1)
        let sink = Sink { _, number in
            guard number == 0 else { return }
            switch caller {
            case .sink: await buffer.finish()
            case .synchronously: finishNow(buffer)
            case .childTask:
                async let finished = buffer.finish()
                _ = await finished
            case .otherTask: _ = await Task { await buffer.finish() }.value
            }
        }
        for n in 1...3 { buffer.set("key \(n)", n) }
        try await within("run") { try await buffer.run(sink: sink) }
        #expect(sink.delivered.items().count == 3)
    }

    // MARK: Who keeps whom alive

    @Test func run_keepsTheBufferAndTheSink_untilItReturns() async throws {
        weak var weakBuffer: StringBuffer?
        weak var weakSink: Sink?
        let running: Task<Void, any Error>
        do {
            let buffer = StringBuffer()
            let sink = Sink { _, _ in _ = buffer }
            (weakBuffer, weakSink) = (buffer, sink)
            running = Task { try await buffer.run(sink: sink) }
            buffer.set("a", 1)
            try await sink.wait(forCalls: 1)
        }
        #expect(weakBuffer != nil)
        #expect(weakSink != nil)
        weakBuffer?.stop()
        try await outcome(of: running, "run")
        try await eventually("end of the buffer and the sink") { [weak weakBuffer, weak weakSink] in
            weakBuffer == nil && weakSink == nil
        }
    }
}

private func finishNow(_ buffer: StringBuffer) { buffer.finishAndWait() }
