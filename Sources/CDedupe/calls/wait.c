/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking with a timeout. A delivery loop that has no event loop of its own waits here until the
 * queue has something to take.
 *
 *     cdedupe_take_wait
 *         begin_waiting             only a loop may wait
 *         cdedupe_take              EMPTY marks the loop as waiting for the wake callback
 *         wait_for_wake             a condition variable; scope_wake() signals it by waiter_wake()
 *             wait_until            by the monotonic clock; not the same on every system
 *
 * This file uses a mutex and a condition variable instead of ck_ec. They exist on every system,
 * whereas ck_ec would need us to make the system's futex calls. Their cost does not matter: the
 * core wakes a loop only once per sleep, and it signals only on buffers on which
 * cdedupe_take_wait() was ever called.
 */
#include <errno.h>

#include "calls/calls.h"

static struct timespec
deadline_after(int64_t timeout_ms)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    /* Such a timeout is longer than any program runs. Without the limit the sum could overflow. */
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

#ifdef __APPLE__

/* The system has no condition variables on the monotonic clock, but it has relative timeouts. */
static void
init_condition(pthread_cond_t *condition)
{
    pthread_cond_init(condition, NULL);
}

static int
wait_until(struct waiter *waiter, const struct timespec *deadline)
{
    struct timespec now, left;

    clock_gettime(CLOCK_MONOTONIC, &now);
    left.tv_sec = deadline->tv_sec - now.tv_sec;
    left.tv_nsec = deadline->tv_nsec - now.tv_nsec;
    if (left.tv_nsec < 0) {
        left.tv_nsec += 1000000000;
        left.tv_sec--;
    }
    if (left.tv_sec < 0)
        return ETIMEDOUT;
    return pthread_cond_timedwait_relative_np(&waiter->condition, &waiter->mutex, &left);
}

#else

static void
init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

static int
wait_until(struct waiter *waiter, const struct timespec *deadline)
{
    return pthread_cond_timedwait(&waiter->condition, &waiter->mutex, deadline);
}

#endif

/* Waits for waiter_wake(). False: the deadline passed. A negative timeout is no deadline. */
static bool
wait_for_wake(struct waiter *waiter, int64_t timeout_ms, const struct timespec *deadline)
{
    int error = 0;
    bool woken;

    pthread_mutex_lock(&waiter->mutex);
    while (!waiter->woken && error != ETIMEDOUT)
        error = timeout_ms < 0 ? pthread_cond_wait(&waiter->condition, &waiter->mutex)
                               : wait_until(waiter, deadline);
    woken = waiter->woken;
    waiter->woken = false;
    pthread_mutex_unlock(&waiter->mutex);
    return woken;
}

void
waiter_init(struct waiter *waiter)
{
    pthread_mutex_init(&waiter->mutex, NULL);
    init_condition(&waiter->condition);
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

/*
 * Whether the caller may wait, which only a loop may, because only a loop is ever woken. `used` is
 * set under the lock, before the take that marks the loop as waiting; scope_wake() reads it later.
 * Otherwise scope_wake() could miss it, and the loop would sleep forever.
 */
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
