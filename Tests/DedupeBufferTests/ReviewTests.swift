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
