// SPDX-License-Identifier: Apache-2.0

#if Server

internal import DedupeBuffer
internal import HTTPTypes
internal import NIOCore
internal import NIOHTTPTypes
internal import Synchronization

/// One client's stream: it takes a batch, writes it, and takes the next one when the system has
/// accepted all of the first.
///
/// So there is at most one batch in the program for a client. Everything else that the client has
/// not got is a position in the hub, and goes on being conflated.
///
/// `@unchecked Sendable`: the event loop of the channel is the only thread that uses what is not
/// atomic, except in `init`.
final class StreamClient: @unchecked Sendable {
    let description: ClientDescription
    /// What was written, for the statistics.
    let bytes = Atomic(0)
    let updates = Atomic(0)

    private let channel: any Channel
    private let configuration: ServerConfiguration
    private var subscription: (any ServedSubscription)?
    private let ended: EventLoopPromise<Void>

    private var isWriting = false
    private var isOver = false
    private var lastWrite = NIODeadline.uptimeNanoseconds(0)
    private var timer: Scheduled<Void>?
    private var heartbeat: Scheduled<Void>?
    private var turns = 0

    init(_ description: ClientDescription, on channel: any Channel, configuration: ServerConfiguration) {
        self.description = description
        self.channel = channel
        self.configuration = configuration
        ended = channel.eventLoop.makePromise()
    }

    private var format: WireFormat { description.format }
    private var retry: Duration { configuration.retry * Double.random(in: 1...2) }

    // MARK: - From other threads

    /// Serves the stream until it ends.
    ///
    /// - Throws: If the connection was lost before.
    func run(_ request: StreamRequest, from feed: any ServedFeed, head: HTTPResponse) async throws {
        channel.eventLoop.execute { self.start(request, from: feed, head: head) }
        try await ended.futureResult.get()
    }

    /// Figures for the statistics. They may be some moments old.
    var statistics: (lag: Int, pending: Int)? {
        current.withLock { $0 }.map { subscription in
            let statistics = subscription.statistics
            return (statistics.lag, statistics.pendingEntries)
        }
    }
    private let current = Locked<(any ServedSubscription)?>(nil)

    /// The hub calls this on its own threads, also for a last time when the subscription has been
    /// cancelled. By then the event loop may have ended, and must not be given anything.
    private func wake() {
        current.withLock { subscription in
            guard subscription != nil else { return }
            channel.eventLoop.execute { [weak self] in self?.ready() }
        }
    }

    // MARK: - On the event loop

    private func start(_ request: StreamRequest, from feed: any ServedFeed, head: HTTPResponse) {
        channel.closeFuture.whenComplete { _ in self.lost() }
        // A client may break off before its turn comes.
        if isOver { return }
        if let guardian = try? channel.pipeline.syncOperations.handler(type: StreamGuardian.self) {
            guardian.inputClosed = { [weak self] in self?.lost() }
            if guardian.isInputClosed { return lost() }
        }
        let subscription = feed.subscribe(request, as: format) { [weak self] in self?.wake() }
        self.subscription = subscription
        current.withLock { $0 = subscription }
        channel.write(HTTPResponsePart.head(head), promise: nil)
        write(ByteBuffer(string: format.beginning(retry: retry)))
        scheduleHeartbeat(in: period)
    }

    /// The hub has something. While the timer runs, that is the end, which lifts the interval.
    private func ready() {
        timer?.cancel()
        timer = nil
        pump()
    }

    /// Takes and writes as long as the system accepts everything at once. Other clients of the
    /// event loop get their turn in between.
    private func pump() {
        guard !isOver, !isWriting, timer == nil, let subscription else { return }
        turns += 1
        if turns > Self.turnsAtOnce {
            turns = 0
            channel.eventLoop.execute { self.pump() }
            return
        }
        var text = channel.allocator.buffer(capacity: 1024)
        switch subscription.take(into: &text) {
        case .batch(let count):
            updates.add(count, ordering: .relaxed)
            write(text)
        case .nothing: turns = 0
        case .later(let time):
            turns = 0
            timer = channel.eventLoop.scheduleTask(in: TimeAmount(time)) {
                self.timer = nil
                self.pump()
            }
        case .finished: end()
        }
    }

    private static let turnsAtOnce = 16

    private func write(_ text: ByteBuffer) {
        isWriting = true
        lastWrite = channel.eventLoop.now
        bytes.add(text.readableBytes, ordering: .relaxed)
        channel.writeAndFlush(HTTPResponsePart.body(text)).whenComplete { result in
            self.isWriting = false
            switch result {
            case .success: self.pump()
            case .failure: self.lost()
            }
        }
    }

    // MARK: - Heartbeat

    private var period: TimeAmount { TimeAmount(configuration.heartbeat) }

    private func scheduleHeartbeat(in time: TimeAmount) {
        heartbeat = channel.eventLoop.scheduleTask(in: time) { self.beat() }
    }

    /// A heartbeat is due when nothing was written for the period. A stalled client needs none.
    private func beat() {
        guard !isOver, let subscription else { return }
        let rest = lastWrite + period - channel.eventLoop.now
        if rest > .zero { return scheduleHeartbeat(in: rest) }
        if !isWriting { write(ByteBuffer(string: format.heartbeat(position: subscription.position))) }
        scheduleHeartbeat(in: period)
    }

    // MARK: - The end

    /// The hub has finished, and the client has everything.
    private func end() {
        isOver = true
        stop()
        let text = ByteBuffer(string: format.end(retry: retry))
        channel.write(HTTPResponsePart.body(text), promise: nil)
        channel.writeAndFlush(HTTPResponsePart.end(nil)).cascade(to: ended)
    }

    /// The client has gone.
    private func lost() {
        if isOver { return ended.fail(ChannelError.ioOnClosedChannel) }
        isOver = true
        stop()
        channel.close(promise: nil)
        ended.fail(ChannelError.ioOnClosedChannel)
    }

    private func stop() {
        timer?.cancel()
        timer = nil
        heartbeat?.cancel()
        heartbeat = nil
        current.withLock { $0 = nil }
        subscription?.cancel()
        subscription = nil
    }
}

/// What the statistics say of a client.
struct ClientDescription: Sendable {
    var number: Int
    var format: WireFormat
    var address: String
    /// `HTTP/1.1` or `HTTP/2`.
    var version: String
    var request: StreamRequest
    var begin: ContinuousClock.Instant
}

#endif
