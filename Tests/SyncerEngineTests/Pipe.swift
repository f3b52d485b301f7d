// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Testing

@testable import SyncerEngine

/// A real buffer and a naive sink behind it. Used by one thread.
final class Pipe {
    let buffer: DedupeBuffer<[UInt8], [UInt8]>
    private let sink = NaiveSink()

    init(bound: DedupeBufferConfiguration.Bound<[UInt8]>? = nil, batchSize: Int = 100) {
        var configuration = DedupeBufferConfiguration(batchSize: batchSize)
        configuration.skipsUnchangedRevisions = true
        buffer = DedupeBuffer(configuration: configuration, bound: bound)
    }

    /// Performs what concerns the buffer, and delivers everything.
    func perform(_ actions: [SyncerAction]) {
        for action in actions { put(action) }
        flush()
    }

    func put(_ action: SyncerAction) {
        switch action {
        case .restart: buffer.onConnectionRestarted()
        case .status(let status): buffer.onStatusUpdated(status)
        case .deliver(let updates): buffer.onUpdates(updates)
        default: break
        }
    }

    /// Delivers one batch. Returns whether there was one.
    @discardableResult
    func deliver() -> Bool {
        do throws(DedupeBufferError) {
            try buffer.sendNextBatchToSink(sink)
            return true
        } catch {
            return false
        }
    }

    func flush() { while deliver() {} }

    var state: [String: String] {
        Dictionary(
            uniqueKeysWithValues: sink.state.map {
                (String(decoding: $0.key, as: UTF8.self), String(decoding: $0.value, as: UTF8.self))
            })
    }
    var rawState: [[UInt8]: [UInt8]] { sink.state }
    var faults: [String] { sink.faults }
    var status: SyncStatus? { sink.status }
    var updates: [Update<[UInt8], [UInt8]>] {
        get { sink.updates }
        set { sink.updates = newValue }
    }
}

/// Keeps what a downstream would, and finds updates whose type is wrong or that go back in time.
///
/// `@unchecked`: used by one thread.
final class NaiveSink: SyncerCallbacks, @unchecked Sendable {
    var state: [[UInt8]: [UInt8]] = [:]
    var revisions: [[UInt8]: UInt64] = [:]
    var status: SyncStatus?
    var updates: [Update<[UInt8], [UInt8]>] = []
    var faults: [String] = []

    func onStatusUpdated(_ status: SyncStatus) { self.status = status }

    func onUpdates(_ list: [Update<[UInt8], [UInt8]>]) {
        updates += list
        for update in list { apply(update) }
    }

    private func apply(_ update: Update<[UInt8], [UInt8]>) {
        let right: UpdateType = update.value == nil ? .deleted : state[update.key] == nil ? .new : .updated
        if update.updateType != right { faults.append("\(update.short): \(update.updateType), must be \(right)") }
        // A deletion that a resync found has no revision.
        if update.revision != 0 {
            if let last = revisions[update.key], last > update.revision {
                faults.append("\(update.short) came after revision \(last)")
            }
            revisions[update.key] = max(update.revision, revisions[update.key] ?? 0)
        }
        state[update.key] = update.value
    }
}
