/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How an entry comes and goes. Everything here runs under the lock.
 *
 *     entry_make_room                room for one more entry, in the arena and in the index
 *     entry_add                      a new entry goes into the index
 *         entry_new
 *     entry_leave                    an entry whose word is zero becomes vacant, if it has pins;
 *                                    otherwise it leaves the index and is retired
 *     entry_keep_borrowed            a dead entry waits for the next take
 */
#include "calls/calls.h"

#include <string.h>

/*
 * The number of bytes behind an entry's header: the key, and the revision if the buffer suppresses.
 */
static size_t
entry_length(const struct cdedupe *buffer, size_t key_length)
{
    return suppresses(buffer) ? key_length + sizeof(uint64_t) : key_length;
}

bool
entry_make_room(struct lock_scope *scope, const struct new_key *key)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t class_index = entry_class(entry_length(buffer, key->length));
    bool room = arena_make_room(&buffer->entries, class_index, &scope->reserve);

    /* Both are asked, so that one refill brings all that is missing. */
    return index_make_room(&buffer->index, key->hash, &scope->reserve) && room;
}

static uint32_t
entry_new(struct lock_scope *scope, const struct new_key *key, uint64_t word)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t number = arena_take(&buffer->entries, entry_class(entry_length(buffer, key->length)));
    struct entry *entry = entry_at(&buffer->entries, number);

    entry->hash = key->hash;
    entry_change_shape(entry, (uint32_t)key->length);
    if (key->length > 0)
        memcpy(entry->key, key->bytes, key->length);
    if (suppresses(buffer))
        entry_set_revision(entry, 0);
    /*
     * Release: pairs with the acquire in is_key(). A producer that sees the word sees the entry's
     * hash and key; without the release it could compare with bytes from before the entry was
     * filled.
     *
     * This release also replaces the fence that ck_hs_put() lacks. A producer may find the entry in
     * the index before its word is visible. The word then reads zero, the producer takes the entry
     * for dead, and it looks the key up again under the lock.
     */
    sync_store_release(&entry->word, word);
    return number;
}

uint32_t
entry_add(struct lock_scope *scope, const struct new_key *key, uint64_t word)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t number = entry_new(scope, key, word);

    if (index_add(&buffer->index, key->hash, number, &scope->reserve))
        return number;
    /*
     * The map has no room for the key, so the reserve wants memory. No reader has found the entry,
     * because it was never indexed. It can be freed at once.
     */
    sync_store_release(&entry_at(&buffer->entries, number)->word, 0);
    arena_give_back(&buffer->entries, number, &scope->reserve);
    return 0;
}

void
entry_keep_borrowed(struct cdedupe *buffer, uint32_t number)
{
    entry_at(&buffer->entries, number)->link = buffer->batch.borrowed_put_back;
    buffer->batch.borrowed_put_back = number;
}

/*
 * Model step N3.
 *
 * Release: pairs with the acquire in is_key(). Without it a producer that sees only this word could
 * compare with bytes from before the entry was filled.
 */
void
entry_leave(struct lock_scope *scope, uint32_t number)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);

    if (entry_pins(entry) > 0) {
        sync_store_release(&entry->word, WORD_VACANT);
        return;
    }
    entry_unindex(buffer, number);
    if (entry->shape & SHAPE_BORROWED)
        entry_keep_borrowed(buffer, number);
    else
        retire_entry(scope, number);
}
