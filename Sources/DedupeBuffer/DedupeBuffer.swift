// SPDX-License-Identifier: Apache-2.0

/// A buffer between a fast source of keyed updates and a slow sink.
///
/// The buffer keeps an in-order queue with at most one pending update per key. A new update for a
/// queued key takes the place of the old one. So the source never waits for the sink, what is in
/// flight is bounded by the number of keys, and an overloaded sink skips ahead to recent state.
/// Statuses keep their place between the updates. After a lost connection the buffer works out
/// which keys vanished and tells the sink.
///
/// ```swift
/// let buffer = DedupeBuffer<String, Endpoint>()
/// try buffer.startSending(to: sink)               // on a Dispatch queue; returns at once
/// datastoreClient.start(callbacks: buffer)   // calls onUpdates, onStatusUpdated and so on
/// ...
/// await buffer.finish()                           // what was received is delivered, then it stops
/// ```
///
/// ### Threading
///
/// Every method may be called from any thread, also from inside the sink. The methods of the
/// source's side never wait for the sink. The sink is called serially, in order, with no lock held.
///
/// Values that are replaced, dropped or cancelled are destroyed by the thread that displaced them,
/// with no lock held; values that a restart dropped soon afterwards. Their `deinit` may call the
/// buffer.
///
/// ### Who keeps whom alive
///
/// While a loop is delivering, the work on the queue keeps the buffer and the sink alive. When
/// there is nothing to deliver, nothing runs and nothing but you keeps the buffer alive; the buffer
/// keeps the sink until the loop has ended. A buffer that is let go delivers first what is pending.
/// A sink that holds its buffer makes a cycle, which ``stop()`` or `finish()` breaks. For tasks see
/// ``events`` and ``run(sink:)``.
public final class DedupeBuffer<Key: DedupeKey, Value: Sendable>: RestartAwareCallbacks {
    @usableFromInline let core: Core
    @usableFromInline let delivery: DeliveryLoop
    /// Both of them, for those who consume events.
    @usableFromInline let storage: Storage<Key, Value>
    /// `nil`: neither a logger nor metrics.
    @usableFromInline let observer: Observer?
    @usableFromInline let onRejection: (@Sendable (DedupeBufferRejection) -> Void)?
    /// What a ``run(sink:)`` begins with.
    @usableFromInline let retry: RetryState

    /// How long a finish waits for a loop or a consumer to begin.
    let gracePeriod: Duration
    let clock: any Clock<Duration>

    @usableFromInline let onOverflow: (@Sendable () -> Void)?

    /// A buffer with nothing in it.
    ///
    /// - Parameters:
    ///   - configuration: how it works.
    ///   - weight: what a value weighs, for ``DedupeBufferConfiguration/maximumPendingBytes``: not
    ///     negative, and the same whenever it is asked. Called once for each value that comes in,
    ///     by the thread that brings it, and for each result of `merge`, as part of it; not for
    ///     deletions, which weigh nothing.
    ///   - merge: how a value that comes in is merged with the pending one of its key, the older
    ///     one being the first; `nil`: it replaces that. Each value goes into what is delivered
    ///     exactly once, in order; where the older one is taken first, the newer one is delivered
    ///     by itself. Deletions are not merged: they replace, and are replaced. The revision is the
    ///     newer one's. Called by the thread that brings the newer one, or by ``run(sink:)`` or
    ///     ``events`` when they give the older one back. One merge runs at a time. Meanwhile other
    ///     calls that bring something wait, and the sink gets nothing new.
    ///
    /// - Important: `merge` may call ``stop()`` and read ``statistics``, but must not put anything
    ///   into this buffer, restart it or take from it, nor may a `deinit` that runs in it: that
    ///   ends the program. Nor may it wait for the sink.
    @inlinable
    public convenience init(
        configuration: DedupeBufferConfiguration = .init(), weight: (@Sendable (Value) -> Int)? = nil,
        merge: (@Sendable (_ older: Value, _ newer: Value) -> Value)? = nil
    ) {
        precondition(
            configuration.maximumPendingBytes == nil || weight != nil, "maximumPendingBytes needs a weight function")
        let isWeighed = configuration.maximumPendingBytes != nil
        self.init(configuration, values: ValueFunctions(weight: isWeighed ? weight : nil, merge: merge))
    }

    @usableFromInline
    init(_ configuration: DedupeBufferConfiguration, values: ValueFunctions<Value>) {
        let layout = CoreLayout(Value.self, isWeighed: values.weight != nil)
        core = Core(configuration, layout: layout, merger: values.merger)
        observer = Observer(configuration, core: core)
        delivery = DeliveryLoop(core: core, configuration: configuration, observer: observer) { [core] start in
            values.replaced.whileKept { core.putBackTail(from: start, destroy: Storage<Key, Value>.destroy) }
        }
        storage = Storage(core: core, delivery: delivery, values: values)
        onRejection = configuration.onRejection
        onOverflow = configuration.onOverflow
        retry = RetryState(configuration.retry)
        precondition(configuration.gracePeriod >= .zero, "gracePeriod must not be negative")
        (gracePeriod, clock) = (configuration.gracePeriod, configuration.clock)
    }

    deinit {
        delivery.abandon()
    }

    // MARK: - The end

    /// Stops: a batch that is being delivered is delivered whole, nothing after it.
    ///
    /// What is pending stays pending until the buffer is let go; what comes in afterwards is
    /// dropped. Returns at once; the loop ends soon after, and ``sendToSinkForever(_:)`` returns.
    /// Can be called from anywhere, also from inside the sink, and again. Cannot be undone.
    ///
    /// - Complexity: O(1).
    public func stop() {
        observer?.stopping()
        delivery.stop()
        core.stop()
        delivery.stopped()
        observer?.report()
    }

    // MARK: - Inspection

    /// The configuration's.
    package var label: String { delivery.label }

    /// What became of everything so far. One consistent snapshot.
    ///
    /// - Complexity: O(1).
    public var statistics: DedupeBufferStatistics { core.statistics }
}
