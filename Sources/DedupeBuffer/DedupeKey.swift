// SPDX-License-Identifier: Apache-2.0

#if canImport(FoundationEssentials)
public import FoundationEssentials
#else
public import Foundation
#endif

/// A key that can be written as bytes and read back.
///
/// Two keys are one exactly if their bytes are equal. The buffer does not use `==`: canonically
/// equivalent strings, such as "é" in its two spellings, are two keys.
///
/// Strings, substrings, arrays of bytes, integers and `UUID`s are keys. For other integers, and for
/// types with a raw value that is a key, the declaration is enough, as in
/// `extension UInt16: DedupeKey {}` and `enum Region: String, DedupeKey { case east, west }`. A key
/// type of your own writes the bytes that tell its keys apart.
///
/// Keys are at most 65,536 bytes long; see ``DedupeBufferConfiguration/onRejection``.
public protocol DedupeKey: Sendable {
    /// Calls `body` with the key's bytes, which are valid during the call.
    ///
    /// Any thread that puts updates calls this once for each update, or twice if many long keys
    /// come together, with no lock held. If it calls `body` more than once, the last call counts.
    /// Not to call `body` is a programming error, and ends the program.
    func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R

    /// The key that wrote these bytes, or `nil` if no key writes them.
    ///
    /// The buffer keeps a key's bytes, and not the key. It calls this initialiser for each update
    /// that it delivers, with no lock held, on the thread that delivers. The bytes are always those
    /// that ``withKeyBytes(_:)`` of a key of this type wrote, or those that a caller of
    /// `onUpdatesKeysKnown` gave as a key's. So `nil` is a programming error: it ends the program,
    /// with a message that names the type.
    init?(keyBytes: RawSpan)
}

extension String: DedupeKey {
    /// The string's UTF-8 bytes.
    @inlinable
    @inline(__always)
    public func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        // What is inlinable, for native strings; bridged ones have only the span.
        let result = utf8.withContiguousStorageIfAvailable { bytes in
            Result { () throws(E) in try body(bytes.span.bytes) }
        }
        guard let result else { return try body(utf8Span.span.bytes) }
        return try result.get()
    }

    /// `nil` if the bytes are not valid UTF-8.
    @inlinable
    public init?(keyBytes: RawSpan) {
        // `String(validating:)` does the same, and takes more than twice as long.
        let string = keyBytes.withUnsafeBytes { bytes -> String? in
            guard let valid = try? UTF8Span(validating: bytes.assumingMemoryBound(to: UInt8.self).span) else {
                return nil
            }
            return String(copying: valid)
        }
        guard let string else { return nil }
        self = string
    }
}

extension Substring: DedupeKey {
    /// The substring's UTF-8 bytes: the same as those of a string with the same text.
    @inlinable
    public func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        let result = utf8.withContiguousStorageIfAvailable { bytes in
            Result { () throws(E) in try body(bytes.span.bytes) }
        }
        guard let result else { return try body(utf8Span.span.bytes) }
        return try result.get()
    }

    /// `nil` if the bytes are not valid UTF-8.
    @inlinable
    public init?(keyBytes: RawSpan) {
        guard let string = String(keyBytes: keyBytes) else { return nil }
        self.init(string)
    }
}

/// An enumeration with raw values, or a type that wraps one value, can be a key if its raw value is
/// one:
///
/// ```swift
/// enum Region: String, DedupeKey { case east, west }
/// struct EndpointID: RawRepresentable, DedupeKey { var rawValue: UInt64 }
/// ```
extension DedupeKey where Self: RawRepresentable, RawValue: DedupeKey {
    /// The raw value's bytes.
    @inlinable
    public func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try rawValue.withKeyBytes(body)
    }

    /// `nil` if no raw value has these bytes, or if no key has that raw value.
    @inlinable
    public init?(keyBytes: RawSpan) {
        guard let rawValue = RawValue(keyBytes: keyBytes) else { return nil }
        self.init(rawValue: rawValue)
    }
}

extension [UInt8]: DedupeKey {
    /// The array's elements.
    @inlinable
    public func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try body(span.bytes)
    }

    /// Never `nil`.
    @inlinable
    public init?(keyBytes: RawSpan) {
        self = keyBytes.withUnsafeBytes { Array($0) }
    }
}

extension DedupeKey where Self: FixedWidthInteger & BitwiseCopyable {
    /// The number's bytes, the most significant first: so unsigned numbers are ordered as their
    /// bytes are. Of signed ones, in two's complement, the negative come behind the others.
    @inlinable
    public func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try withUnsafeBytes(of: bigEndian) { bytes throws(E) in try body(bytes.bytes) }
    }

    /// `nil` if there are not as many bytes as the type has.
    @inlinable
    public init?(keyBytes: RawSpan) {
        guard keyBytes.byteCount == MemoryLayout<Self>.size else { return nil }
        self.init(bigEndian: keyBytes.unsafeLoadUnaligned(as: Self.self))
    }
}

extension Int: DedupeKey {}
extension UInt: DedupeKey {}
extension Int64: DedupeKey {}
extension UInt64: DedupeKey {}
extension Int32: DedupeKey {}
extension UInt32: DedupeKey {}

extension UUID: DedupeKey {
    /// The sixteen bytes.
    @inlinable
    public func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try withUnsafeBytes(of: uuid) { bytes throws(E) in try body(bytes.bytes) }
    }

    /// `nil` if there are not sixteen bytes.
    @inlinable
    public init?(keyBytes: RawSpan) {
        guard keyBytes.byteCount == 16 else { return nil }
        self.init(uuid: keyBytes.withUnsafeBytes { $0.loadUnaligned(as: uuid_t.self) })
    }
}
