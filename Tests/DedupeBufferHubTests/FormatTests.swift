// SPDX-License-Identifier: Apache-2.0

// Encodings: made once, shared, and gone with their version.

import DedupeBuffer
import Synchronization
import Testing

@testable import DedupeBufferHub

@Suite struct FormatTests {
    private let hub = Hub(configuration: configuration())

    private func encoded<E>(_ subscription: Subscription, as format: DedupeHubFormat<String, Int, E>) throws -> [E] {
        guard case .batch(let deliveries) = try subscription.take() else { return [] }
        var all: [E] = []
        for case .updates(let updates) in deliveries.map(\.event) { all += updates.encoded(as: format) }
        return all
    }

    private func format(
        readsUpdateType: Bool = false, _ made: Kept<[String]>
    ) -> DedupeHubFormat<String, Int, String> {
        DedupeHubFormat(readsUpdateType: readsUpdateType) { update in
            let text = "\(update.updateType) \(update.key)=\(update.value.map(String.init) ?? "-")"
            made.change { $0.append(text) }
            return text
        }
    }

    @Test func encoding_isMadeOnce_forAllSubscribers() throws {
        let made = Kept([String]())
        let format = format(made)
        let subscriptions = (0..<3).map { _ in hub.subscribe() }
        hub.put("a", 1)
        hub.put("b", 2)
        for subscription in subscriptions {
            #expect(try encoded(subscription, as: format) == ["unknown a=1", "unknown b=2"])
        }
        #expect(made.value.count == 2)
        hub.put("a", nil)
        for subscription in subscriptions { #expect(try encoded(subscription, as: format) == ["deleted a=-"]) }
        #expect(made.value.count == 3)
    }

    @Test func encoding_ofANewValue_isMadeAgain() throws {
        let made = Kept([String]())
        let (format, subscription) = (format(made), hub.subscribe())
        hub.put("a", 1)
        _ = try encoded(subscription, as: format)
        hub.put("a", 1)
        #expect(try encoded(subscription, as: format) == ["unknown a=1"])
        #expect(made.value.count == 2)
    }

    @Test func encoding_thatReadsTheType_isMadeOnceForEach() throws {
        let made = Kept([String]())
        let format = format(readsUpdateType: true, made)
        let (first, second, third) = (hub.subscribe(), hub.subscribe(), hub.subscribe())
        hub.put("a", 1)
        for subscription in [first, second] { _ = try encoded(subscription, as: format) }
        hub.put("a", 2)
        #expect(try encoded(first, as: format) == ["updated a=2"])
        #expect(try encoded(third, as: format) == ["new a=2"])
        #expect(try encoded(second, as: format) == ["updated a=2"])
        #expect(made.value == ["new a=1", "updated a=2", "new a=2"])
    }

    @Test func formats_doNotMixTheirEncodings() throws {
        let texts = DedupeHubFormat<String, Int, String> { "\($0.key)=\($0.value!)" }
        let numbers = DedupeHubFormat<String, Int, Int> { $0.value! }
        let bytes = DedupeHubFormat<String, Int, [UInt8]> { Array($0.key.utf8) }
        hub.put("a", 7)
        for _ in 0..<2 {
            #expect(try encoded(hub.subscribe(), as: texts) == ["a=7"])
            #expect(try encoded(hub.subscribe(), as: numbers) == [7])
            #expect(try encoded(hub.subscribe(), as: bytes) == [[97]])
        }
    }

    private final class Encoded: Sendable {}

    @Test func encoding_endsWithItsVersion() throws {
        let format = DedupeHubFormat<String, Int, Encoded> { _ in Encoded() }
        let subscription = hub.subscribe()
        hub.put("a", 1)
        weak let encoding: Encoded? = try encoded(subscription, as: format)[0]
        #expect(encoding != nil)
        hub.put("a", 2)
        #expect(encoding == nil)
    }

    @Test func encoding_neededByThreadsAtOnce_isTheSameForAll() throws {
        let format = DedupeHubFormat<String, Int, Encoded> { _ in Encoded() }
        for round in 0..<rounds(50) {
            hub.put("a", round)
            let workers = (0..<4).map { _ in
                let subscription = hub.subscribe()
                return Worker("encoding") {
                    guard case .batch(let deliveries) = try subscription.take(),
                        case .updates(let updates) = deliveries[0].event
                    else { throw Unexpected() }
                    return updates.encoded(as: format)[0]
                }
            }
            let encodings = try workers.map { try $0.join() }
            #expect(Set(encodings.map(ObjectIdentifier.init)).count == 1)
        }
    }

    /// As if another thread had been quicker.
    @Test func encoding_madeWhileItIsBeingMade_isUsed() throws {
        typealias Format = DedupeHubFormat<String, Int, Encoded>
        let (format, inner) = (Kept<Format?>(nil), Kept<Encoded?>(nil))
        hub.put("a", 1)
        guard case .batch(let deliveries) = try hub.subscribe().take(), case .updates(let updates) = deliveries[0].event
        else { throw Unexpected() }
        let isFirst = Kept(true)
        let made = Format { _ in
            if isFirst.takeTrue(), let format = format.value {
                let encoding = updates.encoded(at: updates.startIndex, as: format)
                inner.change { $0 = encoding }
            }
            return Encoded()
        }
        format.change { $0 = made }
        #expect(updates.encoded(as: made)[0] === inner.value)
        #expect(updates.encoded(as: made)[0] === inner.value)
        format.change { $0 = nil }
    }

    @Test func updates_areACollection() throws {
        for key in ["a", "b", "c"] { hub.put(key, 1) }
        hub.onStatusUpdated(.inSync)
        guard case .batch(let deliveries) = try hub.subscribe().take(), case .updates(let updates) = deliveries[0].event
        else { throw Unexpected() }
        #expect(updates.count == 3)
        #expect(updates[updates.startIndex + 1].key == "b")
        #expect(updates.reversed().map(\.key) == ["c", "b", "a"])
        #expect(updates.dropFirst().first?.updateType == .new)
    }
}
