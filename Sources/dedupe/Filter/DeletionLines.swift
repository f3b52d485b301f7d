// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Synchronization

/// The lines that deletions came in, for a reader that gets whole lines: in the buffer a deletion
/// has no value.
///
/// Each deletion has a number, which its revision carries through the buffer. A line is kept as
/// long as its deletion is pending, or taken and not with the writer yet. The feed is the only
/// producer: of the deletions of a key, only the one that it put last can be pending.
final class DeletionLines: Sendable {
    private struct Entry {
        var number: UInt64
        var line: Line
        /// Whether it is certain that the deletion is not pending. It may still have been taken.
        var isOver = false
    }

    private struct State {
        var entries: [LineKey: [Entry]] = [:]
        var lastNumber: UInt64 = 0
        /// Keys with entries that are over.
        var over: Set<LineKey> = []
        var gate = TakenGate()
    }

    private let state = Locked(State())
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

    /// The lines of the deletions of a batch, by their numbers. They are kept no longer.
    func take(_ updates: [Update<LineKey, LineValue>]) -> [UInt64: Line] {
        state.withLock { state in
            var lines: [UInt64: Line] = [:]
            if !state.entries.isEmpty {
                for update in updates where update.value == nil {
                    forget(update.key, in: &state) { entry in
                        guard entry.number == update.revision else { return false }
                        lines[entry.number] = entry.line
                        return true
                    }
                }
            }
            if state.gate.give(updates.count) {
                forgetOver(in: &state)
            }
            return lines
        }
    }

    /// Notes that a deletion met a value that the sink had never been given: both are gone.
    func wasCancelled(_ number: UInt64, of key: LineKey) {
        state.withLock { state in
            forget(key, in: &state) { $0.number == number }
        }
    }

    /// Notes that an update was put behind earlier ones of its key.
    ///
    /// - Parameters:
    ///   - number: The update's number if it is a deletion; nil if it is a value.
    ///   - taken: The updates that had been taken by then.
    func wasPut(_ number: UInt64?, of key: LineKey, taken: Int) {
        state.withLock { state in
            end(key, except: number, in: &state)
            if state.gate.wait(taken: taken) {
                forgetOver(in: &state)
            }
        }
    }

    /// Notes that an overflow dropped all deletions that were pending.
    ///
    /// - Parameter taken: The updates that had been taken by then.
    func wereDropped(taken: Int) {
        state.withLock { state in
            for key in Array(state.entries.keys) {
                end(key, except: nil, in: &state)
            }
            if state.gate.wait(taken: taken) {
                forgetOver(in: &state)
            }
        }
    }

    private func end(_ key: LineKey, except number: UInt64?, in state: inout State) {
        guard var entries = state.entries[key] else { return }
        for index in entries.indices where entries[index].number != number {
            entries[index].isOver = true
            state.over.insert(key)
        }
        state.entries[key] = entries
    }

    private func forgetOver(in state: inout State) {
        for key in state.over {
            forget(key, in: &state) { $0.isOver }
        }
        state.over = []
    }

    private func forget(_ key: LineKey, in state: inout State, where matches: (Entry) -> Bool) {
        guard let entries = state.entries[key] else { return }
        let rest = entries.filter { !matches($0) }
        state.entries[key] = rest.isEmpty ? nil : rest
        count.subtract(entries.count - rest.count, ordering: .releasing)
    }
}
