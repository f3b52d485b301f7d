/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting back: an item that the sink could not handle goes back to the front of the queue, as if
 * it had never been taken.
 *
 *     cdedupe_put_back
 *         put_back_some              one lock scope
 *             put_back_one
 *                 put_back_status
 *                 put_back_value     idle -> current, and the other transitions of values
 *                 put_back_deletion  dead -> current, and the other transitions of deletions
 *         merge_item                 between two lock scopes: the merge callback
 *
 * The items of a batch go back from its end, one by one. Each item therefore finds the queue as it
 * was right behind the item.
 *
 *     item      key now    no restart since the take      a restart since the take
 *     --------  ---------  -----------------------------  ----------------------------------------
 *     value     idle       current, at the front          dropped; if the key was new: dead
 *     value     pending    the newer update moves to      dropped; if the key was new, the newer
 *                          the front; if that is a        update makes it new again
 *                          deletion and the key was
 *                          new: both leave
 *     deletion  absent     current, at the front          dropped if it was not live; else idle
 *                                                         and unseen until the next in-sync
 *                                                         synthesizes it; if that in-sync has come:
 *                                                         current, at the front
 *     deletion  pending    the newer update moves to      dropped, and the key is live again if it
 *                          the front                      was; but current, at the front, if it was
 *                                                         live, is stale and that in-sync has come
 *     status               at the front, except if a      dropped; if an equal status was received
 *                          status is first there          and not queued since: that one is queued
 *
 * A key whose entry is vacant counts as absent. Where a key becomes dead or both leave, an entry
 * with pins becomes vacant.
 *
 * "Was new" and "was live" tell the key's state before the take, from the item's `before`.
 *
 * Two rules have precedence over the table. On a buffer that merges, a value is merged with a newer
 * pending value, unless a deletion or a restart came between them. After a restart, the source may
 * have sent the item's value again, and the buffer may have suppressed it because the sink had
 * taken it. Such an item goes back as if there had been no restart.
 */
#include "calls/calls.h"

/* One call. */
struct put_back {
    struct lock_scope scope;
    cdedupe_item_t *item;  /* The item that goes back now. */
    struct item_state was; /* The item's state before the take. */
    bool restarted;        /* A restart came since the batch began. */
    struct entry *merging; /* The entry whose pending value must be merged with the item first. */
    bool merged;           /* The item has been merged with the pending value. */
};

/* ---------------------------------------------------------------------------------------------- */
/* The front of the queue                                                                         */

/* Queues an entry that has no link. It gets the item's place, at the front, and the item's time. */
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

/* Moves the link of a current entry to the front. The entry gets the item's place and time. */
static void
move_to_front(struct put_back *put_back, uint32_t number)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    uint32_t link = entry_at(&buffer->entries, number)->link;

    link_at(&buffer->links, link)->queued = put_back->was.queued;
    unlink_queued(&put_back->scope, link);
    ring_prepend(&buffer->links, buffer->queue.ring, link);
}

/* ---------------------------------------------------------------------------------------------- */
/* Entries                                                                                        */

/*
 * The entry in which the key lies that the sink borrowed. It may be dead, and is still readable.
 */
static const struct entry *
taken_entry(const cdedupe_item_t *item)
{
    const unsigned char *key = item->key;

    return (const void *)(key - offsetof(struct entry, key));
}

/*
 * The entry of the item's key. Zero, or a vacant entry, if the item is a deletion and no update of
 * the key came since.
 */
static uint32_t
find_key(const struct cdedupe *buffer, const cdedupe_item_t *item)
{
    return index_find(&buffer->index, &buffer->entries, taken_entry(item)->hash, item->key,
                      item->key_length);
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

/* Takes the payload from the item: it belongs to the queue again. */
static cdedupe_slot_t
give_slot(struct put_back *put_back)
{
    cdedupe_slot_t slot = put_back->item->slot;

    pending_bytes_add(put_back->scope.buffer, slot);
    put_back->item->slot = 0;
    return slot;
}

/* The sink does not have the item, so the key gets back the revision from before the take. */
static void
restore_revision(struct put_back *put_back, uint32_t number, uint64_t revision)
{
    if (suppresses(put_back->scope.buffer))
        entry_set_revision(entry_at(&put_back->scope.buffer->entries, number), revision);
}

/* ---------------------------------------------------------------------------------------------- */
/* Values                                                                                         */

/* Model step G1, idle -> current: the value is pending again. */
static void
put_back_idle(struct put_back *put_back, uint32_t number)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    uint64_t live = put_back->was.before ? WORD_LIVE : 0;

    /*
     * Release: pairs with the acquire in replace_unlocked(). Without it a producer could destroy
     * the payload before all of it is visible. A store is enough, because idle words change only
     * under the lock.
     */
    sync_store_release(&entry_at(&buffer->entries, number)->word,
                       word_pending(live, give_slot(put_back), buffer->resync.restart, false));
    queue_at_front(put_back, number);
}

/*
 * Model step G7: the key leaves the buffer, because the sink has no value of it. The caller has
 * exchanged the entry's word for zero; `word` is the word from before.
 */
static void
forget(struct lock_scope *scope, uint32_t number, uint64_t word)
{
    struct cdedupe *buffer = scope->buffer;

    if (word & WORD_PENDING)
        unqueue(scope, entry_at(&buffer->entries, number)->link);
    /* A deletion may carry a payload. A later call that clears returns it to its caller. */
    pending_bytes_subtract(buffer, word_slot(word));
    detached_add(scope, word_slot(word));
    entry_lend(entry_at(&buffer->entries, number));
    entry_leave(scope, number);
}

/*
 * The key of a pending update is not live after all. Producers without the lock may be changing the
 * rest of the word, so the change takes two steps. Model step G5: the exchange leaves zero, which
 * sends those producers to the lock. Model step G8: the store makes the word pending again, not
 * live.
 *
 * Release: pairs with the acquire in replace_unlocked(). Without it a producer could destroy the
 * pending payload while it sees only a part of it.
 */
static void
make_new(struct entry *entry)
{
    uint64_t word = sync_exchange(&entry->word, 0);

    sync_store_release(&entry->word, word & ~WORD_LIVE);
}

/*
 * Whether the item must be merged with the pending value. A deletion or a restart that came between
 * the two forbids it; the merge barrier of the word tells so.
 */
static bool
is_to_merge(const struct put_back *put_back, uint64_t word)
{
    return put_back->scope.buffer->merge != NULL && !put_back->merged && (word & WORD_PENDING) &&
           !(word & (WORD_DELETION | WORD_MERGE_BARRIER)) && word_slot(word) != 0 &&
           put_back->item->slot != 0;
}

/*
 * Model step M3, with the merge lock alone, under which no other thread changes the word. The
 * callback merges the item's payload into the newer, pending payload. The newer payload stays in
 * its slot.
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

/*
 * The key is current, because a newer update came since the take: the newer update gets the item's
 * place. If the key was new, the same two steps as in make_new() make it not live. If the newer
 * update is then a deletion, both leave.
 */
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

/* A restart since the take has dropped the value. A key that was new is no longer live. */
static void
drop_value(struct put_back *put_back, uint32_t number, uint64_t word)
{
    struct lock_scope *scope = &put_back->scope;
    struct entry *entry = entry_at(&scope->buffer->entries, number);

    scope->buffer->statistics.dropped++;
    if (put_back->was.before)
        return;
    /* Model step G2: the key leaves, unless a newer update is pending. */
    if (word & WORD_PENDING)
        make_new(entry);
    else
        forget(scope, number, sync_exchange(&entry->word, 0));
}

/*
 * Whether a restart since the take has dropped the value. The restart has not dropped it if the
 * source sent the value again and the buffer suppressed it. Then the word is idle and seen; or, on
 * a buffer that merges, a later value is pending, without a merge barrier.
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

/*
 * Puts a value back. Its key is live since the take, so it is in the index. Returns false if the
 * item must be merged first; then nothing has changed.
 */
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

/* ---------------------------------------------------------------------------------------------- */
/* Deletions                                                                                      */

/*
 * Model step G6: the key becomes live again. An update came after its deletion was taken, so the
 * key has a new entry, which is not live. The two steps and the ordering are those of make_new().
 */
static void
make_live(struct entry *entry)
{
    uint64_t word = sync_exchange(&entry->word, 0);

    sync_store_release(&entry->word, word | WORD_LIVE);
}

/*
 * Model step G9, stale -> current: the deletion becomes pending, and the update that the restart
 * dropped gives up its link. The in-sync after the restart has come, so no sweep would synthesize
 * the deletion.
 *
 * An exchange, because a producer that read the restart number before the restart may still be
 * replacing the stale payload in replace_unlocked(). With a store that producer's payload would be
 * lost.
 */
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
    /* If the entry is unseen now, a running sweep that has passed it must start again. */
    buffer->resync.unseen_generation += stale;
}

/* The entry `number` gets the revision that the sink had when the deletion was taken. */
static void
inherit_revision(struct put_back *put_back, uint32_t number)
{
    if (suppresses(put_back->scope.buffer))
        restore_revision(put_back, number, entry_revision(taken_entry(put_back->item)));
}

/*
 * An update of the key came after its deletion was taken. The key has a new entry, unless pins kept
 * the one that was taken.
 */
static void
put_back_outlived(struct put_back *put_back, uint32_t number)
{
    struct lock_scope *scope = &put_back->scope;

    if (put_back->was.before)
        inherit_revision(put_back, number);
    if (put_back->restarted) {
        drop_deletion(put_back, number);
        return;
    }
    if (put_back->was.before)
        make_live(entry_at(&scope->buffer->entries, number));
    scope->buffer->statistics.replaced++;
    move_to_front(put_back, number);
}

/*
 * Model step G4, dead -> current: the deletion is pending again. Model step G3, dead -> idle and
 * unseen: an in-sync that is still to come will synthesize the deletion. The entry is in the index
 * again.
 *
 * Release: pairs with the acquire in is_key() and in replace_unlocked(). Without it a producer
 * could see the word before the entry's key, or destroy the payload before all of it is visible.
 */
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
        /* A running sweep that has passed the entry must start again. */
        buffer->resync.unseen_generation++;
    } else {
        sync_store_release(&entry->word,
                           word_pending(live, give_slot(put_back), buffer->resync.restart, true));
        queue_at_front(put_back, number);
    }
}

/*
 * The entry that comes back to life: the one that was taken, if it is the borrowed entry `borrowed`
 * and the index has none of the key. A vacant entry `number` is used as it is. If the entry that
 * was taken had pins, and has lost them and died since, the key gets a new entry. Returns zero if
 * memory is missing; then nothing has changed.
 */
static uint32_t
entry_to_resurrect(struct put_back *put_back, uint32_t number, uint32_t borrowed)
{
    struct lock_scope *scope = &put_back->scope;
    struct index *index = &scope->buffer->index;
    const cdedupe_item_t *item = put_back->item;
    struct new_key key = {item->key, item->key_length, taken_entry(item)->hash};

    if (number == 0 && borrowed != 0)
        return index_make_room(index, key.hash, &scope->reserve) &&
                       index_add(index, key.hash, borrowed, &scope->reserve)
                   ? borrowed
                   : 0;
    if (number == 0 && entry_make_room(scope, &key))
        number = entry_add(scope, &key, WORD_VACANT);
    if (number != 0)
        inherit_revision(put_back, number);
    return number;
}

/*
 * Where the list of borrowed entries has the entry that was taken, if it died then. It is the first
 * of the list if the items go back in reverse order, as they do unless the caller has moved some.
 * The place of the list's end, which reads zero, if pins kept the entry.
 */
static uint32_t *
find_borrowed(const struct put_back *put_back)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    uint32_t *place = &buffer->batch.borrowed;

    while (*place != 0 && entry_at(&buffer->entries, *place) != taken_entry(put_back->item))
        place = &entry_at(&buffer->entries, *place)->link;
    return place;
}

static bool
is_present(const struct cdedupe *buffer, uint32_t number)
{
    return number != 0 &&
           sync_load_relaxed(&entry_at(&buffer->entries, number)->word) != WORD_VACANT;
}

/* Puts a deletion back. Returns false if memory is missing; then nothing has changed. */
static bool
put_back_deletion(struct put_back *put_back)
{
    struct cdedupe *buffer = put_back->scope.buffer;
    uint32_t *place = find_borrowed(put_back);
    uint32_t borrowed = *place, number = find_key(buffer, put_back->item);
    uint32_t next = borrowed == 0 ? 0 : entry_at(&buffer->entries, borrowed)->link;

    if (is_present(buffer, number)) {
        put_back_outlived(put_back, number);
    } else if (put_back->restarted && !put_back->was.before) {
        buffer->statistics.dropped++;
    } else {
        number = entry_to_resurrect(put_back, number, borrowed);
        if (number == 0)
            return false;
        resurrect(put_back, number);
    }
    if (borrowed != 0) {
        *place = next;
        if (number != borrowed)
            entry_keep_borrowed(buffer, borrowed);
    }
    return true;
}

/* ---------------------------------------------------------------------------------------------- */
/* Statuses                                                                                       */

/*
 * Model step G11: a restart since the take has dropped the status. The statuses that came since
 * were compared with it as if it had been delivered. If an equal one was therefore not queued, it
 * is queued now. If none came since, the latest status received is again the one from before the
 * take.
 */
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

/*
 * Model step G10: the status goes to the front. If a status is first there already, the item is
 * dropped: of two neighbouring statuses the earlier one goes.
 */
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

/* ---------------------------------------------------------------------------------------------- */

/* Returns false if memory is missing or the item must be merged first. Then nothing has changed. */
static bool
put_back_one(struct put_back *put_back)
{
    /* No case needs more than one new link. */
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

/* Puts items back in one lock scope. Returns true if there is more to do and nothing is missing. */
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

/*
 * Unlocked, after put_back_one() returned false: merges the item, or gets memory. Returns false if
 * there is no memory.
 */
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
