// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer

/// Reports keys and values that cannot be written.
///
/// A key is reported once until it can be written again, and at most 20 keys are reported in a
/// minute. The others are counted. So one writer that goes on making mistakes does not hide those
/// of others, and does not fill a disk.
final class RefusedLog: Sendable {
    private struct State {
        var count = 0
        /// Keys that were reported and could not be written since.
        var reported: Set<[UInt8]> = []
        var messages = 0
        var unreported = 0
        var minuteEnds: ContinuousClock.Instant?
    }

    private let state = Locked(State())
    private let now: @Sendable () -> ContinuousClock.Instant
    private let report: @Sendable (String) -> Void

    /// How many keys are reported in a minute.
    private static let mostMessages = 20

    /// How many keys are remembered. Then all are forgotten, and may be reported again.
    private static let mostKeys = 10_000

    /// How much of a key a message shows.
    private static let mostBytesOfKey = 200

    /// - Parameter now: The time. A test has its own.
    init(
        now: @escaping @Sendable () -> ContinuousClock.Instant = { ContinuousClock.now },
        report: @escaping @Sendable (String) -> Void
    ) {
        self.now = now
        self.report = report
    }

    /// How often a key or a value could not be written.
    var count: Int { state.withLock { $0.count } }

    /// Notes a key that cannot be written, or whose value cannot.
    func add(key: [UInt8], _ reason: String) {
        let messages = state.withLock { state -> [String] in
            state.count += 1
            guard !state.reported.contains(key) else { return [] }
            return Self.messages(for: "\(Self.shown(key)): \(reason)", &state, now()) { state in
                if state.reported.count >= Self.mostKeys { state.reported = [] }
                state.reported.insert(key)
            }
        }
        messages.forEach(report)
    }

    /// Notes a key that the buffer rejected.
    func add(keyOfLength length: Int, maximum: Int) {
        let messages = state.withLock { state in
            state.count += 1
            let message = "a key of \(length) bytes, and at most \(maximum) are possible"
            return Self.messages(for: message, &state, now()) { _ in }
        }
        messages.forEach(report)
    }

    /// Notes that a key can be written again.
    func isWritable(_ key: [UInt8]) {
        state.withLock { state in
            if !state.reported.isEmpty { state.reported.remove(key) }
        }
    }

    /// Reports the count of what was not reported.
    func finish() {
        let rest = state.withLock { Self.takeRest(&$0) }
        rest.forEach(report)
    }

    private static func messages(
        for message: String, _ state: inout State, _ now: ContinuousClock.Instant,
        isReported: (inout State) -> Void
    ) -> [String] {
        var messages: [String] = []
        if state.minuteEnds.map({ now >= $0 }) ?? true {
            state.minuteEnds = now.advanced(by: .seconds(60))
            state.messages = 0
            messages = takeRest(&state)
        }
        guard state.messages < mostMessages else {
            state.unreported += 1
            return messages
        }
        state.messages += 1
        isReported(&state)
        return messages + [message]
    }

    private static func takeRest(_ state: inout State) -> [String] {
        defer { state.unreported = 0 }
        return state.unreported == 0 ? [] : ["\(state.unreported) more keys or values were left out"]
    }

    /// A key as it may stand in a message: text in quotes, and other bytes as base64.
    private static func shown(_ key: [UInt8]) -> String {
        let beginning = Array(key.prefix(mostBytesOfKey))
        if let text = String(validating: key, as: UTF8.self) {
            // The cut may be in the middle of a character.
            return text.utf8.count <= mostBytesOfKey
                ? text.debugDescription : String(decoding: beginning, as: UTF8.self).debugDescription + "..."
        }
        return "base64 \(ByteText.base64(beginning))\(key.count > mostBytesOfKey ? "..." : "")"
    }
}

#endif
