// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// All subscribers of a hub.
final class Registry: @unchecked Sendable {
    // Sendable: `members` is guarded by `lock`, and so are the clients' numbers.

    private let lock = PlainLock()
    private var members: ContiguousArray<HubClient> = []

    func add(_ client: HubClient) {
        lock.withLock {
            client.number = members.count
            members.append(client)
        }
    }

    func remove(_ client: HubClient) {
        lock.withLock {
            guard let number = client.number else { return }
            client.number = nil
            let last = members.removeLast()
            guard last !== client else { return }
            members[number] = last
            last.number = number
        }
    }

    /// A copy that shares no memory with `members`. Reference counts would make shared memory
    /// safe, but ThreadSanitizer does not see them and reports a race.
    var clients: [HubClient] { lock.withLock { members.map { $0 } } }
    var count: Int { lock.withLock { members.count } }
}

/// What a hub counts.
final class HubCounters: Sendable {
    let received = Atomic<Int>(0)
    let ignored = Atomic<Int>(0)
    let dropped = Atomic<Int>(0)
    let statusesReceived = Atomic<Int>(0)
    let delivered = Atomic<Int>(0)
    let statusesDelivered = Atomic<Int>(0)
    let subscriptions = Atomic<Int>(0)
    let resumed = Atomic<Int>(0)
    let restarts = Atomic<Int>(0)
    let scans = Atomic<Int>(0)

    func read(into statistics: inout DedupeHubStatistics) {
        statistics.received = received.load(ordering: .relaxed)
        statistics.ignored = ignored.load(ordering: .relaxed)
        statistics.dropped = dropped.load(ordering: .relaxed)
        statistics.statusesReceived = statusesReceived.load(ordering: .relaxed)
        statistics.delivered = delivered.load(ordering: .relaxed)
        statistics.statusesDelivered = statusesDelivered.load(ordering: .relaxed)
        statistics.subscriptions = subscriptions.load(ordering: .relaxed)
        statistics.resumed = resumed.load(ordering: .relaxed)
        statistics.restarts = restarts.load(ordering: .relaxed)
        statistics.scans = scans.load(ordering: .relaxed)
    }
}

extension DedupeHubStatistics.Lag {
    init(_ lags: [Int]) {
        let sorted = lags.sorted()
        guard let maximum = sorted.last else { return }
        self.maximum = maximum
        median = sorted[(sorted.count - 1) / 2]
        percentile99 = sorted[(sorted.count * 99 + 99) / 100 - 1]
    }
}
