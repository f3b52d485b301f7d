// SPDX-License-Identifier: Apache-2.0

#if Server

import NIOCore
import NIOEmbedded
import Testing

@testable import DedupeServer

/// When a TLS connection is closed, on a loop and with a socket that the test plays.
@Suite struct ConnectionGuardianTests {
    /// Takes nothing until it is told to.
    private final class Socket: ChannelOutboundHandler {
        typealias OutboundIn = Any

        private var writes: [(data: NIOAny, promise: EventLoopPromise<Void>?)] = []
        private(set) var closes: [CloseMode] = []

        func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
            writes.append((data, promise))
        }

        func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
            closes.append(mode)
            promise?.succeed()
        }

        func take() { writes.removeFirst().promise?.succeed() }
    }

    private let loop = EmbeddedEventLoop()
    private let socket = Socket()

    private func makeChannel() throws -> (EmbeddedChannel, ConnectionGuardian) {
        let channel = EmbeddedChannel(handlers: [], loop: loop)
        let guardian = ConnectionGuardian(on: loop, patience: .seconds(30))
        try channel.pipeline.syncOperations.addHandlers([socket, guardian])
        return (channel, guardian)
    }

    @Test func close_whileSomethingIsUnsent_waits() throws {
        let (channel, _) = try makeChannel()
        for _ in 0..<2 { channel.write(ByteBuffer(string: "x"), promise: nil) }
        let closed = channel.close()
        socket.take()
        #expect(socket.closes.isEmpty)
        socket.take()
        #expect(socket.closes.count == 1)
        try closed.wait()
    }

    @Test func close_whenAllIsSent_isPassedOn() throws {
        let (channel, _) = try makeChannel()
        channel.write(ByteBuffer(string: "x"), promise: nil)
        socket.take()
        channel.close(mode: .output, promise: nil)
        #expect(socket.closes.map { "\($0)" } == ["output"])
    }

    @Test func close_ofAConnectionThatTakesNothing_waitsForThePatience() throws {
        let (channel, _) = try makeChannel()
        for _ in 0..<2 { channel.write(ByteBuffer(string: "x"), promise: nil) }
        channel.close(promise: nil)
        loop.advanceTime(by: .seconds(25))
        socket.take()
        loop.advanceTime(by: .seconds(25))
        #expect(socket.closes.isEmpty)
        loop.advanceTime(by: .seconds(30))
        #expect(socket.closes.count == 1)
    }

    @Test func connection_isStuckOrSending_byWhatItHasTaken() throws {
        let (channel, guardian) = try makeChannel()
        #expect(!guardian.isSending && !guardian.isStuck)
        loop.advanceTime(by: .seconds(100))
        for _ in 0..<2 { channel.write(ByteBuffer(string: "x"), promise: nil) }
        #expect(guardian.isSending && !guardian.isStuck)
        loop.advanceTime(by: .seconds(31))
        #expect(!guardian.isSending && guardian.isStuck)
        socket.take()
        #expect(guardian.isSending && !guardian.isStuck)
        socket.take()
        #expect(!guardian.isSending && !guardian.isStuck)
    }
}

#endif
