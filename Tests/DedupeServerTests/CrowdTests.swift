// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeServer
import Foundation
import Synchronization
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Many clients at once: a tenth never reads, a tenth reads a byte a second, some break off at
/// random and come back with their position, and the rest reads.
///
/// `DEDUPE_CLIENTS` says how many; the full form has 1000.
@Suite struct CrowdTests {
    private static let count = ProcessInfo.processInfo.environment["DEDUPE_CLIENTS"].flatMap { Int($0) } ?? 100
    private static let keys = 300
    private static let rounds = 60

    @Test func crowd_thoseThatRead_haveEverythingAtRest() async throws {
        try await withServer { server in
            let crowd = try Crowd(count: Self.count, port: server.port)
            let isOver = Atomic(false)
            defer { isOver.store(true, ordering: .releasing) }
            let reading = Task { try await blocking { try crowd.run { isOver.load(ordering: .acquiring) } } }
            try await eventually("all clients") { server.server.clientCount >= Self.count * 9 / 10 }
            for round in 1...Self.rounds {
                server.put(
                    (0..<Self.keys).map { number in
                        // Some keys are deleted and come back.
                        ("k\(number)", (number + round) % 17 == 0 ? nil : "\(round)")
                    })
                await Task.yield()
                if round % 5 == 0 { try await Task.sleep(for: .milliseconds(20)) }
            }
            server.hub.onStatusUpdated(.inSync)
            var last: [String: String] = [:]
            for number in 0..<Self.keys where (number + Self.rounds) % 17 != 0 { last["k\(number)"] = "\(Self.rounds)" }
            let end = Replica(values: last, status: "in-sync")
            try await eventually("all that read have everything") { crowd.areComplete(end) }
            isOver.store(true, ordering: .releasing)
            try await reading.value
            #expect(crowd.breaks > 0)
            // The crowd has gone, and leaves nothing.
            crowd.close()
            try await server.waitForClients(0)
            try await eventually("no subscriber") { server.hub.statistics.subscribers == 0 }
        }
    }
}

/// The clients, all on one thread.
private final class Crowd: Sendable {
    enum Habit { case reads, readsAByteASecond, neverReads, breaksOff }

    private struct Member {
        let habit: Habit
        var client: WireClient?
        var decoder = Decoder()
    }

    private struct State {
        var members: [Member] = []
        var breaks = 0
    }

    private let state: Mutex<State>
    private let port: Int

    init(count: Int, port: Int) throws {
        self.port = port
        var members: [Member] = []
        for number in 0..<count {
            let habit: Habit =
                switch number % 10 {
                case 0: .neverReads
                case 1: .readsAByteASecond
                case 2: .breaksOff
                default: .reads
                }
            members.append(Member(habit: habit, client: try Self.connect(port, habit, since: nil)))
        }
        state = Mutex(State(members: members))
    }

    private static func connect(_ port: Int, _ habit: Habit, since position: String?) throws -> WireClient {
        let small = habit == .neverReads || habit == .readsAByteASecond
        let client = try WireClient(port: port, receiveBuffer: small ? 4096 : nil)
        try client.request("/lines" + (position.map { "?since=" + $0 } ?? ""))
        _ = fcntl(client.descriptor, F_SETFL, fcntl(client.descriptor, F_GETFL) | O_NONBLOCK)
        return client
    }

    var breaks: Int { state.withLock { $0.breaks } }

    /// Reads until it is over.
    func run(until isOver: () -> Bool) throws {
        var generator = SystemRandomNumberGenerator()
        var (latestByte, latestBreak) = (ContinuousClock.now, ContinuousClock.now)
        while !isOver() {
            let now = ContinuousClock.now
            let (readsByte, breaks) = (now - latestByte > .seconds(1), now - latestBreak > .milliseconds(100))
            if readsByte { latestByte = now }
            if breaks { latestBreak = now }
            try state.withLock { state in
                for index in state.members.indices {
                    switch state.members[index].habit {
                    case .neverReads: break
                    case .readsAByteASecond:
                        if readsByte { _ = try read(&state.members[index], most: 1) }
                    case .reads: try readAll(&state.members[index])
                    case .breaksOff:
                        try readAll(&state.members[index])
                        if breaks && Int.random(in: 0..<5, using: &generator) == 0 {
                            try comeBack(&state.members[index])
                            state.breaks += 1
                        }
                    }
                }
            }
            usleep(1000)
        }
    }

    private func readAll(_ member: inout Member) throws {
        while try read(&member, most: 1 << 16) {}
    }

    private func read(_ member: inout Member, most: Int) throws -> Bool {
        guard let client = member.client else { return false }
        let count = try withUnsafeTemporaryAllocation(byteCount: most, alignment: 1) { buffer in
            let count = recv(client.descriptor, buffer.baseAddress!, most, 0)
            if count > 0 && most > 1 { try member.decoder.take(UnsafeRawBufferPointer(rebasing: buffer[..<count])) }
            return count
        }
        if count == 0 { throw WireError("the server has closed a connection") }
        if count < 0 && errno != EAGAIN { throw WireError("recv: \(String(cString: strerror(errno)))") }
        return count == most
    }

    /// A new connection goes on where the last complete delivery ended. What came after it is
    /// forgotten, as a browser does it.
    private func comeBack(_ member: inout Member) throws {
        member.client = nil
        let position = member.decoder.comeBack()
        member.client = try Self.connect(port, member.habit, since: position)
    }

    func areComplete(_ end: Replica) -> Bool {
        state.withLock { state in
            state.members.allSatisfy { member in
                switch member.habit {
                case .neverReads, .readsAByteASecond: true
                case .reads, .breaksOff:
                    member.decoder.replica.values == end.values && member.decoder.replica.status == end.status
                }
            }
        }
    }

    func close() {
        state.withLock { state in
            for index in state.members.indices { state.members[index].client = nil }
        }
    }
}

/// Makes a replica of the bytes of an answer in chunks.
private struct Decoder {
    var replica = Replica()
    private var position: String?
    /// Lines of a delivery that has not been complete yet.
    private var lines: [String] = []
    private var head = true
    private var bytes: [UInt8] = []
    private var chunk = 0
    private var text: [UInt8] = []

    mutating func take(_ more: UnsafeRawBufferPointer) throws {
        bytes += more
        var start = 0
        defer { bytes.removeFirst(start) }
        while start < bytes.count {
            if chunk > 0 && !head {
                let count = min(chunk, bytes.count - start)
                text += bytes[start..<(start + count)]
                start += count
                chunk -= count
                continue
            }
            guard let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) else { break }
            let line = String(decoding: bytes[start..<end], as: UTF8.self).trimmingCharacters(in: .whitespaces)
            let word = line.hasSuffix("\r") ? String(line.dropLast()) : line
            start = end + 1
            if head {
                if word.hasPrefix("HTTP/1.1") && word != "HTTP/1.1 200 OK" { throw WireError(word) }
                head = !word.isEmpty
            } else if !word.isEmpty {
                guard let count = Int(word, radix: 16) else { throw WireError("no chunk: \(word)") }
                chunk = count
            }
        }
        try takeLines()
    }

    private mutating func takeLines() throws {
        while let end = text.firstIndex(of: UInt8(ascii: "\n")) {
            let line = String(decoding: text[..<end], as: UTF8.self)
            text.removeFirst(end + 1)
            lines.append(line)
            if let mark = line.range(of: ",\"position\":\"") {
                for line in lines { try replica.take(line) }
                lines = []
                position = String(line[mark.upperBound...].dropLast(2))
            }
        }
    }

    /// - Returns: Where the next connection begins.
    mutating func comeBack() -> String? {
        (head, bytes, chunk, text, lines) = (true, [], 0, [], [])
        if position == nil { replica = Replica() }
        replica.isExact = false
        return position
    }
}

#endif
