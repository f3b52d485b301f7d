/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sink's side: the claim, and taking batches.
 *
 *     cdedupe_take
 *         lock_and_retire_borrowed   the keys of the last batch's deletions are no longer borrowed
 *         begin_turn                 on a buffer that merges: takes or tries the merge lock
 *         take_all
 *             take_some              one lock scope, up to 32 items
 *                 take_status
 *                 take_entry
 *         finish_take                marks a loop that got nothing as waiting for the wake callback
 *         prefetch_items
 *     cdedupe_release
 *         lock_and_retire_borrowed
 *
 *     state              event    -> state                           function
 *     -----------------  -------  ---------------------------------  -----------
 *     current value      take     idle, seen                         take_entry
 *     current deletion   take     dead, borrowed by the sink         take_entry
 *     the same, pinned   take     vacant, borrowed by the sink       take_entry
 */
#include "calls/calls.h"

/* ---------------------------------------------------------------------------------------------- */
/* Claim                                                                                          */

cdedupe_result_t
cdedupe_claim(cdedupe_t *buffer, cdedupe_claim_t kind)
{
    cdedupe_result_t result = CDEDUPE_OK;

    if (kind != CDEDUPE_CLAIM_LOOP && kind != CDEDUPE_CLAIM_SINGLE_BATCH)
        return CDEDUPE_INVALID_ARGUMENT;
    lock_acquire(&buffer->lock);
    if (buffer->end.stopped)
        result = CDEDUPE_STOPPED;
    else if (buffer->sink.claim != CLAIM_NONE)
        result = CDEDUPE_BUSY;
    else
        buffer->sink.claim = kind == CDEDUPE_CLAIM_LOOP ? CLAIM_LOOP : CLAIM_SINGLE_BATCH;
    lock_release(&buffer->lock);
    return result;
}

/*
 * Under the lock: the sink no longer reads the keys of the last batch's deletions, so their entries
 * are retired. Retires a limited number of them. Returns true if there are more.
 */
static bool
retire_borrowed(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;

    for (unsigned steps = 0; buffer->batch.borrowed != 0 || buffer->batch.borrowed_put_back != 0;
         steps++) {
        uint32_t number = buffer->batch.borrowed;

        if (steps == SWEEPS_PER_LOCK)
            return true;
        if (number == 0) {
            buffer->batch.borrowed = buffer->batch.borrowed_put_back;
            buffer->batch.borrowed_put_back = 0;
            continue;
        }
        buffer->batch.borrowed = entry_at(&buffer->entries, number)->link;
        retire_entry(scope, number);
    }
    return false;
}

/* Takes the lock, and retires all entries that the sink had borrowed. */
static void
lock_and_retire_borrowed(struct lock_scope *scope)
{
    scope_lock(scope);
    while (retire_borrowed(scope)) {
        reclaim(scope);
        scope_yield(scope);
    }
}

/* Model step E3: ends the claim. Items of the last batch can no longer be put back. */
void
cdedupe_release(cdedupe_t *buffer)
{
    struct lock_scope scope;

    scope_init(&scope, buffer);
    lock_and_retire_borrowed(&scope);
    buffer->sink.claim = CLAIM_NONE;
    buffer->batch.count = 0;
    sync_store_relaxed_32(&buffer->merge_lock.sink, SINK_AWAY);
    buffer->sink.asleep = false;
    /*
     * A finish waits for the loop to deliver what is queued. Without the loop it would never end.
     */
    if (buffer->end.finishing != FINISHING_NOT)
        sync_store_relaxed_32(&buffer->end.stopped, 1);
    reclaim(&scope);
    scope_unlock(&scope);
    scope_finish(&scope);
}

/* ---------------------------------------------------------------------------------------------- */
/* Take                                                                                           */

/* Model step T6: the status leaves the queue. */
static void
take_status(struct lock_scope *scope, uint32_t link, cdedupe_item_t *item)
{
    struct cdedupe *buffer = scope->buffer;
    uint8_t status = (uint8_t)(link_at(&buffer->links, link)->item & ~ITEM_STATUS);

    *item = (cdedupe_item_t){.kind = CDEDUPE_ITEM_STATUS, .status = status};
    item_set_state(item, (struct item_state){.queued = link_at(&buffer->links, link)->queued,
                                             .before = buffer->resync.latest_taken});
    buffer->resync.latest_taken = status;
    buffer->statistics.statuses_delivered++;
    unqueue(scope, link);
}

/*
 * A current value becomes idle, and a current deletion becomes dead, or vacant if it is pinned.
 * Model step T2: the sink reads the word to see which of the two is pending. Model step T3: one
 * exchange takes the pending update.
 *
 * A producer without the lock may turn the value into a deletion, or back, between the two steps.
 * Model step T4: the sink then corrects the word with a store. No other thread can change the word
 * before that store, because the word is not pending and the sink holds the lock.
 *
 * Release: pairs with the acquire in is_key(). Without it a producer that sees only this word could
 * compare with bytes from before the entry was filled.
 */
static uint64_t
take_word(struct entry *entry, uint32_t restart)
{
    uint64_t gone = entry_word_without_key(entry), expected = sync_load_relaxed(&entry->word);
    uint64_t before =
        sync_exchange(&entry->word, expected & WORD_DELETION ? gone : word_idle(restart));

    if ((before ^ expected) & WORD_DELETION)
        sync_store_release(&entry->word, before & WORD_DELETION ? gone : word_idle(restart));
    return before;
}

/*
 * Stores the revision that the sink has from now on. Returns the revision that the sink had before.
 */
static uint64_t
take_revision(const struct cdedupe *buffer, struct entry *entry, const cdedupe_item_t *item)
{
    uint64_t before = suppresses(buffer) ? entry_revision(entry) : 0;

    if (suppresses(buffer) && item->kind != CDEDUPE_ITEM_DELETED)
        entry_set_revision(entry, payload_number(buffer, item->slot, buffer->revision_offset));
    return before;
}

/*
 * The sink borrows the key of a deletion. An entry with pins is vacant now. Another is dead: it
 * leaves the index, and joins the list of borrowed entries.
 */
static void
lend_key(struct cdedupe *buffer, uint32_t number)
{
    struct entry *entry = entry_at(&buffer->entries, number);

    if (entry_pins(entry) > 0) {
        entry_lend(entry);
    } else {
        entry_unindex(buffer, number);
        entry->link = buffer->batch.borrowed;
        buffer->batch.borrowed = number;
    }
}

/* Model step T5: what the exchange returned becomes an item of the batch. */
static void
take_entry(struct lock_scope *scope, uint32_t link, cdedupe_item_t *item)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t number = link_at(&buffer->links, link)->item;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t before = take_word(entry, buffer->resync.restart);
    bool live = (before & WORD_LIVE) != 0;
    uint32_t queued;

    *item = (cdedupe_item_t){
        .key = entry->key, .key_length = entry_key_length(entry), .slot = word_slot(before)};
    queued = link_at(&buffer->links, link)->queued;
    unqueue(scope, link);
    pending_bytes_subtract(buffer, item->slot);
    entry->link = 0;
    if (before & WORD_DELETION) {
        item->kind = CDEDUPE_ITEM_DELETED;
        lend_key(buffer, number);
        buffer->statistics.live_keys -= live;
    } else {
        item->kind = live ? CDEDUPE_ITEM_UPDATED : CDEDUPE_ITEM_NEW;
        buffer->statistics.live_keys += !live;
    }
    item_set_state(item, (struct item_state){.revision = take_revision(buffer, entry, item),
                                             .queued = queued,
                                             .before = live});
    buffer->statistics.delivered++;
}

/*
 * Model step E5, under the lock: whether nothing may be taken any more. A finish is complete, and
 * stops the buffer, when the queue is empty.
 */
static bool
is_over(struct cdedupe *buffer)
{
    if (buffer->end.finishing != FINISHING_NOT && ring_is_empty(&buffer->links, buffer->queue.ring))
        sync_store_relaxed_32(&buffer->end.stopped, 1);
    return buffer->end.stopped != 0;
}

/*
 * The entries that the next lock scope will probably take. They are noted under the lock and
 * prefetched without it.
 */
struct preview {
    const struct entry *entries[TAKES_PER_LOCK];
    unsigned count;
};

static void
look_ahead(const struct cdedupe *buffer, struct preview *preview)
{
    uint32_t link = ring_first(&buffer->links, buffer->queue.ring);

    preview->count = 0;
    for (unsigned i = 0; i < TAKES_PER_LOCK && link != buffer->queue.ring; i++) {
        uint32_t item = link_at(&buffer->links, link)->item;

        if (!item_is_status(item))
            preview->entries[preview->count++] = entry_at(&buffer->entries, item);
        link = link_at(&buffer->links, link)->next;
    }
}

static void
prefetch_preview(const struct preview *preview)
{
    for (unsigned i = 0; i < preview->count; i++)
        sync_prefetch(preview->entries[i]);
}

/*
 * The caller will read the keys and payloads next, one after the other. Their cache lines are
 * therefore prefetched here, all at once: the first line of each payload, and the second and third
 * line of each entry. The take itself has read the first line of each entry.
 */
static void
prefetch_items(const struct cdedupe *buffer, const cdedupe_item_t *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t length = offsetof(struct entry, key) + items[i].key_length;
        const unsigned char *key = items[i].key;

        if (items[i].slot != 0)
            sync_prefetch(arena_at(&buffer->slots, items[i].slot));
        for (size_t line = ENTRY_UNIT; line <= 2 * ENTRY_UNIT && line < length; line += ENTRY_UNIT)
            sync_prefetch(key - offsetof(struct entry, key) + line);
    }
}

/*
 * A batch takes only what is queued when it begins, so that no key is in a batch twice. If a key
 * were taken, put and taken again in one batch, the second take would hide a deletion, a merge or a
 * suppression that came between the two. The items could then not be put back as if they had never
 * been taken.
 */
static void
begin_batch(struct cdedupe *buffer)
{
    buffer->batch.restarted = false;
    buffer->batch.barrier = ring_last(&buffer->links, buffer->queue.ring);
}

/*
 * Takes items in one lock scope, up to TAKES_PER_LOCK. Returns true if there may be more to take.
 */
static bool
take_some(struct lock_scope *scope, cdedupe_item_t *items, size_t capacity, size_t *count)
{
    struct cdedupe *buffer = scope->buffer;

    /*
     * All items of a batch must come from the same side of a restart, because putting them back
     * depends on it. The batch ends at a restart, unless it is still empty; then it begins after
     * the restart.
     */
    if (*count == 0)
        begin_batch(buffer);
    else if (buffer->batch.restarted)
        return false;
    for (unsigned steps = 0; *count < capacity && buffer->batch.barrier != buffer->queue.ring;
         steps++) {
        uint32_t link = ring_first(&buffer->links, buffer->queue.ring);

        if (steps == TAKES_PER_LOCK)
            return true;
        if (is_over(buffer))
            return false;
        if (item_is_status(link_at(&buffer->links, link)->item))
            take_status(scope, link, &items[*count]);
        else
            take_entry(scope, link, &items[*count]);
        (*count)++;
    }
    return false;
}

uint32_t
cdedupe_age(const cdedupe_t *buffer, const cdedupe_item_t *item)
{
    return clock_age(item_state(item).queued, clock_now(&buffer->clock));
}

/*
 * Model step T7, under the lock: the result of a take. If nothing was taken, because the queue is
 * empty or the merge lock is held, a loop is marked as waiting for the wake callback. Only this
 * function does that. notify() is the other side, under the same lock: no update can be queued
 * unnoticed between the look at the queue and the mark.
 */
static cdedupe_result_t
finish_take(struct cdedupe *buffer, size_t count)
{
    buffer->batch.count = (uint32_t)count;
    if (count > 0) {
        buffer->statistics.batches++;
        return CDEDUPE_OK;
    }
    if (is_over(buffer))
        return CDEDUPE_STOPPED;
    buffer->sink.asleep = buffer->sink.claim == CLAIM_LOOP;
    return CDEDUPE_EMPTY;
}

/*
 * Takes in one lock scope after another, until the batch is complete. Before each of them the lock
 * is released once, so that the entries can be prefetched and waiting threads get the lock.
 */
static void
take_all(struct lock_scope *scope, cdedupe_item_t *items, size_t capacity, size_t *count)
{
    struct cdedupe *buffer = scope->buffer;
    struct preview preview;

    do {
        look_ahead(buffer, &preview);
        reclaim(scope);
        scope_unlock(scope);
        prefetch_preview(&preview);
        lock_yield(&buffer->lock);
        scope_lock(scope);
    } while (take_some(scope, items, capacity, count));
}

/*
 * Model step T8, under the spinlock: whether the sink may take now. A loop does not wait for a
 * merge. If a merge is running, the loop waits for the wake callback, which the merging thread
 * calls after it has unlocked the merge lock. The take of a single batch waits for the merge lock,
 * and releases the spinlock meanwhile.
 */
static bool
begin_turn(struct lock_scope *scope)
{
    if (scope->buffer->sink.claim == CLAIM_LOOP)
        return merge_lock_for_loop(scope);
    scope_unlock(scope);
    merge_lock_for_sink(scope);
    scope_lock(scope);
    return true;
}

cdedupe_result_t
cdedupe_take(cdedupe_t *buffer, cdedupe_item_t *items, size_t capacity, size_t *count)
{
    cdedupe_result_t result;
    struct lock_scope scope;

    *count = 0;
    if (capacity == 0)
        return CDEDUPE_INVALID_ARGUMENT;
    if (merge_is_calling(buffer))
        return CDEDUPE_REENTRANT;
    if (capacity > buffer->batch_size)
        capacity = buffer->batch_size;

    scope_init(&scope, buffer);
    lock_and_retire_borrowed(&scope);
    if (buffer->sink.claim == CLAIM_NONE) {
        result = CDEDUPE_INVALID_ARGUMENT;
    } else {
        /* Model step T1: the loop is here, so it needs no wake callback. */
        buffer->sink.asleep = false;
        if (begin_turn(&scope))
            take_all(&scope, items, capacity, count);
        result = finish_take(buffer, *count);
    }
    scope_unlock(&scope);
    prefetch_items(buffer, items, *count);
    scope_finish(&scope);
    tidy_index(buffer);
    return result;
}
