// SPDX-License-Identifier: Apache-2.0

/// A call's one update on its way through the core, with the payload that it brings and those that
/// come back. See `Core.beginSingle()`.
@usableFromInline
struct SingleUpdate {
    /// Where the payload goes.
    @usableFromInline let slot: UnsafeSlot
    /// The payload that was not accepted, and an older one. The caller moves them out.
    @usableFromInline var returned: UnsafeSlot?
    @usableFromInline var displaced: UnsafeSlot?
    @usableFromInline var hasOverflowed = false
    /// The length of a key that was too long, or 0.
    @usableFromInline var rejectedLength = 0

    // The core's, between its calls.
    let opaque: UnsafeMutableRawPointer?
    let handle: UInt32
    var returnedHandle: UInt32 = 0
    var displacedHandle: UInt32 = 0
    var isClaimed = true

    init(slot: UnsafeSlot, handle: UInt32, opaque: UnsafeMutableRawPointer?) {
        self.slot = slot
        self.handle = handle
        self.opaque = opaque
    }
}

extension DedupeKey {
    /// Whether the bytes of these keys are at hand without any user code, which must not run while
    /// an update goes through the core.
    @inlinable
    @inline(__always)
    static var isBuiltIn: Bool {
        self == String.self || self == [UInt8].self || self == Substring.self || self == Int.self
            || self == UInt.self || self == Int64.self || self == UInt64.self || self == Int32.self
            || self == UInt32.self
    }
}

extension DedupeBuffer {
    /// Puts one update, straight from the caller into a slot, without an array and without scratch
    /// memory. `put` is one of the core's functions of this name.
    @inlinable
    @inline(__always)
    func putSingle(_ payload: Payload<Value>, _ put: (inout SingleUpdate) -> Void) {
        var single = core.beginSingle()
        single.slot.initialize(payload)
        put(&single)
        let returned = single.returned.map { $0.move(Value.self) }
        let displaced = single.displaced.map { $0.move(Value.self) }
        // A value's `deinit` is user code, so the values must outlive the core's part.
        core.endSingle(single)
        extendLifetime(returned)
        extendLifetime(displaced)
        observer?.received(updates: 1)
        if single.rejectedLength > 0 { report([single.rejectedLength]) }
        if single.hasOverflowed { reportOverflow() }
    }
}
