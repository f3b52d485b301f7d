/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options: their defaults, and the check of the options that a caller gives.
 *
 *     cdedupe_options_init
 *     cdedupe_options_check
 *         options_read               called by cdedupe_create() too
 *             check                  offset_is_valid(), alignment_is_valid()
 */
#include <string.h>

#include "calls/calls.h"

/* A larger size comes from a caller that did not initialise the options. */
enum { OPTIONS_SIZE_MAX = 4096 };

void
cdedupe_options_init(cdedupe_options_t *options, size_t size)
{
    const cdedupe_options_t defaults = {.size = size,
                                        .payload_size = sizeof(void *),
                                        .payload_alignment = sizeof(void *),
                                        .batch_size = 100};

    memset(options, 0, size);
    memcpy(options, &defaults, size < sizeof(defaults) ? size : sizeof(defaults));
}

/* Whether a payload has room for a uint64_t at this offset. */
static bool
offset_is_valid(const cdedupe_options_t *options, size_t offset)
{
    return options->payload_size >= sizeof(uint64_t) &&
           offset <= options->payload_size - sizeof(uint64_t);
}

static bool
alignment_is_valid(size_t alignment)
{
    return alignment != 0 && alignment <= CDEDUPE_ALIGNMENT_MAX &&
           (alignment & (alignment - 1)) == 0;
}

static const char *
check(const cdedupe_options_t *options)
{
    if ((options->allocate == NULL) != (options->deallocate == NULL))
        return "allocate and deallocate must both be set, or neither";
    if (options->payload_size > CDEDUPE_PAYLOAD_MAX)
        return "payload_size is greater than CDEDUPE_PAYLOAD_MAX";
    if (!alignment_is_valid(options->payload_alignment))
        return "payload_alignment is not a power of two up to CDEDUPE_ALIGNMENT_MAX";
    if (options->batch_size < 1 || options->batch_size > CDEDUPE_BATCH_MAX)
        return "batch_size is not between 1 and CDEDUPE_BATCH_MAX";
    if (options->suppress_unchanged && !offset_is_valid(options, options->revision_offset))
        return "revision_offset leaves no room for a uint64_t in the payload";
    if (options->maximum_pending_bytes != 0 && !offset_is_valid(options, options->weight_offset))
        return "weight_offset leaves no room for a uint64_t in the payload";
    return NULL;
}

const char *
options_read(const cdedupe_options_t *given, cdedupe_options_t *options)
{
    cdedupe_options_init(options, sizeof(*options));
    if (given != NULL) {
        if (given->size < sizeof(given->size) || given->size > OPTIONS_SIZE_MAX)
            return "size was not set; see cdedupe_options_init()";
        memcpy(options, given, given->size < sizeof(*options) ? given->size : sizeof(*options));
    }
    return check(options);
}

const char *
cdedupe_options_check(const cdedupe_options_t *options)
{
    cdedupe_options_t known;

    return options_read(options, &known);
}
