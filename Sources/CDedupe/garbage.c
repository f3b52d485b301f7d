/*
 * What restarts leave behind. A restart only moves the queue's links to the garbage list, whose entries' words are
 * stale from then on (statuses come along); this clears them up one by one, in whoever's call it fits.
 */
#include "buffer.h"

static void
count_uncleared(struct cdedupe *buffer, uint64_t count)
{
    sync_store_relaxed(&buffer->uncleared, count);
}

void
garbage_remove(struct hold *hold, uint32_t link)
{
    ring_remove(&hold->buffer->links, link);
    count_uncleared(hold->buffer, hold->buffer->uncleared - 1);
}

void
orphan_add(struct cdedupe *buffer, cdedupe_slot_t slot)
{
    ring_append(&buffer->links, buffer->orphans, link_new(buffer, slot));
    count_uncleared(buffer, buffer->uncleared + 1);
}

/* stale, live -> idle, still unseen; stale, not live -> dead */
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
        limbo_add(hold, number);
    }
    return word_slot(before);
}

bool
clear_one(struct hold *hold, cdedupe_slot_t *slot)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t link;

    *slot = 0;
    if ((link = ring_first(&buffer->links, buffer->orphans)) != buffer->orphans)
        *slot = link_at(&buffer->links, link)->item;
    else if ((link = ring_first(&buffer->links, buffer->garbage)) == buffer->garbage)
        return false;
    else if (!item_is_status(link_at(&buffer->links, link)->item))
        *slot = clear_entry(hold, link_at(&buffer->links, link)->item);
    garbage_remove(hold, link);
    link_free(hold, link);
    return true;
}

cdedupe_result_t
cdedupe_collect(cdedupe_t *buffer, cdedupe_slot_t *slots, size_t capacity, size_t *count)
{
    struct hold hold;
    size_t steps = 0;
    bool more = true;

    *count = 0;
    hold_init(&hold, buffer);
    while (more && steps < capacity) {
        size_t end = steps + HOLD_SWEEP < capacity ? steps + HOLD_SWEEP : capacity;

        hold_lock(&hold);
        while (steps < end && (more = clear_one(&hold, &slots[*count]))) {
            *count += slots[*count] != 0;
            steps++;
        }
        limbo_step(&hold);
        hold_unlock(&hold);
        lock_rest(&buffer->lock);
    }
    hold_finish(&hold);
    tidy_index(buffer);
    return steps > 0 || more ? CDEDUPE_OK : CDEDUPE_EMPTY;
}

bool
cdedupe_has_garbage(const cdedupe_t *buffer)
{
    return sync_load_relaxed(&buffer->uncleared) > 0;
}
