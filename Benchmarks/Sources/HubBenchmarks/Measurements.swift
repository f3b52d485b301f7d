// SPDX-License-Identifier: Apache-2.0

import CMeasure
import DedupeBuffer
import DedupeBufferHub
import Foundation

/// Which of the subscribers read.
enum Reading: String, CaseIterable {
    case all = "all read"
    /// The others read when a round has been written; these after each call of 100.
    case keepingUp = "all keep up"
    case most = "a tenth stalls"
    case none = "all stall"

    func stalls(_ subscriber: Int) -> Bool {
        switch self {
        case .all, .keepingUp: false
        case .most: subscriber % 10 == 0
        case .none: true
        }
    }
}

struct Setting {
    var subscribers: Int
    var keys: Int
    var reading: Reading
}

struct Result {
    var name: String
    var setting: Setting
    /// Nanoseconds of processor time for each update that was put.
    var write: Double
    /// Nanoseconds for each update that was delivered; `nil`: none was.
    var delivery: Double?
    /// Delivered updates for each second of processor time, writing included.
    var perSecond: Double?
    /// Bytes for each subscriber, beside what the hub has without any.
    var memory: Double
}

/// The keys and the values that are sent, round and round in random order.
struct Stream {
    let keys: [String]
    private var order: [Int]
    private var next = 0

    init(keys count: Int) {
        keys = (0..<count).map { "/fleet/region-\($0 % 10)/sensor-\($0)" }
        var random = SystemRandomNumberGenerator()
        order = Array(0..<count).shuffled(using: &random)
    }

    mutating func call(_ count: Int) -> [BenchmarkUpdate] {
        (0..<count).map { _ in
            let key = keys[order[next]]
            next = (next + 1) % order.count
            return Update(key: key, value: Payload(stamp: measure_wall_time()))
        }
    }

    mutating func calls(updates: Int) -> [[BenchmarkUpdate]] {
        stride(from: 0, to: updates, by: 100).map { call(min(100, updates - $0)) }
    }
}

func timed(_ work: () -> Void) -> Double {
    let start = measure_thread_time()
    work()
    return Double(measure_thread_time() - start)
}

/// Bytes of this process that are in memory.
func resident() -> Double {
    let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)
    let pages = text?.split(separator: " ").dropFirst().first.flatMap { Double($0) } ?? 0
    return pages * Double(sysconf(Int32(_SC_PAGESIZE)))
}

/// One setting with one subject.
func measureSetting<Subject: FanOut>(_ type: Subject.Type, _ setting: Setting, rounds: Int) -> Result {
    measure_settle()
    var stream = Stream(keys: setting.keys)
    let subject = Subject()
    for call in stream.calls(updates: setting.keys) { subject.put(call) }
    measure_settle()
    let before = resident()
    for _ in 0..<setting.subscribers { subject.addSubscriber() }
    for i in 0..<setting.subscribers { _ = subject.drain(i) }

    let perRound = setting.reading == .keepingUp ? 1000 : min(setting.keys, 10_000)
    let perStep = setting.reading == .keepingUp ? 100 : perRound
    var (writes, deliveries) = ([Double](), [Double]())
    var delivered = 0
    for _ in 0..<rounds {
        var (write, delivery) = (0.0, 0.0)
        for _ in 0..<(perRound / perStep) {
            let calls = stream.calls(updates: perStep)
            write += timed { for call in calls { subject.put(call) } }
            guard setting.reading != .none else { continue }
            delivery += timed {
                for i in 0..<setting.subscribers where !setting.reading.stalls(i) { delivered += subject.drain(i) }
            }
        }
        writes.append(write)
        deliveries.append(delivery)
    }
    // All keys are pending for those that stall, and these have moved by one batch.
    if setting.reading == .most || setting.reading == .none {
        for call in stream.calls(updates: setting.keys) { subject.put(call) }
        for i in 0..<setting.subscribers where setting.reading.stalls(i) { _ = subject.step(i) }
        for i in 0..<setting.subscribers where !setting.reading.stalls(i) { _ = subject.drain(i) }
    }
    measure_settle()
    let memory = (resident() - before) / Double(setting.subscribers)
    let all = writes.reduce(0, +) + deliveries.reduce(0, +)
    // The median, because the first round makes room for what stays.
    let write = writes.sorted()[writes.count / 2] / Double(perRound)
    return Result(
        name: Subject.name, setting: setting, write: write,
        delivery: delivered == 0 ? nil : deliveries.reduce(0, +) / Double(delivered),
        perSecond: delivered == 0 ? nil : Double(delivered) / all * 1e9, memory: memory)
}

/// What writing costs a hub whose subscribers have all stalled.
func measureStalledWrites(subscribers: Int, keys: Int, call: Int) -> Double {
    var stream = Stream(keys: keys)
    let hub = DedupeHub<String, Payload>()
    for call in stream.calls(updates: keys) { hub.onUpdates(call) }
    let subscriptions = (0..<subscribers).map { _ in hub.subscribe(onReady: {}) }
    for subscription in subscriptions { _ = try? subscription.take() }
    var times: [Double] = []
    for _ in 0..<9 {
        let calls = (0..<(100_000 / call)).map { _ in stream.call(call) }
        times.append(timed { for call in calls { hub.onUpdates(call) } } / 100_000)
    }
    withExtendedLifetime(subscriptions) {}
    return times.sorted()[4]
}
