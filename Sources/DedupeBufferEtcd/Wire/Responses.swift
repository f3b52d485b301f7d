// SPDX-License-Identifier: Apache-2.0
// The messages that a server sends. etcd.proto describes the fields. Fields that nothing here needs
// are skipped, and so are fields of newer versions.

#if Etcd

import SyncerEngine

/// A message that can be read.
protocol WireDecodable: Sendable {
    init(from reader: inout WireReader) throws(WireError)
}

struct ResponseHeader: WireDecodable, Hashable {
    var clusterID: UInt64 = 0
    var revision: Int64 = 0

    init(clusterID: UInt64 = 0, revision: Int64 = 0) {
        self.clusterID = clusterID
        self.revision = revision
    }

    init(from reader: inout WireReader) throws(WireError) {
        while let field = try reader.next() {
            switch field.number {
            case 1: clusterID = try field.uint64()
            case 3: revision = try field.int64()
            default: break
            }
        }
    }

    var position: HistoryPosition { HistoryPosition(cluster: clusterID, revision: revision) }
}

struct RangeResponse: WireDecodable, Hashable {
    var header = ResponseHeader()
    var entries: [DatastoreEntry] = []
    var hasMore = false
    var count: Int64 = 0

    init() {}

    init(from reader: inout WireReader) throws(WireError) {
        while let field = try reader.next() {
            switch field.number {
            case 1:
                var message = try field.message()
                header = try ResponseHeader(from: &message)
            case 2:
                var message = try field.message()
                entries.append(try DatastoreEntry(from: &message))
            case 3: hasMore = try field.bool()
            case 4: count = try field.int64()
            default: break
            }
        }
    }
}

struct WatchResponse: WireDecodable, Hashable {
    var header = ResponseHeader()
    var watchID: Int64 = 0
    var isCreated = false
    var isCancelled = false
    /// The oldest revision that can be watched, if the watch began before it; otherwise 0.
    var compactRevision: Int64 = 0
    var cancelReason = ""
    var isFragment = false
    var events: [DatastoreEntry] = []

    init() {}

    init(from reader: inout WireReader) throws(WireError) {
        while let field = try reader.next() {
            switch field.number {
            case 1:
                var message = try field.message()
                header = try ResponseHeader(from: &message)
            case 2: watchID = try field.int64()
            case 3: isCreated = try field.bool()
            case 4: isCancelled = try field.bool()
            case 5: compactRevision = try field.int64()
            case 6: cancelReason = try field.string()
            case 7: isFragment = try field.bool()
            case 11:
                var message = try field.message()
                events.append(try DatastoreEntry(fromEvent: &message))
            default: break
            }
        }
    }
}

struct AuthenticateResponse: WireDecodable, Hashable {
    var token = ""

    init() {}

    init(from reader: inout WireReader) throws(WireError) {
        while let field = try reader.next() {
            if field.number == 2 { token = try field.string() }
        }
    }
}

extension DatastoreEntry: WireDecodable {
    /// Reads an `mvccpb.KeyValue`.
    init(from reader: inout WireReader) throws(WireError) {
        self.init(key: [], value: [], revision: 0)
        while let field = try reader.next() {
            switch field.number {
            case 1: key = try field.bytes()
            case 3: revision = try field.int64()
            case 5: value = try field.bytes()
            default: break
            }
        }
        // etcd has no such key, and its revisions begin with 1.
        guard !key.isEmpty else { throw WireError("a key is empty") }
        guard revision > 0 else { throw WireError("a key has revision \(revision)") }
    }

    /// Reads an `mvccpb.Event`.
    init(fromEvent reader: inout WireReader) throws(WireError) {
        var type: UInt64 = 0
        var entry: DatastoreEntry?
        while let field = try reader.next() {
            switch field.number {
            case 1: type = try field.uint64()
            case 2:
                var message = try field.message()
                entry = try DatastoreEntry(from: &message)
            default: break
            }
        }
        guard let entry else { throw WireError("an event has no key") }
        guard type <= 1 else { throw WireError("an event has type \(type)") }
        self = entry
        if type == 1 { value = nil }
    }
}

#endif
