/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system's allocator and the reserve; see allocator.h. The calls, without the lock:
 *
 *     reserve_fill      -> free_all(retired), memory_allocate for each want, push(available)
 *     reserve_release   -> free_all(available), free_all(retired)
 *       free_all           -> memory_free
 *
 * Under the lock, reserve_take only unlinks a block or notes a want. reserve_put_back,
 * reserve_retire and reserve_defer only push a block.
 */
#include "memory/allocator.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/atomics.h"

/*
 * Blocks of at least this size are mapped one by one. glibc's malloc would keep such blocks after
 * the first free, because its mmap threshold rises to the size of the largest mapped block that was
 * freed.
 */
#define MAPPED_SIZE ((size_t)32 * 1024)

/* The largest alignment that a mapped block has on every system, because no page is smaller. */
#define MAPPED_ALIGNMENT ((size_t)4096)

/*
 * The core soon uses a new slab, under the lock. A page fault there would make other threads wait,
 * so the system populates the pages here, without the lock.
 */
#if defined(MAP_POPULATE)
#define MAPPED_FLAGS MAP_POPULATE
#else
#define MAPPED_FLAGS 0
#endif

static bool
is_mapped(size_t size, size_t alignment)
{
    return size >= MAPPED_SIZE && alignment <= MAPPED_ALIGNMENT;
}

/*
 * A block of malloc()'s, aligned by hand: posix_memalign() takes several times as long, because it
 * does not use glibc's cache of freed blocks. The address that free() needs lies before the block.
 */
static void *
allocate_aligned(size_t size, size_t alignment)
{
    size_t room = sizeof(void *) + (alignment < sizeof(void *) ? sizeof(void *) : alignment);
    unsigned char *start = size > SIZE_MAX - room ? NULL : malloc(size + room);
    unsigned char *block;

    if (start == NULL)
        return NULL;
    block = start + sizeof(void *);
    block += -(uintptr_t)block & (alignment - 1);
    memcpy(block - sizeof(void *), &start, sizeof(void *));
    return memset(block, 0, size);
}

static void
free_aligned(void *block)
{
    void *start;

    memcpy(&start, (unsigned char *)block - sizeof(void *), sizeof(void *));
    free(start);
}

static void *
default_allocate(void *context, size_t size, size_t alignment)
{
    void *block;

    (void)context;
    if (is_mapped(size, alignment)) {
        block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAPPED_FLAGS,
                     -1, 0);
        return block == MAP_FAILED ? NULL : block;
    }
    return allocate_aligned(size, alignment);
}

/*
 * The system refuses to unmap a block if that would split a mapping and the process already has as
 * many mappings as it may have (vm.max_map_count on Linux). The pages go back to the system all the
 * same; only the addresses stay in use.
 */
static void
unmap(void *block, size_t size)
{
    if (munmap(block, size) != 0)
        madvise(block, size, MADV_DONTNEED);
}

static void
default_deallocate(void *context, void *block, size_t size, size_t alignment)
{
    (void)context;
    if (is_mapped(size, alignment))
        unmap(block, size);
    else
        free_aligned(block);
}

void
memory_init(struct memory *memory, memory_allocate_hook *allocate,
            memory_deallocate_hook *deallocate, void *context)
{
    memory->allocate = allocate != NULL ? allocate : default_allocate;
    memory->deallocate = allocate != NULL ? deallocate : default_deallocate;
    memory->context = context;
    memory->bytes = 0;
}

void *
memory_allocate(struct memory *memory, size_t size, size_t alignment)
{
    void *block = memory->allocate(memory->context, size, alignment);

    if (block != NULL)
        sync_add(&memory->bytes, size);
    return block;
}

void
memory_free(struct memory *memory, void *block, size_t size, size_t alignment)
{
    sync_add(&memory->bytes, (uint64_t)0 - size);
    memory->deallocate(memory->context, block, size, alignment);
}

/* ---------------------------------------------------------------------------------------------- */
/* The reserve                                                                                    */

/* Writes the notes on a block of memory into `block` and puts them at the head of the list. */
static void
push(struct block **list, struct block *block, void *memory, size_t size, size_t alignment)
{
    block->next = *list;
    block->start = memory;
    block->size = size;
    block->alignment = alignment;
    *list = block;
}

static void
free_all(struct block **list, struct memory *memory)
{
    struct block *block;

    while ((block = *list) != NULL) {
        *list = block->next;
        memory_free(memory, block->start, block->size, block->alignment);
    }
}

void
reserve_init(struct reserve *reserve)
{
    reserve->available = NULL;
    reserve->retired = NULL;
    reserve->deferred = NULL;
    reserve->wanted = 0;
}

void *
reserve_take(struct reserve *reserve, size_t size, size_t alignment)
{
    for (struct block **at = &reserve->available; *at != NULL; at = &(*at)->next) {
        struct block *block = *at;

        if (block->size == size && block->alignment == alignment) {
            *at = block->next;
            return memset(block, 0, sizeof(*block));
        }
    }
    if (reserve->wanted < RESERVE_WANTS) {
        reserve->wants[reserve->wanted].size = size;
        reserve->wants[reserve->wanted].alignment = alignment;
        reserve->wanted++;
    }
    return NULL;
}

void
reserve_put_back(struct reserve *reserve, void *memory, size_t size, size_t alignment)
{
    memset(memory, 0, size);
    push(&reserve->available, memory, memory, size, alignment);
}

void
reserve_retire(struct reserve *reserve, void *memory, size_t size, size_t alignment)
{
    push(&reserve->retired, memory, memory, size, alignment);
}

void
reserve_defer(struct reserve *reserve, struct block *notes, void *memory, size_t size,
              size_t alignment)
{
    push(&reserve->deferred, notes, memory, size, alignment);
}

bool
reserve_fill(struct reserve *reserve, struct memory *memory)
{
    unsigned wanted = reserve->wanted;

    reserve->wanted = 0;
    free_all(&reserve->retired, memory);
    for (unsigned i = 0; i < wanted; i++) {
        void *block = memory_allocate(memory, reserve->wants[i].size, reserve->wants[i].alignment);

        if (block == NULL)
            return false;
        push(&reserve->available, block, block, reserve->wants[i].size,
             reserve->wants[i].alignment);
    }
    return wanted > 0;
}

void
reserve_free(struct reserve *reserve, struct memory *memory)
{
    free_all(&reserve->available, memory);
    free_all(&reserve->retired, memory);
}
