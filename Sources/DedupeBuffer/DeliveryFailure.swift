// SPDX-License-Identifier: Apache-2.0

/// What an ``AsyncSyncerCallbacks`` throws when it could not deal with some of the updates.
///
/// ``DedupeBuffer/run(sink:)`` puts back only the updates of these keys. All other updates of the
/// call count as delivered, and delivery goes on without a pause.
///
/// ```swift
/// func onUpdates(_ updates: [Update<String, Route>]) async throws {
///     var failed: [String] = []
///     for update in updates {
///         do { try await table.apply(update) } catch { failed.append(update.key) }
///     }
///     if !failed.isEmpty { throw DeliveryFailure(keys: failed) }
/// }
/// ```
///
/// ### What happens to a key
///
/// The update of the key is pending again, as if it had never been taken. It is not delivered
/// before its back-off is over: the first wait takes the retry policy's initial delay, and each
/// further one is longer, up to the policy's maximum. The policy's limit of attempts does not
/// count. Other keys, and statuses, do not wait for it, so a status may overtake it. A newer update
/// of the key takes its place, with the type that is right for what the sink has accepted so far,
/// and waits for the same time. A restart drops it like everything that is pending. A success ends
/// the key's back-off. When `run(sink:)` ends, the update stays in the queue, and the next consumer
/// gets it at once.
///
/// After each failure of a key, the sink's `onFailure(of:failures:)` decides whether the buffer
/// tries again or drops the update. At most 1,000 keys wait at a time; when more fail,
/// the whole call counts as failed. Each batch takes the updates of waiting keys and puts them back
/// at once, so for a moment ``DedupeBufferStatistics/pendingKeys`` does not count them.
public struct DeliveryFailure<Key: DedupeKey>: Error {
    /// The keys whose updates have to be tried again. A key that was not in the call is ignored.
    public var keys: [Key]
    /// Why, for the log.
    public var cause: (any Error)?

    public init(keys: [Key], cause: (any Error)? = nil) {
        self.keys = keys
        self.cause = cause
    }
}

extension DeliveryFailure: CustomStringConvertible {
    /// The number of keys, and the cause. The keys themselves are not in it.
    public var description: String {
        "delivery of \(keys.count) keys failed" + (cause.map { ": \($0)" } ?? "")
    }
}

/// What becomes of an update that the sink has failed on.
public enum FailedUpdateAction: Sendable {
    /// The update is tried again, after the key's back-off.
    case retry
    /// The sink goes without the update, which counts in ``DedupeBufferStatistics/dropped``. For
    /// the types of later updates, the sink has had it.
    case drop
}
