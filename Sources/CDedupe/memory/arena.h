/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arena: numbered cells in slabs.
 *
 * A cell is named by a 32-bit number and never moves while it is in use. Cells of one size make a class; every slab
 * belongs to one class.
 *
 *   number     31          12 11        0
 *             +--------------+-----------+
 *             | slab, from 1 |   cell    |       zero names nothing
 *             +--------------+-----------+
 *
 * A class's first slab is small and each next one twice as big, up to SLAB_SIZE_MAX, so that a small buffer stays
 * small. Free cells of a slab form a list, first in, first out; slabs with free cells form a list too, so that cells
 * which are used in turn stay near each other. One empty slab per class is kept, others are retired.
 *
 * Everything happens under the buffer's lock, but for arena_at(), which owners of a cell may call at any time.
 */
#ifndef CDEDUPE_MEMORY_ARENA_H
#define CDEDUPE_MEMORY_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/allocator.h"
#include "base/atomics.h"
#include "base/test_sizes.h"

enum { SLAB_SHIFT = TEST_SIZED(12, 4), SLAB_CELLS_MAX = 1 << SLAB_SHIFT };

#define SLAB_SIZE_MIN ((size_t)TEST_SIZED(4 * 1024, 128))
#define SLAB_SIZE_MAX (SLAB_SIZE_MIN << 6) /* 256 KiB */

/* Where a slab's cells are: all that a reader without the lock needs. */
struct slab_cells {
    unsigned char *base;
    size_t stride;
};

struct slab {
    uint32_t cells;     /* How many it has; zero: this slab number is free. */
    uint32_t used;      /* How many are handed out. */
    uint32_t fresh;     /* Cells from here on were never handed out. */
    uint32_t free_head; /* Free cells, as numbers; zero: none. */
    uint32_t free_tail;
    uint32_t
        previous; /* Neighbours in the class's list of slabs with free cells, or in the list of free numbers. */
    uint32_t next;
    uint32_t class_index;
};

struct slab_class {
    size_t stride;
    uint32_t head; /* Slabs with free cells. */
    uint32_t tail;
    uint32_t slabs; /* How many slabs there are. */
    uint32_t empty; /* The one empty slab that is kept, or zero. */
};

/* A table of slabs; outgrown ones stay until the end, for readers that hold them (together less than the last). */
struct slab_table {
    struct slab_table *outgrown;
    size_t size; /* Bytes of the whole block. */
    uint32_t capacity;
    uint32_t unused;
    struct slab_cells cells[];
};

enum { ARENA_CLASSES_MAX = 48 };

struct arena {
    struct slab_table *table;
    struct slab *slabs;    /* Same capacity, behind the table in the same block. */
    uint32_t slab_count;   /* Numbers from 1 to here have been used. */
    uint32_t slab_limit;   /* The highest slab number. */
    uint32_t free_numbers; /* Slab numbers of retired slabs. */
    uint32_t alignment;    /* Of slabs, and so of cells. */
    uint32_t link_offset;  /* Where in a free cell the number of the next one stands. */
    uint32_t used;         /* Cells handed out. */
    uint32_t cells;        /* Cells in all slabs. */
    uint32_t class_count;
    struct slab_class classes[ARENA_CLASSES_MAX];
};

void arena_init(struct arena *arena, size_t alignment, uint32_t link_offset, uint32_t slab_limit);
void arena_add_class(struct arena *arena, size_t stride);
void arena_destroy(struct arena *arena, struct memory *memory);

/*
 * Makes sure that the next arena_take() of the class succeeds. False: the reserve now wants memory; or, if it wants
 * nothing, all numbers are in use.
 */
bool arena_make_room(struct arena *arena, uint32_t class_index, struct reserve *reserve);

/* Takes a free cell. There is one, because arena_make_room() said so. */
uint32_t arena_take(struct arena *arena, uint32_t class_index);

void arena_give_back(struct arena *arena, uint32_t number, struct reserve *reserve);

static inline void *
arena_at(const struct arena *arena, uint32_t number)
{
    const struct slab_table *table = sync_load_pointer(&arena->table);
    const struct slab_cells *cells = &table->cells[number >> SLAB_SHIFT];
    /* Acquire, with the release in arena_make_room(): the stride, and the cells' memory as zeroes. */
    const unsigned char *base = sync_load_pointer(&cells->base);

    return (void *)(uintptr_t)(base + (number & (SLAB_CELLS_MAX - 1)) * cells->stride);
}

/* The number that a free or retired cell holds, to chain such cells. */
static inline uint32_t *
arena_link(const struct arena *arena, uint32_t number)
{
    return (uint32_t *)(void *)((unsigned char *)arena_at(arena, number) + arena->link_offset);
}

/* The cells from `number` on that have been handed out at least once: the first such, or zero. */
uint32_t arena_next_touched(const struct arena *arena, uint32_t number);

/* NULL, or what is wrong. */
const char *arena_validate(const struct arena *arena);

#endif
