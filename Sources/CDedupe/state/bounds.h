/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the core reads in payloads, the revision and the weight, and the sum of the pending weights.
 */
#ifndef CDEDUPE_STATE_BOUNDS_H
#define CDEDUPE_STATE_BOUNDS_H

#include <string.h>

#include "state/buffer.h"

/*
 * The uint64_t at an offset of a payload. Zero without a payload, or if the offset is
 * OFFSET_UNUSED.
 */
static inline uint64_t
payload_number(const struct cdedupe *buffer, cdedupe_slot_t slot, size_t offset)
{
    uint64_t number = 0;

    if (slot != 0 && offset != OFFSET_UNUSED)
        memcpy(&number, (const unsigned char *)arena_at(&buffer->slots, slot) + offset,
               sizeof(number));
    return number;
}

/* Whether the buffer suppresses values that the sink has already. */
static inline bool
suppresses(const struct cdedupe *buffer)
{
    return buffer->revision_offset != OFFSET_UNUSED;
}

/* The weight of a payload; see maximum_pending_bytes in CDedupe.h. */
static inline uint64_t
payload_weight(const struct cdedupe *buffer, cdedupe_slot_t slot)
{
    uint64_t weight = payload_number(buffer, slot, buffer->bounds.weight_offset);

    return weight < CDEDUPE_WEIGHT_MAX ? weight : CDEDUPE_WEIGHT_MAX;
}

/* Under the lock: a payload is pending from now on. */
static inline void
pending_bytes_add(struct cdedupe *buffer, cdedupe_slot_t slot)
{
    buffer->statistics.pending_bytes += payload_weight(buffer, slot);
}

/* Under the lock: a payload of this weight is no longer pending. */
static inline void
pending_bytes_subtract_weight(struct cdedupe *buffer, uint64_t weight)
{
    buffer->statistics.pending_bytes -= weight;
}

/* Under the lock: a payload is no longer pending. */
static inline void
pending_bytes_subtract(struct cdedupe *buffer, cdedupe_slot_t slot)
{
    pending_bytes_subtract_weight(buffer, payload_weight(buffer, slot));
}

#endif
