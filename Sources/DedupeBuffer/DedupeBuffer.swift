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
    @usableFromInline let onRejection: (@Sendable (DedupeBufferConfiguration.Rejection) -> Void)?
    /// What a ``run(sink:)`` begins with.
    @usableFromInline let retry: RetryState

    /// How long a finish waits for a loop or a consumer to begin.
    let gracePeriod: Duration
    let clock: any Clock<Duration>

    @usableFromInline let onOverflow: (@Sendable () -> Void)?
    @usableFromInline let resyncs: ResyncGate

    /// A buffer with nothing in it.
    ///
    /// - Parameters:
    ///   - configuration: how the buffer works.
    ///   - bound: how much may be pending. `nil` means that only the number of keys bounds it.
    ///   - merge: merges a value that comes in with the pending value of its key, which is the
    ///     first argument. `nil` means that the newer value replaces the pending one.
    ///
    /// ### Merging
    ///
    /// Each value goes into what is delivered exactly once, in order. If the sink takes the older
    /// value first, the newer one is delivered by itself. Deletions are not merged: they replace
    /// the pending update, and are replaced. The merged value has the revision of the newer one.
    ///
    /// The merge function is called by the thread that brings the newer value, or by
    /// ``run(sink:)`` or ``events`` when they put the older one back. One merge runs at a time.
    /// Meanwhile other calls that bring something wait, and the sink gets nothing new.
    ///
    /// - Precondition: ``DedupeBufferConfiguration/validate()`` and
    ///   ``DedupeBufferConfiguration/Bound/validate()`` do not throw. Otherwise the program ends,
    ///   with a message that names the member.
    /// - Important: `merge` may call ``stop()`` and read ``statistics``. It must not put anything
    ///   into this buffer, restart it or take from it, and neither may a `deinit` that runs in it:
    ///   that ends the program. It must not wait for the sink either.
    @inlinable
    public convenience init(
        configuration: DedupeBufferConfiguration = .init(), bound: DedupeBufferConfiguration.Bound<Value>? = nil,
        merge: (@Sendable (_ older: Value, _ newer: Value) -> Value)? = nil
    ) {
        self.init(configuration, bound, values: ValueFunctions(weight: bound?.weight, merge: merge))
    }

    @usableFromInline
    init(
        _ configuration: DedupeBufferConfiguration, _ bound: DedupeBufferConfiguration.Bound<Value>?,
        values: ValueFunctions<Value>
    ) {
        DedupeBufferConfiguration.trapUnlessValid(configuration.validate)
        if let bound { DedupeBufferConfiguration.trapUnlessValid(bound.validate) }
        let layout = CoreLayout(Value.self, isWeighed: values.weight != nil)
        let limits = CoreLimits(keys: bound?.keys, bytes: bound?.bytes)
        core = Core(configuration, limits: limits, layout: layout, merger: values.merger)
        observer = Observer(configuration, core: core)
        delivery = DeliveryLoop(core: core, configuration: configuration, observer: observer) { [core] start in
            values.replaced.whileKept { core.putBackTail(from: start, destroy: Storage<Key, Value>.destroy) }
        }
        storage = Storage(core: core, delivery: delivery, values: values)
        onRejection = configuration.onRejection
        onOverflow = configuration.onOverflow
        retry = RetryState(configuration.retry)
        resyncs = ResyncGate(core)
        (gracePeriod, clock) = (configuration.gracePeriod, configuration.clock)
    }

    deinit {
        core.overflows.end()
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
