// SPDX-License-Identifier: Apache-2.0

#if Server

import NIOCore
import NIOEmbedded
import NIOHTTP1
import NIOHTTPTypes
import Testing

@testable import DedupeServer

/// When connections are closed, on a loop and with a socket that the test plays.
@Suite struct GuardianTests {
    /// Remembers what it hears.
    private final class Listener: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        private(set) var heard = 0

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            heard += unwrapInboundIn(data).readableBytes
        }
    }

    private let loop = EmbeddedEventLoop()
    private let socket = HeldSocket<ByteBuffer> { $0.readableBytes }
    private let listener = Listener()

    private func makeChannel() throws -> (EmbeddedChannel, ConnectionGuardian) {
        let channel = EmbeddedChannel(handlers: [], loop: loop)
        let guardian = ConnectionGuardian(patience: .seconds(30)) { [socket] in socket.waiting }
        try channel.pipeline.syncOperations.addHandlers([socket, guardian, listener])
        return (channel, guardian)
    }

    private func write(_ count: Int, to channel: EmbeddedChannel) {
        channel.writeAndFlush(ByteBuffer(repeating: 0, count: count), promise: nil)
    }

    @Test func close_whileSomethingIsUnsent_waits() throws {
        let (channel, _) = try makeChannel()
        for _ in 0..<2 { write(10, to: channel) }
        let closed = channel.close()
        channel.close(promise: nil)
        socket.take(19)
        #expect(socket.closes.isEmpty)
        socket.take(1)
        #expect(socket.closes.count == 2)
        try closed.wait()
    }

    @Test func close_whenAllIsSent_isPassedOn() throws {
        let (channel, _) = try makeChannel()
        write(10, to: channel)
        socket.take(10)
        channel.close(promise: nil)
        #expect(socket.closes.map { "\($0)" } == ["all"])
    }

    @Test func closeOfTheOutput_isPassedOn() throws {
        let (channel, _) = try makeChannel()
        write(10, to: channel)
        channel.close(mode: .output, promise: nil)
        #expect(socket.closes.map { "\($0)" } == ["output"])
    }

    /// A part of a write counts.
    @Test func close_ofAClientThatTakesTooLittle_waitsForThePatience() throws {
        let (channel, _) = try makeChannel()
        write(1 << 20, to: channel)
        channel.close(promise: nil)
        for _ in 0..<5 {
            socket.take(64 << 10)
            loop.advanceTime(by: .seconds(30))
        }
        #expect(socket.closes.isEmpty)
        socket.take(64 << 10 - 1)
        loop.advanceTime(by: .seconds(30))
        #expect(socket.closes.count == 1)
    }

    @Test func connectionThatIsBeingClosed_hearsNothingMore() throws {
        let (channel, _) = try makeChannel()
        channel.pipeline.fireChannelRead(ByteBuffer(string: "before"))
        write(10, to: channel)
        channel.close(promise: nil)
        channel.pipeline.fireChannelRead(ByteBuffer(string: "later"))
        #expect(listener.heard == 6)
    }

    @Test func wait_endsWhenWhatWasWrittenBeforeIsSent() throws {
        let (channel, guardian) = try makeChannel()
        let (empty, sent) = (loop.makePromise(of: Void.self), loop.makePromise(of: Void.self))
        guardian.whenAllIsSent(empty)
        try empty.futureResult.wait()
        write(10, to: channel)
        guardian.whenAllIsSent(sent)
        write(10, to: channel)
        #expect(guardian.sentBytes == 0)
        socket.take(10)
        try sent.futureResult.wait()
        #expect(guardian.sentBytes == 10)
    }

    @Test func response_isSent_beforeNonsenseEndsTheConnection() throws {
        let socket = HeldSocket<HTTPResponsePart> { _ in 1 }
        let channel = EmbeddedChannel(handlers: [], loop: loop)
        try channel.pipeline.syncOperations.addHandlers([socket, StreamGuardian()])
        channel.pipeline.fireChannelRead(
            HTTPRequestPart.head(.init(method: .get, scheme: nil, authority: nil, path: "/snapshot")))
        for part in [HTTPResponsePart.head(.init(status: .ok)), .body(ByteBuffer(string: "[]")), .end(nil)] {
            channel.writeAndFlush(part, promise: nil)
        }
        channel.pipeline.fireErrorCaught(HTTPParserError.invalidMethod)
        socket.take(2)
        #expect(socket.closes.isEmpty)
        socket.take(1)
        #expect(socket.closes.count == 1)
    }
}

#endif
