// SPDX-License-Identifier: Apache-2.0

// The oracle: a naive buffer for each subscriber, made of arrays that are searched from the front.
// It is given what the hub is given, and says what its next batch must hold.
//
// The order among some keys is the hub's to choose: those of the first state, of a resume, and
// those that a subscriber has to look for because the change log has lapped it. These share a
// `group`, and the model takes on the order in which they are delivered. A change log that grows
// laps a subscriber when the hub says so.

import DedupeBuffer

/// What a hub was given.
struct World {
    struct Version: Equatable {
        /// `nil`: deleted.
        var value: Int?
        /// The source's revision.
        var revision: UInt64
        /// The hub's revision of the last change.
        var changed: UInt64
        /// Since when the key has values.
        var birth: UInt64
    }

    struct Life {
        var key: String
        var birth: UInt64
        /// `nil`: the key lives.
        var death: UInt64?
    }

    enum Change {
        case value(String, Int, UInt64)
        case deletion(String, UInt64)
        case status(SyncStatus)
    }

    /// `nil`: the log grows.
    let logCapacity: Int?
    let maximumTombstones: Int
    private(set) var versions: [String: Version] = [:]
    private(set) var lives: [Life] = []
    /// All changes; revision `r` is at `r - 1`.
    private(set) var changes: [Change] = []
    private(set) var status = SyncStatus.waitForDatastore
    private(set) var statusRevision: UInt64 = 0
    /// Deletions up to this revision may have been forgotten.
    private(set) var horizon: UInt64 = 0
    private var deaths: [UInt64] = []

    init(logCapacity: Int? = 65_536, maximumTombstones: Int = 65_536) {
        (self.logCapacity, self.maximumTombstones) = (logCapacity, maximumTombstones)
    }

    var head: UInt64 { UInt64(changes.count) }
    var state: [String: Int] { versions.compactMapValues(\.value) }

    mutating func update(_ updates: [Update<String, Int>]) {
        for update in updates { change(update) }
        let forgotten = max(deaths.count - maximumTombstones, 0)
        if forgotten > 0 { horizon = deaths[forgotten - 1] }
        deaths.removeFirst(forgotten)
    }

    private mutating func change(_ update: Update<String, Int>) {
        let old = versions[update.key]
        let lives = old?.value != nil
        guard let value = update.value else {
            guard lives, let old else { return }
            changes.append(.deletion(update.key, update.revision))
            deaths.append(head)
            self.lives[self.lives.lastIndex { $0.key == update.key }!].death = head
            versions[update.key] = Version(value: nil, revision: update.revision, changed: head, birth: old.birth)
            return
        }
        changes.append(.value(update.key, value, update.revision))
        if !lives { self.lives.append(Life(key: update.key, birth: head, death: nil)) }
        versions[update.key] = Version(
            value: value, revision: update.revision, changed: head, birth: lives ? old!.birth : head)
    }

    mutating func status(_ status: SyncStatus) {
        guard status != self.status else { return }
        self.status = status
        changes.append(.status(status))
        statusRevision = head
    }
}

/// A subscriber's own buffer.
struct NaiveSubscriber {
    typealias Call = Event<String, Int>

    struct Entry {
        var key = ""
        var value: Int?
        var revision: UInt64 = 0
        var status: SyncStatus?
        /// Entries of one number may be delivered in any order; 0: this one stays where it is.
        var group = 0
    }

    enum Start {
        case beginning
        case position(revision: UInt64, horizon: UInt64)
    }

    private let start: Start
    private let accepts: (String) -> Bool
    private(set) var queue: [Entry] = []
    private(set) var live: Set<String> = []
    /// Changes up to this revision are in the queue. `nil`: nothing was taken yet.
    private var cursor: UInt64?
    private var groups = 0

    init(_ start: Start = .beginning, accepts: @escaping (String) -> Bool = { _ in true }) {
        (self.start, self.accepts) = (start, accepts)
    }

    /// Takes a batch of at most `limit` entries and compares it with `calls` (`nil`: there was
    /// nothing to take). Returns what differs, or `nil`.
    ///
    /// - Parameter isLapped: whether the hub says so.
    mutating func take(_ limit: Int, _ world: World, isLapped: Bool, delivered calls: [Call]?) -> String? {
        if let capacity = world.logCapacity, let cursor, isLapped != (world.head - cursor > capacity) {
            return "lapped: \(isLapped)"
        }
        let restarts = catchUp(world, isLapped)
        let count = min(limit, queue.count)
        var due: [Call] = restarts ? [.restart] : []
        let actual = (calls ?? []).flatMap { call -> [Item<String, Int>?] in
            switch call {
            case .updates(let items): items
            case .status: [nil]
            case .restart: []
            }
        }
        for position in 0..<count { adopt(actual, at: position) }
        due += taken(count)
        if due.isEmpty { return calls == nil ? nil : "delivered \(calls!); nothing was due" }
        guard let calls else { return "nothing delivered; due \(due)" }
        return calls == due ? nil : "delivered \(calls); due \(due)"
    }

    var isEmpty: Bool { queue.isEmpty }

    // MARK: - What comes in

    /// Returns whether it starts with a restart.
    private mutating func catchUp(_ world: World, _ isLapped: Bool) -> Bool {
        guard let cursor else {
            self.cursor = world.head
            return begin(world)
        }
        defer { self.cursor = world.head }
        if isLapped {
            search(world, after: cursor, tellsStatus: world.statusRevision > cursor)
        } else {
            for change in world.changes[Int(cursor)...] { put(change) }
        }
        return false
    }

    private mutating func begin(_ world: World) -> Bool {
        guard case .position(let revision, let horizon) = start else {
            // A subscriber that has had nothing takes the source to be waiting.
            search(world, after: 0, tellsStatus: world.status != .waitForDatastore)
            return false
        }
        guard revision >= world.horizon else {
            search(world, after: 0, tellsStatus: true)
            return true
        }
        for life in world.lives where life.birth <= horizon && life.death ?? .max > revision && accepts(life.key) {
            live.insert(life.key)
        }
        search(world, after: revision, tellsStatus: revision == 0 || world.statusRevision > revision)
        return false
    }

    /// What changed after a revision comes up in any order.
    private mutating func search(_ world: World, after bound: UInt64, tellsStatus: Bool) {
        groups += 1
        for (key, version) in world.versions where version.changed > bound && accepts(key) {
            let (isPending, isLive) = (index(of: key) != nil, live.contains(key))
            if version.value == nil {
                if isLive { put(key, version, group: groups) } else if isPending { leave(key) }
            } else {
                if isPending && !isLive && version.birth > bound { leave(key) }
                put(key, version, group: groups)
            }
        }
        if tellsStatus { put(.status(world.status)) }
    }

    private mutating func put(_ key: String, _ version: World.Version, group: Int) {
        if let index = index(of: key) {
            (queue[index].value, queue[index].revision) = (version.value, version.revision)
        } else {
            queue.append(Entry(key: key, value: version.value, revision: version.revision, group: group))
        }
    }

    private mutating func put(_ change: World.Change) {
        switch change {
        case .value(let key, let value, let revision):
            guard accepts(key) else { return }
            put(key, World.Version(value: value, revision: revision, changed: 0, birth: 0), group: 0)
        case .deletion(let key, let revision):
            if live.contains(key) {
                put(key, World.Version(value: nil, revision: revision, changed: 0, birth: 0), group: 0)
            } else {
                leave(key)
            }
        case .status(let status):
            if queue.last?.status != nil {
                queue[queue.count - 1].status = status
            } else {
                queue.append(Entry(status: status))
            }
        }
    }

    private func index(of key: String) -> Int? { queue.firstIndex { $0.status == nil && $0.key == key } }

    private mutating func leave(_ key: String) {
        guard let index = index(of: key) else { return }
        queue.remove(at: index)
        if index > 0, index < queue.count, queue[index - 1].status != nil, queue[index].status != nil {
            queue.remove(at: index - 1)
        }
    }

    // MARK: - What goes out

    private mutating func adopt(_ actual: [Item<String, Int>?], at position: Int) {
        let group = queue[position].group
        guard group != 0, position < actual.count, let item = actual[position] else { return }
        let other = queue[position...].prefix { $0.group == group }.firstIndex { $0.key == item.key }
        if let other { queue.swapAt(position, other) }
    }

    private mutating func taken(_ count: Int) -> [Call] {
        var calls: [Call] = []
        var run: [Item<String, Int>] = []
        for entry in queue.prefix(count) {
            if let status = entry.status {
                if !run.isEmpty { calls.append(.updates(run)) }
                run = []
                calls.append(.status(status))
            } else if let value = entry.value {
                let isNew = live.insert(entry.key).inserted
                run.append(Item(key: entry.key, value: value, revision: entry.revision, type: isNew ? .new : .updated))
            } else {
                live.remove(entry.key)
                run.append(Item(key: entry.key, value: nil, revision: entry.revision, type: .deleted))
            }
        }
        if !run.isEmpty { calls.append(.updates(run)) }
        queue.removeFirst(count)
        return calls
    }
}
