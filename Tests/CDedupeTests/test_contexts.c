/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool of producer contexts when all of them are claimed. Between cdedupe_single_begin() and
 * _end() the caller holds a context, so one thread can hold as many as a test needs. And the pool
 * when more threads put by pin than it has tallies for.
 */
#include <CDedupe.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "state/buffer.h"

static cdedupe_t *buffer;

/*
 * Blocks of a context's size that were allocated and not freed, and that were allocated at all. Few
 * others than contexts have this size, and none of them comes or goes after begin_all().
 */
static unsigned living, made;

/* How many allocations of contexts must meet before the first of them goes on, and have come. */
static unsigned meeting, met;

static void
wait_for_the_others(void)
{
    time_t end = time(NULL) + 60;

    __atomic_add_fetch(&met, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&met, __ATOMIC_SEQ_CST) < meeting && time(NULL) < end)
        sched_yield();
    CHECK(__atomic_load_n(&met, __ATOMIC_SEQ_CST) >= meeting);
}

static void *
allocate(void *context, size_t size, size_t alignment)
{
    void *block = aligned_alloc(64, (size + 63) / 64 * 64);

    (void)context, (void)alignment;
    if (size == sizeof(struct context)) {
        if (meeting > 0)
            wait_for_the_others();
        __atomic_add_fetch(&living, 1, __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&made, 1, __ATOMIC_SEQ_CST);
    }
    return memset(block, 0, size);
}

static void
deallocate(void *context, void *block, size_t size, size_t alignment)
{
    (void)context, (void)alignment;
    if (size == sizeof(struct context))
        __atomic_sub_fetch(&living, 1, __ATOMIC_SEQ_CST);
    free(block);
}

static void
open_counting(void)
{
    cdedupe_options_t options = cdedupe_options();

    living = made = meeting = met = 0;
    options.allocate = allocate;
    options.deallocate = deallocate;
    CHECK_EQ(cdedupe_create(&options, &buffer), CDEDUPE_OK);
}

static void *
put_one(void *key)
{
    cdedupe_single_t single;

    CHECK_EQ(cdedupe_single_begin(buffer, &single), CDEDUPE_OK);
    CHECK_EQ(cdedupe_single_put(buffer, &single, key, strlen(key), false), CDEDUPE_OK);
    cdedupe_single_end(buffer, &single);
    return NULL;
}

/*
 * Holds so many contexts, until end_all(). After that the tests put only keys that are pending, and
 * the arena has slots for them, so nothing but a context is allocated.
 */
static void
begin_all(cdedupe_single_t *singles, size_t count)
{
    put_one("a");
    put_one("b");
    for (size_t i = 0; i < count; i++)
        CHECK_EQ(cdedupe_single_begin(buffer, &singles[i]), CDEDUPE_OK);
}

static void
end_all(cdedupe_single_t *singles, size_t count)
{
    for (size_t i = 0; i < count; i++)
        cdedupe_single_end(buffer, &singles[i]);
}

/*
 * Both threads find no free context and room for one more, and both have allocated it before the
 * first adds its own.
 */
static void
threadsThatRaceForTheLastContext_addOne_andFreeTheOther(void)
{
    cdedupe_single_t singles[CONTEXTS_MAX - 1];
    pthread_t threads[2];
    unsigned were_made, were_living;

    open_counting();
    begin_all(singles, CONTEXTS_MAX - 1);
    were_made = made;
    were_living = living;
    meeting = 2;
    pthread_create(&threads[0], NULL, put_one, "a");
    pthread_create(&threads[1], NULL, put_one, "b");
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    CHECK_EQ(made - were_made, 2);
    CHECK_EQ(living - were_living, 1);
    end_all(singles, CONTEXTS_MAX - 1);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
    CHECK_EQ(living, 0);
}

/* Whether the call has ended. */
static bool has_put;

static void *
put_and_say_so(void *key)
{
    put_one(key);
    __atomic_store_n(&has_put, true, __ATOMIC_SEQ_CST);
    return NULL;
}

static void
callWithoutAFreeContext_waitsForOne_andMakesNone(void)
{
    cdedupe_single_t singles[CONTEXTS_MAX];
    unsigned were_made;
    pthread_t thread;

    open_counting();
    begin_all(singles, CONTEXTS_MAX);
    were_made = made;
    pthread_create(&thread, NULL, put_and_say_so, "a");
    for (unsigned i = 0; i < 1000; i++)
        sched_yield();
    CHECK(!__atomic_load_n(&has_put, __ATOMIC_SEQ_CST));
    cdedupe_single_end(buffer, &singles[7]);
    pthread_join(thread, NULL);
    CHECK(has_put);
    CHECK_EQ(made, were_made);
    end_all(singles, 7);
    end_all(singles + 8, CONTEXTS_MAX - 8);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
    CHECK_EQ(living, 0);
}

static cdedupe_pin_t pin;

/* The value is pending, so the update replaces it and is counted in a tally, if there is one. */
static void *
replace_by_pin(void *unused)
{
    cdedupe_update_t update = {.pin = pin};

    CHECK_EQ(cdedupe_acquire(buffer, &update.slot, 1), CDEDUPE_OK);
    CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_REPLACED);
    cdedupe_discard(buffer, &update.displaced, 1);
    return unused;
}

/* Each thread that finds no tally makes a context, but not without end. */
static void
contextsForTallies_areBounded_howeverManyThreadsPutByPin(void)
{
    enum { THREADS = 5 * TALLIES_MAX };
    cdedupe_statistics_t statistics;

    open_counting();
    put_one("a");
    CHECK_EQ(cdedupe_pin(buffer, "a", 1, &pin), CDEDUPE_OK);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_t thread;

        pthread_create(&thread, NULL, replace_by_pin, NULL);
        pthread_join(thread, NULL);
    }
    CHECK_EQ(buffer->contexts.count, TALLIES_MAX);
    cdedupe_statistics(buffer, &statistics, sizeof(statistics));
    CHECK_EQ(statistics.replaced, THREADS);
    CHECK_EQ(cdedupe_unpin(buffer, pin), CDEDUPE_OK);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
    CHECK_EQ(living, 0);
}

int
main(void)
{
    check_hangs_after(300);
    RUN(contextsForTallies_areBounded_howeverManyThreadsPutByPin);
    RUN(threadsThatRaceForTheLastContext_addOne_andFreeTheOther);
    RUN(callWithoutAFreeContext_waitsForOne_andMakesNone);
    return check_finish();
}
