// SPDX-License-Identifier: Apache-2.0

import CMeasure
import DedupeBuffer
import DedupeBufferHub
import Foundation
import Synchronization

/// How old updates are when they are delivered, with subscribers that are tasks, and a source that
/// sends at a fixed rate.
struct Ages {
    var median: Double
    var percentile99: Double
    var count: Int
}

/// Counts of ages, in steps of about 3 %.
final class Histogram: Sendable {
    private let counts = (0..<2048).map { _ in Counter() }

    private final class Counter: Sendable {
        let count = Atomic<Int>(0)
    }

    func add(_ nanoseconds: UInt64) {
        let place = Int(log2(Double(max(nanoseconds, 1))) * 24)
        counts[min(place, 2047)].count.add(1, ordering: .relaxed)
    }

    var ages: Ages {
        let counts = counts.map { $0.count.load(ordering: .relaxed) }
        let all = counts.reduce(0, +)
        func percentile(_ fraction: Double) -> Double {
            var left = Int((Double(all) * fraction).rounded(.up))
            for (place, count) in counts.enumerated() {
                left -= count
                if left <= 0 { return exp2(Double(place) / 24) }
            }
            return 0
        }
        return Ages(median: percentile(0.5), percentile99: percentile(0.99), count: all)
    }
}

func measureAges(readers: Int, stalled: Int, keys: Int, updatesPerSecond: Int, seconds: Double) async -> Ages {
    var stream = Stream(keys: keys)
    let hub = DedupeHub<String, Payload>()
    for call in stream.calls(updates: keys) { hub.onUpdates(call) }
    let histogram = Histogram()
    let sleepers = (0..<stalled).map { _ in hub.subscribe(onReady: {}) }
    for sleeper in sleepers { _ = try? sleeper.take() }
    let isMeasuring = Switch()
    await withTaskGroup(of: Void.self) { group in
        for _ in 0..<readers {
            let subscription = hub.subscribe()
            group.addTask {
                do {
                    for try await delivery in subscription {
                        guard case .updates(let updates) = delivery.event, isMeasuring.isSet else { continue }
                        let now = measure_wall_time()
                        for update in updates { histogram.add(now - update.value!.stamp) }
                    }
                } catch {}
            }
        }
        // All have the first state.
        while hub.statistics.waitingSubscribers < readers { try? await Task.sleep(for: .milliseconds(10)) }
        isMeasuring.set()
        let calls = Int(Double(updatesPerSecond) * seconds / 10)
        await withCheckedContinuation { continuation in
            let source = stream
            Thread.detachNewThread {
                var stream = source
                let start = measure_wall_time()
                for i in 0..<calls {
                    let due = start + UInt64(i) * 10 * 1_000_000_000 / UInt64(updatesPerSecond)
                    let now = measure_wall_time()
                    if due > now { usleep(UInt32((due - now) / 1000)) }
                    hub.onUpdates(stream.call(10))
                }
                continuation.resume()
            }
        }
        hub.finish()
    }
    withExtendedLifetime(sleepers) {}
    return histogram.ages
}

final class Switch: Sendable {
    private let flag = Atomic<Bool>(false)
    var isSet: Bool { flag.load(ordering: .relaxed) }
    func set() { flag.store(true, ordering: .relaxed) }
}
