// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import GRPCCore
import GRPCNIOTransportHTTP2Posix
import SyncerEngine
import Testing

@testable import DedupeBufferEtcd

/// A server on loopback that speaks etcd's protocol and does what its script says.
struct FakeEtcd: RegistrableRPCService {
    /// What the server answers. A script throws an `RPCError` to answer with that status.
    struct Script: Sendable {
        var range: @Sendable (FakeCall<RangeRequest>) async throws -> RangeResponse = { _ in
            throw RPCError(code: .unimplemented, message: "the script has no range")
        }
        var watch: @Sendable (FakeStream) async throws -> Void = { _ in
            throw RPCError(code: .unimplemented, message: "the script has no watch")
        }
        var authenticate: @Sendable (FakeCall<AuthenticateRequest>) async throws -> AuthenticateResponse = { _ in
            throw RPCError(code: .failedPrecondition, message: "etcdserver: authentication is not enabled")
        }
    }

    private let script: Script

    /// Runs a server while the body runs. The body gets the server's endpoint.
    static func run<Result: Sendable>(
        _ script: Script, host: String = "127.0.0.1", port: Int = 0,
        _ body: @Sendable (EtcdConfiguration.Endpoint) async throws -> Result
    ) async throws -> Result {
        var config = HTTP2ServerTransport.Posix.Config.defaults
        // Tests ping more often than this server allows by default.
        config.connection.keepalive.clientBehavior = .init(
            minPingIntervalWithoutCalls: .milliseconds(1), allowWithoutCalls: true)
        let transport = HTTP2ServerTransport.Posix(
            address: host.contains(":") ? .ipv6(host: host, port: port) : .ipv4(host: host, port: port),
            transportSecurity: .plaintext, config: config)
        let server = GRPCServer(transport: transport, services: [FakeEtcd(script: script)])
        return try await withThrowingTaskGroup(of: Void.self) { group in
            let (clients, noClients) = AsyncStream.makeStream(of: Never.self)
            group.addTask { await serve(server, while: clients) }
            defer { noClients.finish() }
            let address = try await transport.listeningAddress
            let port = try #require(address.ipv4?.port ?? address.ipv6?.port)
            return try await body(EtcdConfiguration.Endpoint(host: host, port: port, usesTLS: false))
        }
    }

    /// Serves until the sequence ends.
    private static func serve(_ server: GRPCServer<HTTP2ServerTransport.Posix>, while clients: AsyncStream<Never>) async
    {
        await withTaskGroup { group in
            group.addTask { try? await server.serve() }
            group.addTask {
                for await _ in clients {}
                // A cancelled server ends the program if a connection comes at that moment. So its
                // port is closed first.
                server.beginGracefulShutdown()
                // The server may wait forever for the handler of a call that its client gave up.
                try? await Task.sleep(for: .seconds(5))
            }
            await group.next()
            group.cancelAll()
        }
    }

    func registerMethods<Transport: ServerTransport>(with router: inout RPCRouter<Transport>) {
        register(.range, with: &router) { [script] call in try await script.range(call) }
        register(.authenticate, with: &router) { [script] call in try await script.authenticate(call) }
        router.registerHandler(
            forMethod: EtcdMethod.watch.descriptor, deserializer: RequestDeserializer<WatchRequest>(),
            serializer: ByteSerializer()
        ) { [script] request, context in
            StreamingServerResponse { writer in
                try await script.watch(
                    FakeStream(
                        metadata: request.metadata, peer: context.remotePeer, requests: request.messages,
                        writer: writer, cancellation: context.cancellation))
                return [:]
            }
        }
    }

    private func register<Request: WireDecodable, Response: WireEncodable, Transport: ServerTransport>(
        _ method: EtcdMethod<Request, Response>, with router: inout RPCRouter<Transport>,
        _ answer: @escaping @Sendable (FakeCall<Request>) async throws -> Response
    ) {
        router.registerHandler(
            forMethod: method.descriptor, deserializer: RequestDeserializer<Request>(), serializer: ByteSerializer()
        ) { request, context in
            let request = try await ServerRequest(stream: request)
            let response = try await answer(
                FakeCall(
                    request: request.message, metadata: request.metadata, peer: context.remotePeer,
                    cancellation: context.cancellation))
            return StreamingServerResponse(single: ServerResponse(message: response.encoded))
        }
    }
}

/// A request with what came along.
struct FakeCall<Request: Sendable>: Sendable {
    let request: Request
    let metadata: Metadata
    /// The address and port of the client's end of the connection.
    let peer: String
    fileprivate let cancellation: ServerContext.RPCCancellationHandle

    /// Never answers.
    func staySilent() async throws -> Never {
        try await cancellation.cancelled
        throw CancellationError()
    }
}

/// A stream of a watch, from the server's side.
struct FakeStream: Sendable {
    let metadata: Metadata
    let peer: String
    let requests: RPCAsyncSequence<WatchRequest, any Error>
    fileprivate let writer: RPCWriter<[UInt8]>
    fileprivate let cancellation: ServerContext.RPCCancellationHandle

    func send(_ response: WatchResponse) async throws { try await writer.write(response.encoded) }

    func send(bytes: [UInt8]) async throws { try await writer.write(bytes) }

    /// Sends nothing more, until the client goes. The connection stays alive meanwhile.
    func staySilent() async throws {
        try await cancellation.cancelled
    }
}

private struct ByteSerializer: MessageSerializer {
    func serialize<Bytes: GRPCContiguousBytes>(_ message: [UInt8]) -> Bytes { Bytes(message) }
}

private struct RequestDeserializer<Request: WireDecodable>: MessageDeserializer {
    func deserialize<Bytes: GRPCContiguousBytes>(_ bytes: Bytes) throws -> Request {
        try bytes.withUnsafeBytes { bytes in
            var reader = WireReader(bytes)
            return try Request(from: &reader)
        }
    }
}

extension WatchResponse {
    /// A response with the things that tests care about.
    static func of(
        _ watchID: Int64, revision: Int64, cluster: UInt64 = 1, _ change: (inout WatchResponse) -> Void = { _ in }
    ) -> WatchResponse {
        var response = WatchResponse()
        response.watchID = watchID
        response.header = ResponseHeader(clusterID: cluster, revision: revision)
        change(&response)
        return response
    }

    static func created(_ watchID: Int64, revision: Int64) -> WatchResponse {
        .of(watchID, revision: revision) { $0.isCreated = true }
    }

    static func events(_ watchID: Int64, revision: Int64, _ events: DatastoreEntry...) -> WatchResponse {
        .of(watchID, revision: revision) { $0.events = events }
    }
}

extension RangeResponse {
    static func of(revision: Int64, cluster: UInt64 = 1, _ entries: [DatastoreEntry] = []) -> RangeResponse {
        var response = RangeResponse()
        response.header = ResponseHeader(clusterID: cluster, revision: revision)
        response.entries = entries
        response.count = Int64(entries.count)
        return response
    }
}

#endif
