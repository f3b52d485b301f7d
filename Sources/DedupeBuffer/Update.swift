// SPDX-License-Identifier: Apache-2.0

/// The meaning of an update to the sink, judged by the updates that the sink got before.
public enum UpdateType: UInt8, Sendable {
    /// Not known. Updates have this type on their way in, and the buffer finds out.
    case unknown = 0
    /// A value of a key that is not live at the sink.
    case new
    /// A value of a key that is live at the sink.
    case updated
    /// The key is gone.
    case deleted
}

extension UpdateType: CustomStringConvertible {
    /// The case's name.
    public var description: String {
        switch self {
        case .unknown: "unknown"
        case .new: "new"
        case .updated: "updated"
        case .deleted: "deleted"
        }
    }
}

/// A new value of a key, or the news that the key is gone.
public struct Update<Key: DedupeKey, Value: Sendable>: Sendable {
    /// The key that has changed.
    public var key: Key
    /// The value. `nil` if the key was deleted.
    public var value: Value?
    /// The datastore's revision, which the buffer carries along. It reads the revision only for
    /// ``DedupeBufferConfiguration/skipsUnchangedRevisions``. 0 means "no revision", as in
    /// deletions that a resync found.
    public var revision: UInt64
    /// Set by the buffer on delivery; ignored on the way in.
    public var updateType: UpdateType

    /// An update of `key` to `value`, or its deletion if `value` is `nil`.
    @inlinable
    public init(key: Key, value: Value?, revision: UInt64 = 0, updateType: UpdateType = .unknown) {
        self.key = key
        self.value = value
        self.revision = revision
        self.updateType = updateType
    }
}

extension Update: Equatable where Key: Equatable, Value: Equatable {}
extension Update: Hashable where Key: Hashable, Value: Hashable {}
