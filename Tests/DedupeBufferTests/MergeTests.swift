// SPDX-License-Identifier: Apache-2.0

// Updates of one key that are merged: each goes into what is delivered exactly once, in order, also
// beside other threads. The rules of merging are in Tests/Scenarios.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

private typealias ListBuffer = DedupeBuffer<String, [Int]>
private typealias ListSink = RecordingSink<String, [Int]>

/// A buffer that appends the newer list to the older.
private func listBuffer(batchSize: Int = 100) -> ListBuffer {
    ListBuffer(
        configuration: DedupeBufferConfiguration(
            batchSize: batchSize, label: "test", retry: .init(maximumAttempts: 1)), merge: { $0 + $1 })
}

/// One that stands before `gate` when it merges something into a list that begins with `marked`.
private func gatedBuffer(_ gate: Gate, marked: Int = -1, batchSize: Int = 100) -> ListBuffer {
    ListBuffer(
        configuration: DedupeBufferConfiguration(
            batchSize: batchSize, label: "test", retry: .init(maximumAttempts: 1)),
        merge: { older, newer in
            if older.first == marked { gate.pass() }
            return older + newer
        })
}

/// Calls the buffer from inside its `merge`.
private func callFromMerge(_ call: @escaping @Sendable (StringBuffer) -> Void) {
    let holder = Kept<StringBuffer?>(nil)
    let buffer = StringBuffer(merge: { older, newer in
        holder.value.map(call)
        return older + newer
    })
    holder.change { $0 = buffer }
    buffer.set("a", 1)
    buffer.set("a", 2)
    holder.change { $0 = nil }
}

/// A value that puts a deletion when it ends.
private final class Putting: Sendable, Equatable {
    static func == (left: Putting, right: Putting) -> Bool { left === right }

    private let buffer: Kept<DedupeBuffer<String, Putting>?>

    init(_ buffer: Kept<DedupeBuffer<String, Putting>?>) { self.buffer = buffer }

    deinit { buffer.value?.onUpdates([Update(key: "ended", value: nil)]) }
}

@Suite("Merging")
struct MergeTests {
    private let buffer = listBuffer()

    // MARK: What is merged

    @Test(arguments: Intake.allCases)
    func updatesOfOneCall_areMergedToo(intake: Intake) throws {
        let updates = (0..<1_000).map { Update<String, [Int]>(key: "key \($0 % 7)", value: [$0]) }
        intake.send(updates, to: buffer)
        let items = try buffer.flush().items()
        #expect(items.map(\.key) == (0..<7).map { "key \($0)" })
        for (n, item) in items.enumerated() { #expect(item.value == Array(stride(from: n, to: 1_000, by: 7))) }
        #expect(buffer.statistics.replaced == 993)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func firstValue_isNotMerged() throws {
        let calls = Kept(0)
        let buffer = StringBuffer(merge: { older, newer in
            calls.change { $0 += 1 }
            return older + newer
        })
        buffer.set("a", 1)
        buffer.delete("b")
        buffer.set("b", 1)
        #expect(calls.value == 0)
        buffer.set("a", 2)
        #expect(calls.value == 1)
        buffer.stop()
        buffer.set("a", 3)
        #expect(calls.value == 1)
    }

    enum Call: CaseIterable { case stop, statistics, finish }

    /// A merge may end the buffer, and look at it.
    @Test(arguments: Call.allCases)
    func merge_thatCallsTheBuffer_goesOn(_ call: Call) throws {
        let holder = Kept<StringBuffer?>(nil)
        let buffer = StringBuffer(merge: { older, newer in
            guard let buffer = holder.value else { return older + newer }
            switch call {
            case .stop: buffer.stop()
            case .statistics: #expect(buffer.statistics.pendingKeys == 1)
            case .finish: buffer.finishAndWait()
            }
            return older + newer
        })
        holder.change { $0 = buffer }
        defer { holder.change { $0 = nil } }
        buffer.set("a", 1)
        try bounded("merging") { buffer.set("a", 2) }
        #expect(buffer.statistics.replaced == 1)
        #expect(buffer.statistics.pendingKeys == 1)
        #expect(buffer.statistics.unaccounted == 0)
        if call == .statistics { #expect(try buffer.flush() == [.updates([.new("a", 3)])]) }
    }

    #if compiler(>=6.2)
    /// What would wait for the merge itself ends the program instead.
    @Test func merge_thatPutsIntoItsBuffer_endsTheProgram() async {
        await #expect(processExitsWith: .failure) { callFromMerge { $0.onUpdates([Update(key: "b", value: 1)]) } }
        await #expect(processExitsWith: .failure) { callFromMerge { $0.onStatusUpdated(.inSync) } }
        await #expect(processExitsWith: .failure) { callFromMerge { $0.onConnectionRestarted() } }
        await #expect(processExitsWith: .failure) {
            callFromMerge { try? $0.sendNextBatchToSink(StringSink()) }
        }
    }

    @Test func merge_thatPutsIntoAnotherBuffer_goesOn() async {
        await #expect(processExitsWith: .success) {
            let second = StringBuffer(merge: { $0 + $1 })
            second.set("a", 1)
            callFromMerge { _ in second.set("a", 2) }
        }
    }
    #endif

    /// A value's `deinit` may put into the buffer, also that of a value whose place the result of a
    /// merge takes.
    @Test func valueThatPutsWhenItEnds_mayBeMerged() async throws {
        let holder = Kept<DedupeBuffer<String, Putting>?>(nil)
        let buffer = DedupeBuffer<String, Putting>(
            configuration: DedupeBufferConfiguration(retry: .init(maximumAttempts: 1)),
            merge: { _, _ in Putting(holder) })
        holder.change { $0 = buffer }
        for _ in 0..<3 { buffer.set("a", Putting(holder)) }
        let sink = ScriptedSink<Putting> { _, _ in
            buffer.set("a", Putting(holder))
            throw SinkFailure()
        }
        await #expect(throws: SinkFailure.self) { try await within("run") { try await buffer.run(sink: sink) } }
        holder.change { $0 = nil }
        #expect(buffer.statistics.unaccounted == 0)
    }

    // MARK: Sinks that fail

    /// Runs with a sink that fails; `duringFailure` inside the call that does. Then what is
    /// delivered.
    private func failOnce(
        _ buffer: ListBuffer, _ duringFailure: @escaping @Sendable () -> Void
    ) async throws -> [Event<String, [Int]>] {
        let sink = ScriptedSink<[Int]> { _, _ in
            duringFailure()
            throw SinkFailure()
        }
        await #expect(throws: SinkFailure.self) { try await within("run") { try await buffer.run(sink: sink) } }
        return try bounded("flush") { try buffer.flush() }
    }

    @Test func whatAFailingSinkGivesBack_isMergedWithWhatIsPending() async throws {
        let buffer = buffer
        buffer.set("a", [1], revision: 1)
        buffer.set("a", [2], revision: 2)
        buffer.set("b", [1])
        let calls = try await failOnce(buffer) {
            buffer.set("a", [3], revision: 3)
            buffer.set("a", [4], revision: 4)
        }
        #expect(calls == [.updates([.new("a", [1, 2, 3, 4], revision: 4), .new("b", [1])])])
        #expect(buffer.statistics.unaccounted == 0)
    }

    // MARK: Against the model

    /// A pair (m, c) for x -> m * x + c, in one integer; merged by applying one after the other:
    /// order matters, grouping does not.
    private static func chain(_ older: Int, _ newer: Int) -> Int {
        func split(_ value: Int) -> (UInt32, UInt32) {
            // The pair of a plain number; one that was merged has its highest bit set.
            let bits = UInt64(bitPattern: Int64(value))
            if bits >> 63 == 0 {
                return (UInt32(truncatingIfNeeded: 2 * bits + 3) & 0x7FFF_FFFF, UInt32(truncatingIfNeeded: bits))
            }
            return (UInt32(truncatingIfNeeded: bits >> 32) & 0x7FFF_FFFF, UInt32(truncatingIfNeeded: bits))
        }
        let ((m1, c1), (m2, c2)) = (split(older), split(newer))
        let (m, c) = ((m1 &* m2) & 0x7FFF_FFFF, (c1 &* m2 &+ c2) & 0x7FFF_FFFF)
        return Int(Int64(bitPattern: 1 << 63 | UInt64(m) << 32 | UInt64(c)))
    }

    private static let rules = Model.Rules(merge: { chain($0, $1) })

    @Test func chain_showsOrder_andIsAssociative() {
        #expect(Self.chain(1, 2) != Self.chain(2, 1))
        #expect(Self.chain(Self.chain(1, 2), 3) == Self.chain(1, Self.chain(2, 3)))
        #expect(Self.chain(Self.chain(1, 2), 2) != Self.chain(1, 2))
    }

    @Test(arguments: [2, 8, 60])
    func randomSequences(keys: Int) throws {
        try ModelTests.compareAtRandom("merge", keys: keys) { _ in Self.rules }
    }

    @Test(arguments: [1, 2, 3, 100])
    func failingSink_atRandom(batchSize: Int) async throws {
        try await RunModelTests.playAtRandom("merge", batchSize: batchSize) { random in
            var rules = Self.rules
            rules.suppresses = random.oneIn(3)
            return rules
        }
    }

    // MARK: Threads

    /// Every writer's numbers ascend: in what a key was delivered, all of them are there, once, and
    /// in order.
    private func check(_ items: [Item<String, [Int]>], writers: Int, keys: Int, each: Int) {
        var next = Array(repeating: 0, count: writers)
        var byKey: [String: [Int]] = [:]
        for item in items { byKey[item.key, default: []] += item.value ?? [] }
        var all = 0
        for (key, numbers) in byKey {
            all += numbers.count
            next = Array(repeating: -1, count: writers)
            for number in numbers {
                let (writer, place) = (number / 1_000_000, number % 1_000_000)
                if place <= next[writer] {
                    Issue.record("\(key): \(place) of writer \(writer) after \(next[writer])")
                    return
                }
                next[writer] = place
            }
        }
        #expect(all == writers * each)
        #expect(byKey.count == keys)
    }

    @Test(arguments: LoopKind.allCases)
    func manyWritersBesideALoop_everyUpdateOnce_inOrder(kind: LoopKind) throws {
        let (buffer, sink) = (listBuffer(batchSize: 2), ListSink())
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "first", [0])
        let each = rounds(6_000)
        let writers = (0..<4).map { writer in
            Worker<Void>("writer \(writer)") {
                for n in 0..<each { buffer.set("key \(n % 3)", [writer * 1_000_000 + n]) }
            }
        }
        for writer in writers { try writer.join() }
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        check(sink.items, writers: 4, keys: 3, each: each)
        #expect(sink.violations == [])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test(arguments: [1, 3, 100])
    func manyWritersBesideASinkThatFails_everyUpdateOnce_inOrder(batchSize: Int) async throws {
        let buffer = ListBuffer(
            configuration: DedupeBufferConfiguration(
                batchSize: batchSize, retry: .init(maximumAttempts: nil, clock: ImpatientClock())),
            merge: { $0 + $1 })
        let sink = ScriptedSink<[Int]> { _, number in if number % 3 != 0 { throw SinkFailure() } }
        let task = Task { try await buffer.run(sink: sink) }
        let each = rounds(3_000)
        let writers = (0..<3).map { writer in
            Worker<Void>("writer \(writer)") {
                for n in 0..<each {
                    buffer.onUpdates([Update(key: "key \(n % 3)", value: [writer * 1_000_000 + n])])
                    if n % 50 == 0 { usleep(50) }
                }
            }
        }
        try await eventually("the writers' end") { writers.allSatisfy(\.hasReturned) }
        try await within("finish") { await buffer.finish() }
        try await outcome(of: task, "run")
        check(sink.delivered.items(), writers: 3, keys: 3, each: each)
        #expect(!sink.hasOverlapped)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func manyWriters_withDeletionsAndRestarts_allIsAccountedFor_andEndsOnce() throws {
        let tracker = LifetimeTracker()
        do {
            let buffer = DedupeBuffer<String, [Tracked]>(
                configuration: DedupeBufferConfiguration(batchSize: 3).with { $0.skipsUnchangedRevisions = true },
                bound: .bytes(1_000, keys: 12, weight: \.count), merge: { Array(($0 + $1).suffix(4)) })
            let sink = ForgettingSink<String, [Tracked]>()
            let loop = try RunningLoop(.ownQueue, of: buffer, to: sink)
            let writers = (0..<4).map { writer in
                Worker<Void>("writer \(writer)") {
                    var random = SeededGenerator(seed: UInt64(writer))
                    for _ in 0..<rounds(3_000) {
                        var updates: [Update<String, [Tracked]>] = []
                        for _ in 0..<3 {
                            let key = "key \(Int.random(in: 0..<20, using: &random))"
                            updates.append(
                                Update(
                                    key: key, value: random.oneIn(6) ? nil : [tracker.make()],
                                    revision: .random(in: 0...2, using: &random)))
                        }
                        buffer.onUpdates(updates)
                        if random.oneIn(40) { buffer.onConnectionRestarted() }
                        if random.oneIn(10) { buffer.onStatusUpdated(.inSync) }
                    }
                }
            }
            for writer in writers { try writer.join() }
            buffer.onConnectionRestarted()
            buffer.onUpdates((0..<12).map { Update(key: "key \($0)", value: [tracker.make()]) })
            try bounded("finish") { buffer.finishAndWait() }
            try loop.end()
            #expect(buffer.statistics.unaccounted == 0)
            #expect(buffer.statistics.pendingBytes == 0)
            #expect(buffer.statistics.liveKeys >= 12)
        }
        try eventually("the end of all values") { tracker.alive == 0 }
        #expect(tracker.destroyedTwice == [])
    }

    @Test func valuesThatStayPending_endWithTheBuffer() throws {
        let tracker = LifetimeTracker()
        do {
            let buffer = DedupeBuffer<String, [Tracked]>(
                bound: .bytes(1_000, weight: \.count), merge: { $0 + $1 })
            for n in 0..<100 { buffer.set("key \(n % 9)", [tracker.make()]) }
            #expect(tracker.alive == 100)
            buffer.delete("key 0")
            #expect(tracker.alive == 88)
        }
        #expect(tracker.alive == 0)
        #expect(tracker.destroyedTwice == [])
    }

    @Test func olderAndNewer_endWithTheirMerge() throws {
        let tracker = LifetimeTracker()
        let buffer = DedupeBuffer<String, Tracked>(merge: { _, _ in tracker.make() })
        buffer.set("a", tracker.make())
        buffer.set("a", tracker.make())
        #expect(tracker.created == 3)
        #expect(tracker.alive == 1)
        buffer.set("a", tracker.make())
        #expect(tracker.alive == 1)
        try buffer.sendNextBatchToSink(ForgettingSink())
        #expect(tracker.alive == 0)
        #expect(tracker.destroyedTwice == [])
    }

    @Test func olderAndNewer_mergedWhenABatchGoesBack_endThen() async throws {
        let (tracker, clock) = (LifetimeTracker(), TestClock())
        let buffer = DedupeBuffer<String, Tracked>(
            configuration: DedupeBufferConfiguration(retry: .init(clock: clock)), merge: { _, _ in tracker.make() })
        let running = Task {
            try await buffer.run { _ in
                buffer.set("a", tracker.make())
                throw SinkFailure()
            }
        }
        buffer.set("a", tracker.make())
        try await clock.waitForSleeper()
        #expect(tracker.created == 3)
        // The run lets go of the batch before the pause, so the result alone is left.
        #expect(tracker.alive == 1)
        buffer.stop()
        await #expect(throws: SinkFailure.self) { try await outcome(of: running, "run") }
        #expect(tracker.destroyedTwice == [])
    }

    @Test(arguments: [false, true])
    func mergeThatReturnsOneOfTheTwo_keepsIt(older: Bool) throws {
        let tracker = LifetimeTracker()
        let buffer = DedupeBuffer<String, Tracked>(merge: { older ? $0 : $1 })
        for _ in 0..<5 { buffer.set("a", tracker.make()) }
        #expect(tracker.alive == 1)
        #expect(try buffer.flush().items().map(\.value?.number) == [older ? 0 : 4])
        #expect(tracker.alive == 0)
        #expect(tracker.destroyedTwice == [])
    }

    // MARK: A merge that takes its time

    /// "slow" is pending and being merged with on a thread that stands before the gate.
    private func beginMerge(_ gate: Gate, _ buffer: ListBuffer) throws -> Worker<Void> {
        buffer.set("slow", [-1])
        let worker = Worker<Void>("a merge") { buffer.set("slow", [1]) }
        try gate.waitForArrival()
        return worker
    }

    @Test func loopThatComesDuringAMerge_isWokenAfterwards() throws {
        let gate = Gate()
        defer { gate.open() }
        let (buffer, sink) = (gatedBuffer(gate, batchSize: 2), ListSink())
        buffer.set("ahead 1", [1])
        buffer.set("ahead 2", [1])
        let merging = try beginMerge(gate, buffer)
        let loop = try RunningLoop(.ownQueue, of: buffer, to: sink)
        // It looks in vain, or will.
        usleep(20_000)
        #expect(sink.items == [])
        #expect(!merging.hasReturned)
        gate.open()
        try merging.join()
        try sink.wait(forItems: 3)
        #expect(sink.items == [.new("ahead 1", [1]), .new("ahead 2", [1]), .new("slow", [-1, 1])])
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.violations == [])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func singleBatch_waitsForAMerge() throws {
        let gate = Gate()
        defer { gate.open() }
        let (buffer, sink) = (gatedBuffer(gate), ListSink())
        let merging = try beginMerge(gate, buffer)
        let sending = Worker<Void>("a batch") { try? buffer.sendNextBatchToSink(sink) }
        usleep(20_000)
        #expect(!sending.hasReturned)
        gate.open()
        try merging.join()
        try sending.join()
        #expect(sink.items == [.new("slow", [-1, 1])])
    }

    @Test func otherUpdates_waitForAMerge_andGoInAfterwards() throws {
        let gate = Gate()
        defer { gate.open() }
        let buffer = gatedBuffer(gate)
        let merging = try beginMerge(gate, buffer)
        let others = (2..<6).map { n in Worker<Void>("another update") { buffer.set("slow", [n]) } }
        let another = Worker<Void>("an update of another key") { buffer.set("other", [0]) }
        usleep(20_000)
        #expect(!another.hasReturned)
        gate.open()
        try merging.join()
        for other in others { try other.join() }
        try another.join()
        let items = try bounded("flush") { try buffer.flush() }.items()
        #expect(items.map(\.key) == ["slow", "other"])
        #expect(items.first?.value?.prefix(2) == [-1, 1])
        #expect(items.first?.value?.dropFirst(2).sorted() == [2, 3, 4, 5])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func restOfACall_comesAfterItsMerge() throws {
        let gate = Gate()
        defer { gate.open() }
        let buffer = gatedBuffer(gate)
        buffer.set("slow", [-1])
        let call = Worker<Void>("a call") {
            buffer.onUpdates([
                Update(key: "a", value: [1]), Update(key: "slow", value: [1]), Update(key: "a", value: [2]),
                Update(key: "slow", value: [2]), Update(key: "b", value: [1]),
            ])
        }
        try gate.waitForArrival()
        gate.open()
        try call.join()
        #expect(
            try bounded("flush") { try buffer.flush() }
                == [.updates([.new("slow", [-1, 1, 2]), .new("a", [1, 2]), .new("b", [1])])])
    }

    @Test func deletion_duringAMerge_comesAfterIt() throws {
        let gate = Gate()
        defer { gate.open() }
        let buffer = gatedBuffer(gate)
        buffer.set("slow", [0])
        _ = try bounded("flush") { try buffer.flush() }
        let merging = try beginMerge(gate, buffer)
        let deleting = Worker<Void>("a deletion") { buffer.delete("slow", revision: 3) }
        gate.open()
        try merging.join()
        try deleting.join()
        let items = try bounded("flush") { try buffer.flush() }.items()
        #expect(items == [.deleted("slow", revision: 3)])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func restart_duringAMerge_dropsBoth_orTheNewerComesAfterwards() throws {
        let gate = Gate()
        defer { gate.open() }
        let buffer = gatedBuffer(gate)
        let merging = try beginMerge(gate, buffer)
        let restarting = Worker<Void>("a restart") {
            buffer.onConnectionRestarted()
            buffer.set("after", [1])
        }
        // Whether the restart waits for the merge is the buffer's to choose.
        usleep(20_000)
        gate.open()
        try merging.join()
        try restarting.join()
        let items = try bounded("flush") { try buffer.flush() }.items()
        #expect(items.filter { $0.key == "after" } == [.new("after", [1])])
        #expect(items.filter { $0.key == "slow" && $0.value?.first == -1 } == [])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func overflow_duringAMerge_dropsWhatIsMerged() throws {
        let (gate, overflows) = (Gate(), Kept(0))
        defer { gate.open() }
        let buffer = ListBuffer(
            configuration: .with { $0.onOverflow = { overflows.change { $0 += 1 } } },
            bound: .bytes(100, keys: 1, weight: \.count),
            merge: { older, newer in
                if older.first == -1 { gate.pass() }
                return older + newer
            })
        let merging = try beginMerge(gate, buffer)
        let other = Worker<Void>("one key more") { buffer.set("other", [1]) }
        usleep(20_000)
        gate.open()
        try merging.join()
        try other.join()
        #expect(overflows.value == 1)
        #expect(try bounded("flush") { try buffer.flush() } == [])
        #expect(buffer.statistics.pendingBytes == 0)
        #expect(buffer.statistics.dropped + buffer.statistics.replaced == 3)
        #expect(buffer.statistics.unaccounted == 0)
        buffer.onConnectionRestarted()
        buffer.set("other", [1])
        #expect(try bounded("flush") { try buffer.flush() } == [.updates([.new("other", [1])])])
    }

    @Test(arguments: LoopKind.allCases)
    func finish_duringAMerge_deliversIt(kind: LoopKind) throws {
        let gate = Gate()
        defer { gate.open() }
        let (buffer, sink) = (gatedBuffer(gate), ListSink())
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "first", [0])
        let atSink = Gate()
        defer { atSink.open() }
        sink.onEachCall { _ in atSink.pass() }
        buffer.set("holds the sink", [0])
        try atSink.waitForArrival()
        let merging = try beginMerge(gate, buffer)
        let finishing = Worker<Void>("finish") { buffer.finishAndWait() }
        atSink.open()
        usleep(20_000)
        #expect(!finishing.hasReturned)
        gate.open()
        try merging.join()
        try finishing.join()
        try loop.end()
        let values = sink.items.filter { $0.key == "slow" }.map(\.value)
        #expect(values.first == [-1, 1])
        #expect(values.count == 1)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test(arguments: LoopKind.allCases)
    func stop_duringAMerge_endsTheLoop(kind: LoopKind) throws {
        let gate = Gate()
        defer { gate.open() }
        let (buffer, sink) = (gatedBuffer(gate), ListSink())
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "first", [0])
        let atSink = Gate()
        defer { atSink.open() }
        sink.onEachCall { _ in atSink.pass() }
        buffer.set("holds the sink", [0])
        try atSink.waitForArrival()
        let merging = try beginMerge(gate, buffer)
        atSink.open()
        let stopping = Worker<Void>("stop") { buffer.stop() }
        usleep(20_000)
        gate.open()
        try merging.join()
        try stopping.join()
        try loop.end()
        buffer.set("late", [1])
        #expect(!sink.items.contains { $0.key == "late" })
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func failingSink_givesBack_duringAMerge() async throws {
        let gate = Gate()
        defer { gate.open() }
        let buffer = gatedBuffer(gate, marked: 2)
        buffer.set("a", [1])
        let merging = Kept<Worker<Void>?>(nil)
        let sink = ScriptedSink<[Int]> { _, _ in
            buffer.onUpdates([Update(key: "a", value: [2])])
            let worker = Worker<Void>("a merge") { buffer.onUpdates([Update(key: "a", value: [3])]) }
            merging.change { $0 = worker }
            try gate.waitForArrival()
            // Opened while what failed is being given back, or before.
            DispatchQueue.global().async { gate.open() }
            throw SinkFailure()
        }
        await #expect(throws: SinkFailure.self) { try await within("run") { try await buffer.run(sink: sink) } }
        try await eventually("the merge's end") { merging.value?.hasReturned == true }
        #expect(try bounded("flush") { try buffer.flush() } == [.updates([.new("a", [1, 2, 3])])])
        #expect(buffer.statistics.unaccounted == 0)
    }
}
