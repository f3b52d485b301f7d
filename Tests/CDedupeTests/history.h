/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Histories: what every thread did to a buffer and what it got back, written down while it happens and judged
 * afterwards. No property goes by the time.
 *
 * Each thread has a lane of its own and writes events into it. A call begins and ends with a stamp, a number drawn from
 * one counter: of two calls, one came before the other if its end is smaller than the other's beginning; otherwise they
 * overlapped. Every update has a name, which its payload carries, so that each handle which comes back says whose it is.
 *
 * What must hold:
 *
 *   Linearizability   For each key, and under every way in which the calls overlapped, there is an order of the updates,
 *                     takes, restarts, in-syncs and stops, in which each has its place between its beginning and its end,
 *                     and in which each came to what the contract's tables say: queued, replaced whom, cancelled whom,
 *                     dropped; new, updated or deleted. From this follows, for example: what is taken is the newest, or
 *                     was when the take began; nothing is taken twice; an update is lost only to a newer one, or to
 *                     a restart that overlaps or follows it; after a restart, in-sync owes exactly the live keys that
 *                     were not heard of.
 *   Nothing is left   If the loop came to the end of the queue after everybody was done, that order ends with nothing
 *                     pending: the sink has the newest of each key.
 *   Order             A place in the queue belongs to the update that was queued, and to those that replaced it. Places are
 *                     taken in the order in which they were made, over all keys and statuses. So a status is never
 *                     taken before what was put before it.
 *   Statuses          Those taken are a subsequence of those sent. No deletion is synthesized between an in-sync and
 *                     the next one.
 *   Emptiness         A take that finds the end of the queue has left nothing in it that was put before the take began.
 *   Ownership         The payload of every update comes back exactly once.
 *   Statistics        The buffer's counters are those of the history.
 *
 * The order is looked for key by key, as linearizability allows, with the calls that concern every key put into each:
 * from return to return, all states are kept in which the buffer may be (just-in-time linearization, Lowe 2017).
 *
 * Producers send statuses by one lane at most, the first; and one lane at most takes. Markers, keys of number `keys` and up,
 * are put once each, by the first lane, and never deleted: they tell statuses of equal value from one another.
 */
#ifndef HISTORY_H
#define HISTORY_H

#include <stdatomic.h>
#include <stdio.h>

#include "CDedupe.h"

enum { HISTORY_LANES_MAX = 12 };

/* Names of updates: never zero. */
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
    HISTORY_RETURNED, /* A payload that came back by another way: collected, or left over. */
} history_kind_t;

typedef struct history_event {
    uint64_t begin; /* Stamps of the call; all events of one call have the same. */
    uint64_t end;
    uint32_t key;
    history_name_t other; /* Put: what it displaced. Taken: the update, or zero if synthesized. */
    history_name_t back;  /* Put: the payload that came back in its own place. */
    uint8_t kind;         /* A history_kind_t. */
    uint8_t outcome; /* Of an update: a cdedupe_outcome_t; of an item: a cdedupe_item_kind_t. */
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
    unsigned sink; /* The lane that takes. */
    uint32_t keys; /* Markers not counted. */
    uint32_t markers;
    bool drained; /* Everybody was done, and then the loop came to the end of the queue. */
    cdedupe_statistics_t statistics; /* At the end. */
} history_t;

/* What the judgement came to. */
typedef struct history_verdict {
    const char *fault; /* NULL: all holds; else a static text, */
    char detail[1200]; /* and more about it. */
    uint64_t
        undecided; /* Keys with more possible states than are followed, and no order among those that were. */
    uint64_t most_states;
} history_verdict_t;

void history_open(history_t *history, unsigned lanes, unsigned sink, uint32_t keys);
void history_close(history_t *history);

static inline uint64_t
history_stamp(history_t *history)
{
    return atomic_fetch_add(&history->stamp, 1) + 1;
}

/* A new event at the end of a lane, zero but for what is given; valid until the next one. */
history_event_t *history_add(history_t *history, unsigned lane, history_kind_t kind, uint32_t key);

/* The name of the lane's next event, and a named event. */
history_name_t history_next_name(const history_t *history, unsigned lane);
history_event_t *history_named(const history_t *history, history_name_t name);

/* Judges. */
void history_judge(history_t *history, history_verdict_t *verdict);

#endif
