// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer

/// Keys for lines that have none: such a line keeps its place in the queue and is never replaced.
///
/// A key is used again when its line has been taken for delivery, or dropped. So there are never
/// more of these keys than such lines were ever pending at once, and the buffer's memory stays
/// bounded.
final class PassedLines: Sendable {
    private struct State {
        var free: [UInt64] = []
        var count: UInt64 = 0
        /// The numbers of lines that are pending, or taken and not with the writer yet.
        var used: Set<UInt64> = []
        /// Those of them that came before the last overflow.
        var usedBeforeOverflow: Set<UInt64> = []
        var gate = TakenGate()

        mutating func release(_ number: UInt64) {
            if used.remove(number) != nil || usedBeforeOverflow.remove(number) != nil {
                free.append(number)
            }
        }

        mutating func releaseDropped() {
            free += usedBeforeOverflow
            usedBeforeOverflow = []
        }
    }

    private let state = Locked(State())

    /// No key of JSON begins with the first of these bytes, and no field of text holds the second.
    private static let mark: [UInt8] = [0xFE, 0x0A]

    /// A line with a key that no other pending line has.
    func line(_ content: UnsafeRawBufferPointer) -> Line {
        let number = state.withLock { state -> UInt64 in
            let number: UInt64
            if let free = state.free.popLast() {
                number = free
            } else {
                state.count += 1
                number = state.count
            }
            state.used.insert(number)
            return number
        }
        let key = Self.mark + withUnsafeBytes(of: number) { Array($0) }
        return key.withUnsafeBytes { Line(key: $0, value: content) }
    }

    /// Whether a key is one of these.
    static func isOne(_ key: LineKey) -> Bool { number(of: key) != nil }

    private static func number(of key: LineKey) -> UInt64? {
        key.line.withKey { bytes in
            guard bytes.count == mark.count + 8, bytes.starts(with: mark) else { return nil }
            return bytes.loadUnaligned(fromByteOffset: mark.count, as: UInt64.self)
        }
    }

    /// Notes that the writer has got a batch: other lines may have the keys of its lines from now
    /// on.
    func release(_ updates: [Update<LineKey, LineValue>]) {
        state.withLock { state in
            if !state.used.isEmpty || !state.usedBeforeOverflow.isEmpty {
                for number in updates.lazy.compactMap({ Self.number(of: $0.key) }) {
                    state.release(number)
                }
            }
            if state.gate.give(updates.count) {
                state.releaseDropped()
            }
        }
    }

    /// Notes that an overflow dropped all lines that were pending.
    ///
    /// - Parameter taken: The updates that had been taken by then.
    func wereDropped(taken: Int) {
        state.withLock { state in
            state.usedBeforeOverflow.formUnion(state.used)
            state.used = []
            if state.gate.wait(taken: taken) {
                state.releaseDropped()
            }
        }
    }
}
