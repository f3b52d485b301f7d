// SPDX-License-Identifier: Apache-2.0

#if Etcd

import CEventParser

/// Checks whether bytes are one JSON value, and puts a value that spans lines on one line.
///
/// Used by one task at a time.
struct JSONCheck: ~Copyable {
    private var parser: OpaquePointer
    private var chunk: UnsafeMutableRawPointer
    private var capacity = 1 << 16

    /// No member has this name, so every value comes as a line without a key.
    private static let nowhere = "/\u{1F}\u{1F}\u{1F}"

    /// What has to be readable behind the bytes, and the newline.
    private static let padding = Int(CEVENT_PADDING) + 1

    init() {
        parser = Self.makeParser()
        chunk = .allocate(byteCount: capacity + Self.padding, alignment: 1)
    }

    deinit {
        cevent_parser_destroy(parser)
        chunk.deallocate()
    }

    /// - Parameter body: Is given the value without line breaks.
    /// - Returns: Why the bytes are not one JSON value; nil if they are.
    mutating func check(_ bytes: [UInt8], _ body: (UnsafeRawBufferPointer) -> Void) -> String? {
        // The parser skips a byte order mark in front of its first value, and refuses it later.
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { return "it begins with a byte order mark" }
        fill(with: bytes)
        var events = (cevent_event(), cevent_event())
        return withUnsafeMutableBytes(of: &events) { memory in
            let events = memory.bindMemory(to: cevent_event.self)
            var consumed = 0
            let start = chunk.assumingMemoryBound(to: UInt8.self)
            let length = bytes.count + 1
            let count = cevent_parser_parse(parser, start, length, true, events.baseAddress!, 2, &consumed)
            let rest = UnsafeRawBufferPointer(start: chunk + consumed, count: length - consumed)
            if let problem = Self.problem(in: events.prefix(count), isWhole: rest.allSatisfy(Self.isBlank)) {
                // A parser that has met an error may be in the middle of something.
                cevent_parser_destroy(parser)
                parser = Self.makeParser()
                return problem
            }
            body(UnsafeRawBufferPointer(start: events[0].value, count: Int(events[0].value_length)))
            return nil
        }
    }

    private static func problem(in events: Slice<UnsafeMutableBufferPointer<cevent_event>>, isWhole: Bool) -> String? {
        guard let first = events.first else { return "it is empty" }
        switch first.kind {
        case .CEVENT_KIND_MISSING, .CEVENT_KIND_UPDATE:
            return events.count == 1 && isWhole ? nil : "more than one value"
        // The parser's text advises a program that converts files.
        case _ where first.error == .CEVENT_ERROR_UTF16: return "it looks like UTF-16, or has a byte 0"
        default: return String(cString: cevent_error_message(first.error))
        }
    }

    /// Whether a value is null. A reader of lines would take it for a deletion.
    static func isNull(_ value: UnsafeRawBufferPointer) -> Bool {
        let value = value.drop(while: isBlank)
        return value.starts(with: "null".utf8) && value.dropFirst(4).allSatisfy(isBlank)
    }

    private static func isBlank(_ byte: UInt8) -> Bool {
        [UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"), UInt8(ascii: "\n")].contains(byte)
    }

    private mutating func fill(with bytes: [UInt8]) {
        if bytes.count > capacity {
            capacity = bytes.count
            chunk.deallocate()
            chunk = .allocate(byteCount: capacity + Self.padding, alignment: 1)
        }
        bytes.withUnsafeBytes { chunk.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(chunk), byteCount: $0.count) }
        chunk.storeBytes(of: UInt8(ascii: "\n"), toByteOffset: bytes.count, as: UInt8.self)
        memset(chunk + bytes.count + 1, 0, Int(CEVENT_PADDING))
    }

    private static func makeParser() -> OpaquePointer {
        var format = InputFormat()
        format.shape = .json
        format.key = [InputFormat.KeyPart(pointers: [nowhere])]
        do throws(InputFormat.Problem) {
            return try format.makeParser(maximumLength: LineReader.maximumLineLength)
        } catch {
            fatalError("the pointer is one: \(error)")
        }
    }
}

#endif
