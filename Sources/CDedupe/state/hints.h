/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hints: where a look-up without the lock looks first, in a small index.
 *
 * The hints are an array of the index's stored words (see index.h). A word is in one of the two
 * places of a pair; the last bits of its fingerprint choose the pair. If later words have taken
 * both places, the word is not in the hints, and the look-up finds it in its set. So hints may miss
 * a key, and never name an entry that the index does not have.
 *
 * A look-up in the hints reads one cache line and calls no function. A look-up in a ck_hs set reads
 * three and calls the library, which calls back for each word that it meets. A large index has no
 * hints: there a look-up waits for memory, and one more line would only make it wait longer.
 *
 * The caller holds the lock for changes. A look-up without the lock needs a read section.
 */
#ifndef CDEDUPE_STATE_HINTS_H
#define CDEDUPE_STATE_HINTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/atomics.h"
#include "base/test_sizes.h"

/* The sizes of hints, in words: two words, at least, for each key. */
enum { HINTS_MIN = TEST_SIZED(32, 4), HINTS_MAX = TEST_SIZED(16384, 32) };

struct hints {
    uint64_t size; /* The number of words, a power of two. */
    uint64_t words[];
};

static inline size_t
hints_bytes(uint64_t size)
{
    return sizeof(struct hints) + size * sizeof(uint64_t);
}

static inline uint64_t
hints_place(const struct hints *hints, uint64_t fingerprint)
{
    return fingerprint & (hints->size - 1);
}

/*
 * A stored word with this fingerprint, or zero.
 *
 * Acquire. The other side is the release in hints_add(). Without it the reader could look for the
 * entry in a table of slabs that does not have it yet.
 */
static inline uint64_t
hints_find(const struct hints *hints, uint64_t fingerprint)
{
    uint64_t place = hints_place(hints, fingerprint);
    uint64_t word = sync_load_acquire(&hints->words[place]);

    if (word >> 32 != fingerprint)
        word = sync_load_acquire(&hints->words[place ^ 1]);
    return word >> 32 == fingerprint ? word : 0;
}

/* Adds a stored word, in the place of another one if it must. */
static inline void
hints_add(struct hints *hints, uint64_t word)
{
    uint64_t place = hints_place(hints, word >> 32);

    if (hints->words[place] != 0 && hints->words[place ^ 1] == 0)
        place ^= 1;
    sync_store_release(&hints->words[place], word);
}

static inline void
hints_remove(struct hints *hints, uint64_t word)
{
    uint64_t place = hints_place(hints, word >> 32);

    for (unsigned i = 0; i < 2; i++)
        if (hints->words[place ^ i] == word)
            sync_store_relaxed(&hints->words[place ^ i], 0);
}

#endif
