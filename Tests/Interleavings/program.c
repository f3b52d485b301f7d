/* SPDX-License-Identifier: Apache-2.0 */
#include "program.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "CDedupe.h"

/*
 * There is a program for each two transitions of a word that can race (see the table in DESIGN.md).
 * Then come calls that meet at the lock, the index, contexts and slots.
 */
/* clang-format off */
const struct program_text program_list[] = {
    /* Replacing without the lock, and what can happen to the word meanwhile. */
    {"replace, replace", "+a", {"+a +a", "+a +a"}},
    {"replace, cancel", "+a", {"+a +a", "-a +a"}},
    {"replace, cancel, the entry's memory used again", "+a", {"+a +a", "-a +b +c"}},
    {"replace, cancel, memory used again, cancelled again", "+a", {"+a", "-a +b -b +c"}},
    {"calls of two: replace, cancel, the entry's memory used again", "+a", {"+a+a", "-a +b +c"}},
    {"calls of two: replace, restart", "claim +a", {"+a+a +a+a", "restart take"}},
    {"replace, take a value", "claim +a", {"+a +a +a", "take take"}},
    {"delete, take a live key's value", "claim +a take +a", {"-a +a", "take take"}},
    {"put, take a deletion", "claim +a take -a", {"+a -a#", "take take"}},
    {"put and cancel an unknown key's deletion", "claim -a", {"+a -a", "take take"}},
    {"two put, one deletes an unknown key", "-a", {"+a", "-a", "+a"}},
    {"an unknown key's deletion, replaced", "-a#", {"+a -a#", "-a# +a"}},
    {"three replace", "+a", {"+a", "+a", "+a"}},
    {"replace, cancel, take", "claim +a", {"+a", "-a", "take"}, .preemptions = 2},

    /* The lock's transitions with each other. */
    {"idle: put, delete", "claim +a take", {"+a -a", "-a +a"}},
    {"absent: put, put", "", {"+a -a", "+a +b"}},
    {"idle: put, take", "claim +a take", {"+a -a", "take take"}},
    {"borrowed: put again, take", "claim +a take -a", {"+a -a", "take take take"}},
    {"borrowed: others come", "claim +a take -a", {"+b +c +d +e +f +g +h", "take take"}, .preemptions = 2},
    {"keys with one fingerprint", "+x", {"+y +x", "-x +y"}},
    {"keys with one fingerprint, taken", "claim +x +y", {"+y -x", "take take"}},

    /* Restarts. */
    {"replace, restart", "+a", {"+a +a", "restart +a"}},
    {"replace, restart, revive", "claim +a take +a", {"+a -a", "restart +a"}},
    {"replace, restart, collect", "+a", {"+a +a", "restart collect"}},
    {"replace live, restart, collect", "claim +a take +a", {"+a -a", "restart collect sync"}, .preemptions = 2},
    {"replace live, restart, sweep", "claim +a take +a", {"+a -a", "restart sync"}},
    {"idle: put, restart, sweep", "claim +a take", {"+a", "restart sync"}},
    {"put, restart, sweep, take", "claim +a take +a", {"-a#", "restart sync", "take"}, .preemptions = 2},
    {"restart, sweep, take", "claim +a +b take +a", {"restart sync", "take1 take"}},
    {"restart, restart", "claim +a take +a", {"restart sync", "restart sync"}},
    {"another's put clears up what is replaced", "claim +a +b", {"+a +b", "restart +c +d"}},
    {"sweep of a deletion that a restart dropped", "claim +a take -a restart", {"+a -a", "sync take"}},
    {"resync, put, delete", "claim +a +b take resync restart resync", {"+a -b", "sync take"}},

    /*
     * Putting back: the rows of the table in put_back.c, and what can happen to a word meanwhile.
     */
    {"put back a new value; put, delete", "claim +a take", {"+a -a", "put_back take"}},
    {"put back a new value; delete, put", "claim +a take", {"-a +a", "put_back take"}},
    {"put back a new value that was replaced", "claim +a take +a", {"+a -a", "put_back take"}},
    {"put back a new value that was deleted", "claim +a take -a#", {"+a -a#", "put_back take"}},
    {"put back a new value that was deleted, its memory used again", "claim +a take -a#", {"+a -a#", "put_back +b +c"}},
    {"put back a live key's value", "claim +a take +a take", {"+a -a", "put_back take"}},
    {"put back a live key's value; delete, put", "claim +a take +a take", {"-a +a", "put_back take"}},
    {"put back a live key's value that was replaced", "claim +a take +a take +a", {"+a -a#", "put_back take"}},
    {"put back a deletion", "claim +a take -a# take", {"+a -a", "put_back take"}},
    {"put back a deletion that was outlived", "claim +a take -a# take +a", {"+a -a", "put_back take"}},
    {"put back a deletion that was outlived and deleted", "claim +a take -a# take -a", {"+a -a", "put_back take"}},
    {"put back an unknown key's deletion", "claim -a# take", {"+a -a", "put_back take"}},
    {"put back an unknown key's deletion that was outlived", "claim -a# take +a", {"-a +a", "put_back take"}},
    {"put back, two put", "claim +a take +a", {"+a", "-a", "put_back take"}, .preemptions = 2},
    {"put back a deletion, two put", "claim +a take -a take", {"+a", "-a", "put_back take"}, .preemptions = 2},
    {"take, put back, two put", "claim +a", {"+a", "-a", "take put_back"}, .preemptions = 2},
    {"put back several", "claim +a +b +c take", {"-b +a", "put_back1 put_back take"}},
    {"take, put back, take", "claim +a", {"+a -a", "take put_back take"}},
    {"restart, put, take, put back", "claim +a", {"restart +b", "take put_back take"}},
    {"take a live key, restart, put back", "claim +a take +a", {"restart sync", "take put_back take"}},
    {"take a deletion, restart, put back", "claim +a take -a", {"restart sync", "take put_back take"}},
    {"put back a new value, restart, put", "claim +a take", {"restart +a sync", "put_back take"}},
    {"put back a new value that was replaced, restart, put", "claim +a take +a", {"+a", "restart sync", "put_back take"},
     .preemptions = 2},
    {"put back a new value that was deleted, restart, put", "claim +a take -a", {"+a", "restart sync", "put_back take"},
     .preemptions = 2},
    {"put back a live key's value, restart", "claim +a take +a take", {"restart sync", "put_back take"}},
    {"put back a deletion, restart, sweep", "claim +a +b take -a take", {"restart sync", "put_back take"}},
    {"put back a deletion, put, restart, sweep", "claim +a take -a take", {"+a restart sync", "put_back take"}},
    {"put back a deletion, restart, put, sweep", "claim +a take -a take", {"restart +a sync", "put_back take"}},
    {"put back a deletion that was outlived, restart, sweep", "claim +a take -a# take +a",
     {"restart sync", "put_back take"}},
    {"put back a deletion that was outlived, restart, replace", "claim +a take -a take +a",
     {"+a", "restart", "put_back take"}, .preemptions = 2},
    {"put back a deletion that was outlived, restart, collect", "claim +a take -a take +a",
     {"restart collect", "put_back take"}},
    {"put back a deletion, in-sync", "claim +a take -a take +a restart", {"sync +a", "put_back take"}},
    {"put back a value, in-sync", "claim +a take restart", {"sync +a", "put_back take"}},
    {"put back statuses, restart", "claim resync +a sync take", {"restart sync", "put_back take"}},
    {"put back statuses, status", "claim resync +a sync take", {"wait -a", "put_back take"}},
    {"put back, stop", "claim +a take", {"stop +a", "put_back take"}},
    {"put back, stop, put", "claim-loop -a# take +a", {"+a", "stop", "put_back take"}, .preemptions = 2},
    {"put back after a stop, put", "claim +a take", {"+a", "stop", "put_back"}, .preemptions = 2},
    {"put back, finish", "claim-loop +a +b take", {"+a finish", "put_back take take"}},
    {"put back, finish, put", "claim-loop +a take", {"finish +a", "put_back take take"}},
    {"put back after a finish, put", "claim-loop +a finish take", {"+b -a", "put_back take take"}},
    {"put back, release", "claim +a take", {"-a +a claim", "put_back release"}},
    {"put back in a map that is rebuilt", "claim fill15 +a take -a take", {"+b -b +c", "put_back take"}, .preemptions = 2},

    /* One call, several updates. */
    {"call of two, replaced", "+a +b", {"+a+b", "-a -b"}},
    {"call of three, one key", "claim +a", {"+a-a+a", "take take"}},
    {"calls of one key twice", "+a", {"+a-a", "+a+a"}},
    {"call of two, restart", "+a +b", {"+a+b", "restart +b+a"}},
    {"call of known and unknown", "+a", {"+a+b+a", "+b-a"}},
    {"replaced under the lock, after an unknown key", "+a", {"+a +a", "+b+a +a"}},
    {"an unknown key's deletion replaced under the lock", "-a", {"+a -a#", "+b-a#"}},
    {"the same, and two put", "-a", {"+a", "+b-a#", "+a"}, .preemptions = 2},

    /* Statuses, the end. */
    {"statuses become neighbours", "claim resync +a sync", {"-a +a", "resync take"}},
    {"statuses, two sources", "claim +a", {"resync -a sync", "wait +a"}},
    {"finish: a queued status leaves", "claim-loop resync +a sync", {"-a +b", "finish", "take take"}, .preemptions = 2},
    {"finish, take, put", "claim-loop +a", {"+a +b", "finish", "take take"}, .preemptions = 2},
    {"finish, put, cancel, put", "claim-loop +a", {"-a +a", "finish", "take take"}, .preemptions = 2},
    {"finish, statuses", "claim-loop +a", {"resync -a sync", "finish", "take take"}, .preemptions = 2},
    {"finish, restart, in-sync", "claim-loop +a take +b", {"restart sync +b", "finish", "take take"},
     .preemptions = 2},
    {"a loop, two finish", "claim-loop +a", {"+b finish", "finish-empty +a", "loop"}, .preemptions = 1},
    {"finish when empty, take, put", "claim-loop +a", {"+a +b", "finish-empty", "take take"}, .preemptions = 2},
    {"finish, release", "claim-loop +a", {"finish +a", "take release"}},
    {"finish, begin to take", "+a", {"finish", "claim-loop take release"}},
    {"stop, put, take", "claim-loop +a", {"+a +b", "stop", "take take"}, .preemptions = 2},
    {"asleep, put", "claim-loop take", {"+a -a", "take take"}},
    {"asleep, status", "claim-loop take", {"resync sync", "take take"}},
    {"asleep, sweep", "claim-loop +a take restart take", {"sync", "take take"}},
    {"a loop, put, finish", "claim-loop", {"+a +a finish", "loop"}},
    {"a loop, two put, finish", "claim-loop", {"+a finish", "+a -a", "loop"}, .preemptions = 1},
    {"a loop, a resync, finish", "claim-loop +a take", {"restart sync finish", "loop"}},
    {"a loop, stop", "claim-loop", {"+a stop", "loop"}},
    {"two sinks", "+a +b", {"claim take1 release", "claim take release"}},

    /* Index, contexts, slots, counters. */
    {"a map grows", "+a fill15", {"+a +a", "+b -b"}, .preemptions = 2},
    {"a map is rebuilt", "fill16 drop16 +a +b", {"+a +b", "-b +c"}, .preemptions = 2},
    {"slots", "+a slot", {"slot +a slot", "slot slot"}, .preemptions = 2},
    {"contexts are added", "bare +a", {"+a", "+a", "-a"}, .preemptions = 2},
    {"a context is added under the lock", "bare +a +b", {"+a -a", "-b +b"}, .preemptions = 2},
    {"counters", "claim +a", {"+a +b", "take stats", "stats"}, .preemptions = 2},
    {"collect, collect", "+a +b", {"restart collect", "collect +a"}},

    /* Merging. */
    {"merge, take", "merging claim +a", {"+a +a", "take take"}, .waits = true},
    {"merge, merge, take", "merging claim +a", {"+a", "+a", "take take"}, .preemptions = 2, .waits = true},
    {"merge, merge", "merging", {"+a +a", "+a +a"}, .waits = true},
    {"merge, a loop", "merging claim-loop", {"+a +a", "+a finish", "loop"}, .preemptions = 1, .waits = true},
    {"merge, cancel", "merging claim +a", {"+a", "-a +a", "take"}, .preemptions = 2, .waits = true},
    {"merge, cancel, finish", "merging claim-loop +a", {"+a", "finish -a", "loop"}, .preemptions = 2, .waits = true},
    {"merge, cancel, a status behind it", "merging claim-loop +a", {"+a", "sync -a finish", "loop"}, .preemptions = 2,
     .waits = true},
    {"merge, delete", "merging claim +a take +a", {"+a", "-a# +a", "take"}, .preemptions = 2, .waits = true},
    {"merge, delete, a loop", "merging claim-loop +a take +a", {"+a", "-a finish", "loop"}, .preemptions = 2,
     .waits = true},
    {"merge in a deletion's place", "merging claim +a take -a", {"+a +a", "-a#", "take"}, .preemptions = 2, .waits = true},
    {"merge, restart", "merging claim +a", {"+a", "restart +a", "take"}, .preemptions = 2, .waits = true},
    {"merge, restart, merge", "merging claim +a", {"+a", "restart +a +a +a"}, .waits = true},
    {"merge, restart, two merge", "merging claim +a", {"+a", "restart +a", "+a"}, .preemptions = 2, .waits = true},
    {"merge, restart, collect", "merging claim +a +b take +a", {"+a +a", "restart collect sync"}, .waits = true},
    {"merge an unknown key, restart, collect", "merging +a", {"+a +a", "restart collect"}, .waits = true},
    {"merge, restart, sweep", "merging claim +a take +a", {"+a", "restart sync take"}, .waits = true},
    {"merge, finish, restart", "merging claim-loop +a", {"+a", "finish restart", "loop"}, .preemptions = 2, .waits = true},
    {"merge, stop", "merging claim +a", {"+a", "stop", "+a take"}, .preemptions = 2, .waits = true},
    {"merge, put back a new value", "merging claim +a take", {"+a +a", "put_back take"}, .waits = true},
    {"merge, put back a new value that was replaced", "merging claim +a take +a", {"+a -a", "put_back take"}, .waits = true},
    {"merge, put back a live key's value", "merging claim +a take +a take +a", {"+a -a#", "put_back take"}, .waits = true},
    {"delete, merge, put back a live key's value", "merging claim +a take +a take", {"-a +a +a", "put_back take"}, .waits = true},
    {"merge, put back a deletion", "merging claim +a take -a take +a", {"+a -a", "put_back take"}, .waits = true},
    {"merge, restart, put back", "merging claim +a take +a", {"+a", "restart +a", "put_back take"}, .preemptions = 2,
     .waits = true},
    {"merge, put back, two put", "merging claim +a take +a", {"+a", "+a", "put_back take"}, .preemptions = 2, .waits = true},
    {"merge, put back, finish", "merging claim-loop +a take +a", {"+a finish", "put_back take take"}, .waits = true},
    {"calls of two merge", "merging +a +b", {"+a+b", "+b+a"}, .waits = true},

    /* What the sink has already. */
    {"restart, the same, in-sync", "suppressing claim +a take", {"restart =a sync", "take take"}},
    {"the same, twice", "suppressing claim +a take", {"=a restart", "=a +a", "take"}, .preemptions = 2},
    {"the same, delete", "suppressing claim +a take restart", {"=a +a", "-a =a"}},
    {"the same, what a restart dropped is replaced", "suppressing claim +a take +a", {"+a -a", "restart =a"}},
    {"the same, a deletion that a restart dropped is replaced", "suppressing claim +a take -a#", {"-a#", "restart =a sync"}},
    {"the same, sweep", "suppressing claim +a +b take restart", {"=a -b", "sync take"}},
    {"the same, take", "suppressing claim +a take +a", {"=a", "take restart =a"}},
    {"the same, put back", "suppressing claim +a take restart", {"=a sync", "put_back take"}},
    {"the same, put, put back", "suppressing claim +a take restart", {"=a +a", "put_back take"}},
    {"put back what came after the same", "suppressing claim +a take +a take", {"restart =a", "put_back take"}},
    {"put back what came after the same, twice", "suppressing claim +a take +a take restart", {"=a =a", "put_back take"}},
    {"put back a deletion, the same", "suppressing claim +a take -a take", {"restart =a =a", "put_back take"}},
    {"put back a deletion that was outlived, the same", "suppressing claim +a take -a take +a", {"restart =a", "put_back take"}},

    /* Pins. */
    {"by pin: replace, replace", "@a +a", {"+A +A", "+A +a"}},
    {"by pin: replace, the first context's tally is another's", "bare @a +a", {"+A +A", "+A +A"}},
    {"by pin: three replace", "@a +a", {"+A", "+A", "+A"}},
    {"by pin: replace, cancel", "@a +a", {"+A +A", "-A +A"}},
    {"by pin: replace, cancel by key", "@a +a", {"+A +A", "-a +b +c"}},
    {"by pin: replace, take a value", "@a claim +a", {"+A +A +A", "take take"}},
    {"by pin: delete, take a live key's value", "@a claim +a take +a", {"-A +A", "take take"}},
    {"by pin: put, take a deletion", "@a claim +a take -a", {"+A -A#", "take take"}},
    {"by pin: an unknown key's deletion, replaced", "@a -a#", {"+A -A#", "-A# +A"}},
    {"by pin: restart, replace, collect", "@a claim +a", {"+A +A", "restart collect"}},
    {"by pin: restart, replace, sweep", "@a claim +a take +a", {"+A", "restart sync"}},
    {"by pin: a call of many", "@a @b claim +a +b", {"+A+B", "-A+b", "take"}, .preemptions = 2},
    {"by pin: a call of many by pin and by key", "@a claim +a +b", {"+A+b+A", "-b take"}},
    {"by pin: stop", "@a +a", {"+A +A", "stop"}},
    {"by pin: put back, replace", "@a claim +a take", {"+A -A", "put_back take"}},
    {"by pin: put back a deletion, put", "@a claim +a take -a take", {"+A -A", "put_back take"}},
    {"by pin: put back a deletion, restart", "@a claim +a take -a take", {"restart +A sync", "put_back take"}},
    {"by pin: merge, merge", "merging @a claim +a", {"+A", "+A", "take"}, .preemptions = 2, .waits = true},
    {"by pin: the same", "suppressing @a claim +a take restart", {"=A sync", "+A take"}},
    {"by pin: overflow, replace", "bound1 @a claim +a", {"+A +A", "+b take"}},
    {"pin, pin", "", {"@a +A !a", "@a +A !a"}},
    {"pin, put, cancel", "", {"@a +A -A !a", "+a -a"}},
    {"pin, cancel", "+a", {"@a +A !a", "-a +a"}},
    {"pin, take a deletion", "claim +a take -a", {"@a +A !a", "take take"}},
    {"pin, restart, collect", "+a", {"@a !a", "restart collect"}},
    {"unpin, replace", "@a +a", {"!a +b -b +c", "+a +a"}},
    {"unpin, cancel", "@a +a", {"!a", "-a +a"}},
    {"unpin, pin", "@a", {"!a", "@a +A"}},
    {"unpin, put", "@a", {"!a", "+a -a"}},
    {"unpin, take a deletion", "@a claim +a take -a", {"!a +b -b +c", "take take"}},
    {"unpin a borrowed key", "@a claim +a take -a take", {"!a +b -b +c -c", "+a take"}},
    {"unpin a borrowed key, put back", "@a claim +a take -a take", {"!a +a", "put_back take"}},
    {"unpin one of two borrowed keys, put back", "@b claim +a+b take -a-b take", {"!b +c", "put_back take"}},
    {"unpin a borrowed key, cancelled, put back", "@a claim +a take -a take +a", {"!a -a +b", "put_back take"}},
    {"unpin a borrowed key, restart, put back", "@a claim +a take -a take", {"!a restart +b", "put_back take"}},
    {"unpin a new value, put back", "@a claim +a take -a", {"!a +b -b +c", "put_back take"}},
    {"unpin, restart, collect", "@a claim +a", {"!a +b", "restart collect"}},
    {"unpin, merge", "merging @a claim +a take -a take", {"!a", "+a +a", "take"}, .preemptions = 2, .waits = true},
    {"unpin, release", "@a claim +a take -a take", {"!a +b -b +c", "release"}},

    /* Bounds. */
    {"overflow, replace", "bound1 claim +a", {"+a +a", "+b take"}},
    {"overflow, take", "bound1 claim +a", {"+b +a", "take take"}},
    {"overflow, overflow", "bound1 claim +a", {"+b restart", "+c +a", "take"}, .preemptions = 2},
    {"overflow, restart, in-sync", "bound1 claim +a take +b", {"+a sync", "restart +a", "take"}, .preemptions = 2},
    {"overflow, in-sync, take", "bound1 claim +a take +b", {"-a sync restart", "sync take"}},
    {"overflow, put back", "bound2 claim +a +b take +a", {"+c +d", "put_back restart take"}},
    {"overflow, collect", "bound1 claim +a take +a", {"+b collect", "-a# restart"}},
    {"overflow, a loop", "bound1 claim-loop +a", {"+b finish", "restart +a", "loop"}, .preemptions = 1},

#if CDEDUPE_RESTART_BITS == 3
    /* Restart numbers used up. */
    {"wrap: replace, restart", "claim +a take laps6 +a", {"+a -a", "restart +a"}},
    {"wrap: replace an unknown key", "laps6 +a", {"+a +a", "restart +a"}},
    {"wrap: replace, restart, collect", "laps6 +a +b", {"+a +b", "restart collect"}},
    {"wrap: sweep", "claim +a +b take laps6 +a", {"+b", "restart sync"}},
    {"wrap: put back", "claim +a take laps5 +b", {"restart sync", "put_back take"}},
    {"wrap: put back a deletion", "claim +a take -a take laps5 +b", {"restart sync", "put_back take"}},
    {"wrap: merge, restart", "merging claim +a take laps6 +a", {"+a", "restart +a +a"}, .waits = true},
    {"wrap: merge, restart, merge", "merging laps6 +a", {"+a", "restart +a", "+a"}, .preemptions = 2, .waits = true},
    {"wrap: the same", "suppressing claim +a take laps6 +a", {"+a", "restart =a sync"}},
    {"wrap: overflow", "bound1 claim +a take laps6 +a", {"+a", "+b restart +a"}},
    {"wrap: dropped updates, take", "claim +a +b take +b laps6 -a", {"restart +b", "take sync"}},
#endif

#ifdef CDEDUPE_TEST_SIZES
    /*
     * What grows and shrinks does so with a handful of keys, and what goes on in several lock
     * scopes goes on in two.
     */
    {"tiny: sets are split", "+a fill7", {"+a +a", "+b +c -b"}, .preemptions = 2},
    {"tiny: sets are made one", "+a fill12", {"+a +a", "drop6 -a"}, .preemptions = 2},
    {"tiny: sets are made one, the directory is halved", "fill30 +a", {"+a -a", "drop28 +b"}, .preemptions = 1},
    {"tiny: a take of two lock scopes", "claim +a +b +c +d +e", {"+a -e", "take take"}, .preemptions = 2},
    {"tiny: a take of two lock scopes, restart", "claim +a +b +c +d +e", {"restart +e", "take take"}, .preemptions = 2},
    {"tiny: a sweep of two lock scopes", "claim +a +b +c +d +e take", {"restart sync", "+e take"}, .weak = true},
    {"tiny: a sweep of two lock scopes, replaced", "claim +a +b +c +d +e take +e", {"restart sync", "+e -e"}, .weak = true},
    {"tiny: a sweep of two lock scopes, another restart", "claim +a +b +c +d +e take restart", {"sync", "+e restart sync"},
     .weak = true},
    {"tiny: a sweep of two lock scopes, two in-syncs", "claim +a +b +c +d +e take restart", {"sync take", "+a sync"},
     .weak = true},
    {"tiny: a sweep of two lock scopes, a loop asleep", "claim-loop +a +b +c +d +e take restart take",
     {"sync finish", "loop"}, .weak = true},
    {"tiny: a sweep of two lock scopes, put back", "claim +a +b +c +d +e take -a take", {"restart sync", "put_back take"},
     .weak = true},
    {"tiny: put back in two lock scopes", "claim +a +b +c +d take", {"+a -d", "put_back take"}, .preemptions = 2},
    {"tiny: put back in two lock scopes, restart", "claim +a +b +c +d take", {"restart +a", "put_back take"}, .preemptions = 2},
    {"tiny: put back deletions in two lock scopes, sweep", "claim +a+b+c+d +e take -a-b-c-d take restart",
     {"sync", "put_back take"}, .weak = true},
    {"tiny: take in two lock scopes, put back", "claim +a +b +c +d", {"-a +a", "take put_back take"}, .preemptions = 2},
    {"tiny: take in two lock scopes, restart, put back", "claim +a +b +c +d", {"restart +a", "take put_back take"},
     .preemptions = 2},
    {"tiny: take in two lock scopes, put back, merge", "merging claim +a +b +c +d", {"+a +a", "take put_back take"}, .preemptions = 2,
     .waits = true},
    {"tiny: put again while it is taken, put back, merge", "merging claim +a +b +c", {"+a", "+a", "take put_back take"}, .preemptions = 2,
     .waits = true},
    {"tiny: keys that stay borrowed", "claim +a take", {"-a +b -b +c -c +d -d", "put_back collect take"}, .preemptions = 2},
    {"tiny: waiting for readers", "+a", {"+a +a", "+b -b +c -c +d -d"}, .preemptions = 2},
    {"tiny: waiting for readers with calls of two", "+a", {"+a+a", "+b-b +c-c +d-d +e-e +f-f"}, .preemptions = 2},
    {"tiny: pinning waits for readers", "+a", {"+a +a", "@b !b @c !c @d !d @e !e @f !f"}, .preemptions = 2},
    {"tiny: both wait for readers", "+b -b +c -c", {"+b -b +d", "+c -c"}, .preemptions = 2},
    {"tiny: an entry's memory is used again", "+a", {"+a", "-a +b -b +c -c +a"}, .preemptions = 2},
    {"tiny: magazines", "+a +b +c +d", {"slot slot", "slot +a"}, .preemptions = 2},
#endif
};
/* clang-format on */

const size_t program_list_count = sizeof(program_list) / sizeof(program_list[0]);

/* ---------------------------------------------------------------------------------------------- */
/* Keys                                                                                           */

const char *
key_text(unsigned key)
{
    static char texts[KEYS_MAX][24];

    /* Found by trying: with the tests' seed their hashes begin with the same 32 bits. */
    if (key == 'x' - 'a')
        return "key-132044";
    if (key == 'y' - 'a')
        return "key-173839";
    if (texts[key][0] == 0) {
        if (key < KEYS_LETTERS)
            snprintf(texts[key], sizeof(texts[key]), "key-%c", (char)('a' + key));
        else
            snprintf(texts[key], sizeof(texts[key]), "fill-%u", key - KEYS_LETTERS);
    }
    return texts[key];
}

/* ---------------------------------------------------------------------------------------------- */
/* Parsing                                                                                        */

static unsigned
first_value_in(const struct op_list *list, unsigned key)
{
    for (unsigned i = 0; i < list->count; i++)
        for (unsigned j = 0; j < list->ops[i].count; j++)
            if (list->ops[i].updates[j].key == key && !list->ops[i].updates[j].deletion)
                return (unsigned)list->ops[i].updates[j].id;
    return 0;
}

/* Its id, or zero. It stands in the set-up, or in the same thread or one before it. */
static unsigned
first_value(const struct program *program, unsigned key)
{
    unsigned id = first_value_in(&program->setup, key);

    for (unsigned i = 0; i < THREADS_MAX && id == 0; i++)
        id = first_value_in(&program->threads[i], key);
    return id;
}

/* Gives each update that carries a payload its number. */
static bool
number_updates(struct program *program, struct op *op)
{
    for (unsigned i = 0; i < op->count; i++) {
        struct op_update *update = &op->updates[i];

        if (update->number == NUMBER_NONE)
            continue;
        if (update->number == NUMBER_GIVEN || program->ids + 1 == PROGRAM_IDS_MAX)
            return false;
        update->id = ++program->ids;
        program->revisions[update->id] =
            update->number == NUMBER_FIRST ? first_value(program, update->key) : program->ids;
    }
    return true;
}

/* Words that only scenarios of one thread have. */
static bool
is_of_programs(const struct op *op)
{
    switch (op->kind) {
    case OP_FLUSH:
    case OP_REPEAT:
    case OP_REPEAT_END:
    case OP_BYTES:
    case OP_BATCH:
        return false;
    default:
        return true;
    }
}

static bool
parse_list(struct program *program, struct op_list *list, const char *text)
{
    char copy[256], *word, *rest = copy;

    snprintf(copy, sizeof(copy), "%s", text);
    while ((word = strtok_r(rest, " ", &rest)) != NULL) {
        struct op *op = &list->ops[list->count];

        if (list->count++ == PROGRAM_OPS_MAX)
            return false;
        if (!op_parse(op, word, NULL, NULL) || !is_of_programs(op) || !number_updates(program, op))
            return false;
    }
    return true;
}

unsigned
program_choice(const struct program *program, enum op_kind kind)
{
    const struct op_list *setup = &program->setup;

    return setup->count > 0 && setup->ops[0].kind == kind ? setup->ops[0].argument : 0;
}

bool
program_parse(struct program *program, const struct program_text *text)
{
    memset(program, 0, sizeof(*program));
    program->name = text->name;
    if (!parse_list(program, &program->setup, text->setup))
        return false;
    while (program->threads_count < THREADS_MAX && text->threads[program->threads_count] != NULL) {
        struct op_list *list = &program->threads[program->threads_count];

        if (!parse_list(program, list, text->threads[program->threads_count++]))
            return false;
    }
    return program->threads_count > 0;
}

/* ---------------------------------------------------------------------------------------------- */
/* Chance                                                                                         */

/* splitmix64 */
static uint64_t
next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static const char *
pick(uint64_t *state, const char *const *from, size_t count)
{
    return from[next_random(state) % count];
}

static const char *const setups[] = {
    "",
    "+a",
    "-a",
    "claim",
    "claim +a",
    "claim +a take",
    "claim +a take +a",
    "claim +a take -a",
    "claim +a +b take -b",
    "claim +a take restart",
    "claim +a +b take +a restart",
    "claim +a take -a restart",
    "claim-loop take",
    "claim-loop +a take",
    "claim resync +a sync",
    "claim +a take resync restart resync",
    "claim +x take +y",
    "bare +a",
    "+a fill15",
    "merging claim +a",
    "merging claim +a take +a",
    "merging claim-loop +a take +a take",
    "suppressing claim +a take restart",
    "suppressing claim +a take +a take restart",
    "bound1 claim +a",
    "bound2 claim +a +b take +a",
#if CDEDUPE_RESTART_BITS == 3
    "claim +a take laps6 +a",
    "claim +a +b take laps6 -a",
    "claim +a laps5",
#endif
};

static const char *const source_ops[] = {
    "+a",   "+a",   "+a",      "-a",   "-a",     "-a#",     "+b",   "-b",    "+a+b", "+a-a",
    "-a+a", "+b-a", "restart", "sync", "resync", "collect", "slot", "stats", "+c",   "=a",
};

static const char *const sink_ops[] = {
    "take", "take", "take1", "put_back", "put_back1", "collect", "+a", "-a", "release", "claim",
};

static const char *const last_ops[] = {"stop", "finish", "finish-empty", "restart",
                                       "sync", "+a",     "-a",           "collect"};

static void
append_word(char *text, size_t size, const char *word)
{
    size_t length = strlen(text);

    snprintf(text + length, size - length, "%s%s", length == 0 ? "" : " ", word);
}

struct program_text
program_random(uint64_t seed, struct program_storage *storage)
{
    uint64_t state = seed;
    bool three = next_random(&state) % 4 == 0;
    struct program_text text = {.name = storage->name, .setup = storage->setup};

    memset(storage, 0, sizeof(*storage));
    snprintf(storage->name, sizeof(storage->name), "random %llu", (unsigned long long)seed);
    append_word(storage->setup, sizeof(storage->setup),
                pick(&state, setups, sizeof(setups) / sizeof(setups[0])));
    text.waits = strncmp(storage->setup, "merging", strlen("merging")) == 0;
    for (unsigned thread = 0; thread < (three ? 3u : 2u); thread++) {
        bool sink = thread == 1 && next_random(&state) % 3 != 0;
        unsigned count = three ? 2 : 3;

        for (unsigned i = 0; i < count; i++) {
            const char *word =
                sink ? pick(&state, sink_ops, sizeof(sink_ops) / sizeof(sink_ops[0]))
                     : pick(&state, source_ops, sizeof(source_ops) / sizeof(source_ops[0]));

            if (i + 1 == count && next_random(&state) % 6 == 0)
                word = pick(&state, last_ops, sizeof(last_ops) / sizeof(last_ops[0]));
            append_word(storage->threads[thread], sizeof(storage->threads[thread]), word);
        }
        text.threads[thread] = storage->threads[thread];
    }
    return text;
}
