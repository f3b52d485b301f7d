// SPDX-License-Identifier: Apache-2.0

public import DedupeBuffer
internal import Synchronization

/// How updates look on a wire: made once for each version of a key, and shared by all subscribers.
///
/// ```swift
/// let line = DedupeHubFormat<String, Int, [UInt8]> { update in
///     Array("\(update.key) \(update.value.map(String.init) ?? "-")\n".utf8)
/// }
/// for line in updates.encoded(as: line) { connection.write(line) }
/// ```
///
/// An encoding is kept with the version of the key that it was made of, and ends with it. So a
/// format takes memory for at most one version of each key, besides those that are being delivered;
/// for at most two encodings of each if it ``readsUpdateType``. A program makes a format once, and
/// not for each subscriber.
public final class DedupeHubFormat<Key: DedupeKey, Value: Sendable, Encoded: Sendable>: Sendable {
    /// Whether the encoding depends on ``/DedupeBuffer/Update/updateType``.
    public let readsUpdateType: Bool
    @usableFromInline let encode: @Sendable (Update<Key, Value>) -> Encoded
    /// The number of the format, times four.
    @usableFromInline let tag: UInt64

    /// A format.
    ///
    /// - Parameters:
    ///   - readsUpdateType: whether `encode` distinguishes new values from updated ones. If not,
    ///     the update that it gets has the type `unknown`, or `deleted` if it has no value.
    ///   - encode: makes the encoding of an update. It is called by a thread that delivers, with no
    ///     lock held. Two threads that need an encoding at the same time may both call it, and then
    ///     use the same result.
    public init(readsUpdateType: Bool = false, encode: @escaping @Sendable (Update<Key, Value>) -> Encoded) {
        self.readsUpdateType = readsUpdateType
        self.encode = encode
        tag = nextFormat.add(4, ordering: .relaxed).newValue
    }

    /// The encoding of a version, from the version or made now.
    @inlinable
    func encoded(_ box: TypedHubBox<Key, Value>, _ type: UpdateType) -> Encoded {
        let type = readsUpdateType || type == .deleted ? type : .unknown
        let tag = tag | UInt64(type.rawValue)
        if let known = box.encoding(tag: tag) {
            return unsafeDowncast(known, to: TypedEncoding<Encoded>.self).encoded
        }
        var update = box.update
        update.updateType = type
        let made = TypedEncoding(tag: tag, encode(update))
        return unsafeDowncast(box.add(made), to: TypedEncoding<Encoded>.self).encoded
    }
}

private let nextFormat = Atomic<UInt64>(0)
