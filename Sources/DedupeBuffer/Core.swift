// SPDX-License-Identifier: Apache-2.0

internal import CDedupe
internal import Synchronization

/// The owner of the C core, and the only file that calls it.
///
/// Nothing here knows of keys' or values' types: payloads are raw memory that the generic layer constructs and
/// destroys. Running out of memory ends the program, as it does everywhere in Swift.
@usableFromInline
final class Core: @unchecked Sendable {
    // Sendable: the C core is safe to call from any thread; `taken` belongs to the holder of the
    // claim, of whom there is one.

    /// Told when the loop has to look again. Only while one of our methods runs, so it is alive.
    @usableFromInline weak var owner: (any WakeTarget)?

    @usableFromInline let taken: TakenBatch
    private let buffer: OpaquePointer
    private let scratch = PutBatchPool()
    private let rejected = Atomic<Int>(0)
    private let nanosecondsInSink = Atomic<Int64>(0)
    /// Whether a batch is with the sink. Locked while one is taken, so that after a stop the answer stands.
    private let delivering = Locked(false)

    @usableFromInline
    init(batchSize: Int, payloadSize: Int, payloadAlignment: Int) {
        precondition((1...maximumBatchSize).contains(batchSize), "batchSize must be between 1 and 65,536")
        precondition(payloadSize <= maximumPayloadSize, "an Update may take 64 KiB at most: box large values")
        taken = TakenBatch(capacity: batchSize)

        var options = cdedupe_options()
        options.batch_size = batchSize
        options.payload_size = payloadSize
        options.payload_alignment = payloadAlignment
        // The hook's context is this object; it is filled in below because `self` does not exist yet.
        let context = WakeContext()
        options.wake_context = Unmanaged.passUnretained(context).toOpaque()
        options.wake = { Unmanaged<WakeContext>.fromOpaque($0!).takeUnretainedValue().core?.owner?.wake() }
        wakeContext = context

        var created: OpaquePointer?
        let result = cdedupe_create(&options, &created)
        guard result == CDEDUPE_OK, let created else { Core.fail(result) }
        buffer = created
        context.core = self
    }

    deinit {
        cdedupe_destroy(buffer)
    }

    private let wakeContext: WakeContext

    private final class WakeContext {
        unowned(unsafe) var core: Core?
    }

    private static func fail(_ result: cdedupe_result_t) -> Never {
        fatalError("DedupeBuffer: \(String(cString: cdedupe_result_text(result)))")
    }

    // MARK: - Source

    /// Scratch memory for a share of a call's updates, with a slot for each.
    @usableFromInline
    func beginPut(count: Int) -> PutBatch {
        let batch = scratch.take()
        let result = cdedupe_acquire(buffer, batch.slots, count)
        guard result == CDEDUPE_OK else { Core.fail(result) }
        for i in 0..<count {
            batch.payloads[i] = cdedupe_payload(buffer, batch.slots[i])
        }
        batch.reset(slotCount: count)
        return batch
    }

    /// Puts the batch's updates. Afterwards the batch lists the payloads that came back, to be destroyed.
    @usableFromInline
    func put(_ batch: PutBatch) {
        let updates = batch.prepareUpdates()
        let result = cdedupe_put(buffer, updates, batch.count)
        guard result == CDEDUPE_OK else { Core.fail(result) }
        var back = 0
        for i in 0..<batch.count {
            let update = updates[i]
            if update.slot != 0 { keepReturned(update.slot, in: batch, &back) }
            if update.displaced != 0 { keepReturned(update.displaced, in: batch, &back) }
        }
        // Slots of updates that were refused hold nothing.
        batch.returned = back
        for i in batch.count..<batch.slotCount {
            batch.back[back] = batch.slots[i]
            back += 1
        }
        batch.backCount = back
    }

    private func keepReturned(_ slot: cdedupe_slot_t, in batch: PutBatch, _ count: inout Int) {
        batch.back[count] = slot
        batch.backPayloads[count] = cdedupe_payload(buffer, slot)
        count += 1
    }

    /// The payloads that came back are destroyed; says which keys were refused.
    @usableFromInline
    func endPut(_ batch: PutBatch) -> [Int] {
        if batch.backCount > 0 { cdedupe_discard(buffer, batch.back, batch.backCount) }
        let refused = batch.refused
        if !refused.isEmpty { rejected.add(refused.count, ordering: .relaxed) }
        scratch.giveBack(batch)
        return refused
    }

    /// Says whether the buffer has not been stopped.
    func put(_ status: SyncStatus) -> Bool {
        let result = cdedupe_put_status(buffer, cdedupe_status_t(rawValue: UInt32(status.rawValue)))
        if result == CDEDUPE_NO_MEMORY { Core.fail(result) }
        return result == CDEDUPE_OK
    }

    func restart() {
        _ = cdedupe_restart(buffer)
    }

    var hasGarbage: Bool { cdedupe_has_garbage(buffer) }

    /// Clears up a little after restarts; `destroy` gets each payload. Says whether there may be more.
    @usableFromInline
    func collect(_ destroy: (UnsafeMutableRawPointer) -> Void) -> Bool {
        withUnsafeTemporaryAllocation(of: cdedupe_slot_t.self, capacity: 64) { slots in
            var count = 0
            guard cdedupe_collect(buffer, slots.baseAddress!, nil, slots.count, &count) == CDEDUPE_OK else {
                return false
            }
            for i in 0..<count { destroy(cdedupe_payload(buffer, slots[i])) }
            cdedupe_discard(buffer, slots.baseAddress!, count)
            return true
        }
    }

    /// Before the end: `destroy` gets every payload that is still pending.
    func destroyLeftovers(_ destroy: (UnsafeMutableRawPointer) -> Void) {
        var cursor: UInt64 = 0
        while true {
            let slot = cdedupe_next_leftover(buffer, &cursor, nil)
            if slot == 0 { return }
            destroy(cdedupe_payload(buffer, slot))
        }
    }

    // MARK: - Sink

    @usableFromInline
    func claim(loop: Bool) throws(DedupeBufferError) {
        switch cdedupe_claim(buffer, loop ? CDEDUPE_LOOP : CDEDUPE_BY_HAND) {
        case CDEDUPE_OK: return
        case CDEDUPE_STOPPED: throw .stopped
        default: throw .alreadySending
        }
    }

    @usableFromInline
    func release() {
        cdedupe_release(buffer)
    }

    @usableFromInline
    enum TakeResult {
        case batch, empty, stopped
    }

    /// Fills `taken` with the next batch. The caller holds the claim.
    @usableFromInline
    func take() -> TakeResult {
        var count = 0
        let result = delivering.withLock { delivering in
            let result = cdedupe_take(buffer, taken.raw, taken.capacity, &count)
            delivering = result == CDEDUPE_OK
            return result
        }
        taken.count = count
        for i in 0..<count {
            let slot = taken.raw[i].slot
            taken.payloads[i] = slot == 0 ? nil : cdedupe_payload(buffer, slot)
        }
        switch result {
        case CDEDUPE_OK: return .batch
        case CDEDUPE_EMPTY: return .empty
        case CDEDUPE_STOPPED: return .stopped
        default: Core.fail(result)
        }
    }

    /// The payloads of the taken batch were moved out.
    @usableFromInline
    func discardTaken() {
        guard taken.count > 0 else { return }
        withUnsafeTemporaryAllocation(of: cdedupe_slot_t.self, capacity: taken.count) { slots in
            for i in 0..<taken.count { slots[i] = taken.raw[i].slot }
            cdedupe_discard(buffer, slots.baseAddress!, slots.count)
        }
        taken.count = 0
        delivering.withLock { $0 = false }
    }

    /// Gives the taken batch's items from `start` on back to the queue, and ends the batch; the payloads of those
    /// before were moved out. `destroy` gets the payloads that have no place in the queue any more.
    @usableFromInline
    func untake(from start: Int, destroy: (UnsafeMutableRawPointer) -> Void) {
        var left = taken.count - start
        if left > 0 {
            let result = cdedupe_untake(buffer, taken.raw + start, &left)
            guard result == CDEDUPE_OK else { Core.fail(result) }
            for i in start..<taken.count where taken.raw[i].slot != 0 {
                destroy(cdedupe_payload(buffer, taken.raw[i].slot))
            }
        }
        discardTaken()
    }

    /// How long the oldest update of the taken batch was pending. The caller holds the claim.
    var ageOfTakenBatch: Duration {
        // The core will say.
        .zero
    }

    func addTimeInSink(_ time: Duration) {
        nanosecondsInSink.add(time.nanoseconds, ordering: .relaxed)
    }

    /// Whether a batch was taken that the sink has not dealt with.
    var isDelivering: Bool { delivering.withLock { $0 } }

    // MARK: - The end

    func stop() {
        cdedupe_stop(buffer)
    }

    /// Whether there is a loop that has still to end.
    func finish(whenEmpty: Bool) -> Bool {
        cdedupe_finish(buffer, whenEmpty ? CDEDUPE_WHEN_EMPTY : CDEDUPE_WHEN_DELIVERED) == CDEDUPE_OK
    }

    // MARK: - Inspection

    var statistics: DedupeBufferStatistics {
        // Read first: an update that is refused in between is counted next time, on both sides of the sum.
        let rejected = rejected.load(ordering: .relaxed)
        var raw = cdedupe_statistics_t()
        cdedupe_statistics(buffer, &raw, MemoryLayout<cdedupe_statistics_t>.size)
        var statistics = DedupeBufferStatistics()
        statistics.pendingKeys = Int(raw.pending_keys)
        statistics.pendingStatuses = Int(raw.pending_statuses)
        statistics.peakPendingKeys = Int(raw.peak_pending_keys)
        statistics.liveKeys = Int(raw.live_keys)
        statistics.received = Int(raw.received) + rejected
        statistics.delivered = Int(raw.delivered)
        statistics.replaced = Int(raw.replaced)
        statistics.cancelled = Int(raw.cancelled)
        statistics.dropped = Int(raw.dropped) + rejected
        statistics.rejected = rejected
        statistics.synthesizedDeletions = Int(raw.synthesized_deletions)
        statistics.statusesReceived = Int(raw.statuses_received)
        statistics.statusesDelivered = Int(raw.statuses_delivered)
        statistics.batches = Int(raw.batches)
        statistics.timeInSink = .nanoseconds(nanosecondsInSink.load(ordering: .relaxed))
        statistics.memory = Int(raw.memory)
        return statistics
    }

    /// The first invariant that does not hold, if any.
    func validate() -> String? {
        cdedupe_validate(buffer).map { String(cString: $0) }
    }
}

/// Whoever runs the delivery loop.
@usableFromInline
protocol WakeTarget: AnyObject {
    func wake()
}

/// The longest key, in bytes.
let maximumKeyLength = 65_536

/// What the core allows.
private let maximumBatchSize = 65_536
private let maximumPayloadSize = 65_536

// MARK: - Batches on their way in

/// A share of one call's updates: keys' bytes end to end, and slots for their payloads. Reused from call to call.
@usableFromInline
final class PutBatch: @unchecked Sendable {
    // Sendable: one call at a time owns it, and the pool in between. For the same reason accesses need not be checked
    // for overlapping, which would cost as much as they do.

    /// The most updates in one share: what the core does in one hold of its lock.
    @usableFromInline static let capacity = 100

    /// Where the payload of each update goes.
    @usableFromInline let payloads: UnsafeMutablePointer<UnsafeMutableRawPointer>
    /// How many updates are complete.
    @exclusivity(unchecked) @usableFromInline private(set) var count = 0
    /// After the put: payloads to be destroyed.
    @usableFromInline let backPayloads: UnsafeMutablePointer<UnsafeMutableRawPointer>
    @exclusivity(unchecked) @usableFromInline fileprivate(set) var returned = 0

    fileprivate let slots: UnsafeMutablePointer<cdedupe_slot_t>
    fileprivate let back: UnsafeMutablePointer<cdedupe_slot_t>
    @exclusivity(unchecked) fileprivate var slotCount = 0
    @exclusivity(unchecked) fileprivate var backCount = 0
    @exclusivity(unchecked) fileprivate var refused: [Int] = []
    private let updates: UnsafeMutablePointer<cdedupe_update_t>
    private let keyEnds: UnsafeMutablePointer<Int>
    @exclusivity(unchecked) private var keys: UnsafeMutableRawBufferPointer
    @exclusivity(unchecked) private var keysLength = 0
    @exclusivity(unchecked) private var nextLength = 0

    fileprivate init() {
        payloads = .allocate(capacity: Self.capacity)
        slots = .allocate(capacity: Self.capacity)
        updates = .allocate(capacity: Self.capacity)
        keyEnds = .allocate(capacity: Self.capacity)
        // An update can bring back its own payload and an older one.
        back = .allocate(capacity: 2 * Self.capacity)
        backPayloads = .allocate(capacity: 2 * Self.capacity)
        keys = .allocate(byteCount: 8192, alignment: 16)
    }

    deinit {
        payloads.deallocate()
        slots.deallocate()
        updates.deallocate()
        keyEnds.deallocate()
        back.deallocate()
        backPayloads.deallocate()
        keys.deallocate()
    }

    fileprivate func reset(slotCount: Int) {
        self.slotCount = slotCount
        count = 0
        keysLength = 0
        returned = 0
        backCount = 0
        refused = []
    }

    /// Writes the key of the next update, in place of what was written since the last ``commit()``: a key that calls
    /// its body twice is written twice, and counted once. False: the key is too long.
    @usableFromInline
    func write(key: RawSpan, deletion: Bool) -> Bool {
        let length = key.byteCount
        nextLength = length
        guard length <= maximumKeyLength else { return false }
        if keysLength + length > keys.count { growKeys(for: length) }
        key.withUnsafeBytes { bytes in
            guard let source = bytes.baseAddress else { return }
            (keys.baseAddress! + keysLength).copyMemory(from: source, byteCount: length)
        }
        updates[count].deletion = deletion
        return true
    }

    /// The next update is complete: its key was written, and its payload was constructed at `payloads[count]`.
    @usableFromInline
    func commit() {
        keysLength += nextLength
        keyEnds[count] = keysLength
        count += 1
    }

    /// The next update cannot be: its key is too long. There is no payload.
    @usableFromInline
    func refuse() {
        refused.append(nextLength)
    }

    private func growKeys(for length: Int) {
        let grown = UnsafeMutableRawBufferPointer.allocate(
            byteCount: max(2 * keys.count, keysLength + length), alignment: 16)
        grown.baseAddress!.copyMemory(from: keys.baseAddress!, byteCount: keysLength)
        keys.deallocate()
        keys = grown
    }

    /// The updates as the core wants them, now that the keys' memory has stopped moving.
    fileprivate func prepareUpdates() -> UnsafeMutablePointer<cdedupe_update_t> {
        var start = 0
        for i in 0..<count {
            updates[i].key = UnsafeRawPointer(keys.baseAddress! + start)
            updates[i].key_length = keyEnds[i] - start
            updates[i].slot = slots[i]
            start = keyEnds[i]
        }
        return updates
    }
}

/// Batches that no call is using. Claimed and given back by single atomic exchanges.
private final class PutBatchPool: @unchecked Sendable {
    // Sendable: places are atomic; a batch is in one place or with one call.

    /// As many calls as may usefully run at once. Beyond that batches are made and thrown away.
    private static let size = 32

    /// Each holds one batch, or nothing.
    private let places: UnsafeMutablePointer<Atomic<Unmanaged<PutBatch>?>>

    init() {
        places = .allocate(capacity: Self.size)
        for i in 0..<Self.size { (places + i).initialize(to: Atomic(nil)) }
    }

    deinit {
        for i in 0..<Self.size {
            places[i].exchange(nil, ordering: .acquiring)?.release()
            (places + i).deinitialize(count: 1)
        }
        places.deallocate()
    }

    func take() -> PutBatch {
        for i in 0..<Self.size where places[i].load(ordering: .relaxed) != nil {
            // Acquire, with the release in giveBack(): the batch as its last user left it.
            if let batch = places[i].exchange(nil, ordering: .acquiring) { return batch.takeRetainedValue() }
        }
        return PutBatch()
    }

    func giveBack(_ batch: PutBatch) {
        let retained = Unmanaged.passRetained(batch)
        for i in 0..<Self.size where places[i].load(ordering: .relaxed) == nil {
            if places[i].compareExchange(expected: nil, desired: retained, ordering: .releasing).exchanged { return }
        }
        retained.release()
    }
}

// MARK: - Batches on their way out

/// A batch that was taken, for its one owner.
@usableFromInline
final class TakenBatch {
    @exclusivity(unchecked) @usableFromInline fileprivate(set) var count = 0
    /// The payload of each item; `nil`: a status, or a deletion that nobody sent.
    @usableFromInline let payloads: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    fileprivate let raw: UnsafeMutablePointer<cdedupe_item_t>
    fileprivate let capacity: Int

    fileprivate init(capacity: Int) {
        self.capacity = capacity
        raw = .allocate(capacity: capacity)
        payloads = .allocate(capacity: capacity)
    }

    deinit {
        raw.deallocate()
        payloads.deallocate()
    }

    /// The status that item `i` is, or `nil`: it is an update.
    @usableFromInline
    func status(_ i: Int) -> SyncStatus? {
        raw[i].kind == UInt8(CDEDUPE_STATUS.rawValue) ? SyncStatus(rawValue: raw[i].status)! : nil
    }

    @usableFromInline
    func updateType(_ i: Int) -> UpdateType {
        switch UInt32(raw[i].kind) {
        case CDEDUPE_NEW.rawValue: .new
        case CDEDUPE_UPDATED.rawValue: .updated
        default: .deleted
        }
    }

    /// How many items from `i` on are updates.
    @usableFromInline
    func runLength(from i: Int) -> Int {
        var end = i
        while end < count && raw[end].kind != UInt8(CDEDUPE_STATUS.rawValue) { end += 1 }
        return end - i
    }

    /// The key's bytes; valid until the next batch is taken.
    @usableFromInline
    func keyBytes(_ i: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: raw[i].key, count: raw[i].key_length)
    }
}
