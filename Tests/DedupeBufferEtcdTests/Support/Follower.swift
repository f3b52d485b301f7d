// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer

import Testing

@testable import DedupeBufferEtcd

/// A syncer with its buffer and a sink that checks what it gets.
final class Follower: Sendable {
    let buffer: DedupeBuffer<[UInt8], [UInt8]>
    let sink: CheckedSink
    let syncer: EtcdSyncer

    private init(_ configuration: EtcdConfiguration, isSlow: Bool) {
        var options = DedupeBufferConfiguration(batchSize: isSlow ? 16 : 1000)
        options.skipsUnchangedRevisions = true
        buffer = DedupeBuffer(configuration: options)
        sink = CheckedSink(isSlow: isSlow)
        syncer = EtcdSyncer(configuration: configuration, target: buffer)
    }

    /// Follows a cluster while the body runs.
    ///
    /// - Parameters:
    ///   - configuration: what to follow.
    ///   - isSlow: whether the sink takes its time, in small batches, so that changes conflate.
    ///   - body: the test.
    static func run(
        _ configuration: EtcdConfiguration, isSlow: Bool = true, _ body: (Follower) async throws -> Void
    ) async throws {
        let follower = Follower(configuration, isSlow: isSlow)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await follower.syncer.run() }
            group.addTask { try await follower.buffer.run(sink: follower.sink) }
            defer { group.cancelAll() }
            try await body(follower)
        }
        #expect(follower.sink.faults == [])
    }

    /// Waits until the sink has exactly this, and is in sync.
    func waitUntil(_ what: String, content: [[UInt8]: [UInt8]], limit: Duration = .seconds(300)) async throws {
        do {
            try await sink.waitUntil(what, limit: limit) { $0.content == content && $0.statuses.last == .inSync }
        } catch {
            let found = sink.snapshot.content
            let missing = content.filter { found[$0.key] != $0.value }
            let surplus = found.filter { content[$0.key] == nil }
            Issue.record(
                """
                \(what): \(missing.count) of \(content.count) keys missing or stale, \(surplus.count) too many, \
                \(sink.snapshot.statuses.suffix(3)), \(syncer.statistics)
                """)
            throw error
        }
    }

    func waitUntilInSync(_ what: String = "in sync") async throws {
        try await sink.waitUntil(what) { $0.statuses.last == .inSync }
    }
}

/// A sink that keeps what it gets, and checks that each update's type is right.
final class CheckedSink: AsyncSyncerCallbacks {
    struct Snapshot: Sendable {
        var content: [[UInt8]: [UInt8]] = [:]
        var statuses: [SyncStatus] = []
        var updates = 0
        var deletions = 0
    }

    fileprivate struct State {
        var snapshot = Snapshot()
        var faults: [String] = []
        var waiting: [Int: CheckedContinuation<Void, Never>] = [:]
        var latestWaiting = 0
    }

    private let isSlow: Bool
    private let state = Locked(State())

    init(isSlow: Bool) { self.isSlow = isSlow }

    var snapshot: Snapshot { state.withLock { $0.snapshot } }

    /// Updates whose type was wrong.
    var faults: [String] { state.withLock { $0.faults } }

    func onStatusUpdated(_ status: SyncStatus) async {
        change { $0.snapshot.statuses.append(status) }
    }

    func onUpdates(_ updates: [Update<[UInt8], [UInt8]>]) async throws {
        if isSlow { try await Task.sleep(for: .milliseconds(1)) }
        change { state in
            for update in updates { state.take(update) }
        }
    }

    /// Waits until the condition holds.
    func waitUntil(
        _ what: String, limit: Duration = .seconds(300), _ condition: @escaping @Sendable (Snapshot) -> Bool
    ) async throws {
        try await within(what, limit: limit) { [self] in
            while !condition(snapshot) {
                try Task.checkCancellation()
                await waitForChange(unless: condition)
            }
        }
    }

    private func change(_ body: (inout State) -> Void) {
        let waiting = state.withLock { state in
            body(&state)
            defer { state.waiting = [:] }
            return state.waiting.values.map { $0 }
        }
        for continuation in waiting { continuation.resume() }
    }

    private func waitForChange(unless condition: @escaping @Sendable (Snapshot) -> Bool) async {
        let number = state.withLock { state in
            state.latestWaiting += 1
            return state.latestWaiting
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isOver = state.withLock { state in
                    if condition(state.snapshot) || Task.isCancelled { return true }
                    state.waiting[number] = continuation
                    return false
                }
                if isOver { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.waiting.removeValue(forKey: number) }?.resume()
        }
    }
}

extension CheckedSink.State {
    fileprivate mutating func take(_ update: Update<[UInt8], [UInt8]>) {
        let isLive = snapshot.content[update.key] != nil
        let expected: UpdateType = update.value == nil ? .deleted : isLive ? .updated : .new
        if update.updateType != expected || (update.value == nil && !isLive) {
            faults.append("\(String(decoding: update.key, as: UTF8.self)): \(update.updateType), live: \(isLive)")
        }
        snapshot.content[update.key] = update.value
        snapshot.updates += 1
        if update.value == nil { snapshot.deletions += 1 }
    }
}

#endif
