// SPDX-License-Identifier: Apache-2.0

// Tasks that always have something to deliver let other tasks run; closures as sinks.

import Testing

@testable import DedupeBuffer

@Suite("Tasks that always have something to deliver")
struct YieldTests {
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
