// SPDX-License-Identifier: Apache-2.0

import CMeasure
import Foundation

/// Nanoseconds of the clock on the wall.
func wallTime() -> UInt64 { measure_wall_time() }

/// Nanoseconds that this thread has run: other processes on the machine do not lengthen it.
func threadTime() -> UInt64 { measure_thread_time() }

/// Nanoseconds of this thread that `work` takes.
@inline(__always)
func timed(_ work: () throws -> Void) rethrows -> Double {
    let start = threadTime()
    try work()
    return Double(threadTime() - start)
}

/// How often this thread has asked the system for memory.
func allocations() -> UInt64 { measure_allocations() }

/// Has freed memory go back to the system, so that every buffer starts from the same state.
func settle() { measure_settle() }

/// Bytes of this process that are in memory; `nil` where there is no /proc.
func resident() -> Double? {
    guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8),
        let pages = text.split(separator: " ").dropFirst().first.flatMap({ Double($0) })
    else { return nil }
    return pages * Double(sysconf(Int32(_SC_PAGESIZE)))
}

/// Numbers of which all are kept, so that percentiles are exact.
struct Series {
    private(set) var values: [Double] = []

    mutating func add(_ value: Double) { values.append(value) }

    /// `nil` if there are none.
    var median: Double? {
        if values.isEmpty { return nil }
        let sorted = values.sorted()
        return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
    }

    /// For each fraction the smallest value that so many of all values do not exceed.
    func percentiles(_ fractions: [Double]) -> [Double?] {
        let sorted = values.sorted()
        return fractions.map { fraction in
            if sorted.isEmpty { return nil }
            return sorted[max(Int((fraction * Double(sorted.count)).rounded(.up)), 1) - 1]
        }
    }
}

/// One number of each kind for the library and one for the yardstick.
struct Both<T> {
    var ours: T
    var plain: T
}

extension Both where T == Series {
    init() { self.init(ours: Series(), plain: Series()) }
}
