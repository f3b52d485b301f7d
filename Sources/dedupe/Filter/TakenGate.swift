// SPDX-License-Identifier: Apache-2.0

/// Tells when the writer has received everything that was taken before a certain time.
///
/// The delivery loop takes a batch, and the writer receives it a moment later. In between, the
/// reading thread cannot know what is in the batch. After that moment, an update that is neither
/// pending nor with the writer is gone.
struct TakenGate {
    /// The updates that the writer was given so far.
    private var given = 0
    /// The updates that it must have been given first.
    private var awaited: Int?

    /// Waits for the writer to get what was taken by now.
    ///
    /// - Parameter taken: How many updates were taken so far, those included that may yet be put
    ///   back.
    /// - Returns: Whether the writer has got them.
    mutating func wait(taken: Int) -> Bool {
        awaited = given >= taken ? nil : taken
        return awaited == nil
    }

    /// Notes that the writer was given updates.
    ///
    /// - Returns: Whether that ends a wait.
    mutating func give(_ count: Int) -> Bool {
        given += count
        guard let awaited, given >= awaited else { return false }
        self.awaited = nil
        return true
    }
}
