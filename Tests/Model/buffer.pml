/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The word protocol of Sources/CDedupe as a Promela model, step by step. README.md says what it
 * shows.
 *
 * A step's name (U5, T3, ...) also stands in the code, in the comment at the place that takes the
 * step:
 *
 *     U  a producer without the lock   put.c: put_chunk, look_up, replace_unlocked
 *     P  a producer under the lock     put.c: put_one, put_anywhere, insert, requeue, revive, replace,
 *                                      delete_not_live, suppress, overflow, refuse_queueing
 *     C  clearing dropped updates      collect.c: clear_one, clear_entry
 *     T  taking a batch                take.c: take_some, take_word, take_entry, take_status, finish_take
 *     G  putting back                  put_back.c
 *     S  a status, and the sweep       status.c: put_status_some, sweep_entry, queue_status,
 *                                      synthesize_deletion, synthesize_deletion_of_stale
 *     R  a restart                     status.c: cdedupe_restart, next_restart, forget_old_restarts
 *     E  the end                       life.c, take.c: cdedupe_stop, cdedupe_finish, cdedupe_release,
 *                                      is_over
 *     N  pinning and unpinning         pin.c: pin_key, remove_pin; entries.c: entry_leave
 *     W  waking the loop               buffer.h: notify, scope_wake
 *
 * Work under the lock that no thread without the lock can see is one step with the work beside it.
 * The model releases the lock wherever the code may release it between two pieces of work. Longer
 * lock scopes are therefore among its runs.
 *
 * Parameters (-D):
 *
 *     K               keys
 *     U               updates of one call
 *     N1, N2, N3      calls of each producer; OPS1, OPS2, OPS3: the kinds that it chooses from
 *     NE, NS          entries and slots
 *     BATCH           items of a batch
 *     RMAX            the largest restart number, 1 to 3
 *     MEMORY          a call may run out of memory once
 *     QUIT            the loop may release its claim at any time
 *     PUT_BACK        the most items that the loop puts back, one in each call
 *     SUPPRESS        a value may repeat the last one sent; if the sink has it, it is suppressed
 *     PINS            a producer may pin key 1, and puts by the pin then; see PIN
 *     OVERFLOW        an update that adds a pending key may exceed a bound
 *     MUTANT_x        a deliberate fault
 */
#define PUT 1
#define DELETE 2
#define RESYNC 4
#define IN_SYNC 8
#define RESTART 16
#define COLLECT 32
#define STOP 64
#define FINISH 128       /* when delivered */
#define FINISH_EMPTY 256 /* when empty */
#define PIN 512          /* pins key 1, or gives the pin back */

#ifndef K
#define K 1
#endif
#ifndef U
#define U 1
#endif
#ifndef N1
#define N1 2
#endif
#ifndef N2
#define N2 2
#endif
#ifndef N3
#define N3 0
#endif
#ifndef OPS1
#define OPS1 (PUT+DELETE)
#endif
#ifndef OPS2
#define OPS2 (PUT+DELETE)
#endif
#ifndef OPS3
#define OPS3 STOP
#endif
#ifndef NE
#define NE 4
#endif
#ifndef NS
#define NS 6
#endif
#ifndef BATCH
#define BATCH 2
#endif
#ifndef RMAX
#define RMAX 3
#endif

/* ---------------------------------------------------------------------------------------------- */
/* word.h                                                                                         */

#define P_ 64
#define D_ 128
#define L_ 256
#define I_ 512
#define WORD(s, r, f) ((s) | ((r) << 4) | (f))
#define SLOT(w) ((w) & 15)
#define REPLACES(w, deletes) (!((deletes) && CANCELS(w)))
#define NUMBER(w) (((w) >> 4) & 3)
#define IS_CURRENT(w, r) (((w) & P_) && NUMBER(w) == (r))
#define IS_STALE(w, r) (((w) & P_) && NUMBER(w) != (r))
#define IS_UNSEEN(w, r) (((w) & L_) && NUMBER(w) != (r))
#define CANCELS(w) (!((w) & (D_ | L_)))
#define PENDING(w, s, r, d) WORD(s, r, I_ | P_ | ((w) & L_) | ((d) -> D_ : 0))
#define IDLE(r) WORD(0, r, I_ | L_)
#define VACANT I_

/* ---------------------------------------------------------------------------------------------- */
/* The buffer. Items of the queue: an entry's number, or a status: STATUS + its place in `status`.
   */

#define STATUS 16
#define IS_STATUS(x) ((x) >= STATUS)
#define NSTATUS (K + 2)
#define NQUEUE (2 * K + 2)
#define BEFORE(i) ((i) > 0 -> ring[((i) > 0 -> (i) - 1 : 0)] : 0) /* The item before the i-th, or the head. */

bit lock;
bit stopped;
byte restart = 1;
bit asleep, resync, touched, claim;
byte latest_received, latest_taken; /* 0: wait for ready; 1: resync; 2: in sync */
#ifdef OVERFLOW
bit overflowed;                     /* Everything is dropped until the next restart. */
#endif
bit restarted;                      /* Since the first item of the last batch was taken. */
bit dropped_equal_status;           /* A status was ignored since the last queued one. */
byte unseen_generation;             /* Entries that putting back made unseen. */
byte finishing;                     /* 0: not; 1: when delivered; 2: when empty */
byte ring[NQUEUE], ring_length;
byte dropped[K + 1], dropped_length; /* Entries only: a dropped status does nothing. */
byte detached[4], detached_length;
byte status[NSTATUS];               /* Values of queued statuses; zero: free. */

short word[NE + 1];
byte key[NE + 1];                   /* 1 to K; zero: free. */
#ifdef SUPPRESS
byte content[NS + 1];               /* What a slot's value says: a number for each that is new; zero: a deletion. */
byte revision[NE + 1];              /* That of the value that was taken last; zero: none. */
#endif
byte index_[K + 1];
#ifdef PINS
byte pins[NE + 1];
bit lent[NE + 1];                   /* The sink may read the key although the entry is neither dead nor live. */
#ifdef MUTANT_PINS_TAKE
#define GONE(e) 0
#else
#define GONE(e) (pins[e] > 0 -> VACANT : 0)
#endif
#define IS_PRESENT(e) (word[e] != 0 && word[e] != VACANT)
#else
#define GONE(e) 0
#define IS_PRESENT(e) (word[e] != 0)
#endif

/* Reclamation, at the earliest moment that the sections allow; retired.pml has the rest. */
#define FREE 0
#define USED 1
#define BORROWED 2
#define RETIRED 3
byte state[NE + 1];
byte readers[NE + 1];               /* Sections that may be looking at a dead entry, */
byte sections;                      /* and those that are open. */

byte wake;                          /* The wake callback was called. */

/* ---------------------------------------------------------------------------------------------- */
/* Ghosts: what the assertions go by                                                              */

#define IN 10                       /* Owner of a slot: IN + the entry whose word has it, */
#define DETACHED 9                  /* the detached payloads, */
#define SINK 8                      /* the sink, a producer's number, or zero: nobody. */
byte owner[NS + 1];
#ifdef SUPPRESS
byte contents;                      /* Numbers given so far, */
byte sent[K + 1];                   /* the last of them that was put for the key, */
byte sink_content[K + 1];           /* and what the sink has. */
#endif
byte versions[K + 1];               /* Updates of the key so far: the newest one's version. */
byte newest[K + 1];                 /* Newest version that no restart dropped; zero: none since. */
bit newest_deletes[K + 1];
byte version[NE + 1];               /* What is pending in the entry. */
byte taken[K + 1];                  /* Version that was taken last, or cancelled. */
bit at_sink[K + 1];                 /* The sink has a value. */
byte barrier[NSTATUS * (K + 1)];    /* Versions received before the status. */
byte held;                          /* Entries whose keys the sink may read. */
byte finish_entries;                /* After a finish: entries that may still be taken, */
byte finish_statuses;               /* and statuses; */
byte finish_version[K + 1];         /* the newest versions at the time of the call. */
byte restarts;
short balance;                      /* received + synthesized - (delivered + replaced + cancelled + dropped + pending) */
byte done;                          /* Producers and loop that have ended. */
hidden byte too_small;              /* Always zero. */
#define ROOM(x) assert((x) || too_small) /* The model's own bounds: not a fault of the protocol. */
hidden byte i_;
hidden byte j_;
hidden byte n_;

#define BIT(e) (1 << (e))
#define PRODUCERS ((N1 > 0) + (N2 > 0) + (N3 > 0))
bit stop_called;
bit drained;                        /* The loop ended because there was nothing left to come, */
bit over;                           /* or because it was told to. */

/* ---------------------------------------------------------------------------------------------- */
/* Lists                                                                                          */

/* queue.c: remove_link. By place. */
inline remove_at(i) {
    if
    :: IS_STATUS(ring[i]) ->
       status[ring[i] - STATUS] = 0; finish_statuses = finish_statuses & (255 - BIT(ring[i] - STATUS));
       n_ = 1; do :: n_ <= K -> barrier[(ring[i] - STATUS) * (K + 1) + n_] = 0; n_++ :: else -> break od
    :: else -> finish_entries = finish_entries & (255 - BIT(ring[i])); balance++
    fi;
    j_ = i; do :: j_ + 1 < ring_length -> ring[j_] = ring[j_ + 1]; j_++ :: else -> break od;
    ring_length--; ring[ring_length] = 0
}

/* queue.c: unqueue. Of two statuses that become neighbours the earlier goes. */
inline unqueue(x) { d_step {
    i_ = 0; do :: i_ < ring_length && ring[i_] != x -> i_++ :: else -> break od;
    assert(i_ < ring_length);
    remove_at(i_);
    if
    :: i_ > 0 && i_ < ring_length && IS_STATUS(ring[i_ - 1]) && IS_STATUS(ring[i_]) ->
#ifndef MUTANT_MERGE
       i_--; remove_at(i_)
#else
       skip
#endif
    :: else -> skip
    fi;
    i_ = 0; j_ = 0; n_ = 0
} }

/* queue.c: queue_entry, with W1. */
inline queue_entry(e) {
    ROOM(ring_length < NQUEUE);
    ring[ring_length] = e; ring_length++; balance--;
    notify()
}

#ifdef PUT_BACK
/* put_back.c: queue_at_front, move_to_front, with the ghosts. The sink is awake. */
inline push_front(x) { d_step {
    ROOM(ring_length < NQUEUE);
#ifdef MUTANT_PUT_BACK_FRONT
    ring[ring_length] = x;
#else
    i_ = ring_length; do :: i_ > 0 -> ring[i_] = ring[i_ - 1]; i_-- :: else -> break od; ring[0] = x;
#endif
    ring_length++;
    if :: IS_STATUS(x) -> skip :: else -> balance-- fi;
    if
    :: finishing == 1 ->
       if :: IS_STATUS(x) -> finish_statuses = finish_statuses | BIT(x - STATUS) :: else -> finish_entries = finish_entries | BIT(x) fi
    :: else -> skip
    fi;
    i_ = 0
} }
#endif

inline dropped_remove(e) { d_step {
    i_ = 0; do :: i_ < dropped_length && dropped[i_] != e -> i_++ :: else -> break od;
    assert(i_ < dropped_length);
    do :: i_ + 1 < dropped_length -> dropped[i_] = dropped[i_ + 1]; i_++ :: else -> break od;
    dropped_length--; dropped[dropped_length] = 0; i_ = 0
} }

#if defined(SUPPRESS)
#define GIVE_UP(s) owner[s] = 0; content[s] = 0
#else
#define GIVE_UP(s) owner[s] = 0
#endif

inline detached_add(s) {
    ROOM(detached_length < 4);
    detached[detached_length] = s; detached_length++; owner[s] = DETACHED
}

/* W1: under the lock. W2: unlocked, the wake callback; once per sleep. */
inline notify() { if :: asleep -> asleep = 0; hook = 1 :: else -> skip fi }
inline call_hook() { if :: hook -> atomic { assert(wake == 0); wake = 1; hook = 0 } :: else -> skip fi }

/* ---------------------------------------------------------------------------------------------- */
/* The lock. At its end all that validate.c says holds.                                           */

#define GET_LOCK !lock -> lock = 1

inline unlock() { d_step {
    i_ = 0; j_ = 0;
    do
    :: i_ < ring_length ->
       if
       :: IS_STATUS(ring[i_]) ->
          assert(!IS_STATUS(BEFORE(i_)));
          assert(finishing != 1 || (finish_statuses & BIT(ring[i_] - STATUS)))
       :: else ->
          assert(state[ring[i_]] == USED && IS_CURRENT(word[ring[i_]], restart));
          assert(finishing != 1 || (finish_entries & BIT(ring[i_]))); /* A finish closes the queue's end. */
          j_++
       fi;
       i_++
    :: else -> break
    od;
    i_ = 0;
    do
    :: i_ < dropped_length -> assert(state[dropped[i_]] == USED && IS_STALE(word[dropped[i_]], restart)); j_++; i_++
    :: else -> break
    od;
    i_ = 1;
    do
    :: i_ <= NE ->
       if :: word[i_] & P_ -> j_-- :: else -> skip fi;
       assert((word[i_] != 0) == (key[i_] != 0 && index_[key[i_]] == i_));
#ifdef PINS
       assert(word[i_] == 0 || (word[i_] & (P_ | L_)) || (word[i_] == VACANT && pins[i_] > 0));
       assert(pins[i_] == 0 || word[i_] != 0);
#else
       assert(word[i_] == 0 || (word[i_] & (P_ | L_)));
#endif
       i_++
    :: else -> break
    od;
    assert(j_ == 0);       /* A link for each pending entry. */
    i_ = ring_length; do :: i_ > 0 && !IS_STATUS(ring[i_ - 1]) -> i_-- :: else -> break od;
    assert(latest_received == (i_ > 0 -> status[(i_ > 0 -> ring[i_ - 1] - STATUS : 0)] : latest_taken));
    assert(balance == 0);  /* Statistics add up. */
#ifdef OVERFLOW
    assert(!overflowed || ring_length == 0);
#endif
    i_ = 0; lock = 0
} }

/* ---------------------------------------------------------------------------------------------- */
/* Entries: read sections, retired; slots                                                         */

inline touch(e) { assert(state[e] != FREE) }

inline free_if_unseen(e) {
    if
    :: state[e] == RETIRED && readers[e] == 0 ->
       assert(word[e] == 0 && !(held & BIT(e)));
#ifdef SUPPRESS
       revision[e] = 0;
#endif
#ifdef PINS
       lent[e] = 0;
#endif
       state[e] = FREE; key[e] = 0
    :: else -> skip
    fi
}

inline enter() { sections = sections | BIT(me - 1) }
inline leave() { d_step {
    sections = sections & (255 - BIT(me - 1));
    i_ = 1; do :: i_ <= NE -> readers[i_] = readers[i_] & sections; free_if_unseen(i_); i_++ :: else -> break od; i_ = 0
} }

/* entry_unindex: the word is zero. */
inline unindex(e) { index_[key[e]] = 0; version[e] = 0 }

inline retired_add(e) {
#ifdef MUTANT_EPOCH
    readers[e] = 0;
#else
    readers[e] = sections;
#endif
    state[e] = RETIRED;
    free_if_unseen(e)
}

/* N3 entry_leave: the key is neither pending nor live, the word is zero. Pins keep the entry. */
inline entry_leave(e) {
#ifdef PINS
    if
#ifndef MUTANT_PINS_LEAVE
    :: pins[e] > 0 -> word[e] = VACANT; version[e] = 0
    :: pins[e] == 0 && lent[e] -> unindex(e); readers[e] = sections; state[e] = BORROWED
#endif
#ifdef MUTANT_PINS_LENT
    :: pins[e] == 0 -> unindex(e); retired_add(e)
#else
    :: else -> unindex(e); retired_add(e)
#endif
    fi
#else
    unindex(e); retired_add(e)
#endif
}

/* The word of e gets slot s, of producer `me`; slot d comes out of it, and its owner is done with
   it. */
inline hand_over(e, s, d) {
    if :: s != 0 -> assert(owner[s] == me); owner[s] = IN + e :: else -> skip fi;
    give_back(e, d)
}
inline give_back(e, d) { if :: d != 0 -> assert(owner[d] == IN + e); GIVE_UP(d) :: else -> skip fi }
inline free_slot(s) { if :: s != 0 -> assert(owner[s] == me); GIVE_UP(s) :: else -> skip fi }

/* The update of key k is in entry e now, and nothing dropped it. */
inline received(e, k, deletes) {
    versions[k]++; version[e] = versions[k]; newest[k] = versions[k]; newest_deletes[k] = deletes;
}


/* ---------------------------------------------------------------------------------------------- */
/* Source                                                                                         */

/* Clears one dropped update, under the lock: C1 to C3. Uses ce, cw. */
inline clear_one() {
    if
    :: atomic { detached_length > 0 ->
           assert(owner[detached[0]] == DETACHED); GIVE_UP(detached[0]);
           i_ = 0; do :: i_ + 1 < detached_length -> detached[i_] = detached[i_ + 1]; i_++ :: else -> break od;
           detached_length--; detached[detached_length] = 0; i_ = 0 }
    :: atomic { detached_length == 0 && dropped_length > 0 ->
           ce = dropped[0]; cw = word[ce] };                                    /* C1 read the word */
       atomic {
           assert(IS_STALE(cw, restart));
           dropped_remove(ce);
           if
           :: cw & L_ ->
#ifndef MUTANT_CLEAR_LIVE_STORE
              cw = word[ce];                                                    /* C2 exchange: idle, still unseen */
#endif
#ifdef MUTANT_CLEAR_SEEN
              word[ce] = IDLE(restart);
#else
              word[ce] = IDLE(NUMBER(cw));
#endif
              give_back(ce, SLOT(cw))
           :: else ->
#ifndef MUTANT_CLEAR_DEAD_STORE
              cw = word[ce];                                                    /* C3 exchange: dead */
#endif
              word[ce] = 0; give_back(ce, SLOT(cw));
              entry_leave(ce)
           fi;
           ce = 0; cw = 0 }
    :: detached_length == 0 -> skip /* Nothing there, or the link was a status's. */
    fi
}

/* A current entry leaves, its word is zero: a value was pending, and a deletion comes. No other
   deletion goes with them. */
inline remove_current(e, k) {
    assert(!newest_deletes[k] || newest[k] == mine);
    unqueue(e); entry_leave(e);
    if :: mine == 0 -> versions[k]++ :: else -> skip fi;
    newest[k] = versions[k]; newest_deletes[k] = 1; taken[k] = versions[k];
    balance = balance - 2
}

/* The update is done, whatever became of it; those of one key in one call in their order. */
inline finish_update() {
    assert(u == 0 || k[u] != k[0] || !(todo & 1));
    todo = todo & (255 - BIT(u)); s[u] = 0; number[u] = 0; k[u] = 0; deletes[u] = 0
}

#ifndef MUTANT_PUT_BACK_BOTH_SIDES
#define TOO_LATE (restarted && count > 0)
#else
#define TOO_LATE false
#endif
#ifndef MUTANT_PUT_BACK_BEGUN
#define T1_BEGUN
#define TAKE_BEGUN if :: count == 0 -> restarted = 0 :: else -> skip fi;
#else
#define T1_BEGUN restarted = 0;
#define TAKE_BEGUN
#endif
#define MAY(x) ((mask & (x)) != 0)
#ifndef MUTANT_UNKNOWN_LOOK
#define DELETES_UNKNOWN (deletes[u] && !(w & L_))
#else
#define DELETES_UNKNOWN (deletes[u] && CANCELS(w))
#endif

proctype Producer(byte me; byte calls; short mask) {
    byte k[U], s[U], number[U]; bit deletes[U];
    byte u, todo, e, r, r0, ce, next, began, seen, mine; short op, w, cw; bit hook, stopped0, ran_out, ends_resync;
#ifdef PINS
    byte pinned; /* The entry of this producer's pin, or zero. */
    bit by_pin;
#endif

next_call:
    atomic {
        if :: calls == 0 -> goto ended :: else -> calls-- fi;
        if
        :: MAY(PUT) || MAY(DELETE) -> goto put
        :: MAY(RESYNC) -> op = 1; goto put_status
        :: MAY(IN_SYNC) -> op = 2; goto put_status
        :: MAY(RESTART) -> goto put_restart
        :: MAY(COLLECT) -> goto collect
        :: MAY(STOP) -> goto stop
        :: MAY(FINISH) -> op = 1; goto finish
        :: MAY(FINISH_EMPTY) -> op = 2; goto finish
#ifdef PINS
        :: MAY(PIN) && pinned == 0 -> goto pin
        :: MAY(PIN) && pinned != 0 -> goto unpin
#endif
        fi
    };

    /* -------- cdedupe_put: one chunk, without the lock ------------------------------------------
       */
put:
    atomic {
#ifdef PINS
        /* By a pin, in no section; or by the key. */
        if :: pinned != 0 -> by_pin = 1 :: enter() fi;
#else
        enter();                                                                /* U1 enter a section, look up; */
#endif
        u = 0;                                                                  /* a present key may be missed */
        do
        :: u < U ->
           if :: MAY(PUT) -> skip :: MAY(DELETE) -> deletes[u] = 1 fi;
           k[u] = 1;
#if K > 1
           if :: true :: k[u] = 2 fi;
#endif
           s[u] = 1; do :: s[u] <= NS && owner[s[u]] != 0 -> s[u]++ :: else -> break od;
           ROOM(s[u] <= NS); owner[s[u]] = me;
#ifdef SUPPRESS
           if
           :: deletes[u] -> skip
           :: !deletes[u] -> contents++; content[s[u]] = contents; sent[k[u]] = contents
           :: !deletes[u] && sent[k[u]] != 0 -> content[s[u]] = sent[k[u]]
           fi;
#endif
#ifdef PINS
           if
           :: by_pin -> number[u] = pinned
           :: !by_pin -> number[u] = index_[k[u]]
           :: !by_pin && index_[k[u]] != 0 -> skip
           fi;
#else
           if :: number[u] = index_[k[u]] :: index_[k[u]] != 0 -> skip fi;
#endif
           todo = todo | BIT(u); u++
        :: else -> break
        od;
        u = 0;
#ifdef MUTANT_OLD_NUMBER
        if :: r == 0 -> r = restart :: else -> skip fi;
#else
        r = restart;                                                            /* U2 read the restart number */
#endif
        r0 = restarts; stopped0 = stopped                                       /* U3 read stopped */
    };
replace_unlocked:
    if
#ifdef MUTANT_STOP_UNLOCKED
    :: u < U && number[u] != 0 -> skip
#else
    :: u < U && number[u] != 0 && !stopped0 -> skip
#endif
    :: else -> goto put_rest
    fi;
try_again:
    atomic { e = number[u]; touch(e); w = word[e] };                            /* U4 read the word */
    if
#if defined(MUTANT_UNLOCKED_CANCEL)
    :: IS_CURRENT(w, r) -> skip
#elif defined(MUTANT_NO_NUMBER)
    :: (w & P_) && REPLACES(w, deletes[u]) -> skip
#else
    :: IS_CURRENT(w, r) && REPLACES(w, deletes[u]) -> skip
#endif
#ifdef MUTANT_PREFIX
    :: else -> if :: u + 1 < U -> u++; goto replace_unlocked :: else -> goto put_rest fi
#else
    :: else -> goto put_rest
#endif
    fi;
    atomic {                                                                    /* U5 compare-and-swap */
        touch(e);
        if
#ifndef MUTANT_NO_CAS
        :: word[e] != w -> if :: goto try_again :: goto put_rest fi
#endif
        :: else -> skip
        fi;
        assert(!stopped0);                                   /* Nothing gets in once stop has returned, */
        assert(IS_CURRENT(w, restart) || r0 != restarts);    /* only a restart that overlaps the call drops, */
        assert(!(IS_CURRENT(w, restart) && deletes[u] && CANCELS(w))); /* and such deletions cancel. */
        word[e] = PENDING(w, s[u], r, deletes[u]);
        hand_over(e, s[u], SLOT(w));
        if :: IS_CURRENT(w, restart) -> received(e, k[u], deletes[u]) :: else -> skip fi;
        finish_update();
        u++; e = 0; w = 0
    };
    goto replace_unlocked;

    /* -------- The rest of the chunk, under the lock ----------------------------------------------
       */
put_rest:
    atomic {
#ifdef MUTANT_SECTION
        leave();
#endif
        u = 0; e = 0; w = 0; r0 = 0; stopped0 = 0
    };
put_one:
    if
    :: todo == 0 -> goto put_done
    :: todo != 0
#ifdef MEMORY
    :: todo != 0 && !ran_out ->          /* No memory, and nothing has changed: the allocator runs in no section. */
       atomic {
           leave(); ran_out = 1; u = 0;
#ifndef MUTANT_LOOKUPS
           do :: u < U -> number[u] = 0; u++ :: else -> break od; u = 0
#endif
       };
       enter()
#endif
    fi;
    atomic {
        GET_LOCK;                                                               /* P1 lock; stopped? */
        do :: !(todo & BIT(u)) -> u++ :: else -> break od;
        balance++;
        if
#ifdef OVERFLOW
#ifndef MUTANT_OVERFLOW_PUT
        :: overflowed -> balance--; free_slot(s[u]); finish_update(); unlock(); goto put_one
#endif
#endif
#ifndef MUTANT_STOP_LOCKED
        :: stopped ->
           balance--;
#ifndef MUTANT_STOP_SLOT
           free_slot(s[u]);
#else
           skip;
#endif
           finish_update(); unlock(); goto put_one
#endif
        :: else -> skip
        fi;
        assert(!stopped);
        touched = 1;
        e = number[u];                                                          /* P2 read the word, */
        if :: e != 0 -> touch(e); w = word[e] :: else -> skip fi;
        if
#ifdef MUTANT_LOOK_AGAIN
        :: w == 0 && e == 0 -> e = index_[k[u]]; w = word[e]
        :: w == 0 && e != 0 -> e = 0
#else
        :: w == 0 -> e = index_[k[u]]; w = word[e]                              /* and look again */
#endif
        :: else -> skip
        fi;
        assert(e == 0 || key[e] == k[u]);
#ifdef PINS
        assert(!by_pin || (e == pinned && w != 0)); /* Under the lock, a pinned entry has a word. */
        by_pin = 0;
#endif
#ifdef SUPPRESS
        if
        :: !deletes[u] && (w & L_) && !IS_CURRENT(w, restart) && revision[e] != 0 && content[s[u]] == revision[e] -> goto suppress
        :: else -> skip
        fi;
#endif
        if
#ifndef MUTANT_FINISH_QUEUES
        :: finishing == 1 && (e == 0 || !IS_CURRENT(w, restart)) ->             /* P14 a finish: it is dropped */
           free_slot(s[u]); balance--; goto put_next
#endif
        :: else -> skip
        fi;
#ifdef OVERFLOW
        if :: e == 0 || !IS_CURRENT(w, restart) -> goto overflow :: true -> skip fi;
#endif
        if
        :: e == 0 ->                                                            /* P3 insert */
           e = 1; do :: e <= NE && state[e] != FREE -> e++ :: else -> break od;
           ROOM(e <= NE); assert(index_[k[u]] == 0);
           state[e] = USED; key[e] = k[u]; word[e] = PENDING(0, s[u], restart, deletes[u]); index_[k[u]] = e;
           hand_over(e, s[u], 0); queue_entry(e); received(e, k[u], deletes[u]);
           goto queued
        :: e != 0 && !(w & P_) ->                                               /* P4 requeue: a store */
           word[e] = PENDING(w, s[u], restart, deletes[u]);
           hand_over(e, s[u], 0); queue_entry(e); received(e, k[u], deletes[u]);
           goto queued
        :: e != 0 && (w & P_) -> skip
        fi
    };
    atomic {
        if
        :: IS_STALE(w, restart) ->                                              /* P5 revive: exchange */
#ifndef MUTANT_REVIVE_STORE
           w = word[e];
#endif
           word[e] = PENDING(w, s[u], restart, deletes[u]);
#ifdef MUTANT_STALE_KEPT
           hand_over(e, s[u], 0);
#else
           hand_over(e, s[u], SLOT(w));
#endif
#ifndef MUTANT_DANGLING
           dropped_remove(e);
#endif
           queue_entry(e); received(e, k[u], deletes[u]);
           if :: SLOT(w) == 0 -> goto queued :: else -> goto put_next fi
        :: IS_CURRENT(w, restart) && !DELETES_UNKNOWN ->
                                                                                /* P6 replace:
                                                                                   exchange */
#ifndef MUTANT_REPLACE_STORE
           cw = word[e];
#else
           cw = w;
#endif
           word[e] = PENDING(w, s[u], restart, deletes[u]);
           assert(!(deletes[u] && CANCELS(cw)));
           hand_over(e, s[u], SLOT(cw)); received(e, k[u], deletes[u]);
           balance--; goto put_next
        :: IS_CURRENT(w, restart) && DELETES_UNKNOWN ->                         /* P7 delete not live: exchange to 0 */
#ifndef MUTANT_UNKNOWN_STORE
           w = word[e];
#endif
#ifndef MUTANT_UNKNOWN_FIRST
           word[e] = 0; give_back(e, SLOT(w));
#else
           word[e] = PENDING(w, s[u], restart, 1); hand_over(e, s[u], SLOT(w)); received(e, k[u], 1); mine = version[e]
#endif
        fi
    };
    atomic {
        if
        :: CANCELS(w) ->                                                        /* P8 a value: both leave */
#ifndef MUTANT_UNKNOWN_FIRST
           free_slot(s[u]);
#else
           w = word[e]; word[e] = 0; give_back(e, SLOT(w));
#endif
           remove_current(e, k[u])
        :: else ->                                                              /* P9 a deletion: a store */
#ifndef MUTANT_UNKNOWN_FIRST
           word[e] = PENDING(w, s[u], restart, 1); hand_over(e, s[u], 0); received(e, k[u], 1);
#endif
           balance--
        fi;
        mine = 0; goto put_next
    };
queued:
    clear_one();                                                                /* P10 clear one up */
put_next:
    atomic { finish_update(); unlock(); u = 0; e = 0; w = 0; cw = 0 };
    goto put_one;
#ifdef SUPPRESS
suppress:
    atomic {
#ifndef MUTANT_SUPPRESS_STORE
        w = word[e];                                                            /* P12 exchange: idle, seen */
#endif
#ifndef MUTANT_SUPPRESS_UNSEEN
        word[e] = IDLE(restart);
#else
        word[e] = IDLE(NUMBER(w));
#endif
        assert(at_sink[k[u]] && sink_content[k[u]] == content[s[u]]);
        if :: w & P_ -> give_back(e, SLOT(w)); dropped_remove(e) :: else -> skip fi;
        newest[k[u]] = taken[k[u]]; newest_deletes[k[u]] = 0; version[e] = 0;
        free_slot(s[u]); balance--;
        goto put_next
    };
#endif
#ifdef OVERFLOW
overflow:
    atomic { overflowed = 1; op = 3; goto drop };                               /* P13 as R1 to R4; then it is dropped */
overflown:
    atomic { free_slot(s[u]); balance--; op = 0; next = 0; goto put_next };
#endif
put_done:
    atomic {                                                                    /* P11 leave the section */
#ifndef MUTANT_SECTION
        leave();
#endif
#ifndef MUTANT_OLD_NUMBER
        r = 0;
#endif
#ifdef PINS
        by_pin = 0;
#endif
        u = 0; ran_out = 0; e = 0
    };
    call_hook();                                                                /* W2 */
    goto next_call;

    /* -------- cdedupe_put_status ------------------------------------------------------------------
       */
put_status:
    atomic { began = 0; next = 1 };
sweep:
    atomic {
        GET_LOCK;                                                               /* S1 lock; still in this restart? */
#ifdef MUTANT_FINISH_STATUSES
        if :: stopped -> goto status_done :: else -> skip fi;
#else
        if :: stopped || finishing == 1 -> goto status_done :: else -> skip fi;
#endif
#if defined(OVERFLOW) && !defined(MUTANT_OVERFLOW_STATUS)
        if :: overflowed -> goto status_done :: else -> skip fi;
#endif
        touched = 1;
        if
        :: op == 2 && resync ->
           if :: began == 0 -> began = restart; seen = unseen_generation :: else -> skip fi;
#ifndef MUTANT_ABORT
           if :: began != restart -> goto status_done :: else -> skip fi;
#endif
           do :: next <= NE && !IS_UNSEEN(word[next], restart) -> next++ :: else -> break od;
           if
#ifdef PUT_BACK
           :: next > NE -> unlock(); goto sweep         /* The lock scope was full. */
#endif
#if defined(MUTANT_PUT_BACK_ONE_FLAG)
           :: next > NE && unseen_generation > 0 -> unseen_generation = 0; next = 1; unlock(); goto sweep
           :: next > NE && unseen_generation == 0 -> resync = 0; ends_resync = 1; goto queue_status
#elif defined(PUT_BACK) && !defined(MUTANT_PUT_BACK_UNSEEN)
           :: next > NE && seen != unseen_generation -> seen = unseen_generation; next = 1; unlock(); goto sweep
           :: next > NE && seen == unseen_generation -> resync = 0; ends_resync = 1; goto queue_status
#else
           :: next > NE -> resync = 0; ends_resync = 1; goto queue_status
#endif
           :: else -> e = next; w = word[e]; next++                             /* S2 read the word */
           fi
        :: else -> goto queue_status
        fi
    };
    atomic {
        assert(newest[key[e]] == 0 || newest_deletes[key[e]]); /* No value was received for it since the restart. */
        balance++;
        if
        :: w & P_ ->                                                            /* S4 exchange: stale -> deletion */
#ifndef MUTANT_SYNTHESIZE_STORE
           w = word[e];
#endif
           word[e] = PENDING(L_, 0, restart, 1);
           dropped_remove(e); queue_entry(e);
           if :: SLOT(w) != 0 -> assert(owner[SLOT(w)] == IN + e); detached_add(SLOT(w)) :: else -> skip fi
        :: else -> word[e] = PENDING(L_, 0, restart, 1); queue_entry(e)         /* S3 store: idle -> deletion */
        fi;
        received(e, key[e], 1); e = 0; w = 0;
        unlock()
    };
    call_hook();                                                                /* W2 */
    goto sweep;
queue_status:
    atomic {                                                                    /* S5 the status */
        if
#ifdef MUTANT_ENDS_RESYNC
        :: op == latest_received -> dropped_equal_status = 1
#else
        :: op == latest_received && !ends_resync -> dropped_equal_status = 1
#endif
        :: else ->
           latest_received = op; dropped_equal_status = 0;
           if
           :: IS_STATUS(BEFORE(ring_length)) -> e = BEFORE(ring_length) - STATUS
           :: else ->
              e = 0; do :: e < NSTATUS && status[e] != 0 -> e++ :: else -> break od;
              ROOM(e < NSTATUS && ring_length < NQUEUE);
              ring[ring_length] = STATUS + e; ring_length++;
              notify()                                                          /* W1 */
           fi;
           status[e] = op;
           n_ = 1;
           do
           :: n_ <= K ->
#if defined(SUPPRESS) && defined(PUT_BACK)
              /* (What was suppressed and put back since, and then replaced, may come behind the
                 status: see README.md.) */
              barrier[e * (K + 1) + n_] = (newest[n_] == taken[n_] -> 0 : newest[n_]);
#else
              barrier[e * (K + 1) + n_] = newest[n_];
#endif
              n_++
           :: else -> break
           od;
           n_ = 0
        fi;
        /* After a resync the sink hears of its end, even if the in-sync repeats the latest status.
           */
        assert(!ends_resync || IS_STATUS(BEFORE(ring_length)))
    };
status_done:
    atomic { unlock(); op = 0; began = 0; next = 0; seen = 0; e = 0; ends_resync = 0 };
    call_hook();                                                                /* W2 */
    goto next_call;

    /* -------- cdedupe_restart ---------------------------------------------------------------------
       */
put_restart:
    atomic {
        GET_LOCK;                                                               /* R1 lock; drop the queue */
#ifdef MUTANT_FINISH_RESTARTS
        if :: stopped -> unlock(); goto next_call :: else -> skip fi;
#else
        if :: stopped || finishing == 1 -> unlock(); goto next_call :: else -> skip fi;
#endif
        resync = 1;
#ifdef OVERFLOW
        overflowed = 0;
#endif
        if :: !touched -> unlock(); goto next_call :: else -> skip fi;
#ifdef OVERFLOW
drop:
        resync = 1;
#endif
        i_ = 0;
        do
        :: i_ < ring_length ->
           if
           :: IS_STATUS(ring[i_]) -> status[ring[i_] - STATUS] = 0
           :: else -> ROOM(dropped_length <= K); dropped[dropped_length] = ring[i_]; dropped_length++
           fi;
           ring[i_] = 0; i_++
        :: else -> break
        od;
        ring_length = 0; finish_entries = 0; finish_statuses = 0;
        i_ = 0; do :: i_ < NSTATUS * (K + 1) -> barrier[i_] = 0; i_++ :: else -> break od; i_ = 0;
        latest_received = latest_taken; touched = 0; restarted = 1; dropped_equal_status = 0;
#ifndef MUTANT_WRAP
        if :: restart == RMAX -> next = 1 :: else -> goto next_restart fi
#else
        goto next_restart
#endif
    };
walk:
    atomic {
        do :: next <= NE && word[next] == 0 -> next++ :: else -> break od;
        if :: next > NE -> goto next_restart :: else -> w = word[next] fi       /* R2 walk: read the word */
    };
    atomic {
        if
#ifndef MUTANT_WALK_STORE
        :: word[next] != w -> goto walk
#endif
        :: else -> word[next] = (w & (P_ | D_ | L_ | I_)) | SLOT(w); next++; w = 0; goto walk /* R3 compare-and-swap */
        fi
    };
next_restart:
    atomic {
        restart = (restart == RMAX -> 1 : restart + 1);                         /* R4 the next number */
        restarts++;
        i_ = 1; do :: i_ <= K -> newest[i_] = 0; newest_deletes[i_] = 0; i_++ :: else -> break od;
        /* What a finish "when empty" found is dropped. What one "when delivered" found must arrive. */
        i_ = 1; do :: i_ <= K && finishing != 1 -> finish_version[i_] = 0; i_++ :: else -> break od;
        i_ = 1; do :: i_ <= NE -> version[i_] = 0; i_++ :: else -> break od; i_ = 0;
        next = 0;
#ifdef OVERFLOW
        if :: op == 3 -> goto overflown :: else -> skip fi;
#endif
        unlock()
    };
    goto next_call;

    /* -------- cdedupe_collect ---------------------------------------------------------------------
       */
collect:
    atomic { GET_LOCK };
    clear_one();
    atomic { unlock(); goto next_call };

#ifdef PINS
    /* -------- cdedupe_pin, cdedupe_unpin -------------------------------------------------------------
       */
pin:
    atomic {
        GET_LOCK;                                                               /* N1 one more pin */
        e = index_[1];
        if
        :: e == 0 ->
           e = 1; do :: e <= NE && state[e] != FREE -> e++ :: else -> break od;
           ROOM(e <= NE);
           state[e] = USED; key[e] = 1; word[e] = VACANT; index_[1] = e
        :: else -> skip
        fi;
        pins[e]++; pinned = e; e = 0;
        unlock()
    };
    goto next_call;
unpin:
    atomic {
        GET_LOCK;                                                               /* N2 one pin less */
        e = pinned; touch(e); pins[e]--; pinned = 0;
        if
#ifndef MUTANT_PINS_UNPIN
        :: pins[e] == 0 && word[e] == VACANT -> word[e] = 0; entry_leave(e)
#endif
        :: else -> skip
        fi;
        e = 0;
        unlock()
    };
    goto next_call;
#endif

    /* -------- The end ------------------------------------------------------------------------------
       */
stop:
    atomic {                                                                    /* E1 stop */
        GET_LOCK;
        stopped = 1; stop_called = 1; finishing = 0;
#ifndef MUTANT_STOP_WAKE
        notify();
#endif
        unlock()
    };
    call_hook();
    goto next_call;
finish:
    atomic {                                                                    /* E2 finish */
        GET_LOCK;
        if
        :: !claim -> stopped = 1
        :: claim && stopped -> skip
        :: claim && !stopped ->
           finishing = (op == 2 && finishing != 1 -> 2 : 1);
#ifndef MUTANT_FINISH_WAKE
           if :: ring_length == 0 -> notify() :: else -> skip fi;
#endif
           finish_entries = 0; finish_statuses = 0;
           i_ = 0;
           do
           :: i_ < ring_length ->
              if
              :: IS_STATUS(ring[i_]) -> finish_statuses = finish_statuses | BIT(ring[i_] - STATUS)
              :: else -> finish_entries = finish_entries | BIT(ring[i_])
              fi;
              i_++
           :: else -> break
           od;
           i_ = 1; do :: i_ <= K -> finish_version[i_] = newest[i_]; i_++ :: else -> break od; i_ = 0
        fi;
        op = 0;
        unlock()
    };
    call_hook();
    goto next_call;

ended:
    done++
}

/* ---------------------------------------------------------------------------------------------- */
/* Sink                                                                                           */

/* E5: a finish is complete when the queue is empty. Afterwards `stopped` tells. */
inline is_over() {
    if
#ifdef MUTANT_FINISH_EARLY
    :: finishing == 1 -> stopped = 1
    :: finishing == 2 && ring_length == 0 -> stopped = 1
#else
    :: finishing != 0 && ring_length == 0 -> stopped = 1
#endif
    :: else -> skip
    fi
}

/* The sink no longer borrows the last batch's keys. */
inline retire_borrowed() {
    held = 0;
#ifdef PUT_BACK
    e = 0; do :: e < BATCH -> forget_item(e); e++ :: else -> break od;
#endif
    e = 1; do :: e <= NE -> if :: state[e] == BORROWED -> retired_add(e) :: else -> skip fi; e++ :: else -> break od; e = 0
}

#ifdef PUT_BACK
/* The i-th item of the batch: its key (zero: a status) and entry; whether it is a deletion, and the
   key was live; its slot. */
typedef item_t {
    byte key, entry, slot, before, version, taken, status; bit deletes, had; byte barrier[K + 1];
#ifdef SUPPRESS
    byte revision, had_content;
#endif
};

inline forget_item(i) {
    if :: items[i].slot != 0 -> assert(owner[items[i].slot] == SINK); GIVE_UP(items[i].slot) :: else -> skip fi;
    items[i].key = 0; items[i].entry = 0; items[i].slot = 0; items[i].before = 0; items[i].version = 0; items[i].taken = 0;
    items[i].status = 0; items[i].deletes = 0; items[i].had = 0;
#ifdef SUPPRESS
    items[i].revision = 0; items[i].had_content = 0;
#endif
    n_ = 0; do :: n_ <= K -> items[i].barrier[n_] = 0; n_++ :: else -> break od; n_ = 0
}

inline note_entry() {
    items[count].key = key[e]; items[count].entry = e; items[count].slot = SLOT(w); items[count].before = ((w & L_) != 0);
    items[count].version = version[e]; items[count].taken = taken[key[e]];
#ifdef SUPPRESS
    items[count].revision = revision[e]; items[count].had_content = sink_content[key[e]];
#endif
    items[count].deletes = ((w & D_) != 0); items[count].had = at_sink[key[e]]
}

inline note_status() {
    items[count].status = status[ring[0] - STATUS]; items[count].before = latest_taken;
    n_ = 1; do :: n_ <= K -> items[count].barrier[n_] = barrier[(ring[0] - STATUS) * (K + 1) + n_]; n_++ :: else -> break od; n_ = 0
}
#endif

#ifdef PUT_BACK
/* The item's slot is the queue's again. */
inline to_queue(e) {
    if :: items[count].slot != 0 -> assert(owner[items[count].slot] == SINK); owner[items[count].slot] = IN + e :: else -> skip fi;
    items[count].slot = 0
}

inline move_to_front(e) { unqueue(e); push_front(e) }

/* The sink may still read its key. */
#ifdef PINS
inline leave_borrowed(e) { lent[e] = 1; entry_leave(e) }
#else
inline leave_borrowed(e) { unindex(e); readers[e] = sections; state[e] = BORROWED }
#endif

inline new_status() {
    e = 0; do :: e < NSTATUS && status[e] != 0 -> e++ :: else -> break od;
    ROOM(e < NSTATUS);
    status[e] = items[count].status;
    n_ = 1; do :: n_ <= K -> barrier[e * (K + 1) + n_] = (late -> 0 : items[count].barrier[n_]); n_++ :: else -> break od; n_ = 0
}
#endif

/* T5: what w says was pending in e goes to the sink. */
inline take_entry() {
    assert(!stopped && state[e] == USED);
    assert(finishing != 1 || (finish_entries & BIT(e)));                  /* Finishing: nothing that came later. */
#ifdef PUT_BACK
    note_entry();
    assert((w & D_) || ((w & L_) != 0) == at_sink[key[e]]);     /* New, updated: exact. */
#else
    assert(((w & L_) != 0) == at_sink[key[e]]);                 /* New, updated: exact. */
#endif
    assert(version[e] > taken[key[e]]);                         /* Nothing twice, none after a newer one. */
    taken[key[e]] = version[e]; version[e] = 0;
    at_sink[key[e]] = !(w & D_);
#ifdef SUPPRESS
    if
    :: w & D_ -> sink_content[key[e]] = 0
    :: else -> sink_content[key[e]] = content[SLOT(w)]; revision[e] = content[SLOT(w)]
    fi;
#endif
#ifdef PUT_BACK
    if :: SLOT(w) != 0 -> assert(owner[SLOT(w)] == IN + e); owner[SLOT(w)] = SINK :: else -> skip fi;
#else
    give_back(e, SLOT(w));
#endif
    balance--; unqueue(e);
    held = held | BIT(e);
    if
#ifdef PINS
    :: (w & D_) && GONE(e) != 0 -> lent[e] = 1
    :: (w & D_) && GONE(e) == 0 ->
#else
    :: w & D_ ->
#endif
       unindex(e); readers[e] = sections;
#ifdef MUTANT_BORROWED
       retired_add(e)
#else
       state[e] = BORROWED
#endif
    :: else -> skip
    fi;
    e = 0; w = 0; cw = 0; count++
}

proctype Loop() {
    byte e, count; short w, cw;
#ifdef PUT_BACK
    item_t items[BATCH];
    byte puts_back, k, borrowed; bit late;
#endif

    atomic { GET_LOCK; if :: stopped -> unlock(); goto ended :: else -> claim = 1; unlock() fi };
take:
#ifdef QUIT
    if :: true :: goto release fi;
#endif
    atomic { GET_LOCK; retire_borrowed(); count = 0; asleep = 0; T1_BEGUN unlock() };        /* T1 awake; nothing is borrowed */
take_some:
    atomic {
        GET_LOCK;
        TAKE_BEGUN
        if :: ring_length == 0 || count == BATCH || TOO_LATE -> goto finish_take :: else -> skip fi;
#ifndef MUTANT_STOP_TAKE
        is_over(); if :: stopped -> goto finish_take :: else -> skip fi;
#endif
        if
        :: IS_STATUS(ring[0]) ->                                                /* T6 take a status */
           assert(!stopped && (finishing != 1 || (finish_statuses & BIT(ring[0] - STATUS))));
           e = 1;
           do :: e <= K -> assert(taken[e] >= barrier[(ring[0] - STATUS) * (K + 1) + e]); e++ :: else -> break od;
           e = 0;
#ifdef PUT_BACK
           note_status();
#endif
           latest_taken = status[ring[0] - STATUS]; unqueue(ring[0]); count++;
           goto taken_one
        :: else -> e = ring[0]; cw = word[e]                                    /* T2 peek */
        fi
    };
    atomic {
#ifdef MUTANT_TAKE_STORE
        w = cw;
#else
        w = word[e];                                                            /* T3 exchange */
#endif
        assert(IS_CURRENT(w, restart));
        word[e] = (cw & D_ -> GONE(e) : IDLE(restart));
        if :: (w ^ cw) & D_ -> skip :: else -> take_entry(); goto taken_one fi
    };
    atomic {
#ifndef MUTANT_TAKE_REPAIR
        word[e] = (w & D_ -> GONE(e) : IDLE(restart));                                /* T4 put it right */
#endif
        take_entry()
    };
taken_one:
    if
    :: count == BATCH -> goto finish_take
    :: else -> atomic { unlock() }; goto take_some
    fi;
finish_take:                                                                       /* T7 finish_take */
    atomic {
        if
        :: count > 0 -> unlock(); goto dealt_with
        :: else -> is_over(); if :: stopped -> over = 1; unlock(); goto release :: else -> skip fi
        fi;
#ifdef MUTANT_WAKE
        unlock()
    };
    asleep = 1;
#else
        asleep = 1;
        unlock()
    };
#endif
    if
    :: atomic { wake > 0 -> wake = 0; goto take }
    :: atomic { done == PRODUCERS && wake == 0 ->
           assert(ring_length == 0 && !stopped && finishing == 0);              /* It may sleep. */
           drained = 1; goto release }
    fi;
dealt_with:
#ifndef PUT_BACK
    atomic { count = 0; goto take };
#else
    if
    :: goto take
    :: count > 0 && puts_back < PUT_BACK -> count--; puts_back++
    fi;

    /* -------- cdedupe_put_back: the last item -------------------------------------------------------
       */
put_back:
    atomic {
        GET_LOCK;
#ifndef MUTANT_PUT_BACK_RESTART
        late = restarted;
#endif
        k = items[count].key; borrowed = items[count].entry;
        if :: k == 0 -> goto put_back_status :: else -> skip fi;
        /* What was cancelled since stays dealt with. */
        if :: taken[k] == items[count].version -> taken[k] = items[count].taken :: else -> skip fi;
        at_sink[k] = items[count].had; balance++;
        held = 0;
        e = 0;
        do :: e < count -> if :: items[e].key != 0 -> held = held | BIT(items[e].entry) :: else -> skip fi; e++ :: else -> break od;
        e = index_[k]; w = word[e];
#ifdef PINS
        /* Pins have kept the entry, or the key has another one that is vacant. Or the entry died
           later than it was taken; then it is in no place where it could be found, and the key gets
           another one. */
        if
        :: w == VACANT -> borrowed = e; e = 0; w = 0
        :: e == 0 && lent[borrowed] && items[count].deletes && !(late && !items[count].before) ->
           e = 1; do :: e <= NE && state[e] != FREE -> e++ :: else -> break od;
           ROOM(e <= NE); key[e] = k; borrowed = e; e = 0
        :: else -> skip
        fi;
#endif
#ifdef SUPPRESS
        sink_content[k] = items[count].had_content;
#ifndef MUTANT_SUPPRESS_REVISION
        if
        :: !items[count].deletes -> revision[e] = items[count].revision
        :: items[count].deletes && e != 0 && items[count].before -> revision[e] = revision[borrowed]
        :: else -> skip
        fi;
#endif
        /* Sent again since the restart, and suppressed. */
        if :: late && !items[count].deletes && !(w & P_) && !IS_UNSEEN(w, restart) -> late = 0 :: else -> skip fi;
#endif
        if
        :: !items[count].deletes ->
           assert(e != 0);
           if
           :: !late && !(w & P_) ->                                             /* G1 idle: pending again, a store */
              w = (items[count].before -> L_ : 0);
              word[e] = PENDING(w, items[count].slot, restart, 0);
              to_queue(e); version[e] = items[count].version;
              push_front(e); goto done_putting_back
           :: !late && (w & P_) && items[count].before -> balance--; move_to_front(e); goto done_putting_back
           :: late && items[count].before -> balance--; goto done_putting_back
           :: late && !items[count].before && !(w & P_) ->                      /* G2 dropped, and was new: goes */
              word[e] = 0; leave_borrowed(e); balance--; goto done_putting_back
           :: (w & P_) && !items[count].before -> skip
           fi
        :: items[count].deletes ->
           if
           :: e == 0 && late && !items[count].before -> balance--; goto done_putting_back
           :: e == 0 && late && items[count].before && resync ->                /* G3 dead: idle and unseen, a store */
              word[borrowed] = IDLE(0); state[borrowed] = USED; index_[k] = borrowed; unseen_generation++; balance--; goto done_putting_back
           :: e == 0 && !(late && (!items[count].before || resync)) ->          /* G4 dead: pending again, a store */
              e = borrowed; state[e] = USED; index_[k] = e; w = (items[count].before -> L_ : 0);
              word[e] = PENDING(w, items[count].slot, restart, 1); to_queue(e);
              version[e] = (newest[k] > items[count].version -> newest[k] : items[count].version); taken[k] = items[count].taken;
              push_front(e); goto done_putting_back
           :: e != 0 && !items[count].before ->
              balance--; if :: late -> skip :: else -> move_to_front(e) fi; goto done_putting_back
           :: e != 0 && items[count].before -> if :: late && !resync && IS_STALE(w, restart) -> goto put_back_to_stale :: else fi
           fi
        fi
    };
    atomic {
#ifndef MUTANT_PUT_BACK_STORE
        w = word[e];                                                            /* G5 exchange to zero, then */
#endif
        word[e] = 0
    };
    atomic {
        if
        :: items[count].deletes ->                                              /* G6 a store: live, */
#ifndef MUTANT_PUT_BACK_LIVE
           word[e] = w | L_;
#else
           word[e] = w;
#endif
           balance--;
           if
           :: late && IS_STALE(w, restart) -> unseen_generation++
           :: late && !IS_STALE(w, restart) -> skip
           :: !late -> move_to_front(e)
           fi
        :: !items[count].deletes && !late && (w & D_) ->                        /* G7 both go, */
           unqueue(e);
           if :: SLOT(w) != 0 -> detached_add(SLOT(w)) :: else -> skip fi;
           taken[k] = version[e]; leave_borrowed(e); balance = balance - 2
        :: else ->                                                              /* G8 a store: not live */
#ifndef MUTANT_PUT_BACK_NEW
           word[e] = w & (2047 - L_);
#else
           word[e] = w;
#endif
           balance--;
           if :: late -> skip :: else -> move_to_front(e) fi
        fi;
        goto done_putting_back
    };
put_back_to_stale:
    atomic {
        w = word[e];                                                            /* G9 exchange: stale -> deletion */
        word[e] = PENDING(L_, items[count].slot, restart, 1); to_queue(e);
        dropped_remove(e); push_front(e);
        if :: SLOT(w) != 0 -> assert(owner[SLOT(w)] == IN + e); detached_add(SLOT(w)) :: else -> skip fi;
        version[e] = items[count].version;
        goto done_putting_back
    };
put_back_status:
    atomic {
        latest_taken = items[count].before;                                     /* G10 a status: first, or merged; */
        e = 0; do :: e < ring_length && !IS_STATUS(ring[e]) -> e++ :: else -> break od;
        if
        :: !late && e == 0 && ring_length > 0 -> skip
        :: !late && (e > 0 || ring_length == 0) -> new_status(); push_front(STATUS + e)
        :: late && e < ring_length -> skip
        :: late && e == ring_length && dropped_equal_status ->                             /* G11 dropped: an ignored equal one comes, */
           new_status(); ROOM(ring_length < NQUEUE); ring[ring_length] = STATUS + e; ring_length++;
           if :: finishing == 1 -> finish_statuses = finish_statuses | BIT(e) :: else -> skip fi
        :: late && e == ring_length && !dropped_equal_status -> latest_received = items[count].before
        fi
    };
done_putting_back:
    atomic { forget_item(count); late = 0; k = 0; borrowed = 0; e = 0; w = 0; unlock(); goto dealt_with };
#endif
release:
    atomic {                                                                    /* E3 release */
        GET_LOCK; retire_borrowed(); claim = 0; asleep = 0;
#ifndef MUTANT_FINISH_RELEASE
        if :: finishing -> stopped = 1 :: else -> skip fi;
#endif
        unlock()
    };
ended:
    done++
}

/* ---------------------------------------------------------------------------------------------- */
/* When all have ended                                                                            */

inline check_keys() {
    i_ = 1;
    do
    :: i_ <= K ->
       if
       :: drained ->
          assert(newest[i_] == 0 || taken[i_] == newest[i_]);                  /* The newest arrived, */
#ifndef PUT_BACK
          assert(newest[i_] == 0 || at_sink[i_] != newest_deletes[i_]);
#else
          /* (putting back may leave a deletion that was received since a restart to the in-sync) */
          assert(newest[i_] == 0 || at_sink[i_] != newest_deletes[i_] || (resync && newest_deletes[i_]));
#endif
          assert(newest[i_] != 0 || restarts == 0 || resync || !at_sink[i_]);  /* and every synthesized deletion. */
          assert(IS_PRESENT(index_[i_]) == at_sink[i_])                        /* Nothing else is left. */
       :: over && !stop_called ->
          assert(taken[i_] >= finish_version[i_]);                               /* What was queued at a finish arrived, */
          assert(ring_length == 0)                                             /* and nothing else is queued. */
       :: else -> skip
       fi;
       i_++
    :: else -> break
    od
}

/* E4 drain_next: the detached payloads, then the slots of all words. */
inline hand_out_leftovers() {
    i_ = 0;
#ifndef MUTANT_LEFTOVER
    do
    :: i_ < detached_length -> assert(owner[detached[i_]] == DETACHED); GIVE_UP(detached[i_]); i_++
    :: else -> break
    od;
#endif
    i_ = 1;
    do
    :: i_ <= NE -> give_back(i_, SLOT(word[i_])); i_++
    :: else -> break
    od;
    i_ = 1; do :: i_ <= NS -> assert(owner[i_] == 0); i_++ :: else -> break od
}

init {
    byte ce; short cw;

    atomic {
        if :: N1 > 0 -> run Producer(1, N1, OPS1) :: else -> skip fi;
        if :: N2 > 0 -> run Producer(2, N2, OPS2) :: else -> skip fi;
        if :: N3 > 0 -> run Producer(3, N3, OPS3) :: else -> skip fi;
        run Loop()
    };
    done == PRODUCERS + 1;
    assert(!finishing || stopped);
    if
    :: drained -> do :: dropped_length + detached_length > 0 -> clear_one() :: else -> break od
    :: else -> skip
    fi;
    atomic { check_keys(); hand_out_leftovers() }
}
