/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hash function: XXH3, with a separate secret for every buffer.
 *
 * An attacker may choose the keys. A 64-bit seed alone would leave most of XXH3's secret at its
 * public default. Therefore all 192 bytes of the secret come from the system's random source. An
 * attacker then controls neither the multiplications that XXH3 does for short keys nor the
 * accumulators that it uses for long keys. The full secret costs no speed.
 *
 * XXH3 is compiled inline, so hashing makes no call and the core links no library for it.
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

/*
 * Fills the secret from the seed, or from the system's random source if the seed is zero. Returns
 * false if the system's random source fails.
 */
bool hash_secret_init(struct hash_secret *secret, uint64_t seed);

#ifdef CDEDUPE_TEST_HASH
/* A test that needs keys to collide defines CDEDUPE_TEST_HASH and this function. */
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
