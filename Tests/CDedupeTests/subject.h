/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The buffer under test, with one interface for its two levels, so that each rule is tested at
 * both.
 *
 * An update carries an `id` in place of a value. At the bytes level, the id is the value and the
 * revision. At the handle level, the id is in the payload, and the subject keeps a book of every
 * payload. The book checks who owns a payload, that it comes back only in ways that the header
 * allows, and that it is destroyed exactly once. A deletion with id zero carries no payload.
 *
 * A subject must not be used by several threads.
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
    uint64_t hash_seed; /* Zero: a random seed, as in programs that use the buffer. */
    hooks_t *hooks;     /* NULL: the library's own allocator. */
    bool long_values;   /* Bytes level: see subject_value_length(). */

    /* The same as the buffer's options. Merging needs the handle level. */
    bool suppress;
    uint64_t maximum_keys;
    uint64_t maximum_bytes;
    bool merging;
    uint64_t (*clock)(void *context); /* NULL: a clock that stands still. */
} subject_options_t;

/*
 * The length of the value of an id at the bytes level. If values are long, those of odd ids do not
 * fit into a slot, and some of them have a block of their own.
 */
size_t subject_value_length(uint64_t id, bool long_values);

/*
 * The revision and the weight that the buffer sees of an id at the handle level. At the bytes
 * level, the revision is the id, and the weight is the length of the value. The revision of two
 * merged values is that of the newer one.
 */
static inline uint64_t
subject_revision(uint64_t id)
{
    return id % 10;
}

static inline uint64_t
subject_weight(uint64_t id)
{
    return id % 5;
}

/*
 * The merger of two values: an id whose decimal digits tell which values they were, and in which
 * order.
 */
static inline uint64_t
subject_merged(uint64_t older, uint64_t newer)
{
    uint64_t rest;

    for (rest = newer; rest != 0; rest /= 10) {
        older *= 10;
    }
    return older + newer == 0 ? 1 : older + newer;
}

/*
 * Pins of the subject's own. If the environment has SUBJECT_PINS, the subject pins keys that are
 * put, puts by pins and by keys in turns, and pins and unpins before any call. A pin changes
 * nothing else, so every test must pass with it.
 */
enum { SUBJECT_PINS = 16, SUBJECT_PIN_KEY = 64 };

typedef struct subject_pin {
    cdedupe_pin_t pin;
    unsigned count; /* Zero: this place is free. */
    size_t length;
    char key[SUBJECT_PIN_KEY];
} subject_pin_t;

typedef struct subject_update {
    const void *key;
    size_t length;
    bool deletion;
    uint64_t id;
    cdedupe_outcome_t outcome; /* Out. */
    /* Out, handle level: the id of the pending payload that came back, or zero. */
    uint64_t displaced;
    cdedupe_pin_t pin; /* Not zero: put by this pin. */
} subject_update_t;

typedef struct subject_item {
    const char *key; /* Borrowed. NULL for a status. */
    size_t length;
    uint64_t id; /* Zero for a deletion that carries none. */
    cdedupe_item_kind_t kind;
    cdedupe_status_t status;
    uint64_t age;
} subject_item_t;

/* The owner of a payload. */
typedef enum owner {
    OWNER_NOBODY = 0, /* Destroyed. */
    OWNER_TEST,
    OWNER_QUEUE,
    OWNER_GARBAGE, /* The buffer, after a restart dropped it. */
} owner_t;

typedef struct object {
    uint64_t id;
    owner_t owner;
} object_t;

/* The book of all payloads. */
typedef struct book {
    object_t *objects;
    size_t object_count;
    uint32_t *free_objects;
    size_t free_count;
    size_t living; /* Objects that are not destroyed. */
} book_t;

typedef struct subject {
    subject_options_t options;
    cdedupe_bytes_t *bytes; /* Either this or `core` is NULL. */
    cdedupe_t *core;

    /*
     * After every change, call cdedupe_validate() and check the statistics. Costs O(keys). Default:
     * true.
     */
    bool paranoid;

    /* The last take. */
    subject_item_t *items;
    size_t count;
    /* Keep its payloads until the next take, for subject_put_back(). Default: false. */
    bool keeps_batch;
    size_t kept; /* The number of payloads that are kept. */
    bool untook; /* subject_put_back() was called at least once. */
    size_t left; /* The items of the last subject_put_back() that must still go back. */

    uint64_t wakes;
    void (*on_wake)(struct subject *subject); /* If not NULL, the wake callback calls it. */

    book_t payloads;
    uint64_t turns;     /* Counts, in order to choose two ways to do the same thing in turn. */
    uint64_t pin_state; /* Of the random choices about pins; zero: there are none. */
    subject_pin_t pins[SUBJECT_PINS];
    bool putting; /* By pins that must stay until the call returns. */
    size_t lent;  /* Items of the last batch whose keys are still borrowed. */
    uint64_t lent_sum;
    uint64_t merges; /* The number of calls of the merge callback. */

    cdedupe_update_t *updates; /* Scratch for subject_put(). */
    uint32_t *numbers;
    size_t scratch;
    cdedupe_item_t *core_items;
    cdedupe_bytes_item_t *bytes_items;

    char *text;
    size_t text_length;
    size_t text_capacity;
} subject_t;

/* Defaults: batches of 100, a random seed, and the library's allocator. */
subject_options_t subject_defaults(subject_level_t level);

cdedupe_result_t subject_open(subject_t *subject, const subject_options_t *options);

/*
 * Destroys the buffer. At the handle level it drains the buffer first and checks that no payload is
 * missing.
 */
void subject_close(subject_t *subject);

/* From now on keys are pinned and unpinned, as if the environment had SUBJECT_PINS. */
void subject_pin(subject_t *subject, uint64_t seed);

cdedupe_result_t subject_put(subject_t *subject, subject_update_t *updates, size_t count);
cdedupe_result_t subject_status(subject_t *subject, cdedupe_status_t status);
cdedupe_result_t subject_restart(subject_t *subject);
cdedupe_result_t subject_claim(subject_t *subject, cdedupe_claim_t kind);
void subject_release(subject_t *subject);
void subject_stop(subject_t *subject);
cdedupe_result_t subject_finish(subject_t *subject, cdedupe_finish_t when);

/*
 * Collects everything that restarts dropped, `capacity` steps in each call. Does nothing at the
 * bytes level.
 */
void subject_collect(subject_t *subject, size_t capacity);

/* Makes one such call. */
cdedupe_result_t subject_collect_some(subject_t *subject, size_t capacity);

/* Takes up to `capacity` entries into `items`. */
cdedupe_result_t subject_take(subject_t *subject, size_t capacity);

/*
 * Puts the last `count` items back. For each of them, `back` gets the id that came back, or zero.
 * At the bytes level nothing is known about this, and nothing is written.
 */
cdedupe_result_t subject_put_back(subject_t *subject, size_t count, uint64_t *back);

cdedupe_statistics_t subject_statistics(subject_t *subject);
const char *subject_validate(subject_t *subject);

/*
 * Checks everything that must hold after any sequence of calls: the sum of the statistics, the
 * bound on statuses, and cdedupe_validate().
 */
void subject_check(subject_t *subject);

/*
 * The rest is for tests that a person reads. Keys are C strings.
 *
 * Batches are texts: "+a=1" is a new value, "~a=2" an updated one, "-a" a deletion ("-a=3" if it
 * carries an id), and "<resync>" a status. " | " separates two calls of the sink. "empty" and
 * "stopped" stand for a take without a batch.
 */
cdedupe_outcome_t put(subject_t *subject, const char *key, uint64_t id);
cdedupe_outcome_t del(subject_t *subject, const char *key);
cdedupe_outcome_t del_id(subject_t *subject, const char *key, uint64_t id);

/*
 * One batch, and all batches (with " || " between them), as text. The text is valid until the next
 * such call.
 */
const char *step(subject_t *subject);
const char *flush(subject_t *subject);

#endif /* SUBJECT_H */
