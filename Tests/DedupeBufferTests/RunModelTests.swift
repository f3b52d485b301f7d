// SPDX-License-Identifier: Apache-2.0

// Failing sinks beside the naive model, in which what fails was never taken.

import DedupeBuffer
import Testing

@Suite("run(sink:) against the naive model")
struct RunModelTests {
    /// Where batches are smaller than what a resync may owe there are no restarts: the model cannot know which of the
    /// owed deletions come first.
    @Test(arguments: [1, 2, 3, 100])
    func failingSink_atRandom(batchSize: Int) async throws {
        try await Self.playAtRandom("failingSink_atRandom", batchSize: batchSize, restarts: batchSize >= 100)
    }

    static func playAtRandom(
        _ name: String, batchSize: Int, restarts: Bool, rules: NaiveModel.Rules = .init()
    ) async throws {
        let seed = announcedSeed("\(name), batches of \(batchSize)")
        for round in 0..<rounds(200) {
            let play = Play(
                batchSize: batchSize, restarts: restarts, rules: rules,
                random: SeededGenerator(seed: seed &+ UInt64(round)))
            try await within("run") { try await play.run() }
            if let fault = play.fault {
                Issue.record("DEDUPE_TEST_SEED=\(seed), round \(round): \(fault)")
                return
            }
        }
    }

    /// The play itself must be able to say no.
    @Test func play_objects_whenTheModelHasSomethingElse() async throws {
        let play = Play(batchSize: 3, restarts: false, random: SeededGenerator(seed: 1))
        play.spoil()
        try await within("run") { try await play.run() }
        #expect(play.fault != nil)
    }
}

/// One buffer and its model. The sink says at the beginning of each batch on which event it will fail; the model then
/// takes only what comes before that. All operations are done in the sink, which must therefore be called again.
final class Play: AsyncSyncerCallbacks {
    typealias Key = String
    typealias Value = Int

    /// An event that is due, and the groups of its entries.
    private struct Due {
        var call: Event<String, Int>
        var groups: [Int]
    }

    private struct State {
        var model: NaiveModel
        var random: SeededGenerator
        /// What is still to come of the batch.
        var batch: [Due] = []
        /// How many events until the sink fails; `nil`: it does not in this batch.
        var untilFailure: Int?
        var restarted = false
        var callsLeft = 60
        var number = 0
        var fault: String?
    }

    private let buffer: StringBuffer
    private let batchSize: Int
    private let restarts: Bool
    private let rules: NaiveModel.Rules
    private let state: Kept<State>

    init(batchSize: Int, restarts: Bool, rules: NaiveModel.Rules = .init(), random: SeededGenerator) {
        self.rules = rules
        self.batchSize = batchSize
        self.restarts = restarts
        state = Kept(State(model: NaiveModel(rules: rules), random: random))
        buffer = DedupeBuffer(
            batchSize: batchSize, retry: DedupeBufferRetry(maximumAttempts: nil, clock: ImpatientClock()), rules: rules)
    }

    var fault: String? { state.value.fault }

    func spoil() { state.change { $0.model.update(Update(key: "spoilt", value: 1)) } }

    func run() async throws {
        state.change { state in
            for _ in 0..<10 { act(&state) }
            put(&state, value: true, isNews: true)
        }
        // After a fault the buffer is stopped.
        do { try await buffer.run(sink: self) } catch is SinkFailure where fault != nil { return }
        state.change { state in
            let statistics = buffer.statistics
            if !state.model.queue.isEmpty { note(&state, "left: \(state.model.queue)") }
            if statistics.unaccounted != 0 || statistics.pendingKeys != 0 || statistics.pendingStatuses != 0
                || statistics.liveKeys != state.model.live.count || statistics.delivered != state.model.delivered
                || statistics.statusesDelivered != state.model.statusesDelivered
                // By what something ends that came back after a restart depends on what had taken its place until then.
                // What the failing sink has is suppressed, and replaces what was never taken.
                || statistics.dropped + statistics.replaced + statistics.cancelled + statistics.suppressed
                    != state.model.dropped + state.model.replaced + state.model.cancelled + state.model.suppressed
            {
                note(&state, "\(statistics), but \(state.model)")
            }
        }
    }

    func onStatusUpdated(_ status: SyncStatus) async throws { try await handle(.status(status)) }
    func onUpdates(_ updates: [Update<String, Int>]) async throws {
        try await handle(.updates(updates.map { Item($0) }))
    }

    private func handle(_ call: Event<String, Int>) async throws {
        let (fails, isLast) = state.change { state in
            if state.batch.isEmpty { beginBatch(&state) }
            let fails = state.untilFailure == 0
            judge(call, fails: fails, &state)
            state.untilFailure = state.untilFailure.map { $0 - 1 }
            state.callsLeft -= 1
            if state.callsLeft > 0 {
                for _ in 0..<Int.random(in: 0...4, using: &state.random) { act(&state) }
                put(&state, value: true, isNews: true)
            }
            if fails {
                state.model.giveBack()
                state.batch = []
                state.untilFailure = nil
            }
            return (fails, state.callsLeft <= 0)
        }
        if isLast { await buffer.finish() }
        if fails { throw SinkFailure() }
    }

    // MARK: The model's side

    private func beginBatch(_ state: inout State) {
        let count = min(batchSize, state.model.queue.count)
        state.batch = events(of: Array(state.model.queue.prefix(count)), &state)
        state.restarted = false
        state.untilFailure =
            state.callsLeft > 0 && state.random.oneIn(2) && !state.batch.isEmpty
            ? Int.random(in: 0..<state.batch.count, using: &state.random) : nil
        let delivered = state.untilFailure ?? state.batch.count
        let taken = state.batch[..<delivered].reduce(0) { $0 + $1.groups.count }
        _ = state.model.take(taken)
        state.model.withhold(count - taken)
    }

    private func events(of entries: [NaiveModel.Entry], _ state: inout State) -> [Due] {
        var copy = state.model
        var rest = entries[...]
        return copy.take(entries.count).map { call in
            let length = max(1, call.items.count)
            defer { rest = rest.dropFirst(length) }
            return Due(call: call, groups: rest.prefix(length).map(\.group))
        }
    }

    /// The order within a group is the buffer's to choose. What goes back keeps it.
    private func judge(_ call: Event<String, Int>, fails: Bool, _ state: inout State) {
        guard !state.batch.isEmpty else { return note(&state, "delivered \(call); nothing was due") }
        var due = state.batch.removeFirst()
        if case .updates(var items) = due.call {
            for (i, item) in call.items.enumerated() where i < items.count && items[i] != item && due.groups[i] != 0 {
                let group = due.groups[i]
                let j = items.indices.first { $0 > i && items[$0] == item && due.groups[$0] == group }
                if let j { items.swapAt(i, j) }
            }
            due.call = .updates(items)
            if fails {
                for group in Set(due.groups) where group != 0 {
                    let keys = items.indices.filter { due.groups[$0] == group }.map { items[$0].key }
                    state.model.arrange(group: group, as: keys)
                }
            }
        }
        if due.call != call { note(&state, "delivered \(call); due \(due.call)") }
    }

    private func note(_ state: inout State, _ fault: String) {
        state.fault = state.fault ?? "call \(60 - state.callsLeft): \(fault)"
        // There is no telling what will come.
        buffer.stop()
    }

    // MARK: Operations on both

    /// In a batch that fails nothing but values follows a restart. What the batch still holds is dropped when it fails;
    /// of deletions and statuses that came until then traces are left, see cdedupe_untake(): a deletion of a key that
    /// the sink never heard of may come, and one may come only with the next `inSync`.
    private func act(_ state: inout State) {
        let isBound = state.restarted && state.untilFailure != nil
        switch Int.random(in: 0..<12, using: &state.random) {
        case 0, 1, 2:
            guard !isBound else { break }
            let status = SyncStatus(rawValue: .random(in: 0...2, using: &state.random))!
            buffer.onStatusUpdated(status)
            state.model.status(status)
        case 3:
            guard restarts else { break }
            buffer.onConnectionRestarted()
            state.model.restart()
            state.restarted = true
        default: put(&state, value: isBound || !state.random.oneIn(3))
        }
    }

    /// `isNews`: it is pending afterwards, and so the sink is called again.
    private func put(_ state: inout State, value: Bool, isNews: Bool = false) {
        state.number += 1
        let key = Int.random(in: 0..<8, using: &state.random)
        var update = Update(key: "key \(key)", value: value ? state.number : nil, revision: UInt64(state.number))
        if rules.suppresses && !isNews {
            update = Update(key: key, deletions: .max, revisions: 3, otherwise: state.number, using: &state.random)
            if !value { update.value = nil }
        }
        // A deletion and a value after it, while a failing sink has one that is merged with what is pending: see
        // MergeTests.whatAFailingSinkGivesBack_isNotMergedAcrossADeletion().
        if rules.merge != nil && state.untilFailure != nil && update.value == nil { update.value = state.number }
        buffer.onUpdates([update])
        state.model.update(update)
    }
}
