// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch
import Foundation
import Testing

/// Faults that were found and fixed, each by its name; then faults of other systems, by the
/// system's name.
@Suite struct RegressionTests {
    /// `finish()` on the delivery queue read that no loop needs the queue, then waited for one that
    /// had just begun.
    @Test func finish_onTheQueue_whileALoopBeginsThere_returns() throws {
        for round in 0..<400 {
            let (buffer, queue) = (StringBuffer(), DispatchQueue(label: "q"))
            let begun = DispatchSemaphore(value: 0)
            let finished = DispatchSemaphore(value: 0)
            queue.async {
                begun.signal()
                for _ in 0..<round { _ = buffer.statistics }
                buffer.finishAndWait()
                finished.signal()
            }
            begun.wait()
            try? buffer.startSending(to: StringSink(), on: queue)
            #expect(finished.wait(timeout: .now() + 60) == .success)
            buffer.stop()
        }
    }

    /// A second loop that was refused took away the mark by which `finish()` knows the first one's
    /// queue.
    @Test func finish_onTheQueue_afterASecondLoopWasRefused_returns() throws {
        let (buffer, queue) = (StringBuffer(), DispatchQueue(label: "q"))
        try buffer.startSending(to: StringSink(), on: queue)
        #expect(throws: DedupeBufferError.alreadySending) {
            try buffer.startSending(to: StringSink(), on: queue)
        }
        let finished = DispatchSemaphore(value: 0)
        queue.async {
            buffer.finishAndWait()
            finished.signal()
        }
        #expect(finished.wait(timeout: .now() + 60) == .success)
    }

    /// A key that wrote itself twice moved later payloads to where no slot was.
    @Test func keyThatCallsItsBodyTwice_isOneKey() throws {
        let buffer = DedupeBuffer<TwiceKey, CountedValue>()
        let tracker = LifeCount()
        buffer.onUpdates((0..<250).map { Update(key: TwiceKey(text: "key \($0)"), value: CountedValue(tracker)) })
        buffer.onUpdates((0..<250).map { Update(key: TwiceKey(text: "key \($0)"), value: CountedValue(tracker)) })
        #expect(buffer.statistics.pendingKeys == 250)
        #expect(buffer.statistics.replaced == 250)
        #expect(tracker.alive == 250)
    }

    /// Without a loop, most of what a large restart dropped stayed until the buffer's end.
    @Test func restart_withoutALoop_destroysAllThatItDropped() {
        let buffer = DedupeBuffer<UInt64, CountedValue>()
        let tracker = LifeCount()
        buffer.onUpdates((0..<20_000).map { Update(key: UInt64($0), value: CountedValue(tracker)) })
        #expect(tracker.alive == 20_000)
        buffer.onConnectionRestarted()
        #expect(tracker.alive == 0)
    }

    /// A mark that stays on a queue is taken for its own by a buffer that comes to where the one
    /// that left it was.
    @Test func bufferThatIsLetGo_leavesNoMarkOnItsQueue() throws {
        try expectNoMarks { queue in
            let buffer = StringBuffer()
            try buffer.startSending(to: StringSink(), on: queue)
            queue.sync {}
        }
    }

    @Test func bufferThatIsStoppedOrFinished_leavesNoMarkOnItsQueue() throws {
        for end in [{ $0.stop() }, { $0.finishAndWait() }] as [(StringBuffer) -> Void] {
            try expectNoMarks { queue in
                let buffer = StringBuffer()
                try buffer.startSending(to: StringSink(), on: queue)
                queue.sync {}
                end(buffer)
            }
        }
    }

    /// The second start marks the queue before it is refused.
    @Test func bufferThatIsStartedAgainAfterItsEnd_leavesNoMarkOnItsQueue() throws {
        try expectNoMarks { queue in
            let buffer = StringBuffer()
            try buffer.startSending(to: StringSink(), on: queue)
            buffer.stop()
            queue.sync {}
            #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: StringSink(), on: queue) }
        }
    }

    /// Marks go by the address of their key: new keys, some of which come to where the buffer's
    /// was, must find none.
    private func expectNoMarks(_ useAndLetGo: (DispatchQueue) throws -> Void) throws {
        for _ in 0..<100 {
            let queue = DispatchQueue(label: "q")
            try useAndLetGo(queue)
            queue.sync {}
            let keys = (0..<200).map { _ in DispatchSpecificKey<Bool>() }
            try #require(queue.sync { keys.allSatisfy { DispatchQueue.getSpecific(key: $0) == nil } })
        }
    }

    // MARK: The original's faults; the others are in Tests/Scenarios, D1 to D7

    @Test(arguments: LoopKind.allCases)
    func d1_repeatedInSyncAfterARestart_wakesTheSleepingLoop(kind: LoopKind) throws {
        let buffer = StringBuffer()
        let sink = StringSink()
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 1)
        buffer.onStatusUpdated(.inSync)
        try sink.wait(forCalls: 1)
        try loop.settle()
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        try sink.wait(forCalls: 3)
        try loop.settle()
        #expect(sink.calls == [.status(.inSync), .updates([.deleted("a")]), .status(.inSync)])
        buffer.set("b", 2)
        try sink.wait(forCalls: 4)
        #expect(sink.calls.last == .updates([.new("b", 2)]))
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases)
    func d1_everyTimeAnew(kind: LoopKind) throws {
        let buffer = StringBuffer()
        let sink = StringSink()
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "key 0", 0)
        buffer.onStatusUpdated(.inSync)
        try sink.wait(forCalls: 1)
        for round in 1...rounds(100) {
            sink.takeCalls()
            buffer.onConnectionRestarted()
            buffer.onStatusUpdated(.inSync)
            try sink.wait(forCalls: 2)
            #expect(sink.takeCalls().flatMap(\.items) == [.deleted("key \(round - 1)")])
            buffer.set("key \(round)", round)
            try sink.wait(forItems: 1)
        }
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test func d2_statusTakenButNotYetWithTheSink_countsAsTaken() throws {
        let buffer = StringBuffer()
        let sink = StringSink()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        sink.onEachCall { call in
            guard call == .updates([.new("a", 1)]) else { return }
            buffer.onConnectionRestarted()
            buffer.set("a", 2)
            buffer.onStatusUpdated(.inSync)
        }
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.updates([.new("a", 1)]), .status(.inSync)])
        #expect(try buffer.flush() == [.updates([.updated("a", 2)]), .status(.inSync)])
    }

    /// That the steps are bounded cannot be told without a clock. That the steps lose nothing can:
    /// producers and a loop work while 20,000 live keys are remembered and swept.
    @Test func d6_restartAndSweepOfALargeLiveSet_besideProducersAndALoop_loseNothing() throws {
        let count = 20_000
        let buffer = StringBuffer()
        let sink = ReplayingSink()
        buffer.onUpdates((0..<count).map { Update(key: "key \($0)", value: $0) })
        let loop = try RunningLoop(.ownQueue, of: buffer, to: sink)
        try sink.wait(forUpdates: count)

        // The producer touches only keys of its own, so that what must be left in the end is known.
        let stop = Kept(false)
        let producer = Worker("producer") {
            var round = 0
            while !stop.value {
                buffer.set("mine \(round % 50)", round)
                round += 1
            }
        }
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onUpdates((0..<count / 2).map { Update(key: "key \($0)", value: -$0) })
        buffer.onStatusUpdated(.inSync)
        stop.change { $0 = true }
        try producer.join()
        for n in 0..<50 { buffer.set("mine \(n)", n) }
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()

        #expect(sink.violations == [])
        var expected: [String: Int] = [:]
        for n in 0..<count / 2 { expected["key \(n)"] = -n }
        for n in 0..<50 { expected["mine \(n)"] = n }
        #expect(sink.state == expected)
        #expect(buffer.statistics.liveKeys == expected.count)
        #expect(buffer.statistics.unaccounted == 0)
    }
    // MARK: Other systems' faults

    /// Entries stayed alive after they were read, until their place in the ring was used again.
    @Test func lmaxCoalescingRingBuffer_keepsValuesAliveThatWereRead() throws {
        let buffer = DedupeBuffer<UInt64, CountedValue>()
        let tracker = LifeCount()
        buffer.onUpdates((0..<50).map { Update(key: $0, value: CountedValue(tracker)) })
        try buffer.sendNextBatchToSink(ForgettingSink<UInt64, CountedValue>())
        #expect(tracker.alive == 0)
        #expect(buffer.statistics.liveKeys == 50)
    }

    /// A lock was held while a callback ran. The sink stays inside its call until the producers are
    /// done: what proves that they did not wait for it is the order of events.
    @Test(arguments: LoopKind.allCases)
    func controllerRuntimeAndKafka_makeProducersWaitForASinkThatBlocks(kind: LoopKind) throws {
        let (buffer, sink, gate, events) = (StringBuffer(), StringSink(), Gate(), Kept<[String]>([]))
        sink.onEachCall { _ in
            events.change { $0.append("sink blocks") }
            let opened = gate.pass()
            events.change { $0.append(opened ? "sink goes on" : "sink lost patience") }
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("first", 0)
        try gate.waitForArrival()
        let producers = (0..<2).map { producer in
            Worker("producer") {
                for n in 0..<5_000 { buffer.set("\(producer)/\(n % 100)", n) }
                buffer.onConnectionRestarted()
                buffer.onStatusUpdated(.inSync)
            }
        }
        for producer in producers { try producer.join() }
        events.change { $0.append("producers are done") }
        #expect(buffer.statistics.received == 10_001)
        buffer.stop()
        gate.open()
        try eventually("end of the sink's call") { events.change { $0.count } == 3 }
        #expect(events.change { $0.joined(separator: ", ") } == "sink blocks, producers are done, sink goes on")
        try loop.end()
    }
}

private struct TwiceKey: DedupeKey {
    var text: String

    func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        _ = try text.withKeyBytes(body)
        return try text.withKeyBytes(body)
    }

    init(text: String) { self.text = text }

    init?(keyBytes: RawSpan) {
        guard let text = String(keyBytes: keyBytes) else { return nil }
        self.text = text
    }
}

/// Counts the living.
private final class LifeCount: @unchecked Sendable {
    private let lock = NSLock()
    private var count = 0

    var alive: Int { lock.withLock { count } }

    func change(by delta: Int) { lock.withLock { count += delta } }
}

private final class CountedValue: Sendable {
    private let tracker: LifeCount

    init(_ tracker: LifeCount) {
        self.tracker = tracker
        tracker.change(by: 1)
    }

    deinit { tracker.change(by: -1) }
}
