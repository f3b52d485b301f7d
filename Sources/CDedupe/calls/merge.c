/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The merge lock. On a buffer that merges, every call that changes words holds this mutex, and it alone while the merge callback
 * runs: no spinlock, no read section, no context. So nobody changes a word or frees an entry meanwhile.
 *
 * The mutex is taken before the spinlock. A take of a loop must not wait for the callback, so it only tries, and under the
 * spinlock: if the mutex is held then, the loop counts as asleep before the spinlock is free again. The holder unlocks the
 * mutex first and looks for a sleeping loop under the spinlock afterwards. So either the try succeeds, or the holder sees the
 * sleeping loop.
 *
 * The mutex is not fair: a producer that unlocks it and goes on gets it again before the woken sink comes. So a sink that found
 * it held says so. The putting call ends its chunk after the merge that runs, and each chunk that finds such a sink lets it go
 * first: it waits for a sink that waits for the mutex, and yields for a while to a loop, which may be slow to come.
 */
#include "calls/calls.h"

/*
 * How often a put yields to a loop that found the merge lock held. Tests that go through all interleavings build with 1: another
 * yield would bring them nothing but more interleavings.
 */
#ifdef CDEDUPE_SINK_YIELDS
enum { SINK_YIELDS = CDEDUPE_SINK_YIELDS };
#else
enum { SINK_YIELDS = 100 };
#endif

void
merge_lock_init(struct cdedupe *buffer)
{
    if (buffer->merge == NULL)
        return;
    pthread_mutex_init(&buffer->merge_lock.mutex, NULL);
    pthread_cond_init(&buffer->merge_lock.sink_came, NULL);
}

void
merge_lock_destroy(struct cdedupe *buffer)
{
    if (buffer->merge == NULL)
        return;
    pthread_cond_destroy(&buffer->merge_lock.sink_came);
    pthread_mutex_destroy(&buffer->merge_lock.mutex);
}

void
merge_lock(struct lock_scope *scope)
{
    if (scope->buffer->merge == NULL)
        return;
    pthread_mutex_lock(&scope->buffer->merge_lock.mutex);
    scope->merge_locked = true;
}

static bool
merge_try_lock(struct lock_scope *scope)
{
    scope->merge_locked = pthread_mutex_trylock(&scope->buffer->merge_lock.mutex) == 0;
    return scope->merge_locked;
}

/* Under the spinlock: a loop that found the mutex held sleeps; wakes it if it has something to do. [W3] */
static void
notify_refused(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;

    if (!ring_is_empty(&buffer->links, buffer->queue.ring) ||
        buffer->end.finishing != FINISHING_NOT || buffer->end.stopped)
        notify(scope);
}

void
merge_unlock(struct lock_scope *scope)
{
    if (!scope->merge_locked)
        return;
    scope->merge_locked = false;
    pthread_mutex_unlock(&scope->buffer->merge_lock.mutex);
    scope_lock(scope);
    notify_refused(scope);
    scope_unlock(scope);
}

static void
set_sink(struct cdedupe *buffer, enum merge_sink sink)
{
    sync_store_relaxed_32(&buffer->merge_lock.sink, sink);
}

static bool
sink_is(const struct cdedupe *buffer, enum merge_sink sink)
{
    return sync_load_relaxed_32(&buffer->merge_lock.sink) == (uint32_t)sink;
}

/* The loop that could not take has been woken, but it may be slow to come. So it gets one chance, and then the put goes on. */
static void
yield_to_loop(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;

    merge_unlock(scope);
    scope_wake(scope);
    for (unsigned yields = 0; yields < SINK_YIELDS && sink_is(buffer, SINK_REFUSED); yields++)
        sched_yield();
    merge_lock(scope);
    if (sink_is(buffer, SINK_REFUSED))
        set_sink(buffer, SINK_AWAY);
}

void
merge_lock_after_sink(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;

    merge_lock(scope);
    if (sink_is(buffer, SINK_REFUSED))
        yield_to_loop(scope);
    while (sink_is(buffer, SINK_WAITS))
        pthread_cond_wait(&buffer->merge_lock.sink_came, &buffer->merge_lock.mutex);
}

void
merge_lock_for_sink(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;

    if (buffer->merge == NULL || merge_try_lock(scope))
        return;
    set_sink(buffer, SINK_WAITS);
    merge_lock(scope);
    set_sink(buffer, SINK_AWAY);
    pthread_cond_broadcast(&buffer->merge_lock.sink_came);
}

bool
merge_lock_for_loop(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;

    if (buffer->merge == NULL)
        return true;
    set_sink(buffer, merge_try_lock(scope) ? SINK_AWAY : SINK_REFUSED);
    return scope->merge_locked;
}

/* A thread as a number, which is not zero. */
static uint64_t
this_thread(void)
{
    return (uint64_t)(uintptr_t)pthread_self();
}

bool
merge_is_calling(const struct cdedupe *buffer)
{
    /* Without an ordering: only this thread itself can have stored its number. */
    return buffer->merge != NULL && sync_load_relaxed(&buffer->merge_lock.calling) == this_thread();
}

void
merge_payloads(struct lock_scope *scope, cdedupe_slot_t older, cdedupe_slot_t newer)
{
    struct cdedupe *buffer = scope->buffer;

    sync_store_relaxed(&buffer->merge_lock.calling, this_thread());
    buffer->merge(buffer->merge_context, arena_at(&buffer->slots, older),
                  arena_at(&buffer->slots, newer));
    sync_store_relaxed(&buffer->merge_lock.calling, 0);
}
