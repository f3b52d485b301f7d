/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of a program against the buffer, and the history that it leaves.
 */
#ifndef RUN_H
#define RUN_H

#include "CDedupe.h"
#include "program.h"

enum { EVENTS_MAX = 64, ITEMS_MAX = 1100 };

/* The checks after the threads have ended, and the set-up before, as threads of their own. */
enum { THREAD_CHECKS = THREADS_MAX, THREAD_SETUP };

struct event_item {
    uint8_t kind;
    uint8_t status;
    unsigned key;
    uint64_t id;
};

/* One call, and what it came to. */
struct event {
    unsigned thread;
    enum op_kind kind;
    unsigned argument;
    uint64_t invoked, returned; /* Ticks of one clock. */
    cdedupe_result_t result;
    struct op_update updates[OP_UPDATES_MAX];
    uint8_t outcomes[OP_UPDATES_MAX];
    uint64_t displaced[OP_UPDATES_MAX]; /* Payloads by id; zero: none. */
    unsigned count;
    unsigned items_first, items_count; /* In the history's items. */
    uint64_t back;                     /* Of putting back: payloads that came back, bits by id. */
    cdedupe_statistics_t statistics;
};

/*
 * Where values are merged an id is a set of bits, by the numbers of the payloads that are merged.
 */
struct history {
    const struct program *program;
    struct event events[EVENTS_MAX];
    unsigned count;
    struct event_item items[ITEMS_MAX];
    unsigned items_count;
    uint64_t leftovers; /* Bits by id: what a stopped buffer still had. */
};

/* Does the program's set-up, and keeps its end as the state in which each run begins. */
bool run_prepare(const struct program *program);

/* The body of a thread. */
void run_thread(unsigned thread);

/* Back to the state after the set-up. */
void run_begin(void);

/*
 * After all threads have ended: takes what is left, asks for every count, and destroys the buffer.
 */
void run_end(void);

/* Everything since the creation, the set-up too. Of a run that ended, also what was left. */
const struct history *run_history(void);

void run_print_history(FILE *out);

/* A name for an address of the buffer's. */
const char *run_label(const volatile void *address);

/* At a switch, with the lock free: the invariants. */
void run_validate(void);

/* The same between two steps, as far as that changes nothing. */
void run_validate_at_switch(void);

#endif
