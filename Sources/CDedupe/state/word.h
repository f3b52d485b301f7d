/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The word: everything that can be said about a key, in 64 bits.
 *
 *    63                     32 31                5   4   3   2   1   0
 *   +-------------------------+-------------------+---+---+---+---+---+
 *   |          slot           |  restart number   | A | I | L | D | P |
 *   +-------------------------+-------------------+---+---+---+---+---+
 *
 *   P  pending: an update is queued, or was when a restart dropped the queue
 *   D  the pending update is a deletion
 *   L  live
 *   I  indexed; a word without it is zero: the entry is dead
 *   A  alone: where values are merged, the pending value came after a deletion, or first after a restart, with which all older
 *      values ended
 *
 *   current   P, and the restart number is the buffer's: its link is in the ring
 *   stale     P, and it is not: a restart dropped it, its link is in the garbage list
 *   idle      not P; then L
 *   unseen    L, and the restart number is not the buffer's: not heard of since the restart
 */
#ifndef CDEDUPE_STATE_WORD_H
#define CDEDUPE_STATE_WORD_H

#include <stdbool.h>
#include <stdint.h>

/* Tests that want to see the number wrap build with 3. */
#ifndef CDEDUPE_RESTART_BITS
#define CDEDUPE_RESTART_BITS 27
#endif

#define WORD_PENDING ((uint64_t)1)
#define WORD_DELETION ((uint64_t)2)
#define WORD_LIVE ((uint64_t)4)
#define WORD_INDEXED ((uint64_t)8)
#define WORD_MERGE_BARRIER ((uint64_t)16)

enum { WORD_FLAG_BITS = 5 };

/*
 * Restart numbers go from 1 to WORD_RESTART_MAX and around. Zero is older than all of them: when the number
 * wraps, every entry's is set to it once.
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

/* A deletion of a pending value that the sink has never heard of: both go. */
static inline bool
word_deletion_cancels(uint64_t word)
{
    return !(word & (WORD_DELETION | WORD_LIVE));
}

/* The word of an update that is pending now, for a key that had `before`. */
static inline uint64_t
word_pending(uint64_t before, uint32_t slot, uint32_t restart, bool deletion)
{
    return word_make(slot, restart,
                     WORD_INDEXED | WORD_PENDING | (deletion ? WORD_DELETION : 0) |
                         (before & WORD_LIVE));
}

/* The word of a key whose value was taken. */
static inline uint64_t
word_idle(uint32_t restart)
{
    return word_make(0, restart, WORD_INDEXED | WORD_LIVE);
}

#endif
