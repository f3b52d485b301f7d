// SPDX-License-Identifier: Apache-2.0

@testable import SyncerEngine

/// A small datastore in memory, for tests with real tasks and real time.
final class MemoryStore: Datastore {
    private struct State {
        var world: World
        var watches: [(watch: ScriptedWatch, next: [Int64])] = []
        var generator: SeededGenerator
        /// Requests that succeed for one that fails. `nil`: none fails.
        var faultRarity: Int?
    }

    let endpointCount = 2
    private let state: Kept<State>

    init(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let world = World(members: 2, &generator)
        state = Kept(State(world: world, generator: generator, faultRarity: 20))
    }

    // MARK: - The test's side

    var contents: [[UInt8]: [UInt8]] { state.change { $0.world.state } }

    func write() {
        state.change { state in
            state.world.write(&state.generator)
            let compacted = state.world.revision - 3
            if state.generator.oneIn(50) { state.world.compact(to: compacted) }
            for i in state.watches.indices { Self.pump(state.world, &state.watches[i]) }
        }
    }

    /// One of the open watches breaks off.
    func breakAWatch() {
        state.change { state in
            guard !state.watches.isEmpty else { return }
            let i = state.generator.below(state.watches.count)
            state.watches.remove(at: i).watch.end(.failure(DatastoreError(.unavailable)))
        }
    }

    func stopFaults() { state.change { $0.faultRarity = nil } }

    private static func pump(_ world: World, _ open: inout (watch: ScriptedWatch, next: [Int64])) {
        for range in 0..<World.ranges where open.next[range] <= world.revision {
            let changes = world.changes(of: range, from: open.next[range], to: world.revision)
            open.next[range] = world.revision + 1
            guard !changes.isEmpty else { continue }
            open.watch.send(.changes(range: range, changes, world.position, isFragment: false))
        }
    }

    // MARK: - The driver's side

    private func answer<R>(_ body: (inout State) -> Result<R, DatastoreError>) async throws(DatastoreError) -> R {
        await Task.yield()
        let result: Result<R, DatastoreError> = state.change { state in
            if let rarity = state.faultRarity, state.generator.oneIn(rarity) {
                return .failure(DatastoreError(.noLeader))
            }
            return body(&state)
        }
        return try result.get()
    }

    func probe(endpoint: Int, resuming: Int64?) async throws(DatastoreError) -> HistoryPosition {
        try await answer { $0.world.probe(resuming: resuming, saysFuture: false) }
    }

    func page(endpoint: Int, _ request: PageRequest) async throws(DatastoreError) -> Page {
        try await answer { $0.world.page(request) }
    }

    func watch(endpoint: Int, starts: [Int64]) async throws(DatastoreError) -> ScriptedWatch {
        try await answer { state in
            let watch = ScriptedWatch()
            if let start = starts.min(), start <= state.world.compacted { return .failure(DatastoreError(.compacted)) }
            for range in 0..<World.ranges { watch.send(.created(range: range, state.world.position)) }
            var open = (watch: watch, next: starts)
            Self.pump(state.world, &open)
            state.watches.append(open)
            return .success(watch)
        }
    }

    func disconnect(endpoint: Int) {}
    func authenticate(endpoint: Int) async throws(DatastoreError) { await Task.yield() }
}
