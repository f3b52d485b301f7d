// SPDX-License-Identifier: Apache-2.0
// What the engine needs from a datastore that keeps a history of revisions. The engine knows no
// network, no wire format and no clock of its own: a datastore answers requests, and the engine
// decides which request comes next.

/// A datastore that keeps keys under revisions, and whose changes can be followed from a revision.
///
/// Every method addresses one endpoint by its index, because the engine decides when another
/// endpoint is tried. A method is cancelled by cancelling its task. A method never retries.
package protocol Datastore: Sendable {
    /// One open stream of changes.
    associatedtype Watch: DatastoreWatch

    /// The number of endpoints, 1 or more.
    var endpointCount: Int { get }

    /// Asks a majority of the cluster which history it has, by a linearizable read.
    ///
    /// - Parameter resuming: the revision that the next watch would begin with, or `nil` if there
    ///   is none. A datastore answers `.compacted` if the history no longer reaches back to it.
    func probe(endpoint: Int, resuming: Int64?) async throws(DatastoreError) -> HistoryPosition

    /// Reads one page of one range.
    func page(endpoint: Int, _ request: PageRequest) async throws(DatastoreError) -> Page

    /// Opens one stream that reports the changes of every range from that range's revision on. It
    /// may report older changes, too. If a change may be missing, the watch ends as compacted.
    ///
    /// - Parameter starts: for each range, in the configured order, the revision of the first
    ///   change to report. The datastore may not have reached it.
    func watch(endpoint: Int, starts: [Int64]) async throws(DatastoreError) -> Watch

    /// Begins to close the connections to an endpoint, and returns at once. A request that comes
    /// later opens a new connection, and does not wait for the old ones.
    func disconnect(endpoint: Int)

    /// Gets new credentials; called after `.unauthenticated`.
    func authenticate(endpoint: Int) async throws(DatastoreError)
}

/// An open stream of changes. Ends by cancelling the task that iterates it, or by `cancel()`.
package protocol DatastoreWatch: Sendable {
    associatedtype Messages: AsyncSequence & Sendable
    where Messages.Element == WatchMessage, Messages.Failure == DatastoreError

    /// What the server sends. Iterated once.
    var messages: Messages { get }

    /// Asks the server for a sign of life. The answer is a `.heartbeat`. A server need not answer
    /// while it catches the watch up, but it answers if nothing is written.
    func requestProgress() async throws(DatastoreError)

    /// Closes the stream.
    func cancel() async
}

/// A place in the history of a cluster.
package struct HistoryPosition: Hashable, Sendable {
    /// The cluster. Another cluster has another history.
    package var cluster: UInt64
    /// The newest revision that the answering member knew.
    package var revision: Int64

    package init(cluster: UInt64, revision: Int64) {
        self.cluster = cluster
        self.revision = revision
    }
}

/// A request for one page of a snapshot.
package struct PageRequest: Hashable, Sendable {
    /// The index of the range in the configured order.
    package var range: Int
    /// The last key of the page before, or `nil` for the first page.
    package var after: [UInt8]?
    /// The revision to read at, or `nil` for the newest.
    package var revision: Int64?
    /// The greatest number of keys to return.
    package var limit: Int

    package init(range: Int, after: [UInt8]?, revision: Int64?, limit: Int) {
        self.range = range
        self.after = after
        self.revision = revision
        self.limit = limit
    }
}

/// One page of a snapshot.
package struct Page: Hashable, Sendable {
    package var position: HistoryPosition
    package var entries: [DatastoreEntry]
    /// Whether the range has keys after the last one of this page.
    package var hasMore: Bool
    /// The number of keys in the range, at the revision of the request.
    package var count: Int64

    package init(position: HistoryPosition, entries: [DatastoreEntry], hasMore: Bool, count: Int64) {
        self.position = position
        self.entries = entries
        self.hasMore = hasMore
        self.count = count
    }
}

/// A key with its value, or its deletion, at the revision of the last change.
package struct DatastoreEntry: Hashable, Sendable {
    package var key: [UInt8]
    /// `nil` for a deletion.
    package var value: [UInt8]?
    package var revision: Int64

    package init(key: [UInt8], value: [UInt8]?, revision: Int64) {
        self.key = key
        self.value = value
        self.revision = revision
    }
}

/// What a watch reports.
package enum WatchMessage: Hashable, Sendable {
    /// The server accepted the watch of a range.
    case created(range: Int, HistoryPosition)
    /// Changes of a range, ordered by revision. `isFragment` says that the same response goes on in
    /// the next message.
    case changes(range: Int, [DatastoreEntry], HistoryPosition, isFragment: Bool)
    /// The server reports that the range's watch has delivered everything up to the position.
    case progress(range: Int, HistoryPosition)
    /// A sign of life that says nothing about any range's progress.
    case heartbeat(HistoryPosition)
    /// The server ended the watch of a range. `compacted` is the oldest revision that can still be
    /// watched, if the end was a compaction.
    case cancelled(range: Int?, reason: String, compacted: Int64?, HistoryPosition)
}

/// Why a request or a watch failed.
package struct DatastoreError: Error, Hashable, Sendable, CustomStringConvertible {
    package enum Reason: Hashable, Sendable, CaseIterable {
        /// The endpoint cannot be reached, or closed the connection.
        case unavailable
        /// The member has no leader, or the leader changed.
        case noLeader
        /// The answer did not come in time.
        case timeout
        /// The revision was compacted.
        case compacted
        /// The revision does not exist yet.
        case futureRevision
        /// The token is invalid or expired, or the store of users changed.
        case unauthenticated
        /// The user may not do this.
        case permissionDenied
        /// The server refuses load for now.
        case overloaded
        /// The response is larger than the client accepts.
        case responseTooLarge
        /// The datastore reports that its data are damaged.
        case dataLoss
        /// The peer does not know the request: it is no such datastore, or a proxy in between.
        case unsupported
        /// The peer sent bytes that the protocol does not allow.
        case malformed
        /// Anything else.
        case other
    }

    package var reason: Reason
    package var message: String

    package init(_ reason: Reason, _ message: String = "") {
        self.reason = reason
        self.message = message
    }

    package var description: String { message.isEmpty ? "\(reason)" : "\(reason): \(message)" }
}
