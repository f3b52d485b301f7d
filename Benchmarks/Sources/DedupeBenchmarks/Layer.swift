// SPDX-License-Identifier: Apache-2.0

import CDedupe
import CMeasure
import CoreMetrics
import DedupeBuffer
import Foundation
import Logging

/// The Swift layer alone: what updates cost through `onUpdates` for a thousand keys, which stay in
/// the cache, and how often it asks for memory.
///
/// Times are for reading; next to them stands the core's own, see ``measureCore(_:)``. Counts of
/// allocations do not depend on the machine, and are compared with the thresholds that are
/// committed.
enum Layer {
    struct Measurement: Codable {
        var name: String
        var nanoseconds: Double?
        var allocations: Double
    }

    /// A value that is a struct of a few words.
    struct Point: Sendable {
        var x: Int
        var y: Int
    }

    @Sendable static func merged(_ older: Payload, _ newer: Payload) -> Payload {
        Payload(stamp: max(older.stamp, newer.stamp))
    }

    @Sendable static func merged(_ older: Point, _ newer: Point) -> Point {
        Point(x: older.x &+ newer.x, y: max(older.y, newer.y))
    }

    static func run(repetitions: Int) -> [Measurement] {
        measureCore(repetitions) + measure("class", repetitions) { Payload(stamp: UInt64($0)) }
            + measure("observed-class", repetitions, observed) { Payload(stamp: UInt64($0)) }
            + measure("struct", repetitions) { Point(x: $0, y: $0) }
            + measure("merged-class", repetitions, merge: Self.merged) { Payload(stamp: UInt64($0)) }
            + measure("merged-struct", repetitions, merge: Self.merged) { Point(x: $0, y: $0) }
    }

    /// With a logger that passes over what is logged for each call, and metrics that go nowhere:
    /// what watching itself costs.
    private static var observed: DedupeBufferConfiguration {
        var logger = Logger(label: "benchmark") { _ in SwiftLogNoOpLogHandler() }
        logger.logLevel = .info
        var configuration = DedupeBufferConfiguration()
        configuration.logger = logger
        configuration.metrics = .init(factory: NOOPMetricsHandler.instance)
        return configuration
    }

    private static func measure<Value: Sendable>(
        _ name: String, _ repetitions: Int, _ configuration: DedupeBufferConfiguration = .init(),
        merge: (@Sendable (Value, Value) -> Value)? = nil, _ make: (Int) -> Value
    ) -> [Measurement] {
        let keys = (0..<1000).map { "/registry/pods/namespace-\($0 % 10)/pod-\($0)" }
        // Strings and values of its own for each update, as a client that decodes messages has
        // them.
        let rounds = (0..<4).map { round in
            keys.map { Update(key: String(decoding: Array($0.utf8), as: UTF8.self), value: make(round)) }
        }
        let calls = rounds.flatMap { all in
            stride(from: 0, to: all.count, by: 100).map { Array(all[$0..<($0 + 100)]) }
        }
        let buffer = DedupeBuffer<String, Value>(configuration: configuration, merge: merge)
        let sink = Forgetting<Value>()
        func replace() { for call in calls { buffer.onUpdates(call) } }
        func cycle() {
            for call in calls.prefix(10) { buffer.onUpdates(call) }
            while (try? buffer.sendNextBatchToSink(sink)) != nil {}
        }
        for _ in 0..<3 { cycle() }
        let cycles = count(1000) { cycle() }
        for _ in 0..<3 { replace() }
        let replaced = count(calls.count * 100) { replace() }
        var times = Series()
        for _ in 0..<repetitions {
            times.add(timed { for _ in 0..<100 { replace() } } / Double(100 * calls.count * 100))
        }
        return [
            Measurement(name: "replace-\(name)", nanoseconds: times.median, allocations: replaced),
            // The array that a sink is given is allocated: one for each batch.
            Measurement(name: "cycle-\(name)", nanoseconds: nil, allocations: cycles),
        ]
    }

    /// The same with the C core alone: keys that lie there as bytes, and payloads of eight bytes
    /// that are written.
    private static func measureCore(_ repetitions: Int) -> [Measurement] {
        var buffer: OpaquePointer?
        guard cdedupe_create(nil, &buffer) == CDEDUPE_OK, let buffer else { return [] }
        defer { cdedupe_destroy(buffer) }
        let keys = (0..<1000).map { Array("/registry/pods/namespace-\($0 % 10)/pod-\($0)".utf8) }
        // Memory without owners or checks: what a program in C would do.
        let bytes = UnsafeMutablePointer<UInt8>.allocate(capacity: keys.reduce(0) { $0 + $1.count })
        let updates = UnsafeMutablePointer<cdedupe_update_t>.allocate(capacity: 1000)
        let slots = UnsafeMutablePointer<cdedupe_slot_t>.allocate(capacity: 100)
        defer {
            bytes.deallocate()
            updates.deallocate()
            slots.deallocate()
        }
        var end = bytes
        for (i, key) in keys.enumerated() {
            end.initialize(from: key, count: key.count)
            updates[i] = cdedupe_update_t()
            updates[i].key = UnsafeRawPointer(end)
            updates[i].key_length = key.count
            end += key.count
        }
        func replace() {
            for start in stride(from: 0, to: 1000, by: 100) {
                let share = updates + start
                cdedupe_acquire(buffer, slots, 100)
                for i in 0..<100 {
                    cdedupe_payload(buffer, slots[i]).storeBytes(of: start, as: Int.self)
                    share[i].slot = slots[i]
                }
                cdedupe_put(buffer, share, 100)
                for i in 0..<100 { slots[i] = share[i].displaced }
                cdedupe_discard(buffer, slots, 100)
            }
        }
        for _ in 0..<3 { replace() }
        let replaced = count(1000) { replace() }
        var times = Series()
        for _ in 0..<repetitions { times.add(timed { for _ in 0..<400 { replace() } } / 400_000) }
        return [Measurement(name: "replace-core", nanoseconds: times.median, allocations: replaced)]
    }

    private static func count(_ updates: Int, _ work: () -> Void) -> Double {
        let start = allocations()
        work()
        return Double(allocations() - start) / Double(updates)
    }

    private struct Forgetting<Value: Sendable>: SyncerCallbacks {
        func onUpdates(_ updates: [Update<String, Value>]) {}
        func onStatusUpdated(_ status: SyncStatus) {}
    }

    /// Prints the measurements; says whether all are within the thresholds in the file.
    static func check(_ measurements: [Measurement], against path: String?) throws -> Bool {
        let limits =
            try path.map {
                try JSONDecoder().decode([String: Double].self, from: Data(contentsOf: URL(fileURLWithPath: $0)))
            } ?? [:]
        var isWithin = true
        for measurement in measurements {
            let time = measurement.nanoseconds.map { String(format: "%6.1f ns/update", $0) } ?? ""
            var line = String(format: "%@  %.4f allocations/update", measurement.name, measurement.allocations)
            if path != nil {
                guard let limit = limits[measurement.name] else {
                    print("\(measurement.name): no threshold")
                    isWithin = false
                    continue
                }
                let exceeds = measurement.allocations > limit
                isWithin = isWithin && !exceeds
                line += String(format: ", at most %.4f%@", limit, exceeds ? ": EXCEEDED" : "")
            }
            print("\(line)  \(time)")
        }
        return isWithin
    }
}
