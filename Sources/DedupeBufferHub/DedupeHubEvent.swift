// SPDX-License-Identifier: Apache-2.0

public import DedupeBuffer

/// What a hub tells a subscriber.
public enum DedupeHubEvent<Key: DedupeKey, Value: Sendable>: Sendable {
    /// Keys changed. Never empty.
    case updates(DedupeHubUpdates<Key, Value>)
    /// The source's status changed; what was received before it has been delivered.
    case status(SyncStatus)
    /// The subscriber's position cannot be resumed from. The subscriber forgets all keys and
    /// values; the full state follows, and then the status, also if the source waits.
    case restart
}

/// An event, and the position that its receiver has reached when it has dealt with the event.
public struct DedupeHubDelivery<Key: DedupeKey, Value: Sendable>: Sendable {
    public let event: DedupeHubEvent<Key, Value>
    public let position: DedupeHubPosition

    init(_ event: DedupeHubEvent<Key, Value>, _ position: DedupeHubPosition) {
        (self.event, self.position) = (event, position)
    }
}
