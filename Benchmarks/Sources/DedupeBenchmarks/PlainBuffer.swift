// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch
import Foundation
import Synchronization

/// The yardstick: Calico's dedupebuffer, ported to Swift in the plain way, which is what one would
/// write by hand.
///
/// One mutex, held for all of a call; a dictionary from key to the pending update's node, which is
/// also a node of the queue; the queue, a doubly linked list of updates and statuses; two sets of
/// keys: those that are live, and those not seen since the reconnection. It does what the original
/// does, with the original's known faults repaired.
final class PlainBuffer<Value: Sendable>: Sendable {
    fileprivate enum Content {
        case update(Update<String, Value>)
        case status(SyncStatus)
    }

    fileprivate final class Node {
        var content: Content
        var next: Node?
        unowned(unsafe) var previous: Node?

        init(_ content: Content) { self.content = content }

        var isStatus: Bool {
            if case .status = content { true } else { false }
        }
    }

    /// What a batch has for the sink.
    fileprivate enum Call {
        case updates([Update<String, Value>])
        case status(SyncStatus)
    }

    fileprivate struct State {
        var pending: [String: Node] = [:]
        var live: Set<String> = []
        var unseen: Set<String> = []
        var first: Node?
        var last: Node?
        var latestReceived = SyncStatus.waitForDatastore
        var latestTaken = SyncStatus.waitForDatastore
        var isStopped = false
        var isAsleep = false
    }

    private static var batchSize: Int { 100 }

    private let state = Mutex(State())
    private let wakes = DispatchSemaphore(value: 0)

    deinit {
        state.withLock { $0.dropQueue() }
    }

    // MARK: - Source

    func onUpdates(_ updates: [Update<String, Value>]) {
        let wake = state.withLock { state in
            if state.isStopped { return false }
            for update in updates { state.put(update) }
            return state.hasToWake()
        }
        if wake { wakes.signal() }
    }

    func update(_ key: String, to value: Value) {
        let wake = state.withLock { state in
            if state.isStopped { return false }
            state.put(Update(key: key, value: .some(value)))
            return state.hasToWake()
        }
        if wake { wakes.signal() }
    }

    func onStatusUpdated(_ status: SyncStatus) {
        let wake = state.withLock { state in
            if state.isStopped { return false }
            state.put(status)
            return state.hasToWake()
        }
        if wake { wakes.signal() }
    }

    func onConnectionRestarted() {
        state.withLock { state in
            state.dropQueue()
            state.pending = [:]
            state.latestReceived = state.latestTaken
            state.unseen = state.live
        }
    }

    func stop() {
        state.withLock { $0.isStopped = true }
        wakes.signal()
    }

    // MARK: - Sink

    func sendNextBatchToSink(_ sink: some SyncerCallbacks<String, Value>) throws(DedupeBufferError) {
        let calls = state.withLock { $0.take(Self.batchSize) }
        if calls.isEmpty { throw .emptyQueue }
        deliver(calls, to: sink)
    }

    /// Delivers until the buffer is stopped.
    func sendToSinkForever(_ sink: some SyncerCallbacks<String, Value>) {
        while true {
            let calls = state.withLock { state -> [Call]? in
                if state.isStopped { return nil }
                let calls = state.take(Self.batchSize)
                state.isAsleep = calls.isEmpty
                return calls
            }
            guard let calls else { return }
            if calls.isEmpty { wakes.wait() } else { deliver(calls, to: sink) }
        }
    }

    private func deliver(_ calls: [Call], to sink: some SyncerCallbacks<String, Value>) {
        for call in calls {
            switch call {
            case .updates(let updates): sink.onUpdates(updates)
            case .status(let status): sink.onStatusUpdated(status)
            }
        }
    }
}

// MARK: - Under the lock

extension PlainBuffer.State {
    fileprivate mutating func put(_ update: Update<String, Value>) {
        if !unseen.isEmpty { unseen.remove(update.key) }
        guard let node = pending[update.key] else {
            append(update)
            return
        }
        if update.value == nil, case .update(let old) = node.content, old.value != nil, !live.contains(update.key) {
            pending[update.key] = nil
            remove(node)
            return
        }
        node.content = .update(update)
    }

    fileprivate mutating func put(_ status: SyncStatus) {
        if status == .inSync {
            // Keys that were not seen since the reconnection are gone.
            for key in unseen { append(Update(key: key, value: nil)) }
            unseen = []
        }
        if status == latestReceived { return }
        latestReceived = status
        if let last, last.isStatus {
            last.content = .status(status)
        } else {
            append(PlainBuffer.Node(.status(status)))
        }
    }

    private mutating func append(_ update: Update<String, Value>) {
        let node = PlainBuffer.Node(.update(update))
        pending[update.key] = node
        append(node)
    }

    private mutating func append(_ node: PlainBuffer.Node) {
        node.previous = last
        if let last { last.next = node } else { first = node }
        last = node
    }

    /// Takes a pending update from the queue. Two statuses that were to each side of it become one,
    /// the later.
    private mutating func remove(_ node: PlainBuffer.Node) {
        let before = node.previous
        let after = node.next
        unlink(node)
        if let before, let after, before.isStatus, after.isStatus { unlink(before) }
    }

    private mutating func unlink(_ node: PlainBuffer.Node) {
        let next = node.next
        let previous = node.previous
        if let previous { previous.next = next } else { first = next }
        if let next { next.previous = previous } else { last = previous }
        node.next = nil
    }

    /// One by one: a chain of a million nodes that is let go as a whole ends each in the `deinit`
    /// of the one before.
    fileprivate mutating func dropQueue() {
        while let node = first {
            first = node.next
            node.next = nil
        }
        last = nil
    }

    /// Says whether the loop sleeps although there is something to deliver; it no longer counts as
    /// asleep then.
    fileprivate mutating func hasToWake() -> Bool {
        defer { if first != nil { isAsleep = false } }
        return isAsleep && first != nil
    }

    fileprivate mutating func take(_ limit: Int) -> [PlainBuffer.Call] {
        var calls: [PlainBuffer.Call] = []
        var run: [Update<String, Value>] = []
        var count = 0
        while !isStopped, count < limit, let node = first {
            first = node.next
            if let next = node.next { next.previous = nil } else { last = nil }
            node.next = nil
            count += 1
            switch node.content {
            case .update(var update):
                pending[update.key] = nil
                update.updateType = commit(update)
                if run.isEmpty { run.reserveCapacity(limit) }
                run.append(update)
            case .status(let status):
                latestTaken = status
                if !run.isEmpty { calls.append(.updates(run)) }
                run = []
                calls.append(.status(status))
            }
        }
        if !run.isEmpty { calls.append(.updates(run)) }
        return calls
    }

    /// An update was taken: what it is, and which keys are live from now on.
    private mutating func commit(_ update: Update<String, Value>) -> UpdateType {
        if update.value == nil {
            live.remove(update.key)
            return .deleted
        }
        return live.insert(update.key).inserted ? .new : .updated
    }
}
