/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Producer contexts: what a call needs without a lock.
 *
 * A context holds a record for ck_epoch's read sections and a magazine of free slots. Contexts
 * belong to no thread: a call claims one, and gives it back before any user callback runs. As long
 * as the call has the context it is in a read section: entries and tables that the index names stay
 * readable. A thread tends to find the context that it had before. The pool grows when all contexts
 * are claimed, up to CONTEXTS_MAX; beyond that, calls yield until a context is free.
 */
#ifndef CDEDUPE_MEMORY_CONTEXT_H
#define CDEDUPE_MEMORY_CONTEXT_H

#include <ck_epoch.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/atomics.h"
#include "base/lock.h"
#include "base/test_sizes.h"
#include "memory/allocator.h"

/* A pool with fewer contexts than TALLIES_MAX grows for a thread that finds no tally. */
enum { TALLIES_MAX = TEST_SIZED(8, 2) };

enum { CONTEXTS_MAX = 64, MAGAZINE_SIZE = TEST_SIZED(64, 6) };

/*
 * A tally counts replaced updates for one thread alone, so that counting takes no atomic operation
 * and the thread need not claim the context. A thread owns its tally forever.
 */
struct tally {
    uint64_t owner; /* The thread's number. Zero: no thread owns the tally yet. */
    uint64_t twice; /* Twice the number of updates. Odd: the owner is replacing updates now. */
};

struct context {
    ck_epoch_record_t record; /* Active while the context is claimed. */
    uint64_t replaced; /* Updates that were replaced without the lock; only the claimant writes. */
    struct tally tally;
    uint64_t slot_count; /* Free slots in the magazine. */
    uint32_t slots[MAGAZINE_SIZE];
};

struct context_pool {
    /* Never changed. */
    struct memory *memory;
    struct lock *lock; /* The pool grows under it. */
    ck_epoch_t *epoch;

    struct context *contexts[CONTEXTS_MAX];
    uint64_t count;
};

/* One context to begin with. False: no memory. */
bool context_pool_init(struct context_pool *pool, struct memory *memory, struct lock *lock,
                       ck_epoch_t *epoch);
void context_pool_destroy(struct context_pool *pool);

/* A context for the calling thread alone, and a read section, until it is given back. */
struct context *context_claim(struct context_pool *pool);

/*
 * For a walk through all contexts: claims the first one from `*number` on that is not in use, and
 * stores its number. NULL: there are no more.
 */
struct context *context_claim_number(struct context_pool *pool, uint64_t *number);

void context_give_back(struct context_pool *pool, struct context *context);

/*
 * The calling thread's tally, which it has begun to use. NULL: the thread has none, and must claim
 * a context instead. May call the allocator.
 */
struct tally *context_begin_tally(struct context_pool *pool);

/*
 * Release. The other side is the acquire in context_is_quiet(). Without it, the tally could seem
 * unused before the last replacement is visible.
 */
static inline void
context_end_tally(struct tally *tally, uint64_t replaced)
{
    sync_store_release(&tally->twice, tally->twice - 1 + 2 * replaced);
}

/*
 * Under the lock: whether no context is claimed and no tally is in use, and so no thread is
 * replacing anything.
 */
bool context_is_quiet(const struct context_pool *pool);

/* Under the lock: updates that were replaced without it. */
uint64_t context_count_replaced(const struct context_pool *pool);

#endif
