// SPDX-License-Identifier: Apache-2.0

import CEventParser
import DedupeBuffer
import Synchronization

/// What came in, counted by the thread that reads and looked at by others.
final class InputCounters: Sendable {
    let lines = Atomic(0)
    let updates = Atomic(0)
    let statuses = Atomic(0)
    let restarts = Atomic(0)
    let badLines = Atomic(0)
}

/// Hands events to the buffer, in their order, many updates in one call.
struct EventFeed<Target: RestartAwareCallbacks> where Target.Key == LineKey, Target.Value == LineValue {
    private let target: Target
    private let counters: InputCounters
    private let isStrict: Bool
    private let reportBadLine: (_ line: Int, _ reason: String) -> Void
    private var updates: [Update<LineKey, LineValue>] = []

    /// - Parameters:
    ///   - target: The buffer.
    ///   - isStrict: Whether the first bad line is the last line.
    ///   - reportBadLine: Called for each bad line, after what came before it was handed over.
    init(
        target: Target, counters: InputCounters, isStrict: Bool,
        reportBadLine: @escaping (_ line: Int, _ reason: String) -> Void
    ) {
        self.target = target
        self.counters = counters
        self.isStrict = isStrict
        self.reportBadLine = reportBadLine
    }

    /// Hands over what the events say. Nothing is held back for later.
    ///
    /// - Returns: Whether to go on: false after a bad line, if that is to be the end.
    mutating func take(_ events: UnsafeBufferPointer<cevent_event>) -> Bool {
        // The buffer lets go of the array before it returns, so its memory is used again.
        updates.reserveCapacity(events.count)
        defer { handOver() }

        for event in events {
            switch event.kind {
            case .CEVENT_KIND_UPDATE, .CEVENT_KIND_DELETION:
                let line = Line(
                    key: UnsafeRawBufferPointer(start: event.key, count: Int(event.key_length)),
                    value: UnsafeRawBufferPointer(start: event.value, count: Int(event.value_length)))
                let value = event.kind == .CEVENT_KIND_UPDATE ? LineValue(of: line) : nil
                updates.append(Update(key: LineKey(of: line), value: value, revision: event.revision))
            case .CEVENT_KIND_STATUS:
                handOver()
                counters.statuses.add(1, ordering: .relaxed)
                target.onStatusUpdated(SyncStatus(event.status))
            case .CEVENT_KIND_RESTART:
                handOver()
                counters.restarts.add(1, ordering: .relaxed)
                target.onConnectionRestarted()
            case .CEVENT_KIND_ERROR:
                handOver()
                counters.badLines.add(1, ordering: .relaxed)
                reportBadLine(Int(event.line), String(cString: cevent_error_message(event.error)))
                if isStrict {
                    return false
                }
            }
        }
        return true
    }

    private mutating func handOver() {
        if updates.isEmpty {
            return
        }
        counters.updates.add(updates.count, ordering: .relaxed)
        target.onUpdates(updates)
        updates.removeAll(keepingCapacity: true)
    }
}

extension SyncStatus {
    fileprivate init(_ status: cevent_status) {
        switch status {
        case .CEVENT_STATUS_WAIT_FOR_READY: self = .waitForDatastore
        case .CEVENT_STATUS_RESYNC: self = .resyncInProgress
        case .CEVENT_STATUS_IN_SYNC: self = .inSync
        }
    }
}
