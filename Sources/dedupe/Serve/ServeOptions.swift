// SPDX-License-Identifier: Apache-2.0

#if Server

import ArgumentParser
import DedupeServer

/// An address to listen at: `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080`.
struct ListenAddress: ExpressibleByArgument, Equatable, CustomStringConvertible {
    var host: String
    var port: Int

    init(host: String, port: Int) {
        (self.host, self.port) = (host, port)
    }

    init?(argument: String) {
        guard let colon = argument.lastIndex(of: ":"), let port = UInt16(argument[argument.index(after: colon)...])
        else { return nil }
        var host = argument[..<colon]
        if host.hasPrefix("[") && host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        if host.isEmpty { return nil }
        self.init(host: String(host), port: Int(port))
    }

    var description: String { (host.contains(":") ? "[\(host)]" : host) + ":\(port)" }
    var defaultValueDescription: String { description }
}

/// Where clients connect.
struct ListenOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The address to listen at. With port 0 the system chooses a port.", valueName: "host:port"))
    var listen = ListenAddress(host: "127.0.0.1", port: 8080)

    @Option(
        help: ArgumentHelp(
            "A certificate and its chain, in PEM. With it the server speaks TLS, and HTTP/2 too.", valueName: "file"),
        completion: .file())
    var tlsCert: String?

    @Option(help: ArgumentHelp("The certificate's private key, in PEM.", valueName: "file"), completion: .file())
    var tlsKey: String?

    func validate() throws {
        if (tlsCert == nil) != (tlsKey == nil) {
            throw ValidationError("--tls-cert and --tls-key need each other.")
        }
    }

    var configuration: ServerConfiguration {
        var configuration = ServerConfiguration()
        configuration.host = listen.host
        configuration.port = listen.port
        if let tlsCert, let tlsKey {
            configuration.tls = ServerConfiguration.TLSFiles(certificate: tlsCert, key: tlsKey)
        }
        configuration.version = DedupeCommand.version
        return configuration
    }
}

/// Which clients are served.
struct AccessOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            A file with tokens, one on each line. A client needs one of them: in the header Authorization, as \
            "Bearer TOKEN", or as the parameter token=TOKEN. The page asks for it.
            """, valueName: "file"),
        completion: .file())
    var tokenFile: String?

    @Option(
        help: ArgumentHelp(
            """
            An origin whose pages may read the stream, such as https://example.org, or * for all. Repeat it for \
            several.
            """, valueName: "origin"))
    var allowOrigin: [String] = []

    @Option(
        help: ArgumentHelp(
            """
            A name that clients may call the server by, for a proxy on this machine. It is needed only without tokens, \
            and when only this machine can connect. Repeat it for several.
            """, valueName: "name"))
    var allowHost: [String] = []

    @Option(help: ArgumentHelp("The most clients at a time. One more is told to come back.", valueName: "count"))
    var maxClients = 10_000

    func validate() throws {
        if !(1...1_000_000).contains(maxClients) {
            throw ValidationError("--max-clients must be from 1 to 1000000.")
        }
        for origin in allowOrigin where origin != "*" {
            // As in https://example.org:8443, and nothing behind it.
            let parts = origin.split(separator: "/", omittingEmptySubsequences: false)
            guard parts.count == 3, parts[0].hasSuffix(":"), parts[1].isEmpty, !parts[2].isEmpty else {
                throw ValidationError("\(origin) is no origin. One is https://example.org, without a path.")
            }
        }
    }
}

/// What is passed on.
struct ServeRuleOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "What becomes of a line without a key: error (the default) reports it, skip leaves it out.",
            valueName: "rule"))
    var onMissing = MissingKeyRule.error

    @Flag(help: "Leave out a value whose revision is the one that its key has.")
    var suppressUnchanged = false

    @Flag(
        help: """
            Ignore an update whose revision is smaller than one that its key has had. This remembers each key, deleted \
            ones included, until a restart.
            """)
    var newerOnly = false
}

/// How the server runs.
struct ServeRunOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            Begin to deliver to a client no more often than this, such as 100ms. A client may ask for a longer time by \
            interval=.
            """, valueName: "duration"))
    var interval: TimeSpan?

    @Flag(help: "End when the input ends. Otherwise the last state is served until a signal comes.")
    var endWithInput = false

    @Option(
        help: ArgumentHelp("Stop at this many bad lines. Otherwise bad lines are left out.", valueName: "count"))
    var maxErrors: Int?

    @Flag(help: "Stop at the first bad line, as --max-errors 1 does.")
    var strict = false

    @Option(
        help: ArgumentHelp(
            "How long clients may take for what is left, at the end. Then they are cut off.", valueName: "duration"))
    var drainTimeout = TimeSpan(nanoseconds: 10_000_000_000)

    @Flag(help: "Print a summary on standard error at the end, and a line each second if that is a terminal.")
    var stats = false

    func validate() throws {
        if let maxErrors, maxErrors < 1 {
            throw ValidationError("--max-errors must be a positive integer.")
        }
        if strict && maxErrors ?? 1 != 1 {
            throw ValidationError("--strict stops at the first bad line, and --max-errors at a later one.")
        }
    }
}

#endif
