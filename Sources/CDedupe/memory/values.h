/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store of values that are too long for a payload.
 *
 * Values of similar length share a size class of an arena, so that a slab whose values are gone is
 * unmapped. At most a fifth of a cell is padding, or 15 bytes. A value longer than
 * VALUE_CELL_MAX has a block of its own from the allocator, which gets it back at once.
 *
 * The store has a lock of its own and knows nothing of the buffer. Any thread may allocate and free
 * at any time. The allocator never runs under the lock.
 */
#ifndef CDEDUPE_MEMORY_VALUES_H
#define CDEDUPE_MEMORY_VALUES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/lock.h"
#include "base/test_sizes.h"
#include "memory/allocator.h"
#include "memory/arena.h"

/* The longest value that shares a slab. The default allocator maps longer ones one by one. */
#define VALUE_CELL_MAX ((size_t)TEST_SIZED(64 * 1024, 512))

/* The first class. Shorter values waste more; the plain level keeps those in the payload. */
enum { VALUE_CELL_MIN = 64 };

/* Empty slabs that are kept: a thousand values of 300 bytes come and go without the allocator. */
#define VALUE_EMPTY_BYTES_MAX (2 * SLAB_SIZE_MAX)

struct values {
    struct memory *memory;
    /*
     * A free cell for the next value of its class, which is above it in the word; zero: none. A
     * producer that replaces values of similar length finds its last displaced one here, without
     * the lock. It counts as used in the arena.
     */
    _Alignas(64) uint64_t spare;
    _Alignas(64) struct lock lock;
    struct arena arena; /* Changed under the lock. */
};

/* A stored value: its memory, aligned to 16 bytes, and what is needed to free it. */
struct stored_value {
    void *bytes;
    size_t length;
    uint32_t cell; /* In the arena. Zero: a block of its own. */
};

void values_init(struct values *values, struct memory *memory);

/* Frees the slabs, with what is still in them. Values with blocks of their own have been freed. */
void values_destroy(struct values *values);

/* Memory for a value. False: the allocator failed, and nothing has changed. O(1). */
bool values_allocate(struct values *values, size_t length, struct stored_value *out);

/* Frees a value, or keeps it as the spare one. O(1). */
void values_free(struct values *values, const struct stored_value *stored);

/* Frees `count` values and the spare one, in one lock scope. O(count). */
void values_free_many(struct values *values, const struct stored_value *stored, size_t count);

/* NULL, or a text that names the first invariant that does not hold. O(slabs + free cells). */
const char *values_validate(struct values *values);

/* The size class of a value that shares a slab; declared for tests. */
uint32_t values_class(size_t length);

#endif
