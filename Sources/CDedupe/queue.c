/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue's links: what all who change the queue share.
 */
#include "core.h"

uint32_t
link_new(struct hold *hold, uint32_t item)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t link = arena_take(&buffer->links, 0);

    link_at(&buffer->links, link)->item = item;
    link_at(&buffer->links, link)->queued = hold->now;
    link_set_tag(buffer, link, 0);
    return link;
}

void
link_free(struct hold *hold, uint32_t link)
{
    arena_give_back(&hold->buffer->links, link, &hold->reserve);
}

void
queue_entry(struct hold *hold, uint32_t link)
{
    ring_append(&hold->buffer->links, hold->buffer->ring, link);
    /* It may be one that a restart had dropped. */
    link_at(&hold->buffer->links, link)->queued = hold->now;
    count_pending(hold->buffer);
    notify_queued(hold);
}

void
count_pending(struct cdedupe *buffer)
{
    cdedupe_statistics_t *statistics = &buffer->statistics;

    statistics->pending_keys++;
    if (statistics->pending_keys > statistics->peak_pending_keys)
        statistics->peak_pending_keys = statistics->pending_keys;
}

/* Removes one link, of whatever kind. */
static void
remove_link(struct cdedupe *buffer, uint32_t link)
{
    /* What is owed, or to be taken, ends at the one before. */
    if (buffer->last_owed == link)
        buffer->last_owed = link_at(&buffer->links, link)->previous;
    if (buffer->last_of_batch == link)
        buffer->last_of_batch = link_at(&buffer->links, link)->previous;
    /* Another may get its number. */
    if (buffer->awaited == link)
        buffer->awaited = 0;
    ring_remove(&buffer->links, link);
}

static bool
is_status(const struct cdedupe *buffer, uint32_t link)
{
    return link != buffer->ring && item_is_status(link_at(&buffer->links, link)->item);
}

void
unlink_queued(struct hold *hold, uint32_t link)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t before = link_at(&buffer->links, link)->previous, after = link_at(&buffer->links, link)->next;

    remove_link(buffer, link);
    if (is_status(buffer, before) && is_status(buffer, after)) {
        /* What superseded an owed status is owed in its place. */
        if (buffer->last_owed == before)
            buffer->last_owed = after;
        remove_link(buffer, before);
        buffer->statistics.pending_statuses--;
        link_free(hold, before);
    }
}

void
unqueue(struct hold *hold, uint32_t link)
{
    struct cdedupe *buffer = hold->buffer;

    if (is_status(buffer, link))
        buffer->statistics.pending_statuses--;
    else
        buffer->statistics.pending_keys--;
    unlink_queued(hold, link);
    link_free(hold, link);
}
