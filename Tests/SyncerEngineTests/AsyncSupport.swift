// SPDX-License-Identifier: Apache-2.0

// What the tests of the driver use: waits that give up, and a clock that stands still.

import Foundation
import Testing

/// Seconds until a wait is given up. Reached only by a fault; `DEDUPE_TEST_PATIENCE` sets another
/// limit.
let patience =
    ProcessInfo.processInfo.environment["DEDUPE_TEST_PATIENCE"].flatMap(Double.init) ?? (longTests ? 600 : 60)

/// A wait that reached `patience`: something that had to happen did not.
struct Stuck: Error, CustomStringConvertible {
    var what: String
    var description: String { "stuck: \(what)" }
}

/// Looks again and again until `condition` holds.
func eventually(_ what: String, _ condition: @Sendable () -> Bool) async throws {
    for _ in 0..<Int(patience * 5_000) {
        if condition() { return }
        try? await Task.sleep(for: .microseconds(200))
    }
    throw Stuck(what: what)
}

/// A value shared between threads.
///
/// `@unchecked`: `state` is touched with `lock` held. The thread sanitizer sees through the lock.
final class Kept<Value: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var state: Value

    init(_ value: Value) { state = value }

    @discardableResult
    func change<Result>(_ body: (inout Value) -> Result) -> Result { lock.withLock { body(&state) } }
}

extension Kept where Value: RangeReplaceableCollection {
    /// Copied while locked. The thread sanitizer does not see that a thread which appends looks at
    /// the reference count first.
    var value: Value { change { Value($0) } }
}

/// A task that runs a driver.
struct RunningDriver {
    private let hasEnded = Kept([false])
    private let task: Task<Void, Never>

    init(_ body: @escaping @Sendable () async -> Void) {
        task = Task { [hasEnded] in
            await body()
            hasEnded.change { $0 = [true] }
        }
    }

    func cancel() { task.cancel() }

    /// Waits for the end, at most `patience`.
    func end() async throws {
        try await eventually("the end of the run") { hasEnded.value == [true] }
    }
}

/// Stands still until the test moves it. Any number of tasks sleep.
final class ManualClock: Clock {
    typealias Duration = Swift.Duration

    struct Instant: InstantProtocol {
        var offset = Duration.zero

        func advanced(by duration: Duration) -> Instant { Instant(offset: offset + duration) }
        func duration(to other: Instant) -> Duration { other.offset - offset }
        static func < (left: Instant, right: Instant) -> Bool { left.offset < right.offset }
    }

    private struct State {
        var now = Instant()
        var latest = 0
        var sleepers: [Int: (deadline: Instant, continuation: CheckedContinuation<Void, any Error>)] = [:]
    }

    private let state = Kept(State())

    var now: Instant { state.change { $0.now } }
    let minimumResolution = Duration.zero

    func sleep(until deadline: Instant, tolerance: Duration?) async throws {
        let number = state.change { state in
            state.latest += 1
            return state.latest
        }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let result: Result<Void, any Error>? = state.change { state in
                    if Task.isCancelled { return .failure(CancellationError()) }
                    if deadline <= state.now { return .success(()) }
                    state.sleepers[number] = (deadline, continuation)
                    return nil
                }
                if let result { continuation.resume(with: result) }
            }
        } onCancel: {
            let sleeper = state.change { $0.sleepers.removeValue(forKey: number) }
            sleeper?.continuation.resume(throwing: CancellationError())
        }
    }

    var sleeperCount: Int { state.change { $0.sleepers.count } }

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
