// SPDX-License-Identifier: Apache-2.0

/// How a syncer follows its datastore. The defaults suit most clusters.
package struct SyncerConfiguration: Sendable {
    /// The number of ranges that are followed, 1 or more. The datastore knows which ranges these
    /// are.
    package var rangeCount = 1
    /// Whether there is a user whose credentials can be renewed after a denial.
    package var hasUser = true
    package var backOff = BackOffPolicy()
    package var deadlines = Deadlines()
    package var pages = PageLimits()
    package var liveness = Liveness()
    package var resyncs = Resyncs()

    package init(rangeCount: Int = 1) { self.rangeCount = rangeCount }

    /// The pauses between attempts. The longest pause of the first attempt is `initialDelay`, and
    /// that of each further attempt is `factor` times as long. The pause is a random part of that.
    package struct BackOffPolicy: Sendable, Hashable {
        package var initialDelay = Duration.milliseconds(100)
        package var factor = 2.0
        package var maximumDelay = Duration.seconds(30)
        /// After so much time in sync the pauses begin with `initialDelay` again.
        package var resetAfter = Duration.seconds(120)
        /// The shortest pause after a refusal that time alone seldom cures: a user who may not
        /// read, a peer that is no such datastore, damaged data.
        package var refusalDelay = Duration.seconds(1)

        package init() {}
    }

    /// How long an answer may take. More than zero.
    package struct Deadlines: Sendable, Hashable {
        package var probe = Duration.seconds(5)
        package var page = Duration.seconds(15)
        /// From the request of a watch until every range is watched.
        package var watch = Duration.seconds(10)
        package var authentication = Duration.seconds(5)

        package init() {}
    }

    /// The number of keys that a page may have, which adapts to the size of the values.
    package struct PageLimits: Sendable, Hashable {
        /// The limit of the first page.
        package var initial = 500
        package var maximum = 10_000
        /// The bytes of keys and values that a page aims at.
        package var targetBytes = 1 << 20

        package init() {}
    }

    /// How the syncer finds out that a watch is dead, and when it tells the sink.
    package struct Liveness: Sendable, Hashable {
        /// After so much time without any message the syncer asks for a sign of life.
        package var heartbeatInterval = Duration.seconds(20)
        /// How long the sign of life may take.
        package var heartbeatTimeout = Duration.seconds(10)
        /// After so much time without a working watch the sink gets `.waitForDatastore`.
        package var gracePeriod = Duration.seconds(10)

        package init() {}
    }

    /// When the syncer reads everything again.
    package struct Resyncs: Sendable, Hashable {
        /// The shortest time from the beginning of one resync to the next.
        package var minimumInterval = Duration.milliseconds(500)
        /// How often the syncer reads everything again although nothing seems wrong. `nil`: never.
        package var auditInterval: Duration? = .seconds(30 * 60)
        /// The random part of `auditInterval` that is added or subtracted.
        package var auditJitter = 0.1
        /// The syncer warns of a snapshot with more keys. `nil`: it never warns.
        package var warningKeyCount: Int?

        package init() {}
    }
}

extension SyncerConfiguration {
    /// The first member that is out of range, and what it must be. `nil`: there is none.
    package var firstFault: (member: String, requirement: String)? {
        let durations: [(String, Duration)] = [
            ("deadlines.probe", deadlines.probe), ("deadlines.page", deadlines.page),
            ("deadlines.watch", deadlines.watch), ("deadlines.authentication", deadlines.authentication),
            ("liveness.heartbeatInterval", liveness.heartbeatInterval),
            ("liveness.heartbeatTimeout", liveness.heartbeatTimeout),
            ("resyncs.auditInterval", resyncs.auditInterval ?? .seconds(1)),
        ]
        if let (member, _) = durations.first(where: { $0.1 <= .zero }) { return (member, "more than zero") }
        let pauses: [(String, Duration)] = [
            ("backOff.initialDelay", backOff.initialDelay), ("backOff.maximumDelay", backOff.maximumDelay),
            ("backOff.refusalDelay", backOff.refusalDelay), ("backOff.resetAfter", backOff.resetAfter),
            ("liveness.gracePeriod", liveness.gracePeriod), ("resyncs.minimumInterval", resyncs.minimumInterval),
        ]
        if let (member, _) = pauses.first(where: { $0.1 < .zero }) { return (member, "zero or more") }
        return firstNumberFault
    }

    private var firstNumberFault: (member: String, requirement: String)? {
        let numbers = [
            ("rangeCount", rangeCount), ("pages.initial", pages.initial), ("pages.maximum", pages.maximum),
            ("pages.targetBytes", pages.targetBytes), ("resyncs.warningKeyCount", resyncs.warningKeyCount ?? 1),
        ]
        if let (member, _) = numbers.first(where: { $0.1 < 1 }) { return (member, "1 or more") }
        if !(backOff.factor >= 1) { return ("backOff.factor", "1 or more") }
        if !(0..<1 ~= resyncs.auditJitter) { return ("resyncs.auditJitter", "zero or more, and less than 1") }
        return nil
    }
}
