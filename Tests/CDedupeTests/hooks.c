/* SPDX-License-Identifier: Apache-2.0 */
/* The allocator for the tests; see hooks.h. */
#include "hooks.h"

#include <stdlib.h>

#include "check.h"

/*
 * Sits directly before the memory that was handed out, so that writing before a block is noticed
 * too; what precedes it is padding for the alignment.
 */
struct hooks_block {
    void *start;
    size_t size;
    size_t alignment;
    hooks_block_t *next; /* Among the kept ones. */
    uint64_t magic;
};

#define HELD_MAGIC UINT64_C(0x68656c6468656c64)
#define FREE_MAGIC UINT64_C(0x6672656566726565)

static bool
is_power_of_two(size_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

static hooks_block_t *
block_of(void *memory)
{
    return (hooks_block_t *)memory - 1;
}

static bool
must_fail(hooks_t *hooks)
{
    uint64_t number = __atomic_add_fetch(&hooks->allocations, 1, __ATOMIC_RELAXED);

    if (hooks->fail_at == 0 || number < hooks->fail_at ||
        (number > hooks->fail_at && !hooks->fail_onwards)) {
        return false;
    }
    hooks->failures++;
    return true;
}

static hooks_block_t *
find_kept(hooks_t *hooks, size_t size, size_t alignment)
{
    hooks_block_t **link = &hooks->kept;
    hooks_block_t *block;

    while ((block = *link) != NULL) {
        if (block->size == size && block->alignment == alignment) {
            *link = block->next;
            return block;
        }
        link = &block->next;
    }
    return NULL;
}

static hooks_block_t *
make_block(size_t size, size_t alignment)
{
    size_t unit = alignment < sizeof(void *) ? sizeof(void *) : alignment;
    size_t offset = (sizeof(hooks_block_t) + unit - 1) / unit * unit;
    hooks_block_t *block;
    void *start = NULL;

    if (size > SIZE_MAX - offset || posix_memalign(&start, unit, offset + size) != 0) {
        return NULL;
    }
    block = block_of((char *)start + offset);
    block->start = start;
    block->size = size;
    block->alignment = alignment;
    return block;
}

void *
hooks_allocate(void *context, size_t size, size_t alignment)
{
    hooks_t *hooks = context;
    hooks_block_t *block;

    if (size == 0 || !is_power_of_two(alignment)) {
        CHECK_EQ(size, 1);
        CHECK(is_power_of_two(alignment));
    }
    if (must_fail(hooks)) {
        return NULL;
    }
    block = hooks->recycle ? find_kept(hooks, size, alignment) : NULL;
    if (block == NULL) {
        block = make_block(size, alignment);
    }
    if (block == NULL) {
        return NULL;
    }
    block->magic = HELD_MAGIC;
    __atomic_add_fetch(&hooks->held_bytes, size, __ATOMIC_RELAXED);
    __atomic_add_fetch(&hooks->held_blocks, 1, __ATOMIC_RELAXED);
    return memset(block + 1, 0, size);
}

void
hooks_deallocate(void *context, void *memory, size_t size, size_t alignment)
{
    hooks_t *hooks = context;
    hooks_block_t *block = block_of(memory);

    if (block->magic != HELD_MAGIC || block->size != size || block->alignment != alignment) {
        CHECK_EQ(block->magic, HELD_MAGIC);
        CHECK_EQ(size, block->size);
        CHECK_EQ(alignment, block->alignment);
        abort();
    }
    __atomic_sub_fetch(&hooks->held_bytes, size, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&hooks->held_blocks, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&hooks->deallocations, 1, __ATOMIC_RELAXED);
    block->magic = FREE_MAGIC;
    if (hooks->recycle) {
        block->next = hooks->kept;
        hooks->kept = block;
        return;
    }
    memset(memory, 0xdd, size); /* Whoever still reads it shall notice. */
    free(block->start);
}

void
hooks_use(hooks_t *hooks, cdedupe_options_t *options)
{
    options->allocate = hooks_allocate;
    options->deallocate = hooks_deallocate;
    options->allocator_context = hooks;
}

void
hooks_close(hooks_t *hooks)
{
    hooks_block_t *block;

    CHECK_EQ(hooks->held_blocks, 0);
    CHECK_EQ(hooks->held_bytes, 0);
    while ((block = hooks->kept) != NULL) {
        hooks->kept = block->next;
        free(block->start);
    }
}
