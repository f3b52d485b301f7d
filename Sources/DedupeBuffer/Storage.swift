// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// What a buffer shares with those who consume its events. Ends with the last of them, and ends
/// what is still pending.
@usableFromInline
final class Storage<Key: DedupeKey, Value: Sendable>: Sendable {
    @usableFromInline let core: Core
    @usableFromInline let delivery: DeliveryLoop
    @usableFromInline let values: ValueFunctions<Value>

    init(core: Core, delivery: DeliveryLoop, values: ValueFunctions<Value>) {
        self.core = core
        self.delivery = delivery
        self.values = values
    }

    deinit {
        core.destroyLeftovers(Self.destroy)
    }

    /// Ends the life of the payload in a slot.
    @inlinable
    static func destroy(_ slot: UnsafeSlot) {
        slot.destroy(Value.self)
    }

    /// Gives the taken batch's items from `start` on back to the queue.
    @inlinable
    func putBack(from start: Int) {
        values.replaced.whileKept { core.putBack(from: start, destroy: Self.destroy) }
    }

    /// Gives the taken batch's items from `start` on back to the queue, and keeps the others.
    @inlinable
    func putBackTail(from start: Int) {
        values.replaced.whileKept { core.putBackTail(from: start, destroy: Self.destroy) }
    }
}

/// What a buffer was told about its values.
@usableFromInline
struct ValueFunctions<Value: Sendable>: Sendable {
    @usableFromInline let weight: (@Sendable (Value) -> Int)?
    /// Where a payload's weight is.
    @usableFromInline let weightOffset: Int
    @usableFromInline let replaced = ReplacedValues<Value>()
    @usableFromInline var merger: PayloadMerger?

    @inlinable
    init(weight: (@Sendable (Value) -> Int)?, merge: (@Sendable (Value, Value) -> Value)?) {
        self.weight = weight
        weightOffset = CoreLayout.weightOffset(Value.self)
        merger = merge.map { [self] merge in PayloadMerger { self.merge($0, into: $1, merge) } }
    }

    /// Writes what the payload in a slot weighs. A deletion weighs nothing.
    @inlinable
    func weigh(_ slot: UnsafeSlot) {
        guard let weight else { return }
        let bytes = slot.value(of: Value.self).map(weight) ?? 0
        precondition(bytes >= 0, "a value cannot weigh less than nothing")
        slot.setWeight(bytes, at: weightOffset)
    }

    /// The newer payload becomes what both were. Both have values.
    ///
    /// No value ends here, since its `deinit` might put an update, which is not allowed yet. The
    /// older one comes back from the core to be destroyed. The newer one is in the caller's array
    /// too, if it is being put, or else is kept.
    @inlinable
    func merge(_ older: UnsafeSlot, into newer: UnsafeSlot, _ merge: (Value, Value) -> Value) {
        let value = newer.value(of: Value.self)!
        replaced.keep(value)
        newer.replaceValue(by: merge(older.value(of: Value.self)!, value))
        weigh(newer)
    }
}

/// The pending values in whose place the result of a merge was put, while a batch goes back to the
/// queue.
@usableFromInline
final class ReplacedValues<Value: Sendable>: Sendable {
    /// `nil`: no batch is going back.
    private let values = Locked<[Value]?>(nil)
    private let isKeeping = Atomic<Bool>(false)

    @usableFromInline
    init() {}

    /// Keeps them until `body` has returned. One batch at a time goes back.
    @usableFromInline
    func whileKept(_ body: () -> Void) {
        values.withLock { $0 = [] }
        isKeeping.store(true, ordering: .relaxed)
        body()
        isKeeping.store(false, ordering: .relaxed)
        // They end with the lock free.
        _ = values.withLock { values in
            defer { values = nil }
            return values
        }
    }

    /// Relaxed: merges of the call that puts back are on its own thread. Others need not be kept,
    /// but may.
    @usableFromInline
    func keep(_ value: Value) {
        guard isKeeping.load(ordering: .relaxed) else { return }
        values.withLock { $0?.append(value) }
    }
}
