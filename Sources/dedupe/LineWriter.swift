// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// The sink: formats what the buffer delivers and writes it.
///
/// Each call of the buffer is written before it returns, so the pace of the reader becomes the pace
/// of the delivery, and what has not been taken yet goes on being conflated.
///
/// `@unchecked Sendable`: the buffer calls its sink serially, so the state is never used by two
/// threads at once.
final class LineWriter: SyncerCallbacks, @unchecked Sendable {
    typealias Key = LineKey
    typealias Value = LineValue

    private let pacer: Pacer?
    private let write: (UnsafeRawBufferPointer) -> Void
    private var text = ByteText()

    /// - Parameters:
    ///   - pacer: What slows the writing down, if anything.
    ///   - write: Writes all the bytes, or does not return.
    init(pacer: Pacer? = nil, write: @escaping @Sendable (UnsafeRawBufferPointer) -> Void) {
        self.pacer = pacer
        self.write = write
    }

    func onStatusUpdated(_ status: SyncStatus) {
        pacer?.waitForTurn()
        text.append(#"{"status":""#)
        text.append(status.description)
        text.append("\"}\n")
        flush()
        pacer?.rest(afterLines: 1)
    }

    func onUpdates(_ updates: [Update<LineKey, LineValue>]) {
        guard let pacer else {
            writeLines(of: updates[...])
            return
        }
        var rest = updates[...]
        while !rest.isEmpty {
            let group = rest.prefix(pacer.linesAtOnce)
            rest = rest.dropFirst(group.count)
            pacer.waitForTurn()
            writeLines(of: group)
            pacer.rest(afterLines: group.count, isInBatch: !rest.isEmpty)
        }
    }

    private func writeLines(of updates: ArraySlice<Update<LineKey, LineValue>>) {
        for update in updates {
            text.append(update)
            // Large values must not add up to all that there is in a batch.
            if text.count >= Self.enough {
                flush()
            }
        }
        flush()
    }

    private func flush() {
        if text.count == 0 {
            return
        }
        text.withBytes(write)
        text.removeAll()
    }

    private static let enough = 1 << 20
}

/// Bytes to write, in memory that is used again.
private struct ByteText: ~Copyable {
    private var bytes: UnsafeMutableRawPointer
    private(set) var count = 0
    private var capacity: Int

    init() {
        capacity = 1 << 16
        bytes = .allocate(byteCount: capacity, alignment: 1)
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
        if capacity - count < other.count {
            grow(toHold: count + other.count)
        }
        (bytes + count).copyMemory(from: base, byteCount: other.count)
        count += other.count
    }

    /// Appends the line for an update.
    mutating func append(_ update: Update<LineKey, LineValue>) {
        switch update.updateType {
        case .new: append(#"{"type":"new","key":""#)
        case .updated: append(#"{"type":"updated","key":""#)
        case .deleted: append(#"{"type":"deleted","key":""#)
        case .unknown: append(#"{"type":"unknown","key":""#)
        }
        update.key.line.withKey { appendContent(ofKey: $0) }
        append(#"","value":"#)
        if let value = update.value {
            value.withBytes { append($0) }
        } else {
            append("null")
        }
        if update.revision != 0 {
            append(#","revision":"#)
            append(String(update.revision))
        }
        append("}\n")
    }

    /// Appends what stands between the quotes. Hardly any key needs an escape.
    private mutating func appendContent(ofKey key: UnsafeRawBufferPointer) {
        let needsEscape = key.contains { $0 < 0x20 || $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "\\") }
        if !needsEscape {
            append(key)
            return
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = .withoutEscapingSlashes
        // This cannot fail: a string holds no number that JSON lacks, and no invalid Unicode.
        let string = try! encoder.encode(String(decoding: key, as: UTF8.self))
        string.dropFirst().dropLast().withUnsafeBytes { append($0) }
    }

    func withBytes(_ body: (UnsafeRawBufferPointer) -> Void) {
        body(UnsafeRawBufferPointer(start: bytes, count: count))
    }

    mutating func removeAll() {
        count = 0
    }

    private mutating func grow(toHold needed: Int) {
        capacity = max(needed, 2 * capacity)
        let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 1)
        larger.copyMemory(from: bytes, byteCount: count)
        bytes.deallocate()
        bytes = larger
    }
}
