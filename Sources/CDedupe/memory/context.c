/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/context.h"

#include <sched.h>

#include "base/atomics.h"

/* Numbers threads in the order of their first call, to spread them over the contexts. */
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
    uint64_t count = sync_load_acquire(&pool->count), first = thread_number();

    for (uint64_t i = 0; i < count; i++) {
        struct context *context = sync_load_pointer(&pool->contexts[(first + i) % count]);

        if (try_claim(context))
            return context;
    }
    return NULL;
}

/* A new context, claimed. NULL: no memory, or there are CONTEXTS_MAX. */
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
    /* Release, with the acquire in try_claim() of the next owner: the magazine and the counter. */
    sync_store_release(&context->claimed, 0);
}

/*
 * Model steps X1 and X2: ck_epoch_begin() marks the record active, with a full fence that pairs with the
 * one in close_generation(), and then reads the epoch.
 */
void
read_section_begin(struct context *context)
{
    ck_epoch_begin(&context->record, NULL);
    /* Model step X3: on weakly ordered machines, 0.7.1 lets later reads go before that of the epoch. */
    ck_pr_fence_load();
}

/* Model step X5: the reader no longer uses what it found. */
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
