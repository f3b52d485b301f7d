// SPDX-License-Identifier: Apache-2.0

// Failing sinks beside the model, from which what fails comes back too.

import Testing

@testable import DedupeBuffer

@Suite("run(sink:) against the model")
struct RunModelTests {
    @Test(arguments: [1, 2, 3, 100], [false, true])
    func failingSink_atRandom(batchSize: Int, restarts: Bool) async throws {
        try await Self.playAtRandom("failingSink_atRandom", batchSize: batchSize, restarts: restarts)
    }

    static func playAtRandom(
        _ name: String, batchSize: Int, restarts: Bool = true,
        rules: (inout SeededGenerator) -> Model.Rules = { _ in .init() }
    ) async throws {
        let seed = announcedSeed("\(name), batches of \(batchSize)")
        for round in 0..<rounds(40) {
            var random = SeededGenerator(seed: seed &+ UInt64(round))
            let play = Play(batchSize: batchSize, restarts: restarts, rules: rules(&random), random: random)
            try await within("run") { try await play.run() }
            if let fault = play.fault {
                Issue.record("DEDUPE_TEST_SEED=\(seed), round \(round): \(fault)")
                return
            }
        }
    }

    // MARK: The checkers themselves

    /// The play must be able to say no.
    @Test func play_objects_whenTheModelHasSomethingElse() async throws {
        let play = Play(batchSize: 3, restarts: false, random: SeededGenerator(seed: 1))
        play.spoil()
        try await within("run") { try await play.run() }
        #expect(play.fault != nil)
    }

    /// With nothing in between, what comes back was never taken.
    @Test(arguments: 0...5)
    func model_takesBackWhatItHasTaken(count: Int) {
        var model = Model(rules: Model.Rules(suppresses: true))
        for key in ["a", "b"] { model.update(Update(key: key, value: 0, revision: 1)) }
        _ = model.take(2)
        model.status(.resyncInProgress)
        model.update(Update(key: "a", value: 1, revision: 2))
        model.update(Update(key: "b", value: nil))
        model.update(Update(key: "c", value: 1))
        model.status(.inSync)
        let before = model
        _ = model.take(5)
        model.putBack(5)
        _ = model.take(count)
        model.putBack(count)
        #expect(model.queue == before.queue)
        #expect(model.sink == before.sink)
        #expect(model.outcome == before.outcome)
        #expect(model.delivered == before.delivered)
        #expect(
            model.take(5) == [
                .status(.resyncInProgress), .updates([.updated("a", 1, revision: 2), .deleted("b"), .new("c", 1)]),
                .status(.inSync),
            ])
    }
}

/// One buffer and its model. At the beginning of each batch the play says on which event the sink
/// will fail. All operations are done in the sink and in the pauses after its failures; the sink
/// must therefore be called again.
///
/// The model takes what the buffer takes, and takes back what fails. Beside it a second one takes
/// only what the sink will deal with: by it what fails was never taken. On the way the two may
/// differ, in what they come to they may not.
final class Play: AsyncSyncerCallbacks {
    typealias Key = String
    typealias Value = Int

    private struct State {
        var model: Model
        /// While a batch is delivered that will fail.
        var neverTaken: Model?
        var random: SeededGenerator
        /// What is still to come of the batch.
        var batch: [Event<String, Int>] = []
        /// How many events until the sink fails; `nil`: it does not in this batch.
        var untilFailure: Int?
        /// How many entries come back then.
        var entriesBack = 0
        var callsLeft = 60
        var number = 0
        var fault: String?
    }

    private let buffer: StringBuffer
    private let batchSize: Int
    private let restarts: Bool
    private let rules: Model.Rules
    private let state: Kept<State>

    init(batchSize: Int, restarts: Bool, rules: Model.Rules = .init(), random: SeededGenerator) {
        self.rules = rules
        self.batchSize = batchSize
        self.restarts = restarts
        state = Kept(State(model: Model(rules: rules), random: random))
        let itself = Kept<@Sendable () -> Play?>({ nil })
        let clock = ImpatientClock { itself.value()?.pause() }
        buffer = DedupeBuffer(
            batchSize: batchSize, retry: .init(maximumAttempts: nil, clock: clock), rules: rules
        ) {
            if rules.restartsAtOverflow { itself.value()?.buffer.onConnectionRestarted() }
        }
        itself.change { $0 = { [weak self] in self } }
    }

    var fault: String? { state.value.fault }

    func spoil() { state.change { $0.model.update(Update(key: "spoilt", value: 1)) } }

    func run() async throws {
        state.change { state in
            for _ in 0..<10 { act(&state) }
            seeToACall(&state)
        }
        // After a fault the buffer is stopped.
        do { try await buffer.run(sink: self) } catch is SinkFailure where fault != nil { return }
        state.change { state in
            if !state.model.queue.isEmpty { note(&state, "left: \(state.model.queue)") }
            compare(&state)
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
            judge(call, &state)
            state.untilFailure = state.untilFailure.map { $0 - 1 }
            state.callsLeft -= 1
            if state.callsLeft > 0 {
                for _ in 0..<Int.random(in: 0...4, using: &state.random) { act(&state) }
                if !fails && state.batch.isEmpty { seeToACall(&state) }
            }
            compare(&state)
            if fails { giveBack(&state) }
            return (fails, state.callsLeft <= 0)
        }
        if isLast { await buffer.finish() }
        if fails { throw SinkFailure() }
    }

    /// What failed is in the queue again, and not yet taken.
    private func pause() {
        state.change { state in
            compare(&state)
            if let broken = buffer.core.validate() { note(&state, "invariant: \(broken)") }
            guard state.callsLeft > 0 else { return }
            for _ in 0..<Int.random(in: 0...2, using: &state.random) { act(&state) }
            seeToACall(&state)
            compare(&state)
        }
    }

    // MARK: The model's side

    private func beginBatch(_ state: inout State) {
        let count = min(batchSize, state.model.queue.count)
        let (before, keys) = (state.model, keysTaken)
        state.batch = state.model.take(count, like: keys)
        guard state.callsLeft > 0, state.random.oneIn(2), !state.batch.isEmpty else { return }
        let failing = Int.random(in: state.batch.indices, using: &state.random)
        let dealtWith = state.batch[..<failing].reduce(0) { $0 + max(1, $1.items.count) }
        (state.untilFailure, state.entriesBack) = (failing, count - dealtWith)
        guard canComeToTheSame else { return }
        state.neverTaken = before
        if dealtWith > 0 { state.neverTaken?.take(dealtWith, like: keys) }
    }

    /// What has not gone for good counts for a bound. And what was taken is suppressed when it
    /// comes again, while of what is pending it would be merged with itself.
    private var canComeToTheSame: Bool {
        rules.maximumPendingKeys == nil && rules.maximumPendingBytes == nil && (rules.merge == nil || !rules.suppresses)
    }

    /// The keys of the batch that the sink is called for, `nil` for a status. Of the deletions that
    /// a resync owes, the buffer chooses which come first, and the model cannot know it.
    private var keysTaken: [String?] {
        let batch = buffer.core.taken
        return (0..<batch.count).map { i in
            batch.status(i) == nil ? String(decoding: batch.keyBytes(i), as: UTF8.self) : nil
        }
    }

    private func giveBack(_ state: inout State) {
        state.model.putBack(state.entriesBack)
        (state.batch, state.untilFailure) = ([], nil)
        if let other = state.neverTaken, other.outcome != state.model.outcome {
            note(&state, "comes to \(state.model.outcome); never taken it would have to \(other.outcome)")
        }
        state.neverTaken = nil
    }

    private func judge(_ call: Event<String, Int>, _ state: inout State) {
        guard !state.batch.isEmpty else { return note(&state, "delivered \(call); nothing was due") }
        let due = state.batch.removeFirst()
        if due != call { note(&state, "delivered \(call); due \(due)") }
    }

    private func compare(_ state: inout State) {
        if let difference = state.model.difference(from: buffer.statistics) { note(&state, difference) }
    }

    private func note(_ state: inout State, _ fault: String) {
        state.fault = state.fault ?? "call \(60 - state.callsLeft): \(fault)"
        // There is no telling what will come.
        buffer.stop()
    }

    // MARK: Operations on both

    private func inModels(_ state: inout State, _ body: (inout Model) -> Void) {
        body(&state.model)
        if var other = state.neverTaken {
            body(&other)
            state.neverTaken = other
        }
    }

    private func act(_ state: inout State) {
        switch Int.random(in: 0..<12, using: &state.random) {
        case 0, 1, 2:
            let status = SyncStatus(rawValue: .random(in: 0...2, using: &state.random))!
            buffer.onStatusUpdated(status)
            inModels(&state) { $0.status(status) }
        case 3: if restarts { restart(&state) }
        default: put(&state)
        }
    }

    private func restart(_ state: inout State) {
        buffer.onConnectionRestarted()
        inModels(&state) { $0.restart() }
    }

    /// Something is pending afterwards.
    private func seeToACall(_ state: inout State) {
        put(&state, isNews: true)
        guard state.model.queue.isEmpty else { return }
        // An overflow.
        restart(&state)
        put(&state, isNews: true)
    }

    /// `isNews`: a value that the sink has not.
    private func put(_ state: inout State, isNews: Bool = false) {
        state.number += 1
        let key = Int.random(in: 0..<8, using: &state.random)
        var update = Update(key: "key \(key)", value: state.number, revision: UInt64(state.number) + 3)
        if rules.suppresses && !isNews {
            update = Update(key: key, deletions: .max, revisions: 3, otherwise: state.number, using: &state.random)
        }
        if !isNews && state.random.oneIn(3) { update.value = nil }
        buffer.onUpdates([update])
        inModels(&state) { model in
            model.update(update)
            if rules.restartsAtOverflow && model.isOverflowed { model.restart() }
        }
    }
}
