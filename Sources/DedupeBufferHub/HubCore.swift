// SPDX-License-Identifier: Apache-2.0

internal import DedupeBuffer
internal import Synchronization

/// The hub without its types: the table, the change log, and what subscribers share.
///
/// `DESIGN.md` has the rules. In short: writers come one at a time; the read-write lock guards
/// `state`, and no user code runs while it is held.
@usableFromInline
final class HubCore: @unchecked Sendable {
    // Sendable: each member says what guards it.

    let epoch: UInt64
    let configuration: DedupeHubConfiguration
    let steps: DedupeHubConfiguration.Steps
    let lock = ReadWriteLock()
    /// Guarded by `lock`. A pointer, because the compiler would add a check to each access of a
    /// member.
    let state: UnsafeMutablePointer<HubState>
    let sleepers: Sleepers
    let registry = Registry()
    let counters = HubCounters()

    /// One writer at a time; guards the members behind it.
    private let writer = PlainLock()
    private var index = SlotIndex()
    /// The first slot without a key.
    private var free: SlotLink = 0
    /// Slots that have had a number, also those that readers do not see yet.
    private var slotCount: Slot = 0
    /// Deleted keys that are no tombstones any more, and that some subscriber may have.
    private var retired = Retired()
    private var spare: HubWrite?
    private var latestStatus = SyncStatus.waitForDatastore
    private var latestTime = Duration.zero

    private let elapsed: @Sendable () -> Duration

    /// The latest revision, for those who decide whether to sleep.
    private let publishedHead = Atomic<UInt64>(0)
    private let finished = Atomic<Bool>(false)
    /// Whether a writer may need the time.
    private let hasTombstones = Atomic<Bool>(false)

    init(_ configuration: DedupeHubConfiguration) {
        self.configuration = configuration
        steps = configuration.steps
        epoch = configuration.epoch ?? .random(in: 1 ... .max)
        state = .allocate(capacity: 1)
        state.initialize(to: HubState(configuration))
        sleepers = Sleepers(label: configuration.label)
        elapsed = elapsedTime(on: configuration.clock)
    }

    deinit {
        state.deinitialize(count: 1)
        state.deallocate()
    }

    /// The time on the hub's clock.
    var now: Duration { elapsed() }

    /// Sequentially consistent, with ``Sleepers``: a subscriber that has announced its sleep sees a
    /// revision that was published before the writer looked for sleepers.
    var head: UInt64 { publishedHead.load(ordering: .sequentiallyConsistent) }
    var isFinished: Bool { finished.load(ordering: .sequentiallyConsistent) }

    // MARK: - Writing

    @usableFromInline
    func beginWrite() -> HubWrite {
        writer.withLock {
            defer { spare = nil }
            return spare
        } ?? HubWrite()
    }

    /// Puts at most ``HubWrite/limit`` updates.
    @usableFromInline
    func put(_ write: HubWrite) {
        // The clock is user code, and is read before the lock is taken. Deletions that another
        // writer notes meanwhile come with their own time.
        let needsTime = hasTombstones.load(ordering: .relaxed) || write.items.contains(where: \.isDeletion)
        let time = needsTime ? now : .zero
        writer.lock()
        latestTime = max(latestTime, time)
        if isFinished {
            for item in write.items { write.displaced.append(item.box) }
            counters.dropped.add(write.count, ordering: .relaxed)
        } else {
            counters.received.add(write.count, ordering: .relaxed)
            findSlots(write)
            publish(write)
        }
        writer.unlock()
        sleepers.wake()
        write.clear()
        guard write.isSmall else { return }
        writer.withLock { spare = write }
    }

    /// Puts a status. Returns false if it equals the latest one.
    @discardableResult
    func put(_ status: SyncStatus) -> Bool {
        counters.statusesReceived.add(1, ordering: .relaxed)
        writer.lock()
        let isNews = status != latestStatus && !isFinished
        if isNews {
            latestStatus = status
            lock.lockToWrite()
            let revision = state.pointee.log.append(Change(status: status))
            (state.pointee.status, state.pointee.statusRevision) = (status, revision)
            publishedHead.store(revision, ordering: .sequentiallyConsistent)
            lock.unlock()
        }
        writer.unlock()
        sleepers.wake()
        return isNews
    }

    /// Nothing comes in any more. Returns false if that was so before.
    func finish() -> Bool {
        let isNews = writer.withLock { !finished.exchange(true, ordering: .sequentiallyConsistent) }
        guard isNews else { return false }
        sleepers.wakeAtTheEnd(registry)
        return true
    }

    /// Looks up each key's slot, and gives new keys one, which readers do not see yet.
    private func findSlots(_ write: HubWrite) {
        for i in write.items.indices {
            let (item, key) = (write.items[i], write.key(write.items[i]))
            if let slot = index.find(key, hash: item.hash, in: state.pointee.table) {
                write.items[i].slot = slot
            } else if !item.isDeletion {
                let slot = takeSlot()
                index.insert(slot, key, hash: item.hash, in: state.pointee.table)
                write.items[i].slot = slot
            }
        }
    }

    private func takeSlot() -> Slot {
        if free != 0 {
            defer { free = state.pointee.table.key(free - 1).pointee.next }
            return free - 1
        }
        let slot = slotCount
        guard slot < SlotTable.limit else { fatalError("DedupeBufferHub: more than \(SlotTable.limit) keys") }
        slotCount += 1
        if !state.pointee.table.hasRoom(for: slotCount) {
            lock.lockToWrite()
            state.pointee.table.reserve(slotCount)
            lock.unlock()
        }
        return slot
    }

    private func publish(_ write: HubWrite) {
        lock.lockToWrite()
        state.pointee.table.publish(slotCount)
        if state.pointee.log.isSmaller(than: slotCount) && configuration.growsChangeLog {
            if let memory = state.pointee.log.grow() { write.freed.append(UnsafeMutableRawPointer(memory)) }
        }
        var ignored = 0
        for item in write.items {
            guard let displaced = state.pointee.change(item, at: latestTime) else { continue }
            if displaced.toOpaque() == item.box.toOpaque() { ignored += 1 }
            write.displaced.append(displaced)
        }
        if let memory = state.pointee.log.takeUnneeded() { write.freed.append(UnsafeMutableRawPointer(memory)) }
        reclaim(write)
        hasTombstones.store(state.pointee.hasTombstones, ordering: .relaxed)
        publishedHead.store(state.pointee.log.head, ordering: .sequentiallyConsistent)
        lock.unlock()
        if ignored > 0 { counters.ignored.add(ignored, ordering: .relaxed) }
    }

    // MARK: - Reclaiming slots

    /// Forgets tombstones that are too many or too old, and frees slots that no subscriber needs. A
    /// bounded number in each write, and more than a write can add.
    private func reclaim(_ write: HubWrite) {
        for _ in 0..<2 * HubWrite.limit {
            guard let slot = state.pointee.forgetTombstone(at: latestTime) else { break }
            release(slot, write)
        }
        for _ in 0..<min(retired.count, 4 + 2 * write.count) {
            release(retired.removeFirst(in: state.pointee.table), write)
        }
    }

    /// Frees the slot, if its key has not come back, its deletion has been forgotten, and no
    /// subscriber has it.
    private func release(_ slot: Slot, _ write: HubWrite) {
        guard state.pointee.isForgotten(slot) else { return }
        guard !state.pointee.table.isHeld(slot) else { return retired.append(slot, in: state.pointee.table) }
        if let box = state.pointee.table.exchangeBox(slot, nil) { write.displaced.append(box) }
        if let bytes = index.remove(slot, in: state.pointee.table) { write.freed.append(bytes) }
        state.pointee.table.key(slot).pointee.next = free
        free = slot + 1
        state.pointee.deletedKeys -= 1
    }

    // MARK: - Inspection

    var statistics: DedupeHubStatistics {
        var statistics = DedupeHubStatistics()
        let clients = registry.clients
        statistics.memory = memory
        lock.lockToRead()
        (statistics.keys, statistics.deletedKeys) = (state.pointee.keys, state.pointee.deletedKeys)
        statistics.revision = state.pointee.log.head
        lock.unlock()
        counters.read(into: &statistics)
        (statistics.subscribers, statistics.waitingSubscribers) = (clients.count, sleepers.count)
        statistics.lag = DedupeHubStatistics.Lag(clients.map { $0.lag(at: statistics.revision) })
        statistics.subscriberMemory = clients.reduce(0) { $0 + $1.memory }
        return statistics
    }

    private var memory: Int {
        writer.withLock {
            lock.lockToRead()
            defer { lock.unlock() }
            return state.pointee.memory + index.memory
        }
    }
}

/// What readers and writers share, guarded by the hub's read-write lock.
struct HubState: ~Copyable {
    var table = SlotTable()
    var log: ChangeLog
    var tombstones: Tombstones
    var status = SyncStatus.waitForDatastore
    /// The revision of `status`. 0: there was none.
    var statusRevision: UInt64 = 0
    /// Keys that have a value.
    private(set) var keys = 0
    /// Deleted keys whose slots are not free yet.
    var deletedKeys = 0
    private let maximumTombstones: Int
    private let tombstoneAge: Duration

    init(_ configuration: DedupeHubConfiguration) {
        log = ChangeLog(capacity: configuration.changeLogCapacity.roundedUpToPowerOfTwo)
        tombstones = Tombstones(maximum: configuration.maximumTombstones + HubWrite.limit)
        maximumTombstones = configuration.maximumTombstones
        tombstoneAge = configuration.tombstoneAge
    }

    var hasTombstones: Bool { tombstones.count > 0 }
    var memory: Int { table.memory + log.memory + tombstones.memory }

    /// Makes one change. Returns the version that is not needed any more.
    mutating func change(_ item: HubWrite.Item, at time: Duration) -> Unmanaged<HubBox>? {
        guard let slot = item.slot else { return item.box }
        let wasDeleted = table.stamp(slot).isDeleted
        if item.isDeletion {
            if wasDeleted { return item.box }
            let revision = log.append(Change(deletionOf: slot))
            table.setStamp(slot, Stamp(revision, isDeleted: true))
            tombstones.append(
                Tombstones.Life(slot: slot, birth: table.birth(slot), death: revision, time: time))
            keys -= 1
            deletedKeys += 1
        } else {
            let revision = log.append(wasDeleted ? Change(birthOf: slot) : Change(slot))
            table.setStamp(slot, Stamp(revision, isDeleted: false))
            if wasDeleted {
                if table.box(slot) != nil { deletedKeys -= 1 }
                table.setBirth(slot, revision)
                keys += 1
            }
        }
        return table.exchangeBox(slot, item.box)
    }

    /// Forgets the earliest deletion, if it is one too many or too old, and returns its slot.
    mutating func forgetTombstone(at time: Duration) -> Slot? {
        guard tombstones.count > 0 else { return nil }
        let isOld = time - tombstones[tombstones.first].time > tombstoneAge
        guard isOld || tombstones.count > maximumTombstones else { return nil }
        return tombstones.forgetFirst().slot
    }

    /// Whether the slot has a key that is deleted, and the deletion has been forgotten.
    func isForgotten(_ slot: Slot) -> Bool {
        let stamp = table.stamp(slot)
        return stamp.isDeleted && stamp.revision <= tombstones.horizon && table.box(slot) != nil
    }
}

/// Deleted keys that wait for the last subscriber that has them: a list that runs through the
/// slots. A slot is in it once.
///
/// They are looked at in turn, some in each write. Belongs to the writer.
struct Retired: ~Copyable {
    private var (first, last) = (SlotLink(0), SlotLink(0))
    private(set) var count = 0

    /// Of the last slot in the list.
    private static let end = SlotLink.max

    mutating func append(_ slot: Slot, in table: borrowing SlotTable) {
        guard table.key(slot).pointee.retired == 0 else { return }
        table.key(slot).pointee.retired = Self.end
        if last == 0 { first = slot + 1 } else { table.key(last - 1).pointee.retired = slot + 1 }
        last = slot + 1
        count += 1
    }

    /// Takes out the one that has not been looked at for longest.
    mutating func removeFirst(in table: borrowing SlotTable) -> Slot {
        let slot = first - 1
        let next = table.key(slot).pointee.retired
        table.key(slot).pointee.retired = 0
        (first, last) = next == Self.end ? (0, 0) : (next, last)
        count -= 1
        return slot
    }
}
