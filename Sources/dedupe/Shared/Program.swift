// SPDX-License-Identifier: Apache-2.0

import Dispatch

/// What every subcommand begins with: its messages and its signals.
struct Program: Sendable {
    let diagnostics: Diagnostics
    let signals: SignalWatcher

    /// Prepares the process. Ends it if the system refuses.
    ///
    /// - Important: Threads inherit what is blocked, so this comes before the first thread is made.
    static func begin() -> Program {
        reserveStandardDescriptors()
        // A reader of messages that has gone ends nothing. One of data does, see StandardOutput.
        signal(SIGPIPE, SIG_IGN)
        reportFaultsInOneLine()
        let diagnostics = Diagnostics.ofProcess
        do throws(SystemError) {
            return Program(diagnostics: diagnostics, signals: try SignalWatcher())
        } catch {
            diagnostics.report("signals: \(error)", patience: Diagnostics.lastPatience)
            exit(ExitStatus.failure)
        }
    }

    /// Says what signals do from now on.
    ///
    /// The first signal that asks for the end gives the program the drain timeout to end by itself.
    /// The signal may have come already.
    ///
    /// - Parameter ending: Called with that signal, on the thread that waits for signals, or before
    ///   this returns if the signal has come already.
    func setSignals<Report: ProgressReport>(
        drainTimeout: TimeSpan, reporter: Reporter<Report>, ending: @escaping @Sendable () -> Void = {}
    ) {
        var actions = SignalWatcher.Actions()
        actions.ending = { number in
            let deadline = DispatchTime.now() + .nanoseconds(Int(drainTimeout.nanoseconds))
            DispatchQueue(label: "dedupe.deadline", qos: .userInitiated).asyncAfter(deadline: deadline) {
                reporter.leaveRest("the drain timeout is over")
                _exit(ExitStatus.signal(number))
            }
            ending()
        }
        actions.quitting = { reporter.leaveRest("ended by SIGQUIT") }
        actions.reporting = { reporter.reportStatistics() }
        signals.set(actions)
    }
}
