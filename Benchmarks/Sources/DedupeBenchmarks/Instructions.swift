// SPDX-License-Identifier: Apache-2.0

import CMeasure
import Foundation

/// Instructions per update, counted by callgrind, for a thousand keys.
///
/// The Makefile runs this program under `valgrind --tool=callgrind --instr-atstart=no`. Each case
/// ends with a dump that is named after the case, the side, and how many updates it had.
enum Instructions {
    static func run() {
        // Both sides once without being counted: the runtime looks up types and protocols at their
        // first use.
        for counted in [false, true] {
            measure(OurBuffer.self, "ours", counted)
            measure(YardstickBuffer.self, "yardstick", counted)
        }
    }

    private static func measure<S: Subject>(_ subject: S.Type, _ side: String, _ counted: Bool) {
        let stream = Stream(Setting(keys: 1000), seed: 1, rounds: 20)
        let all = stream.calls.prefix(stream.allKeys)
        let sink = EmptySink()
        let buffer = S.make()

        func count(_ name: String, _ updates: Int, _ work: () -> Void) {
            if counted { measure_begin_counting() }
            work()
            if counted { measure_end_counting("\(name) \(side) \(updates)") }
        }
        count("insert", 1000) { for call in all { buffer.onUpdates(call) } }
        count("replace", 20_000) { for call in stream.calls { buffer.onUpdates(call) } }
        count("replace-1", 20_000) { for call in stream.calls { buffer.put(call, call: 1) } }
        count("deliver", 1000) { buffer.drain(to: sink) }
        count("requeue", 1000) { for call in all { buffer.onUpdates(call) } }
        count("deliver-again", 1000) { buffer.drain(to: sink) }
        count("insert-1", 1000) {
            let fresh = S.make()
            for call in all { fresh.put(call, call: 1) }
        }
    }

    /// Reads the dumps that callgrind left: `callgrind.c.1`, `callgrind.swift.1` and so on.
    static func read(directory: String) throws -> [Result] {
        var counts: [String: [String: Double]] = [:]
        var order: [(layer: String, name: String)] = []
        let names = try FileManager.default.contentsOfDirectory(atPath: directory)
        var files = names.map { $0.split(separator: ".").map(String.init) }.filter { $0.count == 3 }
        files.removeAll { $0[0] != "callgrind" }
        files.sort { (left: [String], right: [String]) -> Bool in (Int(left[2]) ?? 0) < (Int(right[2]) ?? 0) }
        for parts in files {
            let path = "\(directory)/\(parts.joined(separator: "."))"
            let text = try String(contentsOfFile: path, encoding: .utf8)
            guard let (name, side, updates) = readTitle(text), let total = readTotal(text) else { continue }
            let row = "\(parts[1]) \(name)"
            if counts[row] == nil { order.append((parts[1], name)) }
            counts[row, default: [:]][side] = total / updates
        }
        return order.map { layer, name in
            let sides = counts["\(layer) \(name)"]!
            return Result(
                name, layer: layer, Setting(keys: 1000), "instructions/update", ours: sides["ours"],
                plain: sides["yardstick"])
        }
    }

    private static func readTitle(_ dump: String) -> (name: String, side: String, updates: Double)? {
        let prefix = "desc: Trigger: Client Request: "
        guard let line = dump.split(separator: "\n").first(where: { $0.hasPrefix(prefix) }) else { return nil }
        let words = line.dropFirst(prefix.count).split(separator: " ").map(String.init)
        guard words.count == 3, let updates = Double(words[2]) else { return nil }
        return (words[0], words[1], updates)
    }

    private static func readTotal(_ dump: String) -> Double? {
        let line = dump.split(separator: "\n").last { $0.hasPrefix("totals: ") || $0.hasPrefix("summary: ") }
        return line.flatMap { Double($0.split(separator: " ").last!) }
    }
}
