// SPDX-License-Identifier: Apache-2.0

package import DedupeBuffer
package import Logging

/// Where a syncer's logs, metrics and changes of state go.
package struct SyncerObserver: Sendable {
    /// `nil` turns logging off. Keys and values are never logged.
    package var logger: Logger?
    /// `nil` turns metrics off.
    package var metrics: DedupeBufferConfiguration.Metrics?
    /// Called for each change of state, by one task at a time. It must not wait.
    package var onStateChange: (@Sendable (SyncerState) -> Void)?
    /// The name of an endpoint, as logs show it.
    package var endpointName: @Sendable (Int) -> String = { "\($0)" }
    /// The statistics of the buffer behind the target. `nil`: not known.
    package var bufferStatistics: (@Sendable () -> DedupeBufferStatistics)?

    package init(
        logger: Logger? = nil, metrics: DedupeBufferConfiguration.Metrics? = nil,
        onStateChange: (@Sendable (SyncerState) -> Void)? = nil
    ) {
        self.logger = logger
        self.metrics = metrics
        self.onStateChange = onStateChange
    }
}

extension SyncerObserver {
    func report(_ report: SyncerReport) {
        log(report)
        if let onStateChange, let state = SyncerState(report) { onStateChange(state) }
    }

    private func log(_ report: SyncerReport) {
        guard let logger else { return }
        switch report {
        case .connected(let endpoint): logger.info("Connected", metadata: name(endpoint))
        case .interrupted(let endpoint, let error): logger.info("Interrupted", metadata: name(endpoint, error))
        case .unreachable(let error): logger.warning("No endpoint works", metadata: ["syncer.error": "\(error)"])
        case .denied(let error): logger.error("The cluster refuses the user", metadata: ["syncer.error": "\(error)"])
        case .attemptFailed(let endpoint, let error): logger.debug("Attempt failed", metadata: name(endpoint, error))
        case .resumed(let endpoint): logger.info("Resumed", metadata: name(endpoint))
        case .resyncing(let reason): logResync(reason, logger)
        case .resynced(let reason, let keys):
            logger.info(
                "Resync completed", metadata: ["syncer.reason": "\(reason.rawValue)", "syncer.keys": "\(keys)"])
        case .heartbeatMissed(let endpoint): logger.warning("No sign of life", metadata: name(endpoint))
        case .revisionsFell(let endpoint): logger.warning("The revisions of the watch fell", metadata: name(endpoint))
        case .manyKeys(let count):
            logger.warning("The snapshot has more keys than expected", metadata: ["syncer.keys": "\(count)"])
        case .emptySnapshot: logEmptySnapshot(logger)
        }
    }

    private func logResync(_ reason: ResyncReason, _ logger: Logger) {
        let level: Logger.Level = reason.isPlanned || reason == .compacted ? .info : .warning
        logger.log(level: level, "Resync begins", metadata: ["syncer.reason": "\(reason.rawValue)"])
    }

    private func logEmptySnapshot(_ logger: Logger) {
        let keys = bufferStatistics?().liveKeys
        guard keys != 0 else { return }
        logger.warning(
            "The snapshot is empty, all live keys will be deleted",
            metadata: keys.map { ["syncer.live_keys": "\($0)"] } ?? [:])
    }

    private func name(_ endpoint: Int, _ error: DatastoreError? = nil) -> Logger.Metadata {
        var metadata: Logger.Metadata = ["syncer.endpoint": "\(endpointName(endpoint))"]
        if let error { metadata["syncer.error"] = "\(error)" }
        return metadata
    }
}
