// SPDX-License-Identifier: Apache-2.0

public import Dispatch

#if canImport(Darwin)
    internal import Darwin
#elseif canImport(Musl)
    internal import Musl
#else
    internal import Glibc
#endif

/// What a loop does, supplied by the layer that knows the types. Releasing it releases the sink.
@usableFromInline
struct LoopBody {
    /// Delivers the batch that was taken.
    let deliver: () -> Void
    /// Clears up a little; says whether there may be more.
    let collect: () -> Bool

    @usableFromInline
    init(deliver: @escaping () -> Void, collect: @escaping () -> Bool) {
        self.deliver = deliver
        self.collect = collect
    }
}

/// The delivery loop: when and where batches are taken.
///
/// The core decides under its lock whether the loop sleeps, and calls ``wake()`` when a sleeping
/// one has to look again. On a queue, a loop that sleeps is nothing at all: waking schedules a
/// drain. On a thread it waits for a semaphore.
@usableFromInline
final class DeliveryLoop: WakeTarget, @unchecked Sendable {
    // Sendable: `state` is locked; the bodies in it run only for the holder of the core's claim.

    /// Batches per drain, before the queue is given back to others.
    private static let batchesPerDrain = 16

    private enum Place {
        /// Drains run on `serial`, whose target is `target`. `keepAlive` gives what must live as
        /// long as they.
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

    private struct State {
        var loop: Loop?
        /// The buffer has gone: nothing comes in any more.
        var isAbandoned = false
        var isStopped = false
        /// Those who wait for a loop to begin.
        var expectant: [@Sendable () -> Void] = []

        /// Whoever gets them calls them, unlocked.
        mutating func takeExpectant() -> [@Sendable () -> Void] {
            defer { expectant = [] }
            return expectant
        }
    }

    private let core: Core
    let label: String
    @usableFromInline let observer: Observer?
    private let state = Locked(State())
    /// The queue that the loop needs. Locked while a loop begins, so that one that fails to does
    /// not take away the mark of another on the same queue.
    private let markedQueue = Locked<DispatchQueue?>(nil)
    /// Entered while a loop exists.
    private let existing = DispatchGroup()
    /// Those that hold the claim and run foreign code: sinks, handlers, the ends of values. The
    /// loop cannot go on before that returns.
    private let inside = ThreadSet()
    /// Marks the queue on which waiting for the loop would wait for itself.
    private let queueKey = DispatchSpecificKey<Bool>()

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
        try begin(loop, "queue") { () throws(DedupeBufferError) in try claim(marking: target) }
        schedule(on: serial, keepAlive())
    }

    private func claim(marking target: DispatchQueue?) throws(DedupeBufferError) {
        try markedQueue.withLock { marked throws(DedupeBufferError) in
            // Marked before the claim shows: whoever finds a loop knows where not to wait for it.
            if let target { mark(target, true) }
            do throws(DedupeBufferError) {
                try claim()
            } catch {
                if let target, target !== marked { mark(target, false) }
                throw error
            }
            marked = target
        }
    }

    @usableFromInline
    func runForever(_ body: LoopBody) throws(DedupeBufferError) {
        let semaphore = DispatchSemaphore(value: 0)
        try begin(Loop(place: .thread(semaphore), body: body), "thread", claim: claim)
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
        try begin(Loop(place: .task(loop)), "task", claim: claim)
        if state.withLock({ $0.isStopped }) { loop.stop() }
    }

    private func begin(
        _ loop: Loop, _ way: StaticString, claim: () throws(DedupeBufferError) -> Void
    ) throws(DedupeBufferError) {
        do throws(DedupeBufferError) {
            try claim()
        } catch {
            observer?.didNotDeliver(way, error)
            throw error
        }
        // A handler that finishes the buffer here must not wait for a loop that cannot begin before
        // it returns.
        whileInside { observer?.starting(way) }
        let expectant = state.withLock { state in
            state.loop = loop
            return state.takeExpectant()
        }
        for begun in expectant { begun() }
    }

    private func claim() throws(DedupeBufferError) {
        // Entered before the claim shows, so that whoever finds it claimed can wait for the end.
        existing.enter()
        do {
            try core.claim(loop: true)
        } catch {
            existing.leave()
            throw error
        }
    }

    // MARK: - Running

    /// Called by the core, in whichever thread found the loop asleep.
    @usableFromInline
    func wake() {
        switch place {
        case .queue(let serial, _, let keepAlive): schedule(on: serial, keepAlive())
        case .thread(let semaphore): semaphore.signal()
        case .task(let loop): loop.wake()
        case nil: return
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

    /// Delivers some batches. A loop that has ended already is left alone: a wake-up may have
    /// crossed its end.
    private func drain() -> DrainResult {
        whileInside {
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

    /// Marks the thread meanwhile: a finish that is called in `body` does not wait for what can
    /// only come after it.
    @usableFromInline
    func whileInside<R>(_ body: () -> R) -> R { inside.whileInside(body) }

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

    /// Given back, so that what it holds is released outside the lock.
    private func takeLoop() -> Loop? {
        state.withLock { state in
            defer { state.loop = nil }
            return state.loop
        }
    }

    private var place: Place? { state.withLock { $0.loop?.place } }

    /// Whether there is a loop, which clears up when it has nothing else to do.
    var exists: Bool { state.withLock { $0.loop != nil } }

    /// Lets go of the sink and the claim.
    private func end() {
        core.release()
        if case .queue(_, let target?, _) = takeLoop()?.place { mark(target, false) }
    }

    /// The task takes no more.
    @usableFromInline
    func endTask() {
        // Before others can begin, who are not to be taken for this one.
        _ = takeLoop()
        core.release()
        leave()
    }

    /// The claim was given back. Whoever waited for that finds the metrics up to date.
    private func leave() {
        observer?.ended()
        existing.leave()
    }

    /// The core is about to be stopped: a task that finds that it was knows already that it was not
    /// by a finish.
    func stop() {
        let place = state.withLock { state in
            state.isStopped = true
            return state.loop?.place
        }
        if case .task(let loop) = place { loop.stop() }
    }

    /// The core was stopped: no loop can begin any more.
    func stopped() {
        for begun in state.withLock({ $0.takeExpectant() }) { begun() }
    }

    /// The buffer goes away. A loop on a queue sleeps, and goes with it. Tasks take what is left,
    /// now or later.
    func abandon() {
        let place = state.withLock { state in
            state.isAbandoned = true
            return state.loop?.place
        }
        switch place {
        case .queue(_, let target, _):
            _ = takeLoop()
            if let target { mark(target, false) }
            core.stop()
            leave()
        case .task(let loop): loop.wake()
        case .thread, nil: return
        }
    }

    /// Whether a queue that is found empty after this stays so, since the buffer has gone. If not,
    /// a task is woken when it goes.
    @usableFromInline
    var isAbandoned: Bool { state.withLock { $0.isAbandoned } }

    func waitForEnd() {
        existing.wait()
    }

    /// The same, no longer than until `deadline`.
    func waitForEnd(until deadline: ContinuousClock.Instant) {
        // Again where the clocks differ.
        while existing.wait(timeout: .now() + (deadline - .now) / .seconds(1)) == .timedOut && deadline > .now {}
    }

    /// The same, and no longer than until the task is cancelled; no thread waits.
    func end(by deadline: ContinuousClock.Instant?) async {
        await Self.wait(until: deadline) { over in existing.notify(queue: .global(), execute: over) }
    }

    /// Until a loop has begun, or none can any more, no longer than until `deadline`.
    func waitForBeginning(until deadline: ContinuousClock.Instant) {
        let begun = DispatchSemaphore(value: 0)
        whenBegun { begun.signal() }
        while begun.wait(timeout: .now() + (deadline - .now) / .seconds(1)) == .timedOut && deadline > .now {}
    }

    /// The same, and no longer than until the task is cancelled; no thread waits.
    func beginning(by deadline: ContinuousClock.Instant) async {
        await Self.wait(until: deadline, for: whenBegun)
    }

    private func whenBegun(_ body: @escaping @Sendable () -> Void) {
        let isBegun = state.withLock { state in
            if state.loop == nil { state.expectant.append(body) }
            return state.loop != nil
        }
        // Asked after that: whoever stops the core sees to those who wait already.
        if isBegun || core.isStopped { body() }
    }

    private static func wait(
        until deadline: ContinuousClock.Instant?, for event: (@escaping @Sendable () -> Void) -> Void
    ) async {
        let over = Signal()
        event { over.send() }
        let timer = deadline.map { deadline in
            Task {
                try? await Task.sleep(until: deadline, clock: .continuous)
                over.send()
            }
        }
        await over.wait()
        timer?.cancel()
    }

    /// Whether waiting for the loop here would be waiting for oneself.
    var isCurrent: Bool { isCurrentThread || isCurrentTask }

    /// Whether the caller is inside the sink, or what else the loop runs, or on the queue that the
    /// loop needs.
    private var isCurrentThread: Bool {
        inside.containsCurrent || DispatchQueue.getSpecific(key: queueKey) == true
    }

    /// Whether the calling task consumes the events, or is the sink.
    var isCurrentTask: Bool {
        if case .task(let loop) = place { loop.isCurrent } else { false }
    }

    /// Global queues take no marks, and need none: a thread that waits there keeps no other from
    /// running.
    private func mark(_ queue: DispatchQueue, _ value: Bool) {
        guard !queue.label.hasPrefix("com.apple.root.") else { return }
        queue.setSpecific(key: queueKey, value: value ? true : nil)
    }
}

func currentThread() -> UInt {
    #if canImport(Darwin)
        UInt(bitPattern: pthread_self())
    #else
        UInt(pthread_self())
    #endif
}
