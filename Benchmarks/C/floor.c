/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What replacing costs at the least on this machine: a bare loop that, for each update of the same
 * streams, hashes the key, compares it with the entry's, writes a payload and swaps a word. The
 * entry is known beforehand: nothing is looked up, nothing is called through a pointer, nothing is
 * counted.
 *
 *     floor [keys ...]
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { KEY = 96, PAYLOAD = 32, SHARE = 100, REPETITIONS = 5, STREAM_MIN = 100000 };

struct entry {
    uint64_t word;
    uint64_t hash;
    uint32_t length;
    uint32_t link;
    unsigned char key[KEY];
    unsigned char padding[8];
};

struct world {
    size_t keys, length;
    struct entry *entries;
    unsigned char (*payloads)[PAYLOAD];
    unsigned char (*stream)[KEY];
    uint32_t *order;
    unsigned char secret[192];
};

static double
seconds(void)
{
    struct timespec time;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void
make_world(struct world *world, size_t keys)
{
    uint64_t random = 88172645463325252u;

    world->keys = keys;
    world->length = keys < STREAM_MIN ? STREAM_MIN : keys;
    world->entries = aligned_alloc(64, keys * sizeof(*world->entries));
    world->payloads = aligned_alloc(64, (keys + SHARE) * PAYLOAD);
    world->stream = malloc(world->length * KEY);
    world->order = malloc(world->length * sizeof(*world->order));
    if (world->entries == NULL || world->payloads == NULL || world->stream == NULL ||
        world->order == NULL)
        exit(1);
    memset(world->payloads, 0, (keys + SHARE) * PAYLOAD);
    for (size_t i = 0; i < sizeof(world->secret); i++)
        world->secret[i] = (unsigned char)(random >> (i % 7)) ^ (unsigned char)(37 * i);
    for (size_t i = 0; i < keys; i++) {
        struct entry *entry = &world->entries[i];

        memset(entry, 'x', sizeof(*entry));
        snprintf((char *)entry->key, KEY, "%095zu", i * 7919);
        entry->hash = XXH3_64bits_withSecret(entry->key, KEY, world->secret, sizeof(world->secret));
        entry->length = KEY;
        entry->word = (uint64_t)i << 32 | 1;
    }
    for (size_t i = 0; i < world->length; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        world->order[i] = (uint32_t)(random % keys);
        memcpy(world->stream[i], world->entries[world->order[i]].key, KEY);
    }
}

/* One share: prefetches, then replaces; `spare` are the slots that the caller owns. */
static unsigned
replace_share(struct world *world, size_t start, uint32_t *spare)
{
    uint64_t hashes[SHARE];
    unsigned wrong = 0;

    for (size_t i = 0; i < SHARE; i++) {
        const char *entry = (const char *)&world->entries[world->order[start + i]];

        __builtin_prefetch(entry);
        __builtin_prefetch(entry + 64);
        hashes[i] = XXH3_64bits_withSecret(world->stream[start + i], KEY, world->secret,
                                           sizeof(world->secret));
    }
    for (size_t i = 0; i < SHARE; i++) {
        struct entry *entry = &world->entries[world->order[start + i]];
        uint64_t word = __atomic_load_n(&entry->word, __ATOMIC_ACQUIRE);

        wrong += entry->hash != hashes[i] || memcmp(entry->key, world->stream[start + i], KEY) != 0;
        memcpy(world->payloads[spare[i]], &start, sizeof(start));
        if (__atomic_compare_exchange_n(&entry->word, &word, (uint64_t)spare[i] << 32 | 1, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            spare[i] = (uint32_t)(word >> 32);
    }
    return wrong;
}

static int
compare_doubles(const void *one, const void *two)
{
    double a = *(const double *)one, b = *(const double *)two;

    return (a > b) - (a < b);
}

static void
measure(size_t keys)
{
    double results[REPETITIONS];
    uint32_t spare[SHARE];
    struct world world;
    unsigned wrong = 0;

    make_world(&world, keys);
    for (uint32_t i = 0; i < SHARE; i++)
        spare[i] = (uint32_t)keys + i;
    for (unsigned repetition = 0; repetition < REPETITIONS; repetition++) {
        size_t rounds = 4000000 / world.length + 1;
        double begin = seconds();

        for (size_t round = 0; round < rounds; round++)
            for (size_t i = 0; i + SHARE <= world.length; i += SHARE)
                wrong += replace_share(&world, i, spare);
        results[repetition] = (seconds() - begin) * 1e9 / (double)(rounds * world.length);
    }
    qsort(results, REPETITIONS, sizeof(results[0]), compare_doubles);
    printf("floor %8zu keys %6.1f ns/update%s\n", keys, results[REPETITIONS / 2],
           wrong ? " WRONG" : "");
    free(world.entries);
    free(world.payloads);
    free(world.stream);
    free(world.order);
}

int
main(int argc, char **argv)
{
    if (argc < 2)
        for (size_t keys = 1000; keys <= 1000000; keys *= 10)
            measure(keys);
    for (int i = 1; i < argc; i++)
        measure(strtoul(argv[i], NULL, 10));
    return 0;
}
