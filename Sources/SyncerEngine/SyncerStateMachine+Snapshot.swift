// SPDX-License-Identifier: Apache-2.0
// Snapshots: why, when and how everything is read again.

extension SyncerStateMachine {
    /// A snapshot has to be read, and what was known of the place in the history is void.
    mutating func plan(_ reason: ResyncReason) {
        snapshot = Snapshot(reason: reason, isWatchFirst: compactedSnapshots >= 2)
        cursors = nil
        ledgers = [:]
        statistics.resyncs[reason, default: 0] += 1
        report(.resyncing(reason))
    }

    /// Reads everything again, at once if the pacer allows it. An earlier pause goes on.
    ///
    /// A snapshot is read on a new connection. The old one was idle while the watch worked, so it
    /// may be dead without a sign, and it may lead to a cluster that has left this address.
    mutating func resync(_ reason: ResyncReason) {
        let pause = max(now, waitingUntil ?? now)
        leaveFollowing()
        cancelAll()
        disconnect()
        if reason == .compacted, snapshot?.hasBegun == true { compactedSnapshots += 1 }
        plan(reason)
        let start = max(pause, pacer.begin(reason, at: now, random: random))
        // After an overflow the sink knows that it is not in sync. The syncer asks for nothing
        // during the pause, so the pause is no sign that the datastore is away.
        if reason == .overflow { lastHealth += start - pause }
        if start > now { return wait(until: start) }
        // The first page is a linearizable answer itself. A watch that comes first needs a probe.
        if snapshot?.isWatchFirst == true { probe() } else { readNextPage() }
    }

    /// The buffer has dropped its backlog, and drops everything until it hears of a restart, also
    /// statuses. So it hears of the restart at once. A snapshot that is planned already is enough.
    mutating func overflowed() {
        guard phase != .idle else { return }
        if snapshot?.hasBegun ?? true { resync(.overflow) }
        beginSnapshot()
    }

    // MARK: - Pages

    mutating func readNextPage() {
        guard let snapshot else { return }
        if phase != .filling { phase = .reading }
        ask(.page(snapshot.nextPage(limit: pageSize.limit)), within: configuration.deadlines.page)
    }

    mutating func read(_ page: Page, knowing known: Int64) {
        guard snapshot != nil else { return }
        if page.hasMore && page.entries.isEmpty { return broke(DatastoreError(.malformed, "an empty page with more")) }
        if let fault = history.fault(in: page.position, knowing: known) {
            breakHistory(fault, page.position)
            if resumePoint != nil { return resync(fault) }
        }
        history.learn(page.position)
        isHealthy()
        if snapshot?.revision == nil { snapshot?.revision = page.position.revision }
        beginSnapshot()
        tell(.resyncInProgress)
        put(page)
        goOn(after: page)
    }

    /// The sink's buffer hears of the restart when there is something to tell it, and only once for
    /// each snapshot.
    mutating func beginSnapshot() {
        guard snapshot?.hasBegun == false else { return }
        snapshot?.hasBegun = true
        told = nil
        actions.append(.restart)
        tell(.resyncInProgress)
    }

    private mutating func put(_ page: Page) {
        statistics.pages += 1
        statistics.snapshotKeys += page.entries.count
        pageSize.adapt(to: page.entries)
        count(page)
        guard let range = snapshot?.range, ledgers[range] != nil else { return deliver(page.entries) }
        ledgers[range]?.reach(page.position.revision)
        deliver(page.entries.filter { ledgers[range]?.admitsPage($0) ?? true })
    }

    private mutating func goOn(after page: Page) {
        snapshot?.advance(by: page, ranges: configuration.rangeCount)
        guard let snapshot, snapshot.isRead else { return readNextPage() }
        if snapshot.keys == 0 && hasDeliveredKeys { report(.emptySnapshot) }
        hasDeliveredKeys = snapshot.keys > 0
        if snapshot.isWatchFirst { return follow() }
        if let revision = snapshot.revision { setCursors(past: revision) }
        openWatch()
    }

    /// Warns once in a snapshot that has too many keys.
    private mutating func count(_ page: Page) {
        guard var snapshot, snapshot.after == nil else { return }
        let before = snapshot.announced
        let (announced, overflow) = before.addingReportingOverflow(page.count)
        snapshot.announced = overflow ? .max : announced
        self.snapshot = snapshot
        guard let most = configuration.resyncs.warningKeyCount.map(Int64.init) else { return }
        if before <= most && snapshot.announced > most { report(.manyKeys(snapshot.announced)) }
    }

    mutating func pageFailed(_ page: PageRequest, _ error: DatastoreError) {
        switch error.reason {
        case .compacted where page.revision != nil: resync(.compacted)
        case .responseTooLarge where pageSize.shrink(): readNextPage()
        case .timeout:
            _ = pageSize.shrink()
            broke(error)
        default: refusedOrBroke(error)
        }
    }

    // MARK: - Watch first

    /// The watch begins behind the probe's revision, and the pages come after it, each at the
    /// newest revision. The watch brings every change since the probe. So whichever is newer of a
    /// page's entry and the watch's change of a key is the key's state.
    mutating func beginWatchFirst(at revision: Int64) {
        snapshot?.revision = revision
        setCursors(past: revision)
        for range in 0..<configuration.rangeCount { ledgers[range] = RevisionLedger(start: revision + 1) }
    }
}
