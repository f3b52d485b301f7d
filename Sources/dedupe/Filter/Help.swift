// SPDX-License-Identifier: Apache-2.0

/// What the help says besides the options.
enum Help {
    /// Where a subcommand is described, or that this program lacks it.
    private static func seeHelp(of subcommand: Subcommand) -> String {
        subcommand.type == nil ? "(not built in)" : "see dedupe \(subcommand.rawValue) --help"
    }

    static let discussion = """
        Reads JSON or lines of text as fast as they come and writes lines as fast as the reader takes them. In between \
        it keeps at most one update of each key: a newer one takes the place of the older. So the source never waits, \
        memory is bounded by the number of keys, and a slow reader skips ahead to recent state.

        SUBCOMMANDS
          dedupe etcd      follows a prefix of an etcd cluster
                           \(seeHelp(of: .etcd))
          dedupe serve     serves what it reads to many clients over HTTP
                           \(seeHelp(of: .serve))

        Only the first word can be a subcommand. A file with such a name is read as dedupe ./etcd.

        INPUT
          {"key":"k","value":…}        an update; it may have a "revision":N
          {"key":"k","value":null}     a deletion; so is one with "type":"deleted"
          {"status":"in-sync"}         or "resync", or "wait-for-ready"
          {"restart":true}             a complete snapshot follows; keys that
                                       it lacks are deleted at "in-sync"

        With --key or --from, any JSON values; with -k, lines of text. JSON may be any sequence of values: one on each \
        line, several on a line, or one over many lines. A value is read when its line has ended. Of duplicate members \
        the last counts. Other members are ignored, so the output of one dedupe may be the input of another. A value \
        may have 64 MiB and 1024 levels, a key 65536 bytes, and a revision 64 bits; revision 0 is none.

        A revision is a number that grows with each change of the source. It is passed on, and --suppress-unchanged \
        and --newer-only compare it.

        OUTPUT
          {"type":"new","key":"k","value":…}       or "updated", or "deleted"
          {"status":"in-sync"}
          {"overflow":true}                        updates were dropped here

        A value keeps its bytes; one that spans lines is written on one line, without spaces. Of a deletion it is \
        null. A revision comes behind the value. With --key, -k or --from, and without --envelope, the lines \
        themselves are written, those of deletions too.

        OVERFLOW
        When one more pending key would exceed --max-keys or --max-bytes, everything that is pending is dropped. A \
        newer value of a pending key is no overflow, even if it is larger. A message tells of an overflow, and where \
        the output is not plain lines, {"overflow":true} does, too. With --on-overflow drop, the reader may then have \
        old values, and keys that are gone. A new snapshot of the source, from {"restart":true} to "in-sync", puts \
        that right. Until that restart no "in-sync" is passed on.

        EXIT STATUS
          0    everything was read and written
          1    so it was, but there were bad lines; or --strict stopped at one
          2    the input could not be read, or the output not be written
          3    more was pending than --max-keys or --max-bytes allows, and
               --on-overflow said stop
          64   the command line is wrong, or names a subcommand that the program
               was built without
          70   there was no memory, or the program has a fault
          129  ended by SIGHUP (130: SIGINT, 143: SIGTERM), after writing what
               was queued, for --drain-timeout at most
          131  ended at once by SIGQUIT
          141  the reader went away (SIGPIPE)

        SIGNALS
          SIGHUP, SIGINT, SIGTERM    write what was queued, and end; a second
                                     one ends at once
          SIGQUIT                    end at once
          SIGUSR1                    print the statistics on standard error
          A signal that was ignored at the start stays ignored.
        """
}
