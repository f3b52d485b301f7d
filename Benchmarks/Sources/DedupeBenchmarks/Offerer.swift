// SPDX-License-Identifier: Apache-2.0

import Foundation
import Synchronization

/// A producer: sends its stream round and round.
final class Offerer<S: Subject>: @unchecked Sendable {
    // Sendable: `position` belongs to the one thread that offers.

    private let buffer: S
    private let stream: Stream
    /// Kept from one repetition to the next.
    private var position = 0
    // The measuring thread looks at the counter: nothing else that is hot lies on its line.
    private let before: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0, 0)
    private let counter = Atomic<Int>(0)
    private let after: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0, 0)

    init(_ buffer: S, _ stream: Stream) {
        self.buffer = buffer
        self.stream = stream
    }

    /// Updates offered since the last reset.
    var count: Int { counter.load(ordering: .relaxed) }

    func reset() { counter.store(0, ordering: .relaxed) }

    func offer(until stop: borrowing Atomic<Bool>) {
        var count = 0
        while !stop.load(ordering: .relaxed) {
            offerCall()
            count += stream.arraySize
            counter.store(count, ordering: .relaxed)
        }
    }

    /// Updates per nanosecond of the calling thread's time, for about as long as asked.
    func offerAlone(_ seconds: Double) -> Double {
        let start = threadTime()
        var count = 0
        var time: UInt64
        repeat {
            // The clock is read seldom: reading it is a system call.
            for _ in 0..<64 { offerCall() }
            count += 64 * stream.arraySize
            time = threadTime() - start
        } while Double(time) < seconds * 1e9
        return Double(count) / Double(time)
    }

    private func offerCall() {
        buffer.put(stream.calls[position], call: stream.setting.call)
        position += 1
        if position == stream.calls.count { position = 0 }
    }
}

/// Producers at work, each on a thread of its own.
final class RunningOfferers<S: Subject>: Sendable {
    private let offerers: [Offerer<S>]
    private let isStopped = Atomic<Bool>(false)
    private let ended = DispatchSemaphore(value: 0)

    /// Returns when all of them run: starting threads is not what is measured.
    init(_ offerers: [Offerer<S>]) {
        self.offerers = offerers
        for offerer in offerers {
            offerer.reset()
            Thread.detachNewThread { [self] in
                offerer.offer(until: isStopped)
                ended.signal()
            }
        }
        for offerer in offerers {
            while offerer.count == 0 { Thread.sleep(forTimeInterval: 50e-6) }
        }
    }

    var count: Int { offerers.reduce(0) { $0 + $1.count } }

    func stop() {
        isStopped.store(true, ordering: .relaxed)
        for _ in offerers { ended.wait() }
    }
}
