// SPDX-License-Identifier: Apache-2.0

/// How far the source is towards a complete picture of the datastore.
public enum SyncStatus: UInt8, Sendable {
    /// There is no connection yet. A buffer starts with this status.
    case waitForDatastore = 0
    /// A snapshot is being sent.
    case resyncInProgress
    /// The snapshot is complete. Keys that were live before a restart and were not seen since then
    /// are gone.
    case inSync
}

extension SyncStatus: CustomStringConvertible {
    /// `wait-for-ready`, `resync` or `in-sync`.
    public var description: String {
        switch self {
        case .waitForDatastore: "wait-for-ready"
        case .resyncInProgress: "resync"
        case .inSync: "in-sync"
        }
    }
}
