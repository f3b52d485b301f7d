/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Producer contexts: what a call needs that takes no lock.
 *
 * A context has a record for ck_epoch's sections and a magazine of free slots. Contexts belong to no thread: a call
 * claims one, and gives it back before anything foreign runs. A thread tends to find the one that it had before. The
 * pool grows when all are claimed, up to as many as calls may usefully run at once; beyond that callers yield.
 */
#ifndef CDEDUPE_MEMORY_CONTEXT_H
#define CDEDUPE_MEMORY_CONTEXT_H

#include <ck_epoch.h>
#include <stdbool.h>
#include <stdint.h>

#include "CDedupe.h"
#include "memory/allocator.h"
#include "base/test_sizes.h"

enum { CONTEXTS_MAX = 128, MAGAZINE_SIZE = TEST_SIZED(224, 6) };

struct context {
    ck_epoch_record_t record;
    uint64_t claimed;
    uint64_t
        replaced; /* Updates that this context's calls replaced without the lock; written by its owner only. */
    uint64_t slot_count;
    cdedupe_slot_t slots[MAGAZINE_SIZE];
};

struct context_pool {
    struct context *contexts[CONTEXTS_MAX];
    uint64_t count;
};

struct cdedupe;

/* One context to begin with. False: no memory. */
bool context_pool_init(struct cdedupe *buffer);
void context_pool_destroy(struct cdedupe *buffer);

/* A context for the calling thread alone, until it is given back. */
struct context *context_claim(struct cdedupe *buffer);
/*
 * For going through all of them: claims the first that is not in use, from the number on; `number` gets its number.
 * NULL: there are no more.
 */
struct context *context_claim_number(struct cdedupe *buffer, uint64_t *number);

void context_give_back(struct context *context);

/* A section: what the index names stays readable until its end. */
void read_section_begin(struct context *context);
void read_section_end(struct cdedupe *buffer, struct context *context);

/* Under the lock: updates that contexts replaced. */
uint64_t context_count_replaced(const struct cdedupe *buffer);

#endif
