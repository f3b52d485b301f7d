/* SPDX-License-Identifier: Apache-2.0 */
#include "state/entry.h"

#include "CDedupe.h"

/*
 * The size classes of entries, in units of 64 bytes. The first eight classes have 1 to 8 units.
 * After them come four classes for each power of two, so that at most a fifth of an entry is
 * padding.
 */
enum { CLASSES_LINEAR = 8, CLASSES_PER_DOUBLING = 4 };

#define LENGTH_MAX (CDEDUPE_KEY_MAX + sizeof(uint64_t))
#define UNITS_MAX ((offsetof(struct entry, key) + LENGTH_MAX + ENTRY_UNIT - 1) / ENTRY_UNIT)

static size_t
class_units(uint32_t class_index)
{
    uint32_t doubling, step;

    if (class_index < CLASSES_LINEAR)
        return class_index + 1;
    doubling = (class_index - CLASSES_LINEAR) / CLASSES_PER_DOUBLING;
    step = (class_index - CLASSES_LINEAR) % CLASSES_PER_DOUBLING + 1;
    return ((size_t)CLASSES_LINEAR + step * (CLASSES_LINEAR / CLASSES_PER_DOUBLING)) << doubling;
}

void
entry_init_arena(struct arena *entries, struct slab_class classes[ENTRY_CLASSES])
{
    arena_init(entries, classes, ENTRY_UNIT, offsetof(struct entry, link), ENTRY_SLAB_LIMIT);
    for (uint32_t i = 0; i == 0 || class_units(i - 1) < UNITS_MAX; i++)
        arena_add_class(entries, class_units(i) * ENTRY_UNIT);
}

uint32_t
entry_class(size_t length)
{
    size_t units = (offsetof(struct entry, key) + length + ENTRY_UNIT - 1) / ENTRY_UNIT;
    uint32_t doubling;
    size_t step;

    if (units <= CLASSES_LINEAR)
        return (uint32_t)units - 1;
    /*
     * Here 2^(doubling + 3) < units <= 2^(doubling + 4). The four classes of this power of two
     * differ by 2^(doubling + 1) units.
     */
    doubling = 60 - (uint32_t)__builtin_clzll(units - 1);
    step = (units - ((size_t)CLASSES_LINEAR << doubling) + ((size_t)2 << doubling) - 1) >>
           (doubling + 1);
    return CLASSES_LINEAR + doubling * CLASSES_PER_DOUBLING + (uint32_t)step - 1;
}
