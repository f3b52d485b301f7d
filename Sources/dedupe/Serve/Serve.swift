// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeBuffer
import DedupeBufferHub
import DedupeServer
import Dispatch
import Synchronization

/// The server as a whole: from a file or standard input, through the buffer and the hub, to
/// clients.
///
/// The main thread reads and feeds the buffer, which ends the source's restarts. The buffer
/// delivers to the hub on a queue, and the server's event loops deliver to clients.
struct Serve {
    var format: InputFormat
    var rules: ServeRuleOptions
    var running: ServeRunOptions
    var configuration: ServerConfiguration
    var access: AccessOptions

    /// Runs to the end.
    ///
    /// - Parameter path: What to read, or nil for standard input.
    /// - Returns: The exit status.
    func run(path: String?) -> CInt {
        let program = Program.begin()
        var serve = self
        do throws(TokenFile.Problem) {
            try serve.configureAccess(program)
        } catch {
            program.diagnostics.report("\(access.tokenFile ?? ""): \(error)", patience: Diagnostics.lastPatience)
            return ExitStatus.failure
        }
        do throws(SystemError) {
            let input = try path.map(InputReading.open) ?? STDIN_FILENO
            return ServeRun(serve: serve, program: program).run(reading: input, named: path ?? "standard input")
        } catch {
            program.diagnostics.report("\(path ?? "standard input"): \(error)", patience: Diagnostics.lastPatience)
            return ExitStatus.failure
        }
    }

    private mutating func configureAccess(_ program: Program) throws(TokenFile.Problem) {
        if let file = access.tokenFile {
            configuration.tokens = try TokenFile.tokens(at: file)
        }
        configuration.allowedOrigins = Set(access.allowOrigin)
        configuration.allowedHosts = Set(access.allowHost.map { $0.lowercased() })
        configuration.maximumClients = access.maxClients
        configuration.minimumInterval = running.interval.map { .nanoseconds(Int64($0.nanoseconds)) }
        let limit = Descriptors.raiseLimit()
        // Each event loop has three.
        let others = Descriptors.countOpen(below: limit) + Self.descriptorsForOthers + 3 * configuration.threadCount
        let most = max(2, limit - others)
        let reserve = min(configuration.connectionReserve, most / 4)
        if most - reserve < configuration.maximumClients {
            (configuration.maximumClients, configuration.connectionReserve) = (most - reserve, max(1, reserve))
            program.diagnostics.report(
                "the system allows only \(configuration.maximumClients) clients; see ulimit -n for more",
                patience: Diagnostics.lastPatience)
        }
    }

    /// Descriptors that will be opened for other things than connections: the input, signals, and
    /// what libraries open.
    private static let descriptorsForOthers = 16
}

/// One run of the server: the parts, and what connects them.
private struct ServeRun {
    private let serve: Serve
    private let program: Program
    private let buffer: LineBuffer
    private let hub = DedupeHub<LineKey, LineValue>()
    private let server: DedupeServer
    private let input = ServedInput()
    private let log: BadInputLog

    init(serve: Serve, program: Program) {
        self.serve = serve
        self.program = program
        var configuration = DedupeBufferConfiguration()
        configuration.label = "dedupe.delivery"
        configuration.skipsUnchangedRevisions = serve.rules.suppressUnchanged
        configuration.batchSize = 1000
        buffer = LineBuffer(configuration: configuration)
        server = DedupeServer(
            HubFeed(hub, types: .lines(of: serve.format)), configuration: serve.configuration,
            input: { [input] in input.report })
        log = BadInputLog(maximum: serve.running.strict ? 1 : serve.running.maxErrors) {
            [diagnostics = program.diagnostics] in diagnostics.report($0.description)
        }
    }

    func run(reading descriptor: CInt, named name: String) -> CInt {
        let serving = ServingThread(server, program)
        guard let port = serving.waitUntilListening() else { return ExitStatus.failure }
        let reporter = makeReporter()
        program.setSignals(drainTimeout: serve.running.drainTimeout.adding(seconds: 5), reporter: reporter)
        announce(port: port)
        let ticker = reporter.showLive()
        start()
        let end = feedAll(from: descriptor)
        if case .unreadable(let error) = end {
            program.diagnostics.report("\(name): \(error)", patience: Diagnostics.lastPatience)
        }
        log.finish()
        buffer.finishAndWait()
        input.end()
        if end == .endOfInput && !serve.running.endWithInput {
            program.diagnostics.report("the input has ended; its last state is served until a signal comes")
            waitForSignal()
        }
        hub.finish()
        server.shutDown(deadline: .now + .nanoseconds(Int64(serve.running.drainTimeout.nanoseconds)))
        serving.wait()
        ticker?.stop()
        program.diagnostics.showLive(nil)
        if reporter.showsStatistics {
            reporter.reportStatistics(patience: Diagnostics.lastPatience)
        }
        return status(of: end)
    }

    private func start() {
        do {
            try buffer.startSending(to: hub)
        } catch {
            fatalError("a new buffer does not start: \(error)")
        }
    }

    private func announce(port: Int) {
        let configuration = serve.configuration
        let address = ListenAddress(host: configuration.host, port: port)
        let scheme = configuration.tls == nil ? "http" : "https"
        program.diagnostics.report("serving on \(scheme)://\(address)/", patience: Diagnostics.lastPatience)
        if configuration.tokens.isEmpty && !configuration.isLoopback {
            program.diagnostics.report(
                "without --token-file everybody can read who can connect", patience: Diagnostics.lastPatience)
        }
    }

    private func makeReporter() -> Reporter<ServeReport> {
        Reporter(diagnostics: program.diagnostics, showsStatistics: serve.running.stats) {
            [input, hub, server] nanoseconds in
            ServeReport(
                input: input.summary, hub: hub.statistics, bytes: server.sentBytes, refused: server.refusedClients,
                nanoseconds: nanoseconds)
        }
    }

    private func feedAll(from descriptor: CInt) -> InputReading.End {
        var rules = EventFeed<LineBuffer>.Rules()
        rules.format = serve.format
        rules.onMissing = serve.rules.onMissing
        rules.newerOnly = serve.rules.newerOnly
        rules.statistics = { [buffer] in buffer.statistics }
        let reading = InputReading(
            format: serve.format, descriptor: descriptor, interruption: program.signals.descriptor,
            counters: input.counters)
        return reading.feedAll(to: EventFeed(target: buffer, rules: rules, counters: input.counters, log: log))
    }

    private func waitForSignal() {
        do throws(SystemError) {
            _ = try waitUntilReady(program.signals.descriptor)
        } catch {
            program.diagnostics.report("signals: \(error)", patience: Diagnostics.lastPatience)
        }
    }

    private func status(of end: InputReading.End) -> CInt {
        if let signal = program.signals.received {
            return ExitStatus.signal(signal)
        }
        if case .unreadable = end {
            return ExitStatus.failure
        }
        return log.count > 0 ? ExitStatus.badLines : 0
    }
}

extension TimeSpan {
    fileprivate func adding(seconds: UInt64) -> TimeSpan {
        TimeSpan(nanoseconds: nanoseconds + seconds * 1_000_000_000)
    }
}

#endif
