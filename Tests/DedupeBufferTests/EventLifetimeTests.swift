// SPDX-License-Identifier: Apache-2.0

// Who keeps whom alive where tasks consume; every value ends once.

import DedupeBuffer
import Foundation
import Testing

@Suite("Lifetimes of events")
struct EventLifetimeTests {
    private typealias Buffer = DedupeBuffer<String, Tracked>
    private typealias Events = DedupeBufferEvents<String, Tracked>

    private let tracker = LifetimeTracker()

    /// Counts what it consumes until the events end.
    private func consume(_ events: Events, into count: Kept<Int>) -> Task<Void, any Error> {
        Task {
            for try await event in events {
                if case .updates(let updates) = event { count.change { $0 += updates.count } }
            }
        }
    }

    private func makeBuffer(values: Int) -> Buffer {
        let buffer: Buffer = DedupeBufferTests.makeBuffer(batchSize: 2)
        for n in 0..<values { buffer.set("key \(n)", tracker.make()) }
        return buffer
    }

    private func expectEnd() async throws {
        try await eventually("every value's end") { [tracker] in tracker.alive == 0 }
        #expect(tracker.destroyedTwice == [])
    }

    @Test func buffer_letGoWhileTheConsumerWaits_ends_andSoDoTheEvents() async throws {
        var buffer: Buffer? = makeBuffer(values: 1)
        weak let weakBuffer = buffer
        let heard = Kept(0)
        let consumer = consume(buffer!.events, into: heard)
        try await eventually("an event") { heard.value == 1 }
        buffer = nil
        #expect(weakBuffer == nil)
        try await outcome(of: consumer, "end of the events")
        try await expectEnd()
    }

    @Test func buffer_letGoBeforeAConsumer_allIsHandedOut() async throws {
        let events = makeBuffer(values: 5).events
        let heard = Kept(0)
        try await outcome(of: consume(events, into: heard), "end of the events")
        #expect(heard.value == 5)
        try await expectEnd()
    }

    @Test func buffer_letGo_oneConsumerAfterAnother_getsWhatIsLeft() async throws {
        let events = makeBuffer(values: 5).events
        var iterator: Events.Iterator? = events.makeAsyncIterator()
        _ = try await iterator?.next()
        iterator = nil
        let heard = Kept(0)
        try await outcome(of: consume(events, into: heard), "end of the events")
        #expect(heard.value == 3)
        try await outcome(of: consume(events, into: heard), "end of the events")
        #expect(heard.value == 3)
        try await expectEnd()
    }

    @Test func buffer_letGo_nobodyConsumes_theValuesEndWithTheEvents() throws {
        var events: Events? = makeBuffer(values: 5).events
        #expect(tracker.alive == 5)
        withExtendedLifetime(events) {}
        events = nil
        #expect(tracker.alive == 0)
        #expect(tracker.destroyedTwice == [])
    }

    @Test func buffer_withoutEvents_itsValuesEndWithIt() {
        var buffer: Buffer? = makeBuffer(values: 5)
        withExtendedLifetime(buffer) {}
        buffer = nil
        #expect(tracker.alive == 0)
    }

    @Test func buffer_letGoAfterItsLoop_eventsAreNone() async throws {
        var buffer: Buffer? = makeBuffer(values: 5)
        let sink = ForgettingSink<String, Tracked>()
        try buffer?.startSending(to: sink)
        let events = try #require(buffer?.events)
        buffer = nil
        try await eventually("delivery") { sink.updates == 5 }
        let heard = Kept(0)
        try await eventually("end of the buffer") {
            // While the last drain runs, the loop is there.
            tracker.alive == 0
        }
        try await within("end of the events") {
            while true {
                do {
                    for try await _ in events { heard.change { $0 += 1 } }
                    return
                } catch {
                    await Task.yield()
                }
            }
        }
        #expect(heard.value == 0)
    }

    /// The task holds the buffer, and waits for it: that lasts until somebody ends it.
    @Test func cycle_ofATaskThatHoldsItsBuffer_isBrokenByStop() async throws {
        var buffer: Buffer? = makeBuffer(values: 1)
        weak let weakBuffer = buffer
        let heard = Kept(0)
        let consumer = Task { [buffer] in
            for try await _ in buffer!.events {
                heard.change { $0 += 1 }
                withExtendedLifetime(buffer) {}
            }
            withExtendedLifetime(buffer) {}
        }
        try await eventually("an event") { heard.value == 1 }
        buffer = nil
        #expect(weakBuffer != nil)
        weakBuffer?.stop()
        try await outcome(of: consumer, "end of the events")
        try await eventually("end of the buffer") { [weak weakBuffer] in weakBuffer == nil }
        try await expectEnd()
    }

    /// The buffer goes while the consumer is about to wait, is being woken, or is in the middle.
    @Test func buffer_letGoAtAnyMoment_allIsHandedOut() async throws {
        let seed = announcedSeed(#function)
        try await within("all rounds") { [tracker] in
            for round in 0..<rounds(10_000) {
                var random = SeededGenerator(seed: seed &+ UInt64(round))
                let heard = Kept(0)
                var buffer: Buffer? = DedupeBufferTests.makeBuffer(batchSize: 2)
                let events = buffer!.events
                let consumer = Task {
                    for try await event in events {
                        if case .updates(let updates) = event { heard.change { $0 += updates.count } }
                    }
                }
                await pauseAtRandom(&random)
                let count = Int.random(in: 0...5, using: &random)
                for n in 0..<count { buffer?.set("key \(n)", tracker.make()) }
                await pauseAtRandom(&random)
                buffer = nil
                try await consumer.value
                #expect(heard.value == count, "DEDUPE_TEST_SEED=\(seed), round \(round)")
            }
        }
        try await expectEnd()
    }

    /// What comes back from a consumer is displaced by something newer, on a thread that has
    /// nothing to do with it.
    @Test func value_thatFinishesTheBuffer_whenAnIteratorIsLetGo_goesOn() async throws {
        let buffer: Buffer = DedupeBufferTests.makeBuffer(batchSize: 2)
        buffer.onStatusUpdated(.inSync)
        buffer.set("a", tracker.make { [unowned buffer] in buffer.finishAndWait() })
        let held = HeldIterator(buffer.events.makeAsyncIterator())
        _ = try await within("an event") { try await held.next() }
        buffer.set("a", tracker.make())
        let lettingGo = Worker("letting go of an iterator") { held.letGo() }
        try await eventually("its end") { lettingGo.hasReturned }
        #expect(buffer.statistics.pendingKeys == 1)
        buffer.set("b", tracker.make())
        #expect(buffer.statistics.dropped == 1)
    }

    /// The last reference to the value is the event's.
    @Test func value_thatFinishesTheBuffer_whenTheSinkForgetsIt_goesOn() async throws {
        let buffer = makeBuffer(values: 0)
        buffer.set("a", tracker.make { [unowned buffer] in buffer.finishAndWait() })
        try await within("run") { try await buffer.run { _ in } }
        try await expectEnd()
    }

    /// What a failing sink was given is in the queue during the pause, and nowhere else.
    @Test func values_thatARestartDropsInAPause_endThen() async throws {
        let clock = TestClock()
        let buffer = Buffer(batchSize: 2, retry: .init(clock: clock))
        for key in ["a", "b"] { buffer.set(key, tracker.make()) }
        let running = Task { try await buffer.run { _ in throw SinkFailure() } }
        try await clock.waitForSleeper()
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        try await expectEnd()
        buffer.stop()
        _ = await running.result
    }

    /// Values come back from the sink, are displaced, dropped and left over.
    @Test func values_ofAFailingSink_endOnce() async throws {
        let seed = announcedSeed(#function)
        try await within("all rounds") { [tracker] in
            for round in 0..<rounds(200) {
                try await failAtRandom(SeededGenerator(seed: seed &+ UInt64(round)), tracker)
                #expect(tracker.destroyedTwice == [])
            }
        }
        try await expectEnd()
    }
}

/// `@unchecked`: one at a time uses it.
private final class HeldIterator: @unchecked Sendable {
    private var iterator: DedupeBufferEvents<String, Tracked>.Iterator?

    init(_ iterator: sending DedupeBufferEvents<String, Tracked>.Iterator) { self.iterator = iterator }

    func next() async throws -> DedupeBufferEvent<String, Tracked>? { try await iterator?.next(isolation: nil) }
    func letGo() { iterator = nil }
}

/// One buffer's life, with a sink that fails every other time.
private func failAtRandom(_ random: SeededGenerator, _ tracker: LifetimeTracker) async throws {
    let random = Kept(random)
    let buffer = DedupeBuffer<String, Tracked>(
        batchSize: 4, retry: .init(maximumAttempts: 4, clock: ImpatientClock()))
    @Sendable func act() {
        random.change { random in
            let key = "key \(Int.random(in: 0..<6, using: &random))"
            buffer.onUpdates([Update(key: key, value: random.oneIn(3) ? nil : tracker.make())])
            if random.oneIn(6) { buffer.onStatusUpdated(SyncStatus(rawValue: .random(in: 0...2, using: &random))!) }
            if random.oneIn(12) { buffer.onConnectionRestarted() }
        }
    }
    for _ in 0..<10 { act() }
    let sink = ScriptedSink<Tracked> { _, number in
        for _ in 0..<3 { act() }
        // Something is pending: it will be called again.
        buffer.set("last", tracker.make())
        if number == 40 { buffer.stop() }
        if random.change({ $0.oneIn(2) }) { throw SinkFailure(number: number) }
    }
    buffer.set("last", tracker.make())
    do { try await buffer.run(sink: sink) } catch is SinkFailure {}
    #expect(buffer.statistics.unaccounted == 0)
}
