/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks every invariant of the buffer, in any build.
 *
 *     cdedupe_validate
 *         map_make                   before the lock
 *         validate_all               under the lock
 *             arena_validate         entries, slots and links (arena.c)
 *             map_note_free          the free slots
 *             index_validate         index.c
 *             validate_entries       validate_entry() for each entry; fills the census
 *             validate_queue         validate_queued() for each link of the ring
 *             validate_dropped       the dropped list and the detached payloads
 *             validate_sums          the census against the statistics
 *             validate_slots         only if was_quiet()
 */
#include "calls/calls.h"

#include <stdlib.h>

/*
 * A bit for each slot that is free or was met. It finds a slot that two words own, and a slot that
 * is free and owned.
 *
 * Its memory comes from the system instead of the allocator hooks, and before the lock is taken. If
 * there is no memory for it, this check is left out.
 */
struct slot_map {
    unsigned char *bits;
    uint32_t slabs; /* The map has room for the slabs with lower numbers than this. */
};

/* The result of a walk over the entries. */
struct census {
    struct slot_map map;
    uint64_t pending;
    uint64_t stale;
    uint64_t live;
    uint64_t pinned;
    uint64_t alive;
    uint64_t slots;
    uint64_t bytes; /* The sum of the weights of the pending payloads. */
    bool slot_met_twice;
};

static struct slot_map
map_make(struct cdedupe *buffer)
{
    struct slot_map map;

    lock_acquire(&buffer->lock);
    map.slabs = buffer->slots.slab_count + 2;
    lock_release(&buffer->lock);
    map.bits = calloc(map.slabs, SLAB_CELLS_MAX / 8);
    return map;
}

/* Notes a slot. False: the slot had been noted before. */
static bool
map_note(const struct slot_map *map, uint32_t slot)
{
    unsigned char bit = (unsigned char)(1u << (slot & 7));

    if (map->bits == NULL || slot == 0 || slot >> SLAB_SHIFT >= map->slabs)
        return true;
    if (map->bits[slot >> 3] & bit)
        return false;
    map->bits[slot >> 3] |= bit;
    return true;
}

static void
map_note_free(const struct cdedupe *buffer, const struct slot_map *map)
{
    const struct arena *slots = &buffer->slots;

    for (uint32_t i = 1; i <= slots->slab_count && i < map->slabs; i++) {
        if (slots->slabs[i].cells == 0)
            continue;
        for (uint32_t slot = slots->slabs[i].free_head; slot != 0;
             slot = *(const uint32_t *)arena_at(slots, slot))
            map_note(map, slot);
    }
}

static const char *
validate_entry(const struct cdedupe *buffer, uint32_t number, struct census *census)
{
    const struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t word = sync_load_relaxed(&entry->word);
    bool pending = (word & WORD_PENDING) != 0;

    if (word == 0)
        return entry_pins(entry) == 0 ? NULL : "entry: dead, but pinned";
    census->pinned += entry_pins(entry) > 0;
    census->alive++;
    census->live += (word & WORD_LIVE) != 0;
    census->slots += word_slot(word) != 0;
    census->slot_met_twice |= !map_note(&census->map, word_slot(word));
    if (!(word & WORD_INDEXED))
        return "entry: a word that is not zero is not indexed";
    if (!pending && ((word & WORD_DELETION) || word_slot(word) != 0))
        return "entry: not pending, but has a payload or a deletion";
    if (!(word & (WORD_PENDING | WORD_LIVE)) && (word != WORD_VACANT || entry_pins(entry) == 0))
        return "entry: neither pending, idle nor pinned";
    if ((word & WORD_MERGE_BARRIER) &&
        (buffer->merge == NULL || !pending || (word & WORD_DELETION)))
        return "entry: has a merge barrier, but is not a pending value";
    if (pending && link_at(&buffer->links, entry->link)->item != number)
        return "entry: pending, but its link names another entry";
    if (word_is_current(word, buffer->resync.restart)) {
        census->pending++;
        census->bytes += payload_weight(buffer, word_slot(word));
    } else if (pending) {
        census->stale++;
    }
    if (index_find(&buffer->index, &buffer->entries, entry->hash, entry->key,
                   entry_key_length(entry)) != number)
        return "entry: not found by its key";
    if (hash_key(&buffer->secret, entry->key, entry_key_length(entry)) != entry->hash)
        return "entry: its hash is not its key's";
    return NULL;
}

static const char *
validate_entries(const struct cdedupe *buffer, struct census *census)
{
    uint32_t number = 0;

    while ((number = arena_next_touched(&buffer->entries, number)) != 0) {
        const char *fault = validate_entry(buffer, number, census);

        if (fault != NULL)
            return fault;
        number++;
    }
    return NULL;
}

/* The result of a walk over the queue. */
struct queue_walk {
    uint64_t keys;
    uint64_t statuses;
    bool after_status;
};

static const char *
validate_queued(const struct cdedupe *buffer, uint32_t link, struct queue_walk *walk)
{
    uint32_t item = link_at(&buffer->links, link)->item;
    const struct entry *entry;

    if (item_is_status(item)) {
        walk->statuses++;
        if (walk->after_status)
            return "ring: two statuses are neighbours";
        walk->after_status = true;
        return NULL;
    }
    walk->keys++;
    walk->after_status = false;
    entry = entry_at(&buffer->entries, item);
    if (!word_is_current(sync_load_relaxed(&entry->word), buffer->resync.restart) ||
        entry->link != link)
        return "ring: a link's entry is not current";
    return NULL;
}

static const char *
validate_queue(const struct cdedupe *buffer)
{
    struct queue_walk walk = {0};
    uint32_t previous = buffer->queue.ring;

    for (uint32_t link = ring_first(&buffer->links, buffer->queue.ring); link != buffer->queue.ring;
         link = link_at(&buffer->links, link)->next) {
        const char *fault = validate_queued(buffer, link, &walk);

        if (fault != NULL)
            return fault;
        if (link_at(&buffer->links, link)->previous != previous ||
            walk.keys + walk.statuses > buffer->links.used)
            return "ring: the links are torn";
        previous = link;
    }
    if (ring_last(&buffer->links, buffer->queue.ring) != previous)
        return "ring: the end is torn";
    if (walk.keys != buffer->statistics.pending_keys ||
        walk.statuses != buffer->statistics.pending_statuses)
        return "ring: the counters are wrong";
    return NULL;
}

/* The result of a walk over the dropped list and the detached payloads. */
struct dropped_walk {
    uint64_t stale;
    uint64_t statuses;
    uint64_t detached;
};

static const char *
validate_dropped(const struct cdedupe *buffer, struct census *census, struct dropped_walk *walk)
{
    uint32_t link;

    for (link = ring_first(&buffer->links, buffer->queue.dropped); link != buffer->queue.dropped;
         link = link_at(&buffer->links, link)->next) {
        uint32_t item = link_at(&buffer->links, link)->item;
        const struct entry *entry;

        if (item_is_status(item)) {
            walk->statuses++;
            continue;
        }
        entry = entry_at(&buffer->entries, item);
        if (!word_is_stale(sync_load_relaxed(&entry->word), buffer->resync.restart) ||
            entry->link != link)
            return "dropped: a link's entry is not stale";
        walk->stale++;
    }
    for (link = ring_first(&buffer->links, buffer->queue.detached); link != buffer->queue.detached;
         link = link_at(&buffer->links, link)->next) {
        uint32_t slot = link_at(&buffer->links, link)->item;

        census->slots++;
        census->slot_met_twice |= !map_note(&census->map, slot);
        walk->detached++;
    }
    return NULL;
}

static uint64_t
count_chain(const struct cdedupe *buffer, uint32_t number)
{
    uint64_t count = 0;

    for (; number != 0 && count <= buffer->entries.used; count++)
        number = entry_at(&buffer->entries, number)->link;
    return count;
}

static uint64_t
count_borrowed(const struct cdedupe *buffer)
{
    return count_chain(buffer, buffer->batch.borrowed) +
           count_chain(buffer, buffer->batch.borrowed_put_back);
}

static const char *
validate_sums(const struct cdedupe *buffer, const struct census *census,
              const struct dropped_walk *dropped)
{
    const cdedupe_statistics_t *statistics = &buffer->statistics;
    uint64_t ended = statistics->delivered + statistics->replaced + statistics->cancelled +
                     statistics->suppressed + statistics->dropped;

    if (census->pending != statistics->pending_keys)
        return "entries: the current ones are not as many as the queued keys";
    if (census->bytes != statistics->pending_bytes)
        return "entries: the sum of the pending weights is wrong";
    if (census->stale != dropped->stale)
        return "entries: the stale ones are not as many as the dropped links";
    if (buffer->queue.uncleared != dropped->stale + dropped->statuses + dropped->detached)
        return "dropped: the count is wrong";
    if (census->live != statistics->live_keys)
        return "entries: the count of live keys is wrong";
    if (census->pinned != statistics->pinned_keys)
        return "entries: the count of pinned keys is wrong";
    if (census->alive != buffer->index.count)
        return "entries: those alive are not as many as the indexed ones";
    if (census->alive + count_borrowed(buffer) + retired_count(&buffer->retired) !=
        buffer->entries.used)
        return "entries: one is neither alive, borrowed, retired nor free";
    if (buffer->links.used !=
        3 + statistics->pending_keys + statistics->pending_statuses + buffer->queue.uncleared)
        return "links: one is in no list";
    if (statistics->pending_statuses > statistics->pending_keys + 1)
        return "statuses: more than keys plus one";
    if (statistics->received + statistics->synthesized_deletions !=
        ended + statistics->pending_keys)
        return "statistics: an update ended in no way, or in two";
    return NULL;
}

/*
 * Whether no producer replaced anything during the walk, which is the only change that goes on
 * while another thread holds the lock. A producer may move a slot from a word that the walk has met
 * to a word that it has not met yet. The walk then meets this slot twice, so slots are judged only
 * if the walk was quiet.
 */
static bool
was_quiet(const struct cdedupe *buffer, uint64_t replaced_before)
{
    return context_is_quiet(&buffer->contexts) &&
           context_count_replaced(&buffer->contexts) == replaced_before;
}

static const char *
validate_slots(const struct cdedupe *buffer, const struct census *census)
{
    if (census->slot_met_twice)
        return "slots: one is owned twice, or free and owned";
    if (census->slots > buffer->slots.used)
        return "slots: a free one is in use";
    return NULL;
}

/*
 * Whether the loop must have been woken. On a buffer that merges, the loop may sleep for a moment
 * although something is queued or the buffer was stopped: the call that has just unlocked the merge
 * lock is about to look for a sleeping loop.
 */
static bool
must_be_awake(const struct cdedupe *buffer)
{
    return buffer->merge == NULL &&
           (buffer->end.stopped || !ring_is_empty(&buffer->links, buffer->queue.ring));
}

static const char *
validate_all(const struct cdedupe *buffer, struct slot_map map)
{
    uint64_t replaced = context_count_replaced(&buffer->contexts);
    struct census census = {.map = map};
    struct dropped_walk dropped = {0};
    const char *fault;

    if ((fault = arena_validate(&buffer->entries)) != NULL ||
        (fault = arena_validate(&buffer->slots)) != NULL ||
        (fault = arena_validate(&buffer->links)) != NULL)
        return fault;
    map_note_free(buffer, &map);
    if ((fault = index_validate(&buffer->index, &buffer->entries)) != NULL ||
        (fault = validate_entries(buffer, &census)) != NULL ||
        (fault = validate_queue(buffer)) != NULL)
        return fault;
    if (buffer->bounds.overflowed && !ring_is_empty(&buffer->links, buffer->queue.ring))
        return "overflow: the queue is not empty";
    if (buffer->sink.asleep && must_be_awake(buffer))
        return "loop: asleep although it has something to do";
    if ((fault = validate_dropped(buffer, &census, &dropped)) != NULL)
        return fault;
    if ((fault = validate_sums(buffer, &census, &dropped)) != NULL || !was_quiet(buffer, replaced))
        return fault;
    return validate_slots(buffer, &census);
}

const char *
cdedupe_validate(cdedupe_t *buffer)
{
    struct slot_map map;
    struct lock_scope scope;
    const char *fault;

    if (merge_is_calling(buffer))
        return "called from inside the merge callback of the same buffer";
    map = map_make(buffer);
    scope_init(&scope, buffer);
    merge_lock(&scope);
    scope_lock(&scope);
    fault = validate_all(buffer, map);
    scope_unlock(&scope);
    scope_finish(&scope);
    free(map.bits);
    return fault;
}
