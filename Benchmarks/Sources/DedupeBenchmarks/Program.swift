// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CMeasure

@main
struct Program: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "DedupeBenchmarks",
        abstract: "Measures the Swift library beside a plain port of the original.",
        subcommands: [Run.self, CheckYardstick.self, CountInstructions.self, MeasureLayer.self, PrintTable.self],
        defaultSubcommand: Run.self)
}

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Measures; prints a table.")

    @Flag(help: "Fewer repetitions, up to 100,000 keys.")
    var quick = false
    @Option(help: "The cases, separated by commas: replace pinned fresh rounds memory together allocations grow wake.")
    var only: String?
    @Option(help: "The numbers of keys, separated by commas; 10, 20, 50 or multiples of 100.")
    var keys: String?
    @Option(help: "Repetitions of each case.")
    var repetitions: Int?
    @Option(help: "Seconds that one repetition of a throughput lasts.")
    var seconds: Double?
    @Option(help: "Seed of the keys' order.")
    var seed: UInt64?
    @Option(help: "A list of results to print and write with the own.")
    var add: String?
    @Option(help: "Where to write the list of all results.")
    var output: String?

    func run() throws {
        var cases = Cases(parameters: try parameters())
        let chosen = only.map { Set($0.split(separator: ",").map(String.init)) }
        let all: Set = ["replace", "pinned", "fresh", "rounds", "memory", "together", "allocations", "grow", "wake"]
        if let strange = chosen?.subtracting(all), !strange.isEmpty {
            throw ValidationError("no such case: \(strange.sorted().joined(separator: " "))")
        }
        func has(_ name: String) -> Bool { chosen?.contains(name) ?? true }

        for keyCount in cases.parameters.keyCounts {
            let setting = Setting(keys: keyCount)
            if has("replace") { cases.replacing(keyCount) }
            for keySize in [BenchmarkKey.shortSize, BenchmarkKey.longSize] where has("pinned") && keyCount == 1000 {
                for call in [1, callSize] {
                    cases.pinned(Setting(keys: keyCount, keySize: keySize, call: call))
                }
            }
            for keySize in [BenchmarkKey.shortSize, BenchmarkKey.longSize] where has("fresh") && keyCount <= 1000 {
                cases.fresh(Setting(keys: keyCount, keySize: keySize, call: 1))
            }
            if keyCount < 1000 { continue }
            if has("rounds") { cases.rounds(setting) }
            if has("memory") { cases.memory(setting) }
            if has("together") { try cases.together(Setting(keys: keyCount, threads: 2)) }
            if has("allocations") { cases.allocations(setting) }
        }
        if has("memory") { try cases.smallBuffers() }
        if has("grow") { cases.grow(Setting(keys: cases.parameters.keyCounts.last!)) }
        if has("wake") { try cases.wake() }

        var results = cases.results
        if let add { try results.add(contentsOf: add) }
        if let output { try results.write(to: output) }
        Table.print(results.list)
    }

    private func parameters() throws -> Parameters {
        var parameters = quick ? Parameters.quick : Parameters()
        if let keys {
            parameters.keyCounts = try keys.split(separator: ",").map {
                guard let count = Int($0), (10...10_000_000).contains(count), count % 100 == 0 || 100 % count == 0
                else {
                    throw ValidationError("--keys are 10, 20, 50 or multiples of 100, up to 10,000,000")
                }
                return count
            }
        }
        if let repetitions { parameters.repetitions = repetitions }
        if let seconds { parameters.seconds = seconds }
        if let seed { parameters.seed = seed }
        guard parameters.repetitions > 0, parameters.seconds > 0, !parameters.keyCounts.isEmpty else {
            throw ValidationError("--repetitions, --seconds and --keys are above zero")
        }
        return parameters
    }
}

struct CheckYardstick: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Checks that the plain port delivers what the library delivers.")

    @Option(help: "Seed of the operations.")
    var seed: UInt64 = 1

    func run() { Check.run(seed: seed) }
}

struct CountInstructions: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "instructions", abstract: "What callgrind counts. Does nothing of use outside callgrind.")

    func run() { Instructions.run() }
}

struct MeasureLayer: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "layer", abstract: "Measures the Swift layer alone, and counts what it allocates.")

    @Option(help: "Repetitions.")
    var repetitions = 7
    @Option(help: "A file with the most allocations that are allowed; fails if there are more.")
    var thresholds: String?

    func run() throws {
        guard measure_can_count() else { throw ValidationError("allocations cannot be counted on this system") }
        guard try Layer.check(Layer.run(repetitions: repetitions), against: thresholds) else { throw ExitCode.failure }
    }
}

struct PrintTable: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "table", abstract: "Prints lists of results that were written before.")

    @Argument(help: "Lists of results.")
    var lists: [String] = []
    @Option(help: "A directory with callgrind's dumps.")
    var callgrind: String?
    @Option(help: "Where to write the list of all results.")
    var output: String?
    @Option(help: "A file with the largest values that are allowed; fails if there are larger ones.")
    var limits: String?

    func run() throws {
        var results = Results()
        for list in lists.reversed() { try results.add(contentsOf: list) }
        if let callgrind { try results.add(Instructions.read(directory: callgrind)) }
        if let output { try results.write(to: output) }
        Table.print(results.list)
        if let limits, try !Limits(path: limits).check(results.list) { throw ExitCode.failure }
    }
}
