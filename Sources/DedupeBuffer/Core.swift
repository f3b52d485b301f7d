// SPDX-License-Identifier: Apache-2.0

internal import CDedupe
internal import Synchronization

/// The owner of the C core, and the only file that calls it.
///
/// Nothing here knows of keys' or values' types: payloads are raw memory that the generic layer
/// constructs and destroys. Running out of memory ends the program, as it does everywhere in Swift.
@usableFromInline
final class Core: @unchecked Sendable {
    // Sendable: the C core is safe to call from any thread; `taken` belongs to the holder of the
    // claim, of whom there is one.

    /// Told when the loop has to look again. Only while one of our methods runs, so it is alive.
    @usableFromInline weak var owner: (any WakeTarget)?

    @usableFromInline let taken: TakenBatch
    private let buffer: OpaquePointer
    private let batchSize: Int
    private let merger: PayloadMerger?
    /// Whether an update can be put by ``beginSingle()``. Merging and weighing run user code.
    @usableFromInline let putsSingly: Bool
    private let scratch = PutBatchPool()
    private let rejected = Atomic<Int>(0)
    /// Updates of sessions that had ended.
    private let late = Atomic<Int>(0)
    @usableFromInline let overflows = OverflowSignal()
    private let nanosecondsInSink = Atomic<Int64>(0)
    /// Taken batches of which no item was for the sink yet.
    private let emptiedBatches = Atomic<Int>(0)
    /// Updates that the sink was given and will go without.
    private let abandoned = Atomic<Int>(0)
    /// Whether the loop wants to be woken although the queue is not empty.
    private let wakesForEntries = Atomic<Bool>(false)
    /// Whether a batch is with the sink. Locked while one is taken, so that after a stop the answer
    /// stands.
    private let delivering = Locked(false)

    init(_ configuration: DedupeBufferConfiguration, limits: CoreLimits, layout: CoreLayout, merger: PayloadMerger?) {
        let batchSize = configuration.batchSize
        precondition(layout.payloadSize <= maximumPayloadSize, "a value may take 64 KiB at most: box large ones")
        // The first take makes room, so that a buffer that delivers nothing stays small.
        taken = TakenBatch(capacity: 0)
        self.batchSize = batchSize
        self.merger = merger
        putsSingly = merger == nil && layout.weightOffset == nil

        var options = cdedupe_options()
        options.batch_size = min(batchSize + maximumHeldKeys, maximumBatchSize)
        layout.write(to: &options)
        options.suppress_unchanged = configuration.skipsUnchangedRevisions
        limits.write(to: &options)
        // The hook's context is this object; it is filled in below because `self` does not exist
        // yet.
        let context = WakeContext()
        options.wake_context = Unmanaged.passUnretained(context).toOpaque()
        options.wake = { Unmanaged<WakeContext>.fromOpaque($0!).takeUnretainedValue().core?.owner?.wake() }
        wakeContext = context
        if let merger {
            options.merge_context = Unmanaged.passUnretained(merger).toOpaque()
            options.merge = {
                Unmanaged<PayloadMerger>.fromOpaque($0!).takeUnretainedValue().merge(.init($1), .init($2))
            }
        }

        var created: OpaquePointer?
        let result = cdedupe_create(&options, &created)
        guard result == CDEDUPE_OK, let created else { Core.fail(result) }
        buffer = created
        context.core = self
        overflows.watch(self)
    }

    deinit {
        cdedupe_destroy(buffer)
    }

    private let wakeContext: WakeContext

    private final class WakeContext {
        unowned(unsafe) var core: Core?
    }

    private static func fail(_ result: cdedupe_result_t) -> Never {
        precondition(result != CDEDUPE_REENTRANT, "merge must not put into its own buffer, nor take or restart")
        fatalError("DedupeBuffer: \(String(cString: cdedupe_result_text(result)))")
    }

    // MARK: - Source

    /// Begins to put one update, whose payload the caller constructs in the slot. Until
    /// ``endSingle(_:)`` the thread runs no user's code and calls nothing else of the core.
    @usableFromInline
    func beginSingle() -> SingleUpdate {
        var single = cdedupe_single_t()
        let result = cdedupe_single_begin(buffer, &single)
        guard result == CDEDUPE_OK else { Core.fail(result) }
        return SingleUpdate(slot: UnsafeSlot(single.payload!), handle: single.slot, opaque: single.opaque)
    }

    @usableFromInline
    func putSingle(_ update: inout SingleUpdate, key: RawSpan, deletion: Bool) {
        let result = key.withUnsafeBytes { key in
            put(&update, 0) { cdedupe_single_put(buffer, &$0, key.baseAddress, key.count, deletion) }
        }
        guard result == CDEDUPE_KEY_TOO_LONG else { return Core.check(result) }
        update.rejectedLength = key.byteCount
        rejected.add(1, ordering: .relaxed)
    }

    @usableFromInline
    func putSingle(_ update: inout SingleUpdate, pin: UInt32, deletion: Bool) {
        Core.check(put(&update, pin) { cdedupe_single_put(buffer, &$0, nil, 0, deletion) })
    }

    private func put(
        _ update: inout SingleUpdate, _ pin: UInt32, _ put: (inout cdedupe_single_t) -> cdedupe_result_t
    ) -> cdedupe_result_t {
        var single = cdedupe_single_t()
        single.payload = update.slot.memory
        single.slot = update.handle
        single.pin = pin
        single.opaque = update.opaque
        let result = put(&single)
        update.isClaimed = single.opaque != nil
        update.returnedHandle = single.slot
        update.displacedHandle = single.displaced_slot
        update.returned = single.returned.map(UnsafeSlot.init)
        update.displaced = single.displaced.map(UnsafeSlot.init)
        update.hasOverflowed = UInt32(single.outcome) == CDEDUPE_OUTCOME_OVERFLOWED.rawValue
        // As in `put(_:)`. An update that was queued has given back what it claimed of the core.
        if UInt32(single.outcome) == CDEDUPE_OUTCOME_QUEUED.rawValue
            && wakesForEntries.load(ordering: .sequentiallyConsistent)
        {
            wakeForEntries()
        }
        return result
    }

    /// Ends the program unless the result is one of a put that was done.
    private static func check(_ result: cdedupe_result_t) {
        guard result == CDEDUPE_OK || result == CDEDUPE_OVERFLOWED else { fail(result) }
    }

    func pin(_ key: RawSpan) -> UInt32 {
        var pin: cdedupe_pin_t = 0
        let result = key.withUnsafeBytes { cdedupe_pin(buffer, $0.baseAddress, $0.count, &pin) }
        precondition(result != CDEDUPE_KEY_TOO_LONG, "a pinned key has at most \(maximumKeyLength) bytes")
        precondition(result != CDEDUPE_TOO_MANY_PINS, "a key has at most \(CDEDUPE_PINS_MAX) pins")
        guard result == CDEDUPE_OK else { Core.fail(result) }
        return pin
    }

    func unpin(_ pin: UInt32) {
        let result = cdedupe_unpin(buffer, pin)
        guard result == CDEDUPE_OK else { Core.fail(result) }
    }

    @usableFromInline
    func endSingle(_ update: SingleUpdate) {
        var single = cdedupe_single_t()
        single.slot = update.returnedHandle
        single.displaced_slot = update.displacedHandle
        single.opaque = update.isClaimed ? update.opaque : nil
        cdedupe_single_end(buffer, &single)
    }

    /// Scratch memory for a share of a call's updates, with a slot for each.
    @usableFromInline
    func beginPut(count: Int) -> PutBatch {
        let batch = scratch.take()
        if batch.slotCount < count { acquireSlots(for: batch, count: count) }
        batch.reset()
        return batch
    }

    private func acquireSlots(for batch: PutBatch, count: Int) {
        let had = batch.slotCount
        let (slots, added) = (batch.page.slots, count - had)
        let handles = slots.handles.pointer(at: had, count: added)
        let result = cdedupe_acquire(buffer, handles, added)
        guard result == CDEDUPE_OK else { Core.fail(result) }
        cdedupe_payloads(buffer, handles, added, slots.memory.pointer(at: had, count: added))
        batch.slotCount = count
    }

    /// Gives the slots back that idle scratch memory keeps for later calls. They would keep the
    /// memory of the slabs that they lie in. So this is called when memory may go back to the
    /// system: the queue is empty, or was dropped.
    private func discardIdleSlots() {
        scratch.withIdle { discardSlots(of: $0) }
    }

    private func discardSlots(of batch: PutBatch) {
        cdedupe_discard(buffer, batch.page.slots.handles.base, batch.slotCount)
        batch.slotCount = 0
    }

    /// Puts the batch's updates. Afterwards the batch lists the payloads that came back, which the
    /// caller destroys.
    @usableFromInline
    func put(_ batch: PutBatch) {
        batch.prepareUpdates()
        let result = cdedupe_put(buffer, batch.updates.base, batch.count)
        for i in 0..<batch.count { noteOutcome(batch.updates.pointer(at: i, count: 1), in: batch) }
        let returned = batch.returned
        cdedupe_payloads(buffer, returned.handles.base, batch.returnedCount, returned.memory.base)
        // Sequentially consistent, with the store in wakeForNextEntry().
        if wakesForEntries.load(ordering: .sequentiallyConsistent) { wakeForEntries(of: batch) }
        guard result == CDEDUPE_OK || result == CDEDUPE_OVERFLOWED else { Core.fail(result) }
    }

    private func wakeForEntries(of batch: PutBatch) {
        let isQueued = (0..<batch.count).contains { i in
            UInt32(batch.updates[i].outcome) == CDEDUPE_OUTCOME_QUEUED.rawValue
        }
        if isQueued { wakeForEntries() }
    }

    private func wakeForEntries() {
        if wakesForEntries.exchange(false, ordering: .sequentiallyConsistent) { owner?.wake() }
    }

    /// Wakes the loop once, for what is queued from now on, although the queue may not be empty.
    ///
    /// The loop asks for that before it takes. What was queued before it takes is in its batch, if
    /// that is not full; for what is queued after that, the loop is woken.
    func wakeForNextEntry() { wakesForEntries.store(true, ordering: .sequentiallyConsistent) }

    /// Takes ``wakeForNextEntry()`` back.
    func wakeForNothing() { wakesForEntries.store(false, ordering: .relaxed) }

    private func noteOutcome(_ update: UnsafePointer<cdedupe_update_t>, in batch: PutBatch) {
        if update.pointee.slot != 0 { noteReturned(update.pointee.slot, in: batch) }
        if update.pointee.displaced != 0 { noteReturned(update.pointee.displaced, in: batch) }
        if UInt32(update.pointee.outcome) == CDEDUPE_OUTCOME_OVERFLOWED.rawValue { batch.hasOverflowed = true }
    }

    private func noteReturned(_ slot: cdedupe_slot_t, in batch: PutBatch) {
        batch.returned.handles[batch.returnedCount] = slot
        batch.returnedCount += 1
    }

    /// The caller has destroyed what came back. Returns the lengths of the keys that were rejected.
    @usableFromInline
    func endPut(_ batch: PutBatch) -> [Int] {
        let kept = batch.keepReturnedSlots()
        let left = batch.returnedCount - kept
        if left > 0 { cdedupe_discard(buffer, batch.returned.handles.pointer(at: kept, count: left), left) }
        let lengths = batch.rejected
        if !lengths.isEmpty { rejected.add(lengths.count, ordering: .relaxed) }
        if !scratch.giveBack(batch) { discardSlots(of: batch) }
        return lengths
    }

    /// Drops the batch's updates, whose payloads the caller has destroyed. Their slots stay with
    /// the batch.
    @usableFromInline
    func drop(_ batch: PutBatch) {
        late.add(batch.count, ordering: .relaxed)
        batch.page.count = 0
    }

    /// Puts a status. Returns false if the core ignored it: after a stop, during a finish, and from
    /// an overflow to the restart that ends it.
    func put(_ status: SyncStatus) -> Bool {
        let result = cdedupe_put_status(buffer, cdedupe_status_t(rawValue: UInt32(status.rawValue)))
        switch result {
        case CDEDUPE_OK:
            if wakesForEntries.load(ordering: .sequentiallyConsistent) { wakeForEntries() }
            return true
        case CDEDUPE_STOPPED, CDEDUPE_OVERFLOWED: return false
        default: Core.fail(result)
        }
    }

    func restart() {
        let result = cdedupe_restart(buffer)
        guard result == CDEDUPE_OK || result == CDEDUPE_STOPPED else { Core.fail(result) }
        discardIdleSlots()
    }

    /// Whether ``collect(_:)`` has something to do.
    var hasDropped: Bool { cdedupe_has_dropped(buffer) }

    /// Destroys the payload in a slot.
    @usableFromInline typealias Destroy = (UnsafeSlot) -> Void

    /// Destroys some of the payloads that restarts and overflows dropped, by calls of `destroy`.
    /// Returns whether there may be more.
    @usableFromInline
    func collect(_ destroy: Destroy) -> Bool {
        withUnsafeTemporaryAllocation(of: cdedupe_slot_t.self, capacity: 64) { slots in
            var count = 0
            let result = cdedupe_collect(buffer, slots.baseAddress!, slots.count, &count)
            guard result == CDEDUPE_OK else {
                guard result == CDEDUPE_EMPTY else { Core.fail(result) }
                return false
            }
            for handle in slots.prefix(count) { slot(handle).map(destroy) }
            cdedupe_discard(buffer, slots.baseAddress!, count)
            return true
        }
    }

    /// Before the end: `destroy` gets all that is still pending.
    func destroyLeftovers(_ destroy: Destroy) {
        var cursor: UInt64 = 0
        while let slot = slot(cdedupe_drain_next(buffer, &cursor)) { destroy(slot) }
    }

    private func slot(_ handle: cdedupe_slot_t) -> UnsafeSlot? {
        handle == 0 ? nil : UnsafeSlot(cdedupe_payload(buffer, handle))
    }

    // MARK: - Sink

    @usableFromInline
    func claim(loop: Bool) throws(DedupeBufferError) {
        switch cdedupe_claim(buffer, loop ? CDEDUPE_CLAIM_LOOP : CDEDUPE_CLAIM_SINGLE_BATCH) {
        case CDEDUPE_OK: return
        case CDEDUPE_STOPPED: throw .stopped
        default: throw .alreadySending
        }
    }

    @usableFromInline
    func release() {
        cdedupe_release(buffer)
        // A finish ends with the release of the loop.
        overflows.endIfStopped()
    }

    @usableFromInline
    enum TakeResult {
        case batch, empty, stopped
    }

    /// How many keys may be held back, beside the entries that a batch takes.
    var maximumHeldBack: Int { min(maximumHeldKeys, maximumBatchSize - batchSize) }

    /// Whether the taken batch has as many items as it could have.
    var isTakenBatchFull: Bool { taken.count >= batchSize }

    /// Fills `taken` with the next batch, which may have `extra` items more than others. The caller
    /// holds the claim.
    @usableFromInline
    func take(extra: Int = 0) -> TakeResult {
        var count = 0
        let capacity = batchSize + min(extra, maximumHeldBack)
        taken.reserve(capacity)
        let result = delivering.withLock { delivering in
            let result = cdedupe_take(buffer, taken.items.pointer(at: 0, count: capacity), capacity, &count)
            delivering = result == CDEDUPE_OK
            return result
        }
        taken.count = count
        for i in 0..<count { taken.slots[i] = slot(taken.items[i].slot) }
        switch result {
        case CDEDUPE_OK: return .batch
        case CDEDUPE_EMPTY:
            discardIdleSlots()
            return .empty
        case CDEDUPE_STOPPED: return .stopped
        default: Core.fail(result)
        }
    }

    /// What was in the taken batch was moved out.
    @usableFromInline
    func discardTaken() {
        guard taken.count > 0 else { return }
        discardTaken(from: 0)
    }

    private func discardTaken(from start: Int) {
        let count = taken.count - start
        withUnsafeTemporaryAllocation(of: cdedupe_slot_t.self, capacity: count) { slots in
            for i in 0..<count { slots[i] = taken.items[start + i].slot }
            cdedupe_discard(buffer, slots.baseAddress!, count)
        }
        taken.count = start
        if start == 0 { delivering.withLock { $0 = false } }
    }

    /// Gives the taken batch's items from `start` on back to the queue, and ends the batch; what
    /// was in those before was moved out. `destroy` gets each payload that has no place in the
    /// queue any more.
    @usableFromInline
    func putBack(from start: Int, destroy: Destroy) {
        putBackTail(from: start, destroy: destroy)
        discardTaken()
    }

    /// Puts the taken batch's items from `start` on back, and keeps the items before them.
    @usableFromInline
    func putBackTail(from start: Int, destroy: Destroy) {
        guard start < taken.count else { return }
        var left = taken.count - start
        let result = cdedupe_put_back(buffer, taken.items.pointer(at: start, count: left), &left)
        guard result == CDEDUPE_OK else { Core.fail(result) }
        for i in start..<taken.count { slot(taken.items[i].slot).map(destroy) }
        discardTaken(from: start)
    }

    /// The batch that was just taken had nothing for the sink.
    func countEmptiedBatch() { emptiedBatches.add(1, ordering: .relaxed) }

    /// The sink will go without an update that it was given.
    @usableFromInline
    func countAbandoned() { abandoned.add(1, ordering: .relaxed) }

    /// How long the oldest update of the taken batch was pending; `nil`: it has none. The caller
    /// holds the claim.
    var ageOfTakenBatch: Duration? {
        // A status may be before the first update, but never two.
        let first = taken.count > 1 && taken.status(0) != nil ? 1 : 0
        guard first < taken.count, taken.status(first) == nil else { return nil }
        return .milliseconds(Int64(cdedupe_age(buffer, taken.items.pointer(at: first, count: 1))))
    }

    func addTimeInSink(_ time: Duration) {
        nanosecondsInSink.add(time.nanoseconds, ordering: .relaxed)
    }

    /// Whether a batch was taken that the sink has not dealt with.
    var isDelivering: Bool { delivering.withLock { $0 } }

    // MARK: - The end

    func stop() {
        cdedupe_stop(buffer)
        overflows.endIfStopped()
    }

    /// Begins to finish. Returns whether there is a loop that has yet to end.
    ///
    /// `whenEmpty`: until the queue is empty, updates are still queued. If it is false, an update
    /// that would go to the back of the queue is dropped from now on.
    func finish(whenEmpty: Bool) -> Bool {
        let when = whenEmpty ? CDEDUPE_FINISH_WHEN_EMPTY : CDEDUPE_FINISH_WHEN_DELIVERED
        let hasLoop = cdedupe_finish(buffer, when) == CDEDUPE_OK
        if !hasLoop { overflows.endIfStopped() }
        return hasLoop
    }

    // MARK: - Inspection

    /// Whether nothing is taken any more.
    var isStopped: Bool { rawStatistics.stopped != 0 }

    var overflowFigures: OverflowFigures {
        let raw = rawStatistics
        return OverflowFigures(
            number: Int(raw.overflows), isOverflowed: raw.overflowed != 0, isStopped: raw.stopped != 0)
    }

    private var rawStatistics: cdedupe_statistics_t {
        var raw = cdedupe_statistics_t()
        cdedupe_statistics(buffer, &raw, MemoryLayout<cdedupe_statistics_t>.size)
        return raw
    }

    var statistics: DedupeBufferStatistics {
        // Read first: an update that is rejected in between is counted next time, on both sides of
        // the sum.
        let rejected = rejected.load(ordering: .relaxed)
        let late = late.load(ordering: .relaxed)
        let abandoned = abandoned.load(ordering: .relaxed)
        let emptied = emptiedBatches.load(ordering: .relaxed)
        let raw = rawStatistics
        var statistics = DedupeBufferStatistics()
        statistics.pendingKeys = Int(raw.pending_keys)
        statistics.pendingStatuses = Int(raw.pending_statuses)
        statistics.peakPendingKeys = Int(raw.peak_pending_keys)
        statistics.liveKeys = Int(raw.live_keys)
        statistics.pinnedKeys = Int(raw.pinned_keys)
        statistics.received = Int(raw.received) + rejected + late
        statistics.delivered = Int(raw.delivered) - abandoned
        statistics.replaced = Int(raw.replaced)
        statistics.cancelled = Int(raw.cancelled)
        statistics.dropped = Int(raw.dropped) + rejected + late + abandoned
        statistics.rejected = rejected
        statistics.synthesizedDeletions = Int(raw.synthesized_deletions)
        statistics.statusesReceived = Int(raw.statuses_received)
        statistics.statusesDelivered = Int(raw.statuses_delivered)
        statistics.batches = Int(raw.batches) - emptied
        statistics.timeInSink = .nanoseconds(nanosecondsInSink.load(ordering: .relaxed))
        statistics.memory = Int(raw.memory) + taken.memory
        statistics.suppressed = Int(raw.suppressed)
        statistics.overflows = Int(raw.overflows)
        statistics.isOverflowed = raw.overflowed != 0
        statistics.pendingBytes = Int(clamping: raw.pending_bytes)
        statistics.oldestPendingAge = .milliseconds(Int64(raw.oldest_pending_age))
        return statistics
    }

    /// The first invariant that does not hold, if any.
    func validate() -> String? {
        cdedupe_validate(buffer).map { String(cString: $0) }
    }
}

/// What the core calls to merge two payloads: the second one becomes the merged one.
@usableFromInline
final class PayloadMerger: Sendable {
    let merge: @Sendable (UnsafeSlot, UnsafeSlot) -> Void

    @usableFromInline
    init(_ merge: @escaping @Sendable (UnsafeSlot, UnsafeSlot) -> Void) {
        self.merge = merge
    }
}

/// What runs the delivery loop, and is woken when there is something to deliver.
@usableFromInline
protocol WakeTarget: AnyObject {
    func wake()
}

/// How many keys may wait for another attempt, beside what a batch takes.
private let maximumHeldKeys = 1_000

/// What the core allows.
let maximumBatchSize = 65_536
private let maximumPayloadSize = 65_536
