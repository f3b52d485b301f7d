/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pinning: a reference to a key's entry, which keeps the entry.
 *
 *     cdedupe_pin
 *         pin_key                    one lock scope; adds an entry if the key has none
 *     cdedupe_unpin
 *         remove_pin
 *
 * A pin is the entry's number. An entry with pins does not die: where its key would leave the
 * buffer, entry_leave() and take_entry() leave the entry vacant.
 *
 *     state                  event       -> state        function
 *     ---------------------  ----------  --------------  ----------
 *     absent                 pin         vacant          pin_key
 *     vacant, its last pin   unpin       dead            remove_pin
 */
#include "calls/put.h"

/* Model step N1: the key gets one more pin. CDEDUPE_NO_MEMORY: nothing has changed. */
static cdedupe_result_t
pin_key(struct lock_scope *scope, const struct new_key *key, cdedupe_pin_t *pin)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t number =
        index_find(&buffer->index, &buffer->entries, key->hash, key->bytes, key->length);
    struct entry *entry;

    if (number == 0 && entry_make_room(scope, key))
        number = entry_add(scope, key, WORD_VACANT);
    if (number == 0)
        return CDEDUPE_NO_MEMORY;
    entry = entry_at(&buffer->entries, number);
    if (entry_pins(entry) == CDEDUPE_PINS_MAX)
        return CDEDUPE_TOO_MANY_PINS;
    buffer->statistics.pinned_keys += entry_pins(entry) == 0;
    entry_change_shape(entry, entry->shape + SHAPE_PIN);
    *pin = number;
    return CDEDUPE_OK;
}

cdedupe_result_t
cdedupe_pin(cdedupe_t *buffer, const void *key, size_t key_length, cdedupe_pin_t *pin)
{
    struct new_key new_key = {.bytes = key, .length = key_length};
    cdedupe_result_t result;
    struct lock_scope scope;
    bool late;

    *pin = 0;
    if (key_length > CDEDUPE_KEY_MAX)
        return CDEDUPE_KEY_TOO_LONG;
    if (merge_is_calling(buffer))
        return CDEDUPE_REENTRANT;
    new_key.hash = hash_key(&buffer->secret, key, key_length);
    scope_init(&scope, buffer);
    do {
        merge_lock(&scope);
        scope_lock(&scope);
        result = pin_key(&scope, &new_key, pin);
        late = put_readers_are_late(buffer);
        reclaim(&scope);
        scope_unlock(&scope);
        merge_unlock(&scope);
    } while (result == CDEDUPE_NO_MEMORY && scope_refill(&scope));
    scope_finish(&scope);
    if (late)
        put_wait_for_readers(buffer);
    return result;
}

/*
 * Model step N2: the key has one pin less. A vacant entry without pins dies. A store is enough,
 * because a vacant word changes only under the lock.
 */
static void
remove_pin(struct lock_scope *scope, uint32_t number)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);

    entry_change_shape(entry, entry->shape - SHAPE_PIN);
    if (entry_pins(entry) > 0)
        return;
    buffer->statistics.pinned_keys--;
    if (sync_load_relaxed(&entry->word) == WORD_VACANT) {
        sync_store_release(&entry->word, 0);
        entry_leave(scope, number);
    }
}

cdedupe_result_t
cdedupe_unpin(cdedupe_t *buffer, cdedupe_pin_t pin)
{
    struct lock_scope scope;

    if (pin == 0)
        return CDEDUPE_INVALID_ARGUMENT;
    if (merge_is_calling(buffer))
        return CDEDUPE_REENTRANT;
    scope_init(&scope, buffer);
    merge_lock(&scope);
    scope_lock(&scope);
    remove_pin(&scope, pin);
    reclaim(&scope);
    scope_unlock(&scope);
    scope_finish(&scope);
    tidy_index(buffer);
    return CDEDUPE_OK;
}
