// SPDX-License-Identifier: Apache-2.0

#if Server

internal import NIOCore

/// Stands between TLS and the socket. It knows how much the system has taken, and lets nothing
/// close the connection before what was written is sent.
///
/// TLS would drop the rest five seconds after it was told to close. And HTTP/2 closes a stream as
/// soon as its end has been handed to the connection, so a stream does not know what the connection
/// still has of it.
final class ConnectionGuardian: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// A client that takes less in the time of the patience is given up. A part of a snapshot has
    /// as many bytes, so both versions of HTTP ask the same of a client.
    static let leastBytes = 64 << 10

    private let patience: TimeAmount
    private let waiting: () -> Int
    private var written = 0
    private var heldCloses: [EventLoopPromise<Void>?] = []
    private var context: ChannelHandlerContext?

    /// - Parameter waiting: The bytes that were written and that the system has not taken.
    init(patience: TimeAmount, waiting: @escaping () -> Int) {
        self.patience = patience
        self.waiting = waiting
    }

    convenience init(of channel: any Channel, patience: TimeAmount) {
        // A part of a write that the system has taken does not count as waiting.
        self.init(patience: patience) { (try? channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0 }
    }

    /// The bytes that the system has taken so far.
    var sentBytes: Int { written - waiting() }

    /// - Parameter promise: kept when all that was written has been sent, or cannot be sent any
    ///   more.
    func whenAllIsSent(_ promise: EventLoopPromise<Void>) {
        guard let context, waiting() > 0 else { return promise.succeed() }
        context.writeAndFlush(wrapOutboundOut(ByteBuffer()), promise: promise)
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    /// A connection that is being closed hears nothing more.
    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if heldCloses.isEmpty { context.fireChannelRead(data) }
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        written += unwrapOutboundIn(data).readableBytes
        context.write(data, promise: promise)
    }

    /// ``NIOCore/Channel/cutOff()`` does not come by here.
    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard mode == .all, waiting() > 0 else { return context.close(mode: mode, promise: promise) }
        heldCloses.append(promise)
        guard heldCloses.count == 1 else { return }
        let sent = context.eventLoop.makePromise(of: Void.self)
        sent.futureResult.assumeIsolated().whenComplete { _ in self.passCloses(context) }
        whenAllIsSent(sent)
        passCloses(context, unlessMoreThan: sentBytes)
    }

    /// Looks again and again whether the client takes what is left.
    private func passCloses(_ context: ChannelHandlerContext, unlessMoreThan sent: Int) {
        context.eventLoop.assumeIsolated().scheduleTask(in: patience) {
            if self.heldCloses.isEmpty { return }
            let now = self.sentBytes
            if now - sent < Self.leastBytes {
                self.passCloses(context)
            } else {
                self.passCloses(context, unlessMoreThan: now)
            }
        }
    }

    private func passCloses(_ context: ChannelHandlerContext) {
        let closes = heldCloses
        heldCloses = []
        for promise in closes { context.close(promise: promise) }
    }
}

#endif
