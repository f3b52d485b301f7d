/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers that follow from a seed. Each thread has a state of its own, and a failing round can be
 * run again.
 */
#ifndef RANDOM_H
#define RANDOM_H

#include <stdint.h>

static inline uint64_t
random_below(uint64_t *state, uint64_t limit)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (*state * UINT64_C(2685821657736338717) >> 33) % limit;
}

#endif
