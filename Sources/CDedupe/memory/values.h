/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store of values that are too long for a payload.
 *
 * Values of similar length share a size class of an arena, so that a slab whose values are gone is
 * unmapped. The padding of a cell is at most a fifth of the cell, or 15 bytes. A value longer than
 * VALUE_CELL_MAX has a block of its own, which goes back to the allocator at once when the value is
 * freed.
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

/*
 * The size of the first class. Shorter values waste more of it. The bytes level keeps short values
 * in the payload.
 */
enum { VALUE_CELL_MIN = 64 };

/*
 * The bytes of empty slabs that are kept. With these, a thousand values of 300 bytes can come and
 * go without a call of the allocator.
 */
#define VALUE_EMPTY_BYTES_MAX (2 * SLAB_SIZE_MAX)

struct values {
    struct memory *memory;
    /*
     * The spare cell: a free cell for the next value of its class. The word holds the class above
     * the cell's number. Zero: there is no spare cell. A producer that replaces values of similar
     * length finds the cell of its last displaced value here, without the lock. The arena counts
     * this cell as used.
     */
    _Alignas(64) uint64_t spare;
    _Alignas(64) struct lock lock;
    struct arena arena; /* Changed under the lock. */
    struct slab_class classes[ARENA_CLASSES_MAX];
};

/* A stored value: its memory, aligned to 16 bytes, and what values_free() needs. */
struct stored_value {
    void *bytes;
    size_t length;
    uint32_t cell; /* In the arena. Zero: the value has a block of its own. */
};

void values_init(struct values *values, struct memory *memory);

/*
 * Frees the slabs, with the values that are still in them. The caller has freed all values that
 * have blocks of their own.
 */
void values_destroy(struct values *values);

/* Gets memory for a value. False: the allocator failed, and nothing has changed. O(1). */
bool values_allocate(struct values *values, size_t length, struct stored_value *out);

/* Frees a value, or keeps its cell as the spare one. O(1). */
void values_free(struct values *values, const struct stored_value *stored);

/* Frees `count` values and the spare cell, in one lock scope. O(count). */
void values_free_many(struct values *values, const struct stored_value *stored, size_t count);

/* Returns NULL, or a text that names the first invariant that is broken. O(slabs + free cells). */
const char *values_validate(struct values *values);

/* The size class of a value that shares a slab. Declared for tests. */
uint32_t values_class(size_t length);

#endif
