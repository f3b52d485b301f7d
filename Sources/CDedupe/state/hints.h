/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hints: where a look-up goes first, in a small index.
 *
 * The hints are an array of the index's stored words (see index.h). A word is in one of the two
 * places of a pair; the last bits of its fingerprint choose the pair. If later words take both
 * places, the word leaves the hints, and the look-up finds it in its set. The pair then keeps a
 * mark, in bit 0 of one of its two places, until larger or smaller hints replace these.
 *
 *   63          32 31                    1   0
 *   +-------------+----------------------+---+
 *   | fingerprint |     entry's number   | m |     m: a word that belongs to this pair is missing
 *   +-------------+----------------------+---+
 *
 * So hints never name an entry that the index does not have. A pair without a mark names all of
 * its entries. A look-up under the lock therefore knows at once that a key is absent, if the pair
 * has neither the fingerprint nor a mark.
 *
 * A look-up in the hints reads one cache line and calls no function. A look-up in a ck_hs set reads
 * three and calls the library, which calls back for each word that it meets. A large index has no
 * hints: there a look-up waits for memory, and one more line would only make it wait longer.
 *
 * The caller holds the lock for changes. A look-up without the lock needs a read section. It may
 * read the two places of a pair at different times, so it may miss an entry that is there. Its
 * caller then looks up again under the lock.
 */
#ifndef CDEDUPE_STATE_HINTS_H
#define CDEDUPE_STATE_HINTS_H

#include <stdbool.h>
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

/* The bit that marks a pair, and what hints_find() returns for a pair with a mark. */
enum { HINT_MISSING = 1, HINTS_UNKNOWN = 1 };

/* Whether a place names an entry with this fingerprint. A place without a word is 0 or the mark. */
static inline bool
hint_has(uint64_t hint, uint64_t fingerprint)
{
    return hint >> 32 == fingerprint && hint > HINT_MISSING;
}

/*
 * The word of an entry with this fingerprint; zero if there is none; HINTS_UNKNOWN if the entry's
 * set must be searched. The low bit of a word is not significant.
 *
 * Acquire. The other side is the release in hints_add(). Without it the reader could look for the
 * entry in a table of slabs that does not have it yet.
 */
static inline uint64_t
hints_find(const struct hints *hints, uint64_t fingerprint)
{
    uint64_t place = hints_place(hints, fingerprint);
    uint64_t one = sync_load_acquire(&hints->words[place]), other;

    if (hint_has(one, fingerprint))
        return one;
    other = sync_load_acquire(&hints->words[place ^ 1]);
    if (hint_has(other, fingerprint))
        return other;
    return (one | other) & HINT_MISSING;
}

/* Adds a stored word, in the place of another one if it must. */
static inline void
hints_add(struct hints *hints, uint64_t word)
{
    uint64_t place = hints_place(hints, word >> 32);

    if (hints->words[place] > HINT_MISSING && hints->words[place ^ 1] <= HINT_MISSING)
        place ^= 1;
    /* The mark stays, and a word that loses its place leaves one. */
    sync_store_release(&hints->words[place], (word & ~(uint64_t)HINT_MISSING) |
                                                 (hints->words[place] != 0 ? HINT_MISSING : 0));
}

static inline void
hints_remove(struct hints *hints, uint64_t word)
{
    uint64_t place = hints_place(hints, word >> 32);

    for (unsigned i = 0; i < 2; i++) {
        uint64_t hint = hints->words[place ^ i];

        if ((hint | HINT_MISSING) == (word | HINT_MISSING))
            sync_store_relaxed(&hints->words[place ^ i], hint & HINT_MISSING);
    }
}

#endif
