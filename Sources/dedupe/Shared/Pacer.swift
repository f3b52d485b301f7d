// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch
import Synchronization

/// Spreads lines evenly over time.
///
/// A line gets its turn when the interval after the one before it is over. The waiting comes after
/// a line rather than before it, because then the next batch is taken when its turn has come, and
/// not an interval earlier: until it is taken it goes on being conflated.
///
/// `@unchecked Sendable`: the sink, which is one thread at a time, has the clock to itself; the
/// rest is atomic.
final class Pacer: @unchecked Sendable {
    /// Lines that share one turn. Sleeping for less than a millisecond costs more than the lines
    /// do.
    let linesAtOnce: Int

    private let nanosecondsPerLine: Double

    /// A turn that is this late counts as being in time, or every late wake-up would lower the rate
    /// for good. Later ones do not, or a burst would follow each quiet time.
    private let slack: UInt64 = 10_000_000

    /// When the next line may be written. Tests read and set it.
    var nextTurn: UInt64 = 0

    /// A century. A clock that counts in 64 bits does not overflow with it.
    private static let longestWait = 3.2e18

    private let isDraining = Atomic(false)
    private let drainingBegins = DispatchSemaphore(value: 0)
    private let nothingIsLeft = Locked<(@Sendable () -> Bool)?>(nil)

    init(nanosecondsPerLine: Double, linesAtOnce: Int = 1) {
        self.nanosecondsPerLine = nanosecondsPerLine
        self.linesAtOnce = linesAtOnce
    }

    convenience init(_ rate: LineRate) {
        let atOnce = max(1, min(1e6, rate.linesPerSecond / 1000))
        self.init(nanosecondsPerLine: 1e9 / rate.linesPerSecond, linesAtOnce: Int(atOnce))
    }

    /// The size of a batch that keeps what is committed to about 100 ms.
    static func batchSize(_ batchSize: Int, _ rate: LineRate) -> Int {
        max(1, Int(min(Double(batchSize), rate.linesPerSecond / 10)))
    }

    /// Says that no more input will come, so that the last line need not be waited after.
    ///
    /// - Parameter nothingIsLeft: Whether everything was taken for delivery.
    func drain(nothingIsLeft: @escaping @Sendable () -> Bool) {
        self.nothingIsLeft.withLock { $0 = nothingIsLeft }
        isDraining.store(true, ordering: .releasing)
        drainingBegins.signal()
    }

    /// Waits until the next line may be written.
    func waitForTurn() {
        while true {
            let now = DispatchTime.now().uptimeNanoseconds
            if now >= nextTurn {
                return
            }
            let wait = nextTurn - now
            var time = timespec(tv_sec: Int(wait / 1_000_000_000), tv_nsec: Int(wait % 1_000_000_000))
            nanosleep(&time, nil)
        }
    }

    /// Notes that lines were written, and waits until the next one may be.
    ///
    /// - Parameter isInBatch: Whether more lines are committed already, so that waiting can be left
    ///   to their turn.
    func rest(afterLines count: Int, isInBatch: Bool = false) {
        let now = DispatchTime.now().uptimeNanoseconds
        let turn = now > nextTurn + slack ? now : nextTurn
        nextTurn = turn + UInt64(min(Double(count) * nanosecondsPerLine, Self.longestWait))
        if isInBatch {
            return
        }
        while DispatchTime.now().uptimeNanoseconds < nextTurn {
            if isDraining.load(ordering: .acquiring), nothingIsLeft.withLock({ $0?() }) ?? true {
                return
            }
            // Draining signals once. After that this is only a sleep.
            _ = drainingBegins.wait(timeout: DispatchTime(uptimeNanoseconds: nextTurn))
        }
    }
}
