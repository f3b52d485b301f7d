// SPDX-License-Identifier: Apache-2.0

// A driver, a buffer and a sink with real tasks, while several tasks write and disturb.

import DedupeBuffer
import Foundation
import Testing

@testable import SyncerEngine

@Suite("Live")
struct LiveTests {
    /// A naive sink that several threads may look at.
    private final class LockedSink: SyncerCallbacks {
        private let kept = Kept(NaiveSink())

        func onStatusUpdated(_ status: SyncStatus) { kept.change { $0.onStatusUpdated(status) } }
        func onUpdates(_ updates: [Update<[UInt8], [UInt8]>]) { kept.change { $0.onUpdates(updates) } }
        var state: [[UInt8]: [UInt8]] { kept.change { $0.state } }
        var faults: [String] { kept.change { $0.faults } }
    }

    @Test func writersAndFaults_atRest_theSinkHasWhatTheDatastoreHas() async throws {
        let (store, sink) = (MemoryStore(seed: testSeed().seed), LockedSink())
        var options = DedupeBufferConfiguration()
        options.skipsUnchangedRevisions = true
        let buffer = DedupeBuffer<[UInt8], [UInt8]>(configuration: options)
        try buffer.startSending(to: sink)
        let driver = SyncerDriver(datastore: store, target: buffer, configuration: hasty)
        let running = RunningDriver { await driver.run() }
        await withTaskGroup { group in
            for writer in 0..<4 {
                group.addTask {
                    for i in 0..<400 {
                        store.write()
                        if writer == 0 && i % 40 == 39 { store.breakAWatch() }
                        await Task.yield()
                    }
                }
            }
        }
        store.stopFaults()
        store.write()
        try await eventually("the sink to have everything") {
            driver.statistics.status == .inSync && sink.state == store.contents
        }
        running.cancel()
        try await running.end()
        buffer.stop()
        #expect(sink.faults == [])
    }

    /// As impatient as a configuration can be.
    private var hasty: SyncerConfiguration {
        var configuration = SyncerConfiguration(rangeCount: World.ranges)
        configuration.pages.initial = 2
        configuration.pages.maximum = 3
        configuration.backOff.initialDelay = .microseconds(100)
        configuration.backOff.maximumDelay = .milliseconds(1)
        configuration.resyncs.minimumInterval = .microseconds(200)
        return configuration
    }
}
