// SPDX-License-Identifier: Apache-2.0

// finish(deadline:): the end comes, whatever the sink does. No test says when.

import DedupeBuffer
import Dispatch
import Testing

@Suite("finish(deadline:)")
struct FinishDeadlineTests {
    enum Form: CaseIterable { case synchronous, asynchronous }

    private let buffer = StringBuffer(configuration: .with { $0.gracePeriod = .zero })

    private static var never: ContinuousClock.Instant { .now + .seconds(1_000_000) }
    private static var soon: ContinuousClock.Instant { .now + .milliseconds(5) }

    private func finish(
        _ buffer: StringBuffer, _ form: Form, _ deadline: ContinuousClock.Instant
    ) async throws -> DedupeBufferUndelivered {
        switch form {
        case .asynchronous: return try await within("finish") { await buffer.finish(deadline: deadline) }
        case .synchronous:
            let thread = Worker("finish") { buffer.finishAndWait(deadline: deadline) }
            try await eventually("finish") { thread.hasReturned }
            return try thread.join()
        }
    }

    private func undelivered(_ updates: Int, _ statuses: Int, busy: Bool) -> DedupeBufferUndelivered {
        DedupeBufferUndelivered(updates: updates, statuses: statuses, isBatchInFlight: busy)
    }

    private func expectStopped(_ buffer: StringBuffer) {
        let dropped = buffer.statistics.dropped
        buffer.set("too late", 0)
        #expect(buffer.statistics.dropped == dropped + 1)
    }

    @Test(arguments: Form.allCases)
    func deadline_withoutALoop_stopsThen(form: Form) async throws {
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(try await finish(buffer, form, Self.soon) == undelivered(1, 1, busy: false))
        expectStopped(buffer)
    }

    @Test(arguments: Form.allCases)
    func deadline_withoutALoopOrAnythingPending_stopsAtOnce(form: Form) async throws {
        #expect(try await finish(buffer, form, Self.never).isEmpty)
        expectStopped(buffer)
    }

    /// The task that is to consume may not have run yet.
    @Test(arguments: LoopKind.allCases, Form.allCases)
    func deadline_whileNobodyDeliversYet_waitsForWhoeverBegins(kind: LoopKind, form: Form) async throws {
        let (buffer, sink) = (buffer, StringSink())
        buffer.set("a", 1)
        async let left = finish(buffer, form, Self.never)
        for _ in 0..<100 { await Task.yield() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        #expect(try await left.isEmpty)
        #expect(sink.items == [.new("a", 1)])
        try loop.end()
    }

    /// A status is something to deliver, too.
    @Test(arguments: LoopKind.allCases, Form.allCases)
    func deadline_withOnlyAStatusPending_waitsForWhoeverBegins(kind: LoopKind, form: Form) async throws {
        let (buffer, sink) = (buffer, StringSink())
        buffer.onStatusUpdated(.inSync)
        async let left = finish(buffer, form, Self.never)
        for _ in 0..<100 { await Task.yield() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        #expect(try await left.isEmpty)
        #expect(sink.calls == [.status(.inSync)])
        try loop.end()
    }

    @Test func undelivered_isEmptyOnlyIfNothingIsLeft() {
        #expect(DedupeBufferUndelivered(updates: 0, statuses: 0, isBatchInFlight: false).isEmpty)
        #expect(!DedupeBufferUndelivered(updates: 1, statuses: 0, isBatchInFlight: false).isEmpty)
        #expect(!DedupeBufferUndelivered(updates: 0, statuses: 1, isBatchInFlight: false).isEmpty)
        #expect(!DedupeBufferUndelivered(updates: 0, statuses: 0, isBatchInFlight: true).isEmpty)
        #expect(!DedupeBufferUndelivered(updates: 0, statuses: 0, isBatchInFlight: false, isOverflowed: true).isEmpty)
    }

    /// Else it would wait for nobody.
    @Test(arguments: Form.allCases)
    func deadline_afterTheStopWithSomethingPending_returnsAtOnce(form: Form) async throws {
        buffer.set("a", 1)
        buffer.stop()
        #expect(try await finish(buffer, form, Self.never) == undelivered(1, 0, busy: false))
    }

    @Test(arguments: Form.allCases)
    func deadline_afterAFinishWithSomethingPending_returnsAtOnce(form: Form) async throws {
        buffer.set("a", 1)
        await buffer.finish()
        #expect(try await finish(buffer, form, Self.never) == undelivered(1, 0, busy: false))
    }

    @Test(arguments: Form.allCases, [false, true])
    func deadline_whileNobodyDeliversYet_endsWithTheBuffer(form: Form, finishes: Bool) async throws {
        let buffer = buffer
        buffer.set("a", 1)
        async let left = finish(buffer, form, Self.never)
        for _ in 0..<100 { await Task.yield() }
        if finishes { await buffer.finish() } else { buffer.stop() }
        #expect(try await left == undelivered(1, 0, busy: false))
    }

    /// The deadline has come, then.
    @Test
    func deadline_cancelledWhileNobodyDeliversYet_stops() async throws {
        let buffer = buffer
        buffer.set("a", 1)
        let finishing = Task { await buffer.finish(deadline: Self.never) }
        for _ in 0..<100 { await Task.yield() }
        finishing.cancel()
        #expect(try await within("finish") { await finishing.value } == undelivered(1, 0, busy: false))
        expectStopped(buffer)
    }

    /// What an overflow dropped was not delivered, though nothing is pending.
    @Test(arguments: Form.allCases)
    func deadline_afterAnOverflow_isNotEmpty(form: Form) async throws {
        let buffer = StringBuffer(bound: .keys(1))
        buffer.set("a", 1)
        buffer.set("b", 1)
        let left = try await finish(buffer, form, Self.never)
        #expect(left == DedupeBufferUndelivered(updates: 0, statuses: 0, isBatchInFlight: false, isOverflowed: true))
        #expect(!left.isEmpty)
    }

    @Test(arguments: Form.allCases)
    func deadline_afterAnOverflowThatARestartEnded_isEmpty(form: Form) async throws {
        let buffer = StringBuffer(bound: .keys(1))
        buffer.set("a", 1)
        buffer.set("b", 1)
        buffer.onConnectionRestarted()
        #expect(try await finish(buffer, form, Self.never).isEmpty)
    }

    @Test(arguments: LoopKind.allCases, Form.allCases)
    func deadline_farAway_allIsDelivered(kind: LoopKind, form: Form) async throws {
        let (buffer, sink) = (buffer, StringSink())
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("first", 0)
        try await eventually("delivery") { !sink.calls.isEmpty }
        for n in 0..<500 { buffer.set("key \(n)", n) }
        let left = try await finish(buffer, form, Self.never)
        #expect(left.isEmpty)
        #expect(sink.items.count == 501)
        try loop.end()
    }

    /// Farther away than timers can calculate with.
    @Test(arguments: [1, -1], Form.allCases)
    func deadline_farAwayForEver_isADeadline(sign: Int64, form: Form) async throws {
        let (buffer, sink, gate) = (buffer, StringSink(), PatientGate())
        defer { gate.open() }
        sink.onEachCall { _ in gate.pass() }
        try buffer.startSending(to: sink)
        buffer.set("a", 1)
        try await eventually("a call") { !sink.calls.isEmpty }
        async let left = finish(buffer, form, .now + .seconds(sign * (.max / 4)))
        try await Task.sleep(for: .milliseconds(20))
        if sign > 0 { gate.open() }
        #expect(try await left == undelivered(0, 0, busy: sign < 0))
    }

    @Test(arguments: LoopKind.allCases, Form.allCases)
    func deadline_updatesAfterTheCall_areDeliveredIfTheyReplace_otherwiseDropped(
        kind: LoopKind, form: Form
    ) async throws {
        let (buffer, sink, gate) = (buffer, StringSink(), PatientGate())
        defer { gate.open() }
        sink.onEachCall { _ in gate.pass() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("a", 1)
        try await eventually("a call") { !sink.calls.isEmpty }
        buffer.set("b", 1)
        async let left = finish(buffer, form, Self.never)
        try await eventually("the queue's end to close") { buffer.dropsNewKeys() }
        let dropped = buffer.statistics.dropped
        buffer.set("b", 2)
        buffer.set("c", 1)
        #expect(buffer.statistics.dropped == dropped + 1)
        gate.open()
        #expect(try await left.isEmpty)
        try loop.end()
        #expect(sink.items == [.new("a", 1), .new("b", 2)])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test(arguments: LoopKind.allCases, Form.allCases)
    func deadline_passesWhileTheSinkBlocks_returns(kind: LoopKind, form: Form) async throws {
        let (buffer, sink, gate) = (buffer, StringSink(), PatientGate())
        defer { gate.open() }
        sink.onEachCall { _ in gate.pass() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("a", 1)
        try await eventually("a call") { !sink.calls.isEmpty }
        buffer.set("b", 1)
        buffer.set("c", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(try await finish(buffer, form, Self.soon) == undelivered(2, 1, busy: true))
        expectStopped(buffer)
        gate.open()
        try loop.end()
        #expect(sink.items == [.new("a", 1)])
    }

    /// It never gets to the sink.
    @Test(arguments: Form.allCases)
    func deadline_passesWhileTheQueueIsSuspended_nothingIsUnderWay(form: Form) async throws {
        let (sink, queue) = (StringSink(), DispatchQueue(label: "test.suspended"))
        queue.suspend()
        try buffer.startSending(to: sink, on: queue)
        buffer.set("a", 1)
        #expect(try await finish(buffer, form, Self.soon) == undelivered(1, 0, busy: false))
        queue.resume()
        await buffer.finish()
        #expect(sink.calls == [])
    }

    @Test(arguments: Form.allCases)
    func deadline_thatHasPassed_stopsAtOnce(form: Form) async throws {
        let (sink, gate) = (StringSink(), PatientGate())
        defer { gate.open() }
        sink.onEachCall { _ in gate.pass() }
        try buffer.startSending(to: sink)
        buffer.set("a", 1)
        try await eventually("a call") { !sink.calls.isEmpty }
        buffer.set("b", 1)
        #expect(try await finish(buffer, form, .now - .seconds(1)) == undelivered(1, 0, busy: true))
        gate.open()
    }

    @Test(arguments: Form.allCases)
    func deadline_passesWhileAConsumerHasAnEvent_returns(form: Form) async throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        var iterator = buffer.events.makeAsyncIterator()
        #expect(try await iterator.next() == .status(.resyncInProgress))
        buffer.set("b", 1)
        #expect(try await finish(buffer, form, Self.soon) == undelivered(1, 0, busy: true))
        #expect(try await iterator.next().map { Event($0) } == .updates([.new("a", 1)]))
        #expect(try await iterator.next() == nil)
    }

    @Test(arguments: Form.allCases)
    func deadline_whileAConsumerWaits_nothingIsLeft(form: Form) async throws {
        let (buffer, heard) = (buffer, Kept(0))
        let consumer = Task {
            for try await _ in buffer.events { heard.change { $0 += 1 } }
        }
        buffer.set("a", 1)
        try await eventually("an event") { heard.value == 1 }
        #expect(try await finish(buffer, form, Self.never).isEmpty)
        try await outcome(of: consumer, "end of the events")
    }

    @Test(arguments: Form.allCases)
    func deadline_passesWhileAnAsynchronousSinkIsBusy_returns_andItsEventIsDelivered(form: Form) async throws {
        let (buffer, gate) = (buffer, AsyncGate())
        let sink = ScriptedSink<Int> { _, _ in await gate.passUncancelled() }
        let running = Task { try await buffer.run(sink: sink) }
        buffer.set("a", 1)
        try await gate.waitForArrival()
        buffer.set("b", 1)
        #expect(try await finish(buffer, form, Self.soon) == undelivered(1, 0, busy: true))
        gate.open()
        try await outcome(of: running, "run")
        #expect(sink.delivered == [.updates([.new("a", 1)])])
    }

    @Test(arguments: Form.allCases)
    func deadline_passesInAPause_theSinksErrorComesOut(form: Form) async throws {
        let clock = TestClock()
        let buffer = StringBuffer(retry: .init(maximumAttempts: nil, clock: clock))
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        let running = Task { try await buffer.run(sink: ScriptedSink<Int> { _, _ in throw SinkFailure() }) }
        try await clock.waitForSleeper()
        #expect(try await finish(buffer, form, Self.soon) == undelivered(1, 1, busy: false))
        await #expect(throws: SinkFailure()) { try await outcome(of: running, "run") }
    }

    @Test(arguments: [1 << 40, Int64.max], Form.allCases)
    func deadline_fartherThanClocksGo_isNone(seconds: Int64, form: Form) async throws {
        let (buffer, sink) = (buffer, StringSink())
        buffer.set("a", 1)
        async let left = finish(buffer, form, .now + .seconds(seconds))
        for _ in 0..<100 { await Task.yield() }
        try buffer.startSending(to: sink)
        #expect(try await left.isEmpty)
        #expect(sink.items == [.new("a", 1)])
    }

    @Test(arguments: Form.allCases)
    func deadline_fartherBackThanClocksGo_hasPassed(form: Form) async throws {
        let buffer = buffer
        buffer.set("a", 1)
        #expect(try await finish(buffer, form, .now - .seconds(Int64.max)) == undelivered(1, 0, busy: false))
    }

    @Test func deadline_ofATaskThatIsCancelled_hasCome() async throws {
        let (buffer, sink, gate) = (buffer, StringSink(), PatientGate())
        defer { gate.open() }
        sink.onEachCall { _ in gate.pass() }
        try buffer.startSending(to: sink)
        buffer.set("a", 1)
        try await eventually("a call") { !sink.calls.isEmpty }
        buffer.set("b", 1)
        let finishing = Task { await buffer.finish(deadline: Self.never) }
        finishing.cancel()
        let left = try await within("finish") { await finishing.value }
        #expect(left == undelivered(1, 0, busy: true))
        expectStopped(buffer)
        gate.open()
    }

    // MARK: By the sink

    @Test(arguments: LoopKind.allCases)
    func deadline_byTheSink_returnsAtOnce_andHolds(kind: LoopKind) async throws {
        let (buffer, sink, gate): (StringBuffer, _, _) = (makeBuffer(batchSize: 1), StringSink(), PatientGate())
        defer { gate.open() }
        let left = Kept<DedupeBufferUndelivered?>(nil)
        for n in 1...3 { buffer.set("key \(n)", n) }
        sink.onEachCall { _ in
            left.change { $0 = $0 ?? buffer.finishAndWait(deadline: Self.soon) }
            gate.pass()
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try await eventually("return of finish") { left.value != nil }
        #expect(left.value == undelivered(2, 0, busy: true))
        try await eventually("the stop") {
            let dropped = buffer.statistics.dropped
            buffer.set("key 3", 0)
            return buffer.statistics.dropped > dropped
        }
        gate.open()
        try loop.end()
        #expect(sink.calls.count == 1)
    }

    @Test(arguments: LoopKind.allCases)
    func deadline_thatHasPassed_byTheSink_stopsAtOnce(kind: LoopKind) async throws {
        let (buffer, sink): (StringBuffer, _) = (makeBuffer(batchSize: 1), StringSink())
        let isStopped = Kept<Bool?>(nil)
        sink.onEachCall { _ in
            guard isStopped.value == nil else { return }
            buffer.finishAndWait(deadline: .now - .seconds(1))
            let dropped = buffer.statistics.dropped
            buffer.set("late", 1)
            isStopped.change { $0 = buffer.statistics.dropped > dropped }
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("a", 1)
        try await eventually("a call") { isStopped.value != nil }
        try loop.end()
        #expect(isStopped.value == true)
    }

    @Test func deadline_byAnAsynchronousSink_returnsAtOnce() async throws {
        let (buffer, left): (StringBuffer, _) = (makeBuffer(batchSize: 1), Kept<DedupeBufferUndelivered?>(nil))
        let sink = ScriptedSink<Int> { _, number in
            guard number == 0 else { return }
            let undelivered = await buffer.finish(deadline: Self.never)
            left.change { $0 = undelivered }
        }
        for n in 1...3 { buffer.set("key \(n)", n) }
        try await within("run") { try await buffer.run(sink: sink) }
        #expect(left.value == undelivered(2, 0, busy: true))
        #expect(sink.delivered.items().count == 3)
    }

    // MARK: At once with others

    /// Whoever says that nothing is left is right.
    @Test func deadline_besideProducersAndStop_theCountIsRight() async throws {
        let seed = announcedSeed(#function)
        for round in 0..<rounds(300) {
            var random = SeededGenerator(seed: seed &+ UInt64(round))
            let buffer: StringBuffer = makeBuffer(batchSize: 2)
            let sink = ScriptedSink<Int> { _, _ in await Task.yield() }
            for n in 0..<6 { buffer.set("key \(n)", n) }
            let running = Task { try await buffer.run(sink: sink) }
            let producing = Task {
                for n in 0..<6 { buffer.set("other \(n)", n) }
            }
            await pauseAtRandom(&random)
            let deadline = random.oneIn(2) ? ContinuousClock.now : Self.never
            let left = try await within("finish") { await buffer.finish(deadline: deadline) }
            do { try await outcome(of: running, "run") } catch DedupeBufferError.stopped {}
            try await within("the producer") { await producing.value }
            let statistics = buffer.statistics
            #expect(statistics.unaccounted == 0)
            #expect(left.updates == statistics.pendingKeys, "DEDUPE_TEST_SEED=\(seed), round \(round)")
            if !left.isBatchInFlight { #expect(sink.delivered.items().count == statistics.delivered) }
        }
    }
}
