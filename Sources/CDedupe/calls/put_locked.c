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
 *                     requeue        idle or vacant -> current
 *                     revive         stale -> current
 *                     replace        current -> current
 *                     delete_not_live  current, not live -> absent, or current
 *
 *     state                       event                    -> state              function
 *     --------------------------  -----------------------  --------------------  ---------------
 *     absent                      value or deletion        current, at the back  insert
 *     idle or vacant              value or deletion        current, at the back  requeue
 *     stale                       value or deletion        current, at the back  revive
 *     idle or stale, and live     value that the sink has  idle, seen            suppress
 *     current                     value                    current, same place   replace
 *     current, live               deletion                 current, same place   replace
 *     current value, not live     deletion                 absent                delete_not_live
 *     current deletion, not live  deletion                 current, same place   delete_not_live
 *     any but current             update beyond a bound    as after a restart    overflow
 *
 * Where a key becomes absent, an entry with pins becomes vacant; see entries.c.
 *
 * A current value that must be merged with an update is left to put_merging.c.
 */
#include "calls/put.h"

/* The most bytes of keys that one lock scope copies. With many long keys the scope ends early. */
enum { KEY_BYTES_PER_LOCK = TEST_SIZED(64 * 1024, 256) };

/* Whether this update, as one more pending key, would exceed a bound. */
static bool
exceeds(const struct cdedupe *buffer, const cdedupe_update_t *update)
{
    const cdedupe_statistics_t *statistics = &buffer->statistics;

    return statistics->pending_keys >= buffer->bounds.keys ||
           statistics->pending_bytes + payload_weight(buffer, update->slot) > buffer->bounds.bytes;
}

/*
 * Model step P13: the buffer drops everything, as a restart does. Nothing is lost silently: the
 * update's outcome tells the caller, and the caller must then let the source send everything again.
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
 * Whether an update must not go to the back of the queue. The update is then done: dropped or
 * overflowed. A finish "when delivered" waits only for what was queued before it, so updates that
 * would be queued later are dropped.
 */
static bool
refuse_queueing(struct lock_scope *scope, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;

    /* Model step P14: the queue's end is closed. */
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

/* Removes a key whose word the caller has set to zero. The sink never sees its pending update. */
static void
remove_current(struct lock_scope *scope, uint32_t number)
{
    unqueue(scope, entry_at(&scope->buffer->entries, number)->link);
    entry_leave(scope, number);
}

/*
 * A deletion of a key that is current and not live. Model step P8: a pending value and the deletion
 * both leave. Model step P9: a pending deletion is replaced.
 *
 * Model step P7: producers without the lock may replace the pending update until the exchange. The
 * exchange leaves zero in the word, and zero sends those producers to the lock. If the deletion
 * were stored first, a producer could replace it before this call cancels the value, and the
 * producer's update would be lost.
 */
static void
delete_not_live(struct lock_scope *scope, uint32_t number, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /*
     * Acquire: pairs with the release in replace_unlocked(). Without the acquire the caller could
     * destroy the payload while it sees only a part of it.
     */
    uint64_t before = sync_exchange(&entry->word, 0);

    pending_bytes_subtract(buffer, word_slot(before));
    if (word_deletion_cancels(before)) {
        buffer->statistics.cancelled += 2;
        finish_update(update, update->slot, word_slot(before), CDEDUPE_OUTCOME_CANCELLED);
        remove_current(scope, number);
    } else {
        pending_bytes_add(buffer, update->slot);
        /*
         * Release: pairs with the acquire in replace_unlocked(). Without it a producer could
         * destroy the payload before all of it is visible. A store is enough, because only a thread
         * that holds the lock changes a word that is zero.
         */
        sync_store_release(&entry->word,
                           word_pending(before, update->slot, buffer->resync.restart, true));
        buffer->statistics.replaced++;
        finish_update(update, 0, word_slot(before), CDEDUPE_OUTCOME_REPLACED);
    }
}

/*
 * The merge barrier of a value that replaces the pending update, on a buffer that merges. A value
 * that replaces a deletion gets the barrier, and a value that replaces a value keeps it. Otherwise
 * a value that was taken before the deletion and is put back would be merged with values after the
 * deletion.
 *
 * This call holds the merge lock, so `word` cannot change before the exchange.
 */
static uint64_t
merge_barrier_kept(const struct cdedupe *buffer, uint64_t word, const cdedupe_update_t *update)
{
    if (buffer->merge == NULL || update->deletion)
        return 0;
    return word & WORD_DELETION ? WORD_MERGE_BARRIER : word & WORD_MERGE_BARRIER;
}

/* Model step P6, current -> current: the update replaces the pending one, in the same place. */
static void
replace(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /*
     * The other side is the compare-and-swap in replace_unlocked(). Release: without it a producer
     * could destroy the new payload before all of it is visible. Acquire: without it the caller
     * could destroy the displaced payload while it sees only a part of it.
     */
    uint64_t before = sync_exchange(
        &entry->word, word_pending(word, update->slot, buffer->resync.restart, update->deletion) |
                          merge_barrier_kept(buffer, word, update));

    pending_bytes_subtract(buffer, word_slot(before));
    pending_bytes_add(buffer, update->slot);
    buffer->statistics.replaced++;
    finish_update(update, 0, word_slot(before), CDEDUPE_OUTCOME_REPLACED);
}

/*
 * The merge barrier of a value that is queued, on a buffer that merges. The first value of a key
 * after a restart gets it. A value that was taken before the restart and is put back is therefore
 * not merged with the new one. A value that comes after a suppressed value gets no barrier, because
 * the source sent the suppressed value as the one that the sink had taken.
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

/*
 * Model step P5, stale -> current: the key's one link moves from the dropped list to the back of
 * the queue.
 */
static enum step
revive(struct lock_scope *scope, struct entry *entry, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    uint64_t barrier = merge_barrier_since_restart(buffer, word, update), before;

    if (refuse_queueing(scope, update))
        return STEP_DONE;
    pending_bytes_add(buffer, update->slot);
    /*
     * An exchange, because a producer that read the restart number before the restart may still be
     * replacing the stale payload in replace_unlocked(). With a store that producer's payload would
     * be lost.
     */
    before = sync_exchange(
        &entry->word,
        word_pending(word, update->slot, buffer->resync.restart, update->deletion) | barrier);
    dropped_remove(scope, entry->link);
    queue_entry(scope, entry->link);
    finish_update(update, 0, word_slot(before), CDEDUPE_OUTCOME_QUEUED);
    return STEP_DONE;
}

/* Model step P4, idle or vacant -> current: the update goes to the back of the queue. */
static enum step
requeue(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t barrier = merge_barrier_since_restart(buffer, word, update);

    if (refuse_queueing(scope, update))
        return STEP_DONE;
    if (!link_make_room(scope))
        return STEP_NO_MEMORY;
    pending_bytes_add(buffer, update->slot);
    entry->link = link_new(scope, number);
    /*
     * Release: pairs with the acquire in replace_unlocked(). Without it a producer could destroy
     * the payload before all of it is visible. A store is enough, because idle and vacant words
     * change only under the lock.
     */
    sync_store_release(&entry->word,
                       word_pending(word, update->slot, buffer->resync.restart, update->deletion) |
                           barrier);
    queue_entry(scope, entry->link);
    finish_update(update, 0, 0, CDEDUPE_OUTCOME_QUEUED);
    return STEP_DONE;
}

/*
 * Whether the sink has this value already: the key is live and not current, and the value has the
 * revision that was taken last.
 */
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

/*
 * Model step P12, idle or stale, and live -> idle and seen. If the key is stale, the update that
 * the restart dropped leaves the dropped list.
 */
static void
suppress(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /* An exchange, for the reason given in revive(). */
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

/*
 * Model step P3, absent -> current: a new entry goes into the index and to the back of the queue.
 */
static enum step
insert(struct lock_scope *scope, uint64_t hash, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct new_key key = {update->key, update->key_length, hash};
    uint32_t number;
    bool room;

    if (refuse_queueing(scope, update))
        return STEP_DONE;
    /* Both are asked, so that one refill brings all that is missing. */
    room = link_make_room(scope);
    if (!entry_make_room(scope, &key) || !room)
        return STEP_NO_MEMORY;
    number = entry_add(scope, &key,
                       word_pending(0, update->slot, buffer->resync.restart, update->deletion));
    if (number == 0)
        return STEP_NO_MEMORY;
    pending_bytes_add(buffer, update->slot);
    entry_at(&buffer->entries, number)->link = link_new(scope, number);
    queue_entry(scope, entry_at(&buffer->entries, number)->link);
    finish_update(update, 0, 0, CDEDUPE_OUTCOME_QUEUED);
    return STEP_DONE;
}

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
        /*
         * Model steps P2 and F6: the look-up without the lock missed the key, or the entry has died
         * since. Under the lock the index does not change, so this look-up is exact.
         */
        number = index_find(&buffer->index, &buffer->entries, put->hashes[i], update->key,
                            update->key_length);
        if (number == 0) {
            put->readers_late |= put_readers_are_late(buffer);
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

/* Model step P1: a buffer that is stopped or has overflowed drops the update. */
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
    /*
     * Model step P10: an update that adds a link also clears one dropped link. While dropped links
     * remain, puts therefore do not increase the sum of queued and dropped links. The caller gets
     * the cleared payload in `displaced`.
     */
    if (update->outcome == CDEDUPE_OUTCOME_QUEUED && update->displaced == 0 &&
        buffer->queue.uncleared > 0)
        put->removed |= clear_one(&put->scope, &update->displaced);
    return STEP_DONE;
}

/*
 * Reads the clock for what this lock scope queues. In a read section no user callback may run, so
 * the caller's clock was read before the section. A buffer that merges is in no read section here,
 * and the merges since the last reading may have taken long.
 */
static void
note_time(struct put *put)
{
    const struct cdedupe *buffer = put->scope.buffer;

    if (clock_is_ours(&buffer->clock) || buffer->merge != NULL)
        scope_note_time(&put->scope);
}

bool
put_locked(struct put *put)
{
    put->copied = 0;
    put->removed = false;
    put->locked = true;
    put->step = STEP_DONE;
    note_time(put);
    scope_lock(&put->scope);
    while (put->done < put->count && put->copied < KEY_BYTES_PER_LOCK &&
           (put->step = put_one(put, put->done)) == STEP_DONE)
        put->done++;
    reclaim(&put->scope);
    scope_unlock(&put->scope);
    return put->step == STEP_DONE && put->done < put->count;
}
