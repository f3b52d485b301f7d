// SPDX-License-Identifier: Apache-2.0

#if Server

internal import NIOCore

/// Knows whether the client of a TLS connection takes what was written, and lets nothing close the
/// connection before that is sent.
///
/// HTTP/2 needs this: it closes a connection with the last stream, whose last frames may not have
/// been sent yet, and a stream that is closed does not know what of it the connection still has.
final class ConnectionGuardian: ChannelOutboundHandler, RemovableChannelHandler {
    typealias OutboundIn = Any
    typealias OutboundOut = Any

    private let loop: any EventLoop
    private let patience: TimeAmount
    /// Writes that the system has not taken, and since when it has taken none of them.
    private var unsent = 0
    private var unsentSince = NIODeadline.uptimeNanoseconds(0)
    private var heldCloses: [(mode: CloseMode, promise: EventLoopPromise<Void>?)] = []

    /// - Parameter patience: For how long a client may take nothing.
    init(on loop: any EventLoop, patience: TimeAmount) {
        self.loop = loop
        self.patience = patience
    }

    /// Something waits to be sent, and the client has taken nothing for longer than the patience.
    var isStuck: Bool { unsent > 0 && loop.now - unsentSince > patience }

    /// Something waits to be sent, and the client takes it.
    var isSending: Bool { unsent > 0 && !isStuck }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        if unsent == 0 { unsentSince = loop.now }
        unsent += 1
        let sent = promise ?? context.eventLoop.makePromise(of: Void.self)
        sent.futureResult.assumeIsolated().whenComplete { _ in
            self.unsent -= 1
            self.unsentSince = self.loop.now
            if self.unsent == 0 { self.passCloses(context) }
        }
        context.write(data, promise: sent)
    }

    /// ``NIOCore/Channel/cutOff()`` does not come by here.
    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        context.flush()
        guard unsent > 0, mode != .input else { return context.close(mode: mode, promise: promise) }
        heldCloses.append((mode, promise))
        if heldCloses.count == 1 { passClosesIfStuck(context) }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        passCloses(context)
    }

    private func passClosesIfStuck(_ context: ChannelHandlerContext) {
        context.eventLoop.assumeIsolated().scheduleTask(in: patience) {
            if self.heldCloses.isEmpty { return }
            if self.isStuck { self.passCloses(context) } else { self.passClosesIfStuck(context) }
        }
    }

    private func passCloses(_ context: ChannelHandlerContext) {
        let closes = heldCloses
        heldCloses = []
        for close in closes { context.close(mode: close.mode, promise: close.promise) }
    }
}

#endif
