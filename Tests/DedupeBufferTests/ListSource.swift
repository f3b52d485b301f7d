// SPDX-License-Identifier: Apache-2.0

// A source that knows what it has, and a sink that knows what it was told, for buffers with
// whatever rules.
//
// Values are lists. One that begins with the mark is all that its key has, any other is what was
// added to that. So it shows whether each addition has come, once and in order, also where values
// are merged.

@testable import DedupeBuffer

typealias ListsBuffer = DedupeBuffer<String, [Int]>

/// Before all that a key has.
private let whole = -1

/// What a buffer is asked to do besides.
enum BufferRules: CaseIterable, Sendable {
    case none, suppression, merging, suppressionAndMerging, keyBound, byteBound, byteBoundAndMerging

    var suppresses: Bool { self == .suppression || self == .suppressionAndMerging }
    var merges: Bool { self == .merging || self == .suppressionAndMerging || self == .byteBoundAndMerging }
    var hasByteBound: Bool { self == .byteBound || self == .byteBoundAndMerging }
}

/// A few keys, with values, deletions, statuses and restarts at random. To be used by one task at a
/// time.
struct ListSource: Sendable {
    let buffer: ListsBuffer
    private let rules: BufferRules
    private let hasOverflowed: Kept<Bool>
    private var random: SeededGenerator
    private(set) var state: [String: [Int]] = [:]
    /// The latest that the buffer did not ignore.
    private(set) var status = SyncStatus.waitForDatastore
    private var revisions: [String: UInt64] = [:]
    private var number = 0

    init(_ rules: BufferRules, batchSize: Int, random: SeededGenerator) {
        let hasOverflowed = Kept(false)
        (self.rules, self.random, self.hasOverflowed) = (rules, random, hasOverflowed)
        var configuration = DedupeBufferConfiguration(
            batchSize: batchSize, label: "test",
            retry: .init(initialDelay: .zero, maximumAttempts: nil, clock: ImpatientClock()))
        configuration.skipsUnchangedRevisions = rules.suppresses
        configuration.onOverflow = { hasOverflowed.change { $0 = true } }
        let merge: @Sendable ([Int], [Int]) -> [Int] = { $0 + $1 }
        // 4 at most, so that any value fits into an empty queue.
        buffer = ListsBuffer(
            configuration: configuration,
            bound: .optional(keys: rules == .keyBound ? 3 : nil, bytes: rules.hasByteBound ? 9 : nil) {
                1 + $0.last! % 4
            }, merge: rules.merges ? merge : nil)
    }

    mutating func act() {
        let key = "key \(Int.random(in: 0..<5, using: &random))"
        if random.oneIn(hasOverflowed.value ? 2 : 16) { return beginAnew {} }
        if random.oneIn(5) { put(SyncStatus(rawValue: .random(in: 0...2, using: &random))!) }
        if random.oneIn(4) {
            (state[key], revisions[key]) = (nil, nil)
            buffer.onUpdates([Update(key: key, value: nil)])
        } else if random.oneIn(4) && state[key] != nil {
            putWhole(key)
        } else {
            add(to: key)
        }
    }

    private mutating func add(to key: String) {
        number += 1
        state[key, default: []].append(number)
        revisions[key] = UInt64(number)
        // What was deleted before must not be added to.
        guard rules.merges && state[key]!.count > 1 else { return putWhole(key) }
        buffer.onUpdates([Update(key: key, value: [number], revision: UInt64(number))])
    }

    private func putWhole(_ key: String) {
        buffer.onUpdates([Update(key: key, value: [whole] + state[key]!, revision: revisions[key]!)])
    }

    private mutating func put(_ status: SyncStatus) {
        if !hasOverflowed.value { self.status = status }
        buffer.onStatusUpdated(status)
    }

    /// After a restart it sends all that it has; `afterEach` update does something.
    private mutating func beginAnew(_ afterEach: () throws -> Void) rethrows {
        hasOverflowed.change { $0 = false }
        buffer.onConnectionRestarted()
        put(.resyncInProgress)
        for key in state.keys.sorted() {
            putWhole(key)
            try afterEach()
        }
        put(.inSync)
    }

    /// What is left is delivered by hand; says what is wrong then, or nil.
    mutating func settle(with sink: ListReplay) throws -> String? {
        let buffer = buffer
        try Self.drain(buffer, to: sink)
        if hasOverflowed.value {
            try beginAnew { try Self.drain(buffer, to: sink) }
            try Self.drain(buffer, to: sink)
        }
        if let fault = sink.fault { return fault }
        if let broken = buffer.core.validate() { return "invariant: \(broken)" }
        if sink.state != state { return "the sink has \(sink.state), the source \(state)" }
        if sink.status != status { return "the sink is at \(sink.status), the source at \(status)" }
        let statistics = buffer.statistics
        return statistics.unaccounted == 0 && statistics.liveKeys == state.count ? nil : "\(statistics)"
    }

    private static func drain(_ buffer: ListsBuffer, to sink: ListReplay) throws {
        do {
            while true { try buffer.sendNextBatchToSink(sink) }
        } catch DedupeBufferError.emptyQueue {}
    }
}

/// What a sink makes of it.
final class ListReplay: SyncerCallbacks {
    private struct State {
        var lists: [String: [Int]] = [:]
        var status = SyncStatus.waitForDatastore
        var calls = 0
        var fault: String?
    }

    private let kept = Kept(State())

    func onStatusUpdated(_ status: SyncStatus) {
        kept.change { kept in
            kept.calls += 1
            kept.status = status
        }
    }

    func onUpdates(_ updates: [Update<String, [Int]>]) {
        kept.change { kept in
            kept.calls += 1
            for update in updates { Self.apply(update, to: &kept) }
        }
    }

    private static func apply(_ update: Update<String, [Int]>, to kept: inout State) {
        let before = kept.lists[update.key]
        let type: UpdateType = update.value == nil ? .deleted : before == nil ? .new : .updated
        var fault = update.updateType == type ? nil : "must be \(type)"
        if let value = update.value, let mark = value.lastIndex(of: whole) {
            kept.lists[update.key] = Array(value[(mark + 1)...])
        } else if let value = update.value {
            if before == nil { fault = "is added to nothing" }
            kept.lists[update.key, default: []] += value
        } else {
            kept.lists[update.key] = nil
        }
        kept.fault = kept.fault ?? fault.map { "\(update): \($0)" }
    }

    var state: [String: [Int]] { kept.value.lists }
    var status: SyncStatus { kept.value.status }
    var calls: Int { kept.value.calls }
    var fault: String? { kept.value.fault }
}

/// The same for `run`: hands on what it does not fail on.
struct FailingListReplay: AsyncSyncerCallbacks {
    let heard: ListReplay
    let random: Kept<SeededGenerator>

    func onStatusUpdated(_ status: SyncStatus) async throws {
        try await fail()
        heard.onStatusUpdated(status)
    }

    func onUpdates(_ updates: [Update<String, [Int]>]) async throws {
        try await fail()
        heard.onUpdates(updates)
    }

    private func fail() async throws {
        if random.change({ $0.oneIn(3) }) { await Task.yield() }
        if random.change({ $0.oneIn(3) }) { try Task.checkCancellation() }
        if random.change({ $0.oneIn(3) }) { throw SinkFailure() }
    }
}
