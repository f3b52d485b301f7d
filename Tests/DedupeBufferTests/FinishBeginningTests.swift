// SPDX-License-Identifier: Apache-2.0

// finish() before anything delivers, and finish() by those who may not wait.

import Dispatch
import Testing

@testable import DedupeBuffer

@Suite("finish() before a consumer has begun")
struct FinishBeginningTests {
    enum Form: CaseIterable { case synchronous, asynchronous }

    private let clock = TestClock()

    /// With a grace period that passes when the test says so.
    private func makeBuffer() -> StringBuffer {
        let buffer = StringBuffer(
            configuration: .with {
                $0.gracePeriod = .seconds(7)
                $0.clock = clock
            })
        for n in 1...150 { buffer.set("key \(n)", n) }
        return buffer
    }

    private func finish(_ buffer: StringBuffer, _ form: Form) async throws -> DedupeBufferUndelivered {
        switch form {
        case .asynchronous: return try await within("finish") { await buffer.finish() }
        case .synchronous:
            let thread = Worker("finish") { buffer.finishAndWait() }
            try await eventually("finish") { thread.hasReturned }
            return try thread.join()
        }
    }

    /// Everybody's first test.
    @Test func finish_rightAfterATaskThatRuns_deliversEverything() async throws {
        for _ in 0..<rounds(30) {
            let (buffer, sink) = (makeBuffer(), ScriptedSink<Int>())
            let running = Task { try await buffer.run(sink: sink) }
            let left = await buffer.finish()
            try await outcome(of: running, "run")
            #expect(left.isEmpty)
            #expect(sink.delivered.items().count == 150)
        }
    }

    @Test(arguments: Form.allCases)
    func finish_thenAConsumerBegins_deliversEverything(form: Form) async throws {
        let (buffer, sink) = (makeBuffer(), ScriptedSink<Int>())
        async let left = finish(buffer, form)
        try await clock.waitForSleeper()
        #expect(clock.asked == [.seconds(7)])
        // The queue's end is still open.
        buffer.set("later", 0)
        try await within("run") { try await buffer.run(sink: sink) }
        #expect(try await left.isEmpty)
        #expect(sink.delivered.items().count == 151)
    }

    @Test(arguments: Form.allCases)
    func finish_thenALoopBegins_deliversEverything(form: Form) async throws {
        let (buffer, sink) = (makeBuffer(), StringSink())
        async let left = finish(buffer, form)
        try await clock.waitForSleeper()
        try buffer.startSending(to: sink)
        #expect(try await left.isEmpty)
        #expect(sink.items.count == 150)
    }

    @Test(arguments: Form.allCases)
    func finish_whenTheGracePeriodPasses_stops_andTellsWhatIsLeft(form: Form) async throws {
        let buffer = makeBuffer()
        async let left = finish(buffer, form)
        try await clock.waitForSleeper()
        clock.advance()
        #expect(try await left == DedupeBufferUndelivered(updates: 150, statuses: 0, isBatchInFlight: false))
        await #expect(throws: DedupeBufferError.stopped) { try await buffer.run(sink: ScriptedSink<Int>()) }
    }

    @Test(arguments: Form.allCases)
    func finish_whenTheBufferIsStoppedMeanwhile_returns(form: Form) async throws {
        let buffer = makeBuffer()
        async let left = finish(buffer, form)
        try await clock.waitForSleeper()
        buffer.stop()
        #expect(try await left.updates == 150)
    }

    @Test(arguments: Form.allCases)
    func finish_withNothingPending_stopsAtOnce(form: Form) async throws {
        let buffer = StringBuffer(configuration: .with { $0.clock = clock })
        #expect(try await finish(buffer, form).isEmpty)
        #expect(clock.asked == [])
        #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: StringSink()) }
    }

    @Test func finish_cancelledMeanwhile_stops() async throws {
        let buffer = makeBuffer()
        let finishing = Task { await buffer.finish() }
        try await clock.waitForSleeper()
        finishing.cancel()
        #expect(try await within("finish") { await finishing.value }.updates == 150)
        #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: StringSink()) }
    }

    /// A sink that delivers a batch by hand waits for nobody.
    @Test func finish_fromTheSinkOfASingleBatch_stopsAtOnce() throws {
        let (buffer, sink) = (makeBuffer(), StringSink())
        sink.onEachCall { _ in buffer.finishAndWait() }
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(clock.asked == [])
        #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: sink) }
    }
}

@Suite("finish() by those who may not wait")
struct SelfWaitTests {
    private let buffer: StringBuffer = makeBuffer(batchSize: 1)

    /// A detached task has none of the sink's task-local values: it waits like any other caller.
    /// So the sink must not await it.
    @Test func finish_inADetachedTaskOfTheSink_waitsUntilAllIsDelivered() async throws {
        let (buffer, finishing) = (buffer, Kept<Task<Int, Never>?>(nil))
        let delivered = Kept(0)
        let sink = ScriptedSink<Int> { _, number in
            if number == 0 {
                let task = Task.detached {
                    await buffer.finish()
                    return delivered.value
                }
                finishing.change { $0 = task }
                try await eventually("the queue's end to close") { buffer.dropsNewKeys() }
            }
            delivered.change { $0 += 1 }
        }
        for n in 1...3 { buffer.set("key \(n)", n) }
        try await within("run") { try await buffer.run(sink: sink) }
        #expect(try await within("finish") { await finishing.value?.value } == 3)
    }

    /// A task that the sink began, and that outlives the sink's call, is not the sink.
    @Test func finish_inATaskThatOutlivesTheSinksCall_waitsUntilAllIsDelivered() async throws {
        let (buffer, door, finishing) = (buffer, AsyncGate(), Kept<Task<Int, Never>?>(nil))
        let delivered = Kept(0)
        let sink = ScriptedSink<Int> { _, number in
            switch number {
            case 0:
                let task = Task {
                    await door.pass()
                    await buffer.finish()
                    return delivered.value
                }
                finishing.change { $0 = task }
            case 1:
                door.open()
                try await eventually("the queue's end to close") { buffer.dropsNewKeys() }
            default: break
            }
            delivered.change { $0 += 1 }
        }
        for n in 1...4 { buffer.set("key \(n)", n) }
        try await within("run") { try await buffer.run(sink: sink) }
        #expect(try await within("finish") { await finishing.value?.value } == 4)
    }

    /// The sinks of two buffers, one inside the other: each is recognised.
    @Test func finish_ofTheOuterBuffer_inTheInnerBuffersSink_returns() async throws {
        let (outer, inner) = (buffer, StringBuffer())
        let innerSink = ScriptedSink<Int> { _, _ in
            await outer.finish()
            await inner.finish()
        }
        let outerSink = ScriptedSink<Int> { call, _ in
            guard call.items.first?.key == "key 1" else { return }
            inner.set("a", 1)
            try await inner.run(sink: innerSink)
        }
        for n in 1...3 { outer.set("key \(n)", n) }
        try await within("run") { try await outer.run(sink: outerSink) }
        #expect(innerSink.delivered.items().count == 1)
        #expect(outerSink.delivered.items().count == 3)
    }
}
