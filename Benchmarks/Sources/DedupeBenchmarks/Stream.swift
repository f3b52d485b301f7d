// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer

/// What the benchmarks' updates carry.
final class Payload: Sendable {
    let stamp: UInt64
    let words: (UInt64, UInt64, UInt64)

    init(stamp: UInt64) {
        self.stamp = stamp
        words = (stamp, stamp, stamp)
    }
}

typealias BenchmarkUpdate = Update<String, Payload>

/// Updates in a call.
let callSize = 100

/// SplitMix64: small, repeatable, and every seed gives a sequence of its own.
struct Random: RandomNumberGenerator {
    var state: UInt64

    static func scramble(_ number: UInt64) -> UInt64 {
        var x = number
        x = (x ^ (x >> 30)) &* 0xbf58_476d_1ce4_e5b9
        x = (x ^ (x >> 27)) &* 0x94d0_49bb_1331_11eb
        return x ^ (x >> 31)
    }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        return Self.scramble(state)
    }
}

enum BenchmarkKey {
    static let size = 96

    private static let digits = Array("0123456789abcdef".utf8)
    // The last 96 bytes, as in the C program: they have all the digits.
    private static let form = Array(
        "/calico/resources/v3/projectcalico.org/workloadendpoints/ns-########/node-########-pod-################"
            .utf8.suffix(size))

    /// The key with a given number: a path as in a datastore, in which only some of the digits
    /// differ. A new string.
    static func make(_ number: Int) -> String {
        let random = Random.scramble(UInt64(number + 1))
        return String(unsafeUninitializedCapacity: size) { bytes in
            var digit = 0
            for i in 0..<size {
                bytes[i] = form[i]
                if form[i] == UInt8(ascii: "#") {
                    bytes[i] = digits[Int((random >> UInt64(4 * (digit % 16))) & 15)]
                    digit += 1
                }
            }
            return size
        }
    }
}

/// Updates as a producer sends them: calls of a hundred, built beforehand, keys in random order.
///
/// Strings and values are made in the order of the stream, so that they follow one another in
/// memory. The stream is one permutation of all keys after another; the first `allKeys` calls have
/// all keys.
struct Stream: Sendable {
    let keyCount: Int
    let calls: [[BenchmarkUpdate]]

    var allKeys: Int { keyCount / callSize }

    /// - Parameter rounds: how many permutations; by default so many that no branch predictor
    ///   learns the order by heart.
    init(keyCount: Int, seed: UInt64, rounds: Int? = nil) {
        let rounds = rounds ?? max(100_000 / keyCount, 1)
        var random = Random(state: seed)
        var order = Array(0..<keyCount)
        var calls: [[BenchmarkUpdate]] = []
        calls.reserveCapacity(rounds * keyCount / callSize)
        for _ in 0..<rounds {
            order.shuffle(using: &random)
            for start in stride(from: 0, to: keyCount, by: callSize) {
                calls.append(Self.call(order[start..<start + callSize]))
            }
        }
        self.keyCount = keyCount
        self.calls = calls
    }

    /// All keys once, in an order of their own. Buffers are filled from here: if what follows came
    /// in the same order, it would walk through the buffer's memory from one end to the other.
    static func first(keyCount: Int, seed: UInt64) -> Stream {
        Stream(keyCount: keyCount, seed: seed + 1000, rounds: 1)
    }

    static func call(_ numbers: ArraySlice<Int>) -> [BenchmarkUpdate] {
        numbers.map { Update(key: BenchmarkKey.make($0), value: Payload(stamp: UInt64($0))) }
    }
}
