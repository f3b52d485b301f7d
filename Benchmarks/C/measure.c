/* SPDX-License-Identifier: Apache-2.0 */
#include "measure.h"

#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "subject.h"

void
fail(const char *what)
{
    fprintf(stderr, "benchmark: %s\n", what);
    exit(1);
}

static uint64_t
read_clock(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

uint64_t
wall_time(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t
thread_time(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

void
pause_for(double seconds)
{
    struct timespec time = {.tv_sec = (time_t)seconds,
                            .tv_nsec = (long)((seconds - floor(seconds)) * 1e9)};

    while (nanosleep(&time, &time) != 0)
        ;
}

/* ---------------------------------------------------------------------------------------------- */

void
series_add(struct series *series, double value)
{
    if (series->count == series->capacity) {
        series->capacity = series->capacity == 0 ? 1024 : 2 * series->capacity;
        series->values = realloc(series->values, series->capacity * sizeof(*series->values));
        if (series->values == NULL)
            fail("no memory");
    }
    series->values[series->count++] = value;
}

static int
compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

double
series_median(struct series *series)
{
    if (series->count == 0)
        return NAN;
    qsort(series->values, series->count, sizeof(*series->values), compare);
    return (series->values[(series->count - 1) / 2] + series->values[series->count / 2]) / 2;
}

double
series_percentile(struct series *series, double fraction)
{
    size_t rank;

    if (series->count == 0)
        return NAN;
    qsort(series->values, series->count, sizeof(*series->values), compare);
    rank = (size_t)ceil(fraction * (double)series->count);
    return series->values[rank == 0 ? 0 : rank - 1];
}

void
series_free(struct series *series)
{
    free(series->values);
    memset(series, 0, sizeof(*series));
}

/* ---------------------------------------------------------------------------------------------- */

/* SplitMix64: every seed gives a sequence of its own, and neighbouring ones are unlike. */
static uint64_t
scramble(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static uint64_t
next_random(uint64_t *state)
{
    return scramble(*state += 0x9e3779b97f4a7c15);
}

/*
 * The key with a given number: the last bytes of a path as in a datastore, in which only some of
 * the digits differ.
 */
static void
write_key(char *key, size_t size, uint64_t number)
{
    static const char digits[] = "0123456789abcdef";
    static const char form[] = "/calico/resources/v3/projectcalico.org/workloadendpoints/"
                               "ns-########/node-########-pod-################";
    uint64_t random = scramble(number + 1);
    size_t digit = 0;

    memcpy(key, form + sizeof(form) - 1 - size, size);
    for (size_t i = 0; i < size; i++) {
        if (key[i] == '#')
            key[i] = digits[(random >> (4 * (digit++ % 16))) & 15];
    }
}

void
stream_make(struct stream *stream, const struct setting *setting, size_t rounds, uint64_t seed)
{
    size_t key_count = setting->keys, size = setting->key_size;
    uint32_t *order = malloc(key_count * sizeof(*order));

    if (rounds == 0)
        rounds = key_count >= 100000 ? 1 : 100000 / key_count;
    stream->key_count = key_count;
    stream->key_size = size;
    stream->length = rounds * key_count;
    stream->keys = malloc(stream->length * size);
    stream->numbers = malloc(stream->length * sizeof(*stream->numbers));
    if (order == NULL || stream->keys == NULL || stream->numbers == NULL)
        fail("no memory");
    for (size_t i = 0; i < key_count; i++)
        order[i] = (uint32_t)i;
    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = key_count - 1; i > 0; i--) {
            size_t j = (size_t)(((unsigned __int128)next_random(&seed) * (i + 1)) >> 64);
            uint32_t swapped = order[i];

            order[i] = order[j];
            order[j] = swapped;
        }
        memcpy(stream->numbers + round * key_count, order, key_count * sizeof(*order));
        for (size_t i = 0; i < key_count; i++)
            write_key(stream->keys + (round * key_count + i) * size, size, order[i]);
    }
    free(order);
}

struct keys
stream_keys(const struct stream *stream, size_t position, size_t count)
{
    size_t left = stream->length - position;

    return (struct keys){stream->keys + position * stream->key_size, stream->numbers + position,
                         stream->key_size, count < left ? count : left};
}

void
stream_free(struct stream *stream)
{
    free(stream->keys);
    free(stream->numbers);
    memset(stream, 0, sizeof(*stream));
}

/* ---------------------------------------------------------------------------------------------- */

/*
 * The linker's --wrap leads every call of these functions here, those of the core and of the
 * yardstick included: also what would bypass the allocator hooks is counted, and the default
 * allocator is the one that is measured.
 */
static _Thread_local uint64_t allocation_count;

uint64_t
allocations(void)
{
    return allocation_count;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__real_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset);

void *
__wrap_malloc(size_t size)
{
    allocation_count++;
    return __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    allocation_count++;
    return __real_calloc(count, size);
}

void *
__wrap_realloc(void *memory, size_t size)
{
    allocation_count++;
    return __real_realloc(memory, size);
}

int
__wrap_posix_memalign(void **memory, size_t alignment, size_t size)
{
    allocation_count++;
    return __real_posix_memalign(memory, alignment, size);
}

void *
__wrap_aligned_alloc(size_t alignment, size_t size)
{
    allocation_count++;
    return __real_aligned_alloc(alignment, size);
}

void *
__wrap_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    allocation_count++;
    return __real_mmap(address, length, protection, flags, file, offset);
}

uint64_t
resident(void)
{
    unsigned long long size, pages;
    FILE *file = fopen("/proc/self/statm", "r");

    if (file == NULL || fscanf(file, "%llu %llu", &size, &pages) != 2)
        fail("cannot read /proc/self/statm");
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void
settle(void)
{
    malloc_trim(0);
}

/* ---------------------------------------------------------------------------------------------- */

static FILE *list;
static bool first;

void
report_open(const char *path)
{
    list = fopen(path, "w");
    if (list == NULL) {
        perror(path);
        exit(1);
    }
    first = true;
    fputs("[", list);
}

static void
write_number(const char *name, double number)
{
    /* JSON has no word for what is not a number. */
    if (isfinite(number))
        fprintf(list, ",\"%s\":%.6g", name, number);
    else
        fprintf(list, ",\"%s\":null", name);
}

void
report(const char *name, const struct setting *setting, const char *unit, enum better better,
       double value, double plain)
{
    double ratio = better == NEITHER           ? NAN
                   : better == LOWER_IS_BETTER ? plain / value
                                               : value / plain;

    fprintf(list,
            "%s\n{\"case\":\"%s\",\"layer\":\"c\",\"keys\":%zu,\"keySize\":%zu,\"call\":%zu,"
            "\"threads\":%u,\"unit\":\"%s\"",
            first ? "" : ",", name, setting->keys, setting->key_size, setting->call,
            setting->threads, unit);
    write_number("value", value);
    write_number("yardstick", plain);
    write_number("ratio", ratio);
    fputs("}", list);
    fflush(list);
    first = false;
    /* What goes on; the table comes at the end, from another program. */
    fprintf(stderr,
            "c  %-22s %8zu keys of %2zu bytes  calls of %3zu  %u threads  %.5g against %.5g %s"
            "  (%.3g)\n",
            name, setting->keys, setting->key_size, setting->call, setting->threads, value, plain,
            unit, ratio);
}

void
report_close(void)
{
    fputs("\n]\n", list);
    if (fclose(list) != 0)
        fail("cannot write the results");
}
