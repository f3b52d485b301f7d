/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slots: cells of the payload arena, which the caller owns between acquiring and discarding them.
 *
 *     cdedupe_acquire
 *         acquire_unlocked           from the magazine of a context, without the lock
 *         acquire_locked             the others, from the arena
 *             acquire_some           one lock scope
 *     cdedupe_discard
 *         discard_unlocked           into a magazine, without the lock
 *         discard_locked             the others, to the arena
 *         magazines_are_due          whether the magazines hold on to a sparse arena
 *         empty_magazines            gives all magazines to the arena
 */
#include "calls/calls.h"

#include <string.h>

/* An arena with at most this many slots never counts as sparse. */
enum { SPARSE_CELLS = TEST_SIZED(4096, 16) };

/* So many slots at once are taken for a call that acquires fewer. */
enum { SLOTS_AHEAD = TEST_SIZED(16, 2) };

/* Takes up to `count` slots from a magazine. Returns how many it took. */
static size_t
acquire_unlocked(struct cdedupe *buffer, cdedupe_slot_t *slots, size_t count)
{
    struct context *context = context_claim(&buffer->contexts);
    size_t done = count < context->slot_count ? count : (size_t)context->slot_count;

    context->slot_count -= done;
    memcpy(slots, context->slots + context->slot_count, done * sizeof(*slots));
    context_give_back(&buffer->contexts, context);
    return done;
}

/* Takes up to `count` slots in one lock scope. Returns how many it took. */
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
        /* The arena lacked room. Without the refill now, the next step would want a second slab. */
        if (done < count && more < SLOTS_PER_LOCK && !scope_refill(&scope))
            break;
    }
    scope_finish(&scope);
    return done;
}

/*
 * Takes slots from the arena for calls that acquire a few at a time: the free cells at hand, in one
 * lock scope. What the caller does not need fills the magazine. Returns how many the caller gets.
 */
static size_t
acquire_ahead(struct cdedupe *buffer, cdedupe_slot_t *slots, size_t count)
{
    cdedupe_slot_t ahead[SLOTS_AHEAD];
    struct arena *arena = &buffer->slots;
    size_t done = 0;

    lock_acquire(&buffer->lock);
    while (done < SLOTS_AHEAD && arena->classes[0].head != 0)
        ahead[done++] = arena_take(arena, 0);
    lock_release(&buffer->lock);
    if (done < count) {
        memcpy(slots, ahead, done * sizeof(*slots));
        return done;
    }
    memcpy(slots, ahead, count * sizeof(*slots));
    cdedupe_discard(buffer, ahead + count, done - count);
    return count;
}

cdedupe_result_t
cdedupe_acquire(cdedupe_t *buffer, cdedupe_slot_t *slots, size_t count)
{
    size_t done;

    if (count == 0)
        return CDEDUPE_OK;
    done = acquire_unlocked(buffer, slots, count);
    if (done < count && count < SLOTS_AHEAD)
        done += acquire_ahead(buffer, slots + done, count - done);
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

/* Puts handles into a magazine. Returns how many of them are done, the zeros included. */
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
    context_give_back(&buffer->contexts, context);
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
 * Whether the magazines must be emptied. They must when the arena becomes sparse, which means that
 * less than half of it is used. While the arena stays sparse, they must again each time that more
 * than an eighth of it has come back.
 *
 * A magazine keeps the slots that were discarded first. After a peak, these may be one slot of
 * every slab, and each of them keeps its slab from being freed. For the same reason magazines are
 * not filled while the arena is sparse.
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
        context_give_back(&buffer->contexts, context);
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
