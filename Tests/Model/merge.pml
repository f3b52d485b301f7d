/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The merge lock as a Promela model: which call has it, which calls wait for it, and which call
 * wakes the loop. README.md says what it shows.
 *
 * No other call sees what the mutex's holder does to words, so the queue is only a number here. A
 * step's name also stands in the code, in merge.c, put.c, put_back.c and take.c:
 *
 *     M  merging     put.c: merge_next, replace_merged; put_back.c: merge_item
 *     T  taking      take.c: begin_turn
 *     W  waking      merge.c: merge_unlock
 *
 * Parameters (-D): PUTS, the calls of each producer; BATCH: the sink takes single batches, and so
 * waits for the mutex. MUTANT_x: a deliberate fault.
 */
#ifndef PUTS
#define PUTS 2
#endif

#define AWAY 0
#define REFUSED 1
#define WAITS 2

bit spin;            /* The spinlock. */
byte mutex;          /* The process that has it; zero: none. */
byte sink = AWAY;    /* What the sink does that found the mutex held. */
byte signals;        /* How often sink_came was broadcast. */
byte queued;         /* Updates that are pending. */
byte put, taken;     /* All that were. */
bit merging;         /* A callback runs. */
bit asleep, woken, finishing, stopped;
byte producers = 2;

#define SPIN atomic { !spin -> spin = 1 }
#define UNSPIN spin = 0

/* merge_unlock: the mutex first, then the loop. */
inline merge_unlock() {
#ifdef MUTANT_NOTIFY_FIRST
    SPIN; notify_refused(); UNSPIN;
    assert(mutex == _pid + 1); mutex = 0;
#else
    assert(mutex == _pid + 1); mutex = 0;
#ifndef MUTANT_NO_NOTIFY
    SPIN; notify_refused(); UNSPIN;                             /* W3 a loop that found it held */
#endif
#endif
    call_hook()
}

inline notify_refused() {
    atomic {
        if
#ifdef MUTANT_NOTIFY_QUEUE
        :: asleep && queued > 0 -> asleep = 0; hook = 1
#else
        :: asleep && (queued > 0 || finishing) -> asleep = 0; hook = 1
#endif
        :: else -> skip
        fi
    }
}
inline call_hook() { if :: hook -> hook = 0; woken = 1 :: else -> skip fi }

proctype Producer() {
    byte calls = PUTS, before, yields; bit hook;

    do
    :: calls == 0 -> break
    :: else ->
       calls--;
       atomic { mutex == 0 -> mutex = _pid + 1 };
       if
       :: sink == REFUSED ->                                    /* the loop gets one chance */
          merge_unlock();
          atomic { mutex == 0 -> mutex = _pid + 1 };
          if :: sink == REFUSED -> sink = AWAY :: else -> skip fi
       :: else -> skip
       fi;
       do
       :: sink == WAITS ->
          atomic { before = signals; mutex = 0 };
          signals != before;
          atomic { mutex == 0 -> mutex = _pid + 1 }
       :: else -> break
       od;
       /* M1 the callback, with the mutex alone */
       if
       :: queued > 0 ->
          assert(!merging); merging = 1;
          assert(mutex == _pid + 1);
          merging = 0;
          SPIN;                                                 /* M2 the result takes the place of both */
          put++; taken++;
          UNSPIN
       :: queued > 0 ->                                         /* a deletion that cancels what is pending */
          SPIN; queued--; taken = taken + 2; put++; UNSPIN
       :: queued == 0 ->
          SPIN; atomic { queued++; put++; if :: asleep -> asleep = 0; hook = 1 :: else -> skip fi }; UNSPIN
       fi;
       before = 0;
       merge_unlock()
    od;
    producers--
}

#ifndef BATCH
/* A take that does not wait. */
active proctype Loop() {
    bit hook;

take:
    SPIN;
#ifdef MUTANT_TRY_UNLOCKED
    UNSPIN;
#endif
    asleep = 0;
    if                                                          /* T8 it tries, under the spinlock */
    :: atomic { mutex == 0 -> mutex = _pid + 1 }; sink = AWAY
    :: mutex != 0 ->
       sink = REFUSED;
       if :: finishing && queued == 0 -> UNSPIN; goto end_loop :: else -> skip fi;
#ifdef MUTANT_TRY_UNLOCKED
       SPIN;
#endif
       asleep = 1; UNSPIN; goto sleep
    fi;
#ifdef MUTANT_TRY_UNLOCKED
    SPIN;
#endif
    if
    :: queued > 0 ->
       taken = taken + queued; queued = 0;                      /* M3 (putting back merges in the same way) */
       UNSPIN; merge_unlock(); goto take
    :: queued == 0 && finishing -> UNSPIN; merge_unlock(); goto end_loop
    :: else -> asleep = 1; UNSPIN; merge_unlock()
    fi;
sleep:
    woken -> woken = 0;
    goto take;
end_loop:
    stopped = 1
}
#else
/* A take that waits for the mutex; what comes afterwards is not its business. */
active proctype Batch() {
    byte takes = 2;

    do
    :: takes == 0 -> break
    :: else ->
       takes--;
       SPIN; UNSPIN;
       if
       :: atomic { mutex == 0 -> mutex = _pid + 1 }
       :: mutex != 0 ->
          sink = WAITS;
          atomic { mutex == 0 -> mutex = _pid + 1 };
          sink = AWAY;
#ifndef MUTANT_NO_BROADCAST
          signals++
#else
          skip
#endif
       fi;
       assert(!merging);
       SPIN; taken = taken + queued; queued = 0; UNSPIN;
       assert(mutex == _pid + 1); mutex = 0
    od;
    stopped = 1
}
#endif

active proctype Finisher() {
    bit hook;

    SPIN;
    atomic {
        finishing = 1;
        if :: asleep && queued == 0 -> asleep = 0; hook = 1 :: else -> skip fi
    };
    UNSPIN;
    call_hook();
    stopped && producers == 0;
    assert(taken + queued == put)
}

init { atomic { run Producer(); run Producer() } }
