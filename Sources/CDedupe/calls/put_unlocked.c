/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting without the lock: by keys in a read section, and by pins without one.
 *
 *     put_begin_reading              claims a context, begins the read section
 *     put_look_up                    hashes the keys, finds their entries and compares the keys, in
 *                                    stages over the chunk; each stage prefetches for the next
 *     put_replace_unlocked
 *         replace_unlocked           current -> current by one compare-and-swap
 *     put_one_unlocked               the same for a call of one update
 *     put_pinned_unlocked            by pins: no context, no look-up
 *         replace_pinned
 *             replace_unlocked
 *
 *     state                     event           -> state                   function
 *     ------------------------  --------------  -------------------------  ------------------
 *     current                   value           current, same place        replace_unlocked
 *     current and live, or a    deletion        current, same place        replace_unlocked
 *     current deletion
 *
 * Every other transition needs the lock. The first update that needs it goes to put_locked(), and
 * all later updates of the chunk go there too. Otherwise two updates of one key in one call could
 * change places.
 */
#include "calls/put.h"

/* After this many lost compare-and-swaps an update goes to the lock. */
enum { TRIES = 4 };

/*
 * Whether an entry that was found by its fingerprint is alive and has the update's key.
 * Model steps F5 and X4: an entry that dies meanwhile keeps its key until the read section ends.
 *
 * Acquire: pairs with the release in entry_new(). A producer that sees a word other than zero
 * therefore sees the entry's hash and key. Without the acquire the producer could compare with
 * bytes from before the entry was filled.
 */
static bool
is_key(const struct entry *entry, uint64_t hash, const cdedupe_update_t *update)
{
    return sync_load_acquire(&entry->word) != 0 && entry->hash == hash &&
           entry_has_key(entry, update->key, update->key_length);
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

/* Zero for an update of a pinned key, whose hash nothing needs. */
static uint64_t
hash_update(const struct cdedupe *buffer, const cdedupe_update_t *update)
{
    return update->pin != 0 ? 0 : hash_key(&buffer->secret, update->key, update->key_length);
}

/*
 * Model step U1, in a read section: hashes the keys and finds their entries. Each stage passes over
 * the whole chunk and prefetches what the next stage reads, so the cache misses of a chunk overlap.
 */
void
put_look_up(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;

    for (size_t i = 0; i < put->count; i++)
        put->hashes[i] = hash_update(buffer, &put->updates[i]);
    prefetch_index(put);
    for (size_t i = 0; i < put->count; i++) {
        put->numbers[i] = put->updates[i].pin != 0
                              ? put->updates[i].pin
                              : index_find_fingerprint(&buffer->index, put->hashes[i]);
        if (put->numbers[i] == 0)
            continue;
        put->entries[i] = entry_at(&buffer->entries, put->numbers[i]);
        prefetch_entry(put->entries[i]);
    }
    for (size_t i = 0; i < put->count; i++)
        if (put->numbers[i] != put->updates[i].pin &&
            !is_key(put->entries[i], put->hashes[i], &put->updates[i]))
            put->numbers[i] = 0;
}

/* Whether the update only replaces the pending update, so that neither queue nor index changes. */
static bool
replaces(uint64_t word, uint32_t restart, const cdedupe_update_t *update)
{
    if (!word_is_current(word, restart))
        return false;
    return !update->deletion || !word_deletion_cancels(word);
}

/*
 * current -> current, in the same place of the queue. No other transition works without the lock.
 *
 * Model step U4: returns false if the word calls for another transition. Model step U5: the
 * compare-and-swap. Returns false if other threads changed the word first TRIES times.
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

/*
 * Model step U3: on a stopped buffer put_locked() drops the updates. With a bound of bytes every
 * replacement needs the lock, because the sum of the pending weights is changed only under the
 * lock.
 */
static bool
can_replace_unlocked(const struct cdedupe *buffer)
{
    return !sync_load_relaxed_32(&buffer->end.stopped) &&
           buffer->bounds.weight_offset == OFFSET_UNUSED;
}

void
put_replace_unlocked(struct put *put, struct context *context)
{
    struct cdedupe *buffer = put->scope.buffer;
    /*
     * Model step U2: each call reads the restart number once. A restart that comes after this read
     * overlaps the call, so it may drop the updates that the call puts. With a number from an
     * earlier call, the producer could put an update that came after a restart into a stale word,
     * where it would be lost.
     */
    uint32_t restart = sync_load_relaxed_32(&buffer->resync.restart);
    size_t i = 0;

    if (!can_replace_unlocked(buffer))
        return;
    while (i < put->count && put->numbers[i] != 0 &&
           replace_unlocked(put->entries[i], restart, &put->updates[i]))
        i++;
    put->done = i;
    sync_store_relaxed(&context->replaced, context->replaced + i);
}

/* In a read section: the entry that the update's pin or its key names, or NULL. */
static struct entry *
find_entry(const struct cdedupe *buffer, const cdedupe_update_t *update, uint64_t hash)
{
    struct entry *entry;
    uint32_t number;

    if (update->pin != 0)
        return entry_at(&buffer->entries, update->pin);
    /* The set's cells come from memory while ck_hs_get() reads what lies before them. */
    if (sync_load_relaxed(&buffer->index.count) >= INDEX_SMALL)
        index_prefetch_cells(&buffer->index, hash);
    number = index_find_fingerprint(&buffer->index, hash);
    if (number == 0)
        return NULL;
    entry = entry_at(&buffer->entries, number);
    prefetch_entry(entry);
    return is_key(entry, hash, update) ? entry : NULL;
}

bool
put_one_in(struct context *context, struct cdedupe *buffer, cdedupe_update_t *update, uint64_t hash)
{
    struct entry *entry = can_replace_unlocked(buffer) ? find_entry(buffer, update, hash) : NULL;
    bool done = entry != NULL &&
                replace_unlocked(entry, sync_load_relaxed_32(&buffer->resync.restart), update);

    if (done)
        sync_store_relaxed(&context->replaced, context->replaced + 1);
    return done;
}

/*
 * One update alone: no chunk, and no lock scope. Returns false if put_locked() must put it; then
 * nothing has changed.
 */
bool
put_one_unlocked(struct cdedupe *buffer, cdedupe_update_t *update, uint64_t hash)
{
    struct context *context = context_claim(&buffer->contexts);
    bool done = put_one_in(context, buffer, update, hash);

    context_give_back(&buffer->contexts, context);
    return done;
}

/* Replaces pending updates of pinned keys, up to the first update that needs more. */
static size_t
replace_pinned(struct cdedupe *buffer, cdedupe_update_t *updates, size_t count)
{
    /* Model step U2, once per call of this function. */
    uint32_t restart = sync_load_relaxed_32(&buffer->resync.restart);
    size_t i = 0;

    while (i < count && i < PUTS_PER_LOCK && updates[i].pin != 0 &&
           (updates[i].slot != 0 || updates[i].deletion) &&
           replace_unlocked(entry_at(&buffer->entries, updates[i].pin), restart, &updates[i]))
        i++;
    return i;
}

/*
 * Without a read section: neither a pinned entry nor a table of slabs is freed. Claiming a context
 * only for its count would take as long as all the rest, so most threads have a tally.
 */
size_t
put_pinned_unlocked(struct cdedupe *buffer, cdedupe_update_t *updates, size_t count)
{
    struct context *context = NULL;
    struct tally *tally;
    size_t done;

    if (count == 0 || updates[0].pin == 0 || buffer->merge != NULL || !can_replace_unlocked(buffer))
        return 0;
    tally = context_begin_tally(&buffer->contexts);
    if (tally == NULL)
        context = context_claim(&buffer->contexts);
    done = replace_pinned(buffer, updates, count);
    if (tally != NULL) {
        context_end_tally(tally, done);
    } else {
        sync_store_relaxed(&context->replaced, context->replaced + done);
        context_give_back(&buffer->contexts, context);
    }
    return done;
}

/*
 * A clock that the user supplied is a user callback. It is therefore read here, before the context
 * is claimed and the read section begins. The buffer's own clock is read only when the call takes
 * the lock.
 */
struct context *
put_begin_reading(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;

    if (!clock_is_ours(&buffer->clock))
        scope_note_time(&put->scope);
    return context_claim(&buffer->contexts);
}

void
put_forget_lookups(struct put *put, size_t from)
{
    for (size_t i = from; i < put->count; i++)
        put->numbers[i] = put->updates[i].pin;
}
