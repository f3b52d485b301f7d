// SPDX-License-Identifier: Apache-2.0

#if Server

import Foundation
import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A program that a test starts. It ends with this object at the latest.
///
/// Not Foundation's `Process`, which learns of the end through a socket. Another process that is
/// started at the same time may inherit that socket, and then `waitUntilExit()` waits for the other
/// one too. These tests start several processes at once, and some of those serve until they are
/// told to end.
final class ChildProcess: Sendable {
    private enum State {
        case running(pid_t)
        case ended(CInt)
    }

    private let state: Mutex<State>

    /// - Parameters:
    ///   - path: of the program.
    ///   - descriptors: Its standard input, output and errors. The caller closes them.
    init(_ path: String, _ arguments: [String], descriptors: [CInt]) throws {
        Self.ignoreBrokenPipes
        let identifier = try Self.starting.withLock { _ in try Self.spawn(path, arguments, descriptors) }
        state = Mutex(.running(identifier))
    }

    deinit {
        signal(SIGKILL)
        while !hasEnded { usleep(1000) }
    }

    /// Does nothing after the end.
    func signal(_ number: CInt) {
        state.withLock { if case .running(let identifier) = $0 { kill(identifier, number) } }
    }

    var hasEnded: Bool { status != nil }

    /// The exit status, or 128 and the signal's number, as a shell says it. `nil` before the end.
    var status: CInt? {
        state.withLock { state in
            switch state {
            case .ended(let status): return status
            case .running(let identifier):
                var status: CInt = 0
                // The number is given up under the lock, so no other process is ever signalled.
                guard waitpid(identifier, &status, WNOHANG) != 0 else { return nil }
                let result = status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F)
                state = .ended(result)
                return result
            }
        }
    }

    /// Waits for the end, with a limit, on the calling thread.
    func wait() throws -> CInt {
        let deadline = ContinuousClock.now + patience
        while true {
            if let status { return status }
            if ContinuousClock.now > deadline { throw WireError("a process has not ended for \(patience)") }
            usleep(1000)
        }
    }

    // MARK: - Starting

    /// To write to a process that has ended must not end the tests.
    private static let ignoreBrokenPipes: Void = {
        Foundation.signal(SIGPIPE, SIG_IGN)
    }()

    /// While one process is started, the tests make no descriptor that it would inherit.
    static let starting = Mutex(())

    /// The ends of a new pipe, which no process inherits.
    static func makePipe() throws -> (reading: CInt, writing: CInt) {
        try starting.withLock { _ in
            var ends: [CInt] = [-1, -1]
            guard pipe(&ends) == 0 else { throw WireError("pipe: \(String(cString: strerror(errno)))") }
            for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
            return (ends[0], ends[1])
        }
    }

    private static func spawn(_ path: String, _ arguments: [String], _ descriptors: [CInt]) throws -> pid_t {
        #if canImport(Darwin)
        var actions: posix_spawn_file_actions_t?
        var attributes: posix_spawnattr_t?
        #else
        var actions = posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        #endif
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (number, descriptor) in descriptors.enumerated() {
            posix_spawn_file_actions_adddup2(&actions, descriptor, CInt(number))
        }
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var (none, all) = (sigset_t(), sigset_t())
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK) | Int16(POSIX_SPAWN_SETSIGDEF))
        var words = ([path] + arguments).map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var identifier: pid_t = 0
        let result = posix_spawn(&identifier, path, &actions, &attributes, &words, environ)
        guard result == 0 else { throw WireError("\(path): \(String(cString: strerror(result)))") }
        return identifier
    }
}

/// A file without a name that a process writes to.
final class OutputFile: Sendable {
    let descriptor: CInt

    init() throws {
        let path = "\(NSTemporaryDirectory())/dedupe-\(UUID().uuidString)"
        descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw WireError("\(path): \(String(cString: strerror(errno)))") }
        unlink(path)
    }

    deinit { close(descriptor) }

    /// What has been written so far, and not more of it than the tests can use.
    var content: String {
        var content = [UInt8](repeating: 0, count: 1 << 16)
        var count = 0
        while count < 64 << 20 {
            if count == content.count { content += [UInt8](repeating: 0, count: count) }
            let more = content.withUnsafeMutableBytes {
                pread(descriptor, $0.baseAddress! + count, $0.count - count, off_t(count))
            }
            if more <= 0 { break }
            count += more
        }
        return String(decoding: content[..<count], as: UTF8.self)
    }
}

#endif
