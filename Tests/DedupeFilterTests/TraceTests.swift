// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Foundation
import Testing

@testable import dedupe

/// Recorded behaviour of the original, through the filter: lines in, lines out.
@Suite struct TraceTests {
    static let files: [URL] = {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Traces")
        let content = (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)) ?? []
        return content.filter { $0.pathExtension == "jsonl" }.sorted { $0.path < $1.path }
    }()

    @Test func tracesAreThere() {
        #expect(Self.files.count >= 2)
    }

    @Test(arguments: files) func replay(_ file: URL) throws {
        let traces = try Data(contentsOf: file).split(separator: UInt8(ascii: "\n"))
        #expect(!traces.isEmpty)
        for data in traces {
            let trace = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
            let name = try #require(trace["name"] as? String)
            try replay(
                ops: try #require(trace["ops"] as? [[Any]]), expected: try #require(trace["expect"] as? [Any]),
                name: name)
        }
    }

    private func replay(ops: [[Any]], expected: [Any], name: String) throws {
        let buffer = DedupeBuffer<LineKey, LineValue>()
        let file = ScratchFile()
        let reader = try LineReader(descriptor: file.descriptor)
        var bad: [String] = []
        let log = BadInputLog { bad.append($0.description) }
        var feed = EventFeed(target: buffer, counters: InputCounters(), log: log)
        let collector = Collector()
        let writer = LineWriter { collector.write($0) }
        var expected = expected[...]

        for op in ops {
            switch op[0] as? String {
            case "updates":
                for update in op[1] as! [[Any]] {
                    file.append(try Self.line(["key": update[0], "value": update[1]]))
                }
            case "status":
                file.append(try Self.line(["status": op[1]]))
            case "restart":
                file.append(try Self.line(["restart": true]))
            case "step", "flush":
                var isEmpty = true
                while (try? buffer.sendNextBatchToSink(writer)) != nil {
                    isEmpty = false
                    if op[0] as? String == "step" { break }
                }
                let calls = try collector.take().map(Self.call)
                let next = expected.popFirst()
                let recorded = try #require(next)
                if recorded as? String == "empty" {
                    #expect(isEmpty && calls.isEmpty, "\(name)")
                } else {
                    #expect(try calls == Self.calls(of: try #require(recorded as? [[Any]])), "\(name)")
                }
                continue
            default:
                Issue.record("\(name): unknown operation \(op)")
            }
            _ = try pump(reader, into: &feed)
        }
        #expect(expected.isEmpty && bad.isEmpty, "\(name): \(bad)")
    }

    private static func line(_ object: [String: Any]) throws -> [UInt8] {
        Array(try JSONSerialization.data(withJSONObject: object)) + [0x0A]
    }

    /// One call of the sink.
    private enum Call: Equatable {
        case status(String)
        case updates([Item])
    }

    private struct Item: Equatable {
        var key: String
        var value: String?
        var type: String
    }

    /// The call that wrote these lines. The writer writes once for each call.
    private static func call(_ written: [UInt8]) throws -> Call {
        var items: [Item] = []
        for line in written.split(separator: 0x0A) {
            let object = try #require(try JSONSerialization.jsonObject(with: Data(line)) as? [String: Any])
            if let status = object["status"] as? String {
                #expect(object.count == 1)
                return .status(status)
            }
            #expect(object.count == 3)
            items.append(
                Item(
                    key: try #require(object["key"] as? String), value: object["value"] as? String,
                    type: try #require(object["type"] as? String)))
        }
        return .updates(sorted(items))
    }

    private static func calls(of recorded: [[Any]]) throws -> [Call] {
        try recorded.map { call in
            if call[0] as? String == "status" {
                return .status(try #require(call[1] as? String))
            }
            let items = try #require(call[1] as? [[Any]])
            return .updates(
                sorted(items.map { Item(key: $0[0] as! String, value: $0[1] as? String, type: $0[2] as! String) }))
        }
    }

    /// The order among deletions in a row is not part of the contract.
    private static func sorted(_ items: [Item]) -> [Item] {
        var items = items
        var start = items.startIndex
        while start < items.endIndex {
            let end = items[start...].firstIndex { $0.type != "deleted" } ?? items.endIndex
            items[start..<end].sort { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
            start = end + 1
        }
        return items
    }
}
