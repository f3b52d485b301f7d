// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import DedupeBufferHub
import Synchronization

/// A value of 32 bytes: an object, as decoded messages are.
final class Payload: Sendable {
    let stamp: UInt64
    let filling: (UInt64, UInt64, UInt64) = (0, 0, 0)

    init(stamp: UInt64) { self.stamp = stamp }
}

typealias BenchmarkUpdate = Update<String, Payload>

/// What is measured: a way to serve one source to many subscribers. Used by one thread.
protocol FanOut: AnyObject {
    static var name: String { get }
    init()
    func put(_ updates: [BenchmarkUpdate])
    func addSubscriber()
    /// Takes everything that there is for a subscriber, and returns the number of updates.
    func drain(_ subscriber: Int) -> Int
    /// Takes one batch.
    func step(_ subscriber: Int) -> Int
    var subscriberCount: Int { get }
}

/// Counts what it gets, and reads a word of each value.
final class CountingSink: SyncerCallbacks {
    typealias Key = String
    typealias Value = Payload

    private let total = Atomic<Int>(0)
    private let stamps = Atomic<UInt64>(0)

    var count: Int { total.load(ordering: .relaxed) }

    func onUpdates(_ updates: [BenchmarkUpdate]) {
        var sum: UInt64 = 0
        for update in updates { sum &+= update.value?.stamp ?? 0 }
        stamps.wrappingAdd(sum, ordering: .relaxed)
        total.wrappingAdd(updates.count, ordering: .relaxed)
    }

    func onStatusUpdated(_ status: SyncStatus) {}
}

/// The library's hub.
final class HubFanOut: FanOut {
    static let name = "hub"

    let hub = DedupeHub<String, Payload>()
    private var subscriptions: [DedupeHubSubscription<String, Payload>] = []
    private var sum: UInt64 = 0

    func put(_ updates: [BenchmarkUpdate]) { hub.onUpdates(updates) }

    func addSubscriber() { subscriptions.append(hub.subscribe(onReady: {})) }

    func drain(_ subscriber: Int) -> Int {
        var count = 0
        while true {
            let taken = step(subscriber)
            if taken == 0 { return count }
            count += taken
        }
    }

    func step(_ subscriber: Int) -> Int {
        guard case .batch(let deliveries)? = try? subscriptions[subscriber].take() else { return 0 }
        var count = 0
        for delivery in deliveries {
            guard case .updates(let updates) = delivery.event else { continue }
            for update in updates { sum &+= update.value?.stamp ?? 0 }
            count += updates.count
        }
        return count
    }

    var subscriberCount: Int { subscriptions.count }
}

/// A buffer for each subscriber.
final class BufferFanOut: FanOut {
    static let name = "buffers"

    private var buffers: [DedupeBuffer<String, Payload>] = []
    private var state: [String: BenchmarkUpdate] = [:]
    private let sink = CountingSink()

    func put(_ updates: [BenchmarkUpdate]) {
        for update in updates { state[update.key] = update.value == nil ? nil : update }
        for buffer in buffers { buffer.onUpdates(updates) }
    }

    func addSubscriber() {
        let buffer = DedupeBuffer<String, Payload>()
        buffer.onUpdates(Array(state.values))
        buffers.append(buffer)
    }

    func drain(_ subscriber: Int) -> Int {
        let before = sink.count
        while (try? buffers[subscriber].sendNextBatchToSink(sink)) != nil {}
        return sink.count - before
    }

    func step(_ subscriber: Int) -> Int {
        let before = sink.count
        try? buffers[subscriber].sendNextBatchToSink(sink)
        return sink.count - before
    }

    var subscriberCount: Int { buffers.count }
}
