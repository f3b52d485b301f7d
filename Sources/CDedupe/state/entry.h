/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entry: a key that is pending, live or pinned.
 *
 * The key's bytes follow the header, and an entry begins at a multiple of 64 bytes. The entry of a
 * short key is therefore one cache line. In a buffer that suppresses updates which the sink has
 * already, the revision that was taken last follows the key. Zero means that no revision was taken.
 *
 * An entry is dead if its word is zero. A dead entry is in one of three states: its cell is free;
 * or it is retired; or the sink has borrowed it and may still read the key of the deletion that was
 * taken. Zeroed memory consists of dead entries.
 *
 * `shape` holds the key's length and what keeps the entry besides its word:
 *
 *    31          18  17 16            0
 *   +--------------+---+---------------+
 *   |     pins     | B |    length     |
 *   +--------------+---+---------------+
 *
 *   pins  how often the key is pinned; an entry with pins never dies
 *   B     borrowed: the sink may still be reading the key although the entry is neither dead nor
 *         live, because pins kept it when its deletion was taken or its value was put back. The
 *         flag stays when the sink has gone on; then it only delays the entry's retirement
 *
 * The length never changes while a reader may see the entry. Pins and flag change under the lock.
 */
#ifndef CDEDUPE_STATE_ENTRY_H
#define CDEDUPE_STATE_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/atomics.h"
#include "memory/arena.h"
#include "state/word.h"

struct entry {
    uint64_t word; /* See word.h. */
    uint64_t hash;
    uint32_t shape;
    uint32_t link; /* Pending: the key's link. Dead: the next free, retired or borrowed entry. */
    unsigned char key[];
};

_Static_assert(offsetof(struct entry, key) == 24, "40 bytes of key fit into the first cache line");

enum {
    SHAPE_LENGTH = ((uint32_t)1 << 17) - 1,
    SHAPE_BORROWED = (uint32_t)1 << 17,
    SHAPE_PIN = (uint32_t)1 << 18, /* One pin. */
};

/* The classes are for keys of up to CDEDUPE_KEY_MAX bytes; see entry.c. */
enum { ENTRY_UNIT = 64, ENTRY_CLASSES = 37 };

/*
 * An entry's number has 31 bits, because a stored word of the index has no more room. The number
 * whose bits are all ones is never used; see index.h.
 */
#define ENTRY_SLAB_LIMIT (((uint32_t)1 << (31 - SLAB_SHIFT)) - 2)

static inline struct entry *
entry_at(const struct arena *entries, uint32_t number)
{
    return arena_at(entries, number);
}

/*
 * Relaxed. The other side is entry_change_shape(), which keeps the length, so a reader without the
 * lock gets the right length whichever value it reads.
 */
static inline uint32_t
entry_key_length(const struct entry *entry)
{
    return sync_load_relaxed_32(&entry->shape) & SHAPE_LENGTH;
}

/* Under the lock: how often the key is pinned. */
static inline uint32_t
entry_pins(const struct entry *entry)
{
    return entry->shape / SHAPE_PIN;
}

/* Under the lock: adds pins, or takes them away, or sets the flag. */
static inline void
entry_change_shape(struct entry *entry, uint32_t shape)
{
    sync_store_relaxed_32(&entry->shape, shape);
}

/* Under the lock: the sink may read the key until the next take or release. */
static inline void
entry_lend(struct entry *entry)
{
    entry_change_shape(entry, entry->shape | SHAPE_BORROWED);
}

/*
 * Under the lock: the word of the entry when its key is neither pending nor live. An entry with
 * pins becomes vacant instead of dead.
 */
static inline uint64_t
entry_word_without_key(const struct entry *entry)
{
    return entry_pins(entry) > 0 ? WORD_VACANT : 0;
}

/*
 * Whether the key is `length` bytes at `key`. Short keys are compared here, because a call of
 * memcmp() takes longer than the comparison.
 */
static inline bool
entry_has_key(const struct entry *entry, const void *key, size_t length)
{
    const unsigned char *one = entry->key, *two = key;
    uint64_t left, right, difference = 0;

    if (entry_key_length(entry) != length)
        return false;
    if (length < sizeof(left) || length > 4 * sizeof(left))
        return length == 0 || memcmp(one, two, length) == 0;
    for (size_t i = 0; i < length; i += sizeof(left)) {
        /* The last eight bytes may overlap those before them. */
        size_t at = i + sizeof(left) <= length ? i : length - sizeof(left);

        memcpy(&left, one + at, sizeof(left));
        memcpy(&right, two + at, sizeof(right));
        difference |= left ^ right;
    }
    return difference == 0;
}

/* Under the lock: the revision that was taken last. The buffer must be one that suppresses. */
static inline uint64_t
entry_revision(const struct entry *entry)
{
    uint64_t revision;

    memcpy(&revision, entry->key + entry_key_length(entry), sizeof(revision));
    return revision;
}

static inline void
entry_set_revision(struct entry *entry, uint64_t revision)
{
    memcpy(entry->key + entry_key_length(entry), &revision, sizeof(revision));
}

/* Prepares an arena with the size classes of entries. */
void entry_init_arena(struct arena *entries, struct slab_class classes[ENTRY_CLASSES]);

/*
 * The size class of an entry. `length` is the number of bytes behind the header: key and revision.
 */
uint32_t entry_class(size_t length);

#endif
