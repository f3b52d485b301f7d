/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/context.h"

#include "state/buffer.h"

/* Numbers threads in the order in which they first come here, to spread them over the contexts. */
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
try_any(struct cdedupe *buffer)
{
    struct context_pool *pool = &buffer->contexts;
    uint64_t count = sync_load_acquire(&pool->count), first = thread_number();

    for (uint64_t i = 0; i < count; i++) {
        struct context *context = sync_load_pointer(&pool->contexts[(first + i) % count]);

        if (try_claim(context))
            return context;
    }
    return NULL;
}

/* A new context, claimed, or NULL: no memory, or enough of them. */
static struct context *
add_context(struct cdedupe *buffer)
{
    struct context_pool *pool = &buffer->contexts;
    struct context *context;

    if (sync_load_acquire(&pool->count) == CONTEXTS_MAX)
        return NULL;
    context = memory_allocate(&buffer->memory, sizeof(*context), _Alignof(struct context));
    if (context == NULL)
        return NULL;
    context->claimed = 1;

    lock_acquire(&buffer->lock);
    if (pool->count < CONTEXTS_MAX) {
        ck_epoch_register(&buffer->retired.epoch, &context->record, NULL);
        sync_store_pointer(&pool->contexts[pool->count], context);
        sync_store_release(&pool->count, pool->count + 1);
        lock_release(&buffer->lock);
        return context;
    }
    lock_release(&buffer->lock);
    memory_free(&buffer->memory, context, sizeof(*context), _Alignof(struct context));
    return NULL;
}

bool
context_pool_init(struct cdedupe *buffer)
{
    struct context *context = add_context(buffer);

    if (context != NULL)
        context_give_back(context);
    return context != NULL;
}

void
context_pool_destroy(struct cdedupe *buffer)
{
    for (uint64_t i = 0; i < buffer->contexts.count; i++)
        memory_free(&buffer->memory, buffer->contexts.contexts[i], sizeof(struct context),
                    _Alignof(struct context));
}

struct context *
context_claim(struct cdedupe *buffer)
{
    struct context *context;

    while ((context = try_any(buffer)) == NULL && (context = add_context(buffer)) == NULL)
        sched_yield();
    return context;
}

struct context *
context_claim_number(struct cdedupe *buffer, uint64_t *number)
{
    struct context_pool *pool = &buffer->contexts;

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
    /* Release, with the acquire of the next claim: the magazine and the counter. */
    sync_store_release(&context->claimed, 0);
}

/* ck_epoch_begin says that it is active, with a full fence [X1], and then reads the epoch [X2]. */
void
read_section_begin(struct context *context)
{
    ck_epoch_begin(&context->record, NULL);
    /* On weakly ordered machines 0.7.1 lets what follows be read before the epoch is. [X3] */
    ck_pr_fence_load();
}

/* [X5] */
void
read_section_end(struct cdedupe *buffer, struct context *context)
{
    sync_read_section_end(&buffer->retired);
    ck_epoch_end(&context->record, NULL);
}

uint64_t
context_count_replaced(const struct cdedupe *buffer)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < buffer->contexts.count; i++)
        sum += sync_load_relaxed(&buffer->contexts.contexts[i]->replaced);
    return sum;
}
