/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#ifdef __APPLE__
#include <sys/random.h>
#else
#include <unistd.h>
#endif

bool
hash_secret_init(struct hash_secret *secret, uint64_t seed)
{
    if (seed == 0)
        return getentropy(secret, sizeof(*secret)) == 0;

    for (uint64_t i = 0; i < sizeof(secret->words) / sizeof(secret->words[0]); i++)
        secret->words[i] = XXH64(&i, sizeof(i), seed);
    return true;
}
