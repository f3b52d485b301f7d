// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Testing

@testable import SyncerEngine

/// A machine on a simulated cluster, with a real buffer and a naive sink behind it. Everything that
/// happens is chosen by random numbers, and time is simulated.
final class Simulation {
    private var generator: SeededGenerator
    private var world: World
    private(set) var machine: SyncerStateMachine
    private var now = Duration.zero
    let pipe: Pipe

    private var requests: [(id: RequestID, endpoint: Int, request: SyncerRequest)] = []
    /// Answers on their way.
    private var answers: [SyncerEvent] = []
    private var watch: SimulatedWatch?
    private var overflowsTold = 0
    /// Whether a watch has lost something silently, so that only an audit can find it.
    private var hasLost = false
    private let mayLose: Bool
    /// How many requests succeed for one that fails.
    private let faultRarity: Int
    private(set) var watchFirstSnapshots = 0
    /// Prints each event and what follows.
    private let isTraced: Bool

    init(seed: UInt64, isTraced: Bool = false) {
        self.isTraced = isTraced

        var generator = SeededGenerator(seed: seed)
        let members = 1 + generator.below(3)
        world = World(members: members, &generator)
        mayLose = generator.oneIn(8)
        faultRarity = [4, 12, 40][generator.below(3)]
        var configuration = SyncerConfiguration(rangeCount: World.ranges)
        configuration.pages.initial = 1 + generator.below(4)
        configuration.pages.maximum = 4
        configuration.resyncs.auditInterval = mayLose ? .seconds(60) : .seconds(100_000)
        machine = SyncerStateMachine(configuration, endpoints: Array(0..<members))
        pipe = Pipe(bound: generator.oneIn(4) ? .keys(6) : nil, batchSize: 1 + generator.below(5))
        self.generator = generator
    }

    // MARK: - The run

    /// Writes, faults and progress in a random order. Then the faults stop. Returns what is wrong.
    func run(steps: Int) -> [String] {
        for _ in 0..<(3 + generator.below(6)) { world.write(&generator) }
        send(.start)
        for _ in 0..<steps { step() }
        guard settle() else { return ["it does not come to rest: \(machine.phase)"] + pipe.faults }
        let faults = restFaults()
        guard faults.isEmpty else { return faults }
        idle()
        for _ in 0..<3 { write() }
        guard settle() else { return ["it does not come to rest again: \(machine.phase)"] + pipe.faults }
        _ = send(.shutdown)
        if !machine.handle(.timePassed, at: now, random: 0.5).isEmpty { return ["an action after the end"] }
        return restFaults()
    }

    /// What is wrong at rest.
    private func restFaults() -> [String] {
        var faults = pipe.faults
        if pipe.status != .inSync { faults.append("the status is \(pipe.status.map { "\($0)" } ?? "none")") }
        for (key, value) in world.state where pipe.rawState[key] != value { faults.append("\(name(key)) is wrong") }
        for key in pipe.rawState.keys where world.state[key] == nil { faults.append("\(name(key)) is stale") }
        return faults
    }

    private func name(_ key: [UInt8]) -> String { String(decoding: key, as: UTF8.self) }

    private func step() {
        if requests.isEmpty && answers.isEmpty, generator.oneIn(machine.phase == .waiting ? 2 : 30) {
            return passTime()
        }
        switch generator.below(40) {
        case 0..<7: write()
        case 7..<13: serve(withFaults: true)
        case 13..<19: deliverAnswer()
        case 19..<24: pump()
        case 24..<30: deliverMessage()
        case 30: if generator.oneIn(3) { compact() }
        case 31: disturbMembers()
        case 32: disturbWatch()
        case 33: if generator.oneIn(6) { restore() }
        case 34: passTime()
        case 35: now += .milliseconds(generator.below(2000))
        default: deliverToSink()
        }
        tellOfOverflow()
    }

    /// Lets everything go on without faults until the sink has to have everything.
    private func settle() -> Bool {
        for i in world.lags.indices { (world.lags[i], world.isDown[i]) = (0, false) }
        let audits = machine.statistics.resyncs[.audit] ?? 0
        for _ in 0..<1500 {
            var isQuiet = true
            while !requests.isEmpty || !answers.isEmpty {
                isQuiet = false
                serve(withFaults: false)
                deliverAnswer()
                pipe.flush()
            }
            if watch?.endpoint == machine.endpoint, let watch, !watch.isSilent {
                if !watch.isDrained(world) { isQuiet = false }
                pump()
                while self.watch?.messages.isEmpty == false {
                    deliverMessage()
                    pipe.flush()
                }
            }
            pipe.flush()
            if pipe.buffer.statistics.overflows > overflowsTold { isQuiet = false }
            tellOfOverflow()
            guard isQuiet else { continue }
            let isAudited = !hasLost || (machine.statistics.resyncs[.audit] ?? 0) > audits
            if machine.phase == .following && watch?.isSilent == false && isAudited { return true }
            passTime()
        }
        return false
    }

    /// Nothing is written for some minutes.
    private func idle() {
        for _ in 0..<12 {
            passTime()
            while !requests.isEmpty || !answers.isEmpty {
                serve(withFaults: false)
                deliverAnswer()
            }
            for _ in 0..<4 { pump() }
            while watch?.messages.isEmpty == false { deliverMessage() }
            pipe.flush()
        }
    }

    // MARK: - The machine

    @discardableResult
    private func send(_ event: SyncerEvent) -> [SyncerAction] {
        let actions = machine.handle(event, at: now, random: generator.fraction())
        if isTraced { print(now, machine.phase, event, actions, watch.map { "\($0.next) \($0.isSilent)" } ?? "-") }
        for action in actions { perform(action) }
        return actions
    }

    private func perform(_ action: SyncerAction) {
        switch action {
        case .request(let id, let endpoint, .watch(let starts)):
            if machine.snapshot?.isWatchFirst == true { watchFirstSnapshots += 1 }
            watch = SimulatedWatch(id: id, endpoint: endpoint, next: starts)
        case .request(let id, let endpoint, let request): requests.append((id, endpoint, request))
        case .cancel(let id):
            requests.removeAll { $0.id == id }
            if watch?.id == id { watch = nil }
        case .requestProgress: answerProgress()
        default: pipe.put(action)
        }
    }

    /// The answer overtakes what is on its way, and its revision may be anything. A server does not
    /// answer while the watch catches up.
    private func answerProgress() {
        guard let watch, !watch.isSilent, !world.isMute[watch.endpoint], watch.hasCaughtUp(world) else { return }
        var position = world.position(of: watch.endpoint)
        if generator.oneIn(3) { position.revision = Int64(generator.below(200)) }
        self.watch?.messages.insert(.heartbeat(position), at: 0)
    }

    private func tellOfOverflow() {
        let overflows = pipe.buffer.statistics.overflows
        guard overflows > overflowsTold, generator.oneIn(2) else { return }
        overflowsTold = overflows
        send(.overflowed)
    }

    // MARK: - The cluster

    /// A cluster that was restored under the same name must not reach the old revisions again
    /// before the machine has seen it: then nothing in its answers would differ.
    private func write() {
        guard machine.history.cluster != world.cluster || machine.history.known <= world.revision else { return }
        world.write(&generator)
    }

    private func compact() {
        let back = Int64(generator.below(6))
        world.compact(to: world.revision - back)
    }

    private func disturbMembers() {
        let member = generator.below(world.lags.count)
        switch generator.below(3) {
        case 0: world.isDown[member] = !world.isDown[member] && generator.oneIn(2)
        case 1: world.lags[member] = Int64(generator.below(5))
        default: world.lags[member] = 0
        }
    }

    private func restore() {
        let back = Int64(generator.below(6))
        let revision = max(1, world.compacted, world.revision - back)
        world.restore(to: revision, asOtherCluster: generator.oneIn(2))
        // The servers were stopped, and what was on its way is lost.
        answers = []
        if let watch { fail(watch.id, .unavailable) }
    }

    private func fail(_ id: RequestID, _ reason: DatastoreError.Reason) {
        requests.removeAll { $0.id == id }
        if watch?.id == id { watch = nil }
        send(.failed(id, DatastoreError(reason)))
    }

    // MARK: - Requests

    private func serve(withFaults: Bool) {
        guard !requests.isEmpty else { return }
        let (id, endpoint, request) = requests.removeFirst()
        if withFaults, generator.oneIn(faultRarity) || world.isDown[endpoint] {
            if generator.oneIn(3) { return }  // Never answered.
            let reasons: [DatastoreError.Reason] = [
                .unavailable, .noLeader, .timeout, .unauthenticated, .permissionDenied, .overloaded, .responseTooLarge,
            ]
            answers.append(.failed(id, DatastoreError(reasons[generator.below(reasons.count)])))
            return
        }
        switch request {
        case .authenticate: answers.append(.authenticated(id))
        case .probe(let resuming):
            switch world.probe(resuming: resuming, saysFuture: generator.oneIn(2)) {
            case .success(let position): answers.append(.probed(id, position))
            case .failure(let error): answers.append(.failed(id, error))
            }
        case .page(let page):
            switch world.page(page) {
            case .success(let page): answers.append(.read(id, page))
            case .failure(let error): answers.append(.failed(id, error))
            }
        case .watch: break
        }
    }

    private func deliverAnswer() {
        guard !answers.isEmpty else { return }
        send(answers.remove(at: generator.below(answers.count)))
    }

    // MARK: - The watch

    private func pump() {
        guard watch != nil else { return }
        _ = watch?.pump(world, generator.below(World.ranges), &generator)
        _ = watch?.pump(world, generator.below(World.ranges), &generator)
    }

    private func deliverMessage() {
        guard let watch, !watch.messages.isEmpty else { return }
        self.watch?.messages.removeFirst()
        send(.message(watch.id, watch.messages[0]))
    }

    private func disturbWatch() {
        guard var stream = watch else { return }
        let range = generator.below(World.ranges)
        let position = world.position(of: stream.endpoint)
        switch generator.below(9) {
        case 0:
            return fail(stream.id, [.unavailable, .noLeader, .unauthenticated, .responseTooLarge][generator.below(4)])
        case 1:
            // A server that never answers requests for a sign of life is taken for a proxy, and
            // then its streams may stall until the next audit.
            let endpoint = stream.endpoint
            stream.isSilent = machine.answering.contains(endpoint) || !machine.silent.contains(endpoint)
        case 2: if let latest = stream.latest { stream.messages.append(latest) }
        case 3:
            // Old events, as a member sends that has loaded a snapshot.
            let start = max(world.compacted + 1, stream.next[range] - 5)
            let old = world.changes(of: range, from: start, to: stream.next[range] - 1)
            if stream.isCreated[range], !old.isEmpty {
                stream.messages.append(.changes(range: range, old, position, isFragment: false))
            }
        case 4:
            if stream.isCreated[range], stream.next[range] == position.revision + 1 {
                stream.messages.append(.progress(range: range, position))
            }
        case 5:
            if stream.isCreated[range] {
                stream.messages.append(.progress(range: range, HistoryPosition(cluster: position.cluster, revision: 1)))
            }
        case 6: stream.messages.append(.cancelled(range: nil, reason: "", compacted: nil, position))
        case 7 where mayLose && stream.isCreated[range]:
            hasLost = true
            stream.next[range] = position.revision + 1
        default: return sendEnd(of: stream)
        }
        // A proxy that swallows requests for a sign of life hides that a stream is stalled.
        if stream.isSilent && world.isMute[stream.endpoint] { stream.isSilent = false }
        watch = stream
    }

    private func sendEnd(of stream: SimulatedWatch) {
        watch = nil
        send(.ended(stream.id))
    }

    // MARK: - Time and the sink

    private func passTime() {
        guard let deadline = machine.nextDeadline else { return }
        now = max(now, deadline)
        send(.timePassed)
    }

    private func deliverToSink() {
        for _ in 0..<(1 + generator.below(3)) { pipe.deliver() }
    }
}
