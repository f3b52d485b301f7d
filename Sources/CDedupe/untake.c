/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Untaking: what the sink could not deal with goes back to the front of the queue, as if it had never been taken.
 *
 * The items of a batch go back from its end, one by one, so that each finds the queue as it was behind it. What came in
 * since counts: a newer update of the key takes the item's place, and a restart leaves no place to go back to.
 *
 *     item       key now             no restart since          a restart since
 *     ---------  ------------------  ------------------------  ---------------------------------------------
 *     value      idle                pending, at the front     dropped; a key that was new goes
 *     value      pending             the newer one moves       dropped; for a key that was new the newer one
 *                                    there; a deletion of a    is new
 *                                    key that was new: both go
 *     deletion   absent              pending, at the front     dropped, and owed at the next in-sync; if that
 *                                                              came already, at the front
 *     deletion   pending             the newer one moves       dropped; the key is live again, if it was
 *                                    there
 *     status                         at the front, but for     dropped; what was received since, and was not
 *                                    one that is first there   queued because it was the same, is queued now
 *
 * "Was new", "was": what the item says in `before`. Where values are merged, a newer value that is pending is given to the
 * caller, to be merged with the item, unless a deletion came between them. And a value that the source has sent again since
 * the restart, which was suppressed because the sink had taken it, is pending again too.
 */
#include "core.h"

/* One call. */
struct untake {
    struct hold hold;
    cdedupe_item_t *item; /* The one that goes back now. */
    bool restarted;       /* Since it was taken. */
    bool waits;           /* Somebody is merging what it would be merged with; */
    unsigned waited;      /* so often it has waited for that. */
    bool incomplete;      /* The caller is to merge it. */
};

/* ---------------------------------------------------------------------------------------------------- */
/* The front of the queue                                                                               */

/* A finish waits for what is at the back of the queue, and so for all before it; it may have got all it waited for. */
static void
owe_all(struct cdedupe *buffer)
{
    if (buffer->finishing == FINISHING_WHEN_DELIVERED) {
        buffer->last_owed = ring_last(&buffer->links, buffer->ring);
        sync_store_relaxed_32(&buffer->stopped, 0);
    }
}

static void
push_front(struct cdedupe *buffer, uint32_t link)
{
    ring_prepend(&buffer->links, buffer->ring, link);
    /* A finish that had got all it waited for waits for this now. */
    if (buffer->finishing == FINISHING_WHEN_DELIVERED && buffer->last_owed == buffer->ring) {
        buffer->last_owed = link;
        sync_store_relaxed_32(&buffer->stopped, 0);
    }
}

/* An entry that was not pending. The item's place in the queue is its own again, with the tag. */
static void
queue_at_front(struct untake *untake, uint32_t number)
{
    struct cdedupe *buffer = untake->hold.buffer;
    uint32_t link = link_new(&untake->hold, number);

    link_at(&buffer->links, link)->queued = untake->item->queued;
    link_set_tag(buffer, link, untake->item->tag);
    untake->item->tag = 0;
    entry_at(&buffer->entries, number)->link = link;
    count_pending(buffer);
    push_front(buffer, link);
}

/* One that is, from wherever its link is: it gets the item's place. */
static void
move_to_front(struct untake *untake, uint32_t number)
{
    struct cdedupe *buffer = untake->hold.buffer;
    uint32_t link = entry_at(&buffer->entries, number)->link;

    link_at(&buffer->links, link)->queued = untake->item->queued;
    unlink_queued(&untake->hold, link);
    push_front(buffer, link);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Entries                                                                                              */

/* The entry of the item's key, or zero: its deletion was taken, and nothing came since. */
static uint32_t
find_key(const struct cdedupe *buffer, const cdedupe_item_t *item)
{
    /* The key that was lent lies in an entry, though perhaps in one that is dead by now. */
    const unsigned char *key = item->key;
    const struct entry *entry = (const void *)(key - offsetof(struct entry, key));

    return index_find(&buffer->index, &buffer->entries, entry->hash, key, item->key_length);
}

/* Dead, but the sink may still be reading its key. */
static void
lend(struct cdedupe *buffer, uint32_t number)
{
    entry_at(&buffer->entries, number)->link = buffer->lent_on;
    buffer->lent_on = number;
}

static void
count_back(struct untake *untake)
{
    cdedupe_statistics_t *statistics = &untake->hold.buffer->statistics;

    statistics->delivered--;
    if (untake->item->kind == CDEDUPE_DELETED)
        statistics->live_keys += untake->item->before;
    else
        statistics->live_keys -= !untake->item->before;
}

/* The slot is the queue's again. */
static cdedupe_slot_t
give_slot(struct untake *untake)
{
    cdedupe_slot_t slot = untake->item->slot;

    weigh_in(untake->hold.buffer, slot);
    untake->item->slot = 0;
    return slot;
}

/* What the sink has of a key is what it had before the item. */
static void
restore_revision(struct untake *untake, uint32_t number, uint64_t revision)
{
    if (suppresses(untake->hold.buffer))
        entry_set_revision(entry_at(&untake->hold.buffer->entries, number), revision);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Values                                                                                               */

/* idle -> current [G1] */
static void
untake_idle(struct untake *untake, uint32_t number)
{
    struct cdedupe *buffer = untake->hold.buffer;
    uint64_t live = untake->item->before ? WORD_LIVE : 0;

    /* Release, with the acquire of replace_unlocked(): the payload. A store will do: idle words change under the lock. */
    sync_store_release(&entry_at(&buffer->entries, number)->word,
                       word_pending(live, give_slot(untake), buffer->restart, false));
    queue_at_front(untake, number);
}

/* Nothing of it is left: the sink has never heard of it. `word` is what it was; it is zero now. [G7] */
static void
forget(struct hold *hold, uint32_t number, uint64_t word)
{
    struct cdedupe *buffer = hold->buffer;
    cdedupe_tag_t tag = 0;

    if (word & WORD_PENDING) {
        uint32_t link = entry_at(&buffer->entries, number)->link;

        tag = link_tag(buffer, link);
        unqueue(hold, link);
    }
    /* Of a deletion that carries one; whoever clears up gets it. */
    weigh_out(buffer, word_slot(word));
    orphan_add(hold, word_slot(word), tag);
    entry_unindex(buffer, number);
    lend(buffer, number);
}

/*
 * A key that is new after all, and has something pending: not live. In two steps, as producers without the lock may be
 * changing the rest of the word: dead for a moment [G5], it sends them to the lock [G8].
 */
static void
make_new(struct entry *entry)
{
    uint64_t word = sync_exchange(&entry->word, 0);

    sync_store_release(&entry->word, word & ~WORD_LIVE);
}

/*
 * A value that is pending now has to be merged with the item: the caller gets it. See begin_merge(). But if a deletion came
 * in between, that ended the item. [M3]
 */
static void
begin_merge(struct untake *untake, struct entry *entry)
{
    uint64_t word = sync_exchange(&entry->word, 0);

    if (!(word & (WORD_DELETION | WORD_ALONE)) && word_slot(word) != 0 && untake->item->slot != 0) {
        weigh_out(untake->hold.buffer, word_slot(word));
        untake->item->newer = word_slot(word);
        word |= WORD_MERGING;
    }
    sync_store_release(&entry->word, word);
}

/* current: what came in since keeps the place that the item had. */
static void
untake_replaced(struct untake *untake, uint32_t number)
{
    struct hold *hold = &untake->hold;
    struct entry *entry = entry_at(&hold->buffer->entries, number);

    if (!untake->item->before) {
        uint64_t word = sync_exchange(&entry->word, 0);

        if (word & WORD_DELETION) {
            forget(hold, number, word);
            hold->buffer->statistics.cancelled += 2;
            return;
        }
        sync_store_release(&entry->word, word & ~WORD_LIVE);
    }
    if (hold->buffer->merging)
        begin_merge(untake, entry);
    hold->buffer->statistics.replaced++;
    move_to_front(untake, number);
}

/* A restart has dropped it. */
static void
drop_value(struct untake *untake, uint32_t number, uint64_t word)
{
    struct hold *hold = &untake->hold;
    struct entry *entry = entry_at(&hold->buffer->entries, number);

    hold->buffer->statistics.dropped++;
    if (untake->item->before)
        return;
    /* [G2] */
    if (word & WORD_PENDING)
        make_new(entry);
    else
        forget(hold, number, sync_exchange(&entry->word, 0));
}

/*
 * Whether a restart since it was taken has dropped the value. Not if it was sent again, and suppressed: then the word is idle and
 * seen, or what is pending came after that, to be merged.
 */
static bool
is_dropped(const struct untake *untake, uint64_t word)
{
    const struct cdedupe *buffer = untake->hold.buffer;

    if (!untake->restarted)
        return false;
    if (word_is_unseen(word, buffer->restart))
        return true;
    return (word & WORD_PENDING) && (!buffer->merging || (word & (WORD_DELETION | WORD_ALONE)));
}

/* The key is live, so it is in the index. False: somebody is merging, and nothing has changed. */
static bool
untake_value(struct untake *untake)
{
    struct cdedupe *buffer = untake->hold.buffer;
    uint32_t number = find_key(buffer, untake->item);
    uint64_t word = sync_load_relaxed(&entry_at(&buffer->entries, number)->word);
    bool dropped = is_dropped(untake, word);

    untake->waits = !dropped && word_is_merging(word, buffer->restart);
    if (untake->waits)
        return false;
    restore_revision(untake, number, untake->item->revision);
    if (dropped)
        drop_value(untake, number, word);
    else if (word & WORD_PENDING)
        untake_replaced(untake, number);
    else
        untake_idle(untake, number);
    return true;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Deletions                                                                                            */

/* A key that has come up again since, so is not live, becomes live; see make_new(). [G6] */
static void
make_live(struct entry *entry)
{
    uint64_t word = sync_exchange(&entry->word, 0);

    sync_store_release(&entry->word, word | WORD_LIVE);
}

/* stale -> current: the in-sync has come, and the restart dropped what was pending after the deletion. [G9] */
static void
untake_to_stale(struct untake *untake, uint32_t number)
{
    struct hold *hold = &untake->hold;
    struct cdedupe *buffer = hold->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t before = sync_exchange(&entry->word, word_pending(WORD_LIVE, give_slot(untake), buffer->restart, true));

    garbage_remove(hold, entry->link);
    link_at(&buffer->links, entry->link)->queued = untake->item->queued;
    count_pending(buffer);
    push_front(buffer, entry->link);
    orphan_add(hold, word_payload(before), link_tag(buffer, entry->link));
    link_set_tag(buffer, entry->link, untake->item->tag);
    untake->item->tag = 0;
}

static void
drop_deletion(struct untake *untake, uint32_t number)
{
    struct cdedupe *buffer = untake->hold.buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    bool stale = word_is_stale(sync_load_relaxed(&entry->word), buffer->restart);

    if (untake->item->before && stale && !buffer->resync) {
        untake_to_stale(untake, number);
        return;
    }
    buffer->statistics.dropped++;
    if (!untake->item->before)
        return;
    make_live(entry);
    /* A sweep may be under way, and past this entry. */
    buffer->made_unseen += stale;
}

/* The key has come up again since. The entry that it had before has what the sink had. */
static void
untake_outlived(struct untake *untake, uint32_t number, uint32_t before)
{
    struct hold *hold = &untake->hold;

    if (untake->item->before && suppresses(hold->buffer))
        restore_revision(untake, number, entry_revision(entry_at(&hold->buffer->entries, before)));
    if (untake->restarted) {
        drop_deletion(untake, number);
        return;
    }
    if (untake->item->before)
        make_live(entry_at(&hold->buffer->entries, number));
    hold->buffer->statistics.replaced++;
    move_to_front(untake, number);
}

/* Dead -> current [G4]; or, if the deletion is owed at an in-sync that is still to come, idle and unseen [G3]. */
static void
resurrect(struct untake *untake, uint32_t number)
{
    struct cdedupe *buffer = untake->hold.buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t live = untake->item->before ? WORD_LIVE : 0;

    entry->link = 0;
    if (untake->restarted && buffer->resync) {
        sync_store_release(&entry->word, word_idle(WORD_RESTART_OLDER));
        buffer->statistics.dropped++;
        /* A sweep may be under way, and past this entry. */
        buffer->made_unseen++;
    } else {
        sync_store_release(&entry->word, word_pending(live, give_slot(untake), buffer->restart, true));
        queue_at_front(untake, number);
    }
}

/* Its entry is the last one lent. False: no memory, and nothing has changed. */
static bool
untake_deletion(struct untake *untake)
{
    struct hold *hold = &untake->hold;
    struct cdedupe *buffer = hold->buffer;
    uint32_t lent = buffer->lent, number = find_key(buffer, untake->item);
    struct entry *entry = entry_at(&buffer->entries, lent);
    uint32_t next = entry->link;

    if (number != 0) {
        untake_outlived(untake, number, lent);
        lend(buffer, lent);
    } else if (untake->restarted && !untake->item->before) {
        buffer->statistics.dropped++;
        lend(buffer, lent);
    } else {
        if (!index_make_room(&buffer->index, entry->hash, &hold->reserve) ||
            !index_add(&buffer->index, entry->hash, lent, &hold->reserve))
            return false;
        resurrect(untake, lent);
    }
    buffer->lent = next;
    return true;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Statuses                                                                                             */

/* A restart has dropped it. Statuses that came since were compared with it, as one that was delivered. [G11] */
static void
drop_status(struct untake *untake)
{
    struct cdedupe *buffer = untake->hold.buffer;

    if (buffer->statistics.pending_statuses > 0)
        return;
    if (buffer->swallowed) {
        append_status(&untake->hold, untake->item->status);
        owe_all(buffer);
    } else {
        buffer->latest_received = untake->item->before;
    }
}

/* [G10] */
static void
untake_status(struct untake *untake)
{
    struct cdedupe *buffer = untake->hold.buffer;
    uint32_t first = ring_first(&buffer->links, buffer->ring);

    buffer->statistics.statuses_delivered--;
    buffer->latest_taken = untake->item->before;
    if (untake->restarted) {
        drop_status(untake);
    } else if (first == buffer->ring || !item_is_status(link_at(&buffer->links, first)->item)) {
        uint32_t link = link_new(&untake->hold, ITEM_STATUS | untake->item->status);

        link_at(&buffer->links, link)->queued = untake->item->queued;
        push_front(buffer, link);
        buffer->statistics.pending_statuses++;
    }
}

/* ---------------------------------------------------------------------------------------------------- */

/* False: no memory, or somebody is merging, and nothing has changed. */
static bool
untake_one(struct untake *untake)
{
    untake->waits = false;
    untake->item->newer = 0;
    /* Whatever becomes of it needs one link at most. */
    if (!link_make_room(&untake->hold))
        return false;
    if (untake->item->kind == CDEDUPE_STATUS) {
        untake_status(untake);
        return true;
    }
    if (!(untake->item->kind == CDEDUPE_DELETED ? untake_deletion(untake) : untake_value(untake)))
        return false;
    count_back(untake);
    return true;
}

/* One hold. True: there is more to do, and nothing in its way. */
static bool
untake_some(struct untake *untake, cdedupe_item_t *items, size_t *count)
{
    struct cdedupe *buffer = untake->hold.buffer;

    untake->restarted = buffer->restarted;
    for (unsigned steps = 0; steps < HOLD_UNTAKE && *count != 0; steps++) {
        untake->item = &items[*count - 1];
        if (!untake_one(untake))
            return false;
        --*count;
        buffer->batch--;
        /* The caller has to merge first: meanwhile others wait. */
        untake->incomplete = untake->item->newer != 0;
        if (untake->incomplete)
            return false;
    }
    return *count > 0;
}

/* Unlocked: whether the way is free now. */
static bool
untake_can_go_on(struct untake *untake)
{
    if (!untake->waits)
        return hold_refill(&untake->hold);
    hold_wake(&untake->hold);
    wait_a_little(untake->waited++);
    return true;
}

cdedupe_result_t
cdedupe_untake(cdedupe_t *buffer, cdedupe_item_t *items, size_t *count)
{
    struct untake untake;
    bool more = true, valid;

    untake.incomplete = false;
    untake.waited = 0;
    hold_init(&untake.hold, buffer);
    hold_lock(&untake.hold);
    valid = buffer->claim != CLAIM_NONE && *count <= buffer->batch;
    hold_unlock(&untake.hold);
    if (!valid)
        return CDEDUPE_INVALID_ARGUMENT;
    while (*count > 0 && !untake.incomplete && (more || untake_can_go_on(&untake))) {
        hold_note_time(&untake.hold);
        hold_lock(&untake.hold);
        more = untake_some(&untake, items, count);
        hold_unlock(&untake.hold);
        if (more)
            lock_rest(&buffer->lock);
    }
    hold_finish(&untake.hold);
    if (untake.incomplete)
        return CDEDUPE_INCOMPLETE;
    return *count == 0 ? CDEDUPE_OK : CDEDUPE_NO_MEMORY;
}
