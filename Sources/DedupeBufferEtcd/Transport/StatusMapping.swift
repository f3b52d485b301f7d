// SPDX-License-Identifier: Apache-2.0
// What etcd's errors mean. A gRPC status alone does not say: etcd uses `unavailable` both for a
// member without a leader and for one that is stopping. So the texts count first.

#if Etcd

import GRPCCore
import SyncerEngine

/// What a text of etcd means. The first text that an error contains decides.
private let meanings: [(text: String, reason: DatastoreError.Reason)] = [
    ("required revision has been compacted", .compacted),
    ("required revision is a future revision", .futureRevision),
    ("invalid auth token", .unauthenticated),
    ("revision of auth store is old", .unauthenticated),
    // The request had no token although users are checked.
    ("user name is empty", .unauthenticated),
    ("invalid user ID or password", .permissionDenied),
    ("permission denied", .permissionDenied),
    ("permission not granted", .permissionDenied),
    ("no leader", .noLeader),
    ("not leader", .noLeader),
    ("leader changed", .noLeader),
    ("leader failure", .noLeader),
    ("raft proposal dropped", .noLeader),
    ("timed out", .timeout),
    ("too many requests", .overloaded),
    ("database space exceeded", .overloaded),
    // The server's own limit, and grpc-swift's.
    ("message larger than max", .responseTooLarge),
    ("exceeded the configured maximum payload size", .responseTooLarge),
    ("corrupt cluster", .dataLoss),
    // Another member can serve the request.
    ("not supported for learner", .unavailable),
    ("unhealthy cluster", .unavailable),
    ("not capable", .unavailable),
    ("server stopped", .unavailable),
]

extension DatastoreError {
    /// The meaning of an error that a call of gRPC threw.
    init(_ error: any Error) {
        switch error {
        case let error as DatastoreError: self = error
        case let error as RPCError: self.init(status: error)
        case let error as WireError: self.init(.malformed, error.description)
        case let error as CancellationError: self.init(.unavailable, "\(error)")
        // For one, the client was closed while a request began.
        case let error as RuntimeError: self.init(.unavailable, error.message)
        default: self.init(.other, "\(error)")
        }
    }

    private init(status: RPCError) {
        let reason = Self.reason(ofText: status.message) ?? Self.reason(of: status.code)
        self.init(reason, status.cause.map { "\(status.message) (\($0))" } ?? status.message)
    }

    /// The meaning of a text in which etcd says why it refuses, or `nil`.
    static func reason(ofText text: String) -> Reason? {
        meanings.first { text.contains($0.text) }?.reason
    }

    private static func reason(of code: RPCError.Code) -> Reason {
        switch code {
        case .unavailable, .cancelled, .aborted: .unavailable
        case .deadlineExceeded: .timeout
        case .unauthenticated: .unauthenticated
        case .permissionDenied: .permissionDenied
        case .resourceExhausted: .overloaded
        case .dataLoss: .dataLoss
        case .unimplemented: .unsupported
        default: .other
        }
    }
}

#endif
