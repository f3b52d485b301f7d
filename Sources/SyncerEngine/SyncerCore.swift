// SPDX-License-Identifier: Apache-2.0

internal import DedupeBuffer

/// Something that needs a task of its own.
enum SyncerCommand: Sendable {
    /// Send a request or open a watch, and give it up when the latch opens.
    case request(RequestID, endpoint: Int, SyncerRequest, isCancelled: Latch)
    case requestProgress(RequestID, isCancelled: Latch)
    /// Tell the core when this time has come.
    case sleep(until: Duration)
}

/// Where the actions of the machine go.
struct SyncerOutputs<Target: RestartAwareCallbacks<[UInt8], [UInt8]>>: Sendable {
    let target: Target
    let commands: AsyncStream<SyncerCommand>.Continuation
    /// Closes the connections to an endpoint, before the commands that follow.
    let disconnect: @Sendable (_ endpoint: Int) -> Void
}

/// The machine with its clock, its random numbers and its target.
///
/// Events are handled one after another, each to its end, because nothing in `handle` waits. So the
/// target is called in order.
actor SyncerCore<Target: RestartAwareCallbacks<[UInt8], [UInt8]>> {
    private var machine: SyncerStateMachine
    private let clock: EngineClock
    private var generator: any RandomNumberGenerator
    private let observer: SyncerObserver
    private let statistics: Locked<SyncerStatistics>
    private let outputs: SyncerOutputs<Target>
    private var metrics: SyncerMetrics?

    /// Opened to cancel a request or a watch.
    private var cancellations: [RequestID: Latch] = [:]
    /// When sleeping tasks wake, the earliest last. A new one begins only if it wakes before all
    /// others, so there are few of them.
    private var alarms: [Duration] = []

    init(
        _ machine: SyncerStateMachine, _ clock: EngineClock, _ generator: sending any RandomNumberGenerator,
        _ observer: SyncerObserver, _ statistics: Locked<SyncerStatistics>, _ outputs: SyncerOutputs<Target>
    ) {
        (self.machine, self.clock, self.generator) = (machine, clock, generator)
        (self.observer, self.statistics, self.outputs) = (observer, statistics, outputs)
        metrics = observer.metrics.map { SyncerMetrics($0, after: machine.statistics) }
    }

    func handle(_ event: SyncerEvent) {
        let now = clock.now
        let actions = machine.handle(event, at: now, random: Double.random(in: 0..<1, using: &generator))
        var hasReports = false
        for action in actions {
            if case .report = action { hasReports = true }
            perform(action)
        }
        statistics.withLock { $0 = machine.statistics }
        metrics?.report(machine.statistics, at: now, isUrgent: hasReports)
        setAlarm(after: now)
    }

    /// A request has ended, and cannot be cancelled any more.
    func ended(_ id: RequestID) { cancellations[id] = nil }

    nonisolated func sleep(until time: Duration) async throws { try await clock.sleep(until: time) }

    /// An alarm has rung.
    func alarmRang(at time: Duration) {
        if let i = alarms.lastIndex(of: time) { alarms.remove(at: i) }
        handle(.timePassed)
    }

    // MARK: - Implementation

    private func perform(_ action: SyncerAction) {
        switch action {
        case .request(let id, let endpoint, let request): begin(id, endpoint, request)
        case .requestProgress(let id):
            guard let isCancelled = cancellations[id] else { return }
            outputs.commands.yield(.requestProgress(id, isCancelled: isCancelled))
        case .cancel(let id): cancellations.removeValue(forKey: id)?.open()
        case .disconnect(let endpoint): outputs.disconnect(endpoint)
        case .restart: outputs.target.onConnectionRestarted()
        case .status(let status): outputs.target.onStatusUpdated(status)
        case .deliver(let updates): outputs.target.onUpdates(updates)
        case .report(let report): observer.report(report)
        case .finish: outputs.commands.finish()
        }
    }

    private func begin(_ id: RequestID, _ endpoint: Int, _ request: SyncerRequest) {
        let isCancelled = Latch()
        cancellations[id] = isCancelled
        outputs.commands.yield(.request(id, endpoint: endpoint, request, isCancelled: isCancelled))
    }

    private func setAlarm(after now: Duration) {
        guard let deadline = machine.nextDeadline else { return }
        if let earliest = alarms.last, earliest <= deadline { return }
        alarms.append(deadline)
        outputs.commands.yield(.sleep(until: deadline))
    }
}
