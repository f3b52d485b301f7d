// SPDX-License-Identifier: Apache-2.0

// The scenarios of Tests/Scenarios on a buffer of this library, beside the model in C, which also
// reads them and judges what came of them (Tests/CModel).

import CDedupe
import CModel
import Foundation
import Testing

@testable import DedupeBuffer

@Suite("Scenarios")
struct ScenarioTests {
    private static let folder = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().appendingPathComponent("../Scenarios").standardizedFileURL

    static let files: [String] =
        ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? [])
        .filter { $0.hasSuffix(".scenarios") }.sorted()

    @Test func scenarios_areThere() {
        #expect(Self.files.contains("updates.scenarios"))
        #expect(Self.files.contains("resync.scenarios"))
    }

    @Test(arguments: files, Intake.allCases)
    func scenario(file: String, intake: Intake) throws {
        var scenarios = scenarios_t()
        scenarios_open(&scenarios, Self.folder.appendingPathComponent(file).path)
        defer { scenarios_close(&scenarios) }
        let error = withUnsafeBytes(of: &scenarios.error) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        try #require(error == "")
        for i in 0..<scenarios.count where scenarios.list[i].levels & UInt32(SCENARIO_SWIFT) != 0 {
            let run = ScenarioRun(scenarios.list + i, intake)
            if let fault = run.run() {
                let scenario = scenarios.list[i]
                Issue.record("\(file):\(scenario.line): \(String(cString: scenario.name)): \(fault)")
            }
        }
    }
}

/// One scenario, on a new buffer and a new model. A scenario that puts back claims the buffer's
/// core for a loop; others take by `sendNextBatchToSink(_:)`.
private final class ScenarioRun {
    private let scenario: UnsafeMutablePointer<scenario_t>
    private let intake: Intake
    private let buffer: StringBuffer
    private let usesCore: Bool
    private let overflows = Kept(0)
    private var model = model_t()
    private var pins: [UInt32: [StringBuffer.Pin]] = [:]
    /// What came of a step, in the words of scenarios.
    private var words: [String] = []
    private var fault: String?

    init(_ scenario: UnsafeMutablePointer<scenario_t>, _ intake: Intake) {
        let options = scenario.pointee.options
        self.scenario = scenario
        self.intake = intake
        usesCore = (0..<scenario.pointee.step_count).contains { scenario.pointee.steps[$0].op.kind == OP_PUT_BACK }
        buffer = Self.buffer(options, overflows)
        model_open(&model)
        model.rules.maximum_keys = UInt64(options.maximum_keys)
        model.rules.maximum_bytes = UInt64(options.maximum_bytes)
        model.rules.weight = { _, id, isDeletion in isDeletion ? 0 : id % 5 }
        if options.suppressing { model.rules.revision = { _, id in id % 10 } }
        if options.merging { model.rules.merged = { _, older, newer in joinDigits(older, newer) } }
    }

    deinit { model_close(&model) }

    private static func buffer(_ options: scenario_options_t, _ overflows: Kept<Int>) -> StringBuffer {
        var configuration = DedupeBufferConfiguration(batchSize: Int(options.batch_size), label: "scenario")
        configuration.skipsUnchangedRevisions = options.suppressing
        configuration.onOverflow = { overflows.change { $0 += 1 } }
        let bound: DedupeBufferConfiguration.Bound<Int>? = .optional(
            keys: options.maximum_keys == 0 ? nil : Int(options.maximum_keys),
            bytes: options.maximum_bytes == 0 ? nil : Int(options.maximum_bytes), weight: { $0 % 5 })
        guard options.merging else { return StringBuffer(configuration: configuration, bound: bound) }
        return StringBuffer(configuration: configuration, bound: bound) { older, newer in
            Int(joinDigits(UInt64(older), UInt64(newer)))
        }
    }

    /// What is wrong first, or nil.
    func run() -> String? {
        if usesCore {
            try? buffer.core.claim(loop: true)
            model_claim(&model, CDEDUPE_CLAIM_LOOP)
        }
        var (next, rounds) = (0, [UInt32]())
        while next < scenario.pointee.step_count, fault == nil {
            let step = scenario.pointee.steps + next
            switch step.pointee.op.kind {
            case OP_REPEAT: rounds.append(step.pointee.op.argument)
            case OP_REPEAT_END:
                rounds[rounds.count - 1] -= 1
                if rounds.last! > 0 { next = step.pointee.jump } else { rounds.removeLast() }
            default: take(step, number: next + 1)
            }
            next += 1
        }
        if usesCore {
            endBatch()
            buffer.core.release()
        }
        return fault
    }

    // MARK: Steps

    private func take(_ step: UnsafeMutablePointer<scenario_step_t>, number: Int) {
        words = []
        perform(&step.pointee.op)
        let word = withUnsafeBytes(of: &step.pointee.op.text) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        if let difference = buffer.statistics.difference(from: model.statistics) { note(difference) }
        if overflows.value != model.statistics.overflows { note("\(overflows.value) calls of onOverflow") }
        if step.pointee.expected != nil {
            let expected = String(cString: step.pointee.expected)
            if step.pointee.op.kind == OP_STATISTICS {
                var text = [CChar](repeating: 0, count: 400)
                if !scenario_check_counters(step, &model.statistics, model.wakes, &text, text.count) {
                    note(text.withUnsafeBufferPointer { String(cString: $0.baseAddress!) })
                }
            } else if !scenario_matches(step, words.joined(separator: " ")) {
                note("got \"\(words.joined(separator: " "))\", wanted \"\(expected)\"")
            }
        }
        fault = fault.map { "word \(number), \"\(word)\": \($0)" }
    }

    private func note(_ fault: String) { self.fault = self.fault ?? fault }

    private func perform(_ op: inout op) {
        let status = cdedupe_status_t(op.argument)
        switch op.kind {
        case OP_PUT: put((0..<Int(op.count)).map { op_update_at(&op, $0).pointee })
        case OP_FILL, OP_DROP: fill(Int(op.argument), isDeletion: op.kind == OP_DROP)
        case OP_PIN: pins[op.argument, default: []].append(buffer.pin(text(of: op.argument)))
        case OP_UNPIN: pins[op.argument]?.removeLast()
        case OP_STATUS: putStatus(status)
        case OP_RESTART: restart()
        case OP_LAPS:
            for _ in 0..<op.argument {
                putStatus(CDEDUPE_STATUS_RESYNC_IN_PROGRESS)
                restart()
            }
        case OP_TAKE where op.argument == UInt32(OP_ALL): takeBatch()
        case OP_FLUSH:
            repeat {
                if !words.isEmpty { words.append("|") }
                takeBatch()
            } while model.count > 0 && !model.stopped
        case OP_PUT_BACK: putBack(op.argument == UInt32(OP_ALL) ? model.batch_count : Int(op.argument))
        case OP_STOP:
            buffer.stop()
            model_stop(&model)
        case OP_STATISTICS: break
        default: note("this library cannot do it: name the levels in the scenario")
        }
    }

    private func putStatus(_ status: cdedupe_status_t) {
        buffer.onStatusUpdated(SyncStatus(status))
        words.append(String(cString: scenario_result_word(model_status(&model, status))))
    }

    private func restart() {
        buffer.onConnectionRestarted()
        words.append(String(cString: scenario_result_word(model_restart(&model))))
    }

    // MARK: Updates

    /// The key with a number.
    private func text(of key: UInt32) -> String {
        var bytes: UnsafePointer<CChar>?
        let length = scenario_key_bytes(scenario, key, &bytes)
        return String(decoding: UnsafeRawBufferPointer(start: bytes, count: length), as: UTF8.self)
    }

    /// A revision is an id's last digit; a deletion, which has no value, must carry the whole id.
    private func update(_ key: UInt32, isDeletion: Bool, id: UInt64) -> Update<String, Int> {
        Update(key: text(of: key), value: isDeletion ? nil : Int(id), revision: isDeletion ? id : id % 10)
    }

    private func put(_ updates: [op_update]) {
        let list = updates.map { update($0.key, isDeletion: $0.deletion, id: $0.id) }
        if updates.contains(where: \.by_pin) {
            for (i, update) in zip(updates, list) { put(update, by: i.by_pin ? pins[i.key]?.last : nil) }
        } else {
            intake.send(list, to: buffer)
        }
        for update in updates { putInModel(update.key, isDeletion: update.deletion, id: update.id) }
    }

    private func put(_ update: Update<String, Int>, by pin: StringBuffer.Pin?) {
        guard let pin else { return intake.send([update], to: buffer) }
        if intake == .knownStrings { return buffer.onUpdates([update], pins: [pin]) }
        if let value = update.value {
            buffer.update(pin, to: value, revision: update.revision)
        } else {
            buffer.remove(pin, revision: update.revision)
        }
    }

    private func putInModel(_ key: UInt32, isDeletion: Bool, id: UInt64) {
        var displaced: UInt64 = 0
        let outcome = model_put(&model, Int(key), isDeletion, id, &displaced)
        words.append(String(cString: scenario_outcome_word(outcome)))
    }

    private func fill(_ count: Int, isDeletion: Bool) {
        let keys = (0..<count).map { UInt32(KEYS_LETTERS + $0) }
        let ids = (0..<count).map { isDeletion ? 0 : UInt64($0 + 1) }
        intake.send(zip(keys, ids).map { update($0, isDeletion: isDeletion, id: $1) }, to: buffer)
        for (key, id) in zip(keys, ids) { putInModel(key, isDeletion: isDeletion, id: id) }
    }

    // MARK: Batches

    /// Takes a batch of both.
    private func takeBatch() {
        let calls: [Event<String, Int>]?
        if usesCore {
            calls = takeFromCore()
        } else {
            let sink = StringSink()
            calls = (try? buffer.sendNextBatchToSink(sink)).map { sink.calls }
            if let violation = sink.violations.first { note(violation) }
            model_claim(&model, CDEDUPE_CLAIM_SINGLE_BATCH)
        }
        compare(calls ?? [])
        if !usesCore { model_release(&model) }
    }

    /// Compares a batch of the buffer with the model's, and says it.
    private func compare(_ calls: [Event<String, Int>]) {
        var hints: [Int] = []
        let actual = calls.map { call in
            switch call {
            case .status(let status):
                hints.append(noKey)
                return [word(status)]
            case .updates(let items):
                hints += items.map { Int(number(of: $0.key)) }
                return items.map(word)
            }
        }
        var items = Array(repeating: model_item_t(), count: Int(scenario.pointee.options.batch_size))
        var count = 0
        let result =
            model.claimed
            ? model_take(&model, items.count, hints, hints.count, &items, &count) : CDEDUPE_STOPPED
        let due = items.prefix(count).map(word)
        if actual.flatMap({ $0 }) != due { note("delivered \(actual), the model \(due)") }
        // A call for each status, and one for each run of updates.
        if zip(calls, calls.dropFirst()).contains(where: { !$0.items.isEmpty && !$1.items.isEmpty }) {
            note("two calls of onUpdates in a row: \(calls)")
        }
        words += count == 0 ? [String(cString: scenario_result_word(result))] : due
    }

    private func takeFromCore() -> [Event<String, Int>]? {
        endBatch()
        guard buffer.core.take() == .batch else { return nil }
        let batch = buffer.core.taken
        return (0..<batch.count).map { i -> Event<String, Int> in
            if let status = batch.status(i) { return .status(status) }
            let payload = batch.slots[i]?.payload(of: Int.self).pointee
            let key = String(decoding: batch.keyBytes(i), as: UTF8.self)
            return .updates([
                Item(key: key, value: payload?.value, revision: payload?.revision ?? 0, type: batch.updateType(i))
            ])
        }.joined()
    }

    /// The sink has what is left of the batch.
    private func endBatch() {
        let batch = buffer.core.taken
        for i in 0..<batch.count where batch.status(i) == nil { _ = StringBuffer.update(of: batch, i) }
        buffer.core.discardTaken()
    }

    private func putBack(_ count: Int) {
        let batch = buffer.core.taken
        var back = [UInt64](repeating: 0, count: max(count, 1))
        let result = model_put_back(&model, count, &back)
        words.append(String(cString: scenario_result_word(result)))
        if result == CDEDUPE_OK { buffer.storage.putBackTail(from: batch.count - count) }
    }

    // MARK: Words

    private func number(of key: String) -> UInt32 {
        let bytes = Array(key.utf8)
        return scenario_key_number(scenario, bytes, bytes.count)
    }

    private func name(of key: UInt32) -> String {
        var name = [CChar](repeating: 0, count: 100)
        scenario_key_name(scenario, key, &name, name.count)
        return name.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }

    private func word(_ status: SyncStatus) -> String {
        String(cString: scenario_status_word(cdedupe_status_t(UInt32(status.rawValue))))
    }

    private func word(_ item: Item<String, Int>) -> String {
        let key = number(of: item.key)
        let sign = item.type == .new ? "+" : item.type == .updated ? "~" : "-"
        let id = item.value.map(UInt64.init) ?? item.revision
        // A wrong revision makes a word that nothing expects.
        let isRight = item.value == nil ? item.type == .deleted : item.revision == id % 10
        return sign + name(of: key) + (id == 0 || scenario_is_fill_key(key) ? "" : "\(id)")
            + (isRight ? "" : "@\(item.revision)")
    }

    private func word(_ item: model_item_t) -> String {
        if item.kind == CDEDUPE_ITEM_STATUS { return String(cString: scenario_status_word(item.status)) }
        let sign = item.kind == CDEDUPE_ITEM_NEW ? "+" : item.kind == CDEDUPE_ITEM_UPDATED ? "~" : "-"
        let key = UInt32(item.key)
        return sign + name(of: key) + (item.id == 0 || scenario_is_fill_key(key) ? "" : "\(item.id)")
    }
}

/// A number whose digits are those of both.
private func joinDigits(_ older: UInt64, _ newer: UInt64) -> UInt64 {
    var (rest, shifted) = (newer, older)
    while rest != 0 { (rest, shifted) = (rest / 10, shifted * 10) }
    return shifted + newer
}
