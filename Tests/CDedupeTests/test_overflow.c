/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounds of pending keys and bytes, and overflows, rule by rule. test_exhaustive.c compares them
 * with the model in all short sequences. At the handle level an id weighs its last digit modulo
 * five. At the bytes level every value weighs eight.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "check.h"
#include "hooks.h"
#include "subject.h"

static subject_t subject;

static void
open_bounded(subject_level_t level, uint64_t keys, uint64_t bytes)
{
    subject_options_t options = subject_defaults(level);

    options.maximum_keys = keys;
    options.maximum_bytes = bytes;
    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    subject.keeps_batch = true;
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
}

static void
close_bounded(void)
{
    subject_collect(&subject, 10);
    subject_close(&subject);
}

/* Two keys may be pending. */
static void
at_both_levels(void (*test)(void))
{
    for (int level = SUBJECT_BYTES; level <= SUBJECT_HANDLES; level++) {
        open_bounded((subject_level_t)level, 2, 0);
        test();
        close_bounded();
    }
}

static void
put_back(size_t count)
{
    uint64_t back[16];

    CHECK_EQ(subject_put_back(&subject, count, back), CDEDUPE_OK);
}

static cdedupe_statistics_t
statistics(void)
{
    return subject_statistics(&subject);
}

static void
overflow(void)
{
    CHECK_EQ(put(&subject, "x", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "y", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "z", 3), CDEDUPE_OUTCOME_OVERFLOWED);
}

/* ---------------------------------------------------------------------------------------------- */

static void
one_key_more_drops_all_that_is_pending(void)
{
    overflow();
    CHECK_EQ(statistics().pending_keys, 0);
    CHECK_EQ(statistics().dropped, 3);
    CHECK_EQ(statistics().received, 3);
    CHECK_EQ(statistics().overflows, 1);
    CHECK_EQ(statistics().peak_pending_keys, 2);
    CHECK_TEXT(step(&subject), "empty");
}

static void
it_is_told_once(void)
{
    overflow();
    CHECK_EQ(put(&subject, "z", 4), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(put(&subject, "x", 5), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(del(&subject, "x"), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(statistics().overflows, 1);
    CHECK_EQ(statistics().overflowed, 1);
    CHECK_EQ(statistics().dropped, 6);
    CHECK_TEXT(step(&subject), "empty");
}

static void
the_next_restart_ends_it(void)
{
    CHECK_EQ(statistics().overflowed, 0);
    overflow();
    CHECK_EQ(subject_restart(&subject), CDEDUPE_OK);
    CHECK_EQ(statistics().overflowed, 0);
    CHECK_EQ(statistics().dropped, 3);
    CHECK_EQ(put(&subject, "z", 4), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "x", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "+z=4 +x=5");
    overflow();
    CHECK_EQ(statistics().overflows, 2);
    CHECK_EQ(subject_restart(&subject), CDEDUPE_OK);
    CHECK_EQ(put(&subject, "z", 4), CDEDUPE_OUTCOME_QUEUED);
}

static void
replacements_are_never_refused(void)
{
    CHECK_EQ(put(&subject, "a", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "b", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "a", 3), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put(&subject, "b", 4), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(del(&subject, "b"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(put(&subject, "c", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "+a=3 +c=5");
}

static void
what_was_taken_makes_room(void)
{
    for (uint64_t i = 1; i < 100; i++) {
        char key[8];

        snprintf(key, sizeof(key), "%" PRIu64, i);
        CHECK_EQ(put(&subject, key, i), CDEDUPE_OUTCOME_QUEUED);
        if (i % 2 == 0) {
            CHECK_EQ(subject_take(&subject, 100), CDEDUPE_OK);
            CHECK_EQ(subject.count, 2);
        }
    }
}

static void
a_deletion_may_be_the_one_too_many(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    put(&subject, "b", 2);
    put(&subject, "c", 3);
    CHECK_EQ(del_id(&subject, "a", 4), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(statistics().live_keys, 1);
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "-a | <in-sync>");
}

static void
statuses_have_no_bound_and_are_dropped(void)
{
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    put(&subject, "x", 1);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    put(&subject, "y", 2);
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    CHECK_EQ(statistics().pending_statuses, 3);
    CHECK_EQ(put(&subject, "z", 3), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(statistics().pending_statuses, 0);
    CHECK_TEXT(step(&subject), "empty");
}

/* It would delete everything: nothing was heard of since. */
static void
an_in_sync_before_the_restart_is_ignored(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    subject_restart(&subject);
    overflow();
    CHECK_EQ(subject_status(&subject, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OVERFLOWED);
    CHECK_EQ(statistics().synthesized_deletions, 0);
    CHECK_EQ(statistics().pending_statuses, 0);
    CHECK_TEXT(step(&subject), "empty");
    subject_restart(&subject);
    CHECK_EQ(subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS), CDEDUPE_OK);
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(subject_status(&subject, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_TEXT(step(&subject), "<resync> | ~a=2 | <in-sync>");
}

/* An ignored status is not the latest one received: the next is not dropped as its equal. */
static void
an_ignored_status_leaves_no_trace(void)
{
    overflow();
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    CHECK_TEXT(step(&subject), "<resync>");
}

static void
as_after_a_restart_the_latest_status_is_the_one_taken(void)
{
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    CHECK_TEXT(step(&subject), "<resync>");
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    overflow();
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "<in-sync>");
}

/* What was heard of before the overflow may have been among what it dropped. */
static void
all_that_is_live_has_to_be_heard_of_again(void)
{
    put(&subject, "a", 1);
    put(&subject, "b", 2);
    CHECK_TEXT(step(&subject), "+a=1 +b=2");
    subject_restart(&subject);
    put(&subject, "a", 3);
    CHECK_TEXT(step(&subject), "~a=3");
    overflow();
    put(&subject, "b", 4);
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_EQ(statistics().synthesized_deletions, 2);
    CHECK_EQ(subject_take(&subject, 100), CDEDUPE_OK);
    CHECK_EQ(subject.count, 3);
    CHECK_EQ(statistics().live_keys, 0);
}

static void
owed_deletions_may_go_beyond(void)
{
    char key[8];

    for (uint64_t i = 0; i < 10; i++) {
        snprintf(key, sizeof(key), "%" PRIu64, i);
        put(&subject, key, i + 1);
        subject_take(&subject, 100);
    }
    subject_restart(&subject);
    CHECK_EQ(subject_status(&subject, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_EQ(statistics().pending_keys, 10);
    CHECK_EQ(statistics().overflows, 0);
    CHECK_EQ(put(&subject, "0", 20), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put(&subject, "x", 21), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(statistics().pending_keys, 0);
    CHECK_EQ(statistics().live_keys, 10);
    subject_restart(&subject);
    CHECK_EQ(subject_status(&subject, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_EQ(statistics().pending_keys, 10);
}

static void
what_is_put_back_may_go_beyond(void)
{
    put(&subject, "a", 1);
    put(&subject, "b", 2);
    CHECK_TEXT(step(&subject), "+a=1 +b=2");
    put(&subject, "c", 3);
    put(&subject, "d", 4);
    put_back(2);
    CHECK_EQ(statistics().pending_keys, 4);
    CHECK_EQ(put(&subject, "d", 5), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(statistics().overflows, 0);
    CHECK_TEXT(step(&subject), "+a=1 +b=2 +c=3 +d=5");
    put_back(4);
    CHECK_EQ(put(&subject, "e", 6), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(statistics().pending_keys, 0);
}

/* ---------------------------------------------------------------------------------------------- */
/* Putting back after it                                                                          */

static void
what_is_put_back_after_it_is_dropped(void)
{
    put(&subject, "a", 1);
    put(&subject, "b", 2);
    CHECK_TEXT(step(&subject), "+a=1 +b=2");
    put(&subject, "a", 3);
    del(&subject, "b");
    CHECK_TEXT(step(&subject), "~a=3 -b");
    overflow();
    put_back(2);
    CHECK_EQ(statistics().live_keys, 2);
    CHECK_EQ(statistics().pending_keys, 0);
    CHECK_TEXT(step(&subject), "empty");
    subject_restart(&subject);
    put(&subject, "a", 4);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "~a=4 -b | <in-sync>");
}

/* The same, but the restart has come before it is put back. */
static void
what_is_put_back_after_both_is_dropped_too(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    del(&subject, "a");
    CHECK_TEXT(step(&subject), "-a");
    overflow();
    subject_restart(&subject);
    put_back(1);
    CHECK_EQ(statistics().live_keys, 1);
    CHECK_TEXT(step(&subject), "empty");
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "-a | <in-sync>");
}

static void
a_status_that_is_put_back_after_it_does_not_come_before_the_restart(void)
{
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "<in-sync>");
    overflow();
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    put_back(1);
    CHECK_TEXT(step(&subject), "empty");
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "<in-sync>");
}

/* ---------------------------------------------------------------------------------------------- */
/* The loop, the end                                                                              */

static void
it_does_not_wake_and_what_comes_after_the_restart_does(void)
{
    CHECK_TEXT(step(&subject), "empty");
    put(&subject, "x", 1);
    CHECK_EQ(subject.wakes, 1);
    CHECK_TEXT(step(&subject), "+x=1");
    put(&subject, "x", 2);
    put(&subject, "y", 3);
    put(&subject, "z", 4);
    CHECK_TEXT(step(&subject), "empty");
    put(&subject, "z", 5);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    subject_restart(&subject);
    CHECK_EQ(subject.wakes, 1);
    put(&subject, "z", 6);
    CHECK_EQ(subject.wakes, 2);
    CHECK_TEXT(step(&subject), "+z=6");
}

static void
finish_whenOverflowing_dropsTheNewKeyAlone(void)
{
    put(&subject, "x", 1);
    put(&subject, "y", 2);
    CHECK_EQ(subject_finish(&subject, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    CHECK_EQ(put(&subject, "z", 3), CDEDUPE_OUTCOME_DROPPED);
    CHECK_TEXT(step(&subject), "+x=1 +y=2");
    CHECK_TEXT(step(&subject), "stopped");
}

static void
so_when_it_is_to_be_empty(void)
{
    put(&subject, "x", 1);
    put(&subject, "y", 2);
    CHECK_EQ(subject_finish(&subject, CDEDUPE_FINISH_WHEN_EMPTY), CDEDUPE_OK);
    CHECK_EQ(put(&subject, "z", 3), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_TEXT(step(&subject), "stopped");
}

static void
a_stopped_buffer_does_not_overflow(void)
{
    put(&subject, "x", 1);
    put(&subject, "y", 2);
    subject_stop(&subject);
    CHECK_EQ(put(&subject, "z", 3), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(statistics().overflows, 0);
    CHECK_EQ(statistics().pending_keys, 2);
}

static void
an_overflowed_buffer_can_be_stopped(void)
{
    overflow();
    subject_stop(&subject);
    CHECK_EQ(subject_restart(&subject), CDEDUPE_STOPPED);
    CHECK_EQ(subject_status(&subject, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_STOPPED);
    CHECK_EQ(put(&subject, "z", 3), CDEDUPE_OUTCOME_DROPPED);
    CHECK_TEXT(step(&subject), "stopped");
}

/* What came before it in the same call is dropped too, and so is what comes after it. */
static void
in_the_middle_of_a_call(void)
{
    subject_update_t updates[5];

    for (size_t i = 0; i < 5; i++) {
        updates[i] = (subject_update_t){&"abcde"[i], 1, false, i + 1, CDEDUPE_OUTCOME_UNTOUCHED, 0};
    }
    CHECK_EQ(subject_put(&subject, updates, 5), CDEDUPE_OK);
    CHECK_EQ(updates[0].outcome, CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(updates[1].outcome, CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(updates[2].outcome, CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(updates[3].outcome, CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(updates[4].outcome, CDEDUPE_OUTCOME_DROPPED);
    CHECK_TEXT(step(&subject), "empty");
}

/* ---------------------------------------------------------------------------------------------- */
/* Suppressed values need no place                                                                */

static void
a_suppressed_value_does_not_overflow(void)
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);

    options.maximum_keys = 1;
    options.suppress = true;
    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    subject.keeps_batch = true;
    put(&subject, "a", 5);
    CHECK_TEXT(step(&subject), "+a=5");
    subject_restart(&subject);
    put(&subject, "b", 6);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    CHECK_EQ(put(&subject, "a", 6), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(statistics().suppressed, 1);
    put_back(1); /* That it was suppressed counts no more. */
    CHECK_TEXT(step(&subject), "empty");
    close_bounded();
}

/* ---------------------------------------------------------------------------------------------- */
/* Bytes                                                                                          */

static void
bytes_of_values_are_bounded(void)
{
    open_bounded(SUBJECT_BYTES, 0, 20);
    CHECK_EQ(put(&subject, "a", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "b", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(statistics().pending_bytes, 16);
    CHECK_EQ(put(&subject, "a", 3), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(del(&subject, "b"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(statistics().pending_bytes, 8);
    CHECK_EQ(put(&subject, "b", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(del_id(&subject, "c", 9), CDEDUPE_OUTCOME_QUEUED); /* Weighs nothing. */
    CHECK_EQ(statistics().pending_bytes, 16);
    CHECK_EQ(put(&subject, "d", 4), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(statistics().pending_bytes, 0);
    close_bounded();
}

static void
put_length(const char *key, size_t length, cdedupe_outcome_t wanted)
{
    static char value[100000];
    cdedupe_outcome_t outcome;

    CHECK_EQ(cdedupe_bytes_put(subject.bytes, key, strlen(key), value, length, 1, &outcome),
             wanted == CDEDUPE_OUTCOME_OVERFLOWED || wanted == CDEDUPE_OUTCOME_DROPPED
                 ? CDEDUPE_OVERFLOWED
                 : CDEDUPE_OK);
    CHECK_EQ(outcome, wanted);
    subject_check(&subject);
}

/* Those that do not fit into a slot, too. */
static void
a_value_weighs_its_length(void)
{
    cdedupe_bytes_item_t items[10];
    size_t count;

    open_bounded(SUBJECT_BYTES, 0, 100000);
    put_length("a", 70000, CDEDUPE_OUTCOME_QUEUED);
    put_length("b", 30000, CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(statistics().pending_bytes, 100000);
    put_length("c", 0, CDEDUPE_OUTCOME_QUEUED);
    put_length("a", 1, CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(statistics().pending_bytes, 30001);
    CHECK_EQ(cdedupe_bytes_take(subject.bytes, items, 1, &count), CDEDUPE_OK);
    CHECK_EQ(statistics().pending_bytes, 30000);
    CHECK_EQ(cdedupe_bytes_put_back(subject.bytes, &count), CDEDUPE_OK);
    CHECK_EQ(statistics().pending_bytes, 30001);
    put_length("d", 69999, CDEDUPE_OUTCOME_QUEUED);
    put_length("e", 1, CDEDUPE_OUTCOME_OVERFLOWED);
    close_bounded();
}

/*
 * One that was allowed to grow beyond the bound is no reason to refuse to replace it; but nothing
 * new gets in.
 */
static void
replacements_may_go_beyond_the_bytes(void)
{
    open_bounded(SUBJECT_BYTES, 0, 10);
    put_length("a", 10, CDEDUPE_OUTCOME_QUEUED);
    put_length("a", 50, CDEDUPE_OUTCOME_REPLACED);
    put_length("a", 60, CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(statistics().pending_bytes, 60);
    CHECK_EQ(statistics().overflows, 0);
    put_length("b", 1, CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(statistics().pending_bytes, 0);
    close_bounded();
}

static void
a_value_too_large_for_an_empty_buffer_overflows(void)
{
    open_bounded(SUBJECT_BYTES, 0, 10);
    put_length("a", 11, CDEDUPE_OUTCOME_OVERFLOWED);
    put_length("a", 1, CDEDUPE_OUTCOME_DROPPED);
    subject_restart(&subject);
    put_length("a", 10, CDEDUPE_OUTCOME_QUEUED);
    close_bounded();
}

static void
payloads_say_what_they_weigh(void)
{
    open_bounded(SUBJECT_HANDLES, 0, 6);
    CHECK_EQ(put(&subject, "a", 4), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "b", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(statistics().pending_bytes, 6);
    CHECK_EQ(put(&subject, "c", 5), CDEDUPE_OUTCOME_QUEUED); /* Nothing. */
    CHECK_EQ(put(&subject, "a", 11), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(statistics().pending_bytes, 3);
    CHECK_TEXT(step(&subject), "+a=11 +b=2 +c=5");
    CHECK_EQ(statistics().pending_bytes, 0);
    CHECK_EQ(put(&subject, "d", 4), CDEDUPE_OUTCOME_QUEUED);
    put_back(3);
    CHECK_EQ(statistics().pending_bytes, 7);
    CHECK_EQ(put(&subject, "e", 5), CDEDUPE_OUTCOME_OVERFLOWED);
    close_bounded();
}

static void
a_deletion_weighs_what_its_payload_does(void)
{
    open_bounded(SUBJECT_HANDLES, 0, 6);
    CHECK_EQ(del_id(&subject, "a", 4), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(del(&subject, "b"), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(statistics().pending_bytes, 4);
    CHECK_EQ(del(&subject, "a"), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(statistics().pending_bytes, 0);
    CHECK_EQ(put(&subject, "a", 3), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(statistics().pending_bytes, 3);
    subject_restart(&subject);
    CHECK_EQ(statistics().pending_bytes, 0);
    CHECK_EQ(put(&subject, "a", 4), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(statistics().pending_bytes, 4);
    close_bounded();
}

static void
without_a_bound_nothing_is_weighed(void)
{
    open_bounded(SUBJECT_HANDLES, 5, 0);
    put(&subject, "a", 4);
    CHECK_EQ(statistics().pending_bytes, 0);
    close_bounded();
}

static void
either_bound_is_enough(void)
{
    open_bounded(SUBJECT_BYTES, 3, 10);
    put_length("a", 1, CDEDUPE_OUTCOME_QUEUED);
    put_length("b", 1, CDEDUPE_OUTCOME_QUEUED);
    put_length("c", 1, CDEDUPE_OUTCOME_QUEUED);
    put_length("d", 1, CDEDUPE_OUTCOME_OVERFLOWED);
    subject_restart(&subject);
    put_length("a", 10, CDEDUPE_OUTCOME_QUEUED);
    put_length("b", 1, CDEDUPE_OUTCOME_OVERFLOWED);
    close_bounded();
}

/* ---------------------------------------------------------------------------------------------- */
/* Numbers at their ends                                                                          */

static cdedupe_t *
create_weighing(uint64_t maximum, cdedupe_result_t wanted, size_t payload_size, size_t offset)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer;

    options.payload_size = payload_size;
    options.maximum_pending_bytes = maximum;
    options.weight_offset = offset;
    CHECK_EQ(cdedupe_create(&options, &buffer), wanted);
    return buffer;
}

static cdedupe_outcome_t
put_weight(cdedupe_t *buffer, const char *key, uint64_t weight)
{
    cdedupe_update_t update = {.key = key, .key_length = strlen(key)};

    CHECK_EQ(cdedupe_acquire(buffer, &update.slot, 1), CDEDUPE_OK);
    memcpy(cdedupe_payload(buffer, update.slot), &weight, sizeof(weight));
    CHECK_EQ(cdedupe_put(buffer, &update, 1) == CDEDUPE_OVERFLOWED,
             update.outcome == CDEDUPE_OUTCOME_OVERFLOWED);
    cdedupe_discard(buffer, &update.slot, 1);
    cdedupe_discard(buffer, &update.displaced, 1);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return (cdedupe_outcome_t)update.outcome;
}

static uint64_t
pending_bytes(cdedupe_t *buffer)
{
    cdedupe_statistics_t s;

    cdedupe_statistics(buffer, &s, sizeof(s));
    return s.pending_bytes;
}

static void
weight_aboveTheMaximum_countsAsTheMaximum(void)
{
    cdedupe_t *buffer = create_weighing(CDEDUPE_WEIGHT_MAX + 10, CDEDUPE_OK, 8, 0);

    CHECK_EQ(put_weight(buffer, "a", 10), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_weight(buffer, "b", UINT64_MAX), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(pending_bytes(buffer), CDEDUPE_WEIGHT_MAX + 10);
    CHECK_EQ(put_weight(buffer, "b", CDEDUPE_WEIGHT_MAX - 1), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(pending_bytes(buffer), CDEDUPE_WEIGHT_MAX + 9);
    CHECK_EQ(put_weight(buffer, "c", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_weight(buffer, "d", 1), CDEDUPE_OUTCOME_OVERFLOWED);
    cdedupe_destroy(buffer);
}

/* Replacements are never refused: a bound of 100, and twice the largest weight and 7. */
static cdedupe_t *
with_a_sum_beyond(void)
{
    cdedupe_t *buffer = create_weighing(100, CDEDUPE_OK, 8, 0);

    CHECK_EQ(put_weight(buffer, "a", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_weight(buffer, "b", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_weight(buffer, "c", 7), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_weight(buffer, "a", UINT64_MAX), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put_weight(buffer, "b", UINT64_MAX), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(pending_bytes(buffer), 2 * CDEDUPE_WEIGHT_MAX + 7);
    return buffer;
}

static void
replacement_beyondTheBound_isAccepted_andTheNextKeyOverflows(void)
{
    cdedupe_t *buffer = with_a_sum_beyond();

    CHECK_EQ(put_weight(buffer, "d", 0), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(pending_bytes(buffer), 0);
    cdedupe_destroy(buffer);
}

static void
replacement_byLess_makesRoomAgain(void)
{
    cdedupe_t *buffer = with_a_sum_beyond();

    CHECK_EQ(put_weight(buffer, "a", 10), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put_weight(buffer, "b", 80), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(pending_bytes(buffer), 97);
    CHECK_EQ(put_weight(buffer, "d", 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_weight(buffer, "e", 1), CDEDUPE_OUTCOME_OVERFLOWED);
    cdedupe_destroy(buffer);
}

static void
restart_beyondTheBound_dropsTheWeights(void)
{
    cdedupe_t *buffer = with_a_sum_beyond();

    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(pending_bytes(buffer), 0);
    CHECK_EQ(put_weight(buffer, "a", 60), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_weight(buffer, "d", 40), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(pending_bytes(buffer), 100);
    CHECK_EQ(put_weight(buffer, "e", 1), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(put_weight(buffer, "a", 100), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(pending_bytes(buffer), 100);
    cdedupe_destroy(buffer);
}

static void
putBack_mayGoBeyondTheBound(void)
{
    cdedupe_t *buffer = with_a_sum_beyond();
    cdedupe_item_t items[3];
    size_t count;

    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_take(buffer, items, 1, &count), CDEDUPE_OK);
    CHECK_EQ(pending_bytes(buffer), CDEDUPE_WEIGHT_MAX + 7);
    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_OK);
    CHECK_EQ(pending_bytes(buffer), 2 * CDEDUPE_WEIGHT_MAX + 7);
    CHECK_EQ(cdedupe_take(buffer, items, 3, &count), CDEDUPE_OK);
    CHECK_EQ(count, 3);
    CHECK_EQ(pending_bytes(buffer), 0);
    CHECK_EQ(put_weight(buffer, "d", 100), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_OK);
    CHECK_EQ(pending_bytes(buffer), 2 * CDEDUPE_WEIGHT_MAX + 107);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/*
 * What a merge makes weighs that much; and the older value says that it weighs nothing, which comes
 * too late.
 */
static uint64_t merged_weight;

static void
merge_to_weight(void *context, void *older, void *newer)
{
    (void)context;
    memset(older, 0, 8);
    memcpy(newer, &merged_weight, sizeof(merged_weight));
}

/* A value of some weight is merged with the key's, and what that leaves. */
static void
merge_weight(cdedupe_t *buffer, const char *key, uint64_t weight, uint64_t after)
{
    merged_weight = weight;
    CHECK_EQ(put_weight(buffer, key, 3), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(pending_bytes(buffer), after);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
}

static void
so_with_what_is_merged(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer;

    options.payload_size = 8;
    options.maximum_pending_bytes = 100;
    options.merge = merge_to_weight;
    CHECK_EQ(cdedupe_create(&options, &buffer), CDEDUPE_OK);
    CHECK_EQ(put_weight(buffer, "a", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_weight(buffer, "b", 2), CDEDUPE_OUTCOME_QUEUED);
    merge_weight(buffer, "a", UINT64_MAX, CDEDUPE_WEIGHT_MAX + 2);
    merge_weight(buffer, "b", 7, CDEDUPE_WEIGHT_MAX + 7);
    merge_weight(buffer, "a", 4, 11);
    merge_weight(buffer, "b", 5, 9);
    CHECK_EQ(put_weight(buffer, "c", 91), CDEDUPE_OUTCOME_QUEUED);
    cdedupe_destroy(buffer);
}

static void
the_weight_lies_within_the_payload(void)
{
    cdedupe_destroy(create_weighing(1, CDEDUPE_OK, 24, 16));
    create_weighing(1, CDEDUPE_INVALID_ARGUMENT, 24, 17);
    create_weighing(1, CDEDUPE_INVALID_ARGUMENT, 4, 0);
    create_weighing(1, CDEDUPE_INVALID_ARGUMENT, 24, SIZE_MAX - 3);
    cdedupe_destroy(
        create_weighing(0, CDEDUPE_OK, 24, SIZE_MAX - 3)); /* No bound, nobody reads it. */
}

/* ---------------------------------------------------------------------------------------------- */
/* Threads                                                                                        */

enum { PRODUCERS = 3, CALLS = 20000, BOUND = 8 };

typedef struct crowd {
    cdedupe_bytes_t *buffer;
    atomic_uint running;
    atomic_ullong overflows;
} crowd_t;

/* Whoever is told restarts. */
static void *
produce(void *argument)
{
    crowd_t *crowd = argument;
    uint64_t value = 0;

    for (uint32_t i = 0; i < CALLS; i++) {
        uint32_t key = i * 2654435761U >> 22; /* 1024 keys. */
        cdedupe_outcome_t outcome;

        cdedupe_result_t result =
            cdedupe_bytes_put(crowd->buffer, &key, sizeof(key), &value, sizeof(value), 0, &outcome);

        CHECK_EQ(result, outcome == CDEDUPE_OUTCOME_OVERFLOWED || outcome == CDEDUPE_OUTCOME_DROPPED
                             ? CDEDUPE_OVERFLOWED
                             : CDEDUPE_OK);
        if (outcome == CDEDUPE_OUTCOME_OVERFLOWED) {
            atomic_fetch_add(&crowd->overflows, 1);
            CHECK_EQ(cdedupe_bytes_restart(crowd->buffer), CDEDUPE_OK);
        }
        CHECK(outcome == CDEDUPE_OUTCOME_QUEUED || outcome == CDEDUPE_OUTCOME_REPLACED ||
              outcome == CDEDUPE_OUTCOME_OVERFLOWED || outcome == CDEDUPE_OUTCOME_DROPPED);
    }
    atomic_fetch_sub(&crowd->running, 1);
    return NULL;
}

static void
of_every_overflow_somebody_is_told_and_the_bound_holds(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_statistics_t s;
    cdedupe_bytes_item_t items[3];
    pthread_t threads[PRODUCERS];
    crowd_t crowd;
    size_t count;

    options.maximum_pending_keys = BOUND;
    options.maximum_pending_bytes = BOUND * 8;
    CHECK_EQ(cdedupe_bytes_create(&options, &crowd.buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_claim(crowd.buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    atomic_init(&crowd.running, PRODUCERS);
    atomic_init(&crowd.overflows, 0);
    for (size_t i = 0; i < PRODUCERS; i++) {
        pthread_create(&threads[i], NULL, produce, &crowd);
    }
    do {
        cdedupe_bytes_take(crowd.buffer, items, 3, &count);
        cdedupe_bytes_statistics(crowd.buffer, &s, sizeof(s));
        CHECK(s.pending_keys <= BOUND && s.pending_bytes <= BOUND * 8);
    } while (atomic_load(&crowd.running) > 0);
    for (size_t i = 0; i < PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
    }
    cdedupe_bytes_statistics(crowd.buffer, &s, sizeof(s));
    CHECK_EQ(s.overflows, atomic_load(&crowd.overflows));
    CHECK(s.overflows > 0);
    CHECK_EQ(s.peak_pending_keys, BOUND);
    CHECK_EQ(s.received, PRODUCERS * CALLS);
    CHECK_EQ(s.received, s.delivered + s.replaced + s.dropped + s.pending_keys);
    CHECK_NO_FAULT(cdedupe_bytes_validate(crowd.buffer));
    cdedupe_bytes_destroy(crowd.buffer);
}

#define RUN_AT_BOTH_LEVELS(test) (check_test = #test, at_both_levels(test))

int
main(void)
{
    RUN_AT_BOTH_LEVELS(one_key_more_drops_all_that_is_pending);
    RUN_AT_BOTH_LEVELS(it_is_told_once);
    RUN_AT_BOTH_LEVELS(the_next_restart_ends_it);
    RUN_AT_BOTH_LEVELS(replacements_are_never_refused);
    RUN_AT_BOTH_LEVELS(what_was_taken_makes_room);
    RUN_AT_BOTH_LEVELS(a_deletion_may_be_the_one_too_many);
    RUN_AT_BOTH_LEVELS(statuses_have_no_bound_and_are_dropped);
    RUN_AT_BOTH_LEVELS(an_in_sync_before_the_restart_is_ignored);
    RUN_AT_BOTH_LEVELS(an_ignored_status_leaves_no_trace);
    RUN_AT_BOTH_LEVELS(as_after_a_restart_the_latest_status_is_the_one_taken);
    RUN_AT_BOTH_LEVELS(all_that_is_live_has_to_be_heard_of_again);
    RUN_AT_BOTH_LEVELS(owed_deletions_may_go_beyond);
    RUN_AT_BOTH_LEVELS(what_is_put_back_may_go_beyond);
    RUN_AT_BOTH_LEVELS(what_is_put_back_after_it_is_dropped);
    RUN_AT_BOTH_LEVELS(what_is_put_back_after_both_is_dropped_too);
    RUN_AT_BOTH_LEVELS(a_status_that_is_put_back_after_it_does_not_come_before_the_restart);
    RUN_AT_BOTH_LEVELS(it_does_not_wake_and_what_comes_after_the_restart_does);
    RUN_AT_BOTH_LEVELS(finish_whenOverflowing_dropsTheNewKeyAlone);
    RUN_AT_BOTH_LEVELS(so_when_it_is_to_be_empty);
    RUN_AT_BOTH_LEVELS(a_stopped_buffer_does_not_overflow);
    RUN_AT_BOTH_LEVELS(an_overflowed_buffer_can_be_stopped);
    RUN_AT_BOTH_LEVELS(in_the_middle_of_a_call);
    RUN(a_suppressed_value_does_not_overflow);
    RUN(bytes_of_values_are_bounded);
    RUN(a_value_weighs_its_length);
    RUN(replacements_may_go_beyond_the_bytes);
    RUN(a_value_too_large_for_an_empty_buffer_overflows);
    RUN(payloads_say_what_they_weigh);
    RUN(a_deletion_weighs_what_its_payload_does);
    RUN(without_a_bound_nothing_is_weighed);
    RUN(either_bound_is_enough);
    RUN(weight_aboveTheMaximum_countsAsTheMaximum);
    RUN(replacement_beyondTheBound_isAccepted_andTheNextKeyOverflows);
    RUN(replacement_byLess_makesRoomAgain);
    RUN(restart_beyondTheBound_dropsTheWeights);
    RUN(putBack_mayGoBeyondTheBound);
    RUN(so_with_what_is_merged);
    RUN(the_weight_lies_within_the_payload);
    RUN(of_every_overflow_somebody_is_told_and_the_bound_holds);
    return check_finish();
}
