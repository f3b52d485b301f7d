// SPDX-License-Identifier: Apache-2.0

/// Which history of revisions the syncer has followed, and how far.
struct History: Sendable, Hashable {
    /// The cluster that answered last. `nil` before the first answer.
    private(set) var cluster: UInt64?
    /// Grows whenever the history breaks. It is a part of the revisions that the sink sees, because
    /// after a restore the same revision may name another value.
    private(set) var epoch: UInt64
    /// The newest revision of this history that any answer has shown.
    private(set) var known: Int64 = 0

    init(epoch: UInt64 = 0) { self.epoch = epoch }

    /// Compares a linearizable answer with the revision that was known when it was asked for. Such
    /// an answer is never older than an earlier answer of any member.
    ///
    /// - Returns: how the history broke, or `nil` if it goes on.
    func fault(in position: HistoryPosition, knowing known: Int64) -> ResyncReason? {
        if let cluster, cluster != position.cluster { return .otherCluster }
        return position.revision < known ? .revisionsWentBack : nil
    }

    /// Whether a message of a watch, which may be older than what is known, comes from this
    /// cluster.
    func isOfThisCluster(_ position: HistoryPosition) -> Bool {
        cluster ?? position.cluster == position.cluster
    }

    mutating func learn(_ position: HistoryPosition) {
        cluster = position.cluster
        known = max(known, position.revision)
    }

    /// Another history begins. Its place is learnt from the next answer.
    mutating func breakOff() {
        epoch += 1
        (cluster, known) = (nil, 0)
    }

    /// The revision that the sink sees: the epoch in the upper 16 bits, the datastore's revision
    /// below. Revisions of two histories never compare as equal.
    func revision(of revision: Int64) -> UInt64 {
        epoch << 48 | UInt64(truncatingIfNeeded: revision) & (1 << 48 - 1)
    }
}
