// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import GRPCCore
import SyncerEngine

/// The token that etcd gave for the user's password. It is valid for all members.
final class EtcdCredentials: Sendable {
    private enum State {
        /// Nothing was asked yet.
        case unknown
        case token(String)
        /// The cluster does not check users.
        case notNeeded
    }

    private let user: EtcdConfiguration.User?
    private let state = Locked(State.unknown)

    init(_ user: EtcdConfiguration.User?) { self.user = user }

    /// Whether a token must be fetched before the first call.
    var isMissing: Bool {
        guard user != nil, case .unknown = state.withLock({ $0 }) else { return false }
        return true
    }

    /// The metadata of a call. A member without a leader refuses the call.
    var metadata: Metadata {
        var metadata: Metadata = ["hasleader": "true"]
        if case .token(let token) = state.withLock({ $0 }) { metadata.addString(token, forKey: "token") }
        return metadata
    }

    /// Fetches a token.
    func authenticate(
        by call: (AuthenticateRequest) async throws(DatastoreError) -> AuthenticateResponse
    ) async throws(DatastoreError) {
        guard let user else {
            throw DatastoreError(.permissionDenied, "etcd asks for a user, and the configuration has none")
        }
        do throws(DatastoreError) {
            let response = try await call(AuthenticateRequest(name: user.name, password: user.password))
            state.withLock { $0 = .token(response.token) }
        } catch  where error.message.contains("authentication is not enabled") {
            state.withLock { $0 = .notNeeded }
        }
    }
}

#endif
