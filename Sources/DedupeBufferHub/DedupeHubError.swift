// SPDX-License-Identifier: Apache-2.0

/// Why a subscription could not be taken from.
public enum DedupeHubError: Error, Sendable, Hashable {
    /// Another call is taking from this subscription.
    case alreadyTaking
}

extension DedupeHubError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .alreadyTaking: "another call is taking from this subscription"
        }
    }
}
