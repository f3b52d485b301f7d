#include "hash.h"

#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(sizeof(struct hash_secret) >= XXH3_SECRET_SIZE_MIN, "XXH3 asks for a secret of at least this size");

bool
hash_secret_init(struct hash_secret *secret, uint64_t seed)
{
    if (seed == 0)
        return getentropy(secret, sizeof(*secret)) == 0;

    for (uint64_t i = 0; i < sizeof(secret->words) / sizeof(secret->words[0]); i++)
        secret->words[i] = XXH64(&i, sizeof(i), seed);
    return true;
}

uint64_t
hash_key(const struct hash_secret *secret, const void *key, size_t length)
{
    return XXH3_64bits_withSecret(key, length, secret, sizeof(*secret));
}
