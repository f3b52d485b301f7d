// SPDX-License-Identifier: Apache-2.0

import CEventParser
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

    /// What is written of an update.
    enum Style {
        /// An object with the type, the key, the value and the revision.
        case envelopes
        /// The same about lines of text, which become strings.
        case envelopesOfText
        /// The line that the update came in.
        case lines(deletions: DeletionLines)
    }

    private let style: Style
    private let passedLines: PassedLines
    private let pacer: Pacer?
    private let write: (UnsafeRawBufferPointer) -> Void
    private var text = ByteText()
    /// The lines of the deletions of the batch that is being written, by their numbers.
    private var deletionLines: [UInt64: Line] = [:]

    /// - Parameters:
    ///   - passedLines: The keys of lines that have none.
    ///   - pacer: What slows the writing down, if anything.
    ///   - write: Writes all the bytes, or does not return.
    init(
        style: Style = .envelopes, passedLines: PassedLines = PassedLines(), pacer: Pacer? = nil,
        write: @escaping @Sendable (UnsafeRawBufferPointer) -> Void
    ) {
        self.style = style
        self.passedLines = passedLines
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
        // All at once, before the first line is written, because writing may block forever.
        passedLines.release(updates)
        if case .lines(let deletions) = style {
            deletionLines = deletions.take(updates)
        }
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
            append(update)
            // Large values must not add up to all that there is in a batch.
            if text.count >= Self.enough {
                flush()
            }
        }
        flush()
    }

    private func append(_ update: Update<LineKey, LineValue>) {
        switch style {
        case .envelopes: appendEnvelope(update, isText: false)
        case .envelopesOfText: appendEnvelope(update, isText: true)
        case .lines:
            if let value = update.value {
                value.withBytes { text.append($0) }
            } else if let line = deletionLines[update.revision] {
                line.withValue { text.append($0) }
            } else {
                return
            }
            text.append("\n")
        }
    }

    private func appendEnvelope(_ update: Update<LineKey, LineValue>, isText: Bool) {
        if OverflowMark.isMark(update) {
            text.append("{\"overflow\":true}\n")
        } else {
            text.append(update, isText: isText, hasKey: !PassedLines.isOne(update.key))
        }
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

    /// Appends the object for an update.
    ///
    /// - Parameters:
    ///   - isText: Whether key and value are text rather than what the parser makes of JSON.
    ///   - hasKey: Whether the key means anything.
    mutating func append(_ update: Update<LineKey, LineValue>, isText: Bool, hasKey: Bool) {
        switch update.updateType {
        case .new: append(#"{"type":"new","key":"#)
        case .updated: append(hasKey ? #"{"type":"updated","key":"# : #"{"type":"new","key":"#)
        case .deleted: append(#"{"type":"deleted","key":"#)
        case .unknown: append(#"{"type":"unknown","key":"#)
        }
        if hasKey {
            update.key.line.withKey { isText ? appendText($0) : appendKey($0) }
        } else {
            append("null")
        }
        append(#","value":"#)
        if let value = update.value {
            value.withBytes { isText ? appendText($0) : append($0) }
        } else {
            append("null")
        }
        if update.revision != 0 {
            append(#","revision":"#)
            append(String(update.revision))
        }
        append("}\n")
    }

    /// Appends a key as JSON.
    private mutating func appendKey(_ key: UnsafeRawBufferPointer) {
        if key.first == UInt8(CEVENT_KEY_IS_JSON) {
            append(UnsafeRawBufferPointer(rebasing: key.dropFirst()))
        } else {
            appendString(key)
        }
    }

    /// Appends text as a JSON string. Bytes that are not UTF-8 become replacement characters.
    private mutating func appendText(_ text: UnsafeRawBufferPointer) {
        appendString(text, isValid: !text.contains { $0 >= 0x80 })
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
