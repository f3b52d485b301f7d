/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Suppression, rule by rule: a value that the sink has already is not queued again. At the handle
 * level, the revision of an id is its last three digits; at the bytes level, all of it.
 * test_exhaustive.c compares suppression with the model in all short sequences.
 */
#include <stddef.h>

#include "check.h"
#include "hooks.h"
#include "subject.h"

static subject_t subject;

static void
open_level(subject_level_t level, bool suppress)
{
    subject_options_t options = subject_defaults(level);

    options.suppress = suppress;
    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    subject.keeps_batch = true;
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
}

static void
close_level(void)
{
    subject_collect(&subject, 10);
    subject_close(&subject);
}

static void
at_both_levels(void (*test)(void))
{
    for (int level = SUBJECT_BYTES; level <= SUBJECT_HANDLES; level++) {
        open_level((subject_level_t)level, true);
        test();
        close_level();
    }
}

static void
put_back(size_t count)
{
    uint64_t back[16];

    CHECK_EQ(subject_put_back(&subject, count, back), CDEDUPE_OK);
}

/* The sink has a, of revision 5. */
static void
take_five(void)
{
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "+a=5");
}

static void
expect_counts(uint64_t suppressed, uint64_t pending, uint64_t live)
{
    cdedupe_statistics_t statistics = subject_statistics(&subject);

    CHECK_EQ(statistics.suppressed, suppressed);
    CHECK_EQ(statistics.pending_keys, pending);
    CHECK_EQ(statistics.live_keys, live);
}

/* ---------------------------------------------------------------------------------------------- */

static void
what_the_sink_has_is_suppressed(void)
{
    take_five();
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    expect_counts(1, 0, 1);
    CHECK_EQ(subject_statistics(&subject).received, 2);
    CHECK_TEXT(step(&subject), "empty");
}

static void
another_revision_is_queued_be_it_older(void)
{
    take_five();
    CHECK_EQ(put(&subject, "a", 4), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "~a=4");
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "~a=5");
    expect_counts(0, 0, 1);
}

static void
nothing_is_suppressed_that_was_never_taken(void)
{
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_REPLACED);
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "+a=5");
}

static void
the_revision_is_the_keys_own(void)
{
    take_five();
    CHECK_EQ(put(&subject, "b", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    CHECK_TEXT(step(&subject), "+b=5");
}

/* Delivered 5, pending 6, then 5: 5 is pending. */
static void
with_something_pending_it_replaces_as_always(void)
{
    take_five();
    CHECK_EQ(put(&subject, "a", 6), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_REPLACED);
    expect_counts(0, 1, 1);
    CHECK_TEXT(step(&subject), "~a=5");
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
}

static void
a_pending_deletion_is_something_too(void)
{
    take_five();
    CHECK_EQ(del(&subject, "a"), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_REPLACED);
    CHECK_TEXT(step(&subject), "~a=5");
}

static void
a_deletion_ends_what_was_had(void)
{
    take_five();
    del(&subject, "a");
    CHECK_TEXT(step(&subject), "-a");
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "+a=5");
}

static void
a_deletion_is_never_suppressed(void)
{
    take_five();
    CHECK_EQ(del_id(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "-a=5");
    CHECK_EQ(del_id(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "-a=5");
}

/* And what was taken of revision zero is not what was taken before it. */
static void
zero_never_equals(void)
{
    uint64_t zero = subject.bytes != NULL ? 0 : 7000;

    CHECK_EQ(put(&subject, "a", 7005), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(subject_take(&subject, 1), CDEDUPE_OK);
    if (subject.bytes == NULL) {
        CHECK_EQ(put(&subject, "a", zero), CDEDUPE_OUTCOME_QUEUED);
        CHECK_EQ(subject_take(&subject, 1), CDEDUPE_OK);
        CHECK_EQ(put(&subject, "a", zero), CDEDUPE_OUTCOME_QUEUED);
        CHECK_EQ(subject_take(&subject, 1), CDEDUPE_OK);
        CHECK_EQ(put(&subject, "a", 7005), CDEDUPE_OUTCOME_QUEUED);
    } else {
        CHECK_EQ(cdedupe_bytes_put(subject.bytes, "a", 1, &zero, sizeof(zero), 0, NULL),
                 CDEDUPE_OK);
        CHECK_EQ(subject_take(&subject, 1), CDEDUPE_OK);
        CHECK_EQ(cdedupe_bytes_put(subject.bytes, "a", 1, &zero, sizeof(zero), 0, NULL),
                 CDEDUPE_OK);
        expect_counts(0, 1, 1);
    }
    expect_counts(0, 1, 1);
}

static void
all_bits_of_a_revision_count(void)
{
    static const uint64_t revisions[] = {1, (uint64_t)1 << 32 | 1, (uint64_t)1 << 63 | 1,
                                         UINT64_MAX};

    if (subject.bytes == NULL) {
        return; /* Where revisions are small. */
    }
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(put(&subject, "a", revisions[i]), CDEDUPE_OUTCOME_QUEUED);
        CHECK_EQ(subject_take(&subject, 1), CDEDUPE_OK);
        CHECK_EQ(put(&subject, "a", revisions[i]), CDEDUPE_OUTCOME_SUPPRESSED);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Restarts                                                                                       */

static void
a_suppressed_key_was_heard_of(void)
{
    take_five();
    CHECK_EQ(put(&subject, "b", 6), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "+b=6");
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "-b | <in-sync>");
    expect_counts(1, 0, 1);
}

static void
and_has_to_be_heard_of_again_after_the_next_restart(void)
{
    take_five();
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "-a | <in-sync>");
}

/* The sink has 5 still: what was dropped never got there. */
static void
a_newer_value_that_a_restart_dropped_does_not_count(void)
{
    take_five();
    put(&subject, "a", 6);
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    CHECK_EQ(put(&subject, "a", 6), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "~a=6");
}

static void
so_with_a_deletion_that_a_restart_dropped(void)
{
    take_five();
    del_id(&subject, "a", 9);
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "<in-sync>");
    expect_counts(1, 0, 1);
}

static void
the_payload_that_a_restart_dropped_comes_back_once(void)
{
    take_five();
    put(&subject, "a", 6);
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    subject_restart(&subject);
    subject_collect(&subject, 1);
    CHECK(subject.core == NULL || subject.payloads.living == 1); /* In the batch. */
}

static void
a_synthesized_deletion_is_pending(void)
{
    take_five();
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_REPLACED);
    CHECK_TEXT(step(&subject), "~a=5 | <in-sync>");
}

/* ---------------------------------------------------------------------------------------------- */
/* Putting back                                                                                   */

static void
putting_back_restores_the_revision_before(void)
{
    take_five();
    put(&subject, "a", 6);
    CHECK_TEXT(step(&subject), "~a=6");
    subject_restart(&subject);
    put_back(1);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    CHECK_EQ(put(&subject, "a", 6), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "~a=6");
}

static void
what_was_put_back_is_pending_again_and_replaced(void)
{
    take_five();
    put(&subject, "a", 6);
    CHECK_TEXT(step(&subject), "~a=6");
    put_back(1);
    CHECK_EQ(put(&subject, "a", 6), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_REPLACED);
    CHECK_TEXT(step(&subject), "~a=5");
}

static void
an_put_back_deletion_restores_it_too(void)
{
    take_five();
    del_id(&subject, "a", 6);
    CHECK_TEXT(step(&subject), "-a=6");
    subject_restart(&subject);
    put_back(1);
    expect_counts(0, 0, 1);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "<in-sync>");
}

/* Nothing that was ever taken is left, so that zero is what is restored. */
static void
an_put_back_first_value_leaves_nothing_to_compare_with(void)
{
    take_five();
    subject_restart(&subject);
    put_back(1);
    expect_counts(0, 0, 0);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "+a=5");
}

static void
what_was_suppressed_and_then_put_back_is_pending(void)
{
    take_five();
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    put_back(1);
    expect_counts(1, 1, 0);
    CHECK_TEXT(step(&subject), "+a=5");
}

static void
so_after_a_restart(void)
{
    take_five();
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    put_back(1);
    CHECK_EQ(subject_statistics(&subject).pending_keys, 1);
    CHECK_EQ(subject_statistics(&subject).live_keys, 0);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "+a=5 | <in-sync>");
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
}

static void
so_after_the_in_sync(void)
{
    put(&subject, "a", 4);
    CHECK_TEXT(step(&subject), "+a=4");
    put(&subject, "a", 5);
    CHECK_TEXT(step(&subject), "~a=5");
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    put(&subject, "b", 1);
    put_back(1);
    CHECK_TEXT(step(&subject), "~a=5 | <in-sync> | +b=1");
}

/* The source will send it again. */
static void
not_if_another_restart_came_after_it_was_suppressed(void)
{
    take_five();
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    subject_restart(&subject);
    put_back(1);
    CHECK_EQ(subject_statistics(&subject).pending_keys, 0);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "+a=5 | <in-sync>");
}

static void
not_if_something_newer_is_pending(void)
{
    take_five();
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    CHECK_EQ(put(&subject, "a", 6), CDEDUPE_OUTCOME_QUEUED);
    put_back(1);
    CHECK_EQ(subject_statistics(&subject).pending_keys, 1);
    CHECK_TEXT(step(&subject), "+a=6");
}

static void
only_of_those_that_were_sent_again(void)
{
    put(&subject, "a", 5);
    put(&subject, "b", 6);
    put(&subject, "c", 7);
    CHECK_TEXT(step(&subject), "+a=5 +b=6 +c=7");
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    CHECK_EQ(put(&subject, "c", 7), CDEDUPE_OUTCOME_SUPPRESSED);
    put_back(3);
    CHECK_TEXT(step(&subject), "+a=5 +c=7");
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "<in-sync>");
}

static void
on_a_stopped_buffer_it_is_dropped(void)
{
    take_five();
    subject_stop(&subject);
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_DROPPED);
    expect_counts(0, 0, 1);
}

/* Suppressing takes no place in the queue: it wakes nobody. */
static void
it_wakes_nobody(void)
{
    take_five();
    CHECK_TEXT(step(&subject), "empty");
    CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
    CHECK_EQ(subject.wakes, 0);
    CHECK_EQ(put(&subject, "a", 6), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(subject.wakes, 1);
}

/* ---------------------------------------------------------------------------------------------- */
/* The option                                                                                     */

static void
by_default_nothing_is_suppressed(void)
{
    for (int level = SUBJECT_BYTES; level <= SUBJECT_HANDLES; level++) {
        open_level((subject_level_t)level, false);
        take_five();
        CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_QUEUED);
        CHECK_TEXT(step(&subject), "~a=5");
        expect_counts(0, 0, 1);
        close_level();
    }
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

/*
 * Many keys, an index that grows and shrinks, slabs that go and come: each key keeps its own
 * revision.
 */
static void
many_keys_keep_their_revisions(void)
{
    enum { MANY = 5000 };
    char key[32];

    subject.paranoid = false;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < MANY; i++) {
            bool is_known = round > 0 && i % 3 != 0;

            snprintf(key, sizeof(key), "key %d", i);
            CHECK_EQ(put(&subject, key, (uint64_t)(i % 900) + 1),
                     is_known ? CDEDUPE_OUTCOME_SUPPRESSED : CDEDUPE_OUTCOME_QUEUED);
        }
        while (subject_take(&subject, 100) == CDEDUPE_OK) {
        }
        for (int i = 0; i < MANY; i += 3) {
            snprintf(key, sizeof(key), "key %d", i);
            del(&subject, key);
        }
        while (subject_take(&subject, 100) == CDEDUPE_OK) {
        }
        subject_restart(&subject);
        CHECK_NO_FAULT(subject_validate(&subject));
    }
}

/* Eight bytes more for each key, as far as that can be seen from outside. */
static void
it_takes_eight_bytes_for_each_key(void)
{
    enum { MANY = 100000 };
    uint64_t memory[2];

    for (int suppress = 0; suppress < 2; suppress++) {
        char key[32];

        open_level(SUBJECT_HANDLES, suppress != 0);
        subject.paranoid = false;
        for (int i = 0; i < MANY; i++) {
            snprintf(key, sizeof(key), "key %d", i);
            put(&subject, key, 1);
            if (i % 100 == 99) {
                subject_take(&subject, 100);
            }
        }
        memory[suppress] = subject_statistics(&subject).memory;
        close_level();
    }
    CHECK(memory[1] >= memory[0]);
    CHECK(memory[1] - memory[0] <= 12 * MANY);
}

#define RUN_AT_BOTH_LEVELS(test) (check_test = #test, at_both_levels(test))

int
main(void)
{
    RUN_AT_BOTH_LEVELS(what_the_sink_has_is_suppressed);
    RUN_AT_BOTH_LEVELS(another_revision_is_queued_be_it_older);
    RUN_AT_BOTH_LEVELS(nothing_is_suppressed_that_was_never_taken);
    RUN_AT_BOTH_LEVELS(the_revision_is_the_keys_own);
    RUN_AT_BOTH_LEVELS(with_something_pending_it_replaces_as_always);
    RUN_AT_BOTH_LEVELS(a_pending_deletion_is_something_too);
    RUN_AT_BOTH_LEVELS(a_deletion_ends_what_was_had);
    RUN_AT_BOTH_LEVELS(a_deletion_is_never_suppressed);
    RUN_AT_BOTH_LEVELS(zero_never_equals);
    RUN_AT_BOTH_LEVELS(all_bits_of_a_revision_count);
    RUN_AT_BOTH_LEVELS(a_suppressed_key_was_heard_of);
    RUN_AT_BOTH_LEVELS(and_has_to_be_heard_of_again_after_the_next_restart);
    RUN_AT_BOTH_LEVELS(a_newer_value_that_a_restart_dropped_does_not_count);
    RUN_AT_BOTH_LEVELS(so_with_a_deletion_that_a_restart_dropped);
    RUN_AT_BOTH_LEVELS(the_payload_that_a_restart_dropped_comes_back_once);
    RUN_AT_BOTH_LEVELS(a_synthesized_deletion_is_pending);
    RUN_AT_BOTH_LEVELS(putting_back_restores_the_revision_before);
    RUN_AT_BOTH_LEVELS(what_was_put_back_is_pending_again_and_replaced);
    RUN_AT_BOTH_LEVELS(an_put_back_deletion_restores_it_too);
    RUN_AT_BOTH_LEVELS(an_put_back_first_value_leaves_nothing_to_compare_with);
    RUN_AT_BOTH_LEVELS(what_was_suppressed_and_then_put_back_is_pending);
    RUN_AT_BOTH_LEVELS(so_after_a_restart);
    RUN_AT_BOTH_LEVELS(so_after_the_in_sync);
    RUN_AT_BOTH_LEVELS(not_if_another_restart_came_after_it_was_suppressed);
    RUN_AT_BOTH_LEVELS(not_if_something_newer_is_pending);
    RUN_AT_BOTH_LEVELS(only_of_those_that_were_sent_again);
    RUN_AT_BOTH_LEVELS(on_a_stopped_buffer_it_is_dropped);
    RUN_AT_BOTH_LEVELS(it_wakes_nobody);
    RUN(by_default_nothing_is_suppressed);
    RUN(the_revision_lies_within_the_payload);
    RUN(an_older_callers_options_end_earlier);
    RUN_AT_BOTH_LEVELS(many_keys_keep_their_revisions);
    RUN(it_takes_eight_bytes_for_each_key);
    return check_finish();
}
