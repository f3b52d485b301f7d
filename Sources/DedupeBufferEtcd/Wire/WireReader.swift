// SPDX-License-Identifier: Apache-2.0
// Reads the fields of a protobuf message. The reader never reads past its bytes, and bytes that the
// format does not allow throw.

#if Etcd

/// Why bytes are not a message.
struct WireError: Error, Hashable, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// The fields of one message, in the order in which they lie there.
///
/// ```swift
/// while let field = try reader.next() {
///     switch field.number {
///     case 1: key = try field.bytes()
///     case 3: revision = try field.int64()
///     default: break
///     }
/// }
/// ```
///
/// A reader must not outlive the bytes that it was made with.
struct WireReader {
    private var rest: UnsafeRawBufferPointer

    init(_ bytes: UnsafeRawBufferPointer) { rest = bytes }

    /// The next field, or `nil` at the end. A field that the caller ignores is skipped.
    mutating func next() throws(WireError) -> WireField? {
        guard !rest.isEmpty else { return nil }
        let tag = try varint()
        guard let number = UInt32(exactly: tag >> 3), number > 0 else { throw WireError("invalid field number") }
        switch tag & 7 {
        case 0: return WireField(number: number, content: .varint(try varint()))
        case 1: return WireField(number: number, content: .fixed(try take(8)))
        case 2: return WireField(number: number, content: .bytes(try take(try varint())))
        case 5: return WireField(number: number, content: .fixed(try take(4)))
        default: throw WireError("invalid wire type \(tag & 7) of field \(number)")
        }
    }

    private mutating func varint() throws(WireError) -> UInt64 {
        // Most numbers and all tags have one byte.
        if let first = rest.first, first < 0x80 {
            rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst())
            return UInt64(first)
        }
        var value: UInt64 = 0
        for i in 0..<min(rest.count, 10) {
            let byte = rest[i]
            guard i < 9 || byte <= 1 else { break }
            value |= UInt64(byte & 0x7f) << (7 * UInt64(i))
            if byte < 0x80 {
                rest = UnsafeRawBufferPointer(rebasing: rest[(i + 1)...])
                return value
            }
        }
        throw WireError("invalid number")
    }

    private mutating func take(_ count: UInt64) throws(WireError) -> UnsafeRawBufferPointer {
        guard count <= UInt64(rest.count) else { throw WireError("a field of \(count) bytes in \(rest.count) bytes") }
        let taken = UnsafeRawBufferPointer(rebasing: rest.prefix(Int(count)))
        rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(Int(count)))
        return taken
    }
}

/// One field. The functions throw if the field has another type.
struct WireField {
    enum Content {
        case varint(UInt64)
        case bytes(UnsafeRawBufferPointer)
        case fixed(UnsafeRawBufferPointer)
    }

    let number: UInt32
    let content: Content

    func uint64() throws(WireError) -> UInt64 {
        guard case .varint(let value) = content else { throw unexpectedType }
        return value
    }

    func int64() throws(WireError) -> Int64 { Int64(bitPattern: try uint64()) }

    func bool() throws(WireError) -> Bool { try uint64() != 0 }

    func bytes() throws(WireError) -> [UInt8] { [UInt8](try span()) }

    func string() throws(WireError) -> String { String(decoding: try span(), as: UTF8.self) }

    func message() throws(WireError) -> WireReader { WireReader(try span()) }

    private func span() throws(WireError) -> UnsafeRawBufferPointer {
        guard case .bytes(let bytes) = content else { throw unexpectedType }
        return bytes
    }

    private var unexpectedType: WireError { WireError("field \(number) has an unexpected type") }
}

#endif
