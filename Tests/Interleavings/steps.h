/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steps: what the scheduler can interleave. The compiler includes this before everything else in
 * each file of the core (-include), so that the core's own text stays as it is: every atomic and
 * every operation on the lock, which the core has in sync.h alone, and every call into Concurrency
 * Kit on shared memory becomes one step of the thread that runs.
 *
 * All threads of a test are coroutines of one thread of the system. So plain memory accesses do,
 * which AddressSanitizer sees, as it does not see Concurrency Kit's assembly.
 */
#ifndef STEPS_H
#define STEPS_H

#include <ck_epoch.h>
#include <ck_hs.h>
#include <ck_pr.h>
#include <ck_spinlock.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Before a step: the scheduler may let others go first. */
void step_before(const volatile void *address, bool writes, const char *what);

/* After a step that changed something: threads that wait for that may go on. */
void step_changed(const volatile void *address);

/*
 * A turn of a loop that waits for a change: of what it read last, or (a call to the system) of
 * anything.
 */
void step_spin(void);
void step_yield(void);

/* Does not look again before another thread has changed the address. */
void step_sleep(const volatile void *address);

/* Notes which thread has the lock: a thread that is stopped forever must not have it. */
void step_locked(void);
void step_unlocked(void);

/* ---------------------------------------------------------------------------------------------- */
/* Atomics                                                                                        */

#define STEP_LOAD(name, type)                               \
    static inline type step_load_##name(type const *target) \
    {                                                       \
        step_before(target, false, "load");                 \
        return *target;                                     \
    }

#define STEP_STORE(name, type)                                     \
    static inline void step_store_##name(type *target, type value) \
    {                                                              \
        step_before(target, true, "store");                        \
        *target = value;                                           \
        step_changed(target);                                      \
    }

#define STEP_ADD(name, type)                                     \
    static inline type step_add_##name(type *target, type value) \
    {                                                            \
        type before;                                             \
                                                                 \
        step_before(target, true, "add");                        \
        before = *target;                                        \
        *target = before + value;                                \
        step_changed(target);                                    \
        return before;                                           \
    }

typedef void *step_pointer_t;

STEP_LOAD(ptr, step_pointer_t)
STEP_LOAD(64, uint64_t)
STEP_LOAD(32, uint32_t)
STEP_STORE(ptr, step_pointer_t)
STEP_STORE(64, uint64_t)
STEP_STORE(32, uint32_t)
STEP_ADD(64, uint64_t)
STEP_ADD(32, uint32_t)

static inline bool
step_cas(uint64_t *target, uint64_t expected, uint64_t value)
{
    step_before(target, true, "compare-and-swap");
    if (*target != expected)
        return false;
    *target = value;
    step_changed(target);
    return true;
}

static inline bool
step_cas_32(uint32_t *target, uint32_t expected, uint32_t value)
{
    step_before(target, true, "compare-and-swap");
    if (*target != expected)
        return false;
    *target = value;
    step_changed(target);
    return true;
}

static inline uint64_t
step_exchange(uint64_t *target, uint64_t value)
{
    uint64_t before;

    step_before(target, true, "exchange");
    before = *target;
    *target = value;
    step_changed(target);
    return before;
}

#undef ck_pr_load_ptr
#undef ck_pr_load_64
#undef ck_pr_load_32
#undef ck_pr_store_ptr
#undef ck_pr_store_64
#undef ck_pr_store_32
#define ck_pr_load_ptr step_load_ptr
#define ck_pr_load_64 step_load_64
#define ck_pr_load_32 step_load_32
#define ck_pr_store_ptr step_store_ptr
#define ck_pr_store_64 step_store_64
#define ck_pr_store_32 step_store_32
#define ck_pr_add_64(target, value) ((void)step_add_64((target), (value)))
#define ck_pr_add_32(target, value) ((void)step_add_32((target), (value)))
#define ck_pr_faa_64 step_add_64
#define ck_pr_cas_64 step_cas
#define ck_pr_cas_32 step_cas_32
#define ck_pr_fas_64 step_exchange
#define ck_pr_stall step_spin
#define sched_yield step_yield

/* ---------------------------------------------------------------------------------------------- */
/* The lock                                                                                       */

static inline bool
step_lock_is_taken(ck_spinlock_t *lock)
{
    step_before(&lock->value, false, "is taken?");
    return lock->value != 0;
}

static inline bool
step_lock_try(ck_spinlock_t *lock)
{
    step_before(&lock->value, true, "try lock");
    if (lock->value != 0)
        return false;
    lock->value = 1;
    step_locked();
    step_changed(&lock->value);
    return true;
}

static inline void
step_lock_drop(ck_spinlock_t *lock)
{
    step_before(&lock->value, true, "unlock");
    lock->value = 0;
    step_unlocked();
    step_changed(&lock->value);
}

#undef ck_spinlock_locked
#undef ck_spinlock_trylock
#undef ck_spinlock_unlock
#define ck_spinlock_locked step_lock_is_taken
#define ck_spinlock_trylock step_lock_try
#define ck_spinlock_unlock step_lock_drop

/* ---------------------------------------------------------------------------------------------- */
/*
 * The merge lock: the first word of a mutex says whether it is held, that of a condition how often
 * it was signalled.
 */

/* The thread that runs, as a number. The core gets it instead of that of the system's thread. */
uint64_t step_thread(void);

#define CDEDUPE_BASE_THREAD_H
#define thread_number step_thread

static inline int
step_mutex_trylock(pthread_mutex_t *mutex)
{
    uint32_t *held = (uint32_t *)mutex;

    step_before(held, true, "try mutex");
    if (*held != 0)
        return 1;
    *held = 1;
    step_changed(held);
    return 0;
}

static inline int
step_mutex_lock(pthread_mutex_t *mutex)
{
    while (step_mutex_trylock(mutex) != 0)
        step_sleep(mutex);
    return 0;
}

static inline int
step_mutex_unlock(pthread_mutex_t *mutex)
{
    uint32_t *held = (uint32_t *)mutex;

    step_before(held, true, "unlock mutex");
    *held = 0;
    step_changed(held);
    return 0;
}

static inline int
step_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    uint32_t *signals = (uint32_t *)condition, before = *signals;

    step_mutex_unlock(mutex);
    for (;;) {
        step_before(signals, false, "wait");
        if (*signals != before)
            break;
        step_sleep(signals);
    }
    return step_mutex_lock(mutex);
}

static inline int
step_cond_broadcast(pthread_cond_t *condition)
{
    uint32_t *signals = (uint32_t *)condition;

    step_before(signals, true, "broadcast");
    ++*signals;
    step_changed(signals);
    return 0;
}

#define pthread_mutex_trylock step_mutex_trylock
#define pthread_mutex_lock step_mutex_lock
#define pthread_mutex_unlock step_mutex_unlock
#define pthread_mutex_init(mutex, attributes) (memset((mutex), 0, sizeof(*(mutex))), 0)
#define pthread_mutex_destroy(mutex) ((void)(mutex))
#define pthread_cond_wait step_cond_wait
#define pthread_cond_broadcast step_cond_broadcast
#define pthread_cond_init(condition, attributes) (memset((condition), 0, sizeof(*(condition))), 0)
#define pthread_cond_destroy(condition) ((void)(condition))
#define pthread_self step_thread

/* ---------------------------------------------------------------------------------------------- */
/* Concurrency Kit: one step per call, as if it read or wrote the whole set, or the epoch.        */

static inline void *
step_hs_get(ck_hs_t *set, unsigned long hash, const void *key)
{
    step_before(set, false, "ck_hs_get");
    return ck_hs_get(set, hash, key);
}

static inline bool
step_hs_put_unique(ck_hs_t *set, unsigned long hash, const void *key)
{
    bool done;

    step_before(set, true, "ck_hs_put_unique");
    done = ck_hs_put_unique(set, hash, key);
    step_changed(set);
    return done;
}

static inline void *
step_hs_remove(ck_hs_t *set, unsigned long hash, const void *key)
{
    void *removed;

    step_before(set, true, "ck_hs_remove");
    removed = ck_hs_remove(set, hash, key);
    step_changed(set);
    return removed;
}

static inline bool
step_hs_grow(ck_hs_t *set, unsigned long capacity)
{
    bool done;

    step_before(set, true, "ck_hs_grow");
    done = ck_hs_grow(set, capacity);
    step_changed(set);
    return done;
}

#define ck_hs_get step_hs_get
#define ck_hs_put_unique step_hs_put_unique
#define ck_hs_remove step_hs_remove
#define ck_hs_grow step_hs_grow

/*
 * The end of a section concerns what ends grace periods, and the threads that want to claim the
 * record.
 */
static inline void
step_epoch_end(ck_epoch_record_t *record, ck_epoch_section_t *section)
{
    step_before(record->global, false, "ck_epoch_end");
    step_before(&record->active, true, "ck_epoch_end");
    ck_epoch_end(record, section);
    step_changed(&record->active);
}

static inline void
step_epoch_call(ck_epoch_record_t *record, ck_epoch_entry_t *entry, ck_epoch_cb_t *function)
{
    step_before(record->global, true, "ck_epoch_call");
    ck_epoch_call(record, entry, function);
}

static inline bool
step_epoch_poll(ck_epoch_record_t *record)
{
    step_before(record->global, true, "ck_epoch_poll");
    return ck_epoch_poll(record);
}

static inline void
step_epoch_register(ck_epoch_t *epoch, ck_epoch_record_t *record, void *context)
{
    step_before(epoch, true, "ck_epoch_register");
    ck_epoch_register(epoch, record, context);
}

#define ck_epoch_end step_epoch_end
#define ck_epoch_call step_epoch_call
#define ck_epoch_poll step_epoch_poll
#define ck_epoch_register step_epoch_register

#endif
