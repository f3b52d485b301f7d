// SPDX-License-Identifier: Apache-2.0

// Subscribers that the change log has lapped, and the reuse of slots.

import DedupeBuffer
import Testing

@testable import DedupeBufferHub

@Suite struct LappedTests {
    private let hub = Hub(configuration: configuration(log: 4, tombstones: 0))

    private func settled() throws -> Subscription {
        let subscription = hub.subscribe()
        _ = try subscription.allEvents()
        return subscription
    }

    /// Changes that the log has no room for.
    private func lap() {
        for i in 0..<5 { hub.put("other", i) }
    }

    @Test func lapped_getsWhatItHasMissed() throws {
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        let subscription = try settled()
        hub.put("b", 2)
        lap()
        #expect(try subscription.events() == [.updates([.updated("b", 2), .new("other", 4)])])
        #expect(hub.statistics.scans == 1)
    }

    @Test func lapped_getsDeletionsThatItHasMissed() throws {
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        let subscription = try settled()
        hub.put("b", nil)
        lap()
        #expect(try subscription.events() == [.updates([.deleted("b"), .new("other", 4)])])
        #expect(try subscription.events() == nil)
    }

    @Test func lapped_getsTheLatestStatus_behindTheKeys() throws {
        let subscription = try settled()
        hub.onStatusUpdated(.resyncInProgress)
        hub.put("a", 1)
        hub.onStatusUpdated(.inSync)
        lap()
        #expect(try subscription.events() == [.updates([.new("a", 1), .new("other", 4)]), .status(.inSync)])
    }

    @Test func lapped_withoutANewStatus_getsNone() throws {
        hub.onStatusUpdated(.inSync)
        let subscription = try settled()
        lap()
        #expect(try subscription.events() == [.updates([.new("other", 4)])])
    }

    @Test func lapped_whenKeysArePending_theseKeepTheirPlaces() throws {
        let hub = Hub(configuration: configuration(log: 4, batch: 1))
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        let subscription = hub.subscribe()
        _ = try subscription.allEvents()
        for key in ["c", "b", "a"] { hub.put(key, 2) }
        #expect(try subscription.events() == [.updates([.updated("c", 2)])])
        for i in 0..<5 { hub.put("d", i) }
        hub.put("a", 3)
        hub.put("b", nil)
        #expect(
            try subscription.allEvents() == [
                .updates([.deleted("b")]), .updates([.updated("a", 3)]), .updates([.new("d", 4)]),
            ])
    }

    @Test func lapped_whenAPendingNewKeyIsGone_itLeavesTheQueue() throws {
        let hub = Hub(configuration: configuration(log: 4, batch: 1))
        let subscription = hub.subscribe()
        _ = try subscription.allEvents()
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        _ = try subscription.events()
        hub.put("b", nil)
        for i in 0..<5 { hub.put("d", i) }
        #expect(try subscription.allEvents() == [.updates([.new("c", 1)]), .updates([.new("d", 4)])])
    }

    @Test func lapped_whenAPendingNewKeyLivesAgain_itGoesToTheBack() throws {
        let hub = Hub(configuration: configuration(log: 4, batch: 1))
        let subscription = hub.subscribe()
        _ = try subscription.allEvents()
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        _ = try subscription.events()
        hub.put("b", nil)
        hub.put("b", 2)
        for i in 0..<5 { hub.put("d", i) }
        #expect(
            try subscription.allEvents() == [
                .updates([.new("c", 1)]), .updates([.new("b", 2)]), .updates([.new("d", 4)]),
            ])
    }

    @Test func exactlyLapped_walksTheLog() throws {
        let subscription = try settled()
        for key in ["d", "c", "b", "a"] { hub.put(key, 1) }
        #expect(
            try subscription.events() == [.updates([.new("d", 1), .new("c", 1), .new("b", 1), .new("a", 1)])])
        #expect(hub.statistics.scans == 0)
    }

    // MARK: - Steps

    /// Entries that have left the queue count as work, too.
    @Test func take_withManyStaleEntries_goesOnInSteps() throws {
        let count = Kept(0)
        let steps = DedupeHubConfiguration.Steps(
            size: 16, items: 16, stale: .max / 2, afterEach: { count.change { $0 += 1 } })
        let hub = Hub(configuration: configuration(batch: 10, steps: steps))
        for i in 0..<1000 { hub.put("k\(i)", i) }
        let subscription = hub.subscribe()
        _ = try subscription.events()
        for i in 10..<410 { hub.put("k\(i)", nil) }
        count.change { $0 = 0 }
        #expect(try subscription.events() == [.updates((410..<420).map { .new("k\($0)", $0) })])
        // 400 changes and 400 entries.
        #expect(count.value >= 800 / 16)
    }

    @Test func take_withManyStatusesInARow_goesOnInSteps() throws {
        let count = Kept(0)
        let steps = DedupeHubConfiguration.Steps(
            size: 16, items: 16, stale: .max / 2, afterEach: { count.change { $0 += 1 } })
        let hub = Hub(configuration: configuration(batch: 10, steps: steps))
        let subscription = hub.subscribe()
        _ = try subscription.events()
        for i in 0..<100 {
            hub.onStatusUpdated(i % 2 == 0 ? .inSync : .resyncInProgress)
            hub.put("k\(i)", i)
        }
        for i in 0..<100 { hub.put("k\(i)", nil) }
        hub.put("k", 1)
        count.change { $0 = 0 }
        #expect(try subscription.events() == [.status(.resyncInProgress), .updates([.new("k", 1)])])
        // 301 changes and 201 entries.
        #expect(count.value >= 502 / 16)
    }

    // MARK: - The log grows

    @Test func log_growsWithTheTable_andLosesNothing() throws {
        let hub = Hub(configuration: configuration(log: 2, batch: 1000, grows: true))
        let subscription = hub.subscribe()
        for i in 0..<300 {
            hub.put("k\(i)", i)
            if i % 7 == 0 {
                var due = [Item<String, Int>.new("k\(i)", i)]
                if i > 0 { due = ((i - 6)...i).map { .new("k\($0)", $0) } }
                let events = try subscription.events()
                if events != [.updates(due)] { #expect(events == [.updates(due)], "at \(i)") }
            }
        }
        #expect(hub.statistics.scans <= 2)
    }

    // MARK: - Slots

    @Test func slot_ofADeletedKeyThatASubscriberHas_isNotReused() throws {
        hub.put("a", 1)
        let subscription = try settled()
        hub.put("a", nil)
        for i in 0..<20 { hub.put("b\(i)", i) }
        for i in 0..<20 { hub.put("b\(i)", nil) }
        hub.put("c", 1)
        #expect(try subscription.events() == [.updates([.deleted("a"), .new("c", 1)])])
    }

    @Test func slot_ofADeletedKeyThatNoSubscriberHas_isReused() throws {
        for i in 0..<1000 {
            hub.put("k\(i)", i)
            hub.put("k\(i)", nil)
        }
        #expect(hub.core.state.pointee.table.count <= 4)
        #expect(hub.statistics.deletedKeys <= 2)
    }

    @Test func slot_isReused_whenTheLastSubscriberHasBeenTold() throws {
        hub.put("a", 1)
        let (first, second) = (try settled(), try settled())
        hub.put("a", nil)
        hub.put("b", 1)
        #expect(hub.statistics.deletedKeys == 1)
        _ = try first.allEvents()
        hub.put("b", 2)
        #expect(hub.statistics.deletedKeys == 1)
        _ = try second.allEvents()
        hub.put("b", 3)
        #expect(hub.statistics.deletedKeys == 0)
    }

    @Test func slot_isReused_whenTheLastSubscriberHasGone() throws {
        hub.put("a", 1)
        var subscription: Subscription? = try settled()
        hub.put("a", nil)
        hub.put("b", 1)
        #expect(hub.statistics.deletedKeys == 1)
        _ = subscription
        subscription = nil
        hub.put("b", 2)
        #expect(hub.statistics.deletedKeys == 0)
    }

    @Test func slot_whenReusedWhileItsOldKeyIsPending_countsForTheNewKeyOnly() throws {
        let hub = Hub(configuration: configuration(batch: 1, tombstones: 0))
        let subscription = hub.subscribe()
        hub.put("a", 1)
        hub.put("b", 1)
        _ = try subscription.events()
        // One of them is pending and not live.
        hub.put("a", nil)
        hub.put("b", nil)
        hub.put("c", 1)
        hub.put("d", 1)
        var picture = Picture()
        while case .batch(let deliveries) = try subscription.take() {
            for delivery in deliveries { picture.see(delivery) }
        }
        #expect(picture.state == ["c": 1, "d": 1])
    }

    /// A key that has come back is not deleted any more; when it is deleted again, its slot waits
    /// once for its subscribers.
    @Test func slot_thatWaitsForASubscriber_whenItsKeyComesBackAndIsDeleted_isFreedOnce() throws {
        for key in ["a", "other"] { hub.put(key, 1) }
        let subscription = try settled()
        for i in 0..<3 {
            hub.put("a", nil)
            hub.put("other", i)
            hub.put("a", i)
        }
        hub.put("a", nil)
        for i in 0..<3 { hub.put("other", i) }
        #expect(hub.statistics.deletedKeys == 1)
        #expect(try subscription.allEvents().contains { $0 == .updates([.deleted("a"), .updated("other", 2)]) })
        for i in 0..<10 { hub.put("other", i) }
        #expect(hub.statistics.deletedKeys == 0)
        for key in ["b", "c", "d"] { hub.put(key, 1) }
        #expect(hub.core.state.pointee.table.count == 4)
        var picture = Picture()
        guard case .batch(let deliveries) = try hub.subscribe().take() else { throw Unexpected() }
        for delivery in deliveries { picture.see(delivery) }
        #expect(picture.state == ["other": 9, "b": 1, "c": 1, "d": 1])
    }

    @Test func deletedKey_thatComesBack_keepsItsSlot() throws {
        let subscription = try settled()
        hub.put("a", 1)
        _ = try subscription.events()
        for i in 0..<100 {
            hub.put("a", nil)
            hub.put("a", i)
        }
        #expect(hub.core.state.pointee.table.count == 1)
        #expect(try subscription.events() == [.updates([.updated("a", 99)])])
        #expect(hub.statistics.deletedKeys == 0)
    }
}
