// SPDX-License-Identifier: Apache-2.0

// What the tests of the hub share: events that compare, a subscriber that keeps its state, waits
// that cannot hang a test.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

@testable import DedupeBufferHub

typealias Hub = DedupeHub<String, Int>
typealias Subscription = DedupeHubSubscription<String, Int>
typealias Position = DedupeHubPosition

/// Seconds until a wait is given up. Reached only by a fault.
let patience =
    ProcessInfo.processInfo.environment["DEDUPE_TEST_PATIENCE"].flatMap(Double.init) ?? (longTests ? 600 : 60)

/// Set `DEDUPE_LONG_TESTS` for ten times the rounds.
let longTests = ProcessInfo.processInfo.environment["DEDUPE_LONG_TESTS"] != nil

/// `count` rounds, ten times as many in long mode.
func rounds(_ count: Int) -> Int { longTests ? 10 * count : count }

// MARK: - Events

/// One update as a subscriber received it.
struct Item<Key: DedupeKey & Equatable, Value: Sendable & Equatable>: Equatable, Sendable, CustomStringConvertible {
    var key: Key
    var value: Value?
    var revision: UInt64
    var type: UpdateType

    static func new(_ key: Key, _ value: Value, revision: UInt64 = 0) -> Self {
        Self(key: key, value: value, revision: revision, type: .new)
    }

    static func updated(_ key: Key, _ value: Value, revision: UInt64 = 0) -> Self {
        Self(key: key, value: value, revision: revision, type: .updated)
    }

    static func deleted(_ key: Key, revision: UInt64 = 0) -> Self {
        Self(key: key, value: nil, revision: revision, type: .deleted)
    }

    var description: String {
        let shown = value.map { "\($0)" } ?? "nil"
        return "\(type) \(key)=\(shown)" + (revision == 0 ? "" : "@\(revision)")
    }
}

/// One event of a subscriber.
enum Event<Key: DedupeKey & Equatable, Value: Sendable & Equatable>: Equatable, Sendable, CustomStringConvertible {
    case updates([Item<Key, Value>])
    case status(SyncStatus)
    case restart

    init(_ event: DedupeHubEvent<Key, Value>) {
        switch event {
        case .updates(let updates):
            self = .updates(
                updates.map { Item(key: $0.key, value: $0.value, revision: $0.revision, type: $0.updateType) })
        case .status(let status): self = .status(status)
        case .restart: self = .restart
        }
    }

    var description: String {
        switch self {
        case .updates(let items): "updates(\(items.map(\.description).joined(separator: ", ")))"
        case .status(let status): "status(\(status))"
        case .restart: "restart"
        }
    }
}

extension DedupeHub {
    /// Returns when all that sleep have been woken of which the hub knows now.
    func settleWaker() { core.sleepers.queue.sync {} }

    func put(_ key: Key, _ value: Value?, revision: UInt64 = 0) {
        onUpdates([Update(key: key, value: value, revision: revision)])
    }
}

extension DedupeHubSubscription where Key: Equatable, Value: Equatable {
    /// The events of one batch; `nil`: there was nothing.
    func events() throws -> [Event<Key, Value>]? {
        guard case .batch(let deliveries) = try take() else { return nil }
        return deliveries.map { Event($0.event) }
    }

    /// The events of all batches that there are now.
    func allEvents() throws -> [Event<Key, Value>] {
        var all: [Event<Key, Value>] = []
        while let events = try events() { all += events }
        return all
    }
}

/// What a subscriber makes of its events. It notes what no subscriber may see.
struct Picture: Equatable {
    var state: [String: Int] = [:]
    var status: SyncStatus?
    var position: Position?
    var faults: [String] = []
    /// Whether types were told exactly; not after a resume in the middle.
    var isExact = true

    mutating func see(_ delivery: DedupeHubDelivery<String, Int>) {
        switch delivery.event {
        // The subscriber forgets keys and values, and still shows the status.
        case .restart: (state, isExact) = ([:], true)
        case .status(let status): self.status = status
        case .updates(let updates):
            if updates.isEmpty { faults.append("no updates") }
            for update in updates { see(update) }
        }
        if let position, position.epoch == delivery.position.epoch, delivery.position.revision < position.revision,
            delivery.position.revision > 0
        {
            faults.append("from position \(position) back to \(delivery.position)")
        }
        position = delivery.position
    }

    private mutating func see(_ update: Update<String, Int>) {
        let old = state[update.key]
        switch update.updateType {
        case .new: if old != nil && isExact { faults.append("new \(update.key), which was there") }
        case .updated: if old == nil && isExact { faults.append("updated \(update.key), which was not there") }
        case .deleted: if old == nil && isExact { faults.append("deleted \(update.key), which was not there") }
        case .unknown: faults.append("a type that is not known")
        }
        if (update.updateType == .deleted) != (update.value == nil) { faults.append("\(update)") }
        state[update.key] = update.value
    }
}

// MARK: - Configurations

func configuration(
    log: Int = 65_536, batch: Int = 100, tombstones: Int = 65_536, grows: Bool = false,
    steps: DedupeHubConfiguration.Steps = .init()
) -> DedupeHubConfiguration {
    var configuration = DedupeHubConfiguration()
    configuration.changeLogCapacity = log
    configuration.batchSize = batch
    configuration.maximumTombstones = tombstones
    configuration.growsChangeLog = grows
    configuration.steps = steps
    return configuration
}

// MARK: - Waiting

/// A wait that reached `patience`: something that had to happen did not.
struct Stuck: Error, CustomStringConvertible {
    var what: String
    var description: String { "stuck: \(what)" }
}

extension DispatchSemaphore {
    /// Waits for a signal, at most `patience`.
    func wait(for what: String) throws {
        if wait(timeout: .now() + patience) == .timedOut { throw Stuck(what: what) }
    }
}

/// Calls `body` on another thread and waits for it: a deadlock fails the test and does not hang the
/// run.
final class Worker<Result: Sendable>: @unchecked Sendable {
    private let what: String
    private let ended = DispatchSemaphore(value: 0)
    private let lock = NSLock()
    private var result: Swift.Result<Result, any Error>?

    init(_ what: String, _ body: @escaping @Sendable () throws -> Result) {
        self.what = what
        let thread = Thread { [ended, self] in
            let outcome = Swift.Result { try body() }
            lock.withLock { self.result = outcome }
            ended.signal()
        }
        thread.start()
    }

    /// Waits for the call to return, and hands on what it returned or threw.
    @discardableResult
    func join() throws -> Result {
        try ended.wait(for: what)
        ended.signal()
        return try lock.withLock { result! }.get()
    }
}

/// Fails by name if `body` takes longer than `patience`.
func bounded<Result: Sendable>(
    _ what: String, _ body: @escaping @Sendable () async throws -> Result
) async throws -> Result {
    try await withThrowingTaskGroup(of: Result.self) { group in
        group.addTask { try await body() }
        group.addTask {
            try await Task.sleep(for: .seconds(patience))
            throw Stuck(what: what)
        }
        defer { group.cancelAll() }
        return try await group.next()!
    }
}

/// A value behind a lock that ThreadSanitizer sees.
final class Kept<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var kept: Value

    init(_ value: Value) { kept = value }

    var value: Value { lock.withLock { kept } }

    @discardableResult
    func change<R>(_ body: (inout Value) -> R) -> R { lock.withLock { body(&kept) } }
}

extension Kept<Bool> {
    /// Whether it was true; from then on it is false.
    func takeTrue() -> Bool {
        change { value in
            defer { value = false }
            return value
        }
    }
}

// MARK: - Random numbers

/// SplitMix64.
struct Random: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
    mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
}
