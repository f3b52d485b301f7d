// SPDX-License-Identifier: Apache-2.0

// Random histories of a simulated cluster. At rest the sink has what the datastore has, and every
// update had the right type.

import DedupeBuffer
import Testing

@testable import SyncerEngine

@Suite("Random histories")
struct ModelTests {
    /// What a set of histories has covered.
    private struct Coverage {
        var resyncs: [ResyncReason: Int] = [:]
        var resumes = 0
        var duplicates = 0
        var heartbeatMisses = 0
        var watchFirst = 0
        var probedInstead = 0

        mutating func add(_ simulation: Simulation) {
            let statistics = simulation.machine.statistics
            for (reason, count) in statistics.resyncs { resyncs[reason, default: 0] += count }
            resumes += statistics.resumes
            duplicates += statistics.duplicatesDropped
            heartbeatMisses += statistics.heartbeatMisses
            watchFirst += simulation.watchFirstSnapshots
            probedInstead += simulation.machine.mute.count
        }
    }

    @Test(arguments: 0..<2)
    func atRest_theSinkHasWhatTheDatastoreHas(part: UInt64) {
        let (seed, isGiven) = testSeed()
        let count = isGiven ? 1 : longTests ? 50_000 : 5000
        var coverage = Coverage()
        var failures = 0
        for i in 0..<UInt64(count) {
            let own = isGiven ? seed : seed &+ part << 32 &+ i
            let simulation = Simulation(seed: own, isTraced: isGiven)
            let faults = simulation.run(steps: 180)
            coverage.add(simulation)
            guard !faults.isEmpty else { continue }
            Issue.record("DEDUPE_TEST_SEED=\(own): \(faults.joined(separator: "; "))")
            failures += 1
            if failures == 10 { return }
        }
        guard !isGiven else { return }
        print("histories: \(count), \(coverage)")
        for reason in ResyncReason.allCases { #expect(coverage.resyncs[reason, default: 0] > 0, "\(reason)") }
        #expect(min(coverage.resumes, coverage.duplicates, coverage.heartbeatMisses, coverage.watchFirst) > 0)
        #expect(coverage.probedInstead > 0)
    }
}
