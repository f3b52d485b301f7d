// SPDX-License-Identifier: Apache-2.0
// The messages that a client sends. etcd.proto describes the fields.

#if Etcd

/// A message that can be written.
protocol WireEncodable: Sendable {
    func encode(to writer: inout WireWriter)
}

extension WireEncodable {
    var encoded: [UInt8] {
        var writer = WireWriter()
        encode(to: &writer)
        return writer.bytes
    }
}

struct RangeRequest: WireEncodable, Hashable {
    var key: [UInt8] = []
    /// Empty for one key alone.
    var rangeEnd: [UInt8] = []
    var limit: Int64 = 0
    /// 0 for the newest.
    var revision: Int64 = 0
    var isKeysOnly = false

    func encode(to writer: inout WireWriter) {
        writer.write(1, key)
        writer.write(2, rangeEnd)
        writer.write(3, limit)
        writer.write(4, revision)
        writer.write(8, isKeysOnly)
    }
}

enum WatchRequest: WireEncodable, Hashable {
    case create(WatchCreateRequest)
    case progress

    func encode(to writer: inout WireWriter) {
        switch self {
        case .create(let request): writer.writeMessage(1, request.encoded)
        case .progress: writer.writeMessage(3, [])
        }
    }
}

struct WatchCreateRequest: WireEncodable, Hashable {
    var key: [UInt8] = []
    var rangeEnd: [UInt8] = []
    var startRevision: Int64 = 0
    var notifiesProgress = false
    var fragments = false

    func encode(to writer: inout WireWriter) {
        writer.write(1, key)
        writer.write(2, rangeEnd)
        writer.write(3, startRevision)
        writer.write(4, notifiesProgress)
        writer.write(8, fragments)
    }
}

struct AuthenticateRequest: WireEncodable, Hashable {
    var name = ""
    var password = ""

    func encode(to writer: inout WireWriter) {
        writer.write(1, name)
        writer.write(2, password)
    }
}

#endif
