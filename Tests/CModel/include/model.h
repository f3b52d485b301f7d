/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract as a program that is too simple to be wrong: a plain array is the queue, every
 * search is linear, and each row of the contract's tables is one `if`. Tests compare the real
 * buffer with this model.
 *
 * Keys are small numbers, and names_number() turns strings into them. An update carries an `id`,
 * which stands for its value, its revision and its payload. An id of zero means none.
 *
 * The `rules` switch on what the buffer does only by option.
 *
 * The contract leaves one thing open: the order of the deletions that one in-sync synthesizes. The
 * model queues them as a *group* whose inner order is unknown. model_take() is told what the real
 * buffer delivered, and follows that order within a group and nowhere else.
 */
#ifndef MODEL_H
#define MODEL_H

#include "CDedupe.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MODEL_NO_KEY ((size_t)-1)

/* The buffer's options that change what happens to updates. All zero: none is set. */
typedef struct model_rules {
    void *context; /* The first argument of the functions. */
    /* If not NULL, unchanged values are suppressed. */
    uint64_t (*revision)(void *context, uint64_t id);
    uint64_t maximum_keys;
    uint64_t maximum_bytes;
    /* Not NULL if there is a maximum of bytes. */
    uint64_t (*weight)(void *context, uint64_t id, bool deletion);
    /* If not NULL, values are merged. */
    uint64_t (*merged)(void *context, uint64_t older, uint64_t newer);
} model_rules_t;

/* One place in the queue. */
typedef struct model_entry {
    size_t key; /* MODEL_NO_KEY: a status. */
    uint64_t id;
    cdedupe_status_t status;
    bool deletion;
    /* A merge barrier: the value came after a deletion, or first after a restart. Older values are
       not merged with it. */
    bool alone;
    bool chosen;    /* It was queued when the batch that is being taken began. */
    unsigned group; /* Not zero: a deletion that the in-sync of this number synthesized. */
} model_entry_t;

/* One item that the sink gets. */
typedef struct model_item {
    size_t key; /* MODEL_NO_KEY: a status. */
    uint64_t id;
    cdedupe_item_kind_t kind;
    cdedupe_status_t status;
    bool was_live;                 /* Before it was taken; for model_put_back(). */
    uint64_t revision_before;      /* Of the key's value that was taken before it, or zero. */
    cdedupe_status_t taken_before; /* Of a status: the status that was taken before it. */
} model_item_t;

/* The state of a key, except what is in the queue. */
typedef struct model_key {
    bool live;
    bool unseen;       /* It was live at the last restart and has not been seen since. */
    uint64_t revision; /* Of the value that was taken last, if the key is live. */
} model_key_t;

typedef struct model {
    model_rules_t rules;

    model_entry_t *queue;
    size_t count;
    size_t capacity;

    model_key_t *keys; /* All keys up to the highest number that was ever put. */
    size_t key_count;
    size_t key_capacity;

    /* The latest status received, in the sense of the contract's section 3. */
    cdedupe_status_t latest;
    cdedupe_status_t latest_taken;
    bool resync; /* From a restart to the in-sync after it. */
    unsigned groups;

    bool claimed;
    bool loop;   /* The claim is a loop's. */
    bool asleep; /* The loop's last take found nothing, and the loop has not been woken since. */
    uint64_t wakes;

    model_item_t *batch; /* The items of the last batch that were not put back. */
    size_t batch_count;
    size_t batch_capacity;

    bool stopped;
    bool finish_when_empty;
    bool finish_when_delivered;
    bool restarted; /* A restart came since the last batch began. */
    /* A status was dropped because it repeated the latest one, since the restart or since the last
       status that was queued. */
    bool dropped_equal_status;

    cdedupe_statistics_t statistics; /* All of them except `memory`. */
} model_t;

/* Opens a model without rules. The caller may set them afterwards. */
void model_open(model_t *model);
void model_close(model_t *model);

/* Makes `target`, which is open, equal to `source`. */
void model_copy(model_t *target, const model_t *source);

/* Puts an update. `displaced` gets the id of the pending update that it displaced, or zero. */
cdedupe_outcome_t model_put(model_t *model, size_t key, bool deletion, uint64_t id,
                            uint64_t *displaced);

cdedupe_result_t model_status(model_t *model, cdedupe_status_t status);
cdedupe_result_t model_restart(model_t *model);
cdedupe_result_t model_claim(model_t *model, cdedupe_claim_t kind);
void model_release(model_t *model);
void model_stop(model_t *model);
void model_finish(model_t *model, cdedupe_finish_t when);

/*
 * Takes up to `limit` entries into `items`. `hints` are the keys that the real buffer delivered, in
 * order. They decide the order inside groups.
 */
cdedupe_result_t model_take(model_t *model, size_t limit, const size_t *hints, size_t hint_count,
                            model_item_t *items, size_t *count);

/*
 * A take in steps, for tests that do something between two lock scopes of a take. A batch takes
 * what is queued when it begins.
 */
void model_begin_batch(model_t *model);
cdedupe_result_t model_take_hold(model_t *model, size_t limit, const size_t *hints,
                                 size_t hint_count, model_item_t *items, size_t *count);

/* Puts items before those of the last batch: a batch is what all lock scopes of a take took. */
void model_join_batch(model_t *model, const model_item_t *earlier, size_t count);

/*
 * Puts the last item of the last take back. `back` gets the id that comes back to the caller, or
 * zero.
 */
cdedupe_result_t model_put_back_last(model_t *model, uint64_t *back);

/* Puts the last `count` items back. `back` gets an id or zero for each of them. */
cdedupe_result_t model_put_back(model_t *model, size_t count, uint64_t *back);

/* Numbers of strings, counted up from zero in the order of first use. */
typedef struct names {
    char **texts;
    size_t *lengths;
    size_t count;
} names_t;

void names_open(names_t *names);
void names_close(names_t *names);
size_t names_number(names_t *names, const void *text, size_t length);

#ifdef __cplusplus
}
#endif

#endif /* MODEL_H */
