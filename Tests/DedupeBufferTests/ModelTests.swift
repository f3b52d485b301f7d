// SPDX-License-Identifier: Apache-2.0

// The buffer beside the model: all short sequences, and long random ones.

import DedupeBuffer
import Testing

@Suite("Against the model")
struct ModelTests {
    typealias Operation = Model.Operation

    /// Runs a sequence on both, then delivers what is left. Returns what differs first, or nil.
    static func compare(
        _ operations: [Operation], batchSize: Int, rules: Model.Rules = .init(), intake: (Int) -> Intake
    ) throws -> String? {
        let holder = Kept<StringBuffer?>(nil)
        let overflows = Kept(0)
        let buffer = StringBuffer(batchSize: batchSize, rules: rules) {
            overflows.change { $0 += 1 }
            if rules.restartsAtOverflow { holder.value?.onConnectionRestarted() }
        }
        holder.change { $0 = buffer }
        defer { holder.change { $0 = nil } }
        var model = Model(rules: rules)

        func step() throws -> String? { model.step(limit: batchSize, delivered: try buffer.nextBatch()) }

        for (index, operation) in operations.enumerated() {
            var difference: String?
            switch operation {
            case .updates(let list):
                intake(index).send(list, to: buffer)
                for update in list { model.update(update) }
                if rules.restartsAtOverflow, model.isOverflowed { model.restart() }
            case .status(let status):
                buffer.onStatusUpdated(status)
                model.status(status)
            case .restart:
                buffer.onConnectionRestarted()
                model.restart()
            case .step:
                difference = try step()
            }
            difference = difference ?? model.difference(from: buffer.statistics)
            if overflows.value != model.overflows {
                difference = difference ?? "\(overflows.value) calls of onOverflow"
            }
            if let difference { return "operation \(index) (\(operation)): \(difference)" }
        }
        while !model.queue.isEmpty {
            if let difference = try step() { return "in the end: \(difference)" }
        }
        return try step() ?? model.difference(from: buffer.statistics).map { "in the end: \($0)" }
    }

    // MARK: All sequences

    /// Three keys set or deleted, three statuses, restart, step.
    private static let alphabetSize = 11

    private static func operation(_ letter: Int, at index: Int) -> Operation {
        let keys = ["a", "b", "c"]
        return switch letter {
        case 0..<3:
            .updates([Update(key: keys[letter], value: index, revision: UInt64(index + 1), updateType: .deleted)])
        case 3..<6: .updates([Update(key: keys[letter - 3], value: nil, revision: UInt64(index + 1), updateType: .new)])
        case 6: .status(.waitForDatastore)
        case 7: .status(.resyncInProgress)
        case 8: .status(.inSync)
        case 9: .restart
        default: .step
        }
    }

    @Test(arguments: [1, 2, 100])
    func everySequence_upToLengthFour(batchSize: Int) throws {
        for length in 0...(longTests ? 5 : 4) {
            var letters = Array(repeating: 0, count: length)
            var more = true
            while more {
                let operations = letters.enumerated().map { Self.operation($1, at: $0) }
                if let difference = try Self.compare(operations, batchSize: batchSize, intake: { _ in .computedKeys }) {
                    Issue.record("\(operations): \(difference)")
                    return
                }
                more = false
                for place in (0..<length).reversed() {
                    letters[place] += 1
                    if letters[place] < Self.alphabetSize {
                        more = true
                        break
                    }
                    letters[place] = 0
                }
            }
        }
    }

    /// Where something happened before: two keys live, in sync, and then every sequence.
    @Test(arguments: [1, 2, 100])
    func everySequence_upToLengthThree_afterASnapshotAndARestart(batchSize: Int) throws {
        let before: [Operation] = [
            .status(.resyncInProgress),
            .updates([Update(key: "a", value: -1), Update(key: "b", value: -2), Update(key: "d", value: -3)]),
            .status(.inSync), .step, .step, .step, .step, .step, .restart,
        ]
        let letters = 0..<Self.alphabetSize
        for first in letters {
            for second in letters {
                for third in letters {
                    let operations = before + [first, second, third].enumerated().map { Self.operation($1, at: $0) }
                    for end in [[], [Operation.status(.inSync)]] {
                        let difference = try Self.compare(
                            operations + end, batchSize: batchSize, intake: { _ in .computedKeys })
                        if let difference {
                            Issue.record("\(operations + end): \(difference)")
                            return
                        }
                    }
                }
            }
        }
    }

    // MARK: Random sequences

    @Test(arguments: [2, 8, 60, 400])
    func randomSequences(keys: Int) throws {
        let seed = announcedSeed("randomSequences, \(keys) keys")
        for round in 0..<rounds(keys > 100 ? 20 : 60) {
            var random = SeededGenerator(seed: seed &+ UInt64(round &* 1_000 &+ keys))
            let batchSize = [1, 2, 3, 10, 99, 100, 101, 1_000].randomElement(using: &random)!
            let operations = Self.sequence(keys: keys, length: 200, using: &random)
            let intakes = operations.map { _ in Intake.allCases.randomElement(using: &random)! }
            let difference = try Self.compare(operations, batchSize: batchSize, intake: { intakes[$0] })
            if let difference {
                Issue.record("DEDUPE_TEST_SEED=\(seed), round \(round), batches of \(batchSize): \(difference)")
                return
            }
        }
    }

    /// Random operations; how often each kind comes is random too, so that some sequences fill up,
    /// some stay empty, some flap and some restart all the time.
    ///
    /// `revisions`: only so many, and 0, and the value is that of the key and the revision.
    static func sequence(
        keys: Int, length: Int, revisions: UInt64? = nil, using random: inout SeededGenerator
    ) -> [Operation] {
        let weights = (0..<4).map { _ in Int.random(in: 1...20, using: &random) }
        let longest = Int.random(in: 1...max(2, keys / 2), using: &random)
        let deletions = Int.random(in: 2...6, using: &random)
        return (0..<length).map { index in
            var choice = Int.random(
                in: 0..<(weights[0] * 3 + weights[1] + weights[2] + max(1, weights[3] / 4)), using: &random)
            choice -= weights[0] * 3
            if choice < 0 {
                let count = random.oneIn(15) ? 0 : Int.random(in: 1...longest, using: &random)
                return .updates(
                    (0..<count).map { place in
                        if let revisions {
                            return Update(
                                key: Int.random(in: 0..<keys, using: &random), deletions: deletions,
                                revisions: revisions, otherwise: index * 1_000 + place, using: &random)
                        }
                        return Update(
                            key: "key \(Int.random(in: 0..<keys, using: &random))",
                            value: random.oneIn(deletions) ? nil : index * 1_000 + place,
                            revision: random.oneIn(3) ? 0 : random.next(),
                            updateType: UpdateType(rawValue: UInt8.random(in: 0...3, using: &random))!)
                    })
            }
            choice -= weights[1]
            if choice < 0 {
                return .status(SyncStatus(rawValue: [0, 1, 1, 2, 2, 2].randomElement(using: &random)!)!)
            }
            choice -= weights[2]
            return choice < 0 ? .step : .restart
        }
    }

    /// Long random sequences by some other rules.
    static func compareAtRandom(
        _ name: String, keys: Int, revisions: UInt64? = nil,
        rules: (inout SeededGenerator) -> Model.Rules
    ) throws {
        let seed = announcedSeed("\(name), \(keys) keys")
        for round in 0..<rounds(60) {
            var random = SeededGenerator(seed: seed &+ UInt64(round &* 1_000 &+ keys))
            let batchSize = [1, 2, 3, 10, 99, 100, 101, 1_000].randomElement(using: &random)!
            let operations = Self.sequence(keys: keys, length: 200, revisions: revisions, using: &random)
            let intakes = operations.map { _ in Intake.inOneCall.randomElement(using: &random)! }
            let rules = rules(&random)
            let difference = try Self.compare(operations, batchSize: batchSize, rules: rules, intake: { intakes[$0] })
            if let difference {
                Issue.record(
                    "DEDUPE_TEST_SEED=\(seed), round \(round), batches of \(batchSize), \(rules): \(difference)")
                return
            }
        }
    }

    // MARK: The checker itself

    /// The model that judges must be able to say no.
    @Test func model_objects_whenTheDeliveryIsWrong() {
        func judged(_ calls: [Event<String, Int>]?) -> String? {
            var model = Model()
            model.update(Update(key: "a", value: 1))
            model.status(.inSync)
            return model.step(limit: 100, delivered: calls)
        }
        #expect(judged([.updates([.new("a", 1)]), .status(.inSync)]) == nil)
        #expect(judged(nil) != nil)
        #expect(judged([.updates([.new("a", 1)])]) != nil)
        #expect(judged([.updates([.updated("a", 1)]), .status(.inSync)]) != nil)
        #expect(judged([.updates([.new("a", 1, revision: 1)]), .status(.inSync)]) != nil)
        #expect(judged([.status(.inSync), .updates([.new("a", 1)])]) != nil)
        #expect(judged([.updates([.new("a", 1)]), .updates([]), .status(.inSync)]) != nil)
    }

    /// The order among owed deletions is free, also across batches; their number and place are not.
    @Test func model_acceptsAnyOrder_onlyAmongOwedDeletions() {
        func judged(_ batches: [[Event<String, Int>]]) -> String? {
            var model = Model()
            for key in ["a", "b", "c"] { model.update(Update(key: key, value: 0)) }
            _ = model.step(limit: 3, delivered: [.updates([.new("a", 0), .new("b", 0), .new("c", 0)])])
            model.restart()
            model.update(Update(key: "x", value: 1))
            model.status(.inSync)
            for batch in batches {
                if let difference = model.step(limit: 3, delivered: batch) { return difference }
            }
            return model.step(limit: 3, delivered: nil)
        }
        #expect(
            judged([
                [.updates([.new("x", 1), .deleted("c"), .deleted("a")])],
                [.updates([.deleted("b")]), .status(.inSync)],
            ]) == nil)
        #expect(
            judged([
                [.updates([.new("x", 1), .deleted("b"), .deleted("a")])],
                [.updates([.deleted("c")]), .status(.inSync)],
            ]) == nil)
        #expect(
            judged([
                [.updates([.deleted("c"), .new("x", 1), .deleted("a")])],
                [.updates([.deleted("b")]), .status(.inSync)],
            ]) != nil)
        #expect(
            judged([
                [.updates([.new("x", 1), .deleted("b"), .deleted("b")])],
                [.updates([.deleted("c")]), .status(.inSync)],
            ]) != nil)
        #expect(
            judged([
                [.updates([.new("x", 1), .deleted("b"), .deleted("d")])],
                [.updates([.deleted("c")]), .status(.inSync)],
            ]) != nil)
    }
}

extension DedupeBuffer<String, Int> {
    /// A buffer by a model's rules.
    convenience init(
        batchSize: Int = 100, retry: DedupeBufferConfiguration.RetryPolicy = .init(), rules: Model.Rules,
        onOverflow: (@Sendable () -> Void)? = nil
    ) {
        self.init(
            configuration: DedupeBufferConfiguration(batchSize: batchSize, label: "test", retry: retry).with {
                $0.skipsUnchangedRevisions = rules.suppresses
                $0.onOverflow = onOverflow
            },
            bound: .optional(
                keys: rules.maximumPendingKeys, bytes: rules.maximumPendingBytes, weight: rules.weight ?? { _ in 0 }),
            merge: rules.merge)
    }
}

extension Update<String, Int> {
    /// A random update of a source that sends one value for one revision of a key; `otherwise` for
    /// revision 0.
    init(key: Int, deletions: Int, revisions: UInt64, otherwise: Int, using random: inout SeededGenerator) {
        let revision = UInt64.random(in: 0...revisions, using: &random)
        let value = revision == 0 ? otherwise : -(key * 1_000 + Int(revision))
        self.init(key: "key \(key)", value: random.oneIn(deletions) ? nil : value, revision: revision)
    }
}
