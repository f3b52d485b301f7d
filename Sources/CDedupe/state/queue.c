/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue's links.
 *
 *     link_new, link_free
 *     queue_entry                    a link goes to the back of the queue; wakes the loop
 *         count_pending
 *     queue_status                   a status goes to the back of the queue; wakes the loop
 *     unqueue                        a link leaves the queue for good
 *         unlink_queued              a link leaves its place; also merges neighbouring statuses
 *             remove_link
 */
#include "state/queue.h"

uint32_t
link_new(struct lock_scope *scope, uint32_t item)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t link = arena_take(&buffer->links, 0);

    link_at(&buffer->links, link)->item = item;
    link_at(&buffer->links, link)->queued = scope->now;
    return link;
}

void
link_free(struct lock_scope *scope, uint32_t link)
{
    arena_give_back(&scope->buffer->links, link, &scope->reserve);
}

void
queue_entry(struct lock_scope *scope, uint32_t link)
{
    ring_append(&scope->buffer->links, scope->buffer->queue.ring, link);
    /* The link may be an old one from the dropped list, so its time is set again. */
    link_at(&scope->buffer->links, link)->queued = scope->now;
    count_pending(scope->buffer);
    notify(scope);
}

void
count_pending(struct cdedupe *buffer)
{
    cdedupe_statistics_t *statistics = &buffer->statistics;

    statistics->pending_keys++;
    if (statistics->pending_keys > statistics->peak_pending_keys)
        statistics->peak_pending_keys = statistics->pending_keys;
}

static void
remove_link(struct cdedupe *buffer, uint32_t link)
{
    /* If this link is the batch barrier, the barrier moves to its predecessor. */
    if (buffer->batch.barrier == link)
        buffer->batch.barrier = link_at(&buffer->links, link)->previous;
    ring_remove(&buffer->links, link);
}

static bool
is_status(const struct cdedupe *buffer, uint32_t link)
{
    return link != buffer->queue.ring && item_is_status(link_at(&buffer->links, link)->item);
}

void
unlink_queued(struct lock_scope *scope, uint32_t link)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t before = link_at(&buffer->links, link)->previous,
             after = link_at(&buffer->links, link)->next;

    remove_link(buffer, link);
    if (is_status(buffer, before) && is_status(buffer, after)) {
        remove_link(buffer, before);
        buffer->statistics.pending_statuses--;
        link_free(scope, before);
    }
}

void
unqueue(struct lock_scope *scope, uint32_t link)
{
    struct cdedupe *buffer = scope->buffer;

    if (is_status(buffer, link))
        buffer->statistics.pending_statuses--;
    else
        buffer->statistics.pending_keys--;
    unlink_queued(scope, link);
    link_free(scope, link);
}

void
queue_status(struct lock_scope *scope, uint8_t status)
{
    struct cdedupe *buffer = scope->buffer;

    ring_append(&buffer->links, buffer->queue.ring, link_new(scope, ITEM_STATUS | status));
    buffer->statistics.pending_statuses++;
    notify(scope);
}
