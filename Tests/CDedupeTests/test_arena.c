/* SPDX-License-Identifier: Apache-2.0 */
/* The parts below the index, alone: the reserve, the arena, and the classes of entries. */
#include <stdlib.h>

#include "memory/arena.h"
#include "check.h"
#include "state/entry.h"
#include "hooks.h"

/* ---------------------------------------------------------------------------------------------- */
/* Reserve                                                                                        */

static hooks_t hooks;

static struct memory
hooked_memory(void)
{
    memset(&hooks, 0, sizeof(hooks));
    return (struct memory){
        .allocate = hooks_allocate, .deallocate = hooks_deallocate, .context = &hooks};
}

static bool
is_zero(const void *memory, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (((const unsigned char *)memory)[i] != 0)
            return false;
    return true;
}

/* All that an attempt wanted is there for the next one, zeroed, whatever it was told in between. */
static void
a_reserve_gets_what_was_wanted(void)
{
    struct memory memory = hooked_memory();
    struct reserve reserve;
    void *one, *two;

    reserve_init(&reserve);
    CHECK(!reserve_fill(&reserve, &memory));
    CHECK(reserve_take(&reserve, 128, 64) == NULL);
    CHECK(reserve_take(&reserve, 256, 64) == NULL);
    CHECK(reserve_fill(&reserve, &memory));
    CHECK(!reserve_fill(&reserve, &memory));
    CHECK_EQ(memory.bytes, 128 + 256);

    one = reserve_take(&reserve, 128, 64);
    two = reserve_take(&reserve, 256, 64);
    CHECK(one != NULL && is_zero(one, 128));
    CHECK(two != NULL && is_zero(two, 256));
    CHECK_EQ(reserve.wanted, 0);
    memset(one, 1, 128);
    reserve_put_back(&reserve, one, 128, 64);
    CHECK(reserve_take(&reserve, 128, 64) == one);
    CHECK(is_zero(one, 128));

    reserve_put_back(&reserve, one, 128, 64);
    reserve_retire(&reserve, two, 256, 64);
    reserve_release(&reserve, &memory);
    CHECK_EQ(memory.bytes, 0);
    hooks_close(&hooks);
}

static void
a_reserve_gives_no_other_block(void)
{
    struct memory memory = hooked_memory();
    struct reserve reserve;

    reserve_init(&reserve);
    reserve_take(&reserve, 128, 64);
    CHECK(reserve_fill(&reserve, &memory));
    CHECK(reserve_take(&reserve, 64, 64) == NULL);
    CHECK(reserve_take(&reserve, 256, 64) == NULL);
    CHECK(reserve_take(&reserve, 128, 16) == NULL);
    CHECK(reserve_take(&reserve, 128, 4096) == NULL);
    reserve_release(&reserve, &memory);
    hooks_close(&hooks);
}

static void
a_reserve_notes_as_much_as_it_can(void)
{
    struct memory memory = hooked_memory();
    struct reserve reserve;

    reserve_init(&reserve);
    for (size_t i = 1; i <= 2 * RESERVE_WANTS; i++)
        reserve_take(&reserve, 64 * i, 64);
    CHECK_EQ(reserve.wanted, RESERVE_WANTS);
    CHECK(reserve_fill(&reserve, &memory));
    CHECK_EQ(memory.bytes, 64 * RESERVE_WANTS * (RESERVE_WANTS + 1) / 2);
    reserve_release(&reserve, &memory);
    hooks_close(&hooks);
}

static void
a_failing_allocator_is_told(void)
{
    struct memory memory = hooked_memory();
    struct reserve reserve;

    hooks.fail_at = 2;
    reserve_init(&reserve);
    reserve_take(&reserve, 128, 64);
    reserve_take(&reserve, 256, 64);
    CHECK(!reserve_fill(&reserve, &memory));
    reserve_release(&reserve, &memory);
    hooks_close(&hooks);
}

/* ---------------------------------------------------------------------------------------------- */
/* Arena                                                                                          */

enum { STRIDE = 64, CELLS = 30000 };

typedef struct bench {
    struct memory memory;
    struct reserve reserve;
    struct arena arena;
    struct slab_class class;
    uint32_t numbers[CELLS];
    uint32_t count;
} bench_t;

static bench_t bench;

static void
bench_open(uint32_t slab_limit)
{
    memset(&bench, 0, sizeof(bench));
    bench.memory = hooked_memory();
    reserve_init(&bench.reserve);
    arena_init(&bench.arena, &bench.class, 64, 0, slab_limit);
    arena_add_class(&bench.arena, STRIDE);
}

static void
bench_close(void)
{
    reserve_release(&bench.reserve, &bench.memory);
    arena_destroy(&bench.arena, &bench.memory);
    CHECK_EQ(bench.memory.bytes, 0);
    hooks_close(&hooks);
}

/* Another cell, marked with its number, or zero. */
static uint32_t
take(void)
{
    uint32_t number;

    if (!CHECK(bench.count < CELLS))
        return 0;
    while (!arena_make_room(&bench.arena, 0, &bench.reserve))
        if (!reserve_fill(&bench.reserve, &bench.memory))
            return 0;
    number = arena_take(&bench.arena, 0);
    memset(arena_at(&bench.arena, number), (int)(number % 251), STRIDE);
    bench.numbers[bench.count++] = number;
    return number;
}

static bool
has_mark(uint32_t number)
{
    const unsigned char *cell = arena_at(&bench.arena, number);

    return cell[0] == number % 251 && memcmp(cell, cell + 1, STRIDE - 1) == 0;
}

static void
give_back(uint32_t i)
{
    uint32_t number = bench.numbers[i];

    CHECK(has_mark(number));
    bench.numbers[i] = bench.numbers[--bench.count];
    arena_give_back(&bench.arena, number, &bench.reserve);
}

/* Cells of all slabs, and slabs. */
static void
check_sums(void)
{
    uint32_t cells = 0, slabs = 0;

    for (uint32_t i = 1; i <= bench.arena.slab_count; i++) {
        cells += bench.arena.slabs[i].cells;
        slabs += bench.arena.slabs[i].cells != 0;
    }
    CHECK_EQ(bench.arena.cells, cells);
    CHECK_EQ(bench.arena.used, bench.count);
    CHECK_EQ(bench.arena.classes[0].slabs, slabs);
    CHECK_NO_FAULT(arena_validate(&bench.arena));
}

/* The walk meets every cell that was ever handed out of a slab that is there, once and in order. */
static void
check_walk(void)
{
    uint32_t number = 0, met = 0, touched = 0;

    for (uint32_t i = 1; i <= bench.arena.slab_count; i++)
        touched += bench.arena.slabs[i].cells != 0 ? bench.arena.slabs[i].fresh : 0;
    while ((number = arena_next_touched(&bench.arena, number)) != 0) {
        CHECK(bench.arena.slabs[number >> SLAB_SHIFT].cells != 0);
        number++, met++;
    }
    CHECK_EQ(met, touched);
}

/* Every cell is another, keeps its contents, and goes back; in the end one empty slab is kept. */
static void
cells_come_and_go(void)
{
    bench_open(1 << 16);
    srand(1);
    for (unsigned round = 0; round < 3; round++) {
        while (bench.count < CELLS) {
            take();
            if (rand() % 3 == 0)
                give_back((uint32_t)rand() % bench.count);
        }
        check_sums();
        check_walk();
        for (uint32_t i = 0; i < bench.count; i++)
            CHECK(has_mark(bench.numbers[i]));
        while (bench.count > 0) {
            give_back((uint32_t)rand() % bench.count);
            if (bench.count % 1000 == 0)
                check_sums(), check_walk();
        }
        reserve_release(&bench.reserve, &bench.memory);
        reserve_init(&bench.reserve);
        check_sums();
        CHECK(bench.arena.cells * STRIDE <= EMPTY_BYTES_MAX);
    }
    bench_close();
}

/*
 * Each slab has half of the cells that there are already, so a million cells are a few hundred
 * calls of the allocator.
 */
static void
slabs_grow(void)
{
    bench_open(1 << 16);
    while (bench.count < CELLS)
        take();
    for (uint32_t i = 1, cells = 0; i <= bench.arena.slab_count; i++) {
        uint32_t most = SLAB_SIZE_MAX / STRIDE, wanted = cells / 2;

        wanted = wanted > most ? most : wanted;
        wanted = wanted < SLAB_SIZE_MIN / STRIDE ? SLAB_SIZE_MIN / STRIDE : wanted;
        CHECK_EQ(bench.arena.slabs[i].cells, wanted);
        cells += wanted;
    }
    CHECK_EQ(bench.arena.slabs[bench.arena.slab_count].cells * STRIDE, SLAB_SIZE_MAX);
    bench_close();
}

/* The longest unused comes next, so that a number whose owner is wrong is not another's at once. */
static void
free_cells_wait_their_turn(void)
{
    uint32_t first, second, third;

    bench_open(1 << 16);
    first = take(), second = take(), third = take();
    arena_give_back(&bench.arena, second, &bench.reserve);
    arena_give_back(&bench.arena, first, &bench.reserve);
    CHECK_EQ(arena_take(&bench.arena, 0), second);
    CHECK_EQ(arena_take(&bench.arena, 0), first);
    CHECK(third != first && third != second);
    bench_close();
}

/*
 * The one empty slab of a class in use is kept, however large it is: one cell may come and go for
 * long.
 */
static void
oneCell_whenItComesAndGoes_costsNoSlabEachTime(void)
{
    uint64_t allocations;

    bench_open(1 << 16);
    while (bench.arena.slabs == NULL ||
           bench.arena.slabs[bench.arena.slab_count].cells * STRIDE <= EMPTY_BYTES_MAX)
        take();
    allocations = hooks.allocations;
    for (unsigned i = 0; i < 100; i++) {
        give_back(bench.count - 1);
        CHECK_NO_FAULT(arena_validate(&bench.arena));
        CHECK_EQ(bench.arena.classes[0].empty, 1);
        take();
    }
    CHECK_EQ(hooks.allocations, allocations);
    while (bench.count > 0)
        give_back(bench.count - 1);
    check_sums();
    CHECK(bench.arena.cells * STRIDE <= EMPTY_BYTES_MAX);
    bench_close();
}

/* Small slabs are kept, so that a few cells that come and go together cost nothing. */
static void
fewCells_whenTheyComeAndGo_costNoSlabs(void)
{
    uint64_t allocations = 0;

    bench_open(1 << 16);
    for (unsigned i = 0; i < 10; i++) {
        if (i == 1)
            allocations = hooks.allocations;
        while (bench.count < EMPTY_BYTES_MAX / STRIDE / 2)
            take();
        while (bench.count > 0)
            give_back(bench.count - 1);
        check_sums();
    }
    CHECK_EQ(hooks.allocations, allocations);
    bench_close();
}

/* Whatever slab is the last to become empty: a class without used cells keeps little. */
static void
lastCell_whenItsSlabIsLarge_takesTheSlabAlong(void)
{
    uint32_t last;

    bench_open(1 << 16);
    while (bench.count < CELLS)
        take();
    last = bench.numbers[CELLS - 1] >> SLAB_SHIFT;
    CHECK_EQ(bench.arena.slabs[last].cells * STRIDE, SLAB_SIZE_MAX);
    while (bench.count > 1)
        give_back(bench.count - 2);
    CHECK_EQ(bench.numbers[0] >> SLAB_SHIFT, last);
    CHECK_EQ(bench.arena.classes[0].empty + 1, bench.arena.classes[0].slabs);
    give_back(0);
    check_sums();
    CHECK(bench.arena.cells * STRIDE <= EMPTY_BYTES_MAX);
    take();
    CHECK(bench.arena.cells * STRIDE <= EMPTY_BYTES_MAX);
    bench_close();
}

/* The only empty slab of a class is surplus too, once the class has no cell in use. */
static void
onlyCell_whenItsSlabIsLarge_takesTheSlabAlong(void)
{
    struct memory memory = hooked_memory();
    struct reserve reserve;
    struct arena arena;
    struct slab_class class;
    uint32_t number;

    arena_init(&arena, &class, 64, 0, 1 << 16);
    arena_add_class(&arena, EMPTY_BYTES_MAX + 64);
    reserve_init(&reserve);
    while (!arena_make_room(&arena, 0, &reserve))
        CHECK(reserve_fill(&reserve, &memory));
    number = arena_take(&arena, 0);
    arena_give_back(&arena, number, &reserve);
    CHECK_NO_FAULT(arena_validate(&arena));
    CHECK_EQ(arena.classes[0].slabs, 0);
    reserve_release(&reserve, &memory);
    arena_destroy(&arena, &memory);
    hooks_close(&hooks);
}

/* Room that was made and not used is one empty slab too: a second one is not kept beside it. */
static void
room_that_was_made_is_an_empty_slab(void)
{
    uint32_t full;

    bench_open(1 << 16);
    take();
    full = bench.arena.slabs[1].cells;
    while (bench.count < full)
        take();
    while (!arena_make_room(&bench.arena, 0, &bench.reserve))
        CHECK(reserve_fill(&bench.reserve, &bench.memory));
    CHECK_NO_FAULT(arena_validate(&bench.arena));
    while (bench.count > 0)
        give_back(bench.count - 1);
    check_sums();
    CHECK(bench.arena.cells * STRIDE <= EMPTY_BYTES_MAX);
    bench_close();
}

/* When all numbers are given, there is no room, no memory is wanted, and what is there goes on. */
static void
numbers_end(void)
{
    enum { SLABS = 5 };

    bench_open(SLABS);
    while (take() != 0)
        continue;
    CHECK_EQ(bench.arena.slab_count, SLABS);
    CHECK_EQ(bench.reserve.wanted, 0);
    CHECK_EQ(bench.count, bench.arena.cells);
    check_sums();
    give_back(7);
    CHECK(take() != 0);
    CHECK_EQ(take(), 0);
    while (bench.count > 0)
        give_back(bench.count - 1);
    check_sums();
    while (take() != 0)
        continue;
    CHECK_EQ(bench.arena.slab_count, SLABS);
    CHECK_EQ(bench.count, bench.arena.cells);
    bench_close();
}

/*
 * Cells that are larger than a slab's smallest size, and so small that a slab could have too many.
 */
static void
slabs_have_cells_of_any_size(void)
{
    static const size_t strides[] = {4, 12, 4096, 8192, 65536, 262144, 300000};

    for (size_t i = 0; i < sizeof(strides) / sizeof(strides[0]); i++) {
        struct memory memory = hooked_memory();
        struct reserve reserve;
        struct arena arena;
        struct slab_class class;

        reserve_init(&reserve);
        arena_init(&arena, &class, 64, 0, 1 << 16);
        arena_add_class(&arena, strides[i]);
        for (unsigned slabs = 0; slabs < 9;) {
            while (!arena_make_room(&arena, 0, &reserve))
                CHECK(reserve_fill(&reserve, &memory));
            slabs = arena.slab_count;
            CHECK(arena.slabs[slabs].cells >= 1 && arena.slabs[slabs].cells <= SLAB_CELLS_MAX);
            while (arena.classes[0].head != 0)
                *(uint32_t *)arena_at(&arena, arena_take(&arena, 0)) = 1;
        }
        reserve_release(&reserve, &memory);
        arena_destroy(&arena, &memory);
        hooks_close(&hooks);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Entries                                                                                        */

/*
 * Every key fits into an entry of its class, of which at most a fifth is wasted, but for 64 bytes.
 */
static void
keys_fit_their_class(void)
{
    struct arena entries;
    struct slab_class classes[ENTRY_CLASSES];

    entry_init_arena(&entries, classes);
    for (size_t length = 0; length <= CDEDUPE_KEY_MAX; length++) {
        uint32_t class_index = entry_class(length);
        size_t needed = offsetof(struct entry, key) + length, stride;

        if (!CHECK(class_index < entries.class_count))
            return;
        stride = entries.classes[class_index].stride;
        CHECK(stride >= needed && stride % ENTRY_UNIT == 0);
        CHECK((stride - needed) * 5 <= stride || stride - needed < ENTRY_UNIT);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Validation                                                                                     */

#define BREAK(what, value, fault)                          \
    do {                                                   \
        __typeof__(what) before = (what);                  \
        (what) = (value);                                  \
        CHECK_TEXT(arena_validate(&bench.arena), (fault)); \
        (what) = before;                                   \
        CHECK_NO_FAULT(arena_validate(&bench.arena));      \
    } while (0)

static void
the_arena_is_checked(void)
{
    struct slab_class *class = &bench.arena.classes[0];
    struct slab *first;

    bench_open(1 << 16);
    while (bench.arena.slab_count < 3)
        take();
    first = &bench.arena.slabs[1];
    give_back(first->cells);
    give_back(0);
    give_back(1);
    CHECK_EQ(bench.arena.slabs[2].free_head >> SLAB_SHIFT, 2);

    BREAK(first->fresh, first->cells + 1, "arena: a slab counts more cells than it has");
    BREAK(first->used, first->used - 1, "arena: free and used cells of a slab do not add up");
    BREAK(first->free_head, bench.arena.slabs[2].free_head, "arena: a free list leaves its slab");
    BREAK(first->free_head, first->free_head + first->cells, "arena: a free list leaves its slab");
    BREAK(*(uint32_t *)arena_at(&bench.arena, first->free_tail), first->free_head,
          "arena: a free list has a loop");
    BREAK(bench.arena.used, 0, "arena: used cells do not add up");
    BREAK(class->head, 0, "arena: slabs of a class do not add up");
    BREAK(class->tail, 0, "arena: slabs of a class do not add up");
    BREAK(class->slabs, 2, "arena: slabs of a class do not add up");
    BREAK(bench.arena.slabs[class->tail].previous, 7,
          "arena: the list of slabs with free cells is broken");
    while (bench.count > 0)
        give_back(bench.count - 1);
    BREAK(class->empty, 0, "arena: empty slabs of a class do not add up");
    BREAK(bench.arena.empty_bytes, 0, "arena: bytes of empty slabs do not add up");
    bench_close();
}

int
main(void)
{
    RUN(a_reserve_gets_what_was_wanted);
    RUN(a_reserve_gives_no_other_block);
    RUN(a_reserve_notes_as_much_as_it_can);
    RUN(a_failing_allocator_is_told);
    RUN(cells_come_and_go);
    RUN(slabs_grow);
    RUN(free_cells_wait_their_turn);
    RUN(oneCell_whenItComesAndGoes_costsNoSlabEachTime);
    RUN(fewCells_whenTheyComeAndGo_costNoSlabs);
    RUN(lastCell_whenItsSlabIsLarge_takesTheSlabAlong);
    RUN(onlyCell_whenItsSlabIsLarge_takesTheSlabAlong);
    RUN(room_that_was_made_is_an_empty_slab);
    RUN(numbers_end);
    RUN(slabs_have_cells_of_any_size);
    RUN(keys_fit_their_class);
    RUN(the_arena_is_checked);
    return check_finish();
}
