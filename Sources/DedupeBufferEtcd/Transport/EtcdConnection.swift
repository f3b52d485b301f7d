// SPDX-License-Identifier: Apache-2.0

#if Etcd

import GRPCCore
import GRPCNIOTransportHTTP2Posix
import SyncerEngine

/// The messages of a stream, each of them as `WireDeserializer` returns it.
typealias ResponseMessages<Message: WireDecodable> =
    RPCAsyncSequence<Result<Received<Message>, DatastoreError>, any Error>

/// A connection to one endpoint.
///
/// It is used until the engine disconnects: after each failure, and before each snapshot. The
/// engine decides when and where the next attempt is made, which begins with a new connection and
/// reads the certificates' files again.
final class EtcdConnection: Sendable {
    private let client: GRPCClient<HTTP2ClientTransport.Posix>
    private let task: Task<Void, Never>
    private let options: EtcdTransportOptions

    /// Connects. Calls may begin at once.
    ///
    /// - Parameter onClosed: called once, when the connection is closed.
    init(
        _ endpoint: EtcdConfiguration.Endpoint, _ options: EtcdTransportOptions,
        onClosed: @escaping @Sendable () -> Void = {}
    ) throws(DatastoreError) {
        do {
            let client = GRPCClient(transport: try HTTP2ClientTransport.Posix(endpoint, options))
            self.client = client
            self.options = options
            task = Task {
                // A failure of the connection fails the calls, which report it.
                try? await client.runConnections()
                onClosed()
            }
        } catch {
            // Unreadable or invalid certificates, for example while they are being replaced.
            throw DatastoreError(.unavailable, "\(error)")
        }
    }

    /// Ends the calls that are running, and closes the connection.
    func close() { task.cancel() }

    /// Whether `close()` was called.
    var isClosing: Bool { task.isCancelled }

    /// Returns when the connection is closed.
    func waitUntilClosed() async { await task.value }

    /// Makes a call with one request and one response.
    func call<Request, Response>(
        _ method: EtcdMethod<Request, Response>, _ request: Request, metadata: Metadata, timeout: Duration
    ) async throws(DatastoreError) -> Response {
        do {
            return try await client.unary(
                request: ClientRequest(message: request, metadata: metadata), descriptor: method.descriptor,
                serializer: WireSerializer<Request>(), deserializer: WireDeserializer<Response>(),
                options: callOptions(timeout: timeout)
            ) { response in
                try response.message.get().message
            }
        } catch {
            throw DatastoreError(error)
        }
    }

    /// Makes a call with a stream in both directions, until the response ends or the task is
    /// cancelled.
    func stream<Request, Response>(
        _ method: EtcdMethod<Request, Response>, _ requests: AsyncStream<Request>, metadata: Metadata,
        read: @escaping @Sendable (ResponseMessages<Response>) async throws -> Void
    ) async throws(DatastoreError) {
        let request = StreamingClientRequest<Request>(metadata: metadata) { writer in
            for await request in requests { try await writer.write(request) }
        }
        do {
            try await client.bidirectionalStreaming(
                request: request, descriptor: method.descriptor, serializer: WireSerializer<Request>(),
                deserializer: WireDeserializer<Response>(), options: callOptions(timeout: nil)
            ) { response in
                try await read(response.messages)
            }
        } catch {
            throw DatastoreError(error)
        }
    }

    private func callOptions(timeout: Duration?) -> CallOptions {
        var callOptions = CallOptions.defaults
        callOptions.timeout = timeout
        // The transport takes the limit of its responses from this option.
        callOptions.maxRequestMessageBytes = options.maximumMessageBytes
        callOptions.maxResponseMessageBytes = options.maximumMessageBytes
        return callOptions
    }
}

extension HTTP2ClientTransport.Posix {
    fileprivate init(_ endpoint: EtcdConfiguration.Endpoint, _ options: EtcdTransportOptions) throws {
        try self.init(
            target: endpoint.target,
            transportSecurity: endpoint.usesTLS ? .tls(try (options.tls ?? .init()).transportSecurity()) : .plaintext,
            config: .defaults { config in
                config.connection.keepalive = .init(
                    time: options.keepaliveInterval, timeout: options.keepaliveTimeout, allowWithoutCalls: false)
                config.http2.authority = options.tls?.serverName
            })
    }
}

extension EtcdConfiguration.Endpoint {
    fileprivate var target: any ResolvableTarget {
        switch hostKind {
        case .ipv4: .ipv4(address: host, port: port)
        case .ipv6: .ipv6(address: host, port: port)
        case .name: .dns(host: host, port: port)
        }
    }
}

extension EtcdConfiguration.TLS {
    /// Reads the files.
    fileprivate func transportSecurity() throws -> HTTP2ClientTransport.Posix.TransportSecurity.TLS {
        var tls = HTTP2ClientTransport.Posix.TransportSecurity.TLS.defaults
        if let certificateAuthorities {
            tls.trustRoots = .certificates([.file(path: certificateAuthorities, format: .pem)])
        }
        if let identity {
            tls.certificateChain = [.file(path: identity.certificate, format: .pem)]
            tls.privateKey = .file(path: identity.privateKey, format: .pem)
        }
        return tls
    }
}

#endif
