/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sink's side: the claim, and taking batches.
 */
#include "calls/calls.h"

/* ---------------------------------------------------------------------------------------------------- */
/* Claim                                                                                                */

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

/* Under the lock: the sink has seen the keys of the last batch's deletions. Some of them; true if there are more. */
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

/* Locks, with nothing lent any more. */
static void
lock_and_retire_borrowed(struct lock_scope *scope)
{
    scope_lock(scope);
    while (retire_borrowed(scope)) {
        reclaim(scope);
        scope_yield(scope);
    }
}

/* [E3] */
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
    /* Without its loop a finish has nobody to wait for. */
    if (buffer->end.finishing != FINISHING_NOT)
        sync_store_relaxed_32(&buffer->end.stopped, 1);
    reclaim(&scope);
    scope_unlock(&scope);
    scope_finish(&scope);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Take                                                                                                 */

/* [T6] */
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
 * current -> idle (a value) or dead (a deletion). One exchange [T3], by what the word says now [T2]. A producer without the
 * lock may turn one into the other just before it; then the word is put right [T4]: nobody changes it meanwhile, since it
 * is not pending and we hold the lock.
 */
static uint64_t
take_word(struct entry *entry, uint32_t restart)
{
    uint64_t expected = sync_load_relaxed(&entry->word);
    uint64_t before =
        sync_exchange(&entry->word, expected & WORD_DELETION ? 0 : word_idle(restart));

    if ((before ^ expected) & WORD_DELETION)
        sync_store_release(&entry->word, before & WORD_DELETION ? 0 : word_idle(restart));
    return before;
}

/* Notes the revision that the sink has from now on. Returns the one that it had before. */
static uint64_t
take_revision(const struct cdedupe *buffer, struct entry *entry, const cdedupe_item_t *item)
{
    uint64_t before = suppresses(buffer) ? entry_revision(entry) : 0;

    if (suppresses(buffer) && item->kind != CDEDUPE_ITEM_DELETED)
        entry_set_revision(entry, payload_number(buffer, item->slot, buffer->revision_offset));
    return before;
}

/* [T5] */
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
        .key = entry->key, .key_length = entry->key_length, .slot = word_slot(before)};
    queued = link_at(&buffer->links, link)->queued;
    unqueue(scope, link);
    pending_bytes_subtract(buffer, item->slot);
    entry->link = 0;
    if (before & WORD_DELETION) {
        item->kind = CDEDUPE_ITEM_DELETED;
        entry_unindex(buffer, number);
        entry->link = buffer->batch.borrowed;
        buffer->batch.borrowed = number;
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

/* Model step E5, under the lock: whether nothing may be taken any more. A finish is complete when the queue is empty. */
static bool
is_over(struct cdedupe *buffer)
{
    if (buffer->end.finishing != FINISHING_NOT && ring_is_empty(&buffer->links, buffer->queue.ring))
        sync_store_relaxed_32(&buffer->end.stopped, 1);
    return buffer->end.stopped != 0;
}

/* What the next hold will take, as far as it can be told now: noted under the lock, prefetched without it. */
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
 * The caller reads keys and payloads next, one after the other. So their cache lines are fetched here, all at once: the first
 * line of each payload, and the second and third of each key's entry. The take itself has read the first line.
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
 * It takes what is queued now, and no more: so that no key is in a batch twice. What was taken, put again and taken again could
 * not be put back as if it never had been: for a deletion, a merge or a suppression in between there would be no trace.
 */
static void
begin_batch(struct cdedupe *buffer)
{
    buffer->batch.restarted = false;
    buffer->batch.barrier = ring_last(&buffer->links, buffer->queue.ring);
}

/* One hold's share. True: there may be more to take. */
static bool
take_some(struct lock_scope *scope, cdedupe_item_t *items, size_t capacity, size_t *count)
{
    struct cdedupe *buffer = scope->buffer;

    /* What is put back must be of one side of a restart: of this, if nothing was taken before it. */
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

/* Under the lock: what an attempt to take comes to. An empty queue puts a loop to sleep, here and nowhere else. [T7] */
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

/* Hold after hold, until the batch is complete. */
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
 * Under the spinlock, which may be given up: whether the sink has its turn. A loop does not wait for a merge; it sleeps until the
 * merging call has unlocked the merge lock. [T8]
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
        /* Awake. [T1] */
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
