/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clock: when something was queued, in 32 bits.
 *
 * A tick is 2^18 ns, about a quarter of a millisecond, so that the count goes around in 13 days: fine enough to see a sink
 * fall behind, and no pending key pays for more than four bytes.
 */
#ifndef CDEDUPE_BASE_CLOCK_H
#define CDEDUPE_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

enum { CLOCK_TICK_SHIFT = 18 };

/* A reading before another's hold may come after it: ages above this are negative ones. About four seconds below 13 days. */
#define CLOCK_AGE_MAX (UINT32_MAX - ((uint32_t)1 << 14))

struct clock {
    uint64_t (*read)(void *context); /* NULL: the system's. */
    void *context;
};

/* Not under a lock: the clock may be foreign. */
static inline uint32_t
clock_now(const struct clock *clock)
{
    struct timespec time;
    uint64_t nanoseconds;

    if (clock->read != NULL) {
        nanoseconds = clock->read(clock->context);
    } else {
        clock_gettime(CLOCK_MONOTONIC, &time);
        nanoseconds = (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
    }
    return (uint32_t)(nanoseconds >> CLOCK_TICK_SHIFT);
}

/* Whether it may be read in a section, which foreign code may not hold up. */
static inline bool
clock_is_ours(const struct clock *clock)
{
    return clock->read == NULL;
}

/* Nanoseconds from one reading to a later one. */
static inline uint64_t
clock_age(uint32_t queued, uint32_t now)
{
    uint32_t ticks = now - queued;

    return ticks > CLOCK_AGE_MAX ? 0 : (uint64_t)ticks << CLOCK_TICK_SHIFT;
}

#endif
