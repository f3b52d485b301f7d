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
    ///   - filter: whether the subscriber wants a key. It must always say the same about a key, and
    ///     be quicker than the source brings new keys. It is called by the thread that takes, with
    ///     no lock held, and not again for a key that the subscriber has. A subscription with a
    ///     filter takes one more bit for each key. `nil`: all keys.
    ///   - minimumInterval: the shortest time from the beginning of one round of delivery to the
    ///     next. A round delivers what was pending when it began. The first update after an idle
    ///     time goes at once. `nil`: a round begins as soon as something is pending.
    ///   - onReady: called when something can be taken, after ``DedupeHubSubscription/take()`` has
    ///     returned ``DedupeHubSubscription/Taken/nothing``, once each time; and at the end of the
    ///     hub or of the subscription. It is called on a queue of the hub with no lock held, may
    ///     call `take()`, and should return soon.
    ///
    /// The subscription keeps `filter` and `onReady`, and what they hold, until it is cancelled, or
    /// has returned ``DedupeHubSubscription/Taken/finished``, or is let go. If they hold the
    /// subscription themselves, by way of a connection, then it is not let go before it is
    /// cancelled.
    ///
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
    private let signal = Signal()

    init(
        _ core: HubCore, _ observer: HubObserver?, from position: DedupeHubPosition?,
        filter: (@Sendable (HubBox) -> Bool)?, minimumInterval: Duration?, onReady: (@Sendable () -> Void)?
    ) {
        (self.core, self.observer) = (core, observer)
        client = HubClient(core, from: position, filter: filter, minimumInterval: minimumInterval) { [signal] in
            signal.send()
            onReady?()
        }
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
        /// There may be something after this time: the subscriber's interval lasts as long. Zero if
        /// the source brings changes so quickly that the call gave up. Then another call goes on.
        case later(Duration)
        /// Nothing any more: the hub has finished, or the subscription was cancelled.
        case finished
    }

    /// Takes at most ``DedupeHubConfiguration/batchSize`` updates and statuses, without waiting.
    ///
    /// What an iterator has left of a batch is taken first.
    ///
    /// - Throws: ``DedupeHubError/alreadyTaking`` if another call has not returned, or an iterator
    ///   waits.
    /// - Complexity: O(*n*) in the number of updates taken, and in the number of changes since the
    ///   call before; for the first call, and after falling far behind, in the number of keys. The
    ///   hub's lock is held for a bounded step at a time.
    public func take() throws(DedupeHubError) -> Taken {
        if client.isIterating { throw .alreadyTaking }
        switch try taken(isFirstOnly: false) {
        case .batch(var batch):
            var deliveries: [DedupeHubDelivery<Key, Value>] = []
            while !batch.isEmpty { deliveries.append(delivery(batch.removeFirst())) }
            return .batch(deliveries)
        case .later(let time): return .later(time)
        case .finished: return .finished
        case .nothing, .refused: return .nothing
        }
    }

    private func taken(isFirstOnly: Bool) throws(DedupeHubError) -> HubClient.Taken {
        defer { observer?.reportIfDue() }
        let taken = client.take(limit: core.configuration.batchSize, isFirstOnly: isFirstOnly)
        switch taken {
        case .refused: throw .alreadyTaking
        // What the subscription was made with is not needed any more.
        case .finished: close()
        case .batch, .nothing, .later: break
        }
        return taken
    }

    /// The subscriber goes away. Calls that take return what they have; later ones get nothing, and
    /// the sequence ends. Can be called from anywhere, and again. `onReady` is called a last time,
    /// on a queue of the hub, and let go.
    public func cancel() {
        close(isWoken: true)
    }

    private func close(isWoken: Bool = false) {
        if client.close(isWoken: isWoken) { observer?.ended() }
    }

    /// The delivery of one event.
    private func delivery(_ event: HubClient.Batch) -> DedupeHubDelivery<Key, Value> {
        guard let first = event.items.first else {
            observer?.restarted()
            return DedupeHubDelivery(.restart, event.position)
        }
        if first.box == nil { return DedupeHubDelivery(.status(first.status), event.position) }
        return DedupeHubDelivery(.updates(DedupeHubUpdates(items: event.items)), event.position)
    }

    // MARK: - Iterating

    /// An iterator. All iterators of a subscription share its place in the stream: one goes on
    /// behind the last delivery of the one before.
    public func makeAsyncIterator() -> Iterator { Iterator(subscription: self) }

    /// Iterates over a subscription's deliveries.
    public struct Iterator: AsyncIteratorProtocol {
        private let subscription: DedupeHubSubscription
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
            takes += 1
            // Other tasks must get their turn.
            if takes % 16 == 0 { await Task.yield() }
            return try await subscription.next(isolation: actor)
        }
    }

    private func next(
        isolation actor: isolated (any Actor)?
    ) async throws(DedupeHubError) -> DedupeHubDelivery<Key, Value>? {
        guard client.beginIteration() else { throw .alreadyTaking }
        defer { client.endIteration() }
        while !Task.isCancelled {
            switch try taken(isFirstOnly: true) {
            case .batch(let event): return delivery(event)
            case .later(.zero): await Task.yield()
            case .later(let time): await pause(for: time, isolation: actor)
            case .finished: return nil
            case .nothing, .refused: await signal.wait(isolation: actor)
            }
        }
        return nil
    }

    /// Returns when the time is over, the hub has finished, or the task is cancelled.
    private func pause(for time: Duration, isolation: isolated (any Actor)?) async {
        let clock = core.configuration.clock
        let timer = Task { [signal] in
            try? await clock.sleep(for: time)
            // A cancelled timer sends nothing: nobody waits, and the next pause would end at once.
            if !Task.isCancelled { signal.send() }
        }
        await signal.wait(isolation: isolation)
        timer.cancel()
    }

    // MARK: - Inspection

    /// The position of the subscriber when it has dealt with everything that it was given. It goes
    /// on also when there was nothing to deliver, for example because the filter did not want it.
    ///
    /// Before the first call that takes, it is the position that the subscription was made with.
    public var position: DedupeHubPosition { client.position }

    /// What became of the subscription so far.
    ///
    /// - Complexity: O(1).
    public var statistics: DedupeHubSubscriptionStatistics { client.statistics }
}
