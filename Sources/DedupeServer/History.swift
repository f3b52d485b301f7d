// SPDX-License-Identifier: Apache-2.0

#if Server

internal import DedupeBuffer
internal import DedupeBufferHub

/// Figures of the last minutes, one row for each second, so that a page that has just been opened
/// can show them.
final class History: Sendable {
    /// What was the case at one second. Counts are totals since the start.
    struct Row: Sendable, Encodable {
        /// Seconds since the server started.
        var time: Double
        var received: Int
        var delivered: Int
        var bytes: Int
        var clients: Int
        var keys: Int
        var pending: Int
        var lagMedian: Int
        var lag99: Int
    }

    private struct State {
        var rows: [Row] = []
        var count = 0
    }

    private let state = Locked(State())
    private static let capacity = 300

    func add(_ row: Row) {
        state.withLock { state in
            if state.rows.count < Self.capacity {
                state.rows.append(row)
            } else {
                state.rows[state.count % Self.capacity] = row
            }
            state.count += 1
        }
    }

    /// The rows from a number on, oldest first, and the number of the next one.
    func rows(from first: Int) -> (next: Int, rows: [Row]) {
        state.withLock { state in
            let begin = min(max(first, state.count - state.rows.count), state.count)
            return (state.count, (begin..<state.count).map { state.rows[$0 % Self.capacity] })
        }
    }
}

#endif
