// SPDX-License-Identifier: Apache-2.0

import CEventParser

/// Turns the bytes of a descriptor into events: it reads chunks, keeps the value that has not ended
/// yet, and has complete lines parsed.
///
/// The reader reads when it is told to and never ahead, so its owner decides what to do before a
/// wait.
final class LineReader {
    /// What one wait for input came to.
    enum Input {
        case bytes
        case end
        case interrupted
    }

    /// Longer lines and values are bad. They are passed over as they come, so they cost no memory
    /// either.
    static let maximumLineLength = 64 << 20

    private let descriptor: CInt
    private let interruption: CInt
    private let maximumLineLength: Int
    private let chunkSize: Int
    private let parser: OpaquePointer
    private let events: UnsafeMutableBufferPointer<cevent_event>

    // The chunk: what is between start and end has come and is not parsed yet. The padding is not
    // part of the capacity.
    private var chunk: UnsafeMutableRawPointer
    private(set) var capacity: Int
    private var start = 0
    private var end = 0

    /// Whether there may be a complete line between start and end. It spares looking at a long line
    /// again and again while it comes in.
    private var mayHoldLine = false

    /// Whether what comes up to the next newline belongs to a line that is too long.
    private var isPassingOver = false

    private var isAtEnd = false

    /// - Parameters:
    ///   - format: What the input looks like; the program has checked it.
    ///   - descriptor: What to read. It stays the caller's.
    ///   - interruption: A descriptor that ends the waiting when it can be read, or -1.
    init(
        format: InputFormat = InputFormat(), descriptor: CInt, interruption: CInt = -1,
        maximumLineLength: Int = LineReader.maximumLineLength, chunkSize: Int = 256 << 10, eventsAtOnce: Int = 512
    ) throws(InputFormat.Problem) {
        precondition(maximumLineLength > 0 && chunkSize > 1 && eventsAtOnce > 1)
        parser = try format.makeParser(maximumLength: maximumLineLength)
        self.descriptor = descriptor
        self.interruption = interruption
        self.maximumLineLength = maximumLineLength
        events = .allocate(capacity: eventsAtOnce)
        events.initialize(repeating: cevent_event())
        self.chunkSize = chunkSize
        capacity = chunkSize
        chunk = Self.allocate(chunkSize)
    }

    deinit {
        cevent_parser_destroy(parser)
        events.deallocate()
        free(chunk)
    }

    /// The number of lines done with, blank and bad ones included.
    var lines: Int { Int(cevent_parser_lines(parser)) }

    /// Waits for input and reads it. Call it only when ``nextEvents()`` has nothing left.
    ///
    /// - Throws: What the system says when it cannot be read.
    func receive() throws(SystemError) -> Input {
        makeRoom()
        while true {
            if try waitUntilReady(descriptor, or: interruption).other {
                return .interrupted
            }
            let count = read(descriptor, chunk + end, capacity - end)
            if count > 0 {
                let received = UnsafeRawBufferPointer(start: chunk + end, count: count)
                mayHoldLine = mayHoldLine || memchr(received.baseAddress!, Self.newline, count) != nil
                end += count
                return .bytes
            }
            if count == 0 {
                isAtEnd = true
                endLastLine()
                return .end
            }
            if errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK {
                throw .last
            }
        }
    }

    /// Ends the line that ends with the input. The padding has room for the newline.
    private func endLastLine() {
        let newline = UInt8(Self.newline)
        if start < end && !isPassingOver && chunk.load(fromByteOffset: end - 1, as: UInt8.self) != newline {
            chunk.storeBytes(of: newline, toByteOffset: end, as: UInt8.self)
            end += 1
        }
    }

    /// Parses more of what was received.
    ///
    /// - Returns: Events, valid until the next call of any method, or nil if no complete line is
    ///   left.
    func nextEvents() -> UnsafeBufferPointer<cevent_event>? {
        if isPassingOver && !passOver() {
            return nil
        }
        if mayHoldLine || isAtEnd {
            var consumed = 0
            let bytes = (chunk + start).assumingMemoryBound(to: UInt8.self)
            let count = cevent_parser_parse(
                parser, bytes, end - start, isAtEnd, events.baseAddress!, events.count, &consumed)
            start += consumed
            if count > 0 {
                return UnsafeBufferPointer(rebasing: events[..<count])
            }
            mayHoldLine = false
        }
        // What is left is the beginning of a value.
        if end - start > maximumLineLength {
            let bytes = (chunk + start).assumingMemoryBound(to: UInt8.self)
            events[0] = cevent_parser_give_up(parser, bytes, end - start)
            isPassingOver = true
            start = end
            return UnsafeBufferPointer(rebasing: events[..<1])
        }
        return nil
    }

    /// Drops what belongs to a line that is too long.
    ///
    /// - Returns: Whether its end has come.
    private func passOver() -> Bool {
        guard mayHoldLine, let newline = memchr(chunk + start, Self.newline, end - start) else {
            start = end
            return false
        }
        start = UnsafeRawPointer(newline) - UnsafeRawPointer(chunk) + 1
        isPassingOver = false
        return true
    }

    /// Makes sure that there is room to read into, behind what is there.
    private func makeRoom() {
        if start == end {
            start = 0
            end = 0
            if isPassingOver && capacity > chunkSize {
                // The beginning of the line that is passed over took all this.
                replaceChunk(capacity: chunkSize)
            }
            return
        }
        // Half of it is enough to read at once; moving the rest to the front each time would cost
        // more than it gives.
        if capacity - end >= capacity / 2 {
            return
        }
        if start > 0 {
            memmove(chunk, chunk + start, end - start)
            end -= start
            start = 0
        }
        if capacity - end < capacity / 2 {
            replaceChunk(capacity: capacity * 2)
        }
    }

    /// Takes what was received to a chunk of another size. Zeroed memory is not touched until
    /// something is read into it, so a large chunk costs what is used of it.
    private func replaceChunk(capacity newCapacity: Int) {
        let newChunk = Self.allocate(newCapacity)
        memcpy(newChunk, chunk, end)
        free(chunk)
        chunk = newChunk
        capacity = newCapacity
    }

    private static func allocate(_ capacity: Int) -> UnsafeMutableRawPointer {
        guard let chunk = calloc(1, capacity + padding) else { fatalError("out of memory") }
        return chunk
    }

    /// What the parser needs to be able to read behind the bytes, and the newline that the last
    /// line may lack.
    private static let padding = Int(CEVENT_PADDING) + 1

    private static let newline = CInt(UInt8(ascii: "\n"))
}
