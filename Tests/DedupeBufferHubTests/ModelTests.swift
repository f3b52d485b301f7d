// SPDX-License-Identifier: Apache-2.0

// Random and exhaustive programs: each subscriber gets, batch for batch, what its own naive buffer
// gives.

import DedupeBuffer
import Testing

@testable import DedupeBufferHub

/// A hub, and what each subscriber must get.
private final class Scene {
    let hub: Hub
    var world: World
    var clients: [Client] = []
    private let batch: Int
    private var values = 0

    struct Client {
        var subscription: Subscription
        var model: NaiveSubscriber
        var picture: Picture
        var filter: Int?
        /// Positions that the client has had, each with what the client knew then.
        var memories: [Picture] = []
    }

    init(
        log: Int, batch: Int, tombstones: Int, grows: Bool = false, steps: DedupeHubConfiguration.Steps = .init()
    ) {
        hub = Hub(
            configuration: configuration(
                log: log, batch: batch, tombstones: tombstones, grows: grows, steps: steps))
        world = World(logCapacity: grows ? nil : log, maximumTombstones: tombstones)
        self.batch = batch
    }

    /// The filters are residues of the key's last digit.
    static func accepts(_ key: String, _ filter: Int?) -> Bool {
        guard let filter else { return true }
        return key.utf8.last! % 3 != filter
    }

    static func filter(_ filter: Int?) -> (@Sendable (String) -> Bool)? {
        guard let filter else { return nil }
        return { accepts($0, filter) }
    }

    func update(_ keys: [(String, isDeletion: Bool)]) {
        let updates = keys.map { key, isDeletion in
            values += 1
            return Update(key: key, value: isDeletion ? nil : values, revision: UInt64(values))
        }
        hub.onUpdates(updates)
        world.update(updates)
    }

    func status(_ status: SyncStatus) {
        hub.onStatusUpdated(status)
        world.status(status)
    }

    func subscribe(filter: Int? = nil) {
        clients.append(
            Client(
                subscription: hub.subscribe(where: Scene.filter(filter)),
                model: NaiveSubscriber(accepts: { Scene.accepts($0, filter) }), picture: Picture(), filter: filter))
    }

    /// The client breaks off, and comes back with a position that it has had.
    func resume(_ i: Int, at memory: Picture) {
        let filter = clients[i].filter
        guard let position = memory.position else { return }
        clients[i].subscription.cancel()
        clients[i].subscription = hub.subscribe(
            from: Position("\(position)"), where: Scene.filter(filter))
        if clients[i].subscription.position != position { clients[i].picture.faults.append("position") }
        clients[i].model = NaiveSubscriber(
            .position(revision: position.revision, horizon: position.horizon), accepts: { Scene.accepts($0, filter) })
        let faults = clients[i].picture.faults
        clients[i].picture = memory
        clients[i].picture.faults += faults
        clients[i].picture.isExact = position.horizon == position.revision && memory.isExact
        clients[i].memories = []
    }

    /// Takes one batch. Returns a fault.
    func take(_ i: Int) throws -> String? {
        var events: [Event<String, Int>]?
        let scans = hub.statistics.scans
        if case .batch(let deliveries) = try clients[i].subscription.take() {
            events = deliveries.map { Event($0.event) }
            for delivery in deliveries {
                clients[i].picture.see(delivery)
                clients[i].memories.append(clients[i].picture)
            }
            if clients[i].memories.count > 8 { clients[i].memories.removeFirst(clients[i].memories.count - 8) }
        }
        let isLapped = hub.statistics.scans > scans
        if let fault = clients[i].model.take(batch, world, isLapped: isLapped, delivered: events) {
            return "client \(i): \(fault)"
        }
        // Of statuses that have become neighbours, the earlier ones may still be there.
        let pending = clients[i].subscription.statistics.pendingEntries
        if pending < clients[i].model.queue.count { return "client \(i): \(pending) entries pending" }
        return clients[i].picture.faults.first.map { "client \(i): \($0)" }
    }

    /// All take until there is nothing; then all have the same picture.
    func settle() throws -> String? {
        for i in clients.indices {
            repeat {
                if let fault = try take(i) { return fault }
            } while !clients[i].model.isEmpty
            if let fault = try take(i) { return fault }
            let due = world.state.filter { Scene.accepts($0.key, clients[i].filter) }
            if clients[i].picture.state != due { return "client \(i) has \(clients[i].picture.state), not \(due)" }
            if clients[i].picture.status ?? .waitForDatastore != world.status { return "client \(i): status" }
        }
        return nil
    }
}

@Suite struct ModelTests {
    @Test(arguments: 0..<40)
    func randomPrograms_agreeWithNaiveBuffers(seed: Int) throws {
        for round in 0..<rounds(25) {
            var random = Random(seed: UInt64(seed * 1000 + round))
            if let fault = try runProgram(&random) {
                Issue.record("seed \(seed), round \(round): \(fault)")
                return
            }
        }
    }

    /// Mostly small ones, so that takes have many.
    private static func steps(_ random: inout Random) -> DedupeHubConfiguration.Steps {
        if random.chance(25) { return .init() }
        return .init(size: 1 + random.below(4), items: 1 + random.below(3), stale: random.below(4))
    }

    private func runProgram(_ random: inout Random) throws -> String? {
        let logs = [1, 2, 4, 8, 16, 1024]
        let scene = Scene(
            log: logs[random.below(logs.count)], batch: [1, 2, 3, 100][random.below(4)],
            tombstones: [0, 1, 3, 1000][random.below(4)], grows: random.chance(30), steps: Self.steps(&random))
        let keys = 1 + random.below(random.chance(50) ? 4 : 12)
        let deletions = random.below(60)
        let statuses = [SyncStatus.waitForDatastore, .resyncInProgress, .inSync]
        for _ in 0..<(20 + random.below(150)) {
            switch random.below(100) {
            case 0..<45:
                scene.update(
                    (0..<(1 + random.below(4))).map { _ in
                        ("k\(random.below(keys))", isDeletion: random.chance(deletions))
                    })
            case 45..<55: scene.status(statuses[random.below(3)])
            case 55..<60 where scene.clients.count < 5:
                scene.subscribe(filter: random.chance(40) ? random.below(3) : nil)
            case 60..<63 where !scene.clients.isEmpty:
                scene.clients.remove(at: random.below(scene.clients.count))
            case 63..<68 where !scene.clients.isEmpty:
                let i = random.below(scene.clients.count)
                if let memory = scene.clients[i].memories.randomElement(using: &random) { scene.resume(i, at: memory) }
            case 68... where !scene.clients.isEmpty:
                // The first clients are slower than the others.
                let i = max(random.below(scene.clients.count), random.below(scene.clients.count))
                if let fault = try scene.take(i) { return fault }
            default: break
            }
        }
        return try scene.settle()
    }
}

// MARK: - Short programs

extension ModelTests {
    /// All programs of a length, of a few steps that matter most together.
    @Test(arguments: [1, 2, 1024], [1, 3])
    func allShortPrograms_agreeWithNaiveBuffers(log: Int, batch: Int) throws {
        let length = longTests ? 7 : 5
        var program = [Int](repeating: 0, count: length)
        repeat {
            if let fault = try run(program, log: log, batch: batch) {
                Issue.record("program \(program), log \(log), batch \(batch): \(fault)")
                return
            }
        } while Self.advance(&program)
    }

    private static let stepCount = 8

    /// The next program; false after the last one.
    private static func advance(_ program: inout [Int]) -> Bool {
        for i in program.indices {
            program[i] += 1
            if program[i] < stepCount { return true }
            program[i] = 0
        }
        return false
    }

    private func run(_ program: [Int], log: Int, batch: Int) throws -> String? {
        let scene = Scene(log: log, batch: batch, tombstones: log == 2 ? 0 : 1)
        // Both have "a"; the second one does not take before the end.
        scene.update([("a", isDeletion: false)])
        scene.subscribe()
        scene.subscribe(filter: 1)
        for i in 0..<2 { if let fault = try scene.take(i) { return fault } }
        for step in program {
            switch step {
            case 0: scene.update([("a", isDeletion: false)])
            case 1: scene.update([("a", isDeletion: true)])
            case 2: scene.update([("b", isDeletion: false)])
            case 3: scene.update([("b", isDeletion: true)])
            case 4: scene.status(.inSync)
            case 5: scene.status(.resyncInProgress)
            case 6: if let fault = try scene.take(0) { return fault }
            default: scene.resume(0, at: scene.clients[0].memories.first ?? Picture())
            }
        }
        return try scene.settle()
    }
}

// MARK: - Writes between steps

/// A source that writes at random while a take goes on, until it has written enough.
private final class BusySource: Sendable {
    struct State {
        var random: Random
        var hub: Hub?
        var values: [String: Int] = [:]
        var status = SyncStatus.waitForDatastore
        var left = 300
    }

    private let state: Kept<State>

    init(_ random: Random) { state = Kept(State(random: random)) }

    var values: [String: Int] { state.value.values }
    var status: SyncStatus { state.value.status }

    func start(_ hub: Hub?) { state.change { $0.hub = hub } }

    /// One of three times.
    func write() {
        state.change { state in
            guard let hub = state.hub, state.left > 0, state.random.chance(35) else { return }
            state.left -= 1
            if state.random.chance(15) {
                state.status = [.waitForDatastore, .resyncInProgress, .inSync][state.random.below(3)]
                return hub.onStatusUpdated(state.status)
            }
            for _ in 0..<(1 + state.random.below(3)) {
                let key = "k\(state.random.below(12))"
                let value = state.random.chance(40) ? nil : state.left
                state.values[key] = value
                hub.put(key, value)
            }
        }
    }
}

extension ModelTests {
    /// A batch then is what several smaller ones would be, so that only the pictures can be
    /// compared.
    @Test(arguments: 0..<20)
    func randomPrograms_withWritesBetweenSteps_endWithTheState(seed: Int) throws {
        for round in 0..<rounds(20) {
            var random = Random(seed: UInt64(seed * 1000 + round))
            if let fault = try runBusyProgram(&random) {
                Issue.record("seed \(seed), round \(round): \(fault)")
                return
            }
        }
    }

    private func runBusyProgram(_ random: inout Random) throws -> String? {
        let source = BusySource(Random(seed: random.next()))
        let steps = DedupeHubConfiguration.Steps(
            size: 1 + random.below(4), items: 1 + random.below(3), stale: random.below(4),
            afterEach: { source.write() })
        let hub = Hub(
            configuration: configuration(
                log: [2, 4, 16, 1024][random.below(4)], batch: [1, 3, 100][random.below(3)],
                tombstones: [0, 2, 1000][random.below(3)], grows: random.chance(50), steps: steps))
        source.start(hub)
        var clients = (0..<3).map { BusyClient(hub, filter: $0 == 2 ? 1 : nil) }
        for _ in 0..<60 {
            let i = random.below(3)
            if random.chance(15) { try clients[i].breakOff(hub, &random) } else { _ = try clients[i].take() }
        }
        source.start(nil)
        for i in clients.indices {
            while try clients[i].take() {}
            let due = source.values.filter { Scene.accepts($0.key, clients[i].filter) }
            let picture = clients[i].picture
            if let fault = picture.faults.first { return "client \(i): \(fault)" }
            if picture.state != due { return "client \(i) has \(picture.state), not \(due)" }
            if picture.status ?? .waitForDatastore != source.status { return "client \(i): status" }
        }
        return nil
    }

    private struct BusyClient {
        var subscription: Subscription
        var picture = Picture()
        let filter: Int?

        init(_ hub: Hub, filter: Int?) {
            subscription = hub.subscribe(where: Scene.filter(filter))
            self.filter = filter
        }

        /// Takes a batch. Returns false if there was nothing.
        mutating func take() throws -> Bool {
            switch try subscription.take() {
            case .batch(let deliveries): for delivery in deliveries { picture.see(delivery) }
            case .later(.zero): break
            case .nothing: return false
            case .later, .finished: throw Unexpected()
            }
            return true
        }

        /// Breaks off somewhere in a batch, and comes back.
        mutating func breakOff(_ hub: Hub, _ random: inout Random) throws {
            guard case .batch(let deliveries) = try subscription.take() else { return }
            for delivery in deliveries.prefix(random.below(deliveries.count + 1)) { picture.see(delivery) }
            guard let position = picture.position else {
                subscription = hub.subscribe(where: Scene.filter(filter))
                return
            }
            picture.isExact = picture.isExact && position.horizon == position.revision
            subscription = hub.subscribe(from: position, where: Scene.filter(filter))
        }
    }
}
