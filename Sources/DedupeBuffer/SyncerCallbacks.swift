// SPDX-License-Identifier: Apache-2.0

/// The calls that a source makes and a sink receives.
///
/// A ``DedupeBuffer`` receives these calls from its source, and makes them on its sink.
public protocol SyncerCallbacks<Key, Value>: Sendable {
    associatedtype Key: DedupeKey
    associatedtype Value: Sendable

    /// The source's status changed.
    ///
    /// - Important: a buffer calls its sink serially, in order, with no lock held. The sink may
    ///   take as long as it likes and may call any method of the buffer.
    func onStatusUpdated(_ status: SyncStatus)

    /// Keys changed. A buffer never calls its sink with an empty array, and the array belongs to
    /// the sink.
    func onUpdates(_ updates: [Update<Key, Value>])
}

/// Callbacks that also learn when the source lost its connection and will send everything again.
public protocol RestartAwareCallbacks<Key, Value>: SyncerCallbacks {
    /// The connection was lost; a complete new snapshot follows, and then ``SyncStatus/inSync``.
    func onConnectionRestarted()
}
