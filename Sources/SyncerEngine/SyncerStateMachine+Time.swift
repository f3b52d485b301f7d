// SPDX-License-Identifier: Apache-2.0
// Deadlines: of requests and pauses, of the heartbeat, of the grace period and of the audit.

extension SyncerStateMachine {
    enum Timer: Hashable, Sendable {
        case pause, request, opening, heartbeat, grace, audit
    }

    /// When the driver must send `.timePassed` at the latest. `nil`: it need not.
    var nextDeadline: Duration? { nextTimer?.deadline }

    /// The timer that is due first.
    var nextTimer: (timer: Timer, deadline: Duration)? {
        var next: (timer: Timer, deadline: Duration)?
        func consider(_ timer: Timer, _ deadline: Duration?) {
            if let deadline, next.map({ deadline < $0.deadline }) ?? true { next = (timer, deadline) }
        }
        consider(.pause, waitingUntil)
        consider(.request, request?.deadline)
        consider(.opening, openingDeadline)
        consider(.heartbeat, heartbeatDeadline)
        consider(.grace, graceDeadline)
        consider(.audit, phase == .following ? auditAt : nil)
        return next
    }

    private var openingDeadline: Duration? { phase == .opening ? watch?.deadline : nil }

    private var heartbeatDeadline: Duration? {
        guard phase == .following || phase == .filling else { return nil }
        switch watch?.heartbeat {
        case .quiet(let until): return until
        case .asked(let deadline): return deadline
        case .probing, nil: return nil
        }
    }

    /// When the sink is told that there is no datastore.
    private var graceDeadline: Duration? {
        guard let told, told != .waitForDatastore, phase != .following, phase != .stopped else { return nil }
        return lastHealth + configuration.liveness.gracePeriod
    }

    /// Fires the first timer that is due. A driver that is late sends several events.
    mutating func timePassed() {
        guard let (timer, deadline) = nextTimer, deadline <= now else { return }
        switch timer {
        case .pause: pauseEnded()
        case .request: requestTimedOut()
        case .opening: broke(DatastoreError(.timeout, "the watch was not accepted in time"))
        case .heartbeat: heartbeatDue()
        case .grace: tell(.waitForDatastore)
        case .audit:
            auditAt = nil
            resync(.audit)
        }
    }

    private mutating func pauseEnded() {
        waitingUntil = nil
        mayAuthenticate = true
        probe()
    }

    private mutating func requestTimedOut() {
        guard let request else { return }
        actions.append(.cancel(request.id))
        failed(request.id, DatastoreError(.timeout, "no answer in time"))
    }

    /// The next audit, at a random moment near the end of the interval.
    mutating func planAudit() {
        let jitter = configuration.resyncs.auditJitter
        auditAt = configuration.resyncs.auditInterval.map { now + $0 * (1 + jitter * (2 * random - 1)) }
    }

    // MARK: - Heartbeat

    /// The watch sent something, or a probe in place of a sign of life was answered.
    mutating func wasAlive() {
        if case .probing = watch?.heartbeat { cancelRequest() }
        watch?.heartbeat = .quiet(until: now + configuration.liveness.heartbeatInterval)
    }

    /// A busy watch is never silent, so nothing would show that its server answers requests for a
    /// sign of life. A server that has answered one is not taken for a proxy when a later stream is
    /// silent. The server need not answer while the watch catches up, so it is asked until it does.
    mutating func askBusyWatch() {
        guard let watch, phase == .following, !answering.contains(endpoint), watch.nextQuestion <= now else { return }
        self.watch?.nextQuestion = now + configuration.liveness.heartbeatInterval
        actions.append(.requestProgress(watch.id))
    }

    private mutating func heartbeatDue() {
        guard let watch else { return }
        switch watch.heartbeat {
        case .quiet where mute.contains(endpoint): probeInPlaceOfHeartbeat()
        case .quiet:
            self.watch?.heartbeat = .asked(deadline: now + configuration.liveness.heartbeatTimeout)
            actions.append(.requestProgress(watch.id))
        case .asked where silent.contains(endpoint) && !answering.contains(endpoint): probeInPlaceOfHeartbeat()
        case .asked:
            silent.insert(endpoint)
            missedHeartbeat(DatastoreError(.timeout, "no sign of life"))
        case .probing: break
        }
    }

    /// A proxy may swallow requests for a sign of life. An answer to a probe then shows that the
    /// connection lives. The first silence of an endpoint may be a stalled stream all the same, so
    /// the probe is for the second one.
    private mutating func probeInPlaceOfHeartbeat() {
        // A page that is being read shows the same.
        guard request == nil else { return wasAlive() }
        watch?.heartbeat = .probing
        ask(.probe(resuming: nil), within: configuration.deadlines.probe)
    }

    mutating func missedHeartbeat(_ error: DatastoreError) {
        statistics.heartbeatMisses += 1
        report(.heartbeatMissed(endpoint: endpoint))
        broke(error)
    }
}
