// SPDX-License-Identifier: Apache-2.0
// The server's half of the wire format: how requests are read and responses are written.

#if Etcd

import SyncerEngine

@testable import DedupeBufferEtcd

extension RangeRequest: WireDecodable {
    public init(from reader: inout WireReader) throws(WireError) {
        self.init()
        while let field = try reader.next() {
            switch field.number {
            case 1: key = try field.bytes()
            case 2: rangeEnd = try field.bytes()
            case 3: limit = try field.int64()
            case 4: revision = try field.int64()
            case 8: isKeysOnly = try field.bool()
            default: throw WireError("field \(field.number) of a range request")
            }
        }
    }
}

extension WatchRequest: WireDecodable {
    public init(from reader: inout WireReader) throws(WireError) {
        guard let field = try reader.next() else { throw WireError("an empty watch request") }
        switch field.number {
        case 1:
            var message = try field.message()
            self = .create(try WatchCreateRequest(from: &message))
        case 3: self = .progress
        default: throw WireError("field \(field.number) of a watch request")
        }
    }
}

extension WatchCreateRequest: WireDecodable {
    public init(from reader: inout WireReader) throws(WireError) {
        self.init()
        while let field = try reader.next() {
            switch field.number {
            case 1: key = try field.bytes()
            case 2: rangeEnd = try field.bytes()
            case 3: startRevision = try field.int64()
            case 4: notifiesProgress = try field.bool()
            case 8: fragments = try field.bool()
            default: throw WireError("field \(field.number) of a create request")
            }
        }
    }
}

extension AuthenticateRequest: WireDecodable {
    public init(from reader: inout WireReader) throws(WireError) {
        self.init()
        while let field = try reader.next() {
            switch field.number {
            case 1: name = try field.string()
            case 2: password = try field.string()
            default: throw WireError("field \(field.number) of an authenticate request")
            }
        }
    }
}

extension ResponseHeader: WireEncodable {
    public func encode(to writer: inout WireWriter) {
        writer.write(1, clusterID)
        writer.write(2, UInt64(7))  // the member, which a client skips
        writer.write(3, revision)
        writer.write(4, UInt64(2))  // the term
    }
}

extension RangeResponse: WireEncodable {
    public func encode(to writer: inout WireWriter) {
        writer.writeMessage(1, header.encoded)
        for entry in entries { writer.writeMessage(2, entry.encoded) }
        writer.write(3, hasMore)
        writer.write(4, count)
    }
}

extension WatchResponse: WireEncodable {
    public func encode(to writer: inout WireWriter) {
        writer.writeMessage(1, header.encoded)
        writer.write(2, watchID)
        writer.write(3, isCreated)
        writer.write(4, isCancelled)
        writer.write(5, compactRevision)
        writer.write(6, cancelReason)
        writer.write(7, isFragment)
        for event in events { writer.writeMessage(11, event.encodedEvent) }
    }
}

extension AuthenticateResponse: WireEncodable {
    public func encode(to writer: inout WireWriter) {
        writer.writeMessage(1, ResponseHeader(clusterID: 1, revision: 1).encoded)
        writer.write(2, token)
    }
}

extension DatastoreEntry: WireEncodable {
    package func encode(to writer: inout WireWriter) {
        writer.write(1, key)
        writer.write(2, Int64(1))  // the revision of its creation
        writer.write(3, revision)
        writer.write(4, Int64(3))  // its version
        writer.write(5, value ?? [])
    }

    var encodedEvent: [UInt8] {
        var writer = WireWriter()
        writer.write(1, UInt64(value == nil ? 1 : 0))
        writer.writeMessage(2, encoded)
        return writer.bytes
    }
}

#endif
