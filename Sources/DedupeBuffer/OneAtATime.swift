// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// Runs something one thread at a time without a lock: nobody waits, and what runs may ask for
/// another run.
///
/// Who comes while it runs leaves word, and whoever runs it does so once more. Once: else those who
/// come again and again would keep a thread that has something else to do, and so would what runs,
/// if it asks each time. Who comes in the second run is left to the next request.
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
