// SPDX-License-Identifier: Apache-2.0

/// What a buffer shares with those who consume its events. Ends with the last of them, and ends what is still pending.
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
    static func destroy(_ payload: UnsafeMutableRawPointer) {
        // Not `deinitialize`: it would ask the runtime each time how to destroy this type.
        _ = payload.assumingMemoryBound(to: Payload<Value>.self).move()
    }

    /// Gives the taken batch's items from `start` on back to the queue.
    @inlinable
    func putBack(from start: Int) {
        core.putBack(from: start, merge: { values.merge($0, with: $1) }, destroy: Self.destroy)
    }
}

/// What a buffer was told about its values.
@usableFromInline
struct ValueFunctions<Value: Sendable>: Sendable {
    @usableFromInline let weight: (@Sendable (Value) -> Int)?
    @usableFromInline let merge: (@Sendable (Value, Value) -> Value)?
    /// Where a payload's weight is.
    @usableFromInline let weightOffset: Int
    /// Those that are in `merge` now.
    @usableFromInline let merging = ThreadSet()

    init(weight: (@Sendable (Value) -> Int)?, merge: (@Sendable (Value, Value) -> Value)?) {
        self.weight = weight
        self.merge = merge
        weightOffset = CoreLayout.weightOffset(Value.self)
    }

    /// Notes what the payload weighs. A deletion weighs nothing.
    @inlinable
    func weigh(_ payload: UnsafeMutableRawPointer) {
        guard let weight else { return }
        let bytes = payload.assumingMemoryBound(to: Payload<Value>.self).pointee.value.map(weight) ?? 0
        precondition(bytes >= 0, "a value cannot weigh less than nothing")
        payload.storeBytes(of: UInt64(bytes), toByteOffset: weightOffset, as: UInt64.self)
    }

    /// Merges the newer payload into the older one; the newer is moved out. Both have values.
    ///
    /// - Returns: what both were, to be let go when the result has been put: until then a `deinit` that puts an update of
    ///   the key would wait for itself.
    @inlinable
    func merge(
        _ older: UnsafeMutableRawPointer, with newer: UnsafeMutableRawPointer
    ) -> (Payload<Value>, Payload<Value>) {
        let target = older.assumingMemoryBound(to: Payload<Value>.self)
        let merged = (target.move(), newer.assumingMemoryBound(to: Payload<Value>.self).move())
        merging.whileInside {
            target.initialize(
                to: Payload(revision: merged.1.revision, value: merge!(merged.0.value!, merged.1.value!)))
            weigh(older)
        }
        return merged
    }

    /// Who puts an update from inside `merge` may wait for itself.
    @usableFromInline
    func checkCaller() {
        precondition(!merging.containsCurrent, "merge must not put updates into its own buffer")
    }
}
