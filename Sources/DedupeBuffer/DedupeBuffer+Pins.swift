// SPDX-License-Identifier: Apache-2.0

extension DedupeBuffer {
    /// A key that the buffer need not look up: see ``pin(_:)``.
    ///
    /// The pin ends with its last reference.
    public final class Pin: Sendable {
        public let key: Key
        @usableFromInline let core: Core
        @usableFromInline let handle: UInt32

        init(_ key: Key, core: Core) {
            self.key = key
            self.core = core
            handle = key.withKeyBytes { core.pin($0) }
        }

        deinit {
            core.unpin(handle)
        }
    }

    /// Pins a key: updates that name the pin need neither hash nor compare the key.
    ///
    /// For a source that knows its keys and updates them often, such as the symbols of a feed or
    /// the interfaces of a router. A pin changes nothing else: the sink gets what it would have got
    /// by the key, and other callers may put by the key meanwhile. Pins pay in calls with many
    /// updates, ``onUpdates(_:pins:)``; a call of one update costs about the same by pin and by
    /// key.
    ///
    /// ```swift
    /// let pin = buffer.pin("sensor/1")
    /// buffer.update(pin, to: 20)
    /// ```
    ///
    /// A pinned key that is neither pending nor live takes the memory of one key until the pin
    /// ends. ``DedupeBufferStatistics/pinnedKeys`` counts.
    ///
    /// - Precondition: the key has at most 65,536 bytes, and fewer than 16,383 pins.
    /// - Complexity: O(1) plus the key's length, expected.
    public func pin(_ key: Key) -> Pin {
        Pin(key, core: core)
    }

    /// Puts one update of a pinned key. Otherwise as ``update(_:to:revision:)-(Key,_,_)``.
    ///
    /// - Precondition: the pin is of this buffer.
    /// - Complexity: O(1).
    @inlinable
    public func update(_ pin: Pin, to value: Value, revision: UInt64 = 0) {
        put(pin, Payload(revision: revision, value: .some(value)))
    }

    /// Puts the deletion of a pinned key. The pin stays.
    ///
    /// - Precondition: the pin is of this buffer.
    /// - Complexity: O(1).
    @inlinable
    public func remove(_ pin: Pin, revision: UInt64 = 0) {
        put(pin, Payload(revision: revision, value: nil))
    }

    /// Puts updates whose keys are pinned. Otherwise as ``onUpdates(_:)``.
    ///
    /// - Parameters:
    ///   - updates: the updates.
    ///   - pins: for each update the pin of its key. The pin decides, not the update's key.
    /// - Precondition: there are as many pins as updates, and they are of this buffer.
    /// - Complexity: O(*n*).
    @inlinable
    public func onUpdates(_ updates: [Update<Key, Value>], pins: [Pin]) {
        precondition(updates.count == pins.count, "each update needs a pin")
        BorrowedUpdates.with(updates) { updates in
            putAll(updates, of: nil) { page, _, i in page.write(pin: checked(pins[i])) }
        }
        observer?.received(updates: updates.count)
    }

    /// The core's name of the pin.
    @inlinable
    @inline(__always)
    func checked(_ pin: Pin) -> UInt32 {
        precondition(pin.core === core, "the pin is another buffer's")
        return pin.handle
    }

    @inlinable
    @inline(__always)
    func put(_ pin: Pin, _ payload: Payload<Value>) {
        let handle = checked(pin)
        let isDeletion = payload.value == nil
        if core.putsSingly {
            return putSingle(payload) { core.putSingle(&$0, pin: handle, deletion: isDeletion) }
        }
        let update = Update(key: pin.key, value: payload.value, revision: payload.revision)
        BorrowedUpdates.with(update) { update in
            putAll(update, of: nil) { page, _, _ in page.write(pin: handle) }
        }
        observer?.received(updates: 1)
    }
}
