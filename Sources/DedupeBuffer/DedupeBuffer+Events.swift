// SPDX-License-Identifier: Apache-2.0

/// An event that a buffer hands to its consumer.
public enum DedupeBufferEvent<Key: DedupeKey, Value: Sendable>: Sendable {
    /// Keys changed. Never empty.
    case updates([Update<Key, Value>])
    /// The source's status changed. Every update that was received before it has been handed out,
    /// or was replaced.
    case status(SyncStatus)
}

extension DedupeBufferEvent: Equatable where Key: Equatable, Value: Equatable {}
extension DedupeBufferEvent: Hashable where Key: Hashable, Value: Hashable {}

/// A buffer's events, for one consumer at a time; see ``DedupeBuffer/events``.
public struct DedupeBufferEvents<Key: DedupeKey, Value: Sendable>: AsyncSequence, Sendable {
    public typealias Element = DedupeBufferEvent<Key, Value>
    public typealias Failure = DedupeBufferError

    @usableFromInline let storage: Storage<Key, Value>

    @usableFromInline
    init(storage: Storage<Key, Value>) {
        self.storage = storage
    }

    /// An iterator, which begins to consume with its first `next()`.
    @inlinable
    public func makeAsyncIterator() -> Iterator {
        Iterator(turn: EventTurn(storage))
    }

    /// Consumes a buffer's events. Copies of it are one consumer.
    public struct Iterator: AsyncIteratorProtocol {
        @usableFromInline let turn: EventTurn<Key, Value>

        @usableFromInline
        init(turn: EventTurn<Key, Value>) {
            self.turn = turn
        }

        /// The next event, as soon as there is one. A caller that asks for it has dealt with the
        /// event before.
        ///
        /// No thread waits meanwhile.
        ///
        /// - Returns: `nil` after ``DedupeBuffer/stop()`` or `finish()`, or when the task was
        ///   cancelled.
        /// - Throws: ``DedupeBufferError/alreadySending``. The first call throws it if another
        ///   consumer or loop delivers. Any call throws it if another call of this iterator, or of
        ///   a copy, has not returned.
        /// - Complexity: O(*n*) in the number of the event's updates.
        @inlinable
        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(DedupeBufferError) -> DedupeBufferEvent<Key, Value>? {
            guard !turn.isAsked else { throw .alreadySending }
            turn.isAsked = true
            defer { turn.isAsked = false }
            if turn.state == .new && !Task.isCancelled {
                do throws(DedupeBufferError) {
                    try turn.begin()
                } catch .stopped {
                    return nil
                }
            }
            return await turn.next(isolation: actor)
        }
    }
}

extension DedupeBuffer {
    /// The events, as they come, for one consumer at a time:
    ///
    /// ```swift
    /// for try await event in buffer.events {
    ///     switch event {
    ///     case .updates(let updates): ...
    ///     case .status(let status): ...
    ///     }
    /// }
    /// ```
    ///
    /// The consumer's first `next()` claims the buffer: until its end a second consumer, or a loop,
    /// gets ``DedupeBufferError/alreadySending``. After ``stop()`` the sequence ends when the batch
    /// that was taken has been handed out. After `finish()` it ends when everything that was
    /// received before has been handed out.
    ///
    /// The sequence also ends when the consuming task is cancelled, and when the consumer releases
    /// its iterator, as `break` does. Events that were taken and not handed out then go back to the
    /// front of the queue, as if they had never been taken. The next consumer gets these, or newer
    /// updates of their keys.
    ///
    /// ### Lifetime
    ///
    /// Neither the sequence nor a consumer keeps the buffer alive. After the buffer was released,
    /// the consumer, or the next one to begin, still gets everything that is pending, and then the
    /// sequence ends. If there is no consumer, pending events are destroyed together with the last
    /// of the sequences and iterators.
    ///
    /// - Important: an event counts as handled when the consumer asks for the next one. For a
    ///   consumer that may fail, and must then see the event again, use ``run(sink:)``.
    ///
    /// ### Finishing
    ///
    /// The consumer may call any method of the buffer, except that it must not wait for its own
    /// end. `finish()` returns when the consumer has asked for more and there is no more. So a
    /// consumer that awaits `finish()` with an event in hand waits for itself, and nothing detects
    /// that. The consumer can let go of its iterator first, as `break` does; or call ``stop()`` or
    /// `finish(deadline:)`; or begin a task that finishes the buffer, and not wait for that task:
    ///
    /// ```swift
    /// for try await event in buffer.events {
    ///     if case .status(.inSync) = event { Task { await buffer.finish() } }
    /// }
    /// ```
    @inlinable
    public var events: DedupeBufferEvents<Key, Value> { DedupeBufferEvents(storage: storage) }
}
