/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hash function: XXH3 with a secret of its own for every buffer.
 *
 * Keys come from strangers. A 64-bit seed alone leaves most of XXH3's secret at its public default; here all 192
 * bytes of it come from the system's random source, so that neither the multiplications of short keys nor the
 * accumulators of long ones can be steered from outside, at no cost in speed. The header is used inline: no call,
 * no library to link.
 */
#ifndef CDEDUPE_BASE_HASH_H
#define CDEDUPE_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct hash_secret {
    uint64_t words[24];
};

_Static_assert(sizeof(struct hash_secret) >= XXH3_SECRET_SIZE_MIN,
               "XXH3 asks for a secret of at least this size");

/* Draws the secret: from the system if the seed is zero, else from the seed. False: the system gave nothing. */
bool hash_secret_init(struct hash_secret *secret, uint64_t seed);

#ifdef CDEDUPE_TEST_HASH
/* A test that wants keys to collide brings the function. */
uint64_t cdedupe_test_hash(const void *key, size_t length);
#endif

static inline uint64_t
hash_key(const struct hash_secret *secret, const void *key, size_t length)
{
#ifdef CDEDUPE_TEST_HASH
    (void)secret;
    return cdedupe_test_hash(key, length);
#else
    return XXH3_64bits_withSecret(key, length, secret, sizeof(*secret));
#endif
}

#endif
