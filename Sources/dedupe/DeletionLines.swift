// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Synchronization

/// The lines that deletions came in, for a reader that gets whole lines: in the buffer a deletion
/// has no value.
///
/// Each deletion has a number, which its revision carries through the buffer. The feed is the only
/// producer, so it finds out from the buffer's counts what became of each deletion. A line is kept
/// exactly as long as its deletion is pending or being delivered.
final class DeletionLines: Sendable {
    private struct Entry {
        var number: UInt64
        var line: Line
        /// Whether a value came after this deletion and did not replace it. So the deletion was
        /// taken before, and only the sink waits for its line.
        var isTaken = false
    }

    private struct State {
        var entries: [LineKey: [Entry]] = [:]
        var lastNumber: UInt64 = 0
    }

    private let state = Mutex(State())
    private let count = Atomic(0)

    /// The number of lines that are kept.
    var keptLines: Int { count.load(ordering: .acquiring) }

    /// Whether the line of a deletion of this key is kept. Without any lines this takes no lock.
    func mayHold(_ key: LineKey) -> Bool {
        keptLines > 0 && state.withLock { $0.entries[key] != nil }
    }

    /// Keeps the line of a deletion that is about to be put.
    ///
    /// - Returns: The deletion's number.
    func keep(_ line: Line, for key: LineKey) -> UInt64 {
        state.withLock { state in
            state.lastNumber += 1
            state.entries[key, default: []].append(Entry(number: state.lastNumber, line: line))
            count.add(1, ordering: .releasing)
            return state.lastNumber
        }
    }

    /// The line of a deletion that is being delivered. It is kept no longer.
    func take(_ number: UInt64, of key: LineKey) -> Line? {
        remove(from: key) { $0.number == number }
    }

    /// Notes that a deletion met a value that the sink had never been given: both are gone.
    func wasCancelled(_ number: UInt64, of key: LineKey) {
        remove(from: key) { $0.number == number }
    }

    /// Notes that an update was put behind earlier ones of its key.
    ///
    /// - Parameters:
    ///   - number: The update's number if it is a deletion; nil if it is a value.
    ///   - replaced: Whether the update took the place of a pending one.
    func wasPut(_ number: UInt64?, of key: LineKey, replaced: Bool) {
        if replaced {
            remove(from: key) { !$0.isTaken && $0.number != number }
            return
        }
        state.withLock { state in
            guard var entries = state.entries[key] else { return }
            for index in entries.indices where entries[index].number != number {
                entries[index].isTaken = true
            }
            state.entries[key] = entries
        }
    }

    @discardableResult
    private func remove(from key: LineKey, where matches: (Entry) -> Bool) -> Line? {
        state.withLock { state in
            guard var entries = state.entries[key], let index = entries.firstIndex(where: matches) else { return nil }
            let line = entries.remove(at: index).line
            state.entries[key] = entries.isEmpty ? nil : entries
            count.subtract(1, ordering: .releasing)
            return line
        }
    }
}
