// SPDX-License-Identifier: Apache-2.0

#if Etcd

public import DedupeBuffer
public import Logging
import SyncerEngine

/// What a syncer follows, and how. The defaults suit most clusters.
///
/// ```swift
/// var configuration = EtcdConfiguration(
///     endpoints: try ["https://etcd-1:2379", "https://etcd-2:2379"].map { try .init($0) },
///     prefix: "/config/")
/// configuration.tls = .init(certificateAuthorities: "/etc/etcd/ca.crt")
/// configuration.logger = logger
/// ```
///
/// A syncer ends the program if a member has a value that is out of range, with a message that
/// names the member. Call ``validate()`` first where values come from outside the program.
public struct EtcdConfiguration: Sendable {
    // MARK: - What to follow

    /// The members of the cluster, one or more. The syncer uses one of them at a time, begins with
    /// one by chance, and goes on with the next one when that fails.
    public var endpoints: [Endpoint]

    /// The syncer follows all keys that begin with one of these. One or more; none may begin with
    /// another one. The empty prefix stands for all keys.
    public var prefixes: [[UInt8]]

    // MARK: - Security

    /// The user in whose name the syncer reads. `nil` if the cluster does not ask for one. The
    /// password goes unencrypted to endpoints of the scheme `http`; the logger gets a warning then.
    public var user: User?

    /// How connections to endpoints of the scheme `https` are encrypted. `nil` stands for the
    /// authorities that the system trusts. If it is set, every endpoint must be of that scheme.
    public var tls: TLS?

    // MARK: - Times

    /// How long an answer to a short request may take. More than zero.
    public var requestTimeout = Duration.seconds(5)

    /// How long a page of a snapshot may take. More than zero.
    public var pageTimeout = Duration.seconds(30)

    /// The time from the answer to one ping to the next ping, which tries whether a watch's
    /// connection works. 5 seconds or more, because etcd closes a connection with more pings.
    public var keepaliveInterval = Duration.seconds(20)

    /// How long the answer to a ping may take. More than zero, and less than ``keepaliveInterval``.
    public var keepaliveTimeout = Duration.seconds(10)

    /// After this time without any message of the watch the syncer asks the server for one. More
    /// than zero. A proxy can answer pings although the server does not work.
    public var heartbeatInterval = Duration.seconds(20)

    /// How long the answer to that may take. More than zero.
    public var heartbeatTimeout = Duration.seconds(10)

    /// After this time without a working watch the target gets `waitForDatastore`. Zero or more.
    /// Until then the target stays in sync, because most interruptions end earlier, and a watch
    /// that resumes brings what was missed.
    ///
    /// The time begins when the syncer notices that the watch does not work. If a watch only falls
    /// silent, that takes ``heartbeatInterval`` and ``heartbeatTimeout``. The pause that follows an
    /// overflow of the buffer does not count.
    public var gracePeriod = Duration.seconds(10)

    /// The pauses between attempts.
    public var backOff = BackOff()

    // MARK: - Snapshots

    /// The size of a snapshot's pages.
    public var pages = Pages()

    /// The shortest time from the beginning of one resync to the next. Zero or more.
    public var minimumResyncInterval = Duration.seconds(0.5)

    /// How often the syncer reads everything again although nothing seems wrong, up to a tenth more
    /// or less. `nil`: never. More than zero.
    ///
    /// Some versions of etcd lose changes of a watch. This limits for how long the target stays
    /// wrong. While everything is read, changes wait: the watch is closed, and begins again behind
    /// the snapshot.
    ///
    /// Set `skipsUnchangedRevisions` in the buffer's configuration. Then the sink gets the statuses
    /// `resyncInProgress` and `inSync`, and between them only what has changed. Without it the sink
    /// gets every key again.
    public var auditInterval: Duration? = .seconds(30 * 60)

    /// The logger gets a warning of a snapshot with more keys than this. 1 or more. `nil`: it gets
    /// none.
    ///
    /// A buffer whose bound is smaller than the number of keys can overflow in each snapshot, and
    /// each overflow makes the syncer read everything again. So this should be the bound, if the
    /// buffer has one.
    public var warningKeyCount: Int?

    // MARK: - Observation

    /// The logger that the syncer logs to. `nil` turns logging off. Keys and values are never
    /// logged.
    ///
    /// - `debug`: each attempt that failed.
    /// - `info`: connections, interruptions, resyncs.
    /// - `warning`: no endpoint works; a server gave no sign of life; another cluster, or one with
    ///   an older history, answered; the snapshot is empty although keys are live, or has more than
    ///   ``warningKeyCount``; a value could not be decoded; a password is not encrypted.
    /// - `error`: the cluster refuses the user.
    public var logger: Logger?

    /// What the syncer reports to swift-metrics, and under which label. `nil` turns metrics off.
    public var metrics: DedupeBufferConfiguration.Metrics?

    /// Called when the syncer's state changes, by one task at a time. It must return soon.
    public var onStateChange: (@Sendable (EtcdSyncerState) -> Void)?

    /// The clock that measures all times except those of requests and pings.
    public var clock: any Clock<Duration> = ContinuousClock()

    /// A configuration for some prefixes.
    ///
    /// - Parameters:
    ///   - endpoints: see ``endpoints``.
    ///   - prefixes: see ``prefixes``.
    public init(endpoints: [Endpoint], prefixes: [[UInt8]]) {
        self.endpoints = endpoints
        self.prefixes = prefixes
    }

    /// A configuration for one prefix.
    ///
    /// - Parameters:
    ///   - endpoints: see ``endpoints``.
    ///   - prefix: the UTF-8 bytes of this string are the prefix.
    public init(endpoints: [Endpoint], prefix: String) {
        self.init(endpoints: endpoints, prefixes: [Array(prefix.utf8)])
    }
}

extension EtcdConfiguration {
    /// The pauses between attempts to reach the cluster.
    ///
    /// The first pause is at most ``initialDelay``. Each further pause may be ``factor`` times as
    /// long. A pause is a random part of that, so that the clients of a cluster that comes back do
    /// not come all at once.
    public struct BackOff: Sendable, Hashable {
        /// Zero or more.
        public var initialDelay = Duration.milliseconds(100)
        /// 1 or more.
        public var factor = 2.0
        /// Zero or more.
        public var maximumDelay = Duration.seconds(30)
        /// After so much time in sync, the next pause begins with ``initialDelay`` again. Zero or
        /// more.
        public var resetAfter = Duration.seconds(120)

        /// The pauses that suit most clusters.
        public init() {}
    }

    /// The size of a snapshot's pages. It adapts to the size of the values.
    public struct Pages: Sendable, Hashable {
        /// The most keys of the first page. 1 or more.
        public var initialKeys = 500
        /// The most keys of any page. 1 or more.
        public var maximumKeys = 10_000
        /// The bytes of keys and values that a page aims at. 1 or more.
        public var targetBytes = 1 << 20

        /// The sizes that suit most clusters.
        public init() {}
    }
}

#endif
