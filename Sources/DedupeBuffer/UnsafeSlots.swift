// SPDX-License-Identifier: Apache-2.0

// The fence around memory that Swift does not manage. The types here hold all raw pointers to the
// core's slots, to the scratch memory of a call, and into a caller's array. The rest of the library
// uses their methods, and only `Core` takes pointers out, to pass them to C.
//
// None of these types owns anything or counts references. In debug builds an index out of range
// ends the program.

/// The memory of one slot of the core. It holds a payload, or nothing.
@usableFromInline
struct UnsafeSlot: BitwiseCopyable {
    @usableFromInline let memory: UnsafeMutableRawPointer

    @inlinable
    init(_ memory: UnsafeMutableRawPointer) {
        self.memory = memory
    }

    @inlinable
    func payload<Value>(of type: Value.Type) -> UnsafeMutablePointer<Payload<Value>> {
        memory.assumingMemoryBound(to: Payload<Value>.self)
    }

    /// Constructs a payload in a slot that holds nothing.
    @inlinable
    func initialize<Value>(_ payload: Payload<Value>) {
        memory.initializeMemory(as: Payload<Value>.self, to: payload)
    }

    /// Ends the life of the payload.
    @inlinable
    func destroy<Value>(_ type: Value.Type) {
        // Not `deinitialize`: it would ask the runtime each time how to destroy this type.
        _ = payload(of: type).move()
    }

    /// Moves the payload out. Field by field: of a moved payload the compiler copies the value,
    /// which costs a retain and a release.
    @inlinable
    func move<Value>(_ type: Value.Type) -> (value: Value?, revision: UInt64) {
        let payload = payload(of: type)
        return (withUnsafeMutablePointer(to: &payload.pointee.value) { $0.move() }, payload.pointee.revision)
    }

    @inlinable
    func value<Value>(of type: Value.Type) -> Value? { payload(of: type).pointee.value }

    @inlinable
    func replaceValue<Value>(by value: Value) {
        payload(of: Value.self).pointee.value = value
    }

    /// Writes the payload's weight, which lies behind the payload.
    @inlinable
    func setWeight(_ weight: Int, at offset: Int) {
        memory.storeBytes(of: UInt64(weight), toByteOffset: offset, as: UInt64.self)
    }
}

/// Handles of slots, and the memory of each: room for a fixed number.
@usableFromInline
struct UnsafeSlots {
    /// The core's handles.
    let handles: UnsafeArray<UInt32>
    @usableFromInline let memory: UnsafeArray<UnsafeMutableRawPointer?>

    init(capacity: Int) {
        handles = UnsafeArray(capacity: capacity)
        memory = UnsafeArray(capacity: capacity)
    }

    func deallocate() {
        handles.deallocate()
        memory.deallocate()
    }

    @inlinable
    subscript(i: Int) -> UnsafeSlot { UnsafeSlot(memory[i]!) }

    /// Copies `count` of the slots of `other`, from `start` on, to `index`. They may overlap.
    func copy(_ count: Int, of other: UnsafeSlots, from start: Int, to index: Int) {
        handles.copy(count, of: other.handles, from: start, to: index)
        memory.copy(count, of: other.memory, from: start, to: index)
    }
}

/// Memory for a fixed number of elements.
@usableFromInline
struct UnsafeArray<Element: BitwiseCopyable> {
    @usableFromInline let base: UnsafeMutablePointer<Element>
    @usableFromInline let capacity: Int

    init(capacity: Int) {
        self.capacity = capacity
        base = .allocate(capacity: capacity)
    }

    /// Memory whose elements are `value`.
    init(repeating value: Element, capacity: Int) {
        self.init(capacity: capacity)
        base.initialize(repeating: value, count: capacity)
    }

    func deallocate() {
        base.deallocate()
    }

    @inlinable
    subscript(i: Int) -> Element {
        get {
            assert(0..<capacity ~= i)
            return base[i]
        }
        nonmutating set {
            assert(0..<capacity ~= i)
            base[i] = newValue
        }
    }

    /// Where element `i` is, for a call of the core that reads or writes `count` from there on.
    func pointer(at i: Int, count: Int) -> UnsafeMutablePointer<Element> {
        assert(i >= 0 && count >= 0 && i + count <= capacity)
        return base + i
    }

    /// Changes element `i` in its place.
    func update(_ i: Int, _ change: (inout Element) -> Void) {
        assert(0..<capacity ~= i)
        change(&base[i])
    }

    func copy(_ count: Int, of other: UnsafeArray, from start: Int, to index: Int) {
        pointer(at: index, count: count).update(from: other.pointer(at: start, count: count), count: count)
    }
}

/// Bytes that are written end to end, in memory that can grow.
@usableFromInline
struct UnsafeBytes {
    @usableFromInline private(set) var base: UnsafeMutableRawPointer
    @usableFromInline private(set) var capacity: Int

    init(capacity: Int) {
        self.capacity = capacity
        base = .allocate(byteCount: capacity, alignment: 16)
    }

    func deallocate() {
        base.deallocate()
    }

    /// Copies `bytes` to `offset`. There is room for them.
    @inlinable
    func write(_ bytes: RawSpan, at offset: Int) {
        assert(offset + bytes.byteCount <= capacity)
        bytes.withUnsafeBytes { bytes in
            guard let source = bytes.baseAddress else { return }
            (base + offset).copyMemory(from: source, byteCount: bytes.count)
        }
    }

    /// Gets room for `newCapacity` bytes, and keeps the first `length`.
    mutating func grow(to newCapacity: Int, keeping length: Int) {
        let grown = UnsafeMutableRawPointer.allocate(byteCount: newCapacity, alignment: 16)
        grown.copyMemory(from: base, byteCount: length)
        base.deallocate()
        (base, capacity) = (grown, newCapacity)
    }

    /// The bytes from `offset` on, as the core takes keys.
    func pointer(at offset: Int) -> UnsafeRawPointer {
        UnsafeRawPointer(base + offset)
    }
}

/// Updates of a caller, in its array or on its stack, for the time of one call.
@usableFromInline
struct BorrowedUpdates<Key: DedupeKey, Value: Sendable> {
    @usableFromInline let base: UnsafePointer<Update<Key, Value>>
    @usableFromInline let count: Int

    @inlinable
    init(_ base: UnsafePointer<Update<Key, Value>>, count: Int) {
        (self.base, self.count) = (base, count)
    }

    /// Calls `body`, except if the array is empty.
    @inlinable
    @inline(__always)
    static func with(_ updates: [Update<Key, Value>], _ body: (Self) -> Void) {
        updates.withUnsafeBufferPointer { updates in
            guard let base = updates.baseAddress else { return }
            body(Self(base, count: updates.count))
        }
    }

    @inlinable
    @inline(__always)
    static func with(_ update: Update<Key, Value>, _ body: (Self) -> Void) {
        withUnsafePointer(to: update) { body(Self($0, count: 1)) }
    }

    /// The payload of update `i`. What is retained is the value alone.
    @inlinable
    @inline(__always)
    func payload(_ i: Int) -> Payload<Value> {
        assert(0..<count ~= i)
        return Payload(revision: (base + i).pointee.revision, value: (base + i).pointee.value)
    }

    @inlinable
    @inline(__always)
    func isDeletion(_ i: Int) -> Bool { (base + i).pointee.value == nil }

    /// Lends the key of update `i` without retaining it.
    ///
    /// The compiler cannot know that no code changes the array meanwhile, so it would retain a key
    /// that it reads there. This function borrows the bits of keys whose type has no address of its
    /// own: it copies the bits, moves the key out of the copy, and moves the key back, so that the
    /// copy is never destroyed. The array keeps the original alive.
    @inlinable
    @inline(__always)
    func withKey(_ i: Int, _ body: (borrowing Key) -> Void) {
        assert(0..<count ~= i)
        let update = base + i
        guard Key.self == String.self || Key.self == [UInt8].self else { return body(update.pointee.key) }
        let original = UnsafeRawPointer(update) + MemoryLayout<Update<Key, Value>>.offset(of: \.key)!
        withUnsafeTemporaryAllocation(of: Key.self, capacity: 1) { copy in
            let copy = copy.baseAddress!
            UnsafeMutableRawPointer(copy).copyMemory(from: original, byteCount: MemoryLayout<Key>.size)
            let key = copy.move()
            body(key)
            copy.initialize(to: consume key)
        }
    }
}
