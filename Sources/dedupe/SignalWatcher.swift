// SPDX-License-Identifier: Apache-2.0

import Dispatch
import Synchronization

/// SIGINT and SIGTERM: the first asks for an orderly end, the second ends the process at once.
///
/// The signals are blocked in every thread, and one thread waits for them. So none is lost, however
/// early it comes; and no system call elsewhere is interrupted by one. (A signal source of Dispatch
/// wants the signals ignored, and those that come before it is ready are then gone.)
final class SignalWatcher: Sendable {
    /// Becomes readable with the first signal, and stays so.
    let descriptor: CInt

    private let writeEnd: CInt
    private let firstSignal = Atomic<CInt>(0)

    /// The signal that asked for the end, if one did.
    var received: CInt? {
        let signal = firstSignal.load(ordering: .acquiring)
        return signal == 0 ? nil : signal
    }

    /// Watches from now on, and for as long as the process lives.
    ///
    /// - Important: Threads inherit what is blocked, so this comes before the first thread is made.
    init() throws(SystemError) {
        var ends: (CInt, CInt) = (-1, -1)
        let result = withUnsafeMutableBytes(of: &ends) {
            pipe($0.assumingMemoryBound(to: CInt.self).baseAddress!)
        }
        if result != 0 {
            throw .last
        }
        (descriptor, writeEnd) = ends

        Self.blockSignals()
        for number in Self.numbers {
            // A shell has SIGINT ignored in what it starts in the background, and an ignored signal
            // need not arrive.
            signal(number, SIG_DFL)
        }
        DispatchQueue(label: "dedupe.signals", qos: .userInitiated).async { [self] in
            Self.blockSignals()
            var signals = Self.signals
            while true {
                var number: CInt = 0
                if sigwait(&signals, &number) == 0 {
                    handle(number)
                }
            }
        }
    }

    private static let numbers = [SIGINT, SIGTERM]

    private static var signals: sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for number in numbers {
            sigaddset(&set, number)
        }
        return set
    }

    private static func blockSignals() {
        var set = signals
        pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    private func handle(_ number: CInt) {
        let isFirst = firstSignal.compareExchange(expected: 0, desired: number, ordering: .acquiringAndReleasing)
            .exchanged
        if !isFirst {
            // Not exit(): whatever the other threads are in, a write that blocks included, is not
            // waited for.
            _exit(ExitStatus.signal(number))
        }
        var byte: UInt8 = 0
        _ = write(writeEnd, &byte, 1)
    }
}
