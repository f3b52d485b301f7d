// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeBufferHub

/// What `--stats` shows of a server, in words.
struct ServeReport: ProgressReport {
    var input: InputSummary
    var hub: DedupeHubStatistics
    var bytes: Int
    var refused: Int
    var nanoseconds: UInt64

    var pendingUpdates: Int { hub.lag.maximum }

    func live(since earlier: ServeReport?) -> String {
        let seconds = Double(nanoseconds - (earlier?.nanoseconds ?? 0)) / 1e9
        func rate(_ count: Int, _ before: Int?) -> String {
            seconds > 0 ? StatisticsReport.short(Double(count - (before ?? 0)) / seconds) : "-"
        }
        return "in \(rate(input.count, earlier?.input.count))/s, out \(rate(hub.delivered, earlier?.hub.delivered))/s, "
            + "\(rate(bytes, earlier?.bytes))B/s, keys \(hub.keys), clients \(hub.subscribers), "
            + "lag \(hub.lag.median)/\(hub.lag.maximum)"
    }

    var summary: [String] {
        [
            "in: \(input.text)",
            "out: \(hub.delivered) updates, \(hub.statusesDelivered) statuses, \(bytes) bytes",
            "clients: \(hub.subscriptions) in all, \(hub.resumed) resumed, \(hub.restarts) restarted, "
                + "\(refused) refused, \(hub.subscribers) at the end",
            "keys: \(hub.keys), \(input.older) older updates left out, "
                + "\(StatisticsReport.decimal(Double(nanoseconds) / 1e9, places: 3)) seconds",
        ]
    }
}

#endif
