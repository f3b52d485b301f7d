/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Statuses, restarts, and the sweep, which finds out which keys vanished during a resync.
 *
 *     cdedupe_restart
 *         drop_everything            an overflow calls it too (put_locked.c)
 *             drop_queue             moves the queue's links to the dropped list
 *             next_restart           forget_old_restarts() if the numbers wrap
 *     cdedupe_put_status             one lock scope after the other, until the status is queued
 *         put_status_some
 *             sweep_some             for an in-sync that must synthesize deletions
 *                 sweep_entry        synthesize_deletion() or synthesize_deletion_of_stale()
 *             accept_status          queues the status, in the lock scope that ends the sweep
 *         can_go_on                  between two lock scopes: memory, wake callback, yield
 *
 * The rows of the transition table that this file implements:
 *
 *     state          event     new state                                     function
 *     any            restart   unchanged, and therefore stale or unseen      next_restart
 *     idle, unseen   sweep     pending deletion without a payload            synthesize_deletion
 *     stale, live    sweep     the same; the dropped payload is detached     ..._of_stale
 */
#include "calls/calls.h"

/* ---------------------------------------------------------------------------------------------- */
/* Restart                                                                                        */

/*
 * The restart numbers are used up. Every entry gets the number that is older than all others,
 * because a word that kept its number would look current again later.
 */
static void
forget_old_restarts(struct cdedupe *buffer)
{
    uint32_t number = 0;

    while ((number = arena_next_touched(&buffer->entries, number)) != 0) {
        struct entry *entry = entry_at(&buffer->entries, number);
        uint64_t word;

        /*
         * Model steps R2 and R3: the load reads the word, and the compare-and-swap changes it. The
         * other side is replace_unlocked(), in which a producer may be replacing the slot. A plain
         * store could bring a slot back that the producer has displaced.
         */
        do
            word = sync_load_relaxed(&entry->word);
        while (word != 0 && !sync_compare_exchange(
                                &entry->word, word,
                                word_make(word_slot(word), WORD_RESTART_OLDER, word_flags(word))));
        number++;
    }
}

/*
 * Model step R4: the next restart number. This alone makes every current word stale and every live
 * key unseen.
 */
static void
next_restart(struct cdedupe *buffer)
{
    if (buffer->resync.restart == WORD_RESTART_MAX) {
        forget_old_restarts(buffer);
        sync_store_relaxed_32(&buffer->resync.restart, 1);
    } else {
        sync_store_relaxed_32(&buffer->resync.restart, buffer->resync.restart + 1);
    }
    buffer->resync.restarts++;
}

/* Model step R1: moves the links of the queue to the dropped list. */
static void
drop_queue(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;
    cdedupe_statistics_t *statistics = &buffer->statistics;

    dropped_add_queue(scope);
    buffer->batch.barrier = buffer->queue.ring;
    buffer->batch.restarted = true;
    buffer->resync.dropped_equal_status = false;
    statistics->dropped += statistics->pending_keys;
    statistics->pending_keys = 0;
    statistics->pending_statuses = 0;
    statistics->pending_bytes = 0;
}

void
drop_everything(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;

    drop_queue(scope);
    next_restart(buffer);
    buffer->resync.deletions_due = true;
    buffer->resync.latest_received = buffer->resync.latest_taken;
    buffer->resync.received_since_restart = false;
}

/*
 * Whether nothing more is queued: after a stop, and after a finish "when delivered". A restart is
 * ignored then too, because it would drop what the finish promised to deliver.
 */
static bool
is_closed(const struct cdedupe *buffer)
{
    return buffer->end.stopped || buffer->end.finishing == FINISHING_WHEN_DELIVERED;
}

cdedupe_result_t
cdedupe_restart(cdedupe_t *buffer)
{
    cdedupe_result_t result = CDEDUPE_OK;
    struct lock_scope scope;

    if (merge_is_calling(buffer))
        return CDEDUPE_REENTRANT;
    scope_init(&scope, buffer);
    merge_lock(&scope);
    scope_lock(&scope);
    if (is_closed(buffer)) {
        result = CDEDUPE_STOPPED;
    } else {
        buffer->resync.deletions_due = true;
        buffer->bounds.overflowed = false;
        /*
         * If nothing was received since the last restart, nothing is pending and every live key is
         * unseen already.
         */
        if (buffer->resync.received_since_restart)
            drop_everything(&scope);
    }
    scope_unlock(&scope);
    scope_finish(&scope);
    return result;
}

/* ---------------------------------------------------------------------------------------------- */
/* Sweep                                                                                          */

/* The progress of one call that sweeps. */
struct sweep {
    struct lock_scope scope;
    uint64_t restarts; /* The count when the sweep began; zero: it has not begun. */
    uint32_t next;     /* The number of the entry to look at next. */
    /*
     * The buffer's count when the sweep last began with the first entry. A put back may have made
     * an entry unseen that the sweep has passed; then the count differs.
     */
    uint32_t unseen_generation;
    bool ends_resync; /* The sweep is complete: queue the in-sync even if it repeats. */
};

/* Model step S3: an idle entry that is unseen gets a pending deletion. */
static bool
synthesize_deletion(struct lock_scope *scope, uint32_t number)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);

    if (!link_make_room(scope))
        return false;
    entry->link = link_new(scope, number);
    /*
     * A store is enough, because idle words change only under the lock. Release. The other side is
     * the acquire in is_key(). Without it, a producer that finds the entry without the lock could
     * compare its key with memory from before the entry was made.
     */
    sync_store_release(&entry->word, word_pending(WORD_LIVE, 0, buffer->resync.restart, true));
    queue_entry(scope, entry->link);
    buffer->statistics.synthesized_deletions++;
    return true;
}

/*
 * Model step S4: a live entry that is stale gets a pending deletion. The payload that the restart
 * dropped loses its entry and is detached.
 */
static bool
synthesize_deletion_of_stale(struct lock_scope *scope, uint32_t number)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t before;

    /*
     * Room for the detached payload. The word may have none now, but until the exchange a producer
     * may bring one without the lock.
     */
    if (!link_make_room(scope))
        return false;
    /*
     * Acquire. The other side is the release in replace_unlocked(). Without it, the caller that
     * collects the detached payload could see only a part of it.
     */
    before = sync_exchange(&entry->word, word_pending(WORD_LIVE, 0, buffer->resync.restart, true));
    dropped_remove(scope, entry->link);
    detached_add(scope, word_slot(before));
    queue_entry(scope, entry->link);
    buffer->statistics.synthesized_deletions++;
    return true;
}

/* Model step S2: reads the word. False: no memory, and nothing has changed. */
static bool
sweep_entry(struct lock_scope *scope, uint32_t number)
{
    struct cdedupe *buffer = scope->buffer;
    uint64_t word = sync_load_relaxed(&entry_at(&buffer->entries, number)->word);

    if (!word_is_unseen(word, buffer->resync.restart))
        return true;
    return word & WORD_PENDING ? synthesize_deletion_of_stale(scope, number)
                               : synthesize_deletion(scope, number);
}

enum progress {
    PROGRESS_DONE,
    PROGRESS_MORE,
    PROGRESS_NO_MEMORY,
    PROGRESS_STOPPED,
    PROGRESS_OVERFLOWED,
};

/* Sweeps up to SWEEPS_PER_LOCK entries in the order of their numbers, under the lock. */
static enum progress
sweep_some(struct sweep *sweep)
{
    struct cdedupe *buffer = sweep->scope.buffer;

    for (unsigned steps = 0; steps < SWEEPS_PER_LOCK; steps++) {
        uint32_t number = arena_next_touched(&buffer->entries, sweep->next);

        if (number == 0 && sweep->unseen_generation != buffer->resync.unseen_generation) {
            sweep->unseen_generation = buffer->resync.unseen_generation;
            sweep->next = 0;
            return PROGRESS_MORE;
        }
        if (number == 0) {
            /* Room for the in-sync, which must be queued in the lock scope that ends the resync. */
            if (!link_make_room(&sweep->scope))
                return PROGRESS_NO_MEMORY;
            buffer->resync.deletions_due = false;
            sweep->ends_resync = true;
            return PROGRESS_DONE;
        }
        sweep->next = number;
        if (!sweep_entry(&sweep->scope, number))
            return PROGRESS_NO_MEMORY;
        sweep->next = number + 1;
    }
    return PROGRESS_MORE;
}

/* ---------------------------------------------------------------------------------------------- */
/* Statuses                                                                                       */

/*
 * Model step S5: queues a status, or drops it if it repeats the latest one. A status that follows
 * another replaces it. False: no memory, and nothing has changed.
 */
static bool
accept_status(struct sweep *sweep, cdedupe_status_t status)
{
    struct lock_scope *scope = &sweep->scope;
    struct cdedupe *buffer = scope->buffer;
    uint32_t last = ring_last(&buffer->links, buffer->queue.ring);

    if ((uint8_t)status == buffer->resync.latest_received && !sweep->ends_resync) {
        buffer->resync.dropped_equal_status = true;
        return true;
    }
    if (last != buffer->queue.ring && item_is_status(link_at(&buffer->links, last)->item)) {
        link_at(&buffer->links, last)->item = ITEM_STATUS | (uint32_t)status;
    } else {
        if (!link_make_room(scope))
            return false;
        queue_status(scope, (uint8_t)status);
    }
    buffer->resync.latest_received = (uint8_t)status;
    buffer->resync.dropped_equal_status = false;
    return true;
}

/*
 * Model step S1, one lock scope: a part of the sweep if one is due. The scope that ends the sweep
 * also queues the status.
 */
static enum progress
put_status_some(struct sweep *sweep, cdedupe_status_t status)
{
    struct cdedupe *buffer = sweep->scope.buffer;
    enum progress progress = PROGRESS_DONE;

    if (is_closed(buffer))
        return PROGRESS_STOPPED;
    /*
     * The status belongs to updates that the overflow dropped. In particular, an in-sync must not
     * synthesize deletions for keys whose updates were dropped.
     */
    if (buffer->bounds.overflowed)
        return PROGRESS_OVERFLOWED;
    buffer->resync.received_since_restart = true;
    if (status == CDEDUPE_STATUS_IN_SYNC && buffer->resync.deletions_due) {
        if (sweep->restarts == 0) {
            sweep->restarts = buffer->resync.restarts;
            sweep->unseen_generation = buffer->resync.unseen_generation;
        }
        /*
         * A restart came between two lock scopes. It dropped what this call has queued so far, and
         * it drops the status too. The restart number would not tell: it may have come round again.
         */
        if (sweep->restarts != buffer->resync.restarts)
            return PROGRESS_DONE;
        progress = sweep_some(sweep);
    }
    if (progress == PROGRESS_DONE && !accept_status(sweep, status))
        progress = PROGRESS_NO_MEMORY;
    return progress;
}

/* Without the lock, between two lock scopes: whether the call goes on. */
static bool
can_go_on(struct sweep *sweep, enum progress progress)
{
    if (progress == PROGRESS_NO_MEMORY)
        return scope_refill(&sweep->scope);
    /* The delivery loop can begin with the deletions that are queued so far. */
    scope_wake(&sweep->scope);
    if (progress == PROGRESS_MORE)
        lock_yield(&sweep->scope.buffer->lock);
    return progress == PROGRESS_MORE;
}

static cdedupe_result_t
status_result(enum progress progress)
{
    switch (progress) {
    case PROGRESS_STOPPED:
        return CDEDUPE_STOPPED;
    case PROGRESS_OVERFLOWED:
        return CDEDUPE_OVERFLOWED;
    case PROGRESS_NO_MEMORY:
        return CDEDUPE_NO_MEMORY;
    default:
        return CDEDUPE_OK;
    }
}

cdedupe_result_t
cdedupe_put_status(cdedupe_t *buffer, cdedupe_status_t status)
{
    struct sweep sweep = {.restarts = 0, .next = 0};
    enum progress progress;

    if ((unsigned)status > CDEDUPE_STATUS_IN_SYNC)
        return CDEDUPE_INVALID_ARGUMENT;
    if (merge_is_calling(buffer))
        return CDEDUPE_REENTRANT;

    scope_init(&sweep.scope, buffer);
    do {
        merge_lock(&sweep.scope);
        scope_note_time(&sweep.scope);
        scope_lock(&sweep.scope);
        progress = put_status_some(&sweep, status);
        if (progress != PROGRESS_MORE && progress != PROGRESS_NO_MEMORY)
            buffer->statistics.statuses_received++;
        reclaim(&sweep.scope);
        scope_unlock(&sweep.scope);
        merge_unlock(&sweep.scope);
    } while (can_go_on(&sweep, progress));
    scope_finish(&sweep.scope);
    return status_result(progress);
}
