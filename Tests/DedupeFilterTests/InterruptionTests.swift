// SPDX-License-Identifier: Apache-2.0

#if os(Linux)

import Foundation
import Synchronization
import Testing

@testable import dedupe

private let interruptions = Atomic<Int>(0)

/// System calls that a signal interrupts while they wait. The filter blocks the signals that it
/// heeds, but a library that it runs with may use others.
@Suite(.serialized) struct InterruptionTests {
    /// What the thread and the test tell each other.
    private final class Exchange<Result: Sendable>: Sendable {
        let thread = Mutex<pthread_t?>(nil)
        let result = Mutex<Result?>(nil)
        let hasBegun = DispatchSemaphore(value: 0)
        let hasEnded = DispatchSemaphore(value: 0)
        /// The thread lives until no more signals are sent to it.
        let mayLeave = DispatchSemaphore(value: 0)
    }

    /// Runs `body` on a thread. As soon as the thread waits, it gets signals until twenty have
    /// come. Then it may go on.
    private func interrupting<Result: Sendable>(
        _ body: @escaping @Sendable () -> Result, onceItWaits waits: () -> Bool, letGoOn: () -> Void
    ) throws -> Result {
        var action = sigaction()
        // No SA_RESTART: the system call fails with EINTR.
        action.__sigaction_handler.sa_handler = { _ in interruptions.add(1, ordering: .relaxed) }
        #expect(sigaction(SIGUSR2, &action, nil) == 0)
        let exchange = Exchange<Result>()
        Thread.detachNewThread {
            // The thread that begins this one may have blocked all signals.
            var set = sigset_t()
            sigemptyset(&set)
            sigaddset(&set, SIGUSR2)
            pthread_sigmask(SIG_UNBLOCK, &set, nil)
            exchange.thread.withLock { $0 = pthread_self() }
            exchange.hasBegun.signal()
            let result = body()
            exchange.result.withLock { $0 = result }
            exchange.hasEnded.signal()
            exchange.mayLeave.wait()
        }
        defer { exchange.mayLeave.signal() }
        exchange.hasBegun.wait()
        let thread = try #require(exchange.thread.withLock { $0 })
        for _ in 0..<20_000 where !waits() { usleep(1000) }
        let enough = interruptions.load(ordering: .relaxed) + 20
        for _ in 0..<20_000 where interruptions.load(ordering: .relaxed) < enough {
            pthread_kill(thread, SIGUSR2)
            usleep(1000)
        }
        #expect(interruptions.load(ordering: .relaxed) >= enough, "no signals came")
        letGoOn()
        try #require(exchange.hasEnded.wait(timeout: .now() + 60) == .success, "the call does not end")
        return try #require(exchange.result.withLock { $0 })
    }

    private func makePipe() throws -> (reading: CInt, writing: CInt) {
        var ends: [CInt] = [-1, -1]
        try #require(pipe(&ends) == 0)
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }

    private func bytesInside(_ pipe: CInt) -> CInt {
        var count: CInt = 0
        return ioctl(pipe, UInt(FIONREAD), &count) == 0 ? count : -1
    }

    /// What is repeated after the size of a pipe is not equal.
    private static let bytes = (0..<300_000).map { UInt8(truncatingIfNeeded: $0 / 251) }

    /// Reads so many bytes, or as many as come.
    private func readAll(_ count: Int, from descriptor: CInt) -> [UInt8] {
        var (all, buffer) = ([UInt8](), [UInt8](repeating: 0, count: 1 << 16))
        while all.count < count {
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&entry, 1, 10_000) > 0, case let read = read(descriptor, &buffer, buffer.count), read > 0 else {
                break
            }
            all += buffer[..<read]
        }
        return all
    }

    /// More than the pipe holds. What is written before an interruption is not written again.
    @Test(arguments: [false, true]) func writeAll_interrupted_writesEachByteOnce(isBlocking: Bool) throws {
        let pipe = try makePipe()
        defer {
            close(pipe.reading)
            close(pipe.writing)
        }
        if !isBlocking { _ = fcntl(pipe.writing, F_SETFL, fcntl(pipe.writing, F_GETFL) | O_NONBLOCK) }
        var received: [UInt8] = []
        let bytes = Self.bytes
        let error = try interrupting {
            bytes.withUnsafeBytes { bytes -> SystemError? in
                do throws(SystemError) {
                    try writeAll(bytes, to: pipe.writing)
                    return nil
                } catch {
                    return error
                }
            }
        } onceItWaits: {
            bytesInside(pipe.reading) > 0
        } letGoOn: {
            received = readAll(Self.bytes.count, from: pipe.reading)
        }
        #expect(error == nil)
        // Not compared in the expectation, which would look for all the differences.
        let isWhatWasWritten = received == bytes
        #expect(isWhatWasWritten, "\(received.count) bytes came")
        #expect(bytesInside(pipe.reading) == 0, "more was written than there is")
    }

    @Test func receive_interrupted_waitsOn() throws {
        let pipe = try makePipe()
        defer {
            close(pipe.reading)
            close(pipe.writing)
        }
        let result = try interrupting { () -> String in
            do {
                let reader = try LineReader(descriptor: pipe.reading)
                return "\(try reader.receive())"
            } catch {
                return "\(error)"
            }
        } onceItWaits: {
            true
        } letGoOn: {
            _ = write(pipe.writing, "x\n", 2)
        }
        #expect(result == "bytes")
    }

    /// A socket that does not block. poll(2) says that it can be read, and read(2) finds nothing.
    /// Another process that takes the input can do this to a pipe, but not each time. The time
    /// stamp of a datagram that was sent does it to a socket each time. The stamp stays in the
    /// socket's queue of errors, which read(2) does not look at.
    private func makeSocketThatIsAlwaysReady() throws -> (reading: CInt, writing: CInt) {
        let sockets = (
            reading: socket(AF_INET, CInt(SOCK_DGRAM.rawValue), 0),
            writing: socket(AF_INET, CInt(SOCK_DGRAM.rawValue), 0)
        )
        try bindAndConnect(sockets.reading, sockets.writing)
        _ = fcntl(sockets.reading, F_SETFL, O_NONBLOCK)
        // SOF_TIMESTAMPING_TX_SOFTWARE and SOF_TIMESTAMPING_SOFTWARE
        var stamps: CInt = 1 << 1 | 1 << 4
        try #require(setsockopt(sockets.reading, SOL_SOCKET, SO_TIMESTAMPING, &stamps, 4) == 0)
        try #require(write(sockets.reading, "x", 1) == 1)
        return sockets
    }

    /// Lets each of two UDP sockets send to the other.
    private func bindAndConnect(_ one: CInt, _ other: CInt) throws {
        var addresses = [sockaddr_in](repeating: sockaddr_in(), count: 2)
        for (index, descriptor) in [one, other].enumerated() {
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
            addresses[index].sin_family = sa_family_t(AF_INET)
            addresses[index].sin_addr.s_addr = UInt32(INADDR_LOOPBACK).bigEndian
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            try withUnsafeMutableBytes(of: &addresses[index]) {
                let address = $0.assumingMemoryBound(to: sockaddr.self).baseAddress!
                try #require(bind(descriptor, address, length) == 0)
                try #require(getsockname(descriptor, address, &length) == 0)
            }
        }
        for (index, descriptor) in [other, one].enumerated() {
            try withUnsafeBytes(of: &addresses[index]) {
                let address = $0.assumingMemoryBound(to: sockaddr.self).baseAddress!
                try #require(connect(descriptor, address, socklen_t($0.count)) == 0)
            }
        }
    }

    @Test func receive_whenAnotherReaderTookTheInput_waitsOn() throws {
        let sockets = try makeSocketThatIsAlwaysReady()
        defer {
            close(sockets.reading)
            close(sockets.writing)
        }
        #expect(try waitUntilReady(sockets.reading).first)
        var byte: UInt8 = 0
        #expect(read(sockets.reading, &byte, 1) < 0 && errno == EAGAIN)
        let hasWritten = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            usleep(50_000)
            _ = write(sockets.writing, "x\n", 2)
            hasWritten.signal()
        }
        defer { hasWritten.wait() }
        #expect(try LineReader(descriptor: sockets.reading).receive() == .bytes)
    }
}

#endif
