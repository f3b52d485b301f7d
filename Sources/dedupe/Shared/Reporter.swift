// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch

/// What a subcommand says about its work: figures at one moment.
protocol ProgressReport: Sendable {
    /// The line that is shown while it goes on.
    ///
    /// - Parameter earlier: What was reported before; the rates are those since then.
    func live(since earlier: Self?) -> String
    /// The lines that are shown at the end.
    var summary: [String] { get }
    /// What an end at this moment would drop.
    var pendingUpdates: Int { get }
    /// Updates that are being written. The reader may have got a part of them.
    var updatesInWriting: Int { get }
}

extension ProgressReport {
    var updatesInWriting: Int { 0 }
}

/// Says how a run is getting on, on any thread.
struct Reporter<Report: ProgressReport>: Sendable {
    let diagnostics: Diagnostics
    /// Whether the end is followed by the statistics.
    let showsStatistics: Bool
    /// - Parameter nanoseconds: How long the run has taken so far.
    let makeReport: @Sendable (_ nanoseconds: UInt64) -> Report
    private let begin = DispatchTime.now()

    init(
        diagnostics: Diagnostics, showsStatistics: Bool,
        makeReport: @escaping @Sendable (_ nanoseconds: UInt64) -> Report
    ) {
        self.diagnostics = diagnostics
        self.showsStatistics = showsStatistics
        self.makeReport = makeReport
    }

    var report: Report { makeReport(DispatchTime.now().uptimeNanoseconds - begin.uptimeNanoseconds) }

    /// Says what the process does not write any more.
    func leaveRest(_ reason: String) {
        let report = report
        let least = report.pendingUpdates
        let most = least + report.updatesInWriting
        diagnostics.report("\(reason): \(least == most ? "" : "\(least) to ")\(most) updates dropped")
        if showsStatistics {
            reportStatistics()
        }
        diagnostics.flush()
    }

    /// - Parameter patience: How long to wait for the reader, in milliseconds.
    func reportStatistics(patience: CInt = 0) {
        for line in report.summary {
            diagnostics.report(line)
        }
        diagnostics.flush(patience: patience)
    }

    /// Shows a line that changes each second, if the statistics are wanted and a person can see it.
    func showLive() -> Ticker? {
        guard showsStatistics && diagnostics.isTerminal else { return nil }
        let last = Locked<Report?>(nil)
        return Ticker {
            let now = report
            diagnostics.showLive(
                last.withLock { last in
                    defer { last = now }
                    return now.live(since: last)
                })
        }
    }
}

/// Does something each second.
final class Ticker {
    private let timer: any DispatchSourceTimer
    private let queue = DispatchQueue(label: "dedupe.ticker", qos: .utility)

    init(_ tick: @escaping @Sendable () -> Void) {
        timer = DispatchSource.makeTimerSource(queue: queue)
        timer.schedule(deadline: .now() + 1, repeating: 1)
        timer.setEventHandler(handler: tick)
        timer.resume()
    }

    /// Stops it; when this returns, nothing is being done any more.
    func stop() {
        timer.cancel()
        queue.sync {}
    }
}
