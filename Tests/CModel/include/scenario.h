/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scenarios: rules of the contract as text, one line for each; Tests/Scenarios/README.md explains
 * the language. This file reads them, and compares what a buffer did with what they expect. The
 * programs that run scenarios tell what happened as text too, in the words of the expectation.
 */
#ifndef SCENARIO_H
#define SCENARIO_H

#include "CDedupe.h"
#include "operation.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The levels that can run scenarios. The model always runs beside the others. */
enum {
    SCENARIO_BYTES = 1,
    SCENARIO_HANDLES = 2,
    SCENARIO_SWIFT = 4,
    SCENARIO_ALL = 7,
};

/* The options that the words before a scenario choose. */
typedef struct scenario_options {
    bool merging;
    bool suppressing;
    unsigned maximum_keys;
    unsigned maximum_bytes;
    unsigned batch_size; /* Default: 100. */
} scenario_options_t;

typedef struct scenario_step {
    struct op op;
    char *expected; /* NULL: nothing is said about it. */
    size_t jump;    /* Of OP_REPEAT and OP_REPEAT_END: the other one. */
} scenario_step_t;

/* A key in quotes. */
typedef struct scenario_key {
    char *text; /* As the scenario spells it, with the quotes. */
    char *bytes;
    size_t length;
} scenario_key_t;

typedef struct scenario {
    const char *file; /* The last part of its path. */
    unsigned line;
    char *name;
    unsigned levels;
    scenario_options_t options;
    scenario_step_t *steps;
    size_t step_count;
    scenario_key_t *keys;
    size_t key_count;
    const char *key_texts; /* Of the other keys. */
    uint64_t ids;          /* Updates without a number are numbered 1 to this. */
} scenario_t;

typedef struct scenarios {
    scenario_t *list;
    size_t count;
    char *path;
    char *key_texts;
    char error[400]; /* "FILE:LINE: what is wrong", or empty. */
} scenarios_t;

/* Reads a file. Check `error`: after one, the list ends before it. */
void scenarios_open(scenarios_t *scenarios, const char *path);
void scenarios_close(scenarios_t *scenarios);

/* The number of different keys that a scenario may use: they are numbered from zero. */
size_t scenario_key_limit(const scenario_t *scenario);

/* The bytes of a key. They are valid as long as the scenario. */
size_t scenario_key_bytes(const scenario_t *scenario, unsigned key, const char **bytes);

/* The number of the key with these bytes, or scenario_key_limit(). */
unsigned scenario_key_number(const scenario_t *scenario, const void *bytes, size_t length);

/* Writes the name of a key, as scenarios spell it. Returns its length. */
size_t scenario_key_name(const scenario_t *scenario, unsigned key, char *name, size_t size);

/* Whether a key is one of fill16, whose ids an expectation does not tell. */
bool scenario_is_fill_key(unsigned key);

/* The words of an expectation for outcomes, results and statuses. */
const char *scenario_outcome_word(cdedupe_outcome_t outcome);
const char *scenario_result_word(cdedupe_result_t result);
const char *scenario_status_word(cdedupe_status_t status);

/* The value of a counter that `stats` names, or UINT64_MAX: there is no such name. */
uint64_t scenario_counter(const char *name, size_t length, const cdedupe_statistics_t *statistics,
                          uint64_t wakes);

/*
 * Whether `actual` is what the step expects. It must have the words of an expectation: outcomes, a
 * result, or items. For a step that expects counters, call scenario_check_counters().
 */
bool scenario_matches(const scenario_step_t *step, const char *actual);

/* Writes what is wrong with the counters into `fault`. Returns whether nothing is. */
bool scenario_check_counters(const scenario_step_t *step, const cdedupe_statistics_t *statistics,
                             uint64_t wakes, char *fault, size_t size);

/* For languages that see a C array of a struct as something else. */
const struct op_update *op_update_at(const struct op *op, size_t index);

#ifdef __cplusplus
}
#endif

#endif /* SCENARIO_H */
