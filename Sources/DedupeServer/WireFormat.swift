// SPDX-License-Identifier: Apache-2.0

#if Server

public import DedupeBuffer
public import NIOCore

/// How a stream is written.
public enum WireFormat: Sendable {
    /// Server-Sent Events. The data of each event is lines of JSON, as in ``lines``.
    case events
    /// Lines of JSON, each by itself, in the vocabulary that the filter reads and writes. The last
    /// line of each delivery also has the position.
    case lines

    var contentType: String {
        switch self {
        case .events: "text/event-stream"
        case .lines: "application/x-ndjson"
        }
    }

    /// Begins a delivery of updates.
    @inlinable
    public func beginUpdates(_ text: inout ByteBuffer) {
        if self == .events { text.writeStaticString("event: updates\n") }
    }

    /// Adds an update's object.
    @inlinable
    public func append(_ envelope: [UInt8], to text: inout ByteBuffer) {
        if self == .events { text.writeStaticString("data: ") }
        text.writeBytes(envelope)
        text.writeInteger(UInt8(ascii: "\n"))
    }

    /// Ends a delivery of updates.
    @inlinable
    public func endUpdates(_ position: String, _ text: inout ByteBuffer) {
        switch self {
        case .events: endEvent(position, &text)
        case .lines:
            // The last object gets one more member: its brace and the newline make room for it.
            text.moveWriterIndex(to: text.writerIndex - 2)
            endLine(position, &text)
        }
    }

    @inlinable
    public func append(_ status: SyncStatus, position: String, to text: inout ByteBuffer) {
        switch self {
        case .events:
            text.writeString("event: status\ndata: {\"status\":\"\(status)\"}\n")
            endEvent(position, &text)
        case .lines:
            text.writeString("{\"status\":\"\(status)\"")
            endLine(position, &text)
        }
    }

    @inlinable
    public func appendRestart(position: String, to text: inout ByteBuffer) {
        switch self {
        case .events:
            text.writeStaticString("event: restart\ndata: {\"restart\":true}\n")
            endEvent(position, &text)
        case .lines:
            text.writeStaticString("{\"restart\":true")
            endLine(position, &text)
        }
    }

    @inlinable
    public func endEvent(_ position: String, _ text: inout ByteBuffer) {
        text.writeStaticString("id: ")
        text.writeString(position)
        text.writeStaticString("\n\n")
    }

    @inlinable
    public func endLine(_ position: String, _ text: inout ByteBuffer) {
        text.writeStaticString(",\"position\":\"")
        text.writeString(position)
        text.writeStaticString("\"}\n")
    }

    // MARK: - Around the deliveries

    /// What comes first. Browsers remember how long to wait before they connect again.
    func beginning(retry: Duration) -> String {
        self == .events ? "retry: \(retry.milliseconds)\n\n" : ""
    }

    /// What shows that the connection is alive. An event without data sets a browser's last event
    /// identifier, so a client whose prefixes were quiet for long comes back with a recent
    /// position.
    func heartbeat(position: String) -> String {
        switch self {
        case .events: ": heartbeat\nid: \(position)\n\n"
        case .lines: "\n"
        }
    }

    /// What comes last, before the server closes the stream.
    func end(retry: Duration) -> String {
        switch self {
        case .events: "event: end\nretry: \(retry.milliseconds)\ndata: {\"end\":true}\n\n"
        case .lines: ""
        }
    }
}

extension Duration {
    var milliseconds: Int64 { components.seconds * 1000 + components.attoseconds / 1_000_000_000_000_000 }
}

#endif
