// SPDX-License-Identifier: Apache-2.0

import Foundation

/// The largest values that results may have, by layer and case, as in `"c replace": 500`.
struct Limits {
    private let limits: [String: Double]

    init(path: String) throws {
        limits = try JSONDecoder().decode([String: Double].self, from: Data(contentsOf: URL(fileURLWithPath: path)))
    }

    /// Whether each limit has a result that does not exceed it. Prints those that have not.
    func check(_ results: [Result]) -> Bool {
        var isWithin = true
        for (name, limit) in limits.sorted(by: { $0.key < $1.key }) {
            let value = results.first { "\($0.layer) \($0.name)" == name }?.value
            if let value, value <= limit { continue }
            print("\(name): \(value.map { String(format: "%.0f", $0) } ?? "no result"), at most \(limit) are allowed")
            isWithin = false
        }
        if isWithin { print("\(limits.count) limits are kept") }
        return isWithin
    }
}
