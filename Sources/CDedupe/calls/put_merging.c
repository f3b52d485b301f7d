/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting on a buffer that merges, with the merge lock.
 *
 *     put_merging
 *         put_look_up                the entries stay valid, because no other call can make one die
 *         merge_some
 *             merge_next
 *                 merge_payloads     merge.c: the merge callback, without the spinlock
 *                 replace_merged     a store under the spinlock
 *         put_unmerged
 *             put_locked             put_locked.c: up to the next update that must be merged
 *
 *     state                         event                 -> state
 *     ----------------------------  --------------------  ----------------------------
 *     current value with a payload  value with a payload  current, same place, merged
 *
 * The new word keeps the live flag and the merge barrier. All other transitions are those of
 * put_locked.c.
 */
#include "calls/put.h"

/*
 * Model step M2, current value -> current value: the update's payload is now the merged one.
 * `weight` is the weight of the older payload before the merge, which is the weight that was added
 * to the pending bytes.
 *
 * A store is enough, because on a buffer that merges, calls read and change words only under the
 * merge lock. That lock also orders the payload before the word.
 */
static void
replace_merged(struct put *put, struct entry *entry, uint64_t weight, cdedupe_update_t *update)
{
    struct cdedupe *buffer = put->scope.buffer;
    uint64_t word = sync_load_relaxed(&entry->word);

    scope_lock(&put->scope);
    pending_bytes_subtract_weight(buffer, weight);
    pending_bytes_add(buffer, update->slot);
    sync_store_release(&entry->word,
                       word_pending(word, update->slot, buffer->resync.restart, false) |
                           (word & WORD_MERGE_BARRIER));
    buffer->statistics.received++;
    buffer->statistics.replaced++;
    scope_unlock(&put->scope);
    finish_update(update, 0, word_slot(word), CDEDUPE_OUTCOME_REPLACED);
}

/*
 * Model step M1: merges the next update with the pending one. The callback runs with the merge lock
 * alone. Returns false if the update needs no merge, or if the buffer has stopped; put_locked()
 * then deals with the update.
 */
static bool
merge_next(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;
    cdedupe_update_t *update = &put->updates[put->done];
    struct entry *entry = put->entries[put->done];
    uint64_t word, weight;

    if (put->numbers[put->done] == 0 || sync_load_relaxed_32(&buffer->end.stopped))
        return false;
    word = sync_load_relaxed(&entry->word);
    if (!put_is_to_merge(buffer, word, update))
        return false;
    weight = payload_weight(buffer, word_slot(word));
    merge_payloads(&put->scope, word_slot(word), update->slot);
    replace_merged(put, entry, weight, update);
    put->done++;
    return true;
}

/*
 * Merges updates until one comes that needs no merge. Returns false if the chunk must end here. It
 * ends if the sink found the merge lock held, or if a loop must be woken: both come before the next
 * merge, which may take long.
 */
static bool
merge_some(struct put *put)
{
    while (put->done < put->count && !put->scope.wake && merge_next(put))
        if (merge_sink_is_next(put->scope.buffer))
            return false;
    return !put->scope.wake;
}

/*
 * Puts updates under the spinlock, up to the next one that must be merged. Returns false if all are
 * done or memory is missing.
 */
static bool
put_unmerged(struct put *put)
{
    if (put->done == put->count)
        return false;
    put_locked(put);
    /*
     * The memory of entries that died may be freed from now on, so the look-ups are void. The next
     * update's entry stays valid if put_locked() has just found that it must be merged.
     */
    if (put->removed)
        put_forget_lookups(put, put->done + (put->step == STEP_MERGE));
    if (put->step != STEP_NO_MEMORY)
        return true;
    put_forget_lookups(put, put->done);
    return scope_refill(&put->scope);
}

/*
 * Only calls that hold the merge lock can make an entry die. Entries that this call has looked up
 * therefore stay valid outside the read section too, until this call itself removes one.
 */
void
put_merging(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;
    struct context *context;

    merge_lock_after_sink(&put->scope);
    context = put_begin_reading(put);
    put_look_up(put);
    context_give_back(&buffer->contexts, context);
    while (merge_some(put) && put_unmerged(put))
        ;
    merge_unlock(&put->scope);
}
