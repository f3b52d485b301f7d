/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract, as a program that is too simple to be wrong: a plain array as the queue, linear search, one
 * `if` per row of the contract's tables. Histories are compared with it.
 *
 * A sister of ../CDedupeTests/model.h, which goes by what one thread does: there a merge is over before anything else
 * happens. Here a merge has two ends, others wait in between, and a batch is untaken item by item. Tags, weights and ages,
 * which that one knows, are of no use to a history.
 *
 * Keys are small numbers; names turn strings into them. An update carries an `id`, which stands for its value,
 * its revision and its payload at once; zero is "none". Where values are merged, an id is a set of bits, and the union of
 * two sets is what they are merged to.
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

/* One thing in the queue. */
typedef struct model_entry {
    size_t key; /* MODEL_NO_KEY: a status. */
    uint64_t id;
    cdedupe_status_t status;
    bool deletion;
    bool owed;    /* Was queued when a finish "when delivered" was called. */
    bool alone;   /* Came after a deletion: older values are not merged with it. */
    bool merging; /* Somebody is merging what is pending; `id` is what it will be. */
    bool chosen;  /* Was queued when the batch that is being taken was begun. */
    uint64_t revision;
    unsigned group; /* Not zero: a deletion synthesized by the in-sync of this number. */
} model_entry_t;

/* One thing that the sink is given. */
typedef struct model_item {
    size_t key; /* MODEL_NO_KEY: a status. */
    uint64_t id;
    cdedupe_kind_t kind;
    cdedupe_status_t status;
    bool was_live;                 /* Before it was taken, for model_untake(). */
    uint64_t revision_before;      /* The same: what was taken last of the key. */
    cdedupe_status_t taken_before; /* The same for a status: the one taken before it. */
} model_item_t;

enum { MODEL_BATCH = 100 };

typedef struct model {
    model_entry_t *queue;
    size_t count;
    size_t capacity;

    bool *live;         /* By key. */
    bool *unseen;       /* By key: live at the last restart and not heard of since. */
    uint64_t *revision; /* By key: of the value that was taken last, if the key is live; zero: none. */
    size_t keys;

    /* What the buffer was made with: to be set after model_open(). */
    bool suppresses;
    bool merges;
    uint64_t keys_max; /* Zero: no bound. */

    cdedupe_status_t latest; /* Received, in the sense of the contract's section 3. */
    cdedupe_status_t latest_taken;
    bool resync; /* From a restart to the in-sync after it. */
    bool overflowed;
    unsigned groups;

    bool claimed;
    bool loop;   /* The claim is of a loop. */
    bool asleep; /* The loop's last take found nothing, and nobody has woken it. */
    uint64_t wakes;

    model_item_t batch[MODEL_BATCH]; /* The last one, as far as it has not been untaken. */
    size_t batch_count;

    bool stopped;
    bool finish_when_empty;
    bool finish_when_delivered;
    bool restarted; /* Since the last batch was begun. */
    bool swallowed; /* Since the restart or the last status queued, a status was dropped because it was the same. */
    bool ambiguous; /* The contract does not say what comes next: do not compare any further. */

    cdedupe_statistics_t statistics; /* All but memory. */
} model_t;

void model_open(model_t *model);
void model_close(model_t *model);

/* Makes `target`, which is open, equal to `source`. */
void model_copy(model_t *target, const model_t *source);

/* An update. `displaced` gets the id of the pending update that left for it, or zero. */
cdedupe_outcome_t model_put(model_t *model, size_t key, bool deletion, uint64_t id, uint64_t *displaced);

/* The same with a revision of its own, for a buffer that suppresses what the sink has. */
cdedupe_outcome_t model_put_revision(model_t *model, size_t key, bool deletion, uint64_t id, uint64_t revision,
                                     uint64_t *displaced);

/* Whether who puts this has to wait: somebody is merging. */
bool model_put_waits(const model_t *model, size_t key, bool deletion);

/* Puts what was merged, after the outcome CDEDUPE_MERGE. False: what was pending has ended meanwhile. */
bool model_put_merged(model_t *model, size_t key, uint64_t id);

cdedupe_result_t model_status(model_t *model, cdedupe_status_t status);
cdedupe_result_t model_restart(model_t *model);
cdedupe_result_t model_claim(model_t *model, cdedupe_claim_t kind);
void model_release(model_t *model);
void model_stop(model_t *model);
void model_finish(model_t *model, cdedupe_finish_t when);

/* A batch begins: it takes what is queued now, in however many steps. */
void model_begin_batch(model_t *model);

/*
 * Takes up to `limit` entries of the batch into `items`. `hints` are the keys that the real buffer delivered, in order:
 * they choose inside groups.
 */
cdedupe_result_t model_take(model_t *model, size_t limit, const size_t *hints, size_t hint_count, model_item_t *items,
                            size_t *count);

/*
 * The last `count` of the items of the last take go back. `back` gets for each the id that comes back to the caller, or
 * zero.
 */
cdedupe_result_t model_untake(model_t *model, size_t count, uint64_t *back);

/* The last of them goes back. `newer` gets the id of what it has to be merged with, or zero. */
cdedupe_result_t model_untake_last(model_t *model, uint64_t *back, uint64_t *newer);

/* Whether who untakes the last item has to wait. */
bool model_untake_waits(const model_t *model);

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
