/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Atomics: the core loads and stores words that several threads share only through these functions.
 * The spinlock is the exception; see lock.h.
 *
 * Concurrency Kit's primitives are inline assembly. ThreadSanitizer does not see inline assembly
 * and would report races that do not exist. Builds under ThreadSanitizer therefore use the
 * compiler's atomics, with the same orderings.
 */
#ifndef CDEDUPE_BASE_ATOMICS_H
#define CDEDUPE_BASE_ATOMICS_H

#include <ck_epoch.h>
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

/*
 * Publishes a word together with the memory that the word names. Pairs with sync_load_acquire() and
 * with sync_exchange(). Without the release a thread could load the word and then read that memory
 * as it was before it was filled.
 */
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

/*
 * The other side of sync_store_release(). Without the acquire the processor could read the memory
 * that the word names before it reads the word.
 */
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

/* As sync_load_acquire(), for an epoch record's mark. Pairs with sync_epoch_end(). */
static inline uint32_t
sync_load_acquire_32(const uint32_t *target)
{
#ifdef SYNC_TSAN
    return __atomic_load_n(target, __ATOMIC_ACQUIRE);
#else
    uint32_t value = ck_pr_load_32(target);

    ck_pr_fence_acquire();
    return value;
#endif
}

/*
 * The only way in which a thread without the lock changes an entry's word.
 *
 * Release: pairs with the acquire of sync_exchange(), or of another call of this function, in the
 * thread that takes or replaces the new payload. Without it that thread could read a payload that
 * is not written yet.
 *
 * Acquire: pairs with the release by which another thread put the displaced payload there. Without
 * it the caller could destroy a payload of which it sees only a part.
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

/*
 * Marks an epoch record as active, which claims its context. Returns false if it is active already.
 *
 * Full fence, as in ck_epoch_begin(): the mark is visible before the caller reads the epoch or
 * anything that the read section protects. Acquire: pairs with the release in sync_epoch_end().
 */
static inline bool
sync_claim(uint32_t *active)
{
#ifdef SYNC_TSAN
    uint32_t idle = 0;

    return __atomic_compare_exchange_n(active, &idle, 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
#else
    bool done = ck_pr_cas_32(active, 0, 1);

    ck_pr_fence_atomic_load();
    return done;
#endif
}

/*
 * Stores a new word and returns the old one. A thread that holds the lock calls this on an entry's
 * word that a producer may be changing with sync_compare_exchange(). That producer is the other
 * side.
 *
 * Release: without it the producer could destroy the new word's payload before all of it is
 * visible.
 *
 * Acquire: without it the caller could read the old word's payload before all of it is visible.
 */
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

/*
 * Relaxed stores and loads are for counters and flags that order nothing. One thread at a time
 * writes them: the thread that holds the lock, or the owner of a context. Others read them without
 * the lock, and only as a hint, or as a value for which a late look is harmless.
 */
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

/* Additions are for counters that several threads change without the lock. They order nothing. */
static inline void
sync_add_32(uint32_t *target, uint32_t delta)
{
#ifdef SYNC_TSAN
    __atomic_fetch_add(target, delta, __ATOMIC_RELAXED);
#else
    ck_pr_add_32(target, delta);
#endif
}

static inline void
sync_add(uint64_t *target, uint64_t delta)
{
#ifdef SYNC_TSAN
    __atomic_fetch_add(target, delta, __ATOMIC_RELAXED);
#else
    ck_pr_add_64(target, delta);
#endif
}

/* Adds to the counter and returns the value that the counter had before. */
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
 * These two annotations tell ThreadSanitizer what ck_epoch guarantees, because it does not see into
 * ck_epoch: the end of a read section happens before everything that follows the grace period.
 * Without them ThreadSanitizer would report the reuse of retired memory as a race with its last
 * reader.
 *
 * `retired` is the address of the buffer's retired memory. It stands for all read sections and all
 * grace periods of the buffer at once. The reader calls sync_read_section_end(); the thread that
 * has polled ck_epoch calls sync_read_sections_ended().
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

/*
 * As ck_epoch_end(), visible to ThreadSanitizer, which reads no inline assembly. Release: pairs
 * with sync_claim() of the next owner, and with the acquire in context_is_quiet().
 */
static inline void
sync_epoch_end(ck_epoch_record_t *record)
{
#ifdef SYNC_TSAN
    __atomic_store_n(&record->active, 0, __ATOMIC_RELEASE);
#else
    ck_epoch_end(record, NULL);
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

/* Prefetches the cache line of an address. The address need not be valid. */
static inline void
sync_prefetch(const void *address)
{
    __builtin_prefetch(address, 0, 3);
}

/*
 * Publishes a block of memory by its address. Pairs with sync_load_pointer(). Without the release a
 * reader could find the address and read the block as it was before it was filled.
 */
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

/* The other side of sync_store_pointer(), with the acquire that sync_load_acquire() has. */
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
