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

    enum Way: CaseIterable { case events, run }

    /// Consumers come and go, each cancelled at some moment beside a source that also restarts;
    /// what they heard adds up to what the source has. The sinks of `run` also fail, its pauses are
    /// cancelled, and it is cancelled in the sink.
    @Test(arguments: Way.allCases, BufferRules.allCases)
    func consumers_cancelledAtAnyMoment_loseNothing(way: Way, rules: BufferRules) async throws {
        try await inRounds("\(#function), \(way), \(rules)", Self.cancellations) { random in
            let source = ListSource(rules, batchSize: 3, random: SeededGenerator(seed: random.next()))
            let heard = ListReplay()
            let producing = produce(source, SeededGenerator(seed: random.next()))
            for _ in 0..<2 {
                let consumer = Self.consume(source.buffer, way, heard, SeededGenerator(seed: random.next()))
                await pauseAtRandom(&random)
                consumer.cancel()
                try await Self.end(of: consumer)
            }
            var settled = await producing.value
            try Self.expect(try settled.settle(with: heard))
        }
    }

    /// The same by hand: the source acts while the consumer stands at one of its awaits, and it is
    /// cancelled at each of them in turn, having been woken or not.
    @Test(arguments: Way.allCases, BufferRules.allCases)
    func consumers_cancelledAtEachStep_loseNothing(way: Way, rules: BufferRules) async throws {
        let round = Kept(0)
        try await inRounds("\(#function), \(way), \(rules)", Self.cancellations) { random in
            let executor = SteppedExecutor()
            var source = ListSource(rules, batchSize: 3, random: SeededGenerator(seed: random.next()))
            let heard = ListReplay()
            for _ in 0..<2 {
                let seed = SeededGenerator(seed: random.next())
                let consumer = Self.consume(source.buffer, way, heard, seed, on: executor)
                let last = round.change { round in
                    round += 1
                    return round % 12
                }
                for _ in 0..<last {
                    for _ in 0..<Int.random(in: 0...2, using: &random) { source.act() }
                    executor.step()
                }
                if random.oneIn(2) { source.act() }
                consumer.cancel()
                if random.oneIn(2) { source.act() }
                do {
                    try await executor.outcome(of: consumer, "the consumer")
                } catch is CancellationError {}
            }
            try Self.expect(try source.settle(with: heard))
        }
    }

    /// All ways and rules together make the number of rounds.
    private static let cancellations = max(1, eventRounds / (Way.allCases.count * BufferRules.allCases.count))

    private static func consume(
        _ buffer: ListsBuffer, _ way: Way, _ heard: ListReplay, _ random: SeededGenerator,
        on executor: SteppedExecutor? = nil
    ) -> Task<Void, any Error> {
        Task(executorPreference: executor) {
            switch way {
            case .run: try await buffer.run(sink: FailingListReplay(heard: heard, random: Kept(random)))
            case .events:
                for try await event in buffer.events {
                    switch event {
                    case .updates(let updates): heard.onUpdates(updates)
                    case .status(let status): heard.onStatusUpdated(status)
                    }
                    if heard.calls.isMultiple(of: 3) { await Task.yield() }
                }
            }
        }
    }

    private static func end(of consumer: Task<Void, any Error>) async throws {
        do { try await consumer.value } catch is CancellationError {}
    }

    private static func expect(_ fault: String?) throws {
        if let fault { throw Fault(description: fault) }
    }

    private struct Fault: Error, CustomStringConvertible {
        var description: String
    }

    // MARK: The end

    enum End: CaseIterable { case stop, finish, finishSoon, letGo, cancel }

    /// Two ends at once, beside a producer. Everything ends; nothing is lost where all was to be
    /// delivered.
    @Test func consumer_endsInTwoWaysAtOnce() async throws {
        let tracker = LifetimeTracker()
        try await inRounds(#function, eventRounds) { random in
            var configuration = DedupeBufferConfiguration(batchSize: 2)
            configuration.gracePeriod = .zero
            let held = Kept<DedupeBuffer<String, Tracked>?>(DedupeBuffer(configuration: configuration))
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
        _ test: String, _ rounds: Int, _ scene: @escaping @Sendable (inout SeededGenerator) async throws -> Void
    ) async throws {
        let seed = announcedSeed(test)
        for round in stride(from: 0, to: rounds, by: 100) {
            try await within("rounds from \(round) of \(test), DEDUPE_TEST_SEED=\(seed)") {
                for round in round..<min(round + 100, rounds) {
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

/// The source acts for a while; what it has then.
private func produce(_ source: ListSource, _ random: SeededGenerator) -> Task<ListSource, Never> {
    Task {
        var (source, random) = (source, random)
        for _ in 0..<20 {
            source.act()
            if random.oneIn(8) { await Task.yield() }
        }
        return source
    }
}

private struct IndifferentSink: AsyncSyncerCallbacks {
    func onStatusUpdated(_ status: SyncStatus) async {}
    func onUpdates(_ updates: [Update<String, Tracked>]) async { await Task.yield() }
}
