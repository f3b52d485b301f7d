// SPDX-License-Identifier: Apache-2.0

package import DedupeBuffer

/// What a syncer has done so far.
package struct SyncerStatistics: Sendable, Hashable {
    /// Probes that an endpoint answered before a snapshot or a watch.
    package var connects = 0
    /// Watches that went on at the cursor, without a snapshot.
    package var resumes = 0
    /// Attempts that failed.
    package var failures = 0
    /// Resyncs by their reason.
    package var resyncs: [ResyncReason: Int] = [:]
    /// Pages of snapshots.
    package var pages = 0
    /// Keys in pages of snapshots.
    package var snapshotKeys = 0
    /// Changes that watches brought and that were passed on.
    package var events = 0
    /// Changes that were dropped, because the syncer had them already.
    package var duplicatesDropped = 0
    /// Signs of life that did not come in time.
    package var heartbeatMisses = 0
    /// How many revisions the watch was behind the latest probe. Revisions of other keys count.
    package var lag: Int64 = 0
    /// The revision up to which the watches have brought every change. 0: there is no watch yet.
    package var revision: Int64 = 0
    /// The endpoint in use.
    package var endpoint: Int?
    /// The number of the history in the revisions that the sink sees.
    package var epoch: UInt64 = 0
    /// The latest status that the sink's buffer was told.
    package var status = SyncStatus.waitForDatastore

    package init() {}

    /// All resyncs together.
    package var resyncCount: Int { resyncs.values.reduce(0, +) }
}
