/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the header promises besides the rules of the scenarios: which arguments and options are
 * refused, what belongs to whom and for how long, and what a wake callback may do.
 */
#include <stdlib.h>

#include "check.h"
#include "hooks.h"
#include "subject.h"

static subject_level_t level;
static hooks_t hooks;
static subject_t subject;
static subject_t *const s = &subject;

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
restart(void)
{
    CHECK_EQ(subject_restart(s), CDEDUPE_OK);
}

static void
in_sync(void)
{
    CHECK_EQ(subject_status(s, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
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
/* Keys                                                                                           */

static void
a_key_too_long_is_rejected_and_nothing_is_lost(void)
{
    char *key = calloc(1, CDEDUPE_KEY_MAX + 1);
    subject_update_t updates[] = {
        {"a", 1, false, 1, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0},
        {"b", 1, false, 2, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0},
        {key, CDEDUPE_KEY_MAX + 1, false, 3, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0},
        {"a", 1, false, 4, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0},
        {"c", 1, true, 5, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0},
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
    subject_update_t update = {"a", SIZE_MAX, true, 0, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0};

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

/* The keys of a batch stay readable until the sink takes again, even if a key is deleted. */
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
/* Calls                                                                                          */

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

static void
put_numbers(uint64_t from, uint64_t to)
{
    for (; from < to; from++) {
        put(s, name(from), from + 1);
    }
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

/* A newer caller's members that the library does not know are zero. */
static void
optionsInit_ofALongerStruct_clearsTheRest(void)
{
    struct {
        cdedupe_options_t options;
        uint64_t unknown[4];
    } newer;

    memset(&newer, 0x5a, sizeof(newer));
    cdedupe_options_init(&newer.options, sizeof(newer));
    CHECK_EQ(newer.options.size, sizeof(newer));
    for (size_t i = 0; i < 4; i++)
        CHECK_EQ(newer.unknown[i], 0);
    CHECK(cdedupe_options_check(&newer.options) == NULL);
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

/* One more is where an array of a batch's size would be overrun. */
static void
take_withRoomForMoreThanABatch_takesABatch(void)
{
    static const size_t rooms[] = {4, 5, 100};
    cdedupe_options_t options = cdedupe_options();
    cdedupe_item_t items[100];
    cdedupe_t *core;
    size_t count;

    options.batch_size = 3;
    CHECK_EQ(cdedupe_create(&options, &core), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(core, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    for (size_t room = 0; room < sizeof(rooms) / sizeof(rooms[0]); room++) {
        for (uint64_t number = 0; number < 5; number++)
            put_slot(core, name(number), true, 0);
        CHECK_EQ(cdedupe_take(core, items, rooms[room], &count), CDEDUPE_OK);
        CHECK_EQ(count, 3);
        CHECK_EQ(cdedupe_take(core, items, rooms[room], &count), CDEDUPE_OK);
        CHECK_EQ(count, 2);
    }
    cdedupe_destroy(core);
}

static void
payloads_ofSeveralSlots_areThoseOfEach_andNoneOfZero(void)
{
    cdedupe_t *core = open_core(64, 64);
    cdedupe_slot_t slots[3];
    void *payloads[3] = {&hooks, &hooks, &hooks};

    CHECK_EQ(cdedupe_acquire(core, slots, 3), CDEDUPE_OK);
    cdedupe_discard(core, &slots[1], 1);
    slots[1] = 0;
    cdedupe_payloads(core, slots, 3, payloads);
    CHECK(payloads[0] == cdedupe_payload(core, slots[0]));
    CHECK(payloads[1] == NULL);
    CHECK(payloads[2] == cdedupe_payload(core, slots[2]));
    cdedupe_discard(core, slots, 3);
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
    cdedupe_t *core = (cdedupe_t *)&hooks; /* Must be overwritten. */
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
    cdedupe_bytes_t *bytes = NULL;
    cdedupe_item_t items[200];
    size_t count = 0;
    uint64_t number;

    options.size = offsetof(cdedupe_options_t, batch_size);
    options.batch_size = 0; /* Not part of the caller's struct. */
    CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_OK);
    cdedupe_bytes_destroy(bytes);
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
    bytes = (cdedupe_bytes_t *)&hooks;
    CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_INVALID_ARGUMENT);
    CHECK(bytes == NULL);
}

/* What the bytes level sets itself does not depend on how much the caller knows. */
static void
bytesCreate_forAnOlderCaller_keepsValuesApart(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_item_t items[100];
    cdedupe_bytes_t *bytes;
    size_t count;

    options.size = sizeof(options.size);
    CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_OK);
    for (unsigned char i = 0; i < 100; i++)
        CHECK_EQ(cdedupe_bytes_put(bytes, &i, 1, &i, 1, i, NULL), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_claim(bytes, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take(bytes, items, 100, &count), CDEDUPE_OK);
    CHECK_EQ(count, 100);
    for (unsigned char i = 0; i < count; i++)
        CHECK(items[i].value_length == 1 && *(const unsigned char *)items[i].value == i &&
              items[i].revision == i);
    CHECK_NO_FAULT(cdedupe_bytes_validate(bytes));
    cdedupe_bytes_destroy(bytes);
}

/* A struct that was not initialised has some size, which must not be believed. */
static void
bytesCreate_withASizeOutOfRange_isRefused(void)
{
    static const size_t sizes[] = {0, 1, sizeof(size_t) - 1, 4097, SIZE_MAX};
    cdedupe_bytes_t *bytes;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        cdedupe_options_t options = cdedupe_options();

        options.size = sizes[i];
        bytes = (cdedupe_bytes_t *)&hooks;
        CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_INVALID_ARGUMENT);
        CHECK(bytes == NULL);
        CHECK(cdedupe_options_check(&options) != NULL);
    }
}

static void
every_result_has_a_text(void)
{
    int result;

    for (result = CDEDUPE_OK; result <= CDEDUPE_TOO_MANY_PINS; result++) {
        const char *text = cdedupe_result_text((cdedupe_result_t)result);

        CHECK(text != NULL && strlen(text) > 0 && text[strlen(text) - 1] != '.');
        CHECK(strcmp(text, "unknown result") != 0);
    }
    CHECK_TEXT(cdedupe_result_text((cdedupe_result_t)(CDEDUPE_TOO_MANY_PINS + 1)),
               "unknown result");
}

static cdedupe_result_t
create_with_offset(size_t payload_size, size_t offset)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer;
    cdedupe_result_t result;

    options.payload_size = payload_size;
    options.suppress_unchanged = true;
    options.revision_offset = offset;
    result = cdedupe_create(&options, &buffer);
    CHECK_EQ(result == CDEDUPE_OK, buffer != NULL);
    cdedupe_destroy(buffer);
    return result;
}

static void
the_revision_lies_within_the_payload(void)
{
    CHECK_EQ(create_with_offset(8, 0), CDEDUPE_OK);
    CHECK_EQ(create_with_offset(24, 16), CDEDUPE_OK);
    CHECK_EQ(create_with_offset(8, 1), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(create_with_offset(24, 17), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(create_with_offset(24, 24), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(create_with_offset(4, 0), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(create_with_offset(24, SIZE_MAX), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(create_with_offset(24, SIZE_MAX - 7), CDEDUPE_INVALID_ARGUMENT);
}

/*
 * Where the caller's compiler knew no such options, what comes after the end of its struct is not
 * read.
 */
static void
an_older_callers_options_end_earlier(void)
{
    struct {
        cdedupe_options_t options;
    } older;
    cdedupe_t *buffer;
    cdedupe_update_t update = {.key = "a", .key_length = 1};

    memset(&older, 0xff, sizeof(older));
    older.options = cdedupe_options();
    memset((char *)&older + offsetof(cdedupe_options_t, suppress_unchanged), 0xff,
           sizeof(older) - offsetof(cdedupe_options_t, suppress_unchanged));
    older.options.size = offsetof(cdedupe_options_t, suppress_unchanged);
    CHECK_EQ(cdedupe_create(&older.options, &buffer), CDEDUPE_OK);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cdedupe_acquire(buffer, &update.slot, 1), CDEDUPE_OK);
        CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
        CHECK_EQ(update.outcome, i == 0 ? CDEDUPE_OUTCOME_QUEUED : CDEDUPE_OUTCOME_REPLACED);
    }
    cdedupe_destroy(buffer);
}

static void
do_nothing(void *context, void *older, void *newer)
{
    (void)context, (void)older, (void)newer;
}

static void
bytes_are_not_merged(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *bytes;

    options.merge = do_nothing;
    CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_INVALID_ARGUMENT);
    CHECK(bytes == NULL);
}

/*
 * A newer caller's counters that we do not know are zero; an older one's memory behind its own is
 * left alone.
 */
static void
statistics_are_as_long_as_the_caller_says(void)
{
    struct {
        cdedupe_statistics_t known;
        uint64_t unknown[8];
    } newer;
    struct {
        uint64_t known[2];
        uint64_t untouched;
    } older = {.untouched = 4711};
    cdedupe_t *buffer = open_core(8, 8);

    memset(&newer, 0xff, sizeof(newer));
    put_slot(buffer, "a", true, 0);
    cdedupe_statistics(buffer, &newer.known, sizeof(newer));
    CHECK_EQ(newer.known.pending_keys, 1);
    for (size_t i = 0; i < 8; i++)
        CHECK_EQ(newer.unknown[i], 0);
    cdedupe_statistics(buffer, (cdedupe_statistics_t *)(void *)&older, sizeof(older.known));
    CHECK_EQ(older.known[0], 1);
    CHECK_EQ(older.untouched, 4711);
    cdedupe_destroy(buffer);
    hooks_close(&hooks);
}

static void
bytesStatistics_areAsLongAsTheCallerSays(void)
{
    struct {
        cdedupe_statistics_t known;
        uint64_t unknown[8];
    } newer;
    struct {
        uint64_t known[2];
        uint64_t untouched;
    } older = {.untouched = 4711};
    cdedupe_bytes_t *bytes;

    memset(&newer, 0xff, sizeof(newer));
    CHECK_EQ(cdedupe_bytes_create(NULL, &bytes), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put(bytes, "a", 1, "1", 1, 0, NULL), CDEDUPE_OK);
    cdedupe_bytes_statistics(bytes, &newer.known, sizeof(newer));
    CHECK_EQ(newer.known.pending_keys, 1);
    for (size_t i = 0; i < 8; i++)
        CHECK_EQ(newer.unknown[i], 0);
    cdedupe_bytes_statistics(bytes, (cdedupe_statistics_t *)(void *)&older, sizeof(older.known));
    CHECK_EQ(older.known[0], 1);
    CHECK_EQ(older.untouched, 4711);
    cdedupe_bytes_destroy(bytes);
}

/* A call that runs out of slots halfway asks for one slab, not for two of which it frees one. */
static void
acquire_withManySlabs_allocatesEachOnce(void)
{
    enum { SLOTS = 20000, CALL = 100 };
    static cdedupe_slot_t slots[SLOTS];
    cdedupe_t *buffer = open_core(64, 8);

    hooks.allocations = hooks.deallocations = 0;
    for (size_t i = 0; i < SLOTS; i += CALL)
        CHECK_EQ(cdedupe_acquire(buffer, slots + i, CALL), CDEDUPE_OK);
    CHECK(hooks.allocations >= SLOTS * 64 / (256 * 1024));
    CHECK_EQ(hooks.deallocations, 0);
    cdedupe_discard(buffer, slots, SLOTS);
    cdedupe_destroy(buffer);
    hooks_close(&hooks);
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

typedef struct named_test {
    const char *name;
    void (*run)(void);
} named_test_t;

/* clang-format off */
#define TEST(function) {#function, function}
/* clang-format on */

static const named_test_t both_levels[] = {
    TEST(a_key_too_long_is_rejected_and_nothing_is_lost),
    TEST(a_huge_length_is_rejected_without_being_read),
    TEST(keys_are_copied),
    TEST(keys_are_lent_until_the_next_take),
    TEST(a_seed_of_choice_works_as_well),
    TEST(a_status_out_of_range_is_refused),
    TEST(finish_ofAnUnknownKind_isRejected),
    TEST(the_hook_may_call_the_buffer),
    TEST(the_hook_may_stop_the_buffer),
    TEST(run_withFixedSeed_isRepeatable),
    TEST(a_buffer_without_garbage_says_so),
    TEST(collecting_without_room_tells_whether_something_is_left),
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
    TEST(optionsInit_ofALongerStruct_clearsTheRest),
    TEST(payloads_of_every_size_and_alignment),
    TEST(discard_skips_zeros_and_slots_are_used_again),
    TEST(take_withRoomForMoreThanABatch_takesABatch),
    TEST(payloads_ofSeveralSlots_areThoseOfEach_andNoneOfZero),
    TEST(payloads_stay_where_they_are_while_others_come),
    TEST(options_out_of_range_are_refused),
    TEST(one_hook_of_the_pair_is_refused),
    TEST(an_older_caller_gets_defaults_for_the_rest),
    TEST(a_newer_caller_is_served),
    TEST(bytes_level_ignores_payload_options),
    TEST(bytesCreate_withASizeOutOfRange_isRefused),
    TEST(bytesCreate_forAnOlderCaller_keepsValuesApart),
    TEST(bytesStatistics_areAsLongAsTheCallerSays),
    TEST(every_result_has_a_text),
    TEST(values_are_lent_until_the_next_take),
    TEST(a_loop_may_do_without_a_hook),
    TEST(the_revision_lies_within_the_payload),
    TEST(an_older_callers_options_end_earlier),
    TEST(bytes_are_not_merged),
    TEST(statistics_are_as_long_as_the_caller_says),
    TEST(acquire_withManySlabs_allocatesEachOnce),
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
main(void)
{
    check_describe = describe;
    level = SUBJECT_BYTES;
    run_all(both_levels, sizeof(both_levels) / sizeof(both_levels[0]));
    level = SUBJECT_HANDLES;
    run_all(both_levels, sizeof(both_levels) / sizeof(both_levels[0]));
    run_all(one_level, sizeof(one_level) / sizeof(one_level[0]));
    return check_finish();
}
