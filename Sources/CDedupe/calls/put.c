/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting updates: the driver.
 *
 *     cdedupe_put
 *         put_chunk                  up to 100 updates whose keys are short enough
 *             put_replacing
 *                 put_look_up            put_unlocked.c
 *                 put_replace_unlocked   put_unlocked.c
 *                 put_rest
 *                     put_locked         put_locked.c
 *             put_merging            put_merging.c, if the buffer merges
 *             wait_for_readers       if keys come and go faster than readers leave
 */
#include "calls/put.h"

/* Retired entries, beyond as many as are alive, above which calls that add keys wait for readers. */
enum { RETIRED_MAX = TEST_SIZED(16 * 1024, 2) };

/* Keys come and go faster than readers let go of dead entries: wait for them, with no lock held and in no section. */
static void
wait_for_readers(struct cdedupe *buffer)
{
    bool wait = true;

    while (wait) {
        struct lock_scope scope;

        scope_init(&scope, buffer);
        scope_lock(&scope);
        wait = retired_count(&buffer->retired) > RETIRED_MAX + buffer->index.count;
        if (wait)
            reclaim(&scope);
        scope_unlock(&scope);
        scope_finish(&scope);
        if (wait)
            sched_yield();
    }
}

/* Under the lock, hold after hold, until all is done or something is in the way. */
static void
put_rest(struct put *put)
{
    bool more = put->done < put->count;

    while (more)
        more = put_locked(put);
}

/* Without merging: the read section that the look-ups need ends with the last of the updates. [P11] */
static void
put_replacing(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;
    struct context *context = put_begin_reading(put);

    put_look_up(put);
    put_replace_unlocked(put, context);
    put_rest(put);
    put_end_reading(buffer, context);

    /* Memory is missing. Allocators are user callbacks: they run outside the section, and then look-ups are void. */
    if (put->done < put->count)
        put_forget_lookups(put, put->done);
    while (put->step == STEP_NO_MEMORY && scope_refill(&put->scope)) {
        context = put_begin_reading(put);
        put_rest(put);
        put_end_reading(buffer, context);
    }
}

static cdedupe_result_t
put_result(const struct put *put)
{
    if (put->step == STEP_NO_MEMORY)
        return CDEDUPE_NO_MEMORY;
    return put->overflowed ? CDEDUPE_OVERFLOWED : CDEDUPE_OK;
}

/*
 * At most PUTS_PER_LOCK updates, whose keys are not too long. Says how many were put: at least one, unless `result` says
 * otherwise.
 */
static size_t
put_chunk(struct cdedupe *buffer, cdedupe_update_t *updates, size_t count, cdedupe_result_t *result)
{
    struct put put;

    put.updates = updates;
    put.count = count;
    put.done = 0;
    put.locked = false;
    put.inserted = false;
    put.overflowed = false;
    put.step = STEP_DONE;
    scope_init(&put.scope, buffer);
    if (buffer->merge != NULL)
        put_merging(&put);
    else
        put_replacing(&put);
    scope_finish(&put.scope);
    if (put.locked)
        tidy_index(buffer);
    if (put.inserted)
        wait_for_readers(buffer);
    *result = put_result(&put);
    return put.done;
}

/* Whether the update can be put at all. */
static cdedupe_result_t
check_update(const cdedupe_update_t *update)
{
    if (update->key_length > CDEDUPE_KEY_MAX)
        return CDEDUPE_KEY_TOO_LONG;
    return update->slot == 0 && !update->deletion ? CDEDUPE_INVALID_ARGUMENT : CDEDUPE_OK;
}

/* How many of the next updates make a chunk: as many as can be put at all. */
static size_t
chunk_length(const cdedupe_update_t *updates, size_t count)
{
    size_t length = 0;

    while (length < count && length < PUTS_PER_LOCK && check_update(&updates[length]) == CDEDUPE_OK)
        length++;
    return length;
}

/* The call ends here: the update that cannot be put, and those that nobody looked at. */
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
    cdedupe_result_t result = CDEDUPE_OK;
    size_t done = 0;

    if (count > 0 && merge_is_calling(buffer))
        return reject(updates, count, CDEDUPE_REENTRANT);
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
    }
    return result;
}
