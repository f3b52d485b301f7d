/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Atomics and the lock: the one place where the core touches memory that other threads touch.
 *
 * Concurrency Kit's primitives are inline assembly, which ThreadSanitizer does not see. Builds under it use the
 * compiler's atomics instead, with the same orderings, so that its findings are about our protocol and not about
 * its blindness.
 */
#ifndef CDEDUPE_SYNC_H
#define CDEDUPE_SYNC_H

#include <ck_pr.h>
#include <ck_spinlock.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SYNC_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define SYNC_TSAN 1
#endif
#ifdef SYNC_TSAN
#include <sanitizer/tsan_interface.h>
#endif

/* A word that is published with what it names: pairs with sync_load_acquire(). */
static inline void
sync_store_release(uint64_t *target, uint64_t value)
{
#ifdef SYNC_TSAN
    __atomic_store_n(target, value, __ATOMIC_RELEASE);
#else
    ck_pr_fence_release();
    ck_pr_store_64(target, value);
#endif
}

static inline uint64_t
sync_load_acquire(const uint64_t *target)
{
#ifdef SYNC_TSAN
    return __atomic_load_n(target, __ATOMIC_ACQUIRE);
#else
    uint64_t value = ck_pr_load_64(target);

    ck_pr_fence_acquire();
    return value;
#endif
}

/*
 * The one change that happens without the lock: the new value's payload before the word (release), the displaced
 * payload before its destruction (acquire).
 */
static inline bool
sync_compare_exchange(uint64_t *target, uint64_t expected, uint64_t value)
{
#ifdef SYNC_TSAN
    return __atomic_compare_exchange_n(target, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
#else
    bool done;

    ck_pr_fence_release();
    done = ck_pr_cas_64(target, expected, value);
    ck_pr_fence_acquire();
    return done;
#endif
}

/* Hands a new value in and the old one out: release for what the new names, acquire for what the old named. */
static inline uint64_t
sync_exchange(uint64_t *target, uint64_t value)
{
#ifdef SYNC_TSAN
    return __atomic_exchange_n(target, value, __ATOMIC_ACQ_REL);
#else
    uint64_t old;

    ck_pr_fence_release();
    old = ck_pr_fas_64(target, value);
    ck_pr_fence_acquire();
    return old;
#endif
}

/* A counter that is read without the lock as a hint; its writers hold the lock. */
static inline void
sync_store_relaxed(uint64_t *target, uint64_t value)
{
#ifdef SYNC_TSAN
    __atomic_store_n(target, value, __ATOMIC_RELAXED);
#else
    ck_pr_store_64(target, value);
#endif
}

static inline uint64_t
sync_load_relaxed(const uint64_t *target)
{
#ifdef SYNC_TSAN
    return __atomic_load_n(target, __ATOMIC_RELAXED);
#else
    return ck_pr_load_64(target);
#endif
}

static inline void
sync_store_relaxed_32(uint32_t *target, uint32_t value)
{
#ifdef SYNC_TSAN
    __atomic_store_n(target, value, __ATOMIC_RELAXED);
#else
    ck_pr_store_32(target, value);
#endif
}

static inline uint32_t
sync_load_relaxed_32(const uint32_t *target)
{
#ifdef SYNC_TSAN
    return __atomic_load_n(target, __ATOMIC_RELAXED);
#else
    return ck_pr_load_32(target);
#endif
}

static inline void
sync_add_32(uint32_t *target, uint32_t delta)
{
#ifdef SYNC_TSAN
    __atomic_fetch_add(target, delta, __ATOMIC_RELAXED);
#else
    ck_pr_add_32(target, delta);
#endif
}

/* A counter that several threads change without the lock. */
static inline void
sync_add(uint64_t *target, uint64_t delta)
{
#ifdef SYNC_TSAN
    __atomic_fetch_add(target, delta, __ATOMIC_RELAXED);
#else
    ck_pr_add_64(target, delta);
#endif
}

static inline uint64_t
sync_fetch_add(uint64_t *target, uint64_t delta)
{
#ifdef SYNC_TSAN
    return __atomic_fetch_add(target, delta, __ATOMIC_RELAXED);
#else
    return ck_pr_faa_64(target, delta);
#endif
}

/*
 * For ThreadSanitizer, which does not see into ck_epoch: the end of a section happens before whatever follows a grace
 * period. Told for all sections and all grace periods of a buffer at once, through the address of its limbo.
 */
static inline void
sync_section_end(void *limbo)
{
#ifdef SYNC_TSAN
    __tsan_release(limbo);
#else
    (void)limbo;
#endif
}

static inline void
sync_sections_ended(void *limbo)
{
#ifdef SYNC_TSAN
    __tsan_acquire(limbo);
#else
    (void)limbo;
#endif
}

/* Brings the cache line of an address nearer; any address will do. */
static inline void
sync_prefetch(const void *address)
{
    __builtin_prefetch(address, 0, 3);
}

/* Publishes a table; pairs with sync_load_pointer(). */
static inline void
sync_store_pointer(void *target, void *value)
{
#ifdef SYNC_TSAN
    __atomic_store_n((void **)target, value, __ATOMIC_RELEASE);
#else
    ck_pr_fence_release();
    ck_pr_store_ptr((void **)target, value);
#endif
}

static inline void *
sync_load_pointer(const void *target)
{
#ifdef SYNC_TSAN
    return __atomic_load_n((void *const *)target, __ATOMIC_ACQUIRE);
#else
    void *value = ck_pr_load_ptr((void *const *)target);

    ck_pr_fence_acquire();
    return value;
#endif
}

/* ---------------------------------------------------------------------------------------------------- */

struct lock {
    ck_spinlock_t spin;
    uint32_t waiting; /* Threads that did not get it at once. */
};

/* How often a waiter looks again before it gives its time slice away. */
enum { LOCK_SPINS = 128 };

/* How often somebody who waits for foreign code lets others run before it sleeps. */
enum { WAIT_YIELDS = 100 };

static inline void
lock_init(struct lock *lock)
{
    ck_spinlock_init(&lock->spin);
    lock->waiting = 0;
}

static inline bool
lock_is_taken(struct lock *lock)
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
    if (lock_is_taken(lock))
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
lock_take(struct lock *lock)
{
    if (!lock_try(lock))
        lock_wait(lock);
}

static inline void
lock_drop(struct lock *lock)
{
#ifdef SYNC_TSAN
    __atomic_store_n(&lock->spin.value, 0u, __ATOMIC_RELEASE);
#else
    ck_spinlock_unlock(&lock->spin);
#endif
}

/*
 * For those who wait for somebody who runs foreign code: how often they have waited so far decides how long they do now. First
 * they let others run, which is enough for short merges; then they sleep, so that a long one costs no processor.
 */
static inline void
wait_a_little(unsigned waits)
{
    const struct timespec pause = {.tv_nsec = 100000};

    if (waits < WAIT_YIELDS)
        sched_yield();
    else
        nanosleep(&pause, NULL);
}

/*
 * Between two holds of one call: lets somebody else have the lock. Without this whoever has just dropped it, with its
 * cache line at hand, takes it again before a waiter on another core can look, for as long as the call lasts.
 */
static inline void
lock_rest(struct lock *lock)
{
    if (sync_load_relaxed_32(&lock->waiting) == 0)
        return;
    for (unsigned spins = 0; spins < LOCK_SPINS; spins++) {
        if (lock_is_taken(lock))
            return;
        ck_pr_stall();
    }
    sched_yield();
}

#endif
