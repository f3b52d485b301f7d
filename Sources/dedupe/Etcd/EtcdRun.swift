// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import DedupeBufferEtcd
import Dispatch
import Synchronization

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
        let program = Program.begin()
        do {
            let configuration = try configuration(reportingTo: program.diagnostics)
            return follow(configuration, in: program)
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
        let syncer = EtcdSyncer(configuration: configuration, target: lines)
        let delivery = Delivery(program, buffer: buffer, pace: pace, end: end) { _ in
            InputSummary(syncer.statistics, refused: log.count)
        }
        let running = delivery.start(
            .objects(EnvelopeFormat(key: form.keys.notation, value: form.values.notation)), ending: syncing.end)
        syncing.run(syncer)
        log.finish()
        running.finish()
        if let signal = program.signals.received {
            return ExitStatus.signal(signal)
        }
        return log.count > 0 ? ExitStatus.badLines : 0
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

    private func configuration(reportingTo diagnostics: Diagnostics) throws -> EtcdConfiguration {
        var configuration = try source.configuration()
        if let user = source.user, let file = source.passwordFile {
            configuration.user = .init(name: user, password: try firstLine(of: file))
        }
        for file in [source.ca, source.cert, source.key].compactMap({ $0 }) {
            // They are read again for each connection. Then it is too late to end the program.
            _ = try firstLine(of: file)
        }
        let messages = EtcdMessages { diagnostics.report($0) }
        configuration.onStateChange = messages.stateChanged
        return configuration
    }
}

/// The task of a syncer, which the main thread waits for.
private final class Syncing: Sendable {
    private struct State {
        var task: Task<Void, Never>?
        var hasEnded = false
    }

    private let state = Mutex(State())
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
    func end() {
        state.withLock { state in
            state.hasEnded = true
            return state.task
        }?.cancel()
    }
}

/// Says what became of the connection, once for each change. The first connection is no news.
final class EtcdMessages: Sendable {
    private struct State {
        var isTold = false
        var hasSnapshot = false
    }

    private let state = Mutex(State())
    private let report: @Sendable (String) -> Void

    init(report: @escaping @Sendable (String) -> Void) {
        self.report = report
    }

    func stateChanged(_ new: EtcdSyncerState) {
        let message = state.withLock { state in Self.message(for: new, &state) }
        if let message {
            report(message)
        }
    }

    private static func message(for new: EtcdSyncerState, _ state: inout State) -> String? {
        switch new {
        case .unreachable(let reason):
            state.isTold = true
            return "the cluster cannot be reached, and is tried again: \(reason)"
        case .denied(let reason):
            state.isTold = true
            return "the cluster refuses the user, and is tried again: \(reason)"
        case .connected(let endpoint):
            defer { state.isTold = false }
            return state.isTold ? "connected to \(endpoint)" : nil
        case .resyncing(let reason):
            return state.hasSnapshot && reason != .audit ? "everything is read again: \(reason)" : nil
        case .inSync:
            state.hasSnapshot = true
            return nil
        }
    }
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

/// A file of the command line that cannot be read.
private struct UnreadableFile: Error, CustomStringConvertible {
    var path: String
    var error: SystemError
    var description: String { "\(path): \(error)" }
}

/// The first line of a file, without its end.
private func firstLine(of path: String) throws(UnreadableFile) -> String {
    let line = try bytes(of: path, until: UInt8(ascii: "\n")).prefix { $0 != UInt8(ascii: "\n") }
    return String(decoding: line.last == UInt8(ascii: "\r") ? line.dropLast() : line, as: UTF8.self)
}

/// Reads a file up to its end, or to the piece in which a byte occurs.
private func bytes(of path: String, until last: UInt8) throws(UnreadableFile) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    if descriptor < 0 {
        throw UnreadableFile(path: path, error: .last)
    }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while !bytes.contains(last) {
        let count = read(descriptor, &chunk, chunk.count)
        if count < 0 {
            throw UnreadableFile(path: path, error: .last)
        }
        if count == 0 { break }
        bytes += chunk[..<count]
    }
    return bytes
}

#endif
