// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Foundation

// How much traffic each endpoint has had. An update says by how much the traffic has grown, and the
// buffer adds up what is pending. The backlog is bounded by its bytes. When there is more, the
// meter begins again, with totals.

struct Traffic: Sendable {
    struct Flow: Sendable {
        var port: UInt16
        var bytes: Int
    }

    /// The whole, as a snapshot has it; else it is to be added.
    var isTotal = false
    var bytes: Int
    /// What the bytes consist of. A total does not say: this is what an overflow loses.
    var flows: [Flow] = []

    static func merged(_ older: Traffic, _ newer: Traffic) -> Traffic {
        guard !newer.isTotal else { return newer }
        return Traffic(isTotal: older.isTotal, bytes: older.bytes + newer.bytes, flows: older.flows + newer.flows)
    }

    var weight: Int { MemoryLayout<Traffic>.size + flows.count * MemoryLayout<Flow>.stride }
}

/// The fast side, which never waits for the collector.
struct Meter {
    let buffer: DedupeBuffer<String, Traffic>
    var totals: [String: Int] = [:]

    mutating func count(_ endpoints: Range<Int>, round: Int) {
        buffer.onUpdates(
            endpoints.map { endpoint in
                let key = "10.0.\(endpoint / 250).\(endpoint % 250)"
                let flows = (0...endpoint % 4).map { Traffic.Flow(port: UInt16(8_000 + $0), bytes: 100 + round * $0) }
                let bytes = flows.reduce(0) { $0 + $1.bytes }
                totals[key, default: 0] += bytes
                return Update(key: key, value: Traffic(bytes: bytes, flows: flows))
            })
    }

    /// Begins again, if there was too much.
    func catchUp() {
        guard buffer.statistics.isOverflowed else { return }
        buffer.withResync { session in
            for (key, bytes) in totals { session.update(key, to: Traffic(isTotal: true, bytes: bytes)) }
        }
    }
}

/// The slow side.
func collect(_ events: DedupeBufferEvents<String, Traffic>) async throws -> [String: Int] {
    var totals: [String: Int] = [:]
    for try await event in events {
        guard case .updates(let updates) = event else { continue }
        try await Task.sleep(for: .microseconds(500))  // the way to the disk
        for update in updates {
            guard let traffic = update.value else {
                totals[update.key] = nil
                continue
            }
            totals[update.key] = (traffic.isTotal ? 0 : totals[update.key, default: 0]) + traffic.bytes
        }
    }
    return totals
}

@main
struct TrafficCounters {
    static func main() async throws {
        // More than a snapshot of 1,000 endpoints weighs. Otherwise a resync would overflow again.
        let bytes = 1_000 * Traffic(isTotal: true, bytes: 0).weight + 16_384
        let buffer = DedupeBuffer<String, Traffic>(bound: .bytes(bytes, weight: \.weight), merge: Traffic.merged)

        var meter = Meter(buffer: buffer)
        // The collector has not begun yet. The buffer merges several rounds of half of the
        // endpoints; the other half exceeds its bound.
        for round in 0..<3 { meter.count(0..<500, round: round) }
        let merged = buffer.statistics.replaced
        meter.count(500..<1_000, round: 3)

        let tables = try await withThrowingTaskGroup(of: [String: Int].self) { [meter] group in
            group.addTask { try await collect(buffer.events) }
            group.addTask {
                var meter = meter
                meter.catchUp()
                for round in 4..<400 {
                    meter.count(round % 10 * 100..<round % 10 * 100 + 100, round: round)
                    // Once more than the collector can take meanwhile, which has most of it
                    // already.
                    for _ in 0..<20 where round == 200 && !buffer.statistics.isOverflowed {
                        meter.count(0..<1_000, round: round)
                    }
                    meter.catchUp()
                    try await Task.sleep(for: .microseconds(200))
                }
                await buffer.finish()
                return meter.totals
            }
            var tables: [[String: Int]] = []
            for try await table in group { tables.append(table) }
            return tables
        }

        let statistics = buffer.statistics
        print(
            "received \(statistics.received), merged or replaced \(statistics.replaced), dropped \(statistics.dropped),",
            "delivered \(statistics.delivered), overflows \(statistics.overflows)")
        let isRight = tables.count == 2 && tables[0] == tables[1]
        print(isRight ? "each byte was counted once: \(tables[0].values.reduce(0, +))" : "WRONG: the totals differ")
        // What this program is here to show has happened.
        exit(isRight && merged > 0 && statistics.overflows > 1 ? EXIT_SUCCESS : EXIT_FAILURE)
    }
}
