// SPDX-License-Identifier: Apache-2.0

/// The time since this value was made, by any clock.
struct EngineClock: Sendable {
    private let elapsed: @Sendable () -> Duration
    private let sleepUntil: @Sendable (Duration) async throws -> Void

    init(_ clock: any Clock<Duration>) { self.init(opened: clock) }

    private init<C: Clock<Duration>>(opened clock: C) {
        let start = clock.now
        elapsed = { start.duration(to: clock.now) }
        sleepUntil = { try await clock.sleep(until: start.advanced(by: $0), tolerance: nil) }
    }

    var now: Duration { elapsed() }

    /// Returns at this time, or throws when the task is cancelled.
    func sleep(until time: Duration) async throws { try await sleepUntil(time) }
}
