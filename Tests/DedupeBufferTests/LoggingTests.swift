// SPDX-License-Identifier: Apache-2.0

// What a buffer logs: each call at `debug`, each resync at `info` or `warning`; never a key or a
// value.

import DedupeBuffer
import Dispatch
import InMemoryLogging
import Logging
import MetricsTestKit
import Testing

/// A logger, and what was logged.
private struct Log {
    private let handler = InMemoryLogHandler()
    let logger: Logger

    init(level: Logger.Level = .debug) {
        var logger = Logger(label: "test") { [handler] _ in handler }
        logger.logLevel = level
        self.logger = logger
    }

    func makeBuffer(
        retry: DedupeBufferConfiguration.RetryPolicy = .init(), metrics: DedupeBufferConfiguration.Metrics? = nil,
        bound: DedupeBufferConfiguration.Bound<Int>? = nil
    ) -> StringBuffer {
        var configuration = DedupeBufferConfiguration(retry: retry)
        configuration.logger = logger
        configuration.metrics = metrics
        return StringBuffer(configuration: configuration, bound: bound)
    }

    var entries: [InMemoryLogHandler.Entry] { handler.entries }

    /// Level, message and metadata of each entry, except what differs from run to run.
    var lines: [String] {
        entries.map { entry in
            let metadata = entry.metadata.filter { !$0.key.contains("seconds") }
            let fields = metadata.map { "\($0.key)=\($0.value)" }.sorted()
            return (["\(entry.level): \(entry.message)"] + fields).joined(separator: " ")
        }
    }

    /// The lines about resyncs.
    var resyncs: [String] { lines.filter { $0.contains("Resync") } }
}

@Suite("Logging")
struct LoggingTests {
    private let log = Log()

    // MARK: - Calls

    @Test func sourceCalls_areLogged_withTheirCounts() {
        let buffer = log.makeBuffer()
        let updates = [Update(key: "a", value: 1), Update(key: "b", value: nil)]
        buffer.onUpdates(updates)
        buffer.onUpdates([])
        buffer.onUpdatesKeysKnown(updates, keys: ["a"])
        buffer.onUpdatesKeysKnown(updates, keys: [[97], [98]])
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onConnectionRestarted()
        #expect(
            log.lines == [
                "debug: Received updates dedupe.updates=2",
                "debug: Received updates dedupe.updates=0",
                "debug: Received updates with known keys dedupe.keys=1 dedupe.updates=2",
                "debug: Received updates with known keys dedupe.keys=2 dedupe.updates=2",
                "debug: Received status dedupe.status=resync",
                "debug: Connection restarted dedupe.live_keys=0",
            ])
    }

    @Test func delivery_isLogged_fromItsBeginningToItsEnd() throws {
        let buffer = log.makeBuffer()
        buffer.set("a", 1)
        try bounded("a batch") { try buffer.sendNextBatchToSink(StringSink()) }
        try buffer.startSending(to: StringSink())
        try bounded("finish") { buffer.finishAndWait() }
        #expect(
            log.lines == [
                "debug: Received updates dedupe.updates=1",
                "debug: Delivered batch dedupe.entries=1",
                "debug: Starting to deliver dedupe.delivery=queue",
                "debug: Finishing",
                "debug: Delivery ended",
            ])
    }

    @Test func deliveryOnAThread_andStop_areLogged() throws {
        let buffer = log.makeBuffer()
        let thread = Worker("sendToSinkForever") { try buffer.sendToSinkForever(StringSink()) }
        try eventually("a loop") { log.entries.count == 1 }
        buffer.stop()
        try thread.join()
        #expect(log.lines.contains("debug: Starting to deliver dedupe.delivery=thread"))
        #expect(log.lines.contains("debug: Stopping"))
    }

    @Test func deliveryToATask_isLogged_andItsFailures() async throws {
        let buffer = log.makeBuffer(retry: .init(clock: ImpatientClock()))
        buffer.set("a", 1)
        let sink = ScriptedSink<Int> { _, number in if number < 2 { throw SinkFailure(number: number) } }
        let running = Task { try await buffer.run(sink: sink) }
        try await sink.wait(forCalls: 3)
        await buffer.finish()
        try await outcome(of: running, "run")
        let failed = "warning: Sink failed, what it was given is pending again"
        #expect(
            log.lines.filter { !$0.contains("Finishing") } == [
                "debug: Received updates dedupe.updates=1",
                "debug: Starting to deliver dedupe.delivery=task",
                failed + " dedupe.error=SinkFailure(number: 0) dedupe.failures=1",
                failed + " dedupe.error=SinkFailure(number: 1) dedupe.failures=2",
                "debug: Delivered batch dedupe.entries=1",
                "debug: Delivery ended",
            ])
    }

    @Test func delivery_thatIsRefused_isNotLoggedAsABeginning() throws {
        let buffer = log.makeBuffer()
        #expect(throws: DedupeBufferError.emptyQueue) { try buffer.sendNextBatchToSink(StringSink()) }
        buffer.stop()
        #expect(throws: DedupeBufferError.stopped) { try buffer.startSending(to: StringSink()) }
        #expect(
            log.lines == [
                "debug: Did not deliver dedupe.delivery=by hand dedupe.error=queue is empty",
                "debug: Stopping",
                "debug: Did not deliver dedupe.delivery=queue dedupe.error=buffer was stopped",
            ])
    }

    @Test func lastFailureOfASink_isLogged_beforeItComesOut_andACancelledOneIsNone() async throws {
        let buffer = log.makeBuffer(retry: .init(maximumAttempts: 1))
        buffer.set("a", 1)
        let cancelled = ScriptedSink<Int> { _, _ in
            withUnsafeCurrentTask { $0?.cancel() }
            throw SinkFailure()
        }
        await #expect(throws: CancellationError.self) {
            try await within("run") { try await buffer.run(sink: cancelled) }
        }
        #expect(!log.lines.contains { $0.contains("Sink failed") })
        let failing = ScriptedSink<Int> { _, _ in throw SinkFailure() }
        await #expect(throws: SinkFailure()) { try await within("run") { try await buffer.run(sink: failing) } }
        #expect(log.lines.count { $0.contains("Sink failed") } == 1)
    }

    @Test func finishWithADeadline_isLogged_withTheTimeLeft() throws {
        let buffer = log.makeBuffer()
        try bounded("finish") { _ = buffer.finishAndWait(deadline: .now + .seconds(100)) }
        let left = try #require(log.entries.first?.metadata["dedupe.seconds_left"])
        let seconds = try #require(Double("\(left)"))
        #expect(seconds > 0 && seconds <= 100)
    }

    @Test func calls_areNotLogged_atAHigherLevel() throws {
        let quiet = Log(level: .info)
        let buffer = quiet.makeBuffer()
        buffer.set("a", 1)
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.stop()
        #expect(quiet.lines == [])
    }

    @Test func keysAndValues_areNeverLogged() throws {
        let buffer = log.makeBuffer()
        buffer.set("a key", 4711)
        buffer.onUpdatesKeysKnown([Update(key: "a key", value: 4711)], keys: ["a key"])
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        #expect(!log.lines.isEmpty)
        #expect(!"\(log.entries)".contains("a key"))
        #expect(!"\(log.entries)".contains("4711"))
    }

    // MARK: - Resyncs

    /// A buffer whose sink has `keys`.
    private func makeBuffer(live keys: [String]) throws -> StringBuffer {
        let buffer = log.makeBuffer()
        buffer.onUpdates(keys.map { Update(key: $0, value: 1) })
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        return buffer
    }

    /// A restart, a snapshot that holds `keys`, and the in-sync.
    private func resync(_ buffer: StringBuffer, to keys: [String]) {
        buffer.onConnectionRestarted()
        buffer.onUpdates(keys.map { Update(key: $0, value: 2) })
        buffer.onStatusUpdated(.inSync)
    }

    @Test func inSync_withoutRestart_isNoResync() throws {
        _ = try makeBuffer(live: ["a"])
        #expect(log.resyncs == [])
    }

    @Test func resync_thatDeletesSome_isInfo() throws {
        resync(try makeBuffer(live: ["a", "b", "c"]), to: ["a"])
        #expect(log.resyncs == ["info: Resync completed dedupe.deletions=2"])
        let entry = try #require(log.entries.first { $0.level == .info })
        let duration = try #require(entry.metadata["dedupe.duration_seconds"].flatMap { Double("\($0)") })
        #expect(duration > 0)
    }

    @Test func resync_thatDeletesNone_isInfo() throws {
        resync(try makeBuffer(live: ["a", "b"]), to: ["a", "b", "c"])
        #expect(log.resyncs == ["info: Resync completed dedupe.deletions=0"])
    }

    @Test func resync_thatDeletesAll_isAWarning() throws {
        resync(try makeBuffer(live: ["a", "b"]), to: [])
        #expect(log.resyncs == ["warning: Resync deleted all live keys dedupe.deletions=2"])
    }

    @Test func resync_toAllNewKeys_isAWarning() throws {
        let buffer = try makeBuffer(live: ["a", "b"])
        buffer.onConnectionRestarted()
        buffer.set("c", 1)
        _ = try buffer.flush()
        buffer.onStatusUpdated(.inSync)
        #expect(log.resyncs == ["warning: Resync deleted all live keys dedupe.deletions=2"])
    }

    /// The source deletes one of the keys itself.
    @Test func resync_thatDeletesAllThatIsLiveThen_isAWarning() throws {
        let buffer = try makeBuffer(live: ["a", "b"])
        buffer.onConnectionRestarted()
        buffer.delete("a")
        _ = try buffer.flush()
        buffer.onStatusUpdated(.inSync)
        #expect(log.resyncs == ["warning: Resync deleted all live keys dedupe.deletions=1"])
    }

    /// A key that the sink fails on counts as live until then.
    @Test func resync_thatDeletesAllThatIsLive_afterASinkHasFailed_isAWarning() async throws {
        let buffer = log.makeBuffer(retry: .init(maximumAttempts: 1))
        buffer.set("a", 1)
        try deliverAll(of: buffer)
        buffer.set("b", 1)
        let sink = ScriptedSink<Int> { _, _ in
            buffer.onConnectionRestarted()
            throw SinkFailure()
        }
        await #expect(throws: SinkFailure()) { try await within("run") { try await buffer.run(sink: sink) } }
        #expect(buffer.statistics.liveKeys == 1)
        buffer.onStatusUpdated(.inSync)
        #expect(log.resyncs == ["warning: Resync deleted all live keys dedupe.deletions=1"])
    }

    @Test func resync_whereNothingWasLive_isInfo() throws {
        resync(try makeBuffer(live: []), to: [])
        #expect(log.resyncs == ["info: Resync completed dedupe.deletions=0"])
    }

    @Test func eachResync_isLoggedOnce_withItsOwnDeletions() throws {
        let buffer = try makeBuffer(live: ["a", "b", "c"])
        resync(buffer, to: ["a", "b"])
        buffer.onStatusUpdated(.resyncInProgress)
        buffer.onStatusUpdated(.inSync)
        _ = try buffer.flush()
        resync(buffer, to: ["a"])
        buffer.onStatusUpdated(.inSync)
        #expect(
            log.resyncs == [
                "info: Resync completed dedupe.deletions=1", "info: Resync completed dedupe.deletions=1",
            ])
    }

    @Test func resync_thatIsRestarted_isLoggedOnce() throws {
        let buffer = try makeBuffer(live: ["a", "b"])
        buffer.onConnectionRestarted()
        buffer.set("a", 2)
        resync(buffer, to: ["b"])
        #expect(log.resyncs == ["info: Resync completed dedupe.deletions=1"])
    }

    @Test func resync_ofAStoppedBuffer_isNone() throws {
        let buffer = try makeBuffer(live: ["a"])
        buffer.onConnectionRestarted()
        buffer.stop()
        buffer.onStatusUpdated(.inSync)
        #expect(log.resyncs == [])
    }

    @Test func resync_ofAFinishingBuffer_isNone() throws {
        let (buffer, sink, gate) = (try makeBuffer(live: ["a"]), StringSink(), Gate())
        sink.onEachCall { _ in gate.pass() }
        try buffer.startSending(to: sink)
        buffer.set("a", 2)
        try gate.waitForArrival()
        buffer.onConnectionRestarted()
        let finish = Worker("finish") { buffer.finishAndWait() }
        try eventually("the queue's end to close") { buffer.dropsNewKeys() }
        buffer.onStatusUpdated(.inSync)
        #expect(log.resyncs == [])
        gate.open()
        try finish.join()
    }

    @Test func resyncs_ofThreadsAtOnce_areLoggedNoMoreThanOnceEach() throws {
        let buffer = try makeBuffer(live: ["a", "b"])
        let (threads, each) = (4, 200)
        let line = StartingLine(threads)
        let workers = (0..<threads).map { _ in
            Worker("resyncs") { [self] in
                line.ready()
                for _ in 0..<each { resync(buffer, to: ["a"]) }
            }
        }
        for worker in workers { try worker.join() }
        #expect((1...threads * each).contains(log.resyncs.count))
    }

    // MARK: - Overflows

    @Test func overflow_isAWarning_onceUntilTheRestart() throws {
        let buffer = log.makeBuffer(bound: .keys(1))
        buffer.set("live", 1)
        _ = try buffer.flush()
        for _ in 0..<2 {
            for n in 0..<5 { buffer.set("key \(n)", n) }
            buffer.onConnectionRestarted()
        }
        let overflow = "warning: Overflow: backlog dropped, a resync is needed dedupe.live_keys=1 dedupe.overflows="
        #expect(log.lines.filter { $0.contains("Overflow") } == [overflow + "1", overflow + "2"])
    }

    /// It is ignored, until there was another restart.
    @Test func inSync_afterAnOverflow_endsNoResync() throws {
        let kept = TestMetrics()
        let buffer = log.makeBuffer(metrics: .init(factory: kept), bound: .keys(1))
        buffer.set("live", 1)
        _ = try buffer.flush()
        buffer.onConnectionRestarted()
        buffer.set("a", 1)
        buffer.set("b", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(log.resyncs == [])
        #expect(try kept.expectTimer("dedupe_buffer_resync_seconds").values == [])
        buffer.onConnectionRestarted()
        buffer.set("live", 1)
        buffer.onStatusUpdated(.inSync)
        #expect(log.resyncs == ["info: Resync completed dedupe.deletions=0"])
    }

    // MARK: - Handlers

    @Test(arguments: LoopKind.allCases)
    func handler_thatCallsTheBuffer_goesOn(_ kind: LoopKind) throws {
        let calling = CallingHandler()
        let buffer = StringBuffer(configuration: .with { $0.logger = calling.logger })
        calling.call { [unowned buffer] in
            buffer.set("from the handler", 1)
            buffer.onConnectionRestarted()
            buffer.onStatusUpdated(.inSync)
            _ = buffer.statistics
        }
        let sink = StringSink()
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try bounded("source calls") {
            buffer.set("a", 1)
            buffer.onConnectionRestarted()
            buffer.set("b", 1)
            buffer.onStatusUpdated(.inSync)
        }
        try sink.wait(forStatus: .inSync)
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(sink.violations == [])
        #expect(calling.calls > 0)
    }

    /// Wherever it is called, also when the loop has just ended.
    @Test(arguments: LoopKind.allCases)
    func handler_thatFinishesTheBuffer_goesOn(_ kind: LoopKind) throws {
        let calling = CallingHandler()
        let buffer = StringBuffer(configuration: .with { $0.logger = calling.logger })
        calling.call { [unowned buffer] in if buffer.statistics.delivered > 0 { buffer.finishAndWait() } }
        let sink = StringSink()
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        try bounded("a source call") { buffer.set("a", 1) }
        try sink.wait(forItems: 1)
        try bounded("finish") { buffer.finishAndWait() }
        try loop.end()
        #expect(buffer.statistics.delivered == 1)
    }

    /// What is pending then is delivered.
    @Test(arguments: LoopKind.allCases, [false, true])
    func handler_thatFinishesTheBuffer_whenALoopBegins_goesOn(_ kind: LoopKind, withDeadline: Bool) throws {
        let calling = CallingHandler()
        let buffer = StringBuffer(configuration: .with { $0.logger = calling.logger })
        let sink = StringSink()
        buffer.set("a", 1)
        calling.call { [unowned buffer] in
            if withDeadline {
                buffer.finishAndWait(deadline: .now + .seconds(1_000_000))
            } else {
                buffer.finishAndWait()
            }
        }
        try RunningLoop(kind, of: buffer, to: sink).end()
        try sink.wait(forItems: 1)
        try eventually("the stop") {
            do {
                try buffer.startSending(to: sink)
                return false
            } catch {
                return error as? DedupeBufferError == .stopped
            }
        }
    }

    @Test func handler_thatFinishesTheBuffer_whenATaskBegins_goesOn() async throws {
        let calling = CallingHandler()
        let buffer = StringBuffer(configuration: .with { $0.logger = calling.logger })
        let sink = ScriptedSink<Int>()
        buffer.set("a", 1)
        calling.call { [unowned buffer] in buffer.finishAndWait() }
        try await within("run") { try await buffer.run(sink: sink) }
        #expect(sink.delivered == [.updates([.new("a", 1)])])
    }

    /// Wherever that is: the handler is told of the event that is over, and of the end.
    @Test func handler_thatFinishesTheBuffer_whenAConsumerIsLetGo_goesOn() async throws {
        let calling = CallingHandler()
        let buffer = StringBuffer(configuration: .with { $0.logger = calling.logger })
        buffer.set("a", 1)
        let held = Kept(UncheckedIterator(iterator: buffer.events.makeAsyncIterator()))
        try await within("an event") { _ = try await held.value.next() }
        calling.call { [unowned buffer] in buffer.finishAndWait() }
        let lettingGo = Worker("letting go of an iterator") { held.change { $0.iterator = nil } }
        try await eventually("its end") { lettingGo.hasReturned }
        #expect(calling.calls > 0)
    }

    @Test func handler_thatFinishesTheBuffer_whenATaskHasDelivered_goesOn() async throws {
        let calling = CallingHandler()
        let buffer = StringBuffer(configuration: .with { $0.logger = calling.logger })
        buffer.set("a", 1)
        calling.call { [unowned buffer] in if buffer.statistics.delivered > 0 { buffer.finishAndWait() } }
        let sink = ScriptedSink<Int>()
        try await within("run") { try await buffer.run(sink: sink) }
        #expect(sink.calls.count == 1)
    }

    @Test func handler_thatFinishesTheBuffer_whenItHearsOfAFailure_goesOn() async throws {
        let (calling, hasFailed) = (CallingHandler(), Kept(false))
        let buffer = StringBuffer(
            configuration: .with {
                $0.logger = calling.logger
                $0.retry = .init(initialDelay: .seconds(1), maximumDelay: .seconds(1), clock: ImpatientClock())
            })
        buffer.set("a", 1)
        calling.call { [unowned buffer] in if hasFailed.value { buffer.finishAndWait() } }
        let sink = ScriptedSink<Int> { _, number in
            hasFailed.change { $0 = true }
            if number == 0 { throw SinkFailure() }
        }
        try await within("run") { try await buffer.run(sink: sink) }
        #expect(sink.delivered == [.updates([.new("a", 1)])])
    }
}

/// `@unchecked`: one at a time uses it.
private struct UncheckedIterator: @unchecked Sendable {
    var iterator: StringEvents.Iterator?

    func next() async throws -> DedupeBufferEvent<String, Int>? {
        var iterator = iterator
        return try await iterator?.next(isolation: nil)
    }
}

/// A log handler that makes calls of its own for each message; for those that these calls lead to,
/// none.
private final class CallingHandler: Sendable {
    @TaskLocal private static var isCalling = false

    private let action = Kept<(@Sendable () -> Void)?>(nil)
    private let count = Kept(0)

    func call(_ action: @escaping @Sendable () -> Void) { self.action.change { $0 = action } }

    var calls: Int { count.value }

    var logger: Logger {
        var logger = Logger(label: "test") { _ in Handler(owner: self) }
        logger.logLevel = .debug
        return logger
    }

    private func handle() {
        guard !Self.isCalling, let action = action.value else { return }
        count.change { $0 += 1 }
        Self.$isCalling.withValue(true) { action() }
    }

    private struct Handler: LogHandler {
        let owner: CallingHandler
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.debug

        init(owner: CallingHandler) { self.owner = owner }

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) { owner.handle() }
    }
}

/// From a function that is not `async`.
private func deliverAll(of buffer: StringBuffer) throws { _ = try buffer.flush() }
