/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of Sources/CDedupe: a directory of sets, each with a map. Readers look keys up without
 * the lock. A writer under the lock adds and removes keys, splits and merges sets, and doubles and
 * halves the directory. README.md says what the model shows.
 *
 *     F  finding without the lock    index.c: find_set, index_find_fingerprint; put.c: is_key, put_anywhere
 *     I  changing under the lock     index.c: set_rebuild, double_directory, split, tidy_set, tidy_next
 *
 * In the code, counts decide when a set is split, merged or rebuilt. Here the writer may do so
 * whenever the directory's form allows it. Memory may run out at any time; then nothing happens.
 * The cells of a map are not modelled: a look-up without the lock may miss, or find any word in the
 * map that has the wanted fingerprint. A look-up under the lock is exact.
 *
 * Directories, sets and maps are tables of one pool. A table is reused at the earliest moment that
 * the read sections allow; retired.pml has the rest.
 *
 * Parameters (-D): K keys; FINGERPRINT1 to FINGERPRINT3, their fingerprints, of two bits each;
 * STEPS of the writer; READERS; FINDS of each reader; NT tables; NE entries. MUTANT_x: a deliberate
 * fault.
 */
#ifndef K
#define K 2
#endif
#ifndef FINGERPRINT1
#define FINGERPRINT1 0
#endif
#ifndef FINGERPRINT2
#define FINGERPRINT2 1
#endif
#ifndef FINGERPRINT3
#define FINGERPRINT3 3
#endif
#ifndef STEPS
#define STEPS 6
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef FINDS
#define FINDS 1
#endif
#ifndef NT
#define NT 12
#endif
#ifndef NE
#define NE (K + 1)
#endif
#define DEPTH_MAX 2
hidden byte too_small; /* Always zero. */
#define ROOM(x) assert((x) || too_small) /* The model's own bounds: not a fault of the protocol. */
#define BIT(x) (1 << (x))
#define FINGERPRINT(k) ((k) == 1 -> FINGERPRINT1 : ((k) == 2 -> FINGERPRINT2 : FINGERPRINT3))
#define PLACE(fingerprint, depth) ((fingerprint) >> (DEPTH_MAX - (depth)))
#define WIDTH(d, s) BIT(depth[d] - depth[s])     /* Places of set s in directory d. */

#define FREE 0
#define USED 1
#define DEFERRED 2                               /* Unlinked in this lock scope, */
#define RETIRED 3                                  /* or in an earlier one. */

bit lock;
byte directory;
bit saw_deepest;
byte cursor;

/* Tables: a directory has a depth and places; a set a depth and a map; a map the entries that it
   names. */
byte state[NT + 1], readers[NT + 1];
byte depth[NT + 1], map[NT + 1], entries[NT + 1];
byte places[(NT + 1) * 4];
#define AT(d, i) places[(d) * 4 + (i)]

byte entry_state[NE + 1], entry_readers[NE + 1], key[NE + 1];
bit word[NE + 1];                                /* Not zero: alive. */
byte sections;

byte present[K + 1];                             /* The key's entry, or zero. */
hidden byte i_;
hidden byte d_;
hidden byte s_;
hidden byte n_;

/* ---------------------------------------------------------------------------------------------- */
/* Retired                                                                                        */

inline clear(t) {
    state[t] = FREE; depth[t] = 0; map[t] = 0; entries[t] = 0;
    AT(t, 0) = 0; AT(t, 1) = 0; AT(t, 2) = 0; AT(t, 3) = 0
}

inline free_unseen() {
    i_ = 1;
    do
    :: i_ <= NT -> if :: state[i_] == RETIRED && readers[i_] == 0 -> clear(i_) :: else -> skip fi; i_++
    :: else -> break
    od;
    i_ = 1;
    do
    :: i_ <= NE ->
       if
       :: entry_state[i_] == RETIRED && entry_readers[i_] == 0 -> assert(!word[i_]); entry_state[i_] = FREE; key[i_] = 0
       :: else -> skip
       fi;
       i_++
    :: else -> break
    od;
    i_ = 0
}

inline retire(t) { state[t] = RETIRED; readers[t] = sections }

/* A table unlinked in a lock scope is retired at its end. The mutants free it at once. */
#ifdef MUTANT_FREE_MAP
#define defer_map(t) clear(t)
#else
#define defer_map(t) state[t] = DEFERRED
#endif
#ifdef MUTANT_FREE_SET
#define defer_set(t) clear(t)
#else
#define defer_set(t) state[t] = DEFERRED
#endif
#ifdef MUTANT_FREE_DIRECTORY
#define defer_directory(t) clear(t)
#else
#define defer_directory(t) state[t] = DEFERRED
#endif
#ifdef MUTANT_FREE_MAP_OF_SET
#define defer_map_of_set(t) clear(t)
#else
#define defer_map_of_set(t) state[t] = DEFERRED
#endif

inline leave() { d_step {
    sections = sections & (255 - BIT(me));
    i_ = 1; do :: i_ <= NT -> readers[i_] = readers[i_] & sections; i_++ :: else -> break od;
    i_ = 1; do :: i_ <= NE -> entry_readers[i_] = entry_readers[i_] & sections; i_++ :: else -> break od;
    free_unseen()
} }

/* A look at a table that is nothing but memory any more. */
inline touch(t) { assert((t) != 0 && state[t] != FREE) }

/* ---------------------------------------------------------------------------------------------- */
/* The lock                                                                                       */

#define GET_LOCK !lock -> lock = 1

/* I1: under the lock, exact: the key's entry, by fingerprint and key. */
inline find(k, found) {
    d_ = directory; s_ = AT(d_, PLACE(FINGERPRINT(k), depth[d_]));
    touch(s_); touch(map[s_]);
    found = 0; n_ = 1;
    do
    :: n_ <= NE ->
       if :: (entries[map[s_]] & BIT(n_)) && key[n_] == k -> assert(word[n_]); found = n_ :: else -> skip fi;
       n_++
    :: else -> break
    od;
    d_ = 0; s_ = 0; n_ = 0
}

/* I12: retire what was unlinked, then release the lock. All that index_validate checks holds. */
inline unlock() { d_step {
    i_ = 1; do :: i_ <= NT -> if :: state[i_] == DEFERRED -> retire(i_) :: else -> skip fi; i_++ :: else -> break od;
    free_unseen();
    d_ = directory; assert(state[d_] == USED);
    i_ = 0;
    do
    :: i_ < BIT(depth[d_]) ->
       s_ = AT(d_, i_);
       assert(s_ != 0 && state[s_] == USED && state[map[s_]] == USED && depth[s_] <= depth[d_]);
       n_ = i_ & (255 - (WIDTH(d_, s_) - 1)); assert(AT(d_, n_) == s_);
       i_++
    :: else -> break
    od;
    i_ = 1;
    do
    :: i_ <= K ->
       s_ = AT(d_, PLACE(FINGERPRINT(i_), depth[d_]));
       assert(present[i_] == 0 || (entries[map[s_]] & BIT(present[i_])));
       i_++
    :: else -> break
    od;
    d_ = 0; s_ = 0; n_ = 0; i_ = 0;
    lock = 0
} }

/* ---------------------------------------------------------------------------------------------- */

/* A table, or zero: no memory. */
inline take_table(t) { d_step {
    t = 1; do :: t <= NT && state[t] != FREE -> t++ :: else -> break od;
    if :: t > NT -> t = 0 :: else -> state[t] = USED fi
} }

/* A set of this depth, with an empty map; zero if there is no memory. */
inline take_set(new, its_map, its_depth) {
    take_table(new); take_table(its_map);
    if
    :: new != 0 && its_map != 0 -> depth[new] = its_depth; map[new] = its_map
    :: new != 0 && its_map == 0 -> clear(new); new = 0
    :: else -> skip
    fi;
    its_map = 0
}

/* The set that has all bits except the last in common with s, or a deeper one. */
#define NEIGHBOUR AT(directory, place ^ BIT(depth[directory] - depth[s]))

proctype Writer() {
    byte steps, k, e, t, old, s, m, left, right, other, first, width, place; bit holding;

next:
    if
    :: steps == STEPS -> goto ended
    :: steps < STEPS && holding -> skip                                   /* In the lock scope of the step before, */
    :: steps < STEPS && !holding -> atomic { GET_LOCK; holding = 1 }      /* or in one of its own. */
    fi;
    atomic {
        steps++;
        k = 1;
#if K > 1
        if
        :: true
        :: k = 2
#if K > 2
        :: k = 3
#endif
        fi;
#endif
        place = PLACE(FINGERPRINT(k), depth[directory]); s = AT(directory, place);
        if
        :: present[k] == 0 ->                                             /* I2 add: the entry, then its word in the map */
           e = 1; do :: e <= NE && entry_state[e] != FREE -> e++ :: else -> break od;
           if :: e > NE -> goto done :: else -> skip fi;
           entry_state[e] = USED; key[e] = k; word[e] = 1; present[k] = e;
           entries[map[s]] = entries[map[s]] | BIT(e);
           goto done
        :: present[k] != 0 -> e = present[k]; present[k] = 0; word[e] = 0; goto remove
        :: goto rebuild
        :: depth[directory] < DEPTH_MAX -> goto double
        :: depth[s] < depth[directory] -> goto split
        :: goto tidy
        fi
    };

    /* -------- index_remove ----------------------------------------------------------------------
       */
remove:
    atomic {
        entries[map[s]] = entries[map[s]] & (255 - BIT(e));               /* I3 remove: a dead entry's word */
#ifdef MUTANT_FREE_ENTRY
        entry_state[e] = FREE; key[e] = 0;
#else
        entry_state[e] = RETIRED; entry_readers[e] = sections;
#endif
        goto done
    };

    /* -------- set_rebuild, by ck_hs_grow --------------------------------------------------------
       */
rebuild:
    atomic {
        take_table(m); if :: m == 0 -> goto done :: else -> skip fi;
        old = map[s]; entries[m] = entries[old]
#ifdef MUTANT_RETIRE_FIRST
        ; retire(old)
#endif
    };
    atomic {
        map[s] = m;                                                       /* I4 the new map: a store */
#ifndef MUTANT_RETIRE_FIRST
        defer_map(old);
#endif
        goto done
    };

    /* -------- double_directory ------------------------------------------------------------------
       */
double:
    atomic {
        take_table(t); if :: t == 0 -> goto done :: else -> skip fi;
        old = directory; depth[t] = depth[old] + 1
#ifdef MUTANT_DIRECTORY_EMPTY
        ; directory = t
#endif
    };
    atomic {
        i_ = 0;
        do :: i_ < BIT(depth[old]) -> AT(t, 2 * i_) = AT(old, i_); AT(t, 2 * i_ + 1) = AT(old, i_); i_++ :: else -> break od;
        i_ = 0;
        directory = t;                                                    /* I5 the larger directory: a store */
        defer_directory(old);
        goto done
    };

    /* -------- split ------------------------------------------------------------------------------
       */
split:
    atomic {
        e = depth[s] + 1; take_set(left, m, e); take_set(right, m, e);
        if
        :: left == 0 || right == 0 ->
           t = left + right; if :: t != 0 -> m = map[t]; clear(m); clear(t) :: else -> skip fi;
           goto done
        :: else -> skip
        fi;
        e = 1;
        do                                                                /* I6 divide the words */
        :: e <= NE ->
           if
           :: entries[map[s]] & BIT(e) ->
#ifndef MUTANT_SPLIT_BIT
              m = ((FINGERPRINT(key[e]) >> (DEPTH_MAX - 1 - depth[s])) & 1 -> map[right] : map[left]);
#else
              m = (FINGERPRINT(key[e]) & 1 -> map[right] : map[left]);
#endif
              entries[m] = entries[m] | BIT(e)
           :: else -> skip
           fi;
           e++
        :: else -> break
        od;
        width = WIDTH(directory, s) / 2; first = place & (255 - (2 * width - 1)); e = 0; m = 0
#ifdef MUTANT_SET_EMPTY
        ; m = map[left]; map[left] = 0
#endif
    };
    do                                                                    /* I7 the halves, place by place: stores */
    :: e < width ->
       AT(directory, first + e) = left;
       atomic {
           AT(directory, first + width + e) = right; e++
#ifdef MUTANT_TORN
           ; e = width
#endif
       }
    :: else -> break
    od;
    atomic {
#ifdef MUTANT_SET_EMPTY
        map[left] = m;
#endif
        m = map[s]; defer_map_of_set(m); defer_set(s);
#ifndef MUTANT_SPLIT_UNSEEN
        saw_deepest = 1;
#endif
        goto done
    };

    /* -------- tidy_next, tidy_set -----------------------------------------------------------------
       */
tidy:
    atomic {
        if :: cursor >= BIT(depth[directory]) -> goto end_of_round :: else -> skip fi;
        place = cursor; s = AT(directory, place);
        if
        :: goto look_on
        :: true ->                                                        /* A smaller set, or one with its neighbour: */
           if
           :: depth[s] > 0 && depth[NEIGHBOUR] == depth[s] -> other = NEIGHBOUR
           :: true
           fi
        fi;
        e = (other != 0 -> depth[s] - 1 : depth[s]); take_set(t, m, e); e = 0;
        if :: t == 0 -> goto done :: else -> skip fi;
        m = map[t];
        entries[m] = entries[map[s]];                                     /* I8 copy the words */
#ifndef MUTANT_MERGE
        if :: other != 0 -> entries[m] = entries[m] | entries[map[other]] :: else -> skip fi;
#endif
        width = WIDTH(directory, t); first = place & (255 - (width - 1))
    };
    do                                                                    /* I9 place by place: stores */
    :: e < width -> atomic { AT(directory, first + e) = t; e++ }
    :: else -> break
    od;
    atomic {
        m = map[s]; defer_map_of_set(m); defer_set(s);
        if :: other != 0 -> m = map[other]; defer_map_of_set(m); defer_set(other) :: else -> skip fi
    };
look_on:
    atomic {
        s = AT(directory, cursor);                                        /* I10 go on to the next set */
#ifndef MUTANT_DEEPEST
        if :: depth[s] == depth[directory] -> saw_deepest = 1 :: else -> skip fi;
#endif
        cursor = (cursor | (WIDTH(directory, s) - 1)) + 1;
        goto done
    };
end_of_round:
    atomic {
        if
        :: saw_deepest || depth[directory] == 0 -> cursor = 0; saw_deepest = 0; goto done
        :: else -> skip
        fi;
        take_table(t); if :: t == 0 -> goto done :: else -> skip fi;
        old = directory; depth[t] = depth[old] - 1; i_ = 0;
        do :: i_ < BIT(depth[t]) -> AT(t, i_) = AT(old, 2 * i_); i_++ :: else -> break od;
        i_ = 0
    };
    atomic {
        directory = t;                                                    /* I11 the smaller directory: a store */
        defer_directory(old);
        cursor = 0; saw_deepest = 0
    };

done:
    atomic {
        k = 0; e = 0; t = 0; old = 0; s = 0; m = 0; left = 0; right = 0; other = 0; first = 0; width = 0; place = 0;
        if
        :: unlock(); holding = 0
        :: steps < STEPS -> skip
        fi;
        goto next
    };
ended:
    skip
}

proctype Reader(byte me) {
    byte finds, k, d, s, m, e;

next:
    atomic {
        if :: finds == FINDS -> goto ended :: else -> finds++ fi;
        k = 1;
#if K > 1
        if
        :: true
        :: k = 2
#if K > 2
        :: k = 3
#endif
        fi;
#endif
        sections = sections | BIT(me);                                    /* A section: see retired.pml. */
        d = directory                                                     /* F1 load the directory, */
    };
    atomic { touch(d); s = AT(d, PLACE(FINGERPRINT(k), depth[d])); d = 0 };       /* F2 the set, */
    atomic { touch(s); m = map[s]; s = 0 };                               /* F3 the map; */
    atomic {                                                              /* F4 a word with the fingerprint, or a miss */
        touch(m);
        e = 1;
        do
        :: e <= NE && (entries[m] & BIT(e)) && (key[e] == 0 || FINGERPRINT(key[e]) == FINGERPRINT(k)) -> break
        :: e <= NE -> e++
        :: e > NE -> e = 0; break
        od;
        m = 0
    };
#ifdef MUTANT_SECTION
    leave();
#endif
    atomic {                                                              /* F5 alive, and of this key? */
        if
        :: e != 0 ->
           assert(entry_state[e] != FREE);
#ifndef MUTANT_FINGERPRINT
           if :: word[e] && key[e] == k -> skip :: else -> e = 0 fi
#endif
        :: else -> skip
        fi
    };
    atomic { assert(e == 0 || (entry_state[e] != FREE && key[e] == k)) }; /* What is done to its word is done to its key. */
    atomic {
        GET_LOCK;
        if                                                                /* F6 missed, or dead by now: find it again */
#ifndef MUTANT_WORD
        :: e == 0 || !word[e] -> find(k, e)
#else
        :: e == 0 -> find(k, e)
#endif
        :: else -> skip
        fi;
        assert(e == present[k]);
        k = 0; e = 0;
        unlock()
    };
#ifndef MUTANT_SECTION
    leave();
#endif
    goto next;
ended:
    skip
}

/* A set with the places from `first` to `first + width - 1`. */
inline start_set(its_depth, first, width) {
    t = 1; do :: t <= NT && state[t] != FREE -> t++ :: else -> break od;
    ROOM(t + 1 <= NT);
    state[t] = USED; state[t + 1] = USED; depth[t] = its_depth; map[t] = t + 1;
    i_ = first; do :: i_ < first + width -> AT(1, i_) = t; i_++ :: else -> break od; i_ = 0
}

/* It begins with any form of the directory, keys, and place in a round, not only with what the next
   STEPS can reach. */
init {
    byte t, k, s;

    atomic {
        state[1] = USED; directory = 1;
        if
        :: start_set(0, 0, 1)
        :: depth[1] = 1; if :: start_set(0, 0, 2) :: start_set(1, 0, 1); start_set(1, 1, 1) fi
        :: depth[1] = 2;
           if
           :: start_set(0, 0, 4)
           :: if :: start_set(1, 0, 2) :: start_set(2, 0, 1); start_set(2, 1, 1) fi;
              if :: start_set(1, 2, 2) :: start_set(2, 2, 1); start_set(2, 3, 1) fi
           fi
        fi;
        k = 1;
        do
        :: k <= K ->
           if
           :: true
           :: s = AT(1, PLACE(FINGERPRINT(k), depth[1])); t = map[s]; entries[t] = entries[t] | BIT(k);
              present[k] = k; entry_state[k] = USED; key[k] = k; word[k] = 1
           fi;
           k++
        :: else -> break
        od;
        do
        :: cursor < BIT(depth[1]) ->
           s = AT(1, cursor); cursor = (cursor | (WIDTH(1, s) - 1)) + 1;
           if :: depth[s] == depth[1] -> saw_deepest = 1 :: else -> skip fi
        :: break
        :: saw_deepest = 1; break
        od;
        k = 0; t = 0; s = 0;
        run Writer();
        do :: k < READERS -> run Reader(k); k++ :: else -> break od
    }
}
