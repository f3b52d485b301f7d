// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer

/// The filter as a whole: from a file or standard input, through the buffer, to standard output.
///
/// The main thread reads and feeds the buffer, and never waits for the writer.
struct Filter {
    var format: InputFormat
    var hasEnvelope: Bool
    var rules: RuleOptions
    var running: RunOptions

    /// Runs to the end.
    ///
    /// - Parameter path: What to read, or nil for standard input.
    /// - Returns: The exit status.
    func run(path: String?) -> CInt {
        let program = Program.begin()
        do throws(SystemError) {
            let input = try path.map(InputReading.open) ?? STDIN_FILENO
            return FilterRun(filter: self, program: program).run(reading: input, named: path ?? "standard input")
        } catch {
            program.diagnostics.report("\(path ?? "standard input"): \(error)")
            return ExitStatus.failure
        }
    }

    fileprivate var buffer: LineBuffer {
        var configuration = DedupeBufferConfiguration()
        running.pace.configure(&configuration, batchSize: running.batchSize)
        configuration.label = "dedupe.delivery"
        configuration.skipsUnchangedRevisions = rules.suppressUnchanged
        return LineBuffer(configuration: configuration, bound: .lines(bytes: running.maxBytes, keys: running.maxKeys))
    }
}

/// One run of the filter: the parts, and what connects them.
private struct FilterRun {
    private let filter: Filter
    private let program: Program
    private let buffer: LineBuffer
    private let delivery: Delivery
    private let counters: InputCounters
    private let deletionLines: DeletionLines?
    private let passedLines = PassedLines()
    private let log: BadInputLog
    private let overflows: OverflowLog

    init(filter: Filter, program: Program) {
        self.filter = filter
        self.program = program
        let (running, counters, diagnostics) = (filter.running, InputCounters(), program.diagnostics)
        self.counters = counters
        buffer = filter.buffer
        delivery = Delivery(program, buffer: buffer, pace: running.pace, end: running.end) { statistics in
            InputSummary(counters, updates: statistics.received)
        }
        deletionLines = filter.hasEnvelope ? nil : DeletionLines()
        log = BadInputLog(maximum: running.strict ? 1 : running.maxErrors) {
            diagnostics.report($0.description)
        }
        overflows = OverflowLog(
            keys: running.maxKeys, bytes: running.maxBytes, rule: running.onOverflow ?? .stop
        ) { diagnostics.report($0) }
    }

    func run(reading input: CInt, named name: String) -> CInt {
        let running = delivery.start(style, passedLines: passedLines)
        let end = feedAll(from: input)
        if case .unreadable(let error) = end {
            program.diagnostics.report("\(name): \(error)", patience: Diagnostics.lastPatience)
        }
        log.finish()
        overflows.finish()
        running.finish()
        return status(of: end)
    }

    private func status(of end: InputReading.End) -> CInt {
        // A signal may also have come while the rest was being delivered.
        if let signal = program.signals.received {
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

    private var style: LineWriter.Style {
        if let deletionLines {
            return .lines(deletions: deletionLines)
        }
        if case .text = filter.format.shape {
            return .envelopesOfText
        }
        return .envelopes
    }

    // MARK: - Reading

    private func feedAll(from input: CInt) -> InputReading.End {
        var rules = EventFeed<LineBuffer>.Rules()
        rules.format = filter.format
        rules.onMissing = filter.rules.onMissing
        rules.newerOnly = filter.rules.newerOnly
        rules.deletionLines = deletionLines
        rules.passedLines = passedLines
        rules.statistics = { [buffer] in buffer.statistics }
        rules.putsBack = filter.running.pace.interval != nil
        if filter.running.isBounded {
            rules.onOverflow = filter.running.onOverflow ?? .stop
            rules.overflowed = overflows.add
        }
        let reading = InputReading(
            format: filter.format, descriptor: input, interruption: program.signals.descriptor, counters: counters)
        return reading.feedAll(to: EventFeed(target: buffer, rules: rules, counters: counters, log: log))
    }
}
