// SPDX-License-Identifier: Apache-2.0

// Pinned keys: a faster name of a key, which changes nothing for the sink.

import DedupeBuffer
import Testing

@Suite("Pins")
struct PinTests {
    private let buffer = StringBuffer()

    @Test func arrays_areNamedByTheirPins() throws {
        let pins = (0..<250).map { buffer.pin("key \($0)") }
        let updates = (0..<250).map { Update(key: "ignored", value: .some($0)) }
        buffer.onUpdates(updates, pins: pins)
        buffer.onUpdates([], pins: [])
        buffer.onUpdates([Update(key: "", value: nil)], pins: [pins[7]])
        let expected = (0..<250).filter { $0 != 7 }.map { Item<String, Int>.new("key \($0)", $0) }
        var delivered: [Item<String, Int>] = []
        for call in try buffer.flush() {
            if case .updates(let items) = call { delivered += items }
        }
        #expect(delivered == expected)
    }

    /// Keys and pins take turns in the scratch memory of a buffer.
    @Test func arrays_byKey_afterThoseByPin_areNamedByTheirKeys() throws {
        let pin = buffer.pin("a")
        buffer.onUpdates([Update(key: "", value: 1)], pins: [pin])
        buffer.onUpdates([Update(key: "b", value: 2)])
        #expect(try buffer.flush() == [.updates([.new("a", 1), .new("b", 2)])])
    }

    @Test func values_areMerged() throws {
        let buffer = StringBuffer(merge: +)
        let pin = buffer.pin("a")
        buffer.update(pin, to: 1)
        buffer.update("a", to: 2)
        buffer.update(pin, to: 4)
        #expect(try buffer.flush() == [.updates([.new("a", 7)])])
    }

    @Test func values_areWeighed() throws {
        let buffer = DedupeBuffer<String, String>(bound: .bytes(10))
        let pin = buffer.pin("a")
        buffer.update(pin, to: "123456")
        #expect(buffer.statistics.pendingBytes == 6)
        buffer.update(pin, to: "1")
        #expect(buffer.statistics.pendingBytes == 1)
    }

    @Test func pins_areCounted_untilTheirLastReferenceGoes() {
        var pins = [buffer.pin("a"), buffer.pin("a"), buffer.pin("b")]
        #expect(buffer.statistics.pinnedKeys == 2)
        pins.removeFirst()
        #expect(buffer.statistics.pinnedKeys == 2)
        pins = []
        #expect(buffer.statistics.pinnedKeys == 0)
        #expect(buffer.statistics.pendingKeys == 0)
    }

    @Test func pin_outlivesItsBuffer() {
        var buffer: StringBuffer? = StringBuffer()
        let pin = buffer!.pin("a")
        buffer!.update(pin, to: 1)
        buffer = nil
        #expect(pin.key == "a")
    }

    @Test func pin_survivesRestartAndOverflow() throws {
        let pin = buffer.pin("a")
        buffer.update(pin, to: 1)
        buffer.onConnectionRestarted()
        buffer.update(pin, to: 2)
        #expect(try buffer.flush() == [.updates([.new("a", 2)])])

        let bounded = StringBuffer(bound: .keys(1))
        let one = bounded.pin("one")
        let two = bounded.pin("two")
        bounded.update(one, to: 1)
        bounded.update(two, to: 2)
        #expect(bounded.statistics.isOverflowed)
        bounded.onConnectionRestarted()
        bounded.update(two, to: 3)
        #expect(try bounded.flush() == [.updates([.new("two", 3)])])
    }

    /// Both buffers have a pin with this number, so that nothing else would end the program.
    @Test func pin_ofAnotherBuffer_endsTheProgram() async {
        await #expect(processExitsWith: .failure) {
            let (one, other) = (StringBuffer(), StringBuffer())
            let (pin, own) = (one.pin("a"), other.pin("a"))
            other.update(own, to: 1)
            other.update(pin, to: 2)
        }
    }

    @Test func pin_ofAKeyThatIsTooLong_endsTheProgram() async {
        await #expect(processExitsWith: .failure) {
            _ = StringBuffer().pin(String(repeating: "k", count: 65_537))
        }
    }
}
