// SPDX-License-Identifier: Apache-2.0

extension DedupeBufferConfiguration {
    /// How much may be pending in a buffer.
    ///
    /// A bound is given to the initialiser of a buffer, because the weight of a value depends on
    /// the value's type:
    ///
    /// ```swift
    /// let names = DedupeBuffer<String, String>(bound: .bytes(64 << 20))
    /// let routes = DedupeBuffer<String, Route>(bound: .keys(100_000))
    /// let files = DedupeBuffer<String, File>(bound: .bytes(64 << 20, weight: \.contents.count))
    /// ```
    ///
    /// When an update would make one more key pending, and exceed the bound, nothing is lost
    /// silently: the buffer drops its backlog, as ``DedupeBuffer/onConnectionRestarted()`` does,
    /// and asks for a resync; see ``DedupeBufferConfiguration/onOverflow``. The buffer never
    /// rejects an update of a key that is pending. The deletions that a resync finds, and the
    /// updates that a failing sink puts back, may exceed the bound.
    public struct Bound<Value>: Sendable {
        /// The most keys that may be pending. `nil` if the bound does not count keys.
        public let keys: Int?
        /// The most that pending values may weigh together. `nil` if the bound does not weigh
        /// values.
        public let bytes: Int?
        /// Not `nil` if `bytes` is not.
        @usableFromInline let weight: (@Sendable (Value) -> Int)?

        /// At most `keys` pending keys.
        ///
        /// - Parameter keys: 1 or more.
        public static func keys(_ keys: Int) -> Self { Self(keys: keys, bytes: nil, weight: nil) }

        /// Pending values of at most `bytes`, as `weight` weighs them.
        ///
        /// With such a bound, replacing a pending update takes the buffer's lock.
        ///
        /// - Parameters:
        ///   - bytes: the most that pending values may weigh together, 1 or more.
        ///   - keys: the most keys that may be pending besides, 1 or more. `nil` does not bound
        ///     them.
        ///   - weight: the weight of a value. It must not be negative, and must be the same
        ///     whenever the buffer asks. The buffer asks once for each value that comes in, on the
        ///     thread that brings it, and once for each result of a merge. Deletions weigh nothing.
        public static func bytes(
            _ bytes: Int, keys: Int? = nil, weight: @escaping @Sendable (Value) -> Int
        ) -> Self {
            Self(keys: keys, bytes: bytes, weight: weight)
        }

        /// Checks that a buffer accepts the bound. A buffer that is made with another bound ends
        /// the program.
        ///
        /// - Throws: the first member that is out of range.
        public func validate() throws(ValidationError) {
            try require(keys ?? 1 >= 1, "bound.keys", "1 or more")
            try require(bytes ?? 1 >= 1, "bound.bytes", "1 or more")
        }
    }
}

extension DedupeBufferConfiguration.Bound where Value: StringProtocol {
    /// Pending strings of at most `bytes` bytes of UTF-8 together.
    ///
    /// With such a bound, replacing a pending update takes the buffer's lock.
    ///
    /// - Parameters:
    ///   - bytes: the most bytes, 1 or more.
    ///   - keys: the most keys that may be pending besides, 1 or more. `nil` does not bound them.
    public static func bytes(_ bytes: Int, keys: Int? = nil) -> Self {
        .bytes(bytes, keys: keys, weight: \.utf8.count)
    }
}

extension DedupeBufferConfiguration.Bound where Value: RandomAccessCollection<UInt8> {
    /// Pending values of at most `bytes` bytes together: for `[UInt8]`, `Data` and other
    /// collections of bytes.
    ///
    /// With such a bound, replacing a pending update takes the buffer's lock.
    ///
    /// - Parameters:
    ///   - bytes: the most bytes, 1 or more.
    ///   - keys: the most keys that may be pending besides, 1 or more. `nil` does not bound them.
    public static func bytes(_ bytes: Int, keys: Int? = nil) -> Self {
        .bytes(bytes, keys: keys, weight: \.count)
    }
}
