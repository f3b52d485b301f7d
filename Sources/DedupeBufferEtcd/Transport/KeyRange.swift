// SPDX-License-Identifier: Apache-2.0

#if Etcd

/// The keys from `start` up to `end`, which is not in the range itself.
struct KeyRange: Hashable, Sendable {
    let start: [UInt8]
    let end: [UInt8]

    /// In place of an end, one zero byte means that the range has no end.
    static let noEnd: [UInt8] = [0]

    /// The range of all keys that begin with a prefix. The empty prefix stands for all keys.
    ///
    /// The end is the least sequence of bytes that is greater than every key with the prefix. So
    /// the last byte that can grow grows by one, and the bytes after it are dropped.
    init(prefix: [UInt8]) {
        // etcd does not take an empty key, and no key comes before the one with a zero byte.
        start = prefix.isEmpty ? [0] : prefix
        guard let last = prefix.lastIndex(where: { $0 < 0xff }) else {
            end = Self.noEnd
            return
        }
        end = prefix[..<last] + [prefix[last] + 1]
    }

    /// The first key that can follow `key`.
    static func start(after key: [UInt8]) -> [UInt8] { key + [0] }
}

#endif
