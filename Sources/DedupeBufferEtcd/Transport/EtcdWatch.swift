// SPDX-License-Identifier: Apache-2.0

#if Etcd

import GRPCCore
import SyncerEngine

/// One stream of etcd's service `Watch`, on a connection of its own.
final class EtcdWatch: DatastoreWatch {
    let messages: Messages
    private let requests: AsyncStream<WatchRequest>.Continuation
    private let connection: EtcdConnection
    private let task: Task<Void, Never>

    /// Opens the stream and requests a watch for each range.
    init(_ connection: EtcdConnection, _ creations: [WatchCreateRequest], _ metadata: Metadata) {
        let queue = WatchQueue()
        let (requests, continuation) = AsyncStream.makeStream(of: WatchRequest.self)
        for creation in creations { continuation.yield(.create(creation)) }
        self.requests = continuation
        self.connection = connection
        messages = Messages(queue: queue)
        task = Task {
            let reader = Reader(rangeCount: creations.count, queue: queue)
            queue.finish(await reader.run(connection, requests, metadata))
            connection.close()
        }
    }

    deinit { task.cancel() }

    func requestProgress() async throws(DatastoreError) {
        guard case .enqueued = requests.yield(.progress) else {
            throw DatastoreError(.unavailable, "the watch has ended")
        }
    }

    /// etcd keeps a stream open after the client's half has ended. So the call is cancelled.
    func cancel() async {
        task.cancel()
        await task.value
        await connection.waitUntilClosed()
    }

    struct Messages: AsyncSequence, Sendable {
        fileprivate let queue: WatchQueue

        func makeAsyncIterator() -> Iterator { Iterator(queue: queue) }

        /// Ends only when the task is cancelled, or by an error.
        struct Iterator: AsyncIteratorProtocol {
            fileprivate let queue: WatchQueue
            private var received: ArraySlice<WatchMessage> = []

            fileprivate init(queue: WatchQueue) { self.queue = queue }

            mutating func next(isolation: isolated (any Actor)? = #isolation) async throws(DatastoreError)
                -> WatchMessage?
            {
                if received.isEmpty { received = try await queue.receive()[...] }
                return received.popFirst()
            }
        }
    }
}

/// Reads the responses of a stream into a queue.
private struct Reader {
    let rangeCount: Int
    let queue: WatchQueue

    /// Returns why the stream ended.
    func run(
        _ connection: EtcdConnection, _ requests: AsyncStream<WatchRequest>, _ metadata: Metadata
    ) async -> DatastoreError {
        do throws(DatastoreError) {
            try await connection.stream(.watch, requests, metadata: metadata) { try await read($0) }
            return DatastoreError(.unavailable, "the server ended the watch")
        } catch {
            return error
        }
    }

    private func read(_ received: ResponseMessages<WatchResponse>) async throws {
        var responses = WatchResponses(rangeCount: rangeCount)
        for try await result in received {
            let response = try result.get()
            let messages = try responses.messages(for: response.message)
            await queue.send(messages, byteCount: response.byteCount)
        }
    }
}

#endif
