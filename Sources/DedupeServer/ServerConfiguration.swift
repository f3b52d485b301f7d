// SPDX-License-Identifier: Apache-2.0

#if Server

public import Logging
internal import NIOCore

/// How a server listens, which clients it admits, and which limits it sets.
public struct ServerConfiguration: Sendable {
    /// Where to listen. Port 0 lets the system choose.
    public var host = "127.0.0.1"
    public var port = 8080
    /// With a certificate and a key, in PEM, the server speaks TLS, and HTTP/2 beside HTTP/1.1.
    public var tls: TLSFiles?
    /// A client has to know one of these. Empty: no client is asked.
    public var tokens: [Token] = []
    /// Pages of these origins may read the server's responses, besides its own; `*` means all.
    public var allowedOrigins: Set<String> = []
    /// Names that a client may call the server by, besides those of the loopback; see ``Access``.
    public var allowedHosts: Set<String> = []

    /// The most streams at a time. One more gets a 503.
    public var maximumClients = 10_000
    /// Connections beyond the clients, for pages, snapshots, refusals and handshakes. When these
    /// are used up too, new connections wait in the system's queue.
    public var connectionReserve = 128
    /// Snapshots that are made or sent at a time. One more gets a 503.
    public var maximumSnapshots = 16
    /// The shortest time between two rounds of delivery to a client. A client may ask for a longer
    /// one. `nil`: none.
    public var minimumInterval: Duration?
    /// A stream that had nothing for so long gets a comment, so that dead clients are noticed.
    public var heartbeat: Duration = .seconds(15)
    /// How long a connection may take for its TLS handshake, for the headers of a request, and
    /// between requests.
    public var idleTimeout: Duration = .seconds(30)
    /// How long a client of HTTP/2 may take after that to agree that its idle connection ends.
    public var closingTimeout: Duration = .seconds(5)
    /// The most bytes of a request's headers.
    public var maximumHeaderSize = 16 << 10
    /// The bytes that the system may hold for a client beyond those under way.
    public var unsentBytes = 64 << 10
    /// How long browsers are told to wait before they connect again, at least. Each one is told
    /// another time, at most twice as long, so that they do not all come back at once.
    public var retry: Duration = .seconds(2)
    /// Threads that serve. `nil`: one for each processor.
    public var threads: Int?
    public var version = ""
    public var logger: Logger?

    public init() {}

    public var threadCount: Int { threads ?? System.coreCount }

    /// Whether only programs on this machine can connect.
    public var isLoopback: Bool { Access.isLoopback(host) }

    public struct TLSFiles: Sendable {
        public var certificate: String
        public var key: String

        public init(certificate: String, key: String) {
            (self.certificate, self.key) = (certificate, key)
        }
    }
}

#endif
