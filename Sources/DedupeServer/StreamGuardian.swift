// SPDX-License-Identifier: Apache-2.0

#if Server

internal import HTTPTypes
internal import HummingbirdCore
internal import NIOCore
internal import NIOHTTP1
internal import NIOHTTPTypes

/// Stands between HTTP's parts and the requests' handling: it answers what is no request, and tells
/// a stream that its client has closed the connection.
final class StreamGuardian: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundOut = HTTPResponsePart

    /// Called once, on the event loop.
    var inputClosed: (() -> Void)?
    private(set) var isInputClosed = false
    private var isInRequest = false
    private var isOver = false

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
        if isInRequest { return context.close(promise: nil) }
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

    private static func refusal(for error: any Error) -> Refusal? {
        switch error {
        case HTTPParserError.headerOverflow: .headersTooLarge
        case is HTTPParserError: .malformed
        default: nil
        }
    }
}

#endif
