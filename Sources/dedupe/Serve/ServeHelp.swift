// SPDX-License-Identifier: Apache-2.0

#if Server

/// What the help of `dedupe serve` says besides the options.
enum ServeHelp {
    static let discussion = """
        Reads what the filter reads, keeps the newest value of each key, and serves it to any number of clients. A \
        client that is slow gets newer values later; it is never cut off, and costs the others nothing.

        RESOURCES
          GET /events       Server-Sent Events, for EventSource and curl -N: the
                            present state first, then what changes
          GET /lines        the same as lines of JSON, until the server ends;
                            another dedupe can read them
          GET /snapshot     the present state, as one JSON object
          GET /statistics   figures, as one JSON object
          GET /             a page that shows all this

        PARAMETERS of /events and /lines
          prefix=TEXT       only keys that begin with the text; repeat it for
                            several
          interval=NUMBER   deliver at most once in so many milliseconds
          since=POSITION    only what has changed since the position: the id of
                            an event, or the "position" of a line or a snapshot.
                            Browsers send Last-Event-ID instead
          token=TOKEN       where a client cannot set headers; see --token-file

        /snapshot takes prefix=, too.

        EVENTS
          updates           objects as in the lines, one in each data line
          status            {"status":"in-sync"}, or "resync", "wait-for-ready"
          restart           {"restart":true}: forget all keys, they come again.
                            The position was too old, or of another run
          end               {"end":true}: the server ends; connect again

        LINES
          {"type":"new","key":"k","value":…}       or "updated", or "deleted"
          {"status":"in-sync"}
          {"restart":true}

        The last line of each delivery has a member "position". Every 15 seconds without a delivery, a comment, or a \
        blank line, shows that the connection is alive.

        EXIT STATUS
          0    the input has ended, with --end-with-input
          1    so it has, but there were bad lines; or --strict stopped at one
          2    the input could not be read, or the server could not begin
          64   the command line is wrong
          70   there was no memory, or the program has a fault
          129  ended by SIGHUP (130: SIGINT, 143: SIGTERM): clients got what was
               left, for --drain-timeout at most
          131  ended at once by SIGQUIT

        SIGNALS
          SIGHUP, SIGINT, SIGTERM    deliver what is left, and end; a second one
                                     ends at once
          SIGQUIT                    end at once
          SIGUSR1                    print the statistics on standard error
        """
}

#endif
