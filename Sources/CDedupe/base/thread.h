/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of threads, for what is spread over threads or belongs to one of them. */
#ifndef CDEDUPE_BASE_THREAD_H
#define CDEDUPE_BASE_THREAD_H

#include <stdint.h>

#include "base/atomics.h"

/*
 * The calling thread's number: one or more, in the order of the first calls. No two threads of a
 * process ever have the same number. Each file that includes this counts for itself.
 */
static inline uint64_t
thread_number(void)
{
    static uint64_t threads;
    static _Thread_local uint64_t number;

    if (number == 0)
        number = sync_fetch_add(&threads, 1) + 1;
    return number;
}

#endif
