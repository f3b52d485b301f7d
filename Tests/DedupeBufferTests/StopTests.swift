// SPDX-License-Identifier: Apache-2.0

// stop(): from everywhere, at any time, more than once.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

@Suite("stop()")
struct StopTests {
    private let buffer = StringBuffer()
    private let sink = StringSink()

    // MARK: Before a loop

    @Test(arguments: DeliveryLoopTests.Way.allCases)
    func sending_whenStoppedBefore_isRefused(way: DeliveryLoopTests.Way) throws {
        let (buffer, sink) = (buffer, sink)
        buffer.set("a", 1)
        buffer.stop()
        #expect(throws: DedupeBufferError.stopped) {
            try bounded("\(way) on a stopped buffer") { try way.send(buffer, to: sink) }
        }
        #expect(sink.calls == [])
    }

    @Test func sendNextBatch_whenStoppedAndEmpty_isStopped_notEmpty() throws {
        buffer.stop()
        #expect(throws: DedupeBufferError.stopped) { try buffer.sendNextBatchToSink(sink) }
    }

    @Test func stop_leavesWhatIsPending_andCountsWhatComesLater_asDropped() throws {
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        buffer.stop()
        buffer.set("b", 2)
        buffer.set("a", 3)
        buffer.delete("a")
        buffer.onUpdatesKeysKnown([Update(key: "c", value: 1), Update(key: "d", value: nil)], keys: ["c", "d"])
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onUpdates([])
        let statistics = buffer.statistics
        #expect(statistics.pendingKeys == 1)
        #expect(statistics.pendingStatuses == 1)
        #expect(statistics.received == 6)
        #expect(statistics.dropped == 5)
        #expect(statistics.rejected == 0)
        #expect(statistics.replaced == 0)
        #expect(statistics.cancelled == 0)
        #expect(statistics.unaccounted == 0)
    }

    @Test func stop_isIdempotent() throws {
        buffer.stop()
        buffer.stop()
        buffer.stop()
        #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: sink) }
    }

    // MARK: A loop that sleeps

    @Test(arguments: LoopKind.allCases)
    func stop_endsASleepingLoop(kind: LoopKind) throws {
        let (buffer, sink) = (buffer, sink)
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 0)
        try bounded("stop") { buffer.stop() }
        try loop.end()
        buffer.set("b", 1)
        buffer.onStatusUpdated(.inSync)
        try loop.settle()
        #expect(sink.calls == [])
        #expect(buffer.statistics.dropped == 1)
        #expect(throws: DedupeBufferError.stopped) { try buffer.sendNextBatchToSink(sink) }
    }

    @Test(arguments: LoopKind.allCases)
    func stop_twice_andFromTwoThreads(kind: LoopKind) throws {
        for _ in 0..<rounds(50) {
            let (buffer, sink) = (StringBuffer(), StringSink())
            let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 0)
            let line = StartingLine(2)
            let stops = (0..<2).map { _ in
                Worker("stop") {
                    line.ready()
                    buffer.stop()
                    buffer.stop()
                }
            }
            for stop in stops { try stop.join() }
            try loop.end()
        }
    }

    @Test func stop_whileTheDrainWaitsForItsQueue_deliversNothing() throws {
        let queue = DispatchQueue(label: "test.suspended")
        queue.suspend()
        try buffer.startSending(to: sink, on: queue)
        buffer.set("a", 1)
        buffer.stop()
        queue.resume()
        for _ in 0..<3 { try bounded("the queue") { queue.sync {} } }
        #expect(sink.calls == [])
        #expect(buffer.statistics.pendingKeys == 1)
        #expect(buffer.statistics.unaccounted == 0)
    }

    // MARK: A loop that delivers

    @Test(arguments: LoopKind.allCases)
    func stop_whileTheSinkIsBlocked_returns_andOnlyThatBatchIsDelivered_whole(kind: LoopKind) throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 3)
        let (sink, gate) = (sink, Gate())
        sink.onEachCall { _ in gate.pass() }
        buffer.set("a", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("b", 2)
        buffer.set("c", 3)
        buffer.onStatusUpdated(.inSync)
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try gate.waitForArrival()
        try bounded("stop beside a blocked sink") { buffer.stop() }
        buffer.set("d", 4)
        gate.open()
        try sink.wait(forCalls: 3)
        try loop.end()
        #expect(sink.calls == [.updates([.new("a", 1)]), .status(.resyncInProgress), .updates([.new("b", 2)])])
        #expect(sink.violations == [])
        let statistics = buffer.statistics
        #expect(statistics.pendingKeys == 1)
        #expect(statistics.pendingStatuses == 1)
        #expect(statistics.dropped == 1)
    }

    @Test(arguments: LoopKind.allCases)
    func stop_fromTheSink_deliversTheBatchWhole_andNothingAfter(kind: LoopKind) throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 3)
        sink.onEachCall { _ in buffer.stop() }
        buffer.set("a", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("b", 2)
        buffer.set("c", 3)
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try sink.wait(forCalls: 3)
        try loop.end()
        #expect(sink.calls == [.updates([.new("a", 1)]), .status(.resyncInProgress), .updates([.new("b", 2)])])
        #expect(throws: DedupeBufferError.stopped) {
            try bounded("startSending") { try buffer.startSending(to: StringSink()) }
        }
        try eventually("counts that add up") { buffer.statistics.unaccounted == 0 }
        #expect(buffer.statistics.pendingKeys == 1)
    }

    @Test func stop_fromTheSinkOfASingleBatch_deliversItWhole() throws {
        let (buffer, sink) = (makeBuffer(batchSize: 2) as StringBuffer, sink)
        sink.onEachCall { _ in buffer.stop() }
        buffer.onStatusUpdated(.inSync)
        buffer.set("a", 1)
        buffer.set("b", 2)
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.status(.inSync), .updates([.new("a", 1)])])
        #expect(throws: DedupeBufferError.stopped) { try buffer.sendNextBatchToSink(sink) }
    }

    @Test(arguments: LoopKind.allCases)
    func stop_fromOtherWorkOnTheDeliveryQueue_andFromAnotherSink(kind: LoopKind) throws {
        let (buffer, other, otherSink) = (buffer, StringBuffer(), StringSink())
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 0)
        let stopped = Kept(false)
        otherSink.onEachCall { _ in
            buffer.stop()
            stopped.change { $0 = true }
        }
        try other.startSending(to: otherSink, on: loop.queue)
        other.set("b", 1)
        // The call is recorded before the hook has run.
        try eventually("a stop") { stopped.value }
        try loop.end()
        buffer.set("c", 1)
        try loop.settle()
        #expect(sink.calls == [])
        other.stop()
    }

    /// One entry per batch: after stop() has returned, at most the batch that had been taken before
    /// may begin.
    @Test(arguments: LoopKind.allCases)
    func stop_onceReturned_noNewBatchBegins(kind: LoopKind) throws {
        for _ in 0..<rounds(50) {
            let (buffer, sink) = (makeBuffer(batchSize: 1) as StringBuffer, StringSink())
            let stopped = Kept(false)
            let late = Kept(0)
            sink.onEachCall { _ in
                if stopped.value { late.change { $0 += 1 } }
            }
            for n in 0..<300 { buffer.set("key \(n)", n) }
            let loop = try RunningLoop(kind, of: buffer, to: sink)
            try sink.wait(forCalls: 3)
            buffer.stop()
            stopped.change { $0 = true }
            try loop.end()
            try eventually("counts that add up") { buffer.statistics.unaccounted == 0 }
            #expect(late.value <= 1)
        }
    }

    // MARK: Races

    @Test(arguments: LoopKind.allCases)
    func stop_racingWithProducers(kind: LoopKind) throws {
        for round in 0..<rounds(150) {
            let tracker = LifetimeTracker()
            do {
                let buffer = DedupeBuffer<String, Tracked>()
                let sink = ForgettingSink<String, Tracked>()
                let loop = try RunningLoop(kind, of: buffer, to: sink)
                let line = StartingLine(3)
                var workers = (0..<2).map { producer in
                    Worker("producer") {
                        line.ready()
                        for n in 0..<20 {
                            let value = n % 5 == 4 ? nil : tracker.make()
                            buffer.onUpdates([Update(key: "key \((n + producer) % 7)", value: value)])
                            if n % 6 == 5 { buffer.onStatusUpdated(n % 4 < 2 ? .inSync : .resyncInProgress) }
                            if n == 11, producer == 1 { buffer.onConnectionRestarted() }
                        }
                    }
                }
                workers.append(
                    Worker("stop") {
                        line.ready()
                        for _ in 0..<(round % 50) { sched_yield() }
                        buffer.stop()
                    })
                for worker in workers { try worker.join() }
                // A thread that had not yet begun to send when stop() came is refused.
                do { try loop.end() } catch DedupeBufferError.stopped {}
                try eventually("counts that add up") { buffer.statistics.unaccounted == 0 }
                #expect(buffer.statistics.received == 40)
            }
            try eventually("every value's end") { tracker.alive == 0 }
            #expect(tracker.destroyedTwice == [])
        }
    }

    @Test(arguments: LoopKind.allCases)
    func stop_racingWithTheStart(kind: LoopKind) throws {
        for _ in 0..<rounds(150) {
            let (buffer, sink) = (StringBuffer(), StringSink())
            buffer.set("a", 1)
            let line = StartingLine(2)
            let stop = Worker("stop") {
                line.ready()
                buffer.stop()
            }
            let start = Worker("start") { () -> RunningLoop? in
                line.ready()
                do { return try RunningLoop(kind, of: buffer, to: sink) } catch DedupeBufferError.stopped { return nil }
            }
            try stop.join()
            do { try start.join()?.end() } catch DedupeBufferError.stopped {}
            #expect(sink.calls.count <= 1)
            #expect(throws: DedupeBufferError.stopped) { try buffer.sendNextBatchToSink(sink) }
        }
    }
}
