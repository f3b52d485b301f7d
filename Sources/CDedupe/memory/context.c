/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Producer contexts; see context.h.
 *
 *     context_claim
 *         try_any                  starts at a place that depends on the thread
 *             try_claim            begins the read section too
 *         add_context              if all contexts are claimed
 *     context_claim_number         the next unclaimed one of a walk
 *     context_give_back            ends the read section
 *     context_begin_tally          the tally at the place that depends on the thread
 *     context_is_quiet
 *     context_count_replaced       the sum over all contexts
 */
#include "memory/context.h"

#include <sched.h>

#include "base/atomics.h"
#include "base/thread.h"

/*
 * Claims the context and begins its read section. ck_epoch_begin() would mark the record as active
 * by an exchange. Here a compare-and-swap does that, so that it also claims the context: one atomic
 * operation instead of two.
 *
 * Model steps X1 and X2: the record is marked, then the epoch is read. The full fence in
 * sync_claim() has the fence in close_generation() as its other side: without them, a thread that
 * frees memory could miss this reader.
 */
static bool
try_claim(struct context *context)
{
    ck_epoch_record_t *record = &context->record;

    if (sync_load_relaxed_32(&record->active) != 0 || !sync_claim(&record->active))
        return false;
    ck_pr_store_32(&record->epoch, ck_pr_load_32(&record->global->epoch));
    /*
     * Model step X3. On weakly ordered machines, ck_epoch 0.7.1 allows reads of the section to go
     * before the read of the epoch. Without this fence, a reader in a later epoch could have found
     * memory that was unlinked in an earlier one, and that is freed while the reader uses it.
     */
    ck_pr_fence_load();
    return true;
}

static struct context *
try_any(struct context_pool *pool)
{
    /*
     * Acquire. The other side is the release of `count` in add_context(). Without it, this thread
     * could read a place of `contexts` that is not filled yet.
     */
    uint64_t count = sync_load_acquire(&pool->count);
    uint64_t number = count == 1 ? 0 : (uint32_t)thread_number() % (uint32_t)count;

    for (uint64_t i = 0; i < count; i++) {
        struct context *context = sync_load_pointer(&pool->contexts[number]);

        if (try_claim(context))
            return context;
        number = number + 1 < count ? number + 1 : 0;
    }
    return NULL;
}

/* Makes a context, which the caller has claimed. NULL: no memory, or there are CONTEXTS_MAX. */
static struct context *
add_context(struct context_pool *pool)
{
    struct context *context;

    if (sync_load_acquire(&pool->count) == CONTEXTS_MAX)
        return NULL;
    context = memory_allocate(pool->memory, sizeof(*context), _Alignof(struct context));
    if (context == NULL)
        return NULL;

    lock_acquire(pool->lock);
    if (pool->count < CONTEXTS_MAX) {
        ck_epoch_register(pool->epoch, &context->record, NULL);
        try_claim(context);
        sync_store_pointer(&pool->contexts[pool->count], context);
        sync_store_release(&pool->count, pool->count + 1);
        lock_release(pool->lock);
        return context;
    }
    lock_release(pool->lock);
    memory_free(pool->memory, context, sizeof(*context), _Alignof(struct context));
    return NULL;
}

bool
context_pool_init(struct context_pool *pool, struct memory *memory, struct lock *lock,
                  ck_epoch_t *epoch)
{
    struct context *context;

    pool->memory = memory;
    pool->lock = lock;
    pool->epoch = epoch;
    context = add_context(pool);

    if (context != NULL)
        context_give_back(pool, context);
    return context != NULL;
}

void
context_pool_destroy(struct context_pool *pool)
{
    for (uint64_t i = 0; i < pool->count; i++)
        memory_free(pool->memory, pool->contexts[i], sizeof(struct context),
                    _Alignof(struct context));
}

struct context *
context_claim(struct context_pool *pool)
{
    struct context *context;

    while ((context = try_any(pool)) == NULL && (context = add_context(pool)) == NULL)
        sched_yield();
    return context;
}

struct context *
context_claim_number(struct context_pool *pool, uint64_t *number)
{
    for (uint64_t count = sync_load_acquire(&pool->count); *number < count; ++*number) {
        struct context *context = sync_load_pointer(&pool->contexts[*number]);

        if (try_claim(context))
            return context;
    }
    return NULL;
}

/*
 * Model step X5: the section ends, and the context is free.
 *
 * Release. The other sides are the acquire in try_claim() of the next owner, and in
 * context_is_quiet(). Without it, the next owner could see a magazine or a counter that is half
 * changed.
 */
void
context_give_back(struct context_pool *pool, struct context *context)
{
    sync_read_section_end(pool->epoch);
    sync_epoch_end(&context->record);
}

/* Whether the tally is the calling thread's. A tally without an owner becomes that. */
static bool
tally_own(struct tally *tally, uint64_t thread)
{
    uint64_t owner = sync_load_relaxed(&tally->owner);

    return owner == thread || (owner == 0 && sync_compare_exchange(&tally->owner, 0, thread));
}

/*
 * The tally is marked as in use before anything is replaced: the compare-and-swap that replaces an
 * update is a release. The other side is context_is_quiet().
 */
struct tally *
context_begin_tally(struct context_pool *pool)
{
    uint64_t thread = thread_number();
    /* Acquire, as in try_any(). */
    uint64_t count = sync_load_acquire(&pool->count);
    uint64_t number = count == 1 ? 0 : (uint32_t)thread % (uint32_t)count;
    struct tally *tally = &((struct context *)sync_load_pointer(&pool->contexts[number]))->tally;

    if (tally_own(tally, thread)) {
        sync_store_relaxed(&tally->twice, tally->twice + 1);
        return tally;
    }
    if (count < TALLIES_MAX) {
        struct context *context = add_context(pool);

        if (context != NULL)
            context_give_back(pool, context);
    }
    return NULL;
}

/*
 * Acquire. The other sides are the releases in context_give_back() and context_end_tally(). A
 * thread that replaced something still has its context or its tally, or has counted the replacement
 * before it gave that back. Without the acquire, the caller could miss that count.
 */
bool
context_is_quiet(const struct context_pool *pool)
{
    for (uint64_t i = 0; i < pool->count; i++)
        if (sync_load_acquire_32(&pool->contexts[i]->record.active) != 0 ||
            sync_load_acquire(&pool->contexts[i]->tally.twice) % 2 != 0)
            return false;
    return true;
}

uint64_t
context_count_replaced(const struct context_pool *pool)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < pool->count; i++)
        sum += sync_load_relaxed(&pool->contexts[i]->replaced) +
               sync_load_relaxed(&pool->contexts[i]->tally.twice) / 2;
    return sum;
}
