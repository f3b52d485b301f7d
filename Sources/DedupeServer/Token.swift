// SPDX-License-Identifier: Apache-2.0

#if Server

/// A secret that admits clients.
public struct Token: Sendable, Equatable {
    private let bytes: [UInt8]

    /// The shortest token. A shorter one could be found by trying.
    public static let minimumLength = 16
    public static let maximumLength = 1024

    /// `nil` if the text has the wrong length, or a character that cannot stand in a header, a
    /// cookie and a query alike: letters, digits and `-._~+/=` can.
    public init?(_ text: some StringProtocol) {
        bytes = Array(text.utf8)
        guard Self.minimumLength...Self.maximumLength ~= bytes.count, bytes.allSatisfy(Self.isAllowed) else {
            return nil
        }
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: "-._~+/=".utf8.contains(byte)
        }
    }

    var text: String { String(decoding: bytes, as: UTF8.self) }

    /// Whether the text is the token. The time that this takes depends only on the text's length.
    func matches(_ text: some StringProtocol) -> Bool {
        let other = Array(text.utf8)
        var difference: UInt8 = other.count == bytes.count ? 0 : 1
        for index in other.indices {
            difference |= other[index] ^ bytes[index % bytes.count]
        }
        return difference == 0
    }
}

#endif
