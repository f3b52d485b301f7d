/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Index: from a key to its entry.
 *
 * A directory of hash sets (ck_hs), after the manner of extendible hashing: the first bits of the hash choose the set,
 * and a set that is full is split into two by the next bit. Growing thus never moves more than one set's keys, and
 * nobody waits for a big rehash.
 *
 *   directory            sets
 *   +-----+
 *   | 00  |----+------>  depth 1: hashes that begin with 0
 *   | 01  |----+
 *   | 10  |----------->  depth 2: 10
 *   | 11  |----------->  depth 2: 11
 *   +-----+
 *
 * What a set stores is not a pointer:
 *
 *   63          32 31                    1   0
 *   +-------------+----------------------+---+
 *   |     tag     |     entry's number   | 1 |
 *   +-------------+----------------------+---+
 *
 * The tag is 32 bits of the hash, so a mismatch is seen without touching the entry, and growing and splitting touch
 * no entry at all. The low bit tells a stored word from a look-up record, which is a pointer. The number 0x7fffffff is
 * never handed out: with a tag of ones it would be ck_hs's tombstone.
 *
 * Changes happen under the buffer's lock. Look-ups need no lock, but a section (limbo.h): outgrown maps, sets and
 * directories are left as they were, and freed when no section is left that may have found them. Such a look-up can miss
 * a key that is there, because it was in a table that was just replaced, or because its tag met another's first; it
 * never finds a wrong one. Who misses looks again under the lock.
 */
#ifndef CDEDUPE_STATE_INDEX_H
#define CDEDUPE_STATE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/arena.h"
#include "memory/allocator.h"
#include "base/test_sizes.h"

struct directory;

/* An index of so many keys is small: it is in the cache, and probes are what its look-ups cost. */
enum { INDEX_SMALL = TEST_SIZED(8192, 16) };

struct index {
    struct directory *directory;
    uint64_t count; /* Entries in all sets. */
    uint64_t
        removed; /* Removals that index_tidy() has not yet made up for; read as a hint without the lock. */
    uint64_t cursor; /* The place in the directory at which it goes on, */
    bool
        saw_deepest; /* and whether, in this round, it has met a set that needs the directory's full depth. */
};

/* False: no memory. */
bool index_init(struct index *index, struct memory *memory);
void index_destroy(struct index *index, struct memory *memory);

/* Under the lock: the number of the key's entry, or zero. */
uint32_t index_find(const struct index *index, const struct arena *entries, uint64_t hash,
                    const void *key, size_t length);

/*
 * Without the lock, in a section: the number of an entry with the hash's tag, or zero. What it names may have died; and
 * its key is not compared. The first two calls bring nearer what the next one needs, for many keys in turn.
 */
void index_prefetch_set(const struct index *index, uint64_t hash);
void index_prefetch_cells(const struct index *index, uint64_t hash);
uint32_t index_find_fingerprint(const struct index *index, uint64_t hash);

/* Room for one more key with this hash. False: the reserve wants memory. */
bool index_make_room(struct index *index, uint64_t hash, struct reserve *reserve);

/*
 * Adds an entry whose key is not there; index_make_room() said yes. False, after all: too many keys have nearly the same
 * hash, nothing was added, and the reserve wants memory.
 */
bool index_add(struct index *index, uint64_t hash, uint32_t entry, struct reserve *reserve);

/* Removes an entry that is there. */
void index_remove(struct index *index, uint64_t hash, uint32_t entry);

/*
 * Gives memory back: looks at some sets in turn, as many as recent removals pay for, and makes one that has become sparse
 * smaller, or one of two neighbours, or halves the directory. False: the reserve wants memory to do so.
 */
bool index_tidy(struct index *index, struct reserve *reserve);

/* Whether it has something to look at. A hint: needs no lock. */
bool index_is_untidy(const struct index *index);

/* NULL, or what is wrong. */
const char *index_validate(const struct index *index, const struct arena *entries);

#endif
