/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The merge lock.
 *
 *     merge_lock                     for status, restart and collect
 *     merge_unlock
 *         notify_refused             wakes a loop that found the mutex held
 *     merge_lock_after_sink          put: lets a sink that found the mutex held go first
 *         yield_to_loop
 *     merge_lock_for_sink            take of a single batch, put back: waits for the mutex
 *     merge_lock_for_loop            take of a loop: only tries
 *         merge_try_lock
 *     merge_payloads                 runs the merge callback
 *     merge_is_calling               detects a call from inside the callback
 *
 * On a buffer that merges, every call that changes words holds this mutex. While the merge callback
 * runs, the merging thread holds nothing else: no spinlock, no read section, no context. Meanwhile
 * no other thread can change a word or make an entry die.
 *
 * The mutex is taken before the spinlock. The take of a loop must not wait for the callback, so it
 * only tries the mutex. It does so under the spinlock. If the mutex is held, the loop is marked as
 * waiting for the wake callback before the spinlock is released. The thread that holds the mutex
 * unlocks it first, and looks for a waiting loop under the spinlock afterwards. If that look comes
 * before the try, then so does the unlock, and the try succeeds. If the look comes after the try,
 * the thread sees the waiting loop and wakes it.
 *
 * The mutex is not fair. A producer that unlocks it and goes on would get it again before a woken
 * sink comes. A sink that found the mutex held therefore notes that in `sink`. The producer then
 * ends its chunk after the merge that is running. Each chunk that finds such a note lets the sink
 * go first. If the sink waits for the mutex, the producer waits until the sink has had it. If a
 * loop was refused, the producer only yields for a while, because the loop may be slow to come.
 */
#include "calls/calls.h"

/*
 * How often a put yields to a loop that found the merge lock held. Tests that go through all
 * interleavings build with 1, because more yields would only multiply the interleavings.
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

/*
 * Model step W3, under the spinlock: wakes a loop that found the mutex held, if there is something
 * to take or the buffer is finishing or stopped.
 */
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

/*
 * Gives the mutex to a loop that was refused. The loop is woken, and gets SINK_YIELDS chances to
 * come. If it has not come by then, the put goes on, and later chunks do not yield to this loop
 * again.
 */
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

/* The calling thread as a number other than zero. */
static uint64_t
this_thread(void)
{
    return (uint64_t)(uintptr_t)pthread_self();
}

bool
merge_is_calling(const struct cdedupe *buffer)
{
    /* No ordering is needed, because only this thread itself can have stored its own number. */
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
