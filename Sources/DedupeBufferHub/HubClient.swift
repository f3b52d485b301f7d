// SPDX-License-Identifier: Apache-2.0

internal import DedupeBuffer
internal import Dispatch
internal import Synchronization

/// One subscriber, without its types.
///
/// One call at a time takes; `claim` decides which. The state belongs to that call. What the hub's
/// lock guards is only read, except for the counts of holders, which are atomic.
@usableFromInline
final class HubClient: @unchecked Sendable {
    // Sendable: each member says what guards it.

    /// How often one call looks for something to take, if a source brings changes all the time and
    /// the filter wants none of them.
    static let tries = 16

    let core: HubCore
    private let pace: Pace?
    /// Where the client comes from.
    private let start: DedupeHubPosition?
    /// Calls what the subscriber was made with. `nil` when the client has gone. Guarded by the lock
    /// of ``Sleepers``.
    var wakeUp: (@Sendable () -> Void)?
    /// The place in the list of ``Sleepers``, whose lock guards it. Negative: the client is not in
    /// the list.
    let place = Atomic<Int>(-1)
    /// Guarded by the lock of ``Registry``.
    var number: Int?

    private static let taking: UInt8 = 1
    private static let closed: UInt8 = 2
    private let claim = Atomic<UInt8>(0)
    private let iterating = Atomic<Bool>(false)

    // The rest belongs to the holder of the claim.

    private var filter: (@Sendable (HubBox) -> Bool)?
    private var progress: ClientProgress
    private var unverified: ContiguousArray<Unverified> = []
    private var items: [HubItem] = []
    /// What an iterator has left of a batch, and how far the client has come without it.
    private var rest: Rest?
    /// The round has begun, and delivered nothing yet.
    private var isRoundNew = false
    /// What other threads may read.
    private let published: PublishedProgress

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
        start = position
        self.filter = filter
        self.wakeUp = wakeUp
        pace = minimumInterval.map { Pace(interval: $0.bounded) }
        progress = ClientProgress(from: position, isFiltering: filter != nil)
        let isKnown = position.map { $0.epoch == core.epoch && $0.horizon <= core.head } ?? false
        published = PublishedProgress(clean: isKnown ? position!.revision : 0)
        core.registry.add(self)
        core.counters.subscriptions.add(1, ordering: .relaxed)
    }

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
        fileprivate(set) var items: ArraySlice<HubItem>
        /// The client has to forget everything before it sees the items.
        fileprivate(set) var isRestart: Bool
        /// The position until the last of the items has been dealt with, and afterwards.
        fileprivate let midway: DedupeHubPosition
        fileprivate var end: DedupeHubPosition

        var isEmpty: Bool { items.isEmpty && !isRestart }

        /// The position when the batch has been dealt with.
        var position: DedupeHubPosition {
            guard isRestart && items.isEmpty else { return end }
            // That of a client that has forgotten everything.
            return DedupeHubPosition(epoch: end.epoch, revision: 0, horizon: 0)
        }

        /// Takes out the first event: a restart, a run of updates, or a status.
        mutating func removeFirst() -> Batch {
            var event = self
            if isRestart {
                (event.items, isRestart) = ([], false)
                return event
            }
            let end =
                items.first?.box == nil ? items.startIndex + 1 : items.firstIndex { $0.box == nil } ?? items.endIndex
            event.items = items[..<end]
            items = items[end...]
            if !items.isEmpty { event.end = midway }
            return event
        }
    }

    /// Takes at most `limit` entries of the queue, in the order in which they came up, or only the
    /// first event of them. Then the others are taken by the next call.
    func take(limit: Int, isFirstOnly: Bool) -> Taken {
        for _ in 0..<Self.tries {
            guard claim.compareExchange(expected: 0, desired: Self.taking, ordering: .acquiringAndReleasing).exchanged
            else { return isClosed ? .finished : .refused }
            core.sleepers.remove(self)
            let (taken, cursor) = (takeClaimed(limit, isFirstOnly), progress.cursor)
            publish()
            core.steps.afterEach?()
            release()
            guard case .nothing = taken else { return taken }
            // After the release: a call that a wake-up has made is not refused because of this one.
            // And if something came while this one had the claim, then this one sees it now.
            if sleep(at: cursor) { return .nothing }
        }
        return .later(.zero)
    }

    private func release() {
        let before = claim.bitwiseAnd(~Self.taking, ordering: .acquiringAndReleasing).oldValue
        if before & Self.closed != 0 { tearDown() }
    }

    private func takeClaimed(_ limit: Int, _ isFirstOnly: Bool) -> Taken {
        if let rest, !isClosed { return handOut(rest.batch, isFirstOnly) }
        for _ in 0..<Self.tries where !isClosed {
            // Read before the look at the queue: nothing comes in after the end.
            let isFinished = core.isFinished
            if progress.isIdle(at: core.head) { return isFinished ? .finished : .nothing }
            let isPaced = pace != nil && !isFinished
            if isPaced, let pace, !progress.isInRound, let delay = pace.delay(at: core.now) { return .later(delay) }
            switch collect(limit, isPaced: isPaced) {
            case .batch(let batch): return handOut(batch, isFirstOnly)
            case .nothing: continue
            case .gaveUp: return isClosed ? .finished : .later(.zero)
            }
        }
        return isClosed ? .finished : .later(.zero)
    }

    private func handOut(_ batch: Batch, _ isFirstOnly: Bool) -> Taken {
        rest = nil
        guard isFirstOnly else { return .batch(batch) }
        var others = batch
        let first = others.removeFirst()
        if !others.isEmpty { rest = Rest(others, reached: first.position) }
        return .batch(first)
    }

    // MARK: - Collecting

    private enum Collected {
        case batch(Batch)
        /// There was nothing to take after all.
        case nothing
        /// The source is quicker than the client, or the client has gone.
        case gaveUp
    }

    /// Catches up, and takes what is first in the queue.
    ///
    /// The lock is taken for each step. So other changes may come in between, and then a batch is
    /// what several smaller ones would be.
    private func collect(_ limit: Int, isPaced: Bool) -> Collected {
        var (isRestart, looksAtHead, isOver) = (false, 0, false)
        // The position until the batch has been dealt with.
        var cleanBefore: UInt64?
        var stepsLeft = Int.max
        while items.count < limit && !isOver && stepsLeft > 0 && !isClosed {
            let end = min(limit, items.count + core.steps.items)
            items.reserveCapacity(end)
            core.lock.lockToRead()
            stepsLeft = min(stepsLeft, mostSteps(limit, core.state.pointee)) - 1
            let step = progress.advance(
                core.state.pointee, core.counters, epoch: core.epoch, core.steps.size, &unverified,
                isFiltering: filter != nil)
            if step == .isAtHead { looksAtHead += 1 }
            // Keys that are unknown to the filter end the batch. With a source that brings new ones
            // all the time there would always be some.
            if step == .isAtHead && (unverified.isEmpty || looksAtHead > 4) {
                if isPaced { beginRoundIfOver() }
                isRestart = progress.takeRestart() || isRestart
                cleanBefore = cleanBefore ?? progress.clean
                isOver = progress.pop(end, core.steps.size, isPaced: isPaced, core.state.pointee, into: &items)
            }
            core.lock.unlock()
            makeReady(for: step)
            core.steps.afterEach?()
        }
        if let batch = batch(isRestart, cleanBefore ?? 0) { return .batch(batch) }
        return isOver ? .nothing : .gaveUp
    }

    /// How many steps take the client to the head, if the source stood still, and some more.
    private func mostSteps(_ limit: Int, _ state: borrowing HubState) -> Int {
        let all = Int(state.table.count) + state.log.length + state.tombstones.count
        return 64 + limit / core.steps.items + 4 * all / core.steps.size
    }

    /// What a step leaves to be done without the lock.
    private func makeReady(for step: ClientProgress.Step) {
        switch step {
        case .needsRoom(let slots): progress.keys.grow(to: slots)
        case .mustForget: progress.forget()
        case .isAtHead, .more: break
        }
        verify()
        progress.compactIfWorthIt(core.steps)
    }

    private func beginRoundIfOver() {
        guard !progress.isInRound, items.isEmpty else { return }
        progress.beginRound()
        isRoundNew = true
    }

    /// What was taken.
    private func batch(_ isRestart: Bool, _ cleanBefore: UInt64) -> Batch? {
        if items.isEmpty && !isRestart { return nil }
        if isRoundNew && !items.isEmpty {
            isRoundNew = false
            pace?.began(at: core.now)
        }
        defer { items = [] }
        count(items)
        return Batch(
            items: items[...], isRestart: isRestart, midway: position(cleanBefore), end: position(progress.clean))
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

    /// Read by the client itself. If that is not up to date, the client is woken once too often.
    var isListed: Bool { place.load(ordering: .relaxed) >= 0 }

    /// Has the client woken when there is something after `cursor`. Returns false if there is
    /// already.
    private func sleep(at cursor: UInt64) -> Bool {
        core.sleepers.add(self) { core.head != cursor || core.isFinished || isClosed }
    }

    /// One iterator at a time waits or takes.
    func beginIteration() -> Bool { !iterating.exchange(true, ordering: .acquiringAndReleasing) }
    func endIteration() { iterating.store(false, ordering: .releasing) }
    var isIterating: Bool { iterating.load(ordering: .acquiring) }

    // MARK: - The end

    var isClosed: Bool { claim.load(ordering: .acquiring) & Self.closed != 0 }

    /// The subscriber goes away. A call that is taking returns what it has. Returns false if it had
    /// gone before.
    func close(isWoken: Bool = false) -> Bool {
        let before = claim.bitwiseOr(Self.closed, ordering: .acquiringAndReleasing).oldValue
        guard before & Self.closed == 0 else { return false }
        core.registry.remove(self)
        // From now on it does not go to sleep: it sees that it is closed.
        let wakeUp = core.sleepers.end(self)
        if isWoken, let wakeUp { core.sleepers.queue.async { wakeUp() } }
        if before == 0 { tearDown() }
        return true
    }

    private func tearDown() {
        progress.releaseAll(core)
        (filter, rest) = (nil, nil)
        publish()
    }

    // MARK: - Inspection

    private func publish() {
        if progress.hasBegun || published.hasBegun.load(ordering: .relaxed) {
            let reached = rest?.reached ?? position(progress.clean)
            // In this order: `position` must not get a horizon that is older than its revision.
            published.horizon.store(reached.horizon, ordering: .releasing)
            published.clean.store(reached.revision, ordering: .releasing)
            published.hasBegun.store(true, ordering: .releasing)
        }
        published.pending.store(progress.queue.count + (rest?.batch.items.count ?? 0), ordering: .relaxed)
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

    /// The position when everything that was taken has been dealt with. Before the first take that
    /// is the one that the client has come with, whether it can be resumed from or not.
    var position: DedupeHubPosition {
        guard published.hasBegun.load(ordering: .acquiring) else {
            return start ?? DedupeHubPosition(epoch: core.epoch, revision: 0, horizon: 0)
        }
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

/// A class, because most clients have none at most times.
private final class Rest {
    let batch: HubClient.Batch
    let reached: DedupeHubPosition

    init(_ batch: HubClient.Batch, reached: DedupeHubPosition) { (self.batch, self.reached) = (batch, reached) }
}

/// How far a client has come, as of its last call that took.
final class PublishedProgress: Sendable {
    /// Whether `clean` and `horizon` are the client's position.
    let hasBegun = Atomic<Bool>(false)
    let clean: Atomic<UInt64>
    let horizon = Atomic<UInt64>(0)
    let pending = Atomic<Int>(0)
    let delivered = Atomic<Int>(0)
    let memory = Atomic<Int>(0)

    init(clean: UInt64) { self.clean = Atomic(clean) }
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
