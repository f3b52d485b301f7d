// SPDX-License-Identifier: Apache-2.0

#if Server

import NIOCore

/// A socket that a test plays. It takes nothing until it is told to.
final class HeldSocket<Data>: ChannelOutboundHandler {
    typealias OutboundIn = Data

    private let size: (Data) -> Int
    private var writes: [(count: Int, promise: EventLoopPromise<Void>?)] = []
    private(set) var waiting = 0
    private(set) var closes: [CloseMode] = []

    /// - Parameter size: The bytes of what was written.
    init(size: @escaping (Data) -> Int) {
        self.size = size
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let count = size(unwrapOutboundIn(data))
        writes.append((count, promise))
        waiting += count
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        closes.append(mode)
        promise?.succeed()
    }

    /// Takes a part of what was written. A write is over when all of it was taken.
    func take(_ count: Int) {
        waiting -= count
        var count = count
        while let first = writes.first, first.count <= count {
            count -= first.count
            writes.removeFirst()
            first.promise?.succeed()
        }
        if !writes.isEmpty { writes[0].count -= count }
    }
}

#endif
