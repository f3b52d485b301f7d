// SPDX-License-Identifier: Apache-2.0

#if Etcd

import SyncerEngine

/// Where a syncer is. Each change is told once.
public enum EtcdSyncerState: Sendable, Hashable {
    /// An endpoint works, for the first time or again.
    case connected(EtcdConfiguration.Endpoint)
    /// Everything will be read, because of this.
    case resyncing(EtcdResyncReason)
    /// The target has everything, and the watch brings what changes. After an interruption without
    /// a snapshot, the changes that were missed follow from now on.
    case inSync
    /// No endpoint works. The text says why.
    case unreachable(String)
    /// The cluster refuses the user. The text says why.
    case denied(String)

    init(_ state: SyncerState, endpoints: [EtcdConfiguration.Endpoint]) {
        switch state {
        case .connected(let endpoint): self = .connected(endpoints[endpoint])
        case .resyncing(let reason): self = .resyncing(EtcdResyncReason(reason))
        case .inSync: self = .inSync
        case .unreachable(let error): self = .unreachable(error.description)
        case .denied(let error): self = .denied(error.description)
        }
    }
}

extension EtcdSyncerState: CustomStringConvertible {
    /// A phrase for people.
    public var description: String {
        switch self {
        case .connected(let endpoint): "connected to \(endpoint)"
        case .resyncing(let reason): "reading everything (\(reason))"
        case .inSync: "in sync"
        case .unreachable(let error): "no endpoint works: \(error)"
        case .denied(let error): "the cluster refuses the user: \(error)"
        }
    }
}

/// Why a syncer reads everything again.
public struct EtcdResyncReason: Sendable, Hashable, CustomStringConvertible {
    /// The reason's name, as metrics have it.
    public let description: String

    init(_ reason: ResyncReason) { description = reason.rawValue }

    /// The syncer has just begun.
    public static let initial = Self(.initial)
    /// etcd no longer has the changes that were missed.
    public static let compacted = Self(.compacted)
    /// Another cluster answers.
    public static let otherCluster = Self(.otherCluster)
    /// The newest revision is older than one that was seen: the cluster was restored, or another
    /// one, which is younger, answers.
    public static let revisionsWentBack = Self(.revisionsWentBack)
    /// The target's buffer exceeded its bound.
    public static let overflow = Self(.overflow)
    /// A message of the watch was larger than the syncer accepts.
    public static let responseTooLarge = Self(.responseTooLarge)
    /// The periodic comparison.
    public static let audit = Self(.audit)
}

/// What a syncer has done so far, in all its runs.
public struct EtcdSyncerStatistics: Sendable, Hashable {
    /// Probes that an endpoint answered before a snapshot or a watch.
    public let connects: Int
    /// Watches that went on where the one before had ended.
    public let resumes: Int
    /// Attempts that failed.
    public let failures: Int
    /// Resyncs by their reason.
    public let resyncs: [EtcdResyncReason: Int]
    /// Keys that snapshots had, together.
    public let snapshotKeys: Int
    /// Changes that watches brought.
    public let events: Int
    /// Changes that came again and were dropped.
    public let duplicatesDropped: Int
    /// Signs of life that did not come in time.
    public let heartbeatMisses: Int
    /// How many revisions the watch was behind the latest probe. Revisions of other keys count.
    public let lag: Int64
    /// The endpoint in use.
    public let endpoint: EtcdConfiguration.Endpoint?
    /// Values that could not be decoded. A value counts each time that it is read.
    public let rejected: Int

    init(_ statistics: SyncerStatistics, endpoints: [EtcdConfiguration.Endpoint], rejected: Int) {
        connects = statistics.connects
        resumes = statistics.resumes
        failures = statistics.failures
        resyncs = Dictionary(uniqueKeysWithValues: statistics.resyncs.map { (EtcdResyncReason($0), $1) })
        snapshotKeys = statistics.snapshotKeys
        events = statistics.events
        duplicatesDropped = statistics.duplicatesDropped
        heartbeatMisses = statistics.heartbeatMisses
        lag = statistics.lag
        endpoint = statistics.endpoint.map { endpoints[$0] }
        self.rejected = rejected
    }
}

#endif
