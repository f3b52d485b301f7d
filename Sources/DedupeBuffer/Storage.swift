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

    /// Ends the life of what a slot and a tag hold.
    @inlinable
    static func destroy(_ payload: UnsafeMutableRawPointer?, _ tag: UnsafeMutableRawPointer?) {
        // Moved out, and that is it: `deinitialize` would ask the runtime how, each time.
        if let payload { _ = payload.assumingMemoryBound(to: Payload<Value>.self).move() }
        if let tag { _ = tag.assumingMemoryBound(to: Key.self).move() }
    }

    /// Gives the taken batch's items from `start` on back to the queue.
    @inlinable
    func untake(from start: Int) {
        core.untake(from: start, merge: values.merge(_:with:), destroy: Self.destroy)
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
    private let mergingThreads = Locked<Set<UInt>>([])

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

    @usableFromInline
    func mergeValues(_ older: Value, _ newer: Value) -> Value {
        let thread = currentThread()
        mergingThreads.withLock { _ = $0.insert(thread) }
        defer { mergingThreads.withLock { _ = $0.remove(thread) } }
        return merge!(older, newer)
    }

    /// Who puts an update from inside `merge` may wait for itself.
    @usableFromInline
    func checkCaller() {
        precondition(
            !mergingThreads.withLock { $0.contains(currentThread()) }, "merge must not put updates into its own buffer")
    }

    /// Merges the newer payload into the older one; the newer is moved out. Both have values.
    @inlinable
    func merge(_ older: UnsafeMutableRawPointer, with newer: UnsafeMutableRawPointer) {
        let target = older.assumingMemoryBound(to: Payload<Value>.self)
        let (first, second) = (target.move(), newer.assumingMemoryBound(to: Payload<Value>.self).move())
        let value = mergeValues(first.value!, second.value!)
        target.initialize(to: Payload(revision: second.revision, value: value))
        weigh(older)
    }
}
