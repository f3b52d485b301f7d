// SPDX-License-Identifier: Apache-2.0

// One test for each scene in which other syncers failed, as far as a decision is concerned. The
// numbers are those of the list in STATES.md.

import DedupeBuffer
import Testing

@testable import SyncerEngine

@Suite("Scenes")
struct SceneTests {
    private var harness = Harness()

    // MARK: Compaction

    @Test mutating func scene01_compactedWhileDisconnected_resyncsAtOnce_once() throws {
        try harness.follow([.put("a", at: 5)], at: 10)
        harness.now += .seconds(60)
        try harness.lose()
        _ = harness.take()
        let actions = try harness.fail(.compacted)
        // The page has no revision: the snapshot is the newest, not that of the compaction.
        #expect(actions.requests == [.page(PageRequest(range: 0, after: nil, revision: nil, limit: 2000))])
        #expect(actions.reports == [.resyncing(.compacted)])
        try harness.answerPage([.put("b", at: 40)], at: 50)
        #expect(harness.take().requests.last == .watch(starts: [51]))
        try harness.create(at: 50)
        #expect(harness.take().seen == "in-sync")
        #expect(harness.machine.statistics.resyncs == [.initial: 1, .compacted: 1])
    }

    @Test mutating func scene01_watchIsCancelledByACompaction_resyncsAtOnce_andNeverJumps() throws {
        try harness.follow(at: 10)
        harness.now += .seconds(60)
        let actions = try harness.message(.cancelled(range: 0, reason: "", compacted: 30, .at(40)))
        #expect(actions.requests.count == 1)
        #expect(harness.phase == .reading)
        try harness.answerPage(at: 45)
        #expect(harness.actions.requests.last == .watch(starts: [46]))
        #expect(harness.machine.statistics.duplicatesDropped == 0)
    }

    @Test mutating func scene01_compactionRepeats_backsOff() throws {
        try harness.follow(at: 10)
        harness.now += .seconds(60)
        for pause in [nil, 0.5, 0.5, 0.5, 0.5, 0.8] as [Double?] {
            let start = harness.now
            try harness.message(.cancelled(range: 0, reason: "", compacted: 30, .at(40)))
            #expect((harness.phase == .waiting) == (pause != nil))
            harness.passPause()
            #expect(harness.now - start == .seconds(pause ?? 0))
            if harness.phase == .probing { try harness.answerProbe(at: 45) }
            try harness.answerPage(at: 45)
            try harness.create(at: 45)
        }
    }

    @Test mutating func scene02_compactedBetweenPages_beginsAgain_andStaysInResync() throws {
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage([.put("a", at: 5)], at: 10, more: true)
        #expect(harness.take().seen == "wait-for-ready, restart, resync, a@5")
        harness.now += .seconds(1)
        #expect(
            try harness.fail(.compacted).requests == [
                .page(PageRequest(range: 0, after: nil, revision: nil, limit: 2000))
            ])
        try harness.answerPage([.put("b", at: 15)], at: 20, more: true)
        #expect(harness.take().seen == "restart, resync, b@15")
        #expect(
            try harness.pending().request == .page(PageRequest(range: 0, after: bytes("b"), revision: 20, limit: 8000)))
    }

    /// After the second compaction the watch comes first, and no compaction can disturb the pages.
    @Test mutating func scene02_compactedAgain_watchesFirst() throws {
        try compactTwice()
        #expect(harness.machine.snapshot?.isWatchFirst == true)
        _ = harness.take()
        try harness.answerProbe(at: 30)
        #expect(harness.take().requests == [.watch(starts: [31])])
        try harness.create(at: 30)
        #expect(harness.phase == .filling)
        #expect(harness.take().seen == "restart, resync")
        // The watch brings changes while pages are read, each at the newest revision.
        try harness.change(.put("b", "new", at: 33), .delete("c", at: 34))
        #expect(try harness.pending().request == .page(PageRequest(range: 0, after: nil, revision: nil, limit: 8000)))
        // The page was read before these changes, although it comes after them.
        try harness.answerPage([.put("a", at: 5), .put("b", "old", at: 20), .put("c", at: 8)], at: 31, more: true)
        // The page was read after a change that the watch has not brought yet.
        try harness.answerPage([.put("d", "new", at: 36), .put("e", at: 9)], at: 40)
        #expect(harness.take().seen == "b@33 -c@34, a@5, d@36 e@9, in-sync")
        try harness.change(.put("d", "older", at: 35), .put("d", "new", at: 36), .put("a", at: 37), at: 37)
        #expect(harness.take().seen == "a@37")
        #expect(!harness.machine.ledgers.isEmpty)
        try harness.change(.put("a", at: 41))
        #expect(harness.machine.ledgers.isEmpty)
    }

    /// An idle range must not keep the names of a busy one.
    @Test mutating func scene02_watchFirst_oneRangeIsIdle_forgetsTheKeysOfTheOther() throws {
        harness = Harness(ranges: 2)
        try compactTwice()
        try harness.answerProbe(at: 30)
        try harness.create(at: 30)
        try harness.answerPage([.put("a", at: 5)], at: 40)
        try harness.answerPage([.put("b", at: 35)], at: 45)
        #expect(harness.phase == .following)
        try harness.change(.put("a", at: 41))
        #expect(Array(harness.machine.ledgers.keys) == [1])
        // The page showed this change first.
        _ = harness.take()
        try harness.change(.put("b", at: 35), range: 1)
        #expect(harness.take().delivered == [])
        try harness.message(.progress(range: 1, .at(45)))
        #expect(harness.machine.ledgers.isEmpty)
    }

    @Test mutating func scene02_watchFirstBreaksOff_resumesBoth() throws {
        try compactTwice()
        try harness.answerProbe(at: 30)
        try harness.create(at: 30)
        try harness.answerPage([.put("a", at: 5)], at: 31, more: true)
        try harness.change(.put("b", at: 33))
        _ = harness.take()
        try harness.lose()
        #expect(try harness.pending().request == .probe(resuming: 34))
        try harness.answerProbe(at: 40)
        #expect(harness.take().requests == [.probe(resuming: 34), .watch(starts: [34])])
        try harness.create(at: 40)
        #expect(
            try harness.pending().request
                == .page(PageRequest(range: 0, after: bytes("a"), revision: nil, limit: 10_000)))
        try harness.answerPage([.put("b", at: 33), .put("c", at: 6)], at: 40)
        #expect(harness.take().seen == "c@6, in-sync")
    }

    private mutating func compactTwice() throws {
        harness.send(.start)
        try harness.answerProbe(at: 10)
        for _ in 0..<2 {
            try harness.answerPage([.put("a", at: 5)], at: 10, more: true)
            harness.now += .seconds(1)
            try harness.fail(.compacted)
            harness.passPause()
            if harness.phase == .probing && harness.machine.compactedSnapshots < 2 { try harness.answerProbe(at: 10) }
        }
    }

    // MARK: The cursor

    @Test mutating func scene03_idlePrefix_cursorMovesByItsOwnNotifications() throws {
        try harness.follow(at: 10)
        try harness.message(.progress(range: 0, .at(500)))
        #expect(harness.machine.cursors == [501])
        try harness.lose()
        #expect(try harness.pending().request == .probe(resuming: 501))
    }

    @Test mutating func scene03_notificationOfOneRange_movesOnlyThatRange() throws {
        harness = Harness(ranges: 2)
        try harness.follow(at: 10)
        try harness.message(.progress(range: 1, .at(500)))
        #expect(harness.machine.cursors == [11, 501])
        try harness.lose()
        #expect(try harness.pending().request == .probe(resuming: 11))
    }

    @Test mutating func scene04_otherAnswers_neverMoveTheCursor() throws {
        harness = Harness(ranges: 2)
        try harness.follow(at: 10)
        try harness.message(.heartbeat(.at(900)))
        // A catch-up response says how far the member is, and not how far its events go.
        try harness.change(.put("a", at: 20), at: 700)
        try harness.lose()
        try harness.answerProbe(at: 1000)
        #expect(harness.machine.cursors == [21, 11])
        try harness.create(at: 1000)
        #expect(harness.actions.requests.last == .watch(starts: [21, 11]))
    }

    @Test mutating func scene05_progressAnswerOvertakesEvents_isLivenessOnly() throws {
        try harness.follow(at: 10)
        harness.pass(.seconds(20))
        #expect(harness.take().progressRequests == 1)
        try harness.message(.heartbeat(.at(50)))
        try harness.change(.put("a", at: 40), .put("b", at: 50))
        #expect(harness.take().seen == "a@40 b@50")
        // One that is lower harms nothing.
        try harness.message(.heartbeat(.at(3)))
        #expect(harness.phase == .following)
        #expect(harness.machine.cursors == [51])
    }

    // MARK: Dead connections

    @Test mutating func scene06_halfOpenConnection_isDropped_andTheWatchResumesElsewhere() throws {
        try harness.follow(at: 10)
        harness.pass(.seconds(20))
        try harness.message(.heartbeat(.at(10)))
        _ = harness.take()
        #expect(harness.pass(.seconds(20)).progressRequests == 1)
        harness.pass(.seconds(9))
        #expect(harness.phase == .following)
        let actions = harness.pass(.seconds(1))
        #expect(actions.disconnected == [0])
        #expect(actions.reports.contains(.heartbeatMissed(endpoint: 0)))
        #expect(harness.machine.statistics.heartbeatMisses == 1)
        harness.passPause()
        _ = harness.take()
        #expect(harness.machine.endpoint == 1)
        try harness.answerProbe(at: 12)
        try harness.create(at: 12)
        // The sink has heard nothing of it.
        #expect(harness.take().seen == "")
        #expect(harness.machine.statistics.resumes == 1)
    }

    @Test mutating func scene06_outageLasts_sinkIsToldAfterTheGracePeriod_andAgainAfterResuming() throws {
        try harness.follow(at: 10)
        harness.now += .seconds(3)
        try harness.failWatch(.unavailable)
        while harness.now < .seconds(13) {
            #expect(harness.actions.seen == "")
            if harness.machine.request != nil { try harness.fail(.unavailable) }
            harness.pass(min(harness.machine.nextDeadline! - harness.now, .seconds(13) - harness.now))
        }
        #expect(harness.take().seen == "wait-for-ready")
        harness.passPause()
        try harness.answerProbe(at: 10)
        try harness.create(at: 10)
        #expect(harness.take().seen == "in-sync")
    }

    @Test mutating func scene06_outageDuringASnapshot_continuesThePages_withoutAnotherRestart() throws {
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage([.put("a", at: 5)], at: 10, more: true)
        _ = harness.take()
        harness.pass(.seconds(15))
        #expect(harness.take().seen == "wait-for-ready")
        harness.passPause()
        #expect(try harness.pending().request == .probe(resuming: 11))
        try harness.answerProbe(at: 12)
        // A page that took too long is followed by a smaller one.
        #expect(
            try harness.pending().request == .page(PageRequest(range: 0, after: bytes("a"), revision: 10, limit: 500)))
        try harness.answerPage([.put("b", at: 6)], at: 12)
        try harness.create(at: 12)
        #expect(harness.take().seen == "resync, b@6, in-sync")
        #expect(harness.machine.statistics.resyncCount == 1)
    }

    /// Several members may be behind one name. An old connection leads to the same one again.
    @Test(arguments: DatastoreError.Reason.allCases.filter { ![.compacted, .responseTooLarge].contains($0) })
    mutating func scene07_memberWithoutLeader_resumesAtTheNext_onANewConnection(
        reason: DatastoreError.Reason
    ) throws {
        harness = Harness { $0.hasUser = false }
        try harness.follow(at: 10)
        #expect(try harness.failWatch(reason).disconnected == [0])
        harness.passPause()
        #expect(harness.machine.endpoint == 1)
        #expect(try harness.fail(.noLeader).disconnected == [1])
        harness.passPause()
        #expect(harness.machine.endpoint == 2)
        try harness.answerProbe(at: 11)
        try harness.create(at: 11)
        #expect(harness.take().seen == "")
    }

    /// The server answered such requests before. So silence means that the stream is stalled.
    @Test mutating func scene08_streamIsStalled_pingsAreAnswered_dropsTheTransport() throws {
        try harness.follow(at: 10)
        harness.pass(.seconds(20))
        try harness.message(.heartbeat(.at(10)))
        #expect(harness.pass(.seconds(30)).disconnected == [0])
        #expect(harness.phase == .waiting)
    }

    /// A proxy and a stalled stream look alike. The first silence is taken for a stalled stream.
    @Test mutating func scene08_serverNeverAnswered_dropsTheTransport() throws {
        try harness.follow(at: 10)
        #expect(harness.pass(.seconds(30)).disconnected == [0])
        #expect(harness.phase == .waiting)
    }

    /// A busy watch is never silent. So it is asked although messages come, and again until the
    /// server has answered once. Without that, a second stall would be taken for a proxy.
    @Test mutating func scene08_serverAnsweredWhileTheWatchWasBusy_isNeverTakenForAProxy() throws {
        harness = Harness(endpoints: [0])
        try harness.follow(at: 10)
        for revision in 11..<51 as Range<Int64> {
            #expect(harness.pass(.seconds(2)).progressRequests == 0)
            let isDue = revision % 10 == 0
            #expect(try harness.change(.put("a", at: revision)).progressRequests == (isDue ? 1 : 0))
        }
        try harness.message(.heartbeat(.at(50)))
        for revision in 51..<71 as Range<Int64> {
            harness.pass(.seconds(2))
            #expect(try harness.change(.put("a", at: revision)).progressRequests == 0)
        }
        for _ in 0..<2 {
            #expect(harness.pass(.seconds(30)).disconnected == [0])
            harness.passPause()
            try harness.answerProbe(at: 70)
            try harness.create(at: 70)
        }
        #expect(harness.machine.mute == [])
    }

    /// A new watch catches up. Some servers that are asked meanwhile do not answer before the watch
    /// has a change.
    @Test mutating func scene08_watchHasBegun_isNotAskedAtOnce() throws {
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage(at: 10)
        #expect(try harness.create(at: 10).progressRequests == 0)
        #expect(try harness.change(.put("a", at: 11)).progressRequests == 0)
        #expect(harness.pass(.seconds(19)).progressRequests == 0)
        #expect(harness.pass(.seconds(1)).progressRequests == 1)
    }

    /// The connection for requests was idle while the watch worked. A router may have dropped it.
    @Test mutating func scene08_audit_readsOnANewConnection() throws {
        try harness.follow(at: 10)
        harness.now = try #require(harness.machine.auditAt) - .seconds(5)
        try harness.message(.heartbeat(.at(10)))
        _ = harness.take()
        let actions = harness.pass(.seconds(5))
        #expect(harness.machine.statistics.resyncs[.audit] == 1)
        let disconnection = try #require(actions.firstIndex(of: .disconnect(endpoint: 0)))
        let page = try #require(actions.firstIndex { $0.sent != nil })
        #expect(disconnection < page)
    }

    @Test mutating func scene08_serverIsSilentAgain_andTheProbeFails_dropsTheTransport() throws {
        try followSilently()
        #expect(harness.pass(.seconds(30)).requests == [.probe(resuming: nil)])
        #expect(harness.phase == .following)
        #expect(harness.pass(.seconds(5)).disconnected == [0])
        #expect(harness.machine.mute == [])
    }

    /// In sync with the only endpoint, which has never answered a request for a sign of life.
    private mutating func followSilently(timeout: Duration = .seconds(10)) throws {
        harness = Harness(endpoints: [0]) { $0.liveness.heartbeatTimeout = timeout }
        try harness.follow(at: 10)
        harness.pass(.seconds(20) + timeout)
        harness.passPause()
        try harness.answerProbe(at: 10)
        try harness.create(at: 10)
        _ = harness.take()
    }

    @Test mutating func scene09_endpointIsLost_others_areTriedInTurn() throws {
        harness = Harness(endpoints: [2, 0, 1])
        try harness.follow(at: 10)
        var endpoints: [Int] = []
        for _ in 0..<4 {
            if harness.phase == .following {
                try harness.failWatch(.unavailable)
            } else {
                try harness.fail(.unavailable)
            }
            harness.passPause()
            endpoints.append(harness.machine.endpoint)
        }
        #expect(endpoints == [0, 1, 2, 0])
        // Each attempt has a deadline.
        #expect(harness.machine.nextDeadline == harness.now + .seconds(5))
    }

    // MARK: Other histories

    @Test mutating func scene10_laggingMember_resumes_andOldRevisionsSendItElsewhere() throws {
        try harness.follow(at: 100)
        try harness.lose()
        try harness.answerProbe(at: 100)
        // The member itself is behind, and waits for the future.
        try harness.create(at: 60)
        #expect(harness.phase == .following)
        // It may be another history, so the majority is asked.
        #expect(harness.take().requests.last == .probe(resuming: nil))
        try harness.answerProbe(at: 100)
        try harness.change(.put("a", at: 101))
        #expect(harness.take().delivered == ["a@101"])
        #expect(harness.machine.statistics.resyncCount == 1)
        #expect(harness.machine.mute == [])
    }

    /// Between the probe and the watch, the cluster was restored.
    @Test mutating func scene11_restoredBeforeTheWatch_isFoundByAProbe() throws {
        try harness.follow(at: 100)
        try harness.lose()
        harness.now += .seconds(1)
        try harness.answerProbe(at: 100)
        try harness.create(at: 60)
        // A message, also of an older revision, does not end this probe.
        try harness.message(.heartbeat(.at(60)))
        try harness.answerProbe(at: 60)
        #expect(harness.phase == .reading)
        #expect(harness.machine.history.epoch == 1)
    }

    @Test mutating func scene11_restoredFromBackup_resyncsInANewEpoch() throws {
        try harness.follow([.put("a", at: 90)], at: 100)
        try harness.lose()
        _ = harness.take()
        harness.now += .seconds(1)
        let actions = try harness.answerProbe(at: 70)
        #expect(actions.reports == [.resyncing(.revisionsWentBack)])
        try harness.answerPage([.put("a", "other", at: 90)], at: 95)
        try harness.create(at: 95)
        let epoch = UInt64(1) << 48
        #expect(harness.take().seen == "restart, resync, a@\(epoch | 90), in-sync")
        try harness.change(.delete("a", at: 96))
        #expect(harness.take().seen == "-a@\(epoch | 96)")
        #expect(harness.machine.statistics.epoch == 1)
    }

    /// The datastore says so itself. A moment later the new history may be beyond the cursor.
    @Test mutating func scene11_cursorIsInTheFuture_resyncsInANewEpoch() throws {
        try harness.follow([.put("a", at: 90)], at: 100)
        try harness.lose()
        harness.now += .seconds(1)
        _ = harness.take()
        #expect(try harness.fail(.futureRevision).reports == [.resyncing(.revisionsWentBack)])
        try harness.answerPage([.put("a", "other", at: 90)], at: 120)
        try harness.create(at: 120)
        #expect(harness.take().seen == "restart, resync, a@\(1 << 48 | 90), in-sync")
    }

    @Test mutating func scene11_cursorIsJustBehindTheNewestRevision_resumes() throws {
        try harness.follow(at: 100)
        try harness.lose()
        try harness.answerProbe(at: 100)
        #expect(harness.phase == .opening)
    }

    @Test mutating func scene11_revisionWasSeenElsewhere_resyncs() throws {
        try harness.follow(at: 100)
        try harness.message(.heartbeat(.at(90)))
        try harness.change(.put("a", at: 101), at: 150)
        try harness.lose()
        try harness.answerProbe(at: 149)
        #expect(harness.machine.history.epoch == 1)
    }

    /// The same revision names another value after a restore. The buffer compares revisions, and
    /// would take the value for the one that the sink has.
    @Test mutating func scene11_sameRevisionOfAnotherHistory_reachesTheSink() throws {
        let pipe = Pipe()
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage([.put("a", "before", at: 9)], at: 10)
        try harness.create(at: 10)
        pipe.perform(harness.take())
        #expect(pipe.state == ["a": "before"])
        try harness.lose()
        harness.now += .seconds(1)
        try harness.answerProbe(at: 8)
        try harness.answerPage([.put("a", "after", at: 9)], at: 9)
        try harness.create(at: 9)
        pipe.perform(harness.take())
        #expect(pipe.state == ["a": "after"])
    }

    @Test mutating func scene12_otherCluster_resyncsInANewEpoch() throws {
        try harness.follow([.put("a", at: 5)], at: 100)
        try harness.lose()
        harness.now += .seconds(1)
        _ = harness.take()
        #expect(try harness.answerProbe(at: 500, cluster: 8).reports == [.resyncing(.otherCluster)])
        try harness.answerPage([.put("b", at: 5)], at: 500, cluster: 8)
        try harness.message(.created(range: 0, .at(500, cluster: 8)))
        #expect(harness.take().seen == "restart, resync, b@\(1 << 48 | 5), in-sync")
        #expect(harness.machine.statistics.resyncs[.otherCluster] == 1)
    }

    @Test(arguments: 0..<4)
    mutating func scene12_otherCluster_inAMessage_resyncs(kind: Int) throws {
        try harness.follow(at: 100)
        harness.now += .seconds(1)
        let other = HistoryPosition.at(200, cluster: 8)
        let messages: [WatchMessage] = [
            .created(range: 0, other), .changes(range: 0, [.put("a", at: 150)], other, isFragment: false),
            .progress(range: 0, other), .heartbeat(other),
        ]
        // The old cluster may still answer on the old connection.
        #expect(try harness.message(messages[kind]).disconnected == [0])
        #expect(harness.phase == .reading)
        #expect(harness.take().seen == "")
        #expect(harness.machine.history.epoch == 1)
    }

    @Test mutating func scene12_otherCluster_inAPage_beginsAgain() throws {
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage([.put("a", at: 5)], at: 10, more: true)
        harness.now += .seconds(1)
        try harness.answerPage([.put("b", at: 5)], at: 10, cluster: 8)
        #expect(try harness.pending().request == .page(PageRequest(range: 0, after: nil, revision: nil, limit: 2000)))
        #expect(harness.take().delivered == ["a@5"])
    }

    @Test mutating func scene13_revisionFallsAfterAPanic_resyncsInANewEpoch() throws {
        try harness.follow(at: 100)
        try harness.change(.put("a", at: 120))
        try harness.lose()
        harness.now += .seconds(1)
        try harness.answerProbe(at: 119)
        #expect(harness.phase == .reading)
        #expect(harness.machine.history.epoch == 1)
        #expect(harness.machine.statistics.resyncs[.revisionsWentBack] == 1)
    }

    @Test mutating func scene14_watchGoesBackInTime_dropsOldEvents_andReopensElsewhere() throws {
        try harness.follow(at: 100)
        // A response that is new, with events that are not.
        try harness.change(.put("a", at: 98), .put("b", at: 99), .put("c", at: 101), at: 110)
        #expect(harness.take().delivered == ["c@101"])
        #expect(harness.machine.statistics.duplicatesDropped == 2)
        try harness.change(.put("a", at: 102), at: 100)
        #expect(harness.phase == .waiting)
        #expect(harness.take().reports.contains(.revisionsFell(endpoint: 0)))
        #expect(harness.machine.statistics.duplicatesDropped == 3)
        harness.passPause()
        #expect(harness.machine.endpoint == 1)
        #expect(try harness.pending().request == .probe(resuming: 102))
    }

    /// While etcd catches a watch up, a response has the member's newest revision, or only that of
    /// its own last change if the stream was full.
    @Test mutating func scene14_responseIsBelowTheOneBefore_butNotBelowTheCursor_isTrusted() throws {
        try harness.follow(at: 100)
        try harness.change(.put("a", at: 150), at: 5000)
        try harness.change(.put("a", at: 200), at: 200)
        try harness.change(.put("a", at: 300), at: 5000)
        #expect(harness.take().delivered == ["a@150", "a@200", "a@300"])
        #expect(harness.phase == .following)
    }

    @Test mutating func scene14_progressBelowTheCursor_reopensElsewhere() throws {
        try harness.follow(at: 100)
        try harness.message(.progress(range: 0, .at(98)))
        #expect(harness.phase == .waiting)
        #expect(harness.machine.cursors == [101])
    }

    @Test mutating func scene15_duplicatesAfterReconnect_areDropped() throws {
        try harness.follow(at: 10)
        try harness.change(.put("a", at: 11), .put("b", at: 12))
        try harness.lose()
        try harness.answerProbe(at: 12)
        try harness.create(at: 12)
        _ = harness.take()
        try harness.change(.put("a", at: 11), .put("b", at: 12), .put("c", at: 13))
        #expect(harness.take().delivered == ["c@13"])
        #expect(harness.machine.statistics.duplicatesDropped == 2)
        #expect(harness.machine.statistics.events == 3)
    }

    // MARK: Sizes

    @Test mutating func scene16_streamBreaksOffInTheMiddleOfARevision_nothingIsLost() throws {
        try harness.follow(at: 10)
        try harness.change(.delete("a", at: 11), .delete("b", at: 11), fragment: true)
        #expect(harness.take().delivered == ["-a@11", "-b@11"])
        // A notification in between would promise too much.
        try harness.message(.progress(range: 0, .at(11)))
        #expect(harness.machine.cursors == [11])
        try harness.lose()
        try harness.answerProbe(at: 11)
        try harness.create(at: 11)
        #expect(harness.take().requests.last == .watch(starts: [11]))
        try harness.change(.delete("a", at: 11), .delete("b", at: 11), fragment: true)
        #expect(harness.machine.cursors == [11])
        try harness.change(.delete("c", at: 11))
        #expect(harness.take().delivered == ["-a@11", "-b@11", "-c@11"])
        #expect(harness.machine.cursors == [12])
    }

    /// Another member cuts the same changes into other responses. None goes back in time.
    @Test mutating func scene16_streamBreaksOffWithinAResponse_onlyItsLastRevisionIsRepeated() throws {
        try harness.follow(at: 10)
        try harness.change(.put("a", at: 11), .delete("a", at: 13), .put("b", at: 14), at: 20, fragment: true)
        #expect(harness.machine.cursors == [11])
        try harness.lose()
        try harness.answerProbe(at: 20)
        try harness.create(at: 20)
        _ = harness.take()
        try harness.change(.put("a", at: 11), at: 20)
        #expect(harness.machine.cursors == [12])
        try harness.change(.delete("a", at: 13), .put("b", at: 14), .put("c", at: 14), .put("a", at: 15), at: 20)
        #expect(harness.take().delivered == ["b@14", "c@14", "a@15"])
        #expect(harness.machine.cursors == [16])
    }

    @Test mutating func scene17_pageIsTooLarge_asksForASmallerOne_atOnce() throws {
        harness.send(.start)
        try harness.answerProbe(at: 10)
        for limit in [125, 31, 7, 1] {
            try harness.fail(.responseTooLarge)
            #expect(
                try harness.pending().request == .page(PageRequest(range: 0, after: nil, revision: nil, limit: limit)))
        }
        try harness.fail(.responseTooLarge)
        #expect(harness.phase == .waiting)
        #expect(harness.machine.statistics.resyncCount == 1)
    }

    @Test mutating func scene17_watchMessageIsTooLarge_resyncs() throws {
        try harness.follow(at: 10)
        harness.now += .seconds(1)
        try harness.failWatch(.responseTooLarge)
        #expect(harness.phase == .reading)
        #expect(harness.machine.statistics.resyncs[.responseTooLarge] == 1)
    }

    @Test mutating func scene18_hugePrefix_isReadInPagesOfOneRevision_thatAdapt() throws {
        harness = Harness(ranges: 2)
        harness.send(.start)
        try harness.answerProbe(at: 10)
        func entries(_ count: Int, size: Int, from start: Int = 0) -> [DatastoreEntry] {
            (start..<(start + count)).map { .put("k\($0)", String(repeating: "v", count: size), at: 5) }
        }
        #expect(try harness.pending().request == .page(PageRequest(range: 0, after: nil, revision: nil, limit: 500)))
        try harness.answerPage(entries(500, size: 1), at: 10, more: true)
        #expect(
            try harness.pending().request
                == .page(PageRequest(range: 0, after: bytes("k499"), revision: 10, limit: 2000)))
        try harness.answerPage(entries(2000, size: 1, from: 1000), at: 30, more: true)
        #expect(
            try harness.pending().request
                == .page(PageRequest(range: 0, after: bytes("k2999"), revision: 10, limit: 8000)))
        try harness.answerPage(entries(8000, size: 1, from: 10_000), at: 30, more: true)
        #expect(
            try harness.pending().request
                == .page(PageRequest(range: 0, after: bytes("k17999"), revision: 10, limit: 10_000)))
        // Values of 16 KiB: 63 keys make a mebibyte.
        try harness.answerPage(entries(100, size: 16 << 10, from: 20_000), at: 30)
        #expect(try harness.pending().request == .page(PageRequest(range: 1, after: nil, revision: 10, limit: 63)))
        #expect(harness.actions.delivered.count == 10_600)
        try harness.answerPage(at: 40)
        #expect(harness.actions.requests.last == .watch(starts: [11, 11]))
    }

    @Test mutating func scene18_moreKeysThanExpected_warnsOnce() throws {
        harness = Harness(ranges: 2) { $0.resyncs.warningKeyCount = 100 }
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage([.put("a", at: 5)], at: 10, more: true, count: 90)
        try harness.answerPage([.put("b", at: 5)], at: 10, count: 89)
        #expect(!harness.take().reports.contains(.manyKeys(90)))
        try harness.answerPage([.put("c", at: 5)], at: 10, more: true, count: 11)
        try harness.answerPage([.put("d", at: 5)], at: 10, count: 10)
        #expect(harness.take().reports.filter { $0 == .manyKeys(101) }.count == 1)
    }

    @Test mutating func scene18_countsOfManyRanges_areTooManyForASum() throws {
        harness = Harness(ranges: 9) { $0.resyncs.warningKeyCount = 100 }
        harness.send(.start)
        try harness.answerProbe(at: 10)
        for _ in 0..<9 { try harness.answerPage(at: 10, count: 1 << 60) }
        #expect(harness.take().reports.contains(.manyKeys(1 << 60)))
    }

    @Test func scene18_pageLimits_mayBeAsLargeAsTheirType() {
        var limits = SyncerConfiguration.PageLimits()
        (limits.initial, limits.maximum, limits.targetBytes) = (.max, .max, .max)
        var size = PageSize(limits)
        size.adapt(to: [.put("a", at: 1), .put("b", at: 1), .put("c", at: 1)])
        #expect(size.limit > 1 << 50)
    }

    @Test(arguments: [-1, .max] as [Int64])
    mutating func numbersAreOutOfRange_areMalformed(number: Int64) throws {
        harness.send(.start)
        try harness.answerProbe(at: number)
        harness.passPause()
        try harness.answerProbe(at: 10)
        try harness.answerPage(at: 10, count: number)
        #expect(harness.phase == .waiting)
        #expect(harness.take().disconnected == [0, 1])
    }

    @Test mutating func pageIsEmpty_andHasMore_isMalformed() throws {
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage(at: 10, more: true)
        #expect(harness.phase == .waiting)
        #expect(harness.take().seen == "wait-for-ready")
    }

    // MARK: Silent losses

    @Test mutating func scene19_serverLosesEvents_theAuditFindsThem() throws {
        let pipe = Pipe()
        try harness.follow([.put("a", at: 5)], at: 10)
        #expect(harness.machine.auditAt == .seconds(30 * 60))
        while harness.now < .seconds(30 * 60) - .seconds(20) {
            harness.pass(.seconds(19))
            try harness.message(.progress(range: 0, .at(20)))
        }
        pipe.perform([.restart, .status(.resyncInProgress), .deliver([update("a", 5)]), .status(.inSync)])
        _ = harness.take()
        harness.pass(.seconds(20))
        #expect(harness.machine.statistics.resyncs[.audit] == 1)
        // The watch never brought the change of a, nor b.
        try harness.answerPage([.put("a", "lost", at: 11), .put("b", at: 12)], at: 20)
        try harness.create(at: 20)
        pipe.perform(harness.take())
        #expect(pipe.state == ["a": "lost", "b": "v"])
        #expect(harness.machine.auditAt == harness.now + .seconds(30 * 60))
    }

    @Test mutating func scene19_auditIsOff_neverReadsAgain() throws {
        harness = Harness { $0.resyncs.auditInterval = nil }
        try harness.follow(at: 10)
        for _ in 0..<1000 {
            harness.pass(.seconds(19))
            try harness.message(.progress(range: 0, .at(20)))
        }
        #expect(harness.machine.statistics.resyncCount == 1)
    }

    @Test(arguments: [(0.0, 27), (1.0, 33)])
    mutating func scene19_audits_areSpread(random: Double, minutes: Int) throws {
        harness.random = random
        try harness.follow(at: 10)
        // The product with a fraction is not exact.
        let auditAt = try #require(harness.machine.auditAt)
        #expect(abs(auditAt / .seconds(60) - Double(minutes)) < 1e-9)
    }

    /// A deletion at the revision of the compaction may be missing from the watch. So the datastore
    /// is asked whether the history still reaches back to the cursor.
    @Test mutating func scene20_compactionReachesTheCursor_resyncsInsteadOfResuming() throws {
        try harness.follow(at: 10)
        try harness.change(.put("a", at: 15))
        try harness.lose()
        #expect(try harness.pending().request == .probe(resuming: 16))
        harness.now += .seconds(1)
        try harness.fail(.compacted)
        #expect(harness.phase == .reading)
    }

    // MARK: Users

    @Test mutating func scene21_tokenExpires_authenticatesOnce_andResumes() throws {
        try harness.follow(at: 10)
        let actions = try harness.failWatch(.unauthenticated)
        #expect(actions.requests == [.authenticate])
        harness.send(.authenticated(try harness.pending().id))
        try harness.answerProbe(at: 10)
        try harness.create(at: 10)
        #expect(harness.take().seen == "")
        #expect(harness.machine.endpoint == 0)
        #expect(harness.machine.statistics.resumes == 1)
        // And again, the next time.
        #expect(try harness.failWatch(.permissionDenied).requests == [.authenticate])
    }

    @Test mutating func scene21_permissionIsDeniedForGood_backsOff_andWaitsForTheDatastore() throws {
        harness.random = 0
        try harness.follow(at: 10)
        try harness.failWatch(.permissionDenied)
        harness.send(.authenticated(try harness.pending().id))
        var authentications = 0
        for attempt in 0..<11 {
            if case .authenticate = try harness.pending().request {
                authentications += 1
                harness.send(.authenticated(try harness.pending().id))
            }
            let failed = harness.now
            try harness.fail(.permissionDenied)
            if harness.phase == .authenticating { continue }
            harness.passPause()
            #expect(harness.now - failed == .seconds(1), "attempt \(attempt)")
        }
        #expect(authentications == 5)
        let actions = harness.take()
        #expect(actions.reports.filter { $0 == .denied(DatastoreError(.permissionDenied)) }.count == 1)
        harness.pass(.seconds(10))
        #expect(harness.take().statuses == [.waitForDatastore])
    }

    /// A client that has a certificate and no password. The cluster's own words are reported.
    @Test mutating func scene21_noUser_isDeniedWithoutAuthentication() throws {
        harness = Harness { $0.hasUser = false }
        try harness.follow(at: 10)
        let denial = DatastoreError(.permissionDenied, "etcdserver: permission denied")
        let actions = harness.send(.failed(try harness.watchID(), denial))
        #expect(actions.requests == [])
        #expect(actions.reports.contains(.denied(denial)))
        #expect(harness.phase == .waiting)
    }

    @Test mutating func scene21_passwordIsWrong_isReportedOnce() throws {
        harness.send(.start)
        for _ in 0..<5 {
            try harness.fail(.unauthenticated)
            try harness.fail(.permissionDenied)
            harness.passPause()
        }
        let reports = harness.take().reports
        #expect(reports.filter { $0 == .denied(DatastoreError(.permissionDenied)) }.count == 1)
        #expect(reports.filter { $0 == .unreachable(DatastoreError(.permissionDenied)) }.count == 1)
    }

    // MARK: Herds

    @Test mutating func scene22_attemptsFail_pausesGrow_withFullJitter_upToTheMaximum() throws {
        harness.send(.start)
        for (random, milliseconds) in [
            (0.5, 50), (0.5, 100), (1, 400), (0.25, 200), (0, 0), (1, 3200), (1, 6400), (1, 12800), (1, 25600),
            (1, 30000), (0.1, 3000),
        ] {
            harness.random = random
            let failed = harness.now
            try harness.fail(.unavailable)
            harness.passPause()
            #expect(harness.now - failed == .milliseconds(milliseconds))
        }
    }

    @Test(arguments: [(119, 1600), (120, 100)])
    mutating func scene22_afterTwoMinutesInSync_pausesBeginAgain(seconds: Int, milliseconds: Int) throws {
        harness.random = 1
        harness.send(.start)
        for _ in 0..<4 {
            try harness.fail(.unavailable)
            harness.passPause()
        }
        try harness.answerProbe(at: 10)
        try harness.answerPage(at: 10)
        try harness.create(at: 10)
        let synced = harness.now
        while harness.now < synced + .seconds(seconds) {
            harness.pass(.seconds(min(10, seconds - Int((harness.now - synced) / .seconds(1)))))
            try harness.message(.heartbeat(.at(10)))
        }
        let failed = harness.now
        try harness.failWatch(.unavailable)
        harness.passPause()
        #expect(harness.now - failed == .milliseconds(milliseconds))
    }

    @Test mutating func scene22_resyncs_areHalfASecondApart() throws {
        try harness.follow(at: 10)
        harness.now += .milliseconds(100)
        try harness.message(.cancelled(range: 0, reason: "", compacted: 20, .at(30)))
        #expect(harness.phase == .waiting)
        harness.passPause()
        #expect(harness.now == .milliseconds(500))
    }

    /// Every step is tried again, however often it fails in a row.
    @Test mutating func scene23_leaderChanges_everyStepIsTriedAgain() throws {
        func failOften(_ harness: inout Harness) throws {
            for _ in 0..<20 {
                try harness.fail(.noLeader)
                harness.passPause()
            }
        }
        harness.send(.start)
        try failOften(&harness)
        try harness.answerProbe(at: 10)
        for _ in 0..<20 {
            try harness.fail(.unavailable)
            harness.passPause()
            try harness.answerProbe(at: 10)
        }
        try harness.answerPage(at: 10)
        for _ in 0..<20 {
            try harness.failWatch(.unavailable)
            harness.passPause()
            try harness.answerProbe(at: 10)
        }
        try harness.create(at: 10)
        #expect(harness.phase == .following)
        #expect(harness.machine.statistics.resyncCount == 1)
        #expect(harness.take().restarts == 1)
    }

    // MARK: Proxies, storms and slow sinks

    @Test mutating func scene25_proxyNeverAnswersProgressRequests_isProbedInstead() throws {
        try followSilently()
        #expect(harness.pass(.seconds(30)).requests == [.probe(resuming: nil)])
        try harness.answerProbe(at: 10)
        #expect(harness.phase == .following)
        _ = harness.take()
        // From now on at once.
        let actions = harness.pass(.seconds(20))
        #expect(actions.requests == [.probe(resuming: nil)])
        #expect(actions.progressRequests == 0)
        try harness.answerProbe(at: 11)
        #expect(harness.machine.statistics.lag == 1)
        #expect(harness.machine.statistics.heartbeatMisses == 1)
        #expect(harness.machine.cursors == [11])
    }

    /// A message of the watch overtakes the probe's answer, which is older then.
    @Test mutating func scene25_probeIsOvertaken_isNoSignOfAnotherHistory() throws {
        try followSilently(timeout: .seconds(1))
        harness.pass(.seconds(21))
        let probe = try harness.pending().id
        try harness.change(.put("a", at: 15))
        harness.send(.probed(probe, .at(12)))
        #expect(harness.phase == .following)
        #expect(harness.take().delivered == ["a@15"])
        #expect(harness.machine.history.epoch == 0)
    }

    @Test mutating func scene25_messageDuringTheProbe_endsIt() throws {
        try followSilently()
        harness.pass(.seconds(30))
        let probe = try harness.pending().id
        #expect(try harness.message(.heartbeat(.at(10))).contains(.cancel(probe)))
        #expect(harness.machine.request == nil)
        harness.send(.failed(probe, DatastoreError(.timeout)))
        #expect(harness.phase == .following)
    }

    @Test mutating func scene26_leaseExpiryStorm_isDelivered() throws {
        try harness.follow(at: 10)
        let storm = (0..<10_000).map { DatastoreEntry.delete("k\($0)", at: 11) }
        try harness.message(.changes(range: 0, storm, .at(11), isFragment: false))
        #expect(harness.take().delivered.count == 10_000)
    }

    @Test mutating func scene26_snapshotIsEmpty_warnsBeforeItDeletesEverything() throws {
        try harness.follow([.put("a", at: 5)], at: 10)
        harness.now += .seconds(1)
        try harness.message(.cancelled(range: 0, reason: "", compacted: 20, .at(30)))
        try harness.answerPage(at: 30)
        #expect(harness.take().reports.contains(.emptySnapshot))
        try harness.create(at: 30)
        #expect(harness.take().seen == "in-sync")
    }

    @Test mutating func scene26_firstSnapshotIsEmpty_saysNothing() throws {
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage(at: 10)
        #expect(!harness.take().reports.contains(.emptySnapshot))
    }

    @Test mutating func scene28_relist_deliversOnlyWhatChanged() throws {
        let pipe = Pipe()
        harness.send(.start)
        try harness.answerProbe(at: 10)
        try harness.answerPage([.put("a", at: 5), .put("b", at: 6), .put("c", at: 7)], at: 10)
        try harness.create(at: 10)
        pipe.perform(harness.take())
        harness.now += .seconds(1)
        try harness.message(.cancelled(range: 0, reason: "", compacted: 20, .at(30)))
        try harness.answerPage([.put("a", at: 5), .put("b", at: 25)], at: 30)
        try harness.create(at: 30)
        pipe.updates = []
        pipe.perform(harness.take())
        #expect(pipe.updates.map(\.short).sorted() == ["-c@0", "b@25"])
    }

    private func update(_ key: String, _ revision: UInt64) -> Update<[UInt8], [UInt8]> {
        Update(key: bytes(key), value: bytes("v"), revision: revision)
    }
}
