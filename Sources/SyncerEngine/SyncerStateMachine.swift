// SPDX-License-Identifier: Apache-2.0

internal import DedupeBuffer

/// How to follow a datastore that keeps a history: which request comes next, which change is
/// passed on, and when everything must be read again.
///
/// The machine does nothing itself. It is told what happened, and when, and returns what its driver
/// has to do. It has no clock and no source of random numbers. STATES.md beside this file explains
/// it; in short:
///
///     phase           waits for               then
///     --------------  ----------------------  -----------------------------------------------
///     idle            the start               probing
///     waiting         the end of a back-off   probing
///     authenticating  new credentials         probing
///     probing         a linearizable answer   reading; or opening, if the cursor is still good
///     reading         a page of the snapshot  the next page; opening after the last one
///     opening         the watch of each range following; or filling, if the watch came first
///     filling         a page of the snapshot  the next page; following after the last one
///     following       changes                 it goes on until something breaks
///     stopped         nothing
///
/// From each phase a failure leads to waiting, and a shutdown to stopped. A resync leads to
/// reading, or to waiting if it must not begin yet.
struct SyncerStateMachine: Sendable {
    enum Phase: Hashable, Sendable, CaseIterable {
        case idle, waiting, authenticating, probing, reading, opening, filling, following, stopped
    }

    /// A request that has not been answered. There is at most one besides the watch.
    struct Pending: Sendable {
        let id: RequestID
        let request: SyncerRequest
        let deadline: Duration
        /// The newest revision that was known when the request was sent. A linearizable answer is
        /// not older, although messages of a watch may overtake it.
        let known: Int64
    }

    let configuration: SyncerConfiguration

    var phase = Phase.idle
    var request: Pending?
    var watch: WatchStream?
    /// When waiting ends.
    var waitingUntil: Duration?

    /// For each range the revision of the next change. `nil` until a snapshot is complete, or its
    /// watch comes first.
    var cursors: [Int64]?
    /// For each range the newest revision that was passed on. It may be ahead of the cursor, if a
    /// watch broke off within a response. Then older changes are repeated and dropped, and those of
    /// this revision, of which some may be missing, are passed on again.
    var passed: [Int64] = []
    /// The snapshot under way, from the decision to read it to the in-sync that ends it.
    var snapshot: Snapshot?
    /// For each range, which revisions of its keys a watch that came first has brought.
    var ledgers: [Int: RevisionLedger] = [:]
    /// Snapshots in a row that a compaction ended.
    var compactedSnapshots = 0
    var history = History()

    var endpoints: EndpointRing
    /// Endpoints that answered a request for a sign of life.
    var answering: Set<Int> = []
    /// Endpoints of which a watch was dropped because they did not answer.
    var silent: Set<Int> = []
    /// Endpoints that never answer, and are probed instead.
    var mute: Set<Int> = []
    /// Whether this attempt has not asked for new credentials.
    var mayAuthenticate = true
    var backOff: BackOff
    var pacer: ResyncPacer
    var pageSize: PageSize

    /// The latest status that the sink's buffer was told. `nil` right after a restart.
    var told: SyncStatus?
    /// Since when the phase is following.
    var followingSince: Duration?
    /// When a snapshot or a watch worked last. Pauses because of overflows do not count, so it may
    /// be in the future.
    var lastHealth = Duration.zero
    /// When the next audit is due. `nil` if there is none.
    var auditAt: Duration?
    /// Whether the sink may have keys.
    var hasDeliveredKeys = false
    var reported = ReportedState()
    /// The revision of the latest probe.
    var latestProbe: Int64 = 0
    var statistics = SyncerStatistics()

    // Of the event in hand.
    var now = Duration.zero
    var random = 0.0
    var actions: [SyncerAction] = []
    private var latestID = 0

    /// - Parameters:
    ///   - configuration: how to follow. It has no fault.
    ///   - endpoints: the indices of all endpoints, in the order in which to try them.
    ///   - earlier: what earlier runs have done with the same target, if there were any. The first
    ///     epoch is the one after theirs.
    init(_ configuration: SyncerConfiguration, endpoints: [Int], after earlier: SyncerStatistics? = nil) {
        self.configuration = configuration
        self.endpoints = EndpointRing(endpoints)
        backOff = BackOff(configuration.backOff)
        pacer = ResyncPacer(configuration)
        pageSize = PageSize(configuration.pages)
        guard let earlier else { return }
        statistics = earlier
        // The history may have broken between the runs.
        history = History(epoch: earlier.epoch + 1)
        hasDeliveredKeys = true
    }

    /// Something happened.
    ///
    /// - Parameters:
    ///   - event: what happened.
    ///   - now: the time since a fixed moment, which never decreases.
    ///   - random: from 0 to 1, and another number for each event.
    /// - Returns: what the driver has to do, in this order.
    mutating func handle(_ event: SyncerEvent, at now: Duration, random: Double) -> [SyncerAction] {
        (self.now, self.random) = (now, random)
        actions = []
        if phase != .stopped { decide(event.replacingImpossibleNumbers) }
        statistics.endpoint = phase == .idle ? nil : endpoint
        statistics.epoch = history.epoch
        statistics.revision = (cursors?.min() ?? 1) - 1
        defer { actions = [] }
        return actions
    }

    private mutating func decide(_ event: SyncerEvent) {
        switch event {
        case .start: start()
        case .authenticated(let id): if take(id) != nil { probe() }
        case .probed(let id, let position): if let request = take(id) { probed(position, knowing: request.known) }
        case .read(let id, let page): if let request = take(id) { read(page, knowing: request.known) }
        case .message(let id, let message): if watch?.id == id { received(message) }
        case .ended(let id): if watch?.id == id { watchFailed(DatastoreError(.unavailable, "the watch ended")) }
        case .failed(let id, let error): failed(id, error)
        case .overflowed: overflowed()
        case .timePassed: timePassed()
        case .shutdown: shutdown()
        }
    }

    private mutating func start() {
        guard phase == .idle else { return }
        tell(.waitForDatastore)
        lastHealth = now
        plan(.initial)
        _ = pacer.begin(.initial, at: now, random: random)
        probe()
    }

    private mutating func shutdown() {
        cancelAll()
        phase = .stopped
        actions.append(.finish)
    }

    // MARK: - Requests

    var endpoint: Int { endpoints.current }

    /// Sends a request, which must be answered in time.
    mutating func ask(_ request: SyncerRequest, within time: Duration) {
        latestID += 1
        self.request = Pending(id: latestID, request: request, deadline: now + time, known: history.known)
        actions.append(.request(latestID, endpoint: endpoint, request))
    }

    /// The request with this number was answered. `nil`: it is not the current one.
    mutating func take(_ id: RequestID) -> Pending? {
        guard let pending = request, pending.id == id else { return nil }
        request = nil
        return pending
    }

    mutating func openWatch() {
        guard let cursors else { return }
        phase = .opening
        latestID += 1
        watch = WatchStream(
            id: latestID, ranges: cursors.count, deadline: now + configuration.deadlines.watch,
            heartbeat: now + configuration.liveness.heartbeatInterval)
        actions.append(.request(latestID, endpoint: endpoint, .watch(starts: cursors)))
    }

    mutating func cancelRequest() {
        if let request { actions.append(.cancel(request.id)) }
        request = nil
    }

    /// The next request to the endpoint opens a new connection.
    mutating func disconnect() { actions.append(.disconnect(endpoint: endpoint)) }

    /// Nothing is under way any more.
    mutating func cancelAll() {
        cancelRequest()
        if let watch { actions.append(.cancel(watch.id)) }
        watch = nil
        waitingUntil = nil
    }

    // MARK: - The sink's buffer

    mutating func tell(_ status: SyncStatus) {
        guard told != status else { return }
        told = status
        statistics.status = status
        actions.append(.status(status))
    }

    mutating func deliver(_ entries: some Collection<DatastoreEntry>) {
        guard !entries.isEmpty else { return }
        actions.append(
            .deliver(
                entries.map { entry in
                    if entry.value != nil { hasDeliveredKeys = true }
                    return Update(key: entry.key, value: entry.value, revision: history.revision(of: entry.revision))
                }))
    }

    mutating func report(_ report: SyncerReport) {
        actions.append(.report(report))
    }
}
