/* SPDX-License-Identifier: Apache-2.0 */
#include "CMeasure.h"

#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_START_INSTRUMENTATION
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_STOP_INSTRUMENTATION
#define CALLGRIND_DUMP_STATS_AT(name) (void)(name)
#endif

static uint64_t
read_clock(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

uint64_t
measure_thread_time(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t
measure_wall_time(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

void
measure_begin_counting(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void
measure_end_counting(const char *name)
{
    CALLGRIND_STOP_INSTRUMENTATION;
    CALLGRIND_DUMP_STATS_AT(name);
}

static _Thread_local uint64_t allocation_count;

uint64_t
measure_allocations(void)
{
    return allocation_count;
}

#ifdef __GLIBC__
#include <errno.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * glibc lets a program define malloc: these definitions come before the C library's own for every
 * library in the process, the Swift runtime included. They count, and pass on to the same allocator
 * under its other names, so that what is measured is the allocator that everybody uses. free()
 * stays the C library's.
 */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *
malloc(size_t size)
{
    allocation_count++;
    return __libc_malloc(size);
}

void *
calloc(size_t count, size_t size)
{
    allocation_count++;
    return __libc_calloc(count, size);
}

void *
realloc(void *memory, size_t size)
{
    allocation_count++;
    return __libc_realloc(memory, size);
}

void *
memalign(size_t alignment, size_t size)
{
    allocation_count++;
    return __libc_memalign(alignment, size);
}

void *
aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int
posix_memalign(void **memory, size_t alignment, size_t size)
{
    void *block = memalign(alignment, size);

    if (block == NULL)
        return ENOMEM;
    *memory = block;
    return 0;
}

void *
mmap(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    allocation_count++;
    return (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
}

bool
measure_can_count(void)
{
    return true;
}

void
measure_settle(void)
{
    malloc_trim(0);
}

#else

bool
measure_can_count(void)
{
    return false;
}

void
measure_settle(void)
{}

#endif
