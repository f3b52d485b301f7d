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
    private let isMerging: Bool
    private let scratch = PutBatchPool()
    private let rejected = Atomic<Int>(0)
    private let nanosecondsInSink = Atomic<Int64>(0)
    /// Whether a batch is with the sink. Locked while one is taken, so that after a stop the answer stands.
    private let delivering = Locked(false)

    init(_ configuration: DedupeBufferConfiguration, layout: CoreLayout) {
        let batchSize = configuration.batchSize
        precondition((1...maximumBatchSize).contains(batchSize), "batchSize must be between 1 and 65,536")
        precondition(layout.payloadSize <= maximumPayloadSize, "a value may take 64 KiB at most: box large ones")
        taken = TakenBatch(capacity: batchSize)
        isMerging = layout.isMerging

        var options = cdedupe_options()
        options.batch_size = batchSize
        layout.write(to: &options)
        configuration.write(to: &options)
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
        if batch.slotCount < count { acquireSlots(for: batch, count: count) }
        batch.reset()
        return batch
    }

    private func acquireSlots(for batch: PutBatch, count: Int) {
        let had = batch.slotCount
        let result = cdedupe_acquire(buffer, batch.slots + had, count - had)
        guard result == CDEDUPE_OK else { Core.fail(result) }
        cdedupe_payloads(buffer, batch.slots + had, count - had, batch.page.payloads + had)
        batch.slotCount = count
    }

    /// Gives the slots back that idle scratch memory keeps for later calls. They would keep the memory of the slabs that
    /// they lie in. So this is called when memory may go back to the system: the queue is empty, or was dropped.
    private func discardIdleSlots() {
        scratch.withIdle { discardSlots(of: $0) }
    }

    private func discardSlots(of batch: PutBatch) {
        cdedupe_discard(buffer, batch.slots, batch.slotCount)
        batch.slotCount = 0
    }

    @usableFromInline
    enum PutResult {
        case done
        /// The first update that is still to be put must be merged with the pending one.
        case merge(older: UnsafeMutableRawPointer, newer: UnsafeMutableRawPointer)
    }

    /// Puts the batch's updates, or those that are left. Afterwards the batch lists the payloads that came back, which the
    /// caller destroys.
    @usableFromInline
    func put(_ batch: PutBatch) -> PutResult {
        if !batch.isPrepared { batch.prepareUpdates() }
        let result = cdedupe_put(buffer, batch.updates + batch.start, batch.count - batch.start)
        let resolved = batch.payloadsBack
        var i = batch.start
        while i < batch.count {
            let outcome = UInt32(batch.updates[i].outcome)
            if outcome == CDEDUPE_OUTCOME_MERGE.rawValue { break }
            keepReturned(batch.updates + i, in: batch)
            if outcome == CDEDUPE_OUTCOME_OVERFLOWED.rawValue { batch.hasOverflowed = true }
            i += 1
        }
        batch.start = i
        cdedupe_payloads(
            buffer, batch.backSlots + resolved, batch.payloadsBack - resolved, batch.backPayloads + resolved)
        guard result == CDEDUPE_INCOMPLETE else {
            guard result == CDEDUPE_OK || result == CDEDUPE_OVERFLOWED else { Core.fail(result) }
            return .done
        }
        return .merge(older: cdedupe_payload(buffer, batch.updates[i].displaced), newer: batch.page.payloads[i]!)
    }

    /// The update that was to be merged has been: the result is where the older one was, the newer one is moved out.
    @usableFromInline
    func putMerged(_ batch: PutBatch) {
        let update = batch.updates[batch.start]
        var merged = update.displaced
        cdedupe_put_merged(buffer, update.key, update.key_length, update.displaced, &merged)
        if merged != 0 {
            batch.backPayloads[batch.payloadsBack] = cdedupe_payload(buffer, merged)
            keepReturned(payload: merged, in: batch)
        }
        withUnsafePointer(to: update.slot) { cdedupe_discard(buffer, $0, 1) }
        batch.start += 1
    }

    private func keepReturned(_ update: UnsafePointer<cdedupe_update_t>, in batch: PutBatch) {
        if update.pointee.slot != 0 { keepReturned(payload: update.pointee.slot, in: batch) }
        if update.pointee.displaced != 0 { keepReturned(payload: update.pointee.displaced, in: batch) }
    }

    private func keepReturned(payload slot: cdedupe_slot_t, in batch: PutBatch) {
        batch.backSlots[batch.payloadsBack] = slot
        batch.payloadsBack += 1
    }

    /// What came back is destroyed; says which keys were refused.
    @usableFromInline
    func endPut(_ batch: PutBatch) -> [Int] {
        let kept = batch.keepReturnedSlots()
        if kept < batch.payloadsBack { cdedupe_discard(buffer, batch.backSlots + kept, batch.payloadsBack - kept) }
        let refused = batch.refused
        if !refused.isEmpty { rejected.add(refused.count, ordering: .relaxed) }
        if !scratch.giveBack(batch) { discardSlots(of: batch) }
        return refused
    }

    /// Says whether the buffer has not been stopped.
    func put(_ status: SyncStatus) -> Bool {
        let result = cdedupe_put_status(buffer, cdedupe_status_t(rawValue: UInt32(status.rawValue)))
        if result == CDEDUPE_NO_MEMORY { Core.fail(result) }
        return result != CDEDUPE_STOPPED
    }

    func restart() {
        _ = cdedupe_restart(buffer)
        discardIdleSlots()
    }

    var hasGarbage: Bool { cdedupe_has_dropped(buffer) }

    /// Destroys a payload.
    @usableFromInline typealias Destroy = (UnsafeMutableRawPointer) -> Void

    /// Clears up a little after restarts; `destroy` gets what was dropped. Says whether there may be more.
    @usableFromInline
    func collect(_ destroy: Destroy) -> Bool {
        withUnsafeTemporaryAllocation(of: cdedupe_slot_t.self, capacity: 64) { slots in
            var count = 0
            guard cdedupe_collect(buffer, slots.baseAddress!, slots.count, &count) == CDEDUPE_OK else { return false }
            for slot in slots.prefix(count) { destroy(cdedupe_payload(buffer, slot)) }
            cdedupe_discard(buffer, slots.baseAddress!, count)
            return true
        }
    }

    /// Before the end: `destroy` gets all that is still pending.
    func destroyLeftovers(_ destroy: Destroy) {
        var cursor: UInt64 = 0
        while let payload = payload(cdedupe_drain_next(buffer, &cursor)) { destroy(payload) }
    }

    private func payload(_ slot: cdedupe_slot_t) -> UnsafeMutableRawPointer? {
        slot == 0 ? nil : cdedupe_payload(buffer, slot)
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
        for i in 0..<count { taken.payloads[i] = payload(taken.raw[i].slot) }
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
        withUnsafeTemporaryAllocation(of: cdedupe_slot_t.self, capacity: taken.count) { slots in
            for i in 0..<taken.count { slots[i] = taken.raw[i].slot }
            cdedupe_discard(buffer, slots.baseAddress!, taken.count)
        }
        taken.count = 0
        delivering.withLock { $0 = false }
    }

    /// Gives the taken batch's items from `start` on back to the queue, and ends the batch; what was in those before was
    /// moved out. `merge` gets an item's payload and the pending payload: it merges the pending one into the item's, and moves
    /// the pending one out. `destroy` gets each payload that has no place in the queue any more.
    @usableFromInline
    func putBack(
        from start: Int, merge: (UnsafeMutableRawPointer, UnsafeMutableRawPointer) -> Any, destroy: Destroy
    ) {
        if start < taken.count {
            // Copies: what was put back may be deleted before it is merged, and its key's memory be gone.
            let keys = isMerging ? (start..<taken.count).map { [UInt8](taken.keyBytes($0)) } : []
            var left = taken.count - start
            var result = cdedupe_put_back(buffer, taken.raw + start, &left)
            while result == CDEDUPE_INCOMPLETE {
                putMerged(start + left, key: keys[left], merge)
                result = cdedupe_put_back(buffer, taken.raw + start, &left)
            }
            guard result == CDEDUPE_OK else { Core.fail(result) }
            for i in start..<taken.count { payload(taken.raw[i].slot).map(destroy) }
        }
        discardTaken()
    }

    private func putMerged(
        _ i: Int, key: [UInt8], _ merge: (UnsafeMutableRawPointer, UnsafeMutableRawPointer) -> Any
    ) {
        let item = taken.raw[i]
        // What was merged lives until its place is nobody's secret any more.
        withExtendedLifetime(merge(cdedupe_payload(buffer, item.slot), cdedupe_payload(buffer, item.newer))) {
            cdedupe_put_merged(buffer, key, key.count, item.newer, &taken.raw[i].slot)
        }
        withUnsafePointer(to: item.newer) { cdedupe_discard(buffer, $0, 1) }
    }

    /// How long the oldest update of the taken batch was pending; `nil`: it has none. The caller holds the claim.
    var ageOfTakenBatch: Duration? {
        // A status may be before the first update, but never two.
        let first = taken.count > 1 && taken.status(0) != nil ? 1 : 0
        guard first < taken.count, taken.status(first) == nil else { return nil }
        return .milliseconds(Int64(cdedupe_age(buffer, taken.raw + first)))
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
        cdedupe_finish(buffer, whenEmpty ? CDEDUPE_FINISH_WHEN_EMPTY : CDEDUPE_FINISH_WHEN_DELIVERED) == CDEDUPE_OK
    }

    // MARK: - Inspection

    /// Whether nothing is taken any more.
    var isStopped: Bool { rawStatistics.stopped != 0 }

    private var rawStatistics: cdedupe_statistics_t {
        var raw = cdedupe_statistics_t()
        cdedupe_statistics(buffer, &raw, MemoryLayout<cdedupe_statistics_t>.size)
        return raw
    }

    var statistics: DedupeBufferStatistics {
        // Read first: an update that is refused in between is counted next time, on both sides of the sum.
        let rejected = rejected.load(ordering: .relaxed)
        let raw = rawStatistics
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

/// Whoever runs the delivery loop.
@usableFromInline
protocol WakeTarget: AnyObject {
    func wake()
}

/// What the core allows.
private let maximumBatchSize = 65_536
private let maximumPayloadSize = 65_536
