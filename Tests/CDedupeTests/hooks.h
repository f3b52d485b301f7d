/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An allocator for the tests: counts what is held, checks that blocks come back as they went out, fails on
 * command, and recycles blocks where speed matters.
 *
 * Threads may share one as long as it neither recycles nor fails.
 */
#ifndef HOOKS_H
#define HOOKS_H

#include "CDedupe.h"

typedef struct hooks_block hooks_block_t;

typedef struct hooks {
    uint64_t held_bytes;
    uint64_t held_blocks;
    uint64_t allocations; /* Calls so far, failed ones too. */
    uint64_t deallocations;
    uint64_t failures;
    uint64_t fail_at;  /* This allocation fails, counted from 1; zero: none does. */
    bool fail_onwards; /* And so does every one after it. */
    bool recycle;      /* Keep freed blocks for the next buffer: it makes creating one cheap. */
    hooks_block_t *kept;
} hooks_t;

/* Sets the hooks of `options`. `hooks` is zeroed by the caller before its first use. */
void hooks_use(hooks_t *hooks, cdedupe_options_t *options);

/* Frees the blocks that were kept, and checks that nothing is held. */
void hooks_close(hooks_t *hooks);

/* As the options' functions. */
void *hooks_allocate(void *context, size_t size, size_t alignment);
void hooks_deallocate(void *context, void *memory, size_t size, size_t alignment);

#endif /* HOOKS_H */
