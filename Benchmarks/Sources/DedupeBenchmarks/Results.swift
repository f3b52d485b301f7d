// SPDX-License-Identifier: Apache-2.0

import Foundation

/// One line of the table.
struct Result: Codable {
    var name: String
    /// `c` or `swift`.
    var layer: String
    var keys: Int
    var keySize: Int
    var call: Int
    var threads: Int
    var value: Double?
    var unit: String
    /// The plain port's value.
    var yardstick: Double?
    /// Above 1: better than the yardstick. `nil` where neither way is better, or both values are 0.
    var ratio: Double?

    enum CodingKeys: String, CodingKey {
        case name = "case"
        case layer, keys, keySize, call, threads, value, unit, yardstick, ratio
    }

    enum Better {
        case lower, higher, neither
    }

    init(
        _ name: String, layer: String = "swift", _ setting: Setting, _ unit: String, better: Better = .lower,
        ours: Double?, plain: Double?
    ) {
        self.name = name
        self.layer = layer
        keys = setting.keys
        keySize = setting.keySize
        call = setting.call
        threads = setting.threads
        self.unit = unit
        value = ours
        yardstick = plain
        if let ours, let plain {
            let ratio: Double =
                switch better {
                case .lower: plain / ours
                case .higher: ours / plain
                case .neither: .nan
                }
            self.ratio = ratio.isFinite ? ratio : nil
        }
    }

    /// By hand, because what is missing shall be null, as in the C program's list.
    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(name, forKey: .name)
        try container.encode(layer, forKey: .layer)
        try container.encode(keys, forKey: .keys)
        try container.encode(keySize, forKey: .keySize)
        try container.encode(call, forKey: .call)
        try container.encode(threads, forKey: .threads)
        try container.encode(value, forKey: .value)
        try container.encode(unit, forKey: .unit)
        try container.encode(yardstick, forKey: .yardstick)
        try container.encode(ratio, forKey: .ratio)
    }
}

/// All results so far.
struct Results {
    private(set) var list: [Result] = []

    mutating func add(_ result: Result) {
        list.append(result)
        let text =
            "\(result.layer.padded(to: 6))\(result.name.padded(to: 22)) \(result.keys) keys of "
            + "\(result.keySize) bytes  calls of \(result.call)  \(result.threads) threads  "
            + "\(Table.format(result.value)) against \(Table.format(result.yardstick)) \(result.unit)\n"
        // What goes on; the table comes at the end.
        FileHandle.standardError.write(Data(text.utf8))
    }

    mutating func add(_ results: [Result]) { list += results }

    /// Puts the results of another program before the own.
    mutating func add(contentsOf path: String) throws {
        let data = try Data(contentsOf: URL(fileURLWithPath: path))
        list = try JSONDecoder().decode([Result].self, from: data) + list
    }

    /// A list with a line for each result, which is easy to compare with another.
    func write(to path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let lines = try list.map { String(decoding: try encoder.encode($0), as: UTF8.self) }
        try "[\n\(lines.joined(separator: ",\n"))\n]\n".write(toFile: path, atomically: true, encoding: .utf8)
    }
}

/// Both layers side by side, a row for each case.
enum Table {
    private struct Row: Hashable {
        var name: String
        var setting: Setting
        var unit: String
    }

    static func print(_ results: [Result]) {
        var order: [Row] = []
        var cells: [Row: [String: Result]] = [:]
        for result in results {
            let setting = Setting(
                keys: result.keys, keySize: result.keySize, call: result.call, threads: result.threads)
            let row = Row(name: result.name, setting: setting, unit: result.unit)
            if cells[row] == nil { order.append(row) }
            cells[row, default: [:]][result.layer] = result
        }
        // As in the programs, case by case, then keys, their size, calls and threads.
        var rank: [String: Int] = [:]
        for row in order where rank[row.name] == nil { rank[row.name] = rank.count }
        order.sort {
            let (one, two) = ($0.setting, $1.setting)
            return (rank[$0.name]!, one.keys, one.keySize, one.call, one.threads)
                < (rank[$1.name]!, two.keys, two.keySize, two.call, two.threads)
        }

        let layers = ["c", "swift"].filter { layer in results.contains { $0.layer == layer } }
        var head = "case".padded(to: 22) + "keys".padded(to: 9, right: true) + "bytes".padded(to: 6, right: true)
        head += "call".padded(to: 5, right: true) + "thr".padded(to: 4, right: true)
        for layer in layers {
            head += layer.padded(to: 12, right: true) + "plain".padded(to: 10, right: true)
            head += "ratio".padded(to: 9, right: true)
        }
        Swift.print(head + "   unit")
        Swift.print(String(repeating: "-", count: head.count + 22))
        for row in order {
            var line = row.name.padded(to: 22) + String(row.setting.keys).padded(to: 9, right: true)
            line += String(row.setting.keySize).padded(to: 6, right: true)
            line += String(row.setting.call).padded(to: 5, right: true)
            line += String(row.setting.threads).padded(to: 4, right: true)
            for layer in layers {
                let result = cells[row]![layer]
                line += format(result?.value).padded(to: 12, right: true)
                line += format(result?.yardstick).padded(to: 10, right: true)
                line += format(result?.ratio).padded(to: 9, right: true)
            }
            Swift.print(line + "   \(row.unit)")
        }
    }

    /// Three digits or so: more are noise.
    static func format(_ number: Double?) -> String {
        guard let number else { return "-" }
        let digits =
            switch abs(number) {
            case 100...: 0
            case 10..<100: 1
            case 0.1..<10: 2
            case 0: 0
            default: 4
            }
        return String(format: "%.\(digits)f", number)
    }
}

extension String {
    func padded(to width: Int, right: Bool = false) -> String {
        let padding = String(repeating: " ", count: Swift.max(width - count, 0))
        return right ? padding + self : self + padding
    }
}
