// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeBuffer
import DedupeBufferHub
import DedupeServer
import Foundation
import Synchronization
import Testing

/// A server in this process, on a port of the system's choice, for a hub that the test writes to.
///
/// ``withServer(_:hub:_:)`` makes one and ends it.
final class TestServer: Sendable {
    let hub: DedupeHub<String, String>
    let server: DedupeServer
    let port: Int

    init(hub: DedupeHub<String, String>, server: DedupeServer, port: Int) {
        (self.hub, self.server, self.port) = (hub, server, port)
    }

    func put(_ values: [(String, String?)]) {
        hub.onUpdates(values.map { Update(key: $0.0, value: $0.1) })
    }

    /// The value is the JSON text.
    func put(_ key: String, _ value: String?) { put([(key, value)]) }

    func connect() throws -> WireClient { try WireClient(port: port) }

    /// Asks for a resource on a connection of its own, and reads the whole answer.
    func get(_ target: String, method: String = "GET", _ headers: [String] = [], body: String = "") async throws
        -> WireResponse
    {
        try await blocking {
            let client = try self.connect()
            try client.request(target, method: method, headers, body: body)
            return try client.response(isHead: method == "HEAD")
        }
    }

    /// Opens a stream. The head of the answer has been read.
    func stream(_ target: String, _ headers: [String] = []) async throws -> WireClient {
        try await blocking {
            let client = try self.connect()
            try client.request(target, headers)
            let head = try client.head()
            guard head.status == 200 else { throw WireError("\(target): \(head.status)") }
            return client
        }
    }

    func waitForClients(_ count: Int) async throws {
        try await eventually("\(count) clients") { self.server.clientCount == count }
    }
}

/// A configuration for a test.
func configured(_ change: (inout ServerConfiguration) -> Void) -> ServerConfiguration {
    var configuration = ServerConfiguration()
    configuration.threads = 2
    configuration.version = "1.2.3"
    change(&configuration)
    configuration.port = 0
    return configuration
}

/// Runs a server for a test. At the end of the test the server ends too, or the test fails.
func withServer(
    _ configuration: ServerConfiguration = configured { _ in },
    hub hubConfiguration: DedupeHubConfiguration = DedupeHubConfiguration(),
    _ body: (TestServer) async throws -> Void
) async throws {
    let hub = DedupeHub<String, String>(configuration: hubConfiguration)
    let server = DedupeServer(HubFeed(hub, types: .test), configuration: configuration)
    let (ports, listening) = AsyncStream<Int>.makeStream()
    let running = Task {
        defer { listening.finish() }
        try await server.run { listening.yield($0) }
    }
    var port: Int?
    for await number in ports {
        port = number
        break
    }
    guard let port else {
        try await running.value
        return
    }
    let result: Result<Void, any Error>
    do {
        result = .success(try await body(TestServer(hub: hub, server: server, port: port)))
    } catch {
        result = .failure(error)
    }
    hub.finish()
    server.shutDown(deadline: .now)
    try await running.value
    try result.get()
}

extension ServedTypes<String, String> {
    /// Values are JSON as they are; keys need no escapes.
    static let test = ServedTypes(
        envelope: { update in
            Array(
                #"{"type":"\#(update.updateType.word)","key":"\#(update.key)","value":\#(update.value ?? "null")}"#.utf8
            )
        },
        hasPrefix: { key, prefix in key.utf8.starts(with: prefix) })
}

extension UpdateType {
    fileprivate var word: String {
        switch self {
        case .new: "new"
        case .updated: "updated"
        case .deleted: "deleted"
        case .unknown: "unknown"
        }
    }
}

// MARK: - Waiting

/// The longest wait for anything that has to happen. To reach it is a failure.
let patience = Duration.seconds(60)

/// Waits until the condition holds. If the condition throws, this asks again: on a busy machine a
/// server with a short timeout also closes the connection on which the test asks.
func eventually(
    _ what: String, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () async throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + patience
    while true {
        var problem = ""
        do {
            if try await condition() { return }
        } catch {
            problem = ": \(error)"
        }
        if ContinuousClock.now > deadline {
            Issue.record("waited in vain: \(what)\(problem)", sourceLocation: sourceLocation)
            throw WireError("waited in vain: \(what)\(problem)")
        }
        try await Task.sleep(for: .milliseconds(5))
    }
}

/// Runs what blocks on a thread of its own. The threads of tasks are as many as there are
/// processors, and the server needs them.
func blocking<R: Sendable>(_ body: @escaping @Sendable () throws -> R) async throws -> R {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread {
            continuation.resume(with: Result { try body() })
        }
    }
}

#endif
