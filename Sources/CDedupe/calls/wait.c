/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking with a timeout: a loop that has no event loop of its own waits here until the queue has something.
 *
 *     cdedupe_take_wait
 *         cdedupe_take              EMPTY marks the loop as waiting for the wake callback
 *         wait_for_wake             a condition variable; scope_wake() signals it
 *
 * A mutex and a condition variable, not ck_ec: they exist on every system, and ck_ec would need the
 * system's futex calls from us. Their cost does not matter, because the core wakes a loop only once per
 * sleep, and only buffers on which cdedupe_take_wait() was ever called signal at all.
 */
#include <errno.h>

#include "calls/calls.h"

static struct timespec
deadline_after(int64_t timeout_ms)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    /* Longer than any program runs; the sum must not overflow. */
    if (timeout_ms > INT32_MAX * INT64_C(1000))
        timeout_ms = INT32_MAX * INT64_C(1000);
    time.tv_sec += (time_t)(timeout_ms / 1000);
    time.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_nsec -= 1000000000;
        time.tv_sec++;
    }
    return time;
}

/* False: the deadline passed. A negative timeout has none. */
static bool
wait_for_wake(struct waiter *waiter, int64_t timeout_ms, const struct timespec *deadline)
{
    int error = 0;
    bool woken;

    pthread_mutex_lock(&waiter->mutex);
    while (!waiter->woken && error != ETIMEDOUT)
        error = timeout_ms < 0
                    ? pthread_cond_wait(&waiter->condition, &waiter->mutex)
                    : pthread_cond_timedwait(&waiter->condition, &waiter->mutex, deadline);
    woken = waiter->woken;
    waiter->woken = false;
    pthread_mutex_unlock(&waiter->mutex);
    return woken;
}

void
waiter_init(struct waiter *waiter)
{
    pthread_condattr_t attributes;

    pthread_mutex_init(&waiter->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&waiter->condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

void
waiter_destroy(struct waiter *waiter)
{
    pthread_cond_destroy(&waiter->condition);
    pthread_mutex_destroy(&waiter->mutex);
}

void
waiter_wake(struct waiter *waiter)
{
    pthread_mutex_lock(&waiter->mutex);
    waiter->woken = true;
    pthread_cond_signal(&waiter->condition);
    pthread_mutex_unlock(&waiter->mutex);
}

/* Under the lock: whether the caller may wait. Only a loop is ever woken. */
static bool
begin_waiting(struct cdedupe *buffer)
{
    bool is_loop;

    lock_acquire(&buffer->lock);
    is_loop = buffer->sink.claim == CLAIM_LOOP;
    if (is_loop)
        sync_store_relaxed_32(&buffer->waiter.used, 1);
    lock_release(&buffer->lock);
    return is_loop;
}

cdedupe_result_t
cdedupe_take_wait(cdedupe_t *buffer, cdedupe_item_t *items, size_t capacity, size_t *count,
                  int64_t timeout_ms)
{
    struct timespec deadline = deadline_after(timeout_ms < 0 ? 0 : timeout_ms);
    cdedupe_result_t result;

    *count = 0;
    if (!begin_waiting(buffer))
        return CDEDUPE_INVALID_ARGUMENT;
    do
        result = cdedupe_take(buffer, items, capacity, count);
    while (result == CDEDUPE_EMPTY && wait_for_wake(&buffer->waiter, timeout_ms, &deadline));
    return result;
}
