// SPDX-License-Identifier: Apache-2.0

// The subscriber's queue beside an array.

import DedupeBuffer
import Testing

@testable import DedupeBufferHub

extension ClientQueue {
    /// The first entry that counts.
    fileprivate mutating func settled() -> Change? {
        var left = Int.max
        let isSettled = settleFront(&left)
        precondition(isSettled)
        return first
    }
}

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
                    let first = queue.settled()
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
        _ = queue.settled()
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
        while queue.settled() != nil { queue.removeFirst() }
        let empty = queue.memory
        #expect(empty == 0)
    }

    @Test func queue_whenManyEntriesAreStale_isWorthCompacting() {
        var queue = ClientQueue()
        for slot in 0..<Slot(1000) { queue.append(Change(slot)) }
        queue.append(.inSync)
        for slot in 0..<Slot(168) { queue.leave(slot) }
        let before = queue.isWorthCompacting(slack: 64)
        queue.leave(999)
        let after = queue.isWorthCompacting(slack: 64)
        #expect(!before && after)
        _ = queue.compact((0, 0))
        let (count, memory) = (queue.count, queue.memory)
        #expect(count == 832)
        #expect(memory < 4500)
    }

    @Test func settling_looksAtAsManyEntriesAsItMay() {
        var queue = ClientQueue()
        for slot in 0..<Slot(5000) {
            queue.append(Change(slot))
            if slot % 10 == 0 { queue.append(.inSync) }
        }
        for slot in 0..<Slot(4999) { queue.leave(slot) }
        var (steps, isSettled) = (0, false)
        while !isSettled {
            var left = 100
            let popped = queue.popped
            isSettled = queue.settleFront(&left)
            let passed = queue.popped - popped
            #expect(passed <= 100)
            steps += 1
        }
        let first = queue.first
        #expect(first?.status == .inSync)
        #expect(steps == 55 || steps == 56)
        queue.removeFirst()
        let second = queue.settled()
        #expect(second?.slot == 4999)
        let (count, statuses) = (queue.count, queue.statusCount)
        #expect(count == 1 && statuses == 0)
    }

    /// Statuses and slots at random. Of statuses with nothing between them the last one counts, in
    /// the place of the first one.
    @Test(arguments: 0..<20)
    func queue_withStatuses_isAnArrayWithoutNeighbours(seed: Int) {
        var random = Random(seed: UInt64(seed))
        var queue = ClientQueue()
        var model: [Change] = []
        for step in 0..<5000 {
            let slot = Slot(random.below(40))
            switch random.below(seed % 2 == 0 ? 6 : 9) {
            case 0, 1:
                if !model.contains(where: { $0.word == slot }) {
                    queue.append(Change(slot))
                    model.append(Change(slot))
                }
            case 2:
                if let place = model.firstIndex(where: { $0.word == slot }) {
                    queue.leave(slot)
                    model.remove(at: place)
                }
            case 3, 4:
                let status = random.chance(50) ? SyncStatus.inSync : .resyncInProgress
                queue.append(status)
                model.append(Change(status: status))
            case 5:
                let first = queue.settled()
                #expect(first?.word == model.first?.word)
                guard first != nil else { break }
                queue.removeFirst()
                model.removeFirst()
            default: break
            }
            for i in model.indices.dropLast().reversed() where model[i].status != nil && model[i + 1].status != nil {
                model.remove(at: i)
            }
            if random.below(50) == 0 {
                _ = queue.compact((queue.popped, queue.pushed))
                let count = queue.count
                #expect(count == model.count)
            }
            let keys = queue.count - queue.statusCount
            guard keys == model.count(where: { $0.status == nil }) else {
                Issue.record("\(keys) keys after step \(step)")
                return
            }
        }
    }

    /// A mark between two statuses of which only the second stays is behind it then.
    @Test func compaction_ofStatusesWithAMarkBetween_keepsTheMarkBehindTheLater() {
        var queue = ClientQueue()
        queue.append(.resyncInProgress)
        queue.append(Change(1))
        queue.append(.inSync)
        queue.append(Change(2))
        queue.leave(1)
        let marks = queue.compact((2, 3))
        #expect(marks.0 == 1 && marks.1 == 1)
        let first = queue.settled()
        #expect(first?.status == .inSync)
    }
}
