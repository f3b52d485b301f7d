// SPDX-License-Identifier: Apache-2.0

// minimumInterval: rounds of delivery begin no more often than that. The clock stands still until
// the test moves it.

import Dispatch
import Testing

@testable import DedupeBuffer

@Suite("Rounds of delivery")
struct RoundPacerTests {
    private var pacer = RoundPacer(interval: .seconds(10))

    @Test func firstBatch_isTakenAtOnce_andTheNextRoundWaits() {
        var pacer = pacer
        #expect(pacer.delay(at: .seconds(3)) == nil)
        #expect(pacer.took([1, nil, 2], isFull: false, at: .seconds(3)) == 3)
        #expect(pacer.delay(at: .seconds(4)) == .seconds(9))
        #expect(pacer.delay(at: .seconds(13)) == nil)
    }

    @Test func fullBatches_areOneRound_untilOneIsNotFull() {
        var pacer = pacer
        #expect(pacer.took([1, 2], isFull: true, at: .zero) == 2)
        #expect(pacer.delay(at: .seconds(1)) == nil)
        #expect(pacer.took([3], isFull: false, at: .seconds(1)) == 1)
        #expect(pacer.delay(at: .seconds(2)) == .seconds(8))
    }

    @Test func key_thatTheRoundHasHad_endsTheRound() {
        var pacer = pacer
        _ = pacer.took([1, 2], isFull: true, at: .zero)
        #expect(pacer.took([3, nil, 1, 4], isFull: true, at: .seconds(1)) == 2)
        #expect(pacer.delay(at: .seconds(1)) == .seconds(9))
        #expect(pacer.took([1, 4], isFull: true, at: .seconds(10)) == 2)
    }

    @Test func emptyQueue_endsTheRound() {
        var pacer = pacer
        _ = pacer.took([1, 2], isFull: true, at: .zero)
        pacer.foundEmpty()
        #expect(pacer.delay(at: .seconds(1)) == .seconds(9))
    }

    @Test func emptyQueue_beforeTheFirstRound_delaysNothing() {
        var pacer = pacer
        pacer.foundEmpty()
        #expect(pacer.delay(at: .seconds(1)) == nil)
    }

    /// A round that takes longer than the interval goes over into the next one.
    @Test func roundThatTakesLong_isFollowedAtOnce() {
        var pacer = pacer
        _ = pacer.took([1, 2], isFull: true, at: .zero)
        #expect(pacer.took([1, 3], isFull: true, at: .seconds(10)) == 2)
        #expect(pacer.took([1], isFull: false, at: .seconds(11)) == 0)
        #expect(pacer.delay(at: .seconds(11)) == .seconds(9))
    }
}

@Suite("Minimum interval")
struct IntervalTests {
    /// The ways to deliver that begin by themselves.
    enum Way: CaseIterable { case queue, thread, run, events }

    private let clock = ManualClock()

    private func makeBuffer(batchSize: Int = 100) -> StringBuffer {
        StringBuffer(
            configuration: .with {
                $0.batchSize = batchSize
                $0.minimumInterval = .seconds(10)
                $0.clock = clock
            })
    }

    private func start(
        _ way: Way, _ buffer: StringBuffer, _ handle: @escaping @Sendable (Event<String, Int>) -> Void
    ) throws -> Task<Void, any Error> {
        let sink = StringSink()
        sink.onEachCall(handle)
        switch way {
        case .queue:
            try buffer.startSending(to: sink)
            return Task {}
        case .thread:
            let thread = Worker("sendToSinkForever") { try buffer.sendToSinkForever(sink) }
            return Task {
                try await eventually("return") { thread.hasReturned }
                try thread.join()
            }
        case .run: return Task { try await buffer.run { handle(Event($0)) } }
        case .events: return Task { for try await event in buffer.events { handle(Event(event)) } }
        }
    }

    @Test(arguments: Way.allCases)
    func rounds_beginNoMoreOftenThanTheInterval(way: Way) async throws {
        let (buffer, heard) = (makeBuffer(), Kept<[Event<String, Int>]>([]))
        let delivering = try start(way, buffer) { event in heard.change { $0.append(event) } }
        buffer.set("a", 1)
        try await clock.waitForSleeper(1)
        #expect(heard.value == [.updates([.new("a", 1)])])
        clock.advance(by: .seconds(4))
        for n in 2...5 { buffer.set("a", n) }
        buffer.set("b", 1)
        #expect(heard.value.count == 1)
        clock.advance(by: .seconds(6))
        try await clock.waitForSleeper(2)
        #expect(heard.value.dropFirst() == [.updates([.updated("a", 5), .new("b", 1)])])
        #expect(clock.asked == [.seconds(10), .seconds(10)])
        await buffer.finish()
        try await outcome(of: delivering, "the end")
    }

    @Test(arguments: Way.allCases)
    func update_afterAnIdleTime_goesAtOnce(way: Way) async throws {
        let (buffer, heard) = (makeBuffer(), Kept<[Event<String, Int>]>([]))
        let delivering = try start(way, buffer) { event in heard.change { $0.append(event) } }
        buffer.set("a", 1)
        try await clock.waitForSleeper(1)
        clock.advance(by: .seconds(100))
        buffer.set("a", 2)
        // Without the clock moving.
        try await eventually("the second round") { heard.value.count == 2 }
        try await clock.waitForSleeper(2)
        await buffer.finish()
        try await outcome(of: delivering, "the end")
    }

    @Test(arguments: Way.allCases)
    func finish_inTheInterval_deliversAtOnce(way: Way) async throws {
        let (buffer, heard) = (makeBuffer(), Kept<[Event<String, Int>]>([]))
        let delivering = try start(way, buffer) { event in heard.change { $0.append(event) } }
        buffer.set("a", 1)
        try await clock.waitForSleeper(1)
        buffer.set("a", 2)
        #expect(try await within("finish") { await buffer.finish() }.isEmpty)
        #expect(heard.value.items() == [.new("a", 1), .updated("a", 2)])
        try await outcome(of: delivering, "the end")
    }

    @Test(arguments: Way.allCases)
    func stop_inTheInterval_ends(way: Way) async throws {
        let (buffer, heard) = (makeBuffer(), Kept<[Event<String, Int>]>([]))
        let delivering = try start(way, buffer) { event in heard.change { $0.append(event) } }
        buffer.set("a", 1)
        try await clock.waitForSleeper(1)
        buffer.set("a", 2)
        buffer.stop()
        try await within("finish") { await buffer.finish() }
        try await outcome(of: delivering, "the end")
        #expect(heard.value.count == 1)
        #expect(buffer.statistics.pendingKeys == 1)
    }

    /// All that was pending when the round began, each key once.
    @Test(arguments: Way.allCases)
    func round_hasManyBatches_andEachKeyOnce(way: Way) async throws {
        let (buffer, heard) = (makeBuffer(batchSize: 10), Kept<[Event<String, Int>]>([]))
        for n in 0..<35 { buffer.set("key \(n)", n) }
        let delivering = try start(way, buffer) { event in
            heard.change { $0.append(event) }
            buffer.set("key 0", -1)
        }
        try await clock.waitForSleeper(1)
        #expect(heard.value.items() == (0..<35).map { .new("key \($0)", $0) })
        #expect(buffer.statistics.batches == 4)
        #expect(buffer.statistics.pendingKeys == 1)
        #expect(buffer.statistics.unaccounted == 0)
        clock.advance(by: .seconds(10))
        try await clock.waitForSleeper(2)
        #expect(heard.value.items().last == .updated("key 0", -1))
        buffer.stop()
        try await outcome(of: delivering, "the end")
    }

    @Test func singleBatches_inTheInterval_findNothing() throws {
        let buffer = makeBuffer(batchSize: 2)
        for n in 0..<3 { buffer.set("key \(n)", n) }
        #expect(try buffer.flush().items().count == 3)
        buffer.set("a", 1)
        #expect(throws: DedupeBufferError.emptyQueue) { try buffer.sendNextBatchToSink(StringSink()) }
        clock.advance(by: .seconds(10))
        #expect(try buffer.flush() == [.updates([.new("a", 1)])])
    }

    /// A loop on a queue keeps the buffer until the interval is over.
    @Test func buffer_letGoInTheInterval_deliversWhatIsPending() async throws {
        weak var weakBuffer: StringBuffer?
        let sink = StringSink()
        do {
            let buffer = makeBuffer()
            weakBuffer = buffer
            try buffer.startSending(to: sink)
            buffer.set("a", 1)
            try await clock.waitForSleeper(1)
            buffer.set("a", 2)
        }
        #expect(weakBuffer != nil)
        clock.advance(by: .seconds(10))
        try await eventually("the second round") { sink.items.count == 2 }
        try await clock.waitForSleeper(2)
        clock.advance(by: .seconds(10))
        try await eventually("the buffer's end") { [weak weakBuffer] in weakBuffer == nil }
    }

    @Test func events_ofABufferThatIsGone_areHandedOutAtOnce() async throws {
        let heard = Kept<[Event<String, Int>]>([])
        let consumer: Task<Void, any Error>
        do {
            let buffer = makeBuffer()
            let events = buffer.events
            consumer = Task { for try await event in events { heard.change { $0.append(Event(event)) } } }
            buffer.set("a", 1)
            try await clock.waitForSleeper(1)
            buffer.set("a", 2)
        }
        try await outcome(of: consumer, "end of the events")
        #expect(heard.value.items() == [.new("a", 1), .updated("a", 2)])
    }
}
