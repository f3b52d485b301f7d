/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every sequence of operations up to a length, on the buffer and on the model. After each operation
 * the test compares the result, the outcome, the displaced payload, the delivered items, the
 * wake-ups and every counter, and calls cdedupe_validate(). After the last operation it also
 * empties the queue and compares the items. Then follow random walks with more keys and longer
 * calls.
 *
 *     test_exhaustive [length] [seed]     length 1 to 12, default 6; seed of the random walks
 *
 * The operations are set and delete of three keys, three statuses, restart, and step. A second pass
 * adds stop and both kinds of finish. Further passes run all of them with the options that
 * suppress, overflow and merge.
 *
 * Without two savings the test would take minutes:
 *
 *     - Keys are used in the order of their names. A sequence that uses b before a equals the
 *       sequence that uses a before b with the names swapped. This is exact as far as the buffer
 *       treats keys alike. But keys differ in their hashes, and therefore shorter sequences run
 *       without this saving.
 *     - A sequence repeats the operations that it shares with the sequence before it without
 *       comparing them again. The buffer is deterministic here (fixed hash seed, one thread), so
 *       they were compared before.
 */
#include <stdlib.h>

#include "check.h"
#include "beside_model.h"
#include "hooks.h"

enum { LENGTH_MAX = 12, KEYS = 3 };

typedef enum operation {
    SET_A,
    SET_B,
    SET_C,
    DELETE_A,
    DELETE_B,
    DELETE_C,
    STATUS_WAIT,
    STATUS_RESYNC,
    STATUS_IN_SYNC,
    RESTART,
    STEP,
    PUT_BACK_LAST, /* The last item of the last batch goes back, */
    PUT_BACK_ALL,  /* or all of them. */
    STOP,
    FINISH_DELIVERED,
    FINISH_EMPTY,
} operation_t;

static const char *const operation_names[] = {
    "set a",        "set b",        "set c",        "delete a", "delete b",
    "delete c",     "wait",         "resync",       "in-sync",  "restart",
    "step",         "put back one", "put back all", "stop",     "finish delivered",
    "finish empty",
};

/* One pass over all sequences. */
typedef struct pass {
    subject_level_t level;
    size_t batch_size;
    cdedupe_claim_t claim;
    bool collect; /* Get dropped payloads back after every operation, or only at the end. */
    bool by_symmetry;
    operation_t last; /* The operations up to this one are used. */
    size_t length;
} pass_t;

/* What the buffer of a pass is asked to do. */
typedef struct extras {
    const char *name;
    bool suppress;
    uint64_t maximum_keys;
    uint64_t maximum_bytes; /* By level: see beside_rules(). */
    bool merging;           /* Handle level. */
} extras_t;

static pass_t pass;
static extras_t extras;
static operation_t sequence[LENGTH_MAX];
static size_t run_length;              /* So much of it is being run. */
static model_t models[LENGTH_MAX + 1]; /* The model before operation i. */
static size_t compared; /* So many operations of the sequence were compared already. */
static hooks_t hooks;
static subject_t subject;
static uint64_t sequences;

static void
describe(FILE *out)
{
    size_t index;

    fprintf(out, "  %s level%s%s, batches of %zu, %s, %s:",
            pass.level == SUBJECT_BYTES ? "bytes" : "handle", extras.name != NULL ? ", " : "",
            extras.name != NULL ? extras.name : "", pass.batch_size,
            pass.claim == CDEDUPE_CLAIM_LOOP ? "loop" : "by hand",
            pass.collect ? "collecting" : "not collecting");
    for (index = 0; index < run_length; index++) {
        fprintf(out, " %s;", operation_names[sequence[index]]);
    }
    fprintf(out, "\n");
}

/* ---------------------------------------------------------------------------------------------- */
/* One sequence                                                                                   */

static const char *const key_texts[KEYS] = {"a", "b", "c"};

static size_t
number_of_letter(const subject_item_t *item)
{
    return item->length == 1 && item->key[0] >= 'a' && item->key[0] <= 'c'
               ? (size_t)(item->key[0] - 'a')
               : 99;
}

/*
 * Where values are suppressed, there are two revisions. At the bytes level the id is the revision.
 */
static uint64_t
id_at(size_t position)
{
    if (!extras.suppress) {
        return position + 1;
    }
    return (pass.level == SUBJECT_BYTES ? 0 : (position + 1) * 1000) + 1 + position % 2;
}

/* The update of the operation at `position`. Every other deletion carries no payload. */
static subject_update_t
update_at(size_t position)
{
    bool deletion = sequence[position] >= DELETE_A;
    size_t key = (size_t)(sequence[position] - (deletion ? DELETE_A : SET_A));
    subject_update_t update = {
        key_texts[key], 1, deletion, id_at(position), CDEDUPE_OUTCOME_UNTOUCHED, 0, 0};

    if (deletion && position % 2 == 1) {
        update.id = 0;
    }
    return update;
}

/* How many items go back; one that is not there, if there is none. */
static size_t
put_back_count(size_t position)
{
    size_t count = models[position].batch_count;

    return count == 0 || sequence[position] == PUT_BACK_LAST ? 1 : count;
}

static void
repeat(size_t position)
{
    static uint64_t back[100];
    subject_update_t update;

    switch (sequence[position]) {
    case STATUS_WAIT:
    case STATUS_RESYNC:
    case STATUS_IN_SYNC:
        subject_status(&subject, (cdedupe_status_t)(sequence[position] - STATUS_WAIT));
        break;
    case RESTART:
        subject_restart(&subject);
        break;
    case STEP:
        subject_take(&subject, pass.batch_size);
        break;
    case PUT_BACK_LAST:
    case PUT_BACK_ALL:
        subject_put_back(&subject, put_back_count(position), back);
        break;
    case STOP:
        subject_stop(&subject);
        break;
    case FINISH_DELIVERED:
    case FINISH_EMPTY:
        subject_finish(&subject, (cdedupe_finish_t)(sequence[position] - FINISH_DELIVERED));
        break;
    default:
        update = update_at(position);
        subject_put(&subject, &update, 1);
        break;
    }
}

static void
compare_update(model_t *model, size_t position)
{
    subject_update_t update = update_at(position);
    size_t key = number_of_letter(&(subject_item_t){.key = update.key, .length = 1});
    cdedupe_outcome_t outcome;
    uint64_t displaced;

    CHECK_EQ(subject_put(&subject, &update, 1), CDEDUPE_OK);
    outcome = model_put(model, key, update.deletion, update.id, &displaced);
    CHECK_EQ(update.outcome, outcome);
    if (pass.level == SUBJECT_HANDLES) {
        CHECK_EQ(update.displaced, displaced);
    }
}

static void
compare(model_t *model, size_t position)
{
    cdedupe_status_t status = (cdedupe_status_t)(sequence[position] - STATUS_WAIT);

    switch (sequence[position]) {
    case STATUS_WAIT:
    case STATUS_RESYNC:
    case STATUS_IN_SYNC:
        CHECK_EQ(subject_status(&subject, status), model_status(model, status));
        break;
    case RESTART:
        CHECK_EQ(subject_restart(&subject), model_restart(model));
        break;
    case STEP:
        beside_take(&subject, model, pass.batch_size, number_of_letter);
        break;
    case PUT_BACK_LAST:
    case PUT_BACK_ALL:
        beside_put_back(&subject, model, put_back_count(position));
        break;
    case STOP:
        subject_stop(&subject);
        model_stop(model);
        break;
    case FINISH_DELIVERED:
    case FINISH_EMPTY:
        beside_finish(&subject, model, (cdedupe_finish_t)(sequence[position] - FINISH_DELIVERED));
        break;
    default:
        compare_update(model, position);
        break;
    }
}

static void
compare_rest(model_t *model)
{
    while (beside_take(&subject, model, pass.batch_size, number_of_letter) == CDEDUPE_OK) {
    }
    beside_state(&subject, model);
}

static subject_options_t
options_of_pass(void)
{
    subject_options_t options = subject_defaults(pass.level);

    options.batch_size = pass.batch_size;
    options.hash_seed = 1;
    options.hooks = &hooks;
    options.suppress = extras.suppress;
    options.maximum_keys = extras.maximum_keys;
    options.maximum_bytes = extras.maximum_bytes;
    options.merging = extras.merging;
    return options;
}

static void
open_subject(void)
{
    subject_options_t options = options_of_pass();

    if (subject_open(&subject, &options) != CDEDUPE_OK) {
        abort();
    }
    subject.paranoid = false; /* What is new is looked at by beside_state(). */
    subject.keeps_batch = pass.last >= PUT_BACK_ALL;
    CHECK_EQ(subject_claim(&subject, pass.claim), CDEDUPE_OK);
}

/* Runs operations 0 to `length` - 1, and compares those that were not compared yet. */
static void
run_sequence(size_t length)
{
    static model_t rest;
    size_t position;

    open_subject();
    for (position = 0; position < length; position++) {
        if (position < compared) {
            repeat(position);
        } else {
            model_copy(&models[position + 1], &models[position]);
            compare(&models[position + 1], position);
            beside_state(&subject, &models[position + 1]);
        }
        if (pass.collect) {
            subject_collect(&subject, 1);
        }
    }
    compared = position;
    model_copy(&rest, &models[position]);
    compare_rest(&rest);
    subject_close(&subject);
    sequences++;
}

/* ---------------------------------------------------------------------------------------------- */
/* All of them                                                                                    */

/*
 * With `used` keys used so far: how many are after `operation`; KEYS + 1 if it uses one out of
 * turn.
 */
static size_t
keys_used(operation_t operation, size_t used)
{
    size_t key = operation < DELETE_A ? (size_t)operation : (size_t)(operation - DELETE_A);

    if (operation > DELETE_C || key < used) {
        return used;
    }
    return key == used || !pass.by_symmetry ? key + 1 : KEYS + 1;
}

/*
 * Runs the sequence of the first `depth` operations, then all that begin with it. Each is run for
 * itself, as the queue is emptied and compared at the end of each.
 */
static void
run_all_from(size_t depth, size_t used)
{
    operation_t operation;

    run_length = depth;
    run_sequence(depth);
    if (depth == pass.length) {
        return;
    }
    for (operation = SET_A; operation <= pass.last; operation++) {
        size_t now_used = keys_used(operation, used);

        if (now_used <= KEYS) {
            sequence[depth] = operation;
            compared = compared < depth ? compared : depth;
            run_all_from(depth + 1, now_used);
        }
    }
}

/* A model of what the pass's buffer should be. */
static void
open_model(model_t *model)
{
    subject_options_t options = options_of_pass();

    model_open(model);
    beside_rules(&options, &model->rules);
}

static void
run_pass(size_t length, pass_t how)
{
    pass = how;
    pass.length = length;
    compared = 0;
    model_close(&models[0]);
    open_model(&models[0]);
    CHECK_EQ(model_claim(&models[0], pass.claim), CDEDUPE_OK);
    run_all_from(0, 0);
}

static void
run_passes(size_t length)
{
    static const size_t batch_sizes[] = {1, 2, 100};
    size_t shorter = length > 2 ? length - 2 : 1;
    size_t index;

    for (index = 0; index < 3; index++) {
        size_t batch = batch_sizes[index];

        check_test = "symmetry";
        run_pass(length, (pass_t){SUBJECT_HANDLES, batch,
                                  index == 1 ? CDEDUPE_CLAIM_LOOP : CDEDUPE_CLAIM_SINGLE_BATCH,
                                  index == 0, true, STEP, 0});
        check_test = "every_key_order";
        run_pass(shorter,
                 (pass_t){SUBJECT_HANDLES, batch, CDEDUPE_CLAIM_LOOP, index != 0, false, STEP, 0});
        check_test = "bytes";
        run_pass(shorter, (pass_t){SUBJECT_BYTES, batch, CDEDUPE_CLAIM_LOOP, false, true, STEP, 0});
        check_test = "put_back";
        run_pass(shorter + 1 > length ? length : shorter + 1,
                 (pass_t){index == 1 ? SUBJECT_BYTES : SUBJECT_HANDLES, batch, CDEDUPE_CLAIM_LOOP,
                          index == 0, true, PUT_BACK_ALL, 0});
        check_test = "stop_and_finish";
        run_pass(
            shorter + 1 > length ? length : shorter + 1,
            (pass_t){SUBJECT_HANDLES, batch, CDEDUPE_CLAIM_LOOP, false, true, FINISH_EMPTY, 0});
    }
}

/*
 * Two keys or six bytes of handles are few enough to be exceeded soon; a value of bytes weighs
 * eight.
 */
static const extras_t all_extras[] = {
    {"suppressing", true, 0, 0, false},
    {"one key", false, 1, 0, false},
    {"two keys", false, 2, 0, false},
    {"few bytes", false, 0, 6, false},
    {"merging", false, 0, 0, true},
    {"suppressing, two keys", true, 2, 0, false},
    {"merging, few bytes", false, 0, 6, true},
    {"suppressing, merging, two keys", true, 2, 0, true},
};

enum { EXTRAS = sizeof(all_extras) / sizeof(all_extras[0]) };

static void
run_extras(size_t length)
{
    static const size_t batch_sizes[] = {1, 2, 100};
    size_t index, batch;

    for (index = 0; index < EXTRAS; index++) {
        extras = all_extras[index];
        for (batch = 0; batch < 3; batch++) {
            check_test = "extras";
            run_pass(length, (pass_t){SUBJECT_HANDLES, batch_sizes[batch],
                                      batch == 1 ? CDEDUPE_CLAIM_LOOP : CDEDUPE_CLAIM_SINGLE_BATCH,
                                      batch == 0, true, PUT_BACK_ALL, 0});
        }
        if (!extras.merging) {
            check_test = "extras_of_bytes";
            extras.maximum_bytes *= 3;
            run_pass(length,
                     (pass_t){SUBJECT_BYTES, 2, CDEDUPE_CLAIM_LOOP, false, true, PUT_BACK_ALL, 0});
        }
    }
    check_test = "extras_and_the_end";
    for (index = 2; index < EXTRAS; index += 3) {
        extras = all_extras[index];
        run_pass(length, (pass_t){SUBJECT_HANDLES, 2, CDEDUPE_CLAIM_LOOP, index == 2, true,
                                  FINISH_EMPTY, 0});
    }
    extras = (extras_t){.name = NULL};
}

/* ---------------------------------------------------------------------------------------------- */
/* Random walks                                                                                   */

enum { WALK_KEYS = 60, WALK_CALL = 300 }; /* Longer than a lock is held for. */

static uint64_t random_state;

/* xorshift64*: all that is asked of it is to be the same everywhere. */
static uint64_t
random_below(uint64_t limit)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (random_state * UINT64_C(2685821657736338717) >> 33) % limit;
}

static char walk_keys[WALK_KEYS][80];
static uint64_t walk_seed;

static size_t
number_of_walk_key(const subject_item_t *item)
{
    return (size_t)strtoul(item->key, NULL, 10);
}

static void
describe_walk(FILE *out)
{
    fprintf(out, "  random walk with seed %" PRIu64 "%s%s\n", walk_seed,
            extras.name != NULL ? ", " : "", extras.name != NULL ? extras.name : "");
}

/* Where values are suppressed, of one of three revisions. */
static uint64_t
walk_id(uint64_t *id)
{
    uint64_t revision = random_below(3) + 1;

    ++*id;
    if (!extras.suppress) {
        return *id;
    }
    return pass.level == SUBJECT_BYTES ? revision : *id * 1000 + revision;
}

static void
walk_updates(model_t *model, uint64_t *id)
{
    subject_update_t updates[WALK_CALL];
    size_t numbers[WALK_CALL];
    size_t count = (size_t)random_below(random_below(30) == 0 ? WALK_CALL : 12) + 1;
    size_t keys = random_below(3) == 0 ? 5 : WALK_KEYS; /* Some keys are hot. */
    size_t index;

    for (index = 0; index < count; index++) {
        bool deletion = random_below(3) == 0;

        numbers[index] = (size_t)random_below(keys);
        updates[index] = (subject_update_t){walk_keys[numbers[index]],
                                            strlen(walk_keys[numbers[index]]),
                                            deletion,
                                            walk_id(id),
                                            CDEDUPE_OUTCOME_UNTOUCHED,
                                            0};
        if (deletion && random_below(2) == 0) {
            updates[index].id = 0;
        }
    }
    CHECK_EQ(subject_put(&subject, updates, count), CDEDUPE_OK);
    for (index = 0; index < count; index++) {
        uint64_t displaced;

        CHECK_EQ(updates[index].outcome, model_put(model, numbers[index], updates[index].deletion,
                                                   updates[index].id, &displaced));
        if (pass.level == SUBJECT_HANDLES && updates[index].outcome != CDEDUPE_OUTCOME_QUEUED) {
            CHECK_EQ(updates[index].displaced, displaced);
        }
    }
}

static void
walk_one_step(model_t *model, uint64_t *id)
{
    uint64_t choice = random_below(100);
    cdedupe_status_t status = (cdedupe_status_t)random_below(3);

    if (choice < 50) {
        walk_updates(model, id);
    } else if (choice < 70) {
        CHECK_EQ(subject_status(&subject, status), model_status(model, status));
    } else if (choice < 75) {
        CHECK_EQ(subject_restart(&subject), model_restart(model));
    } else if (choice < 80) {
        subject_collect(&subject, (size_t)random_below(20) + 1);
    } else if (choice < 85) {
        beside_put_back(&subject, model, (size_t)random_below(model->batch_count + 1));
    } else {
        beside_take(&subject, model, (size_t)random_below(pass.batch_size) + 1, number_of_walk_key);
    }
}

static void
walk(size_t steps)
{
    model_t model;
    uint64_t id = 0;
    size_t index;

    open_subject();
    open_model(&model);
    model_claim(&model, pass.claim);
    random_state = walk_seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (index = 0; index < steps; index++) {
        walk_one_step(&model, &id);
        beside_statistics(&subject, &model);
        if (index % 16 == 0) {
            CHECK_NO_FAULT(subject_validate(&subject));
        }
    }
    while (beside_take(&subject, &model, pass.batch_size, number_of_walk_key) == CDEDUPE_OK) {
    }
    CHECK_NO_FAULT(subject_validate(&subject));
    subject_close(&subject);
    model_close(&model);
}

static void
run_walks(uint64_t seed, size_t walks, size_t steps)
{
    static const size_t batch_sizes[] = {1, 7, 100};
    size_t number;

    for (number = 0; number < WALK_KEYS; number++) { /* Of different lengths, number first. */
        int padding = (int)(number * 11 % 70);

        snprintf(walk_keys[number], sizeof(walk_keys[number]), "%zu %.*s", number, padding,
                 "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz");
    }
    check_describe = describe_walk;
    check_test = "random_walks";
    for (walk_seed = seed; walk_seed < seed + walks; walk_seed++) {
        pass = (pass_t){walk_seed % 2 == 0 ? SUBJECT_HANDLES : SUBJECT_BYTES,
                        batch_sizes[walk_seed % 3],
                        CDEDUPE_CLAIM_SINGLE_BATCH,
                        false,
                        false,
                        PUT_BACK_ALL,
                        0};
        walk(steps);
    }
}

/* The same, with bounds that are exceeded now and then. */
static void
run_walks_with_extras(uint64_t seed, size_t walks, size_t steps)
{
    for (walk_seed = seed; walk_seed < seed + walks; walk_seed++) {
        extras = all_extras[walk_seed / 4 % EXTRAS];
        extras.maximum_keys *= 15;
        extras.maximum_bytes *= 20;
        pass = (pass_t){extras.merging || walk_seed % 2 == 0 ? SUBJECT_HANDLES : SUBJECT_BYTES,
                        walk_seed % 4 == 0 ? 7 : 100,
                        CDEDUPE_CLAIM_SINGLE_BATCH,
                        false,
                        false,
                        PUT_BACK_ALL,
                        0};
        walk(steps);
    }
    extras = (extras_t){.name = NULL};
}

int
main(int argc, char **argv)
{
    size_t length = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 6;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    size_t index;

    if (length < 1 || length > LENGTH_MAX) {
        fprintf(stderr, "usage: test_exhaustive [length 1 to %d] [seed]\n", LENGTH_MAX);
        return 2;
    }
#if !defined(__SANITIZE_ADDRESS__)
    hooks.recycle = true; /* But let the address sanitizer see every block freed. */
#endif
    for (index = 0; index <= LENGTH_MAX; index++) {
        model_open(&models[index]);
    }
    check_describe = describe;
    run_passes(length);
    run_extras(length > 1 ? length - 1 : 1);
    printf("%" PRIu64 " sequences\n", sequences);
    run_walks(seed, length >= 5 ? 60 : 12, 3000);
    run_walks_with_extras(seed, length >= 5 ? 90 : 18, 2000);
    for (index = 0; index <= LENGTH_MAX; index++) {
        model_close(&models[index]);
    }
    hooks_close(&hooks);
    return check_finish();
}
