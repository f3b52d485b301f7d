// SPDX-License-Identifier: Apache-2.0

#if Server

public import DedupeBuffer
public import DedupeBufferHub
public import NIOCore

/// A hub as the server sees it: without the types of its keys and values.
public protocol ServedFeed: Sendable {
    /// - Parameter onReady: see `DedupeHub.subscribe`.
    func subscribe(
        _ request: StreamRequest, as format: WireFormat, onReady: @escaping @Sendable () -> Void
    ) -> any ServedSubscription

    /// The present state, for keys that begin with one of the prefixes.
    func snapshot(prefixes: [[UInt8]]) async -> Snapshot

    var statistics: DedupeHubStatistics { get }
}

/// What one client gets.
public protocol ServedSubscription: AnyObject, Sendable {
    /// Writes the next batch to the text, if there is one.
    func take(into text: inout ByteBuffer) -> ServedTaken
    func cancel()
    /// For a heartbeat.
    var position: String { get }
    var statistics: DedupeHubSubscriptionStatistics { get }
}

/// What there was to take.
public enum ServedTaken: Sendable, Equatable {
    /// - Parameter updates: how many updates were written.
    case batch(updates: Int)
    case nothing
    case later(Duration)
    case finished
}

/// How the keys and values of a hub are read and written.
public struct ServedTypes<Key: DedupeKey & Hashable, Value: Sendable>: Sendable {
    /// The object of an update on one line, without the newline; see ``HubFeed/init(_:types:)``.
    public var envelope: @Sendable (Update<Key, Value>) -> [UInt8]
    public var hasPrefix: @Sendable (Key, [UInt8]) -> Bool

    public init(
        envelope: @escaping @Sendable (Update<Key, Value>) -> [UInt8],
        hasPrefix: @escaping @Sendable (Key, [UInt8]) -> Bool
    ) {
        (self.envelope, self.hasPrefix) = (envelope, hasPrefix)
    }
}

/// A hub, with the way its updates look on the wire.
///
/// Each version of a key is encoded once for all clients.
public final class HubFeed<Key: DedupeKey & Hashable, Value: Sendable>: ServedFeed {
    @usableFromInline let hub: DedupeHub<Key, Value>
    @usableFromInline let format: DedupeHubFormat<Key, Value, [UInt8]>
    @usableFromInline let hasPrefix: @Sendable (Key, [UInt8]) -> Bool

    /// - Parameter types: of an update it makes an object, which ends with a brace. Line breaks in
    ///   it are replaced by spaces, because JSON has them only between tokens.
    @inlinable
    public init(_ hub: DedupeHub<Key, Value>, types: ServedTypes<Key, Value>) {
        self.hub = hub
        hasPrefix = types.hasPrefix
        format = DedupeHubFormat(readsUpdateType: true) { update in
            var bytes = types.envelope(update)
            for index in bytes.indices where bytes[index] == UInt8(ascii: "\n") || bytes[index] == UInt8(ascii: "\r") {
                bytes[index] = UInt8(ascii: " ")
            }
            return bytes
        }
    }

    @inlinable
    public func subscribe(
        _ request: StreamRequest, as wire: WireFormat, onReady: @escaping @Sendable () -> Void
    ) -> any ServedSubscription {
        let subscription = hub.subscribe(
            from: request.position, where: filter(request.prefixes), minimumInterval: request.interval,
            onReady: onReady)
        return HubFeedSubscription(subscription, format, wire, suffix: StreamPositionSuffix(request.prefixes).text)
    }

    @usableFromInline
    func filter(_ prefixes: [[UInt8]]) -> (@Sendable (Key) -> Bool)? {
        if prefixes.isEmpty { return nil }
        return { [hasPrefix] key in prefixes.contains { hasPrefix(key, $0) } }
    }

    public var statistics: DedupeHubStatistics { hub.statistics }

    /// - Complexity: O(*n*) in the number of keys. Other tasks get their turn in between.
    public func snapshot(prefixes: [[UInt8]]) async -> Snapshot {
        let subscription = hub.subscribe(where: filter(prefixes), onReady: {})
        defer { subscription.cancel() }
        var keys: [Key: Int] = [:]
        var snapshot = Snapshot()
        // With a source that is faster than this task there would always be something more. So this
        // ends with what was there at the beginning.
        let revision = hub.statistics.revision
        takes: while subscription.position.revision < revision, let taken = try? subscription.take() {
            switch taken {
            case .batch(let deliveries): snapshot.add(deliveries, &keys, format)
            // The hub has many keys, or the filter does not want what comes in.
            case .later: break
            case .nothing, .finished: break takes
            }
            await Task.yield()
        }
        snapshot.position = "\(subscription.position)" + StreamPosition.suffix(of: prefixes)
        return snapshot
    }
}

extension Snapshot {
    /// Puts deliveries into their places.
    ///
    /// - Parameter places: of the keys among the entries.
    fileprivate mutating func add<Key: DedupeKey & Hashable, Value: Sendable>(
        _ deliveries: [DedupeHubDelivery<Key, Value>], _ places: inout [Key: Int],
        _ format: DedupeHubFormat<Key, Value, [UInt8]>
    ) {
        for delivery in deliveries {
            switch delivery.event {
            case .updates(let updates):
                for index in updates.indices {
                    let envelope = updates[index].updateType == .deleted ? nil : updates.encoded(at: index, as: format)
                    put(envelope, at: &places[updates[index].key])
                }
            case .status(let status): self.status = status
            case .restart: break
            }
        }
    }

    private mutating func put(_ envelope: [UInt8]?, at place: inout Int?) {
        if let place {
            entries[place] = envelope
        } else {
            place = entries.count
            entries.append(envelope)
        }
    }
}

/// The text behind a position; see ``StreamPosition``.
@usableFromInline
struct StreamPositionSuffix {
    @usableFromInline let text: String

    @usableFromInline
    init(_ prefixes: [[UInt8]]) {
        text = StreamPosition.suffix(of: prefixes)
    }
}

/// One client's part of a hub. Its event loop calls it.
@usableFromInline
final class HubFeedSubscription<Key: DedupeKey & Hashable, Value: Sendable>: ServedSubscription {
    @usableFromInline let subscription: DedupeHubSubscription<Key, Value>
    @usableFromInline let format: DedupeHubFormat<Key, Value, [UInt8]>
    @usableFromInline let wire: WireFormat
    @usableFromInline let suffix: String

    @inlinable
    init(
        _ subscription: DedupeHubSubscription<Key, Value>, _ format: DedupeHubFormat<Key, Value, [UInt8]>,
        _ wire: WireFormat, suffix: String
    ) {
        (self.subscription, self.format, self.wire, self.suffix) = (subscription, format, wire, suffix)
    }

    @inlinable
    public func take(into text: inout ByteBuffer) -> ServedTaken {
        let taken: DedupeHubSubscription<Key, Value>.Taken
        do {
            taken = try subscription.take()
        } catch {
            fatalError("only the client's event loop takes: \(error)")
        }
        switch taken {
        case .batch(let deliveries): return .batch(updates: write(deliveries, to: &text))
        case .nothing: return .nothing
        case .later(let time): return .later(time)
        case .finished: return .finished
        }
    }

    @inlinable
    func write(_ deliveries: [DedupeHubDelivery<Key, Value>], to text: inout ByteBuffer) -> Int {
        var count = 0
        for delivery in deliveries {
            let position = "\(delivery.position)" + suffix
            switch delivery.event {
            case .updates(let updates):
                wire.beginUpdates(&text)
                for index in updates.indices {
                    wire.append(updates.encoded(at: index, as: format), to: &text)
                }
                wire.endUpdates(position, &text)
                count += updates.count
            case .status(let status): wire.append(status, position: position, to: &text)
            case .restart: wire.appendRestart(position: position, to: &text)
            }
        }
        return count
    }

    public func cancel() { subscription.cancel() }

    public var position: String { "\(subscription.position)" + suffix }

    public var statistics: DedupeHubSubscriptionStatistics { subscription.statistics }
}

#endif
