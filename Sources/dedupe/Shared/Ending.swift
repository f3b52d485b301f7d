// SPDX-License-Identifier: Apache-2.0

import Dispatch
import Synchronization

/// The exit statuses that have a meaning here.
enum ExitStatus {
    static let badLines: CInt = 1
    static let failure: CInt = 2
    /// More was pending than the bound allows.
    static let overflow: CInt = 3
    /// `EX_USAGE` of sysexits.h.
    static let usage: CInt = 64
    /// `EX_SOFTWARE` of sysexits.h.
    static let fault: CInt = 70
    static func signal(_ number: CInt) -> CInt { 128 + number }
}

/// Ends the process as the signal would have that the system sends to writers without a reader. The
/// parent may have had it ignored.
func endOfBrokenPipe() -> Never {
    Diagnostics.ofProcess.flush()
    signal(SIGPIPE, SIG_DFL)
    var set = sigset_t()
    sigemptyset(&set)
    sigaddset(&set, SIGPIPE)
    pthread_sigmask(SIG_UNBLOCK, &set, nil)
    raise(SIGPIPE)
    _exit(ExitStatus.signal(SIGPIPE))
}

/// Makes faults end the process with one line and an exit status. Otherwise the runtime would start
/// a debugger, which is of no use to the users of a filter. Lack of memory is such a fault, because
/// the runtime traps.
///
/// With `SWIFT_BACKTRACE` in the environment the runtime keeps its handlers.
func reportFaultsInOneLine() {
    if getenv("SWIFT_BACKTRACE") != nil {
        return
    }
    for number in [SIGILL, SIGTRAP, SIGABRT, SIGSEGV, SIGBUS, SIGFPE] {
        signal(number) { number in
            let text: StaticString = "dedupe: out of memory, or a fault of the program; set SWIFT_BACKTRACE to see\n"
            // Only calls that a handler may make, and none that waits for the reader.
            var entry = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
            if poll(&entry, 1, 0) > 0 {
                _ = write(STDERR_FILENO, text.utf8Start, text.utf8CodeUnitCount)
            }
            _exit(ExitStatus.fault)
        }
    }
}

/// Notices that the reader has gone, also while there is nothing to write.
final class OutputWatcher: Sendable {
    private let isOver = Atomic(false)

    /// Watches standard output from now on.
    ///
    /// - Parameter gone: Called on a thread of its own when the reader has gone.
    init(_ gone: @escaping @Sendable () -> Void) {
        DispatchQueue(label: "dedupe.output", qos: .utility).async { [self] in
            var entry = pollfd(fd: STDOUT_FILENO, events: 0, revents: 0)
            while poll(&entry, 1, -1) < 0 {
                if errno != EINTR && errno != EAGAIN { return }
            }
            // A terminal that hangs up has SIGHUP, which says so already.
            if entry.revents & Int16(POLLERR) != 0 && !isOver.load(ordering: .acquiring) {
                gone()
            }
        }
    }

    /// Everything is written, so that the reader may go.
    func stop() {
        isOver.store(true, ordering: .releasing)
    }
}
