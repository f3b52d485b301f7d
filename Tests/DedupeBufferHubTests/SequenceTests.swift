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

    @Test func subscriberThatBreaksOff_leavesNothing() async throws {
        hub.put("a", 1)
        for _ in 0..<10 {
            for try await _ in hub.subscribe() { break }
        }
        #expect(hub.statistics.subscribers == 0)
        #expect(hub.statistics.subscriberMemory == 0)
    }

    /// A subscriber is cancelled, and its subscription let go, after a number of suspensions.
    @Test(arguments: 0..<12)
    func subscriberThatIsDropped_atAnyAwait_leavesNothing(awaits: Int) async throws {
        let clock = ManualClock()
        var configuration = configuration(batch: 1)
        configuration.clock = clock
        configuration.maximumTombstones = 0
        let hub = Hub(configuration: configuration)
        hub.put("a", 1)
        hub.put("b", 1)
        let seen = Kept(0)
        let reader = Task { [interval = awaits % 2 == 0 ? nil : Duration.seconds(1)] in
            for try await _ in hub.subscribe(minimumInterval: interval) {
                seen.change { $0 += 1 }
            }
        }
        for i in 0..<awaits {
            hub.put("a", i)
            for _ in 0..<5 { await Task.yield() }
            clock.advance(by: .seconds(1))
        }
        reader.cancel()
        try await bounded("reader") { try await reader.value }
        #expect(hub.statistics.subscribers == 0)
        #expect(hub.statistics.waitingSubscribers == 0)
        // No slot is held by a subscriber that has gone.
        hub.put("a", nil)
        hub.put("b", nil)
        for _ in 0..<3 { hub.put("c", 1) }
        #expect(hub.statistics.deletedKeys == 0)
    }

    @Test func interval_isKept() async throws {
        let clock = ManualClock()
        var configuration = configuration()
        configuration.clock = clock
        let hub = Hub(configuration: configuration)
        let subscription = hub.subscribe(minimumInterval: .seconds(10))
        let seen = Kept([Int]())
        let reader = Task {
            for try await delivery in subscription {
                if case .updates(let updates) = delivery.event { seen.change { $0.append(updates.last!.value!) } }
            }
        }
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
