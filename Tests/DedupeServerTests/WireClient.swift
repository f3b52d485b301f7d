// SPDX-License-Identifier: Apache-2.0

#if Server

import Foundation

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

#if canImport(Glibc) || canImport(Musl)
private let noSignal = CInt(MSG_NOSIGNAL)
#else
private let noSignal: CInt = 0
#endif

struct WireError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

struct WireHead: Sendable {
    var status: Int
    /// Names are in small letters.
    var headers: [String: String]
}

struct WireResponse: Sendable {
    var head: WireHead
    var body: String

    var status: Int { head.status }
}

/// An event as a browser sees it.
struct WireEvent: Sendable, Equatable {
    var name = "message"
    var data: [String] = []
    var id: String?
    var retry: Int?
    var comments: [String] = []
}

/// A connection that is used with blocking calls, which fail after ``patience``.
///
/// `@unchecked Sendable`: a test uses it from one thread at a time.
final class WireClient: @unchecked Sendable {
    let descriptor: CInt
    private var received: [UInt8] = []
    private var isChunked = false
    /// Bytes of the chunk that have not been read.
    private var chunk = 0
    private var isAtEnd = false
    /// Heartbeats would keep a client waiting forever.
    private let deadline = ContinuousClock.now + patience

    /// - Parameter receiveBuffer: The bytes that the system may hold for a client that does not
    ///   read.
    init(port: Int, receiveBuffer: Int? = nil) throws {
        #if canImport(Glibc)
        let type = CInt(SOCK_STREAM.rawValue)
        #else
        let type = SOCK_STREAM
        #endif
        descriptor = ChildProcess.starting.withLock { _ in
            let descriptor = socket(AF_INET, type, 0)
            // A process that inherited it would keep the connection open.
            if descriptor >= 0 { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
            return descriptor
        }
        if descriptor < 0 { throw WireError("socket: \(String(cString: strerror(errno)))") }
        if var size = receiveBuffer.map({ CInt($0) }) {
            setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<CInt>.size))
        }
        var time = timeval(tv_sec: Int(patience.components.seconds), tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(descriptor, SOL_SOCKET, option, &time, socklen_t(MemoryLayout<timeval>.size))
        }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port)).bigEndian
        address.sin_addr.s_addr = in_addr_t(INADDR_LOOPBACK).bigEndian
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Foundation.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        if result != 0 {
            close(descriptor)
            throw WireError("connect: \(String(cString: strerror(errno)))")
        }
    }

    deinit { close(descriptor) }

    // MARK: - Sending

    func send(_ text: String) throws {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Foundation.send(descriptor, $0.baseAddress!, $0.count, noSignal) }
            if count < 0 { throw WireError("send: \(String(cString: strerror(errno)))") }
            rest = rest.dropFirst(count)
        }
    }

    func request(_ target: String, method: String = "GET", _ headers: [String] = [], body: String = "") throws {
        var lines = ["\(method) \(target) HTTP/1.1"]
        if !headers.contains(where: { $0.hasPrefix("Host:") }) { lines.append("Host: localhost") }
        if !body.isEmpty { lines.append("Content-Length: \(body.utf8.count)") }
        try send((lines + headers).joined(separator: "\r\n") + "\r\n\r\n" + body)
    }

    func closeOutput() { shutdown(descriptor, CInt(SHUT_WR)) }

    /// The end of this client resets the connection.
    func resetAtTheEnd() {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    }

    // MARK: - Receiving

    /// - Returns: Whether there was something; false at the end.
    private func receive() throws -> Bool {
        if isAtEnd { return false }
        if ContinuousClock.now > deadline { throw WireError("what was expected has not come for \(patience)") }
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        if count < 0 {
            // The server may end a connection while the client still sends.
            if errno == ECONNRESET {
                isAtEnd = true
                return false
            }
            throw WireError("nothing came for \(patience): \(String(cString: strerror(errno)))")
        }
        received += buffer[..<count]
        isAtEnd = count == 0
        return count > 0
    }

    /// Reads until the server closes the connection.
    func readToEnd() throws -> String {
        while try receive() {}
        defer { received = [] }
        return String(decoding: received, as: UTF8.self)
    }

    private func rawLine() throws -> String? {
        while true {
            if let end = received.firstIndex(of: UInt8(ascii: "\n")) {
                let line = received[..<end].last == UInt8(ascii: "\r") ? received[..<(end - 1)] : received[..<end]
                let text = String(decoding: line, as: UTF8.self)
                received.removeFirst(end + 1)
                return text
            }
            if try !receive() { return nil }
        }
    }

    func head() throws -> WireHead {
        guard let line = try rawLine() else { throw WireError("the connection ended before an answer") }
        let words = line.split(separator: " ")
        guard words.count >= 2, let status = Int(words[1]) else { throw WireError("no status: \(line)") }
        var head = WireHead(status: status, headers: [:])
        while let line = try rawLine(), !line.isEmpty {
            let halves = line.split(separator: ":", maxSplits: 1)
            head.headers[halves[0].lowercased()] = halves[1].drop { $0 == " " }.description
        }
        isChunked = head.headers["transfer-encoding"] == "chunked"
        chunk = 0
        return head
    }

    func response(isHead: Bool = false) throws -> WireResponse {
        let head = try head()
        if isHead || head.status == 204 { return WireResponse(head: head, body: "") }
        return WireResponse(head: head, body: try body(of: head))
    }

    /// - Parameter pause: microseconds to wait after each 100,000 bytes.
    func body(of head: WireHead, pause: UInt32 = 0) throws -> String {
        var body = ""
        if isChunked {
            while let line = try line() { body += line + "\n" }
        } else if let length = head.headers["content-length"].flatMap({ Int($0) }) {
            var pauses = 0
            while received.count < length {
                if try !receive() { throw WireError("the body ended after \(received.count) of \(length) bytes") }
                if received.count / 100_000 > pauses {
                    pauses += 1
                    usleep(pause)
                }
            }
            body = String(decoding: received[..<length], as: UTF8.self)
            received.removeFirst(length)
        }
        return body
    }

    private var text: [UInt8] = []

    /// The next line of a body in chunks; `nil` at the end.
    func line() throws -> String? {
        while true {
            if let end = text.firstIndex(of: UInt8(ascii: "\n")) {
                let line = String(decoding: text[..<end], as: UTF8.self)
                text.removeFirst(end + 1)
                return line
            }
            if try !moreText() { return nil }
        }
    }

    private func moreText() throws -> Bool {
        if chunk == 0 {
            guard let line = try rawLine() else { return false }
            guard let count = Int(line, radix: 16) else { throw WireError("no length of a chunk: \(line)") }
            if count == 0 {
                _ = try rawLine()
                return false
            }
            chunk = count
        }
        while received.isEmpty {
            if try !receive() { return false }
        }
        let count = min(chunk, received.count)
        text += received[..<count]
        received.removeFirst(count)
        chunk -= count
        if chunk == 0 { _ = try rawLine() }
        return true
    }

    /// The next event with data; those without are only kept as what they set.
    func event() throws -> WireEvent? {
        while let event = try anyEvent() {
            if !event.data.isEmpty { return event }
        }
        return nil
    }

    /// What comes up to the next blank line.
    func anyEvent() throws -> WireEvent? {
        var event = WireEvent()
        while let line = try line() {
            if line.isEmpty { return event }
            let halves = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            let value = halves.count > 1 ? String(halves[1].hasPrefix(" ") ? halves[1].dropFirst() : halves[1]) : ""
            switch halves[0] {
            case "": event.comments.append(value)
            case "event": event.name = value
            case "data": event.data.append(value)
            case "id": event.id = value
            case "retry": event.retry = Int(value)
            default: throw WireError("no field of an event: \(line)")
            }
        }
        return nil
    }

    /// Reads events until one of the data lines is this one.
    ///
    /// - Returns: All of them.
    func events(until line: String) throws -> [WireEvent] {
        var events: [WireEvent] = []
        while let event = try event() {
            events.append(event)
            if event.data.contains(line) { return events }
        }
        throw WireError("the stream ended without \(line)")
    }
}

/// What a client of a stream has.
struct Replica: Equatable {
    var values: [String: String] = [:]
    var status: String?
    var restarts = 0
    /// Whether types say what the client has. They do not after a client has broken off in the
    /// middle of what it had to catch up with.
    var isExact = true

    /// Takes a line of the filter's vocabulary.
    mutating func take(_ line: String) throws {
        if line.isEmpty { return }
        guard let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any] else {
            throw WireError("no object: \(line)")
        }
        if let status = object["status"] as? String {
            self.status = status
        } else if object["restart"] != nil {
            values = [:]
            restarts += 1
        } else if let key = object["key"] as? String, let type = object["type"] as? String {
            let value = "\(object["value"] ?? "")"
            let isKnown = values[key] != nil
            guard !isExact || (type == "new") != isKnown else {
                throw WireError("\(type) for \(key), known: \(isKnown)")
            }
            values[key] = type == "deleted" ? nil : value
        } else if object["end"] == nil {
            throw WireError("unknown: \(line)")
        }
    }
}

#endif
