// SPDX-License-Identifier: Apache-2.0

// The end of a buffer, come upon at every bad moment: nobody hangs, nothing leaks.
//
// Each test is many rounds of one scene, with loops of all kinds in turns. What happens at once
// does so after pauses of random length, so that no two rounds are alike. `DEDUPE_ROUNDS` says how
// many rounds.

import DedupeBuffer
import Dispatch
import Foundation
import Synchronization
import Testing

@Suite("The end, in many rounds", .serialized)
struct ShutdownTests {
    // MARK: stop()

    /// Stopping and putting return while the sink is blocked: it waits for the test.
    @Test func stop_besideABlockedSink() throws {
        try inRounds { round in
            let gate = Gate()
            round.inEachCall { _ in gate.pass() }
            round.fill(batches: 2)
            try round.start()
            try gate.waitForArrival()
            try round.race(.stop, .produce)
            gate.open()
            round.possibleCalls = [1]
        }
    }

    @Test func stop_fromTheSink() throws {
        try inRounds { round in
            round.inEachCall { buffer in buffer?.stop() }
            round.fill(batches: 2)
            try round.race(.start, .putValues)
            round.possibleCalls = [1]
        }
    }

    @Test func stop_besideProducers() throws {
        try inRounds { round in
            try round.start()
            try round.race(.stop, .produce, .produce)
        }
    }

    @Test func stop_besideALoopThatBegins() throws {
        try inRounds { round in
            round.fill(batches: 3)
            try round.race(.start, .stop)
            round.possibleCalls = [0, 1, 2, 3]
        }
    }

    @Test func stop_besideALoopThatSleeps() throws {
        try inRounds { round in
            try round.start()
            try round.race(.stop)
            round.possibleCalls = [0]
        }
    }

    @Test func stop_fromTwoThreads() throws {
        try inRounds { round in
            round.fill(batches: 2)
            try round.start()
            try round.race(.stop, .stop, .produce)
        }
    }

    // MARK: finish()

    @Test func finish_andStop_atOnce() throws {
        try inRounds { round in
            round.fill(batches: 4)
            try round.start()
            try round.race(.finish, .stop, .produce)
        }
    }

    /// All or nothing: the loop has begun or not.
    @Test func finish_besideALoopThatBegins() throws {
        try inRounds { round in
            round.fill(batches: 3)
            try round.race(.start, .finish)
            round.possibleCalls = [0, 3]
        }
    }

    @Test func finish_besideALoopThatSleeps() throws {
        try inRounds { round in
            try round.start()
            try round.race(.finish, .finish)
            round.possibleCalls = [0]
        }
    }

    // MARK: The last reference goes

    @Test func lettingGo_rightAfterTheStart_deliversWhatIsPending() throws {
        try inRounds(LoopKind.queued) { round in
            round.fill(batches: 3)
            try round.start()
            round.possibleCalls = [3]
        }
    }

    @Test func lettingGo_rightAfterStop() throws {
        try inRounds { round in
            round.fill(batches: 3)
            try round.start()
            round.stop()
            round.possibleCalls = [0, 1, 2, 3]
        }
    }

    /// The buffer ends in whichever thread used it last, a producer's or the loop's.
    @Test func lettingGo_besideProducersAndALoop() throws {
        try inRounds(LoopKind.queued) { round in
            try round.start()
            try round.race(.letGo, .produce, .produce)
        }
    }
}

extension LoopKind {
    /// Those whose loop is nobody's stack frame, and does not keep the buffer while it sleeps.
    fileprivate static let queued: [LoopKind] = [.ownQueue, .serialQueue, .concurrentQueue, .globalQueue]
}

// MARK: - Rounds

/// Rounds of each scene; `DEDUPE_ROUNDS` sets another number.
private let shutdownRounds = ProcessInfo.processInfo.environment["DEDUPE_ROUNDS"].flatMap { Int($0) } ?? rounds(200)

/// Plays a scene again and again. The first round that fails is the last.
private func inRounds(
    _ kinds: [LoopKind] = LoopKind.allCases, test: String = #function, _ scene: (Round) throws -> Void
) throws {
    let seed = announcedSeed(test)
    let watchdog = Watchdog()
    defer { watchdog.end() }
    let files = openFiles()
    for number in 0..<shutdownRounds {
        let kind = kinds[number % kinds.count]
        let what = "\(test), \(kind.testDescription), round \(number), DEDUPE_TEST_SEED=\(seed)"
        do {
            let round = Round(kind: kind, seed: seed &+ UInt64(number))
            watchdog.watch(what, for: patience)
            try scene(round)
            try round.joinLoops()
            // What is not gone by then says so itself.
            watchdog.watch(what, for: 2 * patience)
            try round.end()
        } catch {
            Issue.record("\(what): \(error)")
            return
        }
    }
    try eventually("end of the threads") { threads(named: Round.threadName) == 0 }
    // Other tests of this process hold files too. A round that leaked one would leave them all.
    try eventually("less than a new open file for two rounds") {
        openFiles() < files + max(2, shutdownRounds / 2)
    }
}

/// One round: a buffer, its sink and its values, and who acts on them.
private final class Round {
    typealias Buffer = DedupeBuffer<String, Tracked>

    enum Deed {
        case start, stop, finish, produce, putValues, letGo
    }

    static let threadName = "shutdown"
    private static let batchSize = 4

    private let kind: LoopKind
    private var random: SeededGenerator
    private let tracker = LifetimeTracker()
    private let heard = Kept(Heard())
    private let threads = Kept<[Worker<Void>]>([])
    /// The one reference that lasts.
    private let held: Kept<(buffer: Buffer, sink: RoundSink)?>
    private weak var buffer: Buffer?
    private weak var sink: RoundSink?

    /// How many calls the sink may have had in the end; `nil`: any number.
    var possibleCalls: Set<Int>?

    init(kind: LoopKind, seed: UInt64) {
        self.kind = kind
        random = SeededGenerator(seed: seed)
        let (buffer, sink) = (makeBuffer(batchSize: Self.batchSize) as Buffer, RoundSink(heard))
        held = Kept((buffer, sink))
        (self.buffer, self.sink) = (buffer, sink)
    }

    /// What the sink does in each call.
    func inEachCall(_ hook: @escaping @Sendable (Buffer?) -> Void) {
        sink?.hook.change { [weak buffer] in $0 = { [weak buffer] in hook(buffer) } }
    }

    // MARK: Deeds

    func fill(batches: Int) {
        for n in 0..<batches * Self.batchSize { buffer?.set("key \(n)", tracker.make()) }
    }

    func start() throws { try perform(.start)() }

    func stop() { buffer?.stop() }

    /// Does all at once, each on a thread of its own after a pause of random length; returns when
    /// all is done.
    func race(_ deeds: Deed...) throws {
        let line = StartingLine(deeds.count)
        let workers = deeds.map { deed in
            let pause = Int.random(in: 0..<(1 << Int.random(in: 0...12, using: &random)), using: &random)
            let deed = perform(deed)
            return Worker(Self.threadName) {
                line.ready()
                spin(pause)
                try deed()
            }
        }
        for worker in workers { try worker.join() }
    }

    /// None keeps the buffer.
    private func perform(_ deed: Deed) -> @Sendable () throws -> Void {
        switch deed {
        case .start: { [kind, held, threads] in try startLoop(kind, held, threads) }
        case .stop: { [weak buffer] in buffer?.stop() }
        case .finish:
            { [weak buffer, heard] in
                buffer?.finishAndWait()
                heard.change { $0.callsBeforeFinished = $0.calls }
            }
        case .produce: { [weak buffer, tracker, seed = random.next()] in produce(seed, tracker) { buffer } }
        case .putValues:
            { [weak buffer, tracker] in
                for n in 0..<20 { buffer?.set("key \(n % 10)", tracker.make()) }
            }
        case .letGo: { [held] in held.change { $0 = nil } }
        }
    }

    // MARK: The end

    /// A thread that had not yet begun to send when the end came was refused.
    func joinLoops() throws {
        for thread in threads.change({ $0.map { $0 } }) {
            do { try thread.join() } catch DedupeBufferError.stopped {}
        }
    }

    /// All that was the round's is gone.
    func end() throws {
        try #require(buffer?.statistics.unaccounted ?? 0 == 0)
        held.change { $0 = nil }
        try eventually("end of the buffer") { buffer == nil }
        try eventually("end of the sink") { sink == nil }
        try eventually("every value's end") { tracker.alive == 0 }
        try #require(tracker.destroyedTwice == [])
        let heard = heard.value
        try #require(!heard.overlapped)
        try #require(heard.callsBeforeFinished ?? heard.calls == heard.calls)
        if let possibleCalls { try #require(possibleCalls.contains(heard.calls)) }
    }
}

/// What a sink was called with, for when it is gone.
private struct Heard {
    var calls = 0
    var inside = 0
    var overlapped = false
    /// When `finish()` had returned; there are no more afterwards.
    var callsBeforeFinished: Int?
}

private final class RoundSink: SyncerCallbacks {
    let hook = Kept<(@Sendable () -> Void)?>(nil)
    private let heard: Kept<Heard>

    init(_ heard: Kept<Heard>) { self.heard = heard }

    func onStatusUpdated(_ status: SyncStatus) { call() }
    func onUpdates(_ updates: [Update<String, Tracked>]) { call() }

    private func call() {
        heard.change {
            $0.calls += 1
            $0.inside += 1
            if $0.inside > 1 { $0.overlapped = true }
        }
        hook.value?()
        heard.change { $0.inside -= 1 }
    }
}

private func startLoop(
    _ kind: LoopKind, _ held: Kept<(buffer: Round.Buffer, sink: RoundSink)?>, _ threads: Kept<[Worker<Void>]>
) throws {
    guard let (buffer, sink) = held.value else { return }
    do {
        let loop = try RunningLoop(kind, of: buffer, to: sink)
        if let thread = loop.thread { threads.change { $0.append(thread) } }
    } catch DedupeBufferError.stopped {}
}

/// Whatever a source may do, for as long as there is a buffer.
private func produce(_ seed: UInt64, _ tracker: LifetimeTracker, to find: () -> Round.Buffer?) {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<20 {
        guard let buffer = find() else { return }
        let key = "key \(Int.random(in: 0..<10, using: &random))"
        buffer.onUpdates([Update(key: key, value: random.oneIn(4) ? nil : tracker.make())])
        if random.oneIn(8) { buffer.onStatusUpdated(SyncStatus(rawValue: .random(in: 0...2, using: &random))!) }
        if random.oneIn(16) { buffer.onConnectionRestarted() }
    }
}

private func spin(_ count: Int) {
    let turns = Atomic(0)
    for _ in 0..<count { turns.add(1, ordering: .relaxed) }
}

// MARK: - Watching

/// Ends the program where a round hangs, after printing the stacks of all threads.
private final class Watchdog: Sendable {
    private let watched = Kept<(what: String, until: DispatchTime)>(("", .now() + patience))
    private let over = DispatchSemaphore(value: 0)

    init() {
        let thread = Thread { [self] in
            while over.wait(timeout: watched.value.until) == .timedOut {
                let (what, until) = watched.value
                if until > .now() { continue }
                printStacks()
                fatalError("\(what) hangs")
            }
        }
        thread.start()
    }

    func watch(_ what: String, for seconds: Double) { watched.change { $0 = (what, .now() + seconds) } }

    func end() { over.signal() }
}

/// By gdb, if it is there: the runtime's own backtracer (SWIFT_BACKTRACE="enable=yes,preset=full")
/// sees no further than the system call in which a thread waits.
private func printStacks() {
    let debugger = Process()
    debugger.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    debugger.arguments = ["gdb", "-nx", "-batch", "-p", "\(getpid())", "-ex", "thread apply all backtrace"]
    try? debugger.run()
    debugger.waitUntilExit()
}

/// How many files this process has open, where the system tells. Without those that timers need:
/// the first of its kind opens one for good.
private func openFiles() -> Int {
    let files = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []
    return files.count { file in
        let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(file)")
        return target.map { !$0.hasPrefix("anon_inode:") } ?? false
    }
}

/// How many threads of this process have that name, where the system tells.
private func threads(named name: String) -> Int {
    let threads = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? []
    return threads.count { nameOfThread($0) == name + "\n" }
}

/// Not read by Foundation, which leaks its buffer if the thread ends meanwhile.
private func nameOfThread(_ id: String) -> String? {
    guard let file = fopen("/proc/self/task/\(id)/comm", "r") else { return nil }
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = fread(&bytes, 1, bytes.count, file)
    return String(decoding: bytes.prefix(count), as: UTF8.self)
}
