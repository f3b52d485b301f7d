/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting on a buffer that merges, with the merge lock.
 *
 *     put_merging
 *         put_look_up                entries stay valid: no other call frees an entry meanwhile
 *         merge_some
 *             merge_next             the merge callback without the spinlock, then a store under it
 *         put_unmerged
 *             put_locked             up to the next update that must be merged
 */
#include "calls/put.h"

/*
 * current value -> current value: the callback has made one of both. `weight` is what the older payload weighed before, as it was
 * counted. A store will do: where values are merged, words change under the merge lock. [M2]
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

/* Merges the next update, if that is what it needs. On a stopped buffer it does not. [M1] */
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
 * As long as updates are to be merged. False: the chunk ends here, so that the sink gets its turn, or the loop is woken, before the
 * next merge.
 */
static bool
merge_some(struct put *put)
{
    while (put->done < put->count && !put->scope.wake && merge_next(put))
        if (merge_sink_is_next(put->scope.buffer))
            return false;
    return !put->scope.wake;
}

/* Under the spinlock as far as no merge is needed. False: the call cannot go on. */
static bool
put_unmerged(struct put *put)
{
    if (put->done == put->count)
        return false;
    put_locked(put);
    /* From now on the memory of entries that died may be freed. */
    if (put->removed)
        put_forget_lookups(put, put->done + (put->step == STEP_MERGE));
    if (put->step != STEP_NO_MEMORY)
        return true;
    put_forget_lookups(put, put->done);
    return scope_refill(&put->scope);
}

/* With the merge lock, entries that were found live until this call removes them, outside a read section too. */
void
put_merging(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;
    struct context *context;

    merge_lock_after_sink(&put->scope);
    context = put_begin_reading(put);
    put_look_up(put);
    put_end_reading(buffer, context);
    while (merge_some(put) && put_unmerged(put))
        ;
    merge_unlock(&put->scope);
}
