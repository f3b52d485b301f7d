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

int
main(void)
{
    RUN(free_ofABlockThatCannotBeUnmapped_givesItsPagesBack);
    RUN(reserveFill_withMemoryForOneOfTwo_fails_andKeepsTheOne);
    return check_finish();
}
