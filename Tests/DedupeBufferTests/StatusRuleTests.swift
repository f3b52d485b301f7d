// SPDX-License-Identifier: Apache-2.0

// Contract section 3: statuses in, the barrier, and no two adjacent in the queue.

import DedupeBuffer
import Testing

@Suite("Statuses in")
struct StatusRuleTests {
    private let buffer = StringBuffer()

    // MARK: Rule 2: equal to the latest one received

    @Test func waitForDatastore_beforeAny_isDropped() throws {
        buffer.onStatusUpdated(.waitForDatastore)
        #expect(try buffer.nextBatch() == nil)
    }

    @Test(arguments: [SyncStatus.resyncInProgress, .inSync])
    func status_whenFirst_isDelivered(status: SyncStatus) throws {
        buffer.onStatusUpdated(status)
        #expect(try buffer.flush() == [.status(status)])
    }

    @Test(arguments: [SyncStatus.resyncInProgress, .inSync])
    func status_whenEqualToThePendingOne_isDropped(status: SyncStatus) throws {
        buffer.onStatusUpdated(status)
        buffer.onStatusUpdated(status)
        #expect(buffer.statistics.pendingStatuses == 1)
        #expect(try buffer.flush() == [.status(status)])
    }

    @Test func status_whenEqualToTheDeliveredOne_isDropped() throws {
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.nextBatch() == nil)
    }

    @Test func status_whenEqualToTheLatest_withUpdatesBetween_isDropped() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        #expect(try buffer.flush() == [.status(.resyncInProgress), .updates([.new("a", 1)])])
    }

    @Test func waitForDatastore_afterAnother_isDelivered() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.waitForDatastore)
        #expect(
            try buffer.flush() == [.status(.resyncInProgress), .updates([.new("a", 1)]), .status(.waitForDatastore)])
    }

    // MARK: Rule 3: overwritten at the back, else appended

    @Test func status_whenTheLastInTheQueueIsAStatus_overwritesIt() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.inSync)
        #expect(buffer.statistics.pendingStatuses == 1)
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func status_whenTheLastInTheQueueIsAnUpdate_goesToTheBack() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(buffer.statistics.pendingStatuses == 2)
        #expect(try buffer.flush() == [.status(.resyncInProgress), .updates([.new("a", 1)]), .status(.inSync)])
    }

    @Test func status_equalToADeliveredOne_isDeliveredAgain_afterAnotherBetween() throws {
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func waitForDatastore_overwritingTheFirst_isDelivered() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.waitForDatastore)
        #expect(try buffer.flush() == [.status(.waitForDatastore)])
    }

    // MARK: The barrier

    @Test func status_isABarrier_forWhatCameBefore() throws {
        buffer.set("a", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
        buffer.set("c", 3)
        #expect(
            try buffer.flush() == [
                .updates([.new("a", 1)]), .status(.resyncInProgress), .updates([.new("b", 2)]), .status(.inSync),
                .updates([.new("c", 3)]),
            ])
    }

    @Test func update_overtakesAStatus_byTakingTheEarlierOnesPlace() throws {
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        buffer.set("b", 2)
        buffer.set("a", 3)
        #expect(try buffer.flush() == [.updates([.new("a", 3)]), .status(.inSync), .updates([.new("b", 2)])])
    }

    @Test func deletion_overtakesAStatus_byTakingTheEarlierOnesPlace() throws {
        buffer.set("a", 1)
        _ = try buffer.flush()
        buffer.set("a", 2)
        buffer.onStatusUpdated(.inSync)
        buffer.delete("a")
        #expect(try buffer.flush() == [.updates([.deleted("a")]), .status(.inSync)])
    }

    @Test func replacement_doesNotEndTheRunOfStatusesAtTheBack() throws {
        buffer.set("a", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 2)  // in its place, before the status: the status is still last
        buffer.onStatusUpdated(.inSync)
        #expect(try buffer.flush() == [.updates([.new("a", 2)]), .status(.inSync)])
    }

    // MARK: Never adjacent

    @Test func statuses_leftAdjacent_theEarlierGoes() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        buffer.delete("a")
        #expect(buffer.statistics.pendingStatuses == 1)
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func statuses_leftAdjacent_inTheMiddle_theEarlierGoes() throws {
        buffer.set("first", 0)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.waitForDatastore)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
        buffer.set("last", 3)
        buffer.delete("a")
        #expect(buffer.statistics.pendingStatuses == 2)
        #expect(
            try buffer.flush() == [
                .updates([.new("first", 0)]), .status(.waitForDatastore), .updates([.new("b", 2)]), .status(.inSync),
                .updates([.new("last", 3)]),
            ])
    }

    @Test func statuses_leftAdjacent_severalTimes_onlyTheLastStays() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.waitForDatastore)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
        buffer.delete("b")
        buffer.delete("a")
        #expect(buffer.statistics.pendingStatuses == 1)
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func statuses_withOneOfTwoUpdatesGone_bothStay() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.set("b", 2)
        buffer.onStatusUpdated(.inSync)
        buffer.delete("a")
        #expect(try buffer.flush() == [.status(.resyncInProgress), .updates([.new("b", 2)]), .status(.inSync)])
    }

    @Test func statuses_aroundALiveKey_bothStay() throws {
        buffer.set("a", 1)
        _ = try buffer.flush()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 2)
        buffer.onStatusUpdated(.inSync)
        buffer.delete("a")
        #expect(try buffer.flush() == [.status(.resyncInProgress), .updates([.deleted("a")]), .status(.inSync)])
    }

    @Test func status_becomingTheLast_isOverwritten() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.delete("a")
        buffer.onStatusUpdated(.inSync)
        #expect(buffer.statistics.pendingStatuses == 1)
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func firstUpdate_leavingTheQueue_leavesTheStatusBehindIt() throws {
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        buffer.set("b", 2)
        buffer.delete("a")
        #expect(try buffer.flush() == [.status(.inSync), .updates([.new("b", 2)])])
    }

    @Test func statuses_equalAfterTheEarlierWasRemoved_areDelivered() throws {
        // in-sync delivered; resync, a, in-sync queued; the deletion of `a` takes `resync` with it.
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        buffer.delete("a")
        #expect(try buffer.flush() == [.status(.inSync)])
    }

    @Test func flappingStatuses_aroundAKeyNeverDelivered_staySmall() throws {
        var peak = 0
        for round in 0..<rounds(20_000) {
            buffer.onStatusUpdated(round % 2 == 0 ? .resyncInProgress : .inSync)
            buffer.set("a", round)
            buffer.onStatusUpdated(.waitForDatastore)
            buffer.delete("a")
            if round % 100 == 0 { peak = max(peak, buffer.statistics.pendingStatuses) }
        }
        #expect(peak == 1)
        #expect(try buffer.flush() == [.status(.waitForDatastore)])
    }

    @Test func flappingStatuses_aroundPendingKeys_areAtMostTheirNumberAndOne() throws {
        for n in 0..<50 {
            buffer.onStatusUpdated(n % 2 == 0 ? .resyncInProgress : .inSync)
            buffer.set("key \(n)", n)
        }
        buffer.onStatusUpdated(.waitForDatastore)
        #expect(buffer.statistics.pendingStatuses == 51)
        for n in 0..<50 {
            buffer.delete("key \(n)")
            #expect(buffer.statistics.pendingStatuses <= buffer.statistics.pendingKeys + 1)
        }
        #expect(try buffer.flush() == [.status(.waitForDatastore)])
    }

    // MARK: Counts

    @Test func statuses_areCounted() throws {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.inSync)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.resyncInProgress)
        #expect(buffer.statistics.statusesReceived == 3)
        #expect(buffer.statistics.statusesDelivered == 0)
        _ = try buffer.flush()
        #expect(buffer.statistics.statusesReceived == 3)
        #expect(buffer.statistics.statusesDelivered == 2)
        #expect(buffer.statistics.pendingStatuses == 0)
    }
}
