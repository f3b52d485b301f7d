// SPDX-License-Identifier: Apache-2.0

// events: what one consumer is handed, and how that ends.

import DedupeBuffer
import Dispatch
import Testing

@Suite("Events")
struct EventTests {
    private let buffer = StringBuffer()

    /// Consumes in a task of its own until the sequence ends.
    private func consume(
        _ events: StringEvents, into heard: Kept<[Event<String, Int>]>,
        onEach: @escaping @Sendable (Event<String, Int>) async -> Void = { _ in }
    ) -> Task<Void, any Error> {
        Task {
            for try await event in events {
                heard.change { $0.append(Event(event)) }
                await onEach(Event(event))
            }
        }
    }

    private func wait(for heard: Kept<[Event<String, Int>]>, count: Int) async throws {
        try await eventually("\(count) events") { heard.change { $0.count } >= count }
    }

    // MARK: What comes

    @Test func events_comeInOrder_runsOfUpdatesTogether() async throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
        buffer.delete("c")
        var iterator = buffer.events.makeAsyncIterator()
        #expect(try await iterator.next() == .status(.resyncInProgress))
        #expect(
            try await iterator.next().map { Event($0) } == .updates([.new("a", 1), .new("b", 2)]))
        #expect(try await iterator.next() == .status(.inSync))
        #expect(try await iterator.next().map { Event($0) } == .updates([.deleted("c")]))
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func events_areConflated_whileTheConsumerIsSlow() async throws {
        var iterator = buffer.events.makeAsyncIterator()
        buffer.set("a", 1)
        _ = try await iterator.next()
        for n in 2...100 { buffer.set("a", n) }
        #expect(try await iterator.next().map { Event($0) } == .updates([.updated("a", 100)]))
    }

    @Test func batch_isNoLargerThanConfigured() async throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 2)
        for n in 1...5 { buffer.set("key \(n)", n) }
        var iterator = buffer.events.makeAsyncIterator()
        var sizes: [Int] = []
        while sizes.reduce(0, +) < 5 { sizes.append(try await iterator.next().map { Event($0).items.count } ?? 0) }
        #expect(sizes == [2, 2, 1])
    }

    @Test func restart_thenInSync_deletesForTheConsumer() async throws {
        buffer.set("a", 1)
        buffer.set("b", 1)
        var iterator = buffer.events.makeAsyncIterator()
        _ = try await iterator.next()
        buffer.onConnectionRestarted()
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
        #expect(try await iterator.next().map { Event($0) } == .updates([.updated("b", 2), .deleted("a")]))
        #expect(try await iterator.next() == .status(.inSync))
    }

    @Test func next_whileNothingIsPending_waits() async throws {
        let heard = Kept<[Event<String, Int>]>([])
        let consumer = consume(buffer.events, into: heard)
        for n in 1...20 {
            buffer.set("a", n)
            try await wait(for: heard, count: n)
        }
        buffer.stop()
        try await outcome(of: consumer, "end of the events")
        #expect(heard.value.items().map(\.value) == (1...20).map { $0 })
    }

    @Test func events_areConsumedByAnActor_whereItIs() async throws {
        actor Consumer {
            var heard: [Event<String, Int>] = []

            func consume(_ events: StringEvents) async throws {
                for try await event in events {
                    assertIsolated()
                    heard.append(Event(event))
                }
            }
        }
        let (buffer, consumer) = (buffer, Consumer())
        let consuming = Task { try await consumer.consume(buffer.events) }
        buffer.set("a", 1)
        try await eventually("delivery") { buffer.statistics.delivered == 1 }
        await buffer.finish()
        try await outcome(of: consuming, "end of the events")
        #expect(await consumer.heard == [.updates([.new("a", 1)])])
    }

    // MARK: One consumer

    @Test func secondConsumer_isRefused_andTheFirstGoesOn() async throws {
        buffer.set("a", 1)
        var first = buffer.events.makeAsyncIterator()
        _ = try await first.next()
        var second = buffer.events.makeAsyncIterator()
        await #expect(throws: DedupeBufferError.alreadySending) { try await second.next() }
        #expect(try await second.next() == nil)
        #expect(throws: DedupeBufferError.alreadySending) { try buffer.sendNextBatchToSink(StringSink()) }
        #expect(throws: DedupeBufferError.alreadySending) { try buffer.startSending(to: StringSink()) }
        await #expect(throws: DedupeBufferError.alreadySending) { try await buffer.run(sink: ScriptedSink<Int>()) }
        buffer.set("b", 2)
        #expect(try await first.next().map { Event($0) } == .updates([.new("b", 2)]))
    }

    @Test func consumer_whileALoopRuns_isRefused() async throws {
        try buffer.startSending(to: StringSink())
        var iterator = buffer.events.makeAsyncIterator()
        await #expect(throws: DedupeBufferError.alreadySending) { try await iterator.next() }
        await buffer.finish()
    }

    @Test func copiesOfAnIterator_areOneConsumer() async throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        var first = buffer.events.makeAsyncIterator()
        var second = first
        #expect(try await first.next() == .status(.resyncInProgress))
        #expect(try await second.next().map { Event($0) } == .updates([.new("a", 1)]))
    }

    /// The first call goes on.
    @Test func iterator_askedTwiceAtOnceByAnActor_refusesTheSecond() async throws {
        actor Consumer {
            private let iterator: StringEvents.Iterator

            init(_ buffer: StringBuffer) { iterator = buffer.events.makeAsyncIterator() }

            func next() async throws -> DedupeBufferEvent<String, Int>? {
                var iterator = iterator
                return try await iterator.next(isolation: self)
            }
        }
        let (buffer, consumer) = (buffer, Consumer(buffer))
        for n in 1...20 {
            let (first, second) = (Task { try await consumer.next() }, Task { try await consumer.next() })
            let results = Kept<[Result<DedupeBufferEvent<String, Int>?, any Error>]>([])
            let collecting = [first, second].map { task in
                Task {
                    let result = await task.result
                    results.change { $0.append(result) }
                }
            }
            try await eventually("the second") { results.value.count == 1 }
            #expect(throws: DedupeBufferError.alreadySending) { try results.value[0].get() }
            buffer.set("a", n)
            for collector in collecting { try await within("the first") { await collector.value } }
            #expect(try results.value[1].get().map { Event($0).items.map(\.value) } == [n])
        }
    }

    // MARK: stop() and finish()

    @Test func stop_whileTheConsumerWaits_endsTheEvents() async throws {
        let heard = Kept<[Event<String, Int>]>([])
        let consumer = consume(buffer.events, into: heard)
        buffer.set("a", 1)
        try await wait(for: heard, count: 1)
        buffer.stop()
        try await outcome(of: consumer, "end of the events")
        buffer.set("b", 2)
        #expect(buffer.statistics.dropped == 1)
    }

    @Test func stop_insideABatch_handsOutTheRestOfIt_nothingAfter() async throws {
        let buffer: StringBuffer = makeBuffer(batchSize: 2)
        buffer.onStatusUpdated(.resyncInProgress)
        for n in 1...3 { buffer.set("key \(n)", n) }
        var iterator = buffer.events.makeAsyncIterator()
        _ = try await iterator.next()
        buffer.stop()
        #expect(try await iterator.next().map { Event($0) } == .updates([.new("key 1", 1)]))
        #expect(try await iterator.next() == nil)
        #expect(try await iterator.next() == nil)
        #expect(buffer.statistics.pendingKeys == 2)
    }

    @Test func events_ofAStoppedBuffer_areNone() async throws {
        buffer.set("a", 1)
        buffer.stop()
        for try await event in buffer.events { Issue.record("\(event)") }
        #expect(buffer.statistics.pendingKeys == 1)
    }

    @Test func finish_whenNoConsumerBegins_stops_andTellsWhatIsLeft() async throws {
        let buffer = StringBuffer(configuration: .with { $0.gracePeriod = .zero })
        buffer.set("a", 1)
        #expect(await buffer.finish() == DedupeBufferUndelivered(updates: 1, statuses: 0, isBatchInFlight: false))
        for try await event in buffer.events { Issue.record("\(event)") }
    }

    @Test func finish_whileTheConsumerWaits_endsTheEvents_andReturns() async throws {
        let (buffer, heard) = (buffer, Kept<[Event<String, Int>]>([]))
        let consumer = consume(buffer.events, into: heard)
        buffer.set("a", 1)
        try await wait(for: heard, count: 1)
        try await within("finish") { await buffer.finish() }
        try await outcome(of: consumer, "end of the events")
    }

    /// What came in before is handed out; the consumer is in the middle of a batch, and more than
    /// one is pending.
    @Test(arguments: [true, false])
    func finish_insideABatch_handsOutWhatWasReceived(isAsync: Bool) async throws {
        let (buffer, gate): (StringBuffer, AsyncGate) = (makeBuffer(batchSize: 3), AsyncGate())
        let heard = Kept<[Event<String, Int>]>([])
        let consumer = consume(buffer.events, into: heard) { _ in await gate.pass() }
        buffer.onStatusUpdated(.resyncInProgress)
        for n in 1...8 { buffer.set("key \(n)", n) }
        try await gate.waitForArrival()
        let thread = isAsync ? nil : Worker("finish") { buffer.finishAndWait() }
        async let finished = isAsync ? buffer.finish() : nil
        await Task.yield()
        gate.open()
        _ = await finished
        try await outcome(of: consumer, "end of the events")
        #expect(heard.value.items().map(\.key) == (1...8).map { "key \($0)" })
        try await eventually("return of finish") { thread?.hasReturned ?? true }
        #expect(buffer.statistics.pendingKeys == 0)
    }

    /// The consumer waits for nobody: the task that it begins does.
    @Test func finish_inATaskThatTheConsumerBegins_deliversAll_andTheEventsEnd() async throws {
        let (buffer, heard): (StringBuffer, _) = (makeBuffer(batchSize: 2), Kept<[Event<String, Int>]>([]))
        let finishing = Kept<Task<DedupeBufferUndelivered, Never>?>(nil)
        for n in 1...5 { buffer.set("key \(n)", n) }
        let consumer = consume(buffer.events, into: heard) { _ in
            finishing.change { $0 = $0 ?? Task { await buffer.finish() } }
        }
        try await outcome(of: consumer, "end of the events")
        #expect(try await within("finish") { await finishing.value?.value.isEmpty } == true)
        #expect(heard.value.items().count == 5)
    }

    @Test func finish_afterTheConsumerLetGo_returns_andTheRestIsLeft() async throws {
        let buffer = StringBuffer(
            configuration: .with {
                $0.batchSize = 1
                $0.gracePeriod = .zero
            })
        for n in 1...3 { buffer.set("key \(n)", n) }
        let left = try await within("finish") {
            for try await _ in buffer.events { break }
            return await buffer.finish()
        }
        #expect(left == DedupeBufferUndelivered(updates: 2, statuses: 0, isBatchInFlight: false))
    }

    /// A consumer that awaits a finish with an event in hand waits for itself until the deadline.
    @Test func deadline_byAConsumerWithAnEvent_endsTheWait() async throws {
        let (buffer, left) = (buffer, Kept<DedupeBufferUndelivered?>(nil))
        buffer.onStatusUpdated(.inSync)
        let consumer = Task {
            for try await _ in buffer.events {
                let undelivered = await buffer.finish(deadline: .now + .milliseconds(5))
                left.change { $0 = undelivered }
            }
        }
        try await outcome(of: consumer, "finish")
        #expect(left.value == DedupeBufferUndelivered(updates: 0, statuses: 0, isBatchInFlight: true))
    }

    @Test func finish_whoseConsumerIsCancelled_returns_andTheRestStaysPending() async throws {
        let (buffer, gate): (StringBuffer, AsyncGate) = (makeBuffer(batchSize: 1), AsyncGate())
        let heard = Kept<[Event<String, Int>]>([])
        for n in 1...5 { buffer.set("key \(n)", n) }
        let consumer = consume(buffer.events, into: heard) { _ in await gate.pass() }
        try await gate.waitForArrival()
        let finishing = Task { await buffer.finish() }
        try await eventually("finish to begin") { true }
        consumer.cancel()
        try await outcome(of: consumer, "end of the events")
        try await within("finish") { await finishing.value }
        #expect(buffer.statistics.pendingKeys == 4)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func finish_whoseTaskIsCancelled_returns_andTheBufferStillFinishes() async throws {
        let (buffer, gate) = (buffer, AsyncGate())
        let heard = Kept<[Event<String, Int>]>([])
        buffer.set("a", 1)
        let consumer = consume(buffer.events, into: heard) { _ in await gate.pass() }
        try await gate.waitForArrival()
        buffer.set("b", 1)
        let finishing = Task { await buffer.finish() }
        finishing.cancel()
        try await within("finish") { await finishing.value }
        gate.open()
        try await outcome(of: consumer, "end of the events")
        #expect(heard.value.items().count == 2)
    }

    // MARK: Cancellation, and letting go

    @Test func consumer_cancelledBeforeItBegins_claimsNothing() async throws {
        buffer.set("a", 1)
        let (buffer, heard) = (buffer, Kept<[Event<String, Int>]>([]))
        let gate = AsyncGate()
        let consumer = Task {
            await gate.pass()
            for try await event in buffer.events { heard.change { $0.append(Event(event)) } }
        }
        consumer.cancel()
        try await outcome(of: consumer, "end of the events")
        #expect(heard.value == [])
        #expect(try buffer.flush() == [.updates([.new("a", 1)])])
    }

    @Test func consumer_cancelledWhileItWaits_endsCleanly() async throws {
        let (buffer, heard) = (buffer, Kept<[Event<String, Int>]>([]))
        let consumer = consume(buffer.events, into: heard)
        buffer.set("a", 1)
        try await wait(for: heard, count: 1)
        consumer.cancel()
        try await outcome(of: consumer, "end of the events")
        buffer.set("a", 2)
        #expect(try buffer.flush() == [.updates([.updated("a", 2)])])
    }

    /// Without `for await`, the iterator outlives the cancelled call, and does not keep the claim.
    @Test func consumer_cancelledWhileItWaits_thatKeepsItsIterator_givesTheClaimBack() async throws {
        let (buffer, heard, gate) = (buffer, Kept(0), AsyncGate())
        let consumer = Task {
            var iterator = buffer.events.makeAsyncIterator()
            while try await iterator.next() != nil { heard.change { $0 += 1 } }
            await gate.passUncancelled()
            withExtendedLifetime(iterator) {}
        }
        buffer.set("a", 1)
        try await eventually("an event") { heard.value == 1 }
        consumer.cancel()
        try await gate.waitForArrival()
        buffer.set("a", 2)
        #expect(try buffer.flush() == [.updates([.updated("a", 2)])])
        gate.open()
        try await outcome(of: consumer, "end of the events")
    }

    enum Way: CaseIterable { case cancelled, lettingGo }

    /// Three events are in the batch, one was handed out.
    private func consumeOne(of buffer: StringBuffer, _ way: Way) async throws {
        let consumer = Task {
            for try await event in buffer.events {
                #expect(event == .status(.resyncInProgress))
                switch way {
                case .cancelled: withUnsafeCurrentTask { $0?.cancel() }
                case .lettingGo: return
                }
            }
        }
        try await outcome(of: consumer, "end of the events")
    }

    @Test(arguments: Way.allCases)
    func consumer_endsInsideABatch_theNextGetsWhatIsMissing(way: Way) async throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        try await consumeOne(of: buffer, way)
        let statistics = buffer.statistics
        #expect(statistics.delivered == 0)
        #expect(statistics.liveKeys == 0)
        #expect(statistics.statusesDelivered == 1)
        #expect(statistics.pendingKeys == 1)
        var iterator = buffer.events.makeAsyncIterator()
        #expect(try await iterator.next().map { Event($0) } == .updates([.new("a", 1)]))
        #expect(try await iterator.next() == .status(.inSync))
    }

    @Test(arguments: Way.allCases)
    func consumer_endsInsideABatch_somethingNewerTakesThePlace(way: Way) async throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.set("b", 1)
        let later = buffer
        let consumer = Task {
            for try await _ in later.events {
                later.set("c", 1)
                later.set("a", 2)
                later.delete("b")
                if way == .lettingGo { break }
                withUnsafeCurrentTask { $0?.cancel() }
            }
        }
        try await outcome(of: consumer, "end of the events")
        #expect(try buffer.flush() == [.updates([.new("a", 2), .new("c", 1)])])
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test(arguments: Way.allCases)
    func consumer_endsInsideABatch_afterARestart_theRestIsDropped(way: Way) async throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        let later = buffer
        let consumer = Task {
            for try await _ in later.events {
                later.onConnectionRestarted()
                if way == .lettingGo { break }
                withUnsafeCurrentTask { $0?.cancel() }
            }
        }
        try await outcome(of: consumer, "end of the events")
        #expect(try buffer.nextBatch() == nil)
        #expect(buffer.statistics.liveKeys == 0)
        #expect(buffer.statistics.dropped == 1)
    }

    @Test func finish_whileACancelledConsumerIsInTheMiddle_countsWhatIsLeft() async throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        var iterator: StringEvents.Iterator? = buffer.events.makeAsyncIterator()
        _ = try await iterator?.next()
        await buffer.finish(deadline: .now)
        iterator = nil
        #expect(buffer.statistics.pendingKeys == 1)
        buffer.set("b", 1)
        #expect(buffer.statistics.dropped == 1)
    }
}
