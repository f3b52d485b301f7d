/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What restarts leave behind. A restart only moves the queue's links to the garbage list, whose entries' words are
 * stale from then on (statuses come along); this clears them up one by one, in whoever's call it fits.
 */
#include "calls/calls.h"

static void
count_uncleared(struct cdedupe *buffer, uint64_t count)
{
    sync_store_relaxed(&buffer->queue.uncleared, count);
}

/* Statuses that have become neighbours: one of them goes. So there are never more than entries, and one. */
static void
forget_status_between(struct lock_scope *scope, uint32_t before, uint32_t after)
{
    struct cdedupe *buffer = scope->buffer;

    if (before == after || !item_is_status(link_at(&buffer->links, before)->item) ||
        !item_is_status(link_at(&buffer->links, after)->item))
        return;
    ring_remove(&buffer->links, before);
    count_uncleared(buffer, buffer->queue.uncleared - 1);
    link_free(scope, before);
}

void
dropped_add_queue(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t last = ring_last(&buffer->links, buffer->queue.dropped),
             first = ring_first(&buffer->links, buffer->queue.ring);

    if (first == buffer->queue.ring)
        return;
    count_uncleared(buffer, buffer->queue.uncleared + buffer->statistics.pending_keys +
                                buffer->statistics.pending_statuses);
    ring_splice(&buffer->links, buffer->queue.ring, buffer->queue.dropped);
    forget_status_between(scope, last, first);
}

void
dropped_remove(struct lock_scope *scope, uint32_t link)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t before = link_at(&buffer->links, link)->previous,
             after = link_at(&buffer->links, link)->next;

    ring_remove(&buffer->links, link);
    count_uncleared(buffer, buffer->queue.uncleared - 1);
    forget_status_between(scope, before, after);
}

void
detached_add(struct lock_scope *scope, cdedupe_slot_t slot)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t link;

    if (slot == 0)
        return;
    link = link_new(scope, slot);
    ring_append(&buffer->links, buffer->queue.detached, link);
    count_uncleared(buffer, buffer->queue.uncleared + 1);
}

/* [C1] stale, live -> idle, still unseen [C2]; stale, not live -> dead [C3] */
static cdedupe_slot_t
clear_entry(struct lock_scope *scope, uint32_t number)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t word = sync_load_relaxed(&entry->word), before;

    /* Exchanges, with replace_unlocked(): a producer with an old restart number may be replacing the payload. */

    if (word & WORD_LIVE) {
        before = sync_exchange(&entry->word, word_idle(word_restart(word)));
    } else {
        before = sync_exchange(&entry->word, 0);
        entry_unindex(buffer, number);
        retire_entry(scope, number);
    }
    return word_slot(before);
}

static void
drop_link(struct lock_scope *scope, uint32_t link)
{
    dropped_remove(scope, link);
    link_free(scope, link);
}

/* A status that is first. It counts for nothing, or updates with statuses between them would come in two by two. */
static void
drop_status(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t link = ring_first(&buffer->links, buffer->queue.dropped);

    if (link != buffer->queue.dropped && item_is_status(link_at(&buffer->links, link)->item))
        drop_link(scope, link);
}

bool
clear_one(struct lock_scope *scope, cdedupe_slot_t *slot)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t link;

    *slot = 0;
    if (buffer->queue.uncleared == 0)
        return false;
    drop_status(scope);
    if ((link = ring_first(&buffer->links, buffer->queue.detached)) != buffer->queue.detached)
        *slot = link_at(&buffer->links, link)->item;
    else if ((link = ring_first(&buffer->links, buffer->queue.dropped)) != buffer->queue.dropped)
        *slot = clear_entry(scope, link_at(&buffer->links, link)->item);
    else
        return true;
    drop_link(scope, link);
    return true;
}

cdedupe_result_t
cdedupe_collect(cdedupe_t *buffer, cdedupe_slot_t *slots, size_t capacity, size_t *count)
{
    struct lock_scope scope;
    size_t steps = 0;
    bool more = true;

    *count = 0;
    if (merge_is_calling(buffer))
        return CDEDUPE_REENTRANT;
    scope_init(&scope, buffer);
    while (more && steps < capacity) {
        size_t end = steps + SWEEPS_PER_LOCK < capacity ? steps + SWEEPS_PER_LOCK : capacity;

        merge_lock(&scope);
        scope_lock(&scope);
        while (steps < end && (more = clear_one(&scope, &slots[*count]))) {
            *count += slots[*count] != 0;
            steps++;
        }
        reclaim(&scope);
        scope_unlock(&scope);
        merge_unlock(&scope);
        lock_yield(&buffer->lock);
    }
    scope_finish(&scope);
    tidy_index(buffer);
    return steps > 0 || (capacity == 0 && cdedupe_has_dropped(buffer)) ? CDEDUPE_OK : CDEDUPE_EMPTY;
}

bool
cdedupe_has_dropped(const cdedupe_t *buffer)
{
    return sync_load_relaxed(&buffer->queue.uncleared) > 0;
}
