// SPDX-License-Identifier: Apache-2.0

/// A closure as a sink.
@usableFromInline
struct ClosureSink<Key: DedupeKey, Value: Sendable>: SyncerCallbacks {
    @usableFromInline let handle: @Sendable (DedupeBufferEvent<Key, Value>) -> Void

    @usableFromInline
    init(handle: @escaping @Sendable (DedupeBufferEvent<Key, Value>) -> Void) { self.handle = handle }

    @inlinable
    func onStatusUpdated(_ status: SyncStatus) { handle(.status(status)) }

    @inlinable
    func onUpdates(_ updates: [Update<Key, Value>]) { handle(.updates(updates)) }
}

/// A closure as a sink that may suspend and fail.
@usableFromInline
struct AsyncClosureSink<Key: DedupeKey, Value: Sendable>: AsyncSyncerCallbacks {
    @usableFromInline let handle: @Sendable (DedupeBufferEvent<Key, Value>) async throws -> Void

    @usableFromInline
    init(handle: @escaping @Sendable (DedupeBufferEvent<Key, Value>) async throws -> Void) { self.handle = handle }

    @inlinable
    func onStatusUpdated(_ status: SyncStatus) async throws { try await handle(.status(status)) }

    @inlinable
    func onUpdates(_ updates: [Update<Key, Value>]) async throws { try await handle(.updates(updates)) }
}
