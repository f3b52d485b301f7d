/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs: the calls of two or three threads, in the words of operation.h. Before the threads
 * begin, the program pins each key that an update puts by pin. `bare`, `merging`, `suppressing` and
 * `bound` are first in a set-up. Keys are letters, a to h; x and y are two keys with one
 * fingerprint.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "operation.h"
#include "scheduler.h"

enum { PROGRAM_OPS_MAX = 12, PROGRAM_IDS_MAX = 64 };

struct op_list {
    struct op ops[PROGRAM_OPS_MAX];
    unsigned count;
};

struct program {
    const char *name;
    struct op_list setup;
    struct op_list threads[THREADS_MAX];
    unsigned threads_count;
    unsigned ids;                        /* Payloads are numbered 1 to this. */
    unsigned revisions[PROGRAM_IDS_MAX]; /* By id: the same id, or another's. */
};

/* The argument of the operation that is first in the set-up, if it is of that kind; else zero. */
unsigned program_choice(const struct program *program, enum op_kind kind);

struct program_text {
    const char *name;
    const char *setup;
    const char *threads[THREADS_MAX];
    unsigned preemptions; /* At most so many, however many are asked for; zero: no limit. */
    bool waits;           /* Thread 0 is waited for: it is not stopped. */
    bool weak;            /* A sweep takes several lock scopes: see linear_check_weakly(). */
};

/* Those chosen by hand, for this build. */
extern const struct program_text program_list[];
extern const size_t program_list_count;

/* False: the text is not a program. */
bool program_parse(struct program *program, const struct program_text *text);

/* A program by chance; `storage` keeps its text. */
struct program_storage {
    char name[32];
    char setup[128];
    char threads[THREADS_MAX][128];
};
struct program_text program_random(uint64_t seed, struct program_storage *storage);

/* The bytes of a key. */
const char *key_text(unsigned key);

#endif
