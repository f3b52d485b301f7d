// SPDX-License-Identifier: Apache-2.0

#if Server

import Foundation
import Synchronization
import Testing

/// `dedupe serve` as a process, with its input in the test's hands.
final class ServeProcess: Sendable {
    /// The executable that was built along with the tests.
    private static let executable: URL = {
        var places = [Bundle.main.bundleURL, Bundle.main.executableURL?.deletingLastPathComponent()].compactMap { $0 }
        places.append(URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent())
        for argument in CommandLine.arguments {
            if let end = argument.range(of: ".xctest") {
                places.append(URL(filePath: String(argument[..<end.upperBound])).deletingLastPathComponent())
            }
        }
        for place in places {
            let candidate = place.appending(path: "dedupe")
            var isDirectory: ObjCBool = false
            if FileManager.default.fileExists(atPath: candidate.path, isDirectory: &isDirectory), !isDirectory.boolValue
            {
                return candidate
            }
        }
        fatalError("no executable named dedupe in \(places.map(\.path))")
    }()

    // `Process` and `Pipe` are used as Foundation documents it for several threads: each method by
    // one at a time, except for the reading of the messages, which has a thread of its own.
    nonisolated(unsafe) private let process = Process()
    private let input = Pipe()
    private let messages = Mutex("")
    private let hasSaidAll = DispatchSemaphore(value: 0)

    init(_ arguments: [String]) throws {
        let errors = Pipe()
        process.executableURL = Self.executable
        process.arguments = ["serve"] + arguments
        process.standardInput = input
        process.standardOutput = FileHandle.nullDevice
        process.standardError = errors
        try process.run()
        let file = errors.fileHandleForReading
        Thread.detachNewThread { [self] in
            while case let data = file.availableData, !data.isEmpty {
                messages.withLock { if $0.utf8.count < 1 << 20 { $0 += String(decoding: data, as: UTF8.self) } }
            }
            hasSaidAll.signal()
        }
        // Whatever the process does, it does not outlive the test for long.
        let identifier = process.processIdentifier
        nonisolated(unsafe) let watched = process
        DispatchQueue.global().asyncAfter(deadline: .now() + 120) {
            if watched.isRunning { kill(identifier, SIGKILL) }
        }
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    }

    var errors: String { messages.withLock { $0 } }

    /// The port that the process said that it listens at.
    func port() async throws -> Int {
        try await eventually("the address") { !self.process.isRunning || self.errors.contains("serving on") }
        guard let port = errors.firstMatch(of: #/serving on https?://\S+:(\d+)/\n/#)?.1 else {
            throw WireError("it does not serve: \(errors)")
        }
        return Int(port)!
    }

    func write(_ text: String) { input.fileHandleForWriting.write(Data(text.utf8)) }
    func closeInput() { try? input.fileHandleForWriting.close() }
    func signal(_ number: CInt) { kill(process.processIdentifier, number) }

    /// - Returns: The exit status.
    func wait() async throws -> CInt {
        try await eventually("the end") { !self.process.isRunning }
        return try await blocking { [self] in
            process.waitUntilExit()
            hasSaidAll.wait()
            return process.terminationReason == .exit ? process.terminationStatus : 128 + process.terminationStatus
        }
    }
}

#endif
