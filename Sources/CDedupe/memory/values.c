/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store of long values; see values.h.
 *
 *     values_allocate
 *         allocate_alone           longer than VALUE_CELL_MAX
 *         take_spare               without the lock
 *         take_cell                from the arena, until the reserve has the memory that it wants
 *     values_free
 *         free_alone
 *         keep_spare               without the lock, if there is no spare cell
 *     values_free_many             the spare cell too
 *     values_class, class_units    from a length to a class, and from a class to its size
 */
#include "memory/values.h"

/*
 * Classes in units of 16 bytes: one class each for 4 to 8 units, then four classes for each power
 * of two.
 */
enum { UNIT = 16, UNITS_MIN = VALUE_CELL_MIN / UNIT, UNITS_LINEAR = 8, CLASSES_PER_DOUBLING = 4 };

/* Cells of 64 or 128 bytes share no cache line with another value. */
enum { SLAB_ALIGNMENT = 64 };

enum { CLASSES_LINEAR = UNITS_LINEAR - UNITS_MIN + 1 };

/* Slab numbers have the bits that a 32-bit cell number leaves. */
#define VALUE_SLAB_LIMIT (((uint32_t)1 << (32 - SLAB_SHIFT)) - 1)

static size_t
class_units(uint32_t class_index)
{
    uint32_t doubling, step;

    if (class_index < CLASSES_LINEAR)
        return (size_t)UNITS_MIN + class_index;
    doubling = (class_index - CLASSES_LINEAR) / CLASSES_PER_DOUBLING;
    step = (class_index - CLASSES_LINEAR) % CLASSES_PER_DOUBLING + 1;
    return ((size_t)UNITS_LINEAR + step * (UNITS_LINEAR / CLASSES_PER_DOUBLING)) << doubling;
}

uint32_t
values_class(size_t length)
{
    size_t units = (length + UNIT - 1) / UNIT;
    uint32_t doubling;
    size_t step;

    if (units <= UNITS_MIN)
        return 0;
    if (units <= UNITS_LINEAR)
        return (uint32_t)units - UNITS_MIN;
    /* 2^(doubling + 3) < units <= 2^(doubling + 4), in steps of 2^(doubling + 1). */
    doubling = 60 - (uint32_t)__builtin_clzll(units - 1);
    step = (units - ((size_t)UNITS_LINEAR << doubling) + ((size_t)2 << doubling) - 1) >>
           (doubling + 1);
    return CLASSES_LINEAR + doubling * CLASSES_PER_DOUBLING + (uint32_t)step - 1;
}

void
values_init(struct values *values, struct memory *memory)
{
    values->memory = memory;
    values->spare = 0;
    lock_init(&values->lock);
    arena_init(&values->arena, values->classes, SLAB_ALIGNMENT, 0, VALUE_SLAB_LIMIT);
    values->arena.empty_bytes_max = VALUE_EMPTY_BYTES_MAX;
    for (uint32_t i = 0; i <= values_class(VALUE_CELL_MAX); i++)
        arena_add_class(&values->arena, class_units(i) * UNIT);
}

void
values_destroy(struct values *values)
{
    arena_destroy(&values->arena, values->memory);
}

static bool
allocate_alone(struct values *values, struct stored_value *out)
{
    out->cell = 0;
    out->bytes = memory_allocate(values->memory, out->length, UNIT);
    return out->bytes != NULL;
}

static void
free_alone(struct values *values, const struct stored_value *stored)
{
    memory_free(values->memory, stored->bytes, stored->length, UNIT);
}

/*
 * Takes the spare cell if it is of this class. Returns zero if it is not, or if another thread was
 * faster.
 */
static uint32_t
take_spare(struct values *values, uint32_t class_index)
{
    uint64_t spare = sync_load_relaxed(&values->spare);

    if (spare >> 32 != class_index || spare == 0)
        return 0;
    /*
     * Acquire. The other side is the release in keep_spare(). Without it, late accesses of the
     * cell's last owner could meet the bytes of the new value.
     */
    return sync_compare_exchange(&values->spare, spare, 0) ? (uint32_t)spare : 0;
}

/* Keeps a cell as the spare one. False: there is a spare cell already. */
static bool
keep_spare(struct values *values, const struct stored_value *stored)
{
    uint64_t spare = (uint64_t)values_class(stored->length) << 32 | stored->cell;

    /*
     * Release. The other side is the acquire in take_spare(), or of the exchange in
     * values_free_many(). Without it, the next owner could write to the cell while this thread's
     * accesses are under way.
     */
    return sync_load_relaxed(&values->spare) == 0 &&
           sync_compare_exchange(&values->spare, 0, spare);
}

/* Takes a cell of the arena. Zero: the reserve wants memory, or all cell numbers are in use. */
static uint32_t
take_cell(struct values *values, uint32_t class_index, struct reserve *reserve)
{
    uint32_t cell = 0;

    lock_acquire(&values->lock);
    if (arena_make_room(&values->arena, class_index, reserve))
        cell = arena_take(&values->arena, class_index);
    lock_release(&values->lock);
    return cell;
}

bool
values_allocate(struct values *values, size_t length, struct stored_value *out)
{
    uint32_t class_index;
    struct reserve reserve;

    out->length = length;
    if (length > VALUE_CELL_MAX)
        return allocate_alone(values, out);
    class_index = values_class(length);
    out->cell = take_spare(values, class_index);
    reserve_init(&reserve);
    while (out->cell == 0 && (out->cell = take_cell(values, class_index, &reserve)) == 0)
        if (!reserve_fill(&reserve, values->memory))
            break;
    reserve_release(&reserve, values->memory);
    if (out->cell == 0)
        return false;
    out->bytes = arena_at(&values->arena, out->cell);
    return true;
}

void
values_free(struct values *values, const struct stored_value *stored)
{
    struct reserve reserve;

    if (stored->cell == 0) {
        free_alone(values, stored);
        return;
    }
    if (keep_spare(values, stored))
        return;
    reserve_init(&reserve);
    lock_acquire(&values->lock);
    arena_give_back(&values->arena, stored->cell, &reserve);
    lock_release(&values->lock);
    reserve_release(&reserve, values->memory);
}

void
values_free_many(struct values *values, const struct stored_value *stored, size_t count)
{
    struct reserve reserve;
    uint32_t spare = 0;

    if (sync_load_relaxed(&values->spare) != 0)
        spare = (uint32_t)sync_exchange(&values->spare, 0);
    reserve_init(&reserve);
    lock_acquire(&values->lock);
    if (spare != 0)
        arena_give_back(&values->arena, spare, &reserve);
    for (size_t i = 0; i < count; i++)
        if (stored[i].cell != 0)
            arena_give_back(&values->arena, stored[i].cell, &reserve);
    lock_release(&values->lock);
    reserve_release(&reserve, values->memory);
    for (size_t i = 0; i < count; i++)
        if (stored[i].cell == 0)
            free_alone(values, &stored[i]);
}

const char *
values_validate(struct values *values)
{
    const char *fault;

    lock_acquire(&values->lock);
    fault = arena_validate(&values->arena);
    lock_release(&values->lock);
    return fault;
}
