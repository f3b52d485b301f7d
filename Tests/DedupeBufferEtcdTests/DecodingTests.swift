// SPDX-License-Identifier: Apache-2.0
// Values that cannot be decoded: the key's last good value stays, whatever comes.

#if Etcd

import DedupeBuffer
import Testing

@testable import DedupeBufferEtcd

@Suite struct DecodingTests {
    private struct NotANumber: Error {}

    private let buffer: DedupeBuffer<String, Int>
    private let rejections: Rejections
    private let rejected = Locked<[EtcdSyncer.Rejection]>([])
    private let target: DecodingTarget<DedupeBuffer<String, Int>>

    init() {
        var configuration = DedupeBufferConfiguration()
        configuration.skipsUnchangedRevisions = true
        buffer = DedupeBuffer(configuration: configuration)
        rejections = Rejections(
            EtcdConfiguration(endpoints: [], prefixes: []),
            { [rejected] rejection in rejected.withLock { $0.append(rejection) } })
        target = DecodingTarget(buffer, rejections) { bytes in
            guard let key = String(validating: bytes, as: UTF8.self) else { throw NotANumber() }
            return key
        } value: { _, _, bytes in
            guard let value = Int(String(decoding: bytes, as: UTF8.self)) else { throw NotANumber() }
            return value
        }
    }

    @Test func changeThatCannotBeDecoded_leavesTheValue() throws {
        resync(["a": ("1", 5)])
        #expect(try delivered() == ["resync", "new a=1 @5", "in-sync"])
        put("a", "x", 6)
        #expect(try delivered() == [])
        put("a", "2", 7)
        #expect(try delivered() == ["updated a=2 @7"])
        #expect(rejections.count == 1)
        #expect(rejected.withLock { $0.map(\.key) } == [Array("a".utf8)])
        #expect(rejected.withLock { $0.map(\.revision) } == [6])
        #expect(rejected.withLock { $0.first?.error is NotANumber })
    }

    @Test func snapshotValueThatCannotBeDecoded_leavesTheValue() throws {
        resync(["a": ("1", 5), "b": ("1", 6)])
        put("a", "x", 7)
        _ = try delivered()
        // Nothing is deleted, and nothing is told that the sink has.
        resync(["a": ("x", 7), "b": ("1", 6)])
        #expect(try delivered() == ["in-sync"])
        resync(["a": ("3", 8)])
        #expect(try delivered() == ["resync", "updated a=3 @8", "deleted b @0", "in-sync"])
    }

    @Test func goodValueThatIsPending_isDeliveredAfterTheRestart() throws {
        resync(["a": ("1", 5)])
        put("a", "x", 6)
        // The restart drops what is pending. The good value comes again with the snapshot.
        resync(["a": ("x", 6)])
        #expect(try delivered() == ["resync", "new a=1 @5", "in-sync"])
    }

    @Test func valueThatWasBadDuringTheSnapshotTwice_isRepeatedOnce() throws {
        resync(["a": ("1", 5)])
        _ = try delivered()
        target.onConnectionRestarted()
        put("a", "x", 6)
        put("a", "y", 7)
        put("a", "2", 8)
        put("a", "z", 9)
        target.onStatusUpdated(.inSync)
        #expect(try delivered() == ["updated a=2 @8", "in-sync"])
        #expect(rejections.count == 3)
    }

    @Test func keyWithoutAGoodValue_isUnknownToTheSink() throws {
        resync(["a": ("x", 5)])
        put("b", "x", 6)
        target.onUpdates([Update(key: Array("b".utf8), value: nil, revision: 7)])
        let none = try delivered()
        #expect(none == ["in-sync"])
        put("a", "1", 8)
        #expect(try delivered() == ["new a=1 @8"])
    }

    @Test func deletedKey_isDeletedThoughItsLatestValueWasBad() throws {
        resync(["a": ("1", 5)])
        put("a", "x", 6)
        _ = try delivered()
        target.onUpdates([Update(key: Array("a".utf8), value: nil, revision: 7)])
        #expect(try delivered() == ["deleted a @7"])
        // The value that was good before the deletion is forgotten.
        put("a", "x", 8)
        resync(["a": ("x", 8)])
        #expect(try delivered() == ["in-sync"])
    }

    @Test func keyThatVanished_isDeletedAndItsGoodValueForgotten() throws {
        resync(["a": ("1", 5)])
        resync([:])
        _ = try delivered()
        resync(["a": ("x", 9)])
        #expect(try delivered() == ["in-sync"])
    }

    /// A resync that is superseded does not forget values.
    @Test func twoRestartsInARow_keepGoodValues() throws {
        resync(["a": ("1", 5)])
        _ = try delivered()
        target.onConnectionRestarted()
        resync(["a": ("x", 6)])
        #expect(try delivered() == ["in-sync"])
        // A status without a restart forgets nothing.
        target.onStatusUpdated(.waitForDatastore)
        target.onStatusUpdated(.inSync)
        resync(["a": ("x", 6)])
        #expect(try delivered().contains { $0.hasPrefix("deleted") } == false)
        #expect(buffer.statistics.liveKeys == 1)
    }

    @Test func keyThatIsNotUTF8_isRejected() throws {
        target.onUpdates([Update(key: [0xff], value: Array("1".utf8), revision: 3)])
        target.onUpdates([Update(key: [0xff], value: nil, revision: 4)])
        #expect(try delivered() == [])
        #expect(rejections.count == 1)
    }

    @Test func goodAndBadInOneCall_keepTheirOrder() throws {
        target.onUpdates(
            [("a", "1"), ("b", "x"), ("c", "3")].enumerated().map {
                Update(key: Array($1.0.utf8), value: Array($1.1.utf8), revision: UInt64($0) + 1)
            })
        #expect(try delivered() == ["new a=1 @1", "new c=3 @3"])
    }

    // MARK: - Support

    private func put(_ key: String, _ value: String, _ revision: UInt64) {
        target.onUpdates([Update(key: Array(key.utf8), value: Array(value.utf8), revision: revision)])
    }

    private func resync(_ content: [String: (String, UInt64)]) {
        target.onConnectionRestarted()
        target.onStatusUpdated(.resyncInProgress)
        for (key, (value, revision)) in content.sorted(by: { $0.key < $1.key }) { put(key, value, revision) }
        target.onStatusUpdated(.inSync)
    }

    /// What the buffer delivers now.
    private func delivered() throws -> [String] {
        let sink = ListingSink()
        while true {
            do throws(DedupeBufferError) { try buffer.sendNextBatchToSink(sink) } catch { break }
        }
        return sink.lines.withLock { $0 }
    }

    private struct ListingSink: SyncerCallbacks {
        let lines = Locked<[String]>([])

        func onStatusUpdated(_ status: SyncStatus) { lines.withLock { $0.append("\(status)") } }

        func onUpdates(_ updates: [Update<String, Int>]) {
            lines.withLock { lines in
                for update in updates {
                    let value = update.value.map { "=\($0)" } ?? ""
                    lines.append("\(update.updateType) \(update.key)\(value) @\(update.revision)")
                }
            }
        }
    }
}

#endif
