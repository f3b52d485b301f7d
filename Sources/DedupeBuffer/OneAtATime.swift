// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// Runs something one thread at a time without a lock: nobody waits, and what runs may ask for another run.
///
/// Who comes while it runs leaves word, and whoever runs it does so once more. So after the last request there is always
/// a run that begins later than the request.
final class OneAtATime: Sendable {
    /// How many have asked since it was last found at rest; 0: it rests.
    private let requests = Atomic<Int>(0)

    func run(_ body: () -> Void) {
        // Acquire, with the release below: what the run before wrote.
        guard requests.add(1, ordering: .acquiringAndReleasing).oldValue == 0 else { return }
        var answered: Int
        repeat {
            // Acquire, with the release of a request above: what was so when it was made.
            answered = requests.load(ordering: .acquiring)
            body()
        } while !requests.compareExchange(expected: answered, desired: 0, ordering: .acquiringAndReleasing).exchanged
    }
}
