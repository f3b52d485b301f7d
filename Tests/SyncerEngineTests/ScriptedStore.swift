// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import SyncerEngine

/// A datastore whose every answer comes from the test.
final class ScriptedStore: Datastore {
    /// What was asked.
    enum Ask: Hashable, Sendable {
        case probe(endpoint: Int, resuming: Int64?)
        case page(endpoint: Int, PageRequest)
        case watch(endpoint: Int, starts: [Int64])
        case authenticate(endpoint: Int)
        case progress
    }

    enum Answer: Sendable {
        case position(HistoryPosition)
        case page(Page)
        case watch(ScriptedWatch)
        case done
    }

    /// A question that waits for its answer.
    struct Call: Sendable {
        let number: Int
        let ask: Ask
    }

    private struct State {
        var latest = 0
        var waiting: [Int: CheckedContinuation<Result<Answer, DatastoreError>, Never>] = [:]
        /// Questions that no test has taken.
        var calls: [Call] = []
        var cancelled: [Ask] = []
        var disconnected: [Int] = []
        var watches: [ScriptedWatch] = []
    }

    let endpointCount: Int
    private let state = Kept(State())

    init(endpoints: Int = 1) { endpointCount = endpoints }

    // MARK: - The test's side

    /// The next question, which must be this one.
    func expect(_ ask: Ask, _ location: SourceLocation = #_sourceLocation) async throws -> Call {
        try await eventually("\(ask)") { self.state.change { !$0.calls.isEmpty } }
        let call = state.change { $0.calls.removeFirst() }
        try #require(call.ask == ask, sourceLocation: location)
        return call
    }

    func answer(_ call: Call, _ answer: Answer) { resume(call, .success(answer)) }
    func fail(_ call: Call, _ reason: DatastoreError.Reason) { resume(call, .failure(DatastoreError(reason))) }

    private func resume(_ call: Call, _ result: Result<Answer, DatastoreError>) {
        state.change { $0.waiting.removeValue(forKey: call.number) }?.resume(returning: result)
    }

    func expectProbe(
        resuming: Int64? = nil, endpoint: Int = 0, revision: Int64, _ location: SourceLocation = #_sourceLocation
    ) async throws {
        answer(try await expect(.probe(endpoint: endpoint, resuming: resuming), location), .position(.at(revision)))
    }

    func expectPage(
        _ entries: [DatastoreEntry], revision: Int64, endpoint: Int = 0, limit: Int = 500,
        _ location: SourceLocation = #_sourceLocation
    ) async throws {
        let request = PageRequest(range: 0, after: nil, revision: nil, limit: limit)
        let page = Page(
            position: .at(revision), entries: entries, hasMore: false, count: Int64(entries.count))
        answer(try await expect(.page(endpoint: endpoint, request), location), .page(page))
    }

    /// A watch that has accepted its only range.
    func expectWatch(
        from start: Int64, endpoint: Int = 0, _ location: SourceLocation = #_sourceLocation
    ) async throws -> ScriptedWatch {
        let call = try await expect(.watch(endpoint: endpoint, starts: [start]), location)
        let watch = ScriptedWatch(self)
        state.change { $0.watches.append(watch) }
        watch.send(.created(range: 0, .at(start - 1)))
        answer(call, .watch(watch))
        return watch
    }

    /// Questions that wait for an answer.
    var openCalls: Int { state.change { $0.waiting.count } }
    /// Questions that were given up.
    var cancelled: [Ask] { state.change { Array($0.cancelled) } }
    /// The endpoints whose connections were closed.
    var disconnected: [Int] { state.change { Array($0.disconnected) } }
    /// Questions that no test has taken.
    var untaken: [Ask] { state.change { $0.calls.map(\.ask) } }
    var openWatches: Int { state.change { Array($0.watches) }.count { !$0.isClosed } }

    // MARK: - The driver's side

    fileprivate func ask(_ ask: Ask) async throws(DatastoreError) -> Answer {
        let number = state.change { state in
            state.latest += 1
            return state.latest
        }
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isCancelled = state.change { state in
                    if Task.isCancelled { return true }
                    state.waiting[number] = continuation
                    state.calls.append(Call(number: number, ask: ask))
                    return false
                }
                if isCancelled { continuation.resume(returning: .failure(DatastoreError(.other, "cancelled"))) }
            }
        } onCancel: {
            let waiting = state.change { state in
                state.calls.removeAll { $0.number == number }
                state.cancelled.append(ask)
                return state.waiting.removeValue(forKey: number)
            }
            waiting?.resume(returning: .failure(DatastoreError(.other, "cancelled")))
        }
        return try result.get()
    }

    func probe(endpoint: Int, resuming: Int64?) async throws(DatastoreError) -> HistoryPosition {
        guard case .position(let position) = try await ask(.probe(endpoint: endpoint, resuming: resuming)) else {
            throw DatastoreError(.malformed)
        }
        return position
    }

    func page(endpoint: Int, _ request: PageRequest) async throws(DatastoreError) -> Page {
        guard case .page(let page) = try await ask(.page(endpoint: endpoint, request)) else {
            throw DatastoreError(.malformed)
        }
        return page
    }

    func watch(endpoint: Int, starts: [Int64]) async throws(DatastoreError) -> ScriptedWatch {
        guard case .watch(let watch) = try await ask(.watch(endpoint: endpoint, starts: starts)) else {
            throw DatastoreError(.malformed)
        }
        return watch
    }

    func disconnect(endpoint: Int) { state.change { $0.disconnected.append(endpoint) } }
    func authenticate(endpoint: Int) async throws(DatastoreError) {
        _ = try await ask(.authenticate(endpoint: endpoint))
    }
}

/// A watch whose messages come from the test.
final class ScriptedWatch: DatastoreWatch {
    private struct State {
        var messages: [WatchMessage] = []
        var end: Result<Void, DatastoreError>?
        var waiter: CheckedContinuation<Result<WatchMessage?, DatastoreError>, Never>?
        var isClosed = false
    }

    private let state = Kept(State())
    /// The store keeps its watches.
    private unowned let store: ScriptedStore?

    init(_ store: ScriptedStore? = nil) { self.store = store }

    func send(_ message: WatchMessage) {
        let waiter = state.change { state in
            defer { state.waiter = nil }
            if state.waiter == nil { state.messages.append(message) }
            return state.waiter
        }
        waiter?.resume(returning: .success(message))
    }

    func end(_ result: Result<Void, DatastoreError>) {
        let waiter = state.change { state in
            defer { state.waiter = nil }
            state.end = result
            return state.waiter
        }
        waiter?.resume(returning: result.map { nil })
    }

    /// Messages that the driver has not taken.
    var backlog: Int { state.change { $0.messages.count } }
    var isClosed: Bool { state.change { $0.isClosed } }

    struct Messages: AsyncSequence, AsyncIteratorProtocol, Sendable {
        typealias Element = WatchMessage
        typealias Failure = DatastoreError

        let watch: ScriptedWatch

        func makeAsyncIterator() -> Messages { self }

        func next(isolation actor: isolated (any Actor)?) async throws(DatastoreError) -> WatchMessage? {
            try await watch.next(isolation: actor).get()
        }
    }

    var messages: Messages { Messages(watch: self) }

    private func next(isolation: isolated (any Actor)?) async -> Result<WatchMessage?, DatastoreError> {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let result: Result<WatchMessage?, DatastoreError>? = state.change { state in
                    if !state.messages.isEmpty { return .success(state.messages.removeFirst()) }
                    if let end = state.end { return end.map { nil } }
                    if Task.isCancelled { return .failure(DatastoreError(.other, "cancelled")) }
                    state.waiter = continuation
                    return nil
                }
                if let result { continuation.resume(returning: result) }
            }
        } onCancel: {
            end(.failure(DatastoreError(.other, "cancelled")))
        }
    }

    func requestProgress() async throws(DatastoreError) { _ = try await store?.ask(.progress) }
    func cancel() async { state.change { $0.isClosed = true } }
}
