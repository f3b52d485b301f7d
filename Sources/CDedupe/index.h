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
 * Everything happens under the buffer's lock.
 */
#ifndef CDEDUPE_INDEX_H
#define CDEDUPE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "memory.h"

struct set;

struct index {
    struct set **directory;
    uint32_t depth; /* The directory has 2^depth places. */
    uint64_t count; /* Entries in all sets. */
};

/* False: no memory. */
bool index_init(struct index *index, struct memory *memory);
void index_destroy(struct index *index, struct memory *memory);

/* The number of the key's entry, or zero. */
uint32_t index_find(const struct index *index, const struct arena *entries, uint64_t hash, const void *key,
                    size_t length);

/*
 * Adds an entry whose key is not there, growing as needed. False: nothing was added and the reserve wants memory; or
 * it wants nothing, and too many keys have the same hash.
 */
bool index_add(struct index *index, uint64_t hash, uint32_t entry, struct reserve *reserve);

/* Removes an entry that is there. */
void index_remove(struct index *index, uint64_t hash, uint32_t entry);

/* NULL, or what is wrong. */
const char *index_validate(const struct index *index, const struct arena *entries);

#endif
