// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// A number of lines in a time: `500`, `0.2`, `5/min`.
struct LineRate: ExpressibleByArgument, Equatable {
    var linesPerSecond: Double

    init(linesPerSecond: Double) {
        self.linesPerSecond = linesPerSecond
    }

    init?(argument: String) {
        let parts = argument.split(separator: "/", omittingEmptySubsequences: false)
        let seconds: [Substring: Double] = ["s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600]
        guard let lines = positiveNumber(parts[0]), parts.count <= 2,
            let time = parts.count == 2 ? seconds[parts[1]] : 1
        else { return nil }
        linesPerSecond = lines / time
    }
}

/// A duration: `10s`, `1.5m`, `500ms`, `1h`; without a unit, seconds.
struct TimeSpan: ExpressibleByArgument, Equatable {
    var nanoseconds: UInt64

    init(nanoseconds: UInt64) {
        self.nanoseconds = nanoseconds
    }

    init?(argument: String) {
        let digits = argument.prefix { $0.isNumber || $0 == "." }
        let units: [Substring: Double] = ["": 1, "ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600]
        guard let unit = units[argument[digits.endIndex...]], let number = positiveNumber(digits),
            number * unit < Self.longest
        else { return nil }
        nanoseconds = UInt64(number * unit * 1e9)
    }

    /// Nothing: the text of an option says its default, because the manual has only the text.
    var defaultValueDescription: String { "" }

    /// A century, in seconds: what is longer than that is a mistake.
    private static let longest = 3.2e9
}

/// A finite number above 0, in digits with at most one point.
private func positiveNumber(_ text: Substring) -> Double? {
    guard text.allSatisfy({ ("0"..."9").contains($0) || $0 == "." }), let number = Double(text), number > 0,
        number.isFinite
    else { return nil }
    return number
}
