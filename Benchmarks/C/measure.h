/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks, samples, streams of keys, counters of allocations, and the list of results. */
#ifndef MEASURE_H
#define MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "subject.h"

/* Nanoseconds. */
uint64_t wall_time(void);
/* Nanoseconds that this thread has run: other processes on the machine do not lengthen it. */
uint64_t thread_time(void);
void pause_for(double seconds);

/* ---------------------------------------------------------------------------------------------- */

/* Numbers of which all are kept, so that percentiles are exact. */
struct series {
    double *values;
    size_t count, capacity;
};

void series_add(struct series *series, double value);
double series_median(struct series *series);
/* The smallest value that `fraction` of all values do not exceed. */
double series_percentile(struct series *series, double fraction);
void series_free(struct series *series);

/* ---------------------------------------------------------------------------------------------- */

/* What a case is measured with. */
struct setting {
    size_t keys;      /* Different ones. */
    size_t key_size;  /* Bytes. */
    size_t call;      /* Updates in a call. */
    unsigned threads; /* Threads that are at work. */
};

/*
 * Keys as a producer sends them: end to end in memory, in random order. The stream is one
 * permutation of all keys after another, so that it can be sent round and round; its first
 * `key_count` keys are all keys.
 */
struct stream {
    char *keys;
    uint32_t *numbers; /* Which key each one is. */
    size_t key_count, key_size;
    size_t length; /* Keys in the stream. */
};

/*
 * Zero rounds: as many permutations as it takes that no branch predictor learns the order by heart.
 */
void stream_make(struct stream *stream, const struct setting *setting, size_t rounds,
                 uint64_t seed);
/* At most `count` keys from `position` on. */
struct keys stream_keys(const struct stream *stream, size_t position, size_t count);
void stream_free(struct stream *stream);

/* ---------------------------------------------------------------------------------------------- */

/* How often this thread has asked the system for memory: malloc and its relatives, and mmap. */
uint64_t allocations(void);
/* Bytes of this process that are in memory. */
uint64_t resident(void);
/* Has freed memory go back to the system, so that every buffer starts from the same state. */
void settle(void);

/* ---------------------------------------------------------------------------------------------- */

enum better { LOWER_IS_BETTER, HIGHER_IS_BETTER, NEITHER };

/* Opens the list of results. */
void report_open(const char *path);
/* One result: ours and the plain port's. */
void report(const char *name, const struct setting *setting, const char *unit, enum better better,
            double value, double plain);
void report_close(void);

#endif
