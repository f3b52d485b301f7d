// SPDX-License-Identifier: Apache-2.0

#if Etcd

public import DedupeBuffer
public import ServiceLifecycle
import SyncerEngine

/// A service that follows prefixes of an etcd cluster and puts everything that changes into a
/// buffer.
///
/// ```swift
/// var options = DedupeBufferConfiguration(label: "routes")
/// options.skipsUnchangedRevisions = true
/// let buffer = DedupeBuffer<String, Route>(configuration: options)
/// let syncer = EtcdSyncer(configuration: configuration, target: buffer) { key, bytes in
///     try JSONDecoder().decode(Route.self, from: Data(bytes))
/// }
/// let delivery = DedupeBufferService(buffer: buffer, sink: sink)
/// let group = ServiceGroup(
///     services: [delivery, syncer], gracefulShutdownSignals: [.sigterm], logger: logger)
/// try await group.run()
/// ```
///
/// The syncer reads a snapshot, page by page, and then watches for changes. It never waits for the
/// sink, so etcd always has a fast client, however slow the sink is. After an interruption the
/// watch resumes where it broke off. If etcd no longer has what was missed, or if another history
/// answers, the syncer reads a new snapshot, and the buffer deletes what is gone.
///
/// The revision of an update has etcd's revision in its lower 48 bits. The upper 16 bits are a
/// number of the history, at first 0. It grows when the history breaks, for example because the
/// cluster was restored from a backup.
///
/// ### One buffer, one syncer
///
/// Give a new syncer a new buffer, also if it follows another cluster in place of the first. If the
/// target is a `DedupeBuffer` that has been used, the syncer begins with a random number of the
/// history, so that no revision of the earlier syncer stands for a value of this one. An adapter in
/// front of the buffer hides that. A new syncer also knows no value that `decode` accepted before.
///
/// ### Not promised
///
/// The keys of one transaction are not delivered together. Values that were replaced before the
/// sink took them are skipped.
public final class EtcdSyncer: Service {
    let driver: any SyncerDriving
    private let datastore: EtcdDatastore
    private let rejections: Rejections
    private let endpoints: [EtcdConfiguration.Endpoint]

    /// A syncer that puts keys and values as etcd has them.
    ///
    /// - Parameters:
    ///   - configuration: what to follow, and how.
    ///   - target: where to put what was found; kept alive by the syncer.
    ///   - overflows: the overflows of the buffer behind the target, each of which makes the syncer
    ///     read everything again. Needed if the buffer has a bound and the target is an adapter in
    ///     front of it. If the target is a `DedupeBuffer`, the syncer finds them itself.
    /// - Precondition: ``EtcdConfiguration/validate()`` does not throw.
    public convenience init(
        configuration: EtcdConfiguration, target: some RestartAwareCallbacks<[UInt8], [UInt8]>,
        overflows: DedupeBufferOverflows? = nil
    ) {
        self.init(configuration, target, behind: target, overflows, Rejections(configuration))
    }

    /// A syncer that decodes values.
    ///
    /// A value for which `decode` throws is rejected: the target keeps the key's last value that
    /// could be decoded, if there is one, also while everything is read again. For that the syncer
    /// keeps that value of each key, besides the buffer.
    ///
    /// - Parameters:
    ///   - configuration: what to follow, and how.
    ///   - target: where to put what was found; kept alive by the syncer.
    ///   - overflows: the overflows of the buffer behind the target, if the target is no buffer.
    ///   - onRejection: called for each value that was rejected, by one task at a time. It must
    ///     return soon.
    ///   - decode: makes a value from a key and the bytes that etcd has for it. Called by one task
    ///     at a time.
    /// - Precondition: ``EtcdConfiguration/validate()`` does not throw.
    public convenience init<Target: RestartAwareCallbacks>(
        configuration: EtcdConfiguration, target: Target, overflows: DedupeBufferOverflows? = nil,
        onRejection: (@Sendable (Rejection) -> Void)? = nil,
        decode: @escaping @Sendable (_ key: [UInt8], _ value: [UInt8]) throws -> Target.Value
    ) where Target.Key == [UInt8] {
        let rejections = Rejections(configuration, onRejection)
        let adapter = DecodingTarget(target, rejections) { key in
            key
        } value: { _, key, bytes in
            try decode(key, bytes)
        }
        self.init(configuration, adapter, behind: target, overflows, rejections)
    }

    /// A syncer that decodes keys as UTF-8, and values.
    ///
    /// A key that is not UTF-8 is rejected: nothing of it reaches the target. Otherwise as the form
    /// with keys of bytes.
    ///
    /// - Parameters:
    ///   - configuration: what to follow, and how.
    ///   - target: where to put what was found; kept alive by the syncer.
    ///   - overflows: the overflows of the buffer behind the target, if the target is no buffer.
    ///   - onRejection: called for each value that was rejected, by one task at a time. It must
    ///     return soon.
    ///   - decode: makes a value from a key and the bytes that etcd has for it. Called by one task
    ///     at a time.
    /// - Precondition: ``EtcdConfiguration/validate()`` does not throw.
    public convenience init<Target: RestartAwareCallbacks>(
        configuration: EtcdConfiguration, target: Target, overflows: DedupeBufferOverflows? = nil,
        onRejection: (@Sendable (Rejection) -> Void)? = nil,
        decode: @escaping @Sendable (_ key: String, _ value: [UInt8]) throws -> Target.Value
    ) where Target.Key == String {
        let rejections = Rejections(configuration, onRejection)
        let adapter = DecodingTarget(target, rejections) { bytes in
            guard let key = String(validating: bytes, as: UTF8.self) else { throw KeyIsNotUTF8() }
            return key
        } value: { key, _, bytes in
            try decode(key, bytes)
        }
        self.init(configuration, adapter, behind: target, overflows, rejections)
    }

    private init<Outer: RestartAwareCallbacks<[UInt8], [UInt8]>, Target: RestartAwareCallbacks>(
        _ configuration: EtcdConfiguration, _ outer: Outer, behind target: Target, _ overflows: DedupeBufferOverflows?,
        _ rejections: Rejections
    ) {
        DedupeBufferConfiguration.trapUnlessValid(configuration.validate)
        datastore = EtcdDatastore(
            endpoints: configuration.endpoints, prefixes: configuration.prefixes,
            options: configuration.transportOptions)
        endpoints = configuration.endpoints
        self.rejections = rejections
        if configuration.user != nil, !endpoints.allSatisfy(\.usesTLS) {
            configuration.logger?.warning("The password is sent unencrypted, because an endpoint is not https")
        }
        let buffer = target as? DedupeBuffer<Target.Key, Target.Value>
        var observer = SyncerObserver(configuration)
        if let buffer { observer.bufferStatistics = { buffer.statistics } }
        driver = SyncerDriver(
            datastore: datastore, target: outer, configuration: configuration.syncerConfiguration,
            observer: observer, overflows: overflows ?? buffer?.overflows, clock: configuration.clock)
    }

    /// Follows the cluster until the task is cancelled, or the application shuts down gracefully.
    ///
    /// The call does not throw: a syncer goes on trying, whatever happens to the cluster. When the
    /// call returns, all connections are closed. That can take half a minute if a host's name is
    /// being looked up in vain. The target keeps what it has.
    ///
    /// After a cancellation the call may be made again, and then begins with a snapshot. After a
    /// graceful shutdown it returns at once.
    ///
    /// - Precondition: no other call is running.
    public func run() async {
        await withGracefulShutdownHandler {
            await driver.run()
        } onGracefulShutdown: { [driver] in
            driver.shutdown()
        }
        await datastore.close()
    }

    /// What the syncer has done so far.
    public var statistics: EtcdSyncerStatistics {
        EtcdSyncerStatistics(driver.statistics, endpoints: endpoints, rejected: rejections.count)
    }

    /// A value that was not passed on to the target.
    public struct Rejection: Sendable {
        /// The key, as etcd has it.
        public let key: [UInt8]
        /// etcd's revision of the value.
        public let revision: Int64
        /// What `decode` has thrown, or an error that says that the key is not UTF-8.
        public let error: any Error
    }
}

extension EtcdSyncer: CustomStringConvertible {
    /// With the endpoints, as groups of services log it.
    public var description: String { "EtcdSyncer(\(endpoints.map(\.description).joined(separator: ", ")))" }
}

/// A key is not UTF-8, although the target's keys are strings.
private struct KeyIsNotUTF8: Error, CustomStringConvertible {
    var description: String { "the key is not UTF-8" }
}

/// A driver, whatever its target is.
protocol SyncerDriving: Sendable {
    var statistics: SyncerStatistics { get }
    func run() async
    func shutdown()
}

extension SyncerDriver: SyncerDriving {}

extension SyncerObserver {
    fileprivate init(_ configuration: EtcdConfiguration) {
        self.init(logger: configuration.logger, metrics: configuration.metrics)
        let endpoints = configuration.endpoints
        endpointName = { endpoints[$0].description }
        if let onStateChange = configuration.onStateChange {
            self.onStateChange = { onStateChange(EtcdSyncerState($0, endpoints: endpoints)) }
        }
    }
}

#endif
