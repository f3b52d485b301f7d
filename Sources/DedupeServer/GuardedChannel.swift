// SPDX-License-Identifier: Apache-2.0

#if Server

internal import HummingbirdCore
internal import Logging
internal import NIOCore
internal import NIOSSL
internal import NIOTLS

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#else
internal import Darwin
#endif

/// A connection, with what every connection needs before HTTP begins: options of the socket, a
/// limit for the TLS handshake, and a place among ``Clients``.
struct GuardedChannel<Base: ServerChildChannel>: ServerChildChannel {
    let base: Base
    let configuration: ServerConfiguration
    let clients: Clients

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Base.Value> {
        clients.add(channel)
        setOptions(of: channel)
        return base.setup(channel: channel, logger: logger).flatMapThrowing { value in
            if configuration.tls != nil {
                let pipeline = channel.pipeline.syncOperations
                let patience = TimeAmount(configuration.idleTimeout)
                let tls = try pipeline.handler(type: NIOSSLServerHandler.self)
                // At once behind the handler of TLS, because the choice of the HTTP version keeps
                // the news of the handshake's end to itself.
                let handlers: [any ChannelHandler] = [HandshakeDeadline(time: patience), FlushBeforeClose()]
                try pipeline.addHandlers(handlers, position: .after(tls))
                try pipeline.addHandler(ConnectionGuardian(of: channel, patience: patience), position: .before(tls))
            }
            return value
        }
    }

    func handle(value: Base.Value, logger: Logger) async {
        await base.handle(value: value, logger: logger)
    }

    /// The system's options, as far as the system has them.
    private func setOptions(of channel: any Channel) {
        func set(_ level: NIOBSDSocket.OptionLevel, _ name: CInt, _ value: Int) {
            let option = ChannelOptions.Types.SocketOption(level: level, name: NIOBSDSocket.Option(rawValue: name))
            _ = channel.setOption(option, value: SocketOptionValue(value))
        }
        // Dead clients are noticed also when nothing is under way.
        set(.socket, SO_KEEPALIVE, 1)
        #if os(Linux)
        set(.tcp, TCP_KEEPIDLE, 30)
        set(.tcp, TCP_KEEPINTVL, 10)
        set(.tcp, TCP_KEEPCNT, 3)
        // What has not been sent yet gets old in the system. The less there is of it, the newer is
        // what a slow client gets, and the less memory does it take.
        set(.tcp, Self.notSentLowWatermark, configuration.unsentBytes)
        #endif
    }

    /// `TCP_NOTSENT_LOWAT` of Linux.
    private static var notSentLowWatermark: CInt { 25 }
}

/// Sends what was written before the connection is closed. HTTP/2 closes a connection with the last
/// stream, whose last frame it may not have flushed yet.
final class FlushBeforeClose: ChannelOutboundHandler, RemovableChannelHandler {
    typealias OutboundIn = Any

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        context.flush()
        context.close(mode: mode, promise: promise)
    }
}

/// Closes a connection whose TLS handshake takes too long.
final class HandshakeDeadline: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = Any

    private let time: TimeAmount
    private var task: Scheduled<Void>?

    init(time: TimeAmount) {
        self.time = time
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        task = context.eventLoop.scheduleTask(in: time) { channel.cutOff() }
    }

    func handlerRemoved(context: ChannelHandlerContext) { stop() }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case TLSUserEvent.handshakeCompleted? = event as? TLSUserEvent { stop() }
        context.fireUserInboundEventTriggered(event)
    }

    private func stop() {
        task?.cancel()
        task = nil
    }
}

#endif
