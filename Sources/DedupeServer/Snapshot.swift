// SPDX-License-Identifier: Apache-2.0

#if Server

public import DedupeBuffer
internal import HummingbirdCore
internal import NIOCore

/// The state of a hub at one moment.
public struct Snapshot: Sendable {
    /// Objects of updates; `nil`: the key was deleted while the snapshot was made.
    public var entries: [[UInt8]?] = []
    public var status: SyncStatus?
    /// From where a stream goes on.
    public var position = ""

    public init() {}

    /// One JSON object. It is put together while it is sent, and the values' text is shared with
    /// the hub, so a snapshot for a slow client takes little memory.
    ///
    /// - Parameter wrote: called after each part of ``partSize`` bytes. The next part is made when
    ///   it returns.
    func body(_ wrote: @escaping @Sendable () async -> Void) -> ResponseBody {
        let entries = entries.compactMap { $0 }
        let status = status.map { "\"\($0)\"" } ?? "null"
        let head = #"{"position":"\#(position)","status":\#(status),"count":\#(entries.count),"entries":["#
        let tail = "]}\n"
        let separators = max(0, entries.count - 1)
        let length = entries.reduce(head.utf8.count + tail.utf8.count + separators) { $0 + $1.count }
        return ResponseBody(contentLength: length) { writer in
            var text = ByteBuffer(string: head)
            for (index, entry) in entries.enumerated() {
                if index > 0 { text.writeInteger(UInt8(ascii: ",")) }
                var rest = entry[...]
                while !rest.isEmpty {
                    let part = rest.prefix(max(0, Self.partSize - text.readableBytes))
                    text.writeBytes(part)
                    rest = rest.dropFirst(part.count)
                    if text.readableBytes >= Self.partSize {
                        try await writer.write(text)
                        await wrote()
                        text = ByteBuffer()
                    }
                }
            }
            text.writeString(tail)
            try await writer.write(text)
            try await writer.finish(nil)
        }
    }

    /// So a client that reads steadily is seen to do so, however long a value is.
    private static let partSize = 64 << 10
}

#endif
