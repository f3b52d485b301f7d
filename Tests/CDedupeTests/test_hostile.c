/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys that an attacker might choose.
 *
 *     test_hostile [long]              every family of keys; `long`: the large families in full
 *     test_hostile count KEYS SECRET   puts 4000 keys and replaces them; see hostile.sh
 *                                      KEYS: ordinary, same-tag, same-set or same-cell
 *                                      SECRET: known or random
 *
 * There are two kinds. Keys of the first kind look alike, because they differ in one byte, one bit
 * or one length. The buffer must tell them apart and return them in order.
 *
 * Keys of the second kind collide under a known secret. XXH3 of 8 bytes can be inverted, so the
 * test makes keys whose hashes agree in the bits that the index uses. With the known secret they
 * must slow the buffer down and take memory, because otherwise the test would show nothing. With a
 * secret of the buffer's own they must cost no more than any other keys.
 */
#include <stdlib.h>
#include <string.h>

#include "CDedupe.h"
#include "check.h"
#include "base/hash.h"

enum {
    SHARE = 100,
    BATCH = 1000,
    COLLIDING = 4000,
    REPLACEMENTS = 4,
    KNOWN_SEED = 4711,
    PREFIX = 60 * 1024
};

/* What hashes that agree have in common. */
#define SHARED UINT64_C(0x5bd1e9951b873593)

static bool is_long;

/* ---------------------------------------------------------------------------------------------- */
/* XXH3 turned around                                                                             */

/*
 * The one step of XXH3 for 8 bytes that is not obvious to undo; over GF(2) its 64th power is the
 * identity.
 */
static uint64_t
mix_rotations(uint64_t hash)
{
    return hash ^ (hash << 49 | hash >> 15) ^ (hash << 24 | hash >> 40);
}

/* Of an odd number, modulo 2^64; each round doubles the bits that are right. */
static uint64_t
inverse(uint64_t odd)
{
    uint64_t result = odd;

    for (unsigned round = 0; round < 5; round++)
        result *= 2 - odd * result;
    return result;
}

/* The 8 bytes whose hash under this secret it is. */
static uint64_t
key_with_hash(const struct hash_secret *secret, uint64_t hash)
{
    const uint64_t factor = inverse(UINT64_C(0x9fb21c651e98df25));

    hash ^= hash >> 28 ^ hash >> 56;
    hash *= factor;
    hash ^= (hash >> 35) + sizeof(hash);
    hash *= factor;
    for (unsigned round = 0; round < 63; round++)
        hash = mix_rotations(hash);
    hash ^= secret->words[1] ^ secret->words[2];
    return hash << 32 | hash >> 32;
}

/*
 * The index goes by the hash's upper half: its first bits choose the set, its last ones the cell.
 */
static const struct collision {
    const char *name;
    uint64_t same; /* Bits that all the hashes have in common. */
} collisions[] = {
    {"ordinary", 0},
    {"same-tag", UINT64_C(0xffffffff00000000)},
    {"same-set", UINT64_C(0xfffff00000000000)},
    {"same-cell", UINT64_C(0x000007ff00000000)},
};

enum { COLLISIONS = sizeof(collisions) / sizeof(collisions[0]) };

static uint64_t colliding[COLLIDING];

static void
make_colliding(const struct collision *collision)
{
    struct hash_secret secret;

    CHECK(hash_secret_init(&secret, KNOWN_SEED));
    for (uint64_t i = 0; i < COLLIDING; i++) {
        uint64_t spread = XXH64(&i, sizeof(i), 1),
                 hash = (spread & ~collision->same) | (SHARED & collision->same);

        colliding[i] = key_with_hash(&secret, hash);
        if (hash_key(&secret, &colliding[i], sizeof(colliding[i])) != hash)
            CHECK_EQ(hash_key(&secret, &colliding[i], sizeof(colliding[i])), hash);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Families of keys                                                                               */

typedef struct family {
    const char *name;
    size_t (*make)(uint64_t number, unsigned char *key); /* Its length. */
    uint64_t count;
    uint64_t long_count;
    uint64_t stride; /* Every so manieth, unless `long`. */
    uint64_t window; /* So many at a time. */
} family_t;

static size_t
make_with_prefix(uint64_t number, unsigned char *key)
{
    memset(key, 'p', PREFIX);
    memcpy(key + PREFIX, &number, sizeof(number));
    return PREFIX + sizeof(number);
}

static size_t
make_zeroes(uint64_t number, unsigned char *key)
{
    memset(key, 0, (size_t)number);
    return (size_t)number;
}

static size_t
make_prefix_of_others(uint64_t number, unsigned char *key)
{
    for (size_t i = 0; i < number; i++)
        key[i] = (unsigned char)(i * 7 % 251);
    return (size_t)number;
}

/* Number zero: none. */
static size_t
flip_bit(uint64_t number, unsigned char *key, size_t length)
{
    memset(key, 'b', length);
    if (number > 0)
        key[(number - 1) / 8] ^= (unsigned char)(1 << (number - 1) % 8);
    return length;
}

static size_t
make_short_flip(uint64_t number, unsigned char *key)
{
    return flip_bit(number, key, 512);
}

static size_t
make_longest_flip(uint64_t number, unsigned char *key)
{
    return flip_bit(number, key, CDEDUPE_KEY_MAX);
}

static size_t
make_colliding_key(uint64_t number, unsigned char *key)
{
    memcpy(key, &colliding[number], sizeof(colliding[number]));
    return sizeof(colliding[number]);
}

static const family_t families[] = {
    {"one prefix of 60 KiB", make_with_prefix, 2000, 100000, 1, 1000},
    {"zeroes, none to many", make_zeroes, 4000, CDEDUPE_KEY_MAX + 1, 1, 4000},
    {"prefixes of one another", make_prefix_of_others, 4000, CDEDUPE_KEY_MAX + 1, 1, 4000},
    {"512 bytes, one bit apart", make_short_flip, 512 * 8 + 1, 512 * 8 + 1, 1, 512 * 8 + 1},
    {"64 KiB, one bit apart", make_longest_flip, CDEDUPE_KEY_MAX * 8 + 1, CDEDUPE_KEY_MAX * 8 + 1,
     199, 1000},
};

/* ---------------------------------------------------------------------------------------------- */
/* Putting and taking                                                                             */

static unsigned char texts[SHARE][CDEDUPE_KEY_MAX + 1];

static cdedupe_t *
open_buffer(uint64_t hash_seed)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer = NULL;

    options.payload_size = sizeof(uint64_t);
    options.hash_seed = hash_seed;
    options.batch_size = BATCH;
    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    return buffer;
}

static uint64_t
destroy(cdedupe_t *buffer, cdedupe_slot_t slot)
{
    uint64_t value = slot == 0 ? UINT64_MAX : *(uint64_t *)cdedupe_payload(buffer, slot);

    cdedupe_discard(buffer, &slot, 1);
    return value;
}

/* The keys `first`, `first` + `stride` and so on, each with its number as its payload. */
static void
put_chunk(cdedupe_t *buffer, const family_t *family, uint64_t first, size_t count, bool deletion,
          cdedupe_outcome_t outcome)
{
    cdedupe_update_t updates[SHARE];
    cdedupe_slot_t slots[SHARE];

    CHECK(cdedupe_acquire(buffer, slots, count) == CDEDUPE_OK);
    for (size_t i = 0; i < count; i++) {
        uint64_t number = first + i * family->stride;

        *(uint64_t *)cdedupe_payload(buffer, slots[i]) = number;
        updates[i] = (cdedupe_update_t){.key = texts[i], .slot = slots[i], .deletion = deletion};
        updates[i].key_length = family->make(number, texts[i]);
    }
    CHECK(cdedupe_put(buffer, updates, count) == CDEDUPE_OK);
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(updates[i].outcome, outcome);
        CHECK_EQ(destroy(buffer, updates[i].displaced),
                 outcome == CDEDUPE_OUTCOME_REPLACED ? first + i * family->stride : UINT64_MAX);
    }
}

static void
put_window(cdedupe_t *buffer, const family_t *family, uint64_t first, uint64_t end, bool deletion,
           cdedupe_outcome_t outcome)
{
    while (first < end) {
        uint64_t left = (end - first + family->stride - 1) / family->stride;
        size_t count = left < SHARE ? (size_t)left : SHARE;

        put_chunk(buffer, family, first, count, deletion, outcome);
        first += count * family->stride;
    }
}

static void
take_window(cdedupe_t *buffer, const family_t *family, uint64_t first, cdedupe_item_kind_t kind)
{
    static cdedupe_item_t items[BATCH];
    size_t count;

    while (cdedupe_take(buffer, items, BATCH, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++) {
            size_t length = family->make(first, texts[0]);

            CHECK_EQ(items[i].kind, kind);
            CHECK_EQ(destroy(buffer, items[i].slot), first);
            CHECK(items[i].key_length == length && memcmp(items[i].key, texts[0], length) == 0);
            first += family->stride;
        }
    }
}

static void
run_window(cdedupe_t *buffer, const family_t *family, uint64_t first, uint64_t end)
{
    cdedupe_statistics_t s;

    put_window(buffer, family, first, end, false, CDEDUPE_OUTCOME_QUEUED);
    put_window(buffer, family, first, end, false, CDEDUPE_OUTCOME_REPLACED);
    take_window(buffer, family, first, CDEDUPE_ITEM_NEW);
    cdedupe_statistics(buffer, &s, sizeof(s));
    CHECK_EQ(s.live_keys, (end - first + family->stride - 1) / family->stride);
    put_window(buffer, family, first, end, true, CDEDUPE_OUTCOME_QUEUED);
    take_window(buffer, family, first, CDEDUPE_ITEM_DELETED);
    cdedupe_statistics(buffer, &s, sizeof(s));
    CHECK_EQ(s.live_keys, 0);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
}

static void
run_family(family_t family, uint64_t hash_seed)
{
    cdedupe_t *buffer = open_buffer(hash_seed);
    uint64_t count = is_long ? family.long_count : family.count, step;

    check_test = family.name;
    if (is_long)
        family.stride = 1;
    step = family.window * family.stride;
    for (uint64_t first = 0; first < count; first += step)
        run_window(buffer, &family, first, first + step < count ? first + step : count);
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* Collisions                                                                                     */

static const family_t colliding_family = {"", make_colliding_key, COLLIDING, COLLIDING,
                                          1,  COLLIDING};

static uint64_t
memory_of_colliding(uint64_t hash_seed)
{
    cdedupe_t *buffer = open_buffer(hash_seed);
    cdedupe_statistics_t s;

    put_window(buffer, &colliding_family, 0, COLLIDING, false, CDEDUPE_OUTCOME_QUEUED);
    cdedupe_statistics(buffer, &s, sizeof(s));
    cdedupe_destroy(buffer);
    return s.memory;
}

/*
 * In what an index takes, collisions show without a clock: maps grow until probing is short enough.
 */
static void
run_collision(const struct collision *collision)
{
    uint64_t ordinary, known, unknown;
    family_t family = colliding_family;

    family.name = check_test = collision->name;
    make_colliding(&collisions[0]);
    ordinary = memory_of_colliding(0);
    make_colliding(collision);
    known = memory_of_colliding(KNOWN_SEED);
    unknown = memory_of_colliding(0);
    printf("%-10s %7" PRIu64 " KiB with the known secret, %7" PRIu64
           " with an unknown one, %7" PRIu64 " for ordinary keys\n",
           collision->name, known / 1024, unknown / 1024, ordinary / 1024);
    /* How many maps there are differs a little from secret to secret. */
    CHECK(unknown * 2 <= ordinary * 3);
    if (collision->same >> 32 == UINT32_MAX)
        CHECK(known > ordinary * 2);
    run_family(family, KNOWN_SEED);
    run_family(family, 0);
}

/* ---------------------------------------------------------------------------------------------- */
/* For callgrind                                                                                  */

/* What is counted; named in hostile.sh. */
__attribute__((noinline)) void hostile_work(cdedupe_t *buffer, cdedupe_update_t *updates,
                                            size_t count);

void
hostile_work(cdedupe_t *buffer, cdedupe_update_t *updates, size_t count)
{
    for (size_t i = 0; i < count; i += SHARE)
        CHECK(cdedupe_put(buffer, updates + i, count - i < SHARE ? count - i : SHARE) ==
              CDEDUPE_OK);
}

static int
count_instructions(const char *keys, const char *secret)
{
    static cdedupe_update_t updates[COLLIDING];
    cdedupe_t *buffer = open_buffer(strcmp(secret, "known") == 0 ? KNOWN_SEED : 0);
    size_t i = 0;

    while (i < COLLISIONS && strcmp(collisions[i].name, keys) != 0)
        i++;
    if (!CHECK(i < COLLISIONS))
        return check_finish();
    make_colliding(&collisions[i]);
    for (unsigned round = 0; round <= REPLACEMENTS; round++) {
        for (i = 0; i < COLLIDING; i++)
            updates[i] = (cdedupe_update_t){
                .key = &colliding[i], .key_length = sizeof(colliding[i]), .deletion = true};
        hostile_work(buffer, updates, COLLIDING);
    }
    cdedupe_destroy(buffer);
    return check_finish();
}

/* ---------------------------------------------------------------------------------------------- */

int
main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "count") == 0)
        return count_instructions(argv[2], argv[3]);
    is_long = argc > 1 && strcmp(argv[1], "long") == 0;
    for (size_t i = 0; i < COLLISIONS; i++)
        run_collision(&collisions[i]);
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        run_family(families[i], 0);
    return check_finish();
}
