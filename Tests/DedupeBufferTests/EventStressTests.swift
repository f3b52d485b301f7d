// SPDX-License-Identifier: Apache-2.0

// Tasks that consume, beside producers on threads, cancelled and stopped at any moment.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

/// Rounds of each scene; `DEDUPE_ROUNDS` sets another number.
private let eventRounds = ProcessInfo.processInfo.environment["DEDUPE_ROUNDS"].flatMap { Int($0) } ?? rounds(10_000)

@Suite("Events under stress", .serialized)
struct EventStressTests {
    // MARK: Wake-ups

    /// Each producer waits until the consumer has its update: one lost wake-up, and nobody goes on.
    @Test(arguments: [1, 3])
    func consumer_wakesUp_forEveryUpdate(producers: Int) async throws {
        let (buffer, count) = (StringBuffer(), max(1, eventRounds / 2 / producers))
        let heard = (0..<producers).map { _ in DispatchSemaphore(value: 0) }
        let consumer = Task {
            for try await event in buffer.events {
                for item in Event(event).items { heard[Int(item.key)!].signal() }
            }
        }
        let threads = heard.indices.map { number in
            Worker("producer") {
                for n in 0..<count {
                    buffer.set("\(number)", n)
                    heard[number].wait()
                }
            }
        }
        for thread in threads { try await eventually("a producer, with all that it put") { thread.hasReturned } }
        buffer.stop()
        try await outcome(of: consumer, "end of the events")
        #expect(buffer.statistics.delivered == producers * count)
    }

    // MARK: Cancellation

    /// Consumers come and go, each cancelled at some moment; what they heard adds up to what was put.
    @Test func consumers_cancelledAtAnyMoment_loseNothing() async throws {
        try await inRounds(#function) { random in
            let (buffer, heard): (StringBuffer, _) = (makeBuffer(batchSize: 3), ReplayingSink())
            let producing = produce(to: buffer, random.next())
            for _ in 0..<2 {
                let consumer = Task {
                    for try await event in buffer.events {
                        event.replay(to: heard)
                        if heard.updatesHeard.isMultiple(of: 3) { await Task.yield() }
                    }
                }
                await pauseAtRandom(&random)
                consumer.cancel()
                try await consumer.value
            }
            try await settle(buffer, producing, heard)
        }
    }

    /// The same for `run`, whose sink also fails, whose pauses are cancelled, and who is cancelled in the sink.
    @Test func runs_cancelledAtAnyMoment_loseNothing() async throws {
        try await inRounds(#function) { random in
            let heard = ReplayingSink()
            let buffer = StringBuffer(
                batchSize: 3, retry: DedupeBufferRetry(initialDelay: .zero, maximumAttempts: nil))
            let producing = produce(to: buffer, random.next())
            for _ in 0..<2 {
                let failures = Kept(SeededGenerator(seed: random.next()))
                let running = Task {
                    try await buffer.run(sink: ReplayingAsyncSink(heard: heard, random: failures))
                }
                await pauseAtRandom(&random)
                running.cancel()
                await #expect(throws: CancellationError.self) { try await running.value }
            }
            try await settle(buffer, producing, heard)
        }
    }

    /// What is left is delivered by hand; then the sink has what was put last.
    private func settle(
        _ buffer: StringBuffer, _ producing: Task<[String: Int], Never>, _ heard: ReplayingSink
    ) async throws {
        let state = await producing.value
        do {
            while true { try buffer.sendNextBatchToSink(heard) }
        } catch DedupeBufferError.emptyQueue {}
        try #require(heard.violations == [])
        try #require(heard.state == state)
        try #require(buffer.statistics.unaccounted == 0)
        try #require(buffer.statistics.liveKeys == state.count)
    }

    // MARK: The end

    enum End: CaseIterable { case stop, finish, finishSoon, letGo, cancel }

    /// Two ends at once, beside a producer. Everything ends; nothing is lost where all was to be delivered.
    @Test func consumer_endsInTwoWaysAtOnce() async throws {
        let tracker = LifetimeTracker()
        try await inRounds(#function) { random in
            let held: Kept<DedupeBuffer<String, Tracked>?> = Kept(makeBuffer(batchSize: 2))
            let ends = (0..<2).map { _ in End.allCases.randomElement(using: &random)! }
            let usesRun = random.oneIn(2)
            let consumer = consume(held.value!, usesRun: usesRun)
            await withTaskGroup { group in
                for end in ends {
                    let seed = random.next()
                    group.addTask {
                        var random = SeededGenerator(seed: seed)
                        for n in 0..<5 { held.value?.set("key \(n)", tracker.make()) }
                        await pauseAtRandom(&random)
                        await perform(end, on: held, consumer)
                    }
                }
            }
            held.change { $0 = nil }
            // A `run` keeps its buffer, and the other end may have found it gone.
            if usesRun && ends.contains(.letGo) { consumer.cancel() }
            do { try await consumer.value } catch is CancellationError {} catch DedupeBufferError.stopped {}
        }
        try await eventually("every value's end") { tracker.alive == 0 }
        #expect(tracker.destroyedTwice == [])
    }

    private func consume(_ buffer: DedupeBuffer<String, Tracked>, usesRun: Bool) -> Task<Void, any Error> {
        if usesRun { return Task { [buffer] in try await buffer.run(sink: IndifferentSink()) } }
        return Task { [events = buffer.events] in
            for try await _ in events { await Task.yield() }
        }
    }

    // MARK: Rounds

    /// Plays a scene again and again, until one fails.
    private func inRounds(
        _ test: String, _ scene: @escaping @Sendable (inout SeededGenerator) async throws -> Void
    ) async throws {
        let seed = announcedSeed(test)
        for round in stride(from: 0, to: eventRounds, by: 100) {
            try await within("rounds from \(round) of \(test), DEDUPE_TEST_SEED=\(seed)") {
                for round in round..<min(round + 100, eventRounds) {
                    var random = SeededGenerator(seed: seed &+ UInt64(round))
                    do {
                        try await scene(&random)
                    } catch {
                        Issue.record("\(test), round \(round), DEDUPE_TEST_SEED=\(seed): \(error)")
                        throw error
                    }
                }
            }
        }
    }
}

private func perform(
    _ end: EventStressTests.End, on held: Kept<DedupeBuffer<String, Tracked>?>, _ consumer: Task<Void, any Error>
) async {
    switch end {
    case .stop: held.value?.stop()
    case .finish: await held.value?.finish()
    case .finishSoon: await held.value?.finish(deadline: .now)
    case .letGo: held.change { $0 = nil }
    case .cancel: consumer.cancel()
    }
}

/// Values, deletions and statuses of a few keys; the state that they come to.
private func produce(to buffer: StringBuffer, _ seed: UInt64) -> Task<[String: Int], Never> {
    Task {
        var random = SeededGenerator(seed: seed)
        var state: [String: Int] = [:]
        for n in 0..<20 {
            let key = "key \(Int.random(in: 0..<5, using: &random))"
            state[key] = random.oneIn(3) ? nil : n
            buffer.onUpdates([Update(key: key, value: state[key])])
            if random.oneIn(4) { buffer.onStatusUpdated(SyncStatus(rawValue: .random(in: 0...2, using: &random))!) }
            if random.oneIn(8) { await Task.yield() }
        }
        return state
    }
}

extension DedupeBufferEvent<String, Int> {
    fileprivate func replay(to sink: ReplayingSink) {
        switch self {
        case .updates(let updates): sink.onUpdates(updates)
        case .status(let status): sink.onStatusUpdated(status)
        }
    }
}

/// Hands on what it does not fail on.
private struct ReplayingAsyncSink: AsyncSyncerCallbacks {
    let heard: ReplayingSink
    let random: Kept<SeededGenerator>

    func onStatusUpdated(_ status: SyncStatus) async throws {
        try await fail()
        heard.onStatusUpdated(status)
    }

    func onUpdates(_ updates: [Update<String, Int>]) async throws {
        try await fail()
        heard.onUpdates(updates)
    }

    private func fail() async throws {
        if random.change({ $0.oneIn(3) }) { await Task.yield() }
        if random.change({ $0.oneIn(3) }) { try Task.checkCancellation() }
        if random.change({ $0.oneIn(3) }) { throw SinkFailure() }
    }
}

private struct IndifferentSink: AsyncSyncerCallbacks {
    func onStatusUpdated(_ status: SyncStatus) async {}
    func onUpdates(_ updates: [Update<String, Tracked>]) async { await Task.yield() }
}
