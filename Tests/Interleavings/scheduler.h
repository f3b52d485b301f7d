/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scheduler: runs coroutines under a schedule of its choosing, and goes through all schedules.
 *
 * A schedule is the list of switches between threads. Where the running thread could go on, a
 * switch is a preemption, and a schedule has at most so many of them (as CHESS bounds its search);
 * where it waits or ends, any thread may follow. The search is depth first over these choices, each
 * schedule run from the start.
 *
 * Only steps at contended addresses are points of choice: such as more than one thread uses and at
 * least one writes. Which these are is found out on the way; when there is a new one the search
 * begins again. Letting others go first before any other step is the same as doing so before the
 * next contended one.
 */
#ifndef SCHEDULER_H
#define SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { THREADS_MAX = 3, SWITCHES_MAX = 4096 };

/* At step `step`, thread `thread` runs on. */
struct schedule_switch {
    uint64_t step;
    unsigned thread;
};

struct schedule {
    struct schedule_switch switches[SWITCHES_MAX];
    size_t count;
};

/* What threads do: called with the thread's number, in its coroutine. */
typedef void thread_body_t(unsigned thread);

/* A new program: no address is contended yet. */
void scheduler_begin_program(unsigned threads, thread_body_t *body);

/*
 * Runs schedules with at most so many preemptions, each by the caller: while (scheduler_next()) {
 * prepare; run; check; }
 */
void scheduler_begin_search(unsigned preemptions);
bool scheduler_next(void);

/* Instead of a search: follow the schedule, and with `trace` print each step. */
void scheduler_follow(const struct schedule *schedule, FILE *trace);

/*
 * Instead of preemptions: thread 0 runs alone up to this step of its own, and then not before all
 * others have ended. False from scheduler_freeze_held() says that it got there without the lock.
 */
void scheduler_freeze(uint64_t step);
bool scheduler_freeze_reached(void);
bool scheduler_freeze_held_lock(void);

/* Runs all threads to their ends. False: it failed. */
bool scheduler_run(void);

/* From a thread or between runs: the run has failed, and ends at once. */
void scheduler_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *scheduler_failure(void); /* NULL: none. */
void scheduler_clear_failure(void);

/* From a thread: where an operation begins; others may go first. */
void scheduler_boundary(const char *what);

/* From a thread: waits until the address is changed, by another thread's step or by saying so. */
void scheduler_wait(const volatile void *address);
void scheduler_changed(const volatile void *address);

/* The switches of this run so far, or of the last one. */
const struct schedule *scheduler_schedule(void);
uint64_t scheduler_steps(void);

/* For the trace: a name for an address. */
extern const char *(*scheduler_label)(const volatile void *address);

/* Called at each switch, with the lock free. Its steps are not steps. */
extern void (*scheduler_at_switch)(void);

#endif
