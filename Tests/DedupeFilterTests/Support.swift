// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Foundation
import Synchronization

@testable import dedupe

/// What came of a line.
enum Event: Equatable, CustomStringConvertible {
    case update(key: [UInt8], value: [UInt8], revision: UInt64)
    case deletion(key: [UInt8], revision: UInt64)
    case status(SyncStatus)
    case restart
    case bad(line: Int, reason: String)

    static func update(_ key: String, _ value: String, revision: UInt64 = 0) -> Event {
        .update(key: Array(key.utf8), value: Array(value.utf8), revision: revision)
    }

    static func deletion(_ key: String, revision: UInt64 = 0) -> Event {
        .deletion(key: Array(key.utf8), revision: revision)
    }

    var description: String {
        switch self {
        case .update(let key, let value, let revision):
            "\(String(decoding: key.prefix(99), as: UTF8.self)) = \(String(decoding: value.prefix(99), as: UTF8.self))"
                + " @\(revision)"
        case .deletion(let key, let revision): "\(String(decoding: key.prefix(99), as: UTF8.self)) deleted @\(revision)"
        case .status(let status): "\(status)"
        case .restart: "restart"
        case .bad(let line, let reason): "line \(line): \(reason)"
        }
    }
}

/// Stands in for the buffer and writes down what it gets.
final class Recorder: RestartAwareCallbacks {
    typealias Key = LineKey
    typealias Value = LineValue

    private let recorded = Mutex<[Event]>([])

    var events: [Event] { recorded.withLock { $0 } }

    func append(_ event: Event) {
        recorded.withLock { $0.append(event) }
    }

    func onStatusUpdated(_ status: SyncStatus) {
        append(.status(status))
    }

    func onUpdates(_ updates: [Update<LineKey, LineValue>]) {
        for update in updates {
            let key = update.key.withKeyBytes { $0.withUnsafeBytes { Array($0) } }
            if let value = update.value {
                append(.update(key: key, value: value.withBytes { Array($0) }, revision: update.revision))
            } else {
                append(.deletion(key: key, revision: update.revision))
            }
        }
    }

    func onConnectionRestarted() {
        append(.restart)
    }
}

/// A file without a name, to be read by a `LineReader` while more is put behind its end.
final class ScratchFile: @unchecked Sendable {
    // Sendable: the descriptor does not change; `length` belongs to the thread that appends.
    let descriptor: CInt
    private var length = 0

    init(_ content: [UInt8] = []) {
        var name = Array("\(NSTemporaryDirectory())/dedupe-XXXXXX".utf8CString)
        descriptor = mkstemp(&name)
        precondition(descriptor >= 0)
        unlink(name)
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        append(content)
    }

    deinit {
        close(descriptor)
    }

    /// How many bytes it has.
    var count: Int {
        var status = stat()
        return fstat(descriptor, &status) == 0 ? Int(status.st_size) : 0
    }

    /// All of it, as text.
    var content: String {
        var content = [UInt8](repeating: 0, count: count)
        let count = pread(descriptor, &content, content.count, 0)
        return String(decoding: content.prefix(max(0, count)), as: UTF8.self)
    }

    /// Puts bytes at the end, and leaves the place where reading goes on.
    func append(_ content: [UInt8]) {
        var rest = content[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { pwrite(descriptor, $0.baseAddress!, $0.count, off_t(length)) }
            precondition(count > 0)
            length += count
            rest = rest.dropFirst(count)
        }
    }
}

/// Has the reader read all there is, and the feed take it.
///
/// - Returns: Whether the feed wants more.
func pump<Target>(_ reader: LineReader, into feed: inout EventFeed<Target>) throws -> Bool {
    while true {
        let input = try reader.receive()
        while let events = reader.nextEvents() {
            if !feed.take(events) {
                return false
            }
        }
        if input != .bytes {
            return true
        }
    }
}

/// What the reader and the feed make of the input.
func events(
    of input: [UInt8], format: InputFormat = InputFormat(), onMissing: MissingKeyRule = .error,
    maximumLineLength: Int = LineReader.maximumLineLength, chunkSize: Int = 256 << 10, eventsAtOnce: Int = 256,
    maximumErrors: Int? = nil
) throws -> [Event] {
    let file = ScratchFile(input)
    let recorder = Recorder()
    let reader = try LineReader(
        format: format, descriptor: file.descriptor, maximumLineLength: maximumLineLength, chunkSize: chunkSize,
        eventsAtOnce: eventsAtOnce)
    let log = BadInputLog(maximum: maximumErrors, mostMessages: .max) { message in
        if case .bad(let bad) = message {
            recorder.append(.bad(line: bad.line, reason: bad.reason))
        }
    }
    let rules = EventFeed<Recorder>.Rules(format: format, onMissing: onMissing)
    var feed = EventFeed(target: recorder, rules: rules, counters: InputCounters(), log: log)
    _ = try pump(reader, into: &feed)
    return recorder.events
}

func events(
    of input: String, format: InputFormat = InputFormat(), onMissing: MissingKeyRule = .error,
    maximumErrors: Int? = nil
) throws -> [Event] {
    try events(of: Array(input.utf8), format: format, onMissing: onMissing, maximumErrors: maximumErrors)
}

/// What is said about bad input, and the keys of the updates.
func messages(of input: String, format: InputFormat = InputFormat()) throws -> (messages: [String], keys: [String]) {
    let file = ScratchFile(Array(input.utf8))
    let recorder = Recorder()
    let reader = try LineReader(format: format, descriptor: file.descriptor)
    var messages: [String] = []
    let log = BadInputLog(mostMessages: .max) { messages.append($0.description) }
    var feed = EventFeed(
        target: recorder, rules: EventFeed<Recorder>.Rules(format: format), counters: InputCounters(), log: log)
    _ = try pump(reader, into: &feed)
    let keys = recorder.events.compactMap { event -> String? in
        guard case .update(let key, _, _) = event else { return nil }
        return String(decoding: key, as: UTF8.self)
    }
    return (messages, keys)
}

/// Collects what a writer writes: one element for each time it does.
final class Collector: Sendable {
    private let written = Mutex<[[UInt8]]>([])

    func write(_ bytes: UnsafeRawBufferPointer) {
        written.withLock { $0.append(Array(bytes)) }
    }

    /// Takes what was collected.
    func take() -> [[UInt8]] {
        written.withLock { written in
            defer { written = [] }
            return written
        }
    }
}

/// Numbers that come in one by one.
final class Numbers: Sendable {
    private let numbers = Mutex<[Int]>([])

    var all: [Int] { numbers.withLock { $0 } }

    func append(_ number: Int) {
        numbers.withLock { $0.append(number) }
    }
}
