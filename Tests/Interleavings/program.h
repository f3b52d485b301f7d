/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs: the calls of two or three threads, as text.
 *
 *   +a -a ~a        puts a value of key a, its deletion, or its deletion with a payload;
 *                   several in one word are one call
 *   +A -A ~A        the same by a pin of the key, which somebody has pinned
 *   @a !a           pins key a, and unpins it
 *   =a              puts the program's first value of key a again, which the sink may have
 *   wait resync sync    puts a status
 *   restart
 *   take take1      takes a batch, of one item
 *   put_back put_back1  puts back what is left of the last batch, or its last item
 *   collect
 *   claim claim-loop release
 *   loop            takes until the buffer has stopped, and sleeps until it is woken
 *   stop finish finish-empty
 *   stats slot      the counters; acquires a slot and discards it
 *   fill16          puts values of 16 other keys;   drop16   deletes them again, in one call
 *   bare            first in a set-up: the buffer has one context instead of one for each
 *                   thread
 *   merging         the same: values are merged
 *   suppressing     the same: a value that the sink has is suppressed
 *   bound2          the same: more than two pending keys overflow
 *   laps5           a status and a restart, five times: uses up five restart numbers
 *
 * Keys are letters, a to h; x and y are two keys with one fingerprint.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler.h"

enum { PROGRAM_OPS_MAX = 12, PROGRAM_UPDATES_MAX = 4, PROGRAM_IDS_MAX = 64 };

/* Keys by number: letters, then those of fill. */
enum { KEYS_LETTERS = 26, KEYS_MAX = KEYS_LETTERS + 1024 };

enum op_kind {
    OP_PUT,
    OP_PIN,
    OP_UNPIN,
    OP_STATUS,
    OP_RESTART,
    OP_TAKE,
    OP_PUT_BACK,
    OP_COLLECT,
    OP_CLAIM,
    OP_RELEASE,
    OP_LOOP,
    OP_STOP,
    OP_FINISH,
    OP_STATISTICS,
    OP_SLOT,
    OP_FILL,
    OP_DROP,
    OP_LAPS,
    OP_BARE,
    OP_MERGING,
    OP_SUPPRESSING,
    OP_BOUND,
};

struct op_update {
    unsigned key;
    bool deletion;
    bool by_pin;
    unsigned id; /* Of the payload, from 1 on; zero: none. */
};

struct op {
    enum op_kind kind;
    unsigned argument; /* A status, a capacity, a kind of claim or of finish, a number. */
    struct op_update updates[PROGRAM_UPDATES_MAX];
    unsigned count;
    char text[24];
};

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
