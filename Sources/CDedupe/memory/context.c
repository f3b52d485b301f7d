/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Producer contexts; see context.h.
 *
 *     context_claim
 *         try_any                  starts at a place that depends on the thread
 *             try_claim
 *         add_context              if all contexts are claimed
 *     context_claim_number         the next unclaimed one of a walk
 *     context_give_back
 *     read_section_begin, read_section_end
 *     context_count_replaced       the sum over all contexts
 */
#include "memory/context.h"

#include <sched.h>

#include "base/atomics.h"

/*
 * Numbers the threads in the order of their first call, in order to spread them over the contexts.
 */
static uint64_t
thread_number(void)
{
    static uint64_t threads;
    static _Thread_local uint64_t number;

    if (number == 0)
        number = sync_fetch_add(&threads, 1) + 1;
    return number;
}

static bool
try_claim(struct context *context)
{
    return sync_load_relaxed(&context->claimed) == 0 &&
           sync_compare_exchange(&context->claimed, 0, 1);
}

static struct context *
try_any(struct context_pool *pool)
{
    /*
     * Acquire. The other side is the release of `count` in add_context(). Without it, this thread
     * could read a place of `contexts` that is not filled yet.
     */
    uint64_t count = sync_load_acquire(&pool->count), first = thread_number();

    for (uint64_t i = 0; i < count; i++) {
        struct context *context = sync_load_pointer(&pool->contexts[(first + i) % count]);

        if (try_claim(context))
            return context;
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
    context->claimed = 1;

    lock_acquire(pool->lock);
    if (pool->count < CONTEXTS_MAX) {
        ck_epoch_register(pool->epoch, &context->record, NULL);
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
        context_give_back(context);
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

void
context_give_back(struct context *context)
{
    /*
     * Release. The other side is the acquire in try_claim() of the next owner, and in was_quiet()
     * of validate.c. Without it, the next owner could see a magazine or a counter that is half
     * changed.
     */
    sync_store_release(&context->claimed, 0);
}

/*
 * Model steps X1 and X2: ck_epoch_begin() marks the record as active and then reads the epoch. Its
 * full fence has the fence in close_generation() as its other side: without them, a thread that
 * frees memory could miss this reader.
 */
void
read_section_begin(struct context *context)
{
    ck_epoch_begin(&context->record, NULL);
    /*
     * Model step X3. On weakly ordered machines, ck_epoch 0.7.1 allows reads of the section to go
     * before the read of the epoch. Without this fence, a reader in a later epoch could have found
     * memory that was unlinked in an earlier one, and that is freed while the reader uses it.
     */
    ck_pr_fence_load();
}

/* Model step X5: from here on the reader no longer uses what it found. */
void
read_section_end(struct context_pool *pool, struct context *context)
{
    sync_read_section_end(pool->epoch);
    ck_epoch_end(&context->record, NULL);
}

uint64_t
context_count_replaced(const struct context_pool *pool)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < pool->count; i++)
        sum += sync_load_relaxed(&pool->contexts[i]->replaced);
    return sum;
}
