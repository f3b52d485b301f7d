/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Failing allocations. For every n until no allocation is left to fail, first only the n-th
 * allocation fails, and then every one from the n-th on.
 *
 * One scenario makes every structure grow: hundreds of keys of 0 bytes to 64 KiB, statuses between
 * them, restarts, a sweep, takes and deletions. It runs beside the model. Therefore "nothing is
 * lost" means that everything goes on exactly as the contract says.
 *
 *     test_allocation [stride]    try every stride-th n; default 1
 */
#include <stdlib.h>

#include "check.h"
#include "hooks.h"
#include "model.h"
#include "subject.h"

enum { KEYS = 1200, CALL = 60, BATCH = 64, TRIES = 3 };

static subject_level_t level;
static hooks_t hooks;
static subject_t subject;
static model_t model;
static uint64_t next_id;
static bool
    a_status_failed; /* Whether a status that was not queued was received is a matter of taste. */

/* How often each call failed, over all runs: a test that never gets there tests nothing. */
static uint64_t failed_creates;
static uint64_t failed_puts;
static uint64_t failed_sweeps;

static char *keys[KEYS];
static size_t lengths[KEYS];

static void
describe(FILE *out)
{
    fprintf(out, "  %s level, allocation %" PRIu64 "%s fails\n",
            level == SUBJECT_BYTES ? "bytes" : "handle", hooks.fail_at,
            hooks.fail_onwards ? " and all after it" : "");
}

/* ---------------------------------------------------------------------------------------------- */
/* Keys                                                                                           */

static size_t
length_of(size_t number)
{
    if (number == 0) {
        return 0;
    }
    if (number % 100 == 50) {
        return CDEDUPE_KEY_MAX - number;
    }
    return number % 25 == 3 ? 1000 + number * 7 : 8 + number % 120;
}

static void
make_keys(void)
{
    size_t number;

    for (number = 0; number < KEYS; number++) {
        lengths[number] = length_of(number);
        keys[number] = malloc(lengths[number] + 16);
        memset(keys[number], 'k', lengths[number] + 16);
        if (lengths[number] > 0) {
            snprintf(keys[number], 8, "%zu", number);
        }
    }
}

static void
free_keys(void)
{
    size_t number;

    for (number = 0; number < KEYS; number++) {
        free(keys[number]);
    }
}

static size_t
number_of(const subject_item_t *item)
{
    size_t number = item->length == 0 ? 0 : (size_t)strtoul(item->key, NULL, 10);

    if (!CHECK(number < KEYS && item->length == lengths[number]) ||
        !CHECK(item->length == 0 || memcmp(item->key, keys[number], item->length) == 0)) {
        return KEYS;
    }
    return number;
}

/* ---------------------------------------------------------------------------------------------- */
/* Operations that may fail                                                                       */

static void
compare_statistics(void)
{
    cdedupe_statistics_t got = subject_statistics(&subject);
    cdedupe_statistics_t wanted = model.statistics;

    wanted.memory = hooks.held_bytes;
    wanted.pinned_keys = got.pinned_keys; /* The subject compares this one. */
    if (a_status_failed) {
        wanted.statuses_received = got.statuses_received;
    }
    CHECK(memcmp(&got, &wanted, sizeof(got)) == 0);
    CHECK_EQ(got.received, wanted.received);
    CHECK_EQ(got.pending_keys, wanted.pending_keys);
    CHECK_EQ(got.memory, wanted.memory);
}

/* A take needs no memory: it succeeds while there is none. */
static bool
take_one_batch(void)
{
    static size_t hints[BATCH];
    static model_item_t wanted[BATCH];
    cdedupe_result_t result = subject_take(&subject, BATCH);
    size_t count;
    size_t index;

    for (index = 0; index < subject.count; index++) {
        bool is_status = subject.items[index].kind == CDEDUPE_ITEM_STATUS;

        hints[index] = is_status ? MODEL_NO_KEY : number_of(&subject.items[index]);
    }
    CHECK_EQ(result, model_take(&model, BATCH, hints, subject.count, wanted, &count));
    CHECK_EQ(subject.count, count);
    for (index = 0; index < count && index < subject.count; index++) {
        CHECK_EQ(subject.items[index].kind, wanted[index].kind);
        CHECK_EQ(hints[index], wanted[index].key);
        CHECK_EQ(subject.items[index].id, wanted[index].id);
    }
    return result == CDEDUPE_OK;
}

/* What must hold after a failure. `tries` counts them; in the end there is memory again. */
static void
after_failure(unsigned *tries)
{
    CHECK(hooks.failures > 0);
    CHECK_NO_FAULT(subject_validate(&subject));
    ++*tries;
    if (*tries == TRIES) {
        hooks.fail_at = 0;
    }
    CHECK(*tries <= TRIES);
    CHECK(hooks.fail_onwards || *tries == 1); /* A single failure is over by now. */
    if (*tries > TRIES) {
        printf("no progress though there is memory\n");
        abort();
    }
}

/* The model learns of those updates that were done; returns how many were. */
static size_t
settle(const subject_update_t *updates, size_t count, const size_t *numbers,
       cdedupe_result_t result)
{
    uint64_t displaced;
    size_t done;

    for (done = 0; done < count; done++) {
        cdedupe_outcome_t outcome = updates[done].outcome;

        if (outcome == CDEDUPE_OUTCOME_REJECTED || outcome == CDEDUPE_OUTCOME_UNTOUCHED) {
            break;
        }
        CHECK_EQ(outcome, model_put(&model, numbers[done], updates[done].deletion, updates[done].id,
                                    &displaced));
        if (level == SUBJECT_HANDLES) {
            CHECK_EQ(updates[done].displaced, displaced);
        }
    }
    CHECK((done < count) == (result != CDEDUPE_OK));
    for (size_t rest = done + 1; rest < count; rest++) {
        CHECK_EQ(updates[rest].outcome, CDEDUPE_OUTCOME_UNTOUCHED);
    }
    return done;
}

static void
put_call(subject_update_t *updates, const size_t *numbers, size_t count)
{
    size_t done = 0;
    unsigned tries = 0;

    while (done < count) {
        cdedupe_result_t result = subject_put(&subject, updates + done, count - done);

        done += settle(updates + done, count - done, numbers + done, result);
        if (result != CDEDUPE_OK) {
            CHECK_EQ(result, CDEDUPE_NO_MEMORY);
            failed_puts++;
            compare_statistics();
            if (tries == 1) {
                take_one_batch(); /* Without memory. */
                compare_statistics();
            }
            after_failure(&tries);
        }
    }
}

/* Puts the keys from..to in steps, in calls of many. Every `every`-th is a deletion. */
static void
put_keys(size_t from, size_t to, size_t step_size, size_t every)
{
    subject_update_t updates[CALL];
    size_t numbers[CALL];
    size_t count = 0;
    size_t number;

    for (number = from; number < to; number += step_size) {
        bool deletion = every != 0 && number % every == 0;

        numbers[count] = number;
        updates[count] = (subject_update_t){
            keys[number], lengths[number], deletion, ++next_id, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0};
        if (deletion && number % 2 == 0) {
            updates[count].id = 0;
        }
        if (++count == CALL || number + step_size >= to) {
            put_call(updates, numbers, count);
            count = 0;
        }
    }
}

static void
put_status(cdedupe_status_t status)
{
    unsigned tries = 0;

    while (subject_status(&subject, status) != CDEDUPE_OK) {
        a_status_failed = true;
        after_failure(&tries);
    }
    model_status(&model, status);
    compare_statistics();
}

static void
restart(void)
{
    CHECK_EQ(subject_restart(&subject), model_restart(&model));
    compare_statistics();
}

static void
take_all(void)
{
    while (take_one_batch()) {
    }
    compare_statistics();
}

/* ---------------------------------------------------------------------------------------------- */
/* The scenario                                                                                   */

static void
open_subject(void)
{
    subject_options_t options = subject_defaults(level);
    cdedupe_result_t result;
    unsigned tries = 0;

    options.batch_size = BATCH;
    options.hooks = &hooks;
    options.hash_seed = 1; /* The same allocations each time. */
    options.long_values = true;
    while ((result = subject_open(&subject, &options)) != CDEDUPE_OK) {
        CHECK_EQ(result, CDEDUPE_NO_MEMORY);
        CHECK_EQ(hooks.held_blocks, 0);
        failed_creates++;
        if (++tries == TRIES) {
            hooks.fail_at = 0;
        }
        CHECK(tries <= TRIES);
    }
    subject.paranoid = false;
    model_open(&model);
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_SINGLE_BATCH),
             model_claim(&model, CDEDUPE_CLAIM_SINGLE_BATCH));
}

/*
 * Half of the keys become live one by one. That way few links are ever needed at once, and the
 * sweep has to get memory for the many that it queues.
 */
static void
make_some_live(void)
{
    size_t number;

    for (number = 0; number < KEYS / 2; number++) {
        put_keys(number, number + 1, 1, 0);
        take_one_batch();
    }
}

static void
scenario(void)
{
    make_some_live();
    restart();
    put_status(CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    put_keys(0, KEYS / 2, 5, 0);
    put_status(CDEDUPE_STATUS_IN_SYNC); /* Sweeps four fifths of the half. */
    put_keys(0, KEYS, 1, 0);
    put_status(CDEDUPE_STATUS_WAIT_FOR_DATASTORE);
    put_keys(0, KEYS, 3, 2);
    take_all();
    put_keys(0, KEYS, 1, 4);
    restart();
    put_keys(KEYS / 4, KEYS, 2, 3);
    subject_collect(&subject, 5);
    put_status(CDEDUPE_STATUS_IN_SYNC);
    take_all();
    put_keys(0, KEYS, 1, 1);
    take_all();
    CHECK_EQ(subject_statistics(&subject).live_keys, 0);
    put_keys(0, KEYS, 1, 0); /* Left for the end. */
    restart();
    put_keys(0, KEYS, 2, 0);
}

/* False when no allocation failed any more. */
static bool
run_scenario(uint64_t fail_at, bool onwards, void (*run)(void))
{
    bool failed;

    memset(&hooks, 0, sizeof(hooks));
    hooks.fail_at = fail_at;
    hooks.fail_onwards = onwards;
    next_id = 0;
    a_status_failed = false;
    open_subject();
    run();
    failed = hooks.failures > 0;
    hooks.fail_at = 0;
    CHECK_NO_FAULT(subject_validate(&subject));
    subject_close(&subject);
    model_close(&model);
    hooks_close(&hooks);
    return failed;
}

static void
fail_every(uint64_t stride, bool onwards, void (*run)(void))
{
    uint64_t n = 1;

    /* The first ones make the buffer itself; each is tried. */
    while (run_scenario(n, onwards, run)) {
        n += n < 20 ? 1 : stride;
    }
    printf("%s level: %" PRIu64 " allocations, %s\n", level == SUBJECT_BYTES ? "bytes" : "handle",
           n - 1, onwards ? "all from the n-th on failed" : "the n-th failed");
    CHECK(n > 5); /* Else the hooks are not used. */
}

/* ---------------------------------------------------------------------------------------------- */
/* A sweep that fails half-way, and what may come between it and its repetition                   */

enum { SWEEP_KEYS = 20000 };

static unsigned char deletions[SWEEP_KEYS];

static void
put_sweep_key(size_t number)
{
    char key[16];
    subject_update_t update = {key, 0, false, number + 1, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0};
    unsigned tries = 0;

    update.length = (size_t)snprintf(key, sizeof(key), "%zu", number);
    while (subject_put(&subject, &update, 1) != CDEDUPE_OK) {
        after_failure(&tries);
    }
}

static void
count_deletions(void)
{
    size_t index;

    while (subject_take(&subject, BATCH) == CDEDUPE_OK) {
        for (index = 0; index < subject.count; index++) {
            if (subject.items[index].kind == CDEDUPE_ITEM_DELETED) {
                deletions[strtoul(subject.items[index].key, NULL, 10) % SWEEP_KEYS]++;
            }
        }
    }
}

/*
 * The keys become live one by one: so few links are needed at once, and the sweep must get memory
 * for many.
 */
static void
make_sweep_keys_live(void)
{
    size_t number;

    memset(deletions, 0, sizeof(deletions));
    for (number = 0; number < SWEEP_KEYS; number++) {
        put_sweep_key(number);
        CHECK_EQ(subject_take(&subject, BATCH), CDEDUPE_OK);
    }
}

/*
 * Between the failed in-sync and the one that succeeds, the queue is emptied and a key is sent
 * again, whose deletion was delivered already or is now owed no more.
 */
static void
failed_sweep(void)
{
    unsigned tries = 0;
    bool sent_again = false;
    size_t number;

    make_sweep_keys_live();
    CHECK_EQ(subject_restart(&subject), CDEDUPE_OK);
    while (subject_status(&subject, CDEDUPE_STATUS_IN_SYNC) != CDEDUPE_OK) {
        failed_sweeps++;
        after_failure(&tries);
        if (!sent_again && tries == (hooks.fail_onwards ? 2U : 1U)) {
            count_deletions();
            hooks.fail_at = 0;
            put_sweep_key(SWEEP_KEYS - 1);
            sent_again = true;
            count_deletions();
        }
    }
    count_deletions();
    for (number = 0; number < SWEEP_KEYS - 1; number++) {
        CHECK_EQ(deletions[number], 1);
    }
    CHECK(deletions[number] == 1 || sent_again);
    CHECK_EQ(subject_statistics(&subject).live_keys, sent_again ? 1 : 0);
    CHECK_EQ(subject_statistics(&subject).pending_keys, 0);
    CHECK_EQ(subject_statistics(&subject).synthesized_deletions,
             SWEEP_KEYS - (sent_again && !deletions[number]));
}

/* ---------------------------------------------------------------------------------------------- */
/* Putting back                                                                                   */

/* What lacked memory is done again, until there is some. */
static void
insist(const char *key, bool deletion, uint64_t id)
{
    subject_update_t update = {key, strlen(key), deletion, id, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0};
    cdedupe_result_t result;

    while ((result = subject_put(&subject, &update, 1)) != CDEDUPE_OK) {
        CHECK_EQ(result, CDEDUPE_NO_MEMORY);
        if (hooks.failures > 3) {
            hooks.fail_at = 0;
        }
    }
}

static void
insist_on_putting_back(size_t count)
{
    uint64_t back[100];

    while (subject_put_back(&subject, count, back) == CDEDUPE_NO_MEMORY) {
        count = subject.left;
        hooks.fail_at = 0;
    }
}

/* Hundreds of keys, restarts, merging, putting back. */
static void
much_happens(void)
{
    char key[32];
    size_t delivered = 0;

    for (uint64_t i = 0; i < 300; i++) {
        snprintf(key, sizeof(key), "a key, and a long one, %d", (int)(i * 7 % 200));
        insist(key, i % 5 == 0, i % 10 == 0 ? 0 : i + 1);
        if (i % 90 == 40) {
            subject_restart(&subject);
        }
        if (i % 60 == 50) {
            CHECK_EQ(subject_take(&subject, 30), CDEDUPE_OK);
            insist_on_putting_back(20);
        }
        if (i % 100 == 70) {
            subject_collect(&subject, 7);
        }
    }
    while (subject_take(&subject, 100) == CDEDUPE_OK) {
        delivered += subject.count;
    }
    CHECK_EQ(subject_statistics(&subject).pending_keys, 0);
    CHECK(delivered > 0);
}

/* Without the model: the subject keeps book of every payload. */
static void
fail_while_putting_back(void)
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);
    uint64_t allocations = 0;
    bool failed = true;

    options.hooks = &hooks;
    options.suppress = true;
    options.hash_seed = 1;
    options.merging = true;
    for (uint64_t n = 1; failed; n++) {
        hooks.failures = 0;
        hooks.fail_at = hooks.allocations + n;
        hooks.fail_onwards = n % 2 == 0;
        if (subject_open(&subject, &options) == CDEDUPE_OK) {
            subject.keeps_batch = true;
            CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
            much_happens();
            subject_close(&subject);
        }
        failed = hooks.failures > 0;
        allocations = n;
        CHECK_EQ(hooks.held_blocks, 0);
    }
    CHECK(allocations > 20);
    hooks_close(&hooks);
}

/* ---------------------------------------------------------------------------------------------- */

int
main(int argc, char **argv)
{
    uint64_t stride = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;

    check_describe = describe;
    make_keys();
    for (level = SUBJECT_BYTES; level <= SUBJECT_HANDLES; level++) {
        check_test = "scenario";
        fail_every(stride, false, scenario);
        fail_every(stride, true, scenario);
        check_test = "failed_sweep";
        fail_every(stride, false, failed_sweep);
        fail_every(stride, true, failed_sweep);
    }
    printf("%" PRIu64 " creations, %" PRIu64 " puts and %" PRIu64 " sweeps failed\n",
           failed_creates, failed_puts, failed_sweeps);
    CHECK(failed_creates > 0 && failed_puts > 0);
    CHECK(failed_sweeps > 0 || stride > 5); /* Large strides step over them. */
    check_test = "fail_while_putting_back";
    level = SUBJECT_HANDLES;
    fail_while_putting_back();
    free_keys();
    return check_finish();
}
