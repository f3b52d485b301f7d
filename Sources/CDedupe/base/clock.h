/* SPDX-License-Identifier: Apache-2.0 */
/* The clock: the time at which an update was queued, in milliseconds, modulo 2^32 (49 days). */
#ifndef CDEDUPE_BASE_CLOCK_H
#define CDEDUPE_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/*
 * The largest age, 24 days. A larger difference of two readings means a negative one. A call reads
 * the clock before it gets the lock, and may lose any time between the two. Therefore the time of a
 * queued update may be later than the reading of a caller that asks for the update's age.
 */
#define CLOCK_AGE_MAX ((uint32_t)INT32_MAX)

enum { CLOCK_MILLISECOND = 1000000 };

struct clock {
    uint64_t (*read)(void *context); /* Nanoseconds. NULL: the system's clock. */
    void *context;
};

/*
 * The system's clock for what is queued is the one that is read fastest. It advances with the
 * system's tick, so its reading is up to one tick old.
 */
#ifdef CLOCK_MONOTONIC_COARSE
enum { CLOCK_QUICK = CLOCK_MONOTONIC_COARSE, CLOCK_TICK = 10 * 1000 * 1000 };
#else
enum { CLOCK_QUICK = CLOCK_MONOTONIC, CLOCK_TICK = 0 };
#endif

static inline uint64_t
clock_nanoseconds(const struct clock *clock)
{
    struct timespec time;

    if (clock->read != NULL)
        return clock->read(clock->context);
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/*
 * The present time for computing an age, rounded down. The caller must not hold a lock, because the
 * clock may be a user callback.
 */
static inline uint32_t
clock_now(const struct clock *clock)
{
    return (uint32_t)(clock_nanoseconds(clock) / CLOCK_MILLISECOND);
}

/*
 * The present time for an update that is queued, or up to a tick and a millisecond later, so that
 * no age exceeds the true one.
 */
static inline uint32_t
clock_now_rounded_up(const struct clock *clock)
{
    uint64_t nanoseconds;

    if (clock->read != NULL) {
        nanoseconds = clock->read(clock->context);
    } else {
        struct timespec time;

        clock_gettime(CLOCK_QUICK, &time);
        nanoseconds = (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec + CLOCK_TICK;
    }
    return (uint32_t)(nanoseconds / CLOCK_MILLISECOND + (nanoseconds % CLOCK_MILLISECOND != 0));
}

/* Whether the clock may be read in a read section. No user callback may run there. */
static inline bool
clock_is_ours(const struct clock *clock)
{
    return clock->read == NULL;
}

/* The milliseconds from one reading to a later one. */
static inline uint32_t
clock_age(uint32_t queued, uint32_t now)
{
    uint32_t age = now - queued;

    return age > CLOCK_AGE_MAX ? 0 : age;
}

#endif
