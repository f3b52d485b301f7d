// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// Keys for lines that have none: such a line keeps its place in the queue and is never replaced.
///
/// A key is used again when its line has been taken for delivery. So there are never more of these
/// keys than such lines were ever pending at once, and the buffer's memory stays bounded.
final class PassedLines: Sendable {
    private struct State {
        var free: [UInt64] = []
        var count: UInt64 = 0
    }

    private let state = Mutex(State())

    /// No key of JSON begins with the first of these bytes, and no field of text holds the second.
    private static let mark: [UInt8] = [0xFE, 0x0A]

    /// A line with a key that no other pending line has.
    func line(_ content: UnsafeRawBufferPointer) -> Line {
        let number = state.withLock { state -> UInt64 in
            if let number = state.free.popLast() {
                return number
            }
            state.count += 1
            return state.count
        }
        let key = Self.mark + withUnsafeBytes(of: number) { Array($0) }
        return key.withUnsafeBytes { Line(key: $0, value: content) }
    }

    /// Whether a key is one of these. If it is one, another line may have it from now on.
    func release(_ key: LineKey) -> Bool {
        let number = key.line.withKey { bytes -> UInt64? in
            guard bytes.count == Self.mark.count + 8, bytes.starts(with: Self.mark) else { return nil }
            return bytes.loadUnaligned(fromByteOffset: Self.mark.count, as: UInt64.self)
        }
        guard let number else { return false }
        state.withLock { $0.free.append(number) }
        return true
    }
}
