// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer

/// What an update carries through the buffer: the bytes of its key and of its value, in one
/// allocation.
///
/// An update comes and goes as a whole, so its key and its value may well share their memory: half
/// as many allocations as with an array for each.
struct Line {
    private struct Lengths {
        var key: Int
        var value: Int
    }

    private let storage: ManagedBuffer<Lengths, UInt8>

    /// Copies the bytes.
    init(key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        storage = .create(minimumCapacity: key.count + value.count) { _ in
            Lengths(key: key.count, value: value.count)
        }
        storage.withUnsafeMutablePointerToElements { bytes in
            let memory = UnsafeMutableRawPointer(bytes)
            if let source = key.baseAddress {
                memory.copyMemory(from: source, byteCount: key.count)
            }
            if let source = value.baseAddress {
                (memory + key.count).copyMemory(from: source, byteCount: value.count)
            }
        }
    }

    func withKey<R, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try storage.withUnsafeMutablePointers { lengths, bytes throws(E) in
            try body(UnsafeRawBufferPointer(start: bytes, count: lengths.pointee.key))
        }
    }

    func withValue<R, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try storage.withUnsafeMutablePointers { lengths, bytes throws(E) in
            try body(UnsafeRawBufferPointer(start: bytes + lengths.pointee.key, count: lengths.pointee.value))
        }
    }
}

// `ManagedBuffer` is not sendable because it can be written to. This one is written to once, before
// it is shared.
extension Line: @unchecked Sendable {}

/// The key of a line. Two keys are one only if their bytes are equal.
///
/// A key that is a string is the bytes of its text. JSON of any other kind stands behind a mark,
/// see `CEVENT_KEY_IS_JSON`. The key of a line of delimited text is the bytes of its fields.
struct LineKey: DedupeKey, Hashable {
    let line: Line

    init(of line: Line) {
        self.line = line
    }

    init(keyBytes: RawSpan) {
        line = keyBytes.withUnsafeBytes { Line(key: $0, value: UnsafeRawBufferPointer(start: nil, count: 0)) }
    }

    static func == (left: LineKey, right: LineKey) -> Bool {
        left.line.withKey { left in
            right.line.withKey { right in
                left.count == right.count
                    && (left.isEmpty || memcmp(left.baseAddress!, right.baseAddress!, left.count) == 0)
            }
        }
    }

    func hash(into hasher: inout Hasher) {
        line.withKey { hasher.combine(bytes: $0) }
    }

    func withKeyBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try line.withKey { bytes throws(E) in try body(bytes.bytes) }
    }
}

/// The value of a line: its bytes as they came, never looked at.
struct LineValue: Sendable {
    let line: Line

    init(of line: Line) {
        self.line = line
    }

    func withBytes<R, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try line.withValue(body)
    }
}
