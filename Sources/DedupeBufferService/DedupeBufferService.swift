// SPDX-License-Identifier: Apache-2.0

public import DedupeBuffer
public import ServiceLifecycle

/// A service that delivers a buffer's updates to a sink.
///
/// ```swift
/// let delivery = DedupeBufferService(buffer: buffer, sink: sink, gracePeriod: .seconds(10))
/// let group = ServiceGroup(services: [delivery, datastoreClient], gracefulShutdownSignals: [.sigterm], logger: logger)
/// try await group.run()
/// ```
///
/// A group shuts its services down from the last to the first: list the source after the delivery, so that it
/// ends first, and what it brought is delivered.
public struct DedupeBufferService<Sink: AsyncSyncerCallbacks>: Service {
    @usableFromInline let buffer: DedupeBuffer<Sink.Key, Sink.Value>
    @usableFromInline let sink: Sink
    @usableFromInline let gracePeriod: Duration
    @usableFromInline let onShutdown: @Sendable (DedupeBufferLeftovers) -> Void

    /// A service.
    ///
    /// - Parameters:
    ///   - buffer: kept, as the sink.
    ///   - sink: where to deliver; the buffer's configuration says how its failures are dealt with.
    ///   - gracePeriod: how long a graceful shutdown may go on delivering.
    ///   - onShutdown: called once in a graceful shutdown, with what was not delivered in that time.
    @inlinable
    public init(
        buffer: DedupeBuffer<Sink.Key, Sink.Value>, sink: Sink, gracePeriod: Duration = .seconds(10),
        onShutdown: @escaping @Sendable (DedupeBufferLeftovers) -> Void = { _ in }
    ) {
        self.buffer = buffer
        self.sink = sink
        self.gracePeriod = gracePeriod
        self.onShutdown = onShutdown
    }

    /// Delivers, as `DedupeBuffer.run(sink:)`, until the buffer stops.
    ///
    /// On graceful shutdown, also one that came before, what was received is delivered, and the buffer stops. After the
    /// grace period it stops at once; a call of the sink is cancelled then, and its event stays in the queue.
    /// When the task is cancelled the buffer stops, and what the sink has not dealt with stays in the queue.
    ///
    /// - Throws: what `DedupeBuffer.run(sink:)` throws.
    @inlinable
    public func run() async throws {
        do {
            try await deliver()
        } catch let error as CancellationError {
            buffer.stop()
            throw error
        }
    }

    @inlinable
    func deliver() async throws {
        let (beginning, begun) = AsyncStream.makeStream(of: Never.self)
        try await withThrowingTaskGroup(of: Ended.self) { group in
            group.addTask {
                defer { begun.finish() }
                try await buffer.run(sink: sink) { begun.finish() }
                return .delivery
            }
            group.addTask {
                // A finish before that would find nothing that delivers.
                for await _ in beginning {}
                try await gracefulShutdown()
                onShutdown(await buffer.finish(deadline: .now + gracePeriod))
                return .shutdown
            }
            let first = try await group.next()
            group.cancelAll()
            guard first == .shutdown else { return }
            do { _ = try await group.next() } catch is CancellationError {}
        }
    }

    @usableFromInline
    enum Ended: Sendable {
        case delivery, shutdown
    }
}
