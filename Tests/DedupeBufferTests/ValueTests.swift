// SPDX-License-Identifier: Apache-2.0

// Values of every shape go in and come out unchanged.

import DedupeBuffer
import Dispatch
import Testing

@Suite("Values")
struct ValueTests {
    /// Sets, replaces, cancels, restarts and delivers, in single batches and by a loop.
    private func expectCarried<Value: Sendable & Equatable>(_ first: Value, _ second: Value) throws {
        let buffer: DedupeBuffer<String, Value> = makeBuffer(batchSize: 2)
        buffer.set("a", first)
        buffer.set("b", first)
        buffer.set("c", second)
        buffer.set("a", second, revision: 3)
        buffer.delete("b")
        #expect(try buffer.flush() == [.updates([.new("a", second, revision: 3), .new("c", second)])])
        buffer.set("a", first)
        buffer.delete("c")
        #expect(try buffer.flush() == [.updates([.updated("a", first), .deleted("c")])])
        buffer.set("d", first)
        buffer.onConnectionRestarted()
        buffer.set("e", second)
        buffer.onStatusUpdated(.inSync)
        #expect(
            try buffer.allBatches() == [[.updates([.new("e", second), .deleted("a")])], [.status(.inSync)]])

        let sink = RecordingSink<String, Value>()
        try buffer.startSending(to: sink)
        for n in 0..<20 { buffer.set("key \(n)", n % 2 == 0 ? first : second) }
        try bounded("finish") { buffer.finishAndWait() }
        #expect(sink.items == (0..<20).map { .new("key \($0)", $0 % 2 == 0 ? first : second) })
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func integers() throws { try expectCarried(Int.min, Int.max) }

    @Test func smallIntegers() throws { try expectCarried(1 as UInt8, 255 as UInt8) }

    @Test func strings() throws {
        try expectCarried("small", String(repeating: "not small ", count: 100))
        try expectCarried("", "é")
    }

    @Test func arrays() throws { try expectCarried([Int](), Array(0..<1_000)) }

    struct Endpoint: Sendable, Equatable {
        var name: String
        var ports: [UInt16: String]
        var weight: Double
    }

    @Test func structs() throws {
        try expectCarried(
            Endpoint(name: "a", ports: [80: "http"], weight: 0.5), Endpoint(name: "b", ports: [:], weight: -1))
    }

    final class Resource: Sendable, Equatable {
        let name: String
        init(_ name: String) { self.name = name }
        static func == (left: Resource, right: Resource) -> Bool { left === right }
    }

    @Test func classes_keepTheirIdentity() throws { try expectCarried(Resource("a"), Resource("a")) }

    enum Change: Sendable, Equatable {
        case nothing
        case name(String)
        indirect case both(Change, Change)
    }

    @Test func enums() throws {
        try expectCarried(Change.nothing, .name("a"))
        try expectCarried(Change.both(.name("b"), .nothing), .both(.both(.nothing, .nothing), .name("c")))
    }

    @Test func booleans() throws { try expectCarried(false, true) }

    enum Single: Sendable, Equatable { case one }

    @Test func valuesWithoutSize() throws { try expectCarried(Single.one, Single.one) }

    /// `.some(nil)` is a value; only nil is a deletion.
    @Test func optionals_nilInside_isNoDeletion() throws {
        try expectCarried(Int?.none, Int?.some(1))
        let buffer = DedupeBuffer<String, Int?>()
        buffer.onUpdates([Update(key: "a", value: .some(nil)), Update(key: "b", value: nil)])
        buffer.update("c", to: nil)
        let items = try buffer.flush().items()
        #expect(items.map(\.type) == [.new, .deleted, .new])
        #expect(items[0].value == .some(.none))
        #expect(items[2].value == .some(.none))
    }

    @Test func alignedVectors() throws {
        try expectCarried(SIMD8<Double>(repeating: 1.5), SIMD8<Double>(0, 1, 2, 3, 4, 5, 6, 7))
    }

    struct Block: Sendable, Equatable {
        var a: UInt64
        var b: UInt64
        var c: UInt64
        var d: UInt64
        init(_ seed: UInt64) { (a, b, c, d) = (seed, seed &* 3, seed &* 5, ~seed) }
    }

    struct Page: Sendable, Equatable {
        var a: Block
        var b: Block
        var c: Block
        var d: Block
        init(_ seed: UInt64) { (a, b, c, d) = (Block(seed), Block(seed + 1), Block(seed + 2), Block(seed + 3)) }
    }

    struct Kilobyte: Sendable, Equatable {
        var a: Page
        var b: Page
        var c: Page
        var d: Page
        var e: Page
        var f: Page
        var g: Page
        var h: Page
        init(_ seed: UInt64) {
            (a, b, c, d) = (Page(seed), Page(seed + 10), Page(seed + 20), Page(seed + 30))
            (e, f, g, h) = (Page(seed + 40), Page(seed + 50), Page(seed + 60), Page(seed + 70))
        }
    }

    @Test func largeStructs() throws {
        #expect(MemoryLayout<Kilobyte>.size == 1_024)
        try expectCarried(Kilobyte(1), Kilobyte(1_000_000))
        let buffer = DedupeBuffer<UInt64, Kilobyte>()
        for n in 0..<1_000 { buffer.set(UInt64(n), Kilobyte(UInt64(n))) }
        #expect(try buffer.flush().items() == (0..<1_000).map { .new(UInt64($0), Kilobyte(UInt64($0))) })
    }

    struct LargeTracked: Sendable, Equatable {
        var padding: Kilobyte
        var tracked: Tracked
        var tail: String
    }

    enum Box: Sendable, Equatable {
        case empty
        case one(Tracked)
        case two(Tracked, Tracked)
    }

    @Test func valuesHoldingReferences_endOnceEach() throws {
        let tracker = LifetimeTracker()
        do {
            try expectCarried(
                LargeTracked(padding: Kilobyte(1), tracked: tracker.make(), tail: "a"),
                LargeTracked(padding: Kilobyte(2), tracked: tracker.make(), tail: "b"))
            try expectCarried(Box.one(tracker.make()), .two(tracker.make(), tracker.make()))
            try expectCarried(Box.empty, .one(tracker.make()))
            try expectCarried([tracker.make(), tracker.make()], [])
        }
        try eventually("every value's end") { tracker.alive == 0 }
        #expect(tracker.created == 8)
        #expect(tracker.destroyedTwice == [])
    }

    // MARK: Values that do not compare

    /// Types and keys, for values that are not Equatable.
    final class TypesSink<Value: Sendable>: SyncerCallbacks {
        let heard = Kept<[String]>([])
        let values = Kept<[Value]>([])
        func onStatusUpdated(_ status: SyncStatus) { heard.change { $0.append("\(status)") } }
        func onUpdates(_ updates: [Update<String, Value>]) {
            heard.change { $0 += updates.map { "\($0.updateType) \($0.key)\($0.value == nil ? "" : " with a value")" } }
            values.change { $0 += updates.compactMap(\.value) }
        }
    }

    @Test func voids() throws {
        let (buffer, sink) = (DedupeBuffer<String, Void>(), TypesSink<Void>())
        buffer.set("a", ())
        buffer.set("b", ())
        buffer.set("a", ())
        buffer.delete("b")
        buffer.delete("c")
        try buffer.sendNextBatchToSink(sink)
        buffer.set("a", ())
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        try buffer.sendNextBatchToSink(sink)
        #expect(sink.heard.value == ["new a with a value", "deleted c", "deleted a", "in-sync"])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func closures() throws {
        let (buffer, sink) = (DedupeBuffer<String, @Sendable () -> Int>(), TypesSink<@Sendable () -> Int>())
        for n in 0..<10 { buffer.set("key \(n % 5)", { n * n }) }
        try buffer.sendNextBatchToSink(sink)
        #expect(sink.values.value.map { $0() } == [25, 36, 49, 64, 81])
    }

    @Test func existentials() throws {
        let (buffer, sink) = (DedupeBuffer<String, any Sendable>(), TypesSink<any Sendable>())
        buffer.set("a", 1)
        buffer.set("b", "text")
        buffer.set("c", Kilobyte(7))
        try buffer.sendNextBatchToSink(sink)
        #expect(sink.values.value[0] as? Int == 1)
        #expect(sink.values.value[1] as? String == "text")
        #expect(sink.values.value[2] as? Kilobyte == Kilobyte(7))
    }

    /// A buffer of values that cannot exist carries deletions only.
    @Test func uninhabitedValues() throws {
        let (buffer, sink) = (DedupeBuffer<String, Never>(), TypesSink<Never>())
        buffer.delete("a")
        buffer.delete("a")
        buffer.onStatusUpdated(.inSync)
        try buffer.sendNextBatchToSink(sink)
        #expect(sink.heard.value == ["deleted a", "in-sync"])
    }
}
