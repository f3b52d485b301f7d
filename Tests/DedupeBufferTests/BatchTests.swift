// SPDX-License-Identifier: Apache-2.0

// Contract section 4, the batch: its size, its calls, when it is committed.

import DedupeBuffer
import Testing

@Suite("Batches")
struct BatchTests {
    private func filled(_ buffer: StringBuffer, keys: Int) -> StringBuffer {
        for n in 0..<keys { buffer.set("key \(n)", n) }
        return buffer
    }

    private func items(_ range: Range<Int>) -> [Item<String, Int>] { range.map { .new("key \($0)", $0) } }

    @Test func example_ofTheContract() throws {
        let buffer = StringBuffer()
        buffer.onStatusUpdated(.resyncInProgress)
        _ = filled(buffer, keys: 250)
        buffer.onStatusUpdated(.inSync)
        #expect(
            try buffer.allBatches() == [
                [.status(.resyncInProgress), .updates(items(0..<99))],
                [.updates(items(99..<199))],
                [.updates(items(199..<250)), .status(.inSync)],
            ])
        #expect(buffer.statistics.batches == 3)
    }

    @Test func defaultBatchSize_isAHundred() {
        #expect(DedupeBufferConfiguration().batchSize == 100)
    }

    @Test(arguments: [1, 2, 3, 7, 99, 100, 101, 249, 250, 251, 1_000])
    func batch_takesUpToItsSize(size: Int) throws {
        let buffer = filled(makeBuffer(batchSize: size), keys: 250)
        let expected = stride(from: 0, to: 250, by: size).map { [Event.updates(items($0..<min($0 + size, 250)))] }
        #expect(try buffer.allBatches() == expected)
        #expect(buffer.statistics.batches == expected.count)
    }

    @Test func statuses_countAsEntries() throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 3)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.waitForDatastore)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
        buffer.set("c", 3)
        #expect(
            try buffer.allBatches() == [
                [.status(.resyncInProgress), .updates([.new("a", 1)]), .status(.waitForDatastore)],
                [.updates([.new("b", 2)]), .status(.inSync), .updates([.new("c", 3)])],
            ])
    }

    @Test func batchSizeOne_isOneCallPerBatch() throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 1)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
        #expect(
            try buffer.allBatches() == [
                [.status(.resyncInProgress)], [.updates([.new("a", 1)])], [.updates([.new("b", 2)])],
                [.status(.inSync)],
            ])
    }

    @Test func runsOfUpdates_areOneCallEach_neverAnEmptyOne() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.delete("c")
        buffer.set("d", 4)
        buffer.onStatusUpdated(.inSync)
        #expect(
            try buffer.allBatches() == [
                [
                    .updates([.new("a", 1), .new("b", 2)]), .status(.resyncInProgress),
                    .updates([.deleted("c"), .new("d", 4)]), .status(.inSync),
                ]
            ])
    }

    @Test func batchOfStatusesOnly_hasNoUpdatesCall() throws {
        let buffer = StringBuffer()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.allBatches() == [[.status(.inSync)]])
    }

    @Test func emptyQueue_isAnError_andTheSinkHearsNothing() throws {
        let buffer = StringBuffer()
        let sink = StringSink()
        #expect(throws: DedupeBufferError.emptyQueue) { try buffer.sendNextBatchToSink(sink) }
        buffer.set("a", 1)
        try buffer.sendNextBatchToSink(sink)
        #expect(throws: DedupeBufferError.emptyQueue) { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.updates([.new("a", 1)])])
        #expect(buffer.statistics.batches == 1)
    }

    @Test func betweenBatches_theQueueIsStillConflated() throws {
        let buffer = filled(makeBuffer(batchSize: 2), keys: 4)
        #expect(try buffer.nextBatch() == [.updates(items(0..<2))])
        buffer.set("key 3", 30)
        buffer.set("key 0", 10)
        buffer.delete("key 2")
        #expect(try buffer.allBatches() == [[.updates([.new("key 3", 30), .updated("key 0", 10)])]])
    }

    @Test func batch_isTakenAsAWhole_beforeTheSinkIsCalled() throws {
        let buffer = StringBuffer()
        let sink = StringSink()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        buffer.set("b", 2)
        sink.onEachCall { call in
            guard call == .updates([.new("a", 1)]) else { return }
            buffer.set("b", 3)  // in the batch already, and so no replacement
        }
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.updates([.new("a", 1)]), .status(.inSync), .updates([.new("b", 2)])])
        #expect(try buffer.flush() == [.updates([.updated("b", 3)])])
    }

    @Test func arrays_belongToTheSink() throws {
        final class KeepingSink: SyncerCallbacks {
            let kept: Kept<[[Update<String, Int>]]> = Kept([])
            func onStatusUpdated(_ status: SyncStatus) {}
            func onUpdates(_ updates: [Update<String, Int>]) {
                var mine = updates
                mine[0].value = -1
                mine.append(Update(key: "mine", value: 0))
                kept.change { $0.append(updates) }
                kept.change { $0.append(mine) }
            }
        }
        let sink = KeepingSink()
        var buffer: StringBuffer? = filled(makeBuffer(batchSize: 10), keys: 20)
        try buffer?.sendNextBatchToSink(sink)
        try buffer?.sendNextBatchToSink(sink)
        buffer = nil
        let kept = sink.kept.value
        #expect(kept.map(\.count) == [10, 11, 10, 11])
        #expect(kept[0].map(\.key) == (0..<10).map { "key \($0)" })
        #expect(kept[2].map(\.value) == (10..<20).map { $0 })
        #expect(kept[3][0].value == -1)
    }

    @Test func sinks_mayDifferFromBatchToBatch() throws {
        let buffer = filled(makeBuffer(batchSize: 1), keys: 2)
        let first = StringSink()
        let second = StringSink()
        try buffer.sendNextBatchToSink(first)
        try buffer.sendNextBatchToSink(second)
        #expect(first.calls == [.updates(items(0..<1))])
        #expect(second.calls == [.updates(items(1..<2))])
    }

    @Test func sink_mayBeAStruct() throws {
        struct PlainSink: SyncerCallbacks {
            let heard = Kept<[String]>([])
            func onStatusUpdated(_ status: SyncStatus) { heard.change { $0.append("\(status)") } }
            func onUpdates(_ updates: [Update<String, Int>]) {
                heard.change { $0 += updates.map { "\($0.updateType) \($0.key)" } }
            }
        }
        let sink = PlainSink()
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        try buffer.sendNextBatchToSink(sink)
        #expect(sink.heard.value == ["new a", "in-sync"])
    }

    @Test func buffer_mayBeTheSinkOfABuffer() throws {
        let first: StringBuffer = makeBuffer(batchSize: 2)
        let second = StringBuffer()
        first.onStatusUpdated(.resyncInProgress)
        first.set("a", 1, revision: 4)
        first.set("b", 2)
        first.onStatusUpdated(.inSync)
        try first.sendNextBatchToSink(second)
        first.delete("a")
        first.set("b", 3)
        while first.statistics.pendingKeys + first.statistics.pendingStatuses > 0 {
            try first.sendNextBatchToSink(second)
        }
        #expect(try second.flush() == [.status(.resyncInProgress), .updates([.new("b", 3)]), .status(.inSync)])
    }

    @Test func buffer_isUsableAsRestartAwareCallbacks() throws {
        let buffer = StringBuffer()
        let upstream: any RestartAwareCallbacks<String, Int> = buffer
        upstream.onUpdates([Update(key: "a", value: 1)])
        upstream.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.new("a", 1)]), .status(.inSync)])
        upstream.onConnectionRestarted()
        upstream.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.deleted("a")]), .status(.inSync)])
    }
}
