// SPDX-License-Identifier: Apache-2.0

#if Server

internal import DedupeBufferHub
internal import HummingbirdCore
internal import HummingbirdHTTP2
internal import Logging
internal import NIOCore
internal import NIOPosix
internal import NIOSSL
internal import ServiceLifecycle
internal import Synchronization

/// Serves a hub to many clients over HTTP.
///
/// ``run(onListening:)`` serves until ``shutDown(deadline:)`` is called. The hub should have
/// finished before: then each client gets what is left, and a client of `/events` a last event.
public final class DedupeServer: Sendable {
    private let configuration: ServerConfiguration
    private let responder: Responder
    private let group: MultiThreadedEventLoopGroup
    private let stopping: @Sendable () -> Void
    private let stopped: AsyncStream<Void>

    /// - Parameters:
    ///   - input: what the statistics say about the source. Called on any thread.
    public init(
        _ feed: any ServedFeed, configuration: ServerConfiguration,
        input: @escaping @Sendable () -> InputReport = { InputReport() }
    ) {
        self.configuration = configuration
        responder = Responder(
            feed: feed, configuration: configuration, access: Access(configuration), clients: Clients(configuration),
            history: History(), input: input)
        group = MultiThreadedEventLoopGroup(numberOfThreads: configuration.threadCount)
        let (stream, continuation) = AsyncStream<Void>.makeStream()
        stopped = stream
        stopping = { continuation.yield() }
    }

    /// Serves until ``shutDown(deadline:)``.
    ///
    /// - Parameter onListening: is given the port, when clients can connect.
    /// - Throws: ``ServerProblem`` if the server cannot begin.
    public func run(onListening: @escaping @Sendable (Int) -> Void = { _ in }) async throws {
        let server: any Service
        do {
            server = try makeServer(onListening: onListening)
        } catch {
            try await group.shutdownGracefully()
            throw error
        }
        let sampling = group.next().scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
            self.responder.takeSample()
            self.responder.closeIdleConnections()
        }
        let services = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [.init(service: server)], logger: logger))
        do {
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                tasks.addTask { try await services.run() }
                tasks.addTask {
                    for await _ in self.stopped { await services.triggerGracefulShutdown() }
                }
                try await tasks.next()
                tasks.cancelAll()
            }
        } catch {
            sampling.cancel()
            // What failed lets go of its parts on the event loops, which must not have ended.
            for loop in group.makeIterator() { try await loop.submit {}.get() }
            try await group.shutdownGracefully()
            throw ServerProblem.notListening("\(configuration.host):\(configuration.port)", error)
        }
        sampling.cancel()
        try await group.shutdownGracefully()
    }

    /// Accepts nothing any more, and ends when the clients have ended.
    ///
    /// - Parameter deadline: when connections that are left are closed, whatever they have still to
    ///   get.
    public func shutDown(deadline: ContinuousClock.Instant) {
        stopping()
        Task { [responder, configuration] in
            // Clients of HTTP/2 that have nothing to get, and do not answer that they know the end.
            try? await Task.sleep(for: configuration.closingTimeout)
            responder.clients.closeIdle(longerThan: configuration.closingTimeout)
        }
        Task { [responder] in
            try? await Task.sleep(until: deadline)
            while responder.clients.closeAll() > 0 { try? await Task.sleep(for: .milliseconds(100)) }
        }
    }

    /// Clients that are being served.
    public var clientCount: Int { responder.clients.figures.now }
    /// Clients that were turned away because there were too many.
    public var refusedClients: Int { responder.clients.figures.refused }
    /// The bytes of all streams so far.
    public var sentBytes: Int { responder.clients.figures.bytes }

    private var logger: Logger {
        configuration.logger ?? Logger(label: "dedupe.server") { _ in SwiftLogNoOpLogHandler() }
    }

    // MARK: - Setting up

    private func makeServer(onListening: @escaping @Sendable (Int) -> Void) throws -> any Service {
        let address = BindAddress.hostname(configuration.host, port: configuration.port)
        let connections = configuration.maximumClients + configuration.connectionReserve
        return try builder().buildServer(
            configuration: HummingbirdCore.ServerConfiguration(
                address: address, backlog: 4096,
                availableConnectionsDelegate: .maximum(connections, logger: logger)),
            eventLoopGroup: group, logger: logger,
            responder: { [responder] request, writer, channel in
                try await responder.respond(to: request, with: writer, on: channel)
            },
            onServerRunning: { channel in onListening(channel.localAddress?.port ?? 0) })
    }

    private func builder() throws -> HTTPServerBuilder {
        let (configuration, clients) = (configuration, responder.clients)
        let http = HTTP1Channel.Configuration(
            additionalChannelHandlers: [StreamGuardian()], idleTimeout: TimeAmount(configuration.idleTimeout),
            httpDecoderConfiguration: HTTP1Channel.Configuration.DecoderConfiguration(
                maxHeaderFieldSize: configuration.maximumHeaderSize,
                maxHeaderListSize: configuration.maximumHeaderSize, maxHeaderFieldCount: 100))
        guard let files = configuration.tls else {
            return HTTPServerBuilder { responder in
                GuardedChannel(
                    base: HTTP1Channel(responder: responder, configuration: http), configuration: configuration,
                    clients: clients)
            }
        }
        let tls = try Self.tlsConfiguration(files)
        let http2 = HTTP2ChannelConfiguration(
            // Without a limit, which would also cut off streams that are being sent.
            idleTimeout: configuration.idleTimeout, gracefulCloseTimeout: nil, streamConfiguration: http)
        return HTTPServerBuilder { responder in
            GuardedChannel(
                base: try HTTP2UpgradeChannel(tlsConfiguration: tls, configuration: http2, responder: responder),
                configuration: configuration, clients: clients)
        }
    }

    private static func tlsConfiguration(_ files: ServerConfiguration.TLSFiles) throws -> TLSConfiguration {
        do {
            let chain = try NIOSSLCertificate.fromPEMFile(files.certificate)
            let key = try NIOSSLPrivateKey(file: files.key, format: .pem)
            var tls = TLSConfiguration.makeServerConfiguration(
                certificateChain: chain.map { .certificate($0) }, privateKey: .privateKey(key))
            tls.minimumTLSVersion = .tlsv12
            // Checks that the key is the certificate's.
            _ = try NIOSSLContext(configuration: tls)
            return tls
        } catch {
            throw ServerProblem.tls(files, error)
        }
    }
}

/// Why a server does not begin.
public enum ServerProblem: Error, CustomStringConvertible {
    case tls(ServerConfiguration.TLSFiles, any Error)
    case notListening(String, any Error)

    public var description: String {
        switch self {
        case .tls(let files, let error):
            "the certificate \(files.certificate) and the key \(files.key) cannot be used: \(error)"
        case .notListening(let address, let error): "cannot listen on \(address): \(error)"
        }
    }
}

#endif
