/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ring: circular doubly linked lists of small links, in an arena.
 *
 *      head --> link --> link --> ... --> head        head: a link that holds nothing
 *
 * The buffer has three such lists; see struct queue in buffer.h:
 *
 *      the queue            pending updates and statuses, in the order of delivery
 *      the dropped list     updates and statuses that a restart dropped and no call has cleared yet
 *      detached payloads    payloads that lost their entry
 *
 * A link of the first two lists holds an entry's number or a status. A link of the third holds a
 * slot. Unlinking and splicing are O(1).
 */
#ifndef CDEDUPE_STATE_RING_H
#define CDEDUPE_STATE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/arena.h"

struct link {
    uint32_t next;
    uint32_t previous;
    uint32_t item;
    uint32_t queued; /* The time at which the item was queued, in milliseconds (clock.h). */
};

_Static_assert(sizeof(struct link) == 16, "a pending key pays for one link");

/* Marks a status in the queue and in the dropped list. Entry numbers have only 31 bits. */
#define ITEM_STATUS ((uint32_t)1 << 31)

static inline struct link *
link_at(const struct arena *links, uint32_t number)
{
    return arena_at(links, number);
}

static inline bool
item_is_status(uint32_t item)
{
    return (item & ITEM_STATUS) != 0;
}

/* Makes an empty list: its head is its own neighbour. */
static inline void
ring_init(const struct arena *links, uint32_t head)
{
    struct link *link = link_at(links, head);

    link->next = link->previous = head;
    link->item = 0;
}

static inline uint32_t
ring_first(const struct arena *links, uint32_t head)
{
    return link_at(links, head)->next;
}

static inline uint32_t
ring_last(const struct arena *links, uint32_t head)
{
    return link_at(links, head)->previous;
}

static inline bool
ring_is_empty(const struct arena *links, uint32_t head)
{
    return ring_first(links, head) == head;
}

static inline void
ring_append(const struct arena *links, uint32_t head, uint32_t number)
{
    struct link *end = link_at(links, head), *link = link_at(links, number);

    link->next = head;
    link->previous = end->previous;
    link_at(links, end->previous)->next = number;
    end->previous = number;
}

static inline void
ring_prepend(const struct arena *links, uint32_t head, uint32_t number)
{
    ring_append(links, ring_first(links, head), number);
}

static inline void
ring_remove(const struct arena *links, uint32_t number)
{
    struct link *link = link_at(links, number);

    link_at(links, link->previous)->next = link->next;
    link_at(links, link->next)->previous = link->previous;
}

/* Moves all links of `from` to the end of `to`. */
static inline void
ring_splice(const struct arena *links, uint32_t from, uint32_t to)
{
    struct link *source = link_at(links, from), *target = link_at(links, to);

    if (source->next == from)
        return;
    link_at(links, source->next)->previous = target->previous;
    link_at(links, target->previous)->next = source->next;
    link_at(links, source->previous)->next = to;
    target->previous = source->previous;
    source->next = source->previous = from;
}

#endif
