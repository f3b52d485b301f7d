// SPDX-License-Identifier: Apache-2.0

// Contract section 4, delivery by a loop: started, asleep, woken, held up by its sink, refused a
// second time.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

@Suite("Loops")
struct DeliveryLoopTests {
    private let buffer = StringBuffer()
    private let sink = StringSink()

    // MARK: Started

    @Test(arguments: LoopKind.allCases)
    func loop_startedOnAFullQueue_deliversTheExampleOfTheContract(kind: LoopKind) throws {
        buffer.onStatusUpdated(.resyncInProgress)
        for n in 0..<250 { buffer.set("key \(n)", n) }
        buffer.onStatusUpdated(.inSync)
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try sink.wait(forStatus: .inSync)
        func items(_ range: Range<Int>) -> [Item<String, Int>] { range.map { .new("key \($0)", $0) } }
        #expect(
            sink.calls == [
                .status(.resyncInProgress), .updates(items(0..<99)), .updates(items(99..<199)),
                .updates(items(199..<250)), .status(.inSync),
            ])
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases)
    func loop_startedOnAnEmptyQueue_deliversWhatComes(kind: LoopKind) throws {
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        try sink.wait(forStatus: .inSync)
        #expect(sink.items == [.new("a", 1)])
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases, [1, 2, 7, 1_000])
    func loop_keepsToTheBatchSize(kind: LoopKind, size: Int) throws {
        let buffer: StringBuffer = makeBuffer(batchSize: size)
        for n in 0..<100 { buffer.set("key \(n)", n) }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try sink.wait(forItems: 100)
        #expect(sink.calls.map(\.items.count) == stride(from: 0, to: 100, by: size).map { min(size, 100 - $0) })
        #expect(sink.items == (0..<100).map { .new("key \($0)", $0) })
        buffer.stop()
        try loop.end()
    }

    @Test func startSending_returnsAtOnce_whileItsQueueIsSuspended() throws {
        let queue = DispatchQueue(label: "test.suspended")
        queue.suspend()
        defer { queue.resume() }
        let (buffer, sink) = (buffer, sink)
        buffer.set("a", 1)
        try bounded("startSending") { try buffer.startSending(to: sink, on: queue) }
        #expect(sink.calls == [])
        buffer.stop()
    }

    @Test func startSending_returnsAtOnce_whileItsSinkIsBlocked() throws {
        let gate = Gate()
        sink.onEachCall { _ in gate.pass() }
        buffer.set("a", 1)
        let loop = try RunningLoop(.ownQueue, of: buffer, to: sink)
        try gate.waitForArrival()
        gate.open()
        buffer.stop()
        try loop.end()
    }

    @Test func twoBuffersInARow_bothWithLoops_passEverythingOn() throws {
        let (first, second, sink) = (makeBuffer(batchSize: 7) as StringBuffer, buffer, ReplayingSink())
        let firstLoop = try RunningLoop(.ownQueue, of: first, to: second)
        let secondLoop = try RunningLoop(.serialQueue, of: second, to: sink)
        for n in 0..<2_000 { first.onUpdates([Update(key: "key \(n % 30)", value: n % 5 == 0 ? nil : n)]) }
        for n in 0..<30 { first.set("key \(n)", -n) }
        first.onStatusUpdated(.inSync)
        try bounded("finish") {
            first.finishAndWait()
            second.finishAndWait()
        }
        try firstLoop.end()
        try secondLoop.end()
        #expect(sink.state == Dictionary(uniqueKeysWithValues: (0..<30).map { ("key \($0)", -$0) }))
        #expect(sink.violations == [])
        #expect(sink.endedWithAStatus)
        #expect(first.statistics.delivered == second.statistics.received)
        #expect(second.statistics.unaccounted == 0)
    }

    // MARK: Asleep

    enum Input: CaseIterable, Sendable {
        case value, deletion, status, knownStrings, knownBytes, list, owedDeletion

        func send(to buffer: StringBuffer, round: Int) {
            switch self {
            case .value: buffer.set("a", round)
            case .deletion: buffer.delete("a")
            case .status: buffer.onStatusUpdated(round % 2 == 0 ? .resyncInProgress : .inSync)
            case .knownStrings: buffer.onUpdatesKeysKnown([Update(key: "a", value: round)], keys: ["a"])
            case .knownBytes: buffer.onUpdatesKeysKnown([Update(key: "a", value: round)], keys: [Array("a".utf8)])
            case .list: buffer.onUpdates((0..<3).map { Update(key: "key \($0)", value: round) })
            case .owedDeletion:
                buffer.onConnectionRestarted()
                buffer.onStatusUpdated(.inSync)
            }
        }
    }

    @Test(arguments: LoopKind.allCases, Input.allCases)
    func sleepingLoop_isWoken(kind: LoopKind, by input: Input) throws {
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 0)
        if input == .owedDeletion {
            buffer.onStatusUpdated(.inSync)
            try sink.wait(forCalls: 1)
        }
        for round in 0..<20 {
            if input == .owedDeletion, round > 0 {
                sink.takeCalls()
                buffer.set("a", round)  // live again: to be owed, it must have been taken
                try sink.wait(forCalls: 1)
            }
            try loop.settle()
            sink.takeCalls()
            input.send(to: buffer, round: round)
            try sink.wait(forCalls: 1)
        }
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases)
    func noWakeUpIsLost_inManyRounds(kind: LoopKind) throws {
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        for round in 0..<rounds(1_000) {
            buffer.set("a", round)
            try sink.wait(for: "round \(round)") { $0.items().last?.value == round }
            sink.takeCalls()
        }
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test func idleLoop_parksNoThread_onItsQueue() throws {
        let loop = try RunningLoop(.serialQueue, running: buffer, to: sink, first: "a", 0)
        let queue = try #require(loop.queue)
        #expect(try bounded("other work on the queue") { queue.sync { 42 } } == 42)
        buffer.set("b", 1)
        try sink.wait(forItems: 1)
        buffer.stop()
        try loop.end()
    }

    @Test func manyBuffers_onOneSerialQueue_areAllDelivered() throws {
        let queue = DispatchQueue(label: "test.shared")
        let pairs = (0..<100).map { _ in (StringBuffer(), StringSink()) }
        for (buffer, sink) in pairs { try buffer.startSending(to: sink, on: queue) }
        for round in 1...5 {
            for (n, (buffer, _)) in pairs.enumerated() { buffer.set("\(round)", n) }
            for (_, sink) in pairs { try sink.wait(forItems: round) }
        }
        for (buffer, sink) in pairs {
            #expect(sink.violations == [])
            buffer.stop()
        }
    }

    @Test func manyIdleBuffers_withQueuesOfTheirOwn_areAllDelivered() throws {
        let pairs = (0..<300).map { _ in (StringBuffer(), StringSink()) }
        for (buffer, sink) in pairs { try buffer.startSending(to: sink) }
        for (n, (buffer, _)) in pairs.enumerated() { buffer.set("a", n) }
        for (_, sink) in pairs { try sink.wait(forItems: 1) }
        for (buffer, _) in pairs { buffer.stop() }
    }

    // MARK: Held up

    @Test(arguments: LoopKind.allCases)
    func blockedSink_holdsUpNoProducer_andWhatComesIsConflated(kind: LoopKind) throws {
        let gate = Gate()
        let (buffer, sink) = (buffer, sink)
        sink.onEachCall { _ in gate.pass() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("first", 0)
        try gate.waitForArrival()
        try bounded("a producer beside a blocked sink") {
            for n in 0..<1_000 { buffer.set("key \(n % 10)", n) }
            buffer.onStatusUpdated(.inSync)
            buffer.onUpdatesKeysKnown([Update(key: "key 3", value: nil)], keys: ["key 3"])
        }
        #expect(buffer.statistics.pendingKeys == 9)
        gate.open()
        try sink.wait(forStatus: .inSync)
        let newest: [Item<String, Int>] = (0..<10).filter { $0 != 3 }.map { .new("key \($0)", 990 + $0) }
        #expect(sink.calls == [.updates([.new("first", 0)]), .updates(newest), .status(.inSync)])
        #expect(sink.violations == [])
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(buffer.statistics.replaced == 990)
        #expect(buffer.statistics.cancelled == 2)
        #expect(buffer.statistics.unaccounted == 0)
    }

    @Test func suspendedQueue_conflates_asASlowSinkDoes() throws {
        let queue = DispatchQueue(label: "test.suspended")
        queue.suspend()
        try buffer.startSending(to: sink, on: queue)
        for n in 0..<500 { buffer.set("key \(n % 5)", n) }
        queue.resume()
        try sink.wait(forItems: 5)
        #expect(sink.calls == [.updates((0..<5).map { .new("key \($0)", 495 + $0) })])
        buffer.stop()
    }

    @Test(arguments: LoopKind.allCases)
    func slowSink_hearsTheNewestOfEveryKey(kind: LoopKind) throws {
        let (buffer, sink) = (makeBuffer(batchSize: 3) as StringBuffer, ReplayingSink())
        sink.onEachList { _ in usleep(500) }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        for n in 0..<5_000 { buffer.onUpdates([Update(key: "key \(n % 20)", value: n % 7 == 0 ? nil : n)]) }
        for n in 0..<20 { buffer.set("key \(n)", -n) }
        buffer.onStatusUpdated(.inSync)
        try eventually("in-sync") { sink.latestStatus == .inSync }
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.state == Dictionary(uniqueKeysWithValues: (0..<20).map { ("key \($0)", -$0) }))
        #expect(sink.violations == [])
        #expect(buffer.statistics.unaccounted == 0)
    }

    // MARK: A second one

    enum Way: CaseIterable, Sendable {
        case startSending, startSendingOnAQueue, sendToSinkForever, sendNextBatchToSink

        func send(_ buffer: StringBuffer, to sink: StringSink) throws {
            switch self {
            case .startSending: try buffer.startSending(to: sink)
            case .startSendingOnAQueue: try buffer.startSending(to: sink, on: DispatchQueue(label: "test.second"))
            case .sendToSinkForever: try buffer.sendToSinkForever(sink)
            case .sendNextBatchToSink: try buffer.sendNextBatchToSink(sink)
            }
        }
    }

    @Test(arguments: LoopKind.allCases, Way.allCases)
    func secondLoop_besideAnIdleOne_isRefused(kind: LoopKind, way: Way) throws {
        let (buffer, other) = (buffer, StringSink())
        let loop = try RunningLoop(kind, running: buffer, to: sink, first: "a", 0)
        #expect(throws: DedupeBufferError.alreadySending) {
            try bounded("\(way) beside a loop") { try way.send(buffer, to: other) }
        }
        buffer.set("b", 1)
        try sink.wait(forItems: 1)  // the first goes on
        #expect(other.calls == [])
        buffer.stop()
        try loop.end()
    }

    @Test(arguments: LoopKind.allCases, Way.allCases)
    func secondLoop_besideABusyOne_isRefused(kind: LoopKind, way: Way) throws {
        let (buffer, other, gate) = (buffer, StringSink(), Gate())
        sink.onEachCall { _ in gate.pass() }
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        buffer.set("a", 1)
        try gate.waitForArrival()
        buffer.set("b", 1)
        #expect(throws: DedupeBufferError.alreadySending) {
            try bounded("\(way) beside a loop") { try way.send(buffer, to: other) }
        }
        gate.open()
        try sink.wait(forItems: 2)
        #expect(other.calls == [])
        #expect(sink.violations == [])
        buffer.stop()
        try loop.end()
    }

    @Test func secondBatch_besideOneBeingDelivered_isRefused() throws {
        let (buffer, sink, other, gate) = (makeBuffer(batchSize: 1) as StringBuffer, sink, StringSink(), Gate())
        sink.onEachCall { _ in gate.pass() }
        buffer.set("a", 1)
        buffer.set("b", 2)
        let first = Worker("a batch") { try buffer.sendNextBatchToSink(sink) }
        try gate.waitForArrival()
        #expect(throws: DedupeBufferError.alreadySending) {
            try bounded("a batch beside a batch") { try buffer.sendNextBatchToSink(other) }
        }
        gate.open()
        try first.join()
        #expect(try buffer.flush() == [.updates([.new("b", 2)])])
        #expect(sink.calls == [.updates([.new("a", 1)])])
        #expect(other.calls == [])
    }

    @Test func loop_afterSingleBatches_isNotRefused() throws {
        buffer.set("a", 1)
        _ = try buffer.flush()
        let loop = try RunningLoop(.ownQueue, of: buffer, to: sink)
        buffer.set("a", 2)
        try sink.wait(forItems: 1)
        #expect(sink.items == [.updated("a", 2)])
        buffer.stop()
        try loop.end()
    }

    @Test func twoLoops_startedAtOnce_oneIsRefused() throws {
        for _ in 0..<rounds(200) {
            let buffer = StringBuffer()
            let sink = ForgettingSink<String, Int>()
            let line = StartingLine(2)
            let starts = (0..<2).map { _ in
                Worker("startSending") { () -> DedupeBufferError? in
                    line.ready()
                    do throws(DedupeBufferError) {
                        try buffer.startSending(to: sink)
                        return nil
                    } catch {
                        return error
                    }
                }
            }
            let errors = try starts.map { try $0.join() }
            #expect(errors.compactMap { $0 } == [.alreadySending])
            buffer.stop()
        }
    }
}
