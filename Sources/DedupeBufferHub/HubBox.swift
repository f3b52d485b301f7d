// SPDX-License-Identifier: Apache-2.0

public import DedupeBuffer
internal import Synchronization

/// One version of one key, shared by the table and by all deliveries of it.
///
/// It also carries what formats have made of it. So an encoding ends with the last reference to its
/// version.
@usableFromInline
class HubBox: @unchecked Sendable {
    // Sendable: the subclass's members do not change, and the list is atomic.

    /// The latest encoding; each holds the one before.
    private let encodings = Atomic<Unmanaged<Encoding>?>(nil)

    @usableFromInline
    init() {}

    deinit {
        encodings.load(ordering: .acquiring)?.release()
    }

    /// What a format made of one version of a key.
    @usableFromInline
    class Encoding: @unchecked Sendable {
        // Sendable: `next` is set before the encoding is published, and does not change afterwards.

        /// The format, and what the format distinguishes.
        let tag: UInt64
        fileprivate var next: Encoding?

        @usableFromInline
        init(tag: UInt64) { self.tag = tag }

        /// The encoding with this tag, beginning with this one, as far as `end`.
        fileprivate func first(tag: UInt64, before end: Encoding?) -> Encoding? {
            var encoding: Encoding? = self
            while let current = encoding, current !== end {
                if current.tag == tag { return current }
                encoding = current.next
            }
            return nil
        }
    }

    /// The encoding with this tag.
    @usableFromInline
    func encoding(tag: UInt64) -> Encoding? {
        // Acquire, with the release in `add`: the encoding's members.
        encodings.load(ordering: .acquiring)?.takeUnretainedValue().first(tag: tag, before: nil)
    }

    /// Adds an encoding. If another thread was quicker, its encoding is returned.
    @usableFromInline
    func add(_ encoding: Encoding) -> Encoding {
        var known: Encoding?
        while true {
            let latest = encodings.load(ordering: .acquiring)
            let next = latest?.takeUnretainedValue()
            if let other = next?.first(tag: encoding.tag, before: known) { return other }
            known = next
            // The list's own reference of `next` moves to the encoding.
            encoding.next = next
            let exchanged = encodings.compareExchange(
                expected: latest, desired: .passRetained(encoding), ordering: .acquiringAndReleasing)
            if exchanged.exchanged {
                latest?.release()
                return encoding
            }
            Unmanaged.passUnretained(encoding).release()
        }
    }
}

/// A version with its types.
@usableFromInline
final class TypedHubBox<Key: DedupeKey, Value: Sendable>: HubBox, @unchecked Sendable {
    /// The update as it came in. A deletion has no value.
    @usableFromInline let update: Update<Key, Value>

    @usableFromInline
    init(_ update: Update<Key, Value>) {
        self.update = update
        super.init()
    }
}

/// An encoding with its type.
@usableFromInline
final class TypedEncoding<Encoded: Sendable>: HubBox.Encoding, @unchecked Sendable {
    @usableFromInline let encoded: Encoded

    @usableFromInline
    init(tag: UInt64, _ encoded: Encoded) {
        self.encoded = encoded
        super.init(tag: tag)
    }
}
