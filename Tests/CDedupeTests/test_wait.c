/* SPDX-License-Identifier: Apache-2.0 */
/* cdedupe_take_wait(): the events that end a wait, and those that do not. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "CDedupe.h"
#include "check.h"

static cdedupe_t *buffer;

static void
put_deletion(const char *key)
{
    cdedupe_update_t update = {.key = key, .key_length = 1, .deletion = true};

    CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
}

static cdedupe_result_t
take_wait(int64_t timeout_ms, size_t *count)
{
    cdedupe_item_t items[10];

    return cdedupe_take_wait(buffer, items, 10, count, timeout_ms);
}

static void
with_a_loop(void (*test)(void))
{
    CHECK_EQ(cdedupe_create(NULL, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    test();
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

static void
takeWait_whenPending_returnsAtOnce(void)
{
    size_t count;

    put_deletion("a");
    CHECK_EQ(take_wait(-1, &count), CDEDUPE_OK);
    CHECK_EQ(count, 1);
}

static void
takeWait_whenEmptyAndNoTimeout_doesNotWait(void)
{
    size_t count = 5;

    CHECK_EQ(take_wait(0, &count), CDEDUPE_EMPTY);
    CHECK_EQ(count, 0);
}

static void
takeWait_whenNothingComes_endsAfterTheTimeout(void)
{
    struct timespec begin, end;
    size_t count;
    int64_t waited;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    CHECK_EQ(take_wait(30, &count), CDEDUPE_EMPTY);
    clock_gettime(CLOCK_MONOTONIC, &end);
    waited = (end.tv_sec - begin.tv_sec) * 1000000000 + end.tv_nsec - begin.tv_nsec;
    CHECK(waited >= 30000000);
}

/* Milliseconds and the clock's nanoseconds add up to more than a second. */
static void
takeWait_whoseTimeoutEndsInALaterSecond_endsThen(void)
{
    size_t count;

    CHECK_EQ(take_wait(999, &count), CDEDUPE_EMPTY);
}

static void
takeWait_afterATimeout_stillHearsOfThePut(void)
{
    size_t count;

    CHECK_EQ(take_wait(1, &count), CDEDUPE_EMPTY);
    put_deletion("a");
    CHECK_EQ(take_wait(-1, &count), CDEDUPE_OK);
    CHECK_EQ(take_wait(1, &count), CDEDUPE_EMPTY);
}

static void
takeWait_withAHugeTimeout_waits(void)
{
    size_t count;

    put_deletion("a");
    CHECK_EQ(take_wait(INT64_MAX, &count), CDEDUPE_OK);
}

static void
takeWait_withASingleBatchClaim_isRefused(void)
{
    size_t count = 5;

    cdedupe_release(buffer);
    CHECK_EQ(take_wait(0, &count), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(count, 0);
    count = 5;
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(take_wait(0, &count), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(count, 0);
}

/* ---------------------------------------------------------------------------------------------- */
/* With another thread                                                                            */

static void *
put_one(void *argument)
{
    put_deletion(argument);
    return NULL;
}

static void *
put_status(void *argument)
{
    (void)argument;
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    return NULL;
}

static void *
stop(void *argument)
{
    (void)argument;
    cdedupe_stop(buffer);
    return NULL;
}

static void *
finish(void *argument)
{
    (void)argument;
    CHECK(cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_DELIVERED) == CDEDUPE_OK);
    return NULL;
}

/* The wait may begin before or after the other thread's call: the result must be the same. */
static void
ends_a_wait(void *(*call)(void *), cdedupe_result_t wanted)
{
    for (unsigned round = 0; round < 200; round++) {
        pthread_t thread;
        size_t count;

        CHECK_EQ(cdedupe_create(NULL, &buffer), CDEDUPE_OK);
        CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
        CHECK_EQ(pthread_create(&thread, NULL, call, "a"), 0);
        CHECK_EQ(take_wait(-1, &count), wanted);
        CHECK_EQ(count, wanted == CDEDUPE_OK);
        pthread_join(thread, NULL);
        cdedupe_destroy(buffer);
    }
}

static void
takeWait_whenAnUpdateComes_returnsIt(void)
{
    ends_a_wait(put_one, CDEDUPE_OK);
}

static void
takeWait_whenAStatusComes_returnsIt(void)
{
    ends_a_wait(put_status, CDEDUPE_OK);
}

static void
takeWait_whenStopped_returns(void)
{
    ends_a_wait(stop, CDEDUPE_STOPPED);
}

static void
takeWait_whenFinished_returns(void)
{
    ends_a_wait(finish, CDEDUPE_STOPPED);
}

enum { UPDATES = 100000 };

static void *
put_many(void *argument)
{
    (void)argument;
    for (uint32_t i = 0; i < UPDATES; i++) {
        cdedupe_update_t update = {.key = &i, .key_length = sizeof(i), .deletion = true};

        CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
    }
    cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_DELIVERED);
    return NULL;
}

static void
takeWait_besideAProducer_losesNoWakeUp(void)
{
    cdedupe_item_t items[100];
    size_t count, taken = 0;
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, put_many, NULL), 0);
    while (cdedupe_take_wait(buffer, items, 100, &count, -1) == CDEDUPE_OK)
        taken += count;
    pthread_join(thread, NULL);
    CHECK_EQ(taken, UPDATES);
}

#define RUN_WITH_A_LOOP(test) (check_test = #test, with_a_loop(test))

int
main(void)
{
    check_hangs_after(300);
    RUN_WITH_A_LOOP(takeWait_whenPending_returnsAtOnce);
    RUN_WITH_A_LOOP(takeWait_whenEmptyAndNoTimeout_doesNotWait);
    RUN_WITH_A_LOOP(takeWait_whenNothingComes_endsAfterTheTimeout);
    RUN_WITH_A_LOOP(takeWait_whoseTimeoutEndsInALaterSecond_endsThen);
    RUN_WITH_A_LOOP(takeWait_afterATimeout_stillHearsOfThePut);
    RUN_WITH_A_LOOP(takeWait_withAHugeTimeout_waits);
    RUN_WITH_A_LOOP(takeWait_withASingleBatchClaim_isRefused);
    RUN(takeWait_whenAnUpdateComes_returnsIt);
    RUN(takeWait_whenAStatusComes_returnsIt);
    RUN(takeWait_whenStopped_returns);
    RUN(takeWait_whenFinished_returns);
    RUN_WITH_A_LOOP(takeWait_besideAProducer_losesNoWakeUp);
    return check_finish();
}
