// SPDX-License-Identifier: Apache-2.0

// Subscribers that come back with a position.

import DedupeBuffer
import Testing

@testable import DedupeBufferHub

@Suite struct ResumeTests {
    private let hub = Hub(configuration: configuration())

    /// Takes everything, and returns the position then.
    private func position(_ subscription: Subscription) throws -> Position {
        _ = try subscription.allEvents()
        return subscription.position
    }

    @Test func resume_whenNothingChanged_getsNothing() throws {
        hub.put("a", 1)
        hub.onStatusUpdated(.inSync)
        let position = try position(hub.subscribe())
        #expect(try hub.subscribe(from: position).events() == nil)
        #expect(hub.statistics.resumed == 1)
    }

    @Test func resume_getsWhatChanged_withExactTypes_andThenTheStatus() throws {
        for key in ["a", "b", "c", "d"] { hub.put(key, 1) }
        let position = try position(hub.subscribe())
        hub.put("b", 2)
        hub.put("c", nil, revision: 9)
        hub.put("e", 1)
        hub.put("f", 1)
        hub.put("f", nil)
        hub.put("d", nil)
        hub.put("d", 2)
        hub.onStatusUpdated(.inSync)
        let events = try hub.subscribe(from: position).events()
        let due: [Item<String, Int>] = [
            .updated("b", 2), .updated("d", 2), .new("e", 1), .deleted("c", revision: 9),
        ]
        #expect(events == [.updates(due), .status(.inSync)])
    }

    @Test func resume_whenAKeyWasDeletedAfterwards_hearsOfIt() throws {
        hub.put("a", 1)
        let position = try position(hub.subscribe())
        let subscription = hub.subscribe(from: position)
        #expect(try subscription.events() == nil)
        hub.put("a", nil)
        #expect(try subscription.events() == [.updates([.deleted("a")])])
    }

    @Test func resume_whenTombstonesAreForgotten_restarts() throws {
        let hub = Hub(configuration: configuration(tombstones: 2))
        for key in ["a", "b", "c", "d"] { hub.put(key, 1) }
        let position = try position(hub.subscribe())
        hub.put("a", nil)
        hub.put("b", nil)
        #expect(try hub.subscribe(from: position).events() == [.updates([.deleted("a"), .deleted("b")])])
        hub.put("c", nil)
        let due: [Event<String, Int>] = [.restart, .updates([.new("d", 1)]), .status(.waitForDatastore)]
        #expect(try hub.subscribe(from: position).events() == due)
        #expect(hub.statistics.restarts == 1)
    }

    @Test func resume_afterTheLatestForgottenDeletion_isPossible() throws {
        let hub = Hub(configuration: configuration(tombstones: 1))
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        hub.put("a", nil)
        let position = try position(hub.subscribe())
        hub.put("b", nil)
        #expect(try hub.subscribe(from: position).events() == [.updates([.deleted("b")])])
    }

    @Test func resume_whenTombstonesAreOld_restarts() throws {
        var configuration = configuration()
        let clock = ManualClock()
        configuration.clock = clock
        configuration.tombstoneAge = .seconds(10)
        let hub = Hub(configuration: configuration)
        for key in ["a", "b"] { hub.put(key, 1) }
        let position = try position(hub.subscribe())
        hub.put("a", nil)
        clock.advance(by: .seconds(10))
        hub.put("b", 2)
        #expect(try hub.subscribe(from: position).events() == [.updates([.updated("b", 2), .deleted("a")])])
        clock.advance(by: .seconds(1))
        hub.put("b", 3)
        let due: [Event<String, Int>] = [.restart, .updates([.new("b", 3)]), .status(.waitForDatastore)]
        #expect(try hub.subscribe(from: position).events() == due)
    }

    @Test func resume_fromAnotherHub_restarts() throws {
        let position = try position(Hub().subscribe())
        hub.put("a", 1)
        hub.onStatusUpdated(.inSync)
        let due: [Event<String, Int>] = [.restart, .updates([.new("a", 1)]), .status(.inSync)]
        #expect(try hub.subscribe(from: position).events() == due)
    }

    @Test func resume_fromTheFuture_restarts() throws {
        hub.put("a", 1)
        hub.onStatusUpdated(.inSync)
        let epoch = hub.core.epoch
        let due: [Event<String, Int>] = [.restart, .updates([.new("a", 1)]), .status(.inSync)]
        for (revision, horizon) in [(UInt64(0), UInt64(3)), (3, 3), (.max, .max)] {
            let position = Position(epoch: epoch, revision: revision, horizon: horizon)
            #expect(try hub.subscribe(from: position).events() == due)
        }
    }

    // MARK: - Before the first take

    @Test func position_beforeTheFirstTake_isTheGivenOne() throws {
        for key in ["a", "b"] { hub.put(key, 1) }
        let known = try position(hub.subscribe())
        for position in [known, Position(epoch: 1, revision: 5, horizon: 7)] {
            let subscription = hub.subscribe(from: position)
            #expect(subscription.position == position)
            subscription.cancel()
            #expect(subscription.position == position)
        }
        let subscription = hub.subscribe(from: hub.subscribe(from: known).position)
        hub.put("a", nil)
        #expect(try subscription.events() == [.updates([.deleted("a")])])
    }

    /// The subscription ends when the subscriber has not been told yet that it must restart.
    @Test func position_whenTheRestartWasNotTaken_isTheGivenOne() throws {
        hub.put("a", 1)
        let (position, made) = (Position(epoch: 1, revision: 5, horizon: 7), Kept<Subscription?>(nil))
        let subscription = hub.subscribe(from: position) { _ in
            made.value?.cancel()
            return true
        }
        made.change { $0 = subscription }
        #expect(try subscription.events() == nil)
        #expect(subscription.position == position)
        made.change { $0 = nil }
    }

    @Test func lag_beforeTheFirstTake_isThatOfThePosition() throws {
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        let position = try position(hub.subscribe())
        hub.put("d", 1)
        let subscription = hub.subscribe(from: position)
        #expect(subscription.statistics.lag == 1)
        #expect(hub.subscribe(from: Position(epoch: 1, revision: 3, horizon: 3)).statistics.lag == 4)
        #expect(hub.subscribe(from: Position(epoch: position.epoch, revision: 9, horizon: 9)).statistics.lag == 4)
    }

    // MARK: - The status

    @Test func restart_whenTheSourceWaits_tellsThatStatus() throws {
        let position = Position(epoch: 1, revision: 1, horizon: 1)
        #expect(try hub.subscribe(from: position).events() == [.restart, .status(.waitForDatastore)])
        hub.onStatusUpdated(.inSync)
        hub.onStatusUpdated(.waitForDatastore)
        hub.put("a", 1)
        let due: [Event<String, Int>] = [.restart, .updates([.new("a", 1)]), .status(.waitForDatastore)]
        #expect(try hub.subscribe(from: position).events() == due)
    }

    /// The position is still that of the beginning when the subscriber has had a status.
    @Test func resume_inTheMiddle_whenTheSourceWaits_tellsThatStatus() throws {
        let hub = Hub(configuration: configuration(batch: 3))
        for key in ["a", "b", "c", "d"] { hub.put(key, 1) }
        hub.onStatusUpdated(.inSync)
        let subscription = hub.subscribe()
        var picture = Picture()
        guard case .batch(let first) = try subscription.take() else { throw Unexpected() }
        for delivery in first { picture.see(delivery) }
        hub.put("e", 1)
        guard case .batch(let second) = try subscription.take() else { throw Unexpected() }
        for delivery in second.prefix(2) { picture.see(delivery) }
        #expect(picture.status == .inSync)
        #expect(picture.position?.revision == 0)
        hub.onStatusUpdated(.waitForDatastore)
        let result = try self.picture(hub.subscribe(from: picture.position), from: picture)
        #expect(result.status == .waitForDatastore)
        #expect(result.state == ["a": 1, "b": 1, "c": 1, "d": 1, "e": 1])
    }

    /// The subscriber breaks off between the restart and the status.
    @Test func resume_afterARestart_whenTheSourceWaits_tellsThatStatus() throws {
        let hub = Hub(configuration: configuration(batch: 1))
        for key in ["a", "b"] { hub.put(key, 1) }
        let subscription = hub.subscribe(from: Position(epoch: 1, revision: 1, horizon: 1))
        guard case .batch(let deliveries) = try subscription.take() else { throw Unexpected() }
        for delivery in deliveries {
            let events = try hub.subscribe(from: delivery.position).allEvents()
            #expect(events.last == .status(.waitForDatastore))
        }
    }

    // MARK: - In the middle

    /// The subscriber has had some of its first state when it breaks off.
    @Test func resume_inTheMiddle_whenADeliveredKeyIsDeleted_hearsOfIt() throws {
        let hub = Hub(configuration: configuration(batch: 1))
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        let subscription = hub.subscribe()
        _ = try subscription.events()
        let position = subscription.position
        #expect(position.revision < position.horizon)
        hub.put("a", nil)
        let events = try hub.subscribe(from: position).allEvents()
        #expect(events.contains(.updates([.deleted("a")])))
    }

    @Test func resume_inTheMiddle_whenADeliveredKeyIsDeletedLater_hearsOfIt() throws {
        let hub = Hub(configuration: configuration(batch: 1))
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        let subscription = hub.subscribe()
        _ = try subscription.events()
        let resumed = hub.subscribe(from: subscription.position)
        // It has caught up, and has not been told of "a" again.
        #expect(try resumed.events() == [.updates([.updated("a", 1)])])
        let second = hub.subscribe(from: resumed.position)
        hub.put("a", nil)
        #expect(try second.allEvents().contains(.updates([.deleted("a")])))
    }

    @Test func position_movesOn_whenTheQueueOfThenIsOut() throws {
        let hub = Hub(configuration: configuration(batch: 1))
        for key in ["a", "b"] { hub.put(key, 1) }
        let subscription = hub.subscribe()
        _ = try subscription.events()
        #expect(subscription.position.revision == 0)
        // The key that changes meanwhile comes up again, and does not hold the position up.
        hub.put("a", 2)
        _ = try subscription.events()
        #expect(subscription.position.revision == 2)
        #expect(subscription.position.horizon == 3)
        _ = try subscription.events()
        #expect(subscription.position.revision == 3)
        #expect(subscription.position.horizon == 3)
    }

    @Test func position_isOlder_untilTheLastOfABatch() throws {
        hub.put("a", 1)
        hub.onStatusUpdated(.inSync)
        guard case .batch(let deliveries) = try hub.subscribe().take() else { throw Unexpected() }
        #expect(deliveries.map(\.position.revision) == [0, 2])
        #expect(deliveries.map(\.position.horizon) == [2, 2])
    }

    @Test func position_ofAResume_isOlder_untilTheLastOfABatch() throws {
        hub.put("a", 1)
        let position = try position(hub.subscribe())
        hub.put("b", 1)
        hub.onStatusUpdated(.inSync)
        guard case .batch(let deliveries) = try hub.subscribe(from: position).take() else { throw Unexpected() }
        #expect(deliveries.map(\.position.revision) == [1, 3])
    }

    @Test func batch_largerThanAStep_isWhole() throws {
        let hub = Hub(configuration: configuration(batch: 65_536))
        for i in 0..<5000 { hub.put("k\(i)", i) }
        guard case .batch(let deliveries) = try hub.subscribe().take(), case .updates(let updates) = deliveries[0].event
        else { throw Unexpected() }
        #expect(deliveries.count == 1)
        #expect(updates.count == 5000)
    }

    @Test func position_movesOn_whenTheFilterWantsNothing() throws {
        let subscription = hub.subscribe(where: { $0 == "a" })
        hub.put("b", 1)
        #expect(try subscription.events() == nil)
        #expect(subscription.position.revision == 1)
    }

    // MARK: - While the hub is written to

    // The filter is called between the steps of a scan, so it can do what another thread would.

    /// A hub with more keys than a step looks at, which subscribers without a filter have.
    private func largeHub(tombstones: Int) throws -> (Hub, Position) {
        let hub = Hub(configuration: configuration(log: 16, batch: 65_536, tombstones: tombstones))
        for i in 0..<5000 { hub.put("k\(i)", i) }
        return (hub, try position(hub.subscribe(where: { _ in true })))
    }

    private func picture(_ subscription: Subscription, from picture: Picture) throws -> Picture {
        var picture = picture
        while case .batch(let deliveries) = try subscription.take() {
            for delivery in deliveries { picture.see(delivery) }
        }
        return picture
    }

    @Test(arguments: [10, 3000, 4900])
    func resume_whenKeysAreDeletedDuringTheScan_hearsOfThem(deleted: Int) throws {
        let (hub, position) = try largeHub(tombstones: 1000)
        let isFirst = Kept(true)
        let subscription = hub.subscribe(from: position) { _ in
            guard isFirst.takeTrue() else { return true }
            hub.put("k\(deleted)", nil)
            hub.put("k\(deleted + 1)", nil)
            hub.put("k\(deleted + 1)", -1)
            hub.put("k\(deleted + 2)", nil)
            hub.put("k\(deleted + 2)", -1)
            hub.put("k\(deleted + 2)", nil)
            hub.put("new", 1)
            return true
        }
        var known = Picture()
        for i in 0..<5000 { known.state["k\(i)"] = i }
        let result = try picture(subscription, from: known)
        var due = known.state
        (due["k\(deleted)"], due["k\(deleted + 1)"], due["k\(deleted + 2)"], due["new"]) = (nil, -1, nil, 1)
        #expect(result.state == due)
        #expect(result.faults == [])
    }

    @Test func resume_whenTombstonesAreForgottenDuringTheScan_restarts() throws {
        let (hub, position) = try largeHub(tombstones: 4)
        let isFirst = Kept(true)
        let subscription = hub.subscribe(from: position) { _ in
            guard isFirst.takeTrue() else { return true }
            for i in 0..<10 { hub.put("k\(i)", nil) }
            return true
        }
        var known = Picture()
        for i in 0..<5000 { known.state["k\(i)"] = i }
        let result = try picture(subscription, from: known)
        #expect(result.state == known.state.filter { $0.value >= 10 })
        #expect(result.faults == [])
        #expect(hub.statistics.restarts == 1)
        // The subscriber does not count as a holder twice.
        for i in 10..<20 { hub.put("k\(i)", nil) }
        _ = try subscription.allEvents()
        for _ in 0..<10 { hub.put("k30", 1) }
        #expect(hub.statistics.deletedKeys <= 4)
    }

    @Test(arguments: [10, 3000, 4900])
    func firstState_whenTheHubIsWrittenToDuringTheScan_isWhole(changed: Int) throws {
        let (hub, _) = try largeHub(tombstones: 0)
        let isFirst = Kept(true)
        let subscription = hub.subscribe { _ in
            guard isFirst.takeTrue() else { return true }
            hub.put("k\(changed)", nil)
            hub.put("k\(changed + 1)", nil)
            hub.put("k\(changed + 1)", -1)
            hub.put("k\(changed + 2)", -2)
            for i in 0..<100 { hub.put("new\(i)", i) }
            hub.onStatusUpdated(.inSync)
            return true
        }
        let result = try picture(subscription, from: Picture())
        var due: [String: Int] = [:]
        for i in 0..<5000 { due["k\(i)"] = i }
        (due["k\(changed)"], due["k\(changed + 1)"], due["k\(changed + 2)"]) = (nil, -1, -2)
        for i in 0..<100 { due["new\(i)"] = i }
        #expect(result.state == due)
        #expect(result.status == .inSync)
        #expect(result.faults == [])
    }
}
