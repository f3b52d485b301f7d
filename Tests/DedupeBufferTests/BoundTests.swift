// SPDX-License-Identifier: Apache-2.0

// A buffer with bounds: the callback of an overflow, how values are weighed, and threads. The rules
// of bounds are in Tests/Scenarios.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

@Suite("Bounds")
struct BoundTests {
    private let overflows = Kept(0)

    /// Weighs an update by its value.
    private func makeBuffer(
        keys: Int? = nil, bytes: Int? = nil, batchSize: Int = 100, merge: (@Sendable (Int, Int) -> Int)? = nil
    ) -> StringBuffer {
        let overflows = overflows
        var configuration = DedupeBufferConfiguration(batchSize: batchSize, retry: .init(maximumAttempts: 1))
        configuration.onOverflow = { overflows.change { $0 += 1 } }
        return StringBuffer(
            configuration: configuration, bound: .optional(keys: keys, bytes: bytes) { $0 }, merge: merge)
    }

    /// A buffer whose callback gets the buffer.
    private func withBuffer(
        keys: Int, onOverflow: @escaping @Sendable (StringBuffer) -> Void, body: (StringBuffer) throws -> Void
    ) rethrows {
        let holder = Kept<StringBuffer?>(nil)
        let overflows = overflows
        var configuration = DedupeBufferConfiguration()
        configuration.onOverflow = {
            overflows.change { $0 += 1 }
            if let buffer = holder.value { onOverflow(buffer) }
        }
        let buffer = StringBuffer(configuration: configuration, bound: .keys(keys))
        holder.change { $0 = buffer }
        defer { holder.change { $0 = nil } }
        try body(buffer)
    }

    private static func list(_ range: Range<Int>, named name: String = "key") -> [Update<String, Int>] {
        range.map { (n: Int) in Update(key: "\(name) \(n)", value: 1) }
    }

    private func list(_ range: Range<Int>) -> [Update<String, Int>] { Self.list(range) }

    // MARK: Keys

    @Test func bounds_areOffByDefault() {
        #expect(DedupeBufferConfiguration().onOverflow == nil)
        let buffer = StringBuffer()
        buffer.onUpdates(list(0..<10_000))
        #expect(buffer.statistics.pendingKeys == 10_000)
        #expect(buffer.statistics.overflows == 0)
        #expect(buffer.statistics.pendingBytes == 0)
    }

    @Test func withoutACallback_itIsOnlyCounted() throws {
        let buffer = StringBuffer(bound: .keys(1))
        buffer.onUpdates(list(0..<3))
        #expect(buffer.statistics.overflows == 1)
        #expect(try buffer.nextBatch() == nil)
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        #expect(try buffer.flush() == [.updates([.new("a", 1)])])
    }

    // MARK: The callback

    @Test func callback_mayRestart_andNothingOfThatCallComesAfterwards() throws {
        try withBuffer(
            keys: 10, onOverflow: { $0.onConnectionRestarted() },
            body: { buffer in
                let updates = list(0..<10_000)
                try bounded("a callback that restarts") { buffer.onUpdates(updates) }
                #expect(overflows.value == 1)
                #expect(buffer.statistics.pendingKeys == 0)
                #expect(buffer.statistics.dropped == 10_000)
                #expect(buffer.statistics.unaccounted == 0)
                #expect(try buffer.nextBatch() == nil)
                buffer.onUpdates(list(0..<10))
                #expect(overflows.value == 1)
                #expect(try buffer.flush().items().count == 10)
            })
    }

    @Test(arguments: Intake.inOneCall)
    func callback_maySendEverythingAgain(intake: Intake) throws {
        try withBuffer(
            keys: 10,
            onOverflow: { buffer in
                buffer.onConnectionRestarted()
                intake.send(Self.list(0..<5, named: "again"), to: buffer)
                buffer.onStatusUpdated(.inSync)
            },
            body: { buffer in
                for count in [11, 63, 64, 65, 129, 1_000] {
                    let updates = list(0..<count)
                    let before = overflows.value
                    try bounded("a callback that sends all") { intake.send(updates, to: buffer) }
                    #expect(overflows.value == before + 1)
                    let delivered = try buffer.flush().items().map(\.key)
                    #expect(delivered == ["again 0", "again 1", "again 2", "again 3", "again 4"])
                    #expect(buffer.statistics.unaccounted == 0)
                }
            })
    }

    @Test func callback_mayOverflowAgain() throws {
        let left = Kept(3)
        try withBuffer(
            keys: 2,
            onOverflow: { buffer in
                buffer.onConnectionRestarted()
                let again = left.change { left in
                    left -= 1
                    return left > 0
                }
                buffer.onUpdates(Self.list(0..<(again ? 5 : 2), named: "again"))
            },
            body: { buffer in
                let updates = list(0..<3)
                try bounded("callbacks in callbacks") { buffer.onUpdates(updates) }
                #expect(overflows.value == 3)
                #expect(buffer.statistics.overflows == 3)
                #expect(try buffer.flush().items().map(\.key) == ["again 0", "again 1"])
            })
    }

    @Test func callback_mayStopTheBuffer() throws {
        try withBuffer(
            keys: 1, onOverflow: { $0.stop() },
            body: { buffer in
                let updates = list(0..<3)
                try bounded("a callback that stops") { buffer.onUpdates(updates) }
                #expect(overflows.value == 1)
                #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: StringSink()) }
            })
    }

    @Test func callback_isCalledByTheThreadThatSends_withNoLockHeld() throws {
        let other = Kept<Bool>(false)
        let thread = Kept<ObjectIdentifier?>(nil)
        try withBuffer(
            keys: 1,
            onOverflow: { buffer in
                thread.change { $0 = ObjectIdentifier(Thread.current) }
                let worker = Worker<Void>("another thread's calls") {
                    buffer.onConnectionRestarted()
                    buffer.set("other", 1)
                    _ = buffer.statistics
                    _ = try buffer.flush()
                }
                let isFree = (try? worker.join()) != nil
                other.change { $0 = isFree }
            },
            body: { buffer in
                let updates = list(0..<2)
                let sender = try bounded("overflow") {
                    buffer.onUpdates(updates)
                    return ObjectIdentifier(Thread.current)
                }
                #expect(other.value)
                #expect(thread.value == sender)
                #expect(try buffer.flush() == [])
            })
    }

    @Test func updatesThatAreRefused_areToldToo() {
        let told = Kept<[String]>([])
        var configuration = DedupeBufferConfiguration()
        configuration.onOverflow = { told.change { $0.append("overflow") } }
        configuration.onRejection = { _ in told.change { $0.append("rejection") } }
        let buffer = StringBuffer(configuration: configuration, bound: .keys(1))
        let long = String(repeating: "k", count: 70_000)
        buffer.onUpdates(list(0..<2) + [Update(key: long, value: 1)])
        #expect(told.value.sorted() == ["overflow", "rejection"])
        #expect(buffer.statistics.dropped == 3)
        #expect(buffer.statistics.rejected == 1)
        #expect(buffer.statistics.unaccounted == 0)
    }

    // MARK: Bytes

    @Test func weight_isAskedOnceForEachValue() throws {
        let weighed = Kept<[Int]>([])
        let buffer = StringBuffer(
            bound: .bytes(100) { value in
                weighed.change { $0.append(value) }
                return value
            })
        buffer.onUpdates([
            Update(key: "a", value: 1), Update(key: "b", value: 2), Update(key: "a", value: 3),
            Update(key: "a", value: nil),
        ])
        _ = try buffer.flush()
        #expect(weighed.value == [1, 2, 3])
    }

    @Test func whatAFailingSinkGivesBack_weighsAgain_andMayGoBeyond() async throws {
        let buffer = makeBuffer(keys: 2, bytes: 100)
        buffer.onUpdates([Update(key: "a", value: 50), Update(key: "b", value: 50)])
        let sink = ScriptedSink<Int> { _, _ in
            buffer.onUpdates([Update(key: "a", value: 30), Update(key: "c", value: 40)])
            throw SinkFailure()
        }
        await #expect(throws: SinkFailure.self) { try await within("run") { try await buffer.run(sink: sink) } }
        #expect(overflows.value == 0)
        #expect(buffer.statistics.pendingKeys == 3)
        #expect(buffer.statistics.pendingBytes == 120)
        let calls = try bounded("flush") { try buffer.flush() }
        #expect(calls == [.updates([.new("a", 30), .new("b", 50), .new("c", 40)])])
        #expect(buffer.statistics.pendingBytes == 0)
    }

    // MARK: Against the model

    @Test(arguments: [2, 8, 60], [false, true])
    func keyBound_atRandom(keys: Int, restarts: Bool) throws {
        try ModelTests.compareAtRandom("key bound", keys: keys, revisions: 3) { random in
            Model.Rules(
                suppresses: random.oneIn(2), maximumPendingKeys: Int.random(in: 1...keys, using: &random),
                restartsAtOverflow: restarts)
        }
    }

    @Test(arguments: [2, 8, 60], [false, true])
    func byteBound_atRandom(keys: Int, restarts: Bool) throws {
        try ModelTests.compareAtRandom("byte bound", keys: keys) { random in
            var rules = Model.Rules(weight: { $0 & 7 }, restartsAtOverflow: restarts)
            rules.maximumPendingBytes = Int.random(in: 7...7 * keys, using: &random)
            if random.oneIn(3) { rules.maximumPendingKeys = keys / 2 }
            if random.oneIn(2) { rules.merge = { older, newer in older &* 31 &+ newer } }
            return rules
        }
    }

    @Test(arguments: [1, 2, 3, 100], [false, true])
    func keyBound_ofAFailingSink_atRandom(batchSize: Int, restarts: Bool) async throws {
        try await RunModelTests.playAtRandom("key bound", batchSize: batchSize) { random in
            Model.Rules(
                suppresses: random.oneIn(2), maximumPendingKeys: Int.random(in: 1...8, using: &random),
                restartsAtOverflow: restarts)
        }
    }

    /// What is given back may go beyond the bound, and what is merged with it too.
    @Test(arguments: [1, 2, 3, 100], [false, true])
    func byteBound_ofAFailingSink_atRandom(batchSize: Int, restarts: Bool) async throws {
        try await RunModelTests.playAtRandom("byte bound", batchSize: batchSize) { random in
            var rules = Model.Rules(weight: { $0 & 7 }, restartsAtOverflow: restarts)
            rules.maximumPendingBytes = Int.random(in: 7...40, using: &random)
            if random.oneIn(3) { rules.maximumPendingKeys = Int.random(in: 1...8, using: &random) }
            if random.oneIn(2) { rules.merge = { older, newer in older &* 31 &+ newer } }
            return rules
        }
    }

    // MARK: Threads

    /// Each writer has keys of its own. The writer that is told of an overflow restarts the buffer
    /// for all.
    @Test func overflowsBesideALoop_areToldOnceEach_andAllIsAccountedFor() throws {
        let (overflows, sink) = (overflows, ReplayingSink())
        let holder = Kept<StringBuffer?>(nil)
        let buffer = StringBuffer(
            configuration: DedupeBufferConfiguration(batchSize: 3).with {
                $0.onOverflow = {
                    overflows.change { $0 += 1 }
                    holder.value?.onConnectionRestarted()
                }
            }, bound: .bytes(100, keys: 20) { $0 & 15 })
        holder.change { $0 = buffer }
        defer { holder.change { $0 = nil } }
        let loop = try RunningLoop(.ownQueue, of: buffer, to: sink)
        let writers = (0..<4).map { writer in
            Worker<Void>("writer \(writer)") {
                var random = SeededGenerator(seed: UInt64(writer))
                for n in 0..<rounds(2_000) {
                    var updates: [Update<String, Int>] = []
                    for _ in 0..<10 {
                        let key = "key \(writer) \(Int.random(in: 0..<20, using: &random))"
                        updates.append(Update(key: key, value: random.oneIn(4) ? nil : n))
                    }
                    buffer.onUpdates(updates)
                }
            }
        }
        for writer in writers { try writer.join() }
        // A restart and a snapshot that fits.
        buffer.onConnectionRestarted()
        buffer.onUpdates(list(0..<10))
        buffer.onStatusUpdated(.inSync)
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.violations == [])
        let expected: [String: Int] = .init(uniqueKeysWithValues: (0..<10).map { n in ("key \(n)", 1) })
        #expect(sink.state == expected)
        let statistics = buffer.statistics
        #expect(statistics.overflows == overflows.value)
        #expect(statistics.overflows > 0)
        #expect(statistics.pendingBytes == 0)
        #expect(statistics.unaccounted == 0)
    }

    @Test func valuesThatAnOverflowDrops_endOnce() throws {
        let tracker = LifetimeTracker()
        do {
            let buffer = DedupeBuffer<String, Tracked>(bound: .bytes(1_000, keys: 10) { _ in 1 })
            for round in 0..<10 {
                buffer.onUpdates((0..<30).map { Update(key: "key \($0 % (8 + round))", value: tracker.make()) })
                if round % 3 == 0 { buffer.onConnectionRestarted() }
            }
            try buffer.sendNextBatchToSinkOrNothing(ForgettingSink())
            buffer.onConnectionRestarted()
            buffer.onUpdates((0..<5).map { Update(key: "key \($0)", value: tracker.make()) })
        }
        #expect(tracker.created == 305)
        #expect(tracker.alive == 0)
        #expect(tracker.destroyedTwice == [])
    }

    @Test func overflow_withoutALoop_destroysAllThatItDropped() {
        let tracker = LifetimeTracker()
        let buffer = DedupeBuffer<String, Tracked>(bound: .bytes(1_000, keys: 10) { _ in 1 })
        for n in 0..<11 { buffer.set("key \(n)", tracker.make()) }
        #expect(buffer.statistics.isOverflowed)
        #expect(tracker.created == 11)
        #expect(tracker.alive == 0)
    }

    // MARK: Values that know their size

    @Test func bytesOfStrings_areThoseOfTheirUTF8() {
        let buffer = DedupeBuffer<String, String>(bound: .bytes(5))
        buffer.set("a", "öö")
        #expect(buffer.statistics.pendingBytes == 4)
        buffer.set("b", "c")
        #expect(buffer.statistics.pendingBytes == 5)
        buffer.set("d", "e")
        #expect(buffer.statistics.isOverflowed)
    }

    @Test func bytesOfSubstrings_areThoseOfTheirUTF8() {
        let buffer = DedupeBuffer<String, Substring>(bound: .bytes(5))
        buffer.set("a", "a long string".prefix(4))
        #expect(buffer.statistics.pendingBytes == 4)
    }

    @Test func bytesOfArraysAndOfData_areTheirElements() {
        let arrays = DedupeBuffer<String, [UInt8]>(bound: .bytes(3))
        arrays.set("a", [1, 2, 3])
        #expect(arrays.statistics.pendingBytes == 3)
        arrays.set("b", [4])
        #expect(arrays.statistics.isOverflowed)
        let data = DedupeBuffer<String, Data>(bound: .bytes(3))
        data.set("a", Data([1, 2]))
        #expect(data.statistics.pendingBytes == 2)
    }

    @Test func bytesAndKeys_areBothBounds() {
        let buffer = DedupeBuffer<String, String>(bound: .bytes(100, keys: 2))
        for key in ["a", "b"] { buffer.set(key, "value") }
        #expect(!buffer.statistics.isOverflowed)
        buffer.set("c", "")
        #expect(buffer.statistics.isOverflowed)
    }

    // MARK: Misuse

    @Test func negativeWeight_isMisuse() async {
        await #expect(processExitsWith: .failure) {
            let buffer = StringBuffer(bound: .bytes(10) { $0 })
            buffer.onUpdates([Update(key: "a", value: -1)])
        }
    }

    @Test func smallestBounds_areNoMisuse() {
        _ = StringBuffer(bound: .bytes(1, keys: 1) { $0 })
    }
}

extension DedupeBuffer {
    fileprivate func sendNextBatchToSinkOrNothing(_ sink: some SyncerCallbacks<Key, Value>) throws {
        do { try sendNextBatchToSink(sink) } catch DedupeBufferError.emptyQueue {}
    }
}
