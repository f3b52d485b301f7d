// SPDX-License-Identifier: Apache-2.0

/// The error of an ``AsyncSyncerCallbacks`` that has failed on some of the updates only.
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
/// apply. Other keys, and statuses, do not wait for it, so a status may overtake it. A newer update
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
    /// The keys whose updates the buffer must try again. A key that was not in the call is ignored.
    public var keys: [Key]
    /// The cause, for the log.
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

/// How the buffer goes on with an update that the sink has failed on.
public enum FailedUpdateAction: Sendable {
    /// The update is tried again, after the key's back-off.
    case retry
    /// The buffer drops the update, and counts it in ``DedupeBufferStatistics/dropped``. Later
    /// updates have the types that they would have if the sink had got it.
    case drop
}
