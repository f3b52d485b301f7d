/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting updates: the driver. It changes no word itself; the three other files do.
 *
 *     cdedupe_put
 *         put_pinned_unlocked        put_unlocked.c; before every chunk
 *         put_chunk                  up to 100 valid updates
 *             put_replacing
 *                 put_look_up            put_unlocked.c
 *                 put_replace_unlocked   put_unlocked.c
 *                 put_rest
 *                     put_locked         put_locked.c
 *             put_merging            put_merging.c, if the buffer merges
 *             tidy_index             life.c, if the chunk took the lock
 *             put_wait_for_readers   if keys come and go faster than readers leave
 *         reject                     the first invalid update ends the call
 */
#include "calls/put.h"

/*
 * If keys come and go faster than readers leave their read sections, retired entries pile up. Then
 * this call waits until the readers have left. It is in no read section itself, and holds no lock
 * while it waits.
 */
void
put_wait_for_readers(struct cdedupe *buffer)
{
    bool wait = true;

    while (wait) {
        struct lock_scope scope;

        scope_init(&scope, buffer);
        scope_lock(&scope);
        wait = put_readers_are_late(buffer);
        if (wait)
            reclaim(&scope);
        scope_unlock(&scope);
        scope_finish(&scope);
        if (wait)
            sched_yield();
    }
}

/*
 * Puts the rest of the chunk under the lock, in one lock scope after another, until a step fails.
 */
static void
put_rest(struct put *put)
{
    bool more = put->done < put->count;

    while (more)
        more = put_locked(put);
}

/*
 * Puts a chunk on a buffer that does not merge. Model step P11: the read section ends only after
 * the last update, because the entries that were looked up are valid only in the section.
 */
static void
put_replacing(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;
    struct context *context = put_begin_reading(put);

    put_look_up(put);
    put_replace_unlocked(put, context);
    put_rest(put);
    context_give_back(&buffer->contexts, context);

    /*
     * If memory is missing, the call fetches it outside the read section, because the allocator is
     * a user callback. Entries that were looked up may be freed meanwhile, so the look-ups become
     * void.
     */
    if (put->done < put->count)
        put_forget_lookups(put, put->done);
    while (put->step == STEP_NO_MEMORY && scope_refill(&put->scope)) {
        context = put_begin_reading(put);
        put_rest(put);
        context_give_back(&buffer->contexts, context);
    }
}

static cdedupe_result_t
put_result(const struct put *put)
{
    if (put->step == STEP_NO_MEMORY)
        return CDEDUPE_NO_MEMORY;
    return put->overflowed ? CDEDUPE_OVERFLOWED : CDEDUPE_OK;
}

static void
begin_chunk(struct put *put, struct cdedupe *buffer, cdedupe_update_t *updates, size_t count)
{
    put->updates = updates;
    put->count = count;
    put->done = 0;
    put->locked = false;
    put->readers_late = false;
    put->overflowed = false;
    put->step = STEP_DONE;
    scope_init(&put->scope, buffer);
}

static cdedupe_result_t
end_chunk(struct put *put)
{
    scope_finish(&put->scope);
    if (put->locked)
        tidy_index(put->scope.buffer);
    if (put->readers_late)
        put_wait_for_readers(put->scope.buffer);
    return put_result(put);
}

/*
 * Puts at most PUTS_PER_LOCK updates that check_update() accepts. Returns how many were put: at
 * least one, unless `result` is CDEDUPE_NO_MEMORY. On a buffer that merges the chunk may end early.
 */
static size_t
put_chunk(struct cdedupe *buffer, cdedupe_update_t *updates, size_t count, cdedupe_result_t *result)
{
    struct put put;

    begin_chunk(&put, buffer, updates, count);
    if (buffer->merge != NULL)
        put_merging(&put);
    else
        put_replacing(&put);
    *result = end_chunk(&put);
    return put.done;
}

/* CDEDUPE_OK if the update is valid: its key is short enough, and a value has a slot. */
static cdedupe_result_t
check_update(const cdedupe_update_t *update)
{
    if (update->pin == 0 && update->key_length > CDEDUPE_KEY_MAX)
        return CDEDUPE_KEY_TOO_LONG;
    return update->slot == 0 && !update->deletion ? CDEDUPE_INVALID_ARGUMENT : CDEDUPE_OK;
}

/*
 * The length of the next chunk: the valid updates up to the first invalid one, at most
 * PUTS_PER_LOCK.
 */
static size_t
chunk_length(const cdedupe_update_t *updates, size_t count)
{
    size_t length = 0;

    while (length < count && length < PUTS_PER_LOCK && check_update(&updates[length]) == CDEDUPE_OK)
        length++;
    return length;
}

/*
 * One valid update, on a buffer that does not merge, which put_one_unlocked() could not put. What
 * that found is void after its read section, so put_locked() looks the key up again.
 */
cdedupe_result_t
put_single_locked(struct cdedupe *buffer, cdedupe_update_t *update, uint64_t hash)
{
    struct put put;
    cdedupe_result_t result;

    begin_chunk(&put, buffer, update, 1);
    put.hashes[0] = hash;
    put.numbers[0] = update->pin;
    put.entries[0] = update->pin == 0 ? NULL : entry_at(&buffer->entries, update->pin);
    do {
        if (!clock_is_ours(&buffer->clock))
            scope_note_time(&put.scope);
        put_locked(&put);
    } while (put.step == STEP_NO_MEMORY && scope_refill(&put.scope));
    result = end_chunk(&put);
    if (put.done == 0)
        finish_update(update, update->slot, 0, CDEDUPE_OUTCOME_REJECTED);
    return result;
}

/* A call with one valid update, on a buffer that does not merge. */
static cdedupe_result_t
put_single(struct cdedupe *buffer, cdedupe_update_t *update)
{
    uint64_t hash = 0;

    if (update->pin == 0) {
        hash = hash_key(&buffer->secret, update->key, update->key_length);
        if (put_one_unlocked(buffer, update, hash))
            return CDEDUPE_OK;
    }
    return put_single_locked(buffer, update, hash);
}

/* Ends the call: the first of these updates was rejected, and the others were not looked at. */
static cdedupe_result_t
reject(cdedupe_update_t *updates, size_t count, cdedupe_result_t result)
{
    finish_update(&updates[0], updates[0].slot, 0, CDEDUPE_OUTCOME_REJECTED);
    for (size_t i = 1; i < count; i++)
        finish_update(&updates[i], updates[i].slot, 0, CDEDUPE_OUTCOME_UNTOUCHED);
    return result;
}

cdedupe_result_t
cdedupe_put(cdedupe_t *buffer, cdedupe_update_t *updates, size_t count)
{
    size_t done = put_pinned_unlocked(buffer, updates, count);
    cdedupe_result_t result = CDEDUPE_OK;

    if (count - done == 1 && buffer->merge == NULL && check_update(&updates[done]) == CDEDUPE_OK)
        return put_single(buffer, &updates[done]);
    if (done < count && merge_is_calling(buffer))
        return reject(updates + done, count - done, CDEDUPE_REENTRANT);
    while (done < count) {
        size_t chunk = chunk_length(updates + done, count - done);
        cdedupe_result_t of_chunk;

        if (chunk == 0)
            return reject(updates + done, count - done, check_update(&updates[done]));
        done += put_chunk(buffer, updates + done, chunk, &of_chunk);
        if (of_chunk == CDEDUPE_OVERFLOWED)
            result = of_chunk;
        else if (of_chunk != CDEDUPE_OK)
            return reject(updates + done, count - done, of_chunk);
        done += put_pinned_unlocked(buffer, updates + done, count - done);
    }
    return result;
}
