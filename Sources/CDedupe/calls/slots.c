/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slots: cells that the caller owns for a while. Free slots come from a magazine, where there is one.
 */
#include "calls/calls.h"

#include <string.h>

/* An arena of so many slots is too small to be sparse. */
enum { SPARSE_CELLS = TEST_SIZED(4096, 16) };

/* From a magazine; says how many. */
static size_t
acquire_unlocked(struct cdedupe *buffer, cdedupe_slot_t *slots, size_t count)
{
    struct context *context = context_claim(&buffer->contexts);
    size_t done = count < context->slot_count ? count : (size_t)context->slot_count;

    context->slot_count -= done;
    memcpy(slots, context->slots + context->slot_count, done * sizeof(*slots));
    context_give_back(context);
    return done;
}

/* Takes up to `count` slots in one lock scope; says how many. */
static size_t
acquire_some(struct lock_scope *scope, cdedupe_slot_t *slots, size_t count)
{
    struct arena *arena = &scope->buffer->slots;
    size_t done = 0;

    scope_lock(scope);
    while (done < count && done < SLOTS_PER_LOCK && arena_make_room(arena, 0, &scope->reserve))
        slots[done++] = arena_take(arena, 0);
    scope_unlock(scope);
    return done;
}

static size_t
acquire_locked(struct cdedupe *buffer, cdedupe_slot_t *slots, size_t count)
{
    struct lock_scope scope;
    size_t done = 0;

    scope_init(&scope, buffer);
    while (done < count) {
        size_t more = acquire_some(&scope, slots + done, count - done);

        done += more;
        if (more == 0 && !scope_refill(&scope))
            break;
    }
    scope_finish(&scope);
    return done;
}

cdedupe_result_t
cdedupe_acquire(cdedupe_t *buffer, cdedupe_slot_t *slots, size_t count)
{
    size_t done;

    if (count == 0)
        return CDEDUPE_OK;
    done = acquire_unlocked(buffer, slots, count);
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

void
cdedupe_payloads(const cdedupe_t *buffer, const cdedupe_slot_t *slots, size_t count,
                 void **payloads)
{
    for (size_t i = 0; i < count; i++)
        payloads[i] = slots[i] == 0 ? NULL : arena_at(&buffer->slots, slots[i]);
}

/* Into a magazine; says how many of the handles were dealt with. */
static size_t
discard_unlocked(struct cdedupe *buffer, const cdedupe_slot_t *slots, size_t count)
{
    struct context *context;
    size_t done = 0;

    if (sync_load_relaxed_32(&buffer->magazines.sparse))
        return 0;
    context = context_claim(&buffer->contexts);
    for (; done < count && context->slot_count < MAGAZINE_SIZE; done++)
        if (slots[done] != 0)
            context->slots[context->slot_count++] = slots[done];
    context_give_back(context);
    return done;
}

static void
discard_locked(struct cdedupe *buffer, const cdedupe_slot_t *slots, size_t count)
{
    struct lock_scope scope;

    scope_init(&scope, buffer);
    for (size_t i = 0; i < count;) {
        scope_lock(&scope);
        for (size_t end = i + SLOTS_PER_LOCK < count ? i + SLOTS_PER_LOCK : count; i < end; i++)
            if (slots[i] != 0)
                arena_give_back(&buffer->slots, slots[i], &scope.reserve);
        scope_unlock(&scope);
        lock_yield(&buffer->lock);
    }
    scope_finish(&scope);
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

    lock_acquire(&buffer->lock);
    was_sparse = buffer->magazines.sparse != 0;
    sparse = buffer->slots.used * 2 < buffer->slots.cells && buffer->slots.cells > SPARSE_CELLS;
    buffer->magazines.returned += returned;
    due = sparse && (!was_sparse || buffer->magazines.returned > buffer->slots.cells / 8);
    if (due)
        buffer->magazines.returned = 0;
    sync_store_relaxed_32(&buffer->magazines.sparse, sparse);
    lock_release(&buffer->lock);
    return due;
}

static void
empty_magazines(struct cdedupe *buffer)
{
    cdedupe_slot_t slots[MAGAZINE_SIZE];
    struct context *context;
    size_t count;

    for (uint64_t i = 0; (context = context_claim_number(&buffer->contexts, &i)) != NULL; i++) {
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
    size_t done = 0;

    if (count > 0)
        done = discard_unlocked(buffer, slots, count);
    if (done == count)
        return;
    discard_locked(buffer, slots + done, count - done);
    if (magazines_are_due(buffer, count - done))
        empty_magazines(buffer);
}
