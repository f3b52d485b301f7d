/*
 * The source's side: putting updates. See word.h for the states, and CDedupe.h for what each transition means.
 */
#include "buffer.h"

#include <string.h>

/* One call's share of work, prepared outside the lock. */
struct put {
    struct hold hold;
    cdedupe_update_t *updates;
    const uint64_t *hashes;
    size_t count;
    size_t done;
};

static void
finish_update(cdedupe_update_t *update, cdedupe_slot_t back, cdedupe_slot_t displaced, cdedupe_outcome_t outcome)
{
    update->slot = back;
    update->displaced = displaced;
    update->outcome = (uint8_t)outcome;
}

/* current, the pending update and the new one leave: the sink never hears of them */
static void
cancel(struct hold *hold, uint32_t number, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t before = sync_exchange(&entry->word, 0);

    unqueue(hold, entry->link);
    entry_unindex(buffer, number);
    entry_free(hold, number);
    buffer->statistics.cancelled += 2;
    finish_update(update, update->slot, word_slot(before), CDEDUPE_CANCELLED);
}

/* current -> current, in its place */
static void
replace(struct hold *hold, struct entry *entry, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    uint64_t before =
        sync_exchange(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));

    buffer->statistics.replaced++;
    finish_update(update, 0, word_slot(before), CDEDUPE_REPLACED);
}

/* stale -> current: its one link moves from the garbage to the back of the queue */
static void
revive(struct hold *hold, struct entry *entry, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    uint64_t before =
        sync_exchange(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));

    garbage_remove(hold, entry->link);
    queue_entry(hold, entry->link);
    finish_update(update, 0, word_slot(before), CDEDUPE_QUEUED);
}

/* idle -> current. False: no memory for the link. */
static bool
requeue(struct hold *hold, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);

    if (!link_make_room(hold))
        return false;
    entry->link = link_new(buffer, number);
    sync_store_release(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));
    queue_entry(hold, entry->link);
    finish_update(update, 0, 0, CDEDUPE_QUEUED);
    return true;
}

static uint32_t
entry_new(struct hold *hold, const cdedupe_update_t *update, uint64_t hash)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t number = arena_take(&buffer->entries, entry_class(update->key_length));
    struct entry *entry = entry_at(&buffer->entries, number);

    entry->hash = hash;
    entry->key_length = (uint32_t)update->key_length;
    if (update->key_length > 0)
        memcpy(entry->key, update->key, update->key_length);
    entry->word = word_pending(0, update->slot, buffer->restart, update->deletion);
    return number;
}

/* absent -> current. False: no memory, and nothing has changed. */
static bool
insert(struct hold *hold, uint64_t hash, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t number;

    if (!link_make_room(hold) ||
        !arena_make_room(&buffer->entries, entry_class(update->key_length), &hold->reserve))
        return false;
    number = entry_new(hold, update, hash);
    if (!index_add(&buffer->index, hash, number, &hold->reserve)) {
        entry_at(&buffer->entries, number)->word = 0;
        entry_free(hold, number);
        return false;
    }
    entry_at(&buffer->entries, number)->link = link_new(buffer, number);
    queue_entry(hold, entry_at(&buffer->entries, number)->link);
    finish_update(update, 0, 0, CDEDUPE_QUEUED);
    return true;
}

/* False: no memory, and nothing has changed. */
static bool
put_present(struct hold *hold, uint32_t number, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t word = entry->word;

    if (!(word & WORD_PENDING))
        return requeue(hold, number, word, update);
    if (word_is_stale(word, buffer->restart))
        revive(hold, entry, word, update);
    else if (update->deletion && word_deletion_cancels(word))
        cancel(hold, number, update);
    else
        replace(hold, entry, word, update);
    return true;
}

/* False: no memory, and nothing has changed. */
static bool
put_one(struct hold *hold, uint64_t hash, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t number;

    if (buffer->stopped) {
        buffer->statistics.dropped++;
        finish_update(update, update->slot, 0, CDEDUPE_DROPPED);
    } else {
        number = index_find(&buffer->index, &buffer->entries, hash, update->key, update->key_length);
        if (!(number == 0 ? insert(hold, hash, update) : put_present(hold, number, update)))
            return false;
        buffer->touched = true;
    }
    buffer->statistics.received++;
    /* What came in as one update may clear up one: so garbage never outgrows what was received. */
    if (update->displaced == 0 && buffer->uncleared > 0)
        clear_one(hold, &update->displaced);
    return true;
}

/* One hold. */
static void
put_some(struct put *put)
{
    hold_lock(&put->hold);
    while (put->done < put->count && put_one(&put->hold, put->hashes[put->done], &put->updates[put->done]))
        put->done++;
    hold_unlock(&put->hold);
}

/* At most HOLD_PUT updates, whose keys are not too long. Says how many were put: all, unless memory ran out. */
static size_t
put_share(struct cdedupe *buffer, cdedupe_update_t *updates, size_t count)
{
    uint64_t hashes[HOLD_PUT];
    struct put put = {.updates = updates, .hashes = hashes, .count = count, .done = 0};

    for (size_t i = 0; i < count; i++)
        hashes[i] = hash_key(&buffer->secret, updates[i].key, updates[i].key_length);

    hold_init(&put.hold, buffer);
    do
        put_some(&put);
    while (put.done < count && hold_refill(&put.hold));
    hold_finish(&put.hold);
    return put.done;
}

/* How many of the next updates make a share. */
static size_t
share_length(const cdedupe_update_t *updates, size_t count)
{
    size_t length = 0;

    while (length < count && length < HOLD_PUT && updates[length].key_length <= CDEDUPE_KEY_MAX)
        length++;
    return length;
}

cdedupe_result_t
cdedupe_put(cdedupe_t *buffer, cdedupe_update_t *updates, size_t count)
{
    size_t done = 0, share;

    for (size_t i = 0; i < count; i++)
        finish_update(&updates[i], updates[i].slot, 0, CDEDUPE_UNTOUCHED);

    while (done < count) {
        share = share_length(updates + done, count - done);
        if (share == 0) {
            updates[done].outcome = CDEDUPE_REJECTED;
            return CDEDUPE_KEY_TOO_LONG;
        }
        size_t put = put_share(buffer, updates + done, share);

        done += put;
        if (put < share) {
            updates[done].outcome = CDEDUPE_REJECTED;
            return CDEDUPE_NO_MEMORY;
        }
    }
    return CDEDUPE_OK;
}
