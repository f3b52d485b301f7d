// SPDX-License-Identifier: Apache-2.0

// A machine under test: time stands still until the test moves it, and random numbers are what the
// test says.

import DedupeBuffer
import Testing

@testable import SyncerEngine

func bytes(_ string: String) -> [UInt8] { Array(string.utf8) }

extension DatastoreEntry {
    static func put(_ key: String, _ value: String = "v", at revision: Int64) -> Self {
        Self(key: bytes(key), value: bytes(value), revision: revision)
    }

    static func delete(_ key: String, at revision: Int64) -> Self {
        Self(key: bytes(key), value: nil, revision: revision)
    }
}

extension HistoryPosition {
    static func at(_ revision: Int64, cluster: UInt64 = 7) -> Self { Self(cluster: cluster, revision: revision) }
}

extension Update<[UInt8], [UInt8]> {
    /// As `key@revision`, or `-key@revision` for a deletion.
    var short: String { "\(value == nil ? "-" : "")\(String(decoding: key, as: UTF8.self))@\(revision)" }
}

extension SyncerAction {
    var isRestart: Bool { self == .restart }
    var status: SyncStatus? { if case .status(let status) = self { status } else { nil } }
    var report: SyncerReport? { if case .report(let report) = self { report } else { nil } }
    var delivered: [Update<[UInt8], [UInt8]>] { if case .deliver(let updates) = self { updates } else { [] } }
    var disconnected: Int? { if case .disconnect(let endpoint) = self { endpoint } else { nil } }
    var isProgressRequest: Bool { if case .requestProgress = self { true } else { false } }
    var sent: (id: RequestID, endpoint: Int, request: SyncerRequest)? {
        if case .request(let id, let endpoint, let request) = self { (id, endpoint, request) } else { nil }
    }
}

extension [SyncerAction] {
    var restarts: Int { count(where: \.isRestart) }
    var statuses: [SyncStatus] { compactMap(\.status) }
    var reports: [SyncerReport] { compactMap(\.report) }
    var delivered: [String] { flatMap(\.delivered).map(\.short) }
    var disconnected: [Int] { compactMap(\.disconnected) }
    var requests: [SyncerRequest] { compactMap { $0.sent?.request } }
    var progressRequests: Int { count(where: \.isProgressRequest) }
    /// What the sink's buffer sees, in one line.
    var seen: String {
        compactMap { action in
            switch action {
            case .restart: "restart"
            case .status(let status): "\(status)"
            case .deliver(let updates): updates.map(\.short).joined(separator: " ")
            default: nil
            }
        }.joined(separator: ", ")
    }
}

struct Harness {
    var machine: SyncerStateMachine
    var now = Duration.zero
    var random = 0.5
    /// Since `take()`.
    var actions: [SyncerAction] = []
    /// The latest requests to endpoints, by number.
    private(set) var sent: [RequestID: (endpoint: Int, request: SyncerRequest)] = [:]

    init(
        ranges: Int = 1, endpoints: [Int] = [0, 1, 2], _ change: (inout SyncerConfiguration) -> Void = { _ in }
    ) {
        var configuration = SyncerConfiguration(rangeCount: ranges)
        change(&configuration)
        machine = SyncerStateMachine(configuration, endpoints: endpoints)
    }

    @discardableResult
    mutating func send(_ event: SyncerEvent) -> [SyncerAction] {
        let new = machine.handle(event, at: now, random: random)
        for case (let id, let endpoint, let request)? in new.map(\.sent) { sent[id] = (endpoint, request) }
        actions += new
        return new
    }

    /// The actions so far, which are then forgotten.
    mutating func take() -> [SyncerAction] {
        defer { actions = [] }
        return actions
    }

    var phase: SyncerStateMachine.Phase { machine.phase }

    // MARK: Time

    /// Lets time pass, and every timer fire that is due.
    @discardableResult
    mutating func pass(_ time: Duration) -> [SyncerAction] {
        let end = now + time
        var new: [SyncerAction] = []
        while let deadline = machine.nextDeadline, deadline <= end {
            now = max(now, deadline)
            new += send(.timePassed)
        }
        now = end
        return new
    }

    /// Lets time pass until the machine is not waiting any more.
    @discardableResult
    mutating func passPause() -> [SyncerAction] {
        var new: [SyncerAction] = []
        while phase == .waiting, let deadline = machine.nextDeadline { new += pass(deadline - now) }
        return new
    }

    // MARK: Answers

    /// The request that the machine waits for.
    func pending(_ location: SourceLocation = #_sourceLocation) throws -> (id: RequestID, request: SyncerRequest) {
        let pending = try #require(machine.request, "in \(machine.phase)", sourceLocation: location)
        return (pending.id, pending.request)
    }

    func watchID(_ location: SourceLocation = #_sourceLocation) throws -> RequestID {
        try #require(machine.watch, "in \(machine.phase)", sourceLocation: location).id
    }

    @discardableResult
    mutating func answerProbe(
        at revision: Int64, cluster: UInt64 = 7, _ location: SourceLocation = #_sourceLocation
    ) throws -> [SyncerAction] {
        send(.probed(try pending(location).id, .at(revision, cluster: cluster)))
    }

    @discardableResult
    mutating func answerPage(
        _ entries: [DatastoreEntry] = [], at revision: Int64, cluster: UInt64 = 7, more: Bool = false,
        count: Int64? = nil, _ location: SourceLocation = #_sourceLocation
    ) throws -> [SyncerAction] {
        send(
            .read(
                try pending(location).id,
                Page(
                    position: .at(revision, cluster: cluster), entries: entries, hasMore: more,
                    count: count ?? Int64(entries.count))))
    }

    /// The current request fails.
    @discardableResult
    mutating func fail(
        _ reason: DatastoreError.Reason, _ location: SourceLocation = #_sourceLocation
    ) throws -> [SyncerAction] {
        send(.failed(try pending(location).id, DatastoreError(reason)))
    }

    @discardableResult
    mutating func failWatch(
        _ reason: DatastoreError.Reason, _ location: SourceLocation = #_sourceLocation
    ) throws -> [SyncerAction] {
        send(.failed(try watchID(location), DatastoreError(reason)))
    }

    @discardableResult
    mutating func message(
        _ message: WatchMessage, _ location: SourceLocation = #_sourceLocation
    ) throws -> [SyncerAction] {
        send(.message(try watchID(location), message))
    }

    /// Changes of range 0. The response has the revision of the last one, if no other is given.
    @discardableResult
    mutating func change(
        _ entries: DatastoreEntry..., at revision: Int64? = nil, range: Int = 0, fragment: Bool = false,
        _ location: SourceLocation = #_sourceLocation
    ) throws -> [SyncerAction] {
        let position = HistoryPosition.at(revision ?? entries.last?.revision ?? 0)
        return try message(.changes(range: range, entries, position, isFragment: fragment), location)
    }

    // MARK: Whole steps

    /// Every range of the watch is accepted.
    @discardableResult
    mutating func create(
        at revision: Int64, _ location: SourceLocation = #_sourceLocation
    ) throws -> [SyncerAction] {
        var new: [SyncerAction] = []
        for range in 0..<machine.configuration.rangeCount {
            new += try message(.created(range: range, .at(revision)), location)
        }
        return new
    }

    /// From the start to in sync, with one page in each range. Forgets the actions.
    mutating func follow(
        _ entries: [DatastoreEntry] = [], at revision: Int64, _ location: SourceLocation = #_sourceLocation
    ) throws {
        send(.start)
        try answerProbe(at: revision, location)
        for range in 0..<machine.configuration.rangeCount {
            try answerPage(range == 0 ? entries : [], at: revision, location)
        }
        try create(at: revision, location)
        #expect(phase == .following, sourceLocation: location)
        _ = take()
    }

    /// The watch breaks off, and the pause before the next attempt is over.
    mutating func lose(
        _ reason: DatastoreError.Reason = .unavailable, _ location: SourceLocation = #_sourceLocation
    ) throws {
        try failWatch(reason, location)
        passPause()
        #expect(phase == .probing, sourceLocation: location)
    }
}
