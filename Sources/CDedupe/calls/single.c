/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One update with its payload in one go: for callers that have neither a slot at hand nor a place
 * to keep one.
 *
 *     cdedupe_single_begin           a slot from the magazine of a context, which stays claimed
 *         begin_without_magazine     acquires slots, if the magazine is empty
 *     cdedupe_single_put
 *         put_one_in                 put_unlocked.c: replaces without the lock
 *         put_single_locked          every other update; the context is given back before
 *         cdedupe_put                an update that needs merging, or that is rejected
 *     cdedupe_single_end             the slots that came back go into the magazine
 *         discard                    or to the arena, if the context was given back
 *
 * Acquiring, putting and discarding one by one would claim a context three times. Between begin and
 * end the caller is in a read section, so it only moves payloads; see CDedupe.h.
 */
#include "calls/put.h"

/* Acquires more slots than one, which go into the magazine, and claims a context again. */
static cdedupe_result_t
begin_without_magazine(struct cdedupe *buffer, struct context *context, cdedupe_single_t *single)
{
    cdedupe_result_t result;

    context_give_back(&buffer->contexts, context);
    result = cdedupe_acquire(buffer, &single->slot, 1);
    if (result == CDEDUPE_OK)
        single->opaque = context_claim(&buffer->contexts);
    return result;
}

cdedupe_result_t
cdedupe_single_begin(cdedupe_t *buffer, cdedupe_single_t *single)
{
    struct context *context = context_claim(&buffer->contexts);

    single->displaced = single->returned = NULL;
    single->displaced_slot = 0;
    single->pin = 0;
    single->outcome = CDEDUPE_OUTCOME_UNTOUCHED;
    if (context->slot_count > 0) {
        single->slot = context->slots[--context->slot_count];
        single->opaque = context;
    } else {
        cdedupe_result_t result = begin_without_magazine(buffer, context, single);

        if (result != CDEDUPE_OK)
            return result;
    }
    single->payload = arena_at(&buffer->slots, single->slot);
    return CDEDUPE_OK;
}

/* Notes what came back of an update that was put. */
static void
note(struct cdedupe *buffer, cdedupe_single_t *single, const cdedupe_update_t *update)
{
    single->outcome = update->outcome;
    single->displaced_slot = update->displaced;
    if (update->displaced != 0)
        single->displaced = arena_at(&buffer->slots, update->displaced);
    if (update->slot != 0)
        single->returned = single->payload;
    single->slot = update->slot;
}

cdedupe_result_t
cdedupe_single_put(cdedupe_t *buffer, cdedupe_single_t *single, const void *key, size_t key_length,
                   bool deletion)
{
    cdedupe_update_t update = {.key = key,
                               .key_length = key_length,
                               .slot = single->slot,
                               .pin = single->pin,
                               .deletion = deletion};
    bool is_long = single->pin == 0 && key_length > CDEDUPE_KEY_MAX;
    bool is_plain = buffer->merge == NULL && !is_long;
    uint64_t hash = single->pin != 0 || is_long ? 0 : hash_key(&buffer->secret, key, key_length);
    struct context *context = single->opaque;
    cdedupe_result_t result = CDEDUPE_OK;

    if (!is_plain || !put_one_in(context, buffer, &update, hash)) {
        context_give_back(&buffer->contexts, context);
        single->opaque = NULL;
        result =
            is_plain ? put_single_locked(buffer, &update, hash) : cdedupe_put(buffer, &update, 1);
    }
    note(buffer, single, &update);
    return result;
}

/* Puts a slot into the magazine of a claimed context. False: there is no room. */
static bool
keep(const struct cdedupe *buffer, struct context *context, cdedupe_slot_t slot)
{
    if (context->slot_count == MAGAZINE_SIZE || sync_load_relaxed_32(&buffer->magazines.sparse))
        return false;
    context->slots[context->slot_count++] = slot;
    return true;
}

void
cdedupe_single_end(cdedupe_t *buffer, cdedupe_single_t *single)
{
    cdedupe_slot_t back[2] = {single->slot, single->displaced_slot};
    struct context *context = single->opaque;

    if (context != NULL) {
        for (unsigned i = 0; i < 2; i++)
            if (back[i] != 0 && keep(buffer, context, back[i]))
                back[i] = 0;
        context_give_back(&buffer->contexts, context);
    }
    if (back[0] != 0 || back[1] != 0)
        cdedupe_discard(buffer, back, 2);
}
