// SPDX-License-Identifier: Apache-2.0

#if Etcd

import SyncerEngine

/// Says what the responses of one stream mean for the ranges that are watched in it.
///
/// The server names a watch by an identifier that it chooses, and announces the identifiers in the
/// order of the requests.
struct WatchResponses {
    /// The ranges whose watches have no identifier yet.
    private var requested: ArraySlice<Int>
    private var ranges: [Int64: Int] = [:]
    /// The watch whose latest response was a fragment.
    private var fragmented: Int64?

    init(rangeCount: Int) { requested = ArraySlice(0..<rangeCount) }

    /// - Throws: why the server refuses or ends a watch, unless the reason is in the message, and
    ///   `.malformed` for a response that cannot be.
    mutating func messages(for response: WatchResponse) throws(DatastoreError) -> [WatchMessage] {
        var messages: [WatchMessage] = []
        if response.isCreated {
            guard let range = requested.popFirst() else { throw malformed("a watch that was not requested") }
            guard !response.isCancelled else { return [try cancellation(of: range, response)] }
            guard ranges.updateValue(range, forKey: response.watchID) == nil else {
                throw malformed("two watches with one identifier")
            }
            messages.append(.created(range: range, response.header.position))
        }
        if !response.events.isEmpty || response.watchID == fragmented {
            messages.append(try changes(response))
        }
        if response.isCancelled || response.compactRevision > 0 {
            messages.append(try cancellation(of: ranges.removeValue(forKey: response.watchID), response))
        }
        return messages.isEmpty ? [signOfLife(response)] : messages
    }

    private mutating func changes(_ response: WatchResponse) throws(DatastoreError) -> WatchMessage {
        guard let range = ranges[response.watchID] else { throw malformed("changes of a watch that was not created") }
        fragmented = response.isFragment ? response.watchID : nil
        return .changes(
            range: range, response.events, response.header.position, isFragment: response.isFragment)
    }

    /// The answer to a progress request has no watch's identifier. A server may send it before
    /// changes that came earlier, so it says nothing about a range's progress.
    private func signOfLife(_ response: WatchResponse) -> WatchMessage {
        guard let range = ranges[response.watchID] else { return .heartbeat(response.header.position) }
        return .progress(range: range, response.header.position)
    }

    private func cancellation(of range: Int?, _ response: WatchResponse) throws(DatastoreError) -> WatchMessage {
        let reason = DatastoreError.reason(ofText: response.cancelReason)
        if let reason, reason != .compacted { throw DatastoreError(reason, response.cancelReason) }
        return .cancelled(
            range: range, reason: response.cancelReason,
            compacted: response.compactRevision > 0 ? response.compactRevision : nil, response.header.position)
    }

    private func malformed(_ text: String) -> DatastoreError { DatastoreError(.malformed, text) }
}

#endif
