// SPDX-License-Identifier: Apache-2.0

import Foundation

/// SplitMix64: the same numbers for the same seed, everywhere.
struct SeededGenerator: RandomNumberGenerator, Sendable {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// From 0 to `limit` - 1. Faster than `Int.random`, and good enough here.
    mutating func below(_ limit: Int) -> Int { Int(next() >> 33) % limit }

    /// True once in `n` times.
    mutating func oneIn(_ n: Int) -> Bool { below(n) == 0 }

    mutating func fraction() -> Double { Double(next() >> 11) / Double(1 << 53) }
}

/// The seed of a run: `DEDUPE_TEST_SEED` if it is set, else a new one.
func testSeed() -> (seed: UInt64, isGiven: Bool) {
    let given = ProcessInfo.processInfo.environment["DEDUPE_TEST_SEED"].flatMap { UInt64($0) }
    return (given ?? UInt64.random(in: 0...(.max)), given != nil)
}

/// Set `DEDUPE_LONG_TESTS` for ten times the rounds.
let longTests = ProcessInfo.processInfo.environment["DEDUPE_LONG_TESTS"] != nil
