// SPDX-License-Identifier: Apache-2.0

package import DedupeBuffer

/// Follows a datastore and tells a buffer what it finds.
///
/// ```swift
/// let driver = SyncerDriver(datastore: datastore, target: buffer)
/// await driver.run()
/// ```
///
/// The syncer never waits for the sink: what the watch brings is put into the target at once, so
/// the datastore always sees a fast watcher.
///
/// ### Threading
///
/// The target and the observer are called by one task at a time, and must not wait.
package final class SyncerDriver<Store: Datastore, Target: RestartAwareCallbacks<[UInt8], [UInt8]>>: Sendable {
    private let datastore: Store
    private let target: Target
    private let configuration: SyncerConfiguration
    private let observer: SyncerObserver
    private let overflows: DedupeBufferOverflows?
    private let clock: any Clock<Duration>
    private let makeGenerator: @Sendable () -> any RandomNumberGenerator
    private let end = Latch()
    private let latest = Locked(SyncerStatistics())
    private let runs = Locked((count: 0, isRunning: false))

    /// - Parameters:
    ///   - datastore: the datastore to follow.
    ///   - target: the buffer, or an adapter in front of it.
    ///   - configuration: how to follow. A value that is out of range ends the program.
    ///   - observer: where logs, metrics and changes of state go.
    ///   - overflows: the overflows of the buffer behind the target. If the target is a
    ///     `DedupeBuffer`, the driver finds them itself.
    ///   - clock: measures all pauses and deadlines.
    ///   - generator: makes the random numbers of one run.
    package init(
        datastore: Store, target: Target, configuration: SyncerConfiguration = .init(),
        observer: SyncerObserver = .init(), overflows: DedupeBufferOverflows? = nil,
        clock: any Clock<Duration> = ContinuousClock(),
        generator: @escaping @Sendable () -> any RandomNumberGenerator = { SystemRandomNumberGenerator() }
    ) {
        if let fault = configuration.firstFault {
            fatalError("SyncerConfiguration: \(fault.member) must be \(fault.requirement)")
        }
        let buffer = target as? DedupeBuffer<[UInt8], [UInt8]>
        var observer = observer
        if let buffer, observer.bufferStatistics == nil { observer.bufferStatistics = { buffer.statistics } }
        (self.datastore, self.target, self.configuration) = (datastore, target, configuration)
        (self.observer, self.overflows) = (observer, overflows ?? buffer?.overflows)
        (self.clock, makeGenerator) = (clock, generator)
    }

    /// What the syncer has done so far, in all its runs.
    package var statistics: SyncerStatistics { latest.withLock { $0 } }

    /// Ends `run()`, also one that has not begun. Returns at once. May be called from anywhere, and
    /// again.
    package func shutdown() { end.open() }

    /// Follows the datastore until the task is cancelled or `shutdown()` is called.
    ///
    /// Every task that the run began has ended when it returns. The target keeps what it has. After
    /// a cancellation the call may be made again; after `shutdown()` it returns at once, and the
    /// target hears nothing.
    ///
    /// - Precondition: no other call is running. Two would tell the target of two snapshots at
    ///   once.
    package func run() async {
        if end.isOpen { return }
        let isFirst = runs.withLock { runs in
            precondition(!runs.isRunning, "A syncer is run while it is running.")
            runs = (runs.count + 1, true)
            return runs.count == 1
        }
        defer { runs.withLock { $0.isRunning = false } }
        let (commands, continuation) = AsyncStream.makeStream(of: SyncerCommand.self)
        var generator = makeGenerator()
        let order = Array(0..<datastore.endpointCount).shuffled(using: &generator)
        let machine = SyncerStateMachine(
            configuration, endpoints: order, after: isFirst ? foreignPast(&generator) : statistics)
        let core = SyncerCore(
            machine, EngineClock(clock), generator, observer, latest,
            SyncerOutputs(target: target, commands: continuation) { [datastore] in datastore.disconnect(endpoint: $0) })
        let requests = SyncerRequests(datastore: datastore, core: core)
        await withTaskGroup { group in
            // The end of the run is a cancellation of everything in it.
            group.addTask { await self.end.wait() }
            group.addTask { await self.follow(commands, with: requests) }
            await group.next()
            group.cancelAll()
        }
    }

    /// Another syncer has put into the buffer before, perhaps revisions of another history. A
    /// random epoch keeps its revisions apart from those of this syncer.
    private func foreignPast(_ generator: inout any RandomNumberGenerator) -> SyncerStatistics? {
        guard let buffer = observer.bufferStatistics?(), buffer.received > 0 else { return nil }
        var past = SyncerStatistics()
        past.epoch = UInt64.random(in: 0..<(1 << 15), using: &generator)
        return past
    }

    private func follow(_ commands: AsyncStream<SyncerCommand>, with requests: SyncerRequests<Store, Target>) async {
        await withDiscardingTaskGroup { group in
            if let overflows {
                group.addTask { for await _ in overflows { await requests.core.handle(.overflowed) } }
            }
            await requests.core.handle(.start)
            for await command in commands {
                group.addTask { await requests.perform(command) }
            }
            await requests.core.handle(.shutdown)
            group.cancelAll()
        }
    }
}
