// SPDX-License-Identifier: Apache-2.0

// The contract as a naive model: arrays, searched from the front. It says what a batch must hold
// and judges what one did hold.
//
// The order among the deletions that one `inSync` owes is the library's to choose. They share a
// `group` in the queue, and a group takes on the order in which its entries are delivered, also
// across batches.

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
        /// It came in the place of a deletion, with which all that was before ended.
        var isAlone = false
    }

    /// An entry that was taken, and what was so before.
    private struct Taken {
        var entry: Entry
        var valueBefore: Int?
        var revisionBefore: UInt64?
        var statusBefore: SyncStatus
    }

    let rules: Rules

    private(set) var queue: [Entry] = []
    /// What the sink was given, as far as it did not come back.
    private(set) var sink: [String: Int] = [:]
    /// From a restart to the next `inSync`.
    private var unseen: Set<String>?
    /// The batch that was taken last,
    private var batch: [Taken] = []
    /// and whether there was a restart since.
    private var hasRestarted = false
    /// Suppressed since the last restart, and not taken since.
    private var sentAgain: Set<String> = []
    private var latestReceived = SyncStatus.waitForDatastore
    /// The last status received was dropped, being the latest one received.
    private var hasSwallowed = false
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
        guard let index = index(of: update.key) else {
            if rules.suppresses, update.value != nil, update.revision != 0, sink[update.key] != nil,
                revisions[update.key] == update.revision
            {
                suppressed += 1
                sentAgain.insert(update.key)
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
        if update.value == nil, queue[index].value != nil, sink[update.key] == nil { return cancel(at: index) }
        replaced += 1
        if let merge = rules.merge, let older = queue[index].value, let newer = update.value {
            queue[index].value = merge(older, newer)
        } else {
            queue[index].isAlone = queue[index].value == nil && update.value != nil
            queue[index].value = update.value
        }
        queue[index].revision = update.revision
    }

    private func index(of key: String) -> Int? { queue.firstIndex { $0.status == nil && $0.key == key } }

    /// A value and its deletion go.
    private mutating func cancel(at index: Int) {
        cancelled += 2
        remove(at: index)
    }

    /// An entry leaves its place, and with it the earlier of two statuses that had only it between
    /// them.
    private mutating func remove(at index: Int) {
        queue.remove(at: index)
        if index > 0, index < queue.count, queue[index - 1].status != nil, queue[index].status != nil {
            queue.remove(at: index - 1)
        }
    }

    /// Section 3.
    mutating func status(_ status: SyncStatus) {
        if isOverflowed { return }
        let endsResync = status == .inSync && unseen != nil
        if status == .inSync, let owed = unseen {
            unseen = nil
            groups += 1
            for key in owed.sorted() {
                queue.append(Entry(key: key, group: groups))
                synthesized += 1
            }
            peak = max(peak, pendingKeys)
        }
        hasSwallowed = status == latestReceived && !endsResync
        if hasSwallowed { return }
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
        (hasRestarted, hasSwallowed, sentAgain) = (true, false, [])
        unseen = Set(sink.keys)
        latestReceived = latestTaken
        isOverflowed = false
    }

    /// Section 4: takes a batch of at most `limit` entries and compares it with `calls` (nil: the
    /// queue was empty). Returns what differs, or nil.
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
        for position in 0..<count { adopt(actual, at: position) }
        let due = take(count)
        return due == calls ? nil : "delivered \(calls); due \(due)"
    }

    /// Takes the first `count` entries: the calls that they make.
    mutating func take(_ count: Int) -> [Call] {
        var due: [Call] = []
        var run: [Item<String, Int>] = []
        batches += 1
        (batch, hasRestarted) = ([], false)
        for entry in queue.prefix(count) {
            batch.append(
                Taken(
                    entry: entry, valueBefore: sink[entry.key], revisionBefore: revisions[entry.key],
                    statusBefore: latestTaken))
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
            sentAgain.remove(entry.key)
            if let value = entry.value {
                let type: UpdateType = sink.updateValue(value, forKey: entry.key) == nil ? .new : .updated
                run.append(Item(key: entry.key, value: value, revision: entry.revision, type: type))
            } else {
                sink[entry.key] = nil
                run.append(.deleted(entry.key, revision: entry.revision))
            }
        }
        if !run.isEmpty { due.append(.updates(run)) }
        queue.removeFirst(count)
        return due
    }

    /// The first entries are those of a batch with these keys (`nil`: a status). Which of a group's
    /// come first is thereby settled, also for when they come back.
    mutating func settle(_ keys: [String?]) {
        for (position, key) in zip(queue.indices, keys) where queue[position].group != 0 {
            let group = queue[position].group
            let other = queue[position...].firstIndex { $0.group == group && $0.key == key }
            if let other { queue.swapAt(position, other) }
            queue[position].group = 0
        }
    }

    // MARK: - What comes back

    /// The last `count` entries of the batch that was taken go back to the front, from the last to
    /// the first, as if they had never been taken. What came in since was dealt with as if they had
    /// gone for good.
    mutating func putBack(_ count: Int) {
        for _ in 0..<count {
            let taken = batch.removeLast()
            if let status = taken.entry.status {
                putBack(status, taken)
                continue
            }
            delivered -= 1
            sink[taken.entry.key] = taken.valueBefore
            if taken.entry.value == nil { putBackDeletion(taken) } else { putBackValue(taken) }
        }
    }

    /// The entries of these keys in the batch that was taken go back, as if never taken; the others
    /// stay with the sink.
    mutating func putBack(keys: Set<String>) {
        let isBack = { (taken: Taken) in taken.entry.status == nil && keys.contains(taken.entry.key) }
        batch = batch.filter { !isBack($0) } + batch.filter(isBack)
        putBack(batch.count(where: isBack))
    }

    /// The sink goes without an update that it was given.
    mutating func abandon() {
        delivered -= 1
        dropped += 1
    }

    private mutating func putBackValue(_ taken: Taken) {
        let (key, index) = (taken.entry.key, index(of: taken.entry.key))
        revisions[key] = taken.revisionBefore
        if taken.valueBefore == nil { unseen?.remove(key) }
        // What was sent again since the restart, and suppressed because this was taken, is not
        // lost.
        let isMerged = index.map { rules.merge != nil && queue[$0].value != nil && !queue[$0].isAlone } ?? true
        if hasRestarted, !isMerged || !sentAgain.contains(key) {
            dropped += 1
        } else if let index {
            if queue[index].value == nil, taken.valueBefore == nil { return cancel(at: index) }
            if let merge = rules.merge, let newer = queue[index].value, !queue[index].isAlone {
                queue[index].value = merge(taken.entry.value!, newer)
            }
            replaced += 1
            moveToFront(from: index)
        } else {
            putInFront(taken.entry)
        }
    }

    private mutating func putBackDeletion(_ taken: Taken) {
        let (key, index) = (taken.entry.key, index(of: taken.entry.key))
        let wasLive = taken.valueBefore != nil
        if wasLive {
            revisions[key] = taken.revisionBefore
            if hasRestarted, index == nil { unseen?.insert(key) }
        }
        if index == nil, !hasRestarted || (wasLive && unseen == nil) {
            putInFront(taken.entry)
        } else if let index, !hasRestarted {
            replaced += 1
            moveToFront(from: index)
        } else {
            dropped += 1
        }
    }

    private mutating func putBack(_ status: SyncStatus, _ taken: Taken) {
        statusesDelivered -= 1
        latestTaken = taken.statusBefore
        if !hasRestarted {
            if queue.first?.status == nil { queue.insert(taken.entry, at: 0) }
        } else if pendingStatuses == 0 {
            // What equalled it was dropped, and is not delivered now.
            if hasSwallowed { queue.append(taken.entry) } else { latestReceived = latestTaken }
        }
    }

    private mutating func putInFront(_ entry: Entry) {
        queue.insert(Entry(key: entry.key, value: entry.value, revision: entry.revision), at: 0)
        peak = max(peak, pendingKeys)
    }

    private mutating func moveToFront(from index: Int) {
        var entry = queue[index]
        entry.group = 0
        remove(at: index)
        queue.insert(entry, at: 0)
    }

    // MARK: - The end of it all

    /// What the sink will have when all was delivered and the resync, if there is one, is over.
    struct Outcome: Equatable {
        var state: [String: Int]
        var status: SyncStatus
    }

    var outcome: Outcome {
        var outcome = Outcome(state: sink, status: latestTaken)
        for key in unseen ?? [] { outcome.state[key] = nil }
        for entry in queue {
            if let status = entry.status { outcome.status = status } else { outcome.state[entry.key] = entry.value }
        }
        return outcome
    }

    // MARK: - Judging

    /// Puts the entry that was delivered at `position` there, if it is one of the group whose turn
    /// it is.
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
            ("liveKeys", statistics.liveKeys, sink.count),
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
