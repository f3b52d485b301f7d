// SPDX-License-Identifier: Apache-2.0

// The recorded traces, contract section 7: every *.jsonl under Tests/Traces, with keys computed and
// with keys known; delivered by hand, and to a task.

import DedupeBuffer
import Foundation
import Testing

/// How a trace's updates go in.
enum Intake: CaseIterable, Sendable, CustomTestStringConvertible {
    case computedKeys, knownStrings, knownBytes, oneByOne

    /// Those that pass all updates in one call.
    static let inOneCall: [Intake] = [.computedKeys, .knownStrings, .knownBytes]

    var testDescription: String {
        switch self {
        case .computedKeys: "onUpdates"
        case .knownStrings: "onUpdatesKeysKnown, strings"
        case .knownBytes: "onUpdatesKeysKnown, bytes"
        case .oneByOne: "update and remove"
        }
    }

    func send<Value: Sendable>(_ updates: [Update<String, Value>], to buffer: DedupeBuffer<String, Value>) {
        switch self {
        case .computedKeys: buffer.onUpdates(updates)
        case .knownStrings: buffer.onUpdatesKeysKnown(updates, keys: updates.map(\.key))
        case .knownBytes: buffer.onUpdatesKeysKnown(updates, keys: updates.map { Array($0.key.utf8) })
        case .oneByOne:
            for update in updates {
                if let value = update.value {
                    buffer.update(update.key, to: value, revision: update.revision)
                } else {
                    buffer.remove(update.key, revision: update.revision)
                }
            }
        }
    }
}

@Suite("Traces")
struct TraceTests {
    private typealias Call = Event<String, String>

    /// A line that is not what section 7 says.
    private struct Malformed: Error, CustomStringConvertible {
        var description: String
    }

    private static let folder = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().appendingPathComponent("../Traces").standardizedFileURL

    static let files: [String] =
        ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? [])
        .filter { $0.hasSuffix(".jsonl") }.sorted()

    @Test func traces_areThere() {
        #expect(Self.files.contains("parity.jsonl"))
        #expect(Self.files.contains("deviation.jsonl"))
    }

    /// How a trace's batches come out.
    enum Outlet: CaseIterable, Sendable { case batches, events }

    @Test(arguments: files, Intake.allCases)
    func trace(file: String, intake: Intake) async throws {
        try await replayAll(of: file, intake, .batches)
    }

    @Test(arguments: files)
    func trace_toAConsumerOfEvents(file: String) async throws {
        try await replayAll(of: file, .computedKeys, .events)
    }

    private func replayAll(of file: String, _ intake: Intake, _ outlet: Outlet) async throws {
        let text = try String(contentsOf: Self.folder.appendingPathComponent(file), encoding: .utf8)
        var count = 0
        var failures = 0
        for line in text.split(separator: "\n") {
            count += 1
            do {
                if let difference = try await Self.replay(Data(line.utf8), intake, outlet) {
                    failures += 1
                    if failures <= 5 { Issue.record("\(file): \(difference)") }
                }
            } catch {
                Issue.record("\(file), line \(count): \(error)")
                return
            }
        }
        #expect(count > 0)
        #expect(failures == 0, "of \(count) traces in \(file)")
    }

    /// Replays one trace; returns what differs first, or nil.
    private static func replay(_ line: Data, _ intake: Intake, _ outlet: Outlet) async throws -> String? {
        guard let trace = try JSONSerialization.jsonObject(with: line) as? [String: Any],
            let name = trace["name"] as? String, let operations = trace["ops"] as? [[Any]],
            let expected = trace["expect"] as? [Any]
        else { throw Malformed(description: "not a trace") }

        let buffer = DedupeBuffer<String, String>()
        var consumer = Consumer(buffer)
        var answers = 0
        for (index, operation) in operations.enumerated() {
            let actual: [Call]?
            switch operation.first as? String {
            case "updates":
                let pairs = (operation.last as? [[Any]]) ?? []
                let updates = pairs.map { Update(key: $0[0] as? String ?? "", value: $0[1] as? String) }
                intake.send(updates, to: buffer)
                continue
            case "status":
                buffer.onStatusUpdated(try status(operation.last))
                continue
            case "restart":
                buffer.onConnectionRestarted()
                continue
            case "step":
                actual = try await outlet == .events ? consumer.nextBatch() : buffer.nextBatch()
            case "flush":
                let calls = try await outlet == .events ? consumer.flush() : buffer.flush()
                actual = calls.isEmpty ? nil : calls
            default:
                throw Malformed(description: "\(name): operation \(operation)")
            }
            guard answers < expected.count else { throw Malformed(description: "\(name): too few answers") }
            let due = try expected[answers] as? String == "empty" ? nil : calls(expected[answers])
            answers += 1
            if normalised(actual) != normalised(due) {
                return "\(name), operation \(index): delivered \(actual.map { "\($0)" } ?? "nothing"), "
                    + "due \(due.map { "\($0)" } ?? "nothing")"
            }
        }
        guard answers == expected.count else { throw Malformed(description: "\(name): too many answers") }
        let statistics = buffer.statistics
        return statistics.unaccounted == 0 ? nil : "\(name): counts do not add up: \(statistics)"
    }

    /// Consumes batch by batch, though events do not say where a batch ends: there everything taken
    /// was handed out.
    private struct Consumer {
        private let buffer: DedupeBuffer<String, String>
        private var iterator: DedupeBufferEvents<String, String>.Iterator
        private var handedOut = 0

        init(_ buffer: DedupeBuffer<String, String>) {
            self.buffer = buffer
            iterator = buffer.events.makeAsyncIterator()
        }

        mutating func nextBatch() async throws -> [Call]? {
            guard buffer.statistics.pendingKeys + buffer.statistics.pendingStatuses > 0 else { return nil }
            var calls: [Call] = []
            repeat {
                guard let call = try await iterator.next().map({ Event($0) }) else { break }
                calls.append(call)
                handedOut += max(1, call.items.count)
            } while handedOut < buffer.statistics.delivered + buffer.statistics.statusesDelivered
            return calls
        }

        mutating func flush() async throws -> [Call] {
            var calls: [Call] = []
            while let batch = try await nextBatch() { calls += batch }
            return calls
        }
    }

    private static func status(_ name: Any?) throws -> SyncStatus {
        switch name as? String {
        case "wait-for-ready": .waitForDatastore
        case "resync": .resyncInProgress
        case "in-sync": .inSync
        default: throw Malformed(description: "status \(name ?? "nil")")
        }
    }

    private static func calls(_ json: Any) throws -> [Call] {
        guard let list = json as? [[Any]] else { throw Malformed(description: "answer \(json)") }
        return try list.map { call in
            if call.first as? String == "status" { return .status(try status(call.last)) }
            guard call.first as? String == "updates", let items = call.last as? [[Any]] else {
                throw Malformed(description: "call \(call)")
            }
            return .updates(
                try items.map { item in
                    guard item.count == 3, let key = item[0] as? String else {
                        throw Malformed(description: "item \(item)")
                    }
                    let value = item[1] as? String
                    switch item[2] as? String {
                    case "new": return Item(key: key, value: value, revision: 0, type: .new)
                    case "updated": return Item(key: key, value: value, revision: 0, type: .updated)
                    case "deleted": return Item(key: key, value: value, revision: 0, type: .deleted)
                    default: throw Malformed(description: "item \(item)")
                    }
                })
        }
    }

    /// Each run of deletions within a call sorted by key.
    private static func normalised(_ calls: [Call]?) -> [Call]? {
        calls?.map { call in
            guard case .updates(var items) = call else { return call }
            var start = 0
            while start < items.count {
                var end = start
                while end < items.count, items[end].type == .deleted { end += 1 }
                items[start..<end].sort { $0.key < $1.key }
                start = max(end, start + 1)
            }
            return .updates(items)
        }
    }
}
