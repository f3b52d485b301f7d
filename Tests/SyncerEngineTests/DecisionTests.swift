// SPDX-License-Identifier: Apache-2.0

// Decisions that belong to no scene.

import DedupeBuffer
import Testing

@testable import SyncerEngine

@Suite("Decisions")
struct DecisionTests {
    private var harness = Harness()

    // MARK: Ranges

    @Test mutating func inSync_onlyWhenEveryRangeIsWatched() throws {
        harness = Harness(ranges: 3)
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage([.put("a", at: 5)], at: 10)
        try harness.answerPage([.put("b", at: 6)], at: 12)
        try harness.answerPage([.put("c", at: 7)], at: 12)
        #expect(harness.take().seen == "wait-for-ready, restart, resync, a@5, b@6, c@7")
        try harness.message(.created(range: 1, .at(12)))
        // A range that is watched may have changes before the others are.
        try harness.change(.put("b", at: 11), range: 1)
        try harness.message(.created(range: 0, .at(12)))
        try harness.message(.created(range: 0, .at(12)))
        #expect(harness.take().seen == "b@11")
        try harness.message(.created(range: 2, .at(12)))
        #expect(harness.take().seen == "in-sync")
        #expect(harness.machine.cursors == [11, 12, 11])
    }

    @Test mutating func watchFirst_withSeveralRanges_fillsOnlyWhenEveryRangeIsWatched() throws {
        harness = Harness(ranges: 2)
        harness.send(.start)
        try harness.answerProbe(at: 10)
        while harness.machine.snapshot?.isWatchFirst == false {
            if harness.phase == .probing { try harness.answerProbe(at: 10) }
            try harness.answerPage([.put("a", at: 5)], at: 10, more: true)
            try harness.fail(.compacted)
            harness.passPause()
        }
        try harness.answerProbe(at: 20)
        _ = harness.take()
        try harness.message(.created(range: 0, .at(20)))
        #expect(harness.take().seen == "restart, resync")
        #expect(harness.machine.request == nil)
        try harness.message(.created(range: 1, .at(20)))
        #expect(harness.phase == .filling)
        try harness.answerPage([.put("a", at: 5)], at: 20)
        #expect(harness.take().seen == "a@5")
        try harness.answerPage([.put("b", at: 6)], at: 21)
        #expect(harness.take().seen == "b@6, in-sync")
        #expect(harness.machine.cursors == [21, 21])
    }

    // MARK: Overflows

    @Test mutating func overflow_waitsBeforeItsResync() throws {
        harness.random = 1
        try harness.follow(at: 10)
        harness.now += .seconds(60)
        for pause in [100, 500, 500, 800] {
            let start = harness.now
            harness.send(.overflowed)
            #expect(harness.phase == .waiting)
            harness.passPause()
            #expect(harness.now - start == .milliseconds(pause))
            try harness.answerProbe(at: 10)
            try harness.answerPage([.put("a", at: 5)], at: 10)
        }
        #expect(harness.take().seen == Array(repeating: "restart, resync, a@5", count: 4).joined(separator: ", "))
    }

    /// Until the restart the buffer drops everything, also statuses.
    @Test mutating func overflow_isFollowedByTheRestartAtOnce_andByTheGracePeriod() throws {
        harness.random = 1
        try harness.follow(at: 10)
        harness.send(.overflowed)
        #expect(harness.take().seen == "restart, resync")
        // etcd cannot be reached when the pause of 0.5 s is over.
        while harness.now < .milliseconds(10_500) {
            #expect(harness.actions.statuses == [])
            if harness.machine.request != nil { try harness.fail(.unavailable) }
            harness.pass(min(harness.machine.nextDeadline! - harness.now, .milliseconds(10_500) - harness.now))
        }
        #expect(harness.take().seen == "wait-for-ready")
        harness.passPause()
        try harness.answerProbe(at: 10)
        try harness.answerPage([.put("a", at: 5)], at: 10)
        try harness.create(at: 10)
        #expect(harness.take().seen == "resync, a@5, in-sync")
        #expect(harness.machine.statistics.resyncs == [.initial: 1, .overflow: 1])
    }

    /// The syncer does not try to reach etcd during the pause.
    @Test mutating func overflow_pauseIsLongerThanTheGracePeriod_isNoSignThatEtcdIsAway() throws {
        harness.random = 1
        try harness.follow(at: 10)
        for _ in 0..<12 {
            harness.send(.overflowed)
            // Another one makes the pause longer.
            harness.send(.overflowed)
            harness.passPause()
            try harness.answerProbe(at: 10)
            try harness.answerPage([.put("a", at: 5)], at: 10)
            try harness.create(at: 10)
        }
        #expect(harness.now > .seconds(120))
        #expect(!harness.take().statuses.contains(.waitForDatastore))
    }

    @Test mutating func overflow_whenARestartIsToCome_isFollowedByIt_andNoOtherOne() throws {
        harness.send(.overflowed)
        #expect(harness.take() == [])
        harness.send(.start)
        harness.send(.overflowed)
        #expect(harness.take().seen == "wait-for-ready, restart, resync")
        #expect(harness.phase == .probing)
        try harness.answerProbe(at: 10)
        try harness.answerPage([.put("a", at: 5)], at: 10)
        try harness.create(at: 10)
        #expect(harness.take().seen == "a@5, in-sync")
        #expect(harness.machine.statistics.resyncCount == 1)
    }

    /// The pause after a failure is longer than that of the resync.
    @Test mutating func overflow_duringAPause_doesNotEndIt() throws {
        harness.random = 0
        try harness.follow(at: 10)
        harness.now += .seconds(60)
        try harness.failWatch(.dataLoss)
        harness.now += .milliseconds(100)
        harness.send(.overflowed)
        #expect(harness.machine.nextDeadline == .seconds(61))
        #expect(harness.machine.request == nil)
    }

    // MARK: Lateness

    @Test mutating func answersOfCancelledRequests_areIgnored() throws {
        harness.send(.start)
        let probe = try harness.pending().id
        harness.pass(.seconds(5))
        for event in [
            SyncerEvent.probed(probe, .at(10)), .failed(probe, DatastoreError(.compacted)), .authenticated(probe),
            .message(probe, .heartbeat(.at(10))), .ended(probe),
        ] {
            #expect(harness.send(event) == [])
            #expect(harness.phase == .waiting)
        }
    }

    @Test mutating func timePasses_withoutADeadline_nothingHappens() throws {
        #expect(harness.send(.timePassed) == [])
        try harness.follow(at: 10)
        harness.now += .seconds(19)
        #expect(harness.send(.timePassed) == [])
    }

    @Test mutating func shutdown_cancelsEverything_andNothingFollows() throws {
        try harness.follow(at: 10)
        let watch = try harness.watchID()
        #expect(harness.send(.shutdown) == [.cancel(watch), .finish])
        #expect(harness.machine.nextDeadline == nil)
        for event in [SyncerEvent.shutdown, .start, .overflowed, .timePassed, .ended(watch)] {
            #expect(harness.send(event) == [])
        }
    }

    // MARK: Reports

    @Test mutating func unreachable_isSaidWhenEveryEndpointHasFailed_andAgainAfterTheNextSuccess() throws {
        try harness.follow(at: 10)
        for _ in 0..<2 {
            try harness.failWatch(.noLeader)
            for _ in 0..<4 {
                harness.passPause()
                try harness.fail(.timeout)
            }
            harness.passPause()
            let said = harness.take().reports.filter { report in
                switch report {
                case .attemptFailed, .resumed: false
                default: true
                }
            }
            #expect(said.count == 2, "\(said)")
            #expect(said.last == .unreachable(DatastoreError(.timeout)))
            try harness.answerProbe(at: 10)
            try harness.create(at: 10)
            #expect(harness.take().reports.contains(.connected(endpoint: harness.machine.endpoint)))
        }
    }

    @Test mutating func lag_isBehindTheLatestProbe() throws {
        try harness.follow(at: 10)
        #expect(harness.machine.statistics.lag == 0)
        try harness.lose()
        try harness.answerProbe(at: 30)
        #expect(harness.machine.statistics.lag == 20)
        try harness.create(at: 30)
        try harness.change(.put("a", at: 25))
        #expect(harness.machine.statistics.lag == 5)
    }

    // MARK: Parts

    @Test func revisions_carryTheEpoch_andNeverMeet() {
        var history = History()
        history.learn(.at(5))
        #expect(history.revision(of: 5) == 5)
        history.breakOff()
        #expect(history.revision(of: 5) == 1 << 48 | 5)
        for _ in 0..<70_000 { history.breakOff() }
        #expect(history.revision(of: 5) & (1 << 48 - 1) == 5)
    }

    @Test func configuration_isOutOfRange_namesTheMember() {
        #expect(SyncerConfiguration().firstFault == nil)
        func expect(_ member: String, _ change: (inout SyncerConfiguration) -> Void) {
            var configuration = SyncerConfiguration()
            change(&configuration)
            #expect(configuration.firstFault?.member == member)
        }
        expect("rangeCount") { $0.rangeCount = 0 }
        expect("pages.initial") { $0.pages.initial = 0 }
        expect("pages.maximum") { $0.pages.maximum = 0 }
        expect("pages.targetBytes") { $0.pages.targetBytes = 0 }
        expect("resyncs.warningKeyCount") { $0.resyncs.warningKeyCount = 0 }
        expect("backOff.factor") { $0.backOff.factor = 0.5 }
        expect("backOff.factor") { $0.backOff.factor = .nan }
        expect("backOff.initialDelay") { $0.backOff.initialDelay = .seconds(-1) }
        expect("resyncs.auditJitter") { $0.resyncs.auditJitter = 1 }
        expect("resyncs.auditInterval") { $0.resyncs.auditInterval = .zero }
        expect("deadlines.probe") { $0.deadlines.probe = .zero }
        expect("liveness.heartbeatInterval") { $0.liveness.heartbeatInterval = .zero }
        expect("liveness.gracePeriod") { $0.liveness.gracePeriod = .seconds(-1) }
    }
}
