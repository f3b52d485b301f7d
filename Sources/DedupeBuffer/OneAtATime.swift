// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// Runs a function in one thread at a time without a lock. No caller waits, and the function may
/// ask for another run of itself.
///
/// A caller that comes during a run only leaves a request. The running thread then runs the
/// function once more, and only once: callers that come again and again must not keep a thread that
/// has something else to do, and neither must a function that asks in each run. A request that
/// comes in the second run waits for the next caller.
final class OneAtATime: Sendable {
    /// How many have asked since it was last found at rest; 0: it rests.
    private let requests = Atomic<Int>(0)

    func run(_ body: () -> Void) {
        // Acquire, with the releases below: what the run before wrote.
        guard requests.add(1, ordering: .acquiringAndReleasing).oldValue == 0 else { return }
        let answered = requests.load(ordering: .acquiring)
        body()
        // Acquire, with the release of a request above: what was so when it was made.
        if requests.compareExchange(expected: answered, desired: 0, ordering: .acquiringAndReleasing).exchanged {
            return
        }
        body()
        requests.store(0, ordering: .releasing)
    }
}
