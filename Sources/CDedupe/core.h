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
 *   untake.c    takes that back     slots.c    slots and tags
 *   queue.c     links               buffer.c   life, the end, counters
 *   clock.h     when                bytes.c    the plain level
 */
#ifndef CDEDUPE_CORE_H
#define CDEDUPE_CORE_H

#include "CDedupe.h"

#include "arena.h"
#include "clock.h"
#include "context.h"
#include "entry.h"
#include "hash.h"
#include "index.h"
#include "limbo.h"
#include "memory.h"
#include "ring.h"
#include "sync.h"
#include "tiny.h"
#include "word.h"

/* Changes per hold of the lock: what one call may keep another waiting for. */
enum {
    HOLD_PUT = OR_TINY(100, 4),
    HOLD_TAKE = OR_TINY(32, 3),
    HOLD_UNTAKE = HOLD_TAKE,
    HOLD_SWEEP = OR_TINY(64, 4),
    HOLD_SLOTS = OR_TINY(256, 4),
};

enum claim { CLAIM_NONE, CLAIM_BY_HAND, CLAIM_LOOP };

enum finishing { FINISHING_NOT, FINISHING_WHEN_DELIVERED, FINISHING_WHEN_EMPTY };

struct cdedupe {
    /* Never changed. */
    struct memory memory; /* But for its byte count. */
    struct hash_secret secret;
    void (*wake)(void *context);
    void *wake_context;
    struct clock clock;
    size_t batch_size;
    size_t revision_offset; /* In payloads; NOWHERE: nothing is suppressed. */
    size_t weight_offset;   /* The same; NOWHERE: there is no bound of bytes. */
    uint64_t keys_max;      /* Bounds of what is pending; if there are none, the largest number. */
    uint64_t bytes_max;
    bool merging;
    bool tagged;

    /* Changed under the lock. */
    _Alignas(64) struct lock lock;
    uint32_t stopped; /* Read without the lock, as is the restart number. */
    uint32_t restart; /* 1 to WORD_RESTART_MAX. */
    bool asleep;      /* The loop found nothing and waits for the hook. */
    bool resync;      /* A restart's deletions are owed at the next in-sync. */
    bool touched;     /* Something was received since the last restart. */
    bool overflowed;  /* A bound was exceeded: everything is dropped until the next restart. */
    uint8_t latest_received;
    uint8_t latest_taken;
    enum claim claim;
    enum finishing finishing;
    uint32_t ring; /* Heads of the three lists. */
    uint32_t garbage;
    uint32_t orphans;
    uint32_t last_owed; /* Finishing: the last link that is still to be delivered; the ring's head: none. */
    uint32_t
        last_of_batch; /* While a batch is taken: the last link that is still to be in it; the ring's head: none. */
    uint32_t
        awaited;   /* The link that the last take could not take, since somebody was merging its update; zero: none. */
    uint32_t lent; /* Dead entries whose keys the sink may still read; chained by their links. The latest is first. */
    uint32_t lent_on; /* More of them: of items that were untaken. */
    uint32_t batch;   /* Items of the last batch that can be untaken. */
    bool restarted;   /* Since the first item of the last batch was taken. */
    bool swallowed;   /* Since the restart, or the last status that was queued, one was not queued: it was the same. */
    uint32_t made_unseen;    /* Counts entries that untaking made unseen: sweeps under way may have passed them. */
    uint32_t slots_sparse;   /* Less than half of the slots' cells are in use; read without the lock. */
    uint64_t slots_returned; /* Without a magazine, since magazines were emptied. */
    uint64_t uncleared;      /* Links in garbage and orphans; read as a hint without the lock. */
    uint32_t bytes_carry;    /* How often the sum of weights, which is in the statistics, goes around. */
    cdedupe_statistics_t statistics;

    struct arena entries;
    struct arena slots;
    struct arena tags;
    struct arena links;
    struct index index;
    struct limbo limbo;

    /* Grows under the lock; see context.h. */
    struct context_pool contexts;
};

/* One hold of the lock by one call. */
struct hold {
    struct cdedupe *buffer;
    struct reserve reserve;
    uint32_t now; /* For what is queued, from hold_note_time(). */
    bool wake;    /* Call the hook after unlocking. */
};

static inline void
hold_init(struct hold *hold, struct cdedupe *buffer)
{
    hold->buffer = buffer;
    hold->now = 0;
    hold->wake = false;
    reserve_init(&hold->reserve);
}

/* Unlocked, before a hold that may queue something. */
static inline void
hold_note_time(struct hold *hold)
{
    hold->now = clock_now(&hold->buffer->clock);
}

static inline void
hold_lock(struct hold *hold)
{
    lock_take(&hold->buffer->lock);
}

static inline void
hold_unlock(struct hold *hold)
{
    limbo_add_tables(&hold->buffer->limbo, &hold->reserve);
    lock_drop(&hold->buffer->lock);
}

/* Between two holds of one call, so that others get their turn. */
static inline void
hold_again(struct hold *hold)
{
    hold_unlock(hold);
    lock_rest(&hold->buffer->lock);
    hold_lock(hold);
}

/* Unlocked: wakes the loop, if it has to look. [W2] */
static inline void
hold_wake(struct hold *hold)
{
    if (hold->wake && hold->buffer->wake != NULL)
        hold->buffer->wake(hold->buffer->wake_context);
    hold->wake = false;
}

/* Unlocked, between two attempts: whether there is memory to try again with. */
static inline bool
hold_refill(struct hold *hold)
{
    hold_wake(hold);
    return reserve_fill(&hold->reserve, &hold->buffer->memory);
}

/* Unlocked, at the end of a call: frees what became free, wakes the loop. */
static inline void
hold_finish(struct hold *hold)
{
    reserve_release(&hold->reserve, &hold->buffer->memory);
    hold_wake(hold);
}

/* Under the lock, whenever the loop may have something to do: decided here, so that no wake-up can be lost. [W1] */
static inline void
notify(struct hold *hold)
{
    if (hold->buffer->asleep) {
        hold->buffer->asleep = false;
        hold->wake = true;
    }
}

/* Under the lock: whether somebody is merging the update of a queued link. */
static inline bool
link_is_merging(const struct cdedupe *buffer, uint32_t link)
{
    uint32_t item = link_at(&buffer->links, link)->item;

    return !item_is_status(item) && (sync_load_relaxed(&entry_at(&buffer->entries, item)->word) & WORD_MERGING) != 0;
}

/*
 * Under the lock: something was queued, or is merged no longer. Behind what somebody is merging the loop cannot take it: the end
 * of that wakes it. The queue is not empty.
 */
static inline void
notify_queued(struct hold *hold)
{
    struct cdedupe *buffer = hold->buffer;

    if (buffer->asleep && !link_is_merging(buffer, ring_first(&buffer->links, buffer->ring)))
        notify(hold);
}

/* Whether there is a link to take; if not, the reserve wants one. */
static inline bool
link_make_room(struct hold *hold)
{
    return arena_make_room(&hold->buffer->links, 0, &hold->reserve);
}

/* A new link, in no list. There is room. It was queued in this hold, and has no tag. */
uint32_t link_new(struct hold *hold, uint32_t item);
void link_free(struct hold *hold, uint32_t link);

/* Puts an update's link at the back of the queue. */
void queue_entry(struct hold *hold, uint32_t link);

/* Takes a link out of the queue, and frees it. Of two statuses that become neighbours the earlier goes. */
void unqueue(struct hold *hold, uint32_t link);

/* The same, but the link is not freed, and still counts as pending: it comes back. */
void unlink_queued(struct hold *hold, uint32_t link);

/* An update's link is in the queue. */
void count_pending(struct cdedupe *buffer);

/* Puts a status at the back of the queue. There is room for the link. */
void append_status(struct hold *hold, uint8_t status);

/* A dead entry leaves the index; its memory stays: the sink may need its key, and readers may be looking at it. */
static inline void
entry_unindex(struct cdedupe *buffer, uint32_t number)
{
    index_remove(&buffer->index, entry_at(&buffer->entries, number)->hash, number);
}

/* Under the lock: it is dead, and not indexed any more; when nobody can be looking at it its memory is free. */
static inline void
retire_entry(struct hold *hold, uint32_t number)
{
    limbo_add(&hold->buffer->limbo, &hold->buffer->entries, number);
}

static inline void
step_limbo(struct hold *hold)
{
    limbo_step(&hold->buffer->limbo, &hold->buffer->entries, &hold->reserve);
}

/* Unlocked, at the end of a call that may have removed keys: the index gives memory back, step by step. */
void tidy_index(struct cdedupe *buffer);

/* A link's tag, or zero. Whoever frees the link has it then. */
static inline cdedupe_tag_t
link_tag(const struct cdedupe *buffer, uint32_t link)
{
    return buffer->tagged ? link_at(&buffer->links, link)->tag : 0;
}

static inline void
link_set_tag(struct cdedupe *buffer, uint32_t link, cdedupe_tag_t tag)
{
    if (buffer->tagged)
        link_at(&buffer->links, link)->tag = tag;
}

/* What the core reads in payloads: the uint64_t at an offset; zero if there is no payload, or the offset is NOWHERE. */
#define NOWHERE SIZE_MAX

static inline uint64_t
payload_number(const struct cdedupe *buffer, cdedupe_slot_t slot, size_t offset)
{
    uint64_t number = 0;

    if (slot != 0 && offset != NOWHERE)
        memcpy(&number, (const unsigned char *)arena_at(&buffer->slots, slot) + offset, sizeof(number));
    return number;
}

static inline bool
suppresses(const struct cdedupe *buffer)
{
    return buffer->revision_offset != NOWHERE;
}

/* Under the lock: a payload is pending now, or no longer. Replacements are never refused, so the sum may go around. */
static inline void
weigh_in(struct cdedupe *buffer, cdedupe_slot_t slot)
{
    uint64_t weight = payload_number(buffer, slot, buffer->weight_offset);

    buffer->statistics.pending_bytes += weight;
    buffer->bytes_carry += buffer->statistics.pending_bytes < weight;
}

static inline void
weigh_out(struct cdedupe *buffer, cdedupe_slot_t slot)
{
    uint64_t weight = payload_number(buffer, slot, buffer->weight_offset);

    buffer->bytes_carry -= buffer->statistics.pending_bytes < weight;
    buffer->statistics.pending_bytes -= weight;
}

/* A restart, or an overflow: what is pending is dropped, and all that is live unseen. */
void drop_everything(struct hold *hold);

/* Clears up one piece of what restarts left; `slot` and `tag` get what was in it, or zero. False: nothing is left. */
bool clear_one(struct hold *hold, cdedupe_slot_t *slot, cdedupe_tag_t *tag);

/* A restart drops the queue: its links are garbage. */
void garbage_add_queue(struct hold *hold);

/* Forgets a stale link: the entry's word has been dealt with. */
void garbage_remove(struct hold *hold, uint32_t link);

/* Keeps a payload or a tag that lost its entry, if there is one, for whoever clears up. There is room for a link. */
void orphan_add(struct hold *hold, cdedupe_slot_t slot, cdedupe_tag_t tag);

#endif
