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

/// The most updates in a call.
let callSize = 100

/// What a case is measured with.
struct Setting: Hashable {
    /// Different keys.
    var keys: Int
    /// Bytes of a key.
    var keySize = BenchmarkKey.longSize
    /// Updates in a call. One is put by `update(_:to:)`, without an array.
    var call = callSize
    /// Threads that are at work.
    var threads = 1
}

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
    static let longSize = 96
    static let shortSize = 16

    private static let digits = Array("0123456789abcdef".utf8)
    // The last 96 bytes, as in the C program: they have all the digits.
    private static let form = Array(
        "/calico/resources/v3/projectcalico.org/workloadendpoints/ns-########/node-########-pod-################"
            .utf8)

    /// The key with a given number: the last bytes of a path as in a datastore, in which only some
    /// of the digits differ. A new string.
    static func make(_ number: Int, size: Int = longSize) -> String {
        let random = Random.scramble(UInt64(number + 1))
        let start = form.count - size
        return String(unsafeUninitializedCapacity: size) { bytes in
            var digit = 0
            for i in 0..<size {
                bytes[i] = form[start + i]
                if bytes[i] == UInt8(ascii: "#") {
                    bytes[i] = digits[Int((random >> UInt64(4 * (digit % 16))) & 15)]
                    digit += 1
                }
            }
            return size
        }
    }
}

/// Updates as a producer sends them: calls that are built beforehand, keys in random order.
///
/// Strings and values are made in the order of the stream, so that they follow one another in
/// memory. The stream is one permutation of all keys after another; the first `allKeys` calls have
/// all keys.
struct Stream: Sendable {
    let setting: Setting
    /// Arrays of as many updates as a call has. Where a call has one update, arrays of a hundred,
    /// whose updates are put one by one.
    let calls: [[BenchmarkUpdate]]

    var keyCount: Int { setting.keys }
    var arraySize: Int { setting.call == 1 ? callSize : setting.call }
    var allKeys: Int { keyCount / arraySize }

    /// - Parameter rounds: how many permutations; by default so many that no branch predictor
    ///   learns the order by heart.
    init(_ setting: Setting, seed: UInt64, rounds: Int? = nil) {
        let rounds = rounds ?? max(100_000 / setting.keys, 1)
        let arraySize = setting.call == 1 ? callSize : setting.call
        var random = Random(state: seed)
        var order = Array(0..<setting.keys)
        var numbers: [Int] = []
        numbers.reserveCapacity(rounds * setting.keys)
        for _ in 0..<rounds {
            order.shuffle(using: &random)
            numbers += order
        }
        self.setting = setting
        calls = stride(from: 0, to: numbers.count, by: arraySize).map {
            Self.call(numbers[$0..<min($0 + arraySize, numbers.count)], keySize: setting.keySize)
        }
    }

    /// All keys once, in an order of their own. Buffers are filled from here: if what follows came
    /// in the same order, it would walk through the buffer's memory from one end to the other.
    static func first(_ setting: Setting, seed: UInt64) -> Stream {
        Stream(setting, seed: seed + 1000, rounds: 1)
    }

    static func call(_ numbers: ArraySlice<Int>, keySize: Int) -> [BenchmarkUpdate] {
        numbers.map { Update(key: BenchmarkKey.make($0, size: keySize), value: Payload(stamp: UInt64($0))) }
    }
}
