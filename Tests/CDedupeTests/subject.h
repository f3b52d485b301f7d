/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The buffer under test, with one face for its two levels, so that each rule is tested at both.
 *
 * An update carries an `id` in place of a value. At the bytes level it is the value and the revision. At the
 * handle level it is in the payload, and the subject keeps book of every payload: who owns it, that it comes
 * back only in ways that the header allows, and that it is destroyed exactly once. A deletion with id zero
 * carries no payload.
 *
 * Not for several threads.
 */
#ifndef SUBJECT_H
#define SUBJECT_H

#include "CDedupe.h"
#include "hooks.h"

typedef enum subject_level {
    SUBJECT_BYTES,
    SUBJECT_HANDLES,
} subject_level_t;

typedef struct subject_options {
    subject_level_t level;
    size_t batch_size;
    uint64_t hash_seed; /* Zero: random, as the buffer's users have it. */
    hooks_t *hooks;     /* NULL: the library's own allocator. */
    bool long_values;   /* Bytes level: see subject_value_length(). */

    /* As the buffer's options. Merging: handle level. */
    bool suppress;
    uint64_t maximum_keys;
    uint64_t maximum_bytes;
    bool merging;
    uint64_t (*clock)(void *context); /* NULL: it stands. */
} subject_options_t;

/*
 * Bytes of the value of an id at the bytes level. If values are long, those of odd ids do not fit into a
 * slot, and some have a block of their own.
 */
size_t subject_value_length(uint64_t id, bool long_values);

/*
 * What the buffer sees of an id at the handle level; at the bytes level the revision is the id, and a value's weight its
 * length.
 */
static inline uint64_t
subject_revision(uint64_t id)
{
    return id % 1000;
}

static inline uint64_t
subject_weight(uint64_t id)
{
    return id % 5;
}

/* What two values make: an id whose hexadecimal digits tell which they were, in which order. */
static inline uint64_t
subject_merged(uint64_t older, uint64_t newer)
{
    uint64_t rest;

    for (rest = newer; rest != 0; rest >>= 4) {
        older <<= 4;
    }
    return older + newer == 0 ? 1 : older + newer;
}

typedef struct subject_update {
    const void *key;
    size_t length;
    bool deletion;
    uint64_t id;
    cdedupe_outcome_t outcome; /* Out. */
    uint64_t
        displaced; /* Out, handle level: the id of the pending payload that came back, or zero. */
} subject_update_t;

typedef struct subject_item {
    const char *key; /* Lent. NULL for a status. */
    size_t length;
    uint64_t id; /* Zero for a deletion that carries none. */
    cdedupe_item_kind_t kind;
    cdedupe_status_t status;
    uint64_t age;
} subject_item_t;

/* Who owns a payload. */
typedef enum owner {
    OWNER_NOBODY = 0, /* Destroyed. */
    OWNER_TEST,
    OWNER_QUEUE,
    OWNER_GARBAGE, /* The buffer, since a restart dropped it. */
} owner_t;

typedef struct object {
    uint64_t id;
    owner_t owner;
} object_t;

/* All payloads. */
typedef struct book {
    object_t *objects;
    size_t object_count;
    uint32_t *free_objects;
    size_t free_count;
    size_t living; /* Objects that are not destroyed. */
} book_t;

typedef struct subject {
    subject_options_t options;
    cdedupe_bytes_t *bytes; /* One of the two is NULL. */
    cdedupe_t *core;

    /* After every change: validate, and check what must hold of the statistics. Costs O(keys). Default: true. */
    bool paranoid;

    /* The last take. */
    subject_item_t *items;
    size_t count;
    bool
        keeps_batch; /* Its payloads are kept until the next, for subject_put_back(). Default: false. */
    size_t kept;     /* So many of them. */
    bool untook;     /* Ever. */
    size_t left;     /* So many items of the last subject_put_back() are still to go back. */

    uint64_t wakes;
    void (*on_wake)(struct subject *subject); /* If not NULL, called by the hook. */

    book_t payloads;
    uint64_t turns;  /* Of two ways to do a thing, one after the other. */
    uint64_t merges; /* Calls of the merge callback. */

    cdedupe_update_t *updates; /* Scratch for subject_put(). */
    uint32_t *numbers;
    size_t scratch;
    cdedupe_item_t *core_items;
    cdedupe_bytes_item_t *bytes_items;

    char *text;
    size_t text_length;
    size_t text_capacity;
} subject_t;

/* A batch of 100, random seed, the library's allocator. */
subject_options_t subject_defaults(subject_level_t level);

cdedupe_result_t subject_open(subject_t *subject, const subject_options_t *options);

/* Destroys the buffer; at the handle level, gets the leftovers first and checks that no payload is missing. */
void subject_close(subject_t *subject);

cdedupe_result_t subject_put(subject_t *subject, subject_update_t *updates, size_t count);
cdedupe_result_t subject_status(subject_t *subject, cdedupe_status_t status);
cdedupe_result_t subject_restart(subject_t *subject);
cdedupe_result_t subject_claim(subject_t *subject, cdedupe_claim_t kind);
void subject_release(subject_t *subject);
void subject_stop(subject_t *subject);
cdedupe_result_t subject_finish(subject_t *subject, cdedupe_finish_t when);

/* Gets back all that restarts dropped, `capacity` steps per call. Nothing to do at the bytes level. */
void subject_collect(subject_t *subject, size_t capacity);

/* One such call. */
cdedupe_result_t subject_collect_some(subject_t *subject, size_t capacity);

/* Takes up to `capacity` entries into `items`. */
cdedupe_result_t subject_take(subject_t *subject, size_t capacity);

/*
 * The last `count` of the items go back. `back` gets for each the id that came back, or zero; at the bytes level nothing
 * is known of that, and nothing is written.
 */
cdedupe_result_t subject_put_back(subject_t *subject, size_t count, uint64_t *back);

cdedupe_statistics_t subject_statistics(subject_t *subject);
const char *subject_validate(subject_t *subject);

/* Checks that all hold, whatever was done: the sum of the statistics, the bound on statuses, validate. */
void subject_check(subject_t *subject);

/*
 * The rest is for tests that a person reads. Keys are C strings.
 *
 * Batches as text: "+a=1" a new value, "~a=2" an updated one, "-a" a deletion ("-a=3" if it carries an id),
 * "<resync>" a status; " | " between two calls of the sink. "empty" and "stopped" where there was no batch.
 */
cdedupe_outcome_t put(subject_t *subject, const char *key, uint64_t id);
cdedupe_outcome_t del(subject_t *subject, const char *key);
cdedupe_outcome_t del_id(subject_t *subject, const char *key, uint64_t id);

/* One batch, and all batches (with " || " between them), as text; valid until the next such call. */
const char *step(subject_t *subject);
const char *flush(subject_t *subject);

#endif /* SUBJECT_H */
