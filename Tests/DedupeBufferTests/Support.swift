// SPDX-License-Identifier: Apache-2.0

// What every test file uses: events that compare, sinks that record, threads that cannot hang a
// test.
//
// The locks here are Foundation's: the thread sanitizer sees through them, and not through `Mutex`.
//
// No test asserts a duration. Whatever waits does so through a condition or a semaphore with
// `patience` as its limit; when that is over the test fails with `Stuck` and the run goes on.

import DedupeBuffer
import Dispatch
import Foundation
import Synchronization
import Testing

/// Seconds until a wait is given up. Reached only by a fault; `DEDUPE_TEST_PATIENCE` sets another
/// limit.
let patience =
    ProcessInfo.processInfo.environment["DEDUPE_TEST_PATIENCE"].flatMap(Double.init) ?? (longTests ? 600 : 60)

/// Set `DEDUPE_LONG_TESTS` for ten times the rounds.
let longTests = ProcessInfo.processInfo.environment["DEDUPE_LONG_TESTS"] != nil

/// `count` rounds, ten times as many in long mode.
func rounds(_ count: Int) -> Int { longTests ? 10 * count : count }

// MARK: - Keys as bytes

/// A key's serialised bytes, as the library sees them.
func bytes(of key: some DedupeKey) -> [UInt8] {
    key.withKeyBytes { span in span.withUnsafeBytes { Array($0) } }
}

/// A key made from serialised bytes.
func key<Key: DedupeKey>(_ type: Key.Type = Key.self, from bytes: [UInt8]) -> Key? {
    Key(keyBytes: bytes.span.bytes)
}

// MARK: - Events

/// One update as a sink received it. Keys are compared by their bytes, as the contract does.
struct Item<Key: DedupeKey, Value: Sendable & Equatable>: Equatable, Sendable, CustomStringConvertible {
    var key: Key
    var value: Value?
    var revision: UInt64
    var type: UpdateType

    init(key: Key, value: Value?, revision: UInt64, type: UpdateType) {
        self.key = key
        self.value = value
        self.revision = revision
        self.type = type
    }

    init(_ update: Update<Key, Value>) {
        self.init(key: update.key, value: update.value, revision: update.revision, type: update.updateType)
    }

    static func new(_ key: Key, _ value: Value, revision: UInt64 = 0) -> Self {
        Self(key: key, value: value, revision: revision, type: .new)
    }

    static func updated(_ key: Key, _ value: Value, revision: UInt64 = 0) -> Self {
        Self(key: key, value: value, revision: revision, type: .updated)
    }

    static func deleted(_ key: Key, revision: UInt64 = 0) -> Self {
        Self(key: key, value: nil, revision: revision, type: .deleted)
    }

    static func == (left: Self, right: Self) -> Bool {
        left.type == right.type && left.revision == right.revision && left.value == right.value
            && bytes(of: left.key) == bytes(of: right.key)
    }

    var description: String {
        let shown = value.map { "\($0)" } ?? "nil"
        return "\(type) \(key)=\(shown)" + (revision == 0 ? "" : "@\(revision)")
    }
}

/// One call of a sink.
enum Event<Key: DedupeKey, Value: Sendable & Equatable>: Equatable, Sendable, CustomStringConvertible {
    case status(SyncStatus)
    case updates([Item<Key, Value>])

    var items: [Item<Key, Value>] {
        if case .updates(let items) = self { items } else { [] }
    }

    var description: String {
        switch self {
        case .status(let status): "status(\(status))"
        case .updates(let items): "updates(\(items.map(\.description).joined(separator: ", ")))"
        }
    }
}

extension Sequence {
    /// Everything delivered, in order, without the limits of calls.
    func items<Key, Value>() -> [Item<Key, Value>] where Element == Event<Key, Value> { flatMap(\.items) }

    /// The statuses delivered, in order.
    func statuses<Key, Value>() -> [SyncStatus] where Element == Event<Key, Value> {
        compactMap { if case .status(let status) = $0 { status } else { nil } }
    }
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

    /// As `wait(for:)` where nothing can be thrown: false if it got stuck.
    func waited() -> Bool { wait(timeout: .now() + patience) == .success }
}

/// Looks again and again until `condition` holds. For the few things that announce themselves to
/// nobody.
func eventually(_ what: String, _ condition: () -> Bool) throws {
    let deadline = Date(timeIntervalSinceNow: patience)
    while !condition() {
        if Date() > deadline { throw Stuck(what: what) }
        usleep(200)
    }
}

/// A thread of its own for a call that might never return. `join()` fails the test where the call
/// hangs.
final class Worker<Result: Sendable>: Sendable {
    private let what: String
    private let ended = DispatchSemaphore(value: 0)
    private let result = Kept<Swift.Result<Result, any Error>?>(nil)

    init(_ what: String, _ body: @escaping @Sendable () throws -> Result) {
        self.what = what
        let thread = Thread { [ended, self] in
            let outcome = Swift.Result { try body() }
            self.result.change { $0 = outcome }
            ended.signal()
        }
        thread.name = what
        thread.start()
    }

    /// Whether the call has returned.
    var hasReturned: Bool { result.value != nil }

    /// Waits for the call to return, and hands on what it returned or threw.
    @discardableResult
    func join() throws -> Result {
        try ended.wait(for: what)
        ended.signal()
        return try result.value!.get()
    }
}

/// Calls `body` on another thread and waits for it: a deadlock fails the test and does not hang the
/// run.
@discardableResult
func bounded<Result: Sendable>(_ what: String, _ body: @escaping @Sendable () throws -> Result) throws -> Result {
    try Worker(what, body).join()
}

/// A door that holds threads back until it is opened, and tells when the first one stands before
/// it.
final class Gate: Sendable {
    private let arrived = DispatchSemaphore(value: 0)
    private let opened = DispatchSemaphore(value: 0)

    /// Stands before the gate until it opens; false if it never did.
    @discardableResult
    func pass() -> Bool {
        arrived.signal()
        let passed = opened.waited()
        opened.signal()
        return passed
    }

    func waitForArrival() throws { try arrived.wait(for: "arrival at a gate") }
    func open() { opened.signal() }
}

/// Lets `count` threads go at the same moment.
final class StartingLine: Sendable {
    private let waiting: Atomic<Int>

    init(_ count: Int) { waiting = Atomic(count) }

    func ready() {
        waiting.subtract(1, ordering: .acquiringAndReleasing)
        while waiting.load(ordering: .acquiring) > 0 { sched_yield() }
    }
}

// MARK: - Sinks

/// Records every call, and what no sink may see: overlapping calls and an empty `onUpdates`.
///
/// `@unchecked`: everything mutable is touched with `condition` held.
final class RecordingSink<Key: DedupeKey, Value: Sendable & Equatable>: SyncerCallbacks, @unchecked Sendable {
    typealias Call = Event<Key, Value>

    private let condition = NSCondition()
    private var recorded: [Call] = []
    private var faults: [String] = []
    private var inside = false
    private var hook: (@Sendable (Call) -> Void)?
    private let whenReleased: (@Sendable () -> Void)?

    init(whenReleased: (@Sendable () -> Void)? = nil) { self.whenReleased = whenReleased }

    deinit { whenReleased?() }

    /// Called in each sink call, after it was recorded and with no lock held: here a sink is slow
    /// or re-enters.
    func onEachCall(_ body: (@Sendable (Call) -> Void)?) {
        condition.withLock { hook = body }
    }

    func onStatusUpdated(_ status: SyncStatus) { record(.status(status)) }

    func onUpdates(_ updates: [Update<Key, Value>]) { record(.updates(updates.map { Item($0) })) }

    private func record(_ call: Call) {
        let hook = condition.withLock {
            if inside { faults.append("a call began before the one before it had ended: \(call)") }
            if case .updates(let items) = call, items.isEmpty { faults.append("an empty onUpdates") }
            inside = true
            recorded.append(call)
            condition.broadcast()
            return self.hook
        }
        hook?(call)
        condition.withLock { inside = false }
    }

    /// Copied while the lock is held. An array that is only retained shares its storage with
    /// `recorded`, and the thread sanitizer does not see that who appends looks at the reference
    /// count first.
    var calls: [Call] { condition.withLock { recorded.map { $0 } } }
    var items: [Item<Key, Value>] { calls.items() }
    var statuses: [SyncStatus] { calls.statuses() }
    var violations: [String] { condition.withLock { faults } }

    /// What was recorded so far, which is then forgotten.
    @discardableResult
    func takeCalls() -> [Call] {
        condition.withLock {
            defer { recorded = [] }
            return recorded
        }
    }

    /// Waits until the calls satisfy `predicate`.
    func wait(for what: String, until predicate: ([Call]) -> Bool) throws {
        let deadline = Date(timeIntervalSinceNow: patience)
        condition.lock()
        defer { condition.unlock() }
        while !predicate(recorded) {
            if !condition.wait(until: deadline) {
                throw Stuck(what: "\(what); the sink has heard \(recorded.suffix(20))")
            }
        }
    }

    func wait(forCalls count: Int) throws { try wait(for: "\(count) calls") { $0.count >= count } }
    func wait(forItems count: Int) throws { try wait(for: "\(count) items") { $0.items().count >= count } }
    func wait(forStatus status: SyncStatus) throws {
        try wait(for: "status \(status)") { $0.contains(.status(status)) }
    }
}

/// Keeps nothing of what it receives, so that the values' ends can be counted.
final class ForgettingSink<Key: DedupeKey, Value: Sendable>: SyncerCallbacks {
    private let seen = Kept<(updates: Int, statuses: Int)>((0, 0))
    private let whenReleased: (@Sendable () -> Void)?

    init(whenReleased: (@Sendable () -> Void)? = nil) { self.whenReleased = whenReleased }

    deinit { whenReleased?() }

    func onStatusUpdated(_ status: SyncStatus) { seen.change { $0.statuses += 1 } }
    func onUpdates(_ updates: [Update<Key, Value>]) { seen.change { $0.updates += updates.count } }

    var updates: Int { seen.value.updates }
    var statuses: Int { seen.value.statuses }
}

// MARK: - Values

/// Counts how many of its `Tracked` values began and ended, so that a leak and a second destruction
/// both show.
final class LifetimeTracker: Sendable {
    private let state = Kept<(created: Int, ended: [Int: Int])>((0, [:]))

    /// A new value with its own number. `atEnd` runs in its deinit.
    func make(atEnd: (@Sendable () -> Void)? = nil) -> Tracked {
        let number = state.change { state in
            defer { state.created += 1 }
            return state.created
        }
        return Tracked(number: number, tracker: self, atEnd: atEnd)
    }

    fileprivate func ended(_ number: Int) { state.change { $0.ended[number, default: 0] += 1 } }

    var created: Int { state.value.created }
    var destroyed: Int { state.value.ended.values.reduce(0, +) }
    var alive: Int { state.change { $0.created - $0.ended.count } }
    var destroyedTwice: [Int] { state.value.ended.filter { $0.value > 1 }.map(\.key).sorted() }
}

/// A value that reports its end to its tracker.
final class Tracked: Sendable, Equatable {
    let number: Int
    private let tracker: LifetimeTracker
    private let atEnd: (@Sendable () -> Void)?

    fileprivate init(number: Int, tracker: LifetimeTracker, atEnd: (@Sendable () -> Void)?) {
        self.number = number
        self.tracker = tracker
        self.atEnd = atEnd
    }

    deinit {
        atEnd?()
        tracker.ended(number)
    }

    static func == (left: Tracked, right: Tracked) -> Bool { left.number == right.number }
}

// MARK: - Randomness

/// SplitMix64: the same numbers for the same seed, everywhere.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// True once in `n` times.
    mutating func oneIn(_ n: Int) -> Bool { Int.random(in: 0..<n, using: &self) == 0 }
}

/// The seed of a run: `DEDUPE_TEST_SEED` where it is set, else a fresh one. Printed, so that a run
/// can be repeated.
func announcedSeed(_ name: String) -> UInt64 {
    let given = ProcessInfo.processInfo.environment["DEDUPE_TEST_SEED"].flatMap { UInt64($0) }
    let seed = given ?? UInt64.random(in: 0...(.max))
    print("\(name): DEDUPE_TEST_SEED=\(seed)")
    return seed
}

// MARK: - Buffers

extension DedupeBufferConfiguration {
    /// This configuration with some members changed.
    func with(_ change: (inout Self) -> Void) -> Self {
        var changed = self
        change(&changed)
        return changed
    }

    /// The default configuration with some members changed.
    static func with(_ change: (inout Self) -> Void) -> Self { Self().with(change) }
}

extension DedupeBufferConfiguration.Bound {
    /// A bound of keys, of bytes or of both; `nil`: there is none.
    static func optional(keys: Int?, bytes: Int? = nil, weight: @escaping @Sendable (Value) -> Int) -> Self? {
        if let bytes { .bytes(bytes, keys: keys, weight: weight) } else { keys.map { .keys($0) } }
    }
}

typealias StringBuffer = DedupeBuffer<String, Int>
typealias StringSink = RecordingSink<String, Int>

/// A buffer with its batch size.
func makeBuffer<Key, Value>(batchSize: Int) -> DedupeBuffer<Key, Value> {
    var configuration = DedupeBufferConfiguration()
    configuration.batchSize = batchSize
    configuration.label = "test"
    return DedupeBuffer(configuration: configuration)
}

extension DedupeBuffer {
    /// Puts one update. Keys with an even number of bytes go by an array, so that all tests cover
    /// both ways of putting one update.
    func set(_ key: Key, _ value: Value, revision: UInt64 = 0) {
        guard bytes(of: key).count % 2 == 0 else { return update(key, to: value, revision: revision) }
        onUpdates([Update(key: key, value: value, revision: revision)])
    }

    func delete(_ key: Key, revision: UInt64 = 0) {
        guard bytes(of: key).count % 2 == 0 else { return remove(key, revision: revision) }
        onUpdates([Update(key: key, value: nil, revision: revision)])
    }
}

extension DedupeBuffer<String, Int> {
    /// Puts a key that is not pending, and returns whether it was dropped: the buffer has stopped,
    /// or a finish has closed the queue's end. If it was queued, it leaves the queue again. No
    /// other thread may put.
    func dropsNewKeys() -> Bool {
        let dropped = statistics.dropped
        set("a new key", 0)
        if statistics.dropped > dropped { return true }
        delete("a new key")
        return false
    }
}

extension DedupeBuffer where Value: Equatable {
    /// The calls of one batch, or nil where the queue was empty.
    func nextBatch() throws -> [Event<Key, Value>]? {
        let sink = RecordingSink<Key, Value>()
        do {
            try sendNextBatchToSink(sink)
        } catch DedupeBufferError.emptyQueue {
            #expect(sink.calls.isEmpty, "an empty queue, and yet the sink was called")
            return nil
        }
        #expect(sink.violations == [])
        #expect(!sink.calls.isEmpty, "a batch without a call")
        return sink.calls
    }

    /// The calls of each batch until the queue is empty.
    func allBatches() throws -> [[Event<Key, Value>]] {
        var batches: [[Event<Key, Value>]] = []
        while let batch = try nextBatch() { batches.append(batch) }
        return batches
    }

    /// The calls of all batches until the queue is empty.
    func flush() throws -> [Event<Key, Value>] { try allBatches().flatMap { $0 } }
}

extension DedupeBufferStatistics {
    /// Received and synthesized less all the ways in which an update ends: zero whenever nothing
    /// runs.
    var unaccounted: Int {
        received + synthesizedDeletions - delivered - replaced - cancelled - suppressed - dropped - pendingKeys
    }
}

// MARK: - Loops

/// The ways to have a buffer delivered by a loop.
enum LoopKind: CaseIterable, Sendable, CustomTestStringConvertible {
    case ownQueue, serialQueue, concurrentQueue, globalQueue, blockingThread

    var testDescription: String {
        switch self {
        case .ownQueue: "startSending, own queue"
        case .serialQueue: "startSending, given serial queue"
        case .concurrentQueue: "startSending, given concurrent queue"
        case .globalQueue: "startSending, global queue"
        case .blockingThread: "sendToSinkForever"
        }
    }
}

/// A loop that was started: its queue or its thread, where the test has one.
struct RunningLoop: Sendable {
    var queue: DispatchQueue?
    var thread: Worker<Void>?

    /// Starts a loop. One on a thread of its own may begin a little later.
    init<Key, Value>(
        _ kind: LoopKind, of buffer: DedupeBuffer<Key, Value>, to sink: some SyncerCallbacks<Key, Value>
    ) throws {
        switch kind {
        case .ownQueue:
            try bounded("startSending") { try buffer.startSending(to: sink) }
        case .serialQueue, .concurrentQueue:
            let queue =
                kind == .serialQueue
                ? DispatchQueue(label: "test.serial") : DispatchQueue(label: "test.concurrent", attributes: .concurrent)
            self.queue = queue
            try bounded("startSending") { try buffer.startSending(to: sink, on: queue) }
        case .globalQueue:
            // No `queue`: a barrier means nothing there, and so `settle()` cannot wait for it.
            try bounded("startSending") { try buffer.startSending(to: sink, on: DispatchQueue.global()) }
        case .blockingThread:
            thread = Worker("sendToSinkForever") { try buffer.sendToSinkForever(sink) }
        }
    }

    /// Starts a loop and waits until it delivers: key `first` has gone through, and the sink has
    /// forgotten it.
    init<Key, Value>(
        _ kind: LoopKind, running buffer: DedupeBuffer<Key, Value>, to sink: RecordingSink<Key, Value>,
        first key: Key, _ value: Value
    ) throws {
        try self.init(kind, of: buffer, to: sink)
        buffer.set(key, value)
        try sink.wait(forItems: 1)
        try settle()
        sink.takeCalls()
    }

    /// Waits until no drain runs on the given queue: the loop is asleep where there is nothing to
    /// deliver.
    func settle() throws {
        guard let queue else { return }
        for _ in 0..<3 { try bounded("a queue without work") { queue.sync(flags: .barrier) {} } }
    }

    /// After `stop()` or `finish()`: the blocking loop has returned, and no drain is left on the
    /// given queue.
    func end() throws {
        try thread?.join()
        try settle()
    }
}

// MARK: - Odds and ends

/// A value shared between threads.
///
/// `@unchecked`: `state` is touched with `lock` held.
final class Kept<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var state: Value

    init(_ value: Value) { state = value }

    var value: Value { lock.withLock { state } }

    @discardableResult
    func change<Result>(_ body: (inout Value) -> Result) -> Result {
        lock.withLock { body(&state) }
    }
}

extension Kept where Value: RangeReplaceableCollection {
    /// Copied while locked, as ``RecordingSink/calls`` is, and for the same reason.
    var value: Value {
        lock.withLock {
            var copy = Value()
            copy.reserveCapacity(state.count)
            copy.append(contentsOf: state)
            return copy
        }
    }
}

/// The same items with each run of deletions sorted by key.
func sortingDeletions(_ items: [Item<String, Int>]) -> [Item<String, Int>] {
    var sorted: [Item<String, Int>] = []
    var run: [Item<String, Int>] = []
    for item in items {
        if item.type == .deleted {
            run.append(item)
            continue
        }
        sorted += run.sorted { $0.key < $1.key } + [item]
        run = []
    }
    return sorted + run.sorted { $0.key < $1.key }
}

/// A sink that keeps what a downstream would: the state that the updates add up to. It checks that
/// types are exact (`new` for what it does not have, `updated` for what it has) and that calls are
/// serial and not empty.
///
/// `@unchecked`: everything mutable is touched with `condition` held.
final class ReplayingSink: SyncerCallbacks, @unchecked Sendable {
    private let condition = NSCondition()
    private var replayed: [String: Int] = [:]
    private var faults: [String] = []
    private var inside = false
    private var updates = 0
    private var latest: SyncStatus?
    private var lastWasStatus = false
    private var hook: (@Sendable ([Update<String, Int>]) -> Void)?

    /// Called for each list, after it was replayed and with no lock held.
    func onEachList(_ body: (@Sendable ([Update<String, Int>]) -> Void)?) { condition.withLock { hook = body } }

    func onStatusUpdated(_ status: SyncStatus) {
        enter {
            latest = status
            lastWasStatus = true
        }
        condition.withLock { inside = false }
    }

    func onUpdates(_ list: [Update<String, Int>]) {
        let hook = enter {
            if list.isEmpty { faults.append("an empty onUpdates") }
            updates += list.count
            lastWasStatus = false
            for update in list {
                let had = replayed.updateValue(0, forKey: update.key) != nil
                replayed[update.key] = update.value
                let right: UpdateType = update.value == nil ? .deleted : had ? .updated : .new
                if update.updateType != right {
                    faults.append("\(update.key): \(update.updateType), must be \(right)")
                }
            }
            return self.hook
        }
        hook?(list)
        condition.withLock { inside = false }
    }

    private func enter<R>(_ body: () -> R) -> R {
        condition.withLock {
            if inside { faults.append("a call began before the one before it had ended") }
            inside = true
            defer { condition.broadcast() }
            return body()
        }
    }

    var state: [String: Int] { condition.withLock { replayed } }
    var violations: [String] { condition.withLock { Array(faults.prefix(10)) } }
    var updatesHeard: Int { condition.withLock { updates } }
    var latestStatus: SyncStatus? { condition.withLock { latest } }
    var endedWithAStatus: Bool { condition.withLock { lastWasStatus } }

    func wait(forUpdates count: Int) throws {
        let deadline = Date(timeIntervalSinceNow: patience)
        condition.lock()
        defer { condition.unlock() }
        while updates < count {
            if !condition.wait(until: deadline) { throw Stuck(what: "\(count) updates; heard \(updates)") }
        }
    }
}
