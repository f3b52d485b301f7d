/* SPDX-License-Identifier: Apache-2.0 */
/* What the Swift benchmarks cannot say in Swift. */
#ifndef CMEASURE_H
#define CMEASURE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How often the calling thread has asked the system for memory: malloc and its relatives, and mmap.
 * Always 0 where they cannot be counted.
 */
uint64_t measure_allocations(void);

/* Whether they can. */
bool measure_can_count(void);

/* Has freed memory go back to the system. */
void measure_settle(void);

/* Nanoseconds that the calling thread has run, and of the clock on the wall. */
uint64_t measure_thread_time(void);
uint64_t measure_wall_time(void);

/*
 * Callgrind counts what is between these, and keeps it under the name. Nothing happens outside
 * callgrind.
 */
void measure_begin_counting(void);
void measure_end_counting(const char *_Nonnull name);

#endif
