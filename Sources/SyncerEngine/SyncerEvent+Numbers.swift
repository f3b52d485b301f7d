// SPDX-License-Identifier: Apache-2.0
// Numbers from the network are not trusted: the machine calculates with them.

extension SyncerEvent {
    /// This event; or the failure of its request, if a revision or a count is out of range.
    var replacingImpossibleNumbers: SyncerEvent {
        switch self {
        case .probed(let id, let position) where !position.isPossible: .failed(id, .impossible)
        case .read(let id, let page) where !page.isPossible: .failed(id, .impossible)
        case .message(let id, let message) where !message.isPossible: .failed(id, .impossible)
        default: self
        }
    }
}

extension DatastoreError {
    fileprivate static let impossible = DatastoreError(.malformed, "a number is out of range")
}

/// Sums of some such numbers do not overflow either.
private func isPossible(_ number: Int64) -> Bool { 0...(1 << 60) ~= number }

extension HistoryPosition {
    fileprivate var isPossible: Bool { SyncerEngine.isPossible(revision) }
}

extension Page {
    fileprivate var isPossible: Bool { position.isPossible && SyncerEngine.isPossible(count) }
}

extension WatchMessage {
    fileprivate var isPossible: Bool {
        switch self {
        case .created(_, let position), .progress(_, let position), .heartbeat(let position): position.isPossible
        case .changes(_, let entries, let position, _):
            position.isPossible && entries.allSatisfy { SyncerEngine.isPossible($0.revision) }
        case .cancelled: true
        }
    }
}
