// SPDX-License-Identifier: Apache-2.0

#if Service

public import DedupeBuffer
public import ServiceLifecycle

/// A service that delivers a buffer's updates to a sink.
///
/// ```swift
/// let delivery = DedupeBufferService(buffer: buffer, sink: sink, gracePeriod: .seconds(10))
/// let group = ServiceGroup(
///     services: [delivery, datastoreClient], gracefulShutdownSignals: [.sigterm], logger: logger)
/// try await group.run()
/// ```
///
/// A group shuts its services down from the last to the first. List the source after the delivery.
/// Then the source ends first, and its last updates are delivered.
public struct DedupeBufferService<Sink: AsyncSyncerCallbacks>: Service {
    @usableFromInline let buffer: DedupeBuffer<Sink.Key, Sink.Value>
    @usableFromInline let sink: Sink
    @usableFromInline let retry: DedupeBufferConfiguration.RetryPolicy
    @usableFromInline let gracePeriod: Duration
    @usableFromInline let onShutdown: @Sendable (DedupeBufferUndelivered) -> Void

    /// A service.
    ///
    /// - Parameters:
    ///   - buffer: kept alive by the service.
    ///   - sink: where to deliver; kept alive by the service.
    ///   - retry: how the service goes on after its sink has failed. By default it tries again
    ///     forever, and logs a warning to the buffer's logger each time the pauses have reached the
    ///     policy's maximum. The retry policy in the buffer's configuration is not used.
    ///   - gracePeriod: how long a graceful shutdown may go on delivering.
    ///   - onShutdown: called once in a graceful shutdown, with what was not delivered in that
    ///     time.
    /// - Precondition: the `validate()` of `retry` does not throw. Otherwise the program ends, with
    ///   a message that names the property.
    @inlinable
    public init(
        buffer: DedupeBuffer<Sink.Key, Sink.Value>, sink: Sink,
        retry: DedupeBufferConfiguration.RetryPolicy = .init(maximumAttempts: nil),
        gracePeriod: Duration = .seconds(10),
        onShutdown: @escaping @Sendable (DedupeBufferUndelivered) -> Void = { _ in }
    ) {
        DedupeBufferConfiguration.trapUnlessValid(retry.validate)
        self.buffer = buffer
        self.sink = sink
        self.retry = retry
        self.gracePeriod = gracePeriod
        self.onShutdown = onShutdown
    }

    /// Delivers, as `DedupeBuffer.run(sink:)`, until the buffer stops.
    ///
    /// On a graceful shutdown, also one before this call, the service delivers everything that was
    /// received, and the buffer stops. Meanwhile the buffer drops an update whose key is not
    /// pending. After the grace period the buffer stops at once. The service then cancels a call of
    /// the sink that is still running, and the event of that call stays in the queue. Then this
    /// returns, even if the sink has failed, because `onShutdown` was told what was left. When the
    /// task is cancelled, the buffer stops, and the events that the sink has not handled stay in
    /// the queue.
    ///
    /// - Throws: what `DedupeBuffer.run(sink:)` throws before the grace period is over.
    @inlinable
    public func run() async throws {
        defer { if Task.isCancelled { buffer.stop() } }
        let (beginning, begun) = AsyncStream.makeStream(of: Never.self)
        let result = await withTaskGroup(of: Step.self, returning: Result<Void, any Error>.self) { group in
            group.addTask {
                defer { begun.finish() }
                do {
                    try await buffer.run(sink: sink, retry: retry) { begun.finish() }
                    return .delivered(.success(()))
                } catch {
                    return .delivered(.failure(error))
                }
            }
            group.addTask {
                // A finish before that would find nothing that delivers.
                for await _ in beginning {}
                do { try await gracefulShutdown() } catch { return .over }
                return .shutdown
            }
            return await end(of: &group)
        }
        try result.get()
    }

    /// Goes through the steps as they come; returns how the delivery ended.
    @inlinable
    func end(of group: inout TaskGroup<Step>) async -> Result<Void, any Error> {
        var deadline: ContinuousClock.Instant?
        var end = Result<Void, any Error>.success(())
        while let step = await group.next() {
            switch step {
            case .delivered(let result):
                // When the time is over, what fails may do so because of that. Asked of the clock:
                // whether the finish has returned, too, and `onShutdown`, is chance.
                if deadline.map({ $0 > .now }) ?? true { end = result }
                group.cancelAll()
            case .shutdown:
                let last = ContinuousClock.now + gracePeriod.bounded
                deadline = last
                group.addTask {
                    onShutdown(await buffer.finish(deadline: last))
                    return .over
                }
            case .over:
                // A finish that returns before the deadline has waited for the loop's end. The
                // delivery's task is about to return, and might throw if it were cancelled now.
                if deadline.map({ $0 <= .now }) ?? true { group.cancelAll() }
            }
        }
        return end
    }

    @usableFromInline
    enum Step: Sendable {
        case delivered(Result<Void, any Error>)
        /// It is to be shut down.
        case shutdown
        /// What waited for the shutdown, or finished the buffer, has returned.
        case over
    }
}

extension DedupeBufferService: CustomStringConvertible {
    /// With the buffer's label, as groups of services log it.
    public var description: String { "DedupeBufferService(\(buffer.label))" }
}

#endif
