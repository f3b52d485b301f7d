// SPDX-License-Identifier: Apache-2.0

#if Etcd

public import DedupeBuffer

#if canImport(Darwin)
import Darwin
#elseif canImport(Musl)
import Musl
#else
import Glibc
#endif

extension EtcdConfiguration {
    /// Where one member of the cluster serves its clients.
    ///
    /// ```swift
    /// let endpoint = try EtcdConfiguration.Endpoint("https://etcd-1.example.com:2379")
    /// ```
    public struct Endpoint: Sendable, Hashable {
        /// A host name, or an address of IPv4, or one of IPv6 without brackets.
        public let host: String
        /// From 1 to 65,535.
        public let port: Int
        /// Whether the connection is encrypted, and the member proves its identity.
        public let usesTLS: Bool

        /// What a host is, by its text.
        enum HostKind: Sendable {
            case name
            case ipv4
            case ipv6
        }

        let hostKind: HostKind

        /// An endpoint.
        ///
        /// - Parameters:
        ///   - host: a host name, or an address of IPv4, or one of IPv6 without brackets.
        ///   - port: from 1 to 65,535.
        ///   - usesTLS: whether the connection is encrypted.
        /// - Throws: `endpoint`, if the host or the port cannot be one.
        public init(host: String, port: Int = 2379, usesTLS: Bool) throws(DedupeBufferConfiguration.ValidationError) {
            try require(1...65_535 ~= port, "endpoint", "at a port between 1 and 65535, and \(port) is none")
            try Self.refuseUser(in: host)
            guard let hostKind = HostKind(host) else {
                throw .init(
                    member: "endpoint", requirement: "at a host name or address, and \"\(host)\" is none")
            }
            self.host = host
            self.port = port
            self.usesTLS = usesTLS
            self.hostKind = hostKind
        }

        /// Reads an endpoint's URL.
        ///
        /// - Parameter url: `http://HOST:PORT` or `https://HOST:PORT`. An address of IPv6 is in
        ///   brackets: `http://[::1]:2379`. Without a scheme the connection is not encrypted, and
        ///   without a port the port is 2379. A final `/` is ignored.
        /// - Throws: `endpoint`, if the text is no such URL.
        public init(_ url: String) throws(DedupeBufferConfiguration.ValidationError) {
            var rest = Substring(url)
            try Self.refuseUser(in: url)
            let usesTLS = try Self.takeScheme(&rest)
            if rest.hasSuffix("/") { rest.removeLast() }
            let port = try Self.takePort(&rest)
            if rest.hasPrefix("["), rest.hasSuffix("]") {
                rest = rest.dropFirst().dropLast()
                try require(rest.contains(":"), "endpoint", "with an address of IPv6 in its brackets")
            } else {
                try require(!rest.contains(":"), "endpoint", "with brackets around an address of IPv6")
            }
            try self.init(host: String(rest), port: port ?? 2379, usesTLS: usesTLS)
        }

        /// A text with a user may have a password, so the error does not quote it.
        private static func refuseUser(in text: String) throws(DedupeBufferConfiguration.ValidationError) {
            try require(!text.contains("@"), "endpoint", "without a user, who has a member of the configuration")
        }

        /// Returns whether the scheme is that of TLS.
        private static func takeScheme(
            _ url: inout Substring
        ) throws(DedupeBufferConfiguration.ValidationError) -> Bool {
            guard let separator = url.firstRange(of: "://") else { return false }
            let scheme = url[..<separator.lowerBound].lowercased()
            url = url[separator.upperBound...]
            try require(["http", "https"].contains(scheme), "endpoint", "of the scheme http or https")
            return scheme == "https"
        }

        private static func takePort(
            _ url: inout Substring
        ) throws(DedupeBufferConfiguration.ValidationError) -> Int? {
            guard let colon = url.lastIndex(of: ":"), !url[colon...].contains("]") else { return nil }
            // An address of IPv6 without brackets, which is refused later.
            guard url.hasPrefix("[") || !url[..<colon].contains(":") else { return nil }
            let digits = url[url.index(after: colon)...]
            guard let port = Int(digits), digits.allSatisfy(\.isNumber) else {
                throw .init(member: "endpoint", requirement: "with a number as its port, and \"\(digits)\" is none")
            }
            url = url[..<colon]
            return port
        }
    }
}

extension EtcdConfiguration.Endpoint: CustomStringConvertible {
    /// The URL, as `init(_:)` reads it.
    public var description: String {
        "\(usesTLS ? "https" : "http")://\(hostKind == .ipv6 ? "[\(host)]" : host):\(port)"
    }
}

extension EtcdConfiguration.Endpoint.HostKind {
    /// `nil` if the text is no host.
    init?(_ host: String) {
        var address = in6_addr()
        if inet_pton(AF_INET, host, &address) == 1 {
            self = .ipv4
        } else if inet_pton(AF_INET6, host, &address) == 1 {
            self = .ipv6
        } else {
            let isName = host.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"):
                    true
                default: false
                }
            }
            guard isName, !host.isEmpty, host.utf8.count <= 253 else { return nil }
            self = .name
        }
    }
}

#endif
