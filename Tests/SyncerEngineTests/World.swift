// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import SyncerEngine

/// A simulated cluster: its history, and members that lag.
struct World {
    struct Change {
        var revision: Int64
        var key: [UInt8]
        var value: [UInt8]?
    }

    /// The first byte of a key is its range.
    static let ranges = 2
    static let keys: [[UInt8]] = (0..<ranges).flatMap { range in
        (0..<5).map { [UInt8(ascii: "a") + UInt8(range), UInt8(ascii: "0") + UInt8($0)] }
    }

    private(set) var log: [Change] = []
    private(set) var revision: Int64 = 1
    private(set) var compacted: Int64 = 0
    private(set) var cluster: UInt64 = 1
    private var latestValue = 0
    /// How many revisions each member is behind.
    var lags: [Int64]
    var isDown: [Bool]
    /// Members behind a proxy that swallows requests for a sign of life.
    var isMute: [Bool]

    init(members: Int, _ generator: inout SeededGenerator) {
        lags = Array(repeating: 0, count: members)
        isDown = Array(repeating: false, count: members)
        isMute = (0..<members).map { _ in generator.oneIn(3) }
    }

    static func range(of key: [UInt8]) -> Int { Int(key[0] - UInt8(ascii: "a")) }

    var position: HistoryPosition { HistoryPosition(cluster: cluster, revision: revision) }

    func applied(_ member: Int) -> Int64 { max(1, revision - lags[member]) }

    func position(of member: Int) -> HistoryPosition { HistoryPosition(cluster: cluster, revision: applied(member)) }

    // MARK: - Writes

    /// One revision: a put, a deletion, or an expiry of several keys.
    mutating func write(_ generator: inout SeededGenerator) {
        revision += 1
        if generator.oneIn(8) {
            let live = state(at: revision - 1).map(\.key)
            for key in live where generator.oneIn(2) { log.append(Change(revision: revision, key: key, value: nil)) }
            return
        }
        let key = Self.keys[generator.below(Self.keys.count)]
        latestValue += 1
        let isDeletion = generator.oneIn(3)
        log.append(Change(revision: revision, key: key, value: isDeletion ? nil : Array("\(latestValue)".utf8)))
    }

    mutating func compact(to revision: Int64) { compacted = max(compacted, min(revision, self.revision)) }

    /// The cluster begins again with what it had at an earlier revision.
    mutating func restore(to revision: Int64, asOtherCluster: Bool) {
        log.removeAll { $0.revision > revision }
        self.revision = revision
        if asOtherCluster { cluster += 1 }
        for i in lags.indices { lags[i] = 0 }
    }

    // MARK: - Reads

    /// Keys with their values, in order.
    func state(at revision: Int64) -> [DatastoreEntry] {
        var newest: [[UInt8]: Change] = [:]
        for change in log where change.revision <= revision { newest[change.key] = change }
        return newest.values.filter { $0.value != nil }
            .map { DatastoreEntry(key: $0.key, value: $0.value, revision: $0.revision) }
            .sorted { $0.key.lexicographicallyPrecedes($1.key) }
    }

    var state: [[UInt8]: [UInt8]] {
        Dictionary(uniqueKeysWithValues: state(at: revision).map { ($0.key, $0.value!) })
    }

    func page(_ request: PageRequest) -> Result<Page, DatastoreError> {
        if let revision = request.revision {
            if revision < compacted { return .failure(DatastoreError(.compacted)) }
            if revision > self.revision { return .failure(DatastoreError(.futureRevision)) }
        }
        let all = state(at: request.revision ?? revision).filter { Self.range(of: $0.key) == request.range }
        let rest = all.filter { entry in request.after.map { $0.lexicographicallyPrecedes(entry.key) } ?? true }
        return .success(
            Page(
                position: position, entries: Array(rest.prefix(request.limit)), hasMore: rest.count > request.limit,
                count: Int64(all.count)))
    }

    func probe(resuming: Int64?, saysFuture: Bool) -> Result<HistoryPosition, DatastoreError> {
        if let resuming {
            if resuming - 1 < compacted { return .failure(DatastoreError(.compacted)) }
            if resuming - 1 > revision && saysFuture { return .failure(DatastoreError(.futureRevision)) }
        }
        return .success(position)
    }

    /// The changes of a range from one revision to another.
    func changes(of range: Int, from start: Int64, to end: Int64) -> [DatastoreEntry] {
        log.filter { start...max(start, end) ~= $0.revision && $0.revision <= end && Self.range(of: $0.key) == range }
            .map { DatastoreEntry(key: $0.key, value: $0.value, revision: $0.revision) }
    }
}

/// A watch on a simulated member.
struct SimulatedWatch {
    let id: RequestID
    let endpoint: Int
    /// For each range the next revision to report.
    var next: [Int64]
    var isCreated = Array(repeating: false, count: World.ranges)
    /// The stream is stalled: nothing comes any more.
    var isSilent = false
    /// On their way.
    var messages: [WatchMessage] = []
    var latest: WatchMessage?

    /// Reports what is new at the member for one range. Returns whether something was.
    mutating func pump(_ world: World, _ range: Int, _ generator: inout SeededGenerator) -> Bool {
        guard !isSilent else { return false }
        let position = world.position(of: endpoint)
        guard isCreated[range] else {
            isCreated[range] = true
            messages.append(.created(range: range, position))
            return true
        }
        if next[range] <= world.compacted {
            messages.append(.cancelled(range: range, reason: "", compacted: world.compacted + 1, position))
            next[range] = world.revision + 1
            return true
        }
        guard next[range] <= position.revision else { return false }
        let end =
            generator.oneIn(2)
            ? position.revision : next[range] + Int64(generator.below(Int(position.revision - next[range]) + 1))
        let changes = world.changes(of: range, from: next[range], to: end)
        next[range] = end + 1
        if !changes.isEmpty { send(changes, of: range, position, &generator) }
        return true
    }

    /// In one message, or in fragments.
    private mutating func send(
        _ changes: [DatastoreEntry], of range: Int, _ position: HistoryPosition, _ generator: inout SeededGenerator
    ) {
        var rest = changes[...]
        while rest.count > 1, generator.oneIn(3) {
            let count = 1 + generator.below(rest.count - 1)
            messages.append(.changes(range: range, Array(rest.prefix(count)), position, isFragment: true))
            rest = rest.dropFirst(count)
        }
        latest = .changes(range: range, changes, position, isFragment: false)
        messages.append(.changes(range: range, Array(rest), position, isFragment: false))
    }

    /// Whether the member has no more to report.
    func hasCaughtUp(_ world: World) -> Bool {
        isCreated.allSatisfy { $0 } && next.allSatisfy { $0 > world.applied(endpoint) }
    }

    /// Whether everything was reported.
    func isDrained(_ world: World) -> Bool {
        messages.isEmpty && isCreated.allSatisfy { $0 } && next.allSatisfy { $0 > world.revision }
    }
}
