// SPDX-License-Identifier: Apache-2.0

#if Etcd

import Foundation
import GRPCCore
import SyncerEngine

@testable import DedupeBufferEtcd

/// Changes a cluster. Only tests write.
final class EtcdAdmin: Sendable {
    private let connection: EtcdConnection
    private let token: String?

    init(_ endpoint: EtcdConfiguration.Endpoint, tls: EtcdConfiguration.TLS? = nil, user: EtcdConfiguration.User? = nil)
        async throws
    {
        var options = EtcdTransportOptions.patient
        options.tls = tls
        connection = try EtcdConnection(endpoint, options)
        if let user {
            token = try await connection.call(
                .authenticate, AuthenticateRequest(name: user.name, password: user.password), metadata: [:],
                timeout: .seconds(60)
            ).token
        } else {
            token = nil
        }
    }

    deinit { connection.close() }

    /// One change in a transaction.
    enum Change: Sendable {
        case put([UInt8], [UInt8])
        case delete([UInt8])
    }

    /// Returns the revision of the change.
    @discardableResult
    func put(_ key: String, _ value: [UInt8], lease: Int64 = 0) async throws -> Int64 {
        try await call("KV", "Put", Self.put(Array(key.utf8), value, lease)).header.revision
    }

    @discardableResult
    func put(_ key: String, _ value: String) async throws -> Int64 { try await put(key, Array(value.utf8)) }

    @discardableResult
    func delete(_ key: String) async throws -> Int64 {
        try await call("KV", "DeleteRange", Self.delete(Array(key.utf8))).header.revision
    }

    /// Makes changes in one revision.
    @discardableResult
    func commit(_ changes: [Change], lease: Int64 = 0) async throws -> Int64 {
        var writer = WireWriter()
        for change in changes {
            var operation = WireWriter()
            switch change {
            case .put(let key, let value): operation.writeMessage(2, Self.put(key, value, lease).bytes)
            case .delete(let key): operation.writeMessage(3, Self.delete(key).bytes)
            }
            writer.writeMessage(2, operation.bytes)
        }
        return try await call("KV", "Txn", writer).header.revision
    }

    /// Forgets the history before a revision.
    func compact(_ revision: Int64) async throws {
        var writer = WireWriter()
        writer.write(1, revision)
        writer.write(2, true)  // returns when it is done
        _ = try await call("KV", "Compact", writer)
    }

    func grantLease(_ identifier: Int64, seconds: Int64) async throws {
        var writer = WireWriter()
        writer.write(1, seconds)
        writer.write(2, identifier)
        _ = try await call("Lease", "LeaseGrant", writer)
    }

    /// Ends a lease, as its expiry does: all its keys are deleted in one revision.
    func revokeLease(_ identifier: Int64) async throws {
        var writer = WireWriter()
        writer.write(1, identifier)
        _ = try await call("Lease", "LeaseRevoke", writer)
    }

    private static func put(_ key: [UInt8], _ value: [UInt8], _ lease: Int64) -> WireWriter {
        var writer = WireWriter()
        writer.write(1, key)
        writer.write(2, value)
        writer.write(3, lease)
        return writer
    }

    private static func delete(_ key: [UInt8]) -> WireWriter {
        var writer = WireWriter()
        writer.write(1, key)
        return writer
    }

    private func call(_ service: String, _ name: String, _ request: WireWriter) async throws -> AdminResponse {
        var metadata: Metadata = [:]
        if let token { metadata.addString(token, forKey: "token") }
        return try await connection.call(
            EtcdMethod(service, name), AdminRequest(bytes: request.bytes), metadata: metadata, timeout: .seconds(60))
    }
}

/// A request that was written already.
private struct AdminRequest: WireEncodable {
    let bytes: [UInt8]

    func encode(to writer: inout WireWriter) { writer = WireWriter(bytes) }
}

/// The header, which each of etcd's responses has as its first field.
private struct AdminResponse: WireDecodable {
    var header = ResponseHeader()

    init(from reader: inout WireReader) throws(WireError) {
        while let field = try reader.next() {
            guard field.number == 1, case .bytes = field.content else { continue }
            var message = try field.message()
            header = try ResponseHeader(from: &message)
        }
    }
}

#endif
