/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CDedupe's level of bytes, one value a call. Only what replacing needs: the other members are
 * NULL.
 */
#include <CDedupe.h>
#include <stdlib.h>

#include "subject.h"

static void
check(cdedupe_result_t result)
{
    if (result != CDEDUPE_OK)
        fail(cdedupe_result_text(result));
}

static void *
create(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *buffer;

    /* Repeatable: the same collisions in every run. */
    options.hash_seed = 1;
    check(cdedupe_bytes_create(&options, &buffer));
    return buffer;
}

static void
destroy(void *buffer)
{
    cdedupe_bytes_destroy(buffer);
}

/* A producer needs no arrays: it is the buffer. */
static void *
producer_create(void *buffer)
{
    return buffer;
}

static void
producer_destroy(void *producer)
{
    (void)producer;
}

static void
put(void *buffer, struct keys keys, uint64_t stamp)
{
    for (size_t i = 0; i < keys.count; i++) {
        struct payload payload = {stamp, {i, i, i}};

        check(cdedupe_bytes_put(buffer, keys.bytes + i * keys.size, keys.size, &payload,
                                sizeof(payload), 0, NULL));
    }
}

const struct subject our_bytes = {
    .create = create,
    .destroy = destroy,
    .producer_create = producer_create,
    .producer_destroy = producer_destroy,
    .put = put,
};
