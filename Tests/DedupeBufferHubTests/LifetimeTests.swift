// SPDX-License-Identifier: Apache-2.0

// What ends when, and what a long life leaves.

import DedupeBuffer
import Testing

@testable import DedupeBufferHub

@Suite struct LifetimeTests {
    private final class Value: Sendable {
        private let whenGone: @Sendable () -> Void
        init(_ whenGone: @escaping @Sendable () -> Void = {}) { self.whenGone = whenGone }
        deinit { whenGone() }
    }

    private typealias ValueHub = DedupeHub<String, Value>

    @Test func value_whenReplaced_ends() {
        let hub = ValueHub()
        weak var value: Value?
        do {
            let first = Value()
            value = first
            hub.onUpdates([Update(key: "a", value: first)])
        }
        #expect(value != nil)
        hub.onUpdates([Update(key: "a", value: Value())])
        #expect(value == nil)
    }

    @Test func value_whenItEnds_mayCallTheHub() throws {
        let hub = DedupeHub<Int, Value>()
        let count = Kept(0)
        let next: @Sendable () -> Void = { [weak hub] in
            let number = count.change { count in
                count += 1
                return count
            }
            hub?.onUpdates([Update(key: number, value: Value())])
            _ = hub?.statistics
        }
        hub.onUpdates([Update(key: 0, value: Value(next)), Update(key: 0, value: Value(next))])
        hub.onUpdates([Update(key: 0, value: nil)])
        #expect(count.value == 2)
        #expect(hub.statistics.keys == 2)
    }

    @Test func hub_whenLetGo_endsItsValues() {
        let count = Kept(0)
        var hub: ValueHub? = ValueHub()
        for i in 0..<300 { hub!.onUpdates([Update(key: "k\(i)", value: Value { count.change { $0 += 1 } })]) }
        var subscription: DedupeHubSubscription<String, Value>? = hub!.subscribe()
        hub = nil
        #expect(count.value == 0)
        _ = subscription
        subscription = nil
        #expect(count.value == 300)
    }

    @Test func hub_withStalledSubscribers_whenLetGo_endsItsValues() throws {
        let count = Kept(0)
        do {
            let hub = ValueHub()
            for i in 0..<300 { hub.onUpdates([Update(key: "k\(i)", value: Value { count.change { $0 += 1 } })]) }
            let subscriptions = (0..<10).map { _ in hub.subscribe(where: { $0 != "k1" }) }
            for subscription in subscriptions { _ = try subscription.take() }
        }
        #expect(count.value == 300)
    }

    @Test func memory_ofASubscriber_isThatOfItsPendingKeys() throws {
        let hub = Hub(configuration: configuration(batch: 100))
        for i in 0..<10_000 { hub.put("k\(i)", i) }
        let subscription = hub.subscribe()
        _ = try subscription.events()
        // 2 bits for each key and 4 bytes for each pending one, and something for growing.
        let most = 10_000 / 4 * 9 / 8 + 4 * 10_000 + 4096 + 200
        #expect(subscription.statistics.memory <= most)
        #expect(subscription.statistics.pendingEntries == 9900)
        _ = try subscription.allEvents()
        #expect(subscription.statistics.memory <= 10_000 / 4 * 9 / 8 + 200)
        #expect(subscription.statistics.lag == 0)
    }

    @Test func memory_ofASubscriber_whenKeysComeAndGoUnseen_isBounded() throws {
        let hub = Hub(configuration: configuration(batch: 1, tombstones: 0))
        let subscription = hub.subscribe()
        for i in 0..<10_000 {
            hub.put("k\(i % 50)", i)
            if i % 10 == 0 { _ = try subscription.events() }
            hub.put("k\(i % 50)", nil)
        }
        #expect(subscription.statistics.memory < 20_000)
    }

    @Test func memory_ofASubscriber_whenPendingKeysAreDeleted_isThatOfTheOthers() throws {
        for deleted in [1000, 9000, 10_000, 15_000, 19_000] {
            let hub = Hub(configuration: configuration(batch: 100))
            for i in 0..<20_000 { hub.put("k\(i)", i) }
            let subscription = hub.subscribe()
            _ = try subscription.events()
            for i in 0..<deleted { hub.put("k\(19_999 - i)", nil) }
            _ = try subscription.events()
            let pending = 20_000 - 200 - deleted
            #expect(subscription.statistics.pendingEntries == pending)
            // Two bits for each slot, twice the memory of the pending keys, and blocks.
            let most = 20_000 / 4 * 9 / 8 + 8 * pending + 8192
            #expect(subscription.statistics.memory <= most, "\(deleted) deleted")
        }
    }

    /// Between two statuses there is a key that has left.
    @Test func memory_ofASubscriber_whenStatusesCome_isThatOfItsPendingKeys() throws {
        let hub = Hub(configuration: configuration(batch: 1, tombstones: 0))
        for i in 0..<1000 { hub.put("k\(i)", i) }
        let subscription = hub.subscribe()
        _ = try subscription.events()
        for i in 0..<20_000 {
            hub.onStatusUpdated(.resyncInProgress)
            hub.put("late", i)
            hub.onStatusUpdated(.inSync)
            hub.put("late", nil)
            if i % 100 == 0 { _ = try subscription.events() }
        }
        let pending = subscription.statistics.pendingEntries
        #expect(pending <= 2 * (1000 - 200) + 1000 / 8 + 64)
        #expect(subscription.statistics.memory <= 1000 + 8 * pending + 8192)
        #expect(try subscription.allEvents().last == .status(.inSync))
    }

    // MARK: - Subscriptions that end

    /// A connection that holds its subscription, and is held by `onReady` and the filter.
    private final class Connection: Sendable {
        let subscription = Kept<Subscription?>(nil)

        init(_ hub: Hub) {
            let made = hub.subscribe(
                where: { [self] _ in
                    withExtendedLifetime(self) {}
                    return true
                }, onReady: { [self] in withExtendedLifetime(self) {} })
            subscription.change { $0 = made }
        }
    }

    @Test func subscription_thatIsCancelled_letsGoOfWhatItWasGiven() throws {
        let hub = Hub(configuration: configuration())
        weak var connection: Connection?
        do {
            let made = Connection(hub)
            connection = made
            _ = try made.subscription.value!.take()
            made.subscription.value!.cancel()
            hub.settleWaker()
        }
        #expect(connection == nil)
    }

    @Test func subscription_thatHasFinished_letsGoOfWhatItWasGiven() throws {
        let hub = Hub(configuration: configuration())
        weak var connection: Connection?
        do {
            let made = Connection(hub)
            connection = made
            hub.put("a", 1)
            _ = try made.subscription.value!.take()
            hub.finish()
            guard case .finished = try made.subscription.value!.take() else { throw Unexpected() }
            hub.settleWaker()
            #expect(hub.statistics.subscribers == 0)
            #expect(made.subscription.value!.position.revision == 1)
        }
        #expect(connection == nil)
    }

    /// 10⁷ changes in long mode.
    @Test func longLife_isFlat() throws {
        let hub = Hub(configuration: configuration(log: 1024, tombstones: 100))
        let stalled = hub.subscribe()
        let reader = hub.subscribe()
        for i in 0..<100 { hub.put("first\(i)", i) }
        while case .batch = try stalled.take() {}
        var memory = 0
        let changes = longTests ? 10_000_000 : 50_000
        for round in 0..<10 {
            for i in 0..<(changes / 10 / 20) {
                let number = round * (changes / 20) + i
                hub.onUpdates(
                    (0..<10).flatMap { j -> [Update<String, Int>] in
                        let key = "k\(number)-\(j)"
                        return [Update(key: key, value: i), Update(key: key, value: nil)]
                    })
                if i % 100 == 0 { while case .batch = try reader.take() {} }
            }
            let now = hub.statistics.memory + hub.statistics.subscriberMemory
            if round == 1 { memory = now }
            if round > 1 { #expect(now <= memory + 10_000, "after round \(round)") }
        }
        #expect(hub.statistics.deletedKeys <= 200)
        #expect(try stalled.allEvents().isEmpty)
    }
}
