// SPDX-License-Identifier: Apache-2.0

import CEventParser

/// What is wrong with a value or a line of the input.
struct BadInput: Equatable {
    var line: Int
    /// The byte of the line, from 1; nil: the line as a whole is wrong.
    var column: Int?
    /// The line that the value begins in.
    var firstLine: Int
    var reason: String
}

/// Reports what is wrong with the input: the first messages as they come, then a count of each
/// kind.
///
/// Only the thread that reads uses it.
final class BadInputLog {
    enum Message: Equatable, CustomStringConvertible {
        case bad(BadInput)
        /// Lines that were passed over after the last error.
        case passedOver(ClosedRange<Int>)
        /// How many more there were of a kind than were reported.
        case more(Int, reason: String)

        var description: String {
            switch self {
            case .bad(let bad):
                let place = bad.column.map { "line \(bad.line), column \($0)" } ?? "line \(bad.line)"
                let beginning = bad.firstLine == bad.line ? "" : " (the value begins in line \(bad.firstLine))"
                return "\(place): \(bad.reason)\(beginning)"
            case .passedOver(let lines): return "lines \(lines.lowerBound) to \(lines.upperBound) were passed over"
            case .more(let count, let reason): return "\(count) more: \(reason)"
            }
        }
    }

    private let report: (Message) -> Void
    private let maximum: Int?
    private let mostMessages: Int
    private(set) var count = 0
    private var unreported: [(reason: String, count: Int)] = []

    /// - Parameters:
    ///   - maximum: The error that ends the reading, counted from 1; nil: none does.
    ///   - mostMessages: How many errors are reported one by one.
    ///   - report: Where messages go.
    init(maximum: Int? = nil, mostMessages: Int = 20, report: @escaping (Message) -> Void) {
        self.maximum = maximum
        self.mostMessages = mostMessages
        self.report = report
    }

    /// - Returns: Whether to go on.
    func add(_ bad: BadInput) -> Bool {
        count += 1
        if count <= mostMessages {
            report(.bad(bad))
        } else if let index = unreported.firstIndex(where: { $0.reason == bad.reason }) {
            unreported[index].count += 1
        } else {
            unreported.append((bad.reason, 1))
        }
        return maximum.map { count < $0 } ?? true
    }

    /// Notes that lines were passed over after the last error.
    func passedOver(_ lines: ClosedRange<Int>) {
        if count <= mostMessages {
            report(.passedOver(lines))
        }
    }

    /// Reports the counts of what was not reported.
    func finish() {
        for (reason, count) in unreported {
            report(.more(count, reason: reason))
        }
        unreported = []
    }
}
