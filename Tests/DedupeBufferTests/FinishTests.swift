// SPDX-License-Identifier: Apache-2.0

// finish(): what was received before is delivered, then as stop().

import DedupeBuffer
import Dispatch
import Foundation
import Testing

@Suite("finish()")
struct FinishTests {
    private let buffer = StringBuffer(configuration: .with { $0.gracePeriod = .zero })
    private let sink = StringSink()

    private func expectStopped(_ buffer: StringBuffer) throws {
        let statistics = buffer.statistics
        buffer.set("too late", 0)
        #expect(buffer.statistics.dropped == statistics.dropped + 1)
        #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: StringSink()) }
        #expect(throws: DedupeBufferError.stopped) { try buffer.sendNextBatchToSink(StringSink()) }
        #expect(buffer.statistics.unaccounted == 0)
    }

    // MARK: Without a loop

    @Test func finish_withoutALoop_stopsAtOnce() throws {
        let buffer = buffer
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        try bounded("finish") { buffer.finishAndWait() }
        #expect(buffer.statistics.pendingKeys == 1)
        #expect(buffer.statistics.delivered == 0)
        try expectStopped(buffer)
    }

    @Test func finish_afterSingleBatches_stopsAtOnce() throws {
        let buffer = StringBuffer(
            configuration: .with {
                $0.batchSize = 1
                $0.gracePeriod = .zero
            })
        buffer.set("a", 1)
        buffer.set("b", 2)
        _ = try buffer.nextBatch()
        try bounded("finish") { buffer.finishAndWait() }
        #expect(buffer.statistics.pendingKeys == 1)
        try expectStopped(buffer)
    }

    @Test func finish_fromTheSinkOfASingleBatch_returns() throws {
        let (buffer, sink) = (buffer, sink)
        sink.onEachCall { _ in buffer.finishAndWait() }
        buffer.set("a", 1)
        try bounded("a batch whose sink finishes") { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.updates([.new("a", 1)])])
        try expectStopped(buffer)
    }

    @Test func finish_afterStop_stopAfterFinish_finishTwice() throws {
        let (buffer, other) = (buffer, StringBuffer())
        buffer.stop()
        try bounded("finish after stop") { buffer.finishAndWait() }
        try expectStopped(buffer)
        try bounded("finish twice, then stop") {
            other.finishAndWait()
            other.finishAndWait()
            other.stop()
            other.finishAndWait()
        }
        try expectStopped(other)
    }

    // MARK: A loop

    @Test(arguments: LoopKind.allCases)
    func finish_ofAnIdleLoop_returns_andTheLoopEnds(kind: LoopKind) throws {
        let (buffer, sink) = (buffer, sink)
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 0)
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        try expectStopped(buffer)
        #expect(sink.calls == [])
    }

    @Test(arguments: LoopKind.allCases)
    func finish_ofAnIdleLoop_calledAgain_andAfterStop(kind: LoopKind) throws {
        let (buffer, sink) = (buffer, sink)
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 0)
        try bounded("finish, finish") {
            buffer.finishAndWait()
            buffer.finishAndWait()
        }
        try loop.end()
        try expectStopped(buffer)

        let second = StringBuffer()
        let secondSink = StringSink()
        let secondLoop = try RunningLoop(kind, running: second, to: secondSink, first: "a", 0)
        try bounded("stop, finish") {
            second.stop()
            second.finishAndWait()
        }
        try secondLoop.end()
        try expectStopped(second)
    }

    @Test(arguments: LoopKind.allCases, [7, 100])
    func finish_ofABusyLoop_deliversEverythingReceivedBefore(kind: LoopKind, size: Int) throws {
        let buffer: StringBuffer = makeBuffer(batchSize: size)
        let (sink, gate) = (sink, Gate())
        sink.onEachCall { _ in gate.pass() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("first", 0)
        try gate.waitForArrival()
        for n in 0..<500 { buffer.set("key \(n)", n) }
        buffer.onStatusUpdated(.inSync)
        let finish = Worker("finish") { buffer.finishAndWait() }
        #expect(!finish.hasReturned)
        gate.open()
        try finish.join()
        #expect(sink.items == [.new("first", 0)] + (0..<500).map { .new("key \($0)", $0) })
        #expect(sink.calls.last == .status(.inSync))
        #expect(sink.violations == [])
        try loop.end()
        try expectStopped(buffer)
        #expect(buffer.statistics.delivered == 501)
        #expect(buffer.statistics.pendingKeys == 0)
    }

    @Test func finish_whileTheQueueIsSuspended_waitsForIt() throws {
        let (buffer, sink, queue) = (buffer, sink, DispatchQueue(label: "test.suspended"))
        queue.suspend()
        try buffer.startSending(to: sink, on: queue)
        for n in 0..<250 { buffer.set("key \(n)", n) }
        let finish = Worker("finish") { buffer.finishAndWait() }
        #expect(!finish.hasReturned)
        queue.resume()
        try finish.join()
        #expect(sink.items.count == 250)
        try expectStopped(buffer)
    }

    @Test(arguments: LoopKind.allCases)
    func finish_deliversOwedDeletions(kind: LoopKind) throws {
        let (buffer, sink) = (buffer, sink)
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 0)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        try bounded("finish") { buffer.finishAndWait() }
        #expect(sink.calls == [.updates([.deleted("a")]), .status(.inSync)])
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases)
    func finish_rightAfterTheStart_deliversAll(kind: LoopKind) throws {
        for _ in 0..<rounds(30) {
            let buffer = StringBuffer(configuration: .with { $0.gracePeriod = .seconds(1_000_000) })
            let sink = StringSink()
            for n in 0..<150 { buffer.set("key \(n)", n) }
            let loop = try RunningLoop(kind, of: buffer, to: sink)
            try bounded("finish") { buffer.finishAndWait() }
            // The thread may not have begun when the buffer is finished.
            #expect(sink.items.count == 150)
            try loop.end()
        }
    }

    // MARK: From two threads

    @Test(arguments: LoopKind.allCases)
    func finish_fromTwoThreads_bothReturn_whenAllIsDelivered(kind: LoopKind) throws {
        for _ in 0..<rounds(20) {
            let (buffer, sink, gate) = (makeBuffer(batchSize: 10) as StringBuffer, StringSink(), Gate())
            sink.onEachCall { _ in gate.pass() }
            let loop = try RunningLoop(kind, of: buffer, to: sink)
            buffer.set("first", 0)
            try gate.waitForArrival()
            for n in 0..<50 { buffer.set("key \(n)", n) }
            let line = StartingLine(2)
            let heard = (0..<2).map { _ in
                Worker("finish") { () -> Int in
                    line.ready()
                    buffer.finishAndWait()
                    return sink.items.count
                }
            }
            gate.open()
            for worker in heard { #expect(try worker.join() == 51) }
            try loop.end()
            try expectStopped(buffer)
        }
    }

    @Test(arguments: LoopKind.allCases)
    func stop_duringFinish_endsIt_afterTheBatch(kind: LoopKind) throws {
        let (buffer, sink, gate) = (makeBuffer(batchSize: 1) as StringBuffer, sink, Gate())
        sink.onEachCall { _ in gate.pass() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        for n in 0..<50 { buffer.set("key \(n)", n) }
        try gate.waitForArrival()
        let finish = Worker("finish") { buffer.finishAndWait() }
        buffer.stop()
        gate.open()
        try finish.join()
        try loop.end()
        #expect(sink.calls == [.updates([.new("key 0", 0)])])
        #expect(buffer.statistics.pendingKeys == 49)
        try expectStopped(buffer)
    }

    @Test(arguments: LoopKind.allCases)
    func stop_fromTheSink_duringFinish_endsIt(kind: LoopKind) throws {
        let (buffer, sink, gate) = (makeBuffer(batchSize: 1) as StringBuffer, sink, Gate())
        sink.onEachCall { call in
            gate.pass()
            if call.items.first?.key == "key 3" { buffer.stop() }
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        for n in 0..<50 { buffer.set("key \(n)", n) }
        try gate.waitForArrival()
        let finish = Worker("finish") { buffer.finishAndWait() }
        gate.open()
        try finish.join()
        try loop.end()
        #expect(sink.items.count == 4)
        try expectStopped(buffer)
    }

    /// How what finish() waits for may disappear without being delivered.
    enum Disappearance: CaseIterable, Sendable {
        case restart, cancelled, restartFromTheSink, cancelledFromTheSink

        func make(_ buffer: StringBuffer) {
            switch self {
            case .restart, .restartFromTheSink: buffer.onConnectionRestarted()
            case .cancelled, .cancelledFromTheSink:
                for n in 0..<50 { buffer.delete("key \(n)") }
            }
        }
    }

    @Test(arguments: LoopKind.allCases, Disappearance.allCases)
    func finish_whenWhatItWaitsForDisappears_returns(kind: LoopKind, by disappearance: Disappearance) throws {
        for round in 0..<rounds(10) {
            let (buffer, sink, gate) = (makeBuffer(batchSize: 1) as StringBuffer, StringSink(), Gate())
            let fromTheSink = disappearance == .restartFromTheSink || disappearance == .cancelledFromTheSink
            sink.onEachCall { _ in
                gate.pass()
                if fromTheSink { disappearance.make(buffer) }
            }
            let loop = try RunningLoop(kind, of: buffer, to: sink)
            buffer.set("first", 0)
            try gate.waitForArrival()
            for n in 0..<50 { buffer.set("key \(n)", n) }
            buffer.onStatusUpdated(.inSync)
            let finish = Worker("finish") { buffer.finishAndWait() }
            for _ in 0..<10 * round { sched_yield() }
            if !fromTheSink { disappearance.make(buffer) }
            gate.open()
            try finish.join()
            try loop.end()
            #expect(sink.violations == [])
            try expectStopped(buffer)
        }
    }

    // MARK: From where it must not wait

    @Test(arguments: LoopKind.allCases)
    func finish_fromTheSink_returns_andTheLoopEndsWhenTheQueueIsEmpty(kind: LoopKind) throws {
        let (buffer, sink) = (makeBuffer(batchSize: 10) as StringBuffer, sink)
        sink.onEachCall { _ in buffer.finishAndWait() }
        for n in 0..<100 { buffer.set("key \(n)", n) }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try sink.wait(forItems: 100)
        try loop.end()
        try bounded("finish from outside") { buffer.finishAndWait() }
        #expect(sink.items == (0..<100).map { .new("key \($0)", $0) })
        #expect(sink.violations == [])
        try expectStopped(buffer)
    }

    enum Place: CaseIterable, Sendable { case async, sync, queueTargetingIt }

    @Test(arguments: [LoopKind.serialQueue, .concurrentQueue], Place.allCases)
    func finish_onTheDeliveryQueue_returns_andTheLoopEndsWhenTheQueueIsEmpty(kind: LoopKind, place: Place) throws {
        let (buffer, sink) = (makeBuffer(batchSize: 10) as StringBuffer, sink)
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "first", 0)
        let queue = try #require(loop.queue)
        let work: @Sendable () -> Void = {
            for n in 0..<100 { buffer.set("key \(n)", n) }
            buffer.finishAndWait()
        }
        let returned = DispatchSemaphore(value: 0)
        switch place {
        case .async:
            queue.async {
                work()
                returned.signal()
            }
        case .sync:
            _ = Worker("queue.sync") {
                queue.sync { work() }
                returned.signal()
            }
        case .queueTargetingIt:
            DispatchQueue(label: "test.targeting", target: queue).async {
                work()
                returned.signal()
            }
        }
        try returned.wait(for: "finish on the delivery queue")
        try sink.wait(forItems: 100)
        try bounded("finish from outside") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.items.map(\.key) == (0..<100).map { "key \($0)" })
        #expect(sink.violations == [])
        try expectStopped(buffer)
    }

    @Test func finish_fromAnotherBuffersSink_onTheSameQueue_returns() throws {
        let (buffer, sink, other, otherSink) = (buffer, sink, StringBuffer(), StringSink())
        let loop = try RunningLoop(.serialQueue, running: buffer, to: sink, first: "a", 0)
        let returned = DispatchSemaphore(value: 0)
        otherSink.onEachCall { _ in
            buffer.set("b", 1)
            buffer.finishAndWait()
            returned.signal()
        }
        try other.startSending(to: otherSink, on: loop.queue)
        other.set("x", 1)
        try returned.wait(for: "finish from another buffer's sink")
        try sink.wait(forItems: 1)
        try bounded("finish from outside") { buffer.finishAndWait() }
        try expectStopped(buffer)
        other.stop()
    }

    @Test(arguments: LoopKind.allCases)
    func finish_ofAnotherBuffer_fromTheSink_waitsForThatOne(kind: LoopKind) throws {
        let (buffer, sink, other, otherSink) = (buffer, sink, StringBuffer(), StringSink())
        let otherLoop = try RunningLoop(.ownQueue, of: other, to: otherSink)
        for n in 0..<250 { other.set("key \(n)", n) }
        let heard = Kept<Int?>(nil)
        sink.onEachCall { _ in
            other.finishAndWait()
            heard.change { $0 = otherSink.items.count }
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("a", 1)
        try eventually("finish of the other buffer") { heard.value != nil }
        #expect(heard.value == 250)
        try expectStopped(other)
        buffer.stop()
        try loop.end()
        try otherLoop.end()
    }

    // MARK: After the call

    @Test(arguments: LoopKind.allCases)
    func update_afterFinish_whenItsKeyIsPending_isDelivered_otherwiseIsDropped(kind: LoopKind) throws {
        let (buffer, sink, gate) = (buffer, sink, Gate())
        sink.onEachCall { _ in gate.pass() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("taken", 0)
        try gate.waitForArrival()
        for key in ["replaced", "cancelled"] { buffer.set(key, 1) }
        let finish = Worker("finish") { buffer.finishAndWait() }
        try eventually("the queue's end to close") { buffer.dropsNewKeys() }

        let before = buffer.statistics
        buffer.set("replaced", 2)
        buffer.delete("cancelled")
        #expect(buffer.statistics.replaced == before.replaced + 1)
        #expect(buffer.statistics.cancelled == before.cancelled + 2)
        #expect(buffer.statistics.dropped == before.dropped)
        buffer.set("never seen", 1)
        buffer.set("taken", 1)
        buffer.delete("taken")
        buffer.set("cancelled", 2)
        #expect(buffer.statistics.dropped == before.dropped + 4)
        #expect(buffer.statistics.pendingKeys == 1)

        gate.open()
        try finish.join()
        try loop.end()
        #expect(sink.calls == [.updates([.new("taken", 0)]), .updates([.new("replaced", 2)])])
        try expectStopped(buffer)
    }

    @Test(arguments: LoopKind.allCases)
    func status_afterFinish_isIgnored(kind: LoopKind) throws {
        let (buffer, sink, gate) = (buffer, sink, Gate())
        sink.onEachCall { _ in gate.pass() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("taken", 0)
        try gate.waitForArrival()
        buffer.onStatusUpdated(.resyncInProgress)
        let finish = Worker("finish") { buffer.finishAndWait() }
        try eventually("the queue's end to close") { buffer.dropsNewKeys() }
        buffer.onStatusUpdated(.inSync)
        #expect(buffer.statistics.pendingStatuses == 1)
        gate.open()
        try finish.join()
        try loop.end()
        #expect(sink.calls == [.updates([.new("taken", 0)]), .status(.resyncInProgress)])
        try expectStopped(buffer)
    }

    @Test(arguments: LoopKind.allCases)
    func finish_fromTheSink_leavesTheQueueOpen(kind: LoopKind) throws {
        let (buffer, sink) = (buffer, sink)
        sink.onEachCall { call in
            buffer.finishAndWait()
            guard call.items.first?.key == "a" else { return }
            buffer.set("b", 2)
            buffer.onStatusUpdated(.inSync)
        }
        buffer.set("a", 1)
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try sink.wait(forItems: 2)
        try bounded("finish from outside") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.calls == [.updates([.new("a", 1)]), .updates([.new("b", 2)]), .status(.inSync)])
        try expectStopped(buffer)
    }

    @Test(arguments: LoopKind.allCases)
    func finish_fromOutside_afterOneFromTheSink_closesTheQueuesEnd(kind: LoopKind) throws {
        let (buffer, sink, gate) = (buffer, sink, Gate())
        sink.onEachCall { _ in
            buffer.finishAndWait()
            gate.pass()
        }
        buffer.set("a", 1)
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try gate.waitForArrival()
        buffer.set("b", 1)
        #expect(!buffer.dropsNewKeys())
        let finish = Worker("finish") { buffer.finishAndWait() }
        try eventually("the queue's end to close") { buffer.dropsNewKeys() }
        #expect(buffer.statistics.pendingKeys == 1)
        gate.open()
        try finish.join()
        try loop.end()
        #expect(sink.calls == [.updates([.new("a", 1)]), .updates([.new("b", 1)])])
        try expectStopped(buffer)
    }

    // MARK: Beside producers that do not end

    @Test(arguments: LoopKind.allCases)
    func finish_besideASinkThatKeepsTheQueueFull_returns(kind: LoopKind) throws {
        let (buffer, sink) = (buffer, ReplayingSink())
        sink.onEachList { list in
            if let last = list.last { buffer.set("key \((last.value ?? 0) % 2)", (last.value ?? 0) + 1) }
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("key 0", 0)
        try sink.wait(forUpdates: 1)
        buffer.set("mine", 1)
        try bounded("finish") { buffer.finishAndWait() }
        #expect(sink.state["mine"] == 1)
        try loop.end()
        try eventually("counts that add up") { buffer.statistics.unaccounted == 0 }
        try expectStopped(buffer)
    }

    @Test(arguments: LoopKind.allCases)
    func finish_besideProducers_deliversWhatWasReceivedBefore(kind: LoopKind) throws {
        let (buffer, sink, over) = (makeBuffer(batchSize: 5) as StringBuffer, ReplayingSink(), Kept(false))
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("first", 0)
        try sink.wait(forUpdates: 1)
        let producers = (0..<2).map { producer in
            Worker("producer") {
                var n = 0
                while !over.value {
                    buffer.set("producer \(producer), key \(n % 50)", n)
                    n += 1
                }
            }
        }
        for n in 0..<200 { buffer.set("mine \(n)", n) }
        try bounded("finish") { buffer.finishAndWait() }
        let state = sink.state
        over.change { $0 = true }
        for producer in producers { try producer.join() }
        #expect((0..<200).allSatisfy { (n: Int) in state["mine \(n)"] == n })
        #expect(sink.violations == [])
        try loop.end()
        try expectStopped(buffer)
    }
}
