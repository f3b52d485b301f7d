// SPDX-License-Identifier: Apache-2.0

// Contract section 2, row by row: state of the key × what comes in.

import DedupeBuffer
import Testing

@Suite("Updates in")
struct UpdateRuleTests {
    /// Makes keys live: delivers them, and forgets what was delivered.
    private func makeBuffer(live keys: String...) throws -> StringBuffer {
        let buffer = StringBuffer()
        for key in keys { buffer.set(key, 0) }
        _ = try buffer.flush()
        return buffer
    }

    // MARK: A value

    @Test func value_whenNotPending_andNotLive_goesToTheBack_asNew() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.set("c", 3)
        #expect(try buffer.flush() == [.updates([.new("a", 1), .new("b", 2), .new("c", 3)])])
    }

    @Test func value_whenNotPending_andLive_goesToTheBack_asUpdated() throws {
        let buffer = try makeBuffer(live: "a")
        buffer.set("b", 1)
        buffer.set("a", 2)
        #expect(try buffer.flush() == [.updates([.new("b", 1), .updated("a", 2)])])
    }

    @Test func value_whenValuePending_andNotLive_replacesInPlace() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.set("a", 3)
        #expect(buffer.statistics.replaced == 1)
        #expect(try buffer.flush() == [.updates([.new("a", 3), .new("b", 2)])])
    }

    @Test func value_whenValuePending_andLive_replacesInPlace() throws {
        let buffer = try makeBuffer(live: "a")
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.set("a", 3)
        #expect(try buffer.flush() == [.updates([.updated("a", 3), .new("b", 2)])])
    }

    @Test func value_whenDeletionPending_andLive_replacesInPlace_asUpdated() throws {
        let buffer = try makeBuffer(live: "a")
        buffer.delete("a")
        buffer.set("b", 2)
        buffer.set("a", 3)
        #expect(buffer.statistics.replaced == 1)
        #expect(try buffer.flush() == [.updates([.updated("a", 3), .new("b", 2)])])
    }

    @Test func value_whenDeletionPending_andNotLive_replacesInPlace_asNew() throws {
        let buffer = StringBuffer()
        buffer.delete("a")
        buffer.set("b", 2)
        buffer.set("a", 3)
        #expect(buffer.statistics.replaced == 1)
        #expect(try buffer.flush() == [.updates([.new("a", 3), .new("b", 2)])])
    }

    // MARK: A deletion

    @Test func deletion_whenNotPending_andLive_goesToTheBack() throws {
        let buffer = try makeBuffer(live: "a")
        buffer.set("b", 1)
        buffer.delete("a")
        #expect(try buffer.flush() == [.updates([.new("b", 1), .deleted("a")])])
        #expect(buffer.statistics.liveKeys == 1)
    }

    @Test func deletion_whenNotPending_andNotLive_isPassedOn() throws {
        let buffer = StringBuffer()
        buffer.set("b", 1)
        buffer.delete("never heard of")
        #expect(try buffer.flush() == [.updates([.new("b", 1), .deleted("never heard of")])])
        #expect(buffer.statistics.liveKeys == 1)
    }

    @Test func deletion_whenValuePending_andLive_replacesInPlace() throws {
        let buffer = try makeBuffer(live: "a")
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.delete("a")
        #expect(buffer.statistics.replaced == 1)
        #expect(buffer.statistics.cancelled == 0)
        #expect(try buffer.flush() == [.updates([.deleted("a"), .new("b", 2)])])
    }

    @Test func deletion_whenValuePending_andNotLive_leavesTheQueue() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.delete("a")
        #expect(buffer.statistics.cancelled == 2)
        #expect(buffer.statistics.pendingKeys == 1)
        #expect(try buffer.flush() == [.updates([.new("b", 2)])])
    }

    @Test func deletion_whenTheOnlyPendingValueIsNotLive_leavesAnEmptyQueue() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.delete("a")
        #expect(try buffer.nextBatch() == nil)
    }

    @Test func value_afterItsKeyLeftTheQueue_goesToTheBack() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.delete("a")
        buffer.set("a", 3)
        #expect(try buffer.flush() == [.updates([.new("b", 2), .new("a", 3)])])
    }

    @Test func deletion_afterItsKeyLeftTheQueue_isPassedOn() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.delete("a")
        buffer.delete("a")
        #expect(try buffer.flush() == [.updates([.deleted("a")])])
        #expect(buffer.statistics.cancelled == 2)
        #expect(buffer.statistics.delivered == 1)
    }

    @Test func deletion_whenDeletionPending_andLive_staysOne_inPlace() throws {
        let buffer = try makeBuffer(live: "a")
        buffer.delete("a")
        buffer.set("b", 1)
        buffer.delete("a")
        #expect(buffer.statistics.replaced == 1)
        #expect(try buffer.flush() == [.updates([.deleted("a"), .new("b", 1)])])
    }

    @Test(arguments: 1...5)
    func deletion_whenDeletionPending_andNotLive_staysOne_howeverOftenItComes(times: Int) throws {
        let buffer = StringBuffer()
        for _ in 0..<times { buffer.delete("a") }
        #expect(try buffer.flush() == [.updates([.deleted("a")])])
        #expect(buffer.statistics.replaced == times - 1)
    }

    @Test func deletion_whenValueReplacedADeletion_andNotLive_leavesTheQueue() throws {
        let buffer = StringBuffer()
        buffer.delete("a")
        buffer.set("a", 1)
        buffer.delete("a")
        #expect(try buffer.nextBatch() == nil)
        #expect(buffer.statistics.replaced == 1)
        #expect(buffer.statistics.cancelled == 2)
    }

    @Test func deletion_whenValueReplacedAnotherValue_andNotLive_cancelsOnlyTheLast() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.set("a", 2)
        buffer.delete("a")
        #expect(try buffer.nextBatch() == nil)
        #expect(buffer.statistics.replaced == 1)
        #expect(buffer.statistics.cancelled == 2)
    }

    @Test func hotKey_besideQuietOnes_keepsItsPlace() throws {
        let buffer = StringBuffer()
        buffer.set("hot", 0)
        for n in 0..<99 { buffer.set("quiet \(n)", n) }
        for n in 1...1_000 { buffer.set("hot", n) }
        let expected: [Item<String, Int>] = [.new("hot", 1_000)] + (0..<99).map { .new("quiet \($0)", $0) }
        #expect(try buffer.flush() == [.updates(expected)])
        #expect(buffer.statistics.replaced == 1_000)
    }

    // MARK: Types, revisions, values

    @Test(arguments: [UpdateType.unknown, .new, .updated, .deleted])
    func updateType_ofTheCaller_isIgnored(type: UpdateType) throws {
        let buffer = try makeBuffer(live: "live")
        buffer.onUpdates([
            Update(key: "fresh", value: 1, updateType: type),
            Update(key: "live", value: 2, updateType: type),
            Update(key: "gone", value: nil, updateType: type),
        ])
        #expect(try buffer.flush() == [.updates([.new("fresh", 1), .updated("live", 2), .deleted("gone")])])
    }

    @Test func updateType_afterADeletionWasDelivered_isNewAgain() throws {
        let buffer = try makeBuffer(live: "a")
        buffer.delete("a")
        #expect(try buffer.flush() == [.updates([.deleted("a")])])
        buffer.set("a", 1)
        #expect(try buffer.flush() == [.updates([.new("a", 1)])])
        buffer.set("a", 2)
        #expect(try buffer.flush() == [.updates([.updated("a", 2)])])
    }

    @Test func equalValues_areNotCompared() throws {
        let buffer = try makeBuffer(live: "a")
        buffer.set("a", 0)
        #expect(try buffer.flush() == [.updates([.updated("a", 0)])])
    }

    @Test func revisions_areCarried_neverRead() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1, revision: 9)
        buffer.set("b", 2, revision: .max)
        buffer.set("c", 3)
        buffer.delete("d", revision: 7)
        buffer.set("a", 4, revision: 5)  // an older revision replaces a newer one: it came later
        #expect(
            try buffer.flush() == [
                .updates([
                    .new("a", 4, revision: 5), .new("b", 2, revision: .max), .new("c", 3), .deleted("d", revision: 7),
                ])
            ])
    }

    @Test func revision_ofTheNewestUpdate_isDelivered_alsoOfDeletions() throws {
        let buffer = try makeBuffer(live: "a", "b", "c")
        buffer.set("a", 1, revision: 1)
        buffer.delete("a", revision: 2)
        buffer.delete("b", revision: 3)
        buffer.set("b", 2, revision: 4)
        buffer.delete("c", revision: 6)
        buffer.delete("c", revision: 5)
        #expect(
            try buffer.flush() == [
                .updates([.deleted("a", revision: 2), .updated("b", 2, revision: 4), .deleted("c", revision: 5)])
            ])
    }

    @Test func revision_absentInTheNewestUpdate_isZero() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1, revision: 8)
        buffer.set("a", 2)
        #expect(try buffer.flush() == [.updates([.new("a", 2, revision: 0)])])
    }

    // MARK: Lists

    @Test func emptyList_isANoOp() throws {
        let buffer = StringBuffer()
        buffer.onUpdates([])
        buffer.onUpdatesKeysKnown([], keys: [String]())
        buffer.onUpdatesKeysKnown([], keys: [[UInt8]]())
        buffer.onUpdatesKeysKnown([], keys: ["more", "keys", "than updates"])
        #expect(buffer.statistics == StringBuffer().statistics)
        #expect(try buffer.nextBatch() == nil)
    }

    @Test func sameKey_severalTimesInOneList_isOneUpdate() throws {
        let buffer = StringBuffer()
        buffer.onUpdates([
            Update(key: "a", value: 1), Update(key: "b", value: 2), Update(key: "a", value: nil),
            Update(key: "a", value: 3), Update(key: "b", value: 4), Update(key: "c", value: nil),
            Update(key: "c", value: nil),
        ])
        #expect(try buffer.flush() == [.updates([.new("b", 4), .new("a", 3), .deleted("c")])])
        let statistics = buffer.statistics
        #expect(statistics.received == 7)
        #expect(statistics.delivered == 3)
        #expect(statistics.replaced == 2)
        #expect(statistics.cancelled == 2)
        #expect(statistics.unaccounted == 0)
    }

    @Test func longList_keepsItsOrder() throws {
        let buffer = StringBuffer()
        buffer.onUpdates((0..<5_000).map { (n: Int) in Update(key: "key \(n)", value: n) })
        let expected: [Item<String, Int>] = (0..<5_000).map { .new("key \($0)", $0) }
        #expect(try buffer.flush().items() == expected)
    }

    @Test func manyKeys_replacedInAnotherOrder_keepTheirPlaces() throws {
        let buffer = StringBuffer()
        for n in 0..<3_000 { buffer.set("key \(n)", n) }
        for n in (0..<3_000).reversed() { buffer.set("key \(n)", -n) }
        let expected: [Item<String, Int>] = (0..<3_000).map { .new("key \($0)", -$0) }
        #expect(try buffer.flush().items() == expected)
    }

    // MARK: Known keys

    @Test func knownKeys_asStrings_actLikeComputedOnes() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.onUpdatesKeysKnown([Update(key: "b", value: 2), Update(key: "a", value: 3)], keys: ["b", "a"])
        buffer.delete("b")
        #expect(try buffer.flush() == [.updates([.new("a", 3)])])
    }

    @Test func knownKeys_asBytes_actLikeComputedOnes() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1)
        buffer.onUpdatesKeysKnown(
            [Update(key: "b", value: 2), Update(key: "a", value: 3)], keys: [Array("b".utf8), Array("a".utf8)])
        buffer.delete("b")
        #expect(try buffer.flush() == [.updates([.new("a", 3)])])
    }

    @Test func knownKeys_shorterThanTheList_areComputedForTheRest() throws {
        let buffer = StringBuffer()
        let list = ["a", "b", "c"].map { Update(key: $0, value: 1) }
        buffer.onUpdatesKeysKnown(list, keys: ["a"])
        buffer.onUpdatesKeysKnown(list, keys: [Array("a".utf8), Array("b".utf8)])
        buffer.onUpdatesKeysKnown(list, keys: [String]())
        buffer.onUpdatesKeysKnown(list, keys: [[UInt8]]())
        #expect(try buffer.flush() == [.updates([.new("a", 1), .new("b", 1), .new("c", 1)])])
        #expect(buffer.statistics.replaced == 9)
    }

    @Test func knownKeys_longerThanTheList_areCutOff() throws {
        let buffer = StringBuffer()
        buffer.onUpdatesKeysKnown([Update(key: "a", value: 1)], keys: ["a", "b", "c"])
        #expect(try buffer.flush() == [.updates([.new("a", 1)])])
        #expect(buffer.statistics.received == 1)
    }

    @Test func knownKeys_thatAreEmpty_areComputed() throws {
        let buffer = StringBuffer()
        let list = ["a", "b", "c"].map { Update(key: $0, value: 1) }
        buffer.onUpdatesKeysKnown(list, keys: ["", "b", ""])
        buffer.onUpdatesKeysKnown(list, keys: [[], [], Array("c".utf8)])
        #expect(try buffer.flush() == [.updates([.new("a", 1), .new("b", 1), .new("c", 1)])])
        #expect(buffer.statistics.replaced == 3)
    }

    @Test func knownKeys_forANumber_areItsBigEndianBytes() throws {
        let buffer = DedupeBuffer<UInt64, Int>()
        buffer.set(0x0102_0304_0506_0708, 1)
        buffer.onUpdatesKeysKnown([Update(key: 0x0102_0304_0506_0708, value: 2)], keys: [[1, 2, 3, 4, 5, 6, 7, 8]])
        buffer.onUpdatesKeysKnown([Update(key: 0x4142_4344_4546_4748, value: 3)], keys: ["ABCDEFGH"])
        buffer.set(0x4142_4344_4546_4748, 4)
        #expect(
            try buffer.flush() == [.updates([.new(0x0102_0304_0506_0708, 2), .new(0x4142_4344_4546_4748, 4)])])
    }

    // MARK: While the sink runs

    @Test func updates_ofKeysInTheBatchBeingDelivered_areQueuedAnew() throws {
        let buffer = StringBuffer()
        let sink = StringSink()
        buffer.set("a", 1)
        buffer.set("b", 1)
        sink.onEachCall { _ in
            buffer.delete("b")
            buffer.set("a", 2)
        }
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.updates([.new("a", 1), .new("b", 1)])])
        #expect(try buffer.flush() == [.updates([.deleted("b"), .updated("a", 2)])])
    }

    @Test func keyDeletedAndRecreated_whileItsDeletionIsWithTheSink_isNew() throws {
        let buffer = try makeBuffer(live: "a", "b")
        let sink = StringSink()
        buffer.delete("a")
        buffer.delete("b")
        sink.onEachCall { _ in
            buffer.set("a", 2)
            buffer.set("b", 3)
            buffer.delete("b")  // not live any more: its deletion has been taken
        }
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(sink.calls == [.updates([.deleted("a"), .deleted("b")])])
        #expect(try buffer.flush() == [.updates([.new("a", 2)])])
        #expect(buffer.statistics.cancelled == 2)
    }
}
