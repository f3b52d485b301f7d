/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting under the lock: every transition except the replacement without the lock.
 *
 *     put_locked                     one lock scope, up to 100 updates
 *         put_one                    stopped or overflowed: dropped
 *             put_anywhere           looks up again what was missed or has died
 *                 insert             absent -> current
 *                 put_present
 *                     suppress       idle or stale -> idle, seen
 *                     requeue        idle -> current
 *                     revive         stale -> current
 *                     replace        current -> current
 *                     delete_not_live  current, not live -> absent, or current
 *
 * The table of transitions is in DESIGN.md.
 */
#include "calls/put.h"

#include <string.h>

/* Bytes of keys copied in one lock scope: with many long keys the scope ends early. */
enum { KEY_BYTES_PER_LOCK = TEST_SIZED(64 * 1024, 256) };

/* Whether one more pending key, with this update, goes beyond a bound. */
static bool
exceeds(const struct cdedupe *buffer, const cdedupe_update_t *update)
{
    const cdedupe_statistics_t *statistics = &buffer->statistics;

    return statistics->pending_keys >= buffer->bounds.keys ||
           statistics->pending_bytes + payload_weight(buffer, update->slot) > buffer->bounds.bytes;
}

/*
 * Model step P13. The buffer drops everything, as a restart does. Nothing is lost silently: the caller of
 * this update is told, and must have the source send everything again.
 */
static void
overflow(struct lock_scope *scope, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;

    drop_everything(scope);
    buffer->bounds.overflowed = true;
    buffer->statistics.overflows++;
    buffer->statistics.dropped++;
    finish_update(update, update->slot, 0, CDEDUPE_OUTCOME_OVERFLOWED);
}

/*
 * Whether an update that would go to the back of the queue must not. The update is done then. Model step
 * P14: a finish waits for what was queued before it, and for nothing else.
 */
static bool
refuse_queueing(struct lock_scope *scope, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;

    if (buffer->end.finishing == FINISHING_WHEN_DELIVERED) {
        buffer->statistics.dropped++;
        finish_update(update, update->slot, 0, CDEDUPE_OUTCOME_DROPPED);
        return true;
    }
    if (!exceeds(buffer, update))
        return false;
    overflow(scope, update);
    return true;
}

/* A current entry leaves: its word is zero, and the sink never hears of the pending update. */
static void
remove_current(struct lock_scope *scope, uint32_t number)
{
    unqueue(scope, entry_at(&scope->buffer->entries, number)->link);
    entry_unindex(scope->buffer, number);
    retire_entry(scope, number);
}

/*
 * current, not live, and a deletion: a value leaves, and the deletion with it [P8]; another deletion is replaced [P9].
 * Which of them is pending, producers without the lock may change until the exchange [P7]. It leaves zero, which sends them
 * to the lock: so there is no moment at which they could replace a deletion that is about to cancel a value.
 */
static void
delete_not_live(struct lock_scope *scope, uint32_t number, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /* Acquire, with the release of replace_unlocked(): whoever destroys the payload sees all of it. */
    uint64_t before = sync_exchange(&entry->word, 0);

    pending_bytes_subtract(buffer, word_slot(before));
    if (word_deletion_cancels(before)) {
        buffer->statistics.cancelled += 2;
        finish_update(update, update->slot, word_slot(before), CDEDUPE_OUTCOME_CANCELLED);
        remove_current(scope, number);
    } else {
        pending_bytes_add(buffer, update->slot);
        /* Release, with the acquire of replace_unlocked(): the payload. A store will do: nobody changes a zero word. */
        sync_store_release(&entry->word,
                           word_pending(before, update->slot, buffer->resync.restart, true));
        buffer->statistics.replaced++;
        finish_update(update, 0, word_slot(before), CDEDUPE_OUTCOME_REPLACED);
    }
}

/*
 * Where values are merged: a value that comes after a deletion is never merged with older ones, nor is what takes its place.
 * There the word does not change before the exchange, since this call holds the merge lock.
 */
static uint64_t
merge_barrier_kept(const struct cdedupe *buffer, uint64_t word, const cdedupe_update_t *update)
{
    if (buffer->merge == NULL || update->deletion)
        return 0;
    return word & WORD_DELETION ? WORD_MERGE_BARRIER : word & WORD_MERGE_BARRIER;
}

/* current -> current, in its place [P6] */
static void
replace(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /* Both, with replace_unlocked() and take_word(): our payload before the word, the displaced one after it. */
    uint64_t before = sync_exchange(
        &entry->word, word_pending(word, update->slot, buffer->resync.restart, update->deletion) |
                          merge_barrier_kept(buffer, word, update));

    pending_bytes_subtract(buffer, word_slot(before));
    pending_bytes_add(buffer, update->slot);
    buffer->statistics.replaced++;
    finish_update(update, 0, word_slot(before), CDEDUPE_OUTCOME_REPLACED);
}

/*
 * Where values are merged: a value that comes first after a restart is not merged with what was taken before it, if that is
 * put back. One that comes after a suppressed value is: that stood for what was taken.
 */
static uint64_t
merge_barrier_since_restart(const struct cdedupe *buffer, uint64_t word,
                            const cdedupe_update_t *update)
{
    return buffer->merge != NULL && !update->deletion &&
                   word_is_unseen(word, buffer->resync.restart)
               ? WORD_MERGE_BARRIER
               : 0;
}

/* stale -> current: its one link moves from the garbage to the back of the queue [P5] */
static enum step
revive(struct lock_scope *scope, struct entry *entry, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    uint64_t alone = merge_barrier_since_restart(buffer, word, update), before;

    if (refuse_queueing(scope, update))
        return STEP_DONE;
    pending_bytes_add(buffer, update->slot);
    /* An exchange: who read the restart number before the restart may still be replacing the stale payload. */
    before = sync_exchange(
        &entry->word,
        word_pending(word, update->slot, buffer->resync.restart, update->deletion) | alone);
    dropped_remove(scope, entry->link);
    queue_entry(scope, entry->link);
    finish_update(update, 0, word_slot(before), CDEDUPE_OUTCOME_QUEUED);
    return STEP_DONE;
}

/* idle -> current [P4] */
static enum step
requeue(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t alone = merge_barrier_since_restart(buffer, word, update);

    if (refuse_queueing(scope, update))
        return STEP_DONE;
    if (!link_make_room(scope))
        return STEP_NO_MEMORY;
    pending_bytes_add(buffer, update->slot);
    entry->link = link_new(scope, number);
    /* Release, with the acquire of replace_unlocked(): the payload. A store will do: idle words change under the lock. */
    sync_store_release(&entry->word,
                       word_pending(word, update->slot, buffer->resync.restart, update->deletion) |
                           alone);
    queue_entry(scope, entry->link);
    finish_update(update, 0, 0, CDEDUPE_OUTCOME_QUEUED);
    return STEP_DONE;
}

/* Whether the sink has this value: the key is live, nothing is pending, and the revision is the one taken last. */
static bool
is_unchanged(const struct cdedupe *buffer, uint32_t number, uint64_t word,
             const cdedupe_update_t *update)
{
    uint64_t revision;

    if (!suppresses(buffer) || update->deletion || !(word & WORD_LIVE) ||
        word_is_current(word, buffer->resync.restart))
        return false;
    revision = payload_number(buffer, update->slot, buffer->revision_offset);
    return revision != 0 && revision == entry_revision(entry_at(&buffer->entries, number));
}

/* idle or stale, live -> idle and seen; what a restart dropped goes with it [P12] */
static void
suppress(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /* An exchange, as in revive(). */
    uint64_t before = sync_exchange(&entry->word, word_idle(buffer->resync.restart));

    finish_update(update, update->slot, word_slot(before), CDEDUPE_OUTCOME_SUPPRESSED);
    if (word & WORD_PENDING) {
        dropped_remove(scope, entry->link);
        link_free(scope, entry->link);
    }
    buffer->statistics.suppressed++;
}

static enum step
put_present(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;

    if (is_unchanged(buffer, number, word, update)) {
        suppress(scope, number, word, update);
        return STEP_DONE;
    }
    if (!(word & WORD_PENDING))
        return requeue(scope, number, word, update);
    if (word_is_stale(word, buffer->resync.restart))
        return revive(scope, entry_at(&buffer->entries, number), word, update);
    if (update->deletion && !(word & WORD_LIVE))
        delete_not_live(scope, number, update);
    else
        replace(scope, number, word, update);
    return STEP_DONE;
}

/* Bytes behind an entry's header. */
static size_t
entry_length(const struct cdedupe *buffer, size_t key_length)
{
    return suppresses(buffer) ? key_length + sizeof(uint64_t) : key_length;
}

static uint32_t
entry_new(struct lock_scope *scope, const cdedupe_update_t *update, uint64_t hash)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t number =
        arena_take(&buffer->entries, entry_class(entry_length(buffer, update->key_length)));
    struct entry *entry = entry_at(&buffer->entries, number);

    entry->hash = hash;
    entry->key_length = (uint32_t)update->key_length;
    if (update->key_length > 0)
        memcpy(entry->key, update->key, update->key_length);
    if (suppresses(buffer))
        entry_set_revision(entry, 0);
    /*
     * Release, with the acquire of is_key(): who sees the word sees the key. It stands in for the fence that ck_hs_put
     * has not: who finds the entry before its word is visible takes it for dead, and looks again under the lock.
     */
    sync_store_release(&entry->word,
                       word_pending(0, update->slot, buffer->resync.restart, update->deletion));
    return number;
}

/* absent -> current [P3] */
static enum step
insert(struct lock_scope *scope, uint64_t hash, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t class_index = entry_class(entry_length(buffer, update->key_length)), number;

    if (refuse_queueing(scope, update))
        return STEP_DONE;
    if (!link_make_room(scope) ||
        !arena_make_room(&buffer->entries, class_index, &scope->reserve) ||
        !index_make_room(&buffer->index, hash, &scope->reserve))
        return STEP_NO_MEMORY;
    number = entry_new(scope, update, hash);
    if (!index_add(&buffer->index, hash, number, &scope->reserve)) {
        /* ck_hs wants memory after all. No reader has seen the entry, since it was never indexed. */
        sync_store_release(&entry_at(&buffer->entries, number)->word, 0);
        arena_give_back(&buffer->entries, number, &scope->reserve);
        return STEP_NO_MEMORY;
    }
    pending_bytes_add(buffer, update->slot);
    entry_at(&buffer->entries, number)->link = link_new(scope, number);
    queue_entry(scope, entry_at(&buffer->entries, number)->link);
    finish_update(update, 0, 0, CDEDUPE_OUTCOME_QUEUED);
    return STEP_DONE;
}

/* Whether the update has to be merged with what is pending in a word: both are values with a payload. */
bool
put_is_to_merge(const struct cdedupe *buffer, uint64_t word, const cdedupe_update_t *update)
{
    return buffer->merge != NULL && !update->deletion && update->slot != 0 &&
           word_is_current(word, buffer->resync.restart) && !(word & WORD_DELETION) &&
           word_slot(word) != 0;
}

static enum step
put_anywhere(struct put *put, size_t i)
{
    struct cdedupe *buffer = put->scope.buffer;
    cdedupe_update_t *update = &put->updates[i];
    uint32_t number = put->numbers[i];
    uint64_t word = number == 0 ? 0 : sync_load_relaxed(&put->entries[i]->word);

    if (word == 0) {
        /* Missed, or dead by now: look again, with nobody changing anything. [P2] [F6] */
        number = index_find(&buffer->index, &buffer->entries, put->hashes[i], update->key,
                            update->key_length);
        if (number == 0) {
            put->inserted = true;
            put->copied += update->key_length;
            return insert(&put->scope, put->hashes[i], update);
        }
        word = sync_load_relaxed(&entry_at(&buffer->entries, number)->word);
    }
    if (put_is_to_merge(buffer, word, update)) {
        put->numbers[i] = number;
        put->entries[i] = entry_at(&buffer->entries, number);
        return STEP_MERGE;
    }
    return put_present(&put->scope, number, word, update);
}

/* [P1] */
static enum step
put_one(struct put *put, size_t i)
{
    struct cdedupe *buffer = put->scope.buffer;
    cdedupe_update_t *update = &put->updates[i];
    enum step step = STEP_DONE;

    if (buffer->end.stopped || buffer->bounds.overflowed) {
        buffer->statistics.dropped++;
        finish_update(update, update->slot, 0, CDEDUPE_OUTCOME_DROPPED);
    } else if ((step = put_anywhere(put, i)) == STEP_DONE) {
        buffer->resync.received_since_restart = !buffer->bounds.overflowed;
    } else {
        return step;
    }
    buffer->statistics.received++;
    put->overflowed |= buffer->bounds.overflowed && !buffer->end.stopped;
    put->removed |= update->outcome == CDEDUPE_OUTCOME_CANCELLED;
    /* Whatever adds a link clears one up: so between two resyncs all that is queued and garbage does not grow. [P10] */
    if (update->outcome == CDEDUPE_OUTCOME_QUEUED && update->displaced == 0 &&
        buffer->queue.uncleared > 0)
        put->removed |= clear_one(&put->scope, &update->displaced);
    return STEP_DONE;
}

/* One hold. True: there is more to do, and nothing in its way. */
bool
put_locked(struct put *put)
{
    put->copied = 0;
    put->removed = false;
    put->locked = true;
    put->step = STEP_DONE;
    if (clock_is_ours(&put->scope.buffer->clock))
        scope_note_time(&put->scope);
    scope_lock(&put->scope);
    while (put->done < put->count && put->copied < KEY_BYTES_PER_LOCK &&
           (put->step = put_one(put, put->done)) == STEP_DONE)
        put->done++;
    reclaim(&put->scope);
    scope_unlock(&put->scope);
    return put->step == STEP_DONE && put->done < put->count;
}
