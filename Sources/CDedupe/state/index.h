/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Index: from a key to its entry.
 *
 * The index is a directory of hash sets (ck_hs), by extendible hashing. The first bits of the hash
 * choose the set. A full set is split into two by the next bit. Growing therefore never moves more
 * than one set's keys, and no call has to wait until all keys are hashed again.
 *
 *   directory            sets
 *   +-----+
 *   | 00  |----+------>  depth 1: hashes that begin with 0
 *   | 01  |----+
 *   | 10  |----------->  depth 2: 10
 *   | 11  |----------->  depth 2: 11
 *   +-----+
 *
 * A set does not store pointers. It stores words of this form:
 *
 *   63          32 31                    1   0
 *   +-------------+----------------------+---+
 *   | fingerprint |     entry's number   | 1 |
 *   +-------------+----------------------+---+
 *
 * The fingerprint is the upper 32 bits of the hash. A look-up therefore sees most mismatches
 * without reading the entry, and growing and splitting read no entry at all. The low bit
 * distinguishes a stored word from a look-up record, because a look-up record is a pointer. The
 * entry number 0x7fffffff is never used: with a fingerprint of ones its stored word would be
 * ck_hs's tombstone.
 *
 * The caller holds the buffer's lock for changes. A look-up without the lock needs a read section
 * (context.h). A writer leaves outgrown maps, sets and directories unchanged and defers them. They
 * are freed after all read sections that may have found them have ended (retired.h).
 *
 * A look-up without the lock can miss a key that is in the index. Either the key was in a table
 * that was just replaced, or the look-up found another key with the same fingerprint first. A
 * look-up without the lock compares no keys, so its caller compares the key of the entry that it
 * returns. After a miss or a mismatch the caller looks the key up again under the lock.
 */
#ifndef CDEDUPE_STATE_INDEX_H
#define CDEDUPE_STATE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/arena.h"
#include "memory/allocator.h"
#include "base/test_sizes.h"
#include "state/hints.h"

struct directory;

/*
 * An index with fewer keys than this is small. It fits into the processor's cache, so the number of
 * probes decides what a look-up costs.
 */
enum { INDEX_SMALL = TEST_SIZED(8192, 16) };

struct index {
    struct directory *directory;
    struct hints *hints; /* NULL in a large index. */
    uint64_t count;      /* Entries in all sets. */
    /* Removals that index_tidy() has not yet worked off. A hint for readers without the lock. */
    uint64_t removed;
    uint64_t cursor; /* The place in the directory at which index_tidy() continues its round. */
    /* In this round index_tidy() or a split has met a set that needs the full depth. */
    bool saw_deepest;
};

/* Returns false if there is no memory. */
bool index_init(struct index *index, struct memory *memory);
void index_destroy(struct index *index, struct memory *memory);

/* Under the lock: returns the number of the key's entry, or zero. */
uint32_t index_find(const struct index *index, const struct arena *entries, uint64_t hash,
                    const void *key, size_t length);

/*
 * Without the lock, in a read section: prefetches for index_find_fingerprint(). A caller with many
 * keys calls index_prefetch_set() for all of them, then index_prefetch_cells() for all of them.
 */
void index_prefetch_set(const struct index *index, uint64_t hash);
void index_prefetch_cells(const struct index *index, uint64_t hash);

static inline uint32_t
hash_fingerprint(uint64_t hash)
{
    return (uint32_t)(hash >> 32);
}

/* The entry's number in a stored word. */
static inline uint32_t
word_entry(uint64_t stored)
{
    return (uint32_t)stored >> 1;
}

/* As index_find_fingerprint(), without the hints. */
uint32_t index_find_in_set(const struct index *index, uint64_t hash);

/*
 * Without the lock, in a read section: returns the number of an entry with the hash's fingerprint,
 * or zero. The entry may have died, and its key may be another one.
 */
static inline uint32_t
index_find_fingerprint(const struct index *index, uint64_t hash)
{
    const struct hints *hints = sync_load_pointer(&index->hints);
    uint64_t word = hints == NULL ? HINTS_UNKNOWN : hints_find(hints, hash_fingerprint(hash));

    return word != HINTS_UNKNOWN ? word_entry(word) : index_find_in_set(index, hash);
}

/* Under the lock: makes room for one more key with this hash. False: the reserve wants memory. */
bool index_make_room(struct index *index, uint64_t hash, struct reserve *reserve);

/*
 * Under the lock: adds an entry whose key is not in the index. The caller has called
 * index_make_room(), which returned true. Returns false if too many keys have nearly the same hash.
 * Then the call has added nothing, and the reserve wants memory for a larger map.
 */
bool index_add(struct index *index, uint64_t hash, uint32_t entry, struct reserve *reserve);

/* Under the lock: removes an entry that is in the index. */
void index_remove(struct index *index, uint64_t hash, uint32_t entry);

/*
 * Under the lock: gives memory back. Visits some sets in turn; the number of recent removals
 * decides how many. Rebuilds a sparse set with a smaller map, or merges it with its neighbour. At
 * the end of a round it halves the directory if no set needs its full depth. False: the reserve
 * wants memory for this.
 */
bool index_tidy(struct index *index, struct reserve *reserve);

/* Whether there were enough removals for index_tidy() to visit a set. A hint that needs no lock. */
bool index_is_untidy(const struct index *index);

/* Checks the index. Returns NULL, or a description of the first error. */
const char *index_validate(const struct index *index, const struct arena *entries);

#endif
