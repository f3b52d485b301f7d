// SPDX-License-Identifier: Apache-2.0

/// One consumer's turn: from its claim to its end, an event at a time.
///
/// What was taken and not handed out goes back to the queue at the end, whichever way that comes.
@usableFromInline
final class EventTurn<Key: DedupeKey, Value: Sendable> {
    @usableFromInline
    enum State {
        case new, open, ended
    }

    @usableFromInline let storage: Storage<Key, Value>
    @usableFromInline let loop: TaskLoop
    @usableFromInline var state = State.new
    /// The items of the latest event end here; those from here on were not handed out.
    @usableFromInline var position = 0
    /// The items of the latest event begin here.
    @usableFromInline var start = 0
    /// Whether a call is asking for an event. A second call at the same time, as an actor can make
    /// it, is refused.
    @usableFromInline var isAsked = false
    /// The keys that the sink has failed on; `nil`: there were none yet.
    @usableFromInline var backOff: KeyBackOff?
    /// What the sink threw last. `nil` after a success, and when nothing is left that it failed on.
    @usableFromInline var failure: (any Error)?
    /// How many batches were taken since others could run.
    @usableFromInline var batches = 0
    /// When the latest event was handed out, until the consumer is done with it.
    @usableFromInline var handedOut: ContinuousClock.Instant?

    @usableFromInline
    init(_ storage: Storage<Key, Value>) {
        self.storage = storage
        loop = TaskLoop()
    }

    @inlinable
    deinit {
        end()
    }

    /// Claims the right to take. Once.
    @usableFromInline
    func begin() throws(DedupeBufferError) {
        state = .ended
        try storage.delivery.begin(loop)
        state = .open
    }

    /// The next event; by asking, the caller is done with the one before. `nil`: the turn has
    /// ended, because the buffer has stopped or the task was cancelled.
    @inlinable
    func next(isolation: isolated (any Actor)? = #isolation) async -> DedupeBufferEvent<Key, Value>? {
        while true {
            switch storage.delivery.selfWait.whileInside(step) {
            case .event(let event): return event
            case .busy: await Task.yield()
            case .asleep: await loop.sleep()
            case .ended: return nil
            }
        }
    }

    @usableFromInline
    enum Step {
        case event(DedupeBufferEvent<Key, Value>)
        /// There is more to do, and other tasks must get their turn.
        case busy
        case asleep, ended
    }

    /// What can be done without waiting.
    @inlinable
    func step() -> Step {
        endEvent()
        var collected = 0
        var isLastLook = false
        while state == .open && !Task.isCancelled {
            if position < storage.core.taken.count { return .event(takeEvent()) }
            endBatch()
            let taken = storage.delivery.take(except: backOff)
            if case .empty = taken { failure = nil }
            switch taken {
            case .batch:
                batches += 1
                if batches == 16 { return busy() }
            case .empty where storage.core.collect(Storage<Key, Value>.destroy),
                .later where storage.core.collect(Storage<Key, Value>.destroy):
                collected += 1
                if collected == 16 { return busy() }
            case .later(let pause): return asleep(for: pause)
            case .empty where isLastLook: end()
            case .empty where storage.delivery.isAbandoned: isLastLook = true
            case .empty: return asleep(for: nil)
            case .stopped: end()
            }
        }
        end()
        return .ended
    }

    @inlinable
    func busy() -> Step {
        batches = 0
        return .busy
    }

    @inlinable
    func asleep(for pause: DeliveryLoop.Pause?) -> Step {
        batches = 0
        if let pause { storage.delivery.sleep(for: pause) }
        return .asleep
    }

    /// The latest event was not dealt with: it and what comes after it in its batch go back to the
    /// queue.
    @inlinable
    func giveBack(_ event: DedupeBufferEvent<Key, Value>) {
        endEvent()
        if case .updates(let updates) = event { restore(updates) }
        storage.putBack(from: start)
        (start, position) = (0, 0)
        storage.delivery.observer?.report()
    }

    /// What was not handed out goes back, and others may claim.
    ///
    /// Wherever the iterator is let go: values that end here, and handlers, may finish the buffer,
    /// which waits for this.
    @inlinable
    func end() {
        defer { state = .ended }
        guard state == .open else { return }
        storage.delivery.selfWait.whileInside {
            endEvent()
            storage.putBack(from: position)
            storage.delivery.endTask()
        }
    }

    // MARK: - Implementation

    /// Moves the next event out of the batch.
    @inlinable
    func takeEvent() -> DedupeBufferEvent<Key, Value> {
        defer { handedOut = .now }
        let batch = storage.core.taken
        start = position
        if let status = batch.status(start) {
            position += 1
            return .status(status)
        }
        let length = batch.runLength(from: start)
        position += length
        return .updates(DedupeBuffer<Key, Value>.updates(of: batch, from: start, count: length))
    }

    /// The consumer is done with the latest event.
    @inlinable
    func endEvent() {
        guard let handedOut else { return }
        storage.delivery.sinkReturned(calledAt: handedOut)
        self.handedOut = nil
    }

    @inlinable
    func endBatch() {
        storage.delivery.endBatch()
        (start, position) = (0, 0)
    }

    /// Puts the latest event's updates back into the slots that they were moved out of.
    @inlinable
    func restore(_ updates: [Update<Key, Value>]) {
        for (i, update) in zip(start..<position, updates) { restore(update, at: i) }
    }

    @inlinable
    func restore(_ update: Update<Key, Value>, at i: Int) {
        storage.core.taken.slots[i]?.initialize(Payload(revision: update.revision, value: update.value))
    }
}
