/* SPDX-License-Identifier: Apache-2.0 */
#include "region.h"

#include <string.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define REGION_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define REGION_ASAN 1
#endif
#ifdef REGION_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(address, size) ASAN_POISON_MEMORY_REGION((address), (size))
#define UNPOISON(address, size) ASAN_UNPOISON_MEMORY_REGION((address), (size))
#else
#define POISON(address, size) ((void)(address), (void)(size))
#define UNPOISON(address, size) ((void)(address), (void)(size))
#endif

enum { BLOCKS_MAX = 4096, GAP = 64 };

struct block {
    size_t offset;
    size_t size;
    bool held;
};

/* Everything but the bytes. */
struct books {
    struct block blocks[BLOCKS_MAX];
    size_t count;
    size_t used;
    uint64_t held;
    const char *fault;
};

unsigned char region[REGION_SIZE] __attribute__((aligned(4096)));
static unsigned char saved[REGION_SIZE];
static struct books books, saved_books;

static void *
allocate(void *context, size_t size, size_t alignment)
{
    size_t offset = (books.used + GAP + alignment - 1) & ~(alignment - 1);

    (void)context;
    if (offset + size > sizeof(region) || books.count == BLOCKS_MAX) {
        books.fault = "the test's region is too small";
        return NULL;
    }
    books.blocks[books.count++] = (struct block){.offset = offset, .size = size, .held = true};
    books.used = offset + size;
    books.held++;
    UNPOISON(region + offset, size);
    return memset(region + offset, 0, size);
}

static void
deallocate(void *context, void *memory, size_t size, size_t alignment)
{
    size_t i = books.count;

    (void)context, (void)alignment;
    while (i > 0 && (!books.blocks[i - 1].held || region + books.blocks[i - 1].offset != memory))
        i--;
    if (i == 0 || books.blocks[i - 1].size != size) {
        books.fault = "a block was freed that was not held, or with another size";
        return;
    }
    books.blocks[i - 1].held = false;
    books.held--;
    memset(memory, 0xdd, size);
    POISON(memory, size);
}

void
region_use(cdedupe_options_t *options)
{
    options->allocate = allocate;
    options->deallocate = deallocate;
}

/* And the gaps between blocks. */
static void
poison_freed(void)
{
    POISON(region, books.used);
    for (size_t i = 0; i < books.count; i++)
        if (books.blocks[i].held)
            UNPOISON(region + books.blocks[i].offset, books.blocks[i].size);
}

void
region_clear(void)
{
    POISON(region, sizeof(region));
    books.count = 0;
    books.used = 0;
    books.held = 0;
    books.fault = NULL;
}

static void
copy_books(struct books *target, const struct books *source)
{
    memcpy(target->blocks, source->blocks, source->count * sizeof(source->blocks[0]));
    target->count = source->count;
    target->used = source->used;
    target->held = source->held;
    target->fault = source->fault;
}

void
region_save(void)
{
    UNPOISON(region, books.used);
    memcpy(saved, region, books.used);
    copy_books(&saved_books, &books);
    poison_freed();
}

void
region_restore(void)
{
    POISON(region, books.used);
    copy_books(&books, &saved_books);
    UNPOISON(region, books.used);
    memcpy(region, saved, books.used);
    poison_freed();
}

uint64_t
region_held(void)
{
    return books.held;
}

const char *
region_fault(void)
{
    return books.fault;
}
