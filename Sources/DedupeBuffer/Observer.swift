// SPDX-License-Identifier: Apache-2.0

internal import Logging

/// What a buffer tells its logger and its metrics. There is none where both are off.
///
/// Handlers are user code, which may call the buffer. So none is called with a lock held. If the
/// owner of the claim calls one, the call is marked, so that `finish()` does not wait inside it.
@usableFromInline
final class Observer: Sendable {
    private let core: Core
    private let logger: Logger?
    private let metrics: MetricsReporter?
    /// From a restart to the next in-sync.
    private let resync = Locked<Resync?>(nil)

    init?(_ configuration: DedupeBufferConfiguration, core: Core) {
        guard configuration.logger != nil || configuration.metrics != nil else { return nil }
        self.core = core
        logger = configuration.logger
        metrics = configuration.metrics.map { MetricsReporter($0, core: core) }
    }

    /// Brings gauges and counters up to date.
    @usableFromInline
    func report() {
        metrics?.report()
    }

    // MARK: - The source's calls

    @usableFromInline
    func received(updates: Int) {
        logger?.debug("Received updates", metadata: ["dedupe.updates": "\(updates)"])
        metrics?.reportIfDue()
    }

    @usableFromInline
    func received(updates: Int, keysKnown keys: Int) {
        logger?.debug(
            "Received updates with known keys",
            metadata: ["dedupe.updates": "\(updates)", "dedupe.keys": "\(keys)"])
        metrics?.reportIfDue()
    }

    /// A status was put; `end` is what it found, if it was accepted and may end a resync.
    func received(_ status: SyncStatus, ending end: ResyncEnd?) {
        logger?.debug("Received status", metadata: ["dedupe.status": "\(status)"])
        if let end { report(end) }
        metrics?.reportIfDue()
    }

    func restarted() {
        let statistics = core.statistics
        let begun = Resync(statistics)
        resync.withLock { $0 = begun }
        logger?.debug("Connection restarted", metadata: ["dedupe.live_keys": "\(statistics.liveKeys)"])
        metrics?.report()
    }

    /// A bound was exceeded. Only a restart goes on from there.
    func overflowed() {
        let statistics = core.statistics
        logger?.warning(
            "Overflow: backlog dropped, a resync is needed",
            metadata: [
                "dedupe.overflows": "\(statistics.overflows)", "dedupe.live_keys": "\(statistics.liveKeys)",
            ])
        metrics?.report()
    }

    // MARK: - Resyncs

    /// What began with a restart.
    final class Resync: Sendable {
        let began = ContinuousClock.now
        /// Those of the sink's keys that a resync may delete.
        let liveKeys: Int
        /// Synthesized deletions until then.
        let deletions: Int

        init(_ statistics: DedupeBufferStatistics) {
            liveKeys = statistics.liveKeys
            deletions = statistics.synthesizedDeletions
        }
    }

    /// What an in-sync finds that may end a resync.
    struct ResyncEnd {
        let resync: Resync
        let liveKeys: Int
    }

    /// What an in-sync finds that is put now.
    var nextEnd: ResyncEnd? {
        resync.withLock { $0 }.map { ResyncEnd(resync: $0, liveKeys: core.statistics.liveKeys) }
    }

    /// Whether an in-sync has ended `resync`. Not if it restarted meanwhile, or another in-sync was
    /// the first.
    private func isOver(_ ended: Resync) -> Bool {
        resync.withLock { current in
            guard current === ended else { return false }
            current = nil
            return true
        }
    }

    private func report(_ end: ResyncEnd) {
        let (resync, statistics) = (end.resync, core.statistics)
        guard isOver(resync) else { return }
        let duration = ContinuousClock.now - resync.began
        let deletions = statistics.synthesizedDeletions - resync.deletions
        let metadata: Logger.Metadata = [
            "dedupe.duration_seconds": "\(duration / .seconds(1))", "dedupe.deletions": "\(deletions)",
        ]
        // All that was live at the restart, or all that was live in the end: the source's own
        // deletions, and what a failing sink gave back, lower the second; keys that are new since
        // then raise it.
        if deletions > 0 && deletions >= min(resync.liveKeys, end.liveKeys) {
            logger?.warning("Resync deleted all live keys", metadata: metadata)
        } else {
            logger?.info("Resync completed", metadata: metadata)
        }
        metrics?.resyncTook(duration)
        metrics?.report()
    }

    // MARK: - Delivery

    /// A loop on a queue, a thread or a task has its claim, and is about to begin.
    func starting(_ way: String) {
        logger?.debug("Starting to deliver", metadata: ["dedupe.delivery": "\(way)"])
    }

    /// A loop could not begin, or one batch not be delivered.
    @usableFromInline
    func didNotDeliver(_ way: String, _ error: DedupeBufferError) {
        logger?.debug("Did not deliver", metadata: ["dedupe.delivery": "\(way)", "dedupe.error": "\(error)"])
    }

    func tookBatch(ofAge age: Duration) {
        metrics?.tookBatch(ofAge: age)
    }

    func sinkTook(_ time: Duration) {
        metrics?.sinkTook(time)
    }

    func delivered(entries: Int) {
        logger?.debug("Delivered batch", metadata: ["dedupe.entries": "\(entries)"])
        metrics?.report()
    }

    /// The sink failed, so many times in a row.
    @usableFromInline
    func sinkFailed(_ error: any Error, failures: Int) {
        logger?.warning(
            "Sink failed, what it was given is pending again",
            metadata: ["dedupe.error": "\(error)", "dedupe.failures": "\(failures)"])
    }

    /// The sink failed on one key, so many times in a row.
    func keyFailed(_ error: any Error, failures: Int) {
        logger?.warning(
            "Sink failed on a key", metadata: ["dedupe.error": "\(error)", "dedupe.failures": "\(failures)"])
    }

    /// The pauses between attempts do not become longer any more.
    @usableFromInline
    func backOffReachedMaximum(_ delay: Duration) {
        logger?.warning(
            "Sink still fails, the back-off has reached its maximum",
            metadata: ["dedupe.delay_seconds": "\(delay / .seconds(1))"])
    }

    /// A loop has given back its claim.
    func ended() {
        logger?.debug("Delivery ended")
        metrics?.report()
    }

    // MARK: - The end

    func stopping() {
        logger?.debug("Stopping")
    }

    func finishing() {
        logger?.debug("Finishing")
    }

    func finishing(by deadline: ContinuousClock.Instant) {
        logger?.debug("Finishing", metadata: ["dedupe.seconds_left": "\((deadline - .now) / .seconds(1))"])
    }
}
