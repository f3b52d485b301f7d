/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Retired memory and the contexts of Sources/CDedupe over ck_epoch 0.7.1, on a machine with store
 * buffers (TSO, as x86 is).
 *
 *     L  holders of the lock        retired.c: retired_add, retired_reclaim, close_entries,
 *                                   entry_grace_is_over
 *     X  readers in read sections   context.c: context_claim, context_give_back
 *
 * A lock holder unlinks objects and files them in generations (open, closed, ready). It frees the
 * ready generation. A reader in a read section looks whether an object is linked. An object that
 * the reader found must not be freed until the section ends.
 *
 * A store waits in its processor's buffer until a Drain lets it out, in order. A locked instruction
 * or a full fence waits for that. Data that only lock holders use needs no buffer here, because it
 * is out before the lock's release is.
 *
 * Parameters (-D): LOCKS, the lock scopes of each of the two holders; OBJECTS; READERS; SECTIONS of
 * each reader. NO_FENCE: close_entries without its full fence. MUTANT_x: a deliberate fault.
 */
#ifndef LOCKS
#define LOCKS 3
#endif
#ifndef OBJECTS
#define OBJECTS 2
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef SECTIONS
#define SECTIONS 2
#endif
#define HOLDERS 2
#define BIT(x) (1 << (x))

/* MUTANT_UNLOCKED: no lock; each holder has its own record and retired list, as a separate library
   would. */
#ifdef MUTANT_UNLOCKED
#define RECORDS HOLDERS
#define MINE me
#else
#define RECORDS 1
#define MINE 0
#endif

bit lock;
byte linked = BIT(OBJECTS) - 1;      /* Sets of objects. */
byte freed;
byte open[RECORDS], closed[RECORDS], ready[RECORDS], bucket[RECORDS];
bit waits[RECORDS];

byte epoch = 1;                      /* ck_epoch: the global one, and the readers' records. */
bit in_section[READERS];
byte observed[READERS];

/* Store buffers. */
byte unlinked_b[HOLDERS]; bit unlock_b[HOLDERS];
bit observed_b[READERS], inactive_b[READERS]; byte observed_v[READERS];

inline flush_holder(h) { atomic {
    linked = linked & (255 - unlinked_b[h]); unlinked_b[h] = 0;
    if :: unlock_b[h] -> lock = 0; unlock_b[h] = 0 :: else -> skip fi } }

inline flush_reader(r) { atomic {
    if :: observed_b[r] -> observed[r] = observed_v[r]; observed_b[r] = 0; observed_v[r] = 0 :: else -> skip fi;
    if :: inactive_b[r] -> in_section[r] = 0; inactive_b[r] = 0 :: else -> skip fi } }

proctype DrainHolder(byte h) {
end:
    do
    :: atomic { unlinked_b[h] -> linked = linked & (255 - unlinked_b[h]); unlinked_b[h] = 0 }
    :: atomic { !unlinked_b[h] && unlock_b[h] -> lock = 0; unlock_b[h] = 0 }
    od
}

proctype DrainReader(byte r) {
end:
    do
    :: atomic { observed_b[r] -> observed[r] = observed_v[r]; observed_b[r] = 0; observed_v[r] = 0 }
    :: atomic { !observed_b[r] && inactive_b[r] -> in_section[r] = 0; inactive_b[r] = 0 }
    od
}

/* ck_epoch's dispatch of one of its four stacks: our callback makes the closed generation ready. */
inline dispatch(e) {
    if
    :: waits[MINE] && bucket[MINE] == ((e) & 3) -> ready[MINE] = closed[MINE]; closed[MINE] = 0; waits[MINE] = 0; bucket[MINE] = 0
    :: else -> skip
    fi
}

proctype Holder(byte me) {
    byte locks, g, r, x; bit any, late, a;

    do
    :: locks < LOCKS ->
        locks++;
#ifndef MUTANT_UNLOCKED
        atomic { !lock -> flush_holder(me); lock = 1 };                         /* Lock: a locked instruction. */
#endif
        if
        :: atomic { linked & (255 - unlinked_b[0] - unlinked_b[1]) ->           /* L1 unlink, and retired_add */
               x = 0; do :: !(linked & (255 - unlinked_b[0] - unlinked_b[1]) & BIT(x)) -> x++ :: else -> break od;
               unlinked_b[me] = unlinked_b[me] | BIT(x);
#ifdef MUTANT_LATE
               if :: waits[MINE] -> closed[MINE] = closed[MINE] | BIT(x) :: else -> open[MINE] = open[MINE] | BIT(x) fi;
#else
               open[MINE] = open[MINE] | BIT(x);
#endif
               x = 0 }
        :: skip
        fi;
        if
        :: waits[MINE] ->                                                       /* L2 ck_epoch_poll */
            g = epoch;
            flush_holder(me);
            atomic { dispatch(g + 2) };                                         /* g - 2, modulo 4 */
            r = 0; any = 0; late = 0;
            do
            :: r < READERS && !late ->
                a = in_section[r]; any = any | a;
                if :: a && observed[r] != g -> late = 1 :: else -> skip fi;
                r++
            :: else -> break
            od;
            atomic {
                if
                :: late -> skip
                :: !late && !any -> dispatch(0); dispatch(1); dispatch(2); dispatch(3)
                :: !late && any -> if :: epoch == g -> epoch = g + 1 :: else -> skip fi; dispatch(g + 3)
                fi;
                g = 0; r = 0; any = 0; late = 0; a = 0
            }
        :: else -> skip
        fi;
        if
        :: ready[MINE] -> atomic { freed = freed | ready[MINE]; ready[MINE] = 0 } /* L3 free what is ready */
        :: !ready[MINE] && !waits[MINE] && open[MINE] ->                        /* L4 close a generation: */
#ifdef MUTANT_GRACE
            ready[MINE] = open[MINE]; open[MINE] = 0
#else
            closed[MINE] = open[MINE]; open[MINE] = 0; waits[MINE] = 1;
#ifndef NO_FENCE
            flush_holder(me);                                                   /* full fence, */
#endif
            bucket[MINE] = epoch & 3                                            /* ck_epoch_call */
#endif
        :: else -> skip
        fi;
#ifndef MUTANT_UNLOCKED
        atomic { unlock_b[me] = 1 }
#endif
    :: else -> break
    od
}

proctype Reader(byte me) {
    byte sections, g, found, x;

    do
    :: sections < SECTIONS ->
        sections++;
        flush_reader(me);
#ifdef MUTANT_BEGIN_FENCE
        found = linked;                                                         /* Before the store to `active` is out. */
#endif
        in_section[me] = 1;                                                     /* X1 ck_epoch_begin: active, full fence, */
#ifdef MUTANT_LOAD_FENCE
        found = linked;                                                         /* As a weakly ordered machine may. */
#endif
        g = epoch;                                                              /* X2 the epoch, */
        atomic { observed_b[me] = 1; observed_v[me] = g; g = 0 };               /* as a store in the buffer */
#if !defined(MUTANT_LOAD_FENCE) && !defined(MUTANT_BEGIN_FENCE)
        found = linked;                                                         /* X3 load fence; look up */
#endif
        do :: x < 2 -> x++; assert(!(found & freed)) :: else -> break od;       /* X4 look at what was found */
        atomic { found = 0; x = 0; inactive_b[me] = 1 }                         /* X5 ck_epoch_end */
    :: else -> break
    od
}

init {
    byte r;

    atomic {
        run Holder(0); run DrainHolder(0);
        run Holder(1); run DrainHolder(1);
        do :: r < READERS -> run Reader(r); run DrainReader(r); r++ :: else -> break od
    }
}
