// SPDX-License-Identifier: Apache-2.0

internal import DedupeBuffer

/// Performs the commands of a core on a datastore, and tells the core what came of them.
struct SyncerRequests<Store: Datastore, Target: RestartAwareCallbacks<[UInt8], [UInt8]>>: Sendable {
    let datastore: Store
    let core: SyncerCore<Target>
    /// The watch that is open, for requests for a sign of life.
    private let watches = Locked<[RequestID: Store.Watch]>([:])

    init(datastore: Store, core: SyncerCore<Target>) {
        (self.datastore, self.core) = (datastore, core)
    }

    /// Returns when the command was performed, was cancelled, or the task was.
    func perform(_ command: SyncerCommand) async {
        switch command {
        case .request(let id, let endpoint, let request, let isCancelled):
            await unless(isCancelled) {
                if Task.isCancelled { return }
                await send(request, id, endpoint)
            }
            await core.ended(id)
        case .requestProgress(let id, let isCancelled):
            guard let watch = watches.withLock({ $0[id] }) else { return }
            await unless(isCancelled) {
                await tell(id) { () throws(DatastoreError) in try await watch.requestProgress() }
            }
        case .sleep(let time):
            do { try await core.sleep(until: time) } catch { return }
            await core.alarmRang(at: time)
        }
    }

    // MARK: - Requests

    private func send(_ request: SyncerRequest, _ id: RequestID, _ endpoint: Int) async {
        await tell(id) { () throws(DatastoreError) in
            switch request {
            case .authenticate:
                try await datastore.authenticate(endpoint: endpoint)
                await core.handle(.authenticated(id))
            case .probe(let resuming):
                await core.handle(.probed(id, try await datastore.probe(endpoint: endpoint, resuming: resuming)))
            case .page(let page):
                await core.handle(.read(id, try await datastore.page(endpoint: endpoint, page)))
            case .watch(let starts):
                try await follow(try await datastore.watch(endpoint: endpoint, starts: starts), id)
                if !Task.isCancelled { await core.handle(.ended(id)) }
            }
        }
    }

    /// Passes on what a watch brings, until it ends.
    private func follow(_ watch: Store.Watch, _ id: RequestID) async throws(DatastoreError) {
        watches.withLock { $0[id] = watch }
        var failure: DatastoreError?
        do throws(DatastoreError) {
            for try await message in watch.messages { await core.handle(.message(id, message)) }
        } catch {
            failure = error
        }
        watches.withLock { $0[id] = nil }
        await watch.cancel()
        if let failure { throw failure }
    }

    /// Tells the core if `body` throws. A core ignores the failures of what it cancelled.
    private func tell(_ id: RequestID, _ body: () async throws(DatastoreError) -> Void) async {
        do throws(DatastoreError) {
            try await body()
        } catch {
            if !Task.isCancelled { await core.handle(.failed(id, error)) }
        }
    }

    /// Runs `body`, and cancels it when the latch opens.
    private func unless(_ isCancelled: Latch, _ body: @escaping @Sendable () async -> Void) async {
        await withTaskGroup { group in
            group.addTask(operation: body)
            group.addTask { await isCancelled.wait() }
            await group.next()
            group.cancelAll()
        }
    }
}
