// SPDX-License-Identifier: Apache-2.0

// The contract as a naive model: arrays, searched from the front. It says what a batch must hold and judges
// what one did hold.
//
// The order among the deletions that one `inSync` owes is the library's to choose. They share a `group` in the
// queue, and a group takes on the order in which its entries are delivered, also across batches.

import DedupeBuffer

struct NaiveModel {
    typealias Call = Event<String, Int>

    enum Operation: Sendable, CustomStringConvertible {
        case updates([Update<String, Int>])
        case status(SyncStatus)
        case restart
        case step

        var description: String {
            switch self {
            case .updates(let list):
                "updates(\(list.map { "\($0.key)=\($0.value.map(String.init) ?? "nil")" }.joined(separator: " ")))"
            case .status(let status): "\(status)"
            case .restart: "restart"
            case .step: "step"
            }
        }
    }

    /// What a buffer was made with.
    struct Rules: Sendable {
        var suppresses = false
        var maximumPendingKeys: Int?
        var maximumPendingBytes: Int?
        var weight: (@Sendable (Int) -> Int)?
        var merge: (@Sendable (Int, Int) -> Int)?
        /// Whether the callback of an overflow is the restart that it asks for.
        var restartsAtOverflow = false
    }

    struct Entry {
        var key = ""
        var value: Int?
        var revision: UInt64 = 0
        var status: SyncStatus?
        /// Entries of one number may be delivered in any order; 0: this one stays where it is.
        var group = 0
    }

    let rules: Rules

    private(set) var queue: [Entry] = []
    private(set) var live: Set<String> = []
    private var unseen: Set<String>?
    private var withheldValues: Set<String> = []
    private var withheldDeletions: [String: Entry] = [:]
    private var latestReceived = SyncStatus.waitForDatastore
    private var latestTaken = SyncStatus.waitForDatastore
    private var groups = 0
    /// By key what was taken last.
    private var revisions: [String: UInt64] = [:]
    private(set) var isOverflowed = false

    private(set) var received = 0
    private(set) var delivered = 0
    private(set) var replaced = 0
    private(set) var cancelled = 0
    private(set) var suppressed = 0
    private(set) var dropped = 0
    private(set) var overflows = 0
    private(set) var synthesized = 0
    private(set) var statusesDelivered = 0
    private(set) var batches = 0
    private(set) var peak = 0

    init(rules: Rules = .init()) { self.rules = rules }

    var pendingKeys: Int { queue.count { $0.status == nil } }
    var pendingStatuses: Int { queue.count { $0.status != nil } }
    var pendingBytes: Int { queue.reduce(0) { $0 + weight(of: $1.value) } }

    private func weight(of value: Int?) -> Int {
        guard rules.maximumPendingBytes != nil, let value, let weight = rules.weight else { return 0 }
        return weight(value)
    }

    /// Whether one more entry is one too many.
    private func exceeds(_ value: Int?) -> Bool {
        if let maximum = rules.maximumPendingKeys, pendingKeys + 1 > maximum { return true }
        if let maximum = rules.maximumPendingBytes, pendingBytes + weight(of: value) > maximum { return true }
        return false
    }

    /// Section 2.
    mutating func update(_ update: Update<String, Int>) {
        received += 1
        if isOverflowed {
            dropped += 1
            return
        }
        unseen?.remove(update.key)
        guard let index = queue.firstIndex(where: { $0.status == nil && $0.key == update.key }) else {
            if rules.suppresses, update.value != nil, update.revision != 0, live.contains(update.key),
                revisions[update.key] == update.revision
            {
                suppressed += 1
                return
            }
            if exceeds(update.value) {
                restart()
                dropped += 1
                overflows += 1
                isOverflowed = true
                return
            }
            queue.append(Entry(key: update.key, value: update.value, revision: update.revision))
            peak = max(peak, pendingKeys)
            return
        }
        if update.value == nil, queue[index].value != nil {
            if let entry = withheldDeletions[update.key] {
                (replaced, cancelled) = (replaced - 1, cancelled + 2)
                queue[index] = entry
                return
            }
            if !live.contains(update.key), !withheldValues.contains(update.key) { return cancel(at: index) }
        }
        replaced += 1
        if let merge = rules.merge, let older = queue[index].value, let newer = update.value {
            queue[index].value = merge(older, newer)
        } else {
            queue[index].value = update.value
        }
        queue[index].revision = update.revision
    }

    /// A value and its deletion go, and with them the earlier of two statuses that had only them between them.
    private mutating func cancel(at index: Int) {
        cancelled += 2
        queue.remove(at: index)
        if index > 0, index < queue.count, queue[index - 1].status != nil, queue[index].status != nil {
            queue.remove(at: index - 1)
        }
    }

    /// The first `count` entries are with a sink that will fail: to the queue they are not there until they come back.
    /// So a deletion does not cancel such a value, and cancels a value that comes after such a deletion.
    mutating func withhold(_ count: Int) {
        for entry in queue.prefix(count) where entry.status == nil {
            if entry.value == nil { withheldDeletions[entry.key] = entry } else { withheldValues.insert(entry.key) }
        }
    }

    /// They have come back, each to whatever has come in its place.
    mutating func giveBack() {
        for key in withheldValues where !live.contains(key) {
            guard let index = queue.firstIndex(where: { $0.status == nil && $0.key == key && $0.value == nil }) else {
                continue
            }
            replaced -= 1
            cancel(at: index)
        }
        (withheldValues, withheldDeletions) = ([], [:])
    }

    /// Section 3.
    mutating func status(_ status: SyncStatus) {
        if isOverflowed { return }
        if status == .inSync, let owed = unseen {
            unseen = nil
            groups += 1
            for key in owed.sorted() {
                queue.append(Entry(key: key, group: groups))
                synthesized += 1
            }
            peak = max(peak, pendingKeys)
        }
        if status == latestReceived { return }
        latestReceived = status
        if let last = queue.indices.last, queue[last].status != nil {
            queue[last].status = status
        } else {
            queue.append(Entry(status: status))
        }
    }

    /// Section 5.
    mutating func restart() {
        dropped += pendingKeys
        queue = []
        (withheldValues, withheldDeletions) = ([], [:])
        unseen = live
        latestReceived = latestTaken
        isOverflowed = false
    }

    /// Section 4: takes a batch of at most `limit` entries and compares it with `calls` (nil: the queue was
    /// empty). Returns what differs, or nil.
    mutating func step(limit: Int, delivered calls: [Call]?) -> String? {
        let count = min(limit, queue.count)
        guard let calls else { return count == 0 ? nil : "nothing delivered; due: \(queue.prefix(count))" }
        if count == 0 { return "delivered \(calls); nothing was due" }

        var actual: [Item<String, Int>?] = []
        for call in calls {
            switch call {
            case .status: actual.append(nil)
            case .updates(let items): actual.append(contentsOf: items)
            }
        }
        batches += 1
        for position in 0..<count { adopt(actual, at: position) }
        let due = take(count)
        return due == calls ? nil : "delivered \(calls); due \(due)"
    }

    /// Takes the first `count` entries: the calls that they make.
    mutating func take(_ count: Int) -> [Call] {
        var due: [Call] = []
        var run: [Item<String, Int>] = []
        for entry in queue.prefix(count) {
            if let status = entry.status {
                if !run.isEmpty { due.append(.updates(run)) }
                run = []
                due.append(.status(status))
                latestTaken = status
                statusesDelivered += 1
                continue
            }
            delivered += 1
            revisions[entry.key] = entry.revision
            if let value = entry.value {
                let type: UpdateType = live.insert(entry.key).inserted ? .new : .updated
                run.append(Item(key: entry.key, value: value, revision: entry.revision, type: type))
            } else {
                live.remove(entry.key)
                run.append(.deleted(entry.key, revision: entry.revision))
            }
        }
        if !run.isEmpty { due.append(.updates(run)) }
        queue.removeFirst(count)
        return due
    }

    /// The entries of one group that are in the queue take on this order among them.
    mutating func arrange(group: Int, as keys: [String]) {
        let places = queue.indices.filter { queue[$0].group == group }
        let entries = places.map { queue[$0] }
        let sorted = keys.compactMap { key in entries.first { $0.key == key } }
        for (place, entry) in zip(places, sorted) where sorted.count == places.count { queue[place] = entry }
    }

    /// Puts the entry that was delivered at `position` there, if it is one of the group whose turn it is.
    private mutating func adopt(_ actual: [Item<String, Int>?], at position: Int) {
        let group = queue[position].group
        guard group != 0, position < actual.count, let item = actual[position] else { return }
        var other = position
        while other < queue.count, queue[other].group == group {
            if queue[other].key == item.key {
                queue.swapAt(position, other)
                return
            }
            other += 1
        }
    }

    /// What differs between the library's counts and the model's, or nil.
    func difference(from statistics: DedupeBufferStatistics) -> String? {
        let pairs: [(String, Int, Int)] = [
            ("pendingKeys", statistics.pendingKeys, pendingKeys),
            ("pendingStatuses", statistics.pendingStatuses, pendingStatuses),
            ("liveKeys", statistics.liveKeys, live.count),
            ("received", statistics.received, received),
            ("delivered", statistics.delivered, delivered),
            ("replaced", statistics.replaced, replaced),
            ("cancelled", statistics.cancelled, cancelled),
            ("suppressed", statistics.suppressed, suppressed),
            ("dropped", statistics.dropped, dropped),
            ("overflows", statistics.overflows, overflows),
            ("isOverflowed", statistics.isOverflowed ? 1 : 0, isOverflowed ? 1 : 0),
            ("pendingBytes", statistics.pendingBytes, pendingBytes),
            ("rejected", statistics.rejected, 0),
            ("synthesizedDeletions", statistics.synthesizedDeletions, synthesized),
            ("statusesDelivered", statistics.statusesDelivered, statusesDelivered),
            ("batches", statistics.batches, batches),
            ("peakPendingKeys", statistics.peakPendingKeys, peak),
        ]
        let wrong = pairs.filter { $0.1 != $0.2 }
        if !wrong.isEmpty {
            return wrong.map { "\($0.0) is \($0.1), must be \($0.2)" }.joined(separator: "; ")
        }
        if pendingStatuses > pendingKeys + 1 { return "more statuses than pending keys and one" }
        return nil
    }
}
