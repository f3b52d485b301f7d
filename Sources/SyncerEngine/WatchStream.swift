// SPDX-License-Identifier: Apache-2.0

/// A watch of all ranges on one stream.
struct WatchStream: Sendable {
    /// How the syncer knows that the stream is alive.
    enum Heartbeat: Hashable, Sendable {
        /// A message came. At this time the syncer asks for a sign of life.
        case quiet(until: Duration)
        /// The syncer has asked for a message.
        case asked(deadline: Duration)
        /// No message came, and the server never answered such a request. A probe is under way,
        /// which has its own deadline.
        case probing
    }

    struct Range: Sendable {
        var isCreated = false
        /// The newest revision in the fragments of a response whose last fragment has not come.
        var incomplete: Int64?
    }

    let id: RequestID
    var ranges: [Range]
    /// When every range must have been created.
    let deadline: Duration
    var heartbeat: Heartbeat
    /// From this time on the syncer asks for a sign of life although messages come, if the endpoint
    /// has never answered.
    var nextQuestion: Duration
    /// Whether the member was behind a cursor when it accepted the watch.
    var isBehind = false

    init(id: RequestID, ranges: Int, deadline: Duration, heartbeat: Duration) {
        self.id = id
        self.ranges = Array(repeating: Range(), count: ranges)
        self.deadline = deadline
        self.heartbeat = .quiet(until: heartbeat)
        nextQuestion = heartbeat
    }

    var isCreated: Bool { ranges.allSatisfy(\.isCreated) }

    /// Whether a response of a range may come: there is the range, and the server accepted it.
    func isCreated(_ range: Int) -> Bool { ranges.indices.contains(range) && ranges[range].isCreated }
}
