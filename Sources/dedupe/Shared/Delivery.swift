// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer

/// The buffer of a subcommand that writes to standard output.
typealias LineBuffer = DedupeBuffer<LineKey, LineValue>

/// The way from a buffer to standard output: at the pace of the reader or of the command line, with
/// statistics, until the input ends or a signal comes.
///
/// The subcommand puts into the buffer on a thread of its own. The buffer delivers to the writer on
/// a queue. Signals, the statistics line and the watch on the reader have a queue each.
struct Delivery: Sendable {
    let buffer: LineBuffer
    private let program: Program
    private let pacer: Pacer?
    private let progress = LineWriter.Progress()
    private let watcher = OutputWatcher { endOfBrokenPipe() }
    private let reporter: Reporter<StatisticsReport>
    private let drainTimeout: TimeSpan

    /// - Parameters:
    ///   - buffer: A new buffer, which `pace` has configured.
    ///   - input: What came in, given the buffer's counts. Called on any thread.
    init(
        _ program: Program, buffer: LineBuffer, pace: PaceOptions, end: EndOptions,
        input: @escaping @Sendable (DedupeBufferStatistics) -> InputSummary
    ) {
        self.program = program
        self.buffer = buffer
        pacer = pace.maxRate.map { Pacer($0) }
        drainTimeout = end.drainTimeout
        reporter = Reporter(diagnostics: program.diagnostics, showsStatistics: end.stats) { [progress] nanoseconds in
            let statistics = buffer.statistics
            return StatisticsReport(
                input: input(statistics), buffer: statistics, nanoseconds: nanoseconds,
                updatesWaiting: progress.updatesWaiting, updatesInWriting: progress.updatesInWriting)
        }
    }

    /// Begins to write, and to heed signals.
    ///
    /// - Parameters:
    ///   - beginsWithRestart: Whether `{"restart":true}` stands in front of everything.
    ///   - ending: Called when a signal asks for the end, on the thread that waits for signals, or
    ///     before this returns if the signal has come already. The subcommand then calls
    ///     ``Running/finish()`` soon.
    func start(
        _ style: LineWriter.Style, passedLines: PassedLines = PassedLines(), beginsWithRestart: Bool = false,
        ending: @escaping @Sendable () -> Void = {}
    ) -> Running {
        program.setSignals(drainTimeout: drainTimeout, reporter: reporter, ending: ending)
        let output = StandardOutput(diagnostics: program.diagnostics)
        let writer = LineWriter(
            style: style, passedLines: passedLines, pacer: pacer, progress: progress,
            beginsWithRestart: beginsWithRestart
        ) { output.write($0) }
        do {
            try buffer.startSending(to: writer)
        } catch {
            fatalError("a new buffer does not start: \(error)")
        }
        return Running(delivery: self, ticker: reporter.showLive())
    }

    /// A delivery that has begun.
    struct Running {
        fileprivate let delivery: Delivery
        fileprivate let ticker: Ticker?

        /// Writes what was received, shows the statistics, and ends the delivery.
        func finish() {
            let (buffer, diagnostics) = (delivery.buffer, delivery.program.diagnostics)
            delivery.pacer?.drain {
                let statistics = buffer.statistics
                return statistics.pendingKeys == 0 && statistics.pendingStatuses == 0
            }
            buffer.finishAndWait()
            delivery.watcher.stop()
            ticker?.stop()
            diagnostics.showLive(nil)
            if delivery.reporter.showsStatistics {
                delivery.reporter.reportStatistics(patience: Diagnostics.lastPatience)
            }
        }
    }
}
