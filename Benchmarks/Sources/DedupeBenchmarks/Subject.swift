// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch
import Foundation
import Synchronization

/// What is measured: the library's buffer, or the yardstick.
protocol Subject: AnyObject, Sendable {
    static func make() -> Self
    func onUpdates(_ updates: [BenchmarkUpdate])
    func update(_ key: String, to value: Payload)
    func onStatusUpdated(_ status: SyncStatus)
    func onConnectionRestarted()
    func sendNextBatchToSink(_ sink: some SyncerCallbacks<String, Payload>) throws(DedupeBufferError)
    /// Delivers to `sink` from now on; returns at once.
    func start(_ sink: some SyncerCallbacks<String, Payload>) throws
    func stop()
}

extension DedupeBuffer: Subject where Key == String, Value == Payload {
    static func make() -> Self { Self() }

    func update(_ key: String, to value: Payload) { update(key, to: value, revision: 0) }

    func start(_ sink: some SyncerCallbacks<String, Payload>) throws {
        try startSending(to: sink)
    }
}

extension DedupeBuffer where Key == String, Value == Payload {
    @inline(__always)
    func put(_ updates: [BenchmarkUpdate], pins: [Pin], call: Int) {
        guard call == 1 else { return onUpdates(updates, pins: pins) }
        for i in updates.indices { update(pins[i], to: updates[i].value!) }
    }
}

extension PlainBuffer: Subject where Value == Payload {
    static func make() -> Self { Self() }

    /// As in the original: a thread (there, a goroutine) that waits when there is nothing.
    func start(_ sink: some SyncerCallbacks<String, Payload>) {
        Thread.detachNewThread { self.sendToSinkForever(sink) }
    }
}

extension Subject {
    /// Puts what an array of the stream has, in calls of the stream's size.
    @inline(__always)
    func put(_ updates: [BenchmarkUpdate], call: Int) {
        guard call == 1 else { return onUpdates(updates) }
        for update in updates { self.update(update.key, to: update.value!) }
    }

    /// Delivers all that is pending.
    func drain(to sink: some SyncerCallbacks<String, Payload>) {
        while (try? sendNextBatchToSink(sink)) != nil {}
    }
}

typealias OurBuffer = DedupeBuffer<String, Payload>
typealias YardstickBuffer = PlainBuffer<Payload>

/// Does nothing but count its calls' updates: one addition for a hundred of them.
final class EmptySink: SyncerCallbacks {
    typealias Key = String
    typealias Value = Payload

    private let total = Atomic<Int>(0)

    var count: Int { total.load(ordering: .relaxed) }

    func onUpdates(_ updates: [BenchmarkUpdate]) {
        total.wrappingAdd(updates.count, ordering: .relaxed)
    }

    func onStatusUpdated(_ status: SyncStatus) {}
}
