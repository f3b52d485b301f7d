// SPDX-License-Identifier: Apache-2.0

// Contract section 5: restart and resync.

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

    /// Everything delivered until the queue is empty, runs of deletions sorted by key.
    private func flushSorted() throws -> [Event<String, Int>] {
        try buffer.flush().map { call in
            guard case .updates(let items) = call else { return call }
            return .updates(sortingDeletions(items))
        }
    }

    // MARK: The restart

    @Test func restart_dropsPendingUpdatesAndStatuses() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.delete("b")
        buffer.onStatusUpdated(.inSync)
        buffer.set("c", 3)
        buffer.onConnectionRestarted()
        let statistics = buffer.statistics
        #expect(statistics.pendingKeys == 0)
        #expect(statistics.pendingStatuses == 0)
        #expect(statistics.dropped == 3)
        #expect(statistics.rejected == 0)
        #expect(statistics.unaccounted == 0)
        #expect(try buffer.nextBatch() == nil)
    }

    @Test func restart_whenNothingHappenedBefore_isHarmless() throws {
        buffer.onConnectionRestarted()
        #expect(try buffer.nextBatch() == nil)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
        #expect(buffer.statistics.synthesizedDeletions == 0)
    }

    @Test func restart_aloneDeliversNothing_untilInSync() throws {
        try goLive("a")
        buffer.onConnectionRestarted()
        #expect(try buffer.nextBatch() == nil)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.waitForDatastore)
        #expect(try buffer.flush() == [.status(.waitForDatastore)])
        #expect(buffer.statistics.liveKeys == 1)
    }

    @Test func updates_afterARestart_areNewOrUpdated_byLiveness() throws {
        try goLive("a")
        buffer.set("b", 1)
        buffer.onConnectionRestarted()
        buffer.set("b", 2)
        buffer.set("a", 3)
        #expect(try buffer.flush() == [.updates([.new("b", 2), .updated("a", 3)])])
    }

    @Test func deletion_afterARestart_ofAKeyWhosePendingValueWasDropped_isPassedOn() throws {
        buffer.set("a", 1)
        buffer.onConnectionRestarted()
        buffer.delete("a")
        #expect(try buffer.flush() == [.updates([.deleted("a")])])
    }

    // MARK: What in-sync owes

    @Test func inSync_afterARestart_deletesUnseenLiveKeys_beforeItself() throws {
        try goLive("a", "b", "c", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.set("b", 1)
        buffer.set("d", 2)
        buffer.onStatusUpdated(.inSync)
        #expect(buffer.statistics.synthesizedDeletions == 2)
        #expect(
            try flushSorted() == [
                .updates([.updated("b", 1), .new("d", 2), .deleted("a"), .deleted("c")]), .status(.inSync),
            ])
        #expect(buffer.statistics.liveKeys == 2)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func synthesizedDeletion_hasRevisionZero_andNoValue() throws {
        buffer.set("a", 1, revision: 17)
        buffer.onStatusUpdated(.resyncInProgress)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.deleted("a", revision: 0)]), .status(.inSync)])
    }

    @Test func key_seenByAValue_isNotOwed() throws {
        try goLive("a", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.updated("a", 1)]), .status(.inSync)])
    }

    @Test func key_seenByADeletion_isDeletedOnce() throws {
        try goLive("a", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.delete("a", revision: 5)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.deleted("a", revision: 5)]), .status(.inSync)])
        #expect(buffer.statistics.synthesizedDeletions == 0)
    }

    @Test func key_seenAndDelivered_beforeInSync_isNotOwed() throws {
        try goLive("a", "b", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        buffer.delete("b")
        #expect(try buffer.flush() == [.updates([.updated("a", 1), .deleted("b")])])
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func key_becomingLiveAfterTheRestart_isNotOwed() throws {
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        _ = try buffer.flush()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func key_neverTaken_isNotOwed() throws {
        buffer.set("a", 1)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func pendingDeletion_droppedByTheRestart_isOwedAgain() throws {
        try goLive("a", status: .resyncInProgress)
        buffer.delete("a", revision: 3)
        buffer.onConnectionRestarted()
        #expect(try buffer.nextBatch() == nil)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.deleted("a", revision: 0)]), .status(.inSync)])
        let statistics = buffer.statistics
        #expect(statistics.dropped == 1)
        #expect(statistics.synthesizedDeletions == 1)
        #expect(statistics.unaccounted == 0)
    }

    @Test func pendingDeletion_droppedByTheRestart_isNotOwed_ifTheKeyIsSeen() throws {
        try goLive("a", status: .resyncInProgress)
        buffer.delete("a")
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.updated("a", 1)]), .status(.inSync)])
    }

    @Test func inSync_withAStatusLastInTheQueue_putsTheDeletionsBetween() throws {
        try goLive("a")
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.resyncInProgress), .updates([.deleted("a")]), .status(.inSync)])
    }

    @Test func inSync_withAStatusLastInTheQueue_andNothingOwed_overwritesIt() throws {
        try goLive("a")
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        _ = try buffer.flush()
        buffer.onStatusUpdated(.waitForDatastore)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func inSync_endsTheResync() throws {
        try goLive("a", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
        #expect(buffer.statistics.synthesizedDeletions == 0)
    }

    // MARK: What becomes of a synthesized deletion

    @Test func value_whenItsSynthesizedDeletionIsPending_replacesIt_beforeInSync() throws {
        try goLive("a", "b", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.set("b", 1)
        buffer.onStatusUpdated(.inSync)
        buffer.set("a", 2, revision: 8)
        #expect(
            try buffer.flush() == [.updates([.updated("b", 1), .updated("a", 2, revision: 8)]), .status(.inSync)])
        let statistics = buffer.statistics
        #expect(statistics.synthesizedDeletions == 1)
        #expect(statistics.replaced == 1)
        #expect(statistics.unaccounted == 0)
    }

    @Test func deletion_whenTheSynthesizedOneIsPending_replacesIt() throws {
        try goLive("a", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        buffer.delete("a", revision: 9)
        #expect(try buffer.flush() == [.updates([.deleted("a", revision: 9)]), .status(.inSync)])
        #expect(buffer.statistics.replaced == 1)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func value_afterItsSynthesizedDeletionWasDelivered_isNew() throws {
        try goLive("a")
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.deleted("a")]), .status(.inSync)])
        buffer.set("a", 1)
        #expect(try buffer.flush() == [.updates([.new("a", 1)])])
    }

    @Test func restart_dropsPendingSynthesizedDeletions_whichAreOwedAgain() throws {
        try goLive("a", "b", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        buffer.onConnectionRestarted()
        #expect(try buffer.nextBatch() == nil)
        buffer.set("b", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.updated("b", 1), .deleted("a")]), .status(.inSync)])
        let statistics = buffer.statistics
        #expect(statistics.synthesizedDeletions == 3)
        #expect(statistics.dropped == 2)
        #expect(statistics.unaccounted == 0)
    }

    // MARK: Restart upon restart

    @Test func secondRestart_makesSeenKeysUnseenAgain() throws {
        try goLive("a", "b", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        #expect(try buffer.flush() == [.updates([.updated("a", 1)])])
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try flushSorted() == [.updates([.deleted("a"), .deleted("b")]), .status(.inSync)])
    }

    @Test func secondRestart_countsTheKeysLiveThen() throws {
        try goLive("a", "b", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.set("c", 1)
        buffer.delete("b")
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try flushSorted() == [.updates([.deleted("a"), .deleted("c")]), .status(.inSync)])
    }

    @Test func secondRestart_whenTheKeyWasSeenButStillPending_owesIt() throws {
        try goLive("a", status: .resyncInProgress)
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.deleted("a")]), .status(.inSync)])
    }

    @Test func manyRestarts_withoutInSync_oweEachKeyOnce() throws {
        try goLive("a", "b", status: .resyncInProgress)
        for round in 0..<1_000 {
            buffer.onConnectionRestarted()
            if round % 2 == 0 { buffer.set("a", round) }
        }
        buffer.onStatusUpdated(.inSync)
        #expect(try flushSorted() == [.updates([.deleted("a"), .deleted("b")]), .status(.inSync)])
    }

    @Test func manyResyncs_eachExact() throws {
        for round in 0..<300 {
            buffer.onConnectionRestarted()
            buffer.onStatusUpdated(.resyncInProgress)
            buffer.set("round \(round)", round)
            buffer.set("always", round)
            buffer.onStatusUpdated(.inSync)
            let calls = try buffer.flush()
            #expect(calls.items().count == (round == 0 ? 2 : 3))
            #expect(
                calls.items().filter { $0.type == .deleted } == (round == 0 ? [] : [.deleted("round \(round - 1)")]))
        }
        #expect(buffer.statistics.liveKeys == 2)
        #expect(buffer.statistics.unaccounted == 0)
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

    @Test func owedDeletions_areBatchedLikeAnythingElse() throws {
        for n in 0..<250 { buffer.set("key \(n)", n) }
        buffer.onStatusUpdated(.resyncInProgress)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        let batches = try buffer.allBatches()
        #expect(batches.map { $0.items().count } == [100, 100, 50])
        #expect(batches.map(\.count) == [1, 1, 2])
        #expect(batches.last?.last == .status(.inSync))
        #expect(Set(batches.joined().items().map(\.key)) == Set((0..<250).map { "key \($0)" }))
    }

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

    @Test func largeLiveSet_isSweptExactly() throws {
        let count = 10_000
        buffer.onUpdates((0..<count).map { Update(key: "key \($0)", value: $0) })
        _ = try buffer.flush()
        #expect(buffer.statistics.liveKeys == count)
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onUpdates((0..<count).filter { $0 % 2 == 0 }.map { Update(key: "key \($0)", value: -$0) })
        buffer.onStatusUpdated(.inSync)
        let items = try buffer.flush().items()
        #expect(items.prefix(count / 2).allSatisfy { $0.type == .updated })
        let deleted = items.dropFirst(count / 2)
        #expect(deleted.allSatisfy { $0.type == .deleted && $0.revision == 0 })
        #expect(Set(deleted.map(\.key)) == Set((0..<count).filter { $0 % 2 == 1 }.map { "key \($0)" }))
        #expect(deleted.count == count / 2)
        #expect(buffer.statistics.liveKeys == count / 2)
        #expect(buffer.statistics.synthesizedDeletions == count / 2)
        #expect(buffer.statistics.unaccounted == 0)
    }
}
