/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The buffer's parts, and what its files share.
 *
 *   word.h      the word protocol: the state of a key in 64 bits
 *   entry.h     a key with its word
 *   arena.h     numbered cells in slabs: entries, slots, links
 *   index.h     from a key to its entry
 *   ring.h      the queue, as a list of links
 *   context.h   what a call needs that takes no lock
 *   limbo.h     what readers without the lock may still look at
 *   memory.h    allocation around the lock
 *   sync.h      atomics and the lock
 *   source.c    puts updates        status.c   statuses, restart, resync
 *   sink.c      takes batches       garbage.c  clears up after restarts
 *   put back.c    takes that back     slots.c    slots
 *   queue.c     links               buffer.c   life, the end, counters
 *   clock.h     when                bytes.c    the plain level
 */
#ifndef CDEDUPE_STATE_BUFFER_H
#define CDEDUPE_STATE_BUFFER_H

#include "CDedupe.h"

#include <pthread.h>

#include "memory/arena.h"
#include "base/clock.h"
#include "base/lock.h"
#include "memory/context.h"
#include "state/entry.h"
#include "base/hash.h"
#include "state/index.h"
#include "memory/retired.h"
#include "memory/allocator.h"
#include "state/ring.h"
#include "base/atomics.h"
#include "base/test_sizes.h"
#include "state/word.h"

/* Changes per hold of the lock: what one call may keep another waiting for. */
enum {
    PUTS_PER_LOCK = TEST_SIZED(100, 4),
    TAKES_PER_LOCK = TEST_SIZED(32, 3),
    PUT_BACKS_PER_LOCK = TAKES_PER_LOCK,
    SWEEPS_PER_LOCK = TEST_SIZED(64, 4),
    SLOTS_PER_LOCK = TEST_SIZED(256, 4),
};

/* What cdedupe_take_wait() waits on; see calls/wait.c. */
struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    bool woken;    /* Under the mutex: the loop has to look again. */
    uint32_t used; /* Set under the lock when cdedupe_take_wait() is called, and never cleared. */
};

void waiter_init(struct waiter *waiter);
void waiter_destroy(struct waiter *waiter);
void waiter_wake(struct waiter *waiter);

enum claim { CLAIM_NONE, CLAIM_SINGLE_BATCH, CLAIM_LOOP };

enum finishing { FINISHING_NOT, FINISHING_WHEN_DELIVERED, FINISHING_WHEN_EMPTY };

/*
 * Where values are merged, every call that changes the state of keys holds this mutex, and the merge callback runs under it
 * alone. Buffers without a merge callback do not use it.
 */
struct merge_lock {
    pthread_mutex_t mutex;
    pthread_cond_t sink_came; /* For puts that let a waiting sink go first. */
    uint64_t calling;         /* The thread that is in the merge callback; zero: none. */
    uint32_t sink;            /* An enum merge_sink. */
};

/* What the sink does that found the merge lock held. */
enum merge_sink {
    SINK_AWAY,
    SINK_REFUSED, /* It has gone to sleep, and may come again. */
    SINK_WAITS,   /* It waits for the mutex. */
};

struct cdedupe {
    /* Never changed. */
    struct memory memory; /* But for its byte count. */
    struct hash_secret secret;
    void (*wake)(void *context);
    void *wake_context;
    struct clock clock;
    size_t batch_size;
    size_t revision_offset; /* In payloads; OFFSET_UNUSED: nothing is suppressed. */
    size_t weight_offset;   /* The same; OFFSET_UNUSED: there is no bound of bytes. */
    uint64_t keys_max;      /* Bounds of what is pending; if there are none, the largest number. */
    uint64_t bytes_max;
    void (*merge)(void *context, void *older, void *newer); /* NULL: values are not merged. */
    void *merge_context;

    /* See merge.c. */
    struct merge_lock merge_lock;

    /* Changed under the lock. */
    _Alignas(64) struct lock lock;
    uint32_t stopped;            /* Read without the lock, as is the restart number. */
    uint32_t restart;            /* 1 to WORD_RESTART_MAX. */
    bool asleep;                 /* The loop found nothing and waits for the hook. */
    bool deletions_due;          /* A restart's deletions are owed at the next in-sync. */
    bool received_since_restart; /* Something was received since the last restart. */
    bool overflowed; /* A bound was exceeded: everything is dropped until the next restart. */
    uint8_t latest_received;
    uint8_t latest_taken;
    enum claim claim;
    enum finishing finishing;
    uint32_t ring; /* Heads of the three lists. */
    uint32_t dropped;
    uint32_t detached;
    uint32_t
        finish_barrier; /* Finishing: the last link that is still to be delivered; the ring's head: none. */
    uint32_t
        batch_barrier; /* While a batch is taken: the last link that is still to be in it; the ring's head: none. */
    uint32_t
        borrowed; /* Dead entries whose keys the sink may still read; chained by their links. The latest is first. */
    uint32_t borrowed_put_back; /* More of them: of items that were put back. */
    uint32_t batch;             /* Items of the last batch that can be put back. */
    bool restarted;             /* Since the first item of the last batch was taken. */
    bool
        dropped_equal_status; /* Since the restart, or the last status that was queued, one was not queued: it was the same. */
    uint32_t
        unseen_generation; /* Counts entries that putting back made unseen: sweeps under way may have passed them. */
    uint32_t
        slots_sparse; /* Less than half of the slots' cells are in use; read without the lock. */
    uint64_t slots_returned; /* Without a magazine, since magazines were emptied. */
    uint64_t uncleared;      /* Links in garbage and orphans; read as a hint without the lock. */
    cdedupe_statistics_t statistics;

    struct arena entries;
    struct arena slots;
    struct arena links;
    struct index index;
    struct retired retired;

    struct waiter waiter;

    /* Grows under the lock; see context.h. */
    struct context_pool contexts;
};

/* One hold of the lock by one call. */
struct lock_scope {
    struct cdedupe *buffer;
    struct reserve reserve;
    uint32_t now;      /* For what is queued, from scope_note_time(). */
    bool wake;         /* Call the hook after unlocking. */
    bool merge_locked; /* This call holds the merge lock. */
};

static inline void
scope_init(struct lock_scope *scope, struct cdedupe *buffer)
{
    scope->buffer = buffer;
    scope->now = 0;
    scope->wake = false;
    scope->merge_locked = false;
    reserve_init(&scope->reserve);
}

/* Unlocked, before a hold that may queue something. */
static inline void
scope_note_time(struct lock_scope *scope)
{
    scope->now = clock_now_rounded_up(&scope->buffer->clock);
}

static inline void
scope_lock(struct lock_scope *scope)
{
    lock_acquire(&scope->buffer->lock);
}

static inline void
scope_unlock(struct lock_scope *scope)
{
    retired_add_tables(&scope->buffer->retired, &scope->reserve);
    lock_release(&scope->buffer->lock);
}

/* Between two holds of one call, so that others get their turn. */
static inline void
scope_yield(struct lock_scope *scope)
{
    scope_unlock(scope);
    lock_yield(&scope->buffer->lock);
    scope_lock(scope);
}

/* Unlocked: wakes the loop, if it has to look. [W2] */
static inline void
scope_wake(struct lock_scope *scope)
{
    struct cdedupe *buffer = scope->buffer;

    if (!scope->wake)
        return;
    scope->wake = false;
    /* Set under the lock before the take that found nothing, and so before notify(). */
    if (sync_load_relaxed_32(&buffer->waiter.used))
        waiter_wake(&buffer->waiter);
    if (buffer->wake != NULL)
        buffer->wake(buffer->wake_context);
}

/*
 * The merge lock, which is taken before the spinlock. These functions do nothing on a buffer that does not merge.
 *
 * merge_unlock() also sees to a loop whose take found the lock held. The spinlock is free.
 */
void merge_lock_init(struct cdedupe *buffer);
void merge_lock_destroy(struct cdedupe *buffer);
void merge_lock(struct lock_scope *scope);
void merge_unlock(struct lock_scope *scope);

/* For a put: the sink goes first if it could not take because of another put. */
void merge_lock_after_sink(struct lock_scope *scope);

/* For the sink: puts let it go first. */
void merge_lock_for_sink(struct lock_scope *scope);

/* For a take of a loop, which never waits: whether it has the lock. The spinlock is held. */
bool merge_lock_for_loop(struct lock_scope *scope);

/* Whether the sink found the lock held, and has not had it since. */
static inline bool
merge_sink_is_next(const struct cdedupe *buffer)
{
    return sync_load_relaxed_32(&buffer->merge_lock.sink) != SINK_AWAY;
}

/* Whether the caller is in the merge callback of this buffer. */
bool merge_is_calling(const struct cdedupe *buffer);

/* Calls the merge callback, with the merge lock alone. */
void merge_payloads(struct lock_scope *scope, cdedupe_slot_t older, cdedupe_slot_t newer);

/* Unlocked, between two attempts: whether there is memory to try again with. */
static inline bool
scope_refill(struct lock_scope *scope)
{
    bool merge_locked = scope->merge_locked, filled;

    merge_unlock(scope);
    scope_wake(scope);
    filled = reserve_fill(&scope->reserve, &scope->buffer->memory);
    if (merge_locked)
        merge_lock(scope);
    return filled;
}

/* Unlocked, at the end of a call: frees what became free, wakes the loop. */
static inline void
scope_finish(struct lock_scope *scope)
{
    merge_unlock(scope);
    reserve_release(&scope->reserve, &scope->buffer->memory);
    scope_wake(scope);
}

/* Under the lock, whenever the loop may have something to do: decided here, so that no wake-up can be lost. [W1] */
static inline void
notify(struct lock_scope *scope)
{
    if (scope->buffer->asleep) {
        scope->buffer->asleep = false;
        scope->wake = true;
    }
}

/* Whether there is a link to take; if not, the reserve wants one. */
static inline bool
link_make_room(struct lock_scope *scope)
{
    return arena_make_room(&scope->buffer->links, 0, &scope->reserve);
}

/* A new link, in no list. There is room. It was queued in this hold. */
uint32_t link_new(struct lock_scope *scope, uint32_t item);
void link_free(struct lock_scope *scope, uint32_t link);

/* Puts an update's link at the back of the queue. */
void queue_entry(struct lock_scope *scope, uint32_t link);

/* Takes a link out of the queue, and frees it. Of two statuses that become neighbours the earlier goes. */
void unqueue(struct lock_scope *scope, uint32_t link);

/* The same, but the link is not freed, and still counts as pending: it comes back. */
void unlink_queued(struct lock_scope *scope, uint32_t link);

/* An update's link is in the queue. */
void count_pending(struct cdedupe *buffer);

/* Puts a status at the back of the queue. There is room for the link. */
void append_status(struct lock_scope *scope, uint8_t status);

/* A dead entry leaves the index; its memory stays: the sink may need its key, and readers may be looking at it. */
static inline void
entry_unindex(struct cdedupe *buffer, uint32_t number)
{
    index_remove(&buffer->index, entry_at(&buffer->entries, number)->hash, number);
}

/* Under the lock: it is dead, and not indexed any more; when nobody can be looking at it its memory is free. */
static inline void
retire_entry(struct lock_scope *scope, uint32_t number)
{
    retired_add(&scope->buffer->retired, &scope->buffer->entries, number);
}

static inline void
reclaim(struct lock_scope *scope)
{
    retired_reclaim(&scope->buffer->retired, &scope->buffer->entries, &scope->reserve);
}

/* Unlocked, at the end of a call that may have removed keys: the index gives memory back, step by step. */
void tidy_index(struct cdedupe *buffer);

/* What the core reads in payloads: the uint64_t at an offset; zero if there is no payload, or the offset is OFFSET_UNUSED. */
#define OFFSET_UNUSED SIZE_MAX

static inline uint64_t
payload_number(const struct cdedupe *buffer, cdedupe_slot_t slot, size_t offset)
{
    uint64_t number = 0;

    if (slot != 0 && offset != OFFSET_UNUSED)
        memcpy(&number, (const unsigned char *)arena_at(&buffer->slots, slot) + offset,
               sizeof(number));
    return number;
}

static inline bool
suppresses(const struct cdedupe *buffer)
{
    return buffer->revision_offset != OFFSET_UNUSED;
}

/* The weight of a payload; see maximum_pending_bytes in CDedupe.h. */
static inline uint64_t
payload_weight(const struct cdedupe *buffer, cdedupe_slot_t slot)
{
    uint64_t weight = payload_number(buffer, slot, buffer->weight_offset);

    return weight < CDEDUPE_WEIGHT_MAX ? weight : CDEDUPE_WEIGHT_MAX;
}

/* Under the lock: a payload is pending from now on. */
static inline void
pending_bytes_add(struct cdedupe *buffer, cdedupe_slot_t slot)
{
    buffer->statistics.pending_bytes += payload_weight(buffer, slot);
}

/* Under the lock: a payload is no longer pending. */
static inline void
pending_bytes_subtract_weight(struct cdedupe *buffer, uint64_t weight)
{
    buffer->statistics.pending_bytes -= weight;
}

static inline void
pending_bytes_subtract(struct cdedupe *buffer, cdedupe_slot_t slot)
{
    pending_bytes_subtract_weight(buffer, payload_weight(buffer, slot));
}

/* A restart, or an overflow: what is pending is dropped, and all that is live unseen. */
void drop_everything(struct lock_scope *scope);

/* Clears up one piece of what restarts left; `slot` gets the payload that was in it, or zero. False: nothing is left. */
bool clear_one(struct lock_scope *scope, cdedupe_slot_t *slot);

/* A restart drops the queue: its links are garbage. */
void dropped_add_queue(struct lock_scope *scope);

/* Forgets a stale link: the entry's word has been dealt with. */
void dropped_remove(struct lock_scope *scope, uint32_t link);

/* Keeps a payload that lost its entry, if there is one, for the call that clears up. There is room for a link. */
void detached_add(struct lock_scope *scope, cdedupe_slot_t slot);

#endif
