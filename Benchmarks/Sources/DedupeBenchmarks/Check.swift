// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Synchronization

/// The yardstick must do the same work, or its times mean nothing: random operations, compared with
/// the library's answers.
enum Check {
    private enum Entry: Equatable {
        case update(key: String, stamp: UInt64?, type: UpdateType)
        case status(SyncStatus)

        var deletedKey: String? {
            if case .update(let key, _, .deleted) = self { key } else { nil }
        }
    }

    private final class RecordingSink: SyncerCallbacks {
        typealias Key = String
        typealias Value = Payload

        private let entries = Mutex<[Entry]>([])

        func onUpdates(_ updates: [BenchmarkUpdate]) {
            entries.withLock { entries in
                entries += updates.map { .update(key: $0.key, stamp: $0.value?.stamp, type: $0.updateType) }
            }
        }

        func onStatusUpdated(_ status: SyncStatus) {
            entries.withLock { $0.append(.status(status)) }
        }

        /// What arrived since the last time. The order among the deletions that a resync finds is
        /// free: they are sorted.
        func takeAll() -> [Entry] {
            var all = entries.withLock { entries in
                defer { entries = [] }
                return entries
            }
            var start = 0
            while start < all.count {
                let end = all[start...].firstIndex { $0.deletedKey == nil } ?? all.count
                all[start..<end].sort { $0.deletedKey! < $1.deletedKey! }
                start = end + 1
            }
            return all
        }
    }

    /// Ends the program at the first difference.
    static func run(seed: UInt64) {
        var random = Random(state: seed)
        var compared = 0
        for round in 0..<200 {
            // Few keys, so that they meet; many, so that a batch does not take all.
            let keys = (0..<(round % 2 == 0 ? 5 : 250)).map { BenchmarkKey.make($0) }
            let ours = OurBuffer.make()
            let plain = YardstickBuffer.make()
            let ourSink = RecordingSink()
            let plainSink = RecordingSink()
            for operation in 0..<2000 {
                let key = keys.randomElement(using: &random)!
                let status = SyncStatus(rawValue: UInt8.random(in: 0..<3, using: &random))!
                switch Int.random(in: 0..<100, using: &random) {
                case 0..<55:
                    let update = Update(key: key, value: Payload(stamp: UInt64(operation)))
                    ours.onUpdates([update])
                    plain.onUpdates([update])
                case 55..<80:
                    ours.onUpdates([Update(key: key, value: nil)])
                    plain.onUpdates([Update(key: key, value: nil)])
                case 80..<90:
                    ours.onStatusUpdated(status)
                    plain.onStatusUpdated(status)
                    // What later takes a deletion's place would show their free order.
                    if status == .inSync {
                        ours.drain(to: ourSink)
                        plain.drain(to: plainSink)
                    }
                case 90..<92:
                    ours.onConnectionRestarted()
                    plain.onConnectionRestarted()
                case 98...:
                    try? ours.sendNextBatchToSink(ourSink)
                    try? plain.sendNextBatchToSink(plainSink)
                default: break
                }
                let expected = ourSink.takeAll()
                guard plainSink.takeAll() == expected else {
                    fatalError("round \(round), operation \(operation), seed \(seed): not what the library delivers")
                }
                compared += expected.count
            }
        }
        print("the yardstick in Swift agrees with the library: \(compared) items compared")
    }
}
