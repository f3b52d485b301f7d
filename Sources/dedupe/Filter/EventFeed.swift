// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
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
    /// Lines without a key that were left out.
    let withoutKey = Atomic(0)
    /// Updates that an update of their key with a greater revision had preceded.
    let older = Atomic(0)
}

extension InputSummary {
    /// - Parameter updates: How many updates the buffer received.
    init(_ counters: InputCounters, updates: Int) {
        func number(_ counter: borrowing Atomic<Int>) -> Int { counter.load(ordering: .relaxed) }
        let lines = number(counters.lines)
        self.init(
            count: lines,
            text: "\(lines) lines, \(updates) updates, \(number(counters.statuses)) statuses, "
                + "\(number(counters.restarts)) restarts, \(number(counters.badLines)) bad, "
                + "\(number(counters.withoutKey)) without a key",
            older: number(counters.older))
    }
}

/// What becomes of lines without a key.
enum MissingKeyRule: String, CaseIterable, ExpressibleByArgument {
    case error
    case skip
    case pass
}

/// Hands events to the buffer, in their order, many updates in one call.
struct EventFeed<Target: RestartAwareCallbacks> where Target.Key == LineKey, Target.Value == LineValue {
    /// How events become updates.
    struct Rules {
        var format = InputFormat()
        var onMissing = MissingKeyRule.error
        /// Whether an update is ignored if its key has had one with a greater revision.
        var newerOnly = false
        /// Where to keep the lines of deletions, if the reader gets whole lines.
        var deletionLines: DeletionLines?
        var passedLines = PassedLines()
        /// The buffer's counts.
        var statistics: @Sendable () -> DedupeBufferStatistics = { DedupeBufferStatistics() }
        /// Whether the delivery may put back what it has taken.
        var putsBack = false
        /// What an overflow leads to; nil if the buffer has no bound.
        var onOverflow: OverflowRule?
        /// Hears of each overflow, and how many updates it dropped.
        var overflowed: (_ dropped: Int) -> Void = { _ in }
    }

    private let target: Target
    private let rules: Rules
    private let counters: InputCounters
    private let log: BadInputLog
    private var updates: [Update<LineKey, LineValue>] = []
    /// The greatest revision of each key, deleted ones included.
    private var revisions: [LineKey: UInt64] = [:]
    /// Whether an overflow ends the reading.
    private(set) var hasStopped = false
    /// Whether updates were lost that only a snapshot after the source's next restart brings back.
    private var isIncomplete = false
    /// The updates that the buffer had dropped before the next overflow.
    private var dropped = 0

    /// - Parameters:
    ///   - target: The buffer.
    ///   - log: Hears of each bad line, after what came before it was handed over.
    init(target: Target, rules: Rules = Rules(), counters: InputCounters, log: BadInputLog) {
        self.target = target
        self.rules = rules
        self.counters = counters
        self.log = log
    }

    /// Hands over what the events say. Nothing is held back for later.
    ///
    /// - Returns: Whether to go on: false after the error or the overflow that ends the reading.
    mutating func take(_ events: UnsafeBufferPointer<cevent_event>) -> Bool {
        // The buffer lets go of the array before it returns, so its memory is used again.
        updates.reserveCapacity(events.count)
        let goesOn = takeEach(events)
        handOver()
        if hasStopped {
            // The buffer has dropped what came behind the overflow. Now it takes the mark.
            restartAfterOverflow()
        }
        return goesOn && !hasStopped
    }

    private mutating func takeEach(_ events: UnsafeBufferPointer<cevent_event>) -> Bool {
        let lines = rules.deletionLines
        for event in events where !hasStopped {
            switch event.kind {
            case .CEVENT_KIND_UPDATE, .CEVENT_KIND_DELETION: takeUpdate(event, keeping: lines)
            case .CEVENT_KIND_STATUS: takeStatus(SyncStatus(event.status))
            case .CEVENT_KIND_RESTART: takeRestart()
            case .CEVENT_KIND_OVERFLOW: updates.append(OverflowMark.update)
            case .CEVENT_KIND_HEADER:
                // Between envelopes a header would not be JSON.
                if rules.deletionLines != nil { pass(event) }
            case .CEVENT_KIND_MISSING:
                if !takeMissing(event) { return false }
            case .CEVENT_KIND_SKIPPED: log.passedOver(Int(event.first_line)...Int(event.line))
            case .CEVENT_KIND_ERROR:
                let reason = String(cString: cevent_error_message(event.error))
                if !takeError(event, column: Int(event.column), reason) || event.error == .CEVENT_ERROR_UTF16 {
                    return false
                }
            }
        }
        return true
    }

    // MARK: - Updates

    /// - Parameter lines: The rules' lines of deletions. The caller has them at hand for many
    ///   events, because counting references for each one would take longer than the rest.
    @inline(__always)
    private mutating func takeUpdate(_ event: cevent_event, keeping lines: DeletionLines?) {
        let isDeletion = event.kind == .CEVENT_KIND_DELETION
        let line = Line(
            key: UnsafeRawBufferPointer(start: event.key, count: Int(event.key_length)),
            value: UnsafeRawBufferPointer(start: event.value, count: Int(event.value_length)))
        if rules.newerOnly && isOlder(LineKey(of: line), revision: event.revision) {
            counters.older.add(1, ordering: .relaxed)
            return
        }
        if let lines, isDeletion || lines.keptLines > 0 {
            putBesideDeletions(line, isDeletion: isDeletion, revision: event.revision, keeping: lines)
            return
        }
        let value = isDeletion ? nil : LineValue(of: line)
        updates.append(Update(key: LineKey(of: line), value: value, revision: event.revision))
    }

    /// Whether the key has had a greater revision. 0 is no revision.
    private mutating func isOlder(_ key: LineKey, revision: UInt64) -> Bool {
        if revision == 0 {
            return false
        }
        if let latest = revisions[key] {
            if revision < latest {
                return true
            }
            revisions[key] = revision
            return false
        }
        // The line also has the value, which must not be kept.
        revisions[LineKey(of: key.line.withKey { Line(key: $0, value: .init(start: nil, count: 0)) })] = revision
        return false
    }

    /// Puts a deletion, or what comes while lines of deletions are kept.
    ///
    /// An update whose key has such a line is put by itself, and the buffer's counts tell whether
    /// it was cancelled. Only this thread puts. So that is this update's doing, unless the delivery
    /// puts back meanwhile what came too early for the interval. Then the line is kept until the
    /// next update of its key.
    private mutating func putBesideDeletions(
        _ line: Line, isDeletion: Bool, revision: UInt64, keeping lines: DeletionLines
    ) {
        let key = LineKey(of: line)
        var update = Update(key: key, value: isDeletion ? nil : LineValue(of: line), revision: revision)
        if !isDeletion && !lines.mayHold(key) {
            updates.append(update)
            return
        }
        handOver()
        let number = isDeletion ? lines.keep(line, for: key) : nil
        update.revision = number ?? revision
        let before = rules.statistics()
        updates.append(update)
        handOver()
        let after = rules.statistics()
        let isSure = !rules.putsBack || (before.delivered, before.batches) == (after.delivered, after.batches)
        if let number, isSure, after.cancelled > before.cancelled {
            lines.wasCancelled(number, of: key)
        }
        lines.wasPut(number, of: key, taken: after.delivered)
    }

    private mutating func handOver() {
        if updates.isEmpty {
            return
        }
        counters.updates.add(updates.count, ordering: .relaxed)
        target.onUpdates(updates)
        updates.removeAll(keepingCapacity: true)
        if rules.onOverflow != nil && !hasStopped {
            lookForOverflow()
        }
    }

    // MARK: - Overflows

    private mutating func lookForOverflow() {
        let statistics = rules.statistics()
        if !statistics.isOverflowed {
            return
        }
        rules.overflowed(statistics.dropped - dropped)
        dropped = statistics.dropped
        isIncomplete = true
        hasStopped = rules.onOverflow == .stop
        if !hasStopped {
            restartAfterOverflow()
        }
    }

    /// Makes the buffer take updates again, and forgets what belonged to those that it dropped.
    private func restartAfterOverflow() {
        target.onConnectionRestarted()
        let taken = rules.statistics().delivered
        rules.passedLines.wereDropped(taken: taken)
        if let lines = rules.deletionLines {
            lines.wereDropped(taken: taken)
        } else {
            target.onUpdates([OverflowMark.update])
        }
    }

    // MARK: - Other lines

    /// After an overflow an in-sync would not be true, and would delete the keys whose updates were
    /// dropped. So it waits for a restart of the source.
    private mutating func takeStatus(_ status: SyncStatus) {
        handOver()
        counters.statuses.add(1, ordering: .relaxed)
        if !(isIncomplete && status == .inSync) {
            target.onStatusUpdated(status)
        }
    }

    private mutating func takeRestart() {
        handOver()
        counters.restarts.add(1, ordering: .relaxed)
        revisions.removeAll()
        target.onConnectionRestarted()
        if rules.onOverflow != nil {
            isIncomplete = false
            dropped = rules.statistics().dropped
        }
    }

    /// - Returns: Whether to go on.
    private mutating func takeMissing(_ event: cevent_event) -> Bool {
        switch rules.onMissing {
        case .error: return takeError(event, column: nil, rules.format.missing(part: Int(event.part)))
        case .skip: counters.withoutKey.add(1, ordering: .relaxed)
        case .pass: pass(event)
        }
        return true
    }

    /// Puts a line that keeps its place and is never replaced.
    private mutating func pass(_ event: cevent_event) {
        let line = rules.passedLines.line(
            UnsafeRawBufferPointer(start: event.value, count: Int(event.value_length)))
        updates.append(Update(key: LineKey(of: line), value: LineValue(of: line)))
    }

    private mutating func takeError(_ event: cevent_event, column: Int?, _ reason: String) -> Bool {
        handOver()
        counters.badLines.add(1, ordering: .relaxed)
        return log.add(
            BadInput(line: Int(event.line), column: column, firstLine: Int(event.first_line), reason: reason))
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
