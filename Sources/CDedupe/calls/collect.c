/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backlog that restarts and overflows drop, and how it is cleared.
 *
 * A restart only moves the queue's links, statuses included, to the dropped list. From then on the
 * words of their entries are stale. Later calls clear the dropped list in bounded steps.
 *
 *     cdedupe_collect                up to SWEEPS_PER_LOCK steps in each lock scope
 *         clear_one                  one step; puts make such steps too (put_locked.c)
 *             drop_status            a leading status, for free
 *             clear_entry            the stale entry of a dropped link
 *             drop_link
 *     dropped_add_queue              called by a restart
 *     dropped_remove                 called when a stale entry leaves the dropped list
 *         forget_status_between      at most one status stays between two entries
 *     detached_add                   called when a payload loses its entry
 *
 * The rows of the transition table that this file implements, both in clear_entry():
 *
 *     state             event   new state
 *     stale, live       clear   idle, with its old restart number, and so still unseen
 *     stale, not live   clear   dead; with pins vacant
 */
#include "calls/calls.h"

static void
count_uncleared(struct cdedupe *buffer, uint64_t count)
{
    sync_store_relaxed(&buffer->queue.uncleared, count);
}

/*
 * Frees one of two statuses that have become neighbours. Therefore the dropped list never has more
 * statuses than entries plus one.
 */
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

/*
 * Model step C1 reads the word. Model step C2: a live entry that is stale becomes idle and stays
 * unseen. Model step C3: a stale entry that is not live dies. Returns the slot that the word had.
 */
static cdedupe_slot_t
clear_entry(struct lock_scope *scope, uint32_t number)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t word = sync_load_relaxed(&entry->word), before;

    /*
     * Exchanges, because a producer that read an old restart number may be replacing the payload in
     * replace_unlocked(), which is the other side. A plain store could lose the payload that this
     * producer has just put there. Without the exchange's acquire, the caller could see only a part
     * of the payload.
     */

    if (word & WORD_LIVE) {
        before = sync_exchange(&entry->word, word_idle(word_restart(word)));
    } else {
        before = sync_exchange(&entry->word, 0);
        entry_leave(scope, number);
    }
    return word_slot(before);
}

static void
drop_link(struct lock_scope *scope, uint32_t link)
{
    dropped_remove(scope, link);
    link_free(scope, link);
}

/*
 * Skips a leading status for free. If it counted as a step, each step would clear only every second
 * update wherever statuses lie between updates.
 */
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
