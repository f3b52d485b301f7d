// SPDX-License-Identifier: Apache-2.0

// A whole resync in one call.

extension DedupeBuffer {
    /// Where the body of ``DedupeBuffer/withResync(isolation:_:)`` puts a snapshot.
    ///
    /// A session works until its body has ended, or until another restart supersedes its resync.
    /// After that, updates of the session are ignored, and count as received and dropped. A session
    /// may be used from several threads and tasks at the same time.
    public struct ResyncSession: Sendable {
        @usableFromInline let buffer: DedupeBuffer
        @usableFromInline let resync: ResyncGate.ID

        /// Puts one value of the snapshot; see ``DedupeBuffer/update(_:to:revision:)-(Key,_,_)``.
        @inlinable
        public func update(_ key: Key, to value: Value, revision: UInt64 = 0) {
            buffer.put(Update(key: key, value: .some(value), revision: revision), of: resync)
        }

        /// Puts one deletion, for a source that also passes changes during the snapshot; see
        /// ``DedupeBuffer/remove(_:revision:)-(Key,_)``.
        @inlinable
        public func remove(_ key: Key, revision: UInt64 = 0) {
            buffer.put(Update(key: key, value: nil, revision: revision), of: resync)
        }

        /// Puts a part of the snapshot, in order; see ``DedupeBuffer/onUpdates(_:)``.
        @inlinable
        public func send(_ updates: [Update<Key, Value>]) {
            buffer.put(updates, of: resync)
        }

        @usableFromInline
        init(_ buffer: DedupeBuffer, _ resync: ResyncGate.ID) {
            (self.buffer, self.resync) = (buffer, resync)
        }
    }

    /// Sends the whole snapshot of a datastore again: after a lost connection, after an overflow,
    /// and at the beginning.
    ///
    /// ```swift
    /// try await buffer.withResync { session in
    ///     for try await page in datastore.pages() { session.send(page) }
    /// }
    /// ```
    ///
    /// The call first does what ``onConnectionRestarted()`` does, and puts
    /// ``SyncStatus/resyncInProgress``. The body puts the snapshot. When the body returns, the call
    /// puts ``SyncStatus/inSync``, which deletes the keys that the sink has and that the snapshot
    /// did not contain.
    ///
    /// When the body throws, the snapshot is not complete. Then there is no in-sync and nothing is
    /// deleted, and the sink keeps what it has until the next resync.
    ///
    /// ### Cancellation
    ///
    /// The call does not interrupt its body. If the task is cancelled when the body returns, the
    /// call puts no in-sync, and throws `CancellationError`: many asynchronous sequences end early
    /// when their task is cancelled, and then the snapshot is not complete.
    ///
    /// ### More than one resync
    ///
    /// The newest resync counts. A call that begins while another one is under way, on another task
    /// or inside the body of the other one, supersedes the older one, and so does
    /// ``onConnectionRestarted()``. The older session is then ignored, and its call puts no in-sync
    /// when its body returns. So a late part of an old snapshot never mixes with a newer one.
    ///
    /// An overflow during the body drops the snapshot, and the in-sync too. The buffer then waits
    /// for the next resync; see ``overflows``.
    ///
    /// Other calls may put changes at the same time, but no statuses: an in-sync would end the
    /// resync too early. After ``stop()`` the call runs its body, and the buffer drops what the
    /// body puts.
    ///
    /// - Parameters:
    ///   - isolation: the caller's actor, on which the body runs.
    ///   - body: puts the snapshot into the session that it gets.
    /// - Returns: what the body returns.
    /// - Throws: what the body throws, or `CancellationError`.
    /// - Complexity: besides the body, O(keys) when the body returns, in small steps that let other
    ///   callers in.
    public func withResync<Result>(
        isolation: isolated (any Actor)? = #isolation, _ body: (ResyncSession) async throws -> Result
    ) async throws -> Result {
        let session = beginResync()
        defer { resyncs.close(session.resync) }
        let result = try await body(session)
        try Task.checkCancellation()
        endResync(session)
        return result
    }

    /// Sends the whole snapshot of a datastore again, in functions that are not asynchronous.
    /// Otherwise as ``withResync(isolation:_:)``, except that it does not look for a cancellation.
    ///
    /// ```swift
    /// buffer.withResync { session in
    ///     for (key, value) in table { session.update(key, to: value) }
    /// }
    /// ```
    ///
    /// - Parameter body: puts the snapshot into the session that it gets.
    /// - Returns: what the body returns.
    /// - Throws: what the body throws.
    /// - Complexity: besides the body, O(keys) when the body returns, in small steps that let other
    ///   callers in.
    @_disfavoredOverload  // In asynchronous functions the other form is called, whatever the body.
    public func withResync<Result, Failure: Error>(
        _ body: (ResyncSession) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let session = beginResync()
        defer { resyncs.close(session.resync) }
        let result = try body(session)
        endResync(session)
        return result
    }

    // MARK: - Implementation

    private func beginResync() -> ResyncSession {
        let session = ResyncSession(self, resyncs.begin())
        observer?.restarted()
        observer?.received(.resyncInProgress, ending: nil)
        clearUp()
        return session
    }

    private func endResync(_ session: ResyncSession) {
        let end = observer?.nextEnd
        var isAccepted = false
        guard resyncs.whileCurrent(session.resync, { isAccepted = core.put(.inSync) }) else { return }
        observer?.received(.inSync, ending: isAccepted ? end : nil)
        clearUp()
    }
}

/// Decides which resync may put something: the newest one, until it or a restart has ended it.
///
/// The lock is held while the core puts a chunk of a session's updates. Otherwise a session could
/// find that it is current, and put after a restart that another thread made in between. No code of
/// the user runs under the lock except a merge function, which must not restart or put.
@usableFromInline
final class ResyncGate: Sendable {
    @usableFromInline typealias ID = Int

    private let core: Core
    /// The newest resync that has begun, and whether it is open.
    private let newest = Locked<(id: ID, isOpen: Bool)>((0, false))

    init(_ core: Core) {
        self.core = core
    }

    /// Begins a resync, which supersedes the one before.
    func begin() -> ID {
        newest.withLock { newest in
            core.restart()
            _ = core.put(.resyncInProgress)
            newest = (newest.id + 1, true)
            return newest.id
        }
    }

    /// A restart without a session.
    func restart() {
        newest.withLock { newest in
            core.restart()
            newest.isOpen = false
        }
    }

    /// Runs `body` if the resync is current, and keeps it current meanwhile. Returns whether it
    /// was.
    @usableFromInline
    func whileCurrent(_ resync: ID, _ body: () -> Void) -> Bool {
        newest.withLock { newest in
            guard newest == (resync, true) else { return false }
            body()
            return true
        }
    }

    /// The body of the resync has ended.
    func close(_ resync: ID) {
        newest.withLock { newest in
            if newest.id == resync { newest.isOpen = false }
        }
    }
}
