// SPDX-License-Identifier: Apache-2.0

#if Server

internal import HTTPTypes
internal import HummingbirdCore
internal import NIOCore
internal import NIOHTTP1
internal import NIOHTTPTypes

/// Stands between HTTP's parts and the requests' handling: it answers what is no request, tells a
/// stream that its client has closed the connection, and lets nothing close the connection before
/// a response that has been written is sent.
final class StreamGuardian: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    /// Called once, on the event loop.
    var inputClosed: (() -> Void)?
    private(set) var isInputClosed = false
    private var isInRequest = false
    private var isOver = false
    /// Parts of responses that have been written, and not been sent. A head is sent with what
    /// follows it.
    private var unsentParts = 0
    /// Those of them that end a response.
    private var unsentEnds = 0
    private var heldCloses: [(mode: CloseMode, promise: EventLoopPromise<Void>?)] = []
    private var waiting: [EventLoopPromise<Void>] = []

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if case .head = unwrapInboundIn(data) { isInRequest = true }
        context.fireChannelRead(data)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event {
            isInputClosed = true
            inputClosed?()
            inputClosed = nil
        }
        context.fireUserInboundEventTriggered(event)
    }

    /// A request that cannot be read gets an answer, and the connection ends. An answer in the
    /// middle of another one would be mistaken for a part of it, so a connection that has had a
    /// request is only closed.
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard let refusal = Self.refusal(for: error) else { return context.fireErrorCaught(error) }
        if isOver { return }
        isOver = true
        if isInRequest { return close(context: context, mode: .all, promise: nil) }
        let text = ByteBuffer(string: refusal.text + "\n")
        var head = refusal.response.head
        head.headerFields[.contentLength] = String(text.readableBytes)
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        context.write(wrapOutboundOut(.body(text)), promise: nil)
        let context = NIOLoopBound(context, eventLoop: context.eventLoop)
        context.value.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in
            context.value.close(mode: .output, promise: nil)
            // The rest of the request may still be on its way. To close at once would take the
            // answer from the client's buffer.
            context.value.eventLoop.scheduleTask(in: .seconds(1)) { context.value.close(promise: nil) }
        }
    }

    // MARK: - Closing

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let ends: Int
        switch unwrapOutboundIn(data) {
        case .head: return context.write(data, promise: promise)
        case .body: ends = 0
        case .end: ends = 1
        }
        unsentParts += 1
        unsentEnds += ends
        let sent = promise ?? context.eventLoop.makePromise(of: Void.self)
        sent.futureResult.assumeIsolated().whenComplete { _ in
            self.unsentParts -= 1
            self.unsentEnds -= ends
            self.partWasSent(context)
        }
        context.write(data, promise: sent)
    }

    /// The end of a graceful shutdown closes a connection as soon as the response is written, and
    /// so does a client that closes its own side. NIO would drop what the system has not taken.
    /// ``NIOCore/Channel/cutOff()`` does not come by here.
    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard unsentEnds > 0, mode != .input else { return context.close(mode: mode, promise: promise) }
        heldCloses.append((mode, promise))
    }

    /// - Parameter promise: kept when all that was written has been sent, or cannot be sent any
    ///   more.
    func whenAllIsSent(_ promise: EventLoopPromise<Void>) {
        if unsentParts == 0 { promise.succeed() } else { waiting.append(promise) }
    }

    private func partWasSent(_ context: ChannelHandlerContext) {
        if unsentParts == 0 {
            let promises = waiting
            waiting = []
            for promise in promises { promise.succeed() }
        }
        if unsentEnds == 0 {
            let closes = heldCloses
            heldCloses = []
            for close in closes { context.close(mode: close.mode, promise: close.promise) }
        }
    }

    private static func refusal(for error: any Error) -> Refusal? {
        switch error {
        case HTTPParserError.headerOverflow: .headersTooLarge
        case is HTTPParserError: .malformed
        default: nil
        }
    }
}

extension Channel {
    /// Returns when all that was written has been sent, or cannot be sent any more. A stream of
    /// HTTP/2 has sent what its connection has been handed, except when it is closed before:
    /// what of it waits in the connection is the connection's then.
    func untilSent() async {
        let (parts, all) = (eventLoop.makePromise(of: Void.self), eventLoop.makePromise(of: Void.self))
        eventLoop.execute {
            let pipeline = self.pipeline.syncOperations
            let stream = try? pipeline.handler(type: StreamGuardian.self)
            if let stream { stream.whenAllIsSent(parts) } else { parts.succeed() }
            let connection = try? pipeline.handler(type: ConnectionGuardian.self)
            if let connection { connection.whenAllIsSent(all) } else { all.succeed() }
        }
        try? await parts.futureResult.get()
        try? await all.futureResult.get()
    }

    /// The guardian of this connection, or of the connection of this stream, if there is TLS.
    ///
    /// On the event loop.
    var connectionGuardian: ConnectionGuardian? {
        let connection = Responder.connection(of: self)
        return try? connection.pipeline.syncOperations.handler(type: ConnectionGuardian.self)
    }

    /// Closes the channel at once. What has not been sent is dropped, and TLS does not wait for
    /// the client's goodbye.
    func cutOff() {
        eventLoop.execute {
            let pipeline = self.pipeline.syncOperations
            let last =
                (try? pipeline.context(handlerType: ConnectionGuardian.self))
                ?? (try? pipeline.context(handlerType: StreamGuardian.self))
            // From there the call goes only to the handlers that are nearer to the socket.
            if let last { last.close(promise: nil) } else { self.close(promise: nil) }
        }
    }
}

#endif
