// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// The threads that are inside something, so that a call can tell whether it was made from there.
@usableFromInline
final class ThreadSet: Sendable {
    private let count = Atomic<Int>(0)
    private let threads = Locked<[UInt]>([])

    @usableFromInline
    init() {}

    /// A thread may enter again from inside.
    @usableFromInline
    func whileInside<R>(_ body: () -> R) -> R {
        count.add(1, ordering: .relaxed)
        threads.withLock { $0.append(currentThread()) }
        defer {
            threads.withLock { _ = $0.remove(at: $0.lastIndex(of: currentThread())!) }
            count.subtract(1, ordering: .relaxed)
        }
        return body()
    }

    /// Whether the calling thread is inside. No lock is taken as long as nobody is.
    @usableFromInline
    var containsCurrent: Bool {
        // Relaxed: a thread that is inside has counted itself.
        count.load(ordering: .relaxed) > 0 && threads.withLock { $0.contains(currentThread()) }
    }
}
