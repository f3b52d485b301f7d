// SPDX-License-Identifier: Apache-2.0

// What callers pass with updates: types, revisions, and keys that they have serialised. The rules
// of updates are in Tests/Scenarios.

import DedupeBuffer
import Testing

@Suite("What comes with updates")
struct UpdateInputTests {
    /// Makes keys live: delivers them, and forgets what was delivered.
    private func makeBuffer(live keys: String...) throws -> StringBuffer {
        let buffer = StringBuffer()
        for key in keys { buffer.set(key, 0) }
        _ = try buffer.flush()
        return buffer
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

    @Test func revision_absentInTheNewestUpdate_isZero() throws {
        let buffer = StringBuffer()
        buffer.set("a", 1, revision: 8)
        buffer.set("a", 2)
        #expect(try buffer.flush() == [.updates([.new("a", 2, revision: 0)])])
    }

    // MARK: Lists

    /// A call goes to the core in chunks of 100.
    @Test(arguments: Intake.inOneCall, [99, 100, 101, 200, 201])
    func lastUpdate_ofALongCall_isPutToo(intake: Intake, count: Int) {
        let buffer = StringBuffer()
        intake.send((1...count).map { Update(key: "key \($0)", value: $0) }, to: buffer)
        #expect(buffer.statistics.received == count)
        #expect(buffer.statistics.pendingKeys == count)
    }

    @Test func emptyList_isANoOp() throws {
        let buffer = StringBuffer()
        buffer.onUpdates([])
        buffer.onUpdatesKeysKnown([], keys: [String]())
        buffer.onUpdatesKeysKnown([], keys: [[UInt8]]())
        buffer.onUpdatesKeysKnown([], keys: ["more", "keys", "than updates"])
        #expect(buffer.statistics == StringBuffer().statistics)
        #expect(try buffer.nextBatch() == nil)
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
}
