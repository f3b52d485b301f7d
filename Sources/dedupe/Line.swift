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

/// The key of a line: the decoded bytes of the string. Two keys are one only if their bytes are.
struct LineKey: DedupeKey {
    let line: Line

    init(of line: Line) {
        self.line = line
    }

    init(keyBytes: RawSpan) {
        line = keyBytes.withUnsafeBytes { Line(key: $0, value: UnsafeRawBufferPointer(start: nil, count: 0)) }
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
