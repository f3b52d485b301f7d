// SPDX-License-Identifier: Apache-2.0

// What the sink has already does not come again, with sinks that fail, and against the model. The
// rules of suppression are in Tests/Scenarios.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

@Suite("Suppression")
struct SuppressionTests {
    private static let rules = Model.Rules(suppresses: true)

    private let buffer = StringBuffer(
        configuration: DedupeBufferConfiguration(retry: .init(maximumAttempts: 1)).with {
            $0.skipsUnchangedRevisions = true
        })

    private func deliver(_ key: String, _ value: Int, revision: UInt64) throws {
        buffer.set(key, value, revision: revision)
        _ = try buffer.flush()
    }

    @Test func highestRevision_isARevision() throws {
        try deliver("a", 1, revision: .max)
        buffer.set("a", 1, revision: .max)
        #expect(buffer.statistics.suppressed == 1)
    }

    // MARK: Sinks that fail

    /// Runs with a sink that fails; `duringFailure` inside the call that does.
    private func failOnce(_ buffer: StringBuffer, _ duringFailure: @escaping @Sendable () -> Void) async {
        let sink = ScriptedSink<Int> { _, _ in
            duringFailure()
            throw SinkFailure()
        }
        await #expect(throws: SinkFailure.self) { try await within("run") { try await buffer.run(sink: sink) } }
    }

    @Test func whatASinkFailedOn_isNotDelivered_andComesAgain() async throws {
        let buffer = buffer
        buffer.set("a", 1, revision: 5)
        await failOnce(buffer) { buffer.set("a", 1, revision: 5) }
        #expect(try bounded("flush") { try buffer.flush() } == [.updates([.new("a", 1, revision: 5)])])
        #expect(buffer.statistics.unaccounted == 0)
        buffer.set("a", 1, revision: 5)
        #expect(try bounded("flush") { try buffer.flush() } == [])
    }

    @Test func whatASinkFailedOn_doesNotSuppress_whatIsSentAgainAfterARestart() async throws {
        let buffer = buffer
        buffer.set("a", 1, revision: 5)
        await failOnce(buffer) {}
        buffer.onConnectionRestarted()
        buffer.set("a", 1, revision: 5)
        #expect(try bounded("flush") { try buffer.flush() } == [.updates([.new("a", 1, revision: 5)])])
    }

    @Test(arguments: [false, true])
    func sentAgainAfterARestart_whileTheFailingSinkHasIt_isNotLost(isLive: Bool) async throws {
        let buffer = buffer
        if isLive { try bounded("deliver") { try self.deliver("a", 4, revision: 4) } }
        buffer.set("a", 5, revision: 5)
        await failOnce(buffer) {
            buffer.onConnectionRestarted()
            buffer.set("a", 5, revision: 5)
            buffer.onStatusUpdated(.inSync)
        }
        let calls = try bounded("flush") { try buffer.flush() }
        #expect(calls.items() == [isLive ? .updated("a", 5, revision: 5) : .new("a", 5, revision: 5)])
        #expect(calls.statuses() == [.inSync])
        #expect(buffer.statistics.liveKeys == 1)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func sentAgainAfterARestart_whileASinkHasItThatTakesIt_isSuppressed() async throws {
        let (buffer, sink) = (buffer, StringSink())
        buffer.set("a", 5, revision: 5)
        sink.onEachCall { call in
            guard !call.items.isEmpty else { return }
            buffer.onConnectionRestarted()
            buffer.set("a", 5, revision: 5)
            buffer.onStatusUpdated(.inSync)
        }
        try bounded("a batch") { try buffer.sendNextBatchToSink(sink) }
        #expect(try bounded("flush") { try buffer.flush() } == [.status(.inSync)])
        #expect(buffer.statistics.suppressed == 1)
        #expect(buffer.statistics.liveKeys == 1)
    }

    // MARK: Against the model

    @Test(arguments: [2, 8, 60])
    func randomSequences(keys: Int) throws {
        try ModelTests.compareAtRandom("suppression", keys: keys, revisions: 3) { _ in Self.rules }
    }

    @Test(arguments: [1, 2, 3, 100])
    func failingSink_atRandom(batchSize: Int) async throws {
        try await RunModelTests.playAtRandom("suppression", batchSize: batchSize) { _ in Self.rules }
    }

    /// Whatever fails and restarts: after the last resync the sink has what the source has.
    @Test(arguments: [1, 2, 3, 100])
    func sinkThatFails_beginsAnewWithTheSource_atRandom(batchSize: Int) async throws {
        let seed = announcedSeed("suppression with restarts, batches of \(batchSize)")
        for round in 0..<rounds(200) {
            let replay = ConvergingPlay(
                batchSize: batchSize, rules: Self.rules, random: SeededGenerator(seed: seed &+ UInt64(round)))
            if let fault = try await within("run", { try await replay.run() }) {
                Issue.record("DEDUPE_TEST_SEED=\(seed), round \(round): \(fault)")
                return
            }
        }
    }

    @Test func manyThreads_beside_aLoop() throws {
        let (buffer, sink) = (buffer, ReplayingSink())
        let loop = try RunningLoop(.ownQueue, of: buffer, to: sink)
        let writers = (0..<4).map { writer in
            Worker<Void>("writer \(writer)") {
                var random = SeededGenerator(seed: UInt64(writer))
                for n in 0..<rounds(20_000) {
                    let key = "key \(writer) \(Int.random(in: 0..<20, using: &random))"
                    let revision = UInt64.random(in: 1...2, using: &random)
                    if n % 7 == 0 { buffer.delete(key) } else { buffer.set(key, Int(revision), revision: revision) }
                }
                for n in 0..<20 { buffer.set("key \(writer) \(n)", 1, revision: 1) }
            }
        }
        for writer in writers { try writer.join() }
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.violations == [])
        #expect(sink.state.count == 80)
        #expect(sink.state.values.allSatisfy { $0 == 1 })
        #expect(buffer.statistics.suppressed > 0)
        #expect(buffer.statistics.unaccounted == 0)
    }
}

/// A source with a state of its own, whose updates come with restarts and whole snapshots beside a
/// sink that fails now and then. All is done in the sink. At the end what the sink was told must
/// add up to what the source has.
final class ConvergingPlay: AsyncSyncerCallbacks {
    typealias Key = String
    typealias Value = Int

    private struct State {
        var random: SeededGenerator
        var source: [String: Int] = [:]
        var sink: [String: Int] = [:]
        var number = 0
        var callsLeft = 40
        var fault: String?
    }

    private let buffer: StringBuffer
    private let state: Kept<State>
    private let overflowed: Kept<Bool>

    init(batchSize: Int, rules: Model.Rules, random: SeededGenerator) {
        state = Kept(State(random: random))
        let overflowed = Kept(false)
        self.overflowed = overflowed
        buffer = StringBuffer(
            batchSize: batchSize, retry: .init(maximumAttempts: nil, clock: ImpatientClock()), rules: rules
        ) {
            overflowed.change { $0 = true }
        }
    }

    /// What is wrong in the end, or nil.
    func run() async throws -> String? {
        state.change { act(&$0) }
        buffer.onStatusUpdated(.inSync)
        buffer.set("begin", 1)
        state.change { $0.source["begin"] = 1 }
        try await buffer.run(sink: self)
        return state.change { state in
            if let fault = state.fault { return fault }
            if state.sink != state.source { return "the sink has \(state.sink), the source \(state.source)" }
            let statistics = buffer.statistics
            return statistics.unaccounted == 0 && statistics.liveKeys == state.source.count ? nil : "\(statistics)"
        }
    }

    func onStatusUpdated(_ status: SyncStatus) async throws { try await handle([]) }
    func onUpdates(_ updates: [Update<String, Int>]) async throws { try await handle(updates) }

    private func handle(_ updates: [Update<String, Int>]) async throws {
        let (fails, isLast) = state.change { state in
            let fails = state.callsLeft > 0 && state.random.oneIn(3)
            state.callsLeft -= 1
            if !fails {
                for update in updates {
                    let had = state.sink[update.key] != nil
                    let type: UpdateType = update.value == nil ? .deleted : had ? .updated : .new
                    if update.updateType != type { state.fault = state.fault ?? "\(update), must be \(type)" }
                    state.sink[update.key] = update.value
                }
            }
            if state.callsLeft > 0 {
                for _ in 0..<Int.random(in: 1...4, using: &state.random) { act(&state) }
            } else if state.callsLeft == 0 {
                restart(&state)
            }
            return (fails, state.callsLeft < 0)
        }
        if isLast { await buffer.finish() }
        if fails { throw SinkFailure() }
    }

    private func act(_ state: inout State) {
        if overflowed.value || state.random.oneIn(8) { restart(&state) }
        let key = Int.random(in: 0..<6, using: &state.random)
        state.number += 1
        let update = Update(key: key, deletions: 3, revisions: 2, otherwise: state.number, using: &state.random)
        buffer.onUpdates([update])
        state.source[update.key] = update.value
        revisions.change { $0[update.key] = update.revision }
        // So that the sink is called again.
        state.number += 1
        buffer.set("call", state.number)
        state.source["call"] = state.number
    }

    private let revisions = Kept<[String: UInt64]>([:])

    /// Begins anew: everything that the source has, with the revisions that it came with.
    private func restart(_ state: inout State) {
        for attempt in 0..<2 {
            overflowed.change { $0 = false }
            buffer.onConnectionRestarted()
            let all = state.source.sorted { $0.key < $1.key }
            buffer.onUpdates(all.map { Update(key: $0.key, value: $0.value, revision: revisions.value[$0.key] ?? 0) })
            buffer.onStatusUpdated(.inSync)
            if !overflowed.value || attempt > 0 { return }
        }
    }
}
