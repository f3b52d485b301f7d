/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory: the caller's allocator, and how the core gets and frees memory around its lock.
 *
 * The core allocates and frees nothing under the lock, because the allocator is a user callback and
 * may cause page faults. An operation that needs memory under the lock takes it from its reserve.
 * If the reserve lacks the memory, the operation notes in the reserve what it wants, changes
 * nothing, and fails. Its caller then releases the lock, fills the reserve, acquires the lock and
 * tries again. An operation also puts memory that it no longer needs into the reserve. Its caller
 * frees that memory after it has released the lock.
 *
 *     reserve_init(&reserve);
 *     do {
 *         lock_acquire(...);
 *         done = attempt(..., &reserve);
 *         lock_release(...);
 *     } while (!done && reserve_fill(&reserve, memory));
 *     reserve_release(&reserve, memory);
 */
#ifndef CDEDUPE_MEMORY_ALLOCATOR_H
#define CDEDUPE_MEMORY_ALLOCATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef void *memory_allocate_hook(void *context, size_t size, size_t alignment);
typedef void memory_deallocate_hook(void *context, void *block, size_t size, size_t alignment);

struct memory {
    memory_allocate_hook *allocate;
    memory_deallocate_hook *deallocate;
    void *context;
    uint64_t bytes; /* The number of bytes in use. Threads change it without the lock. */
};

/*
 * Notes on a block of memory. They lie in the block itself: at its start if the block is unused,
 * and behind the data that readers use if readers may still be in it.
 */
struct block {
    struct block *next;
    void *start;
    size_t size;
    size_t alignment;
};

/* One operation never wants more blocks than this at once. */
enum { RESERVE_WANTS = 8 };

struct reserve {
    struct block *available; /* Zeroed blocks that an operation can take. */
    struct block *retired;   /* Unused blocks, which are freed after the lock is released. */
    struct block *deferred;  /* Blocks that readers without the lock may use; see retired.h. */
    struct {
        size_t size;
        size_t alignment;
    } wants[RESERVE_WANTS]; /* Blocks that the last attempt lacked. */
    unsigned wanted;
};

/*
 * Chooses the caller's hooks or, if `allocate` is NULL, the system's allocator. The system's
 * allocator maps and unmaps large blocks one by one, so that the memory goes back to the system
 * after a peak.
 */
void memory_init(struct memory *memory, memory_allocate_hook *allocate,
                 memory_deallocate_hook *deallocate, void *context);

/* Allocates zeroed memory, or returns NULL. `size` is at least sizeof(struct block). */
void *memory_allocate(struct memory *memory, size_t size, size_t alignment);
void memory_free(struct memory *memory, void *block, size_t size, size_t alignment);

void reserve_init(struct reserve *reserve);

/*
 * Under the lock: takes a zeroed block of exactly this size and alignment. If the reserve has none,
 * it notes that it wants one and returns NULL.
 */
void *reserve_take(struct reserve *reserve, size_t size, size_t alignment);

/* Under the lock: zeroes an unused block and keeps it in the reserve, for the next attempt. */
void reserve_put_back(struct reserve *reserve, void *memory, size_t size, size_t alignment);

/* Under the lock: the block is freed after the lock has been released. */
void reserve_retire(struct reserve *reserve, void *memory, size_t size, size_t alignment);

/*
 * Under the lock: the block is freed after all read sections that may use it have ended. `notes`
 * lies inside the block, at a place that readers do not read.
 */
void reserve_defer(struct reserve *reserve, struct block *notes, void *memory, size_t size,
                   size_t alignment);

/*
 * Without the lock: frees the retired blocks and allocates the blocks that the last attempt wanted.
 * Returns false if that attempt wanted nothing, or if the allocator fails.
 */
bool reserve_fill(struct reserve *reserve, struct memory *memory);

/* Without the lock: frees the available and the retired blocks. Most operations leave none. */
void reserve_free(struct reserve *reserve, struct memory *memory);

static inline void
reserve_release(struct reserve *reserve, struct memory *memory)
{
    if (reserve->available != NULL || reserve->retired != NULL)
        reserve_free(reserve, memory);
}

#endif
