// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch

/// The filter as a whole: from a file or standard input, through the buffer, to standard output.
///
/// The main thread reads and feeds the buffer, and never waits for the writer. The buffer delivers
/// to the writer on a queue of its own. Signals and the statistics line have a queue each.
struct Filter {
    var maxRate: Int?
    var batchSize: Int
    var showsStatistics: Bool
    var isStrict: Bool

    /// Why no more is read.
    private enum End: Equatable {
        case endOfInput
        case badLine
        case signal
        case unreadable(SystemError)
    }

    /// Runs to the end.
    ///
    /// - Parameter path: What to read, or nil for standard input.
    /// - Returns: The exit status.
    func run(path: String?) -> CInt {
        let begin = DispatchTime.now()
        reserveStandardDescriptors()
        let diagnostics = Diagnostics()
        let signals: SignalWatcher
        let input: CInt
        do throws(SystemError) {
            signals = try SignalWatcher()
            input = try path.map(Self.openInput) ?? STDIN_FILENO
        } catch {
            diagnostics.report("\(path ?? "standard input"): \(error)")
            return ExitStatus.failure
        }

        var configuration = DedupeBufferConfiguration()
        configuration.batchSize = maxRate.map { Pacer.batchSize(batchSize, linesPerSecond: $0) } ?? batchSize
        configuration.label = "dedupe.delivery"
        let buffer = DedupeBuffer<LineKey, LineValue>(configuration: configuration)
        let pacer = maxRate.map { Pacer(linesPerSecond: $0) }
        let output = StandardOutput(diagnostics: diagnostics)
        let writer = LineWriter(pacer: pacer) { output.write($0) }
        do {
            try buffer.startSending(to: writer)
        } catch {
            fatalError("a new buffer does not start: \(error)")
        }

        let counters = InputCounters()
        let report = { @Sendable in
            StatisticsReport(
                input: counters, buffer: buffer.statistics,
                nanoseconds: DispatchTime.now().uptimeNanoseconds - begin.uptimeNanoseconds)
        }
        let ticker = showsStatistics && diagnostics.isTerminal ? Ticker { diagnostics.showLive(report().live) } : nil

        let reader = LineReader(descriptor: input, interruption: signals.descriptor)
        var feed = EventFeed(target: buffer, counters: counters, isStrict: isStrict) { line, reason in
            diagnostics.report("line \(line): \(reason)")
        }
        let end = feedAll(from: reader, to: &feed, counters: counters)
        if case .unreadable(let error) = end {
            diagnostics.report("\(path ?? "standard input"): \(error)")
        }

        pacer?.drain {
            let statistics = buffer.statistics
            return statistics.pendingKeys == 0 && statistics.pendingStatuses == 0
        }
        buffer.finishAndWait()

        ticker?.stop()
        diagnostics.showLive(nil)
        if showsStatistics {
            for line in report().summary {
                diagnostics.report(line)
            }
        }

        // A signal may also have come while the rest was being delivered.
        if let signal = signals.received {
            return ExitStatus.signal(signal)
        }
        if case .unreadable = end {
            return ExitStatus.failure
        }
        return counters.badLines.load(ordering: .relaxed) > 0 ? ExitStatus.badLines : 0
    }

    /// Reads until there is a reason not to. What was read goes to the buffer in any case, but for
    /// what follows a bad line that is to be the last.
    private func feedAll(
        from reader: LineReader, to feed: inout EventFeed<DedupeBuffer<LineKey, LineValue>>, counters: InputCounters
    ) -> End {
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
                    return .badLine
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

    /// Opens a file to read.
    ///
    /// Opening a named pipe waits for a writer, where no signal would reach the filter; so it is
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
}

/// The exit statuses that have a meaning here.
enum ExitStatus {
    static let badLines: CInt = 1
    static let failure: CInt = 2
    static func signal(_ number: CInt) -> CInt { 128 + number }
}

/// Standard output, as filters use it: who stops reading it ends the filter, quietly.
private struct StandardOutput: Sendable {
    let diagnostics: Diagnostics

    /// Writes all the bytes, or ends the process.
    func write(_ bytes: UnsafeRawBufferPointer) {
        do throws(SystemError) {
            try writeAll(bytes, to: STDOUT_FILENO)
        } catch {
            if error.code == EPIPE {
                // SIGPIPE would have ended the process if the parent had not had it ignored. Do
                // what it does.
                Self.dieOfBrokenPipe()
            }
            diagnostics.report("standard output: \(error)")
            // Not exit(): the main thread is at work, and what it uses must not be torn down under
            // it.
            _exit(ExitStatus.failure)
        }
    }

    private static func dieOfBrokenPipe() -> Never {
        signal(SIGPIPE, SIG_DFL)
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, SIGPIPE)
        pthread_sigmask(SIG_UNBLOCK, &set, nil)
        raise(SIGPIPE)
        _exit(ExitStatus.signal(SIGPIPE))
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
