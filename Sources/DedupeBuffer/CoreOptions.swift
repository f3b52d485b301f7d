// SPDX-License-Identifier: Apache-2.0

// What a slot holds, and what the core is told about it when it is created.

internal import CDedupe

/// What a slot holds: an update without its key. The core has the key's bytes, from which delivery
/// makes the key.
@usableFromInline
struct Payload<Value> {
    /// First, where the core reads it.
    @usableFromInline var revision: UInt64
    @usableFromInline var value: Value?

    @inlinable
    init(revision: UInt64, value: Value?) {
        self.revision = revision
        self.value = value
    }
}

/// How large a payload is. Its weight, if the buffer was asked for weights, is behind it.
@usableFromInline
struct CoreLayout {
    let payloadSize: Int
    let payloadAlignment: Int
    let weightOffset: Int?

    init<Value>(_ value: Value.Type, isWeighed: Bool) {
        let weightOffset = Self.weightOffset(value)
        payloadSize = isWeighed ? weightOffset + MemoryLayout<UInt64>.size : MemoryLayout<Payload<Value>>.stride
        payloadAlignment = MemoryLayout<Payload<Value>>.alignment
        self.weightOffset = isWeighed ? weightOffset : nil
    }

    @usableFromInline
    static func weightOffset<Value>(_ value: Value.Type) -> Int {
        let alignment = MemoryLayout<UInt64>.alignment
        return (MemoryLayout<Payload<Value>>.size + alignment - 1) & ~(alignment - 1)
    }

    func write(to options: inout cdedupe_options_t) {
        options.payload_size = payloadSize
        options.payload_alignment = payloadAlignment
        options.weight_offset = weightOffset ?? 0
    }
}

/// How much may be pending, as the core wants it.
struct CoreLimits {
    let keys: Int?
    let bytes: Int?

    func write(to options: inout cdedupe_options_t) {
        // The core takes 0 for "no bound".
        options.maximum_pending_keys = UInt64(keys ?? 0)
        options.maximum_pending_bytes = UInt64(bytes ?? 0)
    }
}
