/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every rule of the contract, in one test function each, which is named after the rule. Most run at
 * both levels.
 *
 *     test_rules [rounds]     rounds of the tests that look for growth; default 1000000
 */
#include <stdlib.h>

#include "check.h"
#include "hooks.h"
#include "subject.h"

static subject_level_t level;
static hooks_t hooks;
static subject_t subject;
static subject_t *const s = &subject;
static uint64_t rounds = 1000000;

/* A new buffer under test, not claimed. */
static void
open_with(size_t batch_size, uint64_t hash_seed)
{
    subject_options_t options = subject_defaults(level);

    memset(&hooks, 0, sizeof(hooks));
    options.batch_size = batch_size;
    options.hash_seed = hash_seed;
    options.hooks = &hooks;
    if (subject_open(s, &options) != CDEDUPE_OK) {
        printf("no buffer\n");
        abort();
    }
}

static void
open_unclaimed(size_t batch_size)
{
    open_with(batch_size, 0);
}

static void
open_seeded(uint64_t hash_seed)
{
    open_with(100, hash_seed);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
}

static void
open_batch(size_t batch_size)
{
    open_unclaimed(batch_size);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
}

static void
open_new(void)
{
    open_batch(100);
}

/* With a loop that takes. */
static void
open_loop(size_t batch_size)
{
    open_unclaimed(batch_size);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
}

static void
close_it(void)
{
    subject_close(s);
    hooks_close(&hooks);
}

static void
status(cdedupe_status_t value)
{
    CHECK_EQ(subject_status(s, value), CDEDUPE_OK);
}

static void
restart(void)
{
    CHECK_EQ(subject_restart(s), CDEDUPE_OK);
}

static void
wait_for_datastore(void)
{
    status(CDEDUPE_STATUS_WAIT_FOR_DATASTORE);
}

static void
resync(void)
{
    status(CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
}

static void
in_sync(void)
{
    status(CDEDUPE_STATUS_IN_SYNC);
}

static char name_text[32];

static const char *
name(uint64_t number)
{
    snprintf(name_text, sizeof(name_text), "k%" PRIu64, number);
    return name_text;
}

#define EXPECT_STEP(text) CHECK_TEXT(step(s), text)
#define EXPECT_FLUSH(text) CHECK_TEXT(flush(s), text)

/* ---------------------------------------------------------------------------------------------- */
/* Contract, section 2: updates                                                                   */

static void
value_not_pending_goes_to_the_back(void)
{
    open_new();
    CHECK_EQ(put(s, "b", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(s, "a", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(s, "c", 3), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("+b=1 +a=2 +c=3");
    CHECK_EQ(put(s, "a", 4), CDEDUPE_OUTCOME_QUEUED); /* Live by now, which makes no difference. */
    CHECK_EQ(put(s, "b", 5), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("~a=4 ~b=5");
    EXPECT_STEP("empty");
    close_it();
}

static void
value_replaces_pending_value_in_its_place(void)
{
    open_new();
    put(s, "a", 1);
    put(s, "b", 2);
    CHECK_EQ(put(s, "a", 3), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put(s, "a", 4), CDEDUPE_OUTCOME_REPLACED);
    EXPECT_STEP("+a=4 +b=2");
    put(s, "b", 5);
    put(s, "a", 6);
    CHECK_EQ(put(s, "b", 7), CDEDUPE_OUTCOME_REPLACED);
    EXPECT_STEP("~b=7 ~a=6");
    close_it();
}

static void
value_replaces_pending_deletion_in_its_place(void)
{
    open_new();
    del(s, "ghost");
    put(s, "b", 1);
    CHECK_EQ(put(s, "ghost", 2), CDEDUPE_OUTCOME_REPLACED);
    EXPECT_STEP("+ghost=2 +b=1");
    CHECK_EQ(del(s, "b"), CDEDUPE_OUTCOME_QUEUED);
    put(s, "c", 3);
    CHECK_EQ(put(s, "b", 4), CDEDUPE_OUTCOME_REPLACED);
    EXPECT_STEP("~b=4 +c=3"); /* Its deletion was never taken: still live, so updated. */
    close_it();
}

static void
deletion_not_pending_goes_to_the_back(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    put(s, "b", 2);
    CHECK_EQ(del_id(s, "a", 3), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("+b=2 -a=3");
    close_it();
}

static void
deletion_of_unknown_key_is_passed_on(void)
{
    open_new();
    CHECK_EQ(del_id(s, "ghost", 1), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("-ghost=1");
    CHECK_EQ(del(s, "ghost"),
             CDEDUPE_OUTCOME_QUEUED); /* And again, once it is not pending any more. */
    EXPECT_STEP("-ghost");
    EXPECT_STEP("empty");
    close_it();
}

static void
deletion_replaces_pending_value_of_live_key_in_its_place(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    put(s, "a", 2);
    put(s, "b", 3);
    CHECK_EQ(del_id(s, "a", 4), CDEDUPE_OUTCOME_REPLACED);
    EXPECT_STEP("-a=4 +b=3");
    close_it();
}

static void
deletion_cancels_pending_value_of_key_not_live(void)
{
    open_new();
    put(s, "a", 1);
    put(s, "b", 2);
    CHECK_EQ(del_id(s, "a", 3), CDEDUPE_OUTCOME_CANCELLED);
    EXPECT_STEP("+b=2");
    EXPECT_STEP("empty");
    close_it();
}

static void
cancelled_key_added_again_goes_to_the_back(void)
{
    open_new();
    put(s, "a", 1);
    put(s, "b", 2);
    CHECK_EQ(del(s, "a"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(put(s, "a", 3), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("+b=2 +a=3");
    close_it();
}

static void
deletions_of_one_key_stay_one_in_its_place(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    CHECK_EQ(del_id(s, "a", 2), CDEDUPE_OUTCOME_QUEUED);
    put(s, "b", 3);
    CHECK_EQ(del_id(s, "a", 4), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(del_id(s, "a", 5), CDEDUPE_OUTCOME_REPLACED);
    EXPECT_STEP("-a=5 +b=3"); /* The newest one's own revision. */
    close_it();
}

/*
 * A pending deletion of a key that is not live gives way to a value; the value's deletion then
 * cancels it.
 */
static void
deletion_value_deletion_of_unknown_key_leaves_nothing(void)
{
    open_new();
    CHECK_EQ(del(s, "ghost"), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(s, "ghost", 1), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(del(s, "ghost"), CDEDUPE_OUTCOME_CANCELLED);
    EXPECT_STEP("empty");
    CHECK_EQ(subject_statistics(s).replaced, 1);
    CHECK_EQ(subject_statistics(s).cancelled, 2);
    close_it();
}

static void
type_is_new_until_taken_then_updated_then_new_again(void)
{
    open_new();
    put(s, "a", 1);
    put(s, "a", 2);
    EXPECT_STEP("+a=2");
    put(s, "a", 3);
    EXPECT_STEP("~a=3");
    put(s, "a", 4);
    EXPECT_STEP("~a=4");
    del(s, "a");
    EXPECT_STEP("-a");
    put(s, "a", 5);
    EXPECT_STEP("+a=5");
    close_it();
}

/* cilium's fault: re-created while the deletion was with the sink. */
static void
recreated_after_its_deletion_was_taken_is_new(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    del(s, "a");
    EXPECT_STEP("-a"); /* Taken: committed, though the sink may be at it still. */
    CHECK_EQ(put(s, "a", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(del(s, "a"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(put(s, "a", 3), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("+a=3");
    close_it();
}

/* openshift's fault: the key was queued twice. */
static void
deleted_then_added_is_queued_once(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    del(s, "a");
    put(s, "a", 2);
    EXPECT_FLUSH("~a=2");
    close_it();
}

/* Flink's fault: values and deletions of a batch came as two groups. */
static void
order_inside_a_batch_is_the_queue_s(void)
{
    open_new();
    put(s, "a", 1);
    put(s, "c", 2);
    EXPECT_STEP("+a=1 +c=2");
    put(s, "b", 3);
    del(s, "c");
    put(s, "d", 4);
    del(s, "a");
    put(s, "e", 5);
    EXPECT_STEP("+b=3 -c +d=4 -a +e=5");
    close_it();
}

static void
updates_of_one_call_are_put_in_order(void)
{
    subject_update_t updates[] = {
        {"a", 1, false, 1, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"b", 1, false, 2, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"a", 1, false, 3, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"b", 1, true, 4, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"b", 1, false, 5, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"c", 1, true, 0, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"c", 1, true, 6, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"a", 1, false, 7, CDEDUPE_OUTCOME_UNTOUCHED, 0},
    };
    static const cdedupe_outcome_t outcomes[] = {
        CDEDUPE_OUTCOME_QUEUED,    CDEDUPE_OUTCOME_QUEUED,   CDEDUPE_OUTCOME_REPLACED,
        CDEDUPE_OUTCOME_CANCELLED, CDEDUPE_OUTCOME_QUEUED,   CDEDUPE_OUTCOME_QUEUED,
        CDEDUPE_OUTCOME_REPLACED,  CDEDUPE_OUTCOME_REPLACED,
    };
    size_t index;

    open_new();
    CHECK_EQ(subject_put(s, updates, 8), CDEDUPE_OK);
    for (index = 0; index < 8; index++) {
        CHECK_EQ(updates[index].outcome, outcomes[index]);
    }
    EXPECT_STEP("+a=7 +b=5 -c=6");
    close_it();
}

/*
 * The call is longer than a lock is held for, and its keys come again and again: of each key, the
 * last update is delivered, in the place of its first.
 */
static void
a_long_call_keeps_its_order(void)
{
    enum { COUNT = 1000, DIFFERENT = 333 };
    static subject_update_t updates[COUNT];
    static char keys[COUNT][8];
    size_t index;

    open_batch(COUNT);
    for (index = 0; index < COUNT; index++) {
        updates[index] =
            (subject_update_t){keys[index], 0, false, index + 1, CDEDUPE_OUTCOME_UNTOUCHED, 0};
        updates[index].length =
            (size_t)snprintf(keys[index], sizeof(keys[index]), "%zu", index % DIFFERENT);
    }
    CHECK_EQ(subject_put(s, updates, COUNT), CDEDUPE_OK);
    for (index = 0; index < COUNT; index++) {
        CHECK_EQ(updates[index].outcome,
                 index < DIFFERENT ? CDEDUPE_OUTCOME_QUEUED : CDEDUPE_OUTCOME_REPLACED);
    }
    CHECK_EQ(subject_take(s, COUNT), CDEDUPE_OK);
    CHECK_EQ(s->count, DIFFERENT);
    for (index = 0; index < s->count; index++) {
        size_t last = index + DIFFERENT * ((COUNT - 1 - index) / DIFFERENT);

        CHECK_EQ(strtoul(s->items[index].key, NULL, 10), index);
        CHECK_EQ(s->items[index].id, last + 1);
    }
    close_it();
}

static void
an_empty_call_is_a_no_op(void)
{
    subject_update_t none = {"", 0, false, 0, CDEDUPE_OUTCOME_UNTOUCHED, 0};

    open_loop(100);
    EXPECT_STEP("empty");
    CHECK_EQ(subject_put(s, &none, 0), CDEDUPE_OK);
    EXPECT_STEP("empty");
    CHECK_EQ(s->wakes, 0);
    CHECK_EQ(subject_statistics(s).received, 0);
    close_it();
}

static void
every_update_ends_in_exactly_one_way(void)
{
    cdedupe_statistics_t got;

    open_new();
    put(s, "a", 1);
    put(s, "b", 2);
    put(s, "a", 3); /* replaced 1 */
    put(s, "c", 4);
    del(s, "c");              /* cancelled 2 */
    EXPECT_STEP("+a=3 +b=2"); /* delivered 2 */
    put(s, "d", 5);
    restart(); /* dropped 1 */
    put(s, "a", 6);
    in_sync(); /* synthesized 1: b */
    got = subject_statistics(s);
    CHECK_EQ(got.received, 7);
    CHECK_EQ(got.synthesized_deletions, 1);
    CHECK_EQ(got.delivered, 2);
    CHECK_EQ(got.replaced, 1);
    CHECK_EQ(got.cancelled, 2);
    CHECK_EQ(got.dropped, 1);
    CHECK_EQ(got.pending_keys, 2);
    CHECK_EQ(got.pending_statuses, 1);
    CHECK_EQ(got.live_keys, 2);
    CHECK_EQ(got.peak_pending_keys, 3);
    CHECK_EQ(got.statuses_received, 1);
    CHECK_EQ(got.batches, 1);
    subject_stop(s);
    CHECK_EQ(put(s, "z", 7), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(subject_statistics(s).dropped, 2);
    CHECK_EQ(subject_statistics(s).received, 8);
    close_it();
}

static void
empty_takes_are_no_batches(void)
{
    open_new();
    EXPECT_STEP("empty");
    CHECK_EQ(subject_statistics(s).batches, 0);
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    EXPECT_STEP("empty");
    CHECK_EQ(subject_statistics(s).batches, 1);
    CHECK_EQ(subject_statistics(s).statuses_delivered, 0);
    close_it();
}

static void
statistics_of_an_older_caller_are_cut(void)
{
    cdedupe_statistics_t statistics;

    open_new();
    put(s, "a", 1);
    memset(&statistics, 0xee, sizeof(statistics));
    if (s->bytes != NULL) {
        cdedupe_bytes_statistics(s->bytes, &statistics, offsetof(cdedupe_statistics_t, memory));
    } else {
        cdedupe_statistics(s->core, &statistics, offsetof(cdedupe_statistics_t, memory));
    }
    CHECK_EQ(statistics.pending_keys, 1);
    CHECK_EQ(statistics.memory, UINT64_C(0xeeeeeeeeeeeeeeee));
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Keys                                                                                           */

static cdedupe_outcome_t
put_key(const void *key, size_t length, uint64_t id)
{
    subject_update_t update = {key, length, false, id, CDEDUPE_OUTCOME_UNTOUCHED, 0};

    CHECK_EQ(subject_put(s, &update, 1), CDEDUPE_OK);
    return update.outcome;
}

static void
a_key_may_be_empty(void)
{
    open_new();
    CHECK_EQ(put(s, "", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_key(NULL, 0, 2), CDEDUPE_OUTCOME_REPLACED);
    EXPECT_STEP("+=2");
    CHECK_EQ(del(s, ""), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("-");
    CHECK_EQ(s->items[0].length, 0);
    close_it();
}

static void
keys_may_contain_nul(void)
{
    open_new();
    CHECK_EQ(put_key("a", 1, 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_key("a\0", 2, 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_key("a\0b", 3, 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_key("a\0c", 3, 4), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_key("\0", 1, 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_key("a\0b", 3, 6), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(subject_take(s, 100), CDEDUPE_OK);
    CHECK_EQ(s->count, 5);
    CHECK_EQ(s->items[2].length, 3);
    CHECK(memcmp(s->items[2].key, "a\0b", 3) == 0);
    CHECK_EQ(s->items[2].id, 6);
    close_it();
}

static void
keys_that_differ_in_one_bit_are_two(void)
{
    unsigned char key[48];
    size_t bit;

    open_batch(1000);
    s->paranoid = false;
    memset(key, 'x', sizeof(key));
    for (bit = 0; bit < sizeof(key) * 8; bit++) {
        key[bit / 8] = (unsigned char)(key[bit / 8] ^ 1U << bit % 8);
        CHECK_EQ(put_key(key, sizeof(key), bit + 1), CDEDUPE_OUTCOME_QUEUED);
        key[bit / 8] = 'x';
    }
    CHECK_EQ(put_key(key, sizeof(key), bit + 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(subject_take(s, 1000), CDEDUPE_OK);
    CHECK_EQ(s->count, sizeof(key) * 8 + 1);
    subject_check(s);
    close_it();
}

/* "", "a", "aa", ...: each is the beginning of all after it. */
static void
keys_that_begin_alike_are_different(void)
{
    char key[600];
    size_t length;

    open_batch(1000);
    s->paranoid = false;
    memset(key, 'a', sizeof(key));
    for (length = 0; length <= sizeof(key); length++) {
        CHECK_EQ(put_key(key, length, length + 1), CDEDUPE_OUTCOME_QUEUED);
    }
    for (length = 0; length <= sizeof(key); length++) {
        CHECK_EQ(put_key(key, length, length + 2), CDEDUPE_OUTCOME_REPLACED);
    }
    CHECK_EQ(subject_take(s, 1000), CDEDUPE_OK);
    CHECK_EQ(s->count, sizeof(key) + 1);
    for (length = 0; length < s->count; length++) {
        CHECK_EQ(s->items[length].length, length);
        CHECK_EQ(s->items[length].id, length + 2);
    }
    subject_check(s);
    close_it();
}

static void
the_longest_keys_are_told_apart(void)
{
    char *key = malloc(CDEDUPE_KEY_MAX);
    size_t round;

    open_new();
    memset(key, 'k', CDEDUPE_KEY_MAX);
    for (round = 0; round < 3; round++) {
        key[CDEDUPE_KEY_MAX - 1] = 'k';
        CHECK_EQ(put_key(key, CDEDUPE_KEY_MAX, 1), CDEDUPE_OUTCOME_QUEUED);
        key[CDEDUPE_KEY_MAX - 1] = 'l';
        CHECK_EQ(put_key(key, CDEDUPE_KEY_MAX, 2), CDEDUPE_OUTCOME_QUEUED);
        CHECK_EQ(put_key(key, CDEDUPE_KEY_MAX - 1, 3), CDEDUPE_OUTCOME_QUEUED);
        CHECK_EQ(subject_take(s, 100), CDEDUPE_OK);
        CHECK_EQ(s->count, 3);
        CHECK_EQ(s->items[1].length, CDEDUPE_KEY_MAX);
        CHECK(memcmp(s->items[1].key, key, CDEDUPE_KEY_MAX) == 0);
        CHECK_EQ(s->items[1].kind, round == 0 ? CDEDUPE_ITEM_NEW : CDEDUPE_ITEM_UPDATED);
    }
    close_it();
    free(key);
}

static void
a_key_too_long_is_rejected_and_nothing_is_lost(void)
{
    char *key = calloc(1, CDEDUPE_KEY_MAX + 1);
    subject_update_t updates[] = {
        {"a", 1, false, 1, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"b", 1, false, 2, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {key, CDEDUPE_KEY_MAX + 1, false, 3, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"a", 1, false, 4, CDEDUPE_OUTCOME_UNTOUCHED, 0},
        {"c", 1, true, 5, CDEDUPE_OUTCOME_UNTOUCHED, 0},
    };

    open_new();
    CHECK_EQ(subject_put(s, updates, 5), CDEDUPE_KEY_TOO_LONG);
    CHECK_EQ(updates[0].outcome, CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(updates[1].outcome, CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(updates[2].outcome, CDEDUPE_OUTCOME_REJECTED);
    CHECK_EQ(updates[3].outcome, CDEDUPE_OUTCOME_UNTOUCHED);
    CHECK_EQ(updates[4].outcome, CDEDUPE_OUTCOME_UNTOUCHED);
    CHECK_EQ(subject_statistics(s).received, 2);
    CHECK_EQ(subject_put(s, &updates[2], 1), CDEDUPE_KEY_TOO_LONG);
    CHECK_EQ(subject_put(s, &updates[3], 2), CDEDUPE_OK); /* Repeated from behind it. */
    EXPECT_STEP("+a=4 +b=2 -c=5");
    close_it();
    free(key);
}

static void
a_huge_length_is_rejected_without_being_read(void)
{
    subject_update_t update = {"a", SIZE_MAX, true, 0, CDEDUPE_OUTCOME_UNTOUCHED, 0};

    open_new();
    CHECK_EQ(subject_put(s, &update, 1), CDEDUPE_KEY_TOO_LONG);
    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_REJECTED);
    EXPECT_STEP("empty");
    close_it();
}

static void
keys_are_copied(void)
{
    char key[] = "abc";

    open_new();
    put(s, key, 1);
    key[0] = 'X';
    put(s, "abc", 2);
    EXPECT_STEP("+abc=2");
    close_it();
}

/* Whatever happens to the keys of a batch, their bytes stay for the sink until it takes again. */
static void
keys_are_lent_until_the_next_take(void)
{
    uint64_t number;

    open_batch(3);
    put(s, "key-a", 1);
    EXPECT_STEP("+key-a=1");
    del(s, "key-a");
    put(s, "key-b", 2);
    put(s, "key-c", 3);
    CHECK_EQ(subject_take(s, 3), CDEDUPE_OK);
    restart();
    for (number = 0; number < 3000;
         number++) { /* Memory of the deleted key would be used again by now. */
        put(s, name(number), 1);
        del(s, name(number));
        if (number == 10) {
            s->paranoid = false;
        }
    }
    CHECK_EQ(del(s, "key-b"), CDEDUPE_OUTCOME_QUEUED);
    in_sync();
    CHECK_EQ(s->count, 3);
    CHECK(s->items[0].length == 5 && memcmp(s->items[0].key, "key-a", 5) == 0);
    CHECK(s->items[1].length == 5 && memcmp(s->items[1].key, "key-b", 5) == 0);
    CHECK(s->items[2].length == 5 && memcmp(s->items[2].key, "key-c", 5) == 0);
    close_it();
}

static void
a_seed_of_choice_works_as_well(void)
{
    subject_options_t options = subject_defaults(level);
    uint64_t seed;

    for (seed = 1; seed < 5; seed++) {
        options.hash_seed = seed == 4 ? UINT64_MAX : seed;
        CHECK_EQ(subject_open(s, &options), CDEDUPE_OK);
        CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
        put(s, "a", 1);
        put(s, "b", 2);
        put(s, "a", 3);
        EXPECT_FLUSH("+a=3 +b=2");
        subject_close(s);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Contract, section 3: statuses                                                                  */

static void
wait_for_datastore_counts_as_received_at_first(void)
{
    open_new();
    wait_for_datastore();
    EXPECT_STEP("empty");
    resync();
    EXPECT_STEP("<resync>");
    wait_for_datastore();
    EXPECT_STEP("<wait>");
    close_it();
}

static void
a_status_equal_to_the_latest_received_is_dropped(void)
{
    open_new();
    resync();
    put(s, "a", 1);
    resync();
    EXPECT_STEP("<resync> | +a=1");
    resync(); /* Delivered by now, and still the latest received. */
    EXPECT_STEP("empty");
    close_it();
}

static void
a_status_overwrites_one_that_is_last(void)
{
    open_new();
    put(s, "a", 1);
    resync();
    in_sync();
    EXPECT_STEP("+a=1 | <in-sync>");
    CHECK_EQ(subject_statistics(s).statuses_received, 2);
    CHECK_EQ(subject_statistics(s).statuses_delivered, 1);
    close_it();
}

static void
a_status_goes_behind_updates(void)
{
    open_new();
    resync();
    put(s, "a", 1);
    in_sync();
    put(s, "b", 2);
    wait_for_datastore();
    EXPECT_STEP("<resync> | +a=1 | <in-sync> | +b=2 | <wait>");
    close_it();
}

static void
a_status_may_equal_one_already_delivered(void)
{
    open_new();
    in_sync();
    EXPECT_STEP("<in-sync>");
    resync();
    in_sync();
    EXPECT_STEP("<in-sync>");
    close_it();
}

static void
a_status_is_a_barrier_and_replacing_overtakes_it(void)
{
    open_new();
    put(s, "a", 1);
    in_sync();
    put(s, "b", 2);
    put(s, "a", 3); /* In the place of a=1, before the status. */
    EXPECT_STEP("+a=3 | <in-sync> | +b=2");
    close_it();
}

static void
statuses_that_become_neighbours_are_merged(void)
{
    open_new();
    resync();
    put(s, "a", 1);
    put(s, "b", 2);
    in_sync();
    CHECK_EQ(subject_statistics(s).pending_statuses, 2);
    del(s, "a");
    CHECK_EQ(subject_statistics(s).pending_statuses, 2);
    del(s, "b");
    CHECK_EQ(subject_statistics(s).pending_statuses, 1);
    EXPECT_FLUSH("<in-sync>");
    close_it();
}

static void
a_status_that_became_last_is_overwritten(void)
{
    open_new();
    resync();
    put(s, "a", 1);
    del(s, "a");
    in_sync();
    EXPECT_FLUSH("<in-sync>");
    close_it();
}

static void
merging_in_the_middle_keeps_the_rest(void)
{
    open_new();
    put(s, "a", 1);
    resync();
    put(s, "b", 2);
    in_sync();
    put(s, "c", 3);
    wait_for_datastore();
    del(s, "b");
    EXPECT_STEP("+a=1 | <in-sync> | +c=3 | <wait>");
    close_it();
}

static void
an_overwritten_status_may_come_back_to_what_was_delivered(void)
{
    open_new();
    resync();
    EXPECT_STEP("<resync>");
    in_sync();
    resync();
    EXPECT_STEP("<resync>");
    EXPECT_STEP("empty");
    close_it();
}

static void
a_status_out_of_range_is_refused(void)
{
    open_new();
    /*
     * The value comes from memory, as from a caller in another language, so that no compiler knows
     * it.
     */
    volatile unsigned bad = 3;
    CHECK_EQ(subject_status(s, (cdedupe_status_t)bad), CDEDUPE_INVALID_ARGUMENT);
    bad = 255;
    CHECK_EQ(subject_status(s, (cdedupe_status_t)bad), CDEDUPE_INVALID_ARGUMENT);
    EXPECT_STEP("empty");
    CHECK_EQ(subject_statistics(s).statuses_received, 0);
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Contract, section 4: delivery                                                                  */

static void
put_numbers(uint64_t from, uint64_t to)
{
    for (; from < to; from++) {
        put(s, name(from), from + 1);
    }
}

static void
statuses_count_in_a_batch(void)
{
    open_new();
    s->paranoid = false;
    resync();
    put_numbers(0, 250);
    in_sync();
    CHECK_EQ(subject_take(s, 100), CDEDUPE_OK);
    CHECK_EQ(s->count, 100);
    CHECK_EQ(s->items[0].kind, CDEDUPE_ITEM_STATUS);
    CHECK_EQ(s->items[99].id, 99);
    CHECK_EQ(subject_take(s, 100), CDEDUPE_OK);
    CHECK_EQ(s->count, 100);
    CHECK_EQ(s->items[99].id, 199);
    CHECK_EQ(subject_take(s, 100), CDEDUPE_OK);
    CHECK_EQ(s->count, 52);
    CHECK_EQ(s->items[50].id, 250);
    CHECK_EQ(s->items[51].status, CDEDUPE_STATUS_IN_SYNC);
    EXPECT_STEP("empty");
    close_it();
}

static void
batches_of_any_size(void)
{
    static const size_t sizes[] = {
        1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 99, 1000, CDEDUPE_BATCH_MAX};
    size_t index;
    uint64_t next;

    for (index = 0; index < sizeof(sizes) / sizeof(sizes[0]); index++) {
        open_batch(sizes[index]);
        s->paranoid = false;
        put_numbers(0, 300);
        for (next = 0; next < 300;) {
            CHECK_EQ(subject_take(s, sizes[index]), CDEDUPE_OK);
            CHECK_EQ(s->count, 300 - next < sizes[index] ? 300 - next : sizes[index]);
            CHECK_EQ(s->items[0].id, next + 1);
            next += s->count > 0 ? s->count : 300;
        }
        subject_check(s);
        close_it();
    }
}

static void
a_take_fills_no_more_than_its_capacity(void)
{
    open_new();
    put_numbers(0, 10);
    CHECK_EQ(subject_take(s, 1), CDEDUPE_OK);
    CHECK_EQ(s->count, 1);
    CHECK_EQ(subject_take(s, 4), CDEDUPE_OK);
    CHECK_EQ(s->count, 4);
    CHECK_EQ(subject_take(s, 100), CDEDUPE_OK);
    CHECK_EQ(s->count, 5);
    close_it();
}

/* Capacity beyond the batch size is fine, but does not make batches larger. */
static void
a_take_hands_over_at_most_a_batch(void)
{
    cdedupe_bytes_item_t bytes_items[20];
    cdedupe_item_t items[20];
    size_t count = 0;
    size_t index;

    open_batch(5);
    put_numbers(0, 12);
    if (s->bytes != NULL) {
        CHECK_EQ(cdedupe_bytes_take(s->bytes, bytes_items, 20, &count), CDEDUPE_OK);
    } else {
        CHECK_EQ(cdedupe_take(s->core, items, 20, &count), CDEDUPE_OK);
    }
    CHECK_EQ(count, 5);
    EXPECT_STEP("+k5=6 +k6=7 +k7=8 +k8=9 +k9=10");
    EXPECT_STEP("+k10=11 +k11=12");
    for (index = 0; s->core != NULL && index < count; index++) {
        cdedupe_discard(s->core, &items[index].slot, 1);
        s->payloads.living--; /* Taken behind the book's back. */
    }
    close_it();
}

static void
a_take_without_room_is_refused(void)
{
    open_new();
    put(s, "a", 1);
    CHECK_EQ(subject_take(s, 0), CDEDUPE_INVALID_ARGUMENT);
    EXPECT_STEP("+a=1");
    close_it();
}

static void
there_is_one_claim(void)
{
    open_unclaimed(100);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_BUSY);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_LOOP), CDEDUPE_BUSY);
    subject_release(s);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_LOOP), CDEDUPE_BUSY);
    subject_release(s);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    subject_release(s);
    close_it();
}

static void
a_take_needs_the_claim(void)
{
    open_unclaimed(100);
    put(s, "a", 1);
    CHECK_EQ(subject_take(s, 100), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    EXPECT_STEP("+a=1");
    subject_release(s);
    CHECK_EQ(subject_take(s, 100), CDEDUPE_INVALID_ARGUMENT);
    close_it();
}

static void
a_claim_after_stop_is_refused(void)
{
    open_unclaimed(100);
    subject_stop(s);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_STOPPED);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_LOOP), CDEDUPE_STOPPED);
    close_it();
}

/*
 * Geode's and conflation's fault: replacing moved a key to the back, and a hot one starved, or the
 * others.
 */
static void
a_hot_key_starves_nobody_nor_itself(void)
{
    uint64_t round;
    size_t index;
    uint64_t last_seen[100] = {0};

    open_batch(10);
    s->paranoid = false;
    put_numbers(0, 100);
    for (round = 1; round <= 1000; round++) {
        put(s, "k0", round + 1000); /* Hot. */
        CHECK_EQ(subject_take(s, 10), CDEDUPE_OK);
        for (index = 0; index < s->count; index++) {
            uint64_t number = strtoull(s->items[index].key + 1, NULL, 10);

            CHECK(round - last_seen[number] <=
                  12); /* Ten batches hold all, one more for rounding. */
            last_seen[number] = round;
        }
        for (index = 1; index < 100; index++) {
            put(s, name(index), round); /* All want in again at once. */
        }
    }
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Stop                                                                                           */

static void
stop_leaves_what_is_pending(void)
{
    open_new();
    put(s, "a", 1);
    put(s, "b", 2);
    resync();
    subject_stop(s);
    EXPECT_STEP("stopped");
    EXPECT_STEP("stopped");
    CHECK_EQ(subject_statistics(s).pending_keys, 2);
    CHECK_EQ(subject_statistics(s).delivered, 0);
    close_it(); /* Gets both payloads back as leftovers. */
}

static void
stop_can_be_repeated(void)
{
    open_loop(100);
    EXPECT_STEP("empty");
    subject_stop(s);
    subject_stop(s);
    subject_stop(s);
    CHECK_EQ(s->wakes, 1);
    EXPECT_STEP("stopped");
    subject_release(s);
    subject_stop(s);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_LOOP), CDEDUPE_STOPPED);
    close_it();
}

static void
input_after_stop_is_counted_as_dropped(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    put(s, "a", 2);
    subject_stop(s);
    CHECK_EQ(put(s, "a", 3), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(put(s, "b", 4), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(del_id(s, "a", 5), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(del(s, "z"), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(subject_statistics(s).received, 6);
    CHECK_EQ(subject_statistics(s).dropped, 4);
    CHECK_EQ(subject_statistics(s).pending_keys, 1);
    close_it();
}

static void
statuses_and_restarts_after_stop_are_ignored(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    put(s, "b", 2);
    subject_stop(s);
    CHECK_EQ(subject_status(s, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_STOPPED);
    CHECK_EQ(subject_restart(s), CDEDUPE_STOPPED);
    CHECK_EQ(subject_statistics(s).synthesized_deletions, 0);
    CHECK_EQ(subject_statistics(s).pending_keys, 1);
    CHECK_EQ(subject_statistics(s).pending_statuses, 0);
    close_it();
}

static void
a_batch_taken_before_stop_is_whole(void)
{
    open_batch(2);
    put(s, "a", 1);
    put(s, "b", 2);
    put(s, "c", 3);
    EXPECT_STEP("+a=1 +b=2");
    subject_stop(s); /* As from inside the sink. */
    CHECK(s->count == 2 && memcmp(s->items[1].key, "b", 1) == 0);
    EXPECT_STEP("stopped");
    close_it();
}

static void
garbage_survives_stop_and_is_handed_out(void)
{
    open_new();
    put(s, "a", 1);
    put(s, "b", 2);
    restart();
    put(s, "b", 3);
    subject_stop(s);
    subject_collect(s, 1);
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Finish                                                                                         */

static void
finish_without_a_loop_stops_at_once(void)
{
    open_unclaimed(100);
    put(s, "a", 1);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_STOPPED);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_LOOP), CDEDUPE_STOPPED);
    CHECK_EQ(put(s, "b", 2), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_EMPTY), CDEDUPE_STOPPED);
    close_it();
}

static void
finish_does_not_wait_for_a_claim_by_hand(void)
{
    open_new();
    put(s, "a", 1);
    subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED);
    EXPECT_STEP("stopped");
    CHECK_EQ(subject_statistics(s).pending_keys, 1);
    close_it();
}

static void
finish_after_a_loop_was_released_stops_at_once(void)
{
    open_loop(100);
    put(s, "a", 1);
    subject_release(s);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_EMPTY), CDEDUPE_STOPPED);
    CHECK_EQ(put(s, "b", 1), CDEDUPE_OUTCOME_DROPPED);
    close_it();
}

static void
finish_delivers_what_was_queued_and_no_more(void)
{
    open_loop(100);
    put(s, "a", 1);
    put(s, "b", 2);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    CHECK_EQ(put(s, "c", 3), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(subject_status(s, CDEDUPE_STATUS_RESYNC_IN_PROGRESS), CDEDUPE_STOPPED);
    EXPECT_STEP("+a=1 +b=2");
    EXPECT_STEP("stopped");
    CHECK_EQ(subject_statistics(s).pending_keys, 0);
    CHECK_EQ(subject_statistics(s).dropped, 1);
    close_it();
}

static void
finish_ends_where_it_must_in_small_batches(void)
{
    open_loop(2);
    put_numbers(0, 5);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    put_numbers(5, 8);
    EXPECT_STEP("+k0=1 +k1=2");
    EXPECT_STEP("+k2=3 +k3=4");
    EXPECT_STEP("+k4=5");
    EXPECT_STEP("stopped");
    close_it();
}

static void
finish_delivers_a_status_that_was_last(void)
{
    open_loop(100);
    put(s, "a", 1);
    in_sync();
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    put(s, "b", 2);
    EXPECT_STEP("+a=1 | <in-sync>");
    EXPECT_STEP("stopped");
    close_it();
}

static void
once_delivered_a_finished_buffer_delivers_no_more(void)
{
    open_loop(100);
    put(s, "a", 1);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    EXPECT_STEP("+a=1");
    CHECK_EQ(put(s, "a", 2), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(put(s, "b", 2), CDEDUPE_OUTCOME_DROPPED);
    EXPECT_STEP("stopped");
    CHECK_EQ(put(s, "b", 3), CDEDUPE_OUTCOME_DROPPED);
    subject_release(s);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_STOPPED);
    close_it();
}

static void
finish_delivers_the_newest_of_what_was_queued(void)
{
    open_loop(100);
    put(s, "a", 1);
    put(s, "b", 2);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    CHECK_EQ(put(s, "b", 3), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put(s, "c", 4), CDEDUPE_OUTCOME_DROPPED);
    EXPECT_STEP("+a=1 +b=3");
    EXPECT_STEP("stopped");
    close_it();
}

static void
finish_whenItsLastKeyIsCancelled_deliversTheOthers(void)
{
    open_loop(100);
    put(s, "a", 1);
    put(s, "b", 2);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    put(s, "c", 3);
    CHECK_EQ(del(s, "b"), CDEDUPE_OUTCOME_CANCELLED);
    EXPECT_STEP("+a=1");
    EXPECT_STEP("stopped");
    close_it();
}

static void
finish_twice_onAnEmptyQueue_dropsWhatComesBetween(void)
{
    open_loop(100);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    CHECK_EQ(put(s, "a", 1), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    EXPECT_STEP("stopped");
    close_it();
}

static void
finishWhenEmpty_onAnEmptyQueue_deliversWhatComesBeforeTheTake(void)
{
    open_loop(100);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_EMPTY), CDEDUPE_OK);
    CHECK_EQ(put(s, "a", 1), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("+a=1");
    EXPECT_STEP("stopped");
    close_it();
}

static void
finish_is_over_when_all_it_waits_for_is_cancelled(void)
{
    open_loop(100);
    put(s, "a", 1);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    put(s, "b", 2);
    CHECK_EQ(del(s, "a"), CDEDUPE_OUTCOME_CANCELLED);
    EXPECT_STEP("stopped");
    close_it();
}

/* A restart would drop what the finish promised to deliver. */
static void
restart_afterAFinishWhenDelivered_isIgnored(void)
{
    open_loop(100);
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    del(s, "a");
    put(s, "b", 2);
    resync();
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    CHECK_EQ(subject_restart(s), CDEDUPE_STOPPED);
    CHECK_EQ(subject_statistics(s).dropped, 0);
    EXPECT_STEP("-a +b=2 | <resync>");
    EXPECT_STEP("stopped");
    close_it();
}

static void
restart_afterAFinishWhenDelivered_letsUpdatesReplacePendingOnes(void)
{
    open_loop(100);
    put(s, "a", 1);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    CHECK_EQ(subject_restart(s), CDEDUPE_STOPPED);
    CHECK_EQ(put(s, "a", 2), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put(s, "b", 3), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(subject_status(s, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_STOPPED);
    EXPECT_STEP("+a=2");
    EXPECT_STEP("stopped");
    close_it();
}

static void
restart_afterAFinishWhenEmpty_dropsWhatIsPending(void)
{
    open_loop(100);
    put(s, "a", 1);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_EMPTY), CDEDUPE_OK);
    CHECK_EQ(subject_restart(s), CDEDUPE_OK);
    CHECK_EQ(put(s, "b", 2), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("+b=2");
    EXPECT_STEP("stopped");
    close_it();
}

static void
finish_when_empty_goes_on_until_it_is(void)
{
    open_loop(100);
    put(s, "a", 1);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_EMPTY), CDEDUPE_OK);
    put(s, "b", 2);
    EXPECT_STEP("+a=1 +b=2");
    CHECK_EQ(put(s, "c", 3), CDEDUPE_OUTCOME_QUEUED);
    EXPECT_STEP("+c=3");
    EXPECT_STEP("stopped");
    CHECK_EQ(put(s, "d", 4), CDEDUPE_OUTCOME_DROPPED);
    close_it();
}

static void
finish_ofAnUnknownKind_isRejected(void)
{
    open_loop(100);
    CHECK_EQ(subject_finish(s, (cdedupe_finish_t)2), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(subject_finish(s, (cdedupe_finish_t)-1), CDEDUPE_INVALID_ARGUMENT);
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    EXPECT_STEP("empty");
    subject_release(s);
    CHECK_EQ(subject_finish(s, (cdedupe_finish_t)2), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(put(s, "b", 2), CDEDUPE_OUTCOME_QUEUED);
    close_it();
}

static void
finish_of_an_empty_buffer_ends_the_loop(void)
{
    cdedupe_finish_t when;

    for (when = CDEDUPE_FINISH_WHEN_DELIVERED; when <= CDEDUPE_FINISH_WHEN_EMPTY; when++) {
        open_loop(100);
        EXPECT_STEP("empty");
        CHECK_EQ(subject_finish(s, when), CDEDUPE_OK);
        CHECK_EQ(s->wakes, 1);
        EXPECT_STEP("stopped");
        subject_release(s);
        CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_LOOP), CDEDUPE_STOPPED);
        close_it();
    }
}

static void
finish_can_be_repeated_and_stop_beats_it(void)
{
    open_loop(1);
    put(s, "a", 1);
    put(s, "b", 2);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    CHECK_EQ(subject_finish(s, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    EXPECT_STEP("+a=1");
    subject_stop(s);
    EXPECT_STEP("stopped");
    CHECK_EQ(subject_statistics(s).pending_keys, 1);
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Sleeping and waking                                                                            */

static void
the_hook_is_called_once_per_sleep(void)
{
    open_loop(100);
    put(s, "a", 1);
    CHECK_EQ(s->wakes, 0); /* It has not asked yet. */
    EXPECT_STEP("+a=1");
    put(s, "a", 2);
    CHECK_EQ(s->wakes, 0); /* The last take found something. */
    EXPECT_STEP("~a=2");
    EXPECT_STEP("empty");
    CHECK_EQ(s->wakes, 0);
    put(s, "a", 3);
    CHECK_EQ(s->wakes, 1);
    put(s, "b", 4);
    put(s, "a", 5);
    in_sync();
    CHECK_EQ(s->wakes, 1); /* Awake already. */
    EXPECT_STEP("~a=5 +b=4 | <in-sync>");
    EXPECT_STEP("empty");
    resync();
    CHECK_EQ(s->wakes, 2); /* A status wakes as well. */
    close_it();
}

static void
what_leaves_the_queue_empty_wakes_nobody(void)
{
    open_loop(100);
    EXPECT_STEP("empty");
    wait_for_datastore(); /* Dropped: it counts as received. */
    restart();
    CHECK_EQ(s->wakes, 0);
    put(s, "a", 1);
    CHECK_EQ(s->wakes, 1);
    del(s, "a");
    EXPECT_STEP("empty"); /* Asleep again. */
    put(s, "a", 2);
    CHECK_EQ(s->wakes, 2);
    close_it();
}

static void
a_claim_by_hand_is_never_woken(void)
{
    open_new();
    EXPECT_STEP("empty");
    put(s, "a", 1);
    subject_stop(s);
    CHECK_EQ(s->wakes, 0);
    close_it();
}

static void
a_loop_may_do_without_a_hook(void)
{
    cdedupe_bytes_t *bytes = NULL;
    cdedupe_bytes_item_t item;
    size_t count;

    CHECK_EQ(cdedupe_bytes_create(NULL, &bytes), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_claim(bytes, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take(bytes, &item, 1, &count), CDEDUPE_EMPTY);
    CHECK_EQ(cdedupe_bytes_put(bytes, "a", 1, "1", 1, 0, NULL), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take(bytes, &item, 1, &count), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take(bytes, &item, 1, &count), CDEDUPE_EMPTY);
    cdedupe_bytes_stop(bytes);
    CHECK_EQ(cdedupe_bytes_take(bytes, &item, 1, &count), CDEDUPE_STOPPED);
    cdedupe_bytes_release(bytes);
    cdedupe_bytes_destroy(bytes);
}

static void
nobody_sleeps_after_release(void)
{
    open_loop(100);
    EXPECT_STEP("empty");
    subject_release(s);
    put(s, "a", 1);
    CHECK_EQ(s->wakes, 0);
    subject_stop(s);
    CHECK_EQ(s->wakes, 0);
    close_it();
}

static void
stop_wakes_a_sleeping_loop(void)
{
    open_loop(100);
    EXPECT_STEP("empty");
    subject_stop(s);
    CHECK_EQ(s->wakes, 1);
    EXPECT_STEP("stopped");
    close_it();
}

static void
a_taker_in_the_hook(subject_t *it)
{
    it->on_wake = NULL;
    CHECK_TEXT(step(it), "<in-sync>");
    CHECK_TEXT(step(it), "empty"); /* Asleep again, before the producer's call has returned. */
    put(it, "b", 2);
    CHECK_EQ(it->wakes, 2);
}

static void
the_hook_may_call_the_buffer(void)
{
    open_loop(100);
    EXPECT_STEP("empty");
    s->on_wake = a_taker_in_the_hook;
    in_sync();
    CHECK_EQ(s->wakes, 2);
    EXPECT_STEP("+b=2");
    close_it();
}

static void
a_stopper_in_the_hook(subject_t *it)
{
    subject_stop(it);
    subject_finish(it, CDEDUPE_FINISH_WHEN_EMPTY);
}

static void
the_hook_may_stop_the_buffer(void)
{
    open_loop(100);
    EXPECT_STEP("empty");
    s->on_wake = a_stopper_in_the_hook;
    in_sync();
    CHECK_EQ(s->wakes, 1);
    EXPECT_STEP("stopped");
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Contract, section 5: restart and resync                                                        */

static void
restart_drops_what_is_pending(void)
{
    open_new();
    put(s, "a", 1);
    resync();
    put(s, "b", 2);
    del(s, "c");
    restart();
    EXPECT_STEP("empty");
    CHECK_EQ(subject_statistics(s).dropped, 3);
    CHECK_EQ(subject_statistics(s).pending_statuses, 0);
    put(s, "b", 3);
    put(s, "a", 4);
    EXPECT_STEP("+b=3 +a=4"); /* New, and in the new order: the dropped ones left no trace. */
    close_it();
}

static void
unseen_keys_are_deleted_at_in_sync(void)
{
    open_new();
    put(s, "a", 1);
    put(s, "b", 2);
    EXPECT_STEP("+a=1 +b=2");
    restart();
    resync();
    put(s, "b", 3);
    in_sync();
    EXPECT_STEP("<resync> | ~b=3 -a | <in-sync>");
    CHECK_EQ(subject_statistics(s).synthesized_deletions, 1);
    CHECK_EQ(subject_statistics(s).live_keys, 1);
    close_it();
}

/* Revision 0 at the bytes level, no payload at the other: "-a" is without an id. */
static void
a_synthesized_deletion_has_no_revision(void)
{
    open_new();
    put(s, "a", 77);
    EXPECT_STEP("+a=77");
    restart();
    in_sync();
    EXPECT_STEP("-a | <in-sync>");
    CHECK_EQ(s->items[0].id, 0);
    close_it();
}

static void
a_deletion_makes_a_key_seen(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    del_id(s, "a", 2);
    EXPECT_STEP("-a=2");
    in_sync();
    EXPECT_STEP("<in-sync>");
    close_it();
}

static void
a_seen_key_is_not_deleted_even_if_delivered_before_in_sync(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    put(s, "a", 2);
    EXPECT_STEP("~a=2");
    in_sync();
    EXPECT_STEP("<in-sync>");
    close_it();
}

static void
resent_and_withdrawn_again_is_one_deletion(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    put(s, "a", 2);
    CHECK_EQ(del_id(s, "a", 3),
             CDEDUPE_OUTCOME_REPLACED); /* It is live: the sink must hear of it. */
    in_sync();
    EXPECT_STEP("-a=3 | <in-sync>");
    close_it();
}

static void
keys_never_delivered_are_owed_no_deletion(void)
{
    open_new();
    put(s, "a", 1);
    restart();
    in_sync();
    EXPECT_STEP("<in-sync>");
    close_it();
}

static void
keys_whose_deletion_was_taken_are_owed_none(void)
{
    open_new();
    put(s, "a", 1);
    put(s, "b", 2);
    EXPECT_STEP("+a=1 +b=2");
    del(s, "a");
    EXPECT_STEP("-a");
    restart();
    in_sync();
    EXPECT_STEP("-b | <in-sync>");
    close_it();
}

static void
a_deletion_dropped_by_restart_is_owed_again(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    del(s, "a");
    restart();
    EXPECT_STEP("empty");
    in_sync();
    EXPECT_STEP("-a | <in-sync>");
    close_it();
}

static void
a_synthesized_deletion_dropped_by_restart_is_owed_again(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    in_sync();
    restart(); /* Before it was delivered. */
    in_sync();
    EXPECT_STEP("-a | <in-sync>");
    CHECK_EQ(subject_statistics(s).synthesized_deletions, 2);
    CHECK_EQ(subject_statistics(s).dropped, 1);
    close_it();
}

static void
a_value_replaces_a_synthesized_deletion(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    in_sync();
    CHECK_EQ(put(s, "a", 2), CDEDUPE_OUTCOME_REPLACED);
    EXPECT_STEP("~a=2 | <in-sync>");
    close_it();
}

static void
only_the_first_in_sync_after_a_restart_sweeps(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    put(s, "a", 2);
    in_sync();
    EXPECT_FLUSH("~a=2 | <in-sync>");
    resync();
    in_sync();
    EXPECT_FLUSH("<in-sync>");
    CHECK_EQ(subject_statistics(s).synthesized_deletions, 0);
    close_it();
}

static void
in_sync_without_a_restart_deletes_nothing(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    resync();
    in_sync();
    EXPECT_STEP("<in-sync>");
    close_it();
}

static void
a_second_restart_starts_over_from_what_is_live_then(void)
{
    const char *text;

    open_new();
    put(s, "a", 1);
    put(s, "b", 2);
    EXPECT_STEP("+a=1 +b=2");
    restart();
    put(s, "a", 3); /* Seen by the first resync, which never ends. */
    put(s, "c", 4);
    EXPECT_STEP("~a=3 +c=4");
    restart();
    put(s, "b", 5);
    in_sync();
    text = step(s);
    CHECK(strcmp(text, "~b=5 -a -c | <in-sync>") == 0 ||
          strcmp(text, "~b=5 -c -a | <in-sync>") == 0);
    close_it();
}

static void
restart_twice_in_a_row_is_as_once(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    restart();
    restart();
    in_sync();
    EXPECT_STEP("-a | <in-sync>");
    close_it();
}

static void
restart_does_not_disturb_a_batch_that_was_taken(void)
{
    open_batch(1);
    put(s, "a", 1);
    put(s, "b", 2);
    EXPECT_STEP("+a=1"); /* With the sink now. */
    restart();
    CHECK(s->count == 1 && s->items[0].key[0] == 'a');
    EXPECT_STEP("empty");
    CHECK_EQ(subject_statistics(s).live_keys, 1); /* Committed. */
    in_sync();
    EXPECT_STEP("-a");
    EXPECT_STEP("<in-sync>");
    close_it();
}

static void
stale_pending_value_of_a_live_key_is_owed_a_deletion(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    put(s, "a", 2);
    restart(); /* a=2 is dropped, a is live and unseen. */
    in_sync();
    EXPECT_STEP("-a | <in-sync>");
    subject_collect(s, 10);
    close_it();
}

static void
in_sync_goes_behind_what_is_queued_and_its_deletions(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    put(s, "b", 2);
    resync();
    put(s, "c", 3);
    in_sync();
    put(s, "d", 4);
    EXPECT_STEP("+b=2 | <resync> | +c=3 -a | <in-sync> | +d=4");
    close_it();
}

/* If the deletions go behind it, the queued status is not last any more, and is kept. */
static void
deletions_separate_the_statuses(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    restart();
    resync();
    in_sync();
    EXPECT_STEP("<resync> | -a | <in-sync>");
    restart();
    resync();
    in_sync();
    EXPECT_STEP("<in-sync>");
    close_it();
}

/*
 * Ten thousand keys live; every third comes again: the deletions are exactly the others, each once.
 */
static void
a_large_resync_is_exact(void)
{
    enum { KEYS = 10000 };
    static bool deleted[KEYS];
    size_t index;
    size_t deletions = 0;

    memset(deleted, 0, sizeof(deleted));
    open_batch(1000);
    s->paranoid = false;
    put_numbers(0, KEYS);
    flush(s);
    restart();
    for (index = 0; index < KEYS; index += 3) {
        put(s, name(index), 1);
    }
    in_sync();
    subject_check(s);
    while (subject_take(s, 1000) == CDEDUPE_OK) {
        for (index = 0; index < s->count; index++) {
            if (s->items[index].kind == CDEDUPE_ITEM_DELETED) {
                uint64_t number = strtoull(s->items[index].key + 1, NULL, 10);

                CHECK(number % 3 != 0 && !deleted[number]);
                deleted[number] = true;
                deletions++;
            }
        }
    }
    CHECK_EQ(deletions, KEYS - (KEYS + 2) / 3);
    CHECK_EQ(subject_statistics(s).synthesized_deletions, deletions);
    CHECK_EQ(subject_statistics(s).live_keys, (KEYS + 2) / 3);
    subject_check(s);
    close_it();
}

/* With a fixed hash_seed and one thread, a run gives the same output each time. */
static void
run_withFixedSeed_isRepeatable(void)
{
    char *first = NULL;
    int round;

    for (round = 0; round < 3; round++) {
        open_seeded(7);
        put_numbers(0, 300);
        flush(s);
        for (uint64_t number = 0; number < 300; number += 2) {
            del(s, name(number));
        }
        flush(s);
        put_numbers(200, 500);
        flush(s);
        restart();
        put_numbers(20, 40);
        in_sync();
        flush(s);
        if (first == NULL) {
            first = strdup(s->text);
        } else {
            CHECK_TEXT(s->text, first);
        }
        close_it();
    }
    free(first);
}

static void
collect_hands_back_each_dropped_payload_once(void)
{
    size_t capacity;

    for (capacity = 1; capacity <= 100; capacity = capacity * 3 + 1) {
        open_new();
        put_numbers(0, 20);
        flush(s);
        put_numbers(10, 50); /* Ten of them live. */
        for (uint64_t number = 0; number < 5; number++) {
            del_id(s, name(number), 7); /* Deletions with a payload. */
            del(s, name(number + 5));   /* And without. */
        }
        restart();
        subject_collect(s, capacity); /* Checks that no payload stays behind. */
        in_sync();
        CHECK_EQ(subject_statistics(s).synthesized_deletions, 20);
        close_it();
    }
}

static void
collect_finds_what_in_sync_and_takes_left(void)
{
    open_new();
    put(s, "a", 1);
    EXPECT_STEP("+a=1");
    put(s, "a", 2);
    put(s, "b", 3);
    restart();
    in_sync(); /* The deletion of a takes the place of the dropped a=2. */
    EXPECT_STEP("-a | <in-sync>");
    subject_collect(s, 1);
    close_it();
}

static void
restarts_without_collecting_keep_one_payload_per_key(void)
{
    int round;

    open_new();
    for (round = 0; round < 50; round++) {
        put(s, "a", 1);
        put(s, "b", 2);
        put(s, "c", 3);
        restart();
        CHECK(s->core == NULL || s->payloads.living <= 3);
    }
    close_it(); /* The leftovers hold what was not collected. */
}

static void
a_buffer_without_garbage_says_so(void)
{
    cdedupe_slot_t slots[4];
    size_t count = 99;

    if (level != SUBJECT_HANDLES) {
        return;
    }
    open_new();
    CHECK(!cdedupe_has_dropped(s->core));
    CHECK_EQ(cdedupe_collect(s->core, slots, 4, &count), CDEDUPE_EMPTY);
    CHECK_EQ(count, 0);
    put(s, "a", 1);
    CHECK(!cdedupe_has_dropped(s->core));
    restart();
    CHECK(cdedupe_has_dropped(s->core));
    subject_collect(s, 4);
    CHECK(!cdedupe_has_dropped(s->core));
    close_it();
}

/* Without room nothing is cleared up, but there is an answer. */
static void
collecting_without_room_tells_whether_something_is_left(void)
{
    cdedupe_slot_t slot = 7;
    size_t count = 99;

    if (level != SUBJECT_HANDLES) {
        return;
    }
    open_new();
    CHECK_EQ(cdedupe_collect(s->core, &slot, 0, &count), CDEDUPE_EMPTY);
    CHECK_EQ(count, 0);
    put(s, "a", 1);
    CHECK_EQ(cdedupe_collect(s->core, &slot, 0, &count), CDEDUPE_EMPTY);
    restart();
    for (int i = 0; i < 3; i++) {
        count = 99;
        CHECK_EQ(cdedupe_collect(s->core, &slot, 0, &count), CDEDUPE_OK);
        CHECK_EQ(count, 0);
    }
    CHECK_EQ(slot, 7);
    subject_collect(s, 1); /* Checks that the payload is there. */
    CHECK_EQ(cdedupe_collect(s->core, &slot, 0, &count), CDEDUPE_EMPTY);
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Contract, section 6: where the original failed                                                 */

static void
d1_repeated_in_sync_after_restart_wakes_the_loop(void)
{
    open_loop(100);
    put(s, "a", 1);
    in_sync();
    EXPECT_STEP("+a=1 | <in-sync>");
    EXPECT_STEP("empty");
    restart();
    CHECK_EQ(s->wakes, 0);
    in_sync(); /* It equals the latest, and it ends the resync: it queues a deletion and itself. */
    CHECK_EQ(s->wakes, 1);
    EXPECT_STEP("-a | <in-sync>");
    EXPECT_STEP("empty");
    put(s, "b", 2);
    CHECK_EQ(s->wakes, 2);
    close_it();
}

static void
d7_inSync_endingAResync_isQueuedEvenIfItRepeats(void)
{
    open_loop(100);
    in_sync();
    EXPECT_STEP("<in-sync>");
    EXPECT_STEP("empty");
    restart();
    in_sync(); /* Nothing to delete, and the latest status taken is in-sync. */
    CHECK_EQ(s->wakes, 1);
    EXPECT_STEP("<in-sync>");
    in_sync(); /* No resync is under way any more. */
    EXPECT_STEP("empty");
    close_it();
}

static void
d7_twoInSyncs_afterOneRestart_queueOne(void)
{
    open_new();
    put(s, "a", 1);
    in_sync();
    EXPECT_STEP("+a=1 | <in-sync>");
    restart();
    put(s, "a", 2);
    in_sync();
    put(s, "b", 3);
    in_sync();
    EXPECT_STEP("~a=2 | <in-sync> | +b=3");
    close_it();
}

static void
d2_a_status_dropped_by_restart_is_not_swallowed_later(void)
{
    open_new();
    resync();
    EXPECT_STEP("<resync>");
    in_sync();
    restart(); /* Drops the in-sync; latest received is what was taken: resync. */
    resync();
    EXPECT_STEP("empty");
    in_sync();
    EXPECT_STEP("<in-sync>");
    close_it();
}

static void
d2_before_any_status_was_taken_waiting_is_the_latest(void)
{
    open_new();
    in_sync();
    restart();
    wait_for_datastore();
    EXPECT_STEP("empty");
    in_sync();
    EXPECT_STEP("<in-sync>");
    close_it();
}

static void
d3_flapping_status_and_key_do_not_grow_the_queue(void)
{
    uint64_t round;

    open_new();
    for (round = 0; round < 1000; round++) {
        put(s, "a", 1);
        status(round % 2 == 0 ? CDEDUPE_STATUS_RESYNC_IN_PROGRESS : CDEDUPE_STATUS_IN_SYNC);
        del(s, "a");
        CHECK_EQ(subject_statistics(s).pending_statuses, 1);
    }
    EXPECT_FLUSH("<in-sync>");
    close_it();
}

static void
d4_any_number_of_deletions_is_one(void)
{
    int count;
    int index;

    for (count = 1; count <= 6; count++) {
        open_new();
        for (index = 0; index < count; index++) {
            del(s, "ghost");
        }
        EXPECT_FLUSH("-ghost");
        close_it();
    }
}

static void
d5_a_deletion_is_delivered_as_deleted(void)
{
    open_new();
    del(s, "ghost");
    put(s, "a", 1);
    EXPECT_STEP("-ghost +a=1");
    CHECK_EQ(s->items[0].kind, CDEDUPE_ITEM_DELETED);
    close_it();
}

/* D6 is about time: see run_long_sweep() in test_threads.c, and the benchmarks. */

/* ---------------------------------------------------------------------------------------------- */
/* Handles: who owns what                                                                         */

static cdedupe_t *
open_core(size_t payload_size, size_t alignment)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *core = NULL;

    memset(&hooks, 0, sizeof(hooks));
    hooks_use(&hooks, &options);
    options.payload_size = payload_size;
    options.payload_alignment = alignment;
    CHECK_EQ(cdedupe_create(&options, &core), CDEDUPE_OK);
    return core;
}

static cdedupe_slot_t
acquire(cdedupe_t *core)
{
    cdedupe_slot_t slot = 0;

    CHECK_EQ(cdedupe_acquire(core, &slot, 1), CDEDUPE_OK);
    CHECK(slot != 0);
    return slot;
}

static cdedupe_update_t
put_slot(cdedupe_t *core, const char *key, bool deletion, cdedupe_slot_t slot)
{
    cdedupe_update_t update = {key, strlen(key), slot, UINT32_MAX, deletion, 99};

    CHECK_EQ(cdedupe_put(core, &update, 1), CDEDUPE_OK);
    CHECK_NO_FAULT(cdedupe_validate(core));
    return update;
}

static void
handles_in_every_outcome(void)
{
    cdedupe_t *core = open_core(8, 8);
    cdedupe_slot_t one = acquire(core);
    cdedupe_slot_t two = acquire(core);
    cdedupe_slot_t three = acquire(core);
    cdedupe_update_t update;

    update = put_slot(core, "a", false, one);
    CHECK(update.outcome == CDEDUPE_OUTCOME_QUEUED && update.slot == 0 && update.displaced == 0);
    update = put_slot(core, "a", false, two);
    CHECK(update.outcome == CDEDUPE_OUTCOME_REPLACED && update.slot == 0 &&
          update.displaced == one);
    update = put_slot(core, "a", true, one);
    CHECK(update.outcome == CDEDUPE_OUTCOME_CANCELLED && update.slot == one &&
          update.displaced == two);
    update = put_slot(core, "b", true, two);
    CHECK(update.outcome == CDEDUPE_OUTCOME_QUEUED && update.slot == 0 && update.displaced == 0);
    update = put_slot(core, "b", true, 0);
    CHECK(update.outcome == CDEDUPE_OUTCOME_REPLACED && update.slot == 0 &&
          update.displaced == two);
    update = put_slot(core, "b", false, three);
    CHECK(update.outcome == CDEDUPE_OUTCOME_REPLACED && update.slot == 0 && update.displaced == 0);
    cdedupe_stop(core);
    update = put_slot(core, "b", false, two);
    CHECK(update.outcome == CDEDUPE_OUTCOME_DROPPED && update.slot == two && update.displaced == 0);
    cdedupe_discard(core, &one, 1);
    cdedupe_discard(core, &two, 1);
    cdedupe_destroy(core);
    hooks_close(&hooks);
}

/*
 * "After a restart, a payload that the restart dropped may come back in `displaced` of an update
 * that was QUEUED", and so of no other: a caller may take `displaced` of a REPLACED update for the
 * older value of its key.
 */
static void
dropped_payloads_come_back_in_queued_updates_only(void)
{
    cdedupe_t *core = open_core(8, 8);
    cdedupe_update_t updates[4] = {{"b", 1, 0, 0, true, 9},
                                   {"b", 1, 0, 0, false, 9},
                                   {"b", 1, 0, 0, true, 9},
                                   {"c", 1, 0, 0, true, 9}};

    cdedupe_slot_t value = acquire(core);

    put_slot(core, "x", false, acquire(core));
    put_slot(core, "y", false, acquire(core));
    put_slot(core, "z", false, acquire(core));
    CHECK_EQ(cdedupe_restart(core), CDEDUPE_OK);
    updates[1].slot = value;
    CHECK_EQ(cdedupe_put(core, updates, 4), CDEDUPE_OK);
    CHECK_EQ(updates[1].outcome, CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(updates[1].displaced, 0); /* The pending deletion carried nothing. */
    CHECK_EQ(updates[2].outcome, CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(updates[2].displaced, value);
    cdedupe_destroy(core);
    hooks_close(&hooks);
}

static void
expect_leftovers(cdedupe_t *core, cdedupe_slot_t one, cdedupe_slot_t two)
{
    uint64_t cursor = 0;
    cdedupe_slot_t first = cdedupe_drain_next(core, &cursor);
    cdedupe_slot_t second = cdedupe_drain_next(core, &cursor);

    CHECK((first == one && second == two) || (first == two && second == one));
    CHECK_EQ(cdedupe_drain_next(core, &cursor), 0);
    CHECK_EQ(cdedupe_drain_next(core, &cursor), 0);
    cdedupe_destroy(core);
    hooks_close(&hooks);
}

static void
leftovers_are_what_is_pending_and_not_what_the_caller_owns(void)
{
    cdedupe_t *core = open_core(8, 8);
    cdedupe_slot_t value = acquire(core);
    cdedupe_slot_t deletion = acquire(core);
    cdedupe_slot_t mine = acquire(core);

    put_slot(core, "a", false, value);
    put_slot(core, "b", true, deletion);
    put_slot(core, "c", true, 0);
    CHECK(mine != value && mine != deletion);
    expect_leftovers(core, value, deletion);
}

static void
leftovers_are_what_restarts_dropped_too(void)
{
    cdedupe_t *core = open_core(8, 8);
    cdedupe_slot_t dropped = acquire(core);
    cdedupe_slot_t pending = acquire(core);
    cdedupe_update_t update;

    put_slot(core, "a", false, dropped);
    put_slot(core, "d", true, 0);
    CHECK_EQ(cdedupe_restart(core), CDEDUPE_OK);
    update = put_slot(core, "b", false, pending);
    CHECK(update.displaced == 0 ||
          update.displaced == dropped); /* It may come back here already. */
    expect_leftovers(core, pending, update.displaced == 0 ? dropped : 0);
}

static void
leftovers_after_a_restart_alone(void)
{
    cdedupe_t *core = open_core(8, 8);
    cdedupe_slot_t one = acquire(core);
    cdedupe_slot_t two = acquire(core);

    put_slot(core, "a", false, one);
    put_slot(core, "b", true, two);
    CHECK_EQ(cdedupe_restart(core), CDEDUPE_OK);
    expect_leftovers(core, one, two);
}

static void
destroy_without_asking_for_leftovers(void)
{
    cdedupe_t *core = open_core(8, 8);

    put_slot(core, "a", false, acquire(core));
    CHECK_EQ(cdedupe_restart(core), CDEDUPE_OK);
    put_slot(core, "b", false, acquire(core));
    cdedupe_destroy(core); /* Payloads that need no destruction. */
    hooks_close(&hooks);
    cdedupe_destroy(NULL);
    cdedupe_bytes_destroy(NULL);
}

static void
rejected_updates_leave_their_handles(void)
{
    cdedupe_t *core = open_core(8, 8);
    char *key = calloc(1, CDEDUPE_KEY_MAX + 1);
    cdedupe_slot_t slots[3];
    cdedupe_update_t updates[3] = {{"a", 1, 0, 9, false, 9},
                                   {key, CDEDUPE_KEY_MAX + 1, 0, 9, false, 9},
                                   {"c", 1, 0, 9, true, 9}};
    size_t index;

    CHECK_EQ(cdedupe_acquire(core, slots, 3), CDEDUPE_OK);
    for (index = 0; index < 3; index++) {
        updates[index].slot = slots[index];
    }
    CHECK_EQ(cdedupe_put(core, updates, 3), CDEDUPE_KEY_TOO_LONG);
    CHECK(updates[0].outcome == CDEDUPE_OUTCOME_QUEUED && updates[0].slot == 0);
    CHECK(updates[1].outcome == CDEDUPE_OUTCOME_REJECTED && updates[1].slot == slots[1]);
    CHECK(updates[2].outcome == CDEDUPE_OUTCOME_UNTOUCHED && updates[2].slot == slots[2]);
    CHECK(updates[0].displaced == 0 && updates[1].displaced == 0 && updates[2].displaced == 0);
    cdedupe_discard(core, &slots[1], 2);
    cdedupe_destroy(core);
    hooks_close(&hooks);
    free(key);
}

/* Also the first call of a key, once it is in the index: two paths with one answer. */
static void
rejection_is_the_same_for_keys_that_are_pending(void)
{
    cdedupe_t *core = open_core(8, 8);
    char *key = calloc(1, CDEDUPE_KEY_MAX + 1);
    cdedupe_update_t updates[3] = {{"a", 1, 0, 9, false, 9},
                                   {key, CDEDUPE_KEY_MAX + 1, 0, 9, true, 9},
                                   {"a", 1, 0, 9, true, 9}};
    cdedupe_slot_t old = acquire(core);

    put_slot(core, "a", false, old);
    updates[0].slot = acquire(core);
    CHECK_EQ(cdedupe_put(core, updates, 3), CDEDUPE_KEY_TOO_LONG);
    CHECK(updates[0].outcome == CDEDUPE_OUTCOME_REPLACED && updates[0].displaced == old);
    CHECK_EQ(updates[1].outcome, CDEDUPE_OUTCOME_REJECTED);
    CHECK_EQ(updates[2].outcome, CDEDUPE_OUTCOME_UNTOUCHED);
    cdedupe_destroy(core);
    hooks_close(&hooks);
    free(key);
}

static void
value_withoutASlot_isRefused_andNothingBehindItIsTouched(void)
{
    cdedupe_t *core = open_core(0, 1);
    cdedupe_update_t updates[3] = {{.key = "a", .key_length = 1, .deletion = true},
                                   {.key = "b", .key_length = 1},
                                   {.key = "c", .key_length = 1, .deletion = true}};

    CHECK_EQ(cdedupe_put(core, updates, 3), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(updates[0].outcome, CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(updates[1].outcome, CDEDUPE_OUTCOME_REJECTED);
    CHECK_EQ(updates[2].outcome, CDEDUPE_OUTCOME_UNTOUCHED);
    CHECK_NO_FAULT(cdedupe_validate(core));
    cdedupe_destroy(core);
    hooks_close(&hooks);
}

static void
claim_ofAnUnknownKind_isRefused(void)
{
    cdedupe_t *core = open_core(0, 1);

    CHECK_EQ(cdedupe_claim(core, (cdedupe_claim_t)2), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(cdedupe_claim(core, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    cdedupe_destroy(core);
    hooks_close(&hooks);
}

/* The address and undefined behaviour sanitizers look at this. */
static void
zeroCount_withANullPointer_isAllowedEverywhere(void)
{
    cdedupe_t *core = open_core(0, 1);
    cdedupe_bytes_t *bytes;
    size_t count = 0;

    CHECK_EQ(cdedupe_acquire(core, NULL, 0), CDEDUPE_OK);
    cdedupe_payloads(core, NULL, 0, NULL);
    CHECK_EQ(cdedupe_put(core, NULL, 0), CDEDUPE_OK);
    cdedupe_discard(core, NULL, 0);
    CHECK_EQ(cdedupe_collect(core, NULL, 0, &count), CDEDUPE_EMPTY);
    CHECK_EQ(cdedupe_claim(core, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(cdedupe_put_back(core, NULL, &count), CDEDUPE_OK);
    cdedupe_destroy(core);
    hooks_close(&hooks);
    CHECK_EQ(cdedupe_bytes_create(NULL, &bytes), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put(bytes, NULL, 0, NULL, 0, 0, NULL), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_delete(bytes, NULL, 0, 0, NULL), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_claim(bytes, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put_back(bytes, &count), CDEDUPE_OK);
    cdedupe_bytes_destroy(bytes);
}

static void
options_areChecked_andTheWrongOneIsNamed(void)
{
    cdedupe_options_t options;

    memset(&options, 0x5a, sizeof(options));
    cdedupe_options_init(&options, sizeof(options));
    CHECK(cdedupe_options_check(&options) == NULL);
    CHECK_EQ(options.size, sizeof(options));
    options.batch_size = 0;
    CHECK_TEXT(cdedupe_options_check(&options),
               "batch_size is not between 1 and CDEDUPE_BATCH_MAX");
    options.batch_size = 1;
    options.payload_alignment = 24;
    CHECK_TEXT(cdedupe_options_check(&options),
               "payload_alignment is not a power of two up to CDEDUPE_ALIGNMENT_MAX");
    options.payload_alignment = 8;
    options.suppress_unchanged = true;
    options.revision_offset = 1;
    CHECK_TEXT(cdedupe_options_check(&options),
               "revision_offset leaves no room for a uint64_t in the payload");
    options.suppress_unchanged = false;
    options.maximum_pending_bytes = 1;
    options.weight_offset = 1;
    CHECK_TEXT(cdedupe_options_check(&options),
               "weight_offset leaves no room for a uint64_t in the payload");
    options.maximum_pending_bytes = 0;
    options.payload_size = CDEDUPE_PAYLOAD_MAX + 1;
    CHECK_TEXT(cdedupe_options_check(&options), "payload_size is greater than CDEDUPE_PAYLOAD_MAX");
    options.payload_size = 8;
    options.deallocate = (void (*)(void *, void *, size_t, size_t))abort;
    CHECK_TEXT(cdedupe_options_check(&options),
               "allocate and deallocate must both be set, or neither");
    options.deallocate = NULL;
    options.size = 0;
    CHECK_TEXT(cdedupe_options_check(&options), "size was not set; see cdedupe_options_init()");
}

/* Of a caller that was compiled with an older, shorter struct only that part is written. */
static void
optionsInit_ofAShorterStruct_writesOnlyThat(void)
{
    cdedupe_options_t options;
    size_t size = offsetof(cdedupe_options_t, merge);

    memset(&options, 0x5a, sizeof(options));
    cdedupe_options_init(&options, size);
    CHECK_EQ(options.size, size);
    CHECK_EQ(options.batch_size, 100);
    CHECK(options.merge != NULL);
    CHECK(cdedupe_options_check(&options) == NULL);
}

static void
fill_and_check_slots(cdedupe_t *core, cdedupe_slot_t *slots, size_t count, size_t size,
                     size_t alignment)
{
    size_t index;
    size_t byte;

    for (index = 0; index < count; index++) {
        void *payload = cdedupe_payload(core, slots[index]);

        CHECK(slots[index] != 0);
        CHECK_EQ((uintptr_t)payload % alignment, 0);
        memset(payload, (int)(index % 251) + 1, size);
    }
    for (index = 0; index < count; index++) { /* None overlaps another. */
        const unsigned char *payload = cdedupe_payload(core, slots[index]);

        for (byte = 0; byte < size && payload[byte] == index % 251 + 1; byte++) {
        }
        CHECK_EQ(byte, size);
    }
}

static void
payloads_of_every_size_and_alignment(void)
{
    static const size_t sizes[] = {0, 1, 7, 8, 24, 63, 100, 4096, CDEDUPE_PAYLOAD_MAX};
    static const size_t alignments[] = {1, 2, 8, 16, 64, CDEDUPE_ALIGNMENT_MAX};
    enum { COUNT = 150 };
    cdedupe_slot_t slots[COUNT];
    size_t size;
    size_t alignment;

    for (size = 0; size < sizeof(sizes) / sizeof(sizes[0]); size++) {
        for (alignment = 0; alignment < sizeof(alignments) / sizeof(alignments[0]); alignment++) {
            cdedupe_t *core = open_core(sizes[size], alignments[alignment]);

            CHECK_EQ(cdedupe_acquire(core, slots, COUNT), CDEDUPE_OK);
            fill_and_check_slots(core, slots, COUNT, sizes[size], alignments[alignment]);
            cdedupe_discard(core, slots, COUNT);
            CHECK_NO_FAULT(cdedupe_validate(core));
            cdedupe_destroy(core);
            hooks_close(&hooks);
        }
    }
}

static void
discard_skips_zeros_and_slots_are_used_again(void)
{
    cdedupe_t *core = open_core(64, 64);
    cdedupe_slot_t slots[300];
    cdedupe_statistics_t first;
    cdedupe_statistics_t last;
    int round;

    CHECK_EQ(cdedupe_acquire(core, slots, 300), CDEDUPE_OK);
    slots[0] = slots[17];
    slots[17] = 0;
    cdedupe_discard(core, slots, 300);
    cdedupe_discard(core, slots, 0);
    CHECK_NO_FAULT(cdedupe_validate(core));
    cdedupe_statistics(core, &first, sizeof(first));
    for (round = 0; round < 1000; round++) {
        CHECK_EQ(cdedupe_acquire(core, slots, 250), CDEDUPE_OK);
        cdedupe_discard(core, slots, 250);
    }
    cdedupe_statistics(core, &last, sizeof(last));
    CHECK(last.memory <= first.memory * 2);
    CHECK_EQ(cdedupe_acquire(core, slots, 0), CDEDUPE_OK);
    CHECK_NO_FAULT(cdedupe_validate(core));
    cdedupe_destroy(core);
    hooks_close(&hooks);
}

static void
payloads_stay_where_they_are_while_others_come(void)
{
    cdedupe_t *core = open_core(sizeof(uint64_t), 8);
    enum { COUNT = 5000 };
    static cdedupe_slot_t slots[COUNT];
    static uint64_t *addresses[COUNT];
    size_t index;

    for (index = 0; index < COUNT; index++) {
        slots[index] = acquire(core);
        addresses[index] = cdedupe_payload(core, slots[index]);
        *addresses[index] = index;
    }
    for (index = 0; index < COUNT; index++) {
        CHECK(cdedupe_payload(core, slots[index]) == addresses[index]);
        CHECK_EQ(*addresses[index], index);
    }
    cdedupe_discard(core, slots, COUNT);
    cdedupe_destroy(core);
    hooks_close(&hooks);
}

/* ---------------------------------------------------------------------------------------------- */
/* Options                                                                                        */

static void
expect_create(const cdedupe_options_t *options, cdedupe_result_t wanted, const char *what)
{
    cdedupe_t *core = (cdedupe_t *)&rounds; /* Must be overwritten. */
    cdedupe_result_t result = cdedupe_create(options, &core);

    if (!CHECK_EQ(result, wanted)) {
        printf("  with %s\n", what);
    }
    CHECK((core != NULL) == (result == CDEDUPE_OK));
    if (result == CDEDUPE_OK) {
        cdedupe_destroy(core);
    }
}

static void
options_out_of_range_are_refused(void)
{
    cdedupe_options_t good = cdedupe_options();
    cdedupe_options_t bad;

    expect_create(NULL, CDEDUPE_OK, "no options");
    expect_create(&good, CDEDUPE_OK, "defaults");
    bad = good, bad.payload_alignment = 3;
    expect_create(&bad, CDEDUPE_INVALID_ARGUMENT, "alignment 3");
    bad = good, bad.payload_alignment = 0;
    expect_create(&bad, CDEDUPE_INVALID_ARGUMENT, "alignment 0");
    bad = good, bad.payload_alignment = CDEDUPE_ALIGNMENT_MAX * 2;
    expect_create(&bad, CDEDUPE_INVALID_ARGUMENT, "alignment too large");
    bad = good, bad.payload_size = CDEDUPE_PAYLOAD_MAX + 1;
    expect_create(&bad, CDEDUPE_INVALID_ARGUMENT, "payload too large");
    bad = good, bad.payload_size = 0;
    expect_create(&bad, CDEDUPE_OK, "payload size 0");
    bad = good, bad.batch_size = 0;
    expect_create(&bad, CDEDUPE_INVALID_ARGUMENT, "batch size 0");
    bad = good, bad.batch_size = CDEDUPE_BATCH_MAX + 1;
    expect_create(&bad, CDEDUPE_INVALID_ARGUMENT, "batch size too large");
    bad = good, bad.batch_size = CDEDUPE_BATCH_MAX;
    expect_create(&bad, CDEDUPE_OK, "largest batch size");
}

static void
one_hook_of_the_pair_is_refused(void)
{
    cdedupe_options_t bad = cdedupe_options();

    bad.allocate = hooks_allocate;
    expect_create(&bad, CDEDUPE_INVALID_ARGUMENT, "allocate alone");
    bad = cdedupe_options();
    bad.deallocate = hooks_deallocate;
    expect_create(&bad, CDEDUPE_INVALID_ARGUMENT, "deallocate alone");
}

/*
 * The caller knows fewer members than the library: those get their defaults, whatever lies there.
 */
static void
an_older_caller_gets_defaults_for_the_rest(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *core = NULL;
    cdedupe_item_t items[200];
    size_t count = 0;
    uint64_t number;

    options.size = offsetof(cdedupe_options_t, batch_size);
    options.batch_size = 7; /* Not part of the caller's struct. */
    CHECK_EQ(cdedupe_create(&options, &core), CDEDUPE_OK);
    if (core == NULL) {
        return;
    }
    for (number = 0; number < 150; number++) {
        put_slot(core, name(number), false, acquire(core));
    }
    CHECK_EQ(cdedupe_claim(core, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_take(core, items, 200, &count), CDEDUPE_OK);
    CHECK_EQ(count, 100);
    cdedupe_destroy(core);
}

/*
 * The library knows fewer members than the caller: what it does not know is zero, or it may refuse.
 */
static void
a_newer_caller_is_served(void)
{
    struct {
        cdedupe_options_t options;
        uint64_t unknown;
    } newer = {cdedupe_options(), 0};

    newer.options.size = sizeof(newer);
    expect_create(&newer.options, CDEDUPE_OK, "a newer caller");
}

static void
bytes_level_ignores_payload_options(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *bytes = NULL;

    options.payload_size = SIZE_MAX;
    options.payload_alignment = 3;
    options.revision_offset = SIZE_MAX;
    options.weight_offset = SIZE_MAX;
    options.suppress_unchanged = true;
    options.maximum_pending_bytes = 100;
    CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put(bytes, "a", 1, "1", 1, 0, NULL), CDEDUPE_OK);
    cdedupe_bytes_destroy(bytes);
    CHECK_EQ(cdedupe_bytes_create(NULL, &bytes), CDEDUPE_OK);
    CHECK_NO_FAULT(cdedupe_bytes_validate(bytes));
    cdedupe_bytes_destroy(bytes);
    options.batch_size = 0;
    bytes = (cdedupe_bytes_t *)&rounds;
    CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_INVALID_ARGUMENT);
    CHECK(bytes == NULL);
}

static void
every_result_has_a_text(void)
{
    int result;

    for (result = CDEDUPE_OK; result <= CDEDUPE_INVALID_ARGUMENT; result++) {
        const char *text = cdedupe_result_text((cdedupe_result_t)result);

        CHECK(text != NULL && strlen(text) > 0 && text[strlen(text) - 1] != '.');
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Values at the bytes level                                                                      */

static void
take_one_value(cdedupe_bytes_t *bytes, cdedupe_bytes_item_t *item)
{
    size_t count = 0;

    CHECK_EQ(cdedupe_bytes_take(bytes, item, 1, &count), CDEDUPE_OK);
    CHECK_EQ(count, 1);
}

static void
values_of_every_length_are_copied(void)
{
    static const size_t lengths[] = {0, 1, 15, 16, 17, 100, 4095, 4096, 65537, 1000000};
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *bytes = NULL;
    cdedupe_bytes_item_t item;
    char *value = malloc(1000000);
    size_t index;

    memset(&hooks, 0, sizeof(hooks));
    hooks_use(&hooks, &options);
    CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_claim(bytes, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    for (index = 0; index < sizeof(lengths) / sizeof(lengths[0]); index++) {
        memset(value, 'a' + (int)index, lengths[index]);
        CHECK_EQ(cdedupe_bytes_put(bytes, "k", 1, "older", 5, 1, NULL), CDEDUPE_OK);
        CHECK_EQ(cdedupe_bytes_put(bytes, "k", 1, value, lengths[index], index, NULL), CDEDUPE_OK);
        memset(value, 'X', 1000000);
        take_one_value(bytes, &item);
        CHECK_EQ(item.value_length, lengths[index]);
        CHECK_EQ(item.revision, index);
        CHECK_EQ(item.kind, index == 0 ? CDEDUPE_ITEM_NEW : CDEDUPE_ITEM_UPDATED);
        memset(value, 'a' + (int)index, lengths[index]);
        CHECK(lengths[index] == 0 || memcmp(item.value, value, lengths[index]) == 0);
    }
    CHECK_EQ(cdedupe_bytes_put(bytes, "empty", 5, NULL, 0, 0, NULL), CDEDUPE_OK);
    take_one_value(bytes, &item);
    CHECK(item.kind == CDEDUPE_ITEM_NEW && item.value_length == 0); /* An empty value is a value. */
    cdedupe_bytes_destroy(bytes);
    hooks_close(&hooks);
    free(value);
}

static void
values_are_lent_until_the_next_take(void)
{
    cdedupe_bytes_t *bytes = NULL;
    cdedupe_bytes_item_t item;

    CHECK_EQ(cdedupe_bytes_create(NULL, &bytes), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_claim(bytes, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put(bytes, "key", 3, "value", 5, 1, NULL), CDEDUPE_OK);
    take_one_value(bytes, &item);
    CHECK_EQ(cdedupe_bytes_put(bytes, "key", 3, "other", 5, 2, NULL), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_restart(bytes), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_delete(bytes, "key", 3, 3, NULL), CDEDUPE_OK);
    cdedupe_bytes_stop(bytes);
    CHECK(memcmp(item.key, "key", 3) == 0 && memcmp(item.value, "value", 5) == 0);
    cdedupe_bytes_release(bytes);
    cdedupe_bytes_destroy(bytes);
}

/* ---------------------------------------------------------------------------------------------- */
/* Growth                                                                                         */

/* After warming up, the same again and again takes no more memory. `tolerance` is in percent. */
static void
expect_constant_memory(void (*round)(uint64_t number), unsigned tolerance)
{
    uint64_t number;
    uint64_t early = 0;
    uint64_t late = 0;

    open_new();
    s->paranoid = false;
    s->pin_state = 0; /* How many keys are pinned must not matter here. */
    for (number = 0; number < rounds; number++) {
        uint64_t *peak = number < rounds / 2 ? &early : &late;

        round(number);
        if (*peak < hooks.held_bytes) {
            *peak = hooks.held_bytes;
        }
    }
    subject_check(s);
    if (!CHECK(late <= early + early * tolerance / 100)) {
        printf("  memory grew from %" PRIu64 " to %" PRIu64 " bytes\n", early, late);
    }
    close_it();
}

static void
flip_and_delete(uint64_t number)
{
    put(s, "a", 1);
    status(number % 2 == 0 ? CDEDUPE_STATUS_RESYNC_IN_PROGRESS : CDEDUPE_STATUS_IN_SYNC);
    del(s, "a");
}

static void
cancel_another_key_each_time(uint64_t number)
{
    put(s, name(number), 1);
    del(s, name(number));
}

static void
deliver_another_key_each_time(uint64_t number)
{
    put(s, name(number), 1);
    subject_take(s, 100);
    del(s, name(number));
    subject_take(s, 100);
}

static void
replace_for_ever(uint64_t number)
{
    put(s, number % 3 == 0 ? "a" : "b", number + 1);
}

static void
restart_for_ever(uint64_t number)
{
    put(s, "a", 1);
    if (number % 5 == 0) {
        subject_take(s, 100);
        in_sync();
    }
    restart();
}

static void
restart_with_another_key_each_time(uint64_t number)
{
    put(s, name(number), 1);
    restart();
    subject_collect(s, 10);
}

static void
a_million_flips_take_constant_memory(void)
{
    expect_constant_memory(flip_and_delete, 0);
    expect_constant_memory(replace_for_ever, 0);
    expect_constant_memory(restart_for_ever, 0);
}

static void
a_million_different_keys_take_constant_memory(void)
{
    expect_constant_memory(cancel_another_key_each_time, 10);
    expect_constant_memory(deliver_another_key_each_time, 10);
    if (level == SUBJECT_HANDLES) { /* The bytes level collects when it likes. */
        expect_constant_memory(restart_with_another_key_each_time, 10);
    }
}

/* Keys of mixed lengths: short ones, and now and then one of some kilobytes. */
static size_t
mixed_key(uint64_t number, char *key)
{
    size_t length = number % 1000 == 999 ? 3000 + number % 5000 : 8 + number * 7 % 150;

    memset(key, 'a' + (int)(number % 26), length);
    memcpy(key, &number, sizeof(number));
    return length;
}

static void
put_mixed(uint64_t number, bool deletion, uint64_t id)
{
    static char key[8192];
    subject_update_t update = {key, 0, deletion, id, CDEDUPE_OUTCOME_UNTOUCHED, 0};

    update.length = mixed_key(number, key);
    CHECK_EQ(subject_put(s, &update, 1), CDEDUPE_OK);
}

/* Takes everything and checks that it is the keys from..to, in order. */
static void
take_mixed(uint64_t from, uint64_t to, cdedupe_item_kind_t kind)
{
    static char key[8192];
    size_t index;

    while (subject_take(s, 1000) == CDEDUPE_OK) {
        for (index = 0; index < s->count; index++, from++) {
            size_t length = mixed_key(from, key);

            if (s->items[index].length != length || memcmp(s->items[index].key, key, length) != 0 ||
                s->items[index].kind != kind) {
                CHECK_EQ(s->items[index].length, length);
                CHECK_EQ(s->items[index].kind, kind);
                CHECK(memcmp(s->items[index].key, key, length) == 0);
            }
        }
    }
    CHECK_EQ(from, to);
}

static void
many_keys_come_and_go(void)
{
    const uint64_t count = rounds < 100000 ? rounds : 100000;
    uint64_t number;
    uint64_t peak;

    open_batch(1000);
    s->paranoid = false;
    for (number = 0; number < count; number++) {
        put_mixed(number, false, number + 1);
    }
    subject_check(s);
    CHECK_EQ(subject_statistics(s).pending_keys, count);
    take_mixed(0, count, CDEDUPE_ITEM_NEW);
    subject_check(s);
    for (number = 0; number < count; number++) {
        put_mixed(number, false, number + 2);
    }
    take_mixed(0, count, CDEDUPE_ITEM_UPDATED);
    for (number = 0; number < count; number++) {
        put_mixed(number, number % 2 == 1, 1);
    }
    subject_check(s);
    peak = subject_statistics(s).memory;
    while (subject_take(s, 1000) == CDEDUPE_OK) {
    }
    CHECK_EQ(subject_statistics(s).live_keys, (count + 1) / 2);
    subject_check(s);
    for (number = 0; number < count; number += 2) {
        put_mixed(number, true, 0);
    }
    while (subject_take(s, 1000) == CDEDUPE_OK) {
    }
    subject_check(s);
    CHECK_EQ(subject_statistics(s).live_keys, 0);
    /* After a peak, memory goes back; not all of it, which few keys would show. */
    if (!CHECK(subject_statistics(s).memory <= peak / 2 || count < 20000)) {
        printf("  %" PRIu64 " of %" PRIu64 " bytes are still held\n", subject_statistics(s).memory,
               peak);
    }
    for (number = 0; number < count; number++) { /* And it works as on the first day. */
        put_mixed(number, false, number + 1);
    }
    take_mixed(0, count, CDEDUPE_ITEM_NEW);
    subject_check(s);
    close_it();
}

static void
many_keys_cancelled_or_dropped(void)
{
    const uint64_t count = rounds < 100000 ? rounds : 100000;
    uint64_t number;

    open_batch(1000);
    s->paranoid = false;
    for (number = 0; number < count; number++) {
        put_mixed(number, false, number + 1);
    }
    for (number = 0; number < count; number += 2) {
        put_mixed(number, true, 0); /* Out of the middle of the queue. */
    }
    subject_check(s);
    CHECK_EQ(subject_statistics(s).pending_keys, count / 2);
    restart();
    subject_check(s);
    for (number = 0; number < count; number++) {
        put_mixed(number, false, number + 1);
    }
    subject_check(s);
    take_mixed(0, count, CDEDUPE_ITEM_NEW);
    restart();
    in_sync();
    CHECK_EQ(subject_statistics(s).synthesized_deletions, count);
    subject_check(s);
    subject_collect(s, 64);
    while (subject_take(s, 1000) == CDEDUPE_OK) {
    }
    CHECK_EQ(subject_statistics(s).live_keys, 0);
    subject_check(s);
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */

typedef struct named_test {
    const char *name;
    void (*run)(void);
} named_test_t;

/* clang-format off */
#define TEST(function) {#function, function}
/* clang-format on */

static const named_test_t both_levels[] = {
    TEST(value_not_pending_goes_to_the_back),
    TEST(value_replaces_pending_value_in_its_place),
    TEST(value_replaces_pending_deletion_in_its_place),
    TEST(deletion_not_pending_goes_to_the_back),
    TEST(deletion_of_unknown_key_is_passed_on),
    TEST(deletion_replaces_pending_value_of_live_key_in_its_place),
    TEST(deletion_cancels_pending_value_of_key_not_live),
    TEST(cancelled_key_added_again_goes_to_the_back),
    TEST(deletions_of_one_key_stay_one_in_its_place),
    TEST(deletion_value_deletion_of_unknown_key_leaves_nothing),
    TEST(type_is_new_until_taken_then_updated_then_new_again),
    TEST(recreated_after_its_deletion_was_taken_is_new),
    TEST(deleted_then_added_is_queued_once),
    TEST(order_inside_a_batch_is_the_queue_s),
    TEST(updates_of_one_call_are_put_in_order),
    TEST(a_long_call_keeps_its_order),
    TEST(an_empty_call_is_a_no_op),
    TEST(every_update_ends_in_exactly_one_way),
    TEST(empty_takes_are_no_batches),
    TEST(statistics_of_an_older_caller_are_cut),
    TEST(a_key_may_be_empty),
    TEST(keys_may_contain_nul),
    TEST(keys_that_differ_in_one_bit_are_two),
    TEST(keys_that_begin_alike_are_different),
    TEST(the_longest_keys_are_told_apart),
    TEST(a_key_too_long_is_rejected_and_nothing_is_lost),
    TEST(a_huge_length_is_rejected_without_being_read),
    TEST(keys_are_copied),
    TEST(keys_are_lent_until_the_next_take),
    TEST(a_seed_of_choice_works_as_well),
    TEST(wait_for_datastore_counts_as_received_at_first),
    TEST(a_status_equal_to_the_latest_received_is_dropped),
    TEST(a_status_overwrites_one_that_is_last),
    TEST(a_status_goes_behind_updates),
    TEST(a_status_may_equal_one_already_delivered),
    TEST(a_status_is_a_barrier_and_replacing_overtakes_it),
    TEST(statuses_that_become_neighbours_are_merged),
    TEST(a_status_that_became_last_is_overwritten),
    TEST(merging_in_the_middle_keeps_the_rest),
    TEST(an_overwritten_status_may_come_back_to_what_was_delivered),
    TEST(a_status_out_of_range_is_refused),
    TEST(statuses_count_in_a_batch),
    TEST(batches_of_any_size),
    TEST(a_take_fills_no_more_than_its_capacity),
    TEST(a_take_hands_over_at_most_a_batch),
    TEST(a_take_without_room_is_refused),
    TEST(there_is_one_claim),
    TEST(a_take_needs_the_claim),
    TEST(a_claim_after_stop_is_refused),
    TEST(a_hot_key_starves_nobody_nor_itself),
    TEST(stop_leaves_what_is_pending),
    TEST(stop_can_be_repeated),
    TEST(input_after_stop_is_counted_as_dropped),
    TEST(statuses_and_restarts_after_stop_are_ignored),
    TEST(a_batch_taken_before_stop_is_whole),
    TEST(garbage_survives_stop_and_is_handed_out),
    TEST(finish_without_a_loop_stops_at_once),
    TEST(finish_does_not_wait_for_a_claim_by_hand),
    TEST(finish_after_a_loop_was_released_stops_at_once),
    TEST(finish_delivers_what_was_queued_and_no_more),
    TEST(finish_ends_where_it_must_in_small_batches),
    TEST(finish_delivers_a_status_that_was_last),
    TEST(once_delivered_a_finished_buffer_delivers_no_more),
    TEST(finish_delivers_the_newest_of_what_was_queued),
    TEST(finish_whenItsLastKeyIsCancelled_deliversTheOthers),
    TEST(finish_twice_onAnEmptyQueue_dropsWhatComesBetween),
    TEST(finishWhenEmpty_onAnEmptyQueue_deliversWhatComesBeforeTheTake),
    TEST(finish_is_over_when_all_it_waits_for_is_cancelled),
    TEST(restart_afterAFinishWhenDelivered_isIgnored),
    TEST(restart_afterAFinishWhenDelivered_letsUpdatesReplacePendingOnes),
    TEST(restart_afterAFinishWhenEmpty_dropsWhatIsPending),
    TEST(finish_when_empty_goes_on_until_it_is),
    TEST(finish_ofAnUnknownKind_isRejected),
    TEST(finish_of_an_empty_buffer_ends_the_loop),
    TEST(finish_can_be_repeated_and_stop_beats_it),
    TEST(the_hook_is_called_once_per_sleep),
    TEST(what_leaves_the_queue_empty_wakes_nobody),
    TEST(a_claim_by_hand_is_never_woken),
    TEST(nobody_sleeps_after_release),
    TEST(stop_wakes_a_sleeping_loop),
    TEST(the_hook_may_call_the_buffer),
    TEST(the_hook_may_stop_the_buffer),
    TEST(restart_drops_what_is_pending),
    TEST(unseen_keys_are_deleted_at_in_sync),
    TEST(a_synthesized_deletion_has_no_revision),
    TEST(a_deletion_makes_a_key_seen),
    TEST(a_seen_key_is_not_deleted_even_if_delivered_before_in_sync),
    TEST(resent_and_withdrawn_again_is_one_deletion),
    TEST(keys_never_delivered_are_owed_no_deletion),
    TEST(keys_whose_deletion_was_taken_are_owed_none),
    TEST(a_deletion_dropped_by_restart_is_owed_again),
    TEST(a_synthesized_deletion_dropped_by_restart_is_owed_again),
    TEST(a_value_replaces_a_synthesized_deletion),
    TEST(only_the_first_in_sync_after_a_restart_sweeps),
    TEST(in_sync_without_a_restart_deletes_nothing),
    TEST(a_second_restart_starts_over_from_what_is_live_then),
    TEST(restart_twice_in_a_row_is_as_once),
    TEST(restart_does_not_disturb_a_batch_that_was_taken),
    TEST(stale_pending_value_of_a_live_key_is_owed_a_deletion),
    TEST(in_sync_goes_behind_what_is_queued_and_its_deletions),
    TEST(deletions_separate_the_statuses),
    TEST(a_large_resync_is_exact),
    TEST(run_withFixedSeed_isRepeatable),
    TEST(collect_hands_back_each_dropped_payload_once),
    TEST(collect_finds_what_in_sync_and_takes_left),
    TEST(restarts_without_collecting_keep_one_payload_per_key),
    TEST(collecting_without_room_tells_whether_something_is_left),
    TEST(a_buffer_without_garbage_says_so),
    TEST(d1_repeated_in_sync_after_restart_wakes_the_loop),
    TEST(d7_inSync_endingAResync_isQueuedEvenIfItRepeats),
    TEST(d7_twoInSyncs_afterOneRestart_queueOne),
    TEST(d2_a_status_dropped_by_restart_is_not_swallowed_later),
    TEST(d2_before_any_status_was_taken_waiting_is_the_latest),
    TEST(d3_flapping_status_and_key_do_not_grow_the_queue),
    TEST(d4_any_number_of_deletions_is_one),
    TEST(d5_a_deletion_is_delivered_as_deleted),
    TEST(a_million_flips_take_constant_memory),
    TEST(a_million_different_keys_take_constant_memory),
    TEST(many_keys_come_and_go),
    TEST(many_keys_cancelled_or_dropped),
};

static const named_test_t one_level[] = {
    TEST(handles_in_every_outcome),
    TEST(dropped_payloads_come_back_in_queued_updates_only),
    TEST(leftovers_are_what_is_pending_and_not_what_the_caller_owns),
    TEST(leftovers_are_what_restarts_dropped_too),
    TEST(leftovers_after_a_restart_alone),
    TEST(destroy_without_asking_for_leftovers),
    TEST(rejected_updates_leave_their_handles),
    TEST(rejection_is_the_same_for_keys_that_are_pending),
    TEST(value_withoutASlot_isRefused_andNothingBehindItIsTouched),
    TEST(claim_ofAnUnknownKind_isRefused),
    TEST(zeroCount_withANullPointer_isAllowedEverywhere),
    TEST(options_areChecked_andTheWrongOneIsNamed),
    TEST(optionsInit_ofAShorterStruct_writesOnlyThat),
    TEST(payloads_of_every_size_and_alignment),
    TEST(discard_skips_zeros_and_slots_are_used_again),
    TEST(payloads_stay_where_they_are_while_others_come),
    TEST(options_out_of_range_are_refused),
    TEST(one_hook_of_the_pair_is_refused),
    TEST(an_older_caller_gets_defaults_for_the_rest),
    TEST(a_newer_caller_is_served),
    TEST(bytes_level_ignores_payload_options),
    TEST(every_result_has_a_text),
    TEST(values_of_every_length_are_copied),
    TEST(values_are_lent_until_the_next_take),
    TEST(a_loop_may_do_without_a_hook),
};

static void
run_all(const named_test_t *tests, size_t count)
{
    size_t index;

    for (index = 0; index < count; index++) {
        check_test = tests[index].name;
        tests[index].run();
    }
}

static void
describe(FILE *out)
{
    fprintf(out, "  at the %s level\n", level == SUBJECT_BYTES ? "bytes" : "handle");
}

int
main(int argc, char **argv)
{
    if (argc > 1) {
        rounds = strtoull(argv[1], NULL, 10);
    }
    check_describe = describe;
    level = SUBJECT_BYTES;
    run_all(both_levels, sizeof(both_levels) / sizeof(both_levels[0]));
    level = SUBJECT_HANDLES;
    run_all(both_levels, sizeof(both_levels) / sizeof(both_levels[0]));
    run_all(one_level, sizeof(one_level) / sizeof(one_level[0]));
    return check_finish();
}
