// SPDX-License-Identifier: Apache-2.0

internal import Dispatch
internal import Synchronization

/// Tells whether a caller that waits for a delivery loop would wait for itself.
///
/// There are two ways, and both are certain. A task-local value names the calls that are going on
/// around the caller: the loop's own steps, and the calls of a sink that is `async`. A mark on the
/// delivery queue tells work on that queue, which the loop cannot overtake. Every other caller
/// waits.
@usableFromInline
final class SelfWait: Sendable {
    /// A call that the loop is waiting for. The loop goes on after it.
    ///
    /// A task copies the task-local values of the code that created it, and may outlive the call.
    /// So the call says itself whether it is still going on.
    private final class Call: Sendable {
        let owner: SelfWait
        let isOfATask: Bool
        /// The calls of other loops around this one.
        let outer: Call?
        private let isActive = Atomic<Bool>(true)

        init(of owner: SelfWait, isOfATask: Bool, in outer: Call?) {
            self.owner = owner
            self.isOfATask = isOfATask
            self.outer = outer
        }

        /// Relaxed: the code inside the call has begun after its creation and returns before its
        /// end. For other code either answer is right.
        func end() { isActive.store(false, ordering: .relaxed) }

        func isInside(_ owner: SelfWait, onlyOfATask: Bool) -> Bool {
            if self.owner === owner && (isOfATask || !onlyOfATask) && isActive.load(ordering: .relaxed) {
                return true
            }
            return outer?.isInside(owner, onlyOfATask: onlyOfATask) ?? false
        }
    }

    @TaskLocal private static var current: Call?

    private let queueKey = DispatchSpecificKey<Bool>()
    /// The queue of the loop, until the loop ends. Locked while a loop begins, so that one that is
    /// refused does not remove the mark of another loop on the same queue.
    private let markedQueue = Locked<DispatchQueue?>(nil)

    // MARK: - Calls

    /// Runs a step of the loop: a synchronous sink, a handler, or the destruction of values.
    @usableFromInline
    func whileInside<R>(_ body: () -> R) -> R {
        let call = Call(of: self, isOfATask: false, in: Self.current)
        defer { call.end() }
        return Self.$current.withValue(call, operation: body)
    }

    /// Runs one call of an `async` sink.
    @usableFromInline
    func whileInSink<R>(
        isolation: isolated (any Actor)? = #isolation, _ body: () async throws -> R
    ) async throws -> R {
        let call = Call(of: self, isOfATask: true, in: Self.current)
        defer { call.end() }
        return try await Self.$current.withValue(call, operation: body)
    }

    /// Whether the calling thread or task is inside such a call, or on the marked queue.
    var isCurrent: Bool {
        DispatchQueue.getSpecific(key: queueKey) == true
            || Self.current?.isInside(self, onlyOfATask: false) ?? false
    }

    /// Whether the calling task is inside a call of an `async` sink. A task that a synchronous sink
    /// has begun is not: that sink cannot await it.
    var isCurrentTask: Bool { Self.current?.isInside(self, onlyOfATask: true) ?? false }

    // MARK: - The delivery queue

    /// Marks the queue of a loop that begins, before its claim becomes visible: a caller that sees
    /// the claim also sees the mark.
    func marking(_ target: DispatchQueue?, claim: () throws(DedupeBufferError) -> Void) throws(DedupeBufferError) {
        try markedQueue.withLock { marked throws(DedupeBufferError) in
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

    /// The loop on this queue has ended.
    func unmark(_ queue: DispatchQueue) {
        markedQueue.withLock { marked in
            mark(queue, false)
            marked = nil
        }
    }

    /// A global queue takes no mark, and needs none: a thread that waits on it does not keep other
    /// work on it from running.
    private func mark(_ queue: DispatchQueue, _ value: Bool) {
        guard !queue.label.hasPrefix("com.apple.root.") else { return }
        queue.setSpecific(key: queueKey, value: value ? true : nil)
    }
}
