// SPDX-License-Identifier: Apache-2.0

#if Etcd

import SyncerEngine
import Testing

@testable import DedupeBufferEtcd

@Suite struct WireTests {
    private let entries = [
        DatastoreEntry(key: [1], value: [], revision: 1),
        DatastoreEntry(key: Array("a/long/key".utf8), value: [UInt8](repeating: 0xab, count: 300), revision: .max),
        DatastoreEntry(key: [0, 0xff], value: [0], revision: 1 << 40),
    ]

    // MARK: - Round trips

    @Test func rangeResponse_whenEncoded_decodesToTheSame() throws {
        var response = RangeResponse()
        response.header = ResponseHeader(clusterID: .max, revision: 77)
        response.entries = entries
        response.hasMore = true
        response.count = 12_345
        #expect(try decode(response.encoded) == response)
        #expect(try decode(RangeResponse().encoded) == RangeResponse())
    }

    @Test(arguments: [-1, 0, 1, 127, 128, .max] as [Int64])
    func watchResponse_whenEncoded_decodesToTheSame(watchID: Int64) throws {
        var response = WatchResponse()
        response.header = ResponseHeader(clusterID: 3, revision: 4)
        response.watchID = watchID
        response.isCreated = true
        response.isCancelled = true
        response.compactRevision = 9
        response.cancelReason = "mvcc: compacted, ä"
        response.isFragment = true
        response.events = entries + [DatastoreEntry(key: [9], value: nil, revision: 5)]
        #expect(try decode(response.encoded) == response)
    }

    @Test func requests_whenEncoded_decodeToTheSame() throws {
        let range = RangeRequest(key: [1, 2], rangeEnd: [1, 3], limit: 500, revision: 8, isKeysOnly: true)
        #expect(try decode(range.encoded) == range)
        let create = WatchRequest.create(
            WatchCreateRequest(key: [1], rangeEnd: [0], startRevision: 3, notifiesProgress: true, fragments: true))
        #expect(try decode(create.encoded) == create)
        #expect(try decode(WatchRequest.progress.encoded) == WatchRequest.progress)
        let authenticate = AuthenticateRequest(name: "ann", password: "pä$$")
        #expect(try decode(authenticate.encoded) == authenticate)
        var authenticated = AuthenticateResponse()
        authenticated.token = "abc.1"
        #expect(try decode(authenticated.encoded) == authenticated)
    }

    /// The bytes that protoc makes of the same message, from the fields that etcd.proto has.
    @Test func rangeRequest_hasTheBytesOfTheFormat() {
        let request = RangeRequest(key: Array("a".utf8), rangeEnd: Array("b".utf8), limit: 300, revision: 1)
        #expect(request.encoded == [0x0a, 1, 0x61, 0x12, 1, 0x62, 0x18, 0xac, 0x02, 0x20, 1])
        #expect(WatchRequest.progress.encoded == [0x1a, 0])
    }

    // MARK: - What a decoder must accept

    @Test func unknownFields_ofEveryWireType_areSkipped() throws {
        var writer = WireWriter()
        writer.write(99, UInt64.max)
        writer.write(100, [1, 2, 3])
        let fixed64: [UInt8] = [0xa9, 6, 1, 2, 3, 4, 5, 6, 7, 8]  // field 101
        let fixed32: [UInt8] = [0xb5, 6, 1, 2, 3, 4]  // field 102
        var response = WatchResponse()
        response.watchID = 5
        let bytes = writer.bytes + fixed64 + response.encoded + fixed32
        #expect(try decode(bytes) == response)
    }

    @Test func repeatedField_lastOneCounts() throws {
        let response: RangeResponse = try decode([0x20, 1, 0x20, 2])
        #expect(response.count == 2)
    }

    @Test func header_ofEveryByteCount_isRead() throws {
        for bit in 0..<64 {
            let header = ResponseHeader(clusterID: 1 << UInt64(bit), revision: Int64(bitPattern: 1 << UInt64(bit)))
            #expect(try decode(header.encoded) == header)
        }
    }

    // MARK: - What a decoder must refuse

    @Test(
        arguments: [
            ("a number that does not end", [0x20, 0x80]),
            ("a number of 11 bytes", [0x20] + Array(repeating: 0x80, count: 10) + [1]),
            ("a number of more than 64 bits", [0x20] + Array(repeating: 0xff, count: 9) + [2]),
            ("field 0", [0x00, 1]),
            ("a field number of more than 32 bits", [0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1]),
            ("a group's beginning", [0x23]),
            ("a group's end", [0x24]),
            ("an unknown wire type", [0x26, 1]),
            ("a length beyond the end", [0x12, 5, 1]),
            ("a length of 2^63", [0x12] + Array(repeating: 0x80, count: 9) + [1]),
            ("a length of 2^64 - 1", [0x12] + Array(repeating: 0xff, count: 9) + [1]),
            ("a message where a number belongs", [0x22, 0]),
            ("a number where a message belongs", [0x10, 1]),
            ("eight bytes where a number belongs", [0x21, 1, 2, 3, 4, 5, 6, 7, 8]),
            ("a key that is empty", [0x12, 2, 0x18, 1]),
            ("a key without a revision", [0x12, 3, 0x0a, 1, 0x61]),
            (
                "a key with a negative revision",
                [0x12, 14, 0x0a, 1, 0x61, 0x18] + Array(repeating: 0xff, count: 9) + [1]
            ),
        ] as [(String, [UInt8])])
    func rangeResponse_whenBytesAreNotAllowed_isRefused(what: String, bytes: [UInt8]) {
        #expect(throws: WireError.self, Comment(rawValue: what)) { try decode(bytes) as RangeResponse }
    }

    @Test func event_withoutKeyOrOfUnknownType_isRefused() {
        #expect(throws: WireError.self) { try decode([0x5a, 2, 0x08, 1]) as WatchResponse }
        let entry = DatastoreEntry(key: [1], value: [], revision: 1).encoded
        var writer = WireWriter()
        writer.write(1, UInt64(2))
        writer.writeMessage(2, entry)
        var response = WireWriter()
        response.writeMessage(11, writer.bytes)
        #expect(throws: WireError.self) { try decode(response.bytes) as WatchResponse }
    }

    @Test func response_whenTruncatedAnywhere_isRefusedOrShorter() throws {
        var response = WatchResponse()
        response.header = ResponseHeader(clusterID: 3, revision: 400)
        response.watchID = 1
        response.cancelReason = "reason"
        response.events = entries
        let bytes = response.encoded
        for count in 0..<bytes.count {
            do throws(WireError) {
                let decoded: WatchResponse = try decode(Array(bytes[..<count]))
                #expect(decoded != response)
            } catch {}
        }
    }

    /// Random bytes, and messages with some random bytes in them: nothing traps, and what is read
    /// has no more in it than the bytes had.
    @Test func randomBytes_neverTrap() {
        var generator = SplitMix64(seed: 42)
        var response = RangeResponse()
        response.header = ResponseHeader(clusterID: 3, revision: 400)
        response.entries = entries
        let valid = response.encoded
        var accepted = 0
        for round in 0..<4_000 {
            var bytes: [UInt8]
            if round % 2 == 0 {
                bytes = (0..<Int.random(in: 0..<64, using: &generator)).map { _ in
                    .random(in: 0...255, using: &generator)
                }
            } else {
                bytes = valid
                for _ in 0...Int.random(in: 0..<4, using: &generator) {
                    bytes[.random(in: bytes.indices, using: &generator)] = .random(in: 0...255, using: &generator)
                }
            }
            if let decoded = try? decode(bytes) as RangeResponse {
                accepted += 1
                let size = decoded.entries.reduce(0) { $0 + $1.key.count + ($1.value?.count ?? 0) }
                if size > bytes.count { Issue.record("\(size) bytes out of \(bytes)") }
            }
            _ = try? decode(bytes) as WatchResponse
            _ = try? decode(bytes) as AuthenticateResponse
        }
        #expect(accepted > 100)
    }

    private func decode<Message: WireDecodable>(_ bytes: [UInt8]) throws(WireError) -> Message {
        try bytes.withUnsafeBytes { bytes in
            Result { () throws(WireError) in
                var reader = WireReader(bytes)
                return try Message(from: &reader)
            }
        }.get()
    }
}

@Suite struct KeyRangeTests {
    @Test(
        arguments: [
            (Array("/config/".utf8), Array("/config0".utf8)),
            ([1], [2]),
            ([1, 0xff], [2]),
            ([1, 0xfe, 0xff, 0xff], [1, 0xff]),
            ([0xff], [0]),
            ([0xff, 0xff], [0]),
            ([0], [1]),
        ] as [([UInt8], [UInt8])])
    func prefix_hasTheEndAfterItsLastKey(prefix: [UInt8], end: [UInt8]) {
        #expect(KeyRange(prefix: prefix).start == prefix)
        #expect(KeyRange(prefix: prefix).end == end)
    }

    @Test func emptyPrefix_isAllKeys() {
        #expect(KeyRange(prefix: []).start == [0])
        #expect(KeyRange(prefix: []).end == [0])
    }

    /// Against the definition, for all short keys and prefixes of some bytes.
    @Test func range_hasExactlyTheKeysWithThePrefix() {
        let bytes: [UInt8] = [0, 1, 0xfe, 0xff]
        let short = bytes.map { [$0] } + bytes.flatMap { first in bytes.map { [first, $0] } }
        let keys = short + short.flatMap { key in bytes.map { key + [$0] } }
        for prefix in short {
            let range = KeyRange(prefix: prefix)
            for key in keys {
                let isAtOrAfterStart = !key.lexicographicallyPrecedes(range.start)
                let isBeforeEnd = range.end == KeyRange.noEnd || key.lexicographicallyPrecedes(range.end)
                #expect((isAtOrAfterStart && isBeforeEnd) == key.starts(with: prefix), "\(key) \(prefix)")
            }
        }
    }

    @Test func startAfterKey_isTheNextKey() {
        #expect(KeyRange.start(after: [5]) == [5, 0])
    }
}

/// Random numbers that are the same in each run.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }
}

#endif
