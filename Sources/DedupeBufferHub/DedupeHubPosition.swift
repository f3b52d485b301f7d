// SPDX-License-Identifier: Apache-2.0

/// How far a subscriber has come in a hub's stream. A subscriber that comes back with its position
/// gets what changed since then.
///
/// Each ``DedupeHubDelivery`` has the position that its receiver has reached with it. The text
/// form, ``description``, suits the `id` of Server-Sent Events:
///
/// ```swift
/// let header = "8d1f20c4a96b5e37-120"                  // of a request: Last-Event-ID
/// let subscription = hub.subscribe(from: DedupeHubPosition(header))
/// ```
///
/// A position is for those who consume a stream with the same filter.
public struct DedupeHubPosition: Sendable, Hashable {
    /// The hub's life. A position of another life cannot be resumed from.
    public let epoch: UInt64
    /// Everything up to this revision of the hub has been delivered.
    public let revision: UInt64
    /// Nothing later than this revision has been delivered. Greater than ``revision`` while the
    /// subscriber is in the middle of what it has to catch up with.
    public let horizon: UInt64

    init(epoch: UInt64, revision: UInt64, horizon: UInt64) {
        (self.epoch, self.revision, self.horizon) = (epoch, revision, horizon)
    }
}

extension DedupeHubPosition: LosslessStringConvertible {
    /// The epoch as 16 hexadecimal digits, the revision, and the horizon if it is another number:
    /// `8d1f20c4a96b5e37-120` or `8d1f20c4a96b5e37-120-431`.
    public var description: String {
        let digits = String(epoch, radix: 16)
        let text = String(repeating: "0", count: 16 - digits.count) + digits + "-\(revision)"
        return horizon == revision ? text : text + "-\(horizon)"
    }

    /// The position with this text form. `nil` if the text is not exactly what ``description``
    /// gives for a position.
    ///
    /// Texts come from clients, and may be anything: no text ends the program.
    public init?(_ description: String) {
        guard description.utf8.count <= 16 + 2 * 21 else { return nil }
        let parts = description.split(separator: "-", omittingEmptySubsequences: false)
        guard 2...3 ~= parts.count, parts[0].utf8.count == 16, let epoch = UInt64(parts[0], radix: 16),
            let revision = UInt64(parts[1]), let horizon = UInt64(parts[parts.count - 1]), horizon >= revision
        else { return nil }
        self.init(epoch: epoch, revision: revision, horizon: horizon)
        // No signs, leading zeros, capitals or needless parts. Bytes, because `==` takes some
        // different spellings for equal.
        guard self.description.utf8.elementsEqual(description.utf8) else { return nil }
    }
}
