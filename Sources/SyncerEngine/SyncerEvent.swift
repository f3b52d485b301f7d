// SPDX-License-Identifier: Apache-2.0
// What the machine is told, and what it tells its driver to do.

internal import DedupeBuffer

/// The number of a request or of a watch. An answer to a request that was cancelled is ignored.
package typealias RequestID = Int

/// What happened.
enum SyncerEvent: Hashable, Sendable {
    case start
    case authenticated(RequestID)
    case probed(RequestID, HistoryPosition)
    case read(RequestID, Page)
    case message(RequestID, WatchMessage)
    /// The watch ended without an error.
    case ended(RequestID)
    /// A request or a watch failed, or a sign of life could not be asked for.
    case failed(RequestID, DatastoreError)
    /// The sink's buffer dropped its backlog and needs a resync.
    case overflowed
    /// The time of the machine's next deadline has come.
    case timePassed
    case shutdown
}

/// What the driver has to do, in this order.
enum SyncerAction: Hashable, Sendable {
    /// Send a request to an endpoint. Its answer comes as an event with the same number.
    case request(RequestID, endpoint: Int, SyncerRequest)
    /// Ask the server of a watch for a sign of life.
    case requestProgress(RequestID)
    /// Cancel a request, or close a watch.
    case cancel(RequestID)
    /// Close the connections to an endpoint.
    case disconnect(endpoint: Int)
    /// Tell the sink's buffer that a new snapshot follows.
    case restart
    case status(SyncStatus)
    /// Hand updates to the sink's buffer. Never empty.
    case deliver([Update<[UInt8], [UInt8]>])
    /// Log it, and tell those who want to know.
    case report(SyncerReport)
    /// There is no next action.
    case finish
}

enum SyncerRequest: Hashable, Sendable {
    case authenticate
    case probe(resuming: Int64?)
    case page(PageRequest)
    case watch(starts: [Int64])
}

/// Why the whole snapshot is read again.
package enum ResyncReason: String, Hashable, Sendable, CaseIterable {
    /// The first snapshot.
    case initial
    /// The datastore no longer has the changes since the cursor, or the revision of the snapshot.
    case compacted
    /// Another cluster answers.
    case otherCluster = "other-cluster"
    /// The newest revision is older than one that was seen: the cluster was restored.
    case revisionsWentBack = "revisions-went-back"
    /// The sink's buffer exceeded its bound.
    case overflow
    /// A message of the watch is larger than the client accepts.
    case responseTooLarge = "response-too-large"
    /// The periodic comparison.
    case audit

    /// Whether this resync is no sign of a failure.
    var isPlanned: Bool { self == .initial || self == .audit }
    /// Whether the history of revisions broke.
    var breaksHistory: Bool { self == .otherCluster || self == .revisionsWentBack }
}

/// What users may want to read in a log.
package enum SyncerReport: Hashable, Sendable {
    /// A snapshot or a watch works, for the first time or after it did not.
    case connected(endpoint: Int)
    /// The watch or the snapshot broke off. The syncer resumes. Reported once until the next
    /// `connected`.
    case interrupted(endpoint: Int, DatastoreError)
    /// No endpoint works. Reported once until the next `connected`.
    case unreachable(DatastoreError)
    /// The cluster refuses the user. Reported once until the next `connected`.
    case denied(DatastoreError)
    /// One attempt failed. Reported each time, for debugging.
    case attemptFailed(endpoint: Int, DatastoreError)
    /// The watch goes on where it broke off. Nothing was lost.
    case resumed(endpoint: Int)
    case resyncing(ResyncReason)
    /// The resync has ended, and found this number of keys.
    case resynced(ResyncReason, keys: Int)
    case heartbeatMissed(endpoint: Int)
    /// The revisions of a watch fell. The syncer resumes at another endpoint.
    case revisionsFell(endpoint: Int)
    /// The snapshot has more keys than the configured number.
    case manyKeys(Int64)
    /// The snapshot is empty, and there were keys before.
    case emptySnapshot
}
