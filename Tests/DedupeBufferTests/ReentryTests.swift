// SPDX-License-Identifier: Apache-2.0

// The sink calls the buffer that is calling it.

import DedupeBuffer
import Dispatch
import Testing

@Suite("Re-entry from the sink")
struct ReentryTests {
    private let buffer = StringBuffer()
    private let sink = StringSink()

    @Test(arguments: LoopKind.allCases)
    func onUpdates_fromTheSink_isDeliveredNext(kind: LoopKind) throws {
        let buffer = buffer
        sink.onEachCall { call in
            guard let last = call.items.last?.value, last < 1_000 else { return }
            buffer.set("key \(last % 3)", last + 1)
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("key 2", 0)
        try sink.wait(for: "the last of the chain") { $0.items().last?.value == 1_000 }
        #expect(sink.items.map(\.value) == (0...1_000).map { $0 })
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases)
    func onUpdatesKeysKnown_fromTheSink_isDeliveredNext(kind: LoopKind) throws {
        let buffer = buffer
        sink.onEachCall { call in
            guard call.items.first?.key == "a" else { return }
            buffer.onUpdatesKeysKnown([Update(key: "b", value: 2)], keys: ["b"])
            buffer.onUpdatesKeysKnown([Update(key: "c", value: 3)], keys: [Array("c".utf8)])
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("a", 1)
        try sink.wait(forItems: 3)
        #expect(sink.calls == [.updates([.new("a", 1)]), .updates([.new("b", 2), .new("c", 3)])])
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases)
    func status_fromTheSink_isDeliveredNext(kind: LoopKind) throws {
        let buffer = buffer
        sink.onEachCall { call in
            switch call {
            case .status(.resyncInProgress): buffer.onStatusUpdated(.waitForDatastore)
            case .status(.waitForDatastore): buffer.onStatusUpdated(.inSync)
            default: break
            }
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.onStatusUpdated(.resyncInProgress)
        try sink.wait(forStatus: .inSync)
        #expect(sink.statuses == [.resyncInProgress, .waitForDatastore, .inSync])
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases)
    func restart_fromTheSink_dropsWhatIsPending_notTheBatch(kind: LoopKind) throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 3)
        sink.onEachCall { call in
            guard call == .updates([.new("a", 1)]) else { return }
            buffer.onConnectionRestarted()
            buffer.set("d", 4)
            buffer.onStatusUpdated(.inSync)
        }
        buffer.set("a", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("b", 2)
        buffer.set("c", 3)
        buffer.onStatusUpdated(.waitForDatastore)
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try sink.wait(forStatus: .inSync)
        #expect(
            sink.calls.prefix(3) == [.updates([.new("a", 1)]), .status(.resyncInProgress), .updates([.new("b", 2)])])
        #expect(sortingDeletions(sink.items.suffix(3)) == [.new("d", 4), .deleted("a"), .deleted("b")])
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
        #expect(buffer.statistics.dropped == 1)
    }

    @Test(arguments: LoopKind.allCases)
    func statistics_fromTheSink_areReadable(kind: LoopKind) throws {
        let buffer = buffer
        let received = Kept<[Int]>([])
        sink.onEachCall { _ in
            let statistics = buffer.statistics
            received.change { $0.append(statistics.received) }
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("a", 1)
        try eventually("statistics read in the sink") { received.value == [1] }
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases, DeliveryLoopTests.Way.allCases)
    func sending_fromTheSinkOfALoop_isRefused(kind: LoopKind, way: DeliveryLoopTests.Way) throws {
        let (buffer, other) = (buffer, StringSink())
        let refused = Kept<[DedupeBufferError?]>([])
        sink.onEachCall { _ in
            buffer.set("pending", 0)  // so that the queue is not empty
            do {
                try way.send(buffer, to: other)
                refused.change { $0.append(nil) }
            } catch {
                refused.change { $0.append(error as? DedupeBufferError) }
            }
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("a", 1)
        try eventually("refusal") { !refused.value.isEmpty }
        buffer.stop()
        try loop.end()
        #expect(refused.value.first == .some(.alreadySending))
        #expect(other.calls == [])
    }

    @Test func sendNextBatch_fromTheSinkOfABatch_isRefused() throws {
        let (buffer, sink) = (makeBuffer(batchSize: 1) as StringBuffer, sink)
        let refused = Kept<DedupeBufferError?>(nil)
        sink.onEachCall { _ in
            do throws(DedupeBufferError) {
                try buffer.sendNextBatchToSink(sink)
            } catch {
                refused.change { $0 = error }
            }
        }
        buffer.set("a", 1)
        buffer.set("b", 2)
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(refused.value == .alreadySending)
        #expect(sink.calls == [.updates([.new("a", 1)])])
        sink.onEachCall(nil)
        try buffer.sendNextBatchToSink(sink)
        #expect(sink.items == [.new("a", 1), .new("b", 2)])
        #expect(sink.violations == [])
    }

    @Test func sendNextBatch_ofAnotherBuffer_fromTheSink_isFine() throws {
        let (buffer, other, sink, otherSink) = (buffer, StringBuffer(), sink, StringSink())
        other.set("b", 2)
        sink.onEachCall { _ in try? other.sendNextBatchToSink(otherSink) }
        buffer.set("a", 1)
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(otherSink.calls == [.updates([.new("b", 2)])])
    }

    @Test(arguments: LoopKind.allCases)
    func everything_fromTheSink_inRandomOrder(kind: LoopKind) throws {
        let seed = announcedSeed("everything_fromTheSink, \(kind.testDescription)")
        let (buffer, sink) = (makeBuffer(batchSize: 5) as StringBuffer, ReplayingSink())
        let random = Kept(SeededGenerator(seed: seed))
        let left = Kept(2_000)
        sink.onEachList { list in
            left.change { $0 -= 1 }
            guard left.value > 0 else { return }
            for _ in 0..<2 {
                var generator = random.value
                let key = "key \(Int.random(in: 0..<12, using: &generator))"
                switch Int.random(in: 0..<12, using: &generator) {
                case 0..<6: buffer.set(key, left.value)
                case 6..<8: buffer.delete(key)
                case 8: buffer.onStatusUpdated(.resyncInProgress)
                case 9: buffer.onStatusUpdated(.inSync)
                case 10: buffer.onConnectionRestarted()
                default: _ = buffer.statistics
                }
                random.change { $0 = generator }
            }
            buffer.set("clock", left.value)  // the chain does not end early
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("clock", 0)
        try eventually("2,000 lists") { left.value <= 0 }
        sink.onEachList(nil)
        buffer.onConnectionRestarted()
        buffer.set("last", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.inSync)
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.violations == [])
        #expect(sink.state == ["last": 1])
        #expect(buffer.statistics.liveKeys == 1)
        #expect(buffer.statistics.unaccounted == 0)
    }

    // MARK: A value's deinit

    /// Puts an update when it ends.
    private final class Echo: Sendable {
        private let onEnd: @Sendable () -> Void

        init(_ onEnd: @escaping @Sendable () -> Void = {}) { self.onEnd = onEnd }

        deinit { onEnd() }
    }

    /// A value that ended while the core still had the call's update would make the core allocate
    /// for the call from the `deinit`.
    @Test func update_fromAValuesDeinit_comesAfterTheCoreIsDone() throws {
        let buffer = DedupeBuffer<String, Echo>()
        buffer.update("echo", to: Echo())
        buffer.update("a", to: Echo())
        buffer.update("a", to: Echo())
        let memory = buffer.statistics.memory
        for _ in 0..<10 {
            buffer.update("a", to: Echo { [weak buffer] in buffer?.update("echo", to: Echo()) })
        }
        buffer.stop()
        buffer.update("a", to: Echo { [weak buffer] in buffer?.remove("echo") })
        let statistics = buffer.statistics
        #expect(statistics.memory == memory)
        // Nine were displaced and one was not accepted; each of these ends put one update.
        #expect(statistics.received == 3 + 10 + 9 + 1 + 1)
        #expect(statistics.unaccounted == 0)
    }
}
