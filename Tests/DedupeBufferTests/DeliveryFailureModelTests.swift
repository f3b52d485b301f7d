// SPDX-License-Identifier: Apache-2.0

// A sink that fails on some keys, beside the model.

import Testing

@testable import DedupeBuffer

@Suite("A sink that fails on some keys, against the model")
struct DeliveryFailureModelTests {
    @Test(arguments: [1, 2, 3, 100], [false, true])
    func failingKeys_atRandom(batchSize: Int, suppresses: Bool) async throws {
        let seed = announcedSeed("failingKeys_atRandom, batches of \(batchSize)")
        for round in 0..<rounds(40) {
            let random = SeededGenerator(seed: seed &+ UInt64(round))
            let play = KeyedPlay(batchSize: batchSize, suppresses: suppresses, random: random)
            try await within("run") { try await play.run() }
            if let fault = play.fault {
                Issue.record("DEDUPE_TEST_SEED=\(seed), round \(round): \(fault)")
                return
            }
        }
    }

    /// The play must be able to say no.
    @Test func play_objects_whenTheModelHasSomethingElse() async throws {
        let play = KeyedPlay(batchSize: 3, suppresses: false, random: SeededGenerator(seed: 1))
        play.spoil()
        try await within("run") { try await play.run() }
        #expect(play.fault != nil)
    }
}

/// One buffer and its model. In each call the sink acts on both, and then fails on some keys.
///
/// The model takes from the front what does not wait, and takes back what fails: as if it had never
/// been taken. Time passes only while the loop has nothing to deliver.
final class KeyedPlay: AsyncSyncerCallbacks {
    typealias Key = String
    typealias Value = Int

    private struct State {
        var model: Model
        var random: SeededGenerator
        /// What is still to come of the batch.
        var batch: [Event<String, Int>] = []
        /// When each key that failed is due, and how often it has failed.
        var waits: [String: (due: Duration, failures: Int)] = [:]
        var dropped: Set<String> = []
        var callsLeft = 80
        var number = 0
        var fault: String?
    }

    private let buffer: StringBuffer
    private let batchSize: Int
    private let clock = ImpatientClock()
    private let start: TestClock.Instant
    private let state: Kept<State>

    init(batchSize: Int, suppresses: Bool, random: SeededGenerator) {
        let rules = Model.Rules(suppresses: suppresses)
        self.batchSize = batchSize
        state = Kept(State(model: Model(rules: rules), random: random))
        start = clock.now
        let retry = DedupeBufferConfiguration.RetryPolicy(
            initialDelay: .seconds(1), factor: 1, maximumDelay: .seconds(1), maximumAttempts: 1, clock: clock)
        buffer = DedupeBuffer(batchSize: batchSize, retry: retry, rules: rules)
    }

    var fault: String? { state.value.fault }

    func spoil() { state.change { $0.model.update(Update(key: "spoilt", value: 1)) } }

    func run() async throws {
        state.change { state in
            for _ in 0..<10 { act(&state) }
            put(&state, isNews: true)
        }
        try await buffer.run(sink: self)
        state.change { state in
            if !state.model.queue.isEmpty { note(&state, "left: \(state.model.queue)") }
            compare(&state)
        }
    }

    func onStatusUpdated(_ status: SyncStatus) async throws {
        try await handle(.status(status), [])
    }

    func onUpdates(_ updates: [Update<String, Int>]) async throws {
        try await handle(.updates(updates.map { Item($0) }), updates.map(\.key))
    }

    private func handle(_ call: Event<String, Int>, _ keys: [String]) async throws {
        let (failed, isLast) = state.change { state in
            if state.batch.isEmpty { beginBatch(&state) }
            let due = state.batch.isEmpty ? nil : state.batch.removeFirst()
            if due != call { note(&state, "delivered \(call); due \(String(describing: due))") }
            state.callsLeft -= 1
            if state.callsLeft > 0 {
                for _ in 0..<Int.random(in: 0...4, using: &state.random) { act(&state) }
                put(&state, isNews: true)
            }
            compare(&state)
            return (fail(on: keys, &state), state.callsLeft <= 0)
        }
        if isLast { await buffer.finish() }
        if let failed { throw DeliveryFailure(keys: failed) }
    }

    func onFailure(of update: Update<String, Int>, failures: Int) async -> FailedUpdateAction {
        state.change { state in
            let expected = state.waits[update.key]?.failures ?? -1
            if !state.dropped.contains(update.key) && failures != expected {
                note(&state, "\(update.key): failure \(failures), must be \(expected)")
            }
            return state.dropped.contains(update.key) ? .drop : .retry
        }
    }

    // MARK: The model's side

    private var now: Duration { start.duration(to: clock.now) }

    /// What waits stays in front. Of the rest the batch has the first entries.
    private func beginBatch(_ state: inout State) {
        let (waits, now) = (state.waits, now)
        let isWaiting = { (entry: Model.Entry) in
            entry.status == nil && (waits[entry.key]?.due ?? .zero) > now
        }
        let count = buffer.core.taken.count
        let available = state.model.queue.count { !isWaiting($0) }
        if count < min(batchSize, available) { note(&state, "\(count) of \(available) taken") }
        var (length, taken) = (0, 0)
        while taken < count && length < state.model.queue.count {
            if !isWaiting(state.model.queue[length]) { taken += 1 }
            length += 1
        }
        let waiting = Set(state.model.queue[..<length].filter(isWaiting).map(\.key))
        // Keys that are due and not pending any more are forgotten.
        let first = Set(state.model.queue[..<length].map(\.key))
        state.waits = waits.filter { $0.value.due > now || first.contains($0.key) }
        let due = state.model.take(length)
        state.model.putBack(keys: waiting)
        state.batch = due.compactMap { event in
            guard case .updates(let items) = event else { return event }
            let rest = items.filter { !waiting.contains($0.key) }
            return rest.isEmpty ? nil : .updates(rest)
        }
        // Where everything between two runs of updates waits, they are one.
        state.batch = state.batch.joined()
    }

    /// Chooses the keys that the sink fails on, and among those the ones that it will go without.
    private func fail(on keys: [String], _ state: inout State) -> [String]? {
        for key in keys { state.waits[key]?.due = .zero }
        guard !keys.isEmpty, state.callsLeft > 0, state.random.oneIn(2) else {
            for key in keys { state.waits[key] = nil }
            return nil
        }
        let failed = keys.filter { _ in state.random.oneIn(2) }
        state.dropped = []
        for key in keys {
            guard failed.contains(key) else {
                state.waits[key] = nil
                continue
            }
            let failures = (state.waits[key]?.failures ?? 0) + 1
            state.waits[key] = (now + .seconds(1), failures)
            guard state.random.oneIn(4) else { continue }
            state.dropped.insert(key)
            state.waits[key] = nil
            state.model.abandon()
        }
        state.model.putBack(keys: Set(failed).subtracting(state.dropped))
        return failed
    }

    private func compare(_ state: inout State) {
        if let broken = buffer.core.validate() { note(&state, "invariant: \(broken)") }
        var statistics = buffer.statistics
        // Between a take and the put back of keys that wait, fewer keys are pending.
        statistics.peakPendingKeys = state.model.peak
        if let difference = state.model.difference(from: statistics) { note(&state, difference) }
    }

    private func note(_ state: inout State, _ fault: String) {
        state.fault = state.fault ?? "call \(80 - state.callsLeft): \(fault)"
        buffer.stop()
    }

    // MARK: Operations on both

    private func act(_ state: inout State) {
        switch Int.random(in: 0..<12, using: &state.random) {
        case 0, 1:
            let status = SyncStatus(rawValue: .random(in: 0...1, using: &state.random))!
            buffer.onStatusUpdated(status)
            state.model.status(status)
        case 2 where state.random.oneIn(3):
            buffer.onConnectionRestarted()
            state.model.restart()
        case 3: endResync(&state)
        default: put(&state)
        }
    }

    /// All keys but one that the sink has are sent again first: the buffer chooses the order of
    /// several synthesized deletions, and the model cannot know it.
    private func endResync(_ state: inout State) {
        for key in state.model.sink.keys.sorted().dropFirst() { put(&state, key) }
        buffer.onStatusUpdated(.inSync)
        state.model.status(.inSync)
    }

    private func put(_ state: inout State, isNews: Bool = false) {
        put(&state, "key \(Int.random(in: 0..<8, using: &state.random))", isNews: isNews)
    }

    private func put(_ state: inout State, _ key: String, isNews: Bool = false) {
        state.number += 1
        let isOld = state.model.rules.suppresses && !isNews && state.random.oneIn(3)
        let revision = isOld ? UInt64(1) : UInt64(state.number) + 3
        var update = Update(key: key, value: state.number, revision: revision)
        if !isNews && state.random.oneIn(3) { update.value = nil }
        buffer.onUpdates([update])
        state.model.update(update)
    }
}
