// SPDX-License-Identifier: Apache-2.0

internal import Dispatch
internal import Synchronization

/// The subscribers that have found nothing and wait to be told of news.
///
/// A write does the same small work whatever their number: if there are sleepers, it starts the
/// waker, unless the waker has been started already. The waker takes the list and wakes all that
/// are in it, on a queue of its own. So each sleep of a subscriber costs one entry and one wake-up,
/// and a subscriber that does not ask costs nothing.
final class Sleepers: @unchecked Sendable {
    // Sendable: `list` is guarded by `lock`, and so are the clients' places in it.

    private let lock = PlainLock()
    private var list: ContiguousArray<HubClient> = []
    /// Whether `list` has any. Sequentially consistent, with the hub's revision: either the writer
    /// sees the sleeper, or the sleeper sees the revision.
    private let hasAny = Atomic<Bool>(false)
    /// Whether the waker will look at the list.
    private let isStarted = Atomic<Bool>(false)
    private let queue: DispatchQueue

    init(label: String) {
        queue = DispatchQueue(label: label + ".waker")
    }

    var count: Int { lock.withLock { list.count } }

    /// The client sleeps, unless `hasNews` is true after that has been made known. Returns whether
    /// it sleeps.
    func add(_ client: HubClient, unless hasNews: () -> Bool) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        if client.place == nil {
            client.place = list.count
            list.append(client)
        }
        hasAny.store(true, ordering: .sequentiallyConsistent)
        guard hasNews() else { return true }
        removeLocked(client)
        return false
    }

    /// The client does not want to be woken any more. If the waker has it already, it is woken.
    func remove(_ client: HubClient) {
        lock.withLock { removeLocked(client) }
    }

    private func removeLocked(_ client: HubClient) {
        guard let place = client.place else { return }
        client.place = nil
        let last = list.removeLast()
        if last !== client {
            list[place] = last
            last.place = place
        }
        if list.isEmpty { hasAny.store(false, ordering: .sequentiallyConsistent) }
    }

    /// There is news: all that sleep now will be woken.
    @inline(__always)
    func wake() {
        if hasAny.load(ordering: .sequentiallyConsistent) { start() }
    }

    private func start() {
        guard !isStarted.load(ordering: .sequentiallyConsistent),
            !isStarted.exchange(true, ordering: .sequentiallyConsistent)
        else { return }
        queue.async { [self] in wakeAll() }
    }

    private func wakeAll() {
        // Before the list is taken: a writer that comes later starts the waker again.
        isStarted.store(false, ordering: .sequentiallyConsistent)
        let woken = lock.withLock {
            let taken = list
            list = []
            hasAny.store(false, ordering: .sequentiallyConsistent)
            for client in taken { client.place = nil }
            return taken
        }
        for client in woken { client.wake() }
    }
}
