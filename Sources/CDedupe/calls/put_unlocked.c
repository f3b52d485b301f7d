/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting without the lock, in a read section.
 *
 *     put_look_up                    hashes the keys, finds their entries, compares the keys: in stages
 *                                    over the whole chunk, of which each prefetches for the next
 *     put_replace_unlocked
 *         replace_unlocked           current -> current by one compare-and-swap
 *
 * The first update that cannot be replaced so sends itself and all later ones to put_locked(): two
 * updates of one key in one call must not change places.
 */
#include "calls/put.h"

#include <string.h>

/* Lost compare-and-swaps after which an update goes to the lock. */
enum { TRIES = 4 };

/*
 * Whether an entry that was found by its tag is alive and has the key. Acquire, with the release in entry_new(): a word
 * that is not zero is seen with its key. An entry that dies meanwhile keeps its key until the section ends. [F5] [X4]
 */
static bool
is_key(const struct entry *entry, uint64_t hash, const cdedupe_update_t *update)
{
    return sync_load_acquire(&entry->word) != 0 && entry->hash == hash &&
           entry->key_length == update->key_length &&
           (update->key_length == 0 || memcmp(entry->key, update->key, update->key_length) == 0);
}

static void
prefetch_entry(const struct entry *entry)
{
    sync_prefetch(entry);
    sync_prefetch((const unsigned char *)entry + ENTRY_UNIT);
}

static void
prefetch_index(const struct put *put)
{
    const struct index *index = &put->scope.buffer->index;

    if (sync_load_relaxed(&index->count) < INDEX_SMALL)
        return;
    for (size_t i = 0; i < put->count; i++)
        index_prefetch_set(index, put->hashes[i]);
    for (size_t i = 0; i < put->count; i++)
        index_prefetch_cells(index, put->hashes[i]);
}

/* The stages: each passes over the whole share and brings nearer what the next one reads. [U1] */
void
put_look_up(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;

    for (size_t i = 0; i < put->count; i++)
        put->hashes[i] = hash_key(&buffer->secret, put->updates[i].key, put->updates[i].key_length);
    prefetch_index(put);
    for (size_t i = 0; i < put->count; i++) {
        put->numbers[i] = index_find_fingerprint(&buffer->index, put->hashes[i]);
        if (put->numbers[i] == 0)
            continue;
        put->entries[i] = entry_at(&buffer->entries, put->numbers[i]);
        prefetch_entry(put->entries[i]);
    }
    for (size_t i = 0; i < put->count; i++)
        if (put->numbers[i] != 0 && !is_key(put->entries[i], put->hashes[i], &put->updates[i]))
            put->numbers[i] = 0;
}

/* Whether the update replaces what is pending, and nobody has to know. */
static bool
replaces(uint64_t word, uint32_t restart, const cdedupe_update_t *update)
{
    if (!word_is_current(word, restart))
        return false;
    return !update->deletion || !word_deletion_cancels(word);
}

/*
 * current -> current, in its place; the one change that needs no lock. False: it is another change [U4], or others were
 * faster too often [U5].
 */
static bool
replace_unlocked(struct entry *entry, uint32_t restart, cdedupe_update_t *update)
{
    for (unsigned tries = 0; tries < TRIES; tries++) {
        uint64_t word = sync_load_acquire(&entry->word);

        if (!replaces(word, restart, update))
            return false;
        if (sync_compare_exchange(&entry->word, word,
                                  word_pending(word, update->slot, restart, update->deletion))) {
            finish_update(update, 0, word_slot(word), CDEDUPE_OUTCOME_REPLACED);
            return true;
        }
    }
    return false;
}

void
put_replace_unlocked(struct put *put, struct context *context)
{
    struct cdedupe *buffer = put->scope.buffer;
    /*
     * Read once, in this call: a restart after this is one that overlaps the call, and may drop what it replaces. The
     * number of an earlier call would let updates after a restart vanish in stale words. [U2]
     */
    uint32_t restart = sync_load_relaxed_32(&buffer->resync.restart);
    size_t i = 0;

    /* [U3] What is pending weighs what the counter says only if every change of it happens under the lock. */
    if (sync_load_relaxed_32(&buffer->end.stopped) || buffer->bounds.weight_offset != OFFSET_UNUSED)
        return;
    while (i < put->count && put->numbers[i] != 0 &&
           replace_unlocked(put->entries[i], restart, &put->updates[i]))
        i++;
    put->done = i;
    sync_store_relaxed(&context->replaced, context->replaced + i);
}

/* In no section: a foreign clock is asked in good time, ours when it is needed. */
struct context *
put_begin_reading(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;
    struct context *context;

    if (!clock_is_ours(&buffer->clock))
        scope_note_time(&put->scope);
    context = context_claim(&buffer->contexts);
    read_section_begin(context);
    return context;
}

void
put_end_reading(struct cdedupe *buffer, struct context *context)
{
    read_section_end(&buffer->contexts, context);
    context_give_back(context);
}

/* What was looked up for the updates from one on is void. */
void
put_forget_lookups(struct put *put, size_t from)
{
    memset(put->numbers + from, 0, (put->count - from) * sizeof(put->numbers[0]));
}
