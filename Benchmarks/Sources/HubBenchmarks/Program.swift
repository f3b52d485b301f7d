// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CMeasure
import Foundation

@main
struct HubBenchmarks: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "One source, many clients: the hub, a buffer for each client, and chains of snapshots.")

    @Option(help: "Numbers of subscribers.") var subscribers = "10,1000,10000"
    @Option(help: "Numbers of keys.") var keys = "1000,10000,100000"
    @Option(help: "Rounds of each setting.") var rounds = 5
    @Option(help: "The most bytes that a setting may be expected to take.") var memory = 5_000_000_000
    @Option(help: "The most deliveries of a setting's first round.") var deliveries = 100_000_000
    @Option(help: "Seconds of each measurement of ages.") var seconds = 5.0
    @Flag(help: "Only what writing costs, and ages.") var short = false

    func run() async {
        if !short { table() }
        stalledWrites()
        await ages()
    }

    private func numbers(_ list: String) -> [Int] { list.split(separator: ",").compactMap { Int($0) } }

    private func table() {
        row(
            "subscribers", "keys", "reading", "way", "write, ns/update", "delivery, ns/update", "delivered/s of CPU",
            "bytes/subscriber")
        row("---:", "---:", "---", "---", "---:", "---:", "---:", "---:")
        for subscribers in numbers(subscribers) {
            for keys in numbers(keys) {
                for reading in Reading.allCases {
                    measure(Setting(subscribers: subscribers, keys: keys, reading: reading))
                }
            }
        }
    }

    private func row(_ cells: String...) { print("| " + cells.joined(separator: " | ") + " |") }

    private func measure(_ setting: Setting) {
        let pairs = setting.subscribers * setting.keys
        guard pairs <= deliveries else { return leaveOut(setting, "all", "more than \(deliveries) first deliveries") }
        show(measureSetting(HubFanOut.self, setting, rounds: rounds))
        if pairs * 200 <= memory {
            show(measureSetting(BufferFanOut.self, setting, rounds: rounds))
        } else {
            leaveOut(setting, BufferFanOut.name, "more than \(memory) bytes")
        }
        show(measureSetting(CrumbFanOut.self, setting, rounds: rounds))
    }

    private func leaveOut(_ setting: Setting, _ way: String, _ why: String) {
        row(
            "\(setting.subscribers)", "\(setting.keys)", setting.reading.rawValue, way, "left out: \(why)", "", "", "")
    }

    private func show(_ result: Result) {
        func text(_ value: Double?, _ format: String) -> String { value.map { String(format: format, $0) } ?? "" }
        let setting = result.setting
        row(
            "\(setting.subscribers)", "\(setting.keys)", setting.reading.rawValue, result.name,
            text(result.write, "%.0f"), text(result.delivery, "%.1f"),
            text(result.perSecond.map { $0 / 1e6 }, "%.1f M"), text(result.memory, "%.0f"))
    }

    private func stalledWrites() {
        print("\n| stalled subscribers | updates in a call | write, ns/update |\n|---:|---:|---:|")
        for call in [1, 100] {
            for subscribers in [10, 1000, 10_000] {
                let time = measureStalledWrites(subscribers: subscribers, keys: 1000, call: call)
                print("| \(subscribers) | \(call) | \(String(format: "%.1f", time)) |")
            }
        }
    }

    private func ages() async {
        print("\n| readers | stalled | median age, us | 99th percentile, us | deliveries |\n|---:|---:|---:|---:|---:|")
        for _ in 0..<3 {
            for stalled in [0, 100, 10_000] {
                let ages = await measureAges(
                    readers: 1000, stalled: stalled, keys: 1000, updatesPerSecond: 1000, seconds: seconds)
                print(
                    "| 1000 | \(stalled) | \(String(format: "%.0f", ages.median / 1000)) "
                        + "| \(String(format: "%.0f", ages.percentile99 / 1000)) | \(ages.count) |")
            }
        }
    }
}
