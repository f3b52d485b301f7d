/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory: the caller's allocator, and how the core gets and frees memory around its lock.
 *
 * Nothing is allocated or freed under the lock: the allocator is foreign code and may fault pages in. An operation
 * that runs out of memory notes what it wants in its reserve, changes nothing, and fails; its caller unlocks, fills
 * the reserve, locks, and tries again. What an operation no longer needs goes to the reserve too, and is freed after
 * unlocking.
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

struct memory {
    void *(*allocate)(void *context, size_t size, size_t alignment);
    void (*deallocate)(void *context, void *block, size_t size, size_t alignment);
    void *context;
    uint64_t bytes; /* Held now; changed without the lock. */
};

/* Notes on a block, written into the block itself: at its start when nobody uses it. */
struct block {
    struct block *next;
    void *start;
    size_t size;
    size_t alignment;
};

/* More different blocks than one operation ever needs at once. */
enum { RESERVE_WANTS = 8 };

struct reserve {
    struct block *available;
    struct block *retired;
    struct block *deferred; /* Readers without the lock may still be in them; see limbo.h. */
    struct {
        size_t size;
        size_t alignment;
    } wants[RESERVE_WANTS];
    unsigned wanted;
};

/* The system's allocator: large blocks are mapped and unmapped, so that memory goes back after a peak. */
void memory_init_default(struct memory *memory);

/* Zeroed memory, or NULL. `size` is at least sizeof(struct block). */
void *memory_allocate(struct memory *memory, size_t size, size_t alignment);
void memory_free(struct memory *memory, void *block, size_t size, size_t alignment);

void reserve_init(struct reserve *reserve);

/* Under the lock: a zeroed block of exactly this kind, or NULL, and then the want is noted. */
void *reserve_take(struct reserve *reserve, size_t size, size_t alignment);

/* Under the lock: back to the reserve, for the next attempt. */
void reserve_put_back(struct reserve *reserve, void *memory, size_t size, size_t alignment);

/* Under the lock: to be freed after unlocking. */
void reserve_retire(struct reserve *reserve, void *memory, size_t size, size_t alignment);

/*
 * Under the lock: to be freed when no reader is in it any more. `notes` lie inside the block, where readers do not look.
 */
void reserve_defer(struct reserve *reserve, struct block *notes, void *memory, size_t size,
                   size_t alignment);

/* Unlocked: gets what was wanted. False: nothing was wanted, or the allocator failed. */
bool reserve_fill(struct reserve *reserve, struct memory *memory);

/* Unlocked: frees all that is left. */
void reserve_release(struct reserve *reserve, struct memory *memory);

#endif
