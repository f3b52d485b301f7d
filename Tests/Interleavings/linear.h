/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linearizability: whether the calls of a history, done one by one in some order, would have come
 * to the same by the contract (Tests/CModel/model.c). The order keeps that of each thread,
 * and that of calls of which one had ended when the other began. A call of several updates, or that
 * puts back several items, is as many steps; a take is one for each lock scope, every other call
 * one.
 */
#ifndef LINEAR_H
#define LINEAR_H

#include <stdbool.h>

#include "run.h"

/* Forgets the histories seen so far: a new program. */
void linear_begin_program(void);

/* NULL, or why there is no such order. */
const char *linear_check(const struct history *history);

/*
 * What holds though a sweep is no single step: a key's items alternate as their kinds say; after a
 * restart and an in-sync that followed it, what is still live was seen since; after the checks' own
 * restart nothing is live.
 */
const char *linear_check_weakly(const struct history *history);

/* How many different histories there were. */
unsigned linear_histories(void);

#endif
