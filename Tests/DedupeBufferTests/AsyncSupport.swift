// SPDX-License-Identifier: Apache-2.0

// What the tests of tasks use: waits that give up, clocks that stand still, sinks that fail.
//
// These tests never block: the threads that run them are the ones that run the tasks they wait for.
// Other tests do, for as long as they like; so here `patience` is not counted in seconds but in
// turns, of which those seconds have enough.

import DedupeBuffer
import Dispatch
import Foundation
import Testing

typealias StringEvents = DedupeBufferEvents<String, Int>

extension Event {
    init(_ event: DedupeBufferEvent<Key, Value>) {
        self =
            switch event {
            case .updates(let updates): .updates(updates.map { Item($0) })
            case .status(let status): .status(status)
            }
    }
}

// MARK: - Waiting

/// What is resumed once, by whoever comes first.
private final class Once<R: Sendable>: Sendable {
    private let continuation: Kept<CheckedContinuation<R, any Error>?>

    init(_ continuation: CheckedContinuation<R, any Error>) { self.continuation = Kept(continuation) }

    @discardableResult
    func resume(with result: Result<R, any Error>) -> Bool {
        let taken = continuation.change { continuation in
            defer { continuation = nil }
            return continuation
        }
        taken?.resume(with: result)
        return taken != nil
    }
}

/// Runs `body` as a task, and waits for it, at most `patience`.
@discardableResult
func within<R: Sendable>(_ what: String, _ body: @escaping @Sendable () async throws -> R) async throws -> R {
    let task = Task(operation: body)
    return try await outcome(of: task, what)
}

/// What a task comes to, within `patience`.
@discardableResult
func outcome<R: Sendable>(of task: Task<R, any Error>, _ what: String) async throws -> R {
    try await withCheckedThrowingContinuation { continuation in
        let once = Once(continuation)
        let limit = Task {
            for _ in 0..<Int(patience * 10) { try await Task.sleep(for: .milliseconds(100)) }
            if once.resume(with: .failure(Stuck(what: what))) { task.cancel() }
        }
        Task {
            once.resume(with: await task.result)
            limit.cancel()
        }
    }
}

/// Looks again and again until `condition` holds. For the few things that announce themselves to
/// nobody.
func eventually(_ what: String, _ condition: @Sendable () -> Bool) async throws {
    for _ in 0..<Int(patience * 5_000) {
        if condition() { return }
        try? await Task.sleep(for: .microseconds(200))
    }
    throw Stuck(what: what)
}

/// Lets others run, now and then; how often is random.
func pauseAtRandom(_ random: inout SeededGenerator) async {
    for _ in 0..<Int.random(in: 0...8, using: &random) { await Task.yield() }
}

/// A door for threads, as `Gate`, that holds back for as long as it takes. To be opened whatever
/// happens.
final class PatientGate: Sendable {
    private let opened = DispatchSemaphore(value: 0)

    func pass() {
        opened.wait()
        opened.signal()
    }

    func open() { opened.signal() }
}

/// A door for tasks, as `Gate` is one for threads. Who stands before it when its task is cancelled
/// passes.
final class AsyncGate: Sendable {
    private struct State {
        var isOpen = false
        var arrivals = 0
        var waiting: [CheckedContinuation<Void, Never>] = []
    }

    private let state = Kept(State())

    func pass() async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isOpen = state.change { state in
                    state.arrivals += 1
                    if !state.isOpen && !Task.isCancelled { state.waiting.append(continuation) }
                    return state.isOpen || Task.isCancelled
                }
                if isOpen { continuation.resume() }
            }
        } onCancel: {
            letGo(open: false)
        }
    }

    /// As `pass()` for a sink that does not listen to cancellation.
    func passUncancelled() async {
        await withCheckedContinuation { continuation in
            let isOpen = state.change { state in
                state.arrivals += 1
                if !state.isOpen { state.waiting.append(continuation) }
                return state.isOpen
            }
            if isOpen { continuation.resume() }
        }
    }

    func open() { letGo(open: true) }

    func waitForArrival(_ count: Int = 1) async throws {
        try await eventually("arrival at a gate") { state.value.arrivals >= count }
    }

    private func letGo(open: Bool) {
        let waiting = state.change { state in
            if open { state.isOpen = true }
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting { continuation.resume() }
    }
}

// MARK: - Tasks by hand

/// Runs tasks by hand, from one suspension to the next, when the test says so. Where they stand
/// then is no matter of luck.
final class SteppedExecutor: TaskExecutor {
    private let jobs = Kept<[UnownedJob]>([])

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        jobs.change { $0.append(job) }
    }

    /// How many tasks could go on.
    var ready: Int { jobs.change { $0.count } }

    /// Runs a task to its next suspension. False: all of them wait for somebody.
    @discardableResult
    func step() -> Bool {
        guard let job = jobs.change({ $0.isEmpty ? nil : $0.removeFirst() }) else { return false }
        job.runSynchronously(on: asUnownedTaskExecutor())
        return true
    }

    /// Until all tasks wait for somebody, or have ended.
    func runUntilIdle() {
        while step() {}
    }

    /// What a task comes to, within `patience`; others go on meanwhile.
    @discardableResult
    func outcome<R: Sendable>(of task: Task<R, any Error>, _ what: String) async throws -> R {
        let result = Kept<Result<R, any Error>?>(nil)
        Task(executorPreference: self) {
            let outcome = await task.result
            result.change { $0 = outcome }
        }
        try await eventually(what) {
            self.runUntilIdle()
            return result.value != nil
        }
        return try result.value!.get()
    }
}

/// Runs all its tasks on one thread: if one blocked it, none would go on.
final class OneThreadExecutor: TaskExecutor {
    private let queue = DispatchQueue(label: "test.tasks")

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.async { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}

// MARK: - Clocks

/// Stands still until the test moves it.
final class TestClock: Clock {
    typealias Duration = Swift.Duration

    struct Instant: InstantProtocol {
        var offset = Duration.zero

        func advanced(by duration: Duration) -> Instant { Instant(offset: offset + duration) }
        func duration(to other: Instant) -> Duration { other.offset - offset }
        static func < (left: Instant, right: Instant) -> Bool { left.offset < right.offset }
    }

    private struct State {
        var now = Instant()
        var sleeper: (deadline: Instant, continuation: CheckedContinuation<Void, any Error>)?
        var asked: [Duration] = []
    }

    private let state = Kept(State())

    var now: Instant { state.value.now }
    let minimumResolution = Duration.zero

    /// One at a time sleeps.
    func sleep(until deadline: Instant, tolerance: Duration?) async throws {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let isCancelled = state.change { state in
                    state.asked.append(deadline.offset - state.now.offset)
                    if !Task.isCancelled { state.sleeper = (deadline, continuation) }
                    return Task.isCancelled
                }
                if isCancelled { continuation.resume(throwing: CancellationError()) }
            }
        } onCancel: {
            takeSleeper()?.continuation.resume(throwing: CancellationError())
        }
    }

    /// How long those who slept meant to.
    var asked: [Duration] { state.value.asked }

    func waitForSleeper(_ number: Int = 1) async throws {
        try await eventually("sleeper \(number)") {
            state.change { $0.asked.count >= number && $0.sleeper != nil }
        }
    }

    /// Moves on to when the sleeper wakes.
    func advance() {
        guard let sleeper = takeSleeper() else { return }
        state.change { $0.now = sleeper.deadline }
        sleeper.continuation.resume()
    }

    private func takeSleeper() -> (deadline: Instant, continuation: CheckedContinuation<Void, any Error>)? {
        state.change { state in
            defer { state.sleeper = nil }
            return state.sleeper
        }
    }
}

/// As ``TestClock``, for any number of sleepers.
final class ManualClock: Clock {
    typealias Duration = Swift.Duration
    typealias Instant = TestClock.Instant

    private struct State {
        var now = Instant()
        var number = 0
        var sleepers: [Int: (deadline: Instant, continuation: CheckedContinuation<Void, any Error>)] = [:]
        var asked: [Duration] = []
    }

    private let state = Kept(State())

    var now: Instant { state.value.now }
    let minimumResolution = Duration.zero

    func sleep(until deadline: Instant, tolerance: Duration?) async throws {
        let number = state.change { state in
            state.number += 1
            return state.number
        }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let isCancelled = state.change { state in
                    state.asked.append(deadline.offset - state.now.offset)
                    if !Task.isCancelled { state.sleepers[number] = (deadline, continuation) }
                    return Task.isCancelled
                }
                if isCancelled { continuation.resume(throwing: CancellationError()) }
            }
        } onCancel: {
            let sleeper = state.change { $0.sleepers.removeValue(forKey: number) }
            sleeper?.continuation.resume(throwing: CancellationError())
        }
    }

    /// How long each sleeper meant to sleep, in the order in which they began.
    var asked: [Duration] { state.change { $0.asked.map { $0 } } }

    /// Waits until there is one sleeper, and there were as many in all.
    func waitForSleeper(_ number: Int) async throws {
        try await eventually("sleeper \(number)") {
            state.change { $0.asked.count >= number && $0.sleepers.count == 1 }
        }
    }

    func advance(by duration: Duration) {
        let woken = state.change { state in
            state.now = state.now.advanced(by: duration)
            let due = state.sleepers.filter { $0.value.deadline <= state.now }
            for number in due.keys { state.sleepers[number] = nil }
            return due.values.map(\.continuation)
        }
        for continuation in woken { continuation.resume() }
    }
}

/// Whoever sleeps is awake again at once.
final class ImpatientClock: Clock {
    typealias Duration = Swift.Duration

    private let time = Kept(TestClock.Instant())
    private let meanwhile: @Sendable () -> Void

    /// `meanwhile` is what is done while somebody sleeps.
    init(meanwhile: @escaping @Sendable () -> Void = {}) { self.meanwhile = meanwhile }

    var now: TestClock.Instant { time.value }
    let minimumResolution = Duration.zero

    func sleep(until deadline: TestClock.Instant, tolerance: Duration?) async throws {
        try Task.checkCancellation()
        meanwhile()
        time.change { $0 = max($0, deadline) }
    }
}

// MARK: - Sinks

/// What a failing sink throws.
struct SinkFailure: Error, Equatable {
    var number = 0
}

/// Records what it was called with and what it then did; `answer` says what it does.
final class ScriptedSink<Value: Sendable & Equatable>: AsyncSyncerCallbacks {
    typealias Key = String
    typealias Call = Event<String, Value>

    private struct State {
        var calls: [Call] = []
        var delivered: [Call] = []
        var isInside = false
        var hasOverlapped = false
    }

    private let state = Kept(State())
    private let answer: @Sendable (Call, Int) async throws -> Void

    /// `answer` gets each call, and how many there were before.
    init(_ answer: @escaping @Sendable (Call, Int) async throws -> Void = { _, _ in }) { self.answer = answer }

    func onStatusUpdated(_ status: SyncStatus) async throws { try await record(.status(status)) }
    func onUpdates(_ updates: [Update<String, Value>]) async throws {
        try await record(.updates(updates.map { Item($0) }))
    }

    private func record(_ call: Call) async throws {
        let number = state.change { state in
            if state.isInside { state.hasOverlapped = true }
            state.isInside = true
            state.calls.append(call)
            return state.calls.count - 1
        }
        defer { state.change { $0.isInside = false } }
        try await answer(call, number)
        state.change { $0.delivered.append(call) }
    }

    var calls: [Call] { state.change { $0.calls.map { $0 } } }
    /// Those that did not throw.
    var delivered: [Call] { state.change { $0.delivered.map { $0 } } }
    var hasOverlapped: Bool { state.value.hasOverlapped }

    func wait(forCalls count: Int) async throws {
        try await eventually("\(count) calls") { state.change { $0.calls.count } >= count }
    }
}

// MARK: - Buffers

extension DedupeBuffer {
    /// A buffer whose sinks are tried again as the policy says.
    convenience init(batchSize: Int = 100, retry: DedupeBufferConfiguration.RetryPolicy) {
        self.init(configuration: DedupeBufferConfiguration(batchSize: batchSize, label: "test", retry: retry))
    }
}
