// SPDX-License-Identifier: Apache-2.0

#if Server

public import DedupeBufferHub

/// What a client asks for: which keys, how often, and from where on.
public struct StreamRequest: Sendable, Equatable {
    /// Keys that begin with one of these; empty: all keys.
    public var prefixes: [[UInt8]] = []
    public var interval: Duration?
    /// Where an earlier stream ended; `nil`: from the beginning.
    public var position: DedupeHubPosition?

    public init() {}

    /// An hour. A client that wants less can ask for snapshots.
    static let longestInterval = 3_600_000
    static let mostPrefixes = 100

    /// Reads the query of a request.
    ///
    /// - Parameter lastEventID: the header with which browsers come back. It stands above `since=`,
    ///   which they repeat too.
    init(query: String?, lastEventID: String?) throws(Refusal) {
        var since: String?
        for (name, value) in try Self.parameters(of: query) {
            switch name {
            case "prefix": prefixes.append(Array(value.utf8))
            case "interval":
                guard interval == nil else { throw .badRequest("interval= can be given once.") }
                interval = try Self.interval(value)
            case "since":
                guard since == nil else { throw .badRequest("since= can be given once.") }
                since = value
            case "token": break
            default:
                throw .badRequest(
                    "There is no parameter \(name.prefix(50)). There are prefix, interval, since and token.")
            }
        }
        guard prefixes.count <= Self.mostPrefixes else {
            throw .badRequest("At most \(Self.mostPrefixes) prefixes can be given.")
        }
        if prefixes.contains([]) { prefixes = [] }
        if let lastEventID {
            // A browser cannot leave the header out, so another server's identifier is no error:
            // the stream begins with a restart.
            position = StreamPosition(lastEventID).resumable(with: prefixes)
        } else if let since {
            guard StreamPosition(since).isWellFormed else {
                throw .badRequest("since=\(since.prefix(100)) is no position. One is the id of an event.")
            }
            position = StreamPosition(since).resumable(with: prefixes)
        }
    }

    private static func interval(_ text: String) throws(Refusal) -> Duration {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }),
            let milliseconds = Int(text), milliseconds <= longestInterval
        else { throw .badRequest("interval=\(text.prefix(50)) is no number of milliseconds up to \(longestInterval).") }
        return .milliseconds(milliseconds)
    }

    /// The parameters of a query, in order, with names and values decoded.
    static func parameters(of query: String?) throws(Refusal) -> [(name: String, value: String)] {
        var parameters: [(name: String, value: String)] = []
        for part in (query ?? "").split(separator: "&") {
            let halves = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard let name = decoded(halves[0]), let value = decoded(halves.count > 1 ? halves[1] : "") else {
                throw .badRequest("\(part.prefix(50)) is not percent-encoded UTF-8.")
            }
            parameters.append((name, value))
        }
        return parameters
    }

    /// The query of an address without one parameter, with the question mark, as it came; empty if
    /// there is no other parameter.
    static func query(_ query: String?, without name: String) -> String {
        let others = (query ?? "").split(separator: "&").filter { part in
            decoded(part.prefix { $0 != "=" }) != name
        }
        return others.isEmpty ? "" : "?" + others.joined(separator: "&")
    }

    /// The text that percent-encoding stands for; `nil` if it is malformed.
    static func decoded(_ text: some StringProtocol) -> String? {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "+"): bytes.append(UInt8(ascii: " "))
            case UInt8(ascii: "%"):
                guard rest.count >= 2, let number = hexadecimal(rest.prefix(2)) else { return nil }
                bytes.append(number)
                rest = rest.dropFirst(2)
            default: bytes.append(byte)
            }
        }
        return String(validating: bytes, as: UTF8.self)
    }

    private static func hexadecimal(_ digits: ArraySlice<UInt8>) -> UInt8? {
        var number: UInt8 = 0
        for digit in digits {
            let value: UInt8
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = digit - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): value = digit - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): value = digit - UInt8(ascii: "A") + 10
            default: return nil
            }
            number = number << 4 | value
        }
        return number
    }
}

/// A position as clients see it: the hub's, and behind a dot a mark of the prefixes that it is for.
///
/// The hub's positions are for streams with the same filter. With the mark, a client that comes
/// back with other prefixes gets a restart instead of a stream that lacks keys.
struct StreamPosition {
    private let position: DedupeHubPosition?
    private let mark: Substring

    init(_ text: String) {
        let parts = text.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        position = parts.first.flatMap { DedupeHubPosition(String($0)) }
        mark = parts.count > 1 ? parts[1] : ""
    }

    var isWellFormed: Bool { position != nil }

    /// The position, if it is for these prefixes; otherwise one that the hub cannot resume from.
    func resumable(with prefixes: [[UInt8]]) -> DedupeHubPosition {
        if let position, mark == Self.mark(of: prefixes) { return position }
        return Self.unusable
    }

    /// No hub has this epoch, or it would be a very unlucky one.
    private static let unusable = DedupeHubPosition("0000000000000000-0")!

    /// What stands behind the dot; empty without prefixes. The order of the prefixes does not
    /// matter.
    static func mark(of prefixes: [[UInt8]]) -> String {
        guard !prefixes.isEmpty else { return "" }
        // FNV-1a.
        var hash: UInt32 = 2_166_136_261
        for prefix in prefixes.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
            for byte in prefix + [0xFF] {
                hash = (hash ^ UInt32(byte)) &* 16_777_619
            }
        }
        let digits = String(hash, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }

    /// What follows a position's text on the wire.
    static func suffix(of prefixes: [[UInt8]]) -> String {
        prefixes.isEmpty ? "" : "." + mark(of: prefixes)
    }
}

#endif
