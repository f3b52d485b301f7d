// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch
import Synchronization

/// The filter as a whole: from a file or standard input, through the buffer, to standard output.
///
/// The main thread reads and feeds the buffer, and never waits for the writer. The buffer delivers
/// to the writer on a queue of its own. Signals, the statistics line and the watch on the reader
/// have a queue each.
struct Filter {
    typealias Buffer = DedupeBuffer<LineKey, LineValue>

    var format: InputFormat
    var hasEnvelope: Bool
    var rules: RuleOptions
    var running: RunOptions

    /// Runs to the end.
    ///
    /// - Parameter path: What to read, or nil for standard input.
    /// - Returns: The exit status.
    func run(path: String?) -> CInt {
        reserveStandardDescriptors()
        // A reader of messages that has gone ends nothing. One of data does, see StandardOutput.
        signal(SIGPIPE, SIG_IGN)
        reportFaultsInOneLine()
        let diagnostics = Diagnostics()
        do throws(SystemError) {
            let signals = try SignalWatcher()
            let input = try path.map(Self.openInput) ?? STDIN_FILENO
            return FilterRun(filter: self, diagnostics: diagnostics, signals: signals)
                .run(reading: input, named: path ?? "standard input")
        } catch {
            diagnostics.report("\(path ?? "standard input"): \(error)")
            return ExitStatus.failure
        }
    }

    /// Opens a file to read.
    ///
    /// Opening a named pipe waits for a writer, where no signal would reach the filter. So it is
    /// opened without waiting, and the waiting is left to the reader.
    private static func openInput(_ path: String) throws(SystemError) -> CInt {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        if descriptor < 0 {
            throw .last
        }
        let flags = fcntl(descriptor, F_GETFL)
        if flags < 0 || fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) < 0 {
            throw .last
        }
        return descriptor
    }

    fileprivate var configuration: DedupeBufferConfiguration {
        var configuration = DedupeBufferConfiguration()
        configuration.batchSize =
            running.maxRate.map { Pacer.batchSize(running.batchSize, $0) } ?? running.batchSize
        configuration.label = "dedupe.delivery"
        configuration.skipsUnchangedRevisions = rules.suppressUnchanged
        configuration.minimumInterval = running.interval.map { .nanoseconds(Int64($0.nanoseconds)) }
        return configuration
    }
}

/// One run of the filter: the parts, and what connects them.
private struct FilterRun {
    private let filter: Filter
    private let diagnostics: Diagnostics
    private let signals: SignalWatcher
    private let buffer: Filter.Buffer
    private let pacer: Pacer?
    private let watcher = OutputWatcher { endOfBrokenPipe() }
    private let counters = InputCounters()
    private let deletionLines: DeletionLines?
    private let passedLines = PassedLines()
    private let log: BadInputLog
    private let overflows: OverflowLog
    private let reporter: Reporter

    /// Why no more is read.
    private enum End: Equatable {
        case endOfInput
        case badLine
        case overflow
        case signal
        case unreadable(SystemError)
    }

    init(filter: Filter, diagnostics: Diagnostics, signals: SignalWatcher) {
        self.filter = filter
        self.diagnostics = diagnostics
        self.signals = signals
        let running = filter.running
        buffer = Filter.Buffer(
            configuration: filter.configuration, bound: .lines(bytes: running.maxBytes, keys: running.maxKeys))
        pacer = running.maxRate.map { Pacer($0) }
        deletionLines = filter.hasEnvelope ? nil : DeletionLines()
        log = BadInputLog(maximum: running.strict ? 1 : running.maxErrors) {
            diagnostics.report($0.description)
        }
        overflows = OverflowLog(
            keys: running.maxKeys, bytes: running.maxBytes, rule: running.onOverflow ?? .stop
        ) { diagnostics.report($0) }
        reporter = Reporter(
            diagnostics: diagnostics, counters: counters, buffer: buffer, showsStatistics: running.stats)
    }

    func run(reading input: CInt, named name: String) -> CInt {
        setSignals()
        startWriting()
        let ticker = filter.running.stats && diagnostics.isTerminal ? reporter.showLive() : nil
        let end = feedAll(from: input)
        if case .unreadable(let error) = end {
            diagnostics.report("\(name): \(error)", patience: Self.patience)
        }
        log.finish()
        overflows.finish()
        pacer?.drain { [buffer] in
            let statistics = buffer.statistics
            return statistics.pendingKeys == 0 && statistics.pendingStatuses == 0
        }
        buffer.finishAndWait()
        watcher.stop()
        ticker?.stop()
        diagnostics.showLive(nil)
        if filter.running.stats {
            reporter.reportStatistics(patience: Self.patience)
        }
        return status(of: end)
    }

    /// How long the last messages wait for their reader, in milliseconds.
    private static let patience: CInt = 1000

    private func status(of end: End) -> CInt {
        // A signal may also have come while the rest was being delivered.
        if let signal = signals.received {
            return ExitStatus.signal(signal)
        }
        if case .unreadable = end {
            return ExitStatus.failure
        }
        if end == .overflow {
            return ExitStatus.overflow
        }
        return log.count > 0 ? ExitStatus.badLines : 0
    }

    private func startWriting() {
        let style: LineWriter.Style =
            if let deletionLines {
                .lines(deletions: deletionLines)
            } else if case .text = filter.format.shape {
                .envelopesOfText
            } else {
                .envelopes
            }
        let output = StandardOutput(diagnostics: diagnostics)
        let writer = LineWriter(style: style, passedLines: passedLines, pacer: pacer) { output.write($0) }
        do {
            try buffer.startSending(to: writer)
        } catch {
            fatalError("a new buffer does not start: \(error)")
        }
    }

    // MARK: - Reading

    private func feedAll(from input: CInt) -> End {
        let reader: LineReader
        do throws(InputFormat.Problem) {
            reader = try LineReader(format: filter.format, descriptor: input, interruption: signals.descriptor)
        } catch {
            fatalError("the command line was checked: \(error)")
        }
        var rules = EventFeed<Filter.Buffer>.Rules()
        rules.format = filter.format
        rules.onMissing = filter.rules.onMissing
        rules.newerOnly = filter.rules.newerOnly
        rules.deletionLines = deletionLines
        rules.passedLines = passedLines
        rules.statistics = { [buffer] in buffer.statistics }
        rules.putsBack = filter.running.interval != nil
        if filter.running.isBounded {
            rules.onOverflow = filter.running.onOverflow ?? .stop
            rules.overflowed = overflows.add
        }
        var feed = EventFeed(target: buffer, rules: rules, counters: counters, log: log)
        return feedAll(from: reader, to: &feed)
    }

    /// Reads until there is a reason not to. What was read goes to the buffer in any case, except
    /// what follows the bad line that is the last, or an overflow.
    private func feedAll(from reader: LineReader, to feed: inout EventFeed<Filter.Buffer>) -> End {
        while true {
            let received: LineReader.Input
            do throws(SystemError) {
                received = try reader.receive()
            } catch {
                return .unreadable(error)
            }
            while let events = reader.nextEvents() {
                counters.lines.store(reader.lines, ordering: .relaxed)
                if !feed.take(events) {
                    return feed.hasStopped ? .overflow : .badLine
                }
            }
            counters.lines.store(reader.lines, ordering: .relaxed)
            switch received {
            case .bytes: continue
            case .end: return .endOfInput
            case .interrupted: return .signal
            }
        }
    }

    private func setSignals() {
        var actions = SignalWatcher.Actions()
        let nanoseconds = filter.running.drainTimeout.nanoseconds
        actions.ending = { [reporter] number in
            let deadline = DispatchTime.now() + .nanoseconds(Int(nanoseconds))
            DispatchQueue(label: "dedupe.deadline", qos: .userInitiated).asyncAfter(deadline: deadline) {
                reporter.leaveRest("the drain timeout is over")
                _exit(ExitStatus.signal(number))
            }
        }
        actions.quitting = { [reporter] in reporter.leaveRest("ended by SIGQUIT") }
        actions.reporting = { [reporter] in reporter.reportStatistics() }
        signals.set(actions)
    }
}

/// Says how a run is getting on, on any thread.
private struct Reporter: Sendable {
    let diagnostics: Diagnostics
    let counters: InputCounters
    let buffer: Filter.Buffer
    let begin = DispatchTime.now()
    let showsStatistics: Bool

    var report: StatisticsReport {
        StatisticsReport(
            input: counters, buffer: buffer.statistics,
            nanoseconds: DispatchTime.now().uptimeNanoseconds - begin.uptimeNanoseconds)
    }

    /// Says what the process does not write any more.
    func leaveRest(_ reason: String) {
        diagnostics.report("\(reason): \(buffer.statistics.pendingKeys) updates dropped")
        if showsStatistics {
            reportStatistics()
        }
    }

    /// - Parameter patience: How long to wait for the reader, in milliseconds.
    func reportStatistics(patience: CInt = 0) {
        for line in report.summary {
            diagnostics.report(line, patience: patience)
        }
    }

    /// A line that changes each second.
    func showLive() -> Ticker {
        let last = Mutex<StatisticsReport?>(nil)
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

/// Standard output, as filters use it: a reader that goes away ends the filter, quietly.
private struct StandardOutput: Sendable {
    let diagnostics: Diagnostics
    /// The line that changes must not end up in the middle of the output.
    private let sharesTerminal: Bool

    init(diagnostics: Diagnostics) {
        self.diagnostics = diagnostics
        sharesTerminal = isatty(STDOUT_FILENO) == 1 && diagnostics.isTerminal
    }

    /// Writes all the bytes, or ends the process.
    func write(_ bytes: UnsafeRawBufferPointer) {
        if sharesTerminal {
            diagnostics.withoutLive { writeNow(bytes) }
        } else {
            writeNow(bytes)
        }
    }

    private func writeNow(_ bytes: UnsafeRawBufferPointer) {
        do throws(SystemError) {
            try writeAll(bytes, to: STDOUT_FILENO)
        } catch {
            if error.code == EPIPE {
                endOfBrokenPipe()
            }
            diagnostics.report("standard output: \(error)", patience: 1000)
            // Not exit(): the main thread is at work, and what it uses must not be torn down under
            // it.
            _exit(ExitStatus.failure)
        }
    }
}

/// Does something each second.
private final class Ticker {
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
