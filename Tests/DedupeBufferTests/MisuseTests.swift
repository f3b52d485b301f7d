// SPDX-License-Identifier: Apache-2.0

// Keys that are too long, and the handler that hears of them.

import DedupeBuffer
import Dispatch
import Testing

@Suite("Oversized keys")
struct MisuseTests {
    private static let limit = 65_536

    private let rejections = Kept<[DedupeBufferConfiguration.Rejection]>([])

    private func makeBuffer<Key>(_ type: Key.Type = String.self) -> DedupeBuffer<Key, Int> {
        var configuration = DedupeBufferConfiguration()
        let rejections = rejections
        configuration.onRejection = { rejection in rejections.change { $0.append(rejection) } }
        return DedupeBuffer(configuration: configuration)
    }

    private func key(_ length: Int) -> String { String(repeating: "k", count: length) }

    @Test func key_atTheLimit_isAccepted() throws {
        let buffer = makeBuffer()
        buffer.set(key(Self.limit - 1), 1)
        buffer.set(key(Self.limit), 2)
        buffer.set(key(Self.limit), 3)
        #expect(rejections.value.isEmpty)
        #expect(buffer.statistics.rejected == 0)
        #expect(try buffer.flush() == [.updates([.new(key(Self.limit - 1), 1), .new(key(Self.limit), 3)])])
    }

    @Test(arguments: [65_537, 65_538, 100_000, 1_000_000])
    func key_overTheLimit_isDropped_rejected_andReported(length: Int) throws {
        let buffer = makeBuffer()
        buffer.set(key(length), 1)
        let statistics = buffer.statistics
        #expect(statistics.received == 1)
        #expect(statistics.dropped == 1)
        #expect(statistics.rejected == 1)
        #expect(statistics.pendingKeys == 0)
        #expect(statistics.unaccounted == 0)
        #expect(rejections.value.map(\.keyLength) == [length])
        #expect(rejections.value.map(\.maximumKeyLength) == [Self.limit])
        #expect(try buffer.nextBatch() == nil)
    }

    @Test func deletion_overTheLimit_isRejectedToo() throws {
        let buffer = makeBuffer()
        buffer.delete(key(Self.limit + 1))
        #expect(buffer.statistics.rejected == 1)
        #expect(rejections.value.map(\.keyLength) == [Self.limit + 1])
        #expect(try buffer.nextBatch() == nil)
    }

    @Test func theRestOfTheList_goesIn_inOrder() throws {
        let buffer = makeBuffer()
        buffer.onUpdates([
            Update(key: key(Self.limit + 1), value: 0), Update(key: "a", value: 1),
            Update(key: key(Self.limit + 2), value: nil), Update(key: "b", value: 2), Update(key: "a", value: 3),
            Update(key: key(Self.limit + 3), value: 0),
        ])
        #expect(rejections.value.map(\.keyLength) == [Self.limit + 1, Self.limit + 2, Self.limit + 3])
        #expect(try buffer.flush() == [.updates([.new("a", 3), .new("b", 2)])])
        let statistics = buffer.statistics
        #expect(statistics.received == 6)
        #expect(statistics.dropped == 3)
        #expect(statistics.rejected == 3)
        #expect(statistics.delivered == 2)
        #expect(statistics.replaced == 1)
        #expect(statistics.unaccounted == 0)
    }

    @Test func knownKeys_overTheLimit_areRejectedToo() throws {
        let buffer = makeBuffer()
        let long = key(Self.limit + 1)
        buffer.onUpdatesKeysKnown([Update(key: long, value: 1), Update(key: "a", value: 2)], keys: [long, "a"])
        buffer.onUpdatesKeysKnown(
            [Update(key: long, value: 1), Update(key: "b", value: 2)], keys: [Array(long.utf8), Array("b".utf8)])
        buffer.onUpdatesKeysKnown([Update(key: long, value: 1)], keys: [String]())
        #expect(rejections.value.map(\.keyLength) == [Self.limit + 1, Self.limit + 1, Self.limit + 1])
        #expect(buffer.statistics.rejected == 3)
        #expect(try buffer.flush() == [.updates([.new("a", 2), .new("b", 2)])])
    }

    @Test func otherKeyTypes_areRejectedToo() throws {
        let buffer = makeBuffer([UInt8].self)
        buffer.set(Array(repeating: 0, count: Self.limit), 1)
        buffer.set(Array(repeating: 0, count: Self.limit + 1), 2)
        #expect(rejections.value.map(\.keyLength) == [Self.limit + 1])
        #expect(try buffer.flush().items().map(\.key.count) == [Self.limit])
    }

    @Test func lengths_areBytes_notCharacters() throws {
        let buffer = makeBuffer()
        buffer.set(String(repeating: "é", count: Self.limit / 2), 1)
        buffer.set(String(repeating: "é", count: Self.limit / 2 + 1), 2)
        #expect(rejections.value.map(\.keyLength) == [Self.limit + 2])
        #expect(buffer.statistics.pendingKeys == 1)
    }

    @Test func withoutAHandler_itIsOnlyCounted() throws {
        let buffer = StringBuffer()
        #expect(DedupeBufferConfiguration().onRejection == nil)
        buffer.set(key(Self.limit + 1), 1)
        buffer.set("a", 1)
        #expect(buffer.statistics.rejected == 1)
        #expect(try buffer.flush() == [.updates([.new("a", 1)])])
    }

    @Test func rejectedUpdate_wakesNobody_andTheNextIsDelivered() throws {
        let (buffer, sink) = (makeBuffer(), StringSink())
        let loop = try RunningLoop(.serialQueue, running: buffer, to: sink, first: "a", 0)
        buffer.set(key(Self.limit + 1), 1)
        try loop.settle()
        #expect(sink.calls == [])
        buffer.set("b", 1)
        try sink.wait(forItems: 1)
        #expect(sink.calls == [.updates([.new("b", 1)])])
        buffer.stop()
        try loop.end()
    }

    @Test func handler_mayCallTheBuffer() throws {
        let holder = Kept<StringBuffer?>(nil)
        let seen = Kept<[Int]>([])
        var configuration = DedupeBufferConfiguration()
        configuration.onRejection = { rejection in
            guard let buffer = holder.value else { return }
            buffer.set("reported \(rejection.keyLength)", rejection.keyLength)
            buffer.onStatusUpdated(.inSync)
            let statistics = buffer.statistics
            seen.change { $0.append(statistics.rejected) }
        }
        let buffer = StringBuffer(configuration: configuration)
        holder.change { $0 = buffer }
        defer { holder.change { $0 = nil } }
        let long = key(Self.limit + 1)
        try bounded("a handler that calls the buffer") { buffer.set(long, 1) }
        #expect(seen.value.count == 1)
        #expect(try buffer.flush() == [.updates([.new("reported 65537", 65_537)]), .status(.inSync)])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func handler_mayStopTheBuffer() throws {
        let holder = Kept<StringBuffer?>(nil)
        var configuration = DedupeBufferConfiguration()
        configuration.onRejection = { _ in holder.value?.stop() }
        let buffer = StringBuffer(configuration: configuration)
        holder.change { $0 = buffer }
        defer { holder.change { $0 = nil } }
        let long = key(Self.limit + 1)
        try bounded("a handler that stops the buffer") { buffer.set(long, 1) }
        #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: StringSink()) }
        #expect(buffer.statistics.unaccounted == 0)
    }
}
