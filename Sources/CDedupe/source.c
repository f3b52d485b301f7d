/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's side: putting updates. See word.h for the states, and CDedupe.h for what each transition means.
 *
 * A call works on shares of up to 100 updates. Outside any lock it hashes the keys, finds their entries and compares the
 * keys, in stages over the whole share, each stage fetching what the next one needs. Then, in order:
 *
 *     as long as updates replace what is pending: one compare-and-swap each, without the lock
 *     from the first that does not: all the others in one hold of the lock, so that two of one key never swap
 */
#include "buffer.h"

#include <string.h>

/* A word that others keep changing is left to the lock. */
enum { TRIES = 4 };

/* Keys copied in one hold, in bytes: with many long keys a hold ends early. */
enum { HOLD_BYTES = OR_TINY(64 * 1024, 256) };

/* Dead entries in limbo, beyond as many as are alive, before calls that add keys wait. */
enum { LIMBO_MAX = OR_TINY(16 * 1024, 2) };

/* One share of a call's updates. */
struct put {
    struct hold hold;
    cdedupe_update_t *updates;
    size_t count;
    size_t done;
    size_t copied; /* Bytes of keys, in this hold. */
    bool locked;   /* Something needed the lock, */
    bool inserted; /* or added a key. */
    bool moved;    /* Something was queued or cancelled: what needs the lock whatever the look-ups found. */
    uint64_t hashes[HOLD_PUT];
    uint32_t numbers[HOLD_PUT]; /* Entries found without the lock; zero: not found. */
    struct entry *entries[HOLD_PUT];
};

static void
finish_update(cdedupe_update_t *update, cdedupe_slot_t back, cdedupe_slot_t displaced, cdedupe_outcome_t outcome)
{
    update->slot = back;
    update->displaced = displaced;
    update->outcome = (uint8_t)outcome;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Under the lock                                                                                       */

/* A current entry leaves: its word is zero, and the sink never hears of what was pending. */
static void
remove_current(struct hold *hold, uint32_t number)
{
    unqueue(hold, entry_at(&hold->buffer->entries, number)->link);
    entry_unindex(hold->buffer, number);
    limbo_add(hold, number);
}

/*
 * current, not live, and a deletion: a value leaves, and the deletion with it [P8]; another deletion is replaced [P9].
 * Which of them is pending, producers without the lock may change until the exchange [P7]. It leaves zero, which sends them
 * to the lock: so there is no moment at which they could replace a deletion that is about to cancel a value.
 */
static void
delete_unheard(struct hold *hold, uint32_t number, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /* Acquire, with the release of replace_unlocked(): whoever destroys the payload sees all of it. */
    uint64_t before = sync_exchange(&entry->word, 0);

    if (word_deletion_cancels(before)) {
        remove_current(hold, number);
        buffer->statistics.cancelled += 2;
        finish_update(update, update->slot, word_slot(before), CDEDUPE_CANCELLED);
    } else {
        /* Release, with the acquire of replace_unlocked(): the payload. A store will do: nobody changes a zero word. */
        sync_store_release(&entry->word, word_pending(before, update->slot, buffer->restart, true));
        buffer->statistics.replaced++;
        finish_update(update, 0, word_slot(before), CDEDUPE_REPLACED);
    }
}

/* current -> current, in its place [P6] */
static void
replace(struct hold *hold, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    /* Both, with replace_unlocked() and take_word(): our payload before the word, the displaced one after it. */
    uint64_t before = sync_exchange(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));

    buffer->statistics.replaced++;
    finish_update(update, 0, word_slot(before), CDEDUPE_REPLACED);
}

/* stale -> current: its one link moves from the garbage to the back of the queue [P5] */
static void
revive(struct hold *hold, struct entry *entry, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    /* An exchange: who read the restart number before the restart may still be replacing the stale payload. */
    uint64_t before = sync_exchange(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));

    garbage_remove(hold, entry->link);
    queue_entry(hold, entry->link);
    finish_update(update, 0, word_slot(before), CDEDUPE_QUEUED);
}

/* idle -> current. False: no memory for the link. [P4] */
static bool
requeue(struct hold *hold, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);

    if (!link_make_room(hold))
        return false;
    entry->link = link_new(buffer, number);
    /* Release, with the acquire of replace_unlocked(): the payload. A store will do: idle words change under the lock. */
    sync_store_release(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));
    queue_entry(hold, entry->link);
    finish_update(update, 0, 0, CDEDUPE_QUEUED);
    return true;
}

/* False: no memory, and nothing has changed. */
static bool
put_present(struct hold *hold, uint32_t number, uint64_t word, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;

    if (!(word & WORD_PENDING))
        return requeue(hold, number, word, update);
    if (word_is_stale(word, buffer->restart))
        revive(hold, entry_at(&buffer->entries, number), word, update);
    else if (update->deletion && !(word & WORD_LIVE))
        delete_unheard(hold, number, update);
    else
        replace(hold, number, word, update);
    return true;
}

static uint32_t
entry_new(struct hold *hold, const cdedupe_update_t *update, uint64_t hash)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t number = arena_take(&buffer->entries, entry_class(update->key_length));
    struct entry *entry = entry_at(&buffer->entries, number);

    entry->hash = hash;
    entry->key_length = (uint32_t)update->key_length;
    if (update->key_length > 0)
        memcpy(entry->key, update->key, update->key_length);
    /*
     * Release, with the acquire of is_key(): who sees the word sees the key. It stands in for the fence that ck_hs_put
     * has not: who finds the entry before its word is visible takes it for dead, and looks again under the lock.
     */
    sync_store_release(&entry->word, word_pending(0, update->slot, buffer->restart, update->deletion));
    return number;
}

/* absent -> current. False: no memory, and nothing has changed. [P3] */
static bool
insert(struct hold *hold, uint64_t hash, cdedupe_update_t *update)
{
    struct cdedupe *buffer = hold->buffer;
    uint32_t number;

    if (!link_make_room(hold) || !arena_make_room(&buffer->entries, entry_class(update->key_length), &hold->reserve) ||
        !index_make_room(&buffer->index, hash, &hold->reserve))
        return false;
    /*
     * Indexed first, since ck_hs may want memory after all: with nothing to be undone, no number is used up, which would
     * make the order of numbers depend on the secret. Until entry_new() its word is zero, so who finds it takes it for dead.
     */
    number = arena_peek(&buffer->entries, entry_class(update->key_length));
    if (!index_add(&buffer->index, hash, number, &hold->reserve))
        return false;
    entry_new(hold, update, hash);
    entry_at(&buffer->entries, number)->link = link_new(buffer, number);
    queue_entry(hold, entry_at(&buffer->entries, number)->link);
    finish_update(update, 0, 0, CDEDUPE_QUEUED);
    return true;
}

/* False: no memory, and nothing has changed. */
static bool
put_anywhere(struct put *put, size_t i)
{
    struct cdedupe *buffer = put->hold.buffer;
    cdedupe_update_t *update = &put->updates[i];
    uint32_t number = put->numbers[i];
    uint64_t word = number == 0 ? 0 : sync_load_relaxed(&put->entries[i]->word);

    if (word == 0) {
        /* Missed, or dead by now: look again, with nobody changing anything. [P2] [F6] */
        number = index_find(&buffer->index, &buffer->entries, put->hashes[i], update->key, update->key_length);
        if (number == 0) {
            put->inserted = true;
            put->copied += update->key_length;
            return insert(&put->hold, put->hashes[i], update);
        }
        word = sync_load_relaxed(&entry_at(&buffer->entries, number)->word);
    }
    return put_present(&put->hold, number, word, update);
}

/* False: no memory, and nothing has changed. [P1] */
static bool
put_one(struct put *put, size_t i)
{
    struct cdedupe *buffer = put->hold.buffer;
    cdedupe_update_t *update = &put->updates[i];

    if (buffer->stopped) {
        buffer->statistics.dropped++;
        finish_update(update, update->slot, 0, CDEDUPE_DROPPED);
    } else if (put_anywhere(put, i)) {
        buffer->touched = true;
    } else {
        return false;
    }
    buffer->statistics.received++;
    put->moved |= update->outcome != CDEDUPE_REPLACED;
    /* Whatever adds a link clears one up: so while there is garbage, all that is queued and garbage does not grow. [P10] */
    if (update->outcome == CDEDUPE_QUEUED && update->displaced == 0 && buffer->uncleared > 0)
        clear_one(&put->hold, &update->displaced);
    return true;
}

/* One hold. True: there is more to do, and no memory is wanted. */
static bool
put_some(struct put *put)
{
    bool more = true;

    put->copied = 0;
    put->locked = true;
    hold_lock(&put->hold);
    while (put->done < put->count && put->copied < HOLD_BYTES && (more = put_one(put, put->done)))
        put->done++;
    /*
     * Once for the share, in however many holds it went, and not if it only replaced, and came here because two keys have
     * one tag: these things, memory and the hash function decide; see limbo.h.
     */
    if (put->done == put->count && put->moved)
        limbo_step(&put->hold);
    hold_unlock(&put->hold);
    return more && put->done < put->count;
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
    return sync_load_acquire(&entry->word) != 0 && entry->hash == hash && entry->key_length == update->key_length &&
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
    const struct index *index = &put->hold.buffer->index;

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
    struct cdedupe *buffer = put->hold.buffer;

    for (size_t i = 0; i < put->count; i++)
        put->hashes[i] = hash_key(&buffer->secret, put->updates[i].key, put->updates[i].key_length);
    prefetch_index(put);
    for (size_t i = 0; i < put->count; i++) {
        put->numbers[i] = index_find_tag(&buffer->index, put->hashes[i]);
        if (put->numbers[i] == 0)
            continue;
        put->entries[i] = entry_at(&buffer->entries, put->numbers[i]);
        prefetch_entry(put->entries[i]);
    }
    for (size_t i = 0; i < put->count; i++)
        if (put->numbers[i] != 0 && !is_key(put->entries[i], put->hashes[i], &put->updates[i]))
            put->numbers[i] = 0;
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

        if (!word_is_current(word, restart) || (update->deletion && word_deletion_cancels(word)))
            return false;
        if (sync_compare_exchange(&entry->word, word, word_pending(word, update->slot, restart, update->deletion))) {
            finish_update(update, 0, word_slot(word), CDEDUPE_REPLACED);
            return true;
        }
    }
    return false;
}

static void
replace_all_unlocked(struct put *put, struct context *context)
{
    struct cdedupe *buffer = put->hold.buffer;
    /*
     * Read once, in this call: a restart after this is one that overlaps the call, and may drop what it replaces. The
     * number of an earlier call would let updates after a restart vanish in stale words. [U2]
     */
    uint32_t restart = sync_load_relaxed_32(&buffer->restart);
    size_t i = 0;

    /* [U3] */
    if (sync_load_relaxed_32(&buffer->stopped))
        return;
    while (i < put->count && put->numbers[i] != 0 && replace_unlocked(put->entries[i], restart, &put->updates[i]))
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
        struct hold hold;

        hold_init(&hold, buffer);
        hold_lock(&hold);
        wait = limbo_count(&buffer->limbo) > LIMBO_MAX + buffer->index.count;
        if (wait)
            limbo_step(&hold);
        hold_unlock(&hold);
        hold_finish(&hold);
        if (wait)
            sched_yield();
    }
}

/* Under the lock, hold after hold, until all is done or memory runs out. */
static void
put_rest(struct put *put)
{
    bool more = put->done < put->count;

    while (more)
        more = put_some(put);
}

static void
forget_lookups(struct put *put)
{
    memset(put->numbers, 0, sizeof(put->numbers));
}

/*
 * At most HOLD_PUT updates, whose keys are not too long. Says how many were put: all, unless memory ran out. The section
 * that the look-ups need ends with the last of the updates. [P11]
 */
static size_t
put_share(struct cdedupe *buffer, cdedupe_update_t *updates, size_t count)
{
    struct context *context;
    struct put put;

    put.updates = updates;
    put.count = count;
    put.done = 0;
    put.locked = false;
    put.inserted = false;
    put.moved = false;
    hold_init(&put.hold, buffer);
    context = context_claim(buffer);
    context_enter(context);
    look_up(&put);
    replace_all_unlocked(&put, context);
    put_rest(&put);
    context_leave(buffer, context);
    context_give_back(context);

    /* Memory ran out. The allocator is foreign: it runs outside the section, and then look-ups are void. */
    forget_lookups(&put);
    while (put.done < count && hold_refill(&put.hold)) {
        context = context_claim(buffer);
        context_enter(context);
        put_rest(&put);
        context_leave(buffer, context);
        context_give_back(context);
    }
    hold_finish(&put.hold);
    if (put.locked)
        tidy_index(buffer);
    if (put.inserted)
        wait_for_readers(buffer);
    return put.done;
}

/* How many of the next updates make a share. */
static size_t
share_length(const cdedupe_update_t *updates, size_t count)
{
    size_t length = 0;

    while (length < count && length < HOLD_PUT && updates[length].key_length <= CDEDUPE_KEY_MAX)
        length++;
    return length;
}

/* The call ends here: the update that cannot be put, and those that nobody looked at. */
static cdedupe_result_t
reject(cdedupe_update_t *updates, size_t count, cdedupe_result_t result)
{
    finish_update(&updates[0], updates[0].slot, 0, CDEDUPE_REJECTED);
    for (size_t i = 1; i < count; i++)
        finish_update(&updates[i], updates[i].slot, 0, CDEDUPE_UNTOUCHED);
    return result;
}

cdedupe_result_t
cdedupe_put(cdedupe_t *buffer, cdedupe_update_t *updates, size_t count)
{
    size_t done = 0;

    while (done < count) {
        size_t share = share_length(updates + done, count - done), put;

        if (share == 0)
            return reject(updates + done, count - done, CDEDUPE_KEY_TOO_LONG);
        put = put_share(buffer, updates + done, share);
        done += put;
        if (put < share)
            return reject(updates + done, count - done, CDEDUPE_NO_MEMORY);
    }
    return CDEDUPE_OK;
}
