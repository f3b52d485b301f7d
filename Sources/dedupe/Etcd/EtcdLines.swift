// SPDX-License-Identifier: Apache-2.0

#if Etcd

import ArgumentParser
import DedupeBuffer

/// How etcd's bytes are written as values.
enum ValueNotation: String, CaseIterable, ExpressibleByArgument {
    case string
    case json
    case base64

    var notation: Notation {
        switch self {
        case .string: .text
        case .json: .json
        case .base64: .base64
        }
    }
}

/// How etcd's bytes are written as keys.
enum KeyNotation: String, CaseIterable, ExpressibleByArgument {
    case string
    case base64

    var notation: Notation { self == .string ? .text : .base64 }
}

/// Takes what etcd has to the buffer of lines. Leaves out what cannot be written, and reports it.
///
/// The syncer calls it from one task at a time.
final class EtcdLines: RestartAwareCallbacks {
    typealias Key = [UInt8]
    typealias Value = [UInt8]

    private struct State: ~Copyable {
        var json = JSONCheck()
        var hasEnded = false
    }

    private let buffer: LineBuffer
    private let keys: KeyNotation
    private let values: ValueNotation
    private let log: RefusedLog
    private let endsInSync: Bool
    private let isInSync: @Sendable () -> Void
    private let state = Locked(State())

    /// - Parameters:
    ///   - endsInSync: Whether nothing that follows the first in-sync is taken.
    ///   - isInSync: Called after each in-sync.
    init(
        buffer: LineBuffer, keys: KeyNotation, values: ValueNotation, log: RefusedLog, endsInSync: Bool = false,
        isInSync: @escaping @Sendable () -> Void = {}
    ) {
        (self.buffer, self.keys, self.values, self.log) = (buffer, keys, values, log)
        (self.endsInSync, self.isInSync) = (endsInSync, isInSync)
    }

    func onStatusUpdated(_ status: SyncStatus) {
        let goesOn = state.withLock { state in
            defer { state.hasEnded = state.hasEnded || endsInSync && status == .inSync }
            return !state.hasEnded
        }
        guard goesOn else { return }
        buffer.onStatusUpdated(status)
        if status == .inSync {
            isInSync()
        }
    }

    func onConnectionRestarted() {
        if state.withLock({ !$0.hasEnded }) {
            buffer.onConnectionRestarted()
        }
    }

    func onUpdates(_ updates: [Update<[UInt8], [UInt8]>]) {
        let lines = state.withLock { state in
            state.hasEnded ? [] : updates.compactMap { line(for: $0, checking: &state.json) }
        }
        if !lines.isEmpty {
            buffer.onUpdates(lines)
        }
    }

    private func line(
        for update: Update<[UInt8], [UInt8]>, checking json: inout JSONCheck
    ) -> Update<LineKey, LineValue>? {
        if keys == .string && !isUTF8(update.key) {
            log.add(key: update.key, "the key is not UTF-8; --keys base64 takes it")
            return nil
        }
        guard let value = update.value else {
            log.isWritable(update.key)
            let line = update.key.withUnsafeBytes { Line(key: $0, value: UnsafeRawBufferPointer(start: nil, count: 0)) }
            return Update(key: LineKey(of: line), value: nil, revision: update.revision)
        }
        var line: Line?
        var problem: String?
        switch values {
        case .base64: line = Self.line(update.key, value)
        case .string where isUTF8(value): line = Self.line(update.key, value)
        case .string: problem = "the value is not UTF-8; --values base64 takes it"
        case .json:
            var isNull = false
            problem = json.check(value) { bytes in
                isNull = JSONCheck.isNull(bytes)
                line = isNull ? nil : update.key.withUnsafeBytes { Line(key: $0, value: bytes) }
            }.map { "the value is not JSON: \($0)" }
            if isNull { problem = "the value is null, which would be a deletion" }
        }
        if let problem {
            log.add(key: update.key, problem)
        } else {
            log.isWritable(update.key)
        }
        return line.map { Update(key: LineKey(of: $0), value: LineValue(of: $0), revision: update.revision) }
    }

    private static func line(_ key: [UInt8], _ value: [UInt8]) -> Line {
        key.withUnsafeBytes { key in value.withUnsafeBytes { Line(key: key, value: $0) } }
    }
}

/// Whether bytes are text. Most are ASCII, which is quick to see.
private func isUTF8(_ bytes: [UInt8]) -> Bool {
    !bytes.contains { $0 >= 0x80 } || String(validating: bytes, as: UTF8.self) != nil
}

#endif
