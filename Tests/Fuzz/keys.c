/* SPDX-License-Identifier: Apache-2.0 */
#include "keys.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "CDedupe.h"

enum { ROW = 8, ROWS = KEYS / ROW };

/*
 * The entry's classes of size end at 40 bytes of key, 104, 168, ... The first and the last row have
 * lengths of their own.
 */
static const size_t row_lengths[ROWS] = {0,   2,   2,   2,   5,    8,    8,    8,    16,   16,  16,
                                         24,  39,  40,  40,  40,   41,   41,   104,  105,  200, 488,
                                         489, 616, 617, 745, 1000, 1500, 2025, 4072, 9000, 0};
static const size_t last_lengths[ROW] = {16360,
                                         20000,
                                         40000,
                                         40000,
                                         CDEDUPE_KEY_MAX - 1,
                                         CDEDUPE_KEY_MAX,
                                         CDEDUPE_KEY_MAX,
                                         CDEDUPE_KEY_MAX + 1};

static hash_mode_t hash_mode;

void
keys_set_hash(hash_mode_t mode)
{
    hash_mode = mode;
}

size_t
key_length(size_t number)
{
    if (number / ROW == 0) {
        return number > 0;
    }
    return number / ROW == ROWS - 1 ? last_lengths[number % ROW] : row_lengths[number / ROW];
}

static unsigned char *
make_key(size_t number)
{
    size_t length = key_length(number);
    unsigned char *key = malloc(length + 1);

    if (key == NULL) {
        abort();
    }
    memset(key, 'k', length + 1);
    key[0] = (unsigned char)(number % ROW);
    key[length - (length > 0)] = (unsigned char)number;
    return key;
}

const void *
key_bytes(size_t number)
{
    static unsigned char *keys[KEYS];

    if (keys[number] == NULL) {
        keys[number] = make_key(number);
    }
    return keys[number];
}

size_t
key_number(const void *bytes, size_t length)
{
    size_t number = length == 0 ? 0 : ((const unsigned char *)bytes)[length - 1];
    bool is_it = key_length(number) == length &&
                 (length == 0 || memcmp(bytes, key_bytes(number), length) == 0);

    return is_it ? number : KEYS;
}

static hash_mode_t
mode_of_key(const unsigned char *key, size_t length)
{
    static const hash_mode_t modes[ROW] = {HASH_WELL,       HASH_WELL,      HASH_SAME_PLACE,
                                           HASH_SAME_PLACE, HASH_SAME_CELL, HASH_SAME_TAG,
                                           HASH_SAME,       HASH_SAME};

    return length == 0 ? HASH_SAME : modes[key[0] % ROW];
}

/*
 * The index takes its places from the first of the 64 bits, tags are the first 32, and cells the
 * last of those.
 */
uint64_t cdedupe_test_hash(const void *key, size_t length);

uint64_t
cdedupe_test_hash(const void *key, size_t length)
{
    const unsigned char *bytes = key;
    uint64_t ends[2] = {length, length == 0 ? 0 : bytes[0] * 256U + bytes[length - 1]};
    uint64_t hash = XXH64(ends, sizeof(ends), 1);

    switch (hash_mode == HASH_BY_KEY ? mode_of_key(bytes, length) : hash_mode) {
    case HASH_SAME_PLACE:
        return hash & UINT64_C(0x00000fffffffffff);
    case HASH_SAME_CELL:
        return hash | UINT64_C(0x00000fff00000000);
    case HASH_SAME_TAG:
        return hash | UINT64_C(0xffffffff00000000);
    case HASH_SAME:
        return UINT64_MAX;
    default:
        return hash;
    }
}
