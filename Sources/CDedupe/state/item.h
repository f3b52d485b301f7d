/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of a cdedupe_item_t that belongs to the library: the state before the take, which
 * cdedupe_put_back() restores, and the time for cdedupe_age().
 */
#ifndef CDEDUPE_STATE_ITEM_H
#define CDEDUPE_STATE_ITEM_H

#include <stdint.h>
#include <string.h>

#include "CDedupe.h"

struct item_state {
    uint64_t revision; /* That the sink had of the key before the take. */
    uint32_t queued;   /* When the key was queued. */
    uint32_t
        before; /* Whether the key was live before the take; of a status, the latest one taken. */
};

_Static_assert(sizeof(struct item_state) == sizeof(((cdedupe_item_t *)0)->opaque),
               "the public member has room for exactly this");

static inline struct item_state
item_state(const cdedupe_item_t *item)
{
    struct item_state state;

    memcpy(&state, item->opaque, sizeof(state));
    return state;
}

static inline void
item_set_state(cdedupe_item_t *item, struct item_state state)
{
    memcpy(item->opaque, &state, sizeof(state));
}

#endif
