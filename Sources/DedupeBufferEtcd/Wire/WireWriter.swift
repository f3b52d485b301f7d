// SPDX-License-Identifier: Apache-2.0
// Writes the fields of a protobuf message.

#if Etcd

/// A message that is being written. A field with its default value is left out, as proto3 wants it.
struct WireWriter {
    private(set) var bytes: [UInt8]

    init(_ bytes: [UInt8] = []) { self.bytes = bytes }

    mutating func write(_ number: UInt32, _ value: UInt64) {
        guard value != 0 else { return }
        varint(UInt64(number) << 3)
        varint(value)
    }

    mutating func write(_ number: UInt32, _ value: Int64) { write(number, UInt64(bitPattern: value)) }

    mutating func write(_ number: UInt32, _ value: Bool) { write(number, UInt64(value ? 1 : 0)) }

    mutating func write(_ number: UInt32, _ value: [UInt8]) {
        guard !value.isEmpty else { return }
        writeMessage(number, value)
    }

    mutating func write(_ number: UInt32, _ value: String) { write(number, Array(value.utf8)) }

    /// Writes a message inside this one. An empty one is written, too, because its presence counts.
    mutating func writeMessage(_ number: UInt32, _ message: [UInt8]) {
        varint(UInt64(number) << 3 | 2)
        varint(UInt64(message.count))
        bytes += message
    }

    private mutating func varint(_ value: UInt64) {
        var value = value
        while value >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        bytes.append(UInt8(value))
    }
}

#endif
