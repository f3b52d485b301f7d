// SPDX-License-Identifier: Apache-2.0

/// The endpoints in a fixed, shuffled order. After a failure the next one is tried.
struct EndpointRing: Sendable {
    private let order: [Int]
    private var position = 0

    init(_ order: [Int]) {
        precondition(!order.isEmpty, "a syncer needs an endpoint")
        self.order = order
    }

    var current: Int { order[position] }
    var count: Int { order.count }

    mutating func rotate() { position = (position + 1) % order.count }
}
