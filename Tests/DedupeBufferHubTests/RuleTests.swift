// SPDX-License-Identifier: Apache-2.0

// What one subscriber sees, rule by rule.

import DedupeBuffer
import Testing

@testable import DedupeBufferHub

@Suite struct RuleTests {
    private let hub = Hub(configuration: configuration())

    // MARK: - The beginning

    @Test func subscriber_ofAnEmptyHub_getsNothing() throws {
        #expect(try hub.subscribe().events() == nil)
    }

    @Test func newSubscriber_getsTheStateAndThenTheStatus() throws {
        hub.onStatusUpdated(.resyncInProgress)
        hub.put("a", 1, revision: 7)
        hub.put("b", 2)
        hub.put("c", 3)
        hub.put("b", nil)
        hub.onStatusUpdated(.inSync)
        hub.put("a", 4, revision: 8)
        let events = try hub.subscribe().events()
        #expect(events == [.updates([.new("a", 4, revision: 8), .new("c", 3)]), .status(.inSync)])
    }

    @Test func newSubscriber_whenTheSourceWaits_getsNoStatus() throws {
        hub.onStatusUpdated(.resyncInProgress)
        hub.onStatusUpdated(.waitForDatastore)
        hub.put("a", 1)
        #expect(try hub.subscribe().events() == [.updates([.new("a", 1)])])
    }

    @Test func source_isABufferInFront() throws {
        let buffer = DedupeBuffer<String, Int>()
        buffer.update("a", to: 1)
        buffer.onStatusUpdated(.inSync)
        try buffer.sendNextBatchToSink(hub)
        #expect(try hub.subscribe().events() == [.updates([.new("a", 1)]), .status(.inSync)])
    }

    // MARK: - Updates

    @Test func update_whenPending_keepsItsPlace() throws {
        let subscription = hub.subscribe()
        for key in ["a", "b", "a"] { hub.put(key, 1) }
        _ = try subscription.events()
        hub.put("b", 2)
        hub.put("a", 2)
        hub.put("b", 3)
        #expect(try subscription.events() == [.updates([.updated("b", 3), .updated("a", 2)])])
        #expect(try subscription.events() == nil)
    }

    @Test func deletion_whenLive_isDeliveredOnce() throws {
        let subscription = hub.subscribe()
        hub.put("a", 1)
        _ = try subscription.events()
        hub.put("a", nil, revision: 5)
        hub.put("a", nil, revision: 6)
        #expect(try subscription.events() == [.updates([.deleted("a", revision: 5)])])
        #expect(try subscription.events() == nil)
    }

    @Test func deletion_whenValuePending_andLive_keepsThePlace() throws {
        let subscription = hub.subscribe()
        for key in ["a", "b"] { hub.put(key, 1) }
        _ = try subscription.events()
        for key in ["a", "b"] { hub.put(key, 2) }
        hub.put("a", nil)
        #expect(try subscription.events() == [.updates([.deleted("a"), .updated("b", 2)])])
    }

    @Test func deletion_whenValuePending_andNotLive_leavesTheQueue() throws {
        let subscription = hub.subscribe()
        _ = try subscription.events()
        hub.put("a", 1)
        hub.put("b", 1)
        hub.put("a", nil)
        #expect(try subscription.events() == [.updates([.new("b", 1)])])
        #expect(try subscription.events() == nil)
    }

    @Test func keyThatLeftTheQueue_addedAgain_goesToTheBack() throws {
        let subscription = hub.subscribe()
        _ = try subscription.events()
        for (key, value) in [("a", 1), ("b", 1), ("a", nil), ("a", 2)] { hub.put(key, value) }
        #expect(try subscription.events() == [.updates([.new("b", 1), .new("a", 2)])])
    }

    @Test func keyThatLeftTheQueueTwice_addedAgain_isDeliveredOnce() throws {
        let subscription = hub.subscribe()
        _ = try subscription.events()
        for (key, value) in [("a", 1), ("a", nil), ("b", 1), ("a", 2), ("a", nil), ("c", 1), ("a", 3)] {
            hub.put(key, value)
        }
        #expect(try subscription.events() == [.updates([.new("b", 1), .new("c", 1), .new("a", 3)])])
        #expect(try subscription.events() == nil)
    }

    @Test func value_whenDeletionPending_isAnUpdateInItsPlace() throws {
        let subscription = hub.subscribe()
        for key in ["a", "b"] { hub.put(key, 1) }
        _ = try subscription.events()
        for (key, value) in [("a", nil), ("b", 2), ("a", 3)] { hub.put(key, value) }
        #expect(try subscription.events() == [.updates([.updated("a", 3), .updated("b", 2)])])
    }

    @Test func deletion_ofAKeyThatTheHubDoesNotHave_isIgnored() throws {
        let subscription = hub.subscribe()
        hub.put("a", nil)
        #expect(try subscription.events() == nil)
        #expect(hub.statistics.ignored == 1)
        #expect(hub.statistics.revision == 0)
    }

    @Test func batch_isAtMostSoLarge() throws {
        let hub = Hub(configuration: configuration(batch: 2))
        for key in ["a", "b"] { hub.put(key, 1) }
        hub.onStatusUpdated(.inSync)
        let subscription = hub.subscribe()
        #expect(try subscription.events() == [.updates([.new("a", 1), .new("b", 1)])])
        #expect(try subscription.events() == [.status(.inSync)])
    }

    @Test func call_withMoreUpdatesThanAWriteTakes_isWhole() throws {
        hub.onUpdates((0..<1000).map { Update(key: "k\($0 % 600)", value: $0) })
        var picture = Picture()
        let subscription = hub.subscribe()
        while case .batch(let deliveries) = try subscription.take() {
            for delivery in deliveries { picture.see(delivery) }
        }
        #expect(picture.state.count == 600)
        #expect(picture.state["k5"] == 605)
        #expect(picture.state["k500"] == 500)
    }

    // MARK: - Keys

    @Test func keys_areTheirBytes() throws {
        let (composed, decomposed) = ("caf\u{E9}", "cafe\u{301}")
        hub.put(composed, 1)
        hub.put(decomposed, 2)
        #expect(hub.statistics.keys == 2)
    }

    @Test(arguments: ["", "k", String(repeating: "k", count: 100_000)])
    func keys_mayHaveAnyLength(key: String) throws {
        hub.put("other", 0)
        hub.put(key, 1)
        hub.put(key, 2)
        #expect(try hub.subscribe().events() == [.updates([.new("other", 0), .new(key, 2)])])
    }

    @Test func keysWithOneHash_areToldApart() throws {
        // More keys than the index has buckets, so that chains have several.
        for i in 0..<5000 { hub.put("k\(i)", i) }
        for i in stride(from: 0, to: 5000, by: 2) { hub.put("k\(i)", nil) }
        for i in 0..<100 { hub.put("k\(i)", -i) }
        var picture = Picture()
        let subscription = hub.subscribe()
        while case .batch(let deliveries) = try subscription.take() {
            for delivery in deliveries { picture.see(delivery) }
        }
        var due: [String: Int] = [:]
        for i in 0..<5000 where i < 100 || i % 2 == 1 { due["k\(i)"] = i < 100 ? -i : i }
        #expect(picture.state == due)
    }

    // MARK: - Statuses

    @Test func status_isABarrier() throws {
        let subscription = hub.subscribe()
        hub.put("a", 1)
        _ = try subscription.events()
        hub.put("b", 1)
        hub.onStatusUpdated(.inSync)
        hub.put("c", 1)
        hub.put("b", 2)
        let due: [Event<String, Int>] = [.updates([.new("b", 2)]), .status(.inSync), .updates([.new("c", 1)])]
        #expect(try subscription.events() == due)
    }

    @Test func status_behindAStatus_takesItsPlace() throws {
        let subscription = hub.subscribe()
        _ = try subscription.events()
        hub.onStatusUpdated(.resyncInProgress)
        hub.onStatusUpdated(.inSync)
        hub.put("a", 1)
        #expect(try subscription.events() == [.status(.inSync), .updates([.new("a", 1)])])
    }

    @Test func status_whenWhatWasBetweenHasLeft_replacesTheEarlier() throws {
        let subscription = hub.subscribe()
        _ = try subscription.events()
        hub.onStatusUpdated(.resyncInProgress)
        hub.put("a", 1)
        hub.onStatusUpdated(.inSync)
        hub.put("a", nil)
        hub.put("b", 1)
        #expect(try subscription.events() == [.status(.inSync), .updates([.new("b", 1)])])
    }

    @Test func status_thatEqualsTheLatestReceived_isDropped() throws {
        let subscription = hub.subscribe()
        _ = try subscription.events()
        hub.onStatusUpdated(.waitForDatastore)
        #expect(try subscription.events() == nil)
        hub.onStatusUpdated(.inSync)
        hub.onStatusUpdated(.inSync)
        #expect(try subscription.events() == [.status(.inSync)])
        #expect(try subscription.events() == nil)
    }

    @Test func status_thatEqualsTheLatestDelivered_isDeliveredAgain() throws {
        let subscription = hub.subscribe()
        hub.onStatusUpdated(.inSync)
        _ = try subscription.events()
        hub.onStatusUpdated(.resyncInProgress)
        hub.onStatusUpdated(.inSync)
        #expect(try subscription.events() == [.status(.inSync)])
    }

    @Test func statusAtTheEndOfABatch_waitsForNothing() throws {
        let hub = Hub(configuration: configuration(batch: 1))
        let subscription = hub.subscribe()
        hub.put("a", 1)
        hub.onStatusUpdated(.inSync)
        hub.put("b", 1)
        let due: [Event<String, Int>] = [.updates([.new("a", 1)]), .status(.inSync), .updates([.new("b", 1)])]
        // The first state has no order between its keys and the status.
        #expect(try subscription.allEvents().count == 3)
        hub.put("a", 2)
        hub.onStatusUpdated(.resyncInProgress)
        hub.put("b", 2)
        #expect(try subscription.allEvents() == due.map(\.second))
    }

    // MARK: - The clock

    /// A clock that reads the hub's figures.
    @Test func clock_mayCallTheHub() throws {
        struct CuriousClock: Clock {
            let hub: Kept<Hub?>
            let base = ManualClock()
            var now: ManualClock.Instant {
                _ = hub.value?.statistics
                return base.now
            }
            var minimumResolution: Duration { .zero }
            func sleep(until deadline: ManualClock.Instant, tolerance: Duration?) async throws {}
        }
        let made = Kept<Hub?>(nil)
        var configuration = configuration()
        configuration.clock = CuriousClock(hub: made)
        let hub = Hub(configuration: configuration)
        made.change { $0 = hub }
        try Worker("the source") {
            hub.put("a", 1)
            hub.put("a", nil)
            hub.put("b", 1)
        }.join()
        #expect(hub.statistics.keys == 1)
        made.change { $0 = nil }
    }

    // MARK: - Pace

    @Test func subscribers_goAtTheirOwnPace() throws {
        let (quick, slow) = (hub.subscribe(), hub.subscribe())
        hub.put("a", 1)
        #expect(try quick.events() == [.updates([.new("a", 1)])])
        hub.put("a", 2)
        #expect(try quick.events() == [.updates([.updated("a", 2)])])
        #expect(try slow.events() == [.updates([.new("a", 2)])])
        hub.put("a", nil)
        #expect(try quick.events() == [.updates([.deleted("a")])])
        hub.put("a", 3)
        #expect(try quick.events() == [.updates([.new("a", 3)])])
        #expect(try slow.events() == [.updates([.updated("a", 3)])])
    }

    // MARK: - The end

    @Test func finish_deliversWhatIsLeft_andEnds() throws {
        let subscription = hub.subscribe()
        hub.put("a", 1)
        hub.finish()
        hub.put("b", 1)
        hub.onStatusUpdated(.inSync)
        hub.finish()
        #expect(try subscription.events() == [.updates([.new("a", 1)])])
        guard case .finished = try subscription.take() else { throw Unexpected() }
        #expect(hub.statistics.dropped == 1)
    }

    @Test func hubThatIsLetGo_deliversWhatIsLeft_andEnds() throws {
        var hub: Hub? = Hub()
        let subscription = hub!.subscribe()
        hub!.put("a", 1)
        hub = nil
        #expect(try subscription.events() == [.updates([.new("a", 1)])])
        guard case .finished = try subscription.take() else { throw Unexpected() }
    }

    @Test func cancelledSubscription_getsNothing() throws {
        let subscription = hub.subscribe()
        hub.put("a", 1)
        subscription.cancel()
        subscription.cancel()
        guard case .finished = try subscription.take() else { throw Unexpected() }
        #expect(hub.statistics.subscribers == 0)
    }
}

struct Unexpected: Error {}

extension Event where Key == String, Value == Int {
    /// What the second round of `statusAtTheEndOfABatch_waitsForNothing` makes of the first one's.
    fileprivate var second: Self {
        switch self {
        case .updates(let items): .updates(items.map { .updated($0.key, 2) })
        case .status, .restart: .status(.resyncInProgress)
        }
    }
}
