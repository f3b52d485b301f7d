// SPDX-License-Identifier: Apache-2.0

/// A buffer between a fast source of keyed updates and a slow sink.
///
/// The buffer keeps an in-order queue with at most one pending update per key. A new update for a
/// queued key takes the place of the old one. So the source never waits for the sink, the number of
/// keys bounds what is in flight, and an overloaded sink skips ahead to recent state. Statuses keep
/// their place between the updates. After a lost connection the buffer works out which keys
/// vanished and tells the sink.
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
/// Any thread may call every method, also from inside the sink. The methods of the source's side
/// never wait for the sink. The buffer calls the sink serially, in order, with no lock held.
///
/// The thread that replaces, drops or cancels a value destroys it, with no lock held. Values that a
/// restart dropped are destroyed soon afterwards. The `deinit` of a value may call the buffer.
///
/// ### Lifetime
///
/// While a loop is delivering, the work on the queue keeps the buffer and the sink alive. When
/// there is nothing to deliver, nothing runs, and only references of the program keep the buffer
/// alive. The buffer keeps the sink alive until the loop has ended. When the last reference goes
/// away, the loop first delivers the pending updates. A sink that holds its buffer makes a cycle of
/// references, which ``stop()`` or `finish()` breaks. For tasks see ``events`` and ``run(sink:)``.
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
    /// Each value becomes part of exactly one delivered value, in order. If the sink takes the
    /// older value first, the newer one is delivered by itself. Deletions are not merged: they
    /// replace the pending update, and are replaced. The merged value has the revision of the newer
    /// one.
    ///
    /// The thread that brings the newer value calls the merge function, and so do ``run(sink:)``
    /// and ``events`` when they put the older value back. One merge runs at a time. Meanwhile other
    /// calls that bring updates, statuses or a restart wait, and the sink gets nothing new.
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

    /// Stops the buffer: delivers the rest of the batch that is under way, and nothing after it.
    ///
    /// Pending updates stay pending until the buffer is deinitialised. The buffer drops updates
    /// that come in afterwards. The call returns at once. The loop ends soon after, and then
    /// ``sendToSinkForever(_:)`` returns. The sink may make this call, and it may be repeated. A
    /// stop cannot be undone.
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

    /// The counters of the buffer, as one consistent snapshot.
    ///
    /// - Complexity: O(1).
    public var statistics: DedupeBufferStatistics { core.statistics }
}
