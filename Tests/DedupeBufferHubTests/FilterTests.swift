// SPDX-License-Identifier: Apache-2.0

// Subscribers that want some of the keys.

import DedupeBuffer
import Testing

@testable import DedupeBufferHub

@Suite struct FilterTests {
    private let hub = Hub(configuration: configuration(log: 8, tombstones: 0))

    @Test func subscriber_getsOnlyTheKeysThatItWants() throws {
        let subscription = hub.subscribe(where: { $0.hasPrefix("a") })
        for key in ["a1", "b1", "a2"] { hub.put(key, 1) }
        #expect(try subscription.events() == [.updates([.new("a1", 1), .new("a2", 1)])])
        hub.put("b1", nil)
        hub.put("a1", nil)
        #expect(try subscription.events() == [.updates([.deleted("a1")])])
        hub.put("b1", 3)
        #expect(try subscription.events() == nil)
    }

    @Test func batch_isFilledUp() throws {
        let hub = Hub(configuration: configuration(batch: 2))
        for i in 0..<100 { hub.put("k\(i)", i) }
        let subscription = hub.subscribe(where: { $0.hasSuffix("0") })
        #expect(try subscription.events() == [.updates([.new("k0", 0), .new("k10", 10)])])
    }

    @Test func filter_isNotAskedAgain_aboutAKeyThatTheSubscriberHas_orDoesNotWant() throws {
        let asked = Kept([String]())
        let subscription = hub.subscribe { key in
            asked.change { $0.append(key) }
            return key == "a"
        }
        for value in 0..<3 {
            hub.put("a", value)
            hub.put("b", value)
            _ = try subscription.events()
        }
        #expect(asked.value == ["a", "b"])
    }

    @Test func filter_isAskedAgain_whenAnotherKeyGetsTheSlot() throws {
        let subscription = hub.subscribe(where: { $0 == "c" })
        hub.put("b", 1)
        #expect(try subscription.events() == nil)
        hub.put("b", nil)
        hub.put("c", 1)
        #expect(hub.core.state.pointee.table.count == 1)
        #expect(try subscription.events() == [.updates([.new("c", 1)])])
    }

    @Test func filter_isAskedAgain_whenAnotherKeyGetsTheSlot_ofALappedSubscriber() throws {
        let subscription = hub.subscribe(where: { $0 == "c" })
        hub.put("b", 1)
        #expect(try subscription.events() == nil)
        hub.put("b", nil)
        for i in 0..<20 { hub.put("c", i) }
        #expect(hub.core.state.pointee.table.count == 1)
        #expect(try subscription.events() == [.updates([.new("c", 19)])])
    }

    @Test func filter_whenTheSlotGoesToAKeyThatIsNotWanted_isAskedAboutThat() throws {
        let subscription = hub.subscribe(where: { $0 == "b" })
        hub.put("b", 1)
        hub.put("b", nil)
        hub.put("c", 1)
        #expect(try subscription.events() == nil)
        hub.put("c", 2)
        #expect(try subscription.events() == nil)
    }

    @Test func filter_mayCallTheHub() throws {
        let hub = hub
        let subscription = hub.subscribe { key in
            if key == "a" { hub.put("b", 2) }
            return true
        }
        hub.put("a", 1)
        #expect(try subscription.allEvents() == [.updates([.new("a", 1), .new("b", 2)])])
    }

    @Test func take_duringAnotherTake_isRefused() throws {
        let taken = Kept<Subscription?>(nil)
        let error = Kept<DedupeHubError?>(nil)
        let subscription = hub.subscribe { _ in
            do throws(DedupeHubError) {
                _ = try taken.value?.take()
            } catch let refusal {
                error.change { $0 = refusal }
            }
            return true
        }
        taken.change { $0 = subscription }
        hub.put("a", 1)
        #expect(try subscription.events() == [.updates([.new("a", 1)])])
        #expect(error.value == .alreadyTaking)
        taken.change { $0 = nil }
    }

    @Test func filter_whileTheSourceBringsNewKeysAllTheTime_stillDelivers() throws {
        let hub = hub
        let next = Kept(0)
        let subscription = hub.subscribe { _ in
            bringKey(to: hub, next)
            return true
        }
        hub.put("a", 1)
        guard case .updates(let items)? = try subscription.events()?.first else { throw Unexpected() }
        #expect(items.first == .new("a", 1))
        #expect(next.value < sourceEnd)
    }

    @Test func filter_whileTheSourceBringsUnwantedKeysAllTheTime_deliversStatuses_andGivesUp() throws {
        let hub = hub
        let next = Kept(0)
        let subscription = hub.subscribe { _ in
            bringKey(to: hub, next)
            return false
        }
        hub.onStatusUpdated(.inSync)
        hub.put("k", 1)
        #expect(try subscription.events() == [.status(.inSync)])
        guard case .later(.zero) = try subscription.take() else { throw Unexpected() }
        #expect(next.value < sourceEnd)
    }

    /// More keys come during each step than a step looks at.
    @Test func filter_thatIsSlowerThanTheSource_letsTheCallReturn() throws {
        let hub = Hub(configuration: configuration(log: 8, steps: .init(size: 4)))
        let next = Kept(0)
        let subscription = hub.subscribe { _ in
            for _ in 0..<3 { bringKey(to: hub, next) }
            return true
        }
        hub.put("a", 1)
        guard case .later(.zero) = try subscription.take() else { throw Unexpected() }
        #expect(next.value < sourceEnd)
        // It goes on where it was.
        var picture = Picture()
        loop: while true {
            switch try subscription.take() {
            case .batch(let deliveries): for delivery in deliveries { picture.see(delivery) }
            case .later(.zero): continue
            case .nothing: break loop
            case .later, .finished: throw Unexpected()
            }
        }
        #expect(picture.state.count == hub.statistics.keys)
        #expect(picture.faults == [])
    }

    @Test func cancel_whileTheFilterIsAsked_endsTheTake() throws {
        let hub = Hub(configuration: configuration(steps: .init(size: 4)))
        for i in 0..<1000 { hub.put("k\(i)", i) }
        let (asked, made) = (Kept(0), Kept<Subscription?>(nil))
        let subscription = hub.subscribe { _ in
            asked.change { $0 += 1 }
            made.value?.cancel()
            return true
        }
        made.change { $0 = subscription }
        guard case .finished = try subscription.take() else { throw Unexpected() }
        #expect(asked.value <= 4)
        made.change { $0 = nil }
    }

    @Test func statuses_whenWhatWasBetweenIsNotWanted_areOne() throws {
        let subscription = hub.subscribe(where: { $0 == "a" })
        _ = try subscription.events()
        hub.onStatusUpdated(.resyncInProgress)
        hub.put("b", 1)
        hub.onStatusUpdated(.inSync)
        #expect(try subscription.events() == [.status(.inSync)])
    }

    @Test func resume_withAFilter_getsOnlyTheKeysThatItWants() throws {
        let hub = Hub(configuration: configuration())
        for key in ["a1", "b1", "a2", "b2"] { hub.put(key, 1) }
        let first = hub.subscribe(where: { $0.hasPrefix("a") })
        _ = try first.allEvents()
        for key in ["a1", "b1"] { hub.put(key, nil) }
        for key in ["a2", "b2"] { hub.put(key, 2) }
        let second = hub.subscribe(from: first.position, where: { $0.hasPrefix("a") })
        #expect(try second.events() == [.updates([.updated("a2", 2), .deleted("a1")])])
        hub.put("b2", nil)
        #expect(try second.events() == nil)
    }

    @Test func keysThatAreNotWanted_leaveNothing() throws {
        let subscription = hub.subscribe(where: { _ in false })
        for i in 0..<1000 {
            hub.put("k\(i)", i)
            _ = try subscription.events()
            hub.put("k\(i)", nil)
        }
        #expect(hub.core.state.pointee.table.count <= 4)
        #expect(subscription.statistics.memory < 1000)
    }
}

/// A source that brings new keys all the time stops here, so that a take which does not give up
/// fails its test and does not fill the memory.
private let sourceEnd = 2000

private func bringKey(to hub: Hub, _ next: Kept<Int>) {
    let number = next.change { number in
        number += 1
        return number
    }
    if number < sourceEnd { hub.put("k\(number)", number) }
}
