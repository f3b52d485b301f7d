/* SPDX-License-Identifier: Apache-2.0 */
#include "buffer.h"

#include <string.h>

/* The largest slab number of arenas whose cells are named by 32 bits; links leave one bit for statuses. */
#define SLOT_SLAB_LIMIT (((uint32_t)1 << (32 - SLAB_SHIFT)) - 1)
#define LINK_SLAB_LIMIT (((uint32_t)1 << (31 - SLAB_SHIFT)) - 1)

/* An arena of so many slots is too small to be sparse. */
enum { SPARSE_CELLS = OR_TINY(4096, 16) };

/* What one call does at most about the index's debt, whoever made it. */
enum { TIDY_HOLDS = 4 };

/* A free slot holds the number of the next one. */
enum { SLOT_SIZE_MIN = 8 };

/* ---------------------------------------------------------------------------------------------------- */
/* Options                                                                                              */

/* The members that the caller's struct has, the others by default. False: a value is out of range. */
static bool
read_options(const cdedupe_options_t *given, cdedupe_options_t *options)
{
    *options = cdedupe_options();
    if (given != NULL) {
        if (given->size < sizeof(given->size) || given->size > 4096)
            return false;
        memcpy(options, given, given->size < sizeof(*options) ? given->size : sizeof(*options));
    }
    if ((options->allocate == NULL) != (options->deallocate == NULL))
        return false;
    if (options->payload_size > CDEDUPE_PAYLOAD_MAX || options->payload_alignment == 0 ||
        options->payload_alignment > CDEDUPE_ALIGNMENT_MAX ||
        (options->payload_alignment & (options->payload_alignment - 1)) != 0)
        return false;
    return options->batch_size >= 1 && options->batch_size <= CDEDUPE_BATCH_MAX;
}

static size_t
slot_stride(const cdedupe_options_t *options, size_t alignment)
{
    size_t size = options->payload_size < SLOT_SIZE_MIN ? SLOT_SIZE_MIN : options->payload_size;

    return (size + alignment - 1) & ~(alignment - 1);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Life                                                                                                 */

/* The heads of the three lists. */
static bool
create_lists(struct cdedupe *buffer)
{
    struct reserve reserve;

    reserve_init(&reserve);
    while (!arena_make_room(&buffer->links, 0, &reserve)) {
        if (!reserve_fill(&reserve, &buffer->memory)) {
            reserve_release(&reserve, &buffer->memory);
            return false;
        }
    }
    buffer->ring = link_new(buffer, 0);
    buffer->garbage = link_new(buffer, 0);
    buffer->orphans = link_new(buffer, 0);
    ring_init(&buffer->links, buffer->ring);
    ring_init(&buffer->links, buffer->garbage);
    ring_init(&buffer->links, buffer->orphans);
    return true;
}

static struct memory
choose_memory(const cdedupe_options_t *options)
{
    struct memory memory;

    memory_init_default(&memory);
    if (options->allocate != NULL) {
        memory.allocate = options->allocate;
        memory.deallocate = options->deallocate;
        memory.context = options->allocator_context;
    }
    return memory;
}

static void
init_parts(struct cdedupe *buffer, const cdedupe_options_t *options)
{
    size_t alignment = options->payload_alignment < SLOT_SIZE_MIN ? SLOT_SIZE_MIN : options->payload_alignment;

    buffer->wake = options->wake;
    buffer->wake_context = options->wake_context;
    buffer->batch_size = options->batch_size;
    buffer->restart = 1;
    lock_init(&buffer->lock);
    limbo_init(&buffer->limbo);
    entry_init_arena(&buffer->entries);
    arena_init(&buffer->slots, alignment < 64 ? 64 : alignment, 0, SLOT_SLAB_LIMIT);
    arena_add_class(&buffer->slots, slot_stride(options, alignment));
    arena_init(&buffer->links, 64, offsetof(struct link, next), LINK_SLAB_LIMIT);
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
    if (!read_options(given, &options))
        return CDEDUPE_INVALID_ARGUMENT;

    memory = choose_memory(&options);
    buffer = memory_allocate(&memory, sizeof(*buffer), _Alignof(struct cdedupe));
    if (buffer == NULL)
        return CDEDUPE_NO_MEMORY;
    buffer->memory = memory;
    init_parts(buffer, &options);

    if (!hash_secret_init(&buffer->secret, options.hash_seed)) {
        result = CDEDUPE_NO_RANDOMNESS;
    } else if (index_init(&buffer->index, &buffer->memory)) {
        if (create_lists(buffer) && context_pool_init(buffer)) {
            *out = buffer;
            return CDEDUPE_OK;
        }
        index_destroy(&buffer->index, &buffer->memory);
    }
    arena_destroy(&buffer->links, &buffer->memory);
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
    limbo_destroy(buffer);
    context_pool_destroy(buffer);
    index_destroy(&buffer->index, &buffer->memory);
    arena_destroy(&buffer->entries, &buffer->memory);
    arena_destroy(&buffer->slots, &buffer->memory);
    arena_destroy(&buffer->links, &buffer->memory);
    memory = buffer->memory;
    memory_free(&memory, buffer, sizeof(*buffer), _Alignof(struct cdedupe));
}

static cdedupe_slot_t
next_orphan(struct cdedupe *buffer)
{
    uint32_t link = ring_first(&buffer->links, buffer->orphans);

    if (link == buffer->orphans)
        return 0;
    ring_remove(&buffer->links, link);
    return link_at(&buffer->links, link)->item;
}

/* [E4] */
cdedupe_slot_t
cdedupe_next_leftover(cdedupe_t *buffer, uint64_t *cursor)
{
    cdedupe_slot_t slot = next_orphan(buffer);
    uint32_t number;

    while (slot == 0 && (number = arena_next_touched(&buffer->entries, (uint32_t)*cursor)) != 0) {
        slot = word_slot(entry_at(&buffer->entries, number)->word);
        *cursor = (uint64_t)number + 1;
    }
    return slot;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Slots                                                                                                */

/* From a magazine; says how many. */
static size_t
acquire_unlocked(struct cdedupe *buffer, cdedupe_slot_t *slots, size_t count)
{
    struct context *context = context_claim(buffer);
    size_t done = count < context->slot_count ? count : (size_t)context->slot_count;

    context->slot_count -= done;
    memcpy(slots, context->slots + context->slot_count, done * sizeof(*slots));
    context_give_back(context);
    return done;
}

/* Takes up to `count` slots in one hold; says how many. */
static size_t
acquire_some(struct hold *hold, cdedupe_slot_t *slots, size_t count)
{
    struct arena *arena = &hold->buffer->slots;
    size_t done = 0;

    hold_lock(hold);
    while (done < count && done < HOLD_SLOTS && arena_make_room(arena, 0, &hold->reserve))
        slots[done++] = arena_take(arena, 0);
    hold_unlock(hold);
    return done;
}

static size_t
acquire_locked(struct cdedupe *buffer, cdedupe_slot_t *slots, size_t count)
{
    struct hold hold;
    size_t done = 0;

    hold_init(&hold, buffer);
    while (done < count) {
        size_t more = acquire_some(&hold, slots + done, count - done);

        done += more;
        if (more == 0 && !hold_refill(&hold))
            break;
    }
    hold_finish(&hold);
    return done;
}

cdedupe_result_t
cdedupe_acquire(cdedupe_t *buffer, cdedupe_slot_t *slots, size_t count)
{
    size_t done = acquire_unlocked(buffer, slots, count);

    if (done < count)
        done += acquire_locked(buffer, slots + done, count - done);
    if (done == count)
        return CDEDUPE_OK;
    cdedupe_discard(buffer, slots, done);
    memset(slots, 0, count * sizeof(*slots));
    return CDEDUPE_NO_MEMORY;
}

void *
cdedupe_payload(const cdedupe_t *buffer, cdedupe_slot_t slot)
{
    return arena_at(&buffer->slots, slot);
}

/* Into a magazine; says how many of the handles were dealt with. */
static size_t
discard_unlocked(struct cdedupe *buffer, const cdedupe_slot_t *slots, size_t count)
{
    struct context *context;
    size_t done = 0;

    if (sync_load_relaxed_32(&buffer->slots_sparse))
        return 0;
    context = context_claim(buffer);
    for (; done < count && context->slot_count < MAGAZINE_SIZE; done++)
        if (slots[done] != 0)
            context->slots[context->slot_count++] = slots[done];
    context_give_back(context);
    return done;
}

static void
discard_locked(struct cdedupe *buffer, const cdedupe_slot_t *slots, size_t count)
{
    struct hold hold;

    hold_init(&hold, buffer);
    for (size_t i = 0; i < count;) {
        hold_lock(&hold);
        for (size_t end = i + HOLD_SLOTS < count ? i + HOLD_SLOTS : count; i < end; i++)
            if (slots[i] != 0)
                arena_give_back(&buffer->slots, slots[i], &hold.reserve);
        hold_unlock(&hold);
        lock_rest(&buffer->lock);
    }
    hold_finish(&hold);
}

/*
 * Whether magazines are to be emptied: the arena has become sparse, less than half used, or still is and an eighth of it
 * has come back since. A magazine keeps what was discarded first; after a peak that may be one slot of every slab. So
 * while the arena is sparse, magazines are not filled either.
 */
static bool
magazines_are_due(struct cdedupe *buffer, size_t returned)
{
    bool was_sparse, sparse, due;

    lock_take(&buffer->lock);
    was_sparse = buffer->slots_sparse != 0;
    sparse = buffer->slots.used * 2 < buffer->slots.cells && buffer->slots.cells > SPARSE_CELLS;
    buffer->slots_returned += returned;
    due = sparse && (!was_sparse || buffer->slots_returned > buffer->slots.cells / 8);
    if (due)
        buffer->slots_returned = 0;
    sync_store_relaxed_32(&buffer->slots_sparse, sparse);
    lock_drop(&buffer->lock);
    return due;
}

static void
empty_magazines(struct cdedupe *buffer)
{
    cdedupe_slot_t slots[MAGAZINE_SIZE];
    struct context *context;
    size_t count;

    for (uint64_t i = 0; (context = context_claim_number(buffer, &i)) != NULL; i++) {
        count = (size_t)context->slot_count;
        memcpy(slots, context->slots, count * sizeof(*slots));
        context->slot_count = 0;
        context_give_back(context);
        discard_locked(buffer, slots, count);
    }
}

void
cdedupe_discard(cdedupe_t *buffer, const cdedupe_slot_t *slots, size_t count)
{
    size_t done = discard_unlocked(buffer, slots, count);

    if (done == count)
        return;
    discard_locked(buffer, slots + done, count - done);
    if (magazines_are_due(buffer, count - done))
        empty_magazines(buffer);
}

/* ---------------------------------------------------------------------------------------------------- */
/* The queue                                                                                            */

uint32_t
link_new(struct cdedupe *buffer, uint32_t item)
{
    uint32_t link = arena_take(&buffer->links, 0);

    link_at(&buffer->links, link)->item = item;
    return link;
}

void
link_free(struct hold *hold, uint32_t link)
{
    arena_give_back(&hold->buffer->links, link, &hold->reserve);
}

void
queue_entry(struct hold *hold, uint32_t link)
{
    ring_append(&hold->buffer->links, hold->buffer->ring, link);
    count_pending(hold->buffer);
    notify(hold);
}

void
count_pending(struct cdedupe *buffer)
{
    cdedupe_statistics_t *statistics = &buffer->statistics;

    statistics->pending_keys++;
    if (statistics->pending_keys > statistics->peak_pending_keys)
        statistics->peak_pending_keys = statistics->pending_keys;
}

/* Removes one link, of whatever kind. */
static void
remove_link(struct cdedupe *buffer, uint32_t link)
{
    /* What is owed ends at the one before. */
    if (buffer->last_owed == link)
        buffer->last_owed = link_at(&buffer->links, link)->previous;
    ring_remove(&buffer->links, link);
}

static bool
is_status(const struct cdedupe *buffer, uint32_t link)
{
    return link != buffer->ring && item_is_status(link_at(&buffer->links, link)->item);
}

void
unlink_queued(struct hold *hold, uint32_t link)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t before = link_at(&buffer->links, link)->previous, after = link_at(&buffer->links, link)->next;

    remove_link(buffer, link);
    if (is_status(buffer, before) && is_status(buffer, after)) {
        /* What superseded an owed status is owed in its place. */
        if (buffer->last_owed == before)
            buffer->last_owed = after;
        remove_link(buffer, before);
        buffer->statistics.pending_statuses--;
        link_free(hold, before);
    }
}

void
unqueue(struct hold *hold, uint32_t link)
{
    struct cdedupe *buffer = hold->buffer;

    if (is_status(buffer, link))
        buffer->statistics.pending_statuses--;
    else
        buffer->statistics.pending_keys--;
    unlink_queued(hold, link);
    link_free(hold, link);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Entries                                                                                              */

void
entry_unindex(struct cdedupe *buffer, uint32_t number)
{
    index_remove(&buffer->index, entry_at(&buffer->entries, number)->hash, number);
}

void
entry_free(struct hold *hold, uint32_t number)
{
    arena_give_back(&hold->buffer->entries, number, &hold->reserve);
}

void
tidy_index(struct cdedupe *buffer)
{
    struct hold hold;
    bool done = true;

    if (!index_is_untidy(&buffer->index))
        return;
    hold_init(&hold, buffer);
    for (unsigned i = 0; i < TIDY_HOLDS && index_is_untidy(&buffer->index) && (done || hold_refill(&hold)); i++) {
        hold_lock(&hold);
        done = index_tidy(&buffer->index, &hold.reserve);
        hold_unlock(&hold);
        lock_rest(&buffer->lock);
    }
    hold_finish(&hold);
}

/* ---------------------------------------------------------------------------------------------------- */
/* The end                                                                                              */

/* [E1] */
void
cdedupe_stop(cdedupe_t *buffer)
{
    struct hold hold;

    hold_init(&hold, buffer);
    hold_lock(&hold);
    sync_store_relaxed_32(&buffer->stopped, 1);
    /* For good: what is untaken now is not delivered. */
    buffer->finishing = FINISHING_NOT;
    notify(&hold);
    hold_unlock(&hold);
    hold_finish(&hold);
}

/* What is queued now is owed; a loop that has nothing more to deliver is woken to find out. [E2] */
static void
start_finishing(struct hold *hold, cdedupe_finish_t when)
{
    struct cdedupe *buffer = hold->buffer;

    /* A queue that is never empty must not keep somebody waiting who asked for less. */
    if (when == CDEDUPE_WHEN_EMPTY && buffer->finishing != FINISHING_WHEN_DELIVERED)
        buffer->finishing = FINISHING_WHEN_EMPTY;
    else
        buffer->finishing = FINISHING_WHEN_DELIVERED;
    buffer->last_owed = ring_last(&buffer->links, buffer->ring);
    if (buffer->last_owed == buffer->ring)
        notify(hold);
}

cdedupe_result_t
cdedupe_finish(cdedupe_t *buffer, cdedupe_finish_t when)
{
    cdedupe_result_t result = CDEDUPE_OK;
    struct hold hold;

    hold_init(&hold, buffer);
    hold_lock(&hold);
    if (buffer->claim != CLAIM_LOOP) {
        sync_store_relaxed_32(&buffer->stopped, 1);
        result = CDEDUPE_STOPPED;
    } else if (!buffer->stopped) {
        start_finishing(&hold, when);
    }
    hold_unlock(&hold);
    hold_finish(&hold);
    return result;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Inspection                                                                                           */

void
cdedupe_statistics(cdedupe_t *buffer, cdedupe_statistics_t *out, size_t size)
{
    cdedupe_statistics_t statistics;
    uint64_t replaced;

    lock_take(&buffer->lock);
    statistics = buffer->statistics;
    replaced = context_count_replaced(buffer);
    lock_drop(&buffer->lock);
    /* On both sides of the sum, so it stays exact though the count goes on. */
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
        return "somebody else is taking";
    case CDEDUPE_NO_MEMORY:
        return "out of memory";
    case CDEDUPE_KEY_TOO_LONG:
        return "key is longer than 65,536 bytes";
    case CDEDUPE_INVALID_ARGUMENT:
        return "argument is out of range";
    case CDEDUPE_NO_RANDOMNESS:
        return "system has no random bytes";
    }
    return "unknown result";
}
