// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DedupeBuffer

/// The slots that a producer's scratch memory keeps from call to call.
@Suite struct ScratchTests {
    private static let keyCount = 100_000

    private func put(_ keys: [Int], value: Int?, into buffer: DedupeBuffer<Int, Int>) {
        for start in stride(from: 0, to: keys.count, by: 100) {
            buffer.onUpdates(keys[start..<start + 100].map { Update(key: $0, value: value) })
        }
    }

    /// Replacing at random leaves slots of every slab in the scratch memory. It gives them back, or
    /// all slabs would stay.
    @Test func queueIsEmptied_afterAPeak_memoryGoesBack() throws {
        let buffer = DedupeBuffer<Int, Int>()
        let keys = Array(0..<Self.keyCount)
        put(keys, value: 1, into: buffer)
        put(keys.shuffled(), value: 2, into: buffer)
        put(keys, value: nil, into: buffer)
        #expect(throws: DedupeBufferError.emptyQueue) { try buffer.sendNextBatchToSink(ForgettingSink<Int, Int>()) }
        #expect(buffer.statistics.pendingKeys == 0)
        #expect(buffer.statistics.memory < 1 << 20)
        #expect(buffer.core.validate() == nil)
    }

    @Test func restart_afterAPeak_memoryGoesBack() throws {
        let buffer = DedupeBuffer<Int, Int>()
        let keys = Array(0..<Self.keyCount)
        put(keys, value: 1, into: buffer)
        put(keys.shuffled(), value: 2, into: buffer)
        buffer.onConnectionRestarted()
        #expect(buffer.statistics.pendingKeys == 0)
        #expect(buffer.statistics.memory < 1 << 20)
        #expect(buffer.core.validate() == nil)
    }

    /// After a restart an update may bring back two payloads: there are more than the scratch
    /// memory keeps.
    @Test func slots_moreComeBackThanAreKept_noneIsLost() throws {
        let buffer = DedupeBuffer<Int, Int>()
        for round in 0..<50 {
            put(Array(0..<200), value: round, into: buffer)
            put(Array(200..<400), value: round, into: buffer)
            if round % 3 == 0 { buffer.onConnectionRestarted() }
            put(Array(400..<500), value: nil, into: buffer)
            #expect(buffer.core.validate() == nil)
        }
        _ = try buffer.flush()
        #expect(buffer.core.validate() == nil)
    }
}
