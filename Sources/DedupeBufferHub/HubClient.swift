// SPDX-License-Identifier: Apache-2.0

internal import DedupeBuffer
internal import Synchronization

/// One subscriber, without its types.
///
/// One call at a time takes; `claim` decides which. The state belongs to that call. What the hub's
/// lock guards is only read, except for the counts of holders, which are atomic.
@usableFromInline
final class HubClient: @unchecked Sendable {
    // Sendable: each member says what guards it.

    /// Changes or slots that are looked at in one step. A writer waits for no more.
    static let stepSize = 2048
    /// How often one call looks for something to take, if a source brings changes all the time and
    /// the filter wants none of them.
    static let tries = 16
    /// Items that are taken in one step.
    static let popSize = 512

    let core: HubCore
    private let filter: (@Sendable (HubBox) -> Bool)?
    private let pace: Pace?
    private let wakeUp: @Sendable () -> Void
    /// Guarded by the lock of ``Sleepers``.
    var place: Int?
    /// Guarded by the lock of ``Registry``.
    var number: Int?

    private static let taking: UInt8 = 1
    private static let closed: UInt8 = 2
    private let claim = Atomic<UInt8>(0)
    private let isAsleep = Atomic<Bool>(false)

    // The rest belongs to the holder of the claim.

    private var progress: ClientProgress
    private var unverified: ContiguousArray<Unverified> = []
    private var items: [HubItem] = []
    /// The round has begun, and delivered nothing yet.
    private var isRoundNew = false
    /// What other threads may read.
    private let published = PublishedProgress()

    /// A slot whose key the filter has not seen, and the key's box.
    struct Unverified {
        let slot: Slot
        let box: Unmanaged<HubBox>
    }

    init(
        _ core: HubCore, from position: DedupeHubPosition?, filter: (@Sendable (HubBox) -> Bool)?,
        minimumInterval: Duration?, wakeUp: @escaping @Sendable () -> Void
    ) {
        self.core = core
        self.filter = filter
        self.wakeUp = wakeUp
        pace = minimumInterval.map { Pace(interval: $0.bounded) }
        progress = ClientProgress(from: position, isFiltering: filter != nil)
        core.registry.add(self)
        core.counters.subscriptions.add(1, ordering: .relaxed)
    }

    /// There may be something to take. Called with no lock held.
    func wake() { wakeUp() }

    // MARK: - Taking

    enum Taken {
        case batch(Batch)
        /// The client is woken when there is something.
        case nothing
        /// The next round begins after this time.
        case later(Duration)
        case finished
        case refused
    }

    struct Batch {
        let items: [HubItem]
        /// The client has to forget everything before it sees the items.
        let isRestart: Bool
        /// The position until the last of the items has been dealt with, and afterwards.
        let midway: DedupeHubPosition
        let end: DedupeHubPosition

        /// The position of a client that has forgotten everything.
        var restartPosition: DedupeHubPosition { DedupeHubPosition(epoch: end.epoch, revision: 0, horizon: 0) }
    }

    /// Takes at most `limit` entries of the queue, in the order in which they came up.
    func take(limit: Int) -> Taken {
        guard claim.compareExchange(expected: 0, desired: Self.taking, ordering: .acquiringAndReleasing).exchanged
        else { return claim.load(ordering: .acquiring) & Self.closed != 0 ? .finished : .refused }
        let taken = takeClaimed(limit)
        publish()
        let before = claim.bitwiseAnd(~Self.taking, ordering: .acquiringAndReleasing).oldValue
        if before & Self.closed != 0 { tearDown() }
        return taken
    }

    /// The subscriber goes away. A call that is taking returns what it has. Returns false if it had
    /// gone before.
    func close() -> Bool {
        let before = claim.bitwiseOr(Self.closed, ordering: .acquiringAndReleasing).oldValue
        guard before & Self.closed == 0 else { return false }
        core.registry.remove(self)
        if before == 0 { tearDown() }
        return true
    }

    var isClosed: Bool { claim.load(ordering: .acquiring) & Self.closed != 0 }

    private func takeClaimed(_ limit: Int) -> Taken {
        for _ in 0..<Self.tries where !isClosed {
            // Read before the look at the queue: nothing comes in after the end.
            let isFinished = core.isFinished
            if progress.isIdle(at: core.head) {
                if isFinished { return .finished }
                if sleep() { return .nothing } else { continue }
            }
            let isPaced = pace != nil && !isFinished
            if isPaced, let pace, !progress.isInRound, let delay = pace.delay(at: core.now) { return .later(delay) }
            if let taken = collect(limit, isPaced: isPaced) { return taken }
        }
        return isClosed ? .finished : .later(.zero)
    }

    /// Has the client woken when there is something. Returns false if there is already.
    private func sleep() -> Bool {
        core.sleepers.add(self) { core.head != progress.cursor || core.isFinished || isClosed }
    }

    /// Catches up, and takes what is first in the queue. `nil`: there was nothing to take after
    /// all.
    ///
    /// The lock is taken for each step. So other changes may come in between, and then a batch is
    /// what several smaller ones would be.
    private func collect(_ limit: Int, isPaced: Bool) -> Taken? {
        var (isRestart, looksAtHead) = (false, 0)
        // The position until the batch has been dealt with.
        var cleanBefore: UInt64?
        while items.count < limit {
            let end = min(limit, items.count + Self.popSize)
            items.reserveCapacity(end)
            core.lock.lockToRead()
            let step = progress.advance(
                core.state.pointee, core.counters, epoch: core.epoch, Self.stepSize, &unverified,
                isFiltering: filter != nil)
            if step == .isAtHead { looksAtHead += 1 }
            // Keys that are unknown to the filter end the batch. With a source that brings new ones
            // all the time there would always be some.
            let pops = step == .isAtHead && (unverified.isEmpty || looksAtHead > 4)
            if pops {
                if isPaced { beginRoundIfOver() }
                isRestart = progress.takeRestart() || isRestart
                cleanBefore = cleanBefore ?? progress.clean
                progress.pop(end, isPaced: isPaced, core.state.pointee, into: &items)
            }
            core.lock.unlock()
            if case .needsRoom(let slots) = step { progress.keys.grow(to: slots) }
            verify()
            progress.compactIfWorthIt()
            if pops && items.count < end { break }
        }
        return taken(isRestart, cleanBefore ?? 0)
    }

    private func beginRoundIfOver() {
        guard !progress.isInRound, items.isEmpty else { return }
        progress.beginRound()
        isRoundNew = true
    }

    /// What was taken.
    private func taken(_ isRestart: Bool, _ cleanBefore: UInt64) -> Taken? {
        if items.isEmpty && !isRestart { return nil }
        if isRoundNew && !items.isEmpty {
            isRoundNew = false
            pace?.began(at: core.now)
        }
        defer { items = [] }
        count(items)
        return .batch(
            Batch(items: items, isRestart: isRestart, midway: position(cleanBefore), end: position(progress.clean)))
    }

    private func position(_ clean: UInt64) -> DedupeHubPosition {
        DedupeHubPosition(epoch: core.epoch, revision: clean, horizon: max(clean, progress.horizon))
    }

    private func count(_ items: [HubItem]) {
        let statuses = items.reduce(0) { $0 + ($1.box == nil ? 1 : 0) }
        core.counters.delivered.add(items.count - statuses, ordering: .relaxed)
        core.counters.statusesDelivered.add(statuses, ordering: .relaxed)
        published.delivered.add(items.count - statuses, ordering: .relaxed)
    }

    /// Asks the filter about keys that have come up, with no lock held.
    private func verify() {
        guard let filter, !unverified.isEmpty else { return }
        var released: ContiguousArray<Slot> = []
        for entry in unverified {
            let box = entry.box.takeRetainedValue()
            if !filter(box) && progress.reject(entry.slot) { released.append(entry.slot) }
        }
        unverified.removeAll(keepingCapacity: false)
        progress.areVerified()
        guard !released.isEmpty else { return }
        core.lock.lockToRead()
        for slot in released { core.state.pointee.table.removeHolder(slot) }
        core.lock.unlock()
    }

    // MARK: - Sleeping

    /// One task at a time waits to be woken.
    func beginToSleep() -> Bool { !isAsleep.exchange(true, ordering: .acquiringAndReleasing) }
    func endSleep() { isAsleep.store(false, ordering: .releasing) }

    // MARK: - The end

    private func tearDown() {
        core.sleepers.remove(self)
        progress.releaseAll(core)
        publish()
    }

    // MARK: - Inspection

    private func publish() {
        // In this order: `position` must not get a horizon that is older than its revision.
        published.horizon.store(progress.horizon, ordering: .releasing)
        published.clean.store(progress.clean, ordering: .releasing)
        published.pending.store(progress.queue.count, ordering: .relaxed)
        published.memory.store(progress.memory, ordering: .relaxed)
    }

    var statistics: DedupeHubSubscriptionStatistics {
        var statistics = DedupeHubSubscriptionStatistics()
        statistics.lag = lag(at: core.head)
        statistics.pendingEntries = published.pending.load(ordering: .relaxed)
        statistics.delivered = published.delivered.load(ordering: .relaxed)
        statistics.memory = published.memory.load(ordering: .relaxed)
        return statistics
    }

    /// The position when everything that was taken has been dealt with.
    var position: DedupeHubPosition {
        // Acquire, with the releases in `publish`.
        let clean = published.clean.load(ordering: .acquiring)
        let horizon = published.horizon.load(ordering: .acquiring)
        return DedupeHubPosition(epoch: core.epoch, revision: clean, horizon: max(clean, horizon))
    }

    func lag(at head: UInt64) -> Int {
        let clean = published.clean.load(ordering: .relaxed)
        return head > clean ? Int(head - clean) : 0
    }

    var memory: Int { published.memory.load(ordering: .relaxed) }
}

/// How far a client has come, as of its last call that took.
final class PublishedProgress: Sendable {
    let clean = Atomic<UInt64>(0)
    let horizon = Atomic<UInt64>(0)
    let pending = Atomic<Int>(0)
    let delivered = Atomic<Int>(0)
    let memory = Atomic<Int>(0)
}

/// When rounds of delivery begin; see `DedupeHub.subscribe`. Belongs to the holder of the claim.
final class Pace {
    private let interval: Duration
    private var latest: Duration?

    init(interval: Duration) { self.interval = interval }

    /// How long the next round has to wait. `nil`: it can begin.
    func delay(at now: Duration) -> Duration? {
        guard let latest, now - latest < interval else { return nil }
        return interval - (now - latest)
    }

    func began(at now: Duration) { latest = now }
}
