/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The merge callback: calls of other threads while it runs, which it starts itself; calls from
 * inside it; then many threads. The rules of merging are in merging.scenarios.
 *
 * Nothing here reads a clock. The test gives a call that has to wait the chance to return without
 * waiting. It makes a call that must not wait while the callback runs, and the callback waits for
 * that call. Therefore a fault shows as a test that never ends, or as a check that fails.
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "CDedupe.h"
#include "check.h"
#include "random.h"

/* ---------------------------------------------------------------------------------------------- */
/* While the callback runs                                                                        */

/*
 * What is in a slot: decimal digits, for which values were merged in which order; and what it
 * weighs.
 */
typedef struct value {
    uint64_t digits;
    uint64_t weight;
} value_t;

static cdedupe_t *buffer;
static atomic_uint wakes;
static void (*on_wake)(void);
static char text[200];
static uint64_t now;

/* Called in the callback, with the digits of what is merged, after the merge. */
static void (*during)(uint64_t older, uint64_t newer);
static uint64_t merged_weight;
static size_t merges;

static void
wake(void *context)
{
    (void)context;
    atomic_fetch_add(&wakes, 1);
    if (on_wake != NULL) {
        on_wake();
    }
}

static uint64_t
clock_by_hand(void *context)
{
    (void)context;
    return now;
}

static uint64_t
concatenated(uint64_t older, uint64_t newer)
{
    for (uint64_t rest = newer; rest != 0; rest /= 10) {
        older *= 10;
    }
    return older + newer;
}

/* What it says about the older one's weight is of no interest to anybody any more. */
static void
merge_values(void *context, void *older, void *newer)
{
    value_t *from = older, *into = newer;
    uint64_t second = into->digits;

    CHECK(context == &buffer);
    into->digits = concatenated(from->digits, second);
    into->weight = merged_weight;
    from->weight = 77;
    merges++;
    if (during != NULL) {
        during(from->digits, second);
    }
}

/* Three keys may be pending, and weigh a hundred. */
static void
open_buffer(cdedupe_claim_t claim)
{
    cdedupe_options_t options = cdedupe_options();

    options.payload_size = sizeof(value_t);
    options.merge = merge_values;
    options.merge_context = &buffer;
    options.maximum_pending_keys = 3;
    options.maximum_pending_bytes = 100;
    options.weight_offset = offsetof(value_t, weight);
    options.wake = wake;
    options.clock = clock_by_hand;
    CHECK_EQ(cdedupe_create(&options, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(buffer, claim), CDEDUPE_OK);
    atomic_store(&wakes, 0);
    on_wake = NULL;
    during = NULL;
    merged_weight = 1;
    merges = 0;
    now = 0;
}

static value_t *
value_of(cdedupe_slot_t slot)
{
    return cdedupe_payload(buffer, slot);
}

static void
drop_value(cdedupe_slot_t slot)
{
    if (slot != 0) {
        CHECK(value_of(slot)->digits != UINT64_MAX);
        value_of(slot)->digits = UINT64_MAX;
        cdedupe_discard(buffer, &slot, 1);
    }
}

/* Zero digits: a deletion. */
static cdedupe_update_t
make_update(const char *key, uint64_t digits)
{
    cdedupe_update_t update = {.key = key, .key_length = strlen(key), .deletion = digits == 0};

    if (digits != 0) {
        CHECK_EQ(cdedupe_acquire(buffer, &update.slot, 1), CDEDUPE_OK);
        *value_of(update.slot) = (value_t){digits, 1};
    }
    return update;
}

static cdedupe_outcome_t
drop_update(cdedupe_update_t *update)
{
    drop_value(update->slot);
    drop_value(update->displaced);
    return (cdedupe_outcome_t)update->outcome;
}

static cdedupe_outcome_t
put_value(const char *key, uint64_t digits)
{
    cdedupe_update_t update = make_update(key, digits);

    CHECK_EQ(cdedupe_put(buffer, &update, 1),
             update.outcome == CDEDUPE_OUTCOME_OVERFLOWED ? CDEDUPE_OVERFLOWED : CDEDUPE_OK);
    return drop_update(&update);
}

static cdedupe_item_t items[10];
static size_t taken;

static cdedupe_result_t
take_batch(void)
{
    return cdedupe_take(buffer, items, 10, &taken);
}

static void
drop_batch(void)
{
    for (size_t i = 0; i < taken; i++) {
        drop_value(items[i].slot);
    }
    taken = 0;
}

/* A batch as text. */
static const char *
take(void)
{
    cdedupe_result_t result = take_batch();
    size_t length = 0;

    snprintf(text, sizeof(text), "%s",
             result == CDEDUPE_OK        ? ""
             : result == CDEDUPE_EMPTY   ? "empty"
             : result == CDEDUPE_STOPPED ? "stopped"
                                         : cdedupe_result_text(result));
    for (size_t i = 0; i < taken; i++) {
        const cdedupe_item_t *item = &items[i];

        length += (size_t)snprintf(text + length, sizeof(text) - length, "%s%c%.*s",
                                   i > 0 ? " " : "", "+~-!"[item->kind], (int)item -> key_length,
                                   (const char *)item -> key);
        if (item->slot != 0) {
            length += (size_t)snprintf(text + length, sizeof(text) - length, "=%" PRIu64,
                                       value_of(item->slot)->digits);
        }
    }
    drop_batch();
    return text;
}

static cdedupe_statistics_t
statistics(void)
{
    cdedupe_statistics_t s;

    cdedupe_statistics(buffer, &s, sizeof(s));
    CHECK_EQ(s.received + s.synthesized_deletions,
             s.delivered + s.replaced + s.cancelled + s.suppressed + s.dropped + s.pending_keys);
    return s;
}

static void
collect(void)
{
    cdedupe_slot_t slots[4];
    size_t count;

    while (cdedupe_collect(buffer, slots, 4, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++) {
            drop_value(slots[i]);
        }
    }
}

/* How many payloads the buffer still had, except those that were dropped. */
static size_t
close_buffer(void)
{
    uint64_t cursor = 0;
    cdedupe_slot_t slot;
    size_t leftovers = 0;

    collect();
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    while ((slot = cdedupe_drain_next(buffer, &cursor)) != 0) {
        CHECK(value_of(slot)->digits != UINT64_MAX);
        leftovers++;
    }
    cdedupe_destroy(buffer);
    return leftovers;
}

/* A call on another thread. */
typedef struct other {
    pthread_t thread;
    void (*call)(void);
    atomic_bool began, returned;
} other_t;

static other_t other;

static void *
run_other(void *argument)
{
    (void)argument;
    atomic_store(&other.began, true);
    other.call();
    atomic_store(&other.returned, true);
    return NULL;
}

static void
begin_other(void (*call)(void))
{
    other.call = call;
    atomic_store(&other.began, false);
    atomic_store(&other.returned, false);
    pthread_create(&other.thread, NULL, run_other, NULL);
}

/* It must not wait for the callback that runs. */
static void
call_other(void (*call)(void))
{
    begin_other(call);
    pthread_join(other.thread, NULL);
}

/* It must wait: it gets chances not to. */
static void
begin_waiting(void (*call)(void))
{
    begin_other(call);
    while (!atomic_load(&other.began)) {
        sched_yield();
    }
    for (int i = 0; i < 300; i++) {
        sched_yield();
    }
    CHECK(!atomic_load(&other.returned));
}

static void
end_waiting(void)
{
    pthread_join(other.thread, NULL);
    CHECK(atomic_load(&other.returned));
}

/* Runs a test on a buffer with a loop, and tells how many leftovers there must be. */
static void
with_a_claim(cdedupe_claim_t claim, void (*test)(void), size_t leftovers)
{
    open_buffer(claim);
    test();
    CHECK_EQ(close_buffer(), leftovers);
}

/* ---------------------------------------------------------------------------------------------- */
/* The loop                                                                                       */

static void
take_nothing(void)
{
    CHECK_TEXT(take(), "empty");
}

static void
loop_finds_nothing(uint64_t older, uint64_t newer)
{
    (void)older, (void)newer;
    call_other(take_nothing);
    CHECK_EQ(atomic_load(&wakes), 0);
    during = NULL;
}

static void
a_loop_that_comes_meanwhile_is_woken_afterwards(void)
{
    put_value("b", 5);
    put_value("a", 1);
    during = loop_finds_nothing;
    CHECK_EQ(put_value("a", 2), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_TEXT(take(), "+b=5 +a=12");
}

static void
a_loop_that_does_not_sleep_is_not_woken(void)
{
    put_value("a", 1);
    put_value("a", 2);
    CHECK_EQ(atomic_load(&wakes), 0);
    CHECK_TEXT(take(), "+a=12");
}

static void
what_is_queued_by_the_same_call_wakes_it_once(void)
{
    cdedupe_update_t updates[3];

    put_value("a", 1);
    updates[0] = make_update("a", 2);
    updates[1] = make_update("b", 3);
    updates[2] = make_update("c", 4);
    during = loop_finds_nothing;
    CHECK_EQ(cdedupe_put(buffer, updates, 3), CDEDUPE_OK);
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_TEXT(take(), "+a=12 +b=3 +c=4");
    for (size_t i = 0; i < 3; i++) {
        drop_update(&updates[i]);
    }
}

static void
take_two_values(void)
{
    CHECK_TEXT(take(), "+a=12 +b=3");
    on_wake = NULL;
}

/* The sink need not wait for all merges of a call. */
static void
the_loop_takes_before_the_next_merge_of_the_call(void)
{
    cdedupe_update_t updates[2];

    put_value("a", 1);
    put_value("b", 3);
    updates[0] = make_update("a", 2);
    updates[1] = make_update("b", 4);
    during = loop_finds_nothing;
    on_wake = take_two_values;
    CHECK_EQ(cdedupe_put(buffer, updates, 2), CDEDUPE_OK);
    CHECK_EQ(merges, 1);
    CHECK_EQ(drop_update(&updates[0]), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(drop_update(&updates[1]), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "~b=4");
}

static void
take_seven(void)
{
    on_wake = NULL;
    CHECK_TEXT(take(), "+b=7");
    CHECK_EQ(merges, 0);
}

/* The hook is called before a merge begins, which may last. */
static void
a_sleeping_loop_is_woken_before_the_next_merge_of_the_call(void)
{
    cdedupe_update_t updates[3];

    CHECK_TEXT(take(), "empty");
    updates[0] = make_update("b", 7);
    updates[1] = make_update("a", 1);
    updates[2] = make_update("a", 2);
    put_value("c", 1);
    CHECK_TEXT(take(), "+c=1");
    CHECK_TEXT(take(), "empty");
    atomic_store(&wakes, 0);
    on_wake = NULL;
    CHECK_EQ(cdedupe_put(buffer, updates, 3), CDEDUPE_OK);
    CHECK_EQ(atomic_load(&wakes), 1);
    for (size_t i = 0; i < 3; i++) {
        drop_update(&updates[i]);
    }
    CHECK_TEXT(take(), "+b=7 +a=12");
    put_value("b", 0);
    put_value("a", 0);
    take();
    CHECK_TEXT(take(), "empty");
    merges = 0;
    on_wake = take_seven;
    updates[0] = make_update("b", 7);
    updates[1] = make_update("b", 8);
    CHECK_EQ(cdedupe_put(buffer, updates, 2), CDEDUPE_OK);
    CHECK_EQ(merges, 0);
    CHECK_EQ(drop_update(&updates[1]), CDEDUPE_OUTCOME_QUEUED);
    drop_update(&updates[0]);
    CHECK_TEXT(take(), "~b=8");
}

/* The batch before is over. */
static void
a_take_that_finds_nothing_ends_the_batch(void)
{
    size_t count = 1;

    put_value("b", 5);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    drop_batch();
    put_value("a", 1);
    during = loop_finds_nothing;
    put_value("a", 2);
    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_INVALID_ARGUMENT);
    CHECK_TEXT(take(), "+a=12");
}

static void
after_a_release_nobody_is_woken(void)
{
    put_value("a", 1);
    during = loop_finds_nothing;
    cdedupe_release(buffer);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    put_value("a", 2);
    CHECK_EQ(atomic_load(&wakes), 1);
    cdedupe_release(buffer);
    put_value("a", 3);
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_TEXT(take(), "+a=123");
}

static void
take_a12(void)
{
    CHECK_TEXT(take(), "+a=12");
}

static void
single_batch_waits(uint64_t older, uint64_t newer)
{
    (void)older, (void)newer;
    begin_waiting(take_a12);
}

static void
a_single_batch_waits_for_the_merge(void)
{
    put_value("a", 1);
    during = single_batch_waits;
    put_value("a", 2);
    end_waiting();
    during = NULL;
    CHECK_EQ(atomic_load(&wakes), 0);
    CHECK_TEXT(take(), "empty");
}

/* ---------------------------------------------------------------------------------------------- */
/* Others wait                                                                                    */

static void (*call_that_waits)(void);

static void
wait_for_it(uint64_t older, uint64_t newer)
{
    (void)older, (void)newer;
    during = NULL;
    begin_waiting(call_that_waits);
}

/* Value 2 is merged into value 1 of a while another thread makes a call. */
static void
merge_while(void (*call)(void))
{
    call_that_waits = call;
    during = wait_for_it;
    CHECK_EQ(put_value("a", 2), CDEDUPE_OUTCOME_REPLACED);
    end_waiting();
    CHECK_NO_FAULT(cdedupe_validate(buffer));
}

static void
put_three(void)
{
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_REPLACED);
}

static void
another_value_of_the_key_is_merged_after_it(void)
{
    put_value("a", 1);
    merge_while(put_three);
    CHECK_TEXT(take(), "+a=123");
}

static void
put_another_key(void)
{
    CHECK_EQ(put_value("b", 3), CDEDUPE_OUTCOME_QUEUED);
}

static void
a_value_of_another_key_comes_after_it(void)
{
    put_value("a", 1);
    merge_while(put_another_key);
    CHECK_TEXT(take(), "+a=12 +b=3");
}

static void
cancel_it(void)
{
    CHECK_EQ(put_value("a", 0), CDEDUPE_OUTCOME_CANCELLED);
}

static void
a_deletion_comes_after_it(void)
{
    put_value("a", 1);
    merge_while(cancel_it);
    CHECK_EQ(statistics().cancelled, 2);
    CHECK_TEXT(take(), "empty");
}

static void
restart(void)
{
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
}

static void
a_restart_drops_what_was_merged(void)
{
    put_value("a", 1);
    merge_while(restart);
    CHECK_EQ(statistics().dropped, 1);
    CHECK_EQ(statistics().pending_bytes, 0);
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+a=3");
}

static void
send_in_sync(void)
{
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
}

static void
a_status_comes_after_it(void)
{
    put_value("a", 1);
    merge_while(send_in_sync);
    CHECK_TEXT(take(), "+a=12 !");
}

static void
a_sweep_comes_after_it(void)
{
    put_value("c", 1);
    CHECK_TEXT(take(), "+c=1");
    restart();
    put_value("a", 1);
    merge_while(send_in_sync);
    CHECK_TEXT(take(), "+a=12 -c !");
}

static void
collecting_comes_after_it(void)
{
    put_value("b", 1);
    restart();
    put_value("a", 1);
    merge_while(collect);
    CHECK_TEXT(take(), "+a=12");
}

static void
put_one_too_many(void)
{
    CHECK_EQ(put_value("d", 1), CDEDUPE_OUTCOME_OVERFLOWED);
}

static void
an_overflow_drops_what_was_merged(void)
{
    put_value("a", 1);
    put_value("b", 1);
    put_value("c", 1);
    merge_while(put_one_too_many);
    CHECK_EQ(statistics().pending_bytes, 0);
    CHECK_TEXT(take(), "empty");
    restart();
}

static void
validate(void)
{
    CHECK_NO_FAULT(cdedupe_validate(buffer));
}

static void
validating_waits_for_it(void)
{
    put_value("a", 1);
    merge_while(validate);
    CHECK_TEXT(take(), "+a=12");
}

static void
put_back_batch(void)
{
    size_t count = taken;

    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_OK);
    CHECK_EQ(count, 0);
}

static void
what_goes_back_is_merged_after_it(void)
{
    put_value("a", 9);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    put_value("a", 1);
    merge_while(put_back_batch);
    CHECK_EQ(value_of(items[0].slot)->digits, 9);
    drop_batch();
    CHECK_TEXT(take(), "+a=912");
}

static void
look_at_counters(void)
{
    CHECK_EQ(statistics().pending_keys, 2);
    CHECK_EQ(statistics().replaced, 0);
    CHECK_EQ(statistics().pending_bytes, 2);
}

static void
look_meanwhile(uint64_t older, uint64_t newer)
{
    CHECK_EQ(older, 1);
    CHECK_EQ(newer, 2);
    call_other(look_at_counters);
}

static void
counters_are_as_before_it(void)
{
    put_value("a", 1);
    put_value("b", 5);
    during = look_meanwhile;
    put_value("a", 2);
    CHECK_EQ(statistics().replaced, 1);
    CHECK_TEXT(take(), "+a=12 +b=5");
}

/* ---------------------------------------------------------------------------------------------- */
/* Places, ages, weights                                                                          */

static void
a_place_keeps_its_age(void)
{
    put_value("a", 1);
    now = 10 * UINT64_C(1000000);
    put_value("a", 2);
    CHECK_EQ(statistics().oldest_pending_age, 10);
    now = 12 * UINT64_C(1000000);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    CHECK_EQ(cdedupe_age(buffer, &items[0]), 12);
    drop_batch();
}

static void
merge_for_two_seconds(uint64_t older, uint64_t newer)
{
    (void)older, (void)newer;
    now += 2000 * UINT64_C(1000000);
}

/* The time of queueing is not that of the beginning of a call with long merges. */
static void
age_ofAKeyThatIsQueuedAfterLongMerges_isZero(void)
{
    cdedupe_update_t updates[4];

    put_value("a", 1);
    updates[0] = make_update("a", 2);
    updates[1] = make_update("b", 3);
    updates[2] = make_update("a", 4);
    updates[3] = make_update("c", 5);
    during = merge_for_two_seconds;
    CHECK_EQ(cdedupe_put(buffer, updates, 4), CDEDUPE_OK);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    CHECK_EQ(taken, 3);
    CHECK_EQ(cdedupe_age(buffer, &items[0]), 4000);
    CHECK_EQ(cdedupe_age(buffer, &items[1]), 2000);
    CHECK_EQ(cdedupe_age(buffer, &items[2]), 0);
    drop_batch();
    for (size_t i = 0; i < 4; i++) {
        drop_update(&updates[i]);
    }
}

/* What is pending weighs what it weighed when it was put, also if the callback changes it. */
static void
what_was_merged_weighs_what_it_says(void)
{
    put_value("a", 1);
    put_value("b", 2);
    CHECK_EQ(statistics().pending_bytes, 2);
    merged_weight = 30;
    put_value("a", 3);
    CHECK_EQ(statistics().pending_bytes, 31);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    merged_weight = 200; /* Beyond the bound: it takes no new place. */
    put_value("a", 4);
    CHECK_EQ(statistics().pending_bytes, 201);
    CHECK_EQ(statistics().overflows, 0);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    CHECK_TEXT(take(), "+a=134 +b=2");
    CHECK_EQ(statistics().pending_bytes, 0);
}

static void
what_is_merged_with_a_put_back_value_weighs_what_it_says(void)
{
    put_value("a", 1);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    put_value("a", 2);
    put_value("b", 5);
    merged_weight = 40;
    put_back_batch();
    CHECK_EQ(statistics().pending_bytes, 41);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    drop_batch();
    CHECK_TEXT(take(), "+a=12 +b=5");
    CHECK_EQ(statistics().pending_bytes, 0);
}

/* Two items of a batch are merged, from the last to the first. */
static void
each_item_that_goes_back_is_merged_with_its_own_key(void)
{
    put_value("a", 1);
    put_value("b", 5);
    put_value("c", 8);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    put_value("b", 6);
    put_value("a", 2);
    put_back_batch();
    CHECK_EQ(merges, 2);
    CHECK(items[0].slot != 0 && items[1].slot != 0 && items[2].slot == 0);
    drop_batch();
    CHECK_TEXT(take(), "+a=12 +b=56 +c=8");
}

/* ---------------------------------------------------------------------------------------------- */
/* Calls from inside                                                                              */

static cdedupe_t *second;

static void
call_everything(uint64_t older, uint64_t newer)
{
    cdedupe_update_t update = make_update("x", 3), none;
    cdedupe_slot_t slots[2];
    size_t count = 2;

    (void)older, (void)newer;
    CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_REENTRANT);
    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_REJECTED);
    drop_update(&update);
    CHECK_EQ(cdedupe_put(buffer, &none, 0), CDEDUPE_OK);
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_REENTRANT);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_REENTRANT);
    CHECK_EQ(cdedupe_collect(buffer, slots, 2, &count), CDEDUPE_REENTRANT);
    CHECK_EQ(count, 0);
    CHECK_EQ(take_batch(), CDEDUPE_REENTRANT);
    CHECK_EQ(taken, 0);
    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_REENTRANT);
    CHECK(cdedupe_validate(buffer) != NULL);
    CHECK_EQ(statistics().received, 1);
    CHECK_EQ(statistics().statuses_received, 0);
    CHECK_EQ(statistics().pending_keys, 1);
}

static void
what_would_wait_for_itself_is_refused(void)
{
    put_value("a", 1);
    during = call_everything;
    CHECK_EQ(put_value("a", 2), CDEDUPE_OUTCOME_REPLACED);
    CHECK_TEXT(take(), "+a=12");
}

static void
calls_from_inside_with_a_single_batch_are_refused(void)
{
    cdedupe_release(buffer);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    what_would_wait_for_itself_is_refused();
}

static void
restart_inside(uint64_t older, uint64_t newer)
{
    (void)older, (void)newer;
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_REENTRANT);
}

static void
restart_from_inside_while_a_batch_goes_back_is_refused(void)
{
    put_value("a", 1);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    put_value("a", 2);
    during = restart_inside;
    put_back_batch();
    CHECK_EQ(merges, 1);
    drop_batch();
    CHECK_TEXT(take(), "+a=12");
}

static void
use_the_second(uint64_t older, uint64_t newer)
{
    cdedupe_update_t update = {.key = "a", .key_length = 1};

    (void)older, (void)newer;
    during = NULL;
    CHECK_EQ(cdedupe_acquire(second, &update.slot, 1), CDEDUPE_OK);
    *(value_t *)cdedupe_payload(second, update.slot) = (value_t){8, 1};
    CHECK_EQ(cdedupe_put(second, &update, 1), CDEDUPE_OK);
    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(cdedupe_restart(second), CDEDUPE_OK);
}

/* Its callback may run inside this one's. */
static void
another_buffer_may_be_called(void)
{
    cdedupe_update_t update = {.key = "a", .key_length = 1};
    cdedupe_options_t options = cdedupe_options();

    options.payload_size = sizeof(value_t);
    options.merge = merge_values;
    options.merge_context = &buffer;
    CHECK_EQ(cdedupe_create(&options, &second), CDEDUPE_OK);
    CHECK_EQ(cdedupe_acquire(second, &update.slot, 1), CDEDUPE_OK);
    *(value_t *)cdedupe_payload(second, update.slot) = (value_t){7, 1};
    CHECK_EQ(cdedupe_put(second, &update, 1), CDEDUPE_OK);
    put_value("a", 1);
    during = use_the_second;
    put_value("a", 2);
    CHECK_EQ(merges, 2);
    cdedupe_destroy(second);
    CHECK_TEXT(take(), "+a=12");
}

/* ---------------------------------------------------------------------------------------------- */
/* The end                                                                                        */

static void
take_stopped(void)
{
    CHECK_TEXT(take(), "stopped");
}

static void
stop_meanwhile(uint64_t older, uint64_t newer)
{
    (void)older, (void)newer;
    during = NULL;
    cdedupe_stop(buffer);
    call_other(take_stopped);
}

static void
after_a_stop_what_was_merged_is_a_leftover(void)
{
    put_value("a", 1);
    during = stop_meanwhile;
    CHECK_EQ(put_value("a", 2), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(statistics().pending_keys, 1);
    CHECK_EQ(statistics().replaced, 1);
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(merges, 1);
    CHECK_TEXT(take(), "stopped");
}

static void
what_follows_in_the_call_is_dropped(void)
{
    cdedupe_update_t updates[2];

    put_value("a", 1);
    updates[0] = make_update("a", 2);
    updates[1] = make_update("a", 3);
    during = stop_meanwhile;
    CHECK_EQ(cdedupe_put(buffer, updates, 2), CDEDUPE_OK);
    CHECK_EQ(drop_update(&updates[0]), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(drop_update(&updates[1]), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(merges, 1);
}

static void
stop_a_sleeping_loop(uint64_t older, uint64_t newer)
{
    loop_finds_nothing(older, newer);
    cdedupe_stop(buffer);
    CHECK_EQ(atomic_load(&wakes), 0);
}

/* The wake callback comes after the merge callback, so it may call the buffer. */
static void
stop_insideTheMergeCallback_wakesTheLoopAfterIt(void)
{
    put_value("a", 1);
    during = stop_a_sleeping_loop;
    on_wake = take_stopped;
    put_value("a", 2);
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_TEXT(take(), "stopped");
}

static cdedupe_finish_t finish_kind;

static void
finish_for_a_sleeping_loop(uint64_t older, uint64_t newer)
{
    loop_finds_nothing(older, newer);
    CHECK_EQ(cdedupe_finish(buffer, finish_kind), CDEDUPE_OK);
    CHECK_EQ(atomic_load(&wakes), 0);
}

static void
take_merged_a(void)
{
    on_wake = NULL;
    CHECK_TEXT(take(), "+a=12");
}

static void
finish_insideTheMergeCallback_wakesTheLoopAfterIt(void)
{
    put_value("a", 1);
    during = finish_for_a_sleeping_loop;
    on_wake = take_merged_a;
    put_value("a", 2);
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_TEXT(take(), "stopped");
}

static void
finish_meanwhile(uint64_t older, uint64_t newer)
{
    CHECK_EQ(cdedupe_finish(buffer, finish_kind), CDEDUPE_OK);
    loop_finds_nothing(older, newer);
}

static void
a_finish_waits_for_what_is_merged(void)
{
    put_value("a", 1);
    during = finish_meanwhile;
    put_value("a", 2);
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_TEXT(take(), "+a=12");
    CHECK_TEXT(take(), "stopped");
}

/*
 * The loop sleeps; what it would have delivered is deleted by the same call; it has to be told, or
 * it sleeps forever.
 */
static void
a_finishing_loop_that_came_meanwhile_is_woken_though_nothing_is_left(void)
{
    cdedupe_update_t updates[2];

    put_value("a", 1);
    updates[0] = make_update("a", 2);
    updates[1] = make_update("a", 0);
    during = finish_meanwhile;
    CHECK_EQ(cdedupe_put(buffer, updates, 2), CDEDUPE_OK);
    CHECK_EQ(drop_update(&updates[1]), CDEDUPE_OUTCOME_CANCELLED);
    drop_update(&updates[0]);
    CHECK(atomic_load(&wakes) >= 1);
    CHECK_TEXT(take(), "stopped");
}

static void
run_with_both_kinds(void (*test)(void))
{
    for (int kind = 0; kind < 2; kind++) {
        finish_kind = kind == 0 ? CDEDUPE_FINISH_WHEN_DELIVERED : CDEDUPE_FINISH_WHEN_EMPTY;
        with_a_claim(CDEDUPE_CLAIM_LOOP, test, 0);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Many threads                                                                                   */

enum { PRODUCERS = 4, KEYS_MAX = 60, CALLS = 15000, BATCH_MAX = 200 };

/* The count of a share that was merged into another one. */
#define MOVED_OUT (UINT64_MAX - 1)

/*
 * What was put: how many values by whom, each producer's for this key numbered from one on; and how
 * often it had deleted it.
 */
typedef struct share {
    uint64_t count;
    uint64_t first[PRODUCERS];
    uint64_t last[PRODUCERS];
    uint64_t deletions[PRODUCERS];
} share_t;

typedef struct crowd {
    cdedupe_t *buffer;
    bool quiet; /* Nothing is ever dropped: neither deletions nor restarts. */
    size_t keys, batch;
    atomic_uint running;
    atomic_ullong put, out; /* Values that went in, and came out in whatever way. */
    sem_t woken;
} crowd_t;

typedef struct member {
    crowd_t *crowd;
    uint64_t random;
    size_t number;
    uint64_t next[KEYS_MAX];
    uint64_t deletions[KEYS_MAX];
} member_t;

static void
wake_crowd(void *context)
{
    sem_post(&((crowd_t *)context)->woken);
}

static share_t *
share_of(crowd_t *crowd, cdedupe_slot_t slot)
{
    return cdedupe_payload(crowd->buffer, slot);
}

static void
come_out(crowd_t *crowd, cdedupe_slot_t slot)
{
    if (slot != 0) {
        share_t *share = share_of(crowd, slot);

        CHECK(share->count > 0 && share->count < UINT64_MAX);
        atomic_fetch_add(&crowd->out, share->count != MOVED_OUT ? share->count : 0);
        share->count = UINT64_MAX;
        cdedupe_discard(crowd->buffer, &slot, 1);
    }
}

/* The newer one goes on where the older one ends, and not behind a deletion. */
static void
merge_shares(void *context, void *from, void *into)
{
    share_t *older = from, *newer = into;
    share_t result = {.count = older->count + newer->count};

    (void)context;
    for (size_t i = 0; i < PRODUCERS; i++) {
        CHECK(older->last[i] == 0 || newer->first[i] == 0 || newer->first[i] == older->last[i] + 1);
        CHECK(older->last[i] == 0 || newer->first[i] == 0 ||
              newer->deletions[i] == older->deletions[i]);
        result.first[i] = older->first[i] != 0 ? older->first[i] : newer->first[i];
        result.last[i] = newer->last[i] != 0 ? newer->last[i] : older->last[i];
        result.deletions[i] = newer->last[i] != 0 ? newer->deletions[i] : older->deletions[i];
    }
    *newer = result;
    older->count = MOVED_OUT;
    if (result.count % 8 == 3) {
        sched_yield();
    }
}

static void
put_chunk(member_t *member, uint32_t key)
{
    crowd_t *crowd = member->crowd;
    cdedupe_update_t update = {.key = &key, .key_length = sizeof(key)};
    share_t *share;

    CHECK_EQ(cdedupe_acquire(crowd->buffer, &update.slot, 1), CDEDUPE_OK);
    share = share_of(crowd, update.slot);
    *share = (share_t){.count = 1};
    share->first[member->number] = share->last[member->number] = ++member->next[key];
    share->deletions[member->number] = member->deletions[key];
    atomic_fetch_add(&crowd->put, 1);
    CHECK_EQ(cdedupe_put(crowd->buffer, &update, 1), CDEDUPE_OK);
    CHECK(!crowd->quiet || update.outcome == CDEDUPE_OUTCOME_QUEUED ||
          (update.outcome == CDEDUPE_OUTCOME_REPLACED &&
           share_of(crowd, update.displaced)->count == MOVED_OUT));
    come_out(crowd, update.slot);
    come_out(crowd, update.displaced);
}

static void
disturb(member_t *member, uint32_t key)
{
    crowd_t *crowd = member->crowd;
    cdedupe_update_t update = {.key = &key, .key_length = sizeof(key), .deletion = true};

    if (random_below(&member->random, 4) == 0) {
        CHECK_EQ(cdedupe_restart(crowd->buffer), CDEDUPE_OK);
        CHECK_EQ(cdedupe_put_status(crowd->buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
        return;
    }
    CHECK_EQ(cdedupe_put(crowd->buffer, &update, 1), CDEDUPE_OK);
    member->deletions[key]++;
    come_out(crowd, update.displaced);
}

static void *
work(void *argument)
{
    member_t *member = argument;

    for (size_t i = 0; i < CALLS; i++) {
        uint32_t key = (uint32_t)random_below(&member->random, member->crowd->keys);

        if (!member->crowd->quiet && random_below(&member->random, 10) == 0) {
            disturb(member, key);
        } else {
            put_chunk(member, key);
        }
    }
    if (atomic_fetch_sub(&member->crowd->running, 1) == 1) {
        cdedupe_finish(member->crowd->buffer, CDEDUPE_FINISH_WHEN_EMPTY);
    }
    return NULL;
}

/*
 * Of each key, what the sink has of each producer: it goes on from there; with nothing missing, if
 * it is quiet.
 */
static uint64_t seen[KEYS_MAX][PRODUCERS];

static void
commit(crowd_t *crowd, const cdedupe_item_t *item)
{
    const share_t *share;
    uint32_t key;

    if (item->slot == 0) {
        return;
    }
    memcpy(&key, item->key, sizeof(key));
    share = share_of(crowd, item->slot);
    for (size_t i = 0; i < PRODUCERS; i++) {
        if (share->first[i] != 0) {
            CHECK(crowd->quiet ? share->first[i] == seen[key][i] + 1
                               : share->first[i] > seen[key][i]);
            CHECK(share->last[i] >= share->first[i]);
            seen[key][i] = share->last[i];
        }
    }
    come_out(crowd, item->slot);
}

/* The last of them go back. */
static void
give_back(crowd_t *crowd, cdedupe_item_t *batch, size_t count)
{
    size_t left = count;

    CHECK_EQ(cdedupe_put_back(crowd->buffer, batch, &left), CDEDUPE_OK);
    for (size_t i = 0; i < count; i++) {
        CHECK(batch[i].slot == 0 || !crowd->quiet ||
              share_of(crowd, batch[i].slot)->count == MOVED_OUT);
        come_out(crowd, batch[i].slot);
    }
}

static void
sink(crowd_t *crowd)
{
    cdedupe_item_t batch[BATCH_MAX];
    cdedupe_result_t result;
    uint64_t random = 3;
    size_t count;

    while ((result = cdedupe_take(crowd->buffer, batch, crowd->batch, &count)) != CDEDUPE_STOPPED) {
        size_t back = count > 0 && random_below(&random, 3) == 0
                          ? (size_t)random_below(&random, count + 1)
                          : 0;

        if (result == CDEDUPE_EMPTY) {
            while (sem_wait(&crowd->woken) != 0) {
            }
            continue;
        }
        for (size_t i = 0; i < count - back; i++) {
            commit(crowd, &batch[i]);
        }
        /* Meanwhile the key may have been deleted, and put again. */
        for (uint64_t i = back > 0 ? random_below(&random, 30) : 0; i > 0; i--) {
            sched_yield();
        }
        if (back > 0) {
            give_back(crowd, batch + count - back, back);
        }
    }
}

static void
come_out_at_last(crowd_t *crowd)
{
    cdedupe_slot_t slots[16];
    uint64_t cursor = 0;
    cdedupe_slot_t slot;
    size_t count;

    while (cdedupe_collect(crowd->buffer, slots, 16, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++) {
            come_out(crowd, slots[i]);
        }
    }
    CHECK_NO_FAULT(cdedupe_validate(crowd->buffer));
    while ((slot = cdedupe_drain_next(crowd->buffer, &cursor)) != 0) {
        atomic_fetch_add(&crowd->out, share_of(crowd, slot)->count);
    }
}

static void
crowd_at_work(bool quiet, size_t keys, size_t batch)
{
    static member_t members[PRODUCERS];
    cdedupe_options_t options = cdedupe_options();
    pthread_t threads[PRODUCERS];
    crowd_t crowd = {.quiet = quiet, .keys = keys, .batch = batch};

    memset(seen, 0, sizeof(seen));
    memset(members, 0, sizeof(members));
    options.merge = merge_shares;
    options.payload_size = sizeof(share_t);
    options.batch_size = batch;
    options.wake = wake_crowd;
    options.wake_context = &crowd;
    sem_init(&crowd.woken, 0, 0);
    atomic_init(&crowd.running, PRODUCERS);
    CHECK_EQ(cdedupe_create(&options, &crowd.buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(crowd.buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    for (size_t i = 0; i < PRODUCERS; i++) {
        members[i].crowd = &crowd;
        members[i].number = i;
        members[i].random = i + 1;
        pthread_create(&threads[i], NULL, work, &members[i]);
    }
    sink(&crowd);
    for (size_t i = 0; i < PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
        for (size_t key = 0; quiet && key < keys; key++) {
            CHECK_EQ(seen[key][i], members[i].next[key]);
        }
    }
    come_out_at_last(&crowd);
    CHECK_EQ(atomic_load(&crowd.out), atomic_load(&crowd.put));
    cdedupe_destroy(crowd.buffer);
    sem_destroy(&crowd.woken);
}

static void
every_value_is_merged_once_and_in_order(void)
{
    crowd_at_work(true, 5, 10);
}

static void
with_deletions_and_restarts_every_value_comes_out_once(void)
{
    crowd_at_work(false, 5, 10);
}

/* Batches that are taken in more than one hold: meanwhile a key may come up again. */
static void
large_batches_lose_nothing(void)
{
    crowd_at_work(true, KEYS_MAX, BATCH_MAX);
    crowd_at_work(false, KEYS_MAX, BATCH_MAX);
}

#define RUN_WITH_A_LOOP(test) (check_test = #test, with_a_claim(CDEDUPE_CLAIM_LOOP, test, 0))
#define RUN_WITH_A_LEFTOVER(test) (check_test = #test, with_a_claim(CDEDUPE_CLAIM_LOOP, test, 1))
#define RUN_WITH_A_BATCH(test) \
    (check_test = #test, with_a_claim(CDEDUPE_CLAIM_SINGLE_BATCH, test, 0))
#define RUN_WITH_BOTH_KINDS(test) (check_test = #test, run_with_both_kinds(test))

static void
run_loop(void)
{
    RUN_WITH_A_LOOP(a_loop_that_comes_meanwhile_is_woken_afterwards);
    RUN_WITH_A_LOOP(a_loop_that_does_not_sleep_is_not_woken);
    RUN_WITH_A_LOOP(what_is_queued_by_the_same_call_wakes_it_once);
    RUN_WITH_A_LOOP(the_loop_takes_before_the_next_merge_of_the_call);
    RUN_WITH_A_LOOP(a_sleeping_loop_is_woken_before_the_next_merge_of_the_call);
    RUN_WITH_A_LOOP(a_take_that_finds_nothing_ends_the_batch);
    RUN_WITH_A_LOOP(after_a_release_nobody_is_woken);
    RUN_WITH_A_BATCH(a_single_batch_waits_for_the_merge);
}

static void
run_waiting(void)
{
    RUN_WITH_A_LOOP(another_value_of_the_key_is_merged_after_it);
    RUN_WITH_A_LOOP(a_value_of_another_key_comes_after_it);
    RUN_WITH_A_LOOP(a_deletion_comes_after_it);
    RUN_WITH_A_LOOP(a_restart_drops_what_was_merged);
    RUN_WITH_A_LOOP(a_status_comes_after_it);
    RUN_WITH_A_LOOP(a_sweep_comes_after_it);
    RUN_WITH_A_LOOP(collecting_comes_after_it);
    RUN_WITH_A_LOOP(an_overflow_drops_what_was_merged);
    RUN_WITH_A_LOOP(validating_waits_for_it);
    RUN_WITH_A_LOOP(what_goes_back_is_merged_after_it);
    RUN_WITH_A_LOOP(counters_are_as_before_it);
}

static void
run_places_and_calls_from_inside(void)
{
    RUN_WITH_A_LOOP(a_place_keeps_its_age);
    RUN_WITH_A_LOOP(age_ofAKeyThatIsQueuedAfterLongMerges_isZero);
    RUN_WITH_A_LOOP(what_was_merged_weighs_what_it_says);
    RUN_WITH_A_LOOP(what_is_merged_with_a_put_back_value_weighs_what_it_says);
    RUN_WITH_A_LOOP(each_item_that_goes_back_is_merged_with_its_own_key);
    RUN_WITH_A_LOOP(what_would_wait_for_itself_is_refused);
    RUN_WITH_A_LOOP(calls_from_inside_with_a_single_batch_are_refused);
    RUN_WITH_A_LOOP(restart_from_inside_while_a_batch_goes_back_is_refused);
    RUN_WITH_A_LOOP(another_buffer_may_be_called);
}

static void
run_ends(void)
{
    RUN_WITH_A_LEFTOVER(after_a_stop_what_was_merged_is_a_leftover);
    RUN_WITH_A_LEFTOVER(what_follows_in_the_call_is_dropped);
    RUN_WITH_A_LEFTOVER(stop_insideTheMergeCallback_wakesTheLoopAfterIt);
    RUN_WITH_BOTH_KINDS(finish_insideTheMergeCallback_wakesTheLoopAfterIt);
    RUN_WITH_BOTH_KINDS(a_finish_waits_for_what_is_merged);
    RUN_WITH_BOTH_KINDS(a_finishing_loop_that_came_meanwhile_is_woken_though_nothing_is_left);
}

int
main(void)
{
    check_hangs_after(300);
    run_loop();
    run_waiting();
    run_places_and_calls_from_inside();
    run_ends();
    RUN(every_value_is_merged_once_and_in_order);
    RUN(with_deletions_and_restarts_every_value_comes_out_once);
    RUN(large_batches_lose_nothing);
    return check_finish();
}
