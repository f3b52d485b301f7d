// SPDX-License-Identifier: Apache-2.0

// Findings of a review of the service.

import DedupeBuffer
import DedupeBufferService
import Foundation
import ServiceLifecycle
import ServiceLifecycleTestKit
import Testing

private struct ReviewFailure: Error {}

private struct ReviewSink: AsyncSyncerCallbacks {
    let body: @Sendable () async throws -> Void

    func onStatusUpdated(_ status: SyncStatus) async throws {}
    func onUpdates(_ updates: [Update<String, Int>]) async throws { try await body() }
}

@Suite("Review: service")
struct ReviewServiceTests {
    /// A sink that fails until the grace period is over: how `run()` ends does not hang on how long `onShutdown` takes.
    @Test func gracePeriodThatPassesInAPause_endsInOneWay() async throws {
        var outcomes: [String: Set<String>] = [:]
        for slow in [false, true] {
            for _ in 0..<20 {
                let buffer = DedupeBuffer<String, Int>(
                    configuration: DedupeBufferConfiguration(
                        retry: DedupeBufferRetry(
                            initialDelay: .seconds(1_000), maximumDelay: .seconds(1_000), maximumAttempts: nil)))
                buffer.onUpdates([Update(key: "a", value: 1)])
                let outcome = await testGracefulShutdown { trigger in
                    trigger.triggerGracefulShutdown()
                    let service = DedupeBufferService(
                        buffer: buffer, sink: ReviewSink { throw ReviewFailure() }, gracePeriod: .milliseconds(3)
                    ) { _ in
                        if slow { usleep(20_000) }
                    }
                    do {
                        try await service.run()
                        return "returned"
                    } catch {
                        return "threw \(error)"
                    }
                }
                outcomes[slow ? "slow" : "fast", default: []].insert(outcome)
            }
        }
        #expect(outcomes["slow"] == outcomes["fast"], "\(outcomes)")
    }

    /// "When the task is cancelled the buffer stops": here no task is. Any other error leaves the buffer as it was.
    @Test(arguments: [false, true])
    func sink_thatGivesUp_leavesTheBuffer_whateverItThrows(_ isCancellation: Bool) async throws {
        let buffer = DedupeBuffer<String, Int>(
            configuration: DedupeBufferConfiguration(retry: DedupeBufferRetry(maximumAttempts: 1)))
        buffer.onUpdates([Update(key: "a", value: 1)])
        let sink = ReviewSink { if isCancellation { throw CancellationError() } else { throw ReviewFailure() } }
        await #expect(throws: (any Error).self) { try await DedupeBufferService(buffer: buffer, sink: sink).run() }
        let dropped = buffer.statistics.dropped
        buffer.onUpdates([Update(key: "b", value: 1)])
        #expect(buffer.statistics.dropped == dropped, "the buffer was stopped")
    }

    /// `gracePeriod`: for as long as it takes.
    @Test func gracePeriodForEver_isNoCrash() async {
        await #expect(processExitsWith: .success) {
            let buffer = DedupeBuffer<String, Int>()
            buffer.onUpdates([Update(key: "a", value: 1)])
            let sink = ReviewSink { try await Task.sleep(for: .milliseconds(100)) }
            try await testGracefulShutdown { trigger in
                trigger.triggerGracefulShutdown()
                try await DedupeBufferService(buffer: buffer, sink: sink, gracePeriod: .seconds(Int64.max)).run()
            }
            precondition(buffer.statistics.delivered == 1)
            exit(0)
        }
    }
}
