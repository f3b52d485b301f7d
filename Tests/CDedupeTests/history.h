/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Histories: a record of everything that each thread did to a buffer and got back from it. It is
 * written during a run and judged afterwards. No property depends on a clock.
 *
 * Each thread writes its events into its own lane. A call begins and ends with a stamp, which is a
 * number drawn from one counter. One call came before another if its end is smaller than the
 * other's beginning; otherwise the two overlapped. Every update has a name, which its payload
 * carries, so that each handle that comes back tells which update it belongs to.
 *
 * These properties must hold:
 *
 *   Linearizability   For each key there is an order of its updates and takes, and of the restarts,
 *                     in-syncs and stops. In it, each call has its place between its beginning and
 *                     its end, and has the outcome of the contract's tables: queued, replaced,
 *                     cancelled, dropped; new, updated or deleted. For example, a take then returns
 *                     the value that is the newest, or that was when the take began. Nothing is
 *                     taken twice. Only a newer update makes the buffer lose an update, or a
 *                     restart that overlaps or follows it. After a restart, in-sync synthesizes
 *                     deletions for exactly the live keys that were not seen.
 *   Nothing is left   If the loop came to the end of the queue after all threads were done, that
 *                     order ends with nothing pending: the sink has the newest value of each key.
 *   Order             A place in the queue belongs to the update that was queued, and to the
 *                     updates that replaced it. Places are taken in the order in which they were
 *                     made, over all keys and statuses. So no status is taken before an earlier
 *                     update.
 *   Statuses          The statuses taken are a subsequence of the statuses sent. No deletion is
 *                     synthesized between an in-sync and the next in-sync.
 *   Emptiness         A take that finds the end of the queue has left nothing in the queue that was
 *                     put before the take began.
 *   Ownership         The payload of every update comes back exactly once.
 *   Statistics        The buffer's counters are those of the history.
 *
 * The judge looks for the order key by key, as linearizability allows. It puts the calls that
 * concern every key into the order of each key. From one return to the next, it keeps all states in
 * which the buffer may be (just-in-time linearization, Lowe 2017).
 *
 * Only the first lane sends statuses, and only one lane takes. Markers are the keys with the number
 * `keys` and higher. The first lane puts each of them once and never deletes them. They tell
 * statuses of equal value apart.
 */
#ifndef HISTORY_H
#define HISTORY_H

#include <stdatomic.h>
#include <stdio.h>

#include "CDedupe.h"

enum { HISTORY_LANES_MAX = 12 };

/* The name of an update. Never zero. */
typedef uint32_t history_name_t;

typedef enum history_kind {
    HISTORY_VALUE,
    HISTORY_DELETION,
    HISTORY_STATUS,
    HISTORY_RESTART,
    HISTORY_STOP,
    HISTORY_TAKEN, /* An item. */
    HISTORY_TAKEN_STATUS,
    HISTORY_EMPTIED,  /* A take that came to the end of the queue. */
    HISTORY_RETURNED, /* A payload that was collected, or drained at the end. */
    HISTORY_IGNORED,  /* A restart that came after a stop or a finish when delivered. */
} history_kind_t;

typedef struct history_event {
    uint64_t begin; /* The stamps of the call. All events of one call have the same stamps. */
    uint64_t end;
    uint32_t key;
    /* Put: the update that it displaced. Taken: the update, or zero if synthesized. */
    history_name_t other;
    history_name_t back; /* Put: the payload that came back in its own place. */
    uint8_t kind;        /* A history_kind_t. */
    uint8_t outcome; /* A cdedupe_outcome_t of an update, or a cdedupe_item_kind_t of an item. */
    uint8_t status;
} history_event_t;

/* The events of one thread, in its order. */
typedef struct history_lane {
    history_event_t *events;
    size_t count;
    size_t room;
} history_lane_t;

typedef struct history {
    atomic_uint_fast64_t stamp;
    history_lane_t lanes[HISTORY_LANES_MAX];
    unsigned lane_count;
    unsigned sink; /* The lane of the thread that takes. */
    uint32_t keys; /* Without the markers. */
    uint32_t markers;
    bool drained; /* All threads were done, and then the loop came to the end of the queue. */
    cdedupe_statistics_t statistics; /* At the end. */
} history_t;

/* The result of the judgement. */
typedef struct history_verdict {
    const char *fault; /* NULL: all properties hold. Otherwise a static text. */
    char detail[1200]; /* More about the fault. */
    /* Keys with more possible states than the judge follows, and with no order among those that it
       followed. */
    uint64_t undecided;
    uint64_t most_states;
} history_verdict_t;

void history_open(history_t *history, unsigned lanes, unsigned sink, uint32_t keys);
void history_close(history_t *history);

static inline uint64_t
history_stamp(history_t *history)
{
    return atomic_fetch_add(&history->stamp, 1) + 1;
}

/*
 * Adds an event at the end of a lane. It is zero except for what is given, and valid until the next
 * one.
 */
history_event_t *history_add(history_t *history, unsigned lane, history_kind_t kind, uint32_t key);

/* The name of the lane's next event, and the event of a name. */
history_name_t history_next_name(const history_t *history, unsigned lane);
history_event_t *history_named(const history_t *history, history_name_t name);

/* Judges the history. */
void history_judge(history_t *history, history_verdict_t *verdict);

#endif
