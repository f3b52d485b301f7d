// SPDX-License-Identifier: Apache-2.0
// Connecting: back-off, credentials and probes; and what follows a failure.

extension SyncerStateMachine {
    /// What was reported since the syncer was connected last.
    struct ReportedState: Sendable {
        var isConnected = false
        /// Attempts that failed.
        var failures = 0
        var isUnreachable = false
        var isDenied = false
    }

    // MARK: - Probes

    /// The revision that the history must still reach back to. `nil` if there is nothing to resume.
    var resumePoint: Int64? {
        if let cursors { return cursors.min() }
        return snapshot?.revision.map { $0 + 1 }
    }

    mutating func probe() {
        phase = .probing
        ask(.probe(resuming: resumePoint), within: configuration.deadlines.probe)
    }

    mutating func probed(_ position: HistoryPosition, knowing known: Int64) {
        latestProbe = position.revision
        if phase == .probing { statistics.connects += 1 }
        if let fault = history.fault(in: position, knowing: known) {
            // What the datastore has there belongs to another history.
            breakHistory(fault, position)
            if resumePoint != nil { return resync(fault) }
        }
        history.learn(position)
        updateLag()
        if phase == .probing { return goOn(from: position) }
        guard case .probing = watch?.heartbeat else { return }
        mute.insert(endpoint)
        wasAlive()
    }

    /// The history is the known one. So the snapshot goes on, or the watch does.
    private mutating func goOn(from position: HistoryPosition) {
        guard let snapshot, !snapshot.isRead else { return openWatch() }
        guard snapshot.isWatchFirst else { return readNextPage() }
        if cursors == nil { beginWatchFirst(at: position.revision) }
        openWatch()
    }

    /// The history is another one than before.
    mutating func breakHistory(_ reason: ResyncReason, _ position: HistoryPosition) {
        history.breakOff()
        history.learn(position)
        if resumePoint == nil { report(.resyncing(reason)) }
    }

    // MARK: - Failures

    mutating func failed(_ id: RequestID, _ error: DatastoreError) {
        if watch?.id == id { return watchFailed(error) }
        guard let pending = take(id) else { return }
        switch pending.request {
        case .authenticate: broke(error)
        case .probe: probeFailed(error)
        case .page(let page): pageFailed(page, error)
        case .watch: break
        }
    }

    private mutating func probeFailed(_ error: DatastoreError) {
        if case .probing = watch?.heartbeat, !error.reason.isDenial { return missedHeartbeat(error) }
        switch phase == .probing ? error.reason : .other {
        case .compacted where resumePoint != nil: resync(.compacted)
        case .futureRevision where resumePoint != nil:
            history.breakOff()
            resync(.revisionsWentBack)
        default: refusedOrBroke(error)
        }
    }

    /// New credentials may cure some failures, once in each attempt.
    mutating func refusedOrBroke(_ error: DatastoreError) {
        guard error.reason.isDenial, mayAuthenticate, configuration.hasUser else { return broke(error) }
        mayAuthenticate = false
        leaveFollowing()
        cancelAll()
        phase = .authenticating
        ask(.authenticate, within: configuration.deadlines.authentication)
    }

    /// The syncer tries again, at the next endpoint, after a pause. The sink hears nothing of it
    /// unless it lasts.
    ///
    /// The next attempt needs a new connection, whatever the failure was. If several members are
    /// behind one name, an old connection would lead to the same member again.
    mutating func broke(_ error: DatastoreError) {
        leaveFollowing()
        cancelAll()
        disconnect()
        reportFailure(error)
        endpoints.rotate()
        let pause = backOff.next(random: random)
        wait(until: now + (error.reason.isRefusal ? max(pause, configuration.backOff.refusalDelay) : pause))
    }

    mutating func wait(until time: Duration) {
        phase = .waiting
        waitingUntil = time
    }

    private mutating func reportFailure(_ error: DatastoreError) {
        statistics.failures += 1
        reported.failures += 1
        report(.attemptFailed(endpoint: endpoint, error))
        if reported.isConnected {
            reported.isConnected = false
            report(.interrupted(endpoint: endpoint, error))
        }
        if error.reason.isDenial, !reported.isDenied {
            reported.isDenied = true
            report(.denied(error))
        }
        if reported.failures >= endpoints.count, !reported.isUnreachable {
            reported.isUnreachable = true
            report(.unreachable(error))
        }
    }

    // MARK: - Health

    /// A page came, or every range is watched.
    mutating func isHealthy() {
        lastHealth = now
        mayAuthenticate = true
        if !reported.isConnected {
            reported = ReportedState(isConnected: true)
            report(.connected(endpoint: endpoint))
        }
    }

    /// After enough time in sync the next failure counts as the first one.
    mutating func leaveFollowing() {
        guard let since = followingSince else { return }
        followingSince = nil
        lastHealth = now
        if now - since >= configuration.backOff.resetAfter {
            backOff.reset()
            pacer.reset()
        }
    }
}

extension DatastoreError.Reason {
    /// New credentials may help. Old servers deny an expired token as if the user lacked a
    /// permission.
    var isDenial: Bool { self == .unauthenticated || self == .permissionDenied }

    /// Time alone seldom helps.
    var isRefusal: Bool { isDenial || self == .dataLoss || self == .unsupported }
}
