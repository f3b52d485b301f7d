/* SPDX-License-Identifier: Apache-2.0 */
/* The cases. Each measures both sides in turns, and reports medians. */
#ifndef CASES_H
#define CASES_H

#include <stddef.h>
#include <stdint.h>

#include "measure.h"

struct parameters {
    unsigned repetitions;
    double seconds;       /* How long one repetition of a throughput lasts. */
    size_t small_updates; /* A round with few keys is repeated until it has had as many. */
    unsigned grow_rounds;
    unsigned wakes; /* Samples of the wake-up latency. */
    uint64_t seed;
};

void measure_replace(const struct parameters *parameters, const struct setting *setting);
void measure_replace_bytes(const struct parameters *parameters, const struct setting *setting);
void measure_replace_pinned(const struct parameters *parameters, const struct setting *setting);
void measure_fresh(const struct parameters *parameters, const struct setting *setting);
void measure_create(const struct parameters *parameters);
void measure_rounds(const struct parameters *parameters, const struct setting *setting);
void measure_together(const struct parameters *parameters, const struct setting *setting);
void measure_allocations(const struct parameters *parameters, const struct setting *setting);
void measure_growth(const struct parameters *parameters, const struct setting *setting);
void measure_wake(const struct parameters *parameters);

/*
 * Sends random operations to both sides and compares what comes out. Ends the program at the first
 * difference.
 */
void check_yardstick(const struct parameters *parameters);

#endif
