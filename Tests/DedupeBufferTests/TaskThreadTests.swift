// SPDX-License-Identifier: Apache-2.0

// Tasks and the threads that run them: a task that waits parks no thread, and a task that always
// has something to deliver lets other tasks run.

import Foundation
import Testing

@testable import DedupeBuffer

/// All tasks that wait share one thread: if one of them blocked it, the others would not get to
/// their own waits. And what waits elsewhere on a thread of its own shows in the number of threads.
/// Other tests' threads come and go; those of as many as wait here would stay.
@Suite("Tasks that wait", .serialized)
struct WaitingTaskTests {
    /// Of each kind.
    private static let count = 64

    private let executor = OneThreadExecutor()
    private let buffers = (0..<count).map { _ in StringBuffer() }
    private let sinks = (0..<count).map { _ in ScriptedSink<Int>() }

    private func consume(_ buffer: StringBuffer, _ sink: ScriptedSink<Int>) -> Task<Void, any Error> {
        Task(executorPreference: executor) { [events = buffer.events] in
            for try await event in events {
                switch event {
                case .updates(let updates): try await sink.onUpdates(updates)
                case .status(let status): try await sink.onStatusUpdated(status)
                }
            }
        }
    }

    private func run(_ buffer: StringBuffer, _ sink: ScriptedSink<Int>) -> Task<Void, any Error> {
        Task(executorPreference: executor) { try await buffer.run(sink: sink) }
    }

    /// Fewer threads more than before than a quarter of those who wait.
    private func expectNoThreads(since before: Int, waiting: Int) async throws {
        try await eventually("hardly more threads than before") { threads() < before + waiting / 4 }
    }

    /// Each has delivered, waits, and delivers what comes then.
    private func expectToDeliver(
        _ buffers: [StringBuffer], _ sinks: [ScriptedSink<Int>], _ tasks: [Task<Void, any Error>], since before: Int
    ) async throws {
        for buffer in buffers { buffer.set("a", 1) }
        for sink in sinks { try await sink.wait(forCalls: 1) }
        try await expectNoThreads(since: before, waiting: tasks.count)
        for buffer in buffers { buffer.set("a", 2) }
        for sink in sinks {
            try await sink.wait(forCalls: 2)
            #expect(sink.calls == [.updates([.new("a", 1)]), .updates([.updated("a", 2)])])
        }
        for buffer in buffers { await buffer.finish() }
        for task in tasks { try await outcome(of: task, "end of the events") }
    }

    @Test func consumersOfEvents_whoWait_parkNoThread_andStillDeliver() async throws {
        let before = threads()
        let tasks = zip(buffers, sinks).map { consume($0, $1) }
        try await expectToDeliver(buffers, sinks, tasks, since: before)
    }

    @Test func runs_thatWait_parkNoThread_andStillDeliver() async throws {
        let before = threads()
        let tasks = zip(buffers, sinks).map { run($0, $1) }
        try await expectToDeliver(buffers, sinks, tasks, since: before)
    }

    @Test func runs_inAPause_parkNoThread_andStillDeliver() async throws {
        let before = threads()
        let clocks = buffers.map { _ in TestClock() }
        let buffers = clocks.map { StringBuffer(retry: .init(maximumAttempts: nil, clock: $0)) }
        let sinks = buffers.map { _ in ScriptedSink<Int> { _, number in if number == 0 { throw SinkFailure() } } }
        let tasks = zip(buffers, sinks).map { run($0, $1) }
        for buffer in buffers { buffer.set("a", 1) }
        for clock in clocks { try await clock.waitForSleeper() }
        try await expectNoThreads(since: before, waiting: tasks.count)
        for clock in clocks { clock.advance() }
        for sink in sinks { try await sink.wait(forCalls: 2) }
        for buffer in buffers { await buffer.finish() }
        for task in tasks { try await outcome(of: task, "run") }
        #expect(sinks.allSatisfy { $0.delivered == [.updates([.new("a", 1)])] })
    }

    @Test(arguments: [false, true])
    func finishes_thatWait_parkNoThread_andReturn(haveDeadline: Bool) async throws {
        let (before, gate) = (threads(), AsyncGate())
        let sinks = buffers.map { _ in ScriptedSink<Int> { _, _ in await gate.pass() } }
        let running = zip(buffers, sinks).map { run($0, $1) }
        for buffer in buffers { buffer.set("a", 1) }
        try await gate.waitForArrival(Self.count)
        let begun = Kept(0)
        let finishes = buffers.map { buffer in
            Task<Void, any Error>(executorPreference: executor) {
                begun.change { $0 += 1 }
                if haveDeadline {
                    await buffer.finish(deadline: .now + .seconds(1_000_000))
                } else {
                    await buffer.finish()
                }
            }
        }
        try await eventually("beginnings") { begun.value == Self.count }
        try await expectNoThreads(since: before, waiting: finishes.count)
        gate.open()
        for task in running + finishes { try await outcome(of: task, "the end") }
        #expect(sinks.allSatisfy { $0.delivered == [.updates([.new("a", 1)])] })
    }
}

/// How many threads this process has, where the system tells.
private func threads() -> Int {
    let threads = try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")
    return threads?.count ?? 0
}

@Suite("Tasks that always have something to deliver")
struct BusyTaskTests {
    enum Way: CaseIterable { case run, events }

    private let executor = SteppedExecutor()

    /// Without a yield the first step would not end before the 10,000th event.
    @Test(arguments: Way.allCases)
    func consumer_afterSomeBatches_letsOtherTasksRun(way: Way) async throws {
        let (buffer, calls) = (makeBuffer(batchSize: 1) as StringBuffer, Kept(0))
        let handle: @Sendable () -> Void = {
            let number = calls.change { calls in
                calls += 1
                return calls
            }
            if number < 10_000 { buffer.set("key \(number)", number) } else { buffer.stop() }
        }
        buffer.set("first", 0)
        let consumer = Task<Void, any Error>(executorPreference: executor) {
            switch way {
            case .run: try await buffer.run { _ in handle() }
            case .events: for try await _ in buffer.events { handle() }
            }
        }
        let (other, callsBefore) = (Kept(false), Kept(0))
        Task(executorPreference: executor) {
            callsBefore.change { $0 = calls.value }
            other.change { $0 = true }
        }
        executor.step()
        #expect(calls.value > 0)
        for _ in 0..<5 where !other.value { executor.step() }
        #expect(other.value)
        #expect(callsBefore.value <= 16)
        try await executor.outcome(of: consumer, "the consumer")
        #expect(calls.value == 10_000)
    }
}

@Suite("Closures as sinks")
struct ClosureSinkTests {
    private let buffer = StringBuffer()

    private func putSnapshot() {
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.set("a", 1, revision: 7)
        buffer.onStatusUpdated(.inSync)
    }

    private static let snapshot: [Event<String, Int>] = [
        .status(.resyncInProgress), .updates([.new("a", 1, revision: 7)]), .status(.inSync),
    ]

    @Test func startSending_toAClosure_deliversEachEvent() async throws {
        let heard = Kept<[Event<String, Int>]>([])
        putSnapshot()
        try buffer.startSending { event in heard.change { $0.append(Event(event)) } }
        await buffer.finish()
        #expect(heard.value == Self.snapshot)
    }

    @Test func run_toAClosureThatFails_triesAgain() async throws {
        let buffer = StringBuffer(retry: DedupeBufferConfiguration.RetryPolicy(clock: ImpatientClock()))
        let (heard, calls) = (Kept<[Event<String, Int>]>([]), Kept(0))
        buffer.set("a", 1)
        let running = Task {
            try await buffer.run { event in
                calls.change { $0 += 1 }
                if calls.value == 1 { throw SinkFailure() }
                heard.change { $0.append(Event(event)) }
            }
        }
        await buffer.finish()
        try await outcome(of: running, "run")
        #expect(heard.value == [.updates([.new("a", 1)])])
        #expect(calls.value == 2)
    }
}
