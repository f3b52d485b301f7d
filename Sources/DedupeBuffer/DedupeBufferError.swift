// SPDX-License-Identifier: Apache-2.0

/// Why delivery could not start.
public enum DedupeBufferError: Error, Sendable, Hashable {
    /// There is nothing to deliver.
    case emptyQueue
    /// Another loop or consumer delivers, or another caller's single batch is being delivered.
    case alreadySending
    /// The buffer was stopped, or has finished.
    case stopped
}

extension DedupeBufferError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .emptyQueue: "queue is empty"
        case .alreadySending: "buffer is already sending"
        case .stopped: "buffer was stopped"
        }
    }
}
