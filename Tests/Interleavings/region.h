/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Region: all memory of the buffer under test, so that each schedule begins with a copy of the same
 * bytes at the same addresses. What is freed is not used again within a schedule: it is filled with
 * rubbish, and AddressSanitizer is told.
 */
#ifndef REGION_H
#define REGION_H

#include "CDedupe.h"

enum { REGION_SIZE = 512 * 1024 };

extern unsigned char region[REGION_SIZE];

void region_use(cdedupe_options_t *options);

/* Forgets everything. */
void region_clear(void);

/* Keeps what is there now, and goes back to it. */
void region_save(void);
void region_restore(void);

/* Blocks that are held. */
uint64_t region_held(void);

/* NULL, or how a block came back that should not. */
const char *region_fault(void);

static inline bool
region_contains(const volatile void *address)
{
    return (uintptr_t)address >= (uintptr_t)region &&
           (uintptr_t)address < (uintptr_t)region + sizeof(region);
}

#endif
