// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Runs a task's jobs when the test says so. A job ends where the task is suspended.
final class ManualExecutor: TaskExecutor, @unchecked Sendable {
    private let lock = NSLock()
    private var jobs: [UnownedJob] = []

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        lock.withLock { jobs.append(job) }
    }

    /// Runs the first job. Returns false if there is none.
    func runOne() -> Bool {
        guard let job = lock.withLock({ jobs.isEmpty ? nil : jobs.removeFirst() }) else { return false }
        job.runSynchronously(on: asUnownedTaskExecutor())
        return true
    }

    /// Runs jobs until there are none, but no more than `limit`. Returns how many ran.
    @discardableResult
    func run(atMost limit: Int = 10_000) -> Int {
        var count = 0
        while count < limit, runOne() { count += 1 }
        return count
    }
}
