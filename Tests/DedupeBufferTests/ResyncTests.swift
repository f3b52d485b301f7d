// SPDX-License-Identifier: Apache-2.0

// Restarts from inside the sink, and the order of synthesized deletions. The rules of restart and
// resync are in Tests/Scenarios.

import DedupeBuffer
import Testing

@Suite("Restart and resync")
struct ResyncTests {
    private let buffer = StringBuffer()

    /// Delivers these keys and the status, so that they are live.
    private func goLive(_ keys: String..., status: SyncStatus = .inSync) throws {
        for key in keys { buffer.set(key, 0) }
        buffer.onStatusUpdated(status)
        _ = try buffer.flush()
    }

    // MARK: A batch being delivered

    @Test func restart_inTheMiddleOfABatch_takenIsCommitted_theRestIsDropped() throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 3)
        let sink = StringSink()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("b", 2)
        buffer.set("c", 3)
        buffer.onStatusUpdated(.waitForDatastore)
        sink.onEachCall { call in
            if call == .updates([.new("a", 1)]) { buffer.onConnectionRestarted() }
        }
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.updates([.new("a", 1)]), .status(.resyncInProgress), .updates([.new("b", 2)])])
        #expect(buffer.statistics.dropped == 1)
        #expect(try buffer.nextBatch() == nil)

        // a and b had been taken when the restart came: both are owed. The status that was taken
        // counts as received.
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.inSync)
        let calls = try buffer.flush()
        #expect(calls.count == 2)
        #expect(sortingDeletions(calls[0].items) == [.deleted("a"), .deleted("b")])
        #expect(calls[1] == .status(.inSync))
    }

    @Test func restartAndResync_insideTheSink_keepTypesExact() throws {
        try goLive("a", "b")
        let sink = StringSink()
        buffer.delete("a")
        buffer.set("b", 1)
        let buffer = buffer
        sink.onEachCall { _ in
            buffer.onConnectionRestarted()
            buffer.set("a", 2)
            buffer.onStatusUpdated(.inSync)
        }
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.updates([.deleted("a"), .updated("b", 1)])])
        #expect(try buffer.flush() == [.updates([.new("a", 2), .deleted("b")]), .status(.inSync)])
    }

    // MARK: Size and order

    @Test func owedDeletions_comeInTheSameOrder_forTheSameInput() throws {
        func delivered() throws -> [[Event<String, Int>]] {
            let buffer = StringBuffer()
            for n in 0..<1_000 { buffer.set("key \(n)", n) }
            var batches = try buffer.allBatches()
            for n in 300..<400 { buffer.delete("key \(n)") }
            batches += try buffer.allBatches()
            buffer.onConnectionRestarted()
            for n in stride(from: 0, to: 1_000, by: 3) { buffer.set("key \(n)", -n) }
            buffer.onStatusUpdated(.inSync)
            return batches + (try buffer.allBatches())
        }
        let first = try delivered()
        for _ in 0..<3 { #expect(try delivered() == first) }
    }
}
