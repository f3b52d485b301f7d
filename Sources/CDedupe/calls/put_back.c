/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting back: what the sink could not deal with goes back to the front of the queue, as if it had never been taken.
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
 * "Was new", "was": what the item says in `before`. Where values are merged, a newer value that is pending is merged with the
 * item, unless a deletion came between them. And a value that the source has sent again since the restart, which was suppressed
 * because the sink had taken it, is pending again too.
 */
#include "calls/calls.h"

/* One call. */
struct put_back {
    struct lock_scope scope;
    cdedupe_item_t *item;  /* The one that goes back now. */
    struct item_state was; /* What the library keeps in it. */
    bool restarted;        /* Since it was taken. */
    struct entry *merging; /* The item has to be merged first with what is pending here. */
    bool merged;           /* That was done. */
};

/* ---------------------------------------------------------------------------------------------------- */
/* The front of the queue                                                                               */

/* An entry that was not pending. The item's place in the queue is its own again. */
static void
queue_at_front(struct put_back *put_back, uint32_t number)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    uint32_t link = link_new(&put_back->scope, number);

    link_at(&buffer->links, link)->queued = put_back->was.queued;
    entry_at(&buffer->entries, number)->link = link;
    count_pending(buffer);
    ring_prepend(&buffer->links, buffer->queue.ring, link);
}

/* One that is, from wherever its link is: it gets the item's place. */
static void
move_to_front(struct put_back *put_back, uint32_t number)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    uint32_t link = entry_at(&buffer->entries, number)->link;

    link_at(&buffer->links, link)->queued = put_back->was.queued;
    unlink_queued(&put_back->scope, link);
    ring_prepend(&buffer->links, buffer->queue.ring, link);
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
keep_borrowed(struct cdedupe *buffer, uint32_t number)
{
    entry_at(&buffer->entries, number)->link = buffer->batch.borrowed_put_back;
    buffer->batch.borrowed_put_back = number;
}

static void
count_back(struct put_back *put_back)
{
    cdedupe_statistics_t *statistics = &put_back->scope.buffer->statistics;

    statistics->delivered--;
    if (put_back->item->kind == CDEDUPE_ITEM_DELETED)
        statistics->live_keys += put_back->was.before;
    else
        statistics->live_keys -= !put_back->was.before;
}

/* The slot is the queue's again. */
static cdedupe_slot_t
give_slot(struct put_back *put_back)
{
    cdedupe_slot_t slot = put_back->item->slot;

    pending_bytes_add(put_back->scope.buffer, slot);
    put_back->item->slot = 0;
    return slot;
}

/* What the sink has of a key is what it had before the item. */
static void
restore_revision(struct put_back *put_back, uint32_t number, uint64_t revision)
{
    if (suppresses(put_back->scope.buffer))
        entry_set_revision(entry_at(&put_back->scope.buffer->entries, number), revision);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Values                                                                                               */

/* idle -> current [G1] */
static void
put_back_idle(struct put_back *put_back, uint32_t number)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    uint64_t live = put_back->was.before ? WORD_LIVE : 0;

    /* Release, with the acquire of replace_unlocked(): the payload. A store will do: idle words change under the lock. */
    sync_store_release(&entry_at(&buffer->entries, number)->word,
                       word_pending(live, give_slot(put_back), buffer->resync.restart, false));
    queue_at_front(put_back, number);
}

/* Nothing of it is left: the sink has never heard of it. `word` is what it was; it is zero now. [G7] */
static void
forget(struct lock_scope *scope, uint32_t number, uint64_t word)
{
    struct cdedupe *buffer = scope->buffer;

    if (word & WORD_PENDING)
        unqueue(scope, entry_at(&buffer->entries, number)->link);
    /* Of a deletion that carries one; whoever clears up gets it. */
    pending_bytes_subtract(buffer, word_slot(word));
    detached_add(scope, word_slot(word));
    entry_unindex(buffer, number);
    keep_borrowed(buffer, number);
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

/* Whether what is pending has to be merged with the item. If a deletion came in between, that ended the item. */
static bool
is_to_merge(const struct put_back *put_back, uint64_t word)
{
    return put_back->scope.buffer->merge != NULL && !put_back->merged && (word & WORD_PENDING) &&
           !(word & (WORD_DELETION | WORD_MERGE_BARRIER)) && word_slot(word) != 0 &&
           put_back->item->slot != 0;
}

/*
 * Unlocked, but for the merge lock: so the word stays as it is. The newer payload, which stays where it is, becomes what was made
 * of both. [M3]
 */
static void
merge_item(struct put_back *put_back)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    cdedupe_slot_t newer = word_slot(sync_load_relaxed(&put_back->merging->word));
    uint64_t weight = payload_weight(buffer, newer);

    merge_payloads(&put_back->scope, put_back->item->slot, newer);
    scope_lock(&put_back->scope);
    pending_bytes_subtract_weight(buffer, weight);
    pending_bytes_add(buffer, newer);
    scope_unlock(&put_back->scope);
    put_back->merging = NULL;
    put_back->merged = true;
}

/* current: what came in since keeps the place that the item had. */
static void
put_back_replaced(struct put_back *put_back, uint32_t number)
{
    struct lock_scope *scope = &put_back->scope;
    struct entry *entry = entry_at(&scope->buffer->entries, number);

    if (!put_back->was.before) {
        uint64_t word = sync_exchange(&entry->word, 0);

        if (word & WORD_DELETION) {
            forget(scope, number, word);
            scope->buffer->statistics.cancelled += 2;
            return;
        }
        sync_store_release(&entry->word, word & ~WORD_LIVE);
    }
    scope->buffer->statistics.replaced++;
    move_to_front(put_back, number);
}

/* A restart has dropped it. */
static void
drop_value(struct put_back *put_back, uint32_t number, uint64_t word)
{
    struct lock_scope *scope = &put_back->scope;
    struct entry *entry = entry_at(&scope->buffer->entries, number);

    scope->buffer->statistics.dropped++;
    if (put_back->was.before)
        return;
    /* [G2] */
    if (word & WORD_PENDING)
        make_new(entry);
    else
        forget(scope, number, sync_exchange(&entry->word, 0));
}

/*
 * Whether a restart since it was taken has dropped the value. Not if it was sent again, and suppressed: then the word is idle and
 * seen, or what is pending came after that, to be merged.
 */
static bool
is_dropped(const struct put_back *put_back, uint64_t word)
{
    const struct cdedupe *buffer = put_back->scope.buffer;

    if (!put_back->restarted)
        return false;
    if (word_is_unseen(word, buffer->resync.restart))
        return true;
    return (word & WORD_PENDING) &&
           (buffer->merge == NULL || (word & (WORD_DELETION | WORD_MERGE_BARRIER)));
}

/* The key is live, so it is in the index. False: it has to be merged first, and nothing has changed. */
static bool
put_back_value(struct put_back *put_back)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    uint32_t number = find_key(buffer, put_back->item);
    uint64_t word = sync_load_relaxed(&entry_at(&buffer->entries, number)->word);
    bool dropped = is_dropped(put_back, word);

    if (!dropped && is_to_merge(put_back, word)) {
        put_back->merging = entry_at(&buffer->entries, number);
        return false;
    }
    restore_revision(put_back, number, put_back->was.revision);
    if (dropped)
        drop_value(put_back, number, word);
    else if (word & WORD_PENDING)
        put_back_replaced(put_back, number);
    else
        put_back_idle(put_back, number);
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
put_back_to_stale(struct put_back *put_back, uint32_t number)
{
    struct lock_scope *scope = &put_back->scope;
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t before = sync_exchange(
        &entry->word, word_pending(WORD_LIVE, give_slot(put_back), buffer->resync.restart, true));

    dropped_remove(scope, entry->link);
    link_at(&buffer->links, entry->link)->queued = put_back->was.queued;
    count_pending(buffer);
    ring_prepend(&buffer->links, buffer->queue.ring, entry->link);
    detached_add(scope, word_slot(before));
}

static void
drop_deletion(struct put_back *put_back, uint32_t number)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    bool stale = word_is_stale(sync_load_relaxed(&entry->word), buffer->resync.restart);

    if (put_back->was.before && stale && !buffer->resync.deletions_due) {
        put_back_to_stale(put_back, number);
        return;
    }
    buffer->statistics.dropped++;
    if (!put_back->was.before)
        return;
    make_live(entry);
    /* A sweep may be under way, and past this entry. */
    buffer->resync.unseen_generation += stale;
}

/* The key has come up again since. The entry that it had before has what the sink had. */
static void
put_back_outlived(struct put_back *put_back, uint32_t number, uint32_t before)
{
    struct lock_scope *scope = &put_back->scope;

    if (put_back->was.before && suppresses(scope->buffer))
        restore_revision(put_back, number,
                         entry_revision(entry_at(&scope->buffer->entries, before)));
    if (put_back->restarted) {
        drop_deletion(put_back, number);
        return;
    }
    if (put_back->was.before)
        make_live(entry_at(&scope->buffer->entries, number));
    scope->buffer->statistics.replaced++;
    move_to_front(put_back, number);
}

/* Dead -> current [G4]; or, if the deletion is owed at an in-sync that is still to come, idle and unseen [G3]. */
static void
resurrect(struct put_back *put_back, uint32_t number)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t live = put_back->was.before ? WORD_LIVE : 0;

    entry->link = 0;
    if (put_back->restarted && buffer->resync.deletions_due) {
        sync_store_release(&entry->word, word_idle(WORD_RESTART_OLDER));
        buffer->statistics.dropped++;
        /* A sweep may be under way, and past this entry. */
        buffer->resync.unseen_generation++;
    } else {
        sync_store_release(&entry->word,
                           word_pending(live, give_slot(put_back), buffer->resync.restart, true));
        queue_at_front(put_back, number);
    }
}

/* Its entry is the last one lent. False: no memory, and nothing has changed. */
static bool
put_back_deletion(struct put_back *put_back)
{
    struct lock_scope *scope = &put_back->scope;
    struct cdedupe *buffer = scope->buffer;
    uint32_t borrowed = buffer->batch.borrowed, number = find_key(buffer, put_back->item);
    struct entry *entry = entry_at(&buffer->entries, borrowed);
    uint32_t next = entry->link;

    if (number != 0) {
        put_back_outlived(put_back, number, borrowed);
        keep_borrowed(buffer, borrowed);
    } else if (put_back->restarted && !put_back->was.before) {
        buffer->statistics.dropped++;
        keep_borrowed(buffer, borrowed);
    } else {
        if (!index_make_room(&buffer->index, entry->hash, &scope->reserve) ||
            !index_add(&buffer->index, entry->hash, borrowed, &scope->reserve))
            return false;
        resurrect(put_back, borrowed);
    }
    buffer->batch.borrowed = next;
    return true;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Statuses                                                                                             */

/* A restart has dropped it. Statuses that came since were compared with it, as one that was delivered. [G11] */
static void
drop_status(struct put_back *put_back)
{
    struct cdedupe *buffer = put_back->scope.buffer;

    if (buffer->statistics.pending_statuses > 0)
        return;
    if (buffer->resync.dropped_equal_status)
        queue_status(&put_back->scope, put_back->item->status);
    else
        buffer->resync.latest_received = put_back->was.before;
}

/* [G10] */
static void
put_back_status(struct put_back *put_back)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    uint32_t first = ring_first(&buffer->links, buffer->queue.ring);

    buffer->statistics.statuses_delivered--;
    buffer->resync.latest_taken = put_back->was.before;
    if (put_back->restarted) {
        drop_status(put_back);
    } else if (first == buffer->queue.ring ||
               !item_is_status(link_at(&buffer->links, first)->item)) {
        uint32_t link = link_new(&put_back->scope, ITEM_STATUS | put_back->item->status);

        link_at(&buffer->links, link)->queued = put_back->was.queued;
        ring_prepend(&buffer->links, buffer->queue.ring, link);
        buffer->statistics.pending_statuses++;
    }
}

/* ---------------------------------------------------------------------------------------------------- */

/* False: no memory, or it has to be merged first, and nothing has changed. */
static bool
put_back_one(struct put_back *put_back)
{
    /* Whatever becomes of it needs one link at most. */
    if (!link_make_room(&put_back->scope))
        return false;
    if (put_back->item->kind == CDEDUPE_ITEM_STATUS) {
        put_back_status(put_back);
        return true;
    }
    if (!(put_back->item->kind == CDEDUPE_ITEM_DELETED ? put_back_deletion(put_back)
                                                       : put_back_value(put_back)))
        return false;
    count_back(put_back);
    return true;
}

/* One hold. True: there is more to do, and nothing in its way. */
static bool
put_back_some(struct put_back *put_back, cdedupe_item_t *items, size_t *count)
{
    struct cdedupe *buffer = put_back->scope.buffer;

    put_back->restarted = buffer->batch.restarted;
    for (unsigned steps = 0; steps < PUT_BACKS_PER_LOCK && *count != 0; steps++) {
        put_back->item = &items[*count - 1];
        put_back->was = item_state(put_back->item);
        if (!put_back_one(put_back))
            return false;
        --*count;
        buffer->batch.count--;
        put_back->merged = false;
    }
    return *count > 0;
}

/* Unlocked: whether the way is free now. */
static bool
put_back_can_go_on(struct put_back *put_back)
{
    if (put_back->merging == NULL)
        return scope_refill(&put_back->scope);
    merge_item(put_back);
    return true;
}

cdedupe_result_t
cdedupe_put_back(cdedupe_t *buffer, cdedupe_item_t *items, size_t *count)
{
    struct put_back put_back;
    bool more = true, valid;

    if (merge_is_calling(buffer))
        return CDEDUPE_REENTRANT;
    put_back.merging = NULL;
    put_back.merged = false;
    scope_init(&put_back.scope, buffer);
    scope_lock(&put_back.scope);
    valid = buffer->sink.claim != CLAIM_NONE && *count <= buffer->batch.count;
    scope_unlock(&put_back.scope);
    if (!valid)
        return CDEDUPE_INVALID_ARGUMENT;
    merge_lock_for_sink(&put_back.scope);
    while (*count > 0 && (more || put_back_can_go_on(&put_back))) {
        scope_note_time(&put_back.scope);
        scope_lock(&put_back.scope);
        more = put_back_some(&put_back, items, count);
        scope_unlock(&put_back.scope);
        if (more)
            lock_yield(&buffer->lock);
    }
    scope_finish(&put_back.scope);
    return *count == 0 ? CDEDUPE_OK : CDEDUPE_NO_MEMORY;
}
