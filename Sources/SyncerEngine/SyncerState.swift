// SPDX-License-Identifier: Apache-2.0

/// What a user wants to know of a syncer. Each change is told once.
package enum SyncerState: Hashable, Sendable {
    /// An endpoint works, for the first time or again.
    case connected(endpoint: Int)
    /// A snapshot will be read.
    case resyncing(ResyncReason)
    /// The sink's buffer has everything, and the watch brings what changes.
    case inSync
    /// No endpoint works, for this reason.
    case unreachable(DatastoreError)
    /// The cluster refuses the user.
    case denied(DatastoreError)

    init?(_ report: SyncerReport) {
        switch report {
        case .connected(let endpoint): self = .connected(endpoint: endpoint)
        case .resyncing(let reason): self = .resyncing(reason)
        case .resumed, .resynced: self = .inSync
        case .unreachable(let error): self = .unreachable(error)
        case .denied(let error): self = .denied(error)
        default: return nil
        }
    }
}

extension SyncerState: CustomStringConvertible {
    package var description: String {
        switch self {
        case .connected(let endpoint): "connected to endpoint \(endpoint)"
        case .resyncing(let reason): "resync because of: \(reason.rawValue)"
        case .inSync: "in sync"
        case .unreachable(let error): "unreachable: \(error)"
        case .denied(let error): "denied: \(error)"
        }
    }
}
