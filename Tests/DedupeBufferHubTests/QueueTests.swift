// SPDX-License-Identifier: Apache-2.0

// The subscriber's queue beside an array.

import DedupeBuffer
import Testing

@testable import DedupeBufferHub

@Suite struct QueueTests {
    /// The queue, as an array of all that were ever put in.
    private struct Model {
        var words: [UInt32] = []
        var stale: Set<Int> = []
        var next = 0

        var valid: [Int] { (next..<words.count).filter { !stale.contains($0) } }

        mutating func leave(_ slot: Slot) { stale.insert(words.lastIndex(of: slot)!) }
    }

    @Test(arguments: 0..<20)
    func queue_isAnArray(seed: Int) {
        var random = Random(seed: UInt64(seed))
        var queue = ClientQueue()
        var model = Model()
        let slots = [3, 20, 2000][seed % 3]
        var pending: Set<Slot> = []
        for step in 0..<5000 {
            let slot = Slot(random.below(slots))
            switch random.below(seed % 2 == 0 ? 4 : 10) {
            case 0, 1:
                if pending.insert(slot).inserted {
                    queue.append(Change(slot))
                    model.words.append(slot)
                }
            case 2:
                if pending.remove(slot) != nil {
                    queue.leave(slot)
                    model.leave(slot)
                }
            case 3:
                for _ in 0..<random.below(3) {
                    let first = queue.first()
                    #expect(first?.word == model.valid.first.map { model.words[$0] })
                    guard let first else { break }
                    queue.removeFirst()
                    pending.remove(first.slot)
                    model.next = model.valid.first! + 1
                }
            default: break
            }
            if random.below(100) == 0 { compact(&queue, &model, &random) }
            let count = queue.count
            guard count == model.valid.count else {
                Issue.record("\(count) entries and not \(model.valid.count) after step \(step)")
                return
            }
        }
    }

    /// Compacts both, with two marks.
    private func compact(_ queue: inout ClientQueue, _ model: inout Model, _ random: inout Random) {
        let valid = model.valid
        let places = (0..<2).map { _ in random.below(valid.count + 1) }
        // Stale entries at the front make the queue's count of entries another one than the
        // model's.
        _ = queue.first()
        let entries = Array((valid.first ?? model.words.count)..<model.words.count)
        let marks = places.map { place in
            let end = place < valid.count ? valid[place] : model.words.count
            return queue.popped + UInt64(entries.prefix { $0 < end }.count)
        }
        let (result, popped, staleCount) = (queue.compact((marks[0], marks[1])), queue.popped, queue.staleCount)
        #expect(result.0 == popped + UInt64(places[0]))
        #expect(result.1 == popped + UInt64(places[1]))
        #expect(staleCount == 0)
        model = Model(words: valid.map { model.words[$0] })
    }

    @Test func queue_thatIsEmpty_hasNoMemory() {
        var queue = ClientQueue()
        for slot in 0..<Slot(5000) { queue.append(Change(slot)) }
        let full = queue.memory
        #expect(20_000...25_000 ~= full)
        while queue.first() != nil { queue.removeFirst() }
        let empty = queue.memory
        #expect(empty == 0)
    }

    @Test func queue_whenMostEntriesAreStale_isWorthCompacting() {
        var queue = ClientQueue()
        for slot in 0..<Slot(1000) { queue.append(Change(slot)) }
        for slot in 0..<Slot(500) { queue.leave(slot) }
        let before = queue.isWorthCompacting
        queue.leave(999)
        let after = queue.isWorthCompacting
        #expect(!before && after)
        _ = queue.compact((0, 0))
        let (count, memory) = (queue.count, queue.memory)
        #expect(count == 499)
        #expect(memory < 3000)
    }
}
