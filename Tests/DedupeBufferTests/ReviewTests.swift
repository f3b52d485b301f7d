// SPDX-License-Identifier: Apache-2.0

// Findings of a review: each test says what the documentation or the issue promises, and fails where that is not kept.

import CoreMetrics
import DedupeBuffer
import Dispatch
import Foundation
import InMemoryLogging
import Logging
import MetricsTestKit
import Synchronization
import Testing

// MARK: - Logging

private struct ReviewLog {
    let handler = InMemoryLogHandler()
    let logger: Logger

    init() {
        var logger = Logger(label: "review") { [handler] _ in handler }
        logger.logLevel = .debug
        self.logger = logger
    }

    var resyncs: [String] {
        handler.entries.filter { "\($0.message)".contains("Resync") }.map { "\($0.level): \($0.message)" }
    }
}

@Suite("Review: logging")
struct ReviewLoggingTests {
    private let log = ReviewLog()

    private func makeBuffer(maximumPendingKeys: Int? = nil, metrics: DedupeBufferMetrics? = nil) -> StringBuffer {
        StringBuffer(
            configuration: DedupeBufferConfiguration(
                retry: DedupeBufferRetry(maximumAttempts: 1), logger: log.logger, metrics: metrics,
                maximumPendingKeys: maximumPendingKeys))
    }

    /// The in-sync is ignored between an overflow and the next restart: no resync has ended.
    @Test func inSync_thatAnOverflowIgnores_endsNoResync() throws {
        let kept = TestMetrics()
        let buffer = makeBuffer(maximumPendingKeys: 1, metrics: DedupeBufferMetrics(factory: kept))
        buffer.set("live", 1)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        buffer.set("b", 1)
        #expect(buffer.statistics.overflows == 1)
        buffer.onStatusUpdated(.inSync)
        #expect(buffer.statistics.pendingStatuses == 0, "it was dropped")
        #expect(log.resyncs == [])
        #expect(try kept.expectTimer("dedupe_buffer_resync_seconds").values == [])
    }

    /// One key's deletion comes from the source, all that is live then is deleted by the resync.
    @Test func resync_thatDeletesAllThatIsLive_isAWarning_althoughTheSourceDeletedOne() throws {
        let buffer = makeBuffer()
        buffer.set("a", 1)
        buffer.set("b", 1)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.delete("a")
        _ = try buffer.flush()
        #expect(buffer.statistics.liveKeys == 1)
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        #expect(buffer.statistics.liveKeys == 0)
        #expect(log.resyncs == ["warning: Resync deleted all live keys"])
    }

    /// A key that the sink failed on is not live; it counted at the restart.
    @Test func resync_thatDeletesAllThatIsLive_isAWarning_afterASinkHasFailed() async throws {
        let buffer = makeBuffer()
        try await bounded0 {
            buffer.set("a", 1)
            _ = try buffer.flush()
        }
        buffer.set("b", 1)
        let sink = ScriptedSink<Int> { _, _ in
            buffer.onConnectionRestarted()
            throw SinkFailure()
        }
        await #expect(throws: SinkFailure()) { try await within("run") { try await buffer.run(sink: sink) } }
        #expect(buffer.statistics.liveKeys == 1)
        buffer.onStatusUpdated(.inSync)
        try await bounded0 { _ = try buffer.flush() }
        #expect(buffer.statistics.liveKeys == 0)
        #expect(log.resyncs == ["warning: Resync deleted all live keys"])
    }

    private func bounded0(_ body: @escaping @Sendable () throws -> Void) async throws {
        let worker = Worker("a call", body)
        try await eventually("a call") { worker.hasReturned }
        try worker.join()
    }
}

// MARK: - Memory

@Suite("Review: memory")
struct ReviewMemoryTests {
    /// "Bytes that the buffer holds: queue, index, copies of keys, and room for updates."
    @Test func memory_hasTheRoomForABatch() {
        let buffer: StringBuffer = makeBuffer(batchSize: 65_536)
        #expect(buffer.statistics.memory > 65_536 * 16)
    }

    /// "Memory is bounded by the number of keys that are pending or live, and goes back to the system after a peak."
    @Test func memory_ofLongKeys_goesBack() {
        let buffer = DedupeBuffer<[UInt8], Int>()
        let keys = (0..<100).map { n in [UInt8](repeating: UInt8(n), count: 65_536) }
        let put = keys.map { Update(key: $0, value: 1) }
        let cancel = keys.map { Update<[UInt8], Int>(key: $0, value: nil) }
        buffer.onUpdates([Update(key: keys[0], value: 1)])
        buffer.onUpdates([Update(key: keys[0], value: nil)])
        let (before, held) = (inUse(), buffer.statistics.memory)
        buffer.onUpdates(put)
        buffer.onUpdates(cancel)
        for _ in 0..<1_000 {
            buffer.onUpdates([Update(key: [1], value: 1)])
            buffer.onUpdates([Update(key: [1], value: nil)])
        }
        #expect(buffer.statistics.pendingKeys == 0)
        let grown = inUse() - before
        #expect(grown < 4_000_000, "by \(grown); statistics.memory by \(buffer.statistics.memory - held)")
        withExtendedLifetime(keys) {}
    }

    /// Bytes that are resident.
    private func inUse() -> Int {
        let text = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)) ?? ""
        return (text.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) * 4096
    }
}
