// SPDX-License-Identifier: Apache-2.0

#if Server

import CEventParser
import DedupeBuffer
import DedupeServer
import Synchronization

/// What came in, counted by the thread that reads and looked at by others.
final class ServedInput: Sendable {
    let counters = InputCounters()
    private let hasEnded = Atomic(false)

    func end() { hasEnded.store(true, ordering: .releasing) }

    var report: InputReport {
        var report = InputReport()
        report.lines = counters.lines.load(ordering: .relaxed)
        report.updates = counters.updates.load(ordering: .relaxed)
        report.bad = counters.badLines.load(ordering: .relaxed)
        report.hasEnded = hasEnded.load(ordering: .acquiring)
        return report
    }

    var summary: InputSummary {
        InputSummary(counters, updates: counters.updates.load(ordering: .relaxed))
    }
}

extension ServedTypes<LineKey, LineValue> {
    /// Lines, as objects of the filter's own format.
    static func lines(of format: InputFormat) -> Self {
        var envelope = EnvelopeFormat()
        if case .text = format.shape {
            envelope = EnvelopeFormat(key: .anyText, value: .anyText)
        }
        return ServedTypes(
            envelope: { [envelope] update in
                var text = ByteText(capacity: 256)
                text.append(update, as: envelope)
                var bytes: [UInt8] = []
                // The newline is the wire's affair.
                text.withBytes { bytes = Array($0.dropLast()) }
                return bytes
            },
            hasPrefix: { key, prefix in key.line.withKey { Self.key($0, hasPrefix: prefix) } })
    }

    /// A key that is no string is compared as it is written.
    private static func key(_ key: UnsafeRawBufferPointer, hasPrefix prefix: [UInt8]) -> Bool {
        let text = key.first == UInt8(CEVENT_KEY_IS_JSON) ? UnsafeRawBufferPointer(rebasing: key.dropFirst()) : key
        return text.starts(with: prefix)
    }
}

#endif
