/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The buffer's spinlock, on Concurrency Kit's.
 */
#ifndef CDEDUPE_BASE_LOCK_H
#define CDEDUPE_BASE_LOCK_H

#include <ck_pr.h>
#include <ck_spinlock.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/atomics.h"

struct lock {
    ck_spinlock_t spin;
    uint32_t waiting; /* Threads that did not get it at once. */
};

/* How often a waiter looks again before it gives its time slice away. */
enum { LOCK_SPINS = 128 };

static inline void
lock_init(struct lock *lock)
{
    ck_spinlock_init(&lock->spin);
    lock->waiting = 0;
}

static inline bool
lock_is_held(struct lock *lock)
{
#ifdef SYNC_TSAN
    return __atomic_load_n(&lock->spin.value, __ATOMIC_RELAXED) != 0;
#else
    return ck_spinlock_locked(&lock->spin);
#endif
}

static inline bool
lock_try(struct lock *lock)
{
    if (lock_is_held(lock))
        return false;
#ifdef SYNC_TSAN
    return __atomic_exchange_n(&lock->spin.value, 1u, __ATOMIC_ACQUIRE) == 0;
#else
    return ck_spinlock_trylock(&lock->spin);
#endif
}

/*
 * Spins for about the length of one hold, then yields: with more threads than cores the holder may have been
 * descheduled, and a waiter that burns its slice only delays the holder's return.
 */
static inline void
lock_wait(struct lock *lock)
{
    sync_add_32(&lock->waiting, 1);
    for (unsigned spins = 0; !lock_try(lock); spins++) {
        if (spins < LOCK_SPINS)
            ck_pr_stall();
        else
            sched_yield();
    }
    sync_add_32(&lock->waiting, (uint32_t)-1);
}

static inline void
lock_acquire(struct lock *lock)
{
    if (!lock_try(lock))
        lock_wait(lock);
}

static inline void
lock_release(struct lock *lock)
{
#ifdef SYNC_TSAN
    __atomic_store_n(&lock->spin.value, 0u, __ATOMIC_RELEASE);
#else
    ck_spinlock_unlock(&lock->spin);
#endif
}

/*
 * Between two holds of one call: lets somebody else have the lock. Without this whoever has just dropped it, with its
 * cache line at hand, takes it again before a waiter on another core can look, for as long as the call lasts.
 */
static inline void
lock_yield(struct lock *lock)
{
    if (sync_load_relaxed_32(&lock->waiting) == 0)
        return;
    for (unsigned spins = 0; spins < LOCK_SPINS; spins++) {
        if (lock_is_held(lock))
            return;
        ck_pr_stall();
    }
    sched_yield();
}

#endif
