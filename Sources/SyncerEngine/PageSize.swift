// SPDX-License-Identifier: Apache-2.0

/// The limit of the next page: as many keys as make about the bytes that a page aims at.
struct PageSize: Sendable {
    private let limits: SyncerConfiguration.PageLimits
    private(set) var limit: Int

    init(_ limits: SyncerConfiguration.PageLimits) {
        self.limits = limits
        limit = min(limits.initial, limits.maximum)
    }

    /// Adapts to what a page had. The limit grows at most fourfold at a time, because the next
    /// values may be larger.
    mutating func adapt(to entries: [DatastoreEntry]) {
        guard !entries.isEmpty else { return }
        let bytes = entries.reduce(0) { $0 + $1.key.count + ($1.value?.count ?? 0) }
        let fitting = Self.product(limits.targetBytes, entries.count) / max(bytes, 1)
        limit = min(max(fitting, 1), Self.product(limit, 4), limits.maximum)
    }

    /// Limits are as large as their user likes.
    private static func product(_ left: Int, _ right: Int) -> Int {
        let (product, overflow) = left.multipliedReportingOverflow(by: right)
        return overflow ? .max : product
    }

    /// A page was too large or took too long. Returns whether a smaller one can be asked for.
    mutating func shrink() -> Bool {
        guard limit > 1 else { return false }
        limit = max(limit / 4, 1)
        return true
    }
}
