// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer

/// What came in, as a subcommand counts it.
struct InputSummary {
    /// Lines or changes, for the rate.
    var count: Int
    /// All the counts, for the summary.
    var text: String
    /// Updates that were left out because they were older than what was known.
    var older: Int
}

/// What `--stats` shows, in words.
struct StatisticsReport: ProgressReport {
    var input: InputSummary
    var buffer: DedupeBufferStatistics
    var nanoseconds: UInt64
    /// Updates that the writer has, and has not begun to write.
    var updatesWaiting = 0
    /// Updates that are being written.
    var updatesInWriting = 0

    /// Updates that came in for each one that went out.
    private var conflation: String {
        buffer.delivered == 0 ? "-" : Self.decimal(Double(buffer.received) / Double(buffer.delivered), places: 2)
    }

    var pendingUpdates: Int { buffer.pendingKeys + updatesWaiting }

    private var updatesOut: Int { buffer.delivered - updatesWaiting - updatesInWriting }

    private var linesOut: Int { updatesOut + buffer.statusesDelivered }

    /// The line that is shown while it goes on.
    ///
    /// - Parameter earlier: What was reported before; the rates are those since then.
    func live(since earlier: StatisticsReport?) -> String {
        let seconds = Double(nanoseconds - (earlier?.nanoseconds ?? 0)) / 1e9
        func rate(_ count: Int, _ before: Int?) -> String {
            seconds > 0 ? Self.short(Double(count - (before ?? 0)) / seconds) : "-"
        }
        let age = Self.decimal(Self.seconds(buffer.oldestPendingAge), places: 1)
        return "in \(rate(input.count, earlier?.input.count))/s, out \(rate(linesOut, earlier?.linesOut))/s, "
            + "pending \(buffer.pendingKeys), x\(conflation), oldest \(age)s"
    }

    /// The lines that are shown at the end.
    var summary: [String] {
        [
            "in: \(input.text)",
            "out: \(linesOut) lines, \(updatesOut) updates, \(buffer.statusesDelivered) statuses, "
                + "in \(buffer.batches) batches",
            "on the way: \(buffer.replaced) replaced, \(buffer.cancelled) cancelled, \(buffer.suppressed) suppressed, "
                + "\(input.older) older, \(buffer.dropped) dropped (\(buffer.overflows) overflows), "
                + "\(buffer.synthesizedDeletions) deletions synthesized, at most \(buffer.peakPendingKeys) pending",
            "conflation \(conflation), \(Self.decimal(Double(nanoseconds) / 1e9, places: 3)) seconds",
        ]
    }

    private static func seconds(_ duration: Duration) -> Double {
        Double(duration.components.seconds) + Double(duration.components.attoseconds) / 1e18
    }

    /// A number in few characters: 999, 1.5k, 20M.
    static func short(_ number: Double) -> String {
        for (unit, name) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] where number >= unit {
            return decimal(number / unit, places: number >= 10 * unit ? 0 : 1) + name
        }
        return decimal(number, places: number >= 10 || number == 0 ? 0 : 1)
    }

    /// A number that is not negative, with a fixed number of digits behind the point.
    static func decimal(_ number: Double, places: Int) -> String {
        var scale = 1
        for _ in 0..<places {
            scale *= 10
        }
        let scaled = Int((number * Double(scale)).rounded())
        if places == 0 {
            return "\(scaled)"
        }
        let fraction = String(scaled % scale)
        return "\(scaled / scale)." + String(repeating: "0", count: places - fraction.count) + fraction
    }
}
