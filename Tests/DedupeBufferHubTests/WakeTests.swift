// SPDX-License-Identifier: Apache-2.0

// When a subscriber of an event loop is woken, and when it is not.

import DedupeBuffer
import Dispatch
import Synchronization
import Testing

@testable import DedupeBufferHub

/// Counts wake-ups.
private final class Wakes: Sendable {
    private let count = Kept(0)
    private let semaphore = DispatchSemaphore(value: 0)

    var number: Int { count.value }

    func wake() {
        count.change { $0 += 1 }
        semaphore.signal()
    }

    func wait() throws { try semaphore.wait(for: "a wake-up") }
}

@Suite struct WakeTests {
    private let hub = Hub(configuration: configuration())

    private func expectNothing(_ subscription: Subscription) throws {
        guard case .nothing = try subscription.take() else { throw Unexpected() }
    }

    @Test func subscriber_thatFoundNothing_isWokenOnce() throws {
        let wakes = Wakes()
        let subscription = hub.subscribe(onReady: wakes.wake)
        try expectNothing(subscription)
        #expect(hub.statistics.waitingSubscribers == 1)
        hub.put("a", 1)
        try wakes.wait()
        #expect(hub.statistics.waitingSubscribers == 0)
        for value in 0..<100 { hub.put("a", value) }
        hub.settleWaker()
        #expect(wakes.number == 1)
        _ = try subscription.allEvents()
        hub.onStatusUpdated(.inSync)
        try wakes.wait()
        #expect(wakes.number == 2)
    }

    @Test func subscriber_thatHasNotTaken_isNotWoken() throws {
        let wakes = Wakes()
        let subscription = hub.subscribe(onReady: wakes.wake)
        hub.put("a", 1)
        hub.settleWaker()
        #expect(wakes.number == 0)
        withExtendedLifetime(subscription) {}
    }

    @Test func subscriber_thatAskedTwice_isWokenOnce() throws {
        let wakes = Wakes()
        let subscription = hub.subscribe(onReady: wakes.wake)
        try expectNothing(subscription)
        try expectNothing(subscription)
        #expect(hub.statistics.waitingSubscribers == 1)
        hub.put("a", 1)
        try wakes.wait()
        hub.settleWaker()
        #expect(wakes.number == 1)
    }

    @Test func subscriber_thatHasGone_isNotWoken() throws {
        let (gone, kept) = (Wakes(), Wakes())
        var subscriptions = (0..<10).map { _ in hub.subscribe(onReady: gone.wake) }
        let other = hub.subscribe(onReady: kept.wake)
        for subscription in subscriptions { try expectNothing(subscription) }
        try expectNothing(other)
        subscriptions.removeAll()
        #expect(hub.statistics.waitingSubscribers == 1)
        hub.put("a", 1)
        try kept.wait()
        #expect(gone.number == 0)
    }

    @Test func finish_wakesSubscribers() throws {
        let wakes = Wakes()
        let subscription = hub.subscribe(onReady: wakes.wake)
        try expectNothing(subscription)
        hub.finish()
        try wakes.wait()
        guard case .finished = try subscription.take() else { throw Unexpected() }
    }

    @Test func cancel_wakesTheSubscriber() throws {
        let wakes = Wakes()
        let subscription = hub.subscribe(onReady: wakes.wake)
        try expectNothing(subscription)
        subscription.cancel()
        try wakes.wait()
        #expect(hub.statistics.waitingSubscribers == 0)
    }

    @Test func subscriber_mayTakeInsideTheWakeUp() throws {
        let hub = hub
        let ended = DispatchSemaphore(value: 0)
        let sum = Kept(0)
        let box = Kept<Subscription?>(nil)
        let pump: @Sendable () -> Void = {
            guard let subscription = box.value else { return }
            while case .batch(let deliveries)? = try? subscription.take() {
                for case .updates(let updates) in deliveries.map(\.event) {
                    let last = updates.last!.value!
                    sum.change { $0 = last }
                    if last == 1000 { ended.signal() }
                }
            }
        }
        box.change { $0 = hub.subscribe(onReady: pump) }
        pump()
        for value in 1...1000 { hub.put("a", value) }
        try ended.wait(for: "the last value")
        #expect(sum.value == 1000)
        box.change { $0 = nil }
    }

    /// Something came after the subscriber had looked, and before it was among the sleepers: no
    /// writer has seen it there.
    @Test func subscriber_thatGoesToSleepTooLate_doesNotSleep() {
        let wakes = Wakes()
        let client = HubClient(hub.core, from: nil, filter: nil, minimumInterval: nil, wakeUp: wakes.wake)
        let cursor = hub.core.head
        hub.put("a", 1)
        #expect(!hub.core.sleepers.add(client) { hub.core.head != cursor })
        #expect(hub.core.sleepers.count == 0)
        #expect(hub.core.sleepers.add(client) { false })
        #expect(hub.core.sleepers.count == 1)
        #expect(client.close())
        #expect(hub.core.sleepers.count == 0)
    }

    /// A subscriber goes to sleep at the moment when something comes.
    @Test func wakeUp_isNeverLost() throws {
        let hub = hub
        let count = rounds(20_000)
        let received = Kept(0)
        let taken = DispatchSemaphore(value: 0)
        let wakes = DispatchSemaphore(value: 0)
        let subscription = hub.subscribe(onReady: { wakes.signal() })
        let reader = Worker("reader") {
            var latest = 0
            while latest < count {
                switch try subscription.take() {
                case .batch(let deliveries):
                    for case .updates(let updates) in deliveries.map(\.event) { latest = updates.last!.value! }
                    received.change { $0 = latest }
                    taken.signal()
                case .nothing: try wakes.wait(for: "a wake-up")
                case .later, .finished: throw Unexpected()
                }
            }
        }
        for value in 1...count {
            hub.put("a", value)
            // The reader is about to sleep when the next one comes.
            try taken.wait(for: "a delivery")
        }
        try reader.join()
        #expect(received.value == count)
    }

    /// The wake-up comes, and is used, before the call that asked for it has returned.
    @Test func wakeUp_whenTheTakeHasNotReturned_isNotLost() throws {
        let (hook, wakes) = (Kept<(@Sendable () -> Void)?>(nil), Wakes())
        let hub = Hub(configuration: configuration(steps: .init(afterEach: { hook.value?() })))
        defer { hook.change { $0 = nil } }  // It holds the hub, which holds it.
        let subscription = hub.subscribe(onReady: wakes.wake)
        try expectNothing(subscription)
        hook.change { hook in
            hook = { [isFirst = Kept(true)] in
                guard isFirst.takeTrue() else { return }
                hub.put("a", 1)
                hub.settleWaker()
            }
        }
        #expect(try subscription.events() == [.updates([.new("a", 1)])])
        try expectNothing(subscription)
        hub.put("a", 2)
        try wakes.wait()
    }

    @Test func subscriber_thatTakesWithoutHavingBeenWoken_isNotWoken() throws {
        let wakes = Wakes()
        let subscription = hub.subscribe(onReady: wakes.wake)
        try expectNothing(subscription)
        hub.core.sleepers.queue.suspend()
        hub.put("a", 1)
        let events = try subscription.events()
        let waiting = hub.statistics.waitingSubscribers
        hub.core.sleepers.queue.resume()
        hub.settleWaker()
        #expect(events == [.updates([.new("a", 1)])])
        #expect(waiting == 0)
        #expect(wakes.number == 0)
    }

    @Test func ends_callOnReadyOnce_onTheQueueOfTheHub() throws {
        let (asleep, late, cancelled) = (Wakes(), Wakes(), Wakes())
        let subscriptions = [asleep, late, cancelled].map { wakes in
            hub.subscribe(minimumInterval: .seconds(1000), onReady: wakes.wake)
        }
        hub.put("a", 1)
        for subscription in subscriptions { _ = try subscription.events() }
        try expectNothing(subscriptions[2])
        hub.put("a", 2)
        hub.settleWaker()
        #expect(cancelled.number == 1)
        guard case .later = try subscriptions[1].take() else { throw Unexpected() }
        hub.core.sleepers.queue.suspend()
        hub.finish()
        subscriptions[2].cancel()
        let numbers = [asleep, late, cancelled].map(\.number)
        hub.core.sleepers.queue.resume()
        hub.settleWaker()
        #expect(numbers == [0, 0, 1])
        #expect([asleep, late].map(\.number) == [1, 1])
        #expect(2...3 ~= cancelled.number)
        // An optimized build would let go of them after their last use.
        withExtendedLifetime(subscriptions) {}
    }

    @Test func finish_callsOnReadyOfASleeperOnce() throws {
        let wakes = Wakes()
        let subscription = hub.subscribe(onReady: wakes.wake)
        try expectNothing(subscription)
        hub.finish()
        hub.settleWaker()
        #expect(wakes.number == 1)
    }

    // MARK: - Intervals

    @Test func interval_delaysTheNextRound() throws {
        let clock = ManualClock()
        var configuration = configuration(batch: 2)
        configuration.clock = clock
        let hub = Hub(configuration: configuration)
        let subscription = hub.subscribe(minimumInterval: .seconds(10), onReady: {})
        try expectNothing(subscription)
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        // The round has two batches, and the key that changes meanwhile is in the next one.
        #expect(try subscription.events() == [.updates([.new("a", 1), .new("b", 1)])])
        hub.put("a", 2)
        hub.put("d", 1)
        #expect(try subscription.events() == [.updates([.new("c", 1)])])
        clock.advance(by: .seconds(4))
        guard case .later(let time) = try subscription.take() else { throw Unexpected() }
        #expect(time == .seconds(6))
        hub.put("a", 3)
        clock.advance(by: .seconds(6))
        #expect(try subscription.events() == [.updates([.updated("a", 3), .new("d", 1)])])
        try expectNothing(subscription)
        clock.advance(by: .seconds(20))
        hub.put("a", 4)
        #expect(try subscription.events() == [.updates([.updated("a", 4)])])
    }

    @Test func interval_whenTheHubFinishes_isLifted() throws {
        let clock = ManualClock()
        var configuration = configuration()
        configuration.clock = clock
        let hub = Hub(configuration: configuration)
        let wakes = Wakes()
        let subscription = hub.subscribe(minimumInterval: .seconds(10), onReady: wakes.wake)
        hub.put("a", 1)
        _ = try subscription.events()
        hub.put("a", 2)
        guard case .later = try subscription.take() else { throw Unexpected() }
        hub.finish()
        try wakes.wait()
        #expect(try subscription.events() == [.updates([.updated("a", 2)])])
        guard case .finished = try subscription.take() else { throw Unexpected() }
    }

    @Test func interval_withAFilter_beginsWithTheFirstDelivery() throws {
        let clock = ManualClock()
        var configuration = configuration()
        configuration.clock = clock
        let hub = Hub(configuration: configuration)
        let subscription = hub.subscribe(where: { $0 == "a" }, minimumInterval: .seconds(10), onReady: {})
        hub.put("b", 1)
        try expectNothing(subscription)
        hub.put("a", 1)
        #expect(try subscription.events() == [.updates([.new("a", 1)])])
        hub.put("a", 2)
        guard case .later = try subscription.take() else { throw Unexpected() }
    }
}
