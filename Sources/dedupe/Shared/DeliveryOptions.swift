// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DedupeBuffer

/// How fast lines are written.
struct PaceOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Write at most this many lines in a second, statuses included. It may be a fraction, or 5/min or 100/h.",
            valueName: "lines"))
    var maxRate: LineRate?

    @Option(
        help: ArgumentHelp(
            """
            Begin to write no more often than this, such as 1s or 500ms, and then write each key at most once. The end \
            of the input does not wait.
            """, valueName: "duration"))
    var interval: TimeSpan?

    /// Sets what the buffer has to know of the pace.
    ///
    /// - Parameter batchSize: The most lines to commit at a time. A rate makes them fewer.
    func configure(_ configuration: inout DedupeBufferConfiguration, batchSize: Int) {
        configuration.batchSize = maxRate.map { Pacer.batchSize(batchSize, $0) } ?? batchSize
        configuration.minimumInterval = interval.map { .nanoseconds(Int64($0.nanoseconds)) }
    }
}

/// How the program ends, and what it says about its work.
struct EndOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "How long to go on writing what was queued after a signal, such as 10s or 2m; 60s by default.",
            valueName: "duration"))
    var drainTimeout = TimeSpan(nanoseconds: 60_000_000_000)

    @Flag(help: "Print a summary on standard error at the end, and a line each second if that is a terminal.")
    var stats = false
}
