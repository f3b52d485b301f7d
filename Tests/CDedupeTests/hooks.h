/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An allocator for the tests. It counts the blocks that are held, checks that they come back as
 * they went out, fails on command, and recycles blocks where speed matters.
 *
 * Several threads may share an allocator that neither recycles nor fails.
 */
#ifndef HOOKS_H
#define HOOKS_H

#include "CDedupe.h"

typedef struct hooks_block hooks_block_t;

typedef struct hooks {
    uint64_t held_bytes;
    uint64_t held_blocks;
    uint64_t allocations; /* All calls, including those that failed. */
    uint64_t deallocations;
    uint64_t failures;
    uint64_t fail_at;  /* The number of the allocation that fails, counted from 1. Zero: none. */
    bool fail_onwards; /* Every later allocation fails too. */
    bool recycle;      /* Keep freed blocks for the next buffer, which makes creating it cheap. */
    hooks_block_t *kept;
} hooks_t;

/* Sets the hooks of `options`. The caller zeroes `hooks` before its first use. */
void hooks_use(hooks_t *hooks, cdedupe_options_t *options);

/* Frees the blocks that were kept, and checks that nothing is held. */
void hooks_close(hooks_t *hooks);

/* The functions that hooks_use() sets. */
void *hooks_allocate(void *context, size_t size, size_t alignment);
void hooks_deallocate(void *context, void *memory, size_t size, size_t alignment);

#endif /* HOOKS_H */
