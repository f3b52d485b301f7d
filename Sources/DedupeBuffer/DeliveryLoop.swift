// SPDX-License-Identifier: Apache-2.0

public import Dispatch

/// What a loop does, supplied by the layer that knows the types. Releasing it releases the sink.
@usableFromInline
struct LoopBody {
    /// Delivers the batch that was taken.
    let deliver: () -> Void
    /// Clears up a little. Returns whether there may be more.
    let collect: () -> Bool

    @usableFromInline
    init(deliver: @escaping () -> Void, collect: @escaping () -> Bool) {
        self.deliver = deliver
        self.collect = collect
    }
}

/// The delivery loop: where batches are taken, and when.
///
/// The core decides under its lock whether the loop sleeps, and calls ``wake()`` when a sleeping
/// loop has to look again. On a queue, nothing exists of a loop that sleeps; waking it schedules a
/// drain. On a thread the loop waits for a semaphore, and in a task for a signal.
///
/// ``DeliveryStateMachine`` says what to do, ``LoopLifetime`` lets callers wait for a loop's
/// beginning and end, and ``SelfWait`` tells the callers that must not.
@usableFromInline
final class DeliveryLoop: WakeTarget, @unchecked Sendable {
    // Sendable: `state` is locked; the bodies in it run only for the holder of the core's claim.

    /// Batches per drain, before the queue is given back to others.
    private static let batchesPerDrain = 16

    private enum Place {
        /// Drains run on `serial`, whose target is `target`. `keepAlive` returns what must live as
        /// long as a drain.
        case queue(serial: DispatchQueue, target: DispatchQueue?, keepAlive: () -> AnyObject)
        case thread(DispatchSemaphore)
        /// A task takes batches itself.
        case task(TaskLoop)
    }

    private struct Loop {
        let place: Place
        /// Not of a task.
        var body: LoopBody?
    }

    private let core: Core
    let label: String
    @usableFromInline let observer: Observer?
    let lifetime = LoopLifetime()
    @usableFromInline let selfWait = SelfWait()
    private let state = Locked(DeliveryStateMachine<Loop>())

    init(core: Core, label: String, observer: Observer?) {
        self.core = core
        self.label = label
        self.observer = observer
        core.owner = self
    }

    // MARK: - Beginning

    @usableFromInline
    func start(
        on target: DispatchQueue?, body: LoopBody, keepAlive: @escaping () -> AnyObject
    ) throws(DedupeBufferError) {
        let serial = DispatchQueue(label: label, target: target)
        let loop = Loop(place: .queue(serial: serial, target: target, keepAlive: keepAlive), body: body)
        try begin(loop, at: .queue) { () throws(DedupeBufferError) in
            try selfWait.marking(target, claim: claim)
        }
        schedule(on: serial, keepAlive())
    }

    @usableFromInline
    func runForever(_ body: LoopBody) throws(DedupeBufferError) {
        let semaphore = DispatchSemaphore(value: 0)
        try begin(Loop(place: .thread(semaphore), body: body), at: .thread, claim: claim)
        while true {
            switch drain() {
            case .more: continue
            case .asleep: semaphore.wait()
            case .ended: return
            }
        }
    }

    /// The calling task takes from now on, until ``endTask()``.
    func begin(_ loop: TaskLoop) throws(DedupeBufferError) {
        try begin(Loop(place: .task(loop)), at: .task, claim: claim)
    }

    private func begin(
        _ loop: Loop, at place: DeliveryStateMachine<Loop>.Place, claim: () throws(DedupeBufferError) -> Void
    ) throws(DedupeBufferError) {
        do throws(DedupeBufferError) {
            try claim()
        } catch {
            observer?.didNotDeliver(place.rawValue, error)
            throw error
        }
        // A handler that finishes the buffer here must not wait for a loop that cannot begin before
        // the handler returns.
        selfWait.whileInside { observer?.starting(place.rawValue) }
        if state.withLock({ $0.begin(loop, at: place) }) == .tellOfStop { tellOfStop(loop) }
        lifetime.didBegin()
    }

    private func claim() throws(DedupeBufferError) {
        lifetime.willClaim()
        do {
            try core.claim(loop: true)
        } catch {
            lifetime.didEnd()
            throw error
        }
    }

    // MARK: - Running

    /// Called by the core, on the thread that found the loop asleep.
    @usableFromInline
    func wake() {
        if let loop = state.withLock({ $0.loop }) { wake(loop) }
    }

    private func wake(_ loop: Loop) {
        switch loop.place {
        case .queue(let serial, _, let keepAlive): schedule(on: serial, keepAlive())
        case .thread(let semaphore): semaphore.signal()
        case .task(let loop): loop.wake()
        }
    }

    private func schedule(on serial: DispatchQueue, _ alive: AnyObject) {
        nonisolated(unsafe) let alive = alive
        serial.async {
            withExtendedLifetime(alive) {
                if self.drain() == .more { self.schedule(on: serial, alive) }
            }
        }
    }

    private enum DrainResult {
        case more, asleep, ended
    }

    /// Delivers some batches. Does nothing for a loop that has ended already, because a wake-up may
    /// have crossed its end.
    private func drain() -> DrainResult {
        selfWait.whileInside {
            let result = drainSome()
            if result == .ended { leave() }
            return result
        }
    }

    private func drainSome() -> DrainResult {
        guard let body = state.withLock({ $0.loop?.body }) else { return .asleep }
        for _ in 0..<Self.batchesPerDrain {
            switch take() {
            case .batch: body.deliver()
            case .empty: if !body.collect() { return .asleep }
            case .stopped:
                end()
                return .ended
            }
        }
        return .more
    }

    // MARK: - Batches

    /// Takes the next batch. The caller holds the claim, as for all of these.
    @usableFromInline
    func take() -> Core.TakeResult {
        let result = core.take()
        if result == .batch, let observer, let age = core.ageOfTakenBatch { observer.tookBatch(ofAge: age) }
        return result
    }

    /// The sink has returned, or the consumer is done with its event.
    @usableFromInline
    func sinkReturned(calledAt called: ContinuousClock.Instant) {
        let time = ContinuousClock.now - called
        core.addTimeInSink(time)
        observer?.sinkTook(time)
    }

    /// The batch that was taken, if there is one, has been delivered.
    @usableFromInline
    func endBatch() {
        let entries = core.taken.count
        core.discardTaken()
        if entries > 0 { observer?.delivered(entries: entries) }
    }

    // MARK: - Ending

    /// Whether there is a loop, which clears up when it has nothing else to do.
    var exists: Bool { state.withLock { $0.loop != nil } }

    /// Returns the loop, so that the sink is released without the lock.
    private func takeLoop() -> Loop? {
        let loop = state.withLock { $0.end() }
        lifetime.willEnd()
        if case .queue(_, let target?, _) = loop?.place { selfWait.unmark(target) }
        return loop
    }

    /// Releases the sink and the claim.
    private func end() {
        // The claim last: another loop can begin after it, and must not be taken for this one.
        let loop = takeLoop()
        core.release()
        // Also after a finish, of which only the core knows when it is complete.
        if core.isStopped { lifetime.close() }
        withExtendedLifetime(loop) {}
    }

    /// The task takes no more.
    @usableFromInline
    func endTask() {
        end()
        leave()
    }

    /// The claim was released. A caller that waited for that finds the metrics up to date.
    private func leave() {
        observer?.ended()
        lifetime.didEnd()
    }

    /// Called before the core is stopped: a task that finds the core stopped then knows that this
    /// was a stop, and not the end of a finish.
    func stop() {
        if let loop = state.withLock({ $0.stop() }) { tellOfStop(loop) }
    }

    private func tellOfStop(_ loop: Loop) {
        if case .task(let loop) = loop.place { loop.stop() }
    }

    /// The core was stopped: no loop can begin any more.
    func stopped() { lifetime.close() }

    /// The buffer is being destroyed. A loop on a queue sleeps, and ends with the buffer. Tasks
    /// take what is left, now or later.
    func abandon() {
        switch state.withLock({ $0.abandon() }) {
        case .end(let loop):
            lifetime.willEnd()
            if case .queue(_, let target?, _) = loop.place { selfWait.unmark(target) }
            core.stop()
            lifetime.close()
            leave()
        case .wake(let loop): wake(loop)
        case .none: return
        }
    }

    /// Whether a queue that is found empty after this stays empty, because the buffer no longer
    /// exists. If not, a task is woken when the buffer is destroyed.
    @usableFromInline
    var isAbandoned: Bool { state.withLock { $0.isAbandoned } }
}
