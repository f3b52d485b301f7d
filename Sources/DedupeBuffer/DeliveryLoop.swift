// SPDX-License-Identifier: Apache-2.0

public import Dispatch
internal import Synchronization

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
/// The core decides under its lock whether the loop sleeps, and calls ``wake()`` when a sleeping one has to look again.
/// On a queue, a loop that sleeps is nothing at all: waking schedules a drain. On a thread it waits for a semaphore.
@usableFromInline
final class DeliveryLoop: WakeTarget, @unchecked Sendable {
    // Sendable: `state` is locked; the bodies in it run only for the holder of the core's claim.

    /// Batches per drain, before the queue is given back to others.
    private static let batchesPerDrain = 16

    private enum Place {
        /// Drains run on `serial`, whose target is `target`. `keepAlive` gives what must live as long as they.
        case queue(serial: DispatchQueue, target: DispatchQueue?, keepAlive: () -> AnyObject)
        case thread(DispatchSemaphore)
    }

    private struct Loop {
        let place: Place
        let body: LoopBody
    }

    private let core: Core
    private let label: String
    private let state = Locked<Loop?>(nil)
    /// The queue that the loop needs. Locked while a loop begins, so that one that fails to does not take away the mark
    /// of another on the same queue.
    private let markedQueue = Locked<DispatchQueue?>(nil)
    /// Entered while a loop exists.
    private let existing = DispatchGroup()
    private let deliveringThread = Atomic<UInt>(0)
    /// Marks the queue on which waiting for the loop would wait for itself.
    private let queueKey = DispatchSpecificKey<Bool>()

    init(core: Core, label: String) {
        self.core = core
        self.label = label
        core.owner = self
    }

    // MARK: - Beginning

    @usableFromInline
    func start(
        on target: DispatchQueue?, body: LoopBody, keepAlive: @escaping () -> AnyObject
    ) throws(DedupeBufferError) {
        let serial = DispatchQueue(label: label, target: target)
        let loop = Loop(place: .queue(serial: serial, target: target, keepAlive: keepAlive), body: body)
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
            state.withLock { $0 = loop }
        }
        schedule(on: serial, keepAlive())
    }

    @usableFromInline
    func runForever(_ body: LoopBody) throws(DedupeBufferError) {
        try claim()
        let semaphore = DispatchSemaphore(value: 0)
        state.withLock { $0 = Loop(place: .thread(semaphore), body: body) }
        while true {
            switch drain() {
            case .more: continue
            case .asleep: semaphore.wait()
            case .ended: return
            }
        }
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
        guard let loop = state.withLock({ $0 }) else { return }
        switch loop.place {
        case .queue(let serial, _, let keepAlive): schedule(on: serial, keepAlive())
        case .thread(let semaphore): semaphore.signal()
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

    /// Delivers some batches. A loop that has ended already is left alone: a wake-up may have crossed its end.
    private func drain() -> DrainResult {
        let result = drainSome()
        if result == .ended { existing.leave() }
        return result
    }

    private func drainSome() -> DrainResult {
        guard let body = state.withLock({ $0?.body }) else { return .asleep }
        deliveringThread.store(currentThread(), ordering: .relaxed)
        defer { deliveringThread.store(0, ordering: .relaxed) }
        for _ in 0..<Self.batchesPerDrain {
            switch core.take() {
            case .batch: body.deliver()
            case .empty: if !body.collect() { return .asleep }
            case .stopped:
                end()
                return .ended
            }
        }
        return .more
    }

    // MARK: - Ending

    /// Given back, so that what it holds is released outside the lock.
    private func takeLoop() -> Loop? {
        state.withLock { loop in
            defer { loop = nil }
            return loop
        }
    }

    /// Whether there is a loop, which clears up when it has nothing else to do.
    var exists: Bool { state.withLock { $0 != nil } }

    /// Lets go of the sink and the claim.
    private func end() {
        core.release()
        if case .queue(_, let target?, _) = takeLoop()?.place { mark(target, false) }
    }

    /// The buffer goes away; a loop that sleeps goes with it.
    func abandon() {
        guard let loop = takeLoop() else { return }
        if case .queue(_, let target?, _) = loop.place { mark(target, false) }
        existing.leave()
    }

    func waitForEnd() {
        existing.wait()
    }

    /// Whether the caller is inside the sink, or on the queue that the loop needs.
    var isCurrent: Bool {
        deliveringThread.load(ordering: .relaxed) == currentThread() || DispatchQueue.getSpecific(key: queueKey) == true
    }

    /// Global queues take no marks, and need none: a thread that waits there keeps no other from running.
    private func mark(_ queue: DispatchQueue, _ value: Bool) {
        guard !queue.label.hasPrefix("com.apple.root.") else { return }
        queue.setSpecific(key: queueKey, value: value ? true : nil)
    }
}

private func currentThread() -> UInt {
    #if canImport(Darwin)
        UInt(bitPattern: pthread_self())
    #else
        UInt(pthread_self())
    #endif
}
