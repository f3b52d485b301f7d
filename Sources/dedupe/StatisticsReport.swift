// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch

/// What `--stats` shows, in words.
struct StatisticsReport {
    var lines: Int
    var statuses: Int
    var restarts: Int
    var badLines: Int
    var buffer: DedupeBufferStatistics
    var nanoseconds: UInt64

    init(input: InputCounters, buffer: DedupeBufferStatistics, nanoseconds: UInt64) {
        lines = input.lines.load(ordering: .relaxed)
        statuses = input.statuses.load(ordering: .relaxed)
        restarts = input.restarts.load(ordering: .relaxed)
        badLines = input.badLines.load(ordering: .relaxed)
        self.buffer = buffer
        self.nanoseconds = nanoseconds
    }

    /// Updates that came in for each one that went out.
    private var conflation: String {
        buffer.delivered == 0 ? "-" : Self.decimal(Double(buffer.received) / Double(buffer.delivered), places: 2)
    }

    private var linesOut: Int { buffer.delivered + buffer.statusesDelivered }

    /// The line that is shown while it goes on.
    var live: String {
        "in \(lines), out \(linesOut), pending \(buffer.pendingKeys), conflation \(conflation)"
    }

    /// The lines that are shown at the end.
    var summary: [String] {
        [
            "in: \(lines) lines, \(buffer.received) updates, \(statuses) statuses, \(restarts) restarts, "
                + "\(badLines) bad",
            "out: \(linesOut) lines, \(buffer.delivered) updates, \(buffer.statusesDelivered) statuses, "
                + "in \(buffer.batches) batches",
            "on the way: \(buffer.replaced) replaced, \(buffer.cancelled) cancelled, \(buffer.dropped) dropped, "
                + "\(buffer.synthesizedDeletions) deletions synthesized, at most \(buffer.peakPendingKeys) pending",
            "conflation \(conflation), \(Self.decimal(Double(nanoseconds) / 1e9, places: 3)) seconds",
        ]
    }

    /// A number that is not negative, with a fixed number of digits behind the point.
    private static func decimal(_ number: Double, places: Int) -> String {
        var scale = 1
        for _ in 0..<places {
            scale *= 10
        }
        let scaled = Int((number * Double(scale)).rounded())
        let fraction = String(scaled % scale)
        return "\(scaled / scale)." + String(repeating: "0", count: places - fraction.count) + fraction
    }
}
