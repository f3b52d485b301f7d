// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DedupeBuffer

/// What becomes of the reading when more is pending than the bound allows.
enum OverflowRule: String, CaseIterable, ExpressibleByArgument {
    case stop
    case drop
}

extension DedupeBufferConfiguration.Bound<LineValue> {
    /// The bound that the command line says. A value weighs its bytes.
    static func lines(bytes: Int?, keys: Int?) -> Self? {
        if let bytes {
            return .bytes(bytes, keys: keys) { $0.withBytes { $0.count } }
        }
        return keys.map { .keys($0) }
    }
}

/// The update that stands in the queue for an overflow.
///
/// It is the deletion of a key that is never live. So it keeps its place between the updates, no
/// restart deletes its key later, and nothing of it is left when it was delivered.
enum OverflowMark {
    /// No key of JSON begins with the first of these bytes, and no field of text holds the second.
    private static let key: [UInt8] = [0xFE, 0x0A]

    static let update: Update<LineKey, LineValue> = {
        let line = key.withUnsafeBytes { Line(key: $0, value: UnsafeRawBufferPointer(start: nil, count: 0)) }
        return Update(key: LineKey(of: line), value: nil)
    }()

    static func isMark(_ update: Update<LineKey, LineValue>) -> Bool {
        update.value == nil && update.key == Self.update.key
    }
}

/// Reports overflows: the first ones as they come, then how many there were.
///
/// Only the thread that reads uses it.
final class OverflowLog {
    private let bound: String
    private let rule: OverflowRule
    private let report: (String) -> Void
    private(set) var count = 0
    private var unreported = (count: 0, dropped: 0)

    /// How many overflows are reported one by one.
    private static let mostMessages = 20

    init(keys: Int?, bytes: Int?, rule: OverflowRule, report: @escaping (String) -> Void) {
        let parts = [keys.map { "\($0) keys" }, bytes.map { "\($0) bytes" }].compactMap { $0 }
        bound = parts.joined(separator: " or ")
        self.rule = rule
        self.report = report
    }

    /// Notes an overflow.
    ///
    /// - Parameter dropped: How many updates it dropped.
    func add(dropped: Int) {
        count += 1
        if count > Self.mostMessages {
            unreported.count += 1
            unreported.dropped += dropped
            return
        }
        let end = rule == .stop ? ", and nothing more is read" : ""
        report("overflow: more than \(bound) were pending; \(dropped) updates dropped\(end)")
    }

    /// Reports the count of what was not reported.
    func finish() {
        if unreported.count > 0 {
            report("\(unreported.count) more overflows: \(unreported.dropped) updates dropped")
        }
        unreported = (0, 0)
    }
}
