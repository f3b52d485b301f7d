// SPDX-License-Identifier: Apache-2.0

public import DedupeBuffer

extension DedupeHub {
    /// A new subscriber. It first gets the present state, and then the latest status, if there was
    /// one; or what changed since its position.
    ///
    /// - Parameters:
    ///   - position: where an earlier subscription with the same filter ended. If it is a position
    ///     of another hub, or deletions since then have been forgotten, the first event is
    ///     ``DedupeHubEvent/restart``, and the present state follows. `nil` begins with the present
    ///     state.
    ///   - filter: whether the subscriber wants a key. It must always say the same about a key. It
    ///     is called by the thread that takes, with no lock held, and not again for a key that the
    ///     subscriber has. A subscription with a filter takes one more bit for each key. `nil`: all
    ///     keys.
    ///   - minimumInterval: the shortest time from the beginning of one round of delivery to the
    ///     next. A round delivers what was pending when it began. The first update after an idle
    ///     time goes at once. `nil`: a round begins as soon as something is pending.
    ///   - onReady: called when something can be taken, after ``DedupeHubSubscription/take()`` has
    ///     returned ``DedupeHubSubscription/Taken/nothing``, once each time; and at the end of the
    ///     hub. It is called on a queue of the hub with no lock held, and should return soon. Only
    ///     for those that call `take()`.
    /// - Complexity: O(1). The subscriber's first call that takes looks through all keys.
    public func subscribe(
        from position: Position? = nil, where filter: (@Sendable (Key) -> Bool)? = nil,
        minimumInterval: Duration? = nil, onReady: (@Sendable () -> Void)? = nil
    ) -> DedupeHubSubscription<Key, Value> {
        var typedFilter: (@Sendable (HubBox) -> Bool)?
        if let filter {
            typedFilter = { filter(unsafeDowncast($0, to: TypedHubBox<Key, Value>.self).update.key) }
        }
        observer?.subscribed(from: position)
        return DedupeHubSubscription(
            core, observer, from: position, filter: typedFilter, minimumInterval: minimumInterval, onReady: onReady)
    }
}

/// One subscriber of a hub: an asynchronous sequence of deliveries, or a source to take them from.
///
/// A task iterates; one at a time:
///
/// ```swift
/// for try await delivery in hub.subscribe(minimumInterval: .seconds(1)) { ... }
/// ```
///
/// An event loop takes batches when its client can take one, and is woken when there is something
/// again:
///
/// ```swift
/// let subscription = hub.subscribe(onReady: { loop.execute { pump() } })
/// func pump() {
///     while client.isWritable {
///         switch try subscription.take() {
///         case .batch(let deliveries): client.write(deliveries)
///         case .nothing: return                       // onReady will be called
///         case .later(let time): return loop.schedule(after: time) { pump() }
///         case .finished: return client.close()
///         }
///     }
/// }
/// ```
///
/// A subscription that is let go, or was cancelled, leaves nothing in the hub. What was not taken
/// costs nothing until it is asked for.
public final class DedupeHubSubscription<Key: DedupeKey, Value: Sendable>: AsyncSequence, Sendable {
    public typealias Element = DedupeHubDelivery<Key, Value>
    public typealias Failure = DedupeHubError

    private let core: HubCore
    private let observer: HubObserver?
    private let client: HubClient
    private let signal: Signal?

    init(
        _ core: HubCore, _ observer: HubObserver?, from position: DedupeHubPosition?,
        filter: (@Sendable (HubBox) -> Bool)?, minimumInterval: Duration?, onReady: (@Sendable () -> Void)?
    ) {
        (self.core, self.observer) = (core, observer)
        let signal = onReady == nil ? Signal() : nil
        self.signal = signal
        client = HubClient(
            core, from: position, filter: filter, minimumInterval: minimumInterval,
            wakeUp: onReady ?? { signal?.send() })
    }

    deinit {
        close()
    }

    // MARK: - Taking

    /// What there was to take.
    public enum Taken: Sendable {
        /// Deliveries, in order, at least one.
        case batch([DedupeHubDelivery<Key, Value>])
        /// Nothing now. `onReady` will be called when there is something.
        case nothing
        /// There may be something after this time: the subscriber's interval lasts as long. Zero
        /// if the source brings so much that the filter does not want that the call gave up.
        case later(Duration)
        /// Nothing any more: the hub has finished, or the subscription was cancelled.
        case finished
    }

    /// Takes at most ``DedupeHubConfiguration/batchSize`` updates and statuses, without waiting.
    ///
    /// - Throws: ``DedupeHubError/alreadyTaking`` if another call has not returned.
    /// - Complexity: O(*n*) in the number of updates taken, and in the number of changes since the
    ///   call before; for the first call, and after falling far behind, in the number of keys. The
    ///   hub's lock is held for a bounded step at a time.
    public func take() throws(DedupeHubError) -> Taken {
        defer { observer?.reportIfDue() }
        switch client.take(limit: core.configuration.batchSize) {
        case .batch(let batch): return .batch(deliveries(batch))
        case .nothing: return .nothing
        case .later(let time): return .later(time)
        case .finished: return .finished
        case .refused: throw .alreadyTaking
        }
    }

    /// The subscriber goes away. Calls that take return what they have; later ones get nothing, and
    /// the sequence ends. Can be called from anywhere, and again.
    public func cancel() {
        close()
        client.wake()
    }

    private func close() {
        if client.close() { observer?.ended() }
    }

    /// The runs of updates, and the statuses between them.
    private func deliveries(_ batch: HubClient.Batch) -> [DedupeHubDelivery<Key, Value>] {
        var deliveries: [DedupeHubDelivery<Key, Value>] = []
        if batch.isRestart {
            observer?.restarted()
            deliveries.append(DedupeHubDelivery(.restart, batch.restartPosition))
        }
        let items = batch.items
        var i = 0
        while i < items.count {
            let start = i
            while i < items.count && items[i].box != nil { i += 1 }
            let isStatus = i == start
            if isStatus { i += 1 }
            let event: DedupeHubEvent<Key, Value> =
                isStatus ? .status(items[start].status) : .updates(DedupeHubUpdates(items: items[start..<i]))
            deliveries.append(DedupeHubDelivery(event, i == items.count ? batch.end : batch.midway))
        }
        return deliveries
    }

    // MARK: - Iterating

    /// An iterator. All iterators of a subscription share its place in the stream.
    public func makeAsyncIterator() -> Iterator { Iterator(subscription: self) }

    /// Iterates over a subscription's deliveries.
    public struct Iterator: AsyncIteratorProtocol {
        private let subscription: DedupeHubSubscription
        private var taken: ArraySlice<DedupeHubDelivery<Key, Value>> = []
        private var takes = 0

        fileprivate init(subscription: DedupeHubSubscription) {
            self.subscription = subscription
        }

        /// The next delivery, as soon as there is one. No thread waits meanwhile.
        ///
        /// - Returns: `nil` at the end of the hub, when the subscription was cancelled, or when the
        ///   task was.
        /// - Throws: ``DedupeHubError/alreadyTaking`` if another iterator of the subscription waits
        ///   or takes.
        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(DedupeHubError) -> DedupeHubDelivery<Key, Value>? {
            while taken.isEmpty {
                if Task.isCancelled { return nil }
                switch try subscription.take() {
                case .batch(let deliveries): taken = deliveries[...]
                case .nothing: try await subscription.sleep(isolation: actor)
                case .later(let time): try await subscription.pause(for: time, isolation: actor)
                case .finished: return nil
                }
                takes += 1
                // Other tasks must get their turn.
                if takes % 16 == 0 { await Task.yield() }
            }
            return taken.removeFirst()
        }
    }

    /// Returns when there may be something to take, or the task is cancelled.
    private func sleep(isolation: isolated (any Actor)?) async throws(DedupeHubError) {
        guard let signal else { return await Task.yield() }
        guard client.beginToSleep() else { throw .alreadyTaking }
        defer { client.endSleep() }
        await signal.wait(isolation: isolation)
    }

    /// Returns when the time is over, the hub has finished, or the task is cancelled.
    private func pause(for time: Duration, isolation: isolated (any Actor)?) async throws(DedupeHubError) {
        guard let signal else { return await Task.yield() }
        guard client.beginToSleep() else { throw .alreadyTaking }
        defer { client.endSleep() }
        let clock = core.configuration.clock
        let timer = Task {
            try? await clock.sleep(for: time)
            signal.send()
        }
        await signal.wait(isolation: isolation)
        timer.cancel()
    }

    // MARK: - Inspection

    /// The position of the subscriber when it has dealt with everything that was taken. It goes on
    /// also when there was nothing to deliver, for example because the filter did not want it.
    public var position: DedupeHubPosition { client.position }

    /// What became of the subscription so far.
    ///
    /// - Complexity: O(1).
    public var statistics: DedupeHubSubscriptionStatistics { client.statistics }
}
