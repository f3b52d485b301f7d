/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lock scope: what one call keeps around the buffer's spinlock.
 *
 *     scope_init
 *     scope_lock ... scope_unlock      as often as needed; scope_yield() between two of them
 *     scope_refill                     gets memory that a step under the lock found missing
 *     scope_finish                     frees what became free, and wakes the loop
 *
 * User callbacks (allocator, wake, clock, merge) run only between scope_unlock() and scope_lock().
 */
#ifndef CDEDUPE_STATE_SCOPE_H
#define CDEDUPE_STATE_SCOPE_H

#include "base/atomics.h"
#include "state/buffer.h"

struct lock_scope {
    struct cdedupe *buffer;
    struct reserve reserve;
    uint32_t now;      /* For what is queued, from scope_note_time(). */
    bool wake;         /* The loop must be woken after unlocking. */
    bool merge_locked; /* This call holds the merge lock. */
};

/* ---------------------------------------------------------------------------------------------- */
/* The merge lock and the waiter; see calls/merge.c and calls/wait.c                              */

/*
 * The merge lock is taken before the spinlock. These functions do nothing on a buffer that does not
 * merge. merge_unlock() also wakes a loop whose take found the lock held; the spinlock is free.
 */
void merge_lock_init(struct cdedupe *buffer);
void merge_lock_destroy(struct cdedupe *buffer);
void merge_lock(struct lock_scope *scope);
void merge_unlock(struct lock_scope *scope);

/* For a put: the sink goes first if it could not take because of another put. */
void merge_lock_after_sink(struct lock_scope *scope);

/* For the sink: puts let it go first. */
void merge_lock_for_sink(struct lock_scope *scope);

/* For a take of a loop, which never waits: whether it has the lock. The spinlock is held. */
bool merge_lock_for_loop(struct lock_scope *scope);

/* Whether the sink found the lock held, and has not had it since. */
static inline bool
merge_sink_is_next(const struct cdedupe *buffer)
{
    return sync_load_relaxed_32(&buffer->merge_lock.sink) != SINK_AWAY;
}

/* Whether the caller is inside the merge callback of this buffer. */
bool merge_is_calling(const struct cdedupe *buffer);

/* Calls the merge callback, with the merge lock alone. */
void merge_payloads(struct lock_scope *scope, cdedupe_slot_t older, cdedupe_slot_t newer);

void waiter_init(struct waiter *waiter);
void waiter_destroy(struct waiter *waiter);
void waiter_wake(struct waiter *waiter);

/* ---------------------------------------------------------------------------------------------- */
/* The scope                                                                                      */

static inline void
scope_init(struct lock_scope *scope, struct cdedupe *buffer)
{
    scope->buffer = buffer;
    scope->now = 0;
    scope->wake = false;
    scope->merge_locked = false;
    reserve_init(&scope->reserve);
}

/* Unlocked, before a lock scope that may queue something. */
static inline void
scope_note_time(struct lock_scope *scope)
{
    scope->now = clock_now_rounded_up(&scope->buffer->clock);
}

static inline void
scope_lock(struct lock_scope *scope)
{
    lock_acquire(&scope->buffer->lock);
}

static inline void
scope_unlock(struct lock_scope *scope)
{
    retired_add_tables(&scope->buffer->retired, &scope->reserve);
    lock_release(&scope->buffer->lock);
}

/* Between two lock scopes of one call, so that waiting threads get the lock. */
static inline void
scope_yield(struct lock_scope *scope)
{
    scope_unlock(scope);
    lock_yield(&scope->buffer->lock);
    scope_lock(scope);
}

/* Model step W2, unlocked: wakes the loop if notify() said so. */
static inline void
scope_wake(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;

    if (!scope->wake)
        return;
    scope->wake = false;
    /* `used` was set under the lock before the take that found nothing, and so before notify(). */
    if (sync_load_relaxed_32(&buffer->waiter.used))
        waiter_wake(&buffer->waiter);
    if (buffer->wake != NULL)
        buffer->wake(buffer->wake_context);
}

/* Unlocked, between two attempts: whether there is memory to try again with. */
static inline bool
scope_refill(struct lock_scope *scope)
{
    bool merge_locked = scope->merge_locked, filled;

    merge_unlock(scope);
    scope_wake(scope);
    filled = reserve_fill(&scope->reserve, &scope->buffer->memory);
    if (merge_locked)
        merge_lock(scope);
    return filled;
}

/* Unlocked, at the end of a call: frees what became free, and wakes the loop. */
static inline void
scope_finish(struct lock_scope *scope)
{
    merge_unlock(scope);
    reserve_release(&scope->reserve, &scope->buffer->memory);
    scope_wake(scope);
}

/*
 * Model step W1, under the lock, whenever the loop may have something to do. `asleep` is read and
 * cleared under the lock that the loop held when it set it, so no wake-up can be lost.
 */
static inline void
notify(struct lock_scope *scope)
{
    if (scope->buffer->sink.asleep) {
        scope->buffer->sink.asleep = false;
        scope->wake = true;
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Entries                                                                                        */

/*
 * Under the lock: a dead entry leaves the index. Its memory stays, since readers and the sink may
 * use it.
 */
static inline void
entry_unindex(struct cdedupe *buffer, uint32_t number)
{
    index_remove(&buffer->index, entry_at(&buffer->entries, number)->hash, number);
}

/*
 * Under the lock: an entry that is dead and no longer indexed becomes free when no reader can use
 * it.
 */
static inline void
retire_entry(struct lock_scope *scope, uint32_t number)
{
    retired_add(&scope->buffer->retired, &scope->buffer->entries, number);
}

/* Under the lock: frees some retired memory whose grace period is over. */
static inline void
reclaim(struct lock_scope *scope)
{
    retired_reclaim(&scope->buffer->retired, &scope->buffer->entries, &scope->reserve);
}

#endif
