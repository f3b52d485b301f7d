// SPDX-License-Identifier: Apache-2.0

#if Server

internal import HTTPTypes
internal import HummingbirdCore
internal import NIOCore

/// Which requests are answered.
///
/// Three things can go wrong on the client's side of a browser, and each has its check. A page of
/// another origin may ask for the data: its origin has to be allowed. A page may let its own name
/// lead to this machine (DNS rebinding), so that the browser takes it for the same origin: without
/// a token, a server that listens on the loopback wants to be called by the loopback's names. And
/// anyone may connect: with tokens, every request has to have one.
struct Access: Sendable {
    private let tokens: [Token]
    private let origins: Set<String>
    private let hosts: Set<String>
    private let isSecure: Bool
    private let checksHosts: Bool

    init(_ configuration: ServerConfiguration) {
        tokens = configuration.tokens
        origins = configuration.allowedOrigins
        let own = configuration.host.lowercased()
        hosts = Self.loopbackNames.union(configuration.allowedHosts).union([own.contains(":") ? "[\(own)]" : own])
        isSecure = configuration.tls != nil
        checksHosts = tokens.isEmpty && configuration.isLoopback
    }

    var needsToken: Bool { !tokens.isEmpty }

    private static let loopbackNames: Set<String> = ["localhost", "127.0.0.1", "[::1]"]

    /// Whether a server with this name or address listens on the loopback. A name is looked up as
    /// it is for listening.
    static func isLoopback(_ host: String) -> Bool {
        guard let address = try? SocketAddress.makeAddressResolvingHost(host, port: 0).ipAddress else { return false }
        let mapped = "::ffff:"
        return address == "::1" || isLoopbackNumber(address)
            || address.hasPrefix(mapped) && isLoopbackNumber(String(address.dropFirst(mapped.count)))
    }

    /// An address of the form 127.x.x.x. A name that only begins so is anybody's.
    private static func isLoopbackNumber(_ host: String) -> Bool {
        let parts = host.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts[0] == "127" && parts.allSatisfy { UInt8($0) != nil }
    }

    // MARK: - Hosts and origins

    func checkHost(_ request: Request) throws(Refusal) {
        guard checksHosts, let authority = request.head.authority else { return }
        let name = Self.name(of: authority).lowercased()
        guard hosts.contains(name) || Self.isLoopbackNumber(name) else {
            throw .forbidden(
                "The server was called by the name \(name.prefix(100)). Without a token it answers to localhost, and to "
                    + "names given by --allow-host.")
        }
    }

    /// The authority without its port.
    private static func name(of authority: String) -> Substring {
        guard let colon = authority.lastIndex(of: ":"), !authority[colon...].contains("]") else {
            return authority[...]
        }
        return authority[..<colon]
    }

    /// - Returns: What allows the page to read the response; empty if the request is of no other
    ///   origin.
    func checkOrigin(_ request: Request) throws(Refusal) -> HTTPFields {
        guard let origin = request.headers[.origin] else { return [:] }
        // A proxy may end TLS, so the scheme says nothing.
        if let authority = request.head.authority,
            ["http://", "https://"].contains(where: { origin == $0 + authority })
        {
            return [:]
        }
        if origins.contains("*") { return [.accessControlAllowOrigin: "*"] }
        if origins.contains(origin) { return [.accessControlAllowOrigin: origin, .vary: "Origin"] }
        throw .forbidden("Pages of \(origin.prefix(100)) may not read this server; see --allow-origin.")
    }

    /// The answer to a browser that asks before it sends a request with headers.
    func preflight(_ allowing: HTTPFields) -> Response {
        var headers = allowing
        headers[.allow] = "GET, HEAD, OPTIONS"
        if !allowing.isEmpty {
            headers[.accessControlAllowMethods] = "GET, HEAD"
            headers[.accessControlAllowHeaders] = "Authorization, Last-Event-ID, Cache-Control"
            headers[.accessControlMaxAge] = "600"
        }
        return Response(status: .noContent, headers: headers)
    }

    // MARK: - Tokens

    func checkToken(_ request: Request) throws(Refusal) {
        guard needsToken else { return }
        if let given = try givenToken(request), isKnown(given) { return }
        throw .unauthorized
    }

    func isKnown(_ token: String) -> Bool {
        // Each one is compared, so that the time does not tell which one is nearly right.
        tokens.reduce(false) { $1.matches(token) || $0 }
    }

    private func givenToken(_ request: Request) throws(Refusal) -> String? {
        if let header = request.headers[.authorization] {
            let parts = header.split(separator: " ", maxSplits: 1)
            return parts.count == 2 && parts[0].lowercased() == "bearer" ? String(parts[1]) : nil
        }
        return Self.token(in: try StreamRequest.parameters(of: request.uri.query)) ?? cookie(request)
    }

    /// The token among the parameters of a query or a form. A `+` that was not encoded came as a
    /// space, which no token has.
    static func token(in parameters: [(name: String, value: String)]) -> String? {
        parameters.last { $0.name == "token" }.map { String($0.value.map { $0 == " " ? "+" : $0 }) }
    }

    private func cookie(_ request: Request) -> String? {
        for header in request.headers[values: .cookie] {
            for pair in header.split(separator: ";") {
                let halves = pair.split(separator: "=", maxSplits: 1)
                if halves.count == 2, halves[0].drop(while: { $0 == " " }) == Self.cookieName {
                    return String(halves[1])
                }
            }
        }
        return nil
    }

    private static let cookieName = "dedupe-token"

    /// Lets the browser show the token from now on, until it is closed. No script can read it, and
    /// pages of other sites cannot use it.
    func cookie(for token: String) -> String {
        "\(Self.cookieName)=\(token); Path=/; HttpOnly; SameSite=Strict" + (isSecure ? "; Secure" : "")
    }
}

#endif
