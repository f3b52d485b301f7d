// SPDX-License-Identifier: Apache-2.0

// Every event in every state that a machine can reach in a number of steps, breadth first. States
// that differ only in times and numbers count as one.

import DedupeBuffer
import Testing

@testable import SyncerEngine

@Suite("Every event in every state")
struct ExhaustiveTests {
    /// One kind of event, made concrete by the state that it meets.
    enum Stimulus: Hashable, CaseIterable {
        case start, overflow, shutdown
        /// Time passes until the next timer fires; a little time; and enough to reset the pauses.
        case timer, moment, health
        case answer, answerOther, answerLower, answerHuge
        case pageMore, pageEmpty, pageEmptyMore
        case created, createdAll, createdBeyond, createdOther
        case change, fragment, oldChange, fallen, changeBeyond, changeOther, empty
        case changeHuge, progressHuge
        case progress, progressOld, heartbeat, heartbeatOther
        case cancelled, cancelledCompacted, ended
        case stale
        case unavailable, noLeader, timeout, compacted, futureRevision, unauthenticated, permissionDenied, overloaded
        case responseTooLarge, dataLoss, unsupported, malformed, other
        case watchUnavailable, watchCompacted, watchUnauthenticated, watchTooLarge, watchFuture

        var requestFailure: DatastoreError.Reason? {
            DatastoreError.Reason.allCases.first { "\($0)" == "\(self)" }
        }

        var watchFailure: DatastoreError.Reason? {
            switch self {
            case .watchUnavailable: .unavailable
            case .watchCompacted: .compacted
            case .watchUnauthenticated: .unauthenticated
            case .watchTooLarge: .responseTooLarge
            case .watchFuture: .futureRevision
            default: nil
            }
        }
    }

    private static let ranges = 2
    /// No state is further away from the start.
    private static let depth = 40

    /// A machine with what a test knows of its past.
    struct Node {
        var machine: SyncerStateMachine
        var now = Duration.zero
        var path: [Stimulus] = []
        /// Whether the buffer was told of a restart, ever.
        var hasRestarted = false

        init() {
            var configuration = SyncerConfiguration(rangeCount: ranges)
            configuration.pages.initial = 4
            configuration.resyncs.warningKeyCount = 1
            machine = SyncerStateMachine(configuration, endpoints: [0])
        }
    }

    @Test func everyEvent_inEveryState_keepsTheRules() {
        let random = 0.5
        var seen: Set<Key> = []
        var level = [Node()]
        var transitions = 0
        var phases: Set<SyncerStateMachine.Phase> = []
        while !level.isEmpty, (level.first?.path.count ?? 0) < Self.depth {
            var next: [Node] = []
            for node in level {
                for stimulus in Stimulus.allCases {
                    guard let after = step(node, stimulus, random) else { continue }
                    transitions += 1
                    phases.insert(after.machine.phase)
                    if seen.insert(key(after)).inserted { next.append(after) }
                }
            }
            level = next
        }
        #expect(phases == Set(SyncerStateMachine.Phase.allCases))
        #expect(level.isEmpty, "there are states beyond \(Self.depth) steps")
        print("exhaustive: \(seen.count) states, \(transitions) transitions")
    }

    // MARK: - One step

    private func step(_ node: Node, _ stimulus: Stimulus, _ random: Double) -> Node? {
        var after = node
        guard let event = event(stimulus, &after) else { return nil }
        after.path.append(stimulus)
        let actions = after.machine.handle(event, at: after.now, random: random)
        if actions.restarts > 0 { after.hasRestarted = true }
        let faults = self.faults(node, after, actions)
        if !faults.isEmpty { Issue.record("\(faults.joined(separator: "; ")); after \(after.path)") }
        return after
    }

    /// What is wrong with this step.
    private func faults(_ before: Node, _ after: Node, _ actions: [SyncerAction]) -> [String] {
        requestFaults(before.machine, after.machine, actions) + bufferFaults(before, after, actions)
            + structureFaults(after.machine) + cursorFaults(before.machine, after.machine, actions)
    }

    /// What is under way is what was asked for, and neither cancelled nor answered.
    private func requestFaults(
        _ before: SyncerStateMachine, _ after: SyncerStateMachine, _ actions: [SyncerAction]
    ) -> [String] {
        var faults: [String] = []
        if before.phase == .stopped && !actions.isEmpty { faults.append("an action after the end: \(actions)") }
        var open = Set([before.request?.id, before.watch?.id].compactMap { $0 })
        for action in actions {
            switch action {
            case .request(let id, let endpoint, _):
                if !open.insert(id).inserted { faults.append("number \(id) is used twice") }
                if endpoint != after.endpoint { faults.append("a request to endpoint \(endpoint)") }
            case .cancel(let id): open.remove(id)
            case .requestProgress(let id): if after.watch?.id != id { faults.append("progress of a closed watch") }
            default: break
            }
        }
        for case let id? in [after.request?.id, after.watch?.id] where !open.contains(id) {
            faults.append("number \(id) is awaited, and is not open")
        }
        if actions.requests.count > 2 { faults.append("\(actions.requests.count) requests at once") }
        // A watch that is open and not awaited would go on forever. A request may have been
        // answered.
        if let watch = before.watch?.id, after.watch?.id != watch, !actions.contains(.cancel(watch)) {
            faults.append("the watch was forgotten")
        }
        return faults
    }

    private func bufferFaults(_ before: Node, _ after: Node, _ actions: [SyncerAction]) -> [String] {
        var faults: [String] = []
        var hasRestarted = before.hasRestarted
        var told = before.machine.told
        var snapshot = before.machine.snapshot?.hasBegun ?? false
        for action in actions {
            switch action {
            case .restart:
                if before.machine.snapshot?.hasBegun == true,
                    after.machine.statistics.resyncCount
                        == before.machine.statistics.resyncCount
                {
                    faults.append("a second restart in one resync")
                }
                (hasRestarted, told, snapshot) = (true, nil, true)
            case .status(let status):
                if status == told { faults.append("\(status) again") }
                if told == nil && hasRestarted && status != .resyncInProgress {
                    faults.append("\(status) after a restart")
                }
                if status == .resyncInProgress && !snapshot { faults.append("resync outside of a snapshot") }
                if status == .inSync && after.machine.phase != .following {
                    faults.append("in sync, and not following")
                }
                told = status
            case .deliver(let updates):
                if !hasRestarted { faults.append("a delivery before the first snapshot") }
                if updates.isEmpty { faults.append("an empty delivery") }
                if told == nil { faults.append("a delivery between a restart and its status") }
            default: break
            }
        }
        if actions.restarts > 1 { faults.append("two restarts at once") }
        if after.machine.phase == .following && told != .inSync { faults.append("following, and not in sync") }
        return faults
    }

    /// The parts of the state fit together, and something will happen.
    private func structureFaults(_ machine: SyncerStateMachine) -> [String] {
        var faults: [String] = []
        func rule(_ name: @autoclosure () -> String, _ holds: Bool) {
            if !holds { faults.append("\(name()) in \(machine.phase)") }
        }
        let watches = [.opening, .filling, .following].contains(machine.phase)
        rule("a watch: \(machine.watch != nil)", (machine.watch != nil) == watches)
        rule("a pause", (machine.waitingUntil != nil) == (machine.phase == .waiting))
        let asks: Bool? =
            switch machine.phase {
            case .authenticating, .probing, .reading, .filling: true
            case .idle, .waiting, .opening, .stopped: false
            case .following: nil
            }
        if let asks { rule("a request: \(machine.request != nil)", (machine.request != nil) == asks) }
        if case .page = machine.request?.request {
            rule("a page", machine.phase == .reading || machine.phase == .filling)
        }
        rule("time stands still", machine.nextDeadline != nil || machine.phase == .idle || machine.phase == .stopped)
        if watches { rule("cursors", machine.cursors?.count == Self.ranges && machine.passed.count == Self.ranges) }
        let needsAll = machine.phase == .following || machine.phase == .filling
        if needsAll { rule("a range is not watched", machine.watch?.isCreated == true) }
        if machine.phase == .following { rule("a snapshot", machine.snapshot == nil) }
        if machine.snapshot == nil && machine.phase != .idle && machine.phase != .stopped {
            rule("no cursor", machine.cursors != nil)
        }
        if machine.phase == .filling { rule("no ledger", machine.ledgers.count == Self.ranges) }
        rule(
            "following since",
            (machine.followingSince != nil) == (machine.phase == .following) || machine.phase == .stopped)
        return faults
    }

    /// The cursor goes forward, and only by what a watch brings, except in a resync.
    private func cursorFaults(
        _ before: SyncerStateMachine, _ after: SyncerStateMachine, _ actions: [SyncerAction]
    ) -> [String] {
        guard let old = before.cursors, before.statistics.resyncCount == after.statistics.resyncCount else { return [] }
        guard let new = after.cursors else { return ["the cursor was lost without a resync"] }
        return zip(old, new).contains { $0 > $1 } ? ["the cursor went back: \(old) to \(new)"] : []
    }

    // MARK: - Events

    private func event(_ stimulus: Stimulus, _ node: inout Node) -> SyncerEvent? {
        let machine = node.machine
        let known = max(machine.history.known, 10)
        let here = HistoryPosition(cluster: machine.history.cluster ?? 7, revision: known + 1)
        if let reason = stimulus.requestFailure {
            return machine.request.map { .failed($0.id, DatastoreError(reason)) }
        }
        if let reason = stimulus.watchFailure { return machine.watch.map { .failed($0.id, DatastoreError(reason)) } }
        switch stimulus {
        case .start: return .start
        case .overflow: return .overflowed
        case .shutdown: return .shutdown
        case .stale: return .read(-1, Page(position: here, entries: [], hasMore: false, count: 0))
        case .timer:
            guard let deadline = machine.nextDeadline else { return nil }
            node.now = max(node.now, deadline)
            return .timePassed
        case .moment:
            node.now += .milliseconds(600)
            return .timePassed
        case .health:
            node.now += .seconds(121)
            return .timePassed
        case .answer, .answerOther, .answerLower, .answerHuge, .pageMore, .pageEmpty, .pageEmptyMore:
            return answer(stimulus, machine, here)
        case .ended: return machine.watch.map { .ended($0.id) }
        default:
            return machine.watch.flatMap { watch in message(stimulus, machine, here).map { .message(watch.id, $0) } }
        }
    }

    private func answer(_ stimulus: Stimulus, _ machine: SyncerStateMachine, _ here: HistoryPosition) -> SyncerEvent? {
        guard let pending = machine.request else { return nil }
        var position = here
        if stimulus == .answerHuge { position.revision = .max }
        if stimulus == .answerOther { position.cluster += 1 }
        if stimulus == .answerLower { position.revision = max(1, here.revision - 5) }
        switch pending.request {
        case .authenticate: return stimulus == .answer ? .authenticated(pending.id) : nil
        case .probe:
            return [.answer, .answerOther, .answerLower, .answerHuge].contains(stimulus)
                ? .probed(pending.id, position) : nil
        case .page:
            let isEmpty = stimulus == .pageEmpty || stimulus == .pageEmptyMore
            let entries: [DatastoreEntry] = isEmpty ? [] : [.put("k", at: position.revision)]
            let hasMore = stimulus == .pageMore || stimulus == .pageEmptyMore
            return .read(pending.id, Page(position: position, entries: entries, hasMore: hasMore, count: 2))
        case .watch: return nil
        }
    }

    private func message(
        _ stimulus: Stimulus, _ machine: SyncerStateMachine, _ here: HistoryPosition
    ) -> WatchMessage? {
        guard let watch = machine.watch, let cursors = machine.cursors else { return nil }
        let other = HistoryPosition(cluster: here.cluster + 1, revision: here.revision)
        let newer = here.revision
        switch stimulus {
        case .created: return .created(range: watch.ranges[0].isCreated ? 1 : 0, here)
        case .createdAll: return .created(range: watch.ranges[1].isCreated ? 0 : 1, here)
        case .createdBeyond: return .created(range: Self.ranges, here)
        case .createdOther: return .created(range: 0, other)
        case .change:
            return .changes(range: 0, [.put("k", at: newer), .delete("l", at: newer)], here, isFragment: false)
        case .fragment: return .changes(range: 0, [.put("k", at: newer)], here, isFragment: true)
        case .oldChange: return .changes(range: 0, [.put("k", at: cursors[0] - 1)], here, isFragment: false)
        case .fallen:
            let fallen = HistoryPosition(cluster: here.cluster, revision: cursors[0] - 2)
            return .changes(range: 0, [.put("k", at: newer)], fallen, isFragment: false)
        case .changeBeyond: return .changes(range: -1, [.put("k", at: newer)], here, isFragment: false)
        case .changeOther: return .changes(range: 0, [.put("k", at: newer)], other, isFragment: false)
        case .empty: return .changes(range: 1, [], here, isFragment: false)
        case .changeHuge: return .changes(range: 0, [.put("k", at: .max)], here, isFragment: false)
        case .progressHuge: return .progress(range: 1, HistoryPosition(cluster: here.cluster, revision: .max))
        case .progress: return .progress(range: 1, here)
        case .progressOld: return .progress(range: 1, HistoryPosition(cluster: here.cluster, revision: cursors[1] - 2))
        case .heartbeat: return .heartbeat(HistoryPosition(cluster: here.cluster, revision: 1))
        case .heartbeatOther: return .heartbeat(other)
        case .cancelled: return .cancelled(range: nil, reason: "because", compacted: nil, here)
        case .cancelledCompacted: return .cancelled(range: 0, reason: "", compacted: newer, here)
        default: return nil
        }
    }

    // MARK: - States

    /// What makes two states different, without times and numbers.
    private struct Key: Hashable {
        var phase: SyncerStateMachine.Phase
        var told: SyncStatus?
        var request: Int
        var watch: [Int]
        var snapshot: [Int]
        var flags: [Bool]
    }

    private func key(_ node: Node) -> Key {
        let machine = node.machine
        return Key(
            phase: machine.phase, told: machine.told, request: kind(machine.request),
            watch: kind(machine.watch), snapshot: kind(machine.snapshot),
            flags: [
                node.hasRestarted, machine.cursors == nil, machine.ledgers.isEmpty, machine.mayAuthenticate,
                machine.reported.isConnected,
                machine.compactedSnapshots > 0, machine.compactedSnapshots > 1,
                !machine.answering.isEmpty, !machine.mute.isEmpty, !machine.silent.isEmpty,
            ])
    }

    private func kind(_ pending: SyncerStateMachine.Pending?) -> Int {
        switch pending?.request {
        case nil: 0
        case .authenticate: 1
        case .probe(let resuming): resuming == nil ? 2 : 3
        case .page: 4
        case .watch: 5
        }
    }

    private func kind(_ watch: WatchStream?) -> [Int] {
        guard let watch else { return [] }
        let heartbeat =
            switch watch.heartbeat {
            case .quiet: 0
            case .asked: 1
            case .probing: 2
            }
        return [heartbeat, watch.isBehind ? 1 : 0]
            + watch.ranges.map { ($0.isCreated ? 1 : 0) + ($0.incomplete == nil ? 2 : 0) }
    }

    private func kind(_ snapshot: Snapshot?) -> [Int] {
        guard let snapshot else { return [] }
        let flags = [
            snapshot.isWatchFirst, snapshot.hasBegun, snapshot.isRead, snapshot.after == nil, snapshot.keys == 0,
            snapshot.revision == nil,
        ]
        return [snapshot.range] + flags.map { $0 ? 1 : 0 }
    }
}
