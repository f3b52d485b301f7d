/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules that the core does not keep yet. Not in the Makefile's list: each fails, and moves to where its kind is once it passes.
 */
#include "buffer.h"

#include "check.h"
#include "subject.h"

static unsigned yields;

int
sched_yield(void)
{
    yields++;
    return 0;
}

/* ---------------------------------------------------------------------------------------------------- */
/* For test_untake.c                                                                                    */

static subject_t subject;

/*
 * The second in-sync had been received before the finish; it was not queued, as the sink had one. Now the sink gives that
 * back, and the second one is queued: behind what is owed, and it is not.
 */
static void
a_finish_waits_for_a_status_that_untaking_brings_back_behind_what_is_owed(void)
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);
    uint64_t back[1];

    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    subject.keeps_batch = true;
    CHECK_EQ(subject_claim(&subject, CDEDUPE_LOOP), CDEDUPE_OK);
    subject_status(&subject, CDEDUPE_IN_SYNC);
    CHECK_TEXT(step(&subject), "<in-sync>");
    subject_restart(&subject);
    put(&subject, "a", 1);
    subject_status(&subject, CDEDUPE_IN_SYNC);
    CHECK_EQ(subject_finish(&subject, CDEDUPE_WHEN_DELIVERED), CDEDUPE_OK);
    CHECK_EQ(subject_untake(&subject, 1, back), CDEDUPE_OK);
    CHECK_TEXT(step(&subject), "+a=1 | <in-sync>");
    subject_close(&subject);
}

/* ---------------------------------------------------------------------------------------------------- */
/* For test_holds.c                                                                                     */

static cdedupe_t *buffer;
static unsigned wakes;

static void
wake(void *context)
{
    (void)context;
    wakes++;
}

static cdedupe_update_t
put_update(const char *key, bool deletion)
{
    cdedupe_update_t update = {.key = key, .key_length = strlen(key), .deletion = deletion};

    if (!deletion)
        CHECK_EQ(cdedupe_acquire(buffer, &update.slot, 1), CDEDUPE_OK);
    cdedupe_put(buffer, &update, 1);
    return update;
}

static void
end_merge(const cdedupe_update_t *update)
{
    cdedupe_slot_t merged = update->displaced;

    CHECK_EQ(update->outcome, CDEDUPE_MERGE);
    cdedupe_put_merged(buffer, update->key, update->key_length, update->displaced, &merged);
}

static void
take_nothing(void)
{
    cdedupe_item_t items[10];
    size_t count;

    CHECK_EQ(cdedupe_take(buffer, items, 10, &count), CDEDUPE_EMPTY);
}

/* Two keys are pending; the first is being merged, and the loop sleeps at it. */
static cdedupe_update_t
sleep_at_a_merge(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_update_t update;

    options.merging = true;
    options.wake = wake;
    wakes = 0;
    CHECK_EQ(cdedupe_create(&options, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_LOOP), CDEDUPE_OK);
    put_update("a", false);
    put_update("b", false);
    update = put_update("a", false);
    take_nothing();
    return update;
}

static void
a_loop_that_waits_for_a_merge_is_not_woken_by_the_end_of_another(void)
{
    cdedupe_update_t update = sleep_at_a_merge(), other = put_update("b", false);

    end_merge(&other);
    CHECK_EQ(wakes, 0);
    end_merge(&update);
    CHECK_EQ(wakes, 1);
    cdedupe_destroy(buffer);
}

static void
nor_by_the_deletion_of_another_that_is_merged(void)
{
    cdedupe_update_t update = sleep_at_a_merge();

    put_update("b", false);
    put_update("b", true);
    CHECK_EQ(wakes, 0);
    end_merge(&update);
    CHECK_EQ(wakes, 1);
    cdedupe_destroy(buffer);
}

/* The place that the sink waited for is gone; another key gets its memory, and with it the waiting. */
static void
a_merge_of_a_key_that_the_sink_never_came_to_does_not_wait(void)
{
    cdedupe_update_t update = sleep_at_a_merge(), other;

    put_update("a", true);
    end_merge(&update);
    put_update("c", false);
    yields = 0;
    other = put_update("c", false);
    CHECK_EQ(yields, 0);
    end_merge(&other);
    cdedupe_destroy(buffer);
}

int
main(void)
{
    RUN(a_finish_waits_for_a_status_that_untaking_brings_back_behind_what_is_owed);
    RUN(a_loop_that_waits_for_a_merge_is_not_woken_by_the_end_of_another);
    RUN(nor_by_the_deletion_of_another_that_is_merged);
    RUN(a_merge_of_a_key_that_the_sink_never_came_to_does_not_wait);
    return check_finish();
}
