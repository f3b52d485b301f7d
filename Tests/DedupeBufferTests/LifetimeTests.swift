// SPDX-License-Identifier: Apache-2.0

// What keeps what alive: buffer, loop, sink, values. Every value's end is counted, and none may
// come under the lock.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

@Suite("Lifetimes of values")
struct ValueLifetimeTests {
    typealias TrackedBuffer = DedupeBuffer<String, Tracked>

    private let tracker = LifetimeTracker()

    /// A buffer without other effects on the values: what its sink receives is forgotten.
    private func deliver(_ buffer: TrackedBuffer) throws {
        let sink = ForgettingSink<String, Tracked>()
        do { while true { try buffer.sendNextBatchToSink(sink) } } catch DedupeBufferError.emptyQueue {}
    }

    private func expectEnded(_ count: Int, of created: Int) {
        #expect(tracker.created == created)
        #expect(tracker.destroyed == count)
        #expect(tracker.destroyedTwice == [])
    }

    @Test func value_whilePending_isKept() {
        let buffer = TrackedBuffer()
        buffer.set("a", tracker.make())
        expectEnded(0, of: 1)
        withExtendedLifetime(buffer) {}
    }

    @Test func value_replacedByAValue_ends() {
        let buffer = TrackedBuffer()
        buffer.set("a", tracker.make())
        buffer.set("a", tracker.make())
        expectEnded(1, of: 2)
        withExtendedLifetime(buffer) {}
    }

    @Test func value_replacedByADeletion_ends() throws {
        let buffer = TrackedBuffer()
        buffer.set("a", tracker.make())
        try deliver(buffer)
        buffer.set("a", tracker.make())
        buffer.delete("a")
        expectEnded(2, of: 2)
    }

    /// The slots of updates with a key that is too long were used before, and no value is in them.
    @Test func values_ofEarlierUpdates_doNotEndAgain_whenUpdatesAreRejected() throws {
        let buffer = TrackedBuffer()
        let values = (0..<4).map { _ in tracker.make() }
        let updates = values.enumerated().map { Update(key: "key \($0)", value: $1) }
        for _ in 0..<3 { buffer.onUpdates(updates) }
        let tooLong = String(repeating: "k", count: 65_537)
        buffer.onUpdates(values.map { Update(key: tooLong, value: $0) })
        #expect(buffer.statistics.rejected == 4)
        try deliver(buffer)
        try withExtendedLifetime((values, updates)) { try #require(tracker.destroyed == 0) }
    }

    @Test func value_cancelled_ends() {
        let buffer = TrackedBuffer()
        buffer.set("a", tracker.make())
        buffer.delete("a")
        expectEnded(1, of: 1)
        withExtendedLifetime(buffer) {}
    }

    @Test func values_droppedByARestart_end() {
        let buffer = TrackedBuffer()
        for n in 0..<300 { buffer.set("key \(n)", tracker.make()) }
        buffer.onConnectionRestarted()
        expectEnded(300, of: 300)
        withExtendedLifetime(buffer) {}
    }

    @Test func values_receivedAfterStop_end() {
        let buffer = TrackedBuffer()
        buffer.set("a", tracker.make())
        buffer.stop()
        buffer.set("a", tracker.make())
        buffer.set("b", tracker.make())
        expectEnded(2, of: 3)
        withExtendedLifetime(buffer) {}
    }

    @Test func values_leftOver_endWithTheBuffer() throws {
        do {
            let buffer = TrackedBuffer()
            for n in 0..<300 { buffer.set("key \(n)", tracker.make()) }
            try buffer.sendNextBatchToSink(ForgettingSink<String, Tracked>())
            for n in 0..<150 { buffer.set("key \(n)", tracker.make()) }
            buffer.onStatusUpdated(.inSync)
            expectEnded(150, of: 450)
        }
        expectEnded(450, of: 450)
    }

    @Test func values_leftOverAfterStop_endWithTheBuffer() {
        do {
            let buffer = TrackedBuffer()
            for n in 0..<50 { buffer.set("key \(n)", tracker.make()) }
            buffer.stop()
            expectEnded(0, of: 50)
        }
        expectEnded(50, of: 50)
    }

    @Test func value_delivered_isNotKept_thoughItsKeyIsLive() throws {
        let buffer = TrackedBuffer()
        for n in 0..<250 { buffer.set("key \(n)", tracker.make()) }
        try deliver(buffer)
        #expect(buffer.statistics.liveKeys == 250)
        expectEnded(250, of: 250)
    }

    @Test func values_keptByTheSink_outliveTheBuffer() throws {
        let sink = RecordingSink<String, Tracked>()
        do {
            let buffer = TrackedBuffer()
            for n in 0..<150 { buffer.set("key \(n)", tracker.make()) }
            try buffer.sendNextBatchToSink(sink)
        }
        #expect(tracker.alive == 100)
        #expect(sink.items.map(\.value?.number) == (0..<100).map { $0 })
        sink.takeCalls()
        expectEnded(150, of: 150)
    }

    @Test func value_ofARejectedUpdate_ends() {
        let buffer = TrackedBuffer()
        buffer.set(String(repeating: "x", count: 65_537), tracker.make())
        expectEnded(1, of: 1)
        withExtendedLifetime(buffer) {}
    }

    @Test func value_inSeveralUpdates_endsOnce() throws {
        do {
            let buffer = TrackedBuffer()
            let value = tracker.make()
            buffer.onUpdates((0..<20).map { Update(key: "key \($0 % 7)", value: value) })
            try deliver(buffer)
            buffer.onUpdates((0..<20).map { Update(key: "key \($0 % 7)", value: $0 % 3 == 0 ? nil : value) })
        }
        expectEnded(1, of: 1)
    }

    @Test func list_isNotRetained() throws {
        let buffer = TrackedBuffer()
        do {
            var list = (0..<10).map { Update(key: "key \($0)", value: tracker.make()) }
            buffer.onUpdates(list)
            buffer.onUpdatesKeysKnown(list, keys: list.map(\.key))
            list.removeAll()
        }
        expectEnded(0, of: 10)
        try deliver(buffer)
        expectEnded(10, of: 10)
    }

    @Test func longQueue_endsWithoutDeepRecursion() throws {
        do {
            let buffer = TrackedBuffer()
            for n in 0..<20_000 { buffer.set("key \(n)", tracker.make()) }
        }
        expectEnded(20_000, of: 20_000)
    }

    /// A restart works in bounded steps (D6): of many dropped values some may end after it has
    /// returned, but none after the buffer.
    @Test func longQueue_droppedByARestart_endsWithTheBufferAtTheLatest() throws {
        do {
            let buffer = TrackedBuffer()
            for n in 0..<20_000 { buffer.set("key \(n)", tracker.make()) }
            buffer.onConnectionRestarted()
            #expect(buffer.statistics.dropped == 20_000)
            #expect(buffer.statistics.pendingKeys == 0)
            #expect(tracker.destroyedTwice == [])
        }
        expectEnded(20_000, of: 20_000)
    }

    /// Where a loop runs, nobody has to call anything more for that.
    @Test(arguments: LoopKind.allCases)
    func longQueue_droppedByARestart_endsBesideALoop(kind: LoopKind) throws {
        let (buffer, sink, gate) = (TrackedBuffer(), RecordingSink<String, Tracked>(), Gate())
        sink.onEachCall { _ in gate.pass() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("first", tracker.make())
        try gate.waitForArrival()
        for n in 0..<20_000 { buffer.set("key \(n)", tracker.make()) }
        buffer.onConnectionRestarted()
        gate.open()
        try eventually("every dropped value's end") { tracker.destroyed == 20_000 }
        #expect(sink.items.count == 1)
        #expect(tracker.destroyedTwice == [])
        buffer.stop()
        try loop.end()
    }

    @Test func randomOperations_endEveryValueOnce() throws {
        let seed = announcedSeed("randomOperations_endEveryValueOnce")
        for round in 0..<rounds(30) {
            var random = SeededGenerator(seed: seed &+ UInt64(round))
            let tracker = LifetimeTracker()
            do {
                let buffer: TrackedBuffer = makeBuffer(batchSize: Int.random(in: 1...20, using: &random))
                let sink = ForgettingSink<String, Tracked>()
                for _ in 0..<300 {
                    let key = "key \(Int.random(in: 0..<15, using: &random))"
                    switch Int.random(in: 0..<20, using: &random) {
                    case 0..<11: buffer.set(key, tracker.make())
                    case 11..<15: buffer.delete(key)
                    case 15: buffer.onConnectionRestarted()
                    case 16: buffer.onStatusUpdated(SyncStatus(rawValue: .random(in: 0...2, using: &random))!)
                    default: try? buffer.sendNextBatchToSink(sink)
                    }
                    // Nobody but the queue holds a value now.
                    #expect(tracker.alive <= buffer.statistics.pendingKeys)
                }
            }
            #expect(tracker.alive == 0, "DEDUPE_TEST_SEED=\(seed), round \(round)")
            #expect(tracker.destroyedTwice == [], "DEDUPE_TEST_SEED=\(seed), round \(round)")
        }
    }

    // MARK: A value whose end calls the buffer

    /// How a value comes to its end.
    enum End: CaseIterable, Sendable {
        case replaced, replacedByDeletion, cancelled, restart, afterStop, rejected, delivered, withTheBuffer
    }

    /// What it does then.
    enum Deed: CaseIterable, Sendable {
        case statistics, update, deletionOfItsKey, status, restart, stop

        func `do`(to buffer: TrackedBuffer, _ tracker: LifetimeTracker) {
            switch self {
            case .statistics: _ = buffer.statistics
            case .update: buffer.set("by a value's end", tracker.make())
            case .deletionOfItsKey: buffer.delete("a")
            case .status: buffer.onStatusUpdated(.inSync)
            case .restart: buffer.onConnectionRestarted()
            case .stop: buffer.stop()
            }
        }
    }

    @Test(arguments: End.allCases, Deed.allCases)
    func value_whoseEndCallsTheBuffer_doesNotDeadlock(end: End, deed: Deed) throws {
        let tracker = tracker
        let happened = Kept(0)
        let unaccounted = try bounded("a value's end, \(end), that does: \(deed)") {
            let buffer = TrackedBuffer()
            weak let again = buffer
            let make: @Sendable () -> Tracked = {
                tracker.make(atEnd: {
                    happened.change { $0 += 1 }
                    if let buffer = again { deed.do(to: buffer, tracker) }
                })
            }
            let sink = ForgettingSink<String, Tracked>()
            switch end {
            case .replaced:
                buffer.set("a", make())
                buffer.set("a", tracker.make())
            case .replacedByDeletion:
                buffer.set("a", tracker.make())
                try buffer.sendNextBatchToSink(sink)
                buffer.set("a", make())
                buffer.delete("a")
            case .cancelled:
                buffer.set("a", make())
                buffer.delete("a")
            case .restart:
                for n in 0..<150 { buffer.set("key \(n)", make()) }
                buffer.onConnectionRestarted()
            case .afterStop:
                buffer.stop()
                buffer.set("a", make())
            case .rejected:
                buffer.set(String(repeating: "x", count: 70_000), make())
            case .delivered:
                buffer.set("a", make())
                try buffer.sendNextBatchToSink(sink)
            case .withTheBuffer:
                for n in 0..<150 { buffer.set("key \(n)", make()) }
            }
            return buffer.statistics.unaccounted
        }
        #expect(unaccounted == 0)
        try eventually("every value's end") { tracker.alive == 0 }
        #expect(happened.value == (end == .restart || end == .withTheBuffer ? 150 : 1))
        #expect(tracker.destroyedTwice == [])
    }
}

@Suite("Lifetimes of buffers, loops and sinks")
struct BufferLifetimeTests {
    /// The kinds whose loop is nobody's stack frame.
    static let queued: [LoopKind] = [.ownQueue, .serialQueue, .concurrentQueue, .globalQueue]

    private func start<Key, Value>(
        _ kind: LoopKind, _ buffer: DedupeBuffer<Key, Value>, _ sink: some SyncerCallbacks<Key, Value>
    ) throws {
        switch kind {
        case .serialQueue: try buffer.startSending(to: sink, on: DispatchQueue(label: "test.serial"))
        case .concurrentQueue:
            try buffer.startSending(to: sink, on: DispatchQueue(label: "test.concurrent", attributes: .concurrent))
        case .globalQueue: try buffer.startSending(to: sink, on: DispatchQueue.global())
        case .ownQueue: try buffer.startSending(to: sink)
        case .blockingThread: Issue.record("a loop that needs a thread")
        }
    }

    // MARK: The buffer

    @Test func buffer_neverStarted_ends() {
        weak var observed: StringBuffer?
        do {
            let buffer = StringBuffer()
            buffer.set("a", 1)
            buffer.onStatusUpdated(.inSync)
            observed = buffer
        }
        #expect(observed == nil)
    }

    @Test(arguments: queued)
    func buffer_withAnIdleLoop_neverUsed_ends_andReleasesTheSink(kind: LoopKind) throws {
        let released = DispatchSemaphore(value: 0)
        weak var observed: StringBuffer?
        do {
            let buffer = StringBuffer()
            observed = buffer
            try start(kind, buffer, StringSink(whenReleased: { released.signal() }))
        }
        try released.wait(for: "release of the sink")
        try eventually("end of the buffer") { observed == nil }
    }

    @Test(arguments: queued)
    func buffer_withAnIdleLoop_ends_andReleasesTheSink(kind: LoopKind) throws {
        let released = DispatchSemaphore(value: 0)
        weak var observed: StringBuffer?
        do {
            let buffer = StringBuffer()
            observed = buffer
            let sink = StringSink(whenReleased: { released.signal() })
            try start(kind, buffer, sink)
            buffer.set("a", 1)
            try sink.wait(forItems: 1)
        }
        try released.wait(for: "release of the sink")
        try eventually("end of the buffer") { observed == nil }
    }

    @Test(arguments: queued)
    func runningDrain_keepsBufferAndSink(kind: LoopKind) throws {
        let (gate, released, tracker) = (Gate(), DispatchSemaphore(value: 0), LifetimeTracker())
        weak var observed: DedupeBuffer<String, Tracked>?
        weak var observedSink: RecordingSink<String, Tracked>?
        do {
            let buffer: DedupeBuffer<String, Tracked> = makeBuffer(batchSize: 3)
            let sink = RecordingSink<String, Tracked>(whenReleased: { released.signal() })
            (observed, observedSink) = (buffer, sink)
            sink.onEachCall { _ in gate.pass() }
            for n in 0..<10 { buffer.set("key \(n)", tracker.make()) }
            buffer.onStatusUpdated(.inSync)
            try start(kind, buffer, sink)
            try gate.waitForArrival()
        }
        #expect(observed != nil)
        #expect(observedSink?.items.count == 3)
        gate.open()
        try released.wait(for: "release of the sink")
        try eventually("end of the buffer") { observed == nil }
        try eventually("every value's end") { tracker.alive == 0 }
        #expect(tracker.destroyedTwice == [])
    }

    @Test(arguments: queued)
    func buffer_droppedRightAfterItsStart_endsEverything(kind: LoopKind) throws {
        for _ in 0..<rounds(100) {
            let (tracker, released) = (LifetimeTracker(), DispatchSemaphore(value: 0))
            weak var observed: DedupeBuffer<String, Tracked>?
            do {
                let buffer = DedupeBuffer<String, Tracked>()
                observed = buffer
                let sink = ForgettingSink<String, Tracked>(whenReleased: { released.signal() })
                buffer.set("a", tracker.make())
                try start(kind, buffer, sink)
                for n in 0..<5 { buffer.set("key \(n)", tracker.make()) }
            }
            try released.wait(for: "release of the sink")
            try eventually("end of the buffer") { observed == nil }
            try eventually("every value's end") { tracker.alive == 0 }
            #expect(tracker.destroyedTwice == [])
        }
    }

    @Test(arguments: queued)
    func buffer_droppedRightAfterItsStop_endsEverything(kind: LoopKind) throws {
        for round in 0..<rounds(100) {
            let (tracker, released) = (LifetimeTracker(), DispatchSemaphore(value: 0))
            do {
                let buffer: DedupeBuffer<String, Tracked> = makeBuffer(batchSize: 2)
                let sink = ForgettingSink<String, Tracked>(whenReleased: { released.signal() })
                for n in 0..<20 { buffer.set("key \(n)", tracker.make()) }
                try start(kind, buffer, sink)
                for _ in 0..<(round % 20) { sched_yield() }
                buffer.stop()
            }
            try released.wait(for: "release of the sink")
            try eventually("every value's end") { tracker.alive == 0 }
            #expect(tracker.destroyedTwice == [])
        }
    }

    /// The sink holds the last reference to the buffer and drops it in the middle of a batch.
    @Test(arguments: queued)
    func buffer_droppedByItsSink_endsAfterTheBatch(kind: LoopKind) throws {
        final class Holder: Sendable { let buffer = Kept<StringBuffer?>(nil) }
        let (released, calls, holder) = (DispatchSemaphore(value: 0), Kept(0), Holder())
        weak var observed: StringBuffer?
        do {
            let buffer = StringBuffer()
            observed = buffer
            let sink = StringSink(whenReleased: { released.signal() })
            sink.onEachCall { _ in
                holder.buffer.change { $0 = nil }
                calls.change { $0 += 1 }
            }
            buffer.set("a", 1)
            buffer.onStatusUpdated(.inSync)
            buffer.set("b", 1)
            holder.buffer.change { $0 = buffer }
            try start(kind, buffer, sink)
        }
        try released.wait(for: "release of the sink")
        try eventually("end of the buffer") { observed == nil }
        #expect(calls.value == 3)
    }

    @Test func blockingLoop_keepsTheBuffer_untilItReturns() throws {
        weak var observed: StringBuffer?
        let loop: RunningLoop
        do {
            let (buffer, sink) = (StringBuffer(), StringSink())
            observed = buffer
            loop = try RunningLoop(.blockingThread, running: buffer, to: sink, first: "a", 0)
        }
        #expect(observed != nil)
        observed?.stop()
        try loop.end()
        try eventually("end of the buffer") { observed == nil }
    }

    // MARK: The sink

    @Test(arguments: queued)
    func sink_isKept_whileTheLoopIsIdle(kind: LoopKind) throws {
        let buffer = StringBuffer()
        weak var observed: StringSink?
        do {
            let sink = StringSink()
            observed = sink
            try start(kind, buffer, sink)
        }
        #expect(observed != nil)
        buffer.set("a", 1)
        try observed?.wait(forItems: 1)
        #expect(observed != nil)
        buffer.stop()
    }

    @Test(arguments: queued, [true, false])
    func sink_isReleased_afterStopOrFinish(kind: LoopKind, finish: Bool) throws {
        let buffer = StringBuffer()
        let released = DispatchSemaphore(value: 0)
        do {
            let sink = StringSink(whenReleased: { released.signal() })
            try start(kind, buffer, sink)
            buffer.set("a", 1)
            try sink.wait(forItems: 1)
        }
        try bounded("the end") { if finish { buffer.finishAndWait() } else { buffer.stop() } }
        try released.wait(for: "release of the sink")
        #expect(buffer.statistics.delivered == 1)
    }

    @Test(arguments: queued, [true, false])
    func sink_isReleased_afterStopOrFinish_fromItself(kind: LoopKind, finish: Bool) throws {
        let buffer = StringBuffer()
        let released = DispatchSemaphore(value: 0)
        do {
            let sink = StringSink(whenReleased: { released.signal() })
            sink.onEachCall { _ in if finish { buffer.finishAndWait() } else { buffer.stop() } }
            try start(kind, buffer, sink)
        }
        buffer.set("a", 1)
        try released.wait(for: "release of the sink")
    }

    /// A sink that holds its buffer is a cycle until the loop has ended.
    @Test(arguments: queued)
    func sinkHoldingItsBuffer_isReleased_afterStop(kind: LoopKind) throws {
        let released = DispatchSemaphore(value: 0)
        weak var observed: StringBuffer?
        do {
            let buffer = StringBuffer()
            observed = buffer
            let sink = StringSink(whenReleased: { released.signal() })
            sink.onEachCall { _ in _ = buffer.statistics }
            try start(kind, buffer, sink)
            buffer.set("a", 1)
            try sink.wait(forItems: 1)
            buffer.stop()
        }
        try released.wait(for: "release of the sink")
        try eventually("end of the buffer") { observed == nil }
    }

    @Test func sink_ofASingleBatch_isNotKept() throws {
        let buffer = StringBuffer()
        let released = DispatchSemaphore(value: 0)
        buffer.set("a", 1)
        try buffer.sendNextBatchToSink(StringSink(whenReleased: { released.signal() }))
        try released.wait(for: "release of the sink")
        #expect(buffer.statistics.delivered == 1)
    }

    @Test func sink_refused_isNotKept() throws {
        let (buffer, sink) = (StringBuffer(), StringSink())
        try buffer.startSending(to: sink)
        let released = DispatchSemaphore(value: 0)
        #expect(throws: DedupeBufferError.alreadySending) {
            try buffer.startSending(to: StringSink(whenReleased: { released.signal() }))
        }
        try released.wait(for: "release of the sink that was refused")
        buffer.stop()
    }
}

/// A key that holds something that ends.
private struct MortalKey: DedupeKey {
    let name: String
    let life: Tracked?

    func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R { try name.withKeyBytes(body) }

    init(name: String, life: Tracked?) {
        self.name = name
        self.life = life
    }

    init?(keyBytes: RawSpan) {
        guard let name = String(keyBytes: keyBytes) else { return nil }
        self.init(name: name, life: nil)
    }
}

@Suite("Keys' lifetimes")
struct KeyLifetimeTests {
    /// Whatever becomes of an update, its key does not outlive it, and ends once.
    @Test(arguments: [Int?.none, 30])
    func keys_endWithTheirUpdates(bound: Int?) throws {
        let tracker = LifetimeTracker()
        do {
            var configuration = DedupeBufferConfiguration(batchSize: 7)
            configuration.skipsUnchangedRevisions = true
            var merge: (@Sendable (Int, Int) -> Int)?
            if bound != nil { merge = { older, newer in older + newer } }
            let buffer = DedupeBuffer<MortalKey, Int>(
                configuration: configuration, bound: bound.map { .keys($0) }, merge: merge)
            let sink = ForgettingSink<MortalKey, Int>()
            var random = SeededGenerator(seed: 1)
            for _ in 0..<400 {
                var updates: [Update<MortalKey, Int>] = []
                for _ in 0..<Int.random(in: 1...150, using: &random) {
                    let key = MortalKey(name: "key \(Int.random(in: 0..<60, using: &random))", life: tracker.make())
                    updates.append(Update(key: key, value: random.oneIn(3) ? nil : 1, revision: 1))
                }
                buffer.onUpdates(updates)
                updates = []
                #expect(tracker.alive <= 60)
                if random.oneIn(10) { buffer.onConnectionRestarted() }
                if random.oneIn(10) { buffer.onStatusUpdated(.inSync) }
                do { try buffer.sendNextBatchToSink(sink) } catch DedupeBufferError.emptyQueue {}
            }
            let statistics = buffer.statistics
            #expect(statistics.unaccounted == 0)
        }
        #expect(tracker.alive == 0)
        #expect(tracker.destroyedTwice == [])
    }
}
