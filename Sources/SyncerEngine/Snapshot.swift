// SPDX-License-Identifier: Apache-2.0

/// A snapshot that is being read: page after page, range after range.
struct Snapshot: Sendable, Hashable {
    let reason: ResyncReason
    /// Whether the watch is opened before the first page is read. Then pages need no common
    /// revision, and a compaction cannot disturb them.
    let isWatchFirst: Bool
    /// The revision that the snapshot shows: that of the first page, or the one before the watch
    /// that came first.
    var revision: Int64?
    /// Whether the sink's buffer was told of the restart.
    var hasBegun = false
    /// Whether every page was read.
    var isRead = false
    /// The place of the next page.
    var range = 0
    var after: [UInt8]?
    /// Keys so far.
    var keys = 0
    /// Keys that the first pages of the ranges announced.
    var announced: Int64 = 0

    /// The next page, with at most `limit` keys.
    func nextPage(limit: Int) -> PageRequest {
        PageRequest(range: range, after: after, revision: isWatchFirst ? nil : revision, limit: limit)
    }

    /// A page was read. The next one follows it, or begins the next range.
    mutating func advance(by page: Page, ranges: Int) {
        keys += page.entries.count
        if page.hasMore, let last = page.entries.last {
            after = last.key
            return
        }
        (range, after) = (range + 1, nil)
        isRead = range == ranges
    }
}

/// Which revision of a range's keys the sink has, while pages and a watch bring keys at the same
/// time.
///
/// The watch began at revision `start`. So it brings every change of this revision or a later one,
/// and the ledger needs no entry for a page's key that has not changed since.
struct RevisionLedger: Sendable {
    private let start: Int64
    private var newest: [[UInt8]: Int64] = [:]
    /// The newest revision that a page may show. When the watch is past it, no change that the
    /// watch brings can be older than a page, and the ledger is not needed any more.
    private(set) var horizon: Int64

    init(start: Int64) {
        (self.start, horizon) = (start, start)
    }

    /// Whether a page's entry is newer than what the watch brought.
    mutating func admitsPage(_ entry: DatastoreEntry) -> Bool {
        guard entry.revision >= start else { return newest[entry.key] == nil }
        return admitsChange(entry)
    }

    /// Whether a change is newer than what a page or the watch brought for its key.
    mutating func admitsChange(_ entry: DatastoreEntry) -> Bool {
        if let revision = newest[entry.key], revision >= entry.revision { return false }
        newest[entry.key] = entry.revision
        return true
    }

    /// A page was read at this revision.
    mutating func reach(_ revision: Int64) { horizon = max(horizon, revision) }
}
