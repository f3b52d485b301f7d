// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Dispatch
import Synchronization

/// Watches signals. The first SIGHUP, SIGINT or SIGTERM asks for an orderly end, the second ends
/// the process at once, and so does SIGQUIT. SIGUSR1 asks for the statistics.
///
/// The signals are blocked in every thread, and one thread waits for them. So none is lost, however
/// early it comes, and none interrupts a system call elsewhere. (A signal source of Dispatch wants
/// the signals ignored, and those that come before it is ready are then gone.)
final class SignalWatcher: Sendable {
    /// What a signal makes the program do, on the thread that waits for signals.
    struct Actions: Sendable {
        /// The first signal that asks for the end has come. A signal that came before the actions
        /// were set calls this on the thread that sets them.
        var ending: @Sendable (CInt) -> Void = { _ in }
        /// The process ends at once after this.
        var quitting: @Sendable () -> Void = {}
        /// The statistics are wanted.
        var reporting: @Sendable () -> Void = {}
    }

    /// Becomes readable with the first signal, and stays so.
    let descriptor: CInt

    private struct State {
        var actions: Actions?
        /// The signal that asked for the end before there were actions.
        var early: CInt?
    }

    private let writeEnd: CInt
    private let numbers: [CInt]
    private let firstSignal = Atomic<CInt>(0)
    private let state = Locked(State())

    /// The signal that asked for the end, if one did.
    var received: CInt? {
        let signal = firstSignal.load(ordering: .acquiring)
        return signal == 0 ? nil : signal
    }

    /// Watches from now on, and for as long as the process lives. A signal that is ignored now
    /// stays ignored, as `nohup` and shells want it.
    ///
    /// - Important: Threads inherit what is blocked, so this comes before the first thread is made.
    /// - Parameter watched: The signals to watch. A test gives none, and calls ``handle(_:)``.
    init(watching watched: [CInt] = [SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGUSR1]) throws(SystemError) {
        var ends: (CInt, CInt) = (-1, -1)
        let result = withUnsafeMutableBytes(of: &ends) {
            pipe($0.assumingMemoryBound(to: CInt.self).baseAddress!)
        }
        if result != 0 {
            throw .last
        }
        (descriptor, writeEnd) = ends
        numbers = watched.filter { !Self.isIgnored($0) }
        block()
        DispatchQueue(label: "dedupe.signals", qos: .userInitiated).async { [self] in
            block()
            var signals = set
            while !numbers.isEmpty {
                var number: CInt = 0
                if sigwait(&signals, &number) == 0 {
                    handle(number)
                }
            }
        }
    }

    /// Says what signals do. If one that asks for the end has come already, `ending` is called now.
    func set(_ actions: Actions) {
        let early = state.withLock { state in
            state.actions = actions
            defer { state.early = nil }
            return state.early
        }
        if let early {
            actions.ending(early)
        }
    }

    private static func isIgnored(_ number: CInt) -> Bool {
        var action = sigaction()
        guard sigaction(number, nil, &action) == 0 else { return false }
        #if canImport(Darwin)
        let handler = action.__sigaction_u.__sa_handler
        #else
        let handler = action.__sigaction_handler.sa_handler
        #endif
        return unsafeBitCast(handler, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self)
    }

    private var set: sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for number in numbers {
            sigaddset(&set, number)
        }
        return set
    }

    private func block() {
        var set = set
        pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Does what a signal asks for.
    func handle(_ number: CInt) {
        if number == SIGUSR1 {
            state.withLock { $0.actions }?.reporting()
            return
        }
        let isFirst = firstSignal.compareExchange(expected: 0, desired: number, ordering: .acquiringAndReleasing)
            .exchanged
        if number == SIGQUIT {
            state.withLock { $0.actions }?.quitting()
        }
        if !isFirst || number == SIGQUIT {
            // Not exit(): the other threads may be anywhere, also in a write that blocks, and the
            // process does not wait for them.
            _exit(ExitStatus.signal(number))
        }
        var byte: UInt8 = 0
        _ = write(writeEnd, &byte, 1)
        let actions = state.withLock { state in
            if state.actions == nil { state.early = number }
            return state.actions
        }
        actions?.ending(number)
    }
}
