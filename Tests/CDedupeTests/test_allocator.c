/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system's allocator when the system refuses to unmap a block, and the reserve when memory runs
 * out halfway. A test cannot well use up the mappings of a process, so the allocator is compiled
 * into this file, with an munmap() that fails.
 */
#include <stddef.h>
#include <sys/mman.h>

static size_t refusals;

/* Fails as munmap() does if the process has too many mappings. */
static int
refuse_to_unmap(void *block, size_t size)
{
    (void)block;
    (void)size;
    refusals++;
    return -1;
}

#define munmap refuse_to_unmap
#include "memory/allocator.c"
#undef munmap

#include "check.h"

enum { SIZE = 256 * 1024 };

static bool
is_resident(unsigned char *block)
{
    long page = sysconf(_SC_PAGESIZE);
    unsigned char pages[SIZE / 4096];
    bool resident = false;

    CHECK(mincore(block, SIZE, pages) == 0);
    for (long i = 0; i < SIZE / page; i++)
        resident |= pages[i] & 1;
    return resident;
}

static void
free_ofABlockThatCannotBeUnmapped_givesItsPagesBack(void)
{
    struct memory memory;
    unsigned char *block;

    memory_init(&memory, NULL, NULL, NULL);
    block = memory_allocate(&memory, SIZE, 64);
    memset(block, 1, SIZE);
    CHECK(is_resident(block));
    memory_free(&memory, block, SIZE, 64);
    CHECK_EQ(refusals, 1);
    CHECK(!is_resident(block));
    CHECK_EQ(memory.bytes, 0);
    CHECK(munmap(block, SIZE) == 0);
}

static unsigned allowed;

static void *
allocate_some(void *context, size_t size, size_t alignment)
{
    (void)context, (void)alignment;
    if (allowed == 0)
        return NULL;
    allowed--;
    return calloc(1, size);
}

static void
deallocate(void *context, void *block, size_t size, size_t alignment)
{
    (void)context, (void)size, (void)alignment;
    free(block);
}

/* What came by then is used by the next attempt, or goes back. */
static void
reserveFill_withMemoryForOneOfTwo_fails_andKeepsTheOne(void)
{
    struct reserve reserve;
    struct memory memory;

    memory_init(&memory, allocate_some, deallocate, NULL);
    reserve_init(&reserve);
    CHECK(reserve_take(&reserve, 128, 8) == NULL);
    CHECK(reserve_take(&reserve, 256, 8) == NULL);
    allowed = 1;
    CHECK(!reserve_fill(&reserve, &memory));
    CHECK_EQ(memory.bytes, 128);
    reserve_free(&reserve, &memory);
    CHECK_EQ(memory.bytes, 0);
}

static void
check_counts(struct memory *memory)
{
    static const size_t sizes[] = {64,         MAPPED_SIZE - 1, MAPPED_SIZE, 100000,
                                   300 * 1024, 1000000,         16000000};
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
    void *blocks[SIZES];
    uint64_t sum = 0;

    for (size_t i = 0; i < SIZES; i++) {
        blocks[i] = memory_allocate(memory, sizes[i], 64);
        CHECK(blocks[i] != NULL);
        sum += sizes[i];
        CHECK_EQ(memory->bytes, sum);
    }
    for (size_t i = 0; i < SIZES; i++) {
        memory_free(memory, blocks[i], sizes[i], 64);
        sum -= sizes[i];
        CHECK_EQ(memory->bytes, sum);
    }
}

/* More than a 32-bit number counts. Nothing is written into the block. */
static void
check_huge_count(struct memory *memory)
{
    const size_t huge = (size_t)5 << 30;
    void *block = memory_allocate(memory, huge, 64);

    CHECK(block != NULL);
    CHECK_EQ(memory->bytes, huge);
    memory_free(memory, block, huge, 64);
    CHECK_EQ(memory->bytes, 0);
}

static void *
allocate_nothing(void *context, size_t size, size_t alignment)
{
    (void)size, (void)alignment;
    return context;
}

static void
deallocate_nothing(void *context, void *block, size_t size, size_t alignment)
{
    (void)context, (void)block, (void)size, (void)alignment;
}

static void
memory_ofBlocksOfEverySize_isTheirSum(void)
{
    struct memory memory;
    char place;

    memory_init(&memory, NULL, NULL, NULL);
    check_counts(&memory);
    memory_init(&memory, allocate_nothing, deallocate_nothing, &place);
    check_counts(&memory);
    check_huge_count(&memory);
    memory_init(&memory, allocate_nothing, deallocate_nothing, NULL);
    CHECK(memory_allocate(&memory, 1000000, 64) == NULL);
    CHECK_EQ(memory.bytes, 0);
}

int
main(void)
{
    RUN(free_ofABlockThatCannotBeUnmapped_givesItsPagesBack);
    RUN(memory_ofBlocksOfEverySize_isTheirSum);
    RUN(reserveFill_withMemoryForOneOfTwo_fails_andKeepsTheOne);
    return check_finish();
}
