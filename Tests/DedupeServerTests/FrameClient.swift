// SPDX-License-Identifier: Apache-2.0

#if Server

import Foundation

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A client of HTTP/2 that sends and reads one frame at a time, so that a test can do what no
/// ordinary client does. `openssl s_client` is its TLS.
///
/// `@unchecked Sendable`: a test uses it from one thread at a time.
final class FrameClient: @unchecked Sendable {
    struct Frame {
        var type: FrameType
        var flags: UInt8 = 0
        var stream: UInt32 = 0
        var payload: [UInt8] = []
    }

    enum FrameType: UInt8 {
        case data, headers, priority, reset, settings, promise, ping, goAway, window, continuation
    }

    private let process: ChildProcess
    private let messages: OutputFile
    private let (input, output): (CInt, CInt)
    private var received: [UInt8] = []

    /// - Parameter window: How many bytes of a stream the server may send before ``widen(_:by:)``.
    init(port: Int, window: UInt32) throws {
        guard let openssl = Tool.path("openssl") else { throw WireError("there is no openssl") }
        messages = try OutputFile()
        let (theirInput, input) = try ChildProcess.makePipe()
        let (output, theirOutput) = try ChildProcess.makePipe()
        (self.input, self.output) = (input, output)
        defer {
            close(theirInput)
            close(theirOutput)
        }
        process = try ChildProcess(
            openssl,
            ["s_client", "-quiet", "-alpn", "h2", "-servername", "localhost", "-connect", "127.0.0.1:\(port)"],
            descriptors: [theirInput, theirOutput, messages.descriptor])
        try write(Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8))
        // The identifier 4 is the initial size of a stream's window.
        try send(Frame(type: .settings, payload: [0, 4] + Self.bytes(window)))
    }

    deinit {
        close(input)
        close(output)
    }

    /// Asks for a resource.
    func get(_ target: String, stream: UInt32) throws {
        // Method, scheme, path and authority by their numbers in the static table of HPACK.
        var block: [UInt8] = [0x82, 0x87]
        for (name, value) in [(UInt8(4), target), (1, "localhost")] {
            precondition(value.utf8.count < 127, "longer texts have their length in several bytes")
            block += [name, UInt8(value.utf8.count)] + Array(value.utf8)
        }
        // The flags: these are all headers, and there is no body.
        try send(Frame(type: .headers, flags: 0x5, stream: stream, payload: block))
    }

    /// Lets the server send more bytes of a stream, or of all streams together: 0.
    func widen(_ stream: UInt32, by count: UInt32) throws {
        try send(Frame(type: .window, stream: stream, payload: Self.bytes(count)))
    }

    /// The next frame, when it has come; `nil` at the end. Settings and pings are answered.
    func frame() throws -> Frame? {
        guard let head = try take(9) else { return nil }
        let length = head[0..<3].reduce(0) { $0 << 8 | Int($1) }
        guard let type = FrameType(rawValue: head[3]) else { throw WireError("no type of a frame: \(head[3])") }
        let stream = head[5..<9].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        guard let payload = try take(length) else { throw WireError("half a frame") }
        let frame = Frame(type: type, flags: head[4], stream: stream, payload: payload)
        // The server may have ended the connection meanwhile.
        if type == .settings && frame.flags & 1 == 0 { try? send(Frame(type: .settings, flags: 1)) }
        if type == .ping && frame.flags & 1 == 0 { try? send(Frame(type: .ping, flags: 1, payload: payload)) }
        return frame
    }

    /// Reads until the head of an answer has come.
    func readHeaders() throws {
        while let frame = try frame() {
            if frame.type == .headers { return }
            if frame.type == .goAway { throw WireError("the server says goodbye: \(frame.payload)") }
        }
        throw WireError("the connection ended before an answer: \(messages.content)")
    }

    private func send(_ frame: Frame) throws {
        let length = UInt32(frame.payload.count)
        try write(
            Self.bytes(length).dropFirst() + [frame.type.rawValue, frame.flags] + Self.bytes(frame.stream)
                + frame.payload)
    }

    private func write(_ bytes: [UInt8]) throws {
        let count = bytes.withUnsafeBytes { Foundation.write(input, $0.baseAddress!, $0.count) }
        if count != bytes.count { throw WireError("the connection takes nothing: \(messages.content)") }
    }

    private func take(_ count: Int) throws -> [UInt8]? {
        while received.count < count {
            var ready = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
            guard poll(&ready, 1, CInt(patience.components.seconds * 1000)) > 0 else {
                throw WireError("no frame came for \(patience)")
            }
            var buffer = [UInt8](repeating: 0, count: 1 << 16)
            let more = read(output, &buffer, buffer.count)
            if more <= 0 { return nil }
            received += buffer[..<more]
        }
        defer { received.removeFirst(count) }
        return Array(received.prefix(count))
    }

    private static func bytes(_ number: UInt32) -> [UInt8] {
        [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: number >> $0) }
    }
}

#endif
