// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import Foundation

/// A program that a test starts, and that never outlives the test.
///
/// A shell stands in between. It ends the program when its own input ends, which happens at the
/// latest when the process of the tests is gone.
final class Program: @unchecked Sendable {
    // Sendable: only the process's own members are used, after the start.
    private let process = Process()
    private let input = Pipe()
    /// The program itself, which signals go to.
    let identifier: pid_t

    /// - Parameters:
    ///   - path: of the program.
    ///   - arguments: of the program.
    ///   - log: the file that gets all output.
    init(_ path: String, _ arguments: [String], log: String) throws {
        let output = Pipe()
        process.executableURL = URL(filePath: "/bin/sh")
        let script = """
            log=$1; shift
            "$@" > "$log" 2>&1 < /dev/null &
            echo $!
            cat > /dev/null
            kill -9 $! 2> /dev/null
            """
        process.arguments = ["-c", script, "sh", log, path] + arguments
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        var line: [UInt8] = []
        while let byte = try output.fileHandleForReading.read(upToCount: 1)?.first, byte != 0x0a { line.append(byte) }
        guard let identifier = pid_t(String(decoding: line, as: UTF8.self)) else {
            throw ProgramError("\(path): no start")
        }
        self.identifier = identifier
    }

    deinit { kill() }

    func signal(_ number: CInt) { Foundation.kill(identifier, number) }

    /// Ends the program at once, as a crash would, and waits for that.
    func kill() {
        signal(SIGKILL)
        try? input.fileHandleForWriting.close()
        if process.isRunning { process.waitUntilExit() }
    }
}

struct ProgramError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// Runs a program to its end and returns its output. Fails if the program does, or if the program
/// is not installed.
@discardableResult
func execute(_ name: String, _ arguments: [String], environment: [String: String] = [:]) throws -> Data {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = [name] + arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    let file = FileManager.default.temporaryDirectory.appending(path: "dedupe-errors-\(UUID().uuidString)")
    try Data().write(to: file)
    defer { try? FileManager.default.removeItem(at: file) }
    let output = Pipe()
    process.standardOutput = output
    process.standardError = try FileHandle(forWritingTo: file)
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let data = try output.fileHandleForReading.readToEnd() ?? Data()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else {
        let errors = (try? String(contentsOf: file, encoding: .utf8)) ?? ""
        throw ProgramError(
            process.terminationStatus == 127
                ? "\(name) is not installed; `make setup-etcd` installs what these tests need"
                : "\(name) \(arguments): status \(process.terminationStatus): \(errors)")
    }
    return data
}

/// A folder that is removed with the object.
final class ScratchFolder: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "/dedupe-etcd-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// A port of loopback that nothing listens at, and that no other caller in this process has got.
func freePort() throws -> Int {
    usedPorts.withLock { used in
        while true {
            let port = unusedPort()
            if used.insert(port).inserted { return port }
        }
    }
}

private let usedPorts = Locked<Set<Int>>([])

private func unusedPort() -> Int {
    let descriptor = socket(AF_INET, streamSocket, 0)
    precondition(descriptor >= 0, "no socket")
    defer { close(descriptor) }
    var address = loopback(port: 0)
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    withUnsafeMutablePointer(to: &address) { address in
        address.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
            precondition(bind(descriptor, address, length) == 0, "cannot bind")
            precondition(getsockname(descriptor, address, &length) == 0, "no name")
        }
    }
    return Int(UInt16(bigEndian: address.sin_port))
}

func loopback(port: Int) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr = in_addr(s_addr: UInt32(0x7f00_0001).bigEndian)
    address.sin_port = UInt16(port).bigEndian
    return address
}

#if os(Linux)
let streamSocket = CInt(SOCK_STREAM.rawValue)
#else
let streamSocket = SOCK_STREAM
#endif

#endif
