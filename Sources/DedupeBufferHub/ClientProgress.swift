// SPDX-License-Identifier: Apache-2.0

internal import DedupeBuffer

/// How far one subscriber has come in the hub's changes, and what it has to be told.
///
/// The subscriber's picture of the table is that of revision `cursor`. It catches up by walking the
/// change log; if the log has lapped it, by scanning the table first. Items are only popped when it
/// has caught up, so that the picture is the table.
///
/// `DESIGN.md` has the invariants. Belongs to the holder of the client's claim; `advance` and `pop`
/// are called with the hub's lock held as a reader.
struct ClientProgress: ~Copyable {
    private enum Phase {
        case new(DedupeHubPosition?)
        /// The table is being scanned, for slots that changed after `Scan.bound`.
        case scanning(Scan)
        /// A resume goes through the deletions since its position.
        case deletions(Scan, next: Int)
        /// A resume has become impossible: what it has marked is being unmarked.
        case clearing(Slot)
        /// It has been unmarked, and must be forgotten.
        case cleared
        case walking
    }

    private struct Scan {
        var next: Slot = 0
        /// Slots that changed after this revision have news for the client.
        var bound: UInt64
        /// The hub's revision and status at the beginning. The log's later changes are walked
        /// afterwards.
        var start: UInt64
        var status: SyncStatus?
        /// Of a resume: the client may have the keys that were born up to this revision.
        var horizon: UInt64?
    }

    private var phase: Phase
    /// Changes up to this revision are in the picture.
    private(set) var cursor: UInt64 = 0
    /// Everything up to this revision has been delivered.
    private(set) var clean: UInt64 = 0
    /// Nothing later than this revision has been delivered.
    private(set) var horizon: UInt64 = 0
    /// When the queue's entries up to `markTail` are out, everything up to `markCursor` is
    /// delivered.
    private var (markTail, markCursor) = (UInt64(0), UInt64(0))

    var queue = ClientQueue()
    var keys: ClientKeys
    /// The queue's entries from here on may be unknown to the filter.
    private var verifiedTail: UInt64?
    /// The client must forget everything first.
    private var mustRestart = false
    /// The round's entries end here.
    private var roundEnd: UInt64 = 0

    init(from position: DedupeHubPosition?, isFiltering: Bool) {
        phase = .new(position)
        keys = ClientKeys(isFiltering: isFiltering)
    }

    /// Whether there is nothing to tell, and nothing to catch up with, at this revision of the hub.
    func isIdle(at head: UInt64) -> Bool {
        guard case .walking = phase else { return false }
        return cursor == head && queue.isEmpty && !mustRestart
    }

    /// Whether the client has heard that it must restart, if it must, and its position can be told
    /// from what it has taken.
    var hasBegun: Bool {
        guard case .walking = phase else { return false }
        return !mustRestart
    }

    var memory: Int { queue.memory + keys.memory }

    // MARK: - Catching up

    enum Step: Equatable {
        case isAtHead, more
        /// The table has more slots than there is room for here.
        case needsRoom(Slot)
        /// ``forget()`` must be called.
        case mustForget
    }

    /// Catches up by at most `budget` slots and changes.
    mutating func advance(
        _ state: borrowing HubState, _ counters: HubCounters, epoch: UInt64, _ budget: Int,
        _ unverified: inout ContiguousArray<HubClient.Unverified>, isFiltering: Bool
    ) -> Step {
        guard state.table.count <= keys.capacity else { return .needsRoom(state.table.count) }
        var context = Context(left: budget, unverified: [], isFiltering: isFiltering)
        swap(&context.unverified, &unverified)
        defer { swap(&context.unverified, &unverified) }
        while context.left > 0 {
            switch phase {
            case .new(let position): begin(state, counters, epoch, position)
            case .scanning(let scan): self.scan(state, scan, &context)
            case .deletions(let scan, let next): markDeletions(state, counters, scan, next, &context)
            case .clearing(let slot): clear(state, slot, &context)
            case .cleared: return .mustForget
            case .walking:
                if cursor == state.log.head { return .isAtHead }
                if cursor + 1 < state.log.oldest {
                    counters.scans.add(1, ordering: .relaxed)
                    phase = .scanning(scan(after: cursor, state, tellsStatus: state.statusRevision > cursor))
                } else {
                    walk(state, &context)
                }
            }
        }
        return .more
    }

    /// What a step works with.
    private struct Context {
        var left: Int
        var unverified: ContiguousArray<HubClient.Unverified>
        let isFiltering: Bool
    }

    private func scan(after bound: UInt64, _ state: borrowing HubState, tellsStatus: Bool) -> Scan {
        Scan(bound: bound, start: state.log.head, status: tellsStatus ? state.status : nil)
    }

    private mutating func begin(
        _ state: borrowing HubState, _ counters: HubCounters, _ epoch: UInt64, _ position: DedupeHubPosition?
    ) {
        guard let position else {
            phase = .scanning(scan(after: 0, state, tellsStatus: state.status != .waitForDatastore))
            return
        }
        guard position.epoch == epoch, position.horizon <= state.log.head,
            position.revision >= state.tombstones.horizon
        else {
            return restart(state, counters)
        }
        (clean, horizon, markCursor) = (position.revision, position.horizon, position.revision)
        // A client that comes back with the revision 0 may have had any status since, or still have
        // the one of its life before a restart.
        let isStatusOld = position.revision > 0 && state.statusRevision <= position.revision
        var scan = scan(after: position.revision, state, tellsStatus: !isStatusOld)
        scan.horizon = position.horizon
        phase = .scanning(scan)
    }

    private mutating func restart(_ state: borrowing HubState, _ counters: HubCounters) {
        counters.restarts.add(1, ordering: .relaxed)
        mustRestart = true
        (clean, horizon, markTail, markCursor) = (0, 0, queue.pushed, 0)
        phase = .scanning(scan(after: 0, state, tellsStatus: true))
    }

    // MARK: - Walking

    private mutating func walk(_ state: borrowing HubState, _ context: inout Context) {
        let end = min(state.log.head, cursor + UInt64(context.left))
        context.left -= Int(end - cursor)
        while cursor < end {
            cursor += 1
            see(state.log[cursor], state, &context)
        }
    }

    @inline(__always)
    private mutating func see(_ change: Change, _ state: borrowing HubState, _ context: inout Context) {
        if let status = change.status { return queue.append(status) }
        let slot = change.slot
        if change.isDeletion { return seeDeletion(slot, state, &context) }
        if change.isBirth { keys.clearRejected(slot) } else if keys.isRejected(slot) { return }
        if !keys.isPending(slot) { enqueue(slot, state, &context) }
    }

    /// A key that the client has is deleted in its place. One that it does not have leaves the
    /// queue.
    private mutating func seeDeletion(_ slot: Slot, _ state: borrowing HubState, _ context: inout Context) {
        switch (keys.isLive(slot), keys.isPending(slot)) {
        case (true, false): enqueue(slot, state, &context)
        case (false, true): leave(slot)
        case (true, true), (false, false): break
        }
    }

    private mutating func enqueue(_ slot: Slot, _ state: borrowing HubState, _ context: inout Context) {
        if context.isFiltering && !keys.isLive(slot) { mustVerify(slot, state, &context) }
        keys.setPending(slot)
        queue.append(Change(slot))
    }

    private mutating func leave(_ slot: Slot) {
        keys.clearPending(slot)
        queue.leave(slot)
    }

    // MARK: - Scanning

    private mutating func scan(_ state: borrowing HubState, _ scan: Scan, _ context: inout Context) {
        let end = min(state.table.count, scan.next + Slot(context.left))
        context.left -= Int(end - scan.next)
        for slot in scan.next..<end { look(at: slot, scan, state, &context) }
        // A scan of no slots is a step too.
        context.left -= 1
        if end < state.table.count {
            var rest = scan
            rest.next = end
            phase = .scanning(rest)
        } else if scan.horizon != nil {
            phase = .deletions(scan, next: state.tombstones.firstEnded(after: scan.bound))
        } else {
            endScan(scan)
        }
    }

    private mutating func look(at slot: Slot, _ scan: Scan, _ state: borrowing HubState, _ context: inout Context) {
        let stamp = state.table.stamp(slot)
        if let horizon = scan.horizon, !stamp.isDeleted, state.table.birth(slot) <= horizon {
            markLive(slot, state, &context)
        }
        guard stamp.revision > scan.bound else { return }
        // Another life than the one that the client's picture has, or another key.
        let isOtherLife = state.table.birth(slot) > scan.bound
        if isOtherLife { keys.clearRejected(slot) }
        if stamp.isDeleted { return seeDeletion(slot, state, &context) }
        if isOtherLife && keys.isPending(slot) && !keys.isLive(slot) { leave(slot) }
        if !keys.isPending(slot) && !keys.isRejected(slot) { enqueue(slot, state, &context) }
    }

    private mutating func endScan(_ scan: Scan) {
        if let status = scan.status { queue.append(status) }
        cursor = scan.start
        phase = .walking
    }

    // MARK: - Resuming

    /// The client has the key, or may have it.
    private mutating func markLive(_ slot: Slot, _ state: borrowing HubState, _ context: inout Context) {
        guard !keys.isLive(slot) else { return }
        if context.isFiltering { mustVerify(slot, state, &context) }
        keys.setLive(slot)
        state.table.addHolder(slot)
    }

    /// Finds the keys that the client may have and that were deleted since its position.
    private mutating func markDeletions(
        _ state: borrowing HubState, _ counters: HubCounters, _ scan: Scan, _ next: Int, _ context: inout Context
    ) {
        // Deletions that it must hear of have been forgotten meanwhile.
        guard state.tombstones.horizon <= scan.bound else {
            phase = .clearing(0)
            return
        }
        let end = min(state.tombstones.end, next + context.left)
        context.left -= end - next + 1
        for number in next..<end {
            let life = state.tombstones[number]
            guard life.birth <= scan.horizon! else { continue }
            markLive(life.slot, state, &context)
            if !keys.isPending(life.slot) { enqueue(life.slot, state, &context) }
        }
        guard end == state.tombstones.end else {
            phase = .deletions(scan, next: end)
            return
        }
        counters.resumed.add(1, ordering: .relaxed)
        endScan(scan)
    }

    private mutating func clear(_ state: borrowing HubState, _ slot: Slot, _ context: inout Context) {
        var slot = slot
        while slot < keys.capacity && context.left > 0 {
            keys.takeLive(from: slot) { state.table.removeHolder($0) }
            slot += 64
            context.left -= 64
        }
        phase = slot < keys.capacity ? .clearing(slot) : .cleared
    }

    /// Forgets what the resume had found, and gives back its memory. Called with no lock held.
    mutating func forget() {
        keys.removeAll()
        queue.removeAll()
        verifiedTail = nil
        // No hub has this epoch.
        phase = .new(DedupeHubPosition(epoch: 0, revision: 0, horizon: 0))
    }

    // MARK: - Filtering

    private mutating func mustVerify(_ slot: Slot, _ state: borrowing HubState, _ context: inout Context) {
        // A slot without a key: the log says later that this one is gone.
        guard let box = state.table.box(slot) else { return }
        if verifiedTail == nil { verifiedTail = queue.pushed }
        context.unverified.append(.init(slot: slot, box: box.retain()))
    }

    /// The filter has seen all keys.
    mutating func areVerified() { verifiedTail = nil }

    /// The filter does not want the slot's key. Returns whether the client was one of its holders.
    mutating func reject(_ slot: Slot) -> Bool {
        guard slot < keys.capacity else { return false }
        if keys.isPending(slot) { leave(slot) }
        keys.setRejected(slot)
        guard keys.isLive(slot) else { return false }
        keys.clearLive(slot)
        return true
    }

    // MARK: - Taking

    mutating func takeRestart() -> Bool {
        defer { mustRestart = false }
        return mustRestart
    }

    /// Takes entries out of the queue until there are `limit` items, or it has looked at `budget`
    /// entries. The picture is the table's. Returns false if there may be more.
    mutating func pop(
        _ limit: Int, _ budget: Int, isPaced: Bool, _ state: borrowing HubState, into items: inout [HubItem]
    ) -> Bool {
        let end = min(isPaced ? roundEnd : .max, verifiedTail ?? .max)
        var left = budget
        defer { endPop() }
        while items.count < limit {
            guard queue.settleFront(&left) else { return false }
            guard let entry = queue.first, queue.popped < end else { return true }
            queue.removeFirst()
            if let status = entry.status {
                items.append(HubItem(status))
            } else {
                take(entry.slot, state, &items)
            }
        }
        return false
    }

    private mutating func take(_ slot: Slot, _ state: borrowing HubState, _ items: inout [HubItem]) {
        keys.clearPending(slot)
        guard let box = state.table.box(slot)?.takeUnretainedValue() else { return }
        let isLive = keys.isLive(slot)
        if state.table.stamp(slot).isDeleted {
            guard isLive else { return }
            keys.clearLive(slot)
            state.table.removeHolder(slot)
            items.append(HubItem(box, .deleted))
        } else {
            items.append(HubItem(box, isLive ? .updated : .new))
            if isLive { return }
            keys.setLive(slot)
            state.table.addHolder(slot)
        }
    }

    private mutating func endPop() {
        horizon = cursor
        if queue.isEmpty {
            clean = cursor
        } else if queue.popped >= markTail {
            clean = markCursor
        } else {
            return
        }
        (markTail, markCursor) = (queue.pushed, cursor)
    }

    // MARK: - Rounds

    /// Whether the round has more entries.
    var isInRound: Bool { queue.popped < roundEnd && !queue.isEmpty }

    mutating func beginRound() { roundEnd = queue.pushed }

    // MARK: - Between steps

    /// Called with no lock held, when no key is unknown to the filter.
    mutating func compactIfWorthIt(_ steps: DedupeHubConfiguration.Steps) {
        if queue.isWorthCompacting(slack: steps.stale) && verifiedTail == nil {
            (markTail, roundEnd) = queue.compact((markTail, roundEnd))
        }
        queue.reserveStale(steps.size)
    }

    /// The client goes away: it is no holder any more.
    mutating func releaseAll(_ core: HubCore) {
        var slot: Slot = 0
        while slot < keys.capacity {
            core.lock.lockToRead()
            for _ in 0..<32 where slot < keys.capacity {
                keys.takeLive(from: slot) { core.state.pointee.table.removeHolder($0) }
                slot += 64
            }
            core.lock.unlock()
        }
        keys.removeAll()
        queue.removeAll()
    }
}
