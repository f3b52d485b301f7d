// SPDX-License-Identifier: Apache-2.0

// Every update received ends in one way and is counted there; and the words of the library.

import DedupeBuffer
import Foundation
import Testing

@Suite("Statistics")
struct StatisticsTests {
    private let buffer = StringBuffer()

    @Test func statistics_ofAFreshBuffer_areZero() {
        let s = buffer.statistics
        let all = [
            s.pendingKeys, s.pendingStatuses, s.peakPendingKeys, s.liveKeys, s.received, s.delivered, s.replaced,
            s.cancelled, s.dropped, s.rejected, s.synthesizedDeletions, s.statusesReceived, s.statusesDelivered,
            s.batches, s.suppressed, s.overflows, s.pendingBytes,
        ]
        #expect(all.allSatisfy { $0 == 0 })
        #expect(s.oldestPendingAge == .zero)
        #expect(s == StringBuffer().statistics)
    }

    @Test func statistics_differ_afterAnUpdate() {
        let before = buffer.statistics
        buffer.set("a", 1)
        #expect(buffer.statistics != before)
    }

    @Test func everyEnd_isCountedOnce() throws {
        // delivered
        buffer.set("delivered", 1)
        buffer.delete("unknown")
        _ = try buffer.flush()
        #expect(buffer.statistics.delivered == 2)
        // replaced: value by value, value by deletion, deletion by deletion, deletion by value
        buffer.set("delivered", 2)
        buffer.set("delivered", 3)
        buffer.delete("delivered")
        buffer.delete("delivered")
        buffer.set("delivered", 4)
        #expect(buffer.statistics.replaced == 4)
        // cancelled
        buffer.set("cancelled", 1)
        buffer.delete("cancelled")
        #expect(buffer.statistics.cancelled == 2)
        // dropped
        buffer.onConnectionRestarted()
        #expect(buffer.statistics.dropped == 1)
        // synthesized
        buffer.onStatusUpdated(.inSync)
        #expect(buffer.statistics.synthesizedDeletions == 1)
        #expect(buffer.statistics.pendingKeys == 1)
        _ = try buffer.flush()
        // rejected, and dropped after stop
        buffer.set(String(repeating: "x", count: 70_000), 1)
        buffer.set("pending", 1)
        buffer.stop()
        buffer.set("late", 1)

        let s = buffer.statistics
        #expect(s.received == 12)
        #expect(s.delivered == 3)
        #expect(s.replaced == 4)
        #expect(s.cancelled == 2)
        #expect(s.dropped == 3)
        #expect(s.rejected == 1)
        #expect(s.synthesizedDeletions == 1)
        #expect(s.pendingKeys == 1)
        #expect(s.liveKeys == 0)
        #expect(s.statusesReceived == 1)
        #expect(s.statusesDelivered == 1)
        #expect(s.batches == 2)
        #expect(s.unaccounted == 0)
    }

    @Test func pending_isWhatIsQueued_notWhatIsTaken() throws {
        let (buffer, sink) = (makeBuffer(batchSize: 2) as StringBuffer, StringSink())
        let pending = Kept<Int?>(nil)
        for n in 0..<5 { buffer.set("key \(n)", n) }
        sink.onEachCall { _ in
            let now = buffer.statistics.pendingKeys
            pending.change { $0 = now }
        }
        #expect(buffer.statistics.pendingKeys == 5)
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(pending.value == 3)
        #expect(buffer.statistics.pendingKeys == 3)
    }

    /// The first take makes room for a batch. The thread sanitizer sees whether both may do so.
    @Test func memory_mayBeAskedFor_whileTheFirstBatchIsTaken() throws {
        for _ in 0..<50 {
            let buffer = makeBuffer(batchSize: 1000) as StringBuffer
            buffer.set("a", 1)
            let hasTaken = Kept(false)
            let asking = Worker("asking") {
                while !hasTaken.value { _ = buffer.statistics.memory }
                return buffer.statistics.memory
            }
            let before = buffer.statistics.memory
            try buffer.sendNextBatchToSink(StringSink())
            hasTaken.change { $0 = true }
            // An item takes 56 bytes, and the slot beside it 8.
            #expect(try asking.join() >= before + 1000 * 64)
        }
    }

    @Test func oldestPendingAge_isThatOfTheOldest_alsoWhenItWasReplaced() throws {
        buffer.set("a", 1)
        usleep(30_000)
        buffer.set("a", 2)
        buffer.set("b", 1)
        #expect(buffer.statistics.oldestPendingAge >= .milliseconds(20))
        _ = try buffer.flush()
        #expect(buffer.statistics.oldestPendingAge == .zero)
        buffer.onStatusUpdated(.inSync)
        usleep(2_000)
        #expect(buffer.statistics.oldestPendingAge == .zero)
        buffer.set("b", 2)
        usleep(30_000)
        #expect(buffer.statistics.oldestPendingAge >= .milliseconds(20))
        buffer.onConnectionRestarted()
        #expect(buffer.statistics.oldestPendingAge == .zero)
    }

    @Test func peakPendingKeys_isTheHighest() throws {
        for n in 0..<5 { buffer.set("key \(n)", n) }
        for n in 0..<5 { buffer.set("key \(n)", -n) }
        #expect(buffer.statistics.peakPendingKeys == 5)
        _ = try buffer.flush()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(buffer.statistics.peakPendingKeys == 5)
        for n in 0..<7 { buffer.delete("key \(n)") }
        #expect(buffer.statistics.peakPendingKeys == 8)
        buffer.onConnectionRestarted()
        #expect(buffer.statistics.peakPendingKeys == 8)
    }

    @Test func liveKeys_changeWhenTaken() throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 1)
        buffer.set("a", 1)
        buffer.set("b", 1)
        #expect(buffer.statistics.liveKeys == 0)
        _ = try buffer.nextBatch()
        #expect(buffer.statistics.liveKeys == 1)
        buffer.delete("a")
        #expect(buffer.statistics.liveKeys == 1)
        _ = try buffer.flush()
        #expect(buffer.statistics.liveKeys == 1)
    }

    @Test func sums_acrossAnUpstreamsLife() throws {
        for resync in 0..<20 {
            buffer.onStatusUpdated(.resyncInProgress)
            buffer.onUpdates((0..<50).map { Update(key: "key \($0 + resync)", value: resync) })
            buffer.onStatusUpdated(.inSync)
            if resync % 3 != 0 { _ = try buffer.flush() }
            buffer.onUpdates((0..<30).map { Update(key: "key \($0 + resync)", value: $0 % 2 == 0 ? nil : 0) })
            #expect(buffer.statistics.unaccounted == 0)
            if resync % 2 == 0 { _ = try buffer.nextBatch() }
            buffer.onConnectionRestarted()
            #expect(buffer.statistics.unaccounted == 0)
        }
        #expect(buffer.statistics.received == 20 * 80)
    }
}

@Suite("Words")
struct VocabularyTests {
    @Test func syncStatus() {
        #expect([SyncStatus.waitForDatastore, .resyncInProgress, .inSync].map(\.rawValue) == [0, 1, 2])
        #expect(
            [SyncStatus.waitForDatastore, .resyncInProgress, .inSync].map { "\($0)" } == [
                "wait-for-ready", "resync", "in-sync",
            ])
        #expect(SyncStatus.inSync.description == "in-sync")
        #expect(SyncStatus(rawValue: 3) == nil)
    }

    @Test func updateType() {
        let all: [UpdateType] = [.unknown, .new, .updated, .deleted]
        #expect(all.map(\.rawValue) == [0, 1, 2, 3])
        #expect(all.map { "\($0)" } == ["unknown", "new", "updated", "deleted"])
        #expect(UpdateType(rawValue: 4) == nil)
    }

    @Test func update_defaults() {
        let update = Update(key: "a", value: 1)
        #expect(update.revision == 0)
        #expect(update.updateType == .unknown)
        var full = Update<String, Int>(key: "b", value: nil, revision: 7, updateType: .deleted)
        #expect(full.value == nil)
        #expect(full.revision == 7)
        #expect(full.updateType == .deleted)
        full.key = "c"
        full.value = 2
        full.revision = 8
        full.updateType = .new
        #expect(full.key == "c")
    }

    @Test func errors() {
        #expect(String(describing: DedupeBufferError.emptyQueue) == "queue is empty")
        #expect(DedupeBufferError.alreadySending != .stopped)
    }

    @Test func configuration_isAValue() {
        var configuration = DedupeBufferConfiguration()
        configuration.batchSize = 5
        configuration.label = "mine"
        configuration.onRejection = { _ in }
        let copy = configuration
        configuration.batchSize = 6
        #expect(copy.batchSize == 5)
        #expect(copy.label == "mine")
        #expect(copy.onRejection != nil)
    }
}
