// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// The command line: what it offers, what it refuses, and what its help says.
@main
struct DedupeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dedupe",
        abstract: "Conflate a fast stream of keyed updates for a slow reader.",
        usage: "dedupe [--max-rate <lines>] [--batch-size <lines>] [--stats] [--strict] [<file>]",
        discussion: """
            Reads lines of JSON as fast as they come and writes lines of JSON as fast as the reader takes them. In \
            between it keeps at most one update of each key: a newer one takes the place of the older. So the source \
            never waits, memory is bounded by the number of keys, and a slow reader skips ahead to recent state.

            INPUT
              {"key":"k","value":…}        an update; it may have a "revision":N
              {"key":"k","value":null}     a deletion
              {"status":"in-sync"}         or "resync", or "wait-for-ready"
              {"restart":true}             a complete snapshot follows; keys that
                                           it lacks are deleted at "in-sync"

            Other fields are ignored, so the output of one dedupe may be the input of another. Blank lines are \
            skipped. A line may have 64 MiB, a key 65536 bytes, the object 1024 levels, and a revision 64 bits; \
            revision 0 is none.

            OUTPUT
              {"type":"new","key":"k","value":…}       or "updated", or "deleted"
              {"status":"in-sync"}

            A value keeps its bytes, spaces included; of a deletion it is null. A revision comes behind the value.

            EXIT STATUS
              0    everything was read and written
              1    so it was, but there were bad lines; or --strict stopped at one
              2    the input could not be read, or the output not be written
              64   the command line is wrong
              130  ended by SIGINT (143: SIGTERM), after writing what was queued;
                   a second signal ends at once
            """)

    @Option(
        help: ArgumentHelp("Write at most this many lines in a second, statuses included.", valueName: "lines"))
    var maxRate: Int?

    @Option(
        help: ArgumentHelp(
            """
            Commit at most this many lines at a time: what is committed is no longer replaced. --max-rate lowers it to \
            a tenth of the rate.
            """,
            valueName: "lines"))
    var batchSize = 100

    @Flag(help: "Print a summary on standard error at the end, and a line each second if that is a terminal.")
    var stats = false

    @Flag(help: "Stop at the first bad line, after writing what came before it. Otherwise bad lines are skipped.")
    var strict = false

    @Argument(help: "The file to read. Standard input if it is missing or \"-\".", completion: .file())
    var file: String?

    static let batchSizes = 1...65_536

    func validate() throws {
        if let maxRate, maxRate < 1 {
            throw ValidationError("--max-rate must be a positive integer.")
        }
        if !Self.batchSizes.contains(batchSize) {
            throw ValidationError("--batch-size must be from 1 to \(Self.batchSizes.upperBound).")
        }
    }

    func run() throws {
        let filter = Filter(maxRate: maxRate, batchSize: batchSize, showsStatistics: stats, isStrict: strict)
        let status = filter.run(path: file == "-" ? nil : file)
        if status != 0 {
            throw ExitCode(status)
        }
    }
}
