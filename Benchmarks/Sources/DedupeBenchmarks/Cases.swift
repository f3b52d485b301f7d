// SPDX-License-Identifier: Apache-2.0

import CMeasure
import DedupeBuffer
import Foundation
import Synchronization

struct Parameters: Sendable {
    var repetitions = 5
    /// How long one repetition of a throughput lasts.
    var seconds = 0.25
    /// A round with few keys is repeated until it has had as many.
    var smallUpdates = 100_000
    var growRounds = 20
    /// Samples of the wake-up latency.
    var wakes = 2000
    var seed: UInt64 = 1
    var keyCounts = [10, 100, 1000, 100_000, 1_000_000]

    static var quick: Parameters {
        var parameters = Parameters()
        parameters.repetitions = 3
        parameters.seconds = 0.06
        parameters.smallUpdates = 30_000
        parameters.wakes = 500
        parameters.keyCounts = [10, 100, 1000, 100_000]
        return parameters
    }
}

/// The cases. Each measures both sides in turns, and adds medians.
struct Cases {
    let parameters: Parameters
    var results = Results()

    /// Does the work for both sides, `count` times; the side that goes first changes from one time
    /// to the next, so that neither always finds the machine warm.
    private func inTurns(_ count: Int, ours: (Int) throws -> Void, plain: (Int) throws -> Void) rethrows {
        for i in 0..<count {
            if i % 2 == 0 { try ours(i) }
            try plain(i)
            if i % 2 == 1 { try ours(i) }
        }
    }

    // MARK: - Replacing

    /// Replacing what is pending; the sink has stalled.
    mutating func replace(_ setting: Setting) {
        let streams = (0..<setting.threads).map { Stream(setting, seed: parameters.seed + UInt64($0)) }
        let first = Stream.first(setting, seed: parameters.seed)
        let ours = Self.offerers(OurBuffer.make(), first, streams)
        let plain = Self.offerers(YardstickBuffer.make(), first, streams)
        var rates = Both<Series>()
        inTurns(parameters.repetitions) { _ in
            rates.ours.add(Self.rate(ours[...], parameters.seconds))
        } plain: { _ in
            rates.plain.add(Self.rate(plain[...], parameters.seconds))
        }
        if setting.threads == 1 {
            results.add(
                Result(
                    "replace", setting, "ns/update", ours: rates.ours.median.map { 1 / $0 },
                    plain: rates.plain.median.map { 1 / $0 }))
        } else {
            results.add(
                Result(
                    "replace", setting, "M/s", better: .higher, ours: rates.ours.median.map { 1e3 * $0 },
                    plain: rates.plain.median.map { 1e3 * $0 }))
        }
    }

    /// Replacing for all kinds of calls, as in the C program.
    mutating func replacing(_ keyCount: Int) {
        for keySize in [BenchmarkKey.shortSize, BenchmarkKey.longSize] {
            for call in [1, 10, callSize] where call != 10 || keyCount == 1000 {
                replace(Setting(keys: keyCount, keySize: keySize, call: call))
            }
        }
        for threads in [2, 4, 8] where keyCount >= 1000 {
            replace(Setting(keys: keyCount, call: 1, threads: threads))
            replace(Setting(keys: keyCount, threads: threads))
        }
    }

    /// Producers for a buffer in which all keys are pending.
    private static func offerers<S: Subject>(_ buffer: S, _ first: Stream, _ streams: [Stream]) -> [Offerer<S>] {
        for call in first.calls { buffer.onUpdates(call) }
        return streams.map { Offerer(buffer, $0) }
    }

    /// Replacing by pins, which the producer has for all keys; the yardstick gets keys.
    mutating func pinned(_ setting: Setting) {
        let stream = Stream(setting, seed: parameters.seed)
        let buffer = OurBuffer.make()
        let keys = Dictionary(grouping: stream.calls.joined(), by: \.key).keys
        let pins = Dictionary(uniqueKeysWithValues: keys.map { ($0, buffer.pin($0)) })
        let calls = stream.calls.map { updates in (updates, updates.map { pins[$0.key]! }) }
        let plain = Offerer(YardstickBuffer.make(), stream)
        var rates = Both<Series>()
        inTurns(parameters.repetitions) { _ in
            let start = threadTime()
            var count = 0
            repeat {
                for (updates, pins) in calls { buffer.put(updates, pins: pins, call: setting.call) }
                count += calls.count * stream.arraySize
            } while Double(threadTime() - start) < parameters.seconds * 1e9
            rates.ours.add(Double(count) / Double(threadTime() - start))
        } plain: { _ in
            rates.plain.add(plain.offerAlone(parameters.seconds))
        }
        results.add(
            Result(
                "replace-pinned", setting, "ns/update", ours: rates.ours.median.map { 1 / $0 },
                plain: rates.plain.median.map { 1 / $0 }))
    }

    // MARK: - Small and short-lived buffers

    /// Buffers with few keys: from the creation to the last first insertion, and the whole life.
    mutating func fresh(_ setting: Setting) {
        let stream = Stream.first(setting, seed: parameters.seed)
        let rounds = parameters.smallUpdates / (setting.keys + 10)
        var fill = Both<Series>()
        var life = Both<Series>()
        inTurns(2 * parameters.repetitions) { _ in
            let times = Self.fresh(OurBuffer.self, stream, rounds)
            fill.ours.add(times.fill)
            life.ours.add(times.life)
        } plain: { _ in
            let times = Self.fresh(YardstickBuffer.self, stream, rounds)
            fill.plain.add(times.fill)
            life.plain.add(times.life)
        }
        results.add(
            Result("fresh-insert", setting, "ns/update", ours: fill.ours.median, plain: fill.plain.median))
        results.add(Result("fresh-life", setting, "ns/update", ours: life.ours.median, plain: life.plain.median))
    }

    private static func fresh<S: Subject>(
        _ subject: S.Type, _ stream: Stream, _ rounds: Int
    ) -> (fill: Double, life: Double) {
        var fill = 0.0
        var life = 0.0
        for _ in 0..<rounds {
            life += timed {
                var buffer: S?
                fill += timed {
                    let made = S.make()
                    for call in stream.calls { made.put(call, call: 1) }
                    buffer = made
                }
                buffer = nil
                _ = buffer
            }
        }
        let updates = Double(rounds * stream.keyCount)
        return (fill / updates, life / updates)
    }

    /// Updates per nanosecond.
    private static func rate<S: Subject>(_ offerers: ArraySlice<Offerer<S>>, _ seconds: Double) -> Double {
        if offerers.count == 1 { return offerers[0].offerAlone(seconds) }
        let running = RunningOfferers(Array(offerers))
        let start = wallTime()
        let before = running.count
        Thread.sleep(forTimeInterval: seconds)
        let updates = running.count - before
        let time = wallTime() - start
        running.stop()
        return Double(updates) / Double(time)
    }

    // MARK: - A buffer's life, step by step, on one thread

    private static let steps = [
        ("insert", "ns/update"), ("deliver", "ns/update"), ("requeue", "ns/update"), ("deliver-again", "ns/update"),
        ("restart", "us"), ("after-restart", "us"), ("in-sync", "us"),
    ]

    mutating func rounds(_ setting: Setting) {
        let keyCount = setting.keys
        let first = Stream.first(setting, seed: parameters.seed)
        let stream = Stream(setting, seed: parameters.seed, rounds: 1)
        let rounds = max(parameters.smallUpdates / keyCount, 1)
        var series = Array(repeating: Both<Series>(), count: Self.steps.count)
        inTurns(parameters.repetitions) { _ in
            for _ in 0..<rounds {
                for (i, value) in Self.round(OurBuffer.self, first, stream).enumerated() {
                    series[i].ours.add(value)
                }
            }
        } plain: { _ in
            for _ in 0..<rounds {
                for (i, value) in Self.round(YardstickBuffer.self, first, stream).enumerated() {
                    series[i].plain.add(value)
                }
            }
        }
        for (step, series) in zip(Self.steps, series) {
            results.add(Result(step.0, setting, step.1, ours: series.ours.median, plain: series.plain.median))
        }
    }

    private static func round<S: Subject>(_ subject: S.Type, _ first: Stream, _ stream: Stream) -> [Double] {
        let all = stream.calls
        let vanished = max(stream.allKeys / 10, 1)
        let perKey = 1 / Double(stream.keyCount)
        let sink = EmptySink()
        settle()
        let buffer = S.make()

        let insert = timed { for call in first.calls { buffer.onUpdates(call) } }
        let deliver = timed { buffer.drain(to: sink) }
        let requeue = timed { for call in all { buffer.onUpdates(call) } }
        let deliverAgain = timed { buffer.drain(to: sink) }
        precondition(sink.count == 2 * stream.keyCount, "not what should have been delivered")

        let restart = timed { buffer.onConnectionRestarted() }
        buffer.onStatusUpdated(.resyncInProgress)
        let seen = all.dropFirst(vanished)
        let afterRestart = timed { buffer.onUpdates(seen.first!) }
        for call in seen.dropFirst() { buffer.onUpdates(call) }
        buffer.drain(to: sink)
        let inSync = timed { buffer.onStatusUpdated(.inSync) }
        buffer.drain(to: sink)
        precondition(sink.count == 3 * stream.keyCount, "not what should have been delivered")
        return [
            insert * perKey, deliver * perKey, requeue * perKey, deliverAgain * perKey,
            restart / 1e3, afterRestart / 1e3, inSync / 1e3,
        ]
    }

    // MARK: - Memory

    /// What a key costs, its strings and values included: the source makes the updates, hands them
    /// over, and forgets them.
    mutating func memory(_ setting: Setting) {
        let keyCount = setting.keys
        // A few pages more or less are many bytes for each of a thousand keys.
        if keyCount < 100_000 || resident() == nil { return }
        var pending = Both<Series>()
        var live = Both<Series>()
        var order = Array(0..<keyCount)
        var random = Random(state: parameters.seed)
        order.shuffle(using: &random)
        inTurns(min(parameters.repetitions, 3)) { _ in
            let values = Self.memory(OurBuffer.self, order)
            pending.ours.add(values.pending)
            live.ours.add(values.live)
        } plain: { _ in
            let values = Self.memory(YardstickBuffer.self, order)
            pending.plain.add(values.pending)
            live.plain.add(values.live)
        }
        results.add(
            Result(
                "resident-pending", setting, "bytes/key",
                ours: pending.ours.median, plain: pending.plain.median))
        results.add(
            Result("resident-live", setting, "bytes/key", ours: live.ours.median, plain: live.plain.median))
    }

    private static func memory<S: Subject>(_ subject: S.Type, _ order: [Int]) -> (pending: Double, live: Double) {
        settle()
        let start = resident()!
        let buffer = S.make()
        for i in stride(from: 0, to: order.count, by: callSize) {
            buffer.onUpdates(Stream.call(order[i..<i + callSize], keySize: BenchmarkKey.longSize))
        }
        settle()
        let pending = resident()! - start
        buffer.drain(to: EmptySink())
        settle()
        let live = resident()! - start
        return (pending / Double(order.count), live / Double(order.count))
    }

    /// What a small buffer takes: made, with one key, and after it has delivered that key in a loop
    /// of its own.
    mutating func smallBuffers() throws {
        if resident() == nil { return }
        let ours = try Self.smallBuffers(OurBuffer.self)
        let plain = try Self.smallBuffers(YardstickBuffer.self)
        let setting = Setting(keys: 1, call: 1)
        for (i, name) in ["resident-empty", "resident-one-key", "resident-delivering"].enumerated() {
            // The yardstick's loop is a thread, which is not what is compared.
            results.add(Result(name, setting, "bytes/buffer", ours: ours[i], plain: i < 2 ? plain[i] : nil))
        }
    }

    private static func smallBuffers<S: Subject>(_ subject: S.Type) throws -> [Double] {
        let count = 4000
        let sink = EmptySink()
        let updates = (0..<count).map { Update(key: BenchmarkKey.make($0), value: Payload(stamp: UInt64($0))) }
        settle()
        let start = resident()!
        func each() -> Double { Double(resident()! - start) / Double(count) }

        let buffers = (0..<count).map { _ in S.make() }
        let empty = each()
        for (buffer, update) in zip(buffers, updates) { buffer.update(update.key, to: update.value!) }
        let oneKey = each()
        guard let ours = buffers as? [OurBuffer] else { return [empty, oneKey] }
        for buffer in ours { try buffer.startSending(to: sink) }
        while sink.count < count { Thread.sleep(forTimeInterval: 1e-3) }
        let delivering = each()
        for buffer in ours { buffer.finishAndWait() }
        return [empty, oneKey, delivering]
    }

    // MARK: - Producer and sink together

    /// One producer and a sink that does nothing, each as fast as it can.
    mutating func together(_ setting: Setting) throws {
        let first = Stream.first(setting, seed: parameters.seed)
        let stream = Stream(setting, seed: parameters.seed)
        var offered = Both<Series>()
        var delivered = Both<Series>()
        var conflation = Both<Series>()
        try inTurns(parameters.repetitions) { _ in
            let rates = try Self.together(OurBuffer.make(), first, stream, parameters.seconds)
            offered.ours.add(rates.offered)
            delivered.ours.add(rates.delivered)
            conflation.ours.add(rates.offered / rates.delivered)
        } plain: { _ in
            let rates = try Self.together(YardstickBuffer.make(), first, stream, parameters.seconds)
            offered.plain.add(rates.offered)
            delivered.plain.add(rates.delivered)
            conflation.plain.add(rates.offered / rates.delivered)
        }
        results.add(
            Result(
                "together-offered", setting, "M/s", better: .higher, ours: offered.ours.median,
                plain: offered.plain.median))
        results.add(
            Result(
                "together-delivered", setting, "M/s", better: .higher, ours: delivered.ours.median,
                plain: delivered.plain.median))
        results.add(
            Result(
                "together-conflation", setting, "offered/delivered", better: .neither,
                ours: conflation.ours.median, plain: conflation.plain.median))
    }

    /// Millions per second.
    private static func together<S: Subject>(
        _ buffer: S, _ first: Stream, _ stream: Stream, _ seconds: Double
    ) throws -> (offered: Double, delivered: Double) {
        let sink = EmptySink()
        // All keys are live: from here on the memory is there, and deliveries are updates.
        for call in first.calls { buffer.onUpdates(call) }
        buffer.drain(to: sink)
        try buffer.start(sink)
        let running = RunningOfferers([Offerer(buffer, stream)])
        let start = wallTime()
        let before = (running.count, sink.count)
        Thread.sleep(forTimeInterval: seconds)
        let offered = running.count - before.0
        let delivered = sink.count - before.1
        let time = Double(wallTime() - start)
        running.stop()
        buffer.stop()
        return (1e3 * Double(offered) / time, 1e3 * Double(delivered) / time)
    }

    // MARK: - Allocations

    /// In the steady state: replacing what is pending; and all keys, which are live, going in and
    /// out again.
    mutating func allocations(_ setting: Setting) {
        if !measure_can_count() { return }
        let stream = Stream(setting, seed: parameters.seed)
        let ours = Self.allocations(OurBuffer.make(), stream)
        let plain = Self.allocations(YardstickBuffer.make(), stream)
        results.add(
            Result(
                "allocations-replace", setting, "allocations/update", ours: ours.replace, plain: plain.replace))
        results.add(
            Result("allocations-cycle", setting, "allocations/update", ours: ours.cycle, plain: plain.cycle))
    }

    private static func allocations<S: Subject>(_ buffer: S, _ stream: Stream) -> (replace: Double, cycle: Double) {
        let sink = EmptySink()
        let all = stream.calls.prefix(stream.allKeys)
        func cycle() {
            for call in all { buffer.onUpdates(call) }
            buffer.drain(to: sink)
        }
        for _ in 0..<3 { cycle() }
        var start = DedupeBenchmarks.allocations()
        for _ in 0..<3 { cycle() }
        let cycles = Double(DedupeBenchmarks.allocations() - start) / Double(3 * stream.keyCount)

        for call in all { buffer.onUpdates(call) }
        start = DedupeBenchmarks.allocations()
        for call in stream.calls { buffer.onUpdates(call) }
        let replace = Double(DedupeBenchmarks.allocations() - start) / Double(stream.calls.count * callSize)
        return (replace, cycles)
    }

    // MARK: - Growing

    /// How long single calls take while the buffer grows from nothing, its sink having stalled.
    mutating func grow(_ setting: Setting) {
        let stream = Stream.first(setting, seed: parameters.seed)
        var wall = Both<Series>()
        var running = Both<Series>()
        var longest = Both<Series>()
        inTurns(parameters.growRounds) { _ in
            Self.grow(OurBuffer.self, stream, &wall.ours, &running.ours, &longest.ours)
        } plain: { _ in
            Self.grow(YardstickBuffer.self, stream, &wall.plain, &running.plain, &longest.plain)
        }
        let names = ["grow-p50", "grow-p99", "grow-p99.9", "grow-p99.99", "grow-longest"]
        let fractions = [0.5, 0.99, 0.999, 0.9999, 1]
        let ours = wall.ours.percentiles(fractions)
        let plain = wall.plain.percentiles(fractions)
        for (i, name) in names.enumerated() {
            results.add(Result(name, setting, "us", ours: ours[i], plain: plain[i]))
        }
        results.add(
            Result("grow-longest-median", setting, "us", ours: longest.ours.median, plain: longest.plain.median))
        results.add(
            Result(
                "grow-longest-cpu", setting, "us", ours: running.ours.values.max(),
                plain: running.plain.values.max()))
    }

    private static func grow<S: Subject>(
        _ subject: S.Type, _ stream: Stream, _ wall: inout Series, _ running: inout Series, _ longest: inout Series
    ) {
        settle()
        let buffer = S.make()
        var roundLongest = 0.0
        for call in stream.calls {
            let runStart = threadTime()
            let start = wallTime()
            buffer.onUpdates(call)
            let time = Double(wallTime() - start) / 1e3
            let runTime = Double(threadTime() - runStart) / 1e3
            wall.add(time)
            running.add(runTime)
            roundLongest = max(roundLongest, time)
        }
        longest.add(roundLongest)
    }

    // MARK: - Waking

    /// From the update into an idle buffer to the sink, for which a thread has to be woken up.
    mutating func wake() throws {
        let ours = try Self.wake(OurBuffer.make(), parameters.wakes).percentiles([0.5, 0.99])
        let plain = try Self.wake(YardstickBuffer.make(), parameters.wakes).percentiles([0.5, 0.99])
        results.add(Result("wake-p50", Setting(keys: 1, call: 1), "us", ours: ours[0], plain: plain[0]))
        results.add(Result("wake-p99", Setting(keys: 1, call: 1), "us", ours: ours[1], plain: plain[1]))
    }

    private static func wake<S: Subject>(_ buffer: S, _ count: Int) throws -> Series {
        let sink = ListeningSink(capacity: count)
        let key = BenchmarkKey.make(1)
        try buffer.start(sink)
        for i in 0..<count {
            // Long enough that the loop has gone to sleep, and the processor too.
            Thread.sleep(forTimeInterval: 0.5e-3 + 10e-6 * Double(i % 50))
            buffer.onUpdates([Update(key: key, value: Payload(stamp: wallTime()))])
            while sink.count <= i { Thread.sleep(forTimeInterval: 50e-6) }
        }
        buffer.stop()
        return sink.delays
    }
}

/// Notes how old each value is when it arrives.
private final class ListeningSink: SyncerCallbacks {
    typealias Key = String
    typealias Value = Payload

    private let all: Mutex<[Double]>
    private let heard = Atomic<Int>(0)

    init(capacity: Int) {
        var delays: [Double] = []
        delays.reserveCapacity(capacity)
        all = Mutex(delays)
    }

    var count: Int { heard.load(ordering: .acquiring) }

    var delays: Series {
        var series = Series()
        all.withLock { for delay in $0 { series.add(delay) } }
        return series
    }

    func onUpdates(_ updates: [BenchmarkUpdate]) {
        let now = wallTime()
        all.withLock { all in
            for update in updates { all.append(Double(now - update.value!.stamp) / 1e3) }
        }
        heard.wrappingAdd(updates.count, ordering: .releasing)
    }

    func onStatusUpdated(_ status: SyncStatus) {}
}
