// SPDX-License-Identifier: Apache-2.0

public import DedupeBuffer

/// Updates that a hub delivers: a collection of `Update`, never empty.
///
/// The collection refers to the values in the hub's table. An element is made when it is asked for.
public struct DedupeHubUpdates<Key: DedupeKey, Value: Sendable>: RandomAccessCollection, Sendable {
    public typealias Element = Update<Key, Value>
    public typealias Index = Int
    public typealias SubSequence = Slice<Self>

    @usableFromInline let items: ArraySlice<HubItem>

    init(items: ArraySlice<HubItem>) {
        self.items = items
    }

    @inlinable public var startIndex: Int { items.startIndex }
    @inlinable public var endIndex: Int { items.endIndex }

    /// The update at an index.
    ///
    /// - Complexity: O(1).
    @inlinable
    public subscript(position: Int) -> Update<Key, Value> {
        var update = box(position).update
        update.updateType = items[position].type
        return update
    }

    /// The encoding of one update, from the hub's cache if a subscriber has needed it before.
    ///
    /// - Complexity: O(1) in the number of subscribers; the first call for a version of a key makes
    ///   the encoding.
    @inlinable
    public func encoded<Encoded>(at position: Int, as format: DedupeHubFormat<Key, Value, Encoded>) -> Encoded {
        format.encoded(box(position), items[position].type)
    }

    /// The encodings of all updates, in order.
    @inlinable
    public func encoded<Encoded>(as format: DedupeHubFormat<Key, Value, Encoded>) -> [Encoded] {
        indices.map { encoded(at: $0, as: format) }
    }

    @inlinable
    func box(_ position: Int) -> TypedHubBox<Key, Value> {
        unsafeDowncast(items[position].box.unsafelyUnwrapped, to: TypedHubBox<Key, Value>.self)
    }
}

/// What was taken for a subscriber: a version of a key, or a status.
@usableFromInline
struct HubItem: Sendable {
    /// `nil`: a status.
    @usableFromInline let box: HubBox?
    @usableFromInline let type: UpdateType
    let status: SyncStatus

    init(_ box: HubBox, _ type: UpdateType) {
        (self.box, self.type, status) = (box, type, .waitForDatastore)
    }

    init(_ status: SyncStatus) {
        (box, type, self.status) = (nil, .unknown, status)
    }
}
