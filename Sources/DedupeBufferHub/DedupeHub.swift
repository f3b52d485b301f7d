// SPDX-License-Identifier: Apache-2.0

public import DedupeBuffer

/// One source of keyed updates, served to many subscribers, each at its own pace.
///
/// A hub is the sink of a `DedupeBuffer`. Each subscriber sees what it would see as the sink of a
/// buffer of its own: the newest value of each key, in the order in which the keys came up, with
/// exact update types, and statuses between them. A hub pays far less for it: values and keys are
/// shared, and a subscriber takes 2 bits for each key and 4 bytes for each pending key and status.
/// The bits are for the largest number of keys that there was at once. While many keys leave that
/// were pending, it may be 8 bytes.
///
/// ```swift
/// let buffer = DedupeBuffer<String, Int>()
/// let hub = DedupeHub<String, Int>()
/// try buffer.startSending(to: hub)
///
/// for try await delivery in hub.subscribe() {         // in each client's task
///     switch delivery.event {
///     case .updates(let updates): for update in updates { print(update.key, update.value as Any) }
///     case .status(let status): print(status)
///     case .restart: break                            // forget everything
///     }
/// }
/// ```
///
/// A subscriber that is slow, or stalled, costs the others nothing, is never cut off, and misses
/// nothing but values that newer ones have replaced.
///
/// ### Threading
///
/// Every method may be called from any thread. Writes come one at a time: a second writer waits for
/// the first one's chunk of updates. No writer waits for a subscriber for longer than one bounded
/// step. No lock is held while user code runs: keys are written as bytes, filters asked, clocks
/// read and values destroyed without one.
///
/// ### Who keeps whom alive
///
/// A hub that is let go finishes: its subscribers get what is left, and their sequences end.
public final class DedupeHub<Key: DedupeKey, Value: Sendable>: SyncerCallbacks, AsyncSyncerCallbacks {
    /// How far a subscriber has come.
    public typealias Position = DedupeHubPosition

    @usableFromInline let core: HubCore
    /// `nil`: neither a logger nor metrics.
    @usableFromInline let observer: HubObserver?

    /// A hub with nothing in it.
    ///
    /// - Precondition: ``DedupeHubConfiguration/validate()`` does not throw. Otherwise the program
    ///   ends, with a message that names the member.
    public init(configuration: DedupeHubConfiguration = .init()) {
        DedupeBufferConfiguration.trapUnlessValid(configuration.validate)
        core = HubCore(configuration)
        observer = HubObserver(core)
    }

    deinit {
        end()
    }

    // MARK: - The source's side

    /// Puts updates, in order. The types that they have are ignored.
    ///
    /// A deletion of a key that has no value changes nothing. After ``finish()`` updates are
    /// dropped.
    ///
    /// - Complexity: O(*n*) plus the keys' lengths, expected, whatever the number of subscribers.
    ///   The lock that subscribers wait for is taken for 256 updates at a time.
    @inlinable
    public func onUpdates(_ updates: [Update<Key, Value>]) {
        var next = 0
        while next < updates.count {
            let write = core.beginWrite()
            while next < updates.count && write.count < HubWrite.limit {
                let update = updates[next]
                update.key.withKeyBytes { write.writeKey($0) }
                write.add(TypedHubBox(update), isDeletion: update.value == nil)
                next += 1
            }
            core.put(write)
        }
        observer?.received(updates: updates.count)
    }

    /// Puts a status, behind everything that came before. A status that equals the latest one is
    /// dropped.
    ///
    /// - Complexity: O(1).
    public func onStatusUpdated(_ status: SyncStatus) {
        core.put(status)
        observer?.received(status)
    }

    /// Nothing comes in any more: subscribers get what is left, without regard to their intervals,
    /// and then their sequences end. What comes in afterwards is dropped. Cannot be undone.
    public func finish() {
        end()
    }

    private func end() {
        guard core.finish() else { return }
        observer?.finished()
    }

    // MARK: - Inspection

    /// What the hub holds, and what became of everything so far.
    ///
    /// - Complexity: O(*n* log *n*) in the number of subscribers. A writer waits for O(1) of it.
    public var statistics: DedupeHubStatistics { core.statistics }
}
