/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Atomics: the one place where the core touches memory that other threads touch.
 *
 * Concurrency Kit's primitives are inline assembly, which ThreadSanitizer does not see. Builds under it use the
 * compiler's atomics instead, with the same orderings, so that its findings are about our protocol and not about
 * its blindness.
 */
#ifndef CDEDUPE_BASE_ATOMICS_H
#define CDEDUPE_BASE_ATOMICS_H

#include <ck_pr.h>
#include <stdbool.h>
#include <stdint.h>

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
    return __atomic_compare_exchange_n(target, &expected, value, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
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
sync_read_section_end(void *retired)
{
#ifdef SYNC_TSAN
    __tsan_release(retired);
#else
    (void)retired;
#endif
}

static inline void
sync_read_sections_ended(void *retired)
{
#ifdef SYNC_TSAN
    __tsan_acquire(retired);
#else
    (void)retired;
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

#endif
