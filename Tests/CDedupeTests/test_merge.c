/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging, rule by rule; then merges that take their time, held open by a thread of their own while the test goes on; then
 * many threads. test_exhaustive.c compares it with the model in all short sequences.
 *
 * Nothing here looks at a clock: what has to wait is given the chance not to, and what has not to wait is done while the
 * merge is open, so that a fault is a test that never ends or a check that fails.
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "check.h"
#include "random.h"
#include "subject.h"

/* ---------------------------------------------------------------------------------------------------- */
/* Merges that are done at once                                                                         */

static subject_t subject;

static void
with_a_subject(void (*test)(void))
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);

    options.merging = true;
    options.suppress = true;
    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    subject.keeps_batch = true;
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    test();
    subject_collect(&subject, 10);
    subject_close(&subject);
}

static void
put_back(size_t count)
{
    uint64_t back[16];

    CHECK_EQ(subject_put_back(&subject, count, back), CDEDUPE_OK);
}

/* The ids are hexadecimal digits, for which values are merged in which order. */
static void
a_value_is_merged_with_a_pending_one(void)
{
    CHECK_EQ(put(&subject, "a", 0x1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "b", 0x2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "a", 0x3), CDEDUPE_OUTCOME_MERGE);
    CHECK_EQ(put(&subject, "a", 0x4), CDEDUPE_OUTCOME_MERGE);
    CHECK_EQ(subject_statistics(&subject).replaced, 2);
    CHECK_EQ(subject_statistics(&subject).received, 4);
    CHECK_EQ(subject_statistics(&subject).pending_keys, 2);
    CHECK_EQ(subject_take(&subject, 100), CDEDUPE_OK);
    CHECK_EQ(subject.count, 2);
    CHECK_EQ(subject.items[0].id, 0x134);
    CHECK_EQ(subject.items[1].id, 0x2);
}

static void
what_was_taken_first_goes_alone(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "~a=2");
}

static void
a_deletion_is_never_merged(void)
{
    put(&subject, "a", 1);
    CHECK_EQ(del_id(&subject, "a", 2), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(put(&subject, "a", 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "+a=3");
    put(&subject, "a", 4);
    CHECK_EQ(del_id(&subject, "a", 5), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(del(&subject, "a"), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(del_id(&subject, "a", 6), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put(&subject, "a", 7), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put(&subject, "a", 8), CDEDUPE_OUTCOME_MERGE);
    CHECK_TEXT(step(&subject), "~a=120"); /* 0x78 */
}

static void
merges_in_the_middle_of_a_call(void)
{
    static const char keys[] = "abacba";
    subject_update_t updates[6];

    for (size_t i = 0; i < 6; i++) {
        updates[i] = (subject_update_t){&keys[i], 1, false, i + 1, CDEDUPE_OUTCOME_UNTOUCHED, 0};
    }
    CHECK_EQ(subject_put(&subject, updates, 6), CDEDUPE_OK);
    CHECK_EQ(subject.merges, 3);
    CHECK_EQ(updates[2].displaced, 1);
    CHECK_EQ(updates[4].displaced, 2);
    CHECK_EQ(updates[5].displaced, 0x13);
    CHECK_EQ(subject_take(&subject, 100), CDEDUPE_OK);
    CHECK_EQ(subject.count, 3);
    CHECK_EQ(subject.items[0].id, 0x136);
    CHECK_EQ(subject.items[1].id, 0x25);
    CHECK_EQ(subject.items[2].id, 0x4);
}

static void
a_restart_leaves_nothing_to_merge_with(void)
{
    put(&subject, "a", 1);
    put(&subject, "a", 2);
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "+a=3");
}

static void
what_the_sink_has_is_suppressed_and_not_merged(void)
{
    put(&subject, "a", 1);
    put(&subject, "a", 2);
    CHECK_TEXT(step(&subject), "+a=18");
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_QUEUED); /* What was taken is of revision 18. */
    CHECK_TEXT(step(&subject), "~a=2");
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_SUPPRESSED);
    CHECK_EQ(put(&subject, "a", 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_MERGE);
    CHECK_TEXT(step(&subject), "~a=50");
}

static void
what_is_put_back_is_merged_with_what_is_newer(void)
{
    put(&subject, "a", 1);
    put(&subject, "b", 2);
    put(&subject, "c", 3);
    CHECK_TEXT(step(&subject), "+a=1 +b=2 +c=3");
    put(&subject, "d", 4);
    put(&subject, "c", 5);
    put(&subject, "a", 6);
    put(&subject, "a", 7);
    put_back(3);
    CHECK_EQ(subject_statistics(&subject).live_keys, 0);
    CHECK_EQ(subject_take(&subject, 100), CDEDUPE_OK);
    CHECK_EQ(subject.count, 4);
    CHECK_EQ(subject.items[0].id, 0x167);
    CHECK_EQ(subject.items[0].kind, CDEDUPE_ITEM_NEW);
    CHECK_EQ(subject.items[1].id, 0x2);
    CHECK_EQ(subject.items[2].id, 0x35);
    CHECK_EQ(subject.items[3].id, 0x4);
}

static void
an_put_back_value_is_not_merged_with_a_deletion(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    put(&subject, "a", 2);
    CHECK_TEXT(step(&subject), "~a=2");
    del_id(&subject, "a", 3);
    put_back(1);
    CHECK_TEXT(step(&subject), "-a=3");
}

static void
an_put_back_deletion_is_not_merged_with_a_value(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    del_id(&subject, "a", 2);
    CHECK_TEXT(step(&subject), "-a=2");
    put(&subject, "a", 3);
    put_back(1);
    CHECK_TEXT(step(&subject), "~a=3");
}

/* Had the first value never been taken, the deletion would have ended it. */
static void
an_put_back_value_is_not_merged_with_what_came_after_a_deletion(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    del(&subject, "a");
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put(&subject, "a", 3), CDEDUPE_OUTCOME_MERGE);
    put_back(1);
    CHECK_EQ(subject_statistics(&subject).replaced, 3);
    CHECK_TEXT(step(&subject), "+a=35"); /* 0x23 */
    put(&subject, "a", 4);
    put_back(1);
    CHECK_EQ(subject_take(&subject, 1), CDEDUPE_OK);
    CHECK_EQ(subject.items[0].id, 0x234);
}

static void
put_back_twice_it_is_merged_twice(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    put(&subject, "a", 2);
    put_back(1);
    CHECK_TEXT(step(&subject), "+a=18");
    put(&subject, "a", 3);
    put_back(1);
    CHECK_TEXT(step(&subject), "+a=291");
}

static void
by_default_nothing_is_merged(void)
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);

    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    put(&subject, "a", 1);
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_REPLACED);
    subject_close(&subject);
}

static void
bytes_are_not_merged(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *bytes;

    options.merging = true;
    CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_INVALID_ARGUMENT);
    CHECK(bytes == NULL);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Merges that take their time                                                                          */

/* What is in a slot: decimal digits, for which values were merged in which order; and what it weighs. */
typedef struct value {
    uint64_t digits;
    uint64_t weight;
} value_t;

static cdedupe_t *buffer;
static atomic_uint wakes;
static char text[200];

static void
wake(void *context)
{
    (void)context;
    atomic_fetch_add(&wakes, 1);
}

static uint64_t now;

static uint64_t
clock_by_hand(void *context)
{
    (void)context;
    return now;
}

/* Three keys may be pending, and weigh a hundred. */
static void
open_buffer(cdedupe_claim_t claim)
{
    cdedupe_options_t options = cdedupe_options();

    options.payload_size = sizeof(value_t);
    options.merging = true;
    options.maximum_pending_keys = 3;
    options.maximum_pending_bytes = 100;
    options.weight_offset = offsetof(value_t, weight);
    options.wake = wake;
    options.clock = clock_by_hand;
    CHECK_EQ(cdedupe_create(&options, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(buffer, claim), CDEDUPE_OK);
    atomic_store(&wakes, 0);
    now = 0;
}

static value_t *
value_of(cdedupe_slot_t slot)
{
    return cdedupe_payload(buffer, slot);
}

static cdedupe_slot_t
make_value(uint64_t digits)
{
    cdedupe_slot_t slot = 0;

    CHECK_EQ(cdedupe_acquire(buffer, &slot, 1), CDEDUPE_OK);
    value_of(slot)->digits = digits;
    value_of(slot)->weight = 1;
    return slot;
}

static void
drop_value(cdedupe_slot_t slot)
{
    if (slot != 0) {
        value_of(slot)->digits = UINT64_MAX;
        cdedupe_discard(buffer, &slot, 1);
    }
}

static cdedupe_statistics_t statistics(void);

/* Puts one update. What comes back stays in the update. */
static cdedupe_update_t
put_update(const char *key, bool deletion, cdedupe_slot_t slot)
{
    cdedupe_update_t update = {
        .key = key, .key_length = strlen(key), .deletion = deletion, .slot = slot};
    cdedupe_result_t result = cdedupe_put(buffer, &update, 1);

    CHECK_EQ(result, update.outcome == CDEDUPE_OUTCOME_MERGE ? CDEDUPE_INCOMPLETE
                     : update.outcome == CDEDUPE_OUTCOME_OVERFLOWED ||
                             (update.outcome == CDEDUPE_OUTCOME_DROPPED && statistics().overflowed)
                         ? CDEDUPE_OVERFLOWED
                         : CDEDUPE_OK);
    return update;
}

static uint64_t
concatenated(uint64_t older, uint64_t newer)
{
    for (uint64_t rest = newer; rest != 0; rest /= 10) {
        older *= 10;
    }
    return older + newer;
}

/* Makes one of two, in the older one's slot, the newer one's, or a third one. */
typedef enum place { IN_OLDER, IN_NEWER, IN_THIRD } place_t;

static cdedupe_slot_t
merge_values(cdedupe_slot_t older, cdedupe_slot_t newer, place_t place)
{
    cdedupe_slot_t merged = place == IN_OLDER ? older : place == IN_NEWER ? newer : make_value(0);

    value_of(merged)->digits = concatenated(value_of(older)->digits, value_of(newer)->digits);
    return merged;
}

static cdedupe_outcome_t
put_value(const char *key, uint64_t digits)
{
    cdedupe_update_t update = put_update(key, false, make_value(digits));

    if (update.outcome == CDEDUPE_OUTCOME_MERGE) {
        cdedupe_slot_t merged = merge_values(update.displaced, update.slot, IN_OLDER);

        cdedupe_put_merged(buffer, key, strlen(key), update.displaced, &merged);
        CHECK_EQ(merged, 0);
        update.displaced = 0;
    }
    drop_value(update.slot);
    drop_value(update.displaced);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return (cdedupe_outcome_t)update.outcome;
}

static cdedupe_outcome_t
put_deletion(const char *key)
{
    cdedupe_update_t update = put_update(key, true, 0);

    drop_value(update.displaced);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return (cdedupe_outcome_t)update.outcome;
}

static cdedupe_item_t items[10];
static size_t taken;

/* Takes a batch without giving back what is in it. */
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

    text[0] = '\0';
    if (result != CDEDUPE_OK) {
        snprintf(text, sizeof(text), "%s", result == CDEDUPE_EMPTY ? "empty" : "stopped");
    }
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
    CHECK_NO_FAULT(cdedupe_validate(buffer));
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

/* How many payloads the buffer still had, but for those that were dropped. */
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

/* A thread that puts a value and is in no hurry to merge it. */
typedef struct merger {
    pthread_t thread;
    const char *key;
    uint64_t digits;
    uint64_t weight; /* Of what comes out of it. */
    place_t place;
    sem_t held, go;
    bool handed_back;
} merger_t;

static void *
merge_slowly(void *argument)
{
    merger_t *merger = argument;
    cdedupe_update_t update = put_update(merger->key, false, make_value(merger->digits));
    cdedupe_slot_t merged;

    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_MERGE);
    CHECK(update.displaced != 0 && update.slot != 0);
    sem_post(&merger->held);
    sem_wait(&merger->go);
    merged = merge_values(update.displaced, update.slot, merger->place);
    value_of(merged)->weight = merger->weight;
    cdedupe_put_merged(buffer, merger->key, strlen(merger->key), update.displaced, &merged);
    merger->handed_back = merged != 0;
    if (merger->place != IN_OLDER || merged != 0) {
        drop_value(update.displaced);
    }
    if (merger->place != IN_NEWER || merged != 0) {
        drop_value(update.slot);
    }
    if (merger->place == IN_THIRD) {
        drop_value(merged);
    }
    return NULL;
}

/* The merge has begun when this returns. */
static merger_t *
begin_merge(const char *key, uint64_t digits, place_t place)
{
    merger_t *merger = calloc(1, sizeof(*merger));

    merger->key = key;
    merger->digits = digits;
    merger->place = place;
    merger->weight = 1;
    sem_init(&merger->held, 0, 0);
    sem_init(&merger->go, 0, 0);
    pthread_create(&merger->thread, NULL, merge_slowly, merger);
    sem_wait(&merger->held);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return merger;
}

/* Whether what it made came back to it. */
static bool
end_merge(merger_t *merger)
{
    bool handed_back;

    sem_post(&merger->go);
    pthread_join(merger->thread, NULL);
    handed_back = merger->handed_back;
    sem_destroy(&merger->held);
    sem_destroy(&merger->go);
    free(merger);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return handed_back;
}

/* Other threads get a chance to do what they must not. */
static void
give_chances(void)
{
    for (int i = 0; i < 300; i++) {
        sched_yield();
    }
}

/* Runs a test on a buffer with a loop, and tells how many leftovers there must be. */
static void
with_a_loop(void (*test)(void), size_t leftovers)
{
    open_buffer(CDEDUPE_CLAIM_LOOP);
    test();
    CHECK_EQ(close_buffer(), leftovers);
}

static void
the_sink_waits_when_it_comes_to_this_place(void)
{
    merger_t *merger;

    put_value("a", 1);
    put_value("b", 5);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_EQ(statistics().pending_keys, 2);
    CHECK_EQ(statistics().replaced, 1);
    CHECK_TEXT(take(), "empty");
    CHECK_TEXT(take(), "empty");
    CHECK(!end_merge(merger));
    CHECK_TEXT(take(), "+a=12 +b=5");
}

static void
what_is_ahead_is_put_and_taken_meanwhile(void)
{
    merger_t *merger;

    put_value("b", 5);
    put_value("a", 1);
    merger = begin_merge("a", 2, IN_NEWER);
    CHECK_EQ(put_value("b", 6), CDEDUPE_OUTCOME_MERGE);
    CHECK_EQ(put_value("c", 7), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+b=56");
    CHECK_EQ(put_value("c", 8), CDEDUPE_OUTCOME_MERGE);
    CHECK_EQ(put_value("b", 9), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "empty");
    CHECK(!end_merge(merger));
    CHECK_TEXT(take(), "+a=12 +c=78 ~b=9");
}

static void
many_keys_are_merged_at_once_in_any_slots(void)
{
    merger_t *mergers[3];

    for (size_t i = 0; i < 3; i++) {
        const char *key = i == 0 ? "a" : i == 1 ? "b" : "c";

        put_value(key, 1);
        mergers[i] = begin_merge(key, 2, (place_t)i);
    }
    CHECK(!end_merge(mergers[1]));
    CHECK_TEXT(take(), "empty");
    CHECK(!end_merge(mergers[0]));
    CHECK_TEXT(take(), "+a=12 +b=12");
    CHECK(!end_merge(mergers[2]));
    CHECK_TEXT(take(), "+c=12");
}

static void
statuses_keep_their_places_around_it(void)
{
    merger_t *merger;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_THIRD);
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_TEXT(take(), "empty");
    CHECK(!end_merge(merger));
    CHECK_TEXT(take(), "+a=12 !");
}

static void
a_place_keeps_its_age(void)
{
    merger_t *merger;

    put_value("a", 1);
    now = (uint64_t)10000000;
    merger = begin_merge("a", 2, IN_NEWER);
    CHECK_EQ(statistics().oldest_pending_age, 10);
    now = (uint64_t)12000000;
    CHECK(!end_merge(merger));
    CHECK_EQ(statistics().oldest_pending_age, 12);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    CHECK_EQ(cdedupe_age(buffer, &items[0]), 12);
    drop_batch();
}

/* What is pending weighs what it weighed when it was put, also if it is changed where it is. */
static void
what_was_merged_weighs_what_it_says(void)
{
    for (place_t place = IN_OLDER; place <= IN_THIRD; place++) {
        merger_t *merger;

        put_value("a", 1);
        put_value("b", 2);
        CHECK_EQ(statistics().pending_bytes, 2);
        merger = begin_merge("a", 3, place);
        merger->weight = 30;
        CHECK(!end_merge(merger));
        CHECK_EQ(statistics().pending_bytes, 31);
        merger = begin_merge("a", 4, place);
        merger->weight = 200; /* Beyond the bound: it takes no new place. */
        CHECK(!end_merge(merger));
        CHECK_EQ(statistics().pending_bytes, 201);
        CHECK_EQ(statistics().overflows, 0);
        CHECK_TEXT(take(), place == IN_OLDER ? "+a=134 +b=2" : "~a=134 ~b=2");
        CHECK_EQ(statistics().pending_bytes, 0);
    }
}

/* ---------------------------------------------------------------------------------------------------- */
/* What ends a merge                                                                                    */

static void
a_deletion_waits_for_nobody(void)
{
    merger_t *merger;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(statistics().pending_keys, 0);
    CHECK_EQ(statistics().pending_bytes, 0);
    CHECK_TEXT(take(), "empty");
    CHECK(end_merge(merger));
    CHECK_TEXT(take(), "empty");
}

static void
a_deletion_of_a_live_key_is_delivered_meanwhile(void)
{
    merger_t *merger;

    put_value("a", 1);
    CHECK_TEXT(take(), "+a=1");
    put_value("a", 2);
    merger = begin_merge("a", 3, IN_NEWER);
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(statistics().pending_bytes, 0);
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_REPLACED);
    CHECK_TEXT(take(), "-a");
    CHECK(end_merge(merger));
    CHECK_TEXT(take(), "empty");
}

/* The value that comes after the deletion is not what was being merged. */
static void
a_value_after_the_deletion_waits_for_nobody_either(void)
{
    merger_t *merger;

    put_value("a", 1);
    CHECK_TEXT(take(), "+a=1");
    put_value("a", 2);
    merger = begin_merge("a", 3, IN_THIRD);
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put_value("a", 4), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put_value("a", 5), CDEDUPE_OUTCOME_MERGE);
    CHECK(end_merge(merger));
    CHECK_TEXT(take(), "~a=45");
}

static void
so_after_one_that_cancelled(void)
{
    merger_t *merger;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(put_value("a", 4), CDEDUPE_OUTCOME_QUEUED);
    CHECK(end_merge(merger));
    CHECK_TEXT(take(), "+a=4");
}

static void
a_restart_hands_it_back(void)
{
    merger_t *merger;
    cdedupe_slot_t slots[4];
    size_t count;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_NEWER);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(statistics().dropped, 1);
    CHECK_EQ(statistics().pending_bytes, 0);
    CHECK_TEXT(take(), "empty");
    while (cdedupe_collect(buffer, slots, 4, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++) {
            CHECK_EQ(slots[i], 0); /* It is not the buffer's to give. */
        }
    }
    CHECK(end_merge(merger));
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+a=3");
}

static void
what_comes_after_the_restart_waits_for_nobody(void)
{
    merger_t *merger;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_value("a", 4), CDEDUPE_OUTCOME_MERGE);
    CHECK(end_merge(merger));
    CHECK_TEXT(take(), "+a=34");
}

/* A second merge of the same key, which the end of the first must not be taken for; in either order. */
static void
two_merges_of_one_key_with_a_restart_between(void)
{
    merger_t *first, *second;

    for (int order = 0; order < 2; order++) {
        put_value("a", 1);
        first = begin_merge("a", 2, order == 0 ? IN_OLDER : IN_THIRD);
        CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
        CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_QUEUED);
        second = begin_merge("a", 4, IN_NEWER);
        if (order == 0) {
            CHECK(end_merge(first));
            CHECK_TEXT(take(), "empty");
            CHECK(!end_merge(second));
        } else {
            CHECK(!end_merge(second));
            CHECK(end_merge(first));
        }
        CHECK_TEXT(take(), order == 0 ? "+a=34" : "~a=34");
    }
}

/* And a third, whose beginning had to wait for the second, not for the first. */
static void
restarts_and_merges_without_end(void)
{
    merger_t *mergers[20];

    for (size_t i = 0; i < 20; i++) {
        CHECK_EQ(put_value("a", 1), CDEDUPE_OUTCOME_QUEUED);
        mergers[i] = begin_merge("a", 2, (place_t)(i % 3));
        if (i % 2 == 0) {
            CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
        } else {
            CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_CANCELLED);
        }
    }
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_QUEUED);
    for (size_t i = 0; i < 20; i++) {
        CHECK(end_merge(mergers[i]));
    }
    CHECK_TEXT(take(), "+a=3");
}

static void
an_overflow_hands_it_back(void)
{
    merger_t *merger;

    put_value("a", 1);
    put_value("b", 1);
    put_value("c", 1);
    merger = begin_merge("a", 2, IN_THIRD);
    CHECK_EQ(put_value("d", 1), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(statistics().dropped, 5);
    CHECK(end_merge(merger));
    CHECK_TEXT(take(), "empty");
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(put_value("a", 4), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+a=4");
}

/* ---------------------------------------------------------------------------------------------------- */
/* Who waits                                                                                            */

typedef struct waiter {
    pthread_t thread;
    const char *key;
    uint64_t digits;
    atomic_bool began, returned;
    cdedupe_outcome_t outcome;
} waiter_t;

static void *
wait_in_put(void *argument)
{
    waiter_t *waiter = argument;

    atomic_store(&waiter->began, true);
    waiter->outcome = put_value(waiter->key, waiter->digits);
    atomic_store(&waiter->returned, true);
    return NULL;
}

static void
begin_waiting(waiter_t *waiter, const char *key, uint64_t digits)
{
    waiter->key = key;
    waiter->digits = digits;
    atomic_init(&waiter->began, false);
    atomic_init(&waiter->returned, false);
    pthread_create(&waiter->thread, NULL, wait_in_put, waiter);
    while (!atomic_load(&waiter->began)) {
        sched_yield();
    }
    give_chances();
    CHECK(!atomic_load(&waiter->returned));
}

static cdedupe_outcome_t
end_waiting(waiter_t *waiter)
{
    pthread_join(waiter->thread, NULL);
    return waiter->outcome;
}

static void
who_puts_a_value_for_the_key_waits(void)
{
    merger_t *merger;
    waiter_t waiters[3];
    const char *got;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    for (uint64_t i = 0; i < 3; i++) {
        begin_waiting(&waiters[i], "a", i + 3);
    }
    CHECK_EQ(put_value("b", 8), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "empty");
    CHECK(!atomic_load(&waiters[0].returned));
    CHECK(!end_merge(merger));
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(end_waiting(&waiters[i]), CDEDUPE_OUTCOME_MERGE);
    }
    got = take();
    CHECK(strncmp(got, "+a=12", 5) == 0 && strlen(got) == 13); /* The others in any order. */
    CHECK(strchr(got, '3') != NULL && strchr(got, '4') != NULL && strchr(got, '5') != NULL);
}

static void
a_deletion_ends_the_waiting(void)
{
    merger_t *merger;
    waiter_t waiter;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    begin_waiting(&waiter, "a", 3);
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(end_waiting(&waiter), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+a=3");
    CHECK(end_merge(merger));
}

static void
so_does_a_restart(void)
{
    merger_t *merger;
    waiter_t waiter;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    begin_waiting(&waiter, "a", 3);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(end_waiting(&waiter), CDEDUPE_OUTCOME_QUEUED);
    CHECK(end_merge(merger));
    CHECK_TEXT(take(), "+a=3");
}

static void
so_does_an_overflow(void)
{
    merger_t *merger;
    waiter_t waiter;

    put_value("a", 1);
    put_value("b", 1);
    put_value("c", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    begin_waiting(&waiter, "a", 3);
    CHECK_EQ(put_value("d", 1), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(end_waiting(&waiter), CDEDUPE_OUTCOME_DROPPED);
    CHECK(end_merge(merger));
}

static void
after_a_stop_who_waited_is_dropped(void)
{
    merger_t *merger;
    waiter_t waiter;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    begin_waiting(&waiter, "a", 3);
    cdedupe_stop(buffer);
    CHECK(!end_merge(merger));
    CHECK_EQ(end_waiting(&waiter), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(statistics().pending_keys, 1);
    CHECK_TEXT(take(), "stopped");
}

typedef struct returner {
    pthread_t thread;
    atomic_bool began, returned;
    cdedupe_result_t result;
} returner_t;

static void *
wait_in_put_back(void *argument)
{
    returner_t *returner = argument;
    size_t count = taken;

    atomic_store(&returner->began, true);
    returner->result = cdedupe_put_back(buffer, items, &count);
    CHECK_EQ(count, 0);
    atomic_store(&returner->returned, true);
    return NULL;
}

/* The batch goes back in a thread of its own, which has to wait. */
static void
begin_putting_back(returner_t *returner)
{
    atomic_init(&returner->began, false);
    atomic_init(&returner->returned, false);
    pthread_create(&returner->thread, NULL, wait_in_put_back, returner);
    while (!atomic_load(&returner->began)) {
        sched_yield();
    }
    give_chances();
    CHECK(!atomic_load(&returner->returned));
}

/* What came back of the item is put as what it has to be merged with says. */
static void
merge_put_back(const char *key, size_t index)
{
    cdedupe_slot_t merged;

    CHECK(items[index].slot != 0 && items[index].newer != 0);
    merged = merge_values(items[index].slot, items[index].newer, IN_OLDER);
    cdedupe_put_merged(buffer, key, strlen(key), items[index].newer, &merged);
    CHECK_EQ(merged, 0);
    drop_value(items[index].newer);
}

static void
who_puts_back_a_value_of_the_key_waits(void)
{
    merger_t *merger;
    returner_t returner;

    put_value("a", 1);
    put_value("b", 5);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    put_value("a", 2);
    merger = begin_merge("a", 3, IN_OLDER);
    begin_putting_back(&returner);
    CHECK_EQ(put_value("c", 7), CDEDUPE_OUTCOME_QUEUED);
    CHECK(!end_merge(merger));
    pthread_join(returner.thread, NULL);
    CHECK_EQ(returner.result, CDEDUPE_INCOMPLETE);
    CHECK_EQ(items[1].slot, 0);
    merge_put_back("a", 0);
    CHECK_TEXT(take(), "+a=123 +b=5 +c=7");
}

static void
who_puts_back_it_need_not_wait_any_longer_after_a_deletion(void)
{
    merger_t *merger;
    returner_t returner;

    put_value("a", 1);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    put_value("a", 2);
    merger = begin_merge("a", 3, IN_OLDER);
    begin_putting_back(&returner);
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_REPLACED);
    pthread_join(returner.thread, NULL);
    CHECK_EQ(returner.result, CDEDUPE_OK);
    CHECK(items[0].slot != 0 && items[0].newer == 0);
    drop_batch();
    CHECK(end_merge(merger));
    CHECK_TEXT(take(), "empty");
    CHECK_EQ(statistics().live_keys, 0);
}

static void
who_puts_back_it_need_not_wait_any_longer_after_a_restart(void)
{
    merger_t *merger;
    returner_t returner;

    put_value("a", 1);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    put_value("a", 2);
    merger = begin_merge("a", 3, IN_OLDER);
    begin_putting_back(&returner);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    pthread_join(returner.thread, NULL);
    CHECK_EQ(returner.result, CDEDUPE_OK);
    CHECK(items[0].slot != 0 && items[0].newer == 0);
    drop_batch();
    CHECK(end_merge(merger));
    CHECK_TEXT(take(), "empty");
}

/* Two items of an putting back are to be merged, one after the other; meanwhile, one of the keys is deleted. */
static void
what_an_putting_back_merges_can_end_as_well(void)
{
    cdedupe_slot_t merged;
    size_t count;

    put_value("a", 1);
    put_value("b", 5);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    put_value("a", 2);
    put_value("b", 6);
    count = taken;
    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_INCOMPLETE);
    CHECK_EQ(count, 1);
    CHECK(items[1].newer != 0);
    merge_put_back("b", 1);
    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_INCOMPLETE);
    CHECK_EQ(count, 0);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    CHECK(items[0].newer != 0);
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_CANCELLED);
    merged = merge_values(items[0].slot, items[0].newer, IN_NEWER);
    cdedupe_put_merged(buffer, "a", 1, items[0].newer, &merged);
    CHECK_EQ(merged, items[0].newer);
    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_OK);
    drop_value(items[0].newer);
    drop_value(items[0].slot);
    CHECK_TEXT(take(), "+b=56");
}

/* ---------------------------------------------------------------------------------------------------- */
/* The loop sleeps behind a merge                                                                       */

static void
putting_what_was_merged_wakes_the_loop(void)
{
    merger_t *merger;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_TEXT(take(), "empty");
    CHECK(!end_merge(merger));
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_TEXT(take(), "+a=12");
}

/* Whatever else woke it in between, and found it before the merge was done. */
static void
so_if_it_was_woken_before(void)
{
    merger_t *merger;
    unsigned before;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_TEXT(take(), "empty");
    put_value("b", 1);
    cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(take(), "empty");
    before = atomic_load(&wakes);
    CHECK(!end_merge(merger));
    CHECK_EQ(atomic_load(&wakes), before + 1);
    CHECK_TEXT(take(), "+a=12 +b=1 !");
}

/* A merge that is not first wakes nobody who has not slept. */
static void
not_if_it_does_not_sleep(void)
{
    merger_t *merger;

    put_value("b", 1);
    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_TEXT(take(), "+b=1");
    CHECK(!end_merge(merger));
    CHECK_EQ(atomic_load(&wakes), 0);
    CHECK_TEXT(take(), "+a=12");
}

static void
so_does_a_deletion_in_its_place(void)
{
    merger_t *merger;

    put_value("a", 1);
    CHECK_TEXT(take(), "+a=1");
    put_value("a", 2);
    merger = begin_merge("a", 3, IN_OLDER);
    CHECK_TEXT(take(), "empty");
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_TEXT(take(), "-a");
    CHECK(end_merge(merger));
}

static void
so_does_a_deletion_that_makes_the_next_one_first(void)
{
    merger_t *merger;
    unsigned before;

    put_value("a", 1);
    put_value("b", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_TEXT(take(), "empty");
    before = atomic_load(&wakes);
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(atomic_load(&wakes), before + 1);
    CHECK_TEXT(take(), "+b=1");
    CHECK(end_merge(merger));
}

static void
what_comes_after_a_restart_wakes_it(void)
{
    merger_t *merger;
    unsigned before;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_TEXT(take(), "empty");
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    take();
    before = atomic_load(&wakes);
    CHECK_EQ(put_value("b", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(atomic_load(&wakes), before + 1);
    CHECK_TEXT(take(), "+b=1");
    CHECK(end_merge(merger));
}

/* An putting back has a merge of its own, behind which the sink may come to sleep. */
static void
so_does_a_merge_that_an_putting_back_left(void)
{
    size_t count;

    put_value("a", 1);
    CHECK_EQ(take_batch(), CDEDUPE_OK);
    put_value("a", 2);
    count = taken;
    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_INCOMPLETE);
    merge_put_back("a", 0);
    CHECK_TEXT(take(), "+a=12");
}

/* ---------------------------------------------------------------------------------------------------- */
/* The end                                                                                              */

static void
a_finish_waits_for_what_is_being_merged(void)
{
    merger_t *merger;
    unsigned before;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_TEXT(take(), "empty");
    CHECK_EQ(cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    CHECK_TEXT(take(), "empty");
    before = atomic_load(&wakes);
    CHECK(!end_merge(merger));
    CHECK_EQ(atomic_load(&wakes), before + 1);
    CHECK_TEXT(take(), "+a=12");
    CHECK_TEXT(take(), "stopped");
}

static void
so_does_one_until_it_is_empty(void)
{
    merger_t *merger;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_EQ(cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_EMPTY), CDEDUPE_OK);
    CHECK_TEXT(take(), "empty");
    put_value("b", 1);
    CHECK(!end_merge(merger));
    CHECK_TEXT(take(), "+a=12 +b=1");
    CHECK_TEXT(take(), "stopped");
}

/* The loop sleeps; what it waits for goes; it has to be told, or it sleeps for ever. */
static void
finish_asleep(cdedupe_finish_t when, void (*end)(void))
{
    merger_t *merger;
    unsigned before;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_EQ(cdedupe_finish(buffer, when), CDEDUPE_OK);
    CHECK_TEXT(take(), "empty");
    before = atomic_load(&wakes);
    end();
    CHECK_EQ(atomic_load(&wakes), before + 1);
    CHECK_TEXT(take(), "stopped");
    CHECK(end_merge(merger));
}

static void
restart_it(void)
{
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
}

static void
delete_it(void)
{
    CHECK_EQ(put_deletion("a"), CDEDUPE_OUTCOME_CANCELLED);
}

static void
overflow_it(void)
{
    cdedupe_update_t update;
    cdedupe_slot_t slot = make_value(1);

    value_of(slot)->weight = 101; /* What is being merged weighs nothing. */
    update = put_update("b", false, slot);
    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_OVERFLOWED);
    drop_value(update.slot);
}

static void
a_finishing_loop_that_sleeps_is_woken_by_a_restart(void)
{
    finish_asleep(CDEDUPE_FINISH_WHEN_DELIVERED, restart_it);
}

static void
and_if_it_waits_until_it_is_empty(void)
{
    finish_asleep(CDEDUPE_FINISH_WHEN_EMPTY, restart_it);
}

static void
a_finishing_loop_that_sleeps_is_woken_by_a_deletion(void)
{
    finish_asleep(CDEDUPE_FINISH_WHEN_DELIVERED, delete_it);
}

static void
also_by_a_deletion_if_it_waits_until_it_is_empty(void)
{
    finish_asleep(CDEDUPE_FINISH_WHEN_EMPTY, delete_it);
}

static void
a_finishing_loop_that_sleeps_is_woken_by_an_overflow(void)
{
    merger_t *merger;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_EQ(cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_EMPTY), CDEDUPE_OK);
    put_value("b", 1);
    put_value("c", 1);
    CHECK_TEXT(take(), "empty");
    atomic_store(&wakes, 0);
    CHECK_EQ(put_value("d", 1), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_TEXT(take(), "stopped");
    CHECK(end_merge(merger));
}

static void
and_if_it_waits_until_it_has_delivered(void)
{
    finish_asleep(CDEDUPE_FINISH_WHEN_DELIVERED, overflow_it);
}

static void
after_a_stop_what_was_merged_is_a_leftover(void)
{
    merger_t *merger;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_TEXT(take(), "empty");
    cdedupe_stop(buffer);
    CHECK_EQ(atomic_load(&wakes), 1);
    CHECK_TEXT(take(), "stopped");
    CHECK(!end_merge(merger));
    CHECK_TEXT(take(), "stopped");
    CHECK_EQ(statistics().pending_keys, 1);
}

static void
after_a_release_it_is_there_for_the_next_claim(void)
{
    merger_t *merger;

    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_TEXT(take(), "empty");
    cdedupe_release(buffer);
    CHECK(!end_merge(merger));
    CHECK_EQ(atomic_load(&wakes), 0);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_TEXT(take(), "+a=12");
}

static void
who_takes_by_hand_is_not_woken(void)
{
    merger_t *merger;

    cdedupe_release(buffer);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    put_value("a", 1);
    merger = begin_merge("a", 2, IN_OLDER);
    CHECK_TEXT(take(), "empty");
    CHECK(!end_merge(merger));
    CHECK_EQ(atomic_load(&wakes), 0);
    CHECK_TEXT(take(), "+a=12");
}

/* ---------------------------------------------------------------------------------------------------- */
/* Many threads                                                                                         */

enum { PRODUCERS = 4, KEYS_MAX = 60, CALLS = 15000, BATCH_MAX = 200 };

/* What was put: how many values by whom, each producer's for this key numbered from one on; and how often it had deleted it. */
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
        atomic_fetch_add(&crowd->out, share->count);
        share->count = UINT64_MAX;
        cdedupe_discard(crowd->buffer, &slot, 1);
    }
}

/* The newer one goes on where the older one ends, and not behind a deletion. */
static void
merge_shares(const share_t *older, const share_t *newer, share_t *merged)
{
    share_t result = {.count = older->count + newer->count};

    for (size_t i = 0; i < PRODUCERS; i++) {
        CHECK(older->last[i] == 0 || newer->first[i] == 0 || newer->first[i] == older->last[i] + 1);
        CHECK(older->last[i] == 0 || newer->first[i] == 0 ||
              newer->deletions[i] == older->deletions[i]);
        result.first[i] = older->first[i] != 0 ? older->first[i] : newer->first[i];
        result.last[i] = newer->last[i] != 0 ? newer->last[i] : older->last[i];
        result.deletions[i] = newer->last[i] != 0 ? newer->deletions[i] : older->deletions[i];
    }
    *merged = result;
}

static void
merge_slots(crowd_t *crowd, const void *key, size_t length, cdedupe_slot_t older,
            cdedupe_slot_t newer, cdedupe_slot_t pending, uint64_t random)
{
    cdedupe_slot_t kept = random % 2 == 0 ? older : newer, other = kept == older ? newer : older,
                   merged = kept;

    merge_shares(share_of(crowd, older), share_of(crowd, newer), share_of(crowd, kept));
    if (random % 8 == 3) {
        sched_yield();
    }
    cdedupe_put_merged(crowd->buffer, key, length, pending, &merged);
    CHECK(merged == 0 || merged == kept);
    come_out(crowd, merged);
    CHECK(merged == 0 || !crowd->quiet);
    share_of(crowd, other)->count = UINT64_MAX;
    cdedupe_discard(crowd->buffer, &other, 1);
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
    cdedupe_put(crowd->buffer, &update, 1);
    if (update.outcome == CDEDUPE_OUTCOME_MERGE) {
        merge_slots(crowd, &key, sizeof(key), update.displaced, update.slot, update.displaced,
                    random_below(&member->random, 1000));
        return;
    }
    CHECK(update.outcome == CDEDUPE_OUTCOME_QUEUED || !crowd->quiet);
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

/* Of each key, what the sink has of each producer: it goes on from there; with nothing missing, if it is quiet. */
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
give_back(crowd_t *crowd, cdedupe_item_t *batch, size_t count, uint64_t *random)
{
    uint32_t keys[BATCH_MAX] = {0};
    cdedupe_result_t result;
    size_t left = count;

    for (size_t i = 0; i < count; i++) {
        if (batch[i].kind != CDEDUPE_ITEM_STATUS) {
            memcpy(&keys[i], batch[i].key, sizeof(keys[i]));
        }
    }
    while ((result = cdedupe_put_back(crowd->buffer, batch, &left)) == CDEDUPE_INCOMPLETE) {
        merge_slots(crowd, &keys[left], sizeof(keys[left]), batch[left].slot, batch[left].newer,
                    batch[left].newer, random_below(random, 1000));
    }
    CHECK_EQ(result, CDEDUPE_OK);
    for (size_t i = 0; i < count; i++) {
        if (batch[i].newer == 0) {
            CHECK(batch[i].slot == 0 || !crowd->quiet);
            come_out(crowd, batch[i].slot);
        }
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
            give_back(crowd, batch + count - back, back, &random);
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
    options.merging = true;
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
so_in_large_batches(void)
{
    crowd_at_work(true, KEYS_MAX, BATCH_MAX);
    crowd_at_work(false, KEYS_MAX, BATCH_MAX);
}

#define RUN_WITH_A_SUBJECT(test) (check_test = #test, with_a_subject(test))
#define RUN_WITH_A_LOOP(test) (check_test = #test, with_a_loop(test, 0))
#define RUN_WITH_A_LEFTOVER(test) (check_test = #test, with_a_loop(test, 1))

static void
run_scenes(void)
{
    RUN_WITH_A_SUBJECT(a_value_is_merged_with_a_pending_one);
    RUN_WITH_A_SUBJECT(what_was_taken_first_goes_alone);
    RUN_WITH_A_SUBJECT(a_deletion_is_never_merged);
    RUN_WITH_A_SUBJECT(merges_in_the_middle_of_a_call);
    RUN_WITH_A_SUBJECT(a_restart_leaves_nothing_to_merge_with);
    RUN_WITH_A_SUBJECT(what_the_sink_has_is_suppressed_and_not_merged);
    RUN_WITH_A_SUBJECT(what_is_put_back_is_merged_with_what_is_newer);
    RUN_WITH_A_SUBJECT(an_put_back_value_is_not_merged_with_a_deletion);
    RUN_WITH_A_SUBJECT(an_put_back_deletion_is_not_merged_with_a_value);
    RUN_WITH_A_SUBJECT(an_put_back_value_is_not_merged_with_what_came_after_a_deletion);
    RUN_WITH_A_SUBJECT(put_back_twice_it_is_merged_twice);
    RUN(by_default_nothing_is_merged);
    RUN(bytes_are_not_merged);
}

static void
run_merges_that_take_their_time(void)
{
    RUN_WITH_A_LOOP(the_sink_waits_when_it_comes_to_this_place);
    RUN_WITH_A_LOOP(what_is_ahead_is_put_and_taken_meanwhile);
    RUN_WITH_A_LOOP(many_keys_are_merged_at_once_in_any_slots);
    RUN_WITH_A_LOOP(statuses_keep_their_places_around_it);
    RUN_WITH_A_LOOP(a_place_keeps_its_age);
    RUN_WITH_A_LOOP(what_was_merged_weighs_what_it_says);
    RUN_WITH_A_LOOP(a_deletion_waits_for_nobody);
    RUN_WITH_A_LOOP(a_deletion_of_a_live_key_is_delivered_meanwhile);
    RUN_WITH_A_LOOP(a_value_after_the_deletion_waits_for_nobody_either);
    RUN_WITH_A_LOOP(so_after_one_that_cancelled);
    RUN_WITH_A_LOOP(a_restart_hands_it_back);
    RUN_WITH_A_LOOP(what_comes_after_the_restart_waits_for_nobody);
    RUN_WITH_A_LOOP(two_merges_of_one_key_with_a_restart_between);
    RUN_WITH_A_LOOP(restarts_and_merges_without_end);
    RUN_WITH_A_LOOP(an_overflow_hands_it_back);
}

static void
run_waiting(void)
{
    RUN_WITH_A_LOOP(who_puts_a_value_for_the_key_waits);
    RUN_WITH_A_LOOP(a_deletion_ends_the_waiting);
    RUN_WITH_A_LOOP(so_does_a_restart);
    RUN_WITH_A_LOOP(so_does_an_overflow);
    RUN_WITH_A_LEFTOVER(after_a_stop_who_waited_is_dropped);
    RUN_WITH_A_LOOP(who_puts_back_a_value_of_the_key_waits);
    RUN_WITH_A_LOOP(who_puts_back_it_need_not_wait_any_longer_after_a_deletion);
    RUN_WITH_A_LOOP(who_puts_back_it_need_not_wait_any_longer_after_a_restart);
    RUN_WITH_A_LOOP(what_an_putting_back_merges_can_end_as_well);
}

static void
run_sleeping(void)
{
    RUN_WITH_A_LOOP(putting_what_was_merged_wakes_the_loop);
    RUN_WITH_A_LOOP(so_if_it_was_woken_before);
    RUN_WITH_A_LOOP(not_if_it_does_not_sleep);
    RUN_WITH_A_LOOP(so_does_a_deletion_in_its_place);
    RUN_WITH_A_LOOP(so_does_a_deletion_that_makes_the_next_one_first);
    RUN_WITH_A_LOOP(what_comes_after_a_restart_wakes_it);
    RUN_WITH_A_LOOP(so_does_a_merge_that_an_putting_back_left);
    RUN_WITH_A_LOOP(a_finish_waits_for_what_is_being_merged);
    RUN_WITH_A_LOOP(so_does_one_until_it_is_empty);
    RUN_WITH_A_LOOP(a_finishing_loop_that_sleeps_is_woken_by_a_restart);
    RUN_WITH_A_LOOP(and_if_it_waits_until_it_is_empty);
    RUN_WITH_A_LOOP(a_finishing_loop_that_sleeps_is_woken_by_a_deletion);
    RUN_WITH_A_LOOP(also_by_a_deletion_if_it_waits_until_it_is_empty);
    RUN_WITH_A_LOOP(a_finishing_loop_that_sleeps_is_woken_by_an_overflow);
    RUN_WITH_A_LOOP(and_if_it_waits_until_it_has_delivered);
    RUN_WITH_A_LEFTOVER(after_a_stop_what_was_merged_is_a_leftover);
    RUN_WITH_A_LOOP(after_a_release_it_is_there_for_the_next_claim);
    RUN_WITH_A_LOOP(who_takes_by_hand_is_not_woken);
}

int
main(void)
{
    run_scenes();
    run_merges_that_take_their_time();
    run_waiting();
    run_sleeping();
    RUN(every_value_is_merged_once_and_in_order);
    RUN(with_deletions_and_restarts_every_value_comes_out_once);
    RUN(so_in_large_batches);
    return check_finish();
}
