// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import DedupeBufferEtcd
import Dispatch
import Logging

/// One run of `dedupe etcd`: from the cluster, through the buffer, to standard output.
///
/// The syncer has tasks of its own and never waits for the writer. The main thread only waits for
/// the syncer's end.
struct EtcdRun {
    var source: EtcdSourceOptions
    var form: EtcdFormOptions
    var pace: PaceOptions
    var end: EndOptions
    var endsInSync: Bool

    /// How many lines are committed at a time, as the filter has it by default.
    private static let batchSize = 100

    /// Runs to the end.
    ///
    /// - Returns: The exit status.
    func run() -> CInt {
        // A file may be a pipe that waits for its writer. So far, a signal ends the process.
        let configuration = Result { try makeConfiguration() }
        let program = Program.begin()
        do {
            return follow(try configuration.get(), in: program)
        } catch {
            program.diagnostics.report("\(error)", patience: Diagnostics.lastPatience)
            return ExitStatus.failure
        }
    }

    private func follow(_ configuration: EtcdConfiguration, in program: Program) -> CInt {
        let diagnostics = program.diagnostics
        let log = RefusedLog { diagnostics.report($0) }
        let buffer = buffer(reportingTo: log)
        let syncing = Syncing()
        let lines = EtcdLines(
            buffer: buffer, keys: form.keys, values: form.values, log: log, endsInSync: endsInSync
        ) { if endsInSync { syncing.end() } }
        let syncer = EtcdSyncer(
            configuration: watched(configuration, by: syncing, reportingTo: diagnostics), target: lines)
        let delivery = Delivery(program, buffer: buffer, pace: pace, end: end) { _ in
            InputSummary(syncer.statistics, refused: log.count)
        }
        let running = delivery.start(
            .objects(EnvelopeFormat(key: form.keys.notation, value: form.values.notation), marks: false),
            beginsWithRestart: true, ending: { syncing.end() })
        syncing.run(syncer)
        log.finish()
        running.finish()
        if let signal = program.signals.received {
            return ExitStatus.signal(signal)
        }
        if syncing.isDenied {
            return ExitStatus.failure
        }
        return log.count > 0 ? ExitStatus.badLines : 0
    }

    /// With `--once`, a refused user ends the program. Otherwise the permission may come later.
    private func watched(
        _ configuration: EtcdConfiguration, by syncing: Syncing, reportingTo diagnostics: Diagnostics
    ) -> EtcdConfiguration {
        let messages = EtcdMessages {
            diagnostics.report($0)
        } denied: {
            if endsInSync { syncing.end(denied: true) }
        }
        var configuration = configuration
        configuration.onStateChange = messages.stateChanged
        configuration.logger = Logger(label: "dedupe") { _ in AttemptLog(messages) }
        return configuration
    }

    /// A repeated snapshot reaches the reader only where something has changed.
    private func buffer(reportingTo log: RefusedLog) -> LineBuffer {
        var configuration = DedupeBufferConfiguration()
        pace.configure(&configuration, batchSize: Self.batchSize)
        configuration.label = "dedupe.delivery"
        configuration.skipsUnchangedRevisions = true
        configuration.onRejection = { log.add(keyOfLength: $0.keyLength, maximum: $0.maximumKeyLength) }
        return LineBuffer(configuration: configuration)
    }

    private func makeConfiguration() throws -> EtcdConfiguration {
        var configuration = try source.configuration()
        if let user = source.user, let file = source.passwordFile {
            configuration.user = .init(name: user, password: try SecretFile.password(in: file))
        }
        for file in [source.ca, source.cert].compactMap({ $0 }) {
            try SecretFile.check(file, has: .certificate)
        }
        if let key = source.key {
            try SecretFile.check(key, has: .privateKey)
        }
        return configuration
    }
}

/// The task of a syncer, which the main thread waits for.
private final class Syncing: Sendable {
    private struct State {
        var task: Task<Void, Never>?
        var hasEnded = false
        var isDenied = false
    }

    private let state = Locked(State())
    private let done = DispatchSemaphore(value: 0)

    /// Runs the syncer until ``end()``, which may have been called already.
    func run(_ syncer: EtcdSyncer) {
        let task = Task.detached { [done] in
            await syncer.run()
            done.signal()
        }
        let hasEnded = state.withLock { state in
            state.task = task
            return state.hasEnded
        }
        if hasEnded {
            task.cancel()
        }
        done.wait()
    }

    /// Makes the syncer end. May be called from anywhere.
    ///
    /// - Parameter denied: Whether the reason is that the cluster refuses the user.
    func end(denied: Bool = false) {
        state.withLock { state in
            state.isDenied = state.isDenied || denied && !state.hasEnded
            state.hasEnded = true
            return state.task
        }?.cancel()
    }

    /// Whether the cluster's refusal ended the syncer.
    var isDenied: Bool { state.withLock { $0.isDenied } }
}

extension InputSummary {
    /// - Parameter refused: Keys and values that could not be written.
    fileprivate init(_ statistics: EtcdSyncerStatistics, refused: Int) {
        self.init(
            count: statistics.snapshotKeys + statistics.events,
            text: "\(statistics.snapshotKeys) keys of snapshots, \(statistics.events) changes, "
                + "\(statistics.connects) connections, \(statistics.resumes) resumed watches, "
                + "\(statistics.resyncs.values.reduce(0, +)) snapshots, \(refused) left out",
            older: statistics.duplicatesDropped)
    }
}

#endif
