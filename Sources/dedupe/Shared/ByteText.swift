// SPDX-License-Identifier: Apache-2.0

import CEventParser
import DedupeBuffer

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// How the bytes of a key or of a value become JSON.
enum Notation {
    /// They are JSON: a value as it came, or a key as the parser makes it, see
    /// `CEVENT_KEY_IS_JSON`.
    case json
    /// A string. They are known to be UTF-8.
    case text
    /// A string, in which bytes that are not UTF-8 are replaced.
    case anyText
    /// A string of base64.
    case base64
}

/// How updates are written as objects with type, key, value and revision.
struct EnvelopeFormat {
    var key = Notation.json
    var value = Notation.json
}

/// Bytes to write, in memory that is used again.
struct ByteText: ~Copyable {
    private var bytes: UnsafeMutableRawPointer
    private(set) var count = 0
    private var capacity: Int

    init(capacity: Int = 1 << 16) {
        self.capacity = max(capacity, 1)
        bytes = .allocate(byteCount: self.capacity, alignment: 1)
    }

    deinit {
        bytes.deallocate()
    }

    @inline(__always)
    mutating func append(_ literal: StaticString) {
        append(UnsafeRawBufferPointer(start: literal.utf8Start, count: literal.utf8CodeUnitCount))
    }

    mutating func append(_ string: String) {
        var string = string
        string.withUTF8 { append(UnsafeRawBufferPointer($0)) }
    }

    @inline(__always)
    mutating func append(_ other: UnsafeRawBufferPointer) {
        guard let base = other.baseAddress else { return }
        makeRoom(for: other.count)
        (bytes + count).copyMemory(from: base, byteCount: other.count)
        count += other.count
    }

    /// Appends the object for an update, and a newline.
    ///
    /// - Parameter hasKey: Whether the key means anything.
    mutating func append(_ update: Update<LineKey, LineValue>, as format: EnvelopeFormat, hasKey: Bool = true) {
        switch update.updateType {
        case .new: append(#"{"type":"new","key":"#)
        case .updated: append(hasKey ? #"{"type":"updated","key":"# : #"{"type":"new","key":"#)
        case .deleted: append(#"{"type":"deleted","key":"#)
        case .unknown: append(#"{"type":"unknown","key":"#)
        }
        if hasKey {
            update.key.line.withKey { format.key == .json ? appendKey($0) : append($0, in: format.key) }
        } else {
            append("null")
        }
        append(#","value":"#)
        if let value = update.value {
            value.withBytes { append($0, in: format.value) }
        } else {
            append("null")
        }
        if update.revision != 0 {
            append(#","revision":"#)
            append(String(update.revision))
        }
        append("}\n")
    }

    /// Appends the object for a status, and a newline.
    mutating func append(_ status: SyncStatus) {
        append(#"{"status":""#)
        append(status.description)
        append("\"}\n")
    }

    @inline(__always)
    private mutating func append(_ bytes: UnsafeRawBufferPointer, in notation: Notation) {
        switch notation {
        case .json: append(bytes)
        case .text: appendString(bytes)
        case .anyText: appendString(bytes, isValid: !bytes.contains { $0 >= 0x80 })
        case .base64: appendBase64(bytes)
        }
    }

    /// Appends a key as the parser makes it.
    private mutating func appendKey(_ key: UnsafeRawBufferPointer) {
        if key.first == UInt8(CEVENT_KEY_IS_JSON) {
            append(UnsafeRawBufferPointer(rebasing: key.dropFirst()))
        } else {
            appendString(key)
        }
    }

    /// Appends a string as JSON. Hardly any needs an escape.
    private mutating func appendString(_ content: UnsafeRawBufferPointer, isValid: Bool = true) {
        let isPlain = !content.contains { $0 < 0x20 || $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "\\") }
        append("\"")
        if isPlain && isValid {
            append(content)
        } else {
            appendEncoded(content)
        }
        append("\"")
    }

    private mutating func appendEncoded(_ content: UnsafeRawBufferPointer) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .withoutEscapingSlashes
        // This cannot fail: a string holds no number that JSON lacks, and no invalid Unicode.
        let string = try! encoder.encode(String(decoding: content, as: UTF8.self))
        string.dropFirst().dropLast().withUnsafeBytes { append($0) }
    }

    /// Appends base64 between quotes. Its alphabet needs no escape.
    private mutating func appendBase64(_ content: UnsafeRawBufferPointer) {
        let length = (content.count + 2) / 3 * 4
        makeRoom(for: length + 2)
        append("\"")
        for start in stride(from: 0, to: content.count, by: 3) {
            let group = content[start..<min(start + 3, content.count)]
            let bits = group.enumerated().reduce(UInt32(0)) { $0 | UInt32($1.element) << (16 - 8 * $1.offset) }
            for digit in 0..<4 {
                let value = Int(bits >> (18 - 6 * digit) & 0x3F)
                let byte = digit <= group.count ? Self.base64Digits[value] : UInt8(ascii: "=")
                bytes.storeBytes(of: byte, toByteOffset: count, as: UInt8.self)
                count += 1
            }
        }
        append("\"")
    }

    /// Bytes as base64.
    static func base64(_ content: [UInt8]) -> String {
        var text = ByteText()
        content.withUnsafeBytes { text.appendBase64($0) }
        var result = ""
        text.withBytes { result = String(decoding: $0.dropFirst().dropLast(), as: UTF8.self) }
        return result
    }

    private static let base64Digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    func withBytes(_ body: (UnsafeRawBufferPointer) -> Void) {
        body(UnsafeRawBufferPointer(start: bytes, count: count))
    }

    mutating func removeAll() {
        count = 0
    }

    @inline(__always)
    private mutating func makeRoom(for more: Int) {
        if capacity - count < more {
            grow(toHold: count + more)
        }
    }

    private mutating func grow(toHold needed: Int) {
        capacity = max(needed, 2 * capacity)
        let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 1)
        larger.copyMemory(from: bytes, byteCount: count)
        bytes.deallocate()
        bytes = larger
    }
}
