// SPDX-License-Identifier: Apache-2.0

// Writers, readers and subscribers that come and go, all at once. For ThreadSanitizer, and for what
// only shows then.

import DedupeBuffer
import Foundation
import Testing

@testable import DedupeBufferHub

@Suite struct ThreadTests {
    private static let statuses = [SyncStatus.waitForDatastore, .resyncInProgress, .inSync]

    /// Writes random changes, and leaves a state that can be told.
    private static func write(_ hub: Hub, keys: Range<Int>, calls: Int, seed: Int) -> [String: Int] {
        var random = Random(seed: UInt64(seed))
        var state: [String: Int] = [:]
        for call in 0..<calls {
            let updates = (0..<(1 + random.below(20))).map { _ in
                let key = "k\(keys.lowerBound + random.below(keys.count))"
                return Update(key: key, value: random.chance(30) ? nil : Int(random.next() >> 8))
            }
            for update in updates { state[update.key] = update.value }
            hub.onUpdates(updates)
            if random.chance(5) { hub.onStatusUpdated(statuses[call % 3]) }
        }
        return state
    }

    @Test(arguments: [4, 64, 65_536])
    func readersAtManyPaces_endWithTheState(log: Int) throws {
        for round in 0..<rounds(3) {
            let hub = Hub(configuration: configuration(log: log, batch: 10, tombstones: 50))
            let readers = (0..<4).map { number in
                Worker("reader \(number)") { try Self.read(hub, number, seed: round) }
            }
            let writers = (0..<2).map { number in
                Worker("writer \(number)") {
                    Self.write(
                        hub, keys: (number * 40)..<(number * 40 + 40), calls: rounds(1500), seed: round * 2 + number)
                }
            }
            let state = try writers.reduce(into: [:]) { state, writer in state.merge(try writer.join()) { $1 } }
            hub.onStatusUpdated(.waitForDatastore)
            hub.onStatusUpdated(.inSync)
            hub.finish()
            for (number, reader) in readers.enumerated() {
                let picture = try reader.join()
                #expect(picture.faults == [], "reader \(number)")
                #expect(picture.state == (number == 3 ? state.filter { isEven($0.key) } : state), "reader \(number)")
                #expect(picture.status == .inSync, "reader \(number)")
            }
            #expect(hub.statistics.subscribers == 0)
        }
    }

    /// Reader 0 is quick, reader 1 slow and has an interval, readers 2 and 3 break off in their
    /// batches again and again, and reader 3 has a filter.
    private static func read(_ hub: Hub, _ number: Int, seed: Int) throws -> Picture {
        var random = Random(seed: UInt64(seed * 10 + number))
        var picture = Picture()
        let wakes = DispatchSemaphore(value: 0)
        func subscribe(from position: Position?) -> Subscription {
            hub.subscribe(
                from: position, where: number == 3 ? isEven : nil,
                minimumInterval: number == 1 ? .microseconds(300) : nil, onReady: { wakes.signal() })
        }
        var subscription = subscribe(from: nil)
        while true {
            switch try subscription.take() {
            case .batch(let deliveries):
                let breaksOff = number >= 2 && random.chance(20)
                // Some of the batch is not seen.
                for delivery in deliveries.prefix(breaksOff ? 1 + random.below(deliveries.count) : .max) {
                    picture.see(delivery)
                }
                if number == 1 { usleep(200) }
                guard breaksOff else { continue }
                picture.isExact = picture.isExact && picture.position!.revision == picture.position!.horizon
                subscription = subscribe(from: picture.position)
            case .nothing: try wakes.wait(for: "a wake-up of reader \(number)")
            // Only reader 1 has an interval, which ends when it looks again.
            case .later(let time): if number != 1 && time != .zero { throw Unexpected() }
            case .finished: return picture
            }
        }
    }

    @Test func subscribersThatComeAndGo_leaveNothing() throws {
        let hub = Hub(configuration: configuration(log: 32, batch: 10, tombstones: 0))
        try comeAndGo(hub)
        #expect(hub.statistics.subscribers == 0)
        #expect(hub.statistics.waitingSubscribers == 0)
        #expect(hub.statistics.subscriberMemory == 0)
        for key in 0..<80 { hub.put("k\(key)", nil) }
        for _ in 0..<100 { hub.put("last", 1) }
        #expect(hub.statistics.deletedKeys == 0)
    }

    private func comeAndGo(_ hub: Hub) throws {
        let stop = Kept(false)
        let comers = (0..<3).map { number in
            Worker("subscriber \(number)") {
                var random = Random(seed: UInt64(number))
                while !stop.value {
                    let subscription = hub.subscribe(where: random.chance(50) ? isEven : nil, onReady: {})
                    let shared = random.chance(50) ? Worker("canceller") { subscription.cancel() } : nil
                    for _ in 0..<random.below(5) { _ = try? subscription.take() }
                    try shared?.join()
                }
            }
        }
        let watcher = Worker("watcher") { while !stop.value { _ = hub.statistics } }
        _ = try Worker("writer") { Self.write(hub, keys: 0..<80, calls: rounds(2000), seed: 9) }.join()
        stop.change { $0 = true }
        for comer in comers { try comer.join() }
        try watcher.join()
    }

    @Test func onlyOneCallTakes_andNothingIsLost() throws {
        let hub = Hub(configuration: configuration(batch: 3))
        let subscription = hub.subscribe(onReady: {})
        let seen = Kept([String: Int]())
        let takers = (0..<3).map { number in
            Worker("taker \(number)") {
                while true {
                    do {
                        switch try subscription.take() {
                        case .batch(let deliveries):
                            for case .updates(let updates) in deliveries.map(\.event) {
                                for update in updates {
                                    // Batches are noted out of order, values only grow.
                                    seen.change { $0[update.key] = max($0[update.key] ?? 0, update.value!) }
                                }
                            }
                        case .nothing: sched_yield()
                        case .later: throw Unexpected()
                        case .finished: return
                        }
                    } catch DedupeHubError.alreadyTaking {
                        // Another one takes, and notes what there is.
                    }
                }
            }
        }
        for value in 1...rounds(3000) { hub.put("k\(value % 7)", value) }
        hub.finish()
        for taker in takers { try taker.join() }
        let last = rounds(3000)
        #expect(seen.value.count == 7)
        #expect(seen.value.values.max() == last)
        #expect(seen.value.values.min()! > last - 7)
    }
}

/// A filter.
private let isEven: @Sendable (String) -> Bool = { $0.utf8.last! % 2 == 0 }
