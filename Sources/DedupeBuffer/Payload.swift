// SPDX-License-Identifier: Apache-2.0

internal import CDedupe

/// What a slot holds: all of an update but its key, which belongs to the place in the queue and is a tag. So an update
/// that replaces a pending one touches no key.
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

    /// Moves out what is at `payload`. Field by field: of a moved payload the compiler copies the value, which costs a
    /// retain and a release.
    @inlinable
    static func move(from payload: UnsafeMutablePointer<Self>) -> (value: Value?, revision: UInt64) {
        (withUnsafeMutablePointer(to: &payload.pointee.value) { $0.move() }, payload.pointee.revision)
    }
}

/// How large payloads and tags are. Behind the payload stands what it weighs, if that is asked for.
struct CoreLayout {
    let payloadSize: Int
    let payloadAlignment: Int
    let tagSize: Int
    let tagAlignment: Int
    let weightOffset: Int?
    let isMerging: Bool

    init<Key, Value>(_ key: Key.Type, _ value: Value.Type, isWeighed: Bool, isMerging: Bool) {
        let weightOffset = Self.weightOffset(value)
        payloadSize = isWeighed ? weightOffset + MemoryLayout<UInt64>.size : MemoryLayout<Payload<Value>>.stride
        payloadAlignment = MemoryLayout<Payload<Value>>.alignment
        tagSize = max(MemoryLayout<Key>.stride, 1)
        tagAlignment = MemoryLayout<Key>.alignment
        self.weightOffset = isWeighed ? weightOffset : nil
        self.isMerging = isMerging
    }

    static func weightOffset<Value>(_ value: Value.Type) -> Int {
        let alignment = MemoryLayout<UInt64>.alignment
        return (MemoryLayout<Payload<Value>>.size + alignment - 1) & ~(alignment - 1)
    }

    func write(to options: inout cdedupe_options_t) {
        options.payload_size = payloadSize
        options.payload_alignment = payloadAlignment
        options.tag_size = tagSize
        options.tag_alignment = tagAlignment
        options.weight_offset = weightOffset ?? 0
        options.merging = isMerging
    }
}

extension DedupeBufferConfiguration {
    func write(to options: inout cdedupe_options_t) {
        options.suppress_unchanged = suppressesUnchanged
        if let maximumPendingKeys {
            precondition(maximumPendingKeys > 0, "maximumPendingKeys must be 1 or more")
            options.maximum_pending_keys = UInt64(maximumPendingKeys)
        }
        if let maximumPendingBytes {
            precondition(maximumPendingBytes > 0, "maximumPendingBytes must be 1 or more")
            options.maximum_pending_bytes = UInt64(maximumPendingBytes)
        }
    }
}
