/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a buffer, from creation to destruction, and its statistics.
 *
 *     cdedupe_create
 *         options_read               options.c
 *         init_choices, init_parts   what needs no memory
 *         create_lists               the heads of the three lists
 *     cdedupe_drain_next             the payloads that a buffer still owns before it is destroyed
 *         next_detached, next_pending
 *     cdedupe_destroy
 *     cdedupe_stop, cdedupe_finish   start_finishing(); the loop's take ends a finish (take.c)
 *     cdedupe_statistics             oldest_age()
 *     tidy_index                     called by takes, puts and cdedupe_collect() that removed keys
 */
#include "calls/calls.h"

#include <string.h>

/*
 * The largest slab numbers of arenas whose cells are named by 32 bits. A link's item has one bit
 * less, because that bit marks a status.
 */
#define SLOT_SLAB_LIMIT (((uint32_t)1 << (32 - SLAB_SHIFT)) - 1)
#define LINK_SLAB_LIMIT (((uint32_t)1 << (31 - SLAB_SHIFT)) - 1)

/*
 * The most lock scopes in which one call tidies the index. The untidiness may come from other
 * calls.
 */
enum { TIDY_HOLDS = 4 };

/* A free slot must have room for the number of the next free slot. */
enum { SLOT_SIZE_MIN = 8 };

static void
init_slots(struct arena *arena, struct slab_class *class, size_t size, size_t alignment)
{
    if (size < SLOT_SIZE_MIN)
        size = SLOT_SIZE_MIN;
    if (alignment < SLOT_SIZE_MIN)
        alignment = SLOT_SIZE_MIN;
    arena_init(arena, class, alignment < 64 ? 64 : alignment, 0, SLOT_SLAB_LIMIT);
    arena_add_class(arena, (size + alignment - 1) & ~(alignment - 1));
}

/* ---------------------------------------------------------------------------------------------- */
/* Life                                                                                           */

/* Makes the heads of the three lists. False: no memory. */
static bool
create_lists(struct cdedupe *buffer)
{
    struct lock_scope scope;

    scope_init(&scope, buffer);
    while (!link_make_room(&scope)) {
        if (!reserve_fill(&scope.reserve, &buffer->memory)) {
            reserve_release(&scope.reserve, &buffer->memory);
            return false;
        }
    }
    buffer->queue.ring = link_new(&scope, 0);
    buffer->queue.dropped = link_new(&scope, 0);
    buffer->queue.detached = link_new(&scope, 0);
    ring_init(&buffer->links, buffer->queue.ring);
    ring_init(&buffer->links, buffer->queue.dropped);
    ring_init(&buffer->links, buffer->queue.detached);
    return true;
}

/* Copies the options, which never change afterwards. */
static void
init_choices(struct cdedupe *buffer, const cdedupe_options_t *options)
{
    buffer->wake = options->wake;
    buffer->wake_context = options->wake_context;
    buffer->clock = (struct clock){.read = options->clock, .context = options->clock_context};
    buffer->batch_size = options->batch_size;
    buffer->revision_offset =
        options->suppress_unchanged ? options->revision_offset : OFFSET_UNUSED;
    buffer->bounds.weight_offset =
        options->maximum_pending_bytes != 0 ? options->weight_offset : OFFSET_UNUSED;
    buffer->bounds.keys =
        options->maximum_pending_keys != 0 ? options->maximum_pending_keys : UINT64_MAX;
    buffer->bounds.bytes =
        options->maximum_pending_bytes != 0 ? options->maximum_pending_bytes : UINT64_MAX;
    buffer->merge = options->merge;
    buffer->merge_context = options->merge_context;
}

static void
init_parts(struct cdedupe *buffer, const cdedupe_options_t *options)
{
    buffer->resync.restart = 1;
    buffer->resync.restarts = 1;
    lock_init(&buffer->lock);
    waiter_init(&buffer->waiter);
    merge_lock_init(buffer);
    retired_init(&buffer->retired);
    entry_init_arena(&buffer->entries, buffer->entry_classes);
    init_slots(&buffer->slots, &buffer->slot_class, options->payload_size,
               options->payload_alignment);
    arena_init(&buffer->links, &buffer->link_class, 64, offsetof(struct link, next),
               LINK_SLAB_LIMIT);
    arena_add_class(&buffer->links, sizeof(struct link));
}

cdedupe_result_t
cdedupe_create(const cdedupe_options_t *given, cdedupe_t **out)
{
    cdedupe_options_t options;
    struct cdedupe *buffer;
    struct memory memory;
    cdedupe_result_t result = CDEDUPE_NO_MEMORY;

    *out = NULL;
    if (options_read(given, &options) != NULL)
        return CDEDUPE_INVALID_ARGUMENT;

    memory_init(&memory, options.allocate, options.deallocate, options.allocator_context);
    buffer = memory_allocate(&memory, sizeof(*buffer), _Alignof(struct cdedupe));
    if (buffer == NULL)
        return CDEDUPE_NO_MEMORY;
    buffer->memory = memory;
    init_choices(buffer, &options);
    init_parts(buffer, &options);

    if (!hash_secret_init(&buffer->secret, options.hash_seed)) {
        result = CDEDUPE_NO_RANDOMNESS;
    } else if (index_init(&buffer->index, &buffer->memory)) {
        if (create_lists(buffer) && context_pool_init(&buffer->contexts, &buffer->memory,
                                                      &buffer->lock, &buffer->retired.epoch)) {
            *out = buffer;
            return CDEDUPE_OK;
        }
        index_destroy(&buffer->index, &buffer->memory);
    }
    arena_destroy(&buffer->links, &buffer->memory);
    waiter_destroy(&buffer->waiter);
    merge_lock_destroy(buffer);
    memory = buffer->memory;
    memory_free(&memory, buffer, sizeof(*buffer), _Alignof(struct cdedupe));
    return result;
}

void
cdedupe_destroy(cdedupe_t *buffer)
{
    struct memory memory;

    if (buffer == NULL)
        return;
    merge_lock_destroy(buffer);
    retired_destroy(&buffer->retired, &buffer->memory);
    context_pool_destroy(&buffer->contexts);
    index_destroy(&buffer->index, &buffer->memory);
    arena_destroy(&buffer->entries, &buffer->memory);
    arena_destroy(&buffer->slots, &buffer->memory);
    arena_destroy(&buffer->links, &buffer->memory);
    waiter_destroy(&buffer->waiter);
    memory = buffer->memory;
    memory_free(&memory, buffer, sizeof(*buffer), _Alignof(struct cdedupe));
}

static cdedupe_slot_t
next_detached(struct cdedupe *buffer)
{
    uint32_t link = ring_first(&buffer->links, buffer->queue.detached);

    if (link == buffer->queue.detached)
        return 0;
    ring_remove(&buffer->links, link);
    return link_at(&buffer->links, link)->item;
}

static cdedupe_slot_t
next_pending(struct cdedupe *buffer, uint64_t *cursor)
{
    cdedupe_slot_t slot = 0;
    uint32_t number;

    while (slot == 0 && (number = arena_next_touched(&buffer->entries, (uint32_t)*cursor)) != 0) {
        slot = word_slot(entry_at(&buffer->entries, number)->word);
        *cursor = (uint64_t)number + 1;
    }
    return slot;
}

/* Model step E4: first the detached payloads, then the payloads of all words. */
cdedupe_slot_t
cdedupe_drain_next(cdedupe_t *buffer, uint64_t *cursor)
{
    cdedupe_slot_t slot = next_detached(buffer);

    return slot != 0 ? slot : next_pending(buffer, cursor);
}

void
tidy_index(struct cdedupe *buffer)
{
    struct lock_scope scope;
    bool done = true;

    if (!index_is_untidy(&buffer->index))
        return;
    scope_init(&scope, buffer);
    for (unsigned i = 0;
         i < TIDY_HOLDS && index_is_untidy(&buffer->index) && (done || scope_refill(&scope)); i++) {
        scope_lock(&scope);
        done = index_tidy(&buffer->index, &scope.reserve);
        scope_unlock(&scope);
        lock_yield(&buffer->lock);
    }
    scope_finish(&scope);
}

/* ---------------------------------------------------------------------------------------------- */
/* The end                                                                                        */

/*
 * Model step E1: stops the buffer and wakes the loop. The wake callback must not run inside the
 * merge callback. There merge_unlock() wakes the loop afterwards.
 */
void
cdedupe_stop(cdedupe_t *buffer)
{
    struct lock_scope scope;

    scope_init(&scope, buffer);
    scope_lock(&scope);
    sync_store_relaxed_32(&buffer->end.stopped, 1);
    /* The stop is final, so an update that is put back now is not delivered. */
    buffer->end.finishing = FINISHING_NOT;
    if (!merge_is_calling(buffer))
        notify(&scope);
    scope_unlock(&scope);
    scope_finish(&scope);
}

/*
 * Model step E2. The delivery loop stops the buffer when it finds the queue empty. A finish "when
 * delivered" also closes the queue's end: later updates and statuses are dropped, so the queue runs
 * empty. A loop that has nothing to deliver is woken to find that out. That never happens inside
 * the merge callback, because the update that is merged is in the queue.
 */
static void
start_finishing(struct lock_scope *scope, cdedupe_finish_t when)
{
    struct cdedupe *buffer = scope->buffer;

    if (when == CDEDUPE_FINISH_WHEN_DELIVERED)
        buffer->end.finishing = FINISHING_WHEN_DELIVERED;
    else if (buffer->end.finishing == FINISHING_NOT)
        buffer->end.finishing = FINISHING_WHEN_EMPTY;
    if (ring_is_empty(&buffer->links, buffer->queue.ring))
        notify(scope);
}

cdedupe_result_t
cdedupe_finish(cdedupe_t *buffer, cdedupe_finish_t when)
{
    cdedupe_result_t result = CDEDUPE_OK;
    struct lock_scope scope;

    if (when != CDEDUPE_FINISH_WHEN_DELIVERED && when != CDEDUPE_FINISH_WHEN_EMPTY)
        return CDEDUPE_INVALID_ARGUMENT;
    scope_init(&scope, buffer);
    scope_lock(&scope);
    if (buffer->sink.claim != CLAIM_LOOP) {
        sync_store_relaxed_32(&buffer->end.stopped, 1);
        result = CDEDUPE_STOPPED;
    } else if (!buffer->end.stopped) {
        start_finishing(&scope, when);
    }
    scope_unlock(&scope);
    scope_finish(&scope);
    return result;
}

/* ---------------------------------------------------------------------------------------------- */
/* Inspection                                                                                     */

/* The age of the first update in the queue. At most one status can come before that update. */
static uint64_t
oldest_age(const struct cdedupe *buffer, uint32_t now)
{
    uint32_t first = ring_first(&buffer->links, buffer->queue.ring);

    if (first != buffer->queue.ring && item_is_status(link_at(&buffer->links, first)->item))
        first = link_at(&buffer->links, first)->next;
    return first == buffer->queue.ring ? 0 : clock_age(link_at(&buffer->links, first)->queued, now);
}

void
cdedupe_statistics(cdedupe_t *buffer, cdedupe_statistics_t *out, size_t size)
{
    uint32_t now = clock_now(&buffer->clock);
    cdedupe_statistics_t statistics;
    uint64_t replaced;

    lock_acquire(&buffer->lock);
    statistics = buffer->statistics;
    statistics.oldest_pending_age = oldest_age(buffer, now);
    statistics.overflowed = buffer->bounds.overflowed;
    statistics.stopped = buffer->end.stopped;
    replaced = context_count_replaced(&buffer->contexts);
    lock_release(&buffer->lock);
    /*
     * The count of replaced updates goes on while it is read. The same number is added to both
     * sides of the sum of the statistics, so the sum stays exact.
     */
    statistics.received += replaced;
    statistics.replaced += replaced;
    statistics.memory = sync_load_relaxed(&buffer->memory.bytes);

    memset(out, 0, size);
    memcpy(out, &statistics, size < sizeof(statistics) ? size : sizeof(statistics));
}

const char *
cdedupe_result_text(cdedupe_result_t result)
{
    switch (result) {
    case CDEDUPE_OK:
        return "done";
    case CDEDUPE_EMPTY:
        return "queue is empty";
    case CDEDUPE_STOPPED:
        return "buffer was stopped";
    case CDEDUPE_BUSY:
        return "another sink holds the claim";
    case CDEDUPE_NO_MEMORY:
        return "out of memory";
    case CDEDUPE_KEY_TOO_LONG:
        return "key is longer than 65,536 bytes";
    case CDEDUPE_INVALID_ARGUMENT:
        return "argument is out of range";
    case CDEDUPE_NO_RANDOMNESS:
        return "system has no random bytes";
    case CDEDUPE_OVERFLOWED:
        return "a bound was exceeded; updates are dropped until the restart";
    case CDEDUPE_TOO_MANY_PINS:
        return "key has too many pins";
    case CDEDUPE_REENTRANT:
        return "called from inside the merge callback of the same buffer";
    }
    return "unknown result";
}
