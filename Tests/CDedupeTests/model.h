/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract, as a program that is too simple to be wrong: a plain array as the queue, linear search, one
 * `if` per row of the contract's tables. The real buffer is compared with it.
 *
 * Keys are small numbers; names turn strings into them. An update carries an `id`, which stands for its value,
 * its revision and its payload at once; zero is "none".
 *
 * What the buffer does only if it is asked to, the model does by its `rules`.
 *
 * One thing the contract leaves open: the order among the deletions that one in-sync owes. The model puts them
 * into the queue as a *group* whose inner order is unknown, and model_take() is told what the real buffer
 * delivered: within a group, and only there, it follows that.
 */
#ifndef MODEL_H
#define MODEL_H

#include "CDedupe.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MODEL_NO_KEY ((size_t)-1)

/* The buffer's options, as far as they are about what happens to updates. All zero: none. */
typedef struct model_rules {
    uint64_t (*revision)(uint64_t id); /* If not NULL, unchanged values are suppressed. */
    uint64_t maximum_keys;
    uint64_t maximum_bytes;
    uint64_t (*weight)(uint64_t id, bool deletion); /* Not NULL if there is a maximum of bytes. */
    uint64_t (*merged)(uint64_t older, uint64_t newer); /* If not NULL, values are merged. */
} model_rules_t;

/* One thing in the queue. */
typedef struct model_entry {
    size_t key; /* MODEL_NO_KEY: a status. */
    uint64_t id;
    cdedupe_status_t status;
    bool deletion;
    bool
        alone; /* It came after a deletion, or first after a restart: older values are not merged with it. */
    bool chosen;    /* Was queued when the batch that is being taken was begun. */
    unsigned group; /* Not zero: a deletion synthesized by the in-sync of this number. */
} model_entry_t;

/* One thing that the sink is given. */
typedef struct model_item {
    size_t key; /* MODEL_NO_KEY: a status. */
    uint64_t id;
    cdedupe_item_kind_t kind;
    cdedupe_status_t status;
    bool was_live;                 /* Before it was taken, for model_put_back(). */
    uint64_t revision_before;      /* That of the value taken before it, or zero. */
    cdedupe_status_t taken_before; /* The same for a status: the one taken before it. */
} model_item_t;

enum { MODEL_BATCH = 100 };

/* What is known of a key, beside what is in the queue. */
typedef struct model_key {
    bool live;
    bool unseen;       /* Live at the last restart and not heard of since. */
    uint64_t revision; /* Of the value taken last, if it is live. */
} model_key_t;

typedef struct model {
    model_rules_t rules;

    model_entry_t *queue;
    size_t count;
    size_t capacity;

    model_key_t *keys; /* Those that were ever put, and those between. */
    size_t key_count;
    size_t key_capacity;

    cdedupe_status_t latest; /* Received, in the sense of the contract's section 3. */
    cdedupe_status_t latest_taken;
    bool resync; /* From a restart to the in-sync after it. */
    unsigned groups;

    bool claimed;
    bool loop;   /* The claim is of a loop. */
    bool asleep; /* The loop's last take found nothing, and nobody has woken it. */
    uint64_t wakes;

    model_item_t batch[MODEL_BATCH]; /* The last one, as far as it has not been put back. */
    size_t batch_count;

    bool stopped;
    bool finish_when_empty;
    bool finish_when_delivered;
    bool restarted; /* Since the last batch was begun. */
    bool
        dropped_equal_status; /* Since the restart or the last status queued, a status was dropped because it was the same. */

    cdedupe_statistics_t statistics; /* All but memory. */
} model_t;

/* Without rules; they may be set then. */
void model_open(model_t *model);
void model_close(model_t *model);

/* Makes `target`, which is open, equal to `source`. */
void model_copy(model_t *target, const model_t *source);

/* An update. `displaced` gets the id of the pending update that left for it, or zero. */
cdedupe_outcome_t model_put(model_t *model, size_t key, bool deletion, uint64_t id,
                            uint64_t *displaced);

cdedupe_result_t model_status(model_t *model, cdedupe_status_t status);
cdedupe_result_t model_restart(model_t *model);
cdedupe_result_t model_claim(model_t *model, cdedupe_claim_t kind);
void model_release(model_t *model);
void model_stop(model_t *model);
void model_finish(model_t *model, cdedupe_finish_t when);

/* Whether nothing is taken any more; a finish that is over may show at once, or at the next take. */

/*
 * Takes up to `limit` entries into `items`. `hints` are the keys that the real buffer delivered, in order:
 * they choose inside groups.
 */
cdedupe_result_t model_take(model_t *model, size_t limit, const size_t *hints, size_t hint_count,
                            model_item_t *items, size_t *count);

/* The same in steps, for those who see what comes between them: a batch takes what is queued when it begins. */
void model_begin_batch(model_t *model);
cdedupe_result_t model_take_hold(model_t *model, size_t limit, const size_t *hints,
                                 size_t hint_count, model_item_t *items, size_t *count);

/* The last of the items of the last take goes back. `back` gets the id that comes back to the caller, or zero. */
cdedupe_result_t model_put_back_last(model_t *model, uint64_t *back);

/* The last `count` of them go back. `back` gets the id or zero for each. */
cdedupe_result_t model_put_back(model_t *model, size_t count, uint64_t *back);

/* Strings to numbers, counted up from zero in the order of first use. */
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
