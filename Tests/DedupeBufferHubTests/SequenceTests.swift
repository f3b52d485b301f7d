// SPDX-License-Identifier: Apache-2.0

// Subscriptions as asynchronous sequences.

import DedupeBuffer
import Testing

@testable import DedupeBufferHub

@Suite struct SequenceTests {
    private let hub = Hub(configuration: configuration())

    /// The state when the hub has finished.
    private func follow(_ subscription: Subscription) async throws -> Picture {
        var picture = Picture()
        for try await delivery in subscription { picture.see(delivery) }
        return picture
    }

    @Test func sequence_getsEverything_andEndsWithTheHub() async throws {
        let (hub, subscription) = (hub, hub.subscribe())
        let reader = Task { try await follow(subscription) }
        for value in 1...1000 { hub.put("k\(value % 10)", value) }
        hub.onStatusUpdated(.inSync)
        hub.finish()
        let picture = try await bounded("reader") { try await reader.value }
        #expect(picture.state == Dictionary(uniqueKeysWithValues: (991...1000).map { ("k\($0 % 10)", $0) }))
        #expect(picture.status == .inSync)
        #expect(picture.faults == [])
    }

    @Test func sequence_whenTheTaskIsCancelled_ends() async throws {
        let subscription = hub.subscribe()
        let reader = Task { try await follow(subscription) }
        while hub.statistics.waitingSubscribers == 0 { await Task.yield() }
        reader.cancel()
        _ = try await bounded("reader") { try await reader.value }
        // Another task goes on with the same subscription.
        hub.put("a", 1)
        hub.finish()
        #expect(try await follow(subscription).state == ["a": 1])
    }

    @Test func sequence_whenTheSubscriptionIsCancelled_ends() async throws {
        let subscription = hub.subscribe()
        let reader = Task { try await follow(subscription) }
        while hub.statistics.waitingSubscribers == 0 { await Task.yield() }
        subscription.cancel()
        _ = try await bounded("reader") { try await reader.value }
    }

    @Test func sequence_withTwoConsumersAtOnce_refusesOne() async throws {
        let subscription = hub.subscribe()
        let first = Task { try await follow(subscription) }
        while hub.statistics.waitingSubscribers == 0 { await Task.yield() }
        // The first one may not be asleep yet; then it is refused. One of them is, in any case.
        let second = Task { try await follow(subscription) }
        let refused = try await bounded("refusal") {
            await withTaskGroup(of: Bool.self) { group in
                for reader in [first, second] {
                    group.addTask {
                        do { _ = try await reader.value } catch { return error as? DedupeHubError == .alreadyTaking }
                        return false
                    }
                }
                let result = await group.next()!
                subscription.cancel()
                return result
            }
        }
        #expect(refused)
    }

    /// The second one comes when the first one has been woken, and has not run yet.
    @Test func sequence_withTwoConsumers_whenSomethingComes_refusesTheSecond() async throws {
        let (executor, seen) = (ManualExecutor(), Kept([String: Int]()))
        let subscription = hub.subscribe()
        let first = Task(executorPreference: executor) {
            for try await delivery in subscription {
                guard case .updates(let updates) = delivery.event else { continue }
                for update in updates { seen.change { $0[update.key] = update.value } }
            }
        }
        executor.run()
        hub.put("a", 1)
        hub.settleWaker()
        await #expect(throws: DedupeHubError.alreadyTaking) {
            var iterator = subscription.makeAsyncIterator()
            _ = try await iterator.next(isolation: nil)
        }
        #expect(throws: DedupeHubError.alreadyTaking) { try subscription.take() }
        hub.finish()
        hub.settleWaker()
        executor.run()
        try await bounded("the first consumer") { try await first.value }
        #expect(seen.value == ["a": 1])
    }

    @Test func sequence_withOnReady_waitsToBeWoken() async throws {
        let (executor, wakes) = (ManualExecutor(), Kept(0))
        let subscription = hub.subscribe(onReady: { wakes.change { $0 += 1 } })
        let reader = Task(executorPreference: executor) { try await follow(subscription) }
        #expect(executor.run(atMost: 100) < 100)
        hub.put("a", 1)
        hub.settleWaker()
        hub.finish()
        hub.settleWaker()
        executor.run()
        #expect(try await bounded("the reader") { try await reader.value }.state == ["a": 1])
        #expect(wakes.value > 0)
    }

    // MARK: - Iterators that are let go

    /// Two runs of updates and a status between them, of which an iterator has taken the first run.
    private func subscriptionWithARest() async throws -> (Subscription, Picture) {
        let subscription = hub.subscribe()
        #expect(try subscription.events() == nil)
        hub.put("a", 1)
        hub.onStatusUpdated(.inSync)
        hub.put("b", 1)
        var picture = Picture()
        for try await delivery in subscription {
            picture.see(delivery)
            break
        }
        #expect(picture.state == ["a": 1])
        return (subscription, picture)
    }

    @Test func iterator_whenAnotherOneWasLetGo_goesOnWithTheRest() async throws {
        var (subscription, picture) = try await subscriptionWithARest()
        hub.put("b", 2)
        hub.finish()
        for try await delivery in subscription { picture.see(delivery) }
        #expect(picture.status == .inSync)
        #expect(picture.state == ["a": 1, "b": 2])
        #expect(picture.faults == [])
    }

    @Test func take_whenAnIteratorWasLetGo_takesTheRest() async throws {
        let (subscription, _) = try await subscriptionWithARest()
        #expect(try subscription.events() == [.status(.inSync), .updates([.new("b", 1)])])
        #expect(try subscription.events() == nil)
    }

    @Test func position_whenAnIteratorWasLetGo_isThatOfItsLastDelivery() async throws {
        let (subscription, picture) = try await subscriptionWithARest()
        #expect(subscription.position == picture.position)
        #expect(subscription.statistics.pendingEntries == 2)
        let events = try hub.subscribe(from: subscription.position).allEvents()
        #expect(events == [.updates([.updated("a", 1), .updated("b", 1)]), .status(.inSync)])
        _ = try subscription.allEvents()
        #expect(subscription.position.revision == 3)
    }

    @Test func iterator_whenTheSubscriptionIsCancelled_getsNoRest() async throws {
        let (subscription, _) = try await subscriptionWithARest()
        subscription.cancel()
        for try await _ in subscription { Issue.record("a delivery after the end") }
        #expect(subscription.statistics.pendingEntries == 0)
    }

    @Test func subscriberThatBreaksOff_leavesNothing() async throws {
        hub.put("a", 1)
        for _ in 0..<10 {
            for try await _ in hub.subscribe() { break }
        }
        #expect(hub.statistics.subscribers == 0)
        #expect(hub.statistics.subscriberMemory == 0)
    }

    /// A subscriber is cancelled, and its subscription let go, when it is suspended for the n-th
    /// time.
    @Test(arguments: 0..<12)
    func subscriberThatIsDropped_atAnyAwait_leavesNothing(awaits: Int) async throws {
        let (executor, isOver) = (ManualExecutor(), Kept(false))
        let hub = Hub(configuration: configuration(batch: 1, tombstones: 0))
        for key in ["a", "b"] { hub.put(key, 1) }
        let reader = Task(executorPreference: executor) {
            defer { isOver.change { $0 = true } }
            for try await _ in hub.subscribe() { await Task.yield() }
        }
        for i in 0..<awaits {
            if !executor.runOne() {
                hub.put("a", i)
                hub.settleWaker()
            }
        }
        #expect(!isOver.value)
        reader.cancel()
        executor.run()
        #expect(isOver.value)
        try await bounded("the reader") { try await reader.value }
        #expect(hub.statistics.subscribers == 0)
        #expect(hub.statistics.waitingSubscribers == 0)
        // No slot is held by a subscriber that has gone.
        for key in ["a", "b"] { hub.put(key, nil) }
        for _ in 0..<3 { hub.put("c", 1) }
        #expect(hub.statistics.deletedKeys == 0)
    }

    /// The same in the pause between two rounds.
    @Test func subscriberThatIsDropped_inItsInterval_leavesNothing() async throws {
        let clock = ManualClock()
        var configuration = configuration(tombstones: 0)
        configuration.clock = clock
        let hub = Hub(configuration: configuration)
        hub.put("a", 1)
        let reader = Task {
            for try await _ in hub.subscribe(minimumInterval: .seconds(1)) { hub.put("a", 2) }
        }
        try await eventually("the pause") { clock.sleeperCount == 1 }
        reader.cancel()
        try await bounded("the reader") { try await reader.value }
        try await eventually("the end of the timer") { clock.sleeperCount == 0 }
        #expect(hub.statistics.subscribers == 0)
        hub.put("a", nil)
        for _ in 0..<3 { hub.put("c", 1) }
        #expect(hub.statistics.deletedKeys == 0)
    }

    private func hub(with clock: ManualClock) -> Hub {
        var configuration = configuration()
        configuration.clock = clock
        return Hub(configuration: configuration)
    }

    /// A task that notes the last value of each delivery.
    private func read(_ subscription: Subscription, into seen: Kept<[Int]>) -> Task<Void, any Error> {
        Task {
            for try await delivery in subscription {
                if case .updates(let updates) = delivery.event { seen.change { $0.append(updates.last!.value!) } }
            }
        }
    }

    @Test func interval_isKept() async throws {
        let (clock, seen) = (ManualClock(), Kept([Int]()))
        let hub = hub(with: clock)
        let subscription = hub.subscribe(minimumInterval: .seconds(10))
        let reader = read(subscription, into: seen)
        hub.put("a", 1)
        try await eventually("the first value") { seen.value == [1] }
        for value in 2...5 { hub.put("a", value) }
        try await eventually("the pause") { clock.sleeperCount == 1 }
        #expect(seen.value == [1])
        clock.advance(by: .seconds(10))
        try await eventually("the next round") { seen.value == [1, 5] }
        hub.put("a", 6)
        hub.finish()
        try await bounded("reader") { try await reader.value }
        #expect(seen.value == [1, 5, 6])
    }

    /// The timer of a pause that was cut short once told the next pause that it was over.
    @Test func pause_afterOneThatWasCutShort_lasts() async throws {
        let (clock, seen) = (ManualClock(), Kept([Int]()))
        let hub = hub(with: clock)
        let subscription = hub.subscribe(minimumInterval: .seconds(10))
        let first = read(subscription, into: seen)
        hub.put("a", 1)
        try await eventually("the first value") { seen.value == [1] }
        hub.put("a", 2)
        try await eventually("the pause") { clock.sleeperCount == 1 }
        first.cancel()
        try await bounded("the first reader") { try await first.value }
        try await eventually("the end of the timer") { clock.sleeperCount == 0 }
        let second = read(subscription, into: seen)
        try await eventually("the second pause") { clock.sleeperCount == 1 }
        // Time for another pause, if this one does not last.
        try await Task.sleep(for: .milliseconds(20))
        #expect(clock.sleeps == 2)
        hub.finish()
        try await bounded("the second reader") { try await second.value }
        #expect(seen.value == [1, 2])
    }

    private func eventually(_ what: String, _ condition: @escaping @Sendable () -> Bool) async throws {
        try await bounded(what) { while !condition() { try await Task.sleep(for: .milliseconds(1)) } }
    }

    @Test func hub_isASinkOfRun() async throws {
        let buffer = DedupeBuffer<String, Int>()
        let (hub, subscription) = (hub, hub.subscribe())
        let delivery = Task { try await buffer.run(sink: hub) }
        buffer.update("a", to: 1)
        buffer.onStatusUpdated(.inSync)
        await buffer.finish()
        hub.finish()
        let picture = try await bounded("reader") { try await follow(subscription) }
        #expect(picture.state == ["a": 1])
        #expect(picture.status == .inSync)
        _ = try await delivery.value
    }
}
