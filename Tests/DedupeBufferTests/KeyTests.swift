// SPDX-License-Identifier: Apache-2.0

// DedupeKey: the conformances, and keys that are one if their bytes are.

import Foundation
import Testing

@testable import DedupeBuffer

@Suite("Keys")
struct KeyTests {
    // MARK: Bytes

    @Test(arguments: [
        "", "a", "key 1", "/calico/v1/host/node-20", "é", "e\u{301}", "日本語", "👩‍👩‍👧‍👦", "a\u{0}b", "\u{0}", "\u{FEFF}",
        String(repeating: "long ", count: 1_000),
    ])
    func string_roundTrips_asUTF8(text: String) throws {
        #expect(bytes(of: text) == Array(text.utf8))
        let back = try #require(key(String.self, from: bytes(of: text)))
        #expect(Array(back.utf8) == Array(text.utf8))
    }

    /// A string that was bridged, cut out of another or made of parts has the bytes of one that was
    /// not.
    @Test func string_ofAnyOrigin_hasTheSameBytes() {
        let whole = "a string of more than fifteen bytes: é"
        #expect(bytes(of: String("___\(whole)___".dropFirst(3).dropLast(3))) == Array(whole.utf8))
        #expect(bytes(of: String(NSString(string: whole))) == Array(whole.utf8))
        #expect(bytes(of: whole.map { String($0) }.joined()) == Array(whole.utf8))
    }

    @Test(
        arguments: [
            [0xFF], [0x80], [0xC3], [0x61, 0xC3], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80],
            [0x61, 0x62, 0xE2, 0x82],
        ] as [[UInt8]])
    func string_fromInvalidUTF8_isNil(invalid: [UInt8]) {
        #expect(key(String.self, from: invalid) == nil)
    }

    @Test(arguments: [[], [0], [0, 0], [1, 2, 3], [0xFF, 0x80, 0], Array(repeating: 7, count: 5_000)] as [[UInt8]])
    func byteArray_roundTrips(array: [UInt8]) {
        #expect(bytes(of: array) == array)
        #expect(key([UInt8].self, from: array) == array)
    }

    @Test(arguments: [0, 1, 255, 256, 0x0102_0304_0506_0708, .max, .max - 1, 1 << 63] as [UInt64])
    func number_roundTrips(number: UInt64) {
        #expect(key(UInt64.self, from: bytes(of: number)) == number)
    }

    @Test func number_isBigEndian() {
        #expect(bytes(of: 0x0102_0304_0506_0708 as UInt64) == [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(bytes(of: 1 as UInt64) == [0, 0, 0, 0, 0, 0, 0, 1])
        #expect(key(UInt64.self, from: [0, 0, 0, 0, 0, 0, 1, 0]) == 256)
    }

    @Test(arguments: [0, 1, 7, 9, 16])
    func number_fromAWrongLength_isNil(length: Int) {
        #expect(key(UInt64.self, from: Array(repeating: 0, count: length)) == nil)
        #expect(key(Int.self, from: Array(repeating: 0, count: length)) == nil)
        #expect(key(UInt32.self, from: Array(repeating: 0, count: length)) == nil)
    }

    /// As many bytes as the type has, and the same number back.
    private func expectRoundTrip<Key: DedupeKey & FixedWidthInteger>(of type: Key.Type) throws {
        for number in [0, 1, .max, .min, Key.max / 3, Key.min / 3] {
            #expect(bytes(of: number).count == Key.bitWidth / 8)
            #expect(key(Key.self, from: bytes(of: number)) == number)
        }
        try expectDistinct(Key.max, .min)
        try expectDistinct(0 as Key, 1 << (Key.bitWidth - 8))
    }

    @Test func everyInteger_roundTrips() throws {
        try expectRoundTrip(of: Int.self)
        try expectRoundTrip(of: UInt.self)
        try expectRoundTrip(of: Int64.self)
        try expectRoundTrip(of: UInt64.self)
        try expectRoundTrip(of: Int32.self)
        try expectRoundTrip(of: UInt32.self)
    }

    @Test func orderOfBytes_isThatOfNumbers_negativeOnesComeLast() {
        func isOrdered(_ numbers: [some DedupeKey]) -> Bool {
            zip(numbers, numbers.dropFirst()).allSatisfy { bytes(of: $0).lexicographicallyPrecedes(bytes(of: $1)) }
        }
        #expect(isOrdered([0, 1, 255, 256, 1 << 31, .max] as [UInt32]))
        #expect(isOrdered([0, 1, 255, 256, .max, .min, -256, -1] as [Int]))
    }

    @Test func uuid_isItsSixteenBytes() throws {
        let uuid = try #require(UUID(uuidString: "00112233-4455-6677-8899-AABBCCDDEEFF"))
        #expect(bytes(of: uuid) == (0..<16).map { UInt8($0 * 0x11) })
        #expect(key(UUID.self, from: bytes(of: uuid)) == uuid)
        for _ in 0..<20 {
            let random = UUID()
            #expect(key(UUID.self, from: bytes(of: random)) == random)
        }
    }

    @Test(arguments: [0, 1, 15, 17, 32])
    func uuid_fromAWrongLength_isNil(length: Int) {
        #expect(key(UUID.self, from: Array(repeating: 0, count: length)) == nil)
    }

    /// Bytes that begin anywhere in memory: nothing may rely on alignment.
    @Test func keys_fromUnalignedBytes() {
        let memory = (0..<40).map { UInt8($0) }
        for offset in 0..<8 {
            let number = memory.span.bytes.extracting(offset..<offset + 8)
            #expect(UInt64(keyBytes: number).map { bytes(of: $0) } == Array(memory[offset..<offset + 8]))
            let uuid = memory.span.bytes.extracting(offset..<offset + 16)
            #expect(UUID(keyBytes: uuid).map { bytes(of: $0) } == Array(memory[offset..<offset + 16]))
            let array = memory.span.bytes.extracting(offset..<offset + 3)
            #expect([UInt8](keyBytes: array) == Array(memory[offset..<offset + 3]))
        }
    }

    @Test func errors_ofTheBody_areHandedOn() {
        struct Mine: Error, Equatable {}
        func thrown(by key: some DedupeKey) -> Mine? {
            do throws(Mine) {
                try key.withKeyBytes { (_: RawSpan) throws(Mine) -> Void in throw Mine() }
                return nil
            } catch {
                return error
            }
        }
        #expect(thrown(by: "a") == Mine())
        #expect(thrown(by: [1, 2] as [UInt8]) == Mine())
        #expect(thrown(by: 1 as UInt64) == Mine())
        #expect(thrown(by: UUID()) == Mine())
    }

    // MARK: Identity in the buffer

    /// Sets, replaces, cancels and delivers two keys that must not be taken for each other.
    private func expectDistinct<Key: DedupeKey>(_ first: Key, _ second: Key) throws {
        let buffer = DedupeBuffer<Key, Int>()
        buffer.set(first, 1)
        buffer.set(second, 2)
        buffer.set(first, 3)
        #expect(buffer.statistics.pendingKeys == 2)
        #expect(try buffer.flush() == [.updates([.new(first, 3), .new(second, 2)])])
        buffer.delete(second)
        buffer.set(first, 4)
        #expect(try buffer.flush() == [.updates([.deleted(second), .updated(first, 4)])])
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.deleted(first)]), .status(.inSync)])
    }

    @Test func canonicallyEquivalentStrings_areTwoKeys() throws {
        #expect("é" == "e\u{301}")  // for Swift they are one
        try expectDistinct("é", "e\u{301}")
        try expectDistinct("Å", "\u{212B}")
    }

    @Test func stringsThatAreNearlyEqual_areTwoKeys() throws {
        try expectDistinct("", "\u{0}")
        try expectDistinct("a", "a\u{0}")
        try expectDistinct("a\u{0}b", "a\u{0}c")
        try expectDistinct("A", "a")
        try expectDistinct("/a/b", "/a/b/")
        let long = String(repeating: "x", count: 300)
        try expectDistinct(long + "a", long + "b")
        try expectDistinct("a" + long, "b" + long)
        try expectDistinct(long, long + "x")
    }

    @Test func otherKeys_areDistinct() throws {
        try expectDistinct([] as [UInt8], [0])
        try expectDistinct([0, 0] as [UInt8], [0])
        try expectDistinct([0xFF, 0] as [UInt8], [0xFF, 1])
        try expectDistinct(0 as UInt64, .max)
        try expectDistinct(1 as UInt64, 1 << 56)
        try expectDistinct(UUID(), UUID())
    }

    @Test func emptyKey_isAKey_alsoWhereKeysAreKnown() throws {
        let buffer = StringBuffer()
        buffer.set("", 1)
        buffer.onUpdatesKeysKnown([Update(key: "", value: 2)], keys: [""])
        buffer.onUpdatesKeysKnown([Update(key: "", value: 3)], keys: [[]])
        #expect(try buffer.flush() == [.updates([.new("", 3)])])
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.deleted("")]), .status(.inSync)])
    }

    @Test func equalStringsOfDifferentOrigin_areOneKey() throws {
        let buffer = StringBuffer()
        let key = "a key that is longer than a small string"
        buffer.set(key, 1)
        buffer.set(String("__\(key)".dropFirst(2)), 2)
        buffer.set(key.map { String($0) }.joined(), 3)
        #expect(try buffer.flush() == [.updates([.new(key, 3)])])
    }

    @Test func keysOfEveryLength_areKeptApart() throws {
        let buffer = DedupeBuffer<[UInt8], Int>()
        let lengths = Array(0...300) + [511, 512, 513, 1_023, 1_024, 4_095, 4_096, 4_097, 65_535, 65_536]
        for length in lengths { buffer.set(Array(repeating: 0xAA, count: length), length) }
        for length in lengths { buffer.set(Array(repeating: 0xAA, count: length), -length) }
        #expect(try buffer.flush().items() == lengths.map { .new(Array(repeating: 0xAA, count: $0), -$0) })
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        #expect(Set(try buffer.flush().items().map(\.key.count)) == Set(lengths))
    }

    /// All of a call's keys at once would take more than there is: they go in one after another.
    @Test func longKeys_ofOneCall_areWrittenInShares() throws {
        var page = PutPage()
        defer { page.deallocate() }
        let lengths = [1, 60_000, 5_535]
        for (i, length) in lengths.enumerated() {
            page.write(key: [UInt8](repeating: UInt8(i), count: length).span.bytes)
            #expect(page.nextLength == length)
            page.commit(keyLength: length, deletion: false)
        }
        #expect(page.keysLength == 65_536 && page.keys.capacity == 65_536)
        let written = UnsafeRawBufferPointer(start: page.keys.pointer(at: 0), count: page.keysLength)
        #expect(Array(written) == lengths.enumerated().flatMap { Array(repeating: UInt8($0), count: $1) })
        page.write(key: ([1] as [UInt8]).span.bytes)
        #expect(page.nextLength == PutPage.noRoom)

        let buffer = DedupeBuffer<[UInt8], Int>()
        let keys = (0..<20).map { n in [UInt8](repeating: UInt8(n), count: n % 3 == 0 ? 65_536 : 3_000 * n) }
        buffer.onUpdates(keys.enumerated().map { Update(key: $1, value: $0) })
        buffer.onUpdates(keys.enumerated().map { Update(key: $1, value: -$0) })
        #expect(try buffer.flush().items() == keys.enumerated().map { .new($1, -$0) })
    }

    @Test func manyNumbers_areKeptApart() throws {
        let buffer = DedupeBuffer<UInt64, Int>()
        let count = 20_000
        // Dense, and then the same far apart: neighbours in every byte.
        for n in 0..<count { buffer.set(UInt64(n), n) }
        for n in 1..<count { buffer.set(UInt64(n) << 40, n) }
        for n in 0..<count { buffer.set(UInt64(n), -n) }
        #expect(buffer.statistics.pendingKeys == 2 * count - 1)
        #expect(buffer.statistics.replaced == count)
        let items = try buffer.flush().items()
        #expect(items.prefix(count).map(\.value) == (0..<count).map { -$0 })
        #expect(items.dropFirst(count).map(\.key) == (1..<count).map { UInt64($0) << 40 })
    }

    @Test func uuids_areKeptApart() throws {
        let buffer = DedupeBuffer<UUID, Int>()
        let keys = (0..<500).map { _ in UUID() }
        for (n, key) in keys.enumerated() { buffer.set(key, n) }
        for (n, key) in keys.enumerated().reversed() { buffer.set(key, n + 1) }
        #expect(try buffer.flush().items() == keys.enumerated().map { .new($1, $0 + 1) })
    }

    @Test func substrings_areTheSameKeysAsStrings_withTheirText() throws {
        let buffer = DedupeBuffer<Substring, Int>()
        let text = "ä/b/ä"
        buffer.set(text.prefix(1), 1)
        buffer.set(text.dropFirst(2).prefix(1), 2)
        buffer.set(text.suffix(1), 3)
        buffer.set("", 4)
        #expect(try buffer.flush().items() == [.new("ä", 3), .new("b", 2), .new("", 4)])
        #expect("ä".withKeyBytes { $0.byteCount } == text.prefix(1).withKeyBytes { $0.byteCount })
        #expect([UInt8]([0xC3]).withKeyBytes { Substring(keyBytes: $0) } == nil)
    }

    // MARK: Keys with raw values

    enum Region: String, DedupeKey, CaseIterable { case east, west }

    enum Port: Int, DedupeKey {
        case http = 80
        case https = 443
    }

    struct EndpointID: RawRepresentable, DedupeKey, Hashable { var rawValue: UInt64 }

    @Test func keysWithRawValues_areDelivered_alsoInOwedDeletions() throws {
        let regions = DedupeBuffer<Region, Int>()
        for region in Region.allCases { regions.set(region, 1) }
        _ = try regions.flush()
        regions.onConnectionRestarted()
        regions.set(.west, 2)
        regions.onStatusUpdated(.inSync)
        #expect(try regions.flush().items() == [.updated(.west, 2), .deleted(.east)])
        let ports = DedupeBuffer<Port, Int>()
        for port in [Port.https, .http, .https] { ports.set(port, port.rawValue) }
        #expect(try ports.flush().items() == [.new(.https, 443), .new(.http, 80)])
        let endpoints = DedupeBuffer<EndpointID, Int>()
        for n in [1, 2, 1 << 40] { endpoints.set(EndpointID(rawValue: UInt64(n)), n) }
        #expect(try endpoints.flush().items().map(\.key.rawValue) == [1, 2, 1 << 40])
    }

    @Test func bytesOfNoRawValue_areNoKey() {
        #expect("east".withKeyBytes { Region(keyBytes: $0) } == .east)
        #expect("north".withKeyBytes { Region(keyBytes: $0) } == nil)
        #expect(1.withKeyBytes { Port(keyBytes: $0) } == nil)
        #expect("80".withKeyBytes { Port(keyBytes: $0) } == nil)
    }

    // MARK: A key of the user's own

    struct Route: DedupeKey, Equatable {
        var host: UInt8
        var path: String

        func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
            let bytes = [host] + Array(path.utf8)
            return try body(bytes.span.bytes)
        }

        init(host: UInt8, path: String) {
            self.host = host
            self.path = path
        }

        init?(keyBytes: RawSpan) {
            let bytes = keyBytes.withUnsafeBytes { Array($0) }
            guard let host = bytes.first, let path = String(validating: bytes.dropFirst(), as: UTF8.self) else {
                return nil
            }
            self.init(host: host, path: path)
        }
    }

    @Test func customKey_isDelivered_alsoInOwedDeletions() throws {
        let buffer = DedupeBuffer<Route, String>()
        let (first, second) = (Route(host: 1, path: "/a"), Route(host: 2, path: "/a"))
        buffer.set(first, "x")
        buffer.set(second, "y")
        buffer.set(first, "z")
        #expect(try buffer.flush() == [.updates([.new(first, "z"), .new(second, "y")])])
        buffer.onConnectionRestarted()
        buffer.set(second, "w")
        buffer.onStatusUpdated(.inSync)
        let calls = try buffer.flush()
        #expect(calls == [.updates([.updated(second, "w"), .deleted(first)]), .status(.inSync)])
        #expect(calls.items().map(\.key) == [second, first])
    }

    /// Two keys are one if their bytes are, whatever `==` would say.
    struct Caseless: DedupeKey {
        var text: String

        func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
            let bytes = Array(text.lowercased().utf8)
            return try body(bytes.span.bytes)
        }

        init(text: String) { self.text = text }

        init?(keyBytes: RawSpan) {
            guard let text = String(validating: keyBytes.withUnsafeBytes { Array($0) }, as: UTF8.self) else {
                return nil
            }
            self.text = text
        }
    }

    @Test func customKeys_withEqualBytes_areOneKey() throws {
        let buffer = DedupeBuffer<Caseless, Int>()
        buffer.set(Caseless(text: "Key"), 1)
        buffer.set(Caseless(text: "other"), 2)
        buffer.set(Caseless(text: "KEY"), 3)
        #expect(try buffer.flush() == [.updates([.new(Caseless(text: "key"), 3), .new(Caseless(text: "other"), 2)])])
        buffer.delete(Caseless(text: "kEy"))
        #expect(try buffer.flush() == [.updates([.deleted(Caseless(text: "key"))])])
        #expect(buffer.statistics.liveKeys == 1)
    }

    // MARK: Keys that show more than one face

    /// Gives its body one key after another, and returns the first answer.
    private struct ManyFacedKey: DedupeKey {
        var faces: [[UInt8]]

        init(_ faces: [UInt8]...) { self.faces = faces }

        init?(keyBytes: RawSpan) { faces = [keyBytes.withUnsafeBytes { Array($0) }] }

        func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
            let first = faces[0]
            let answer = try body(first.span.bytes)
            for face in faces.dropFirst() { _ = try body(face.span.bytes) }
            return answer
        }
    }

    private static let tooLong = [UInt8](repeating: 7, count: 1_000_000)

    @Test func keyBytes_givenTwice_theLastCount() throws {
        let buffer = DedupeBuffer<ManyFacedKey, Int>()
        buffer.onUpdates([
            Update(key: ManyFacedKey([1]), value: 1), Update(key: ManyFacedKey(Self.tooLong, [1, 2], [3]), value: 2),
            Update(key: ManyFacedKey([2], [1]), value: 3),
        ])
        buffer.onConnectionRestarted()
        #expect(buffer.statistics.replaced == 1)
        #expect(buffer.statistics.dropped == 2)
    }

    /// Nothing outside of the keys' memory is read, whatever the key returned.
    @Test(arguments: [[], [1], [2, 3]] as [[UInt8]])
    func keyBytes_givenTwiceAndTooLongTheLastTime_areRefused(others: [UInt8]) throws {
        let refused = Kept<[Int]>([])
        let buffer = DedupeBuffer<ManyFacedKey, Int>(
            configuration: .with {
                $0.onRejection = { rejection in refused.change { $0.append(rejection.keyLength) } }
            })
        let two = Update(key: ManyFacedKey([0], Self.tooLong), value: 2)
        buffer.onUpdates(
            [Update(key: ManyFacedKey([9]), value: 1), two] + others.map { Update(key: ManyFacedKey([$0]), value: 3) })
        #expect(refused.value == [1_000_000])
        #expect(buffer.statistics.rejected == 1)
        #expect(buffer.statistics.pendingKeys == 1 + others.count)
    }

    /// There is no answer but one of the body's, unless it is forged.
    private struct SilentKey: DedupeKey {
        init() {}
        init?(keyBytes: RawSpan) {}
        func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R { () as! R }
    }

    @Test func keyBytes_notGiven_endTheProgram() async {
        await #expect(processExitsWith: .failure) {
            DedupeBuffer<SilentKey, Int>().onUpdates([Update(key: SilentKey(), value: 1)])
        }
    }
}
