// SPDX-License-Identifier: Apache-2.0

#if Etcd

import CoreMetrics
import DedupeBuffer
import Logging

/// Decodes keys and values on their way to a target.
///
/// A value that cannot be decoded leaves the key's last good value in force. A change with such a
/// value is simply not passed on. A snapshot needs more: the buffer deletes the keys that it has
/// not seen since the restart. So for such a key the last good value is passed on once more, with
/// its own revision. A buffer that skips unchanged revisions then tells its sink nothing.
struct DecodingTarget<Target: RestartAwareCallbacks>: RestartAwareCallbacks {
    private struct GoodValue {
        let value: Target.Value
        let revision: UInt64
        /// The snapshot that the key was last seen in.
        var snapshot: Int
    }

    private struct State {
        var good: [[UInt8]: GoodValue] = [:]
        /// Counts the restarts.
        var snapshot = 0
        var isInSnapshot = false
    }

    private let target: Target
    private let rejections: Rejections
    private let decodeKey: @Sendable ([UInt8]) throws -> Target.Key
    private let decodeValue: @Sendable (Target.Key, [UInt8], [UInt8]) throws -> Target.Value
    // One task at a time calls the methods below, so nothing waits for this lock.
    private let state = Locked(State())

    init(
        _ target: Target, _ rejections: Rejections, key: @escaping @Sendable ([UInt8]) throws -> Target.Key,
        value: @escaping @Sendable (Target.Key, [UInt8], [UInt8]) throws -> Target.Value
    ) {
        self.target = target
        self.rejections = rejections
        decodeKey = key
        decodeValue = value
    }

    func onConnectionRestarted() {
        state.withLock { state in
            state.snapshot += 1
            state.isInSnapshot = true
        }
        target.onConnectionRestarted()
    }

    func onStatusUpdated(_ status: SyncStatus) {
        if status == .inSync { state.withLock(Self.endSnapshot) }
        target.onStatusUpdated(status)
    }

    func onUpdates(_ updates: [Update<[UInt8], [UInt8]>]) {
        let decoded = updates.compactMap(decode)
        if !decoded.isEmpty { target.onUpdates(decoded) }
    }

    /// The update for the target, or `nil` if there is none.
    private func decode(_ update: Update<[UInt8], [UInt8]>) -> Update<Target.Key, Target.Value>? {
        guard let bytes = update.value else { return decodeDeletion(update) }
        do {
            let key = try decodeKey(update.key)
            let value = try decodeValue(key, update.key, bytes)
            state.withLock { state in
                state.good[update.key] = GoodValue(value: value, revision: update.revision, snapshot: state.snapshot)
            }
            return Update(key: key, value: value, revision: update.revision)
        } catch {
            rejections.reject(update, error)
            return repeatGoodValue(of: update.key)
        }
    }

    private func decodeDeletion(_ update: Update<[UInt8], [UInt8]>) -> Update<Target.Key, Target.Value>? {
        // The target never got a key that had no good value.
        guard state.withLock({ $0.good.removeValue(forKey: update.key) != nil }),
            let key = try? decodeKey(update.key)
        else { return nil }
        return Update(key: key, value: nil, revision: update.revision)
    }

    /// The last good value of a key that the running snapshot has not shown yet.
    private func repeatGoodValue(of bytes: [UInt8]) -> Update<Target.Key, Target.Value>? {
        let good = state.withLock { state -> GoodValue? in
            guard let good = state.good[bytes], good.snapshot != state.snapshot else { return nil }
            state.good[bytes]?.snapshot = state.snapshot
            return good
        }
        guard let good, let key = try? decodeKey(bytes) else { return nil }
        return Update(key: key, value: good.value, revision: good.revision)
    }

    /// The target deletes the keys that the snapshot did not show.
    private static func endSnapshot(_ state: inout State) {
        guard state.isInSnapshot else { return }
        state.isInSnapshot = false
        let snapshot = state.snapshot
        state.good = state.good.filter { $0.value.snapshot == snapshot }
    }
}

/// Counts and reports what could not be decoded.
final class Rejections: Sendable {
    private let counted = Locked(0)
    private let logger: Logger?
    private let counter: Counter?
    private let onRejection: (@Sendable (EtcdSyncer.Rejection) -> Void)?

    init(_ configuration: EtcdConfiguration, _ onRejection: (@Sendable (EtcdSyncer.Rejection) -> Void)? = nil) {
        logger = configuration.logger
        counter = configuration.metrics.map { metrics in
            Counter(
                label: "\(metrics.label)_rejected_total", dimensions: metrics.dimensions,
                factory: metrics.factory ?? MetricsSystem.factory)
        }
        self.onRejection = onRejection
    }

    var count: Int { counted.withLock { $0 } }

    func reject(_ update: Update<[UInt8], [UInt8]>, _ error: any Error) {
        counted.withLock { $0 += 1 }
        counter?.increment()
        let revision = Int64(update.revision & (1 << 48 - 1))
        logger?.warning("A value was rejected", metadata: ["syncer.revision": "\(revision)"])
        onRejection?(EtcdSyncer.Rejection(key: update.key, revision: revision, error: error))
    }
}

#endif
