// SPDX-License-Identifier: Apache-2.0

import Foundation
import Synchronization
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The executable that was built along with the tests.
let executable: String = {
    var places = [Bundle.main.bundleURL, Bundle.main.executableURL?.deletingLastPathComponent()].compactMap { $0 }
    places.append(URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent())
    for argument in CommandLine.arguments {
        if let end = argument.range(of: ".xctest") {
            places.append(URL(filePath: String(argument[..<end.upperBound])).deletingLastPathComponent())
        }
    }
    for place in places {
        let candidate = place.appending(path: "dedupe").path
        var isDirectory: ObjCBool = false
        if FileManager.default.fileExists(atPath: candidate, isDirectory: &isDirectory), !isDirectory.boolValue {
            return candidate
        }
    }
    fatalError("no executable named dedupe in \(places.map(\.path))")
}()

/// How a process ended.
struct Outcome {
    /// The exit status, or 128 and the signal's number, as a shell says it.
    var status: CInt
    /// What was not read before.
    var output: [String]
    var errors: String
}

/// A process with its descriptors. The watchdog kills a process that lives too long or writes too
/// much, and then the test fails.
///
/// Not Foundation's `Process`: signals and their dispositions are part of what is tested here, so
/// they have to be known from the beginning.
final class RunningProcess {
    /// The process, as long as there is one.
    private final class Identifier: Sendable {
        private let identifier: Mutex<pid_t?>
        private let fault = Mutex<String?>(nil)

        init(_ identifier: pid_t) {
            self.identifier = Mutex(identifier)
        }

        var isRunning: Bool { identifier.withLock { $0 != nil } }

        /// Why the process was killed, once.
        func takeFault() -> String? {
            fault.withLock { fault in
                defer { fault = nil }
                return fault
            }
        }

        func kill(because text: String) {
            fault.withLock { $0 = text }
            signal(SIGKILL)
        }

        func signal(_ number: CInt) {
            identifier.withLock { identifier in
                if let identifier {
                    Foundation.kill(identifier, number)
                }
            }
        }

        /// Waits for the end. The number is given up only under the lock, so no other process is
        /// ever signalled.
        func wait() -> CInt {
            while true {
                var status: CInt = 0
                let ended = identifier.withLock { identifier in
                    if identifier.map({ waitpid($0, &status, WNOHANG) }) == 0 {
                        return false
                    }
                    identifier = nil
                    return true
                }
                if ended {
                    return status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F)
                }
                usleep(1000)
            }
        }
    }

    private let identifier: Identifier
    private var status: CInt?
    /// Our ends of pipes, or -1.
    private var input: CInt = -1
    private var output: CInt
    private let errors: ScratchFile?
    private var unread: [UInt8] = []
    private var received = 0

    /// More than any process writes in these tests, to standard output or to standard error.
    private static let mostBytes = 64 << 20

    /// Seconds until a process is killed. Reached only by a fault; `DEDUPE_TEST_PATIENCE` sets
    /// another limit.
    static let longestLife = ProcessInfo.processInfo.environment["DEDUPE_TEST_PATIENCE"].flatMap(Double.init) ?? 120

    /// - Parameters:
    ///   - arguments: What the program gets, without its name.
    ///   - input: All the input there is; nil for a pipe to write to.
    ///   - standardInput: What the process reads in place of both.
    ///   - standardOutput: Where output goes, if it is not to be read here.
    ///   - standardError: Where messages go, if it is not a file to look at in the end.
    ///   - nonBlocking: Whether input and output do not block the process.
    ///   - longestLife: After so many seconds the process is killed.
    init(
        _ arguments: [String], of program: String = executable, input text: String? = nil, standardInput: CInt? = nil,
        standardOutput: CInt? = nil, standardError: CInt? = nil, nonBlocking: Bool = false,
        longestLife: Double = RunningProcess.longestLife
    ) throws {
        // Writing to a process that has ended must not end us. The process itself gets the default.
        Self.ignoreBrokenPipes

        let inputFile = text.map { ScratchFile(Array($0.utf8)) }
        var theirInput: CInt
        if let inputFile {
            theirInput = inputFile.descriptor
        } else {
            (theirInput, input) = try Self.makePipe()
        }
        let theirOutput: CInt
        (output, theirOutput) = try Self.makePipe()
        errors = standardError == nil ? ScratchFile() : nil
        if nonBlocking {
            for descriptor in [theirInput, theirOutput] {
                _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
            }
        }
        defer {
            close(theirOutput)
            if inputFile == nil {
                close(theirInput)
            }
        }
        identifier = Identifier(
            try Self.spawn(
                program, arguments,
                descriptors: [
                    standardInput ?? theirInput, standardOutput ?? theirOutput, standardError ?? errors!.descriptor,
                ]))

        Self.watch(identifier, errors, until: .now() + longestLife)
    }

    /// Kills the process if it lives too long, or writes too many messages.
    private static func watch(_ identifier: Identifier, _ errors: ScratchFile?, until end: DispatchTime) {
        if let errors, errors.count > mostBytes {
            identifier.kill(because: "The process wrote more than \(mostBytes) bytes to standard error.")
        } else if DispatchTime.now() > end {
            identifier.kill(because: "The process did not end in time.")
        } else if identifier.isRunning {
            // Weak, so that the file is closed as soon as the test has ended.
            DispatchQueue.global().asyncAfter(deadline: .now() + 0.25) { [weak errors] in
                watch(identifier, errors, until: end)
            }
        }
    }

    deinit {
        identifier.signal(SIGKILL)
        if status == nil {
            _ = identifier.wait()
        }
        closeInput()
        if output >= 0 { close(output) }
    }

    func write(_ text: String) {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Foundation.write(input, $0.baseAddress!, $0.count) }
            if count < 0 {
                return
            }
            rest = rest.dropFirst(count)
        }
    }

    func closeInput() {
        if input >= 0 {
            close(input)
            input = -1
        }
    }

    /// Waits until everything that was written was read.
    func waitUntilInputIsRead() {
        var left: CInt = 1
        for _ in 0..<60_000 {
            guard ioctl(input, UInt(FIONREAD), &left) == 0 && left > 0 else { return }
            usleep(1000)
        }
        Issue.record("The process leaves \(left) bytes of its input unread.")
    }

    /// Waits until there is something to read.
    func waitUntilOutputIsThere() {
        var entry = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
        while poll(&entry, 1, -1) < 0 {}
    }

    func signal(_ number: CInt) {
        identifier.signal(number)
    }

    /// The next line of the output, or nil at its end.
    func readLine() -> String? {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            if let newline = unread.firstIndex(of: 0x0A) {
                defer { unread.removeSubrange(...newline) }
                return String(decoding: unread[..<newline], as: UTF8.self)
            }
            let count = receive(&buffer)
            if count <= 0 {
                return nil
            }
            unread += buffer[..<count]
        }
    }

    /// Reads some of the output. Kills a process that writes without end.
    ///
    /// - Returns: How much was read, or 0 at the end.
    private func receive(_ buffer: inout [UInt8]) -> Int {
        let count = read(output, &buffer, buffer.count)
        received += max(count, 0)
        if received > Self.mostBytes {
            identifier.kill(because: "The process wrote more than \(Self.mostBytes) bytes to standard output.")
            return 0
        }
        return count
    }

    /// Closes our end of the output.
    func closeOutput() {
        close(output)
        output = -1
    }

    /// The messages that have come by now.
    var errorsSoFar: String { errors?.content ?? "" }

    /// Waits for the end without reading the output, for a process that ends all the same.
    func waitUntilEnded() {
        status = status ?? identifier.wait()
        if let fault = identifier.takeFault() { Issue.record("\(fault)") }
    }

    /// Reads the output up to its end, and waits for the end.
    func end() -> Outcome {
        var output = unread
        unread = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = receive(&buffer), count > 0 {
            output += buffer[..<count]
        }
        waitUntilEnded()
        var lines = String(decoding: output, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
        if lines.removeLast() != "" {
            lines.append("(a line that does not end)")
        }
        return Outcome(status: status!, output: lines.map(String.init), errors: errors?.content ?? "")
    }

    private static func makePipe() throws -> (reading: CInt, writing: CInt) {
        var ends: [CInt] = [-1, -1]
        guard pipe(&ends) == 0 else { throw POSIXError(.EMFILE) }
        // What another process inherits would keep the pipe open.
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
        }
        return (ends[0], ends[1])
    }

    private static func spawn(_ program: String, _ arguments: [String], descriptors: [CInt]) throws -> pid_t {
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
        var none = sigset_t()
        sigemptyset(&none)
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK) | Int16(POSIX_SPAWN_SETSIGDEF))

        var words = ([program] + arguments).map { strdup($0) } + [nil]
        defer {
            for word in words {
                free(word)
            }
        }
        var identifier: pid_t = 0
        let result = posix_spawn(&identifier, program, &actions, &attributes, &words, environ)
        guard result == 0 else { throw POSIXError(POSIXErrorCode(rawValue: result) ?? .ENOENT) }
        return identifier
    }

    private static let ignoreBrokenPipes: Void = {
        Foundation.signal(SIGPIPE, SIG_IGN)
    }()
}

/// Runs the filter over the input.
func run(_ arguments: String..., input: String = "") throws -> Outcome {
    try RunningProcess(arguments, input: input).end()
}

/// Runs a shell command in which `$0` is the filter.
func shell(_ command: String, _ arguments: String..., input: String = "") throws -> Outcome {
    try RunningProcess(["-c", command, executable] + arguments, of: "/bin/sh", input: input).end()
}

/// A file with a name, for as long as the object lives.
final class NamedFile {
    let path = "\(NSTemporaryDirectory())/dedupe-\(UUID().uuidString)"

    init(_ content: String) throws {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw POSIXError(.EACCES) }
        defer { close(descriptor) }
        _ = Array(content.utf8).withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
    }

    deinit {
        unlink(path)
    }
}

/// A folder, for as long as the object lives.
final class NamedFolder {
    let path = "\(NSTemporaryDirectory())/dedupe-\(UUID().uuidString)"

    init() throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    }

    /// Makes a file in the folder.
    ///
    /// - Returns: The file's path.
    @discardableResult
    func write(_ content: String, to name: String) throws -> String {
        let file = path + "/" + name
        try content.write(toFile: file, atomically: false, encoding: .utf8)
        return file
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
    }
}

#if os(Linux)
/// A terminal: the side that a person sees, and the side that the program has.
func openTerminal(columns: UInt16 = 80) throws -> (terminal: CInt, other: CInt) {
    // posix_openpt() and its kin are not in the module; these are what they do.
    let terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
    var number: CInt = 0
    var lock: CInt = 0
    let setLock: UInt = 0x4004_5431  // TIOCSPTLCK
    let getNumber: UInt = 0x8004_5430  // TIOCGPTN
    guard ioctl(terminal, setLock, &lock) == 0, ioctl(terminal, getNumber, &number) == 0 else {
        throw POSIXError(.ENODEV)
    }
    let other = open("/dev/pts/\(number)", O_RDWR | O_NOCTTY | O_CLOEXEC)
    var size = winsize(ws_row: 25, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0)
    guard ioctl(other, UInt(TIOCSWINSZ), &size) == 0 else { throw POSIXError(.ENODEV) }
    return (terminal, other)
}

/// What a person sees, until it is enough. The system brings what was written to the other side
/// in pieces, when it likes.
func readTerminal(_ terminal: CInt, until isEnough: (String) -> Bool) -> String {
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    var text = ""
    while !isEnough(text) {
        guard text.utf8.count < 1 << 20 else {
            Issue.record("The terminal shows more than \(text.utf8.count) bytes.")
            break
        }
        var ready = pollfd(fd: terminal, events: Int16(POLLIN), revents: 0)
        guard poll(&ready, 1, 10_000) > 0 else { break }
        let count = read(terminal, &buffer, buffer.count)
        guard count > 0 else { break }
        text += String(decoding: buffer.prefix(count), as: UTF8.self)
    }
    return text
}
#endif
