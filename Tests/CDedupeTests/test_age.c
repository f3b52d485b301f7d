/* SPDX-License-Identifier: Apache-2.0 */
/* The age of an update's place in the queue, as cdedupe_age() and the statistics report it. */
#include <stddef.h>

#include "check.h"
#include "subject.h"

static subject_t subject;

#define TICK ((uint64_t)1000000) /* A millisecond of the clock. */

static uint64_t now;

static uint64_t
clock_by_hand(void *context)
{
    CHECK(context == NULL);
    return now;
}

static void
open_with_a_clock(void)
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);

    options.clock = clock_by_hand;
    now = ((uint64_t)INT32_MAX + 100000) * TICK;
    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    subject.keeps_batch = true;
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
}

static void
put_back(size_t count)
{
    uint64_t back[16];

    CHECK_EQ(subject_put_back(&subject, count, back), CDEDUPE_OK);
}

static uint64_t
oldest(void)
{
    return subject_statistics(&subject).oldest_pending_age;
}

static void
with_a_clock(void (*test)(void))
{
    open_with_a_clock();
    test();
    subject_collect(&subject, 3);
    subject_close(&subject);
}

static void
an_item_is_as_old_as_its_place(void)
{
    put(&subject, "a", 1);
    now += 10 * TICK;
    put(&subject, "b", 2);
    now += 5 * TICK;
    CHECK_TEXT(step(&subject), "+a=1 +b=2");
    CHECK_EQ(subject.items[0].age, 15);
    CHECK_EQ(subject.items[1].age, 5);
}

static void
it_ages_while_it_is_lent(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    now += 10 * TICK;
    CHECK_EQ(cdedupe_age(subject.core, &subject.core_items[0]), 10);
}

static void
a_replacement_keeps_the_age(void)
{
    put(&subject, "a", 1);
    now += 10 * TICK;
    put(&subject, "a", 2);
    CHECK_EQ(oldest(), 10);
    now += 10 * TICK;
    CHECK_EQ(oldest(), 20);
    CHECK_TEXT(step(&subject), "+a=2");
    CHECK_EQ(subject.items[0].age, 20);
}

static void
a_key_that_is_queued_again_is_young(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    now += 10 * TICK;
    put(&subject, "a", 2);
    CHECK_EQ(oldest(), 0);
    CHECK_TEXT(step(&subject), "~a=2");
    put(&subject, "b", 3);
    now += 10 * TICK;
    del(&subject, "b");
    put(&subject, "b", 4);
    CHECK_EQ(oldest(), 0);
    now += 10 * TICK;
    subject_restart(&subject);
    put(&subject, "b", 5);
    now += TICK;
    CHECK_EQ(oldest(), 1);
}

static void
what_is_put_back_keeps_its_age(void)
{
    put(&subject, "a", 1);
    now += 10 * TICK;
    CHECK_TEXT(step(&subject), "+a=1");
    now += 10 * TICK;
    put_back(1);
    CHECK_EQ(oldest(), 20);
    now += 10 * TICK;
    CHECK_TEXT(step(&subject), "+a=1");
    CHECK_EQ(subject.items[0].age, 30);
}

static void
what_takes_the_place_of_the_put_back_is_as_old(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    now += 10 * TICK;
    put(&subject, "b", 2);
    put(&subject, "a", 3);
    now += 10 * TICK;
    put_back(1);
    CHECK_EQ(oldest(), 20);
    CHECK_TEXT(step(&subject), "+a=3 +b=2");
    CHECK_EQ(subject.items[0].age, 20);
    CHECK_EQ(subject.items[1].age, 10);
}

static void
an_empty_queue_has_no_age(void)
{
    CHECK_EQ(oldest(), 0);
    put(&subject, "a", 1);
    now += 10 * TICK;
    CHECK_EQ(oldest(), 10);
    subject_restart(&subject);
    CHECK_EQ(oldest(), 0);
}

static void
what_is_first_is_looked_at(void)
{
    put(&subject, "a", 1);
    now += 10 * TICK;
    put(&subject, "b", 2);
    now += 10 * TICK;
    CHECK_EQ(subject_take(&subject, 1), CDEDUPE_OK);
    CHECK_EQ(oldest(), 10);
}

static void
an_owed_deletion_is_as_old_as_the_in_sync(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    now += 10 * TICK;
    subject_restart(&subject);
    now += 10 * TICK;
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    now += 10 * TICK;
    CHECK_EQ(oldest(), 10);
    CHECK_TEXT(step(&subject), "-a | <in-sync>");
    CHECK_EQ(subject.items[0].age, 10);
}

/* A status in front of the first update is older, but only updates count. */
static void
oldestAge_behindAStatus_isThatOfTheFirstUpdate(void)
{
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    now += 10 * TICK;
    CHECK_EQ(oldest(), 0);
    put(&subject, "a", 1);
    now += 5 * TICK;
    CHECK_EQ(oldest(), 5);
}

static void
status_isAsOldAsItsPlace_andStaysSoWhenItIsPutBack(void)
{
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    now += 10 * TICK;
    CHECK_TEXT(step(&subject), "<resync>");
    CHECK_EQ(subject.items[0].age, 10);
    now += 10 * TICK;
    put_back(1);
    now += 10 * TICK;
    CHECK_TEXT(step(&subject), "<resync>");
    CHECK_EQ(subject.items[0].age, 30);
}

/* The place stays, as it does for updates. */
static void
status_thatIsOverwritten_leavesItsAgeToTheNewer(void)
{
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    now += 10 * TICK;
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "<in-sync>");
    CHECK_EQ(subject.items[0].age, 10);
}

/* The in-sync has come, and the key has a value again, which a second restart dropped. */
static void
deletion_putBackOverADroppedValue_keepsItsAge(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    del(&subject, "a");
    now += 10 * TICK;
    CHECK_TEXT(step(&subject), "-a");
    put(&subject, "a", 2);
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    now += 10 * TICK;
    put_back(1);
    CHECK_EQ(oldest(), 20);
    CHECK_TEXT(step(&subject), "-a | <in-sync>");
    CHECK_EQ(subject.items[0].age, 20);
}

/* Never more than the time that passed, nor less by a whole step. */
static void
age_isNeverMoreThanTheTrueAge(void)
{
    static const uint64_t starts[] = {0, 1, TICK / 2, TICK - 1};
    static const uint64_t lengths[] = {0, 1, TICK - 1, TICK, TICK + 1, 3 * TICK + TICK / 2};

    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < 6; j++) {
            now = now / TICK * TICK + 10 * TICK + starts[i];
            put(&subject, "a", 1);
            now += lengths[j];
            CHECK(oldest() * TICK <= lengths[j] && (oldest() + 2) * TICK > lengths[j]);
            subject_take(&subject, 1);
        }
    }
}

static void
age_above49Days_isToldModulo49Days(void)
{
    put(&subject, "a", 1);
    now += ((uint64_t)1 << 32) * TICK + 7 * TICK;
    CHECK_EQ(oldest(), 7);
    CHECK_TEXT(step(&subject), "+a=1");
    CHECK_EQ(subject.items[0].age, 7);
}

static void
age_upTo24Days_isExact(void)
{
    static const uint64_t ages[] = {16383, 16384, 16385, 100000, INT32_MAX};

    for (size_t i = 0; i < sizeof(ages) / sizeof(*ages); i++) {
        put(&subject, "a", 1);
        now += ages[i] * TICK;
        CHECK_EQ(oldest(), ages[i]);
        CHECK_EQ(subject_take(&subject, 1), CDEDUPE_OK);
        CHECK_EQ(subject.items[0].age, ages[i]);
    }
}

/*
 * A caller may read the clock before a producer does and ask for the age after it. The update then
 * seems to be queued in the future.
 */
static void
what_is_not_queued_yet_has_no_age(void)
{
    static const uint64_t ahead[] = {1, 2, 1000, 16000, 60001, 3600000, INT32_MAX};

    for (size_t i = 0; i < sizeof(ahead) / sizeof(*ahead); i++) {
        put(&subject, "a", 1);
        now -= ahead[i] * TICK;
        CHECK_EQ(oldest(), 0);
        CHECK_EQ(subject_take(&subject, 1), CDEDUPE_OK);
        CHECK_EQ(subject.items[0].age, 0);
        now += 2 * ahead[i] * TICK;
        CHECK_EQ(cdedupe_age(subject.core, &subject.core_items[0]), ahead[i]);
    }
}

static void
by_default_the_clock_is_the_systems(void)
{
    cdedupe_bytes_t *buffer;
    cdedupe_statistics_t statistics;
    uint64_t age = 0;

    CHECK_EQ(cdedupe_bytes_create(NULL, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put(buffer, "a", 1, "1", 1, 0, NULL), CDEDUPE_OK);
    do {
        cdedupe_bytes_statistics(buffer, &statistics, sizeof(statistics));
        CHECK(statistics.oldest_pending_age >= age);
        age = statistics.oldest_pending_age;
    } while (age < 3);
    cdedupe_bytes_destroy(buffer);
}

/* Who was compiled before there were such counters gets what it knows. */
static void
an_older_callers_statistics_end_earlier(void)
{
    cdedupe_statistics_t statistics;
    size_t size = offsetof(cdedupe_statistics_t, suppressed);

    open_with_a_clock();
    memset(&statistics, 0x5a, sizeof(statistics));
    cdedupe_statistics(subject.core, &statistics, size);
    CHECK_EQ(statistics.pending_keys, 0);
    CHECK_EQ(statistics.suppressed, UINT64_C(0x5a5a5a5a5a5a5a5a));
    CHECK_EQ(statistics.oldest_pending_age, UINT64_C(0x5a5a5a5a5a5a5a5a));
    subject_close(&subject);
}

#define RUN_WITH_A_CLOCK(test) (check_test = #test, with_a_clock(test))

int
main(void)
{
    RUN_WITH_A_CLOCK(an_item_is_as_old_as_its_place);
    RUN_WITH_A_CLOCK(it_ages_while_it_is_lent);
    RUN_WITH_A_CLOCK(a_replacement_keeps_the_age);
    RUN_WITH_A_CLOCK(a_key_that_is_queued_again_is_young);
    RUN_WITH_A_CLOCK(what_is_put_back_keeps_its_age);
    RUN_WITH_A_CLOCK(what_takes_the_place_of_the_put_back_is_as_old);
    RUN_WITH_A_CLOCK(an_empty_queue_has_no_age);
    RUN_WITH_A_CLOCK(what_is_first_is_looked_at);
    RUN_WITH_A_CLOCK(an_owed_deletion_is_as_old_as_the_in_sync);
    RUN_WITH_A_CLOCK(oldestAge_behindAStatus_isThatOfTheFirstUpdate);
    RUN_WITH_A_CLOCK(status_isAsOldAsItsPlace_andStaysSoWhenItIsPutBack);
    RUN_WITH_A_CLOCK(status_thatIsOverwritten_leavesItsAgeToTheNewer);
    RUN_WITH_A_CLOCK(deletion_putBackOverADroppedValue_keepsItsAge);
    RUN_WITH_A_CLOCK(age_isNeverMoreThanTheTrueAge);
    RUN_WITH_A_CLOCK(age_above49Days_isToldModulo49Days);
    RUN_WITH_A_CLOCK(age_upTo24Days_isExact);
    RUN_WITH_A_CLOCK(what_is_not_queued_yet_has_no_age);
    RUN(by_default_the_clock_is_the_systems);
    RUN(an_older_callers_statistics_end_earlier);
    return check_finish();
}
