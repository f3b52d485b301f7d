// SPDX-License-Identifier: Apache-2.0

// Several producers, a loop, slow and fast sinks; what went in is counted against what came out.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

@Suite("Producers and loops")
struct StressTests {
    enum Pace: CaseIterable, Sendable {
        case fast, slow

        func rest() {
            if self == .slow { usleep(300) }
        }
    }

    @Test(arguments: LoopKind.allCases, Pace.allCases)
    func producersWithKeysOfTheirOwn_newestArrives_inOrder(kind: LoopKind, pace: Pace) throws {
        let (producers, keys, count) = (3, 40, rounds(4_000))
        let (buffer, sink, newest) = (StringBuffer(), ReplayingSink(), Kept<[String: Int]>([:]))
        let backwards = Kept<[String]>([])
        sink.onEachList { list in
            newest.change { newest in
                for update in list {
                    guard let value = update.value else { continue }
                    if let before = newest.updateValue(value, forKey: update.key), before >= value {
                        backwards.change { $0.append("\(update.key): \(value) after \(before)") }
                    }
                }
            }
            pace.rest()
        }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("first", 0)
        try sink.wait(forUpdates: 1)
        let line = StartingLine(producers)
        let workers = (0..<producers).map { producer in
            Worker("producer") {
                line.ready()
                for n in 0..<count {
                    let update = Update(key: "\(producer)/\(n % keys)", value: n % 11 == 10 ? nil : n)
                    if n % 2 == 0 {
                        buffer.onUpdates([update])
                    } else {
                        buffer.onUpdatesKeysKnown([update], keys: [update.key])
                    }
                }
                for key in 0..<keys { buffer.set("\(producer)/\(key)", count + key) }
            }
        }
        for worker in workers { try worker.join() }
        buffer.onStatusUpdated(.inSync)
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()

        #expect(sink.violations == [])
        #expect(backwards.value == [])
        var expected = ["first": 0]
        for producer in 0..<producers {
            for key in 0..<keys { expected["\(producer)/\(key)"] = count + key }
        }
        #expect(sink.state == expected)
        #expect(sink.endedWithAStatus)
        #expect(sink.latestStatus == .inSync)
        let statistics = buffer.statistics
        #expect(statistics.received == 1 + producers * (count + keys))
        #expect(statistics.delivered == sink.updatesHeard)
        #expect(statistics.pendingKeys == 0)
        #expect(statistics.liveKeys == expected.count)
        #expect(statistics.peakPendingKeys <= expected.count)
        #expect(statistics.statusesDelivered == 1)
        #expect(statistics.unaccounted == 0)
    }

    @Test(arguments: LoopKind.allCases, Pace.allCases)
    func producersSharingKeys_withStatusesAndRestarts_endInTheSameState(kind: LoopKind, pace: Pace) throws {
        let seed = announcedSeed("producersSharingKeys, \(kind.testDescription), \(pace)")
        let (buffer, sink) = (makeBuffer(batchSize: 10) as StringBuffer, ReplayingSink())
        sink.onEachList { _ in pace.rest() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("first", 0)
        try sink.wait(forUpdates: 1)
        let count = rounds(1_500)
        let line = StartingLine(3)
        var workers = (0..<2).map { producer in
            Worker("producer") {
                var random = SeededGenerator(seed: seed &+ UInt64(producer))
                line.ready()
                for n in 0..<count {
                    buffer.onUpdates(
                        (0..<Int.random(in: 1...3, using: &random)).map { _ in
                            let key = "key \(Int.random(in: 0..<60, using: &random))"
                            return Update(key: key, value: random.oneIn(4) ? nil : n)
                        })
                }
            }
        }
        workers.append(
            Worker("upstream") {
                var random = SeededGenerator(seed: seed &+ 99)
                line.ready()
                for _ in 0..<count / 3 {
                    if random.oneIn(8) { buffer.onConnectionRestarted() }
                    buffer.onStatusUpdated(SyncStatus(rawValue: .random(in: 0...2, using: &random))!)
                    _ = buffer.statistics
                }
            })
        for worker in workers { try worker.join() }

        // A last snapshot settles what the races left open.
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.resyncInProgress)
        for n in 0..<30 { buffer.set("key \(n)", -n) }
        buffer.onStatusUpdated(.inSync)
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()

        #expect(sink.violations == [])
        #expect(sink.state == Dictionary(uniqueKeysWithValues: (0..<30).map { ("key \($0)", -$0) }))
        #expect(sink.latestStatus == .inSync)
        let statistics = buffer.statistics
        #expect(statistics.delivered == sink.updatesHeard)
        #expect(statistics.pendingKeys == 0)
        #expect(statistics.pendingStatuses == 0)
        #expect(statistics.liveKeys == 30)
        #expect(statistics.unaccounted == 0)
    }

    @Test(arguments: LoopKind.allCases, Pace.allCases)
    func values_areDestroyedOnceEach(kind: LoopKind, pace: Pace) throws {
        final class Sink: SyncerCallbacks {
            let pace: Pace
            let heard = Kept(0)
            init(_ pace: Pace) { self.pace = pace }
            func onStatusUpdated(_ status: SyncStatus) {}
            func onUpdates(_ updates: [Update<UInt64, Tracked>]) {
                heard.change { $0 += updates.count }
                pace.rest()
            }
        }
        let tracker = LifetimeTracker()
        let count = rounds(1_500)
        do {
            let (buffer, sink) = (DedupeBuffer<UInt64, Tracked>(), Sink(pace))
            let loop = try RunningLoop(kind, of: buffer, to: sink)
            let line = StartingLine(3)
            let workers = (0..<3).map { producer in
                Worker("producer") {
                    line.ready()
                    for n in 0..<count {
                        let value = n % 4 == 3 ? nil : tracker.make()
                        buffer.onUpdates([Update(key: UInt64((n * 7 + producer) % 90), value: value)])
                        if producer == 0, n % 100 == 50 { buffer.onConnectionRestarted() }
                        if producer == 1, n % 70 == 0 {
                            buffer.onStatusUpdated(n % 140 == 0 ? .inSync : .resyncInProgress)
                        }
                    }
                }
            }
            for worker in workers { try worker.join() }
            buffer.stop()
            do { try loop.end() } catch DedupeBufferError.stopped {}
            try eventually("counts that add up") { buffer.statistics.unaccounted == 0 }
            try eventually("the sink's last call") { buffer.statistics.delivered == sink.heard.value }
            #expect(buffer.statistics.received == 3 * count)
        }
        try eventually("every value's end") { tracker.alive == 0 }
        #expect(tracker.destroyed == tracker.created)
        #expect(tracker.destroyedTwice == [])
    }

    /// Several threads take single batches: no two at once, nothing lost, nothing twice.
    @Test func singleBatches_fromSeveralThreads_areSerial() throws {
        let (buffer, sink, over) = (makeBuffer(batchSize: 4) as StringBuffer, ReplayingSink(), Kept(false))
        let odd = Kept<[String]>([])
        let consumers = (0..<3).map { _ in
            Worker("consumer") {
                while !over.value || buffer.statistics.pendingKeys > 0 {
                    do throws(DedupeBufferError) {
                        try buffer.sendNextBatchToSink(sink)
                    } catch {
                        if error == .stopped { odd.change { $0.append("\(error)") } }
                        sched_yield()
                    }
                }
            }
        }
        let producers = (0..<2).map { producer in
            Worker("producer") {
                for n in 0..<rounds(2_000) { buffer.set("\(producer)/\(n % 30)", n) }
                for n in 0..<30 { buffer.set("\(producer)/\(n)", -n) }
            }
        }
        for worker in producers { try worker.join() }
        over.change { $0 = true }
        for worker in consumers { try worker.join() }
        #expect(odd.value == [])
        #expect(sink.violations == [])
        #expect(sink.state.count == 60)
        #expect(sink.state.allSatisfy { $0.value == -Int($0.key.split(separator: "/")[1])! })
        #expect(buffer.statistics.unaccounted == 0)
        #expect(buffer.statistics.delivered == sink.updatesHeard)
    }

    @Test(arguments: LoopKind.allCases)
    func statistics_readUnderLoad_areNeverNegative(kind: LoopKind) throws {
        let (buffer, sink, over) = (StringBuffer(), ReplayingSink(), Kept(false))
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("first", 0)
        try sink.wait(forUpdates: 1)
        let reader = Worker("reader") { () -> String? in
            var last = buffer.statistics
            while !over.value {
                let s = buffer.statistics
                let all = [
                    s.pendingKeys, s.pendingStatuses, s.peakPendingKeys, s.liveKeys, s.received, s.delivered,
                    s.replaced,
                    s.cancelled, s.dropped, s.rejected, s.synthesizedDeletions, s.statusesReceived,
                    s.statusesDelivered, s.batches,
                ]
                if all.contains(where: { $0 < 0 }) { return "\(s)" }
                if s.received < last.received || s.delivered < last.delivered || s.batches < last.batches {
                    return "\(s) after \(last)"
                }
                last = s
            }
            return nil
        }
        for n in 0..<rounds(3_000) {
            buffer.set("key \(n % 40)", n)
            if n % 3 == 0 { buffer.delete("key \((n + 20) % 40)") }
            if n % 50 == 0 { buffer.onStatusUpdated(n % 100 == 0 ? .inSync : .resyncInProgress) }
            if n % 400 == 399 { buffer.onConnectionRestarted() }
        }
        over.change { $0 = true }
        #expect(try reader.join() == nil)
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.violations == [])
        #expect(buffer.statistics.unaccounted == 0)
    }
}
