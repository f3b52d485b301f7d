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

        var keepAlive: AnyObject? {
            if case .queue(_, _, let keepAlive) = place { keepAlive() } else { nil }
        }
    }

    private let core: Core
    let label: String
    @usableFromInline let observer: Observer?
    let lifetime = LoopLifetime()
    @usableFromInline let selfWait = SelfWait()
    private let state = Locked(DeliveryStateMachine<Loop, Task<Void, Never>>())
    private let pacing: Pacing?
    /// Puts the taken batch's items from some number on back.
    private let putBackTail: @Sendable (Int) -> Void

    init(
        core: Core, configuration: DedupeBufferConfiguration, observer: Observer?,
        putBackTail: @escaping @Sendable (Int) -> Void
    ) {
        self.core = core
        self.label = configuration.label
        self.observer = observer
        self.putBackTail = putBackTail
        pacing = Pacing(configuration)
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
        _ loop: Loop, at place: DeliveryStateMachine<Loop, Task<Void, Never>>.Place,
        claim: () throws(DedupeBufferError) -> Void
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
            case .later(let pause):
                if body.collect() { continue }
                sleep(for: pause)
                return .asleep
            case .stopped:
                end()
                return .ended
            }
        }
        return .more
    }

    // MARK: - Batches

    /// How long a loop has nothing to do although something may be pending.
    @usableFromInline
    struct Pause: Sendable {
        let duration: Duration
        let clock: any Clock<Duration>
        let endsWithFinish: Bool
    }

    @usableFromInline
    enum TakeResult {
        case batch, empty, stopped
        case later(Pause)
    }

    /// Takes the next batch, except the items of keys that wait for another attempt. The caller
    /// holds the claim, as for all of these.
    @usableFromInline
    func take(except backOff: KeyBackOff? = nil) -> TakeResult {
        if let pacing, let delay = pacing.delay { return .later(pause(of: pacing, delay)) }
        let heldBack = backOff.flatMap { $0.isEmpty ? nil : $0 }
        if heldBack != nil { core.wakeForNextEntry() }
        switch core.take(extra: heldBack?.count ?? 0) {
        case .batch: break
        case .stopped: return .stopped
        case .empty:
            pacing?.foundEmpty()
            return .empty
        }
        let isFull = core.isTakenBatchFull
        if let heldBack {
            guard keepInBatch(heldBack.separate(core.taken)) else {
                return .later(Pause(duration: heldBack.delay, clock: heldBack.clock, endsWithFinish: false))
            }
            // The loop takes again before it sleeps.
            core.wakeForNothing()
        }
        if let pacing, !keepInBatch(pacing.took(core.taken, isFull: isFull)) {
            return .later(pause(of: pacing, pacing.delay ?? .zero))
        }
        if let observer, let age = core.ageOfTakenBatch { observer.tookBatch(ofAge: age) }
        return .batch
    }

    private func pause(of pacing: Pacing, _ delay: Duration) -> Pause {
        Pause(duration: delay, clock: pacing.clock, endsWithFinish: true)
    }

    /// Puts the other items back. Returns whether any is left.
    private func keepInBatch(_ count: Int) -> Bool {
        if count < core.taken.count { putBackTail(count) }
        if count == 0 { core.countEmptiedBatch() }
        return count > 0
    }

    /// Wakes the loop when the pause is over. Meanwhile the timer keeps alive what a drain does.
    @usableFromInline
    func sleep(for pause: Pause) {
        guard let loop = state.withLock({ $0.loop }) else { return }
        nonisolated(unsafe) let alive = loop.keepAlive
        let timer = Task {
            try? await pause.clock.sleep(for: pause.duration)
            // A cancelled timer does not wake: the code that cancels it does, if that is needed.
            if !Task.isCancelled { self.wake() }
            withExtendedLifetime(alive) {}
        }
        let (cancelled, isRefused) = state.withLock { $0.pause(timer, endsWithFinish: pause.endsWithFinish) }
        cancelled?.cancel()
        if isRefused { wake(loop) }
    }

    /// A finish has begun: nothing waits for an interval any more.
    func finish() {
        pacing?.lift()
        end(state.withLock { $0.finish() })
    }

    private func end(_ pause: DeliveryStateMachine<Loop, Task<Void, Never>>.PauseEnd?) {
        guard let pause else { return }
        pause.timer.cancel()
        wake(pause.loop)
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
        let (loop, timer) = state.withLock { $0.end() }
        timer?.cancel()
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
        pacing?.lift()
        if let loop = state.withLock({ $0.stop() }) { tellOfStop(loop) }
    }

    private func tellOfStop(_ loop: Loop) {
        if case .task(let loop) = loop.place { loop.stop() }
    }

    /// The core was stopped: no loop can begin any more, and the one that pauses has to end.
    func stopped() {
        lifetime.close()
        end(state.withLock { $0.finish() })
    }

    /// The buffer is being destroyed. A loop on a queue sleeps, and ends with the buffer. Tasks
    /// take what is left, now or later.
    func abandon() {
        pacing?.lift()
        let (action, timer) = state.withLock { ($0.abandon(), $0.takeTimer()) }
        timer?.cancel()
        switch action {
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
