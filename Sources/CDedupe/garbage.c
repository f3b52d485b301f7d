/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What restarts leave behind. A restart only moves the queue's links to the garbage list, whose entries' words are
 * stale from then on (statuses come along); this clears them up one by one, in whoever's call it fits.
 */
#include "core.h"

static void
count_uncleared(struct cdedupe *buffer, uint64_t count)
{
    sync_store_relaxed(&buffer->uncleared, count);
}

/* Statuses that have become neighbours: one of them goes. So there are never more than entries, and one. */
static void
forget_status_between(struct hold *hold, uint32_t before, uint32_t after)
{
    struct cdedupe *buffer = hold->buffer;

    if (before == after || !item_is_status(link_at(&buffer->links, before)->item) ||
        !item_is_status(link_at(&buffer->links, after)->item))
        return;
    ring_remove(&buffer->links, before);
    count_uncleared(buffer, buffer->uncleared - 1);
    link_free(hold, before);
}

void
garbage_add_queue(struct hold *hold)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t last = ring_last(&buffer->links, buffer->garbage), first = ring_first(&buffer->links, buffer->ring);

    if (first == buffer->ring)
        return;
    count_uncleared(buffer, buffer->uncleared + buffer->statistics.pending_keys + buffer->statistics.pending_statuses);
    ring_splice(&buffer->links, buffer->ring, buffer->garbage);
    forget_status_between(hold, last, first);
}

void
garbage_remove(struct hold *hold, uint32_t link)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t before = link_at(&buffer->links, link)->previous, after = link_at(&buffer->links, link)->next;

    ring_remove(&buffer->links, link);
    count_uncleared(buffer, buffer->uncleared - 1);
    forget_status_between(hold, before, after);
}

void
orphan_add(struct hold *hold, cdedupe_slot_t slot, cdedupe_tag_t tag)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t link;

    if (slot == 0 && tag == 0)
        return;
    link = link_new(hold, slot);
    link_set_tag(buffer, link, tag);
    ring_append(&buffer->links, buffer->orphans, link);
    count_uncleared(buffer, buffer->uncleared + 1);
}

/* [C1] stale, live -> idle, still unseen [C2]; stale, not live -> dead [C3] */
static cdedupe_slot_t
clear_entry(struct hold *hold, uint32_t number)
{
    struct cdedupe *buffer = hold->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t word = sync_load_relaxed(&entry->word), before;

    /* Exchanges, with replace_unlocked(): a producer with an old restart number may be replacing the payload. */

    if (word & WORD_LIVE) {
        before = sync_exchange(&entry->word, word_idle(word_restart(word)));
    } else {
        before = sync_exchange(&entry->word, 0);
        entry_unindex(buffer, number);
        retire_entry(hold, number);
    }
    return word_payload(before);
}

static void
drop_link(struct hold *hold, uint32_t link)
{
    garbage_remove(hold, link);
    link_free(hold, link);
}

/* A status that is first. It counts for nothing, or updates with statuses between them would come in two by two. */
static void
drop_status(struct hold *hold)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t link = ring_first(&buffer->links, buffer->garbage);

    if (link != buffer->garbage && item_is_status(link_at(&buffer->links, link)->item))
        drop_link(hold, link);
}

bool
clear_one(struct hold *hold, cdedupe_slot_t *slot, cdedupe_tag_t *tag)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t link;

    *slot = 0;
    *tag = 0;
    if (buffer->uncleared == 0)
        return false;
    drop_status(hold);
    if ((link = ring_first(&buffer->links, buffer->orphans)) != buffer->orphans)
        *slot = link_at(&buffer->links, link)->item;
    else if ((link = ring_first(&buffer->links, buffer->garbage)) != buffer->garbage)
        *slot = clear_entry(hold, link_at(&buffer->links, link)->item);
    else
        return true;
    *tag = link_tag(buffer, link);
    drop_link(hold, link);
    return true;
}

cdedupe_result_t
cdedupe_collect(cdedupe_t *buffer, cdedupe_slot_t *slots, cdedupe_tag_t *tags, size_t capacity, size_t *count)
{
    struct hold hold;
    size_t steps = 0;
    bool more = true;
    cdedupe_tag_t tag;

    *count = 0;
    hold_init(&hold, buffer);
    while (more && steps < capacity) {
        size_t end = steps + HOLD_SWEEP < capacity ? steps + HOLD_SWEEP : capacity;

        hold_lock(&hold);
        while (steps < end && (more = clear_one(&hold, &slots[*count], &tag))) {
            if (tags != NULL)
                tags[*count] = tag;
            *count += slots[*count] != 0 || tag != 0;
            steps++;
        }
        step_limbo(&hold);
        hold_unlock(&hold);
        lock_rest(&buffer->lock);
    }
    hold_finish(&hold);
    tidy_index(buffer);
    return steps > 0 || (capacity == 0 && cdedupe_has_garbage(buffer)) ? CDEDUPE_OK : CDEDUPE_EMPTY;
}

bool
cdedupe_has_garbage(const cdedupe_t *buffer)
{
    return sync_load_relaxed(&buffer->uncleared) > 0;
}
