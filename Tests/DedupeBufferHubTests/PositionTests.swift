// SPDX-License-Identifier: Apache-2.0

// Positions as text.

import Testing

@testable import DedupeBufferHub

@Suite struct PositionTests {
    @Test(arguments: [
        (UInt64(1), UInt64(0), UInt64(0), "0000000000000001-0"),
        (0x8d1f_20c4_a96b_5e37, 120, 120, "8d1f20c4a96b5e37-120"),
        (0x8d1f_20c4_a96b_5e37, 120, 431, "8d1f20c4a96b5e37-120-431"),
        (.max, .max, .max, "ffffffffffffffff-18446744073709551615"),
        (.max, 0, .max, "ffffffffffffffff-0-18446744073709551615"),
    ])
    func text_andBack(epoch: UInt64, revision: UInt64, horizon: UInt64, text: String) {
        let position = Position(epoch: epoch, revision: revision, horizon: horizon)
        #expect(position.description == text)
        #expect(Position(text) == position)
    }

    @Test(arguments: [
        "", "-", "--", "1-1", "8d1f20c4a96b5e37", "8d1f20c4a96b5e37-", "8d1f20c4a96b5e37-1-", "-1",
        "8d1f20c4a96b5e37--1", "8d1f20c4a96b5e37-+1", "8d1f20c4a96b5e37-01", "8d1f20c4a96b5e37-1-1",
        "8d1f20c4a96b5e37-2-1", "8D1F20C4A96B5E37-1", "8d1f20c4a96b5e37-1-2-3", " 8d1f20c4a96b5e37-1",
        "8d1f20c4a96b5e37-1 ", "8d1f20c4a96b5e37-1\n", "+d1f20c4a96b5e37-1", "8d1f20c4a96b5e3-1",
        "8d1f20c4a96b5e377-1", "8d1f20c4a96b5e37-18446744073709551616", "8d1f20c4a96b5e37-1e3",
        "8d1f20c4a96b5e37-\u{661}", "8d1f20c4a96b5e37-1\u{0}", "8d1f20c4a96b5e37-1-18446744073709551616",
        "xd1f20c4a96b5e37-1", String(repeating: "9", count: 1_000_000),
    ])
    func text_thatIsNoPosition_isRefused(text: String) {
        #expect(Position(text) == nil)
    }
}
