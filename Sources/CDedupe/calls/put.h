/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One chunk of a put: what its driver (put.c) and its three ways of putting share.
 *
 *   put_unlocked.c   look-up, and replacement without the lock
 *   put_locked.c     every other transition, under the lock
 *   put_merging.c    the same for buffers that merge
 */
#ifndef CDEDUPE_CALLS_PUT_H
#define CDEDUPE_CALLS_PUT_H

#include "calls/calls.h"

_Static_assert(offsetof(cdedupe_update_t, pin) == 32 && sizeof(cdedupe_update_t) == 48,
               "older callers have zeroed these bytes, but not the padding before them");

/* The result of one update. */
enum step {
    STEP_DONE,
    STEP_NO_MEMORY, /* Nothing has changed. */
    STEP_MERGE,     /* Nothing has changed: the update must be merged with its entry. */
};

struct put {
    struct lock_scope scope;
    cdedupe_update_t *updates;
    size_t count;
    size_t done;
    size_t copied;     /* Bytes of keys copied in this lock scope. */
    bool locked;       /* The chunk took the lock. */
    bool readers_late; /* A key was added while put_readers_are_late(). */
    bool overflowed;   /* An update was dropped because a bound was exceeded. */
    bool removed;      /* An entry may have died in this lock scope. */
    enum step step;    /* The result of the last update that was tried under the lock. */
    uint64_t hashes[PUTS_PER_LOCK];
    /* Entries that are pinned or were found without the lock, or zero. */
    uint32_t numbers[PUTS_PER_LOCK];
    struct entry *entries[PUTS_PER_LOCK];
};

/*
 * A call that adds keys waits for readers while the buffer has more retired entries than this
 * number plus the number of keys in the index.
 */
enum { RETIRED_MAX = TEST_SIZED(16 * 1024, 2) };

/* Under the lock. */
static inline bool
put_readers_are_late(const struct cdedupe *buffer)
{
    return retired_count(&buffer->retired) > RETIRED_MAX + buffer->index.count;
}

static inline void
finish_update(cdedupe_update_t *update, cdedupe_slot_t back, cdedupe_slot_t displaced,
              cdedupe_outcome_t outcome)
{
    update->slot = back;
    update->displaced = displaced;
    update->outcome = (uint8_t)outcome;
}

/* Waits, in no read section and with no lock, until readers are no longer late. */
void put_wait_for_readers(struct cdedupe *buffer);

/* Claims a context and begins a read section. Outside of both, user callbacks may run. */
struct context *put_begin_reading(struct put *put);

/* In a read section: finds the entries of the chunk's keys. */
void put_look_up(struct put *put);

/* The look-ups of the updates from `from` on are void. Pinned entries stay. */
void put_forget_lookups(struct put *put, size_t from);

/* In a read section: replaces pending updates, up to the first update that needs the lock. */
void put_replace_unlocked(struct put *put, struct context *context);

/*
 * The same in the read section of a context that the caller has. The hash is not read if the update
 * has a pin.
 */
bool put_one_in(struct context *context, struct cdedupe *buffer, cdedupe_update_t *update,
                uint64_t hash);

/* One update alone, if it replaces a pending one. False: put_single_locked() must put it. */
bool put_one_unlocked(struct cdedupe *buffer, cdedupe_update_t *update, uint64_t hash);

/* One valid update under the lock, on a buffer that does not merge. Needs no read section. */
cdedupe_result_t put_single_locked(struct cdedupe *buffer, cdedupe_update_t *update, uint64_t hash);

/*
 * Replaces pending updates of pinned keys, up to the first update that needs more. Returns how many
 * were done, at most PUTS_PER_LOCK. Needs no context, because a pinned entry is never freed.
 */
size_t put_pinned_unlocked(struct cdedupe *buffer, cdedupe_update_t *updates, size_t count);

/* One lock scope. True: there is more to do, and nothing is in the way. */
bool put_locked(struct put *put);

/* Whether the update must be merged with what the word says is pending. */
bool put_is_to_merge(const struct cdedupe *buffer, uint64_t word, const cdedupe_update_t *update);

/* The whole chunk, on a buffer that merges. */
void put_merging(struct put *put);

#endif
