/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Statuses, restarts, and the sweep that finds out which keys vanished.
 */
#include "calls/calls.h"

/* ---------------------------------------------------------------------------------------------------- */
/* Restart                                                                                              */

/* The number's low bits are used up: whatever was before is simply older. */
static void
forget_old_restarts(struct cdedupe *buffer)
{
    uint32_t number = 0;

    while ((number = arena_next_touched(&buffer->entries, number)) != 0) {
        struct entry *entry = entry_at(&buffer->entries, number);
        uint64_t word;

        /* A compare-and-swap [R3], and again [R2]: a producer may be replacing a slot, which must not come back. */
        do
            word = sync_load_relaxed(&entry->word);
        while (word != 0 && !sync_compare_exchange(
                                &entry->word, word,
                                word_make(word_slot(word), WORD_RESTART_OLDER, word_flags(word))));
        number++;
    }
}

/* Every current word becomes stale, every live one unseen, by this alone. [R4] */
static void
next_restart(struct cdedupe *buffer)
{
    if (buffer->resync.restart == WORD_RESTART_MAX) {
        forget_old_restarts(buffer);
        sync_store_relaxed_32(&buffer->resync.restart, 1);
    } else {
        sync_store_relaxed_32(&buffer->resync.restart, buffer->resync.restart + 1);
    }
}

/* [R1] */
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
    if (buffer->end.stopped) {
        result = CDEDUPE_STOPPED;
    } else {
        buffer->resync.deletions_due = true;
        buffer->bounds.overflowed = false;
        /* With nothing received since the last one, nothing is pending and everything live is unseen already. */
        if (buffer->resync.received_since_restart)
            drop_everything(&scope);
    }
    scope_unlock(&scope);
    scope_finish(&scope);
    return result;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Sweep                                                                                                */

/* A call that sweeps: where it is, and in which restart it began. */
struct sweep {
    struct lock_scope scope;
    uint32_t restart;
    uint32_t next;
    uint32_t unseen_generation; /* The buffer's count when it last began with the first entry. */
    bool ends_resync; /* The sweep is complete. The in-sync is queued even if it repeats. */
};

/* idle, unseen -> a pending deletion that nobody sent [S3] */
static bool
synthesize_deletion(struct lock_scope *scope, uint32_t number)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);

    if (!link_make_room(scope))
        return false;
    entry->link = link_new(scope, number);
    /* A store will do: idle words change under the lock. Release, for the producers that look at it without. */
    sync_store_release(&entry->word, word_pending(WORD_LIVE, 0, buffer->resync.restart, true));
    queue_entry(scope, entry->link);
    buffer->statistics.synthesized_deletions++;
    return true;
}

/* stale, live -> a pending deletion; what the restart dropped is an orphan now [S4] */
static bool
synthesize_deletion_of_stale(struct lock_scope *scope, uint32_t number)
{
    struct cdedupe *buffer = scope->buffer;
    struct entry *entry = entry_at(&buffer->entries, number);
    uint64_t before;

    /* For the orphan. There may be none; but who replaces without the lock may bring one until the exchange. */
    if (!link_make_room(scope))
        return false;
    /* Acquire, with the release of replace_unlocked(): the payload that becomes an orphan. */
    before = sync_exchange(&entry->word, word_pending(WORD_LIVE, 0, buffer->resync.restart, true));
    dropped_remove(scope, entry->link);
    detached_add(scope, word_slot(before));
    queue_entry(scope, entry->link);
    buffer->statistics.synthesized_deletions++;
    return true;
}

/* False: no memory, and nothing has changed. [S2] */
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

/* Some entries, by number, under the lock. */
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
            /* For the in-sync: it must be queued in the lock scope that ends the resync. */
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

/* ---------------------------------------------------------------------------------------------------- */
/* Statuses                                                                                             */

/* False: no memory, and nothing has changed. [S5] */
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

/* One hold: a part of the sweep if one is due, and the status in the hold that ends it. [S1] */
static enum progress
put_status_some(struct sweep *sweep, cdedupe_status_t status)
{
    struct cdedupe *buffer = sweep->scope.buffer;
    enum progress progress = PROGRESS_DONE;

    /* A finish waits for what was queued before it, and for nothing else. */
    if (buffer->end.stopped || buffer->end.finishing == FINISHING_WHEN_DELIVERED)
        return PROGRESS_STOPPED;
    /* It is about what was dropped. An in-sync, above all, must not find that everything has vanished. */
    if (buffer->bounds.overflowed)
        return PROGRESS_OVERFLOWED;
    buffer->resync.received_since_restart = true;
    if (status == CDEDUPE_STATUS_IN_SYNC && buffer->resync.deletions_due) {
        if (sweep->restart == 0) {
            sweep->restart = buffer->resync.restart;
            sweep->unseen_generation = buffer->resync.unseen_generation;
        }
        /* A restart came in between: it dropped what was queued so far, and the status with it. */
        if (sweep->restart != buffer->resync.restart)
            return PROGRESS_DONE;
        progress = sweep_some(sweep);
    }
    if (progress == PROGRESS_DONE && !accept_status(sweep, status))
        progress = PROGRESS_NO_MEMORY;
    return progress;
}

/* Unlocked, between two holds: whether to go on. */
static bool
can_go_on(struct sweep *sweep, enum progress progress)
{
    if (progress == PROGRESS_NO_MEMORY)
        return scope_refill(&sweep->scope);
    /* The loop can begin with what is queued so far. */
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
    struct sweep sweep = {.restart = 0, .next = 0};
    enum progress progress;

    if ((unsigned)status > CDEDUPE_STATUS_IN_SYNC)
        return CDEDUPE_INVALID_ARGUMENT;
    if (merge_is_calling(buffer))
        return CDEDUPE_REENTRANT;

    scope_init(&sweep.scope, buffer);
    do {
        scope_note_time(&sweep.scope);
        merge_lock(&sweep.scope);
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
