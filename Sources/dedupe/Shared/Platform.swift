// SPDX-License-Identifier: Apache-2.0

#if canImport(Glibc)
@_exported import Glibc
#elseif canImport(Musl)
@_exported import Musl
#else
@_exported import Darwin
#endif

/// What a call of the system came to when it did not succeed.
struct SystemError: Error, Equatable, CustomStringConvertible {
    let code: CInt

    /// The error that the last failing call of this thread left behind.
    static var last: SystemError { SystemError(code: errno) }

    var description: String { String(cString: strerror(code)) }
}

/// Waits until one of two descriptors can be read, or the first can be written.
///
/// - Returns: Whether each is ready; hanging up and failing are also being ready, as the next call
///   will say.
func waitUntilReady(
    _ descriptor: CInt, events: CInt = CInt(POLLIN), or other: CInt = -1
) throws(SystemError) -> (first: Bool, other: Bool) {
    var entries = (
        pollfd(fd: descriptor, events: Int16(events), revents: 0),
        pollfd(fd: other, events: Int16(POLLIN), revents: 0)
    )
    while true {
        let count = withUnsafeMutableBytes(of: &entries) {
            poll($0.assumingMemoryBound(to: pollfd.self).baseAddress, 2, -1)
        }
        if count >= 0 {
            return (entries.0.revents != 0, entries.1.revents != 0)
        }
        if errno != EINTR && errno != EAGAIN {
            throw .last
        }
    }
}

/// Makes sure that the standard descriptors are taken.
///
/// If the parent closed one, the next thing that is opened would get its number, and be read or
/// written in its place. What is put there instead fails to be read or written, as the closed one
/// would.
func reserveStandardDescriptors() {
    for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
        // The lowest free number is taken, and those below are not free.
        _ = open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY)
    }
}
