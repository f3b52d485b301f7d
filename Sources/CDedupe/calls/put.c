/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's side: putting updates. See word.h for the states, and CDedupe.h for what each transition means.
 *
 * A call works on chunks of up to 100 updates. Outside any lock it hashes the keys, finds their entries and compares the keys,
 * in stages over the whole chunk, each stage fetching what the next one needs. Then, in order:
 *
 *     as long as updates replace what is pending: one compare-and-swap each, without the lock
 *     from the first that does not: all the others in one hold of the lock, so that two of one key never swap
 *
 * Where values are merged, the call holds the merge lock for the chunk, see merge.c:
 *
 *     as long as values are merged with what is pending: the callback without the spinlock, then a store under it
 *     from the first that is not: one hold of the spinlock, up to the next that is to be merged
 */
#include "state/buffer.h"

#include <string.h>

/* What came of one update. */
enum step {
    STEP_DONE,
    STEP_NO_MEMORY, /* Nothing has changed. */
    STEP_MERGE, /* The same: the update is to be merged first, in the entry that is in `entries` now. */
};

/* A word that others keep changing is left to the lock. */
enum { TRIES = 4 };

/* Keys copied in one hold, in bytes: with many long keys a hold ends early. */
enum { KEY_BYTES_PER_LOCK = TEST_SIZED(64 * 1024, 256) };

/* Dead entries in limbo, beyond as many as are alive, before calls that add keys wait. */
enum { RETIRED_MAX = TEST_SIZED(16 * 1024, 2) };

/* One share of a call's updates. */
struct put {
    struct lock_scope scope;
    cdedupe_update_t *updates;
    size_t count;
    size_t done;
    size_t copied;   /* Bytes of keys, in this hold. */
    bool locked;     /* Something needed the lock, */
    bool inserted;   /* or added a key. */
    bool overflowed; /* An update was dropped because a bound was exceeded. */
    bool removed;    /* In this hold an entry may have died. */
    enum step step;  /* What came of the last update that was tried under the lock. */
    uint64_t hashes[PUTS_PER_LOCK];
    uint32_t numbers[PUTS_PER_LOCK]; /* Entries found without the lock; zero: not found. */
    struct entry *entries[PUTS_PER_LOCK];
};

static void
finish_update(cdedupe_update_t *update, cdedupe_slot_t back, cdedupe_slot_t displaced,
              cdedupe_outcome_t outcome)
{
    update->slot = back;
    update->displaced = displaced;
    update->outcome = (uint8_t)outcome;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Under the lock                                                                                       */

/* Whether one more pending key, with this update, goes beyond a bound. */
static bool
exceeds(const struct cdedupe *buffer, const cdedupe_update_t *update)
{
    const cdedupe_statistics_t *statistics = &buffer->statistics;

    return statistics->pending_keys >= buffer->keys_max ||
           statistics->pending_bytes + payload_weight(buffer, update->slot) > buffer->bytes_max;
}

/*
 * Nothing is lost silently: as after a restart, the source has to send everything again, and whoever put this must tell it.
 * [P13]
 */
static enum step
overflow(struct lock_scope *scope, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;

    drop_everything(scope);
    buffer->overflowed = true;
    buffer->statistics.overflows++;
    buffer->statistics.dropped++;
    finish_update(update, update->slot, 0, CDEDUPE_OUTCOME_OVERFLOWED);
    return STEP_DONE;
}

/* A current entry leaves: its word is zero, and the sink never hears of the pending update. */
static void
remove_current(struct lock_scope *scope, uint32_t number)
{
    unqueue(scope, entry_at(&scope->buffer->entries, number)->link);
    entry_unindex(scope->buffer, number);
    retire_entry(scope, number);
}

/*
 * current, not live, and a deletion: a value leaves, and the deletion with it [P8]; another deletion is replaced [P9].
 * Which of them is pending, producers without the lock may change until the exchange [P7]. It leaves zero, which sends them
 * to the lock: so there is no moment at which they could replace a deletion that is about to cancel a value.
 */
static void
delete_not_live(struct lock_scope *scope, uint32_t number, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /* Acquire, with the release of replace_unlocked(): whoever destroys the payload sees all of it. */
    uint64_t before = sync_exchange(&entry->word, 0);

    pending_bytes_subtract(buffer, word_slot(before));
    if (word_deletion_cancels(before)) {
        buffer->statistics.cancelled += 2;
        finish_update(update, update->slot, word_slot(before), CDEDUPE_OUTCOME_CANCELLED);
        remove_current(scope, number);
    } else {
        pending_bytes_add(buffer, update->slot);
        /* Release, with the acquire of replace_unlocked(): the payload. A store will do: nobody changes a zero word. */
        sync_store_release(&entry->word, word_pending(before, update->slot, buffer->restart, true));
        buffer->statistics.replaced++;
        finish_update(update, 0, word_slot(before), CDEDUPE_OUTCOME_REPLACED);
    }
}

/*
 * Where values are merged: a value that comes after a deletion is never merged with older ones, nor is what takes its place.
 * There the word does not change before the exchange, since this call holds the merge lock.
 */
static uint64_t
merge_barrier_kept(const struct cdedupe *buffer, uint64_t word, const cdedupe_update_t *update)
{
    if (buffer->merge == NULL || update->deletion)
        return 0;
    return word & WORD_DELETION ? WORD_MERGE_BARRIER : word & WORD_MERGE_BARRIER;
}

/* current -> current, in its place [P6] */
static void
replace(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /* Both, with replace_unlocked() and take_word(): our payload before the word, the displaced one after it. */
    uint64_t before = sync_exchange(
        &entry->word, word_pending(word, update->slot, buffer->restart, update->deletion) |
                          merge_barrier_kept(buffer, word, update));

    pending_bytes_subtract(buffer, word_slot(before));
    pending_bytes_add(buffer, update->slot);
    buffer->statistics.replaced++;
    finish_update(update, 0, word_slot(before), CDEDUPE_OUTCOME_REPLACED);
}

/*
 * Where values are merged: a value that comes first after a restart is not merged with what was taken before it, if that is
 * put back. One that comes after a suppressed value is: that stood for what was taken.
 */
static uint64_t
merge_barrier_since_restart(const struct cdedupe *buffer, uint64_t word,
                            const cdedupe_update_t *update)
{
    return buffer->merge != NULL && !update->deletion && word_is_unseen(word, buffer->restart)
               ? WORD_MERGE_BARRIER
               : 0;
}

/* stale -> current: its one link moves from the garbage to the back of the queue [P5] */
static enum step
revive(struct lock_scope *scope, struct entry *entry, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    uint64_t alone = merge_barrier_since_restart(buffer, word, update), before;

    if (exceeds(buffer, update))
        return overflow(scope, update);
    pending_bytes_add(buffer, update->slot);
    /* An exchange: who read the restart number before the restart may still be replacing the stale payload. */
    before = sync_exchange(
        &entry->word, word_pending(word, update->slot, buffer->restart, update->deletion) | alone);
    dropped_remove(scope, entry->link);
    queue_entry(scope, entry->link);
    finish_update(update, 0, word_slot(before), CDEDUPE_OUTCOME_QUEUED);
    return STEP_DONE;
}

/* idle -> current [P4] */
static enum step
requeue(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t alone = merge_barrier_since_restart(buffer, word, update);

    if (exceeds(buffer, update))
        return overflow(scope, update);
    if (!link_make_room(scope))
        return STEP_NO_MEMORY;
    pending_bytes_add(buffer, update->slot);
    entry->link = link_new(scope, number);
    /* Release, with the acquire of replace_unlocked(): the payload. A store will do: idle words change under the lock. */
    sync_store_release(&entry->word,
                       word_pending(word, update->slot, buffer->restart, update->deletion) | alone);
    queue_entry(scope, entry->link);
    finish_update(update, 0, 0, CDEDUPE_OUTCOME_QUEUED);
    return STEP_DONE;
}

/* Whether the sink has this value: the key is live, nothing is pending, and the revision is the one taken last. */
static bool
is_unchanged(const struct cdedupe *buffer, uint32_t number, uint64_t word,
             const cdedupe_update_t *update)
{
    uint64_t revision;

    if (!suppresses(buffer) || update->deletion || !(word & WORD_LIVE) ||
        word_is_current(word, buffer->restart))
        return false;
    revision = payload_number(buffer, update->slot, buffer->revision_offset);
    return revision != 0 && revision == entry_revision(entry_at(&buffer->entries, number));
}

/* idle or stale, live -> idle and seen; what a restart dropped goes with it [P12] */
static void
suppress(struct lock_scope *scope, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /* An exchange, as in revive(). */
    uint64_t before = sync_exchange(&entry->word, word_idle(buffer->restart));

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
    if (word_is_stale(word, buffer->restart))
        return revive(scope, entry_at(&buffer->entries, number), word, update);
    if (update->deletion && !(word & WORD_LIVE))
        delete_not_live(scope, number, update);
    else
        replace(scope, number, word, update);
    return STEP_DONE;
}

/* Bytes behind an entry's header. */
static size_t
entry_length(const struct cdedupe *buffer, size_t key_length)
{
    return suppresses(buffer) ? key_length + sizeof(uint64_t) : key_length;
}

static uint32_t
entry_new(struct lock_scope *scope, const cdedupe_update_t *update, uint64_t hash)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t number =
        arena_take(&buffer->entries, entry_class(entry_length(buffer, update->key_length)));
    struct entry *entry = entry_at(&buffer->entries, number);

    entry->hash = hash;
    entry->key_length = (uint32_t)update->key_length;
    if (update->key_length > 0)
        memcpy(entry->key, update->key, update->key_length);
    if (suppresses(buffer))
        entry_set_revision(entry, 0);
    /*
     * Release, with the acquire of is_key(): who sees the word sees the key. It stands in for the fence that ck_hs_put
     * has not: who finds the entry before its word is visible takes it for dead, and looks again under the lock.
     */
    sync_store_release(&entry->word,
                       word_pending(0, update->slot, buffer->restart, update->deletion));
    return number;
}

/* absent -> current [P3] */
static enum step
insert(struct lock_scope *scope, uint64_t hash, cdedupe_update_t *update)
{
    struct cdedupe *buffer = scope->buffer;
    uint32_t class_index = entry_class(entry_length(buffer, update->key_length)), number;

    if (exceeds(buffer, update))
        return overflow(scope, update);
    if (!link_make_room(scope) ||
        !arena_make_room(&buffer->entries, class_index, &scope->reserve) ||
        !index_make_room(&buffer->index, hash, &scope->reserve))
        return STEP_NO_MEMORY;
    number = entry_new(scope, update, hash);
    if (!index_add(&buffer->index, hash, number, &scope->reserve)) {
        /* ck_hs wants memory after all. No reader has seen the entry, since it was never indexed. */
        sync_store_release(&entry_at(&buffer->entries, number)->word, 0);
        arena_give_back(&buffer->entries, number, &scope->reserve);
        return STEP_NO_MEMORY;
    }
    pending_bytes_add(buffer, update->slot);
    entry_at(&buffer->entries, number)->link = link_new(scope, number);
    queue_entry(scope, entry_at(&buffer->entries, number)->link);
    finish_update(update, 0, 0, CDEDUPE_OUTCOME_QUEUED);
    return STEP_DONE;
}

/* Whether the update has to be merged with what is pending in a word: both are values with a payload. */
static bool
is_to_merge(const struct cdedupe *buffer, uint64_t word, const cdedupe_update_t *update)
{
    return buffer->merge != NULL && !update->deletion && update->slot != 0 &&
           word_is_current(word, buffer->restart) && !(word & WORD_DELETION) &&
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
        /* Missed, or dead by now: look again, with nobody changing anything. [P2] [F6] */
        number = index_find(&buffer->index, &buffer->entries, put->hashes[i], update->key,
                            update->key_length);
        if (number == 0) {
            put->inserted = true;
            put->copied += update->key_length;
            return insert(&put->scope, put->hashes[i], update);
        }
        word = sync_load_relaxed(&entry_at(&buffer->entries, number)->word);
    }
    if (is_to_merge(buffer, word, update)) {
        put->numbers[i] = number;
        put->entries[i] = entry_at(&buffer->entries, number);
        return STEP_MERGE;
    }
    return put_present(&put->scope, number, word, update);
}

/* [P1] */
static enum step
put_one(struct put *put, size_t i)
{
    struct cdedupe *buffer = put->scope.buffer;
    cdedupe_update_t *update = &put->updates[i];
    enum step step = STEP_DONE;

    if (buffer->stopped || buffer->overflowed) {
        buffer->statistics.dropped++;
        finish_update(update, update->slot, 0, CDEDUPE_OUTCOME_DROPPED);
    } else if ((step = put_anywhere(put, i)) == STEP_DONE) {
        buffer->received_since_restart = !buffer->overflowed;
    } else {
        return step;
    }
    buffer->statistics.received++;
    put->overflowed |= buffer->overflowed && !buffer->stopped;
    put->removed |= update->outcome == CDEDUPE_OUTCOME_CANCELLED;
    /* Whatever adds a link clears one up: so between two resyncs all that is queued and garbage does not grow. [P10] */
    if (update->outcome == CDEDUPE_OUTCOME_QUEUED && update->displaced == 0 &&
        buffer->uncleared > 0)
        put->removed |= clear_one(&put->scope, &update->displaced);
    return STEP_DONE;
}

/* One hold. True: there is more to do, and nothing in its way. */
static bool
put_some(struct put *put)
{
    put->copied = 0;
    put->removed = false;
    put->locked = true;
    put->step = STEP_DONE;
    if (clock_is_ours(&put->scope.buffer->clock))
        scope_note_time(&put->scope);
    scope_lock(&put->scope);
    while (put->done < put->count && put->copied < KEY_BYTES_PER_LOCK &&
           (put->step = put_one(put, put->done)) == STEP_DONE)
        put->done++;
    reclaim(&put->scope);
    scope_unlock(&put->scope);
    return put->step == STEP_DONE && put->done < put->count;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Without the lock, in a section                                                                       */

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
static void
look_up(struct put *put)
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

static void
replace_all_unlocked(struct put *put, struct context *context)
{
    struct cdedupe *buffer = put->scope.buffer;
    /*
     * Read once, in this call: a restart after this is one that overlaps the call, and may drop what it replaces. The
     * number of an earlier call would let updates after a restart vanish in stale words. [U2]
     */
    uint32_t restart = sync_load_relaxed_32(&buffer->restart);
    size_t i = 0;

    /* [U3] What is pending weighs what the counter says only if every change of it happens under the lock. */
    if (sync_load_relaxed_32(&buffer->stopped) || buffer->weight_offset != OFFSET_UNUSED)
        return;
    while (i < put->count && put->numbers[i] != 0 &&
           replace_unlocked(put->entries[i], restart, &put->updates[i]))
        i++;
    put->done = i;
    sync_store_relaxed(&context->replaced, context->replaced + i);
}

/* ---------------------------------------------------------------------------------------------------- */

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

/* In no section: a foreign clock is asked in good time, ours when it is needed. */
static struct context *
begin_read_section(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;
    struct context *context;

    if (!clock_is_ours(&buffer->clock))
        scope_note_time(&put->scope);
    context = context_claim(buffer);
    read_section_begin(context);
    return context;
}

static void
end_read_section(struct cdedupe *buffer, struct context *context)
{
    read_section_end(buffer, context);
    context_give_back(context);
}

/* Under the lock, hold after hold, until all is done or something is in the way. */
static void
put_rest(struct put *put)
{
    bool more = put->done < put->count;

    while (more)
        more = put_some(put);
}

/* What was looked up for the updates from one on is void. */
static void
forget_lookups(struct put *put, size_t from)
{
    memset(put->numbers + from, 0, (put->count - from) * sizeof(put->numbers[0]));
}

/* Without merging: the read section that the look-ups need ends with the last of the updates. [P11] */
static void
put_replacing(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;
    struct context *context = begin_read_section(put);

    look_up(put);
    replace_all_unlocked(put, context);
    put_rest(put);
    end_read_section(buffer, context);

    /* Memory is missing. Allocators are user callbacks: they run outside the section, and then look-ups are void. */
    if (put->done < put->count)
        forget_lookups(put, put->done);
    while (put->step == STEP_NO_MEMORY && scope_refill(&put->scope)) {
        context = begin_read_section(put);
        put_rest(put);
        end_read_section(buffer, context);
    }
}

/* ---------------------------------------------------------------------------------------------------- */
/* Merging                                                                                              */

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
    sync_store_release(&entry->word, word_pending(word, update->slot, buffer->restart, false) |
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

    if (put->numbers[put->done] == 0 || sync_load_relaxed_32(&buffer->stopped))
        return false;
    word = sync_load_relaxed(&entry->word);
    if (!is_to_merge(buffer, word, update))
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
    put_some(put);
    /* From now on the memory of entries that died may be freed. */
    if (put->removed)
        forget_lookups(put, put->done + (put->step == STEP_MERGE));
    if (put->step != STEP_NO_MEMORY)
        return true;
    forget_lookups(put, put->done);
    return scope_refill(&put->scope);
}

/* With the merge lock, entries that were found live until this call removes them, outside a read section too. */
static void
put_merging(struct put *put)
{
    struct cdedupe *buffer = put->scope.buffer;
    struct context *context;

    merge_lock_after_sink(&put->scope);
    context = begin_read_section(put);
    look_up(put);
    end_read_section(buffer, context);
    while (merge_some(put) && put_unmerged(put))
        ;
    merge_unlock(&put->scope);
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

/* How many of the next updates make a chunk. */
static size_t
chunk_length(const cdedupe_update_t *updates, size_t count)
{
    size_t length = 0;

    while (length < count && length < PUTS_PER_LOCK &&
           updates[length].key_length <= CDEDUPE_KEY_MAX)
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
            return reject(updates + done, count - done, CDEDUPE_KEY_TOO_LONG);
        done += put_chunk(buffer, updates + done, chunk, &of_chunk);
        if (of_chunk == CDEDUPE_OVERFLOWED)
            result = of_chunk;
        else if (of_chunk != CDEDUPE_OK)
            return reject(updates + done, count - done, of_chunk);
    }
    return result;
}
