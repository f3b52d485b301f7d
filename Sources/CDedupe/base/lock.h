/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spinlock of a buffer or a store, on Concurrency Kit's.
 *
 * ThreadSanitizer does not see inline assembly, so builds under it use the compiler's atomics, with
 * the same orderings.
 *
 * A thread that releases the lock is the other side of the next thread that acquires it. Without
 * the release and the acquire, that thread could see a state that is half changed.
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
    uint32_t waiting; /* Threads that did not get the lock at once. A hint for lock_yield(). */
};

/* How often a waiting thread looks again before it yields the processor. */
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
 * Spins for about the length of one lock scope, then yields the processor. With more threads than
 * cores, the thread that holds the lock may have been descheduled. A waiting thread that spins
 * through its time slice would only delay that thread's return.
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
 * Called between two lock scopes of one call: lets a waiting thread have the lock. The thread that
 * has just released the lock still has its cache line. Without this function it would acquire the
 * lock again before a waiting thread on another core could look, again and again for the whole
 * call.
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
