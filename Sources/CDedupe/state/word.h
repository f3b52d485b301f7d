/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The word: the state of a key, in 64 bits.
 *
 *    63                     32 31                5   4   3   2   1   0
 *   +-------------------------+-------------------+---+---+---+---+---+
 *   |          slot           |  restart number   | B | I | L | D | P |
 *   +-------------------------+-------------------+---+---+---+---+---+
 *
 *   P  pending: an update of the key is queued, or a restart dropped it and no call has cleared it
 *   D  the pending update is a deletion
 *   L  live: the sink has taken a value of the key, and no deletion since
 *   I  the entry is in the index
 *   B  merge barrier, on a buffer that merges: the pending value must not be merged with a value
 *      that is put back, because a deletion or a restart came between them
 *
 * The states of a key. "Seen" means that an update of the key has come since the restart.
 *
 *   absent    the index has no entry for the key
 *   dead      the word is zero: the entry is not in the index, or is just being removed or changed
 *   current   P, with the buffer's restart number; the key's link is in the queue
 *   stale     P, with another restart number: a restart dropped the update; the link is in the
 *             dropped list
 *   idle      L and not P; the entry has no link
 *   vacant    neither P nor L: only its pins keep the entry in the index; it has no link
 *   unseen    L, with another restart number: idle or stale, and not seen since the restart
 */
#ifndef CDEDUPE_STATE_WORD_H
#define CDEDUPE_STATE_WORD_H

#include <stdbool.h>
#include <stdint.h>

/* Tests build with 3 bits to make the restart number wrap. */
#ifndef CDEDUPE_RESTART_BITS
#define CDEDUPE_RESTART_BITS 27
#endif

#define WORD_PENDING ((uint64_t)1)
#define WORD_DELETION ((uint64_t)2)
#define WORD_LIVE ((uint64_t)4)
#define WORD_INDEXED ((uint64_t)8)
#define WORD_MERGE_BARRIER ((uint64_t)16)

/* The word of a vacant entry. It is not zero, because the index has the entry. */
#define WORD_VACANT WORD_INDEXED

enum { WORD_FLAG_BITS = 5 };

/*
 * Restart numbers go from 1 to WORD_RESTART_MAX and then start again at 1. When they wrap, the
 * restart number of every entry becomes WORD_RESTART_OLDER, which is older than all others.
 */
#define WORD_RESTART_MAX (((uint32_t)1 << CDEDUPE_RESTART_BITS) - 1)
#define WORD_RESTART_OLDER ((uint32_t)0)

_Static_assert(CDEDUPE_RESTART_BITS >= 2 && CDEDUPE_RESTART_BITS <= 32 - WORD_FLAG_BITS,
               "the restart number shares 32 bits with the flags");

static inline uint64_t
word_make(uint32_t slot, uint32_t restart, uint64_t flags)
{
    return ((uint64_t)slot << 32) | ((uint64_t)restart << WORD_FLAG_BITS) | flags;
}

static inline uint32_t
word_slot(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static inline uint64_t
word_flags(uint64_t word)
{
    return word & (((uint64_t)1 << WORD_FLAG_BITS) - 1);
}

static inline uint32_t
word_restart(uint64_t word)
{
    return ((uint32_t)word >> WORD_FLAG_BITS) & WORD_RESTART_MAX;
}

static inline bool
word_is_current(uint64_t word, uint32_t restart)
{
    return (word & WORD_PENDING) && word_restart(word) == restart;
}

static inline bool
word_is_stale(uint64_t word, uint32_t restart)
{
    return (word & WORD_PENDING) && word_restart(word) != restart;
}

static inline bool
word_is_unseen(uint64_t word, uint32_t restart)
{
    return (word & WORD_LIVE) && word_restart(word) != restart;
}

/*
 * Whether a deletion cancels what is pending: a value of a key that is not live. Both then leave.
 */
static inline bool
word_deletion_cancels(uint64_t word)
{
    return !(word & (WORD_DELETION | WORD_LIVE));
}

/* The word of a pending update. The key stays live if it was live in its earlier word, `before`. */
static inline uint64_t
word_pending(uint64_t before, uint32_t slot, uint32_t restart, bool deletion)
{
    return word_make(slot, restart,
                     WORD_INDEXED | WORD_PENDING | (deletion ? WORD_DELETION : 0) |
                         (before & WORD_LIVE));
}

/*
 * The word of an idle key. With the buffer's restart number the key is seen, with another one
 * unseen.
 */
static inline uint64_t
word_idle(uint32_t restart)
{
    return word_make(0, restart, WORD_INDEXED | WORD_LIVE);
}

#endif
