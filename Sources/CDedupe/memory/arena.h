/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arena: numbered cells in slabs.
 *
 * A 32-bit number names a cell. A cell never moves while it is in use. All cells of a class have
 * the same size, and every slab belongs to one class.
 *
 *   number     31          12 11        0
 *             +--------------+-----------+
 *             | slab, from 1 |   cell    |       zero names nothing
 *             +--------------+-----------+
 *
 * The first slab of a class is small, so that a small buffer stays small. Each further slab has
 * half of the cells that the class has already, up to SLAB_SIZE_MAX. So at most a third of a
 * class's cells are in a slab that was added too early.
 *
 * The free cells of a slab form a list, first in, first out. The slabs of a class that have free
 * cells form a list too. Cells that are taken one after the other therefore lie near each other.
 *
 * The arena keeps empty slabs of up to `empty_bytes_max` bytes in all classes together, so that a
 * buffer that is filled and emptied in turn rarely calls the allocator. Beyond that the arena
 * retires an empty slab, unless it is the only empty slab of a class in use, or as small as slabs
 * get.
 *
 * The caller must hold the buffer's lock, except for arena_at(). The owner of a cell may call
 * arena_at() at any time. So may a reader in a read section, for an entry that the reader found in
 * the index.
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

#define SLAB_SIZE_MIN ((size_t)TEST_SIZED(512, 128))
#define SLAB_SIZE_MAX ((size_t)TEST_SIZED(256 * 1024, 8 * 1024))
#define EMPTY_BYTES_MAX (SLAB_SIZE_MAX / 2)

/* Where the cells of a slab are. A reader without the lock needs nothing else of the slab. */
struct slab_cells {
    unsigned char *base;
    size_t stride;
};

struct slab {
    uint32_t cells;     /* The number of cells of the slab. Zero: this slab number is free. */
    uint32_t used;      /* The number of cells that are handed out. */
    uint32_t fresh;     /* Cells with this index or a higher one were never handed out. */
    uint32_t free_head; /* The list of free cells, by their numbers. Zero: the list is empty. */
    uint32_t free_tail;
    /*
     * The neighbours in the class's list of slabs with free cells. While the slab number is free,
     * `next` is the next free slab number.
     */
    uint32_t previous;
    uint32_t next;
    uint32_t class_index;
};

struct slab_class {
    uint32_t stride;
    uint32_t head; /* The list of slabs with free cells. */
    uint32_t tail;
    uint32_t slabs; /* The number of slabs of the class. */
    uint32_t cells; /* The number of cells in them. */
    uint32_t empty; /* The number of slabs of the class that have no cell in use. */
};

/*
 * A table of slabs. Readers without the lock may still use an outgrown table, so only
 * arena_destroy() frees it. All outgrown tables together are smaller than the current table.
 */
struct slab_table {
    struct slab_table *outgrown; /* The table before this one. */
    size_t size;                 /* The size of the whole block in bytes. */
    uint32_t capacity;
    uint32_t unused;
    struct slab_cells cells[];
};

enum { ARENA_CLASSES_MAX = 48 };

struct arena {
    struct slab_table *table;
    struct slab *slabs;    /* As many as the table's capacity, behind the table in its block. */
    uint32_t slab_count;   /* The highest slab number that was ever used. The first is 1. */
    uint32_t slab_limit;   /* The highest slab number that is allowed. */
    uint32_t free_numbers; /* The list of the slab numbers that retired slabs had. */
    uint32_t alignment;    /* The alignment of every slab, and therefore of its first cell. */
    uint32_t link_offset;  /* The offset in a free cell at which the next cell's number lies. */
    uint32_t used;         /* The number of cells that are handed out. */
    uint32_t cells;        /* The number of cells in all slabs. */
    uint32_t class_count;
    size_t empty_bytes;         /* The size of all empty slabs. */
    size_t empty_bytes_max;     /* EMPTY_BYTES_MAX, unless the owner changes it. */
    struct slab_class *classes; /* The owner's array. */
};

/* `classes` has room for the classes that the owner adds, and lives as long as the arena. */
void arena_init(struct arena *arena, struct slab_class *classes, size_t alignment,
                uint32_t link_offset, uint32_t slab_limit);
void arena_add_class(struct arena *arena, size_t stride);
void arena_destroy(struct arena *arena, struct memory *memory);

/*
 * Makes sure that the next arena_take() of the class succeeds. Returns false if that is impossible
 * now: either the reserve wants memory, or it wants nothing because all slab numbers are in use.
 */
bool arena_make_room(struct arena *arena, uint32_t class_index, struct reserve *reserve);

/* Takes a free cell. The caller has called arena_make_room(), which returned true. */
uint32_t arena_take(struct arena *arena, uint32_t class_index);

/* Makes a cell free. If its slab becomes empty, the slab may go to the reserve. */
void arena_give_back(struct arena *arena, uint32_t number, struct reserve *reserve);

/* The address of a cell. */
static inline void *
arena_at(const struct arena *arena, uint32_t number)
{
    /*
     * Acquire. The other side is the release in grow_table(). Without it the caller could read a
     * place of the new table before the old table was copied there.
     */
    const struct slab_table *table = sync_load_pointer(&arena->table);
    const struct slab_cells *cells = &table->cells[number >> SLAB_SHIFT];
    /*
     * Acquire. The other side is the release in arena_make_room(). Without it the caller could see
     * the slab's base without its stride, or memory of its cells that is not zero yet.
     */
    const unsigned char *base = sync_load_pointer(&cells->base);

    return (void *)(uintptr_t)(base + (number & (SLAB_CELLS_MAX - 1)) * cells->stride);
}

/* The place in a free or retired cell that holds the number of the next such cell in its list. */
static inline uint32_t *
arena_link(const struct arena *arena, uint32_t number)
{
    return (uint32_t *)(void *)((unsigned char *)arena_at(arena, number) + arena->link_offset);
}

/*
 * The first cell, from `number` on, that has been handed out at least once; zero if there is none.
 */
uint32_t arena_next_touched(const struct arena *arena, uint32_t number);

/* Checks the arena. Returns NULL, or a description of the first error. */
const char *arena_validate(const struct arena *arena);

#endif
