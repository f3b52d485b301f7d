/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arena: numbered cells in slabs; see arena.h. The calls:
 *
 *     arena_make_room   returns at once if the class has a slab with a free cell
 *       find_slab_number   -> grow_table
 *       append_partial     puts the new slab into the list of slabs with free cells
 *     arena_take        takes a cell of that list's first slab
 *       remove_partial     if the slab has no other free cell
 *     arena_give_back
 *       append_partial     if the slab had no free cell
 *       retire_slab        if the class keeps an empty slab already; -> remove_partial
 */
#include "memory/arena.h"

#include <string.h>

/* Every arena_at() reads a table, so a table shares no cache line with other data. */
enum { TABLE_ALIGNMENT = 64, TABLE_CAPACITY_MIN = TEST_SIZED(4, 2) };

_Static_assert(sizeof(struct slab_cells) == 16, "four of them share a cache line");

void
arena_init(struct arena *arena, struct slab_class *classes, size_t alignment, uint32_t link_offset,
           uint32_t slab_limit)
{
    memset(arena, 0, sizeof(*arena));
    arena->classes = classes;
    arena->alignment = (uint32_t)alignment;
    arena->link_offset = link_offset;
    arena->slab_limit = slab_limit;
    arena->empty_bytes_max = EMPTY_BYTES_MAX;
}

void
arena_add_class(struct arena *arena, size_t stride)
{
    arena->classes[arena->class_count++] = (struct slab_class){.stride = (uint32_t)stride};
}

static size_t
slab_size(const struct arena *arena, const struct slab *slab)
{
    return (size_t)slab->cells * arena->classes[slab->class_index].stride;
}

static void
count_empty(struct arena *arena, uint32_t index)
{
    arena->classes[arena->slabs[index].class_index].empty++;
    arena->empty_bytes += slab_size(arena, &arena->slabs[index]);
}

static void
uncount_empty(struct arena *arena, uint32_t index)
{
    arena->classes[arena->slabs[index].class_index].empty--;
    arena->empty_bytes -= slab_size(arena, &arena->slabs[index]);
}

void
arena_destroy(struct arena *arena, struct memory *memory)
{
    struct slab_table *table = arena->table;

    for (uint32_t i = 1; i <= arena->slab_count; i++)
        if (arena->slabs[i].cells != 0)
            memory_free(memory, table->cells[i].base, slab_size(arena, &arena->slabs[i]),
                        arena->alignment);
    while (table != NULL) {
        struct slab_table *outgrown = table->outgrown;

        memory_free(memory, table, table->size, TABLE_ALIGNMENT);
        table = outgrown;
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Slabs                                                                                          */

static void
append_partial(struct arena *arena, uint32_t index)
{
    struct slab *slab = &arena->slabs[index];
    struct slab_class *class = &arena->classes[slab->class_index];

    slab->previous = class->tail;
    slab->next = 0;
    if (class->tail != 0)
        arena->slabs[class->tail].next = index;
    else
        class->head = index;
    class->tail = index;
}

static void
remove_partial(struct arena *arena, uint32_t index)
{
    struct slab *slab = &arena->slabs[index];
    struct slab_class *class = &arena->classes[slab->class_index];

    if (slab->previous != 0)
        arena->slabs[slab->previous].next = slab->next;
    else
        class->head = slab->next;
    if (slab->next != 0)
        arena->slabs[slab->next].previous = slab->previous;
    else
        class->tail = slab->previous;
    slab->previous = slab->next = 0;
}

static bool
grow_table(struct arena *arena, struct reserve *reserve)
{
    struct slab_table *old = arena->table, *table;
    uint32_t capacity = old == NULL ? TABLE_CAPACITY_MIN : old->capacity * 2;
    size_t size = sizeof(*table) + capacity * (sizeof(struct slab_cells) + sizeof(struct slab));
    struct slab *slabs;

    table = reserve_take(reserve, size, TABLE_ALIGNMENT);
    if (table == NULL)
        return false;
    table->outgrown = old;
    table->size = size;
    table->capacity = capacity;
    slabs = (struct slab *)(void *)&table->cells[capacity];
    if (old != NULL) {
        memcpy(table->cells, old->cells, old->capacity * sizeof(struct slab_cells));
        memcpy(slabs, arena->slabs, old->capacity * sizeof(struct slab));
    }
    arena->slabs = slabs;
    /*
     * Release. The other side is the acquire in arena_at(). Without it a thread without the lock
     * could load the new table's address and read a place of the table as it was before the copy.
     */
    sync_store_pointer(&arena->table, table);
    return true;
}

/*
 * Finds a number for a new slab. The number stays free until arena_make_room() takes it. Returns
 * zero if all numbers are in use, or if the reserve wants memory for a larger table.
 */
static uint32_t
find_slab_number(struct arena *arena, struct reserve *reserve)
{
    if (arena->free_numbers != 0)
        return arena->free_numbers;
    if (arena->slab_count == arena->slab_limit)
        return 0;
    if (arena->table == NULL || arena->slab_count + 1 == arena->table->capacity)
        if (!grow_table(arena, reserve))
            return 0;
    return arena->slab_count + 1;
}

static uint32_t
next_slab_cells(const struct slab_class *class)
{
    size_t cells = SLAB_SIZE_MIN / class->stride, most = SLAB_SIZE_MAX / class->stride;

    if (cells < class->cells / 2)
        cells = class->cells / 2;
    if (cells > most)
        cells = most;
    return cells == 0 ? 1 : cells > SLAB_CELLS_MAX ? SLAB_CELLS_MAX : (uint32_t)cells;
}

bool
arena_make_room(struct arena *arena, uint32_t class_index, struct reserve *reserve)
{
    struct slab_class *class = &arena->classes[class_index];
    uint32_t cells, index;
    struct slab *slab;
    void *base;

    if (class->head != 0)
        return true;

    index = find_slab_number(arena, reserve);
    if (index == 0)
        return false;
    cells = next_slab_cells(class);
    base = reserve_take(reserve, (size_t)cells * class->stride, arena->alignment);
    if (base == NULL)
        return false;

    slab = &arena->slabs[index];
    if (index == arena->free_numbers)
        arena->free_numbers = slab->next;
    else
        arena->slab_count = index;
    memset(slab, 0, sizeof(*slab));
    slab->cells = cells;
    slab->class_index = class_index;
    arena->table->cells[index].stride = class->stride;
    /*
     * Release. The other side is the acquire in arena_at(). Without it a thread without the lock
     * could see the slab's base without its stride, or memory of its cells that is not zero yet.
     */
    sync_store_pointer(&arena->table->cells[index].base, base);
    class->slabs++;
    class->cells += cells;
    arena->cells += cells;
    count_empty(arena, index);
    append_partial(arena, index);
    return true;
}

static void
retire_slab(struct arena *arena, uint32_t index, struct reserve *reserve)
{
    struct slab *slab = &arena->slabs[index];

    remove_partial(arena, index);
    uncount_empty(arena, index);
    arena->classes[slab->class_index].slabs--;
    arena->classes[slab->class_index].cells -= slab->cells;
    arena->cells -= slab->cells;
    reserve_retire(reserve, arena->table->cells[index].base, slab_size(arena, slab),
                   arena->alignment);
    slab->cells = 0;
    slab->next = arena->free_numbers;
    arena->free_numbers = index;
}

/* Says whether the arena retires an empty slab. */
static bool
is_surplus(const struct arena *arena, uint32_t index)
{
    const struct slab *slab = &arena->slabs[index];
    const struct slab_class *class = &arena->classes[slab->class_index];

    return arena->empty_bytes > arena->empty_bytes_max && slab_size(arena, slab) > SLAB_SIZE_MIN &&
           (class->empty > 1 || class->empty == class->slabs);
}

/*
 * The last cell of a slab came back. The arena retires the slab if it is surplus. If the class is
 * no longer in use, the arena also retires empty slabs that the class kept while it was.
 */
static void
note_empty(struct arena *arena, uint32_t index, struct reserve *reserve)
{
    struct slab_class *class = &arena->classes[arena->slabs[index].class_index];
    uint32_t next;

    count_empty(arena, index);
    if (is_surplus(arena, index))
        retire_slab(arena, index, reserve);
    if (class->empty < class->slabs)
        return;
    for (index = class->head; index != 0; index = next) {
        next = arena->slabs[index].next;
        if (is_surplus(arena, index))
            retire_slab(arena, index, reserve);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Cells                                                                                          */

uint32_t
arena_take(struct arena *arena, uint32_t class_index)
{
    struct slab_class *class = &arena->classes[class_index];
    uint32_t index = class->head, number;
    struct slab *slab = &arena->slabs[index];

    if (slab->free_head != 0) {
        number = slab->free_head;
        slab->free_head = *arena_link(arena, number);
        *arena_link(arena, number) = 0;
    } else {
        number = (index << SLAB_SHIFT) | slab->fresh++;
    }
    if (slab->used == 0)
        uncount_empty(arena, index);
    slab->used++;
    arena->used++;
    if (slab->used == slab->cells)
        remove_partial(arena, index);
    return number;
}

void
arena_give_back(struct arena *arena, uint32_t number, struct reserve *reserve)
{
    uint32_t index = number >> SLAB_SHIFT;
    struct slab *slab = &arena->slabs[index];

    *arena_link(arena, number) = 0;
    if (slab->free_head != 0)
        *arena_link(arena, slab->free_tail) = number;
    else
        slab->free_head = number;
    slab->free_tail = number;

    if (slab->used == slab->cells)
        append_partial(arena, index);
    slab->used--;
    arena->used--;
    if (slab->used == 0)
        note_empty(arena, index, reserve);
}

uint32_t
arena_next_touched(const struct arena *arena, uint32_t number)
{
    uint32_t index = number >> SLAB_SHIFT, cell = number & (SLAB_CELLS_MAX - 1);

    if (index == 0) {
        index = 1;
        cell = 0;
    }
    for (; index <= arena->slab_count; index++, cell = 0)
        if (arena->slabs[index].cells != 0 && cell < arena->slabs[index].fresh)
            return (index << SLAB_SHIFT) | cell;
    return 0;
}

/* ---------------------------------------------------------------------------------------------- */
/* Validation                                                                                     */

static const char *
validate_slab(const struct arena *arena, uint32_t index)
{
    const struct slab *slab = &arena->slabs[index];
    uint32_t free_cells = 0;

    if (slab->fresh > slab->cells || slab->used > slab->fresh)
        return "arena: a slab counts more cells than it has";
    for (uint32_t number = slab->free_head; number != 0; number = *arena_link(arena, number)) {
        if (number >> SLAB_SHIFT != index || (number & (SLAB_CELLS_MAX - 1)) >= slab->fresh)
            return "arena: a free list leaves its slab";
        if (++free_cells > slab->fresh)
            return "arena: a free list has a loop";
    }
    if (free_cells + slab->used != slab->fresh)
        return "arena: free and used cells of a slab do not add up";
    return NULL;
}

static const char *
validate_class(const struct arena *arena, uint32_t class_index, uint32_t partial_expected,
               uint32_t slabs_expected)
{
    const struct slab_class *class = &arena->classes[class_index];
    uint32_t partial = 0, previous = 0, empty = 0;

    for (uint32_t index = class->head; index != 0; index = arena->slabs[index].next) {
        const struct slab *slab = &arena->slabs[index];

        if (slab->class_index != class_index || slab->previous != previous ||
            slab->used >= slab->cells)
            return "arena: the list of slabs with free cells is broken";
        empty += slab->used == 0;
        if (++partial > partial_expected)
            return "arena: the list of slabs with free cells has a loop";
        previous = index;
    }
    if (partial != partial_expected || class->tail != previous || class->slabs != slabs_expected)
        return "arena: slabs of a class do not add up";
    if (class->empty != empty)
        return "arena: empty slabs of a class do not add up";
    return NULL;
}

const char *
arena_validate(const struct arena *arena)
{
    uint32_t partial[ARENA_CLASSES_MAX] = {0}, slabs[ARENA_CLASSES_MAX] = {0}, used = 0;
    size_t empty_bytes = 0;
    const char *fault = NULL;

    for (uint32_t index = 1; index <= arena->slab_count && fault == NULL; index++) {
        const struct slab *slab = &arena->slabs[index];

        if (slab->cells == 0)
            continue;
        slabs[slab->class_index]++;
        partial[slab->class_index] += slab->used < slab->cells;
        used += slab->used;
        empty_bytes += slab->used == 0 ? slab_size(arena, slab) : 0;
        fault = validate_slab(arena, index);
    }
    if (fault == NULL && used != arena->used)
        fault = "arena: used cells do not add up";
    if (fault == NULL && empty_bytes != arena->empty_bytes)
        fault = "arena: bytes of empty slabs do not add up";
    for (uint32_t i = 0; i < arena->class_count && fault == NULL; i++)
        fault = validate_class(arena, i, partial[i], slabs[i]);
    return fault;
}
