/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entry: a key that is pending or live.
 *
 * Header and key bytes lie together, at a multiple of 64 bytes, so that a short key's entry is one cache line. Behind the
 * key, in buffers that suppress what the sink has already, is the revision that was taken last; zero: none. An
 * entry whose word is zero is dead: free, or lent to the sink until it has seen the key of its deletion. Fresh memory
 * is dead entries.
 */
#ifndef CDEDUPE_STATE_ENTRY_H
#define CDEDUPE_STATE_ENTRY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "memory/arena.h"

struct entry {
    uint64_t word; /* See word.h. */
    uint64_t hash;
    uint32_t key_length;
    uint32_t link; /* While pending: its link. While dead: the next free or lent entry. */
    unsigned char key[];
};

_Static_assert(offsetof(struct entry, key) == 24, "40 bytes of key fit into the first cache line");

enum { ENTRY_UNIT = 64 };

/* An entry's number has 31 bits, and never all of them. */
#define ENTRY_SLAB_LIMIT (((uint32_t)1 << (31 - SLAB_SHIFT)) - 2)

static inline struct entry *
entry_at(const struct arena *entries, uint32_t number)
{
    return arena_at(entries, number);
}

/* Under the lock: the revision that was taken last. */
static inline uint64_t
entry_revision(const struct entry *entry)
{
    uint64_t revision;

    memcpy(&revision, entry->key + entry->key_length, sizeof(revision));
    return revision;
}

static inline void
entry_set_revision(struct entry *entry, uint64_t revision)
{
    memcpy(entry->key + entry->key_length, &revision, sizeof(revision));
}

/* The arena's classes for entries, and the class of one with so many bytes of key and what is behind it. */
void entry_init_arena(struct arena *entries);
uint32_t entry_class(size_t length);

#endif
