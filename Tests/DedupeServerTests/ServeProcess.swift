// SPDX-License-Identifier: Apache-2.0

#if Server

import Foundation
import Synchronization
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

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

    private let process: ChildProcess
    private let messages: OutputFile
    /// Our end of its input; -1 when it is closed.
    private let input: Mutex<CInt>

    /// - Parameter descriptors: How many files and connections the process may have.
    init(_ arguments: [String], descriptors: Int? = nil) throws {
        messages = try OutputFile()
        let (reading, writing) = try ChildProcess.makePipe()
        input = Mutex(writing)
        let output = try OutputFile()
        defer { close(reading) }
        var (path, words) = (Self.executable.path, ["serve"] + arguments)
        if let descriptors {
            words = ["-c", "ulimit -n \(descriptors) && exec \"$0\" \"$@\"", path] + words
            path = "/bin/sh"
        }
        process = try ChildProcess(path, words, descriptors: [reading, output.descriptor, messages.descriptor])
    }

    deinit { closeInput() }

    var errors: String { messages.content }

    /// The port that the process said that it listens at.
    func port() async throws -> Int {
        try await eventually("the address") { self.process.hasEnded || self.errors.contains("serving on") }
        guard let port = errors.firstMatch(of: #/serving on https?://\S+:(\d+)/\n/#)?.1 else {
            throw WireError("it does not serve: \(errors)")
        }
        return Int(port)!
    }

    func write(_ text: String) {
        var rest = Array(text.utf8)[...]
        let input = input.withLock { $0 }
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Foundation.write(input, $0.baseAddress!, $0.count) }
            if count < 0 { return }
            rest = rest.dropFirst(count)
        }
    }

    func closeInput() {
        input.withLock { input in
            if input >= 0 { close(input) }
            input = -1
        }
    }

    func signal(_ number: CInt) { process.signal(number) }

    /// - Returns: The exit status.
    func wait() async throws -> CInt {
        try await eventually("the end") { self.process.hasEnded }
        return process.status!
    }
}

#endif
