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
    // Sendable: `list` is guarded by `lock`, and so are the clients' places in it and what wakes
    // them.

    private let lock = PlainLock()
    private var list: ContiguousArray<HubClient> = []
    /// Whether `list` has any. Sequentially consistent, with the hub's revision: either the writer
    /// sees the sleeper, or the sleeper sees the revision.
    private let hasAny = Atomic<Bool>(false)
    /// Whether the waker will look at the list.
    private let isStarted = Atomic<Bool>(false)
    /// All wake-ups come from here.
    let queue: DispatchQueue

    init(label: String) {
        queue = DispatchQueue(label: label + ".waker")
    }

    var count: Int { lock.withLock { list.count } }

    /// The client sleeps, unless `hasNews` is true after that has been made known. Returns whether
    /// it sleeps.
    func add(_ client: HubClient, unless hasNews: () -> Bool) -> Bool {
        lock.lock()
        defer { lock.unlock() }
        if !client.isListed {
            client.place.store(list.count, ordering: .relaxed)
            list.append(client)
        }
        hasAny.store(true, ordering: .sequentiallyConsistent)
        guard hasNews() else { return true }
        removeLocked(client)
        return false
    }

    /// The client looks for itself. If the waker has it already, it is woken nevertheless.
    @inline(__always)
    func remove(_ client: HubClient) {
        if client.isListed { lock.withLock { removeLocked(client) } }
    }

    /// The client goes away. Returns what would have woken it.
    func end(_ client: HubClient) -> (@Sendable () -> Void)? {
        lock.withLock {
            removeLocked(client)
            defer { client.wakeUp = nil }
            return client.wakeUp
        }
    }

    private func removeLocked(_ client: HubClient) {
        let place = client.place.exchange(-1, ordering: .relaxed)
        guard place >= 0 else { return }
        let last = list.removeLast()
        if last !== client {
            list[place] = last
            last.place.store(place, ordering: .relaxed)
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
        for client in takeAll() { wake(client) }
    }

    private func takeAll() -> ContiguousArray<HubClient> {
        lock.withLock {
            let taken = list
            list = []
            hasAny.store(false, ordering: .sequentiallyConsistent)
            for client in taken { client.place.store(-1, ordering: .relaxed) }
            return taken
        }
    }

    /// Calls what wakes the client, with no lock held.
    private func wake(_ client: HubClient) {
        let wakeUp = lock.withLock { client.wakeUp }
        wakeUp?()
    }

    /// The hub has ended: wakes all its subscribers once, also those that wait for their interval.
    func wakeAtTheEnd(_ registry: Registry) {
        queue.async { [self] in
            _ = takeAll()
            for client in registry.clients { wake(client) }
        }
    }
}
