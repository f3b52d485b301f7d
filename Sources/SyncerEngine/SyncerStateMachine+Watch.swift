// SPDX-License-Identifier: Apache-2.0
// The watch: what its messages mean, and when it is trusted no longer.

extension SyncerStateMachine {
    mutating func received(_ message: WatchMessage) {
        wasAlive()
        defer { askBusyWatch() }
        switch message {
        case .created(let range, let position): created(range, position)
        case .changes(let range, let entries, let position, let isFragment):
            guard trusts(position, of: range, dropping: entries) else { return }
            changed(range, entries, isFragment: isFragment)
        case .progress(let range, let position):
            guard trusts(position, of: range, dropping: []) else { return }
            // Before the last fragment the watch has not delivered everything.
            if watch?.ranges[range].incomplete == nil { moveCursor(of: range, past: position.revision) }
        case .heartbeat(let position):
            // Its revision says nothing about what this watch has delivered.
            answering.insert(endpoint)
            mute.remove(endpoint)
            silent.remove(endpoint)
            if !history.isOfThisCluster(position) { foundOtherCluster(position) }
        case .cancelled(_, let reason, let compacted, _):
            watchFailed(DatastoreError(compacted == nil ? .other : .compacted, reason))
        }
    }

    // MARK: - Creation

    private mutating func created(_ range: Int, _ position: HistoryPosition) {
        guard watch?.ranges.indices.contains(range) == true else { return malformed("no such range: \(range)") }
        guard history.isOfThisCluster(position) else { return foundOtherCluster(position) }
        watch?.ranges[range].isCreated = true
        if let cursor = cursors?[range], position.revision < cursor - 1 { watch?.isBehind = true }
        // Changes may come from now on, and none may come before the restart.
        if let snapshot, snapshot.isWatchFirst, !snapshot.hasBegun { beginSnapshot() }
        guard phase == .opening, watch?.isCreated == true else { return }
        guard let snapshot, !snapshot.isRead else { return follow() }
        phase = .filling
        readNextPage()
    }

    /// Every range is watched, and the snapshot is complete.
    mutating func follow() {
        phase = .following
        followingSince = now
        compactedSnapshots = 0
        isHealthy()
        if let snapshot {
            self.snapshot = nil
            planAudit()
            report(.resynced(snapshot.reason, keys: snapshot.keys))
        } else {
            statistics.resumes += 1
            report(.resumed(endpoint: endpoint))
        }
        tell(.inSync)
        if watch?.isBehind == true && request == nil { verify() }
    }

    /// The member is behind, or the cluster was restored since its latest linearizable answer, and
    /// would keep silent until its new history reaches the cursor.
    private mutating func verify() {
        watch?.isBehind = false
        ask(.probe(resuming: nil), within: configuration.deadlines.probe)
    }

    // MARK: - Changes

    /// Whether a response may be used. Its revision may be lower than that of a response before,
    /// because during a catch-up it may be the member's newest one or only that of the last change.
    /// It is never below what the watch has delivered. A member that falls behind that has lost its
    /// place, and the syncer goes elsewhere.
    private mutating func trusts(_ position: HistoryPosition, of range: Int, dropping entries: [DatastoreEntry]) -> Bool
    {
        guard let cursors, watch?.isCreated(range) == true else {
            malformed("a response of range \(range), which is not watched")
            return false
        }
        guard history.isOfThisCluster(position) else {
            foundOtherCluster(position)
            return false
        }
        guard position.revision >= cursors[range] - 1 else {
            statistics.duplicatesDropped += entries.count
            report(.revisionsFell(endpoint: endpoint))
            broke(DatastoreError(.other, "the revisions of the watch fell"))
            return false
        }
        history.learn(position)
        return true
    }

    private mutating func changed(_ range: Int, _ entries: [DatastoreEntry], isFragment: Bool) {
        guard let cursor = cursors?[range] else { return }
        let oldest = max(cursor, passed[range])
        let admitted = entries.filter { $0.revision >= oldest && (ledgers[range]?.admitsChange($0) ?? true) }
        statistics.duplicatesDropped += entries.count - admitted.count
        statistics.events += admitted.count
        deliver(admitted)
        let newest = max(entries.lazy.map(\.revision).max() ?? 0, watch?.ranges[range].incomplete ?? 0)
        passed[range] = max(passed[range], newest)
        watch?.ranges[range].incomplete = isFragment ? newest : nil
        if !isFragment { moveCursor(of: range, past: newest) }
    }

    /// The next change of each range is behind this revision.
    mutating func setCursors(past revision: Int64) {
        cursors = Array(repeating: revision + 1, count: configuration.rangeCount)
        passed = Array(repeating: revision, count: configuration.rangeCount)
        updateLag()
    }

    private mutating func moveCursor(of range: Int, past revision: Int64) {
        guard let cursor = cursors?[range], revision >= cursor else { return }
        cursors?[range] = revision + 1
        updateLag()
        if phase == .following, let ledger = ledgers[range], revision >= ledger.horizon { ledgers[range] = nil }
    }

    mutating func updateLag() {
        guard let least = cursors?.min() else { return }
        statistics.lag = max(0, latestProbe + 1 - least)
    }

    // MARK: - Failures

    mutating func watchFailed(_ error: DatastoreError) {
        switch error.reason {
        case .compacted: resync(.compacted)
        case .responseTooLarge: resync(.responseTooLarge)
        default: refusedOrBroke(error)
        }
    }

    private mutating func malformed(_ message: String) {
        broke(DatastoreError(.malformed, message))
    }

    private mutating func foundOtherCluster(_ position: HistoryPosition) {
        breakHistory(.otherCluster, position)
        resync(.otherCluster)
    }
}
