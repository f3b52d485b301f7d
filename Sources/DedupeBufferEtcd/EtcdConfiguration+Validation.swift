// SPDX-License-Identifier: Apache-2.0

#if Etcd

public import DedupeBuffer
import SyncerEngine

extension EtcdConfiguration {
    /// Checks that every member has a value that a syncer accepts. Files are not read.
    ///
    /// - Throws: the first member that is out of range.
    /// - Complexity: O(*n*²) in the number of prefixes.
    public func validate() throws(DedupeBufferConfiguration.ValidationError) {
        try require(!endpoints.isEmpty, "endpoints", "one or more")
        try require(!prefixes.isEmpty, "prefixes", "one or more")
        try require(!overlaps, "prefixes", "such that none begins with another one")
        try require(
            tls == nil || endpoints.allSatisfy(\.usesTLS), "endpoints", "of the scheme https, because tls is set")
        try require(user?.name.isEmpty != true, "user.name", "one character or more")
        if let name = tls?.serverName {
            try require(Endpoint.HostKind(name) == .name, "tls.serverName", "the name of a host, and no address")
        }
        try validateTimes()
        try validateNumbers()
    }

    private func validateTimes() throws(DedupeBufferConfiguration.ValidationError) {
        let times = [
            ("requestTimeout", requestTimeout), ("pageTimeout", pageTimeout), ("keepaliveTimeout", keepaliveTimeout),
            ("heartbeatInterval", heartbeatInterval), ("heartbeatTimeout", heartbeatTimeout),
            ("auditInterval", auditInterval ?? .seconds(1)),
        ]
        for (member, time) in times { try require(time > .zero, member, "more than zero") }
        let pauses = [
            ("gracePeriod", gracePeriod), ("minimumResyncInterval", minimumResyncInterval),
            ("backOff.initialDelay", backOff.initialDelay), ("backOff.maximumDelay", backOff.maximumDelay),
            ("backOff.resetAfter", backOff.resetAfter), ("metrics.interval", metrics?.interval ?? .zero),
        ]
        for (member, pause) in pauses { try require(pause >= .zero, member, "zero or more") }
        try require(keepaliveInterval >= .seconds(5), "keepaliveInterval", "5 seconds or more")
        // grpc-swift restarts the timeout at each ping.
        try require(keepaliveTimeout < keepaliveInterval, "keepaliveTimeout", "less than keepaliveInterval")
    }

    private func validateNumbers() throws(DedupeBufferConfiguration.ValidationError) {
        try require(backOff.factor >= 1, "backOff.factor", "1 or more")
        try require(pages.initialKeys >= 1, "pages.initialKeys", "1 or more")
        try require(pages.maximumKeys >= 1, "pages.maximumKeys", "1 or more")
        try require(pages.targetBytes >= 1, "pages.targetBytes", "1 or more")
        try require(warningKeyCount ?? 1 >= 1, "warningKeyCount", "1 or more")
    }

    private var overlaps: Bool {
        prefixes.indices.contains { i in
            prefixes.indices.contains { j in i != j && prefixes[i].starts(with: prefixes[j]) }
        }
    }

    // MARK: - For the engine and the transport

    var syncerConfiguration: SyncerConfiguration {
        var configuration = SyncerConfiguration(rangeCount: prefixes.count)
        configuration.backOff.initialDelay = backOff.initialDelay
        configuration.backOff.factor = backOff.factor
        configuration.backOff.maximumDelay = backOff.maximumDelay
        configuration.backOff.resetAfter = backOff.resetAfter
        configuration.deadlines.probe = requestTimeout
        configuration.deadlines.authentication = requestTimeout
        configuration.deadlines.page = pageTimeout
        configuration.deadlines.watch = requestTimeout
        configuration.pages.initial = pages.initialKeys
        configuration.pages.maximum = pages.maximumKeys
        configuration.pages.targetBytes = pages.targetBytes
        configuration.liveness.heartbeatInterval = heartbeatInterval
        configuration.liveness.heartbeatTimeout = heartbeatTimeout
        configuration.liveness.gracePeriod = gracePeriod
        configuration.resyncs.minimumInterval = minimumResyncInterval
        configuration.resyncs.auditInterval = auditInterval
        configuration.resyncs.warningKeyCount = warningKeyCount
        configuration.hasUser = user != nil
        return configuration
    }

    var transportOptions: EtcdTransportOptions {
        var options = EtcdTransportOptions()
        options.tls = tls
        options.user = user
        options.requestTimeout = requestTimeout
        options.pageTimeout = pageTimeout
        options.keepaliveInterval = keepaliveInterval
        options.keepaliveTimeout = keepaliveTimeout
        return options
    }
}

#endif
