/* SPDX-License-Identifier: Apache-2.0 */
#include "inside.h"

#include "calls/calls.h"

size_t
slots_out(const cdedupe_t *buffer)
{
    size_t count = buffer->slots.used;

    for (uint64_t i = 0; i < buffer->contexts.count; i++) {
        count -= (size_t)buffer->contexts.contexts[i]->slot_count;
    }
    return count;
}

size_t
dropped(const cdedupe_t *buffer)
{
    return (size_t)buffer->queue.uncleared;
}

cdedupe_t *
core_of(cdedupe_bytes_t *buffer)
{
    return *(cdedupe_t **)buffer; /* Its first member. */
}
