/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults that were found and fixed, each by its name. Then faults that other systems of this kind
 * had, each by the system's name.
 *
 * The faults of Calico, Geode, openshift, cilium and Flink are in ../Scenarios. The hang of
 * controller-runtime's queue at shutdown is in test_shutdown.c.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "CDedupe.h"
#include "check.h"
#include "hooks.h"

enum { SHARE = 100 };

static uint64_t random_state;

static uint64_t
random_below(uint64_t limit)
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7,
        random_state ^= random_state << 17;
    return random_state % limit;
}

static cdedupe_t *
open_buffer(cdedupe_options_t options)
{
    cdedupe_t *buffer = NULL;

    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    return buffer;
}

static void
put(cdedupe_t *buffer, const char *key, bool deletion)
{
    cdedupe_update_t update = {.key = key, .key_length = strlen(key), .deletion = deletion};

    if (!deletion)
        CHECK(cdedupe_acquire(buffer, &update.slot, 1) == CDEDUPE_OK);
    CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
    cdedupe_discard(buffer, &update.slot, 1);
    cdedupe_discard(buffer, &update.displaced, 1);
}

/* ---------------------------------------------------------------------------------------------- */

/* A loop that ended in the middle of a finish left a buffer that was finishing forever. */
static void
a_loop_that_ends_while_finishing_stops_the_buffer(void)
{
    cdedupe_t *buffer = open_buffer(cdedupe_options());

    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP) == CDEDUPE_OK);
    put(buffer, "a", false);
    CHECK(cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_DELIVERED) == CDEDUPE_OK);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP) == CDEDUPE_BUSY);
    cdedupe_release(buffer);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP) == CDEDUPE_STOPPED);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------- */

struct wake {
    cdedupe_t *buffer;
    uint64_t pending;
    unsigned calls;
};

static void
note_wake(void *context)
{
    struct wake *wake = context;
    cdedupe_statistics_t statistics;

    cdedupe_statistics(wake->buffer, &statistics, sizeof(statistics));
    wake->pending = statistics.pending_keys;
    wake->calls++;
}

/* A sleeping loop was woken only when the sweep had been over all keys. */
static void
a_sweep_wakes_the_loop_with_the_first_deletions(void)
{
    enum { KEYS = 20000 };
    cdedupe_options_t options = cdedupe_options();
    struct wake wake = {0};
    cdedupe_item_t items[100];
    char key[16];
    size_t count;

    options.wake = note_wake;
    options.wake_context = &wake;
    wake.buffer = open_buffer(options);
    CHECK(cdedupe_claim(wake.buffer, CDEDUPE_CLAIM_LOOP) == CDEDUPE_OK);
    for (unsigned i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "%u", i);
        put(wake.buffer, key, false);
    }
    while (cdedupe_take(wake.buffer, items, 100, &count) == CDEDUPE_OK)
        for (size_t i = 0; i < count; i++)
            cdedupe_discard(wake.buffer, &items[i].slot, 1);
    CHECK(cdedupe_restart(wake.buffer) == CDEDUPE_OK);
    CHECK_EQ(wake.calls, 0);
    CHECK(cdedupe_put_status(wake.buffer, CDEDUPE_STATUS_IN_SYNC) == CDEDUPE_OK);
    CHECK_EQ(wake.calls, 1);
    CHECK(wake.pending < KEYS / 10);
    cdedupe_destroy(wake.buffer);
}

/* ---------------------------------------------------------------------------------------------- */

static size_t
take_some(cdedupe_t *buffer)
{
    cdedupe_item_t items[100];
    size_t count;

    if (cdedupe_take(buffer, items, 100, &count) != CDEDUPE_OK)
        return 0;
    for (size_t i = 0; i < count; i++)
        cdedupe_discard(buffer, &items[i].slot, 1);
    return count;
}

/* ---------------------------------------------------------------------------------------------- */

static void
put_numbers(cdedupe_t *buffer, const uint32_t *keys, size_t count, bool deletion)
{
    cdedupe_update_t updates[SHARE];
    cdedupe_slot_t slots[SHARE];

    CHECK(cdedupe_acquire(buffer, slots, count) == CDEDUPE_OK);
    for (size_t i = 0; i < count; i++)
        updates[i] = (cdedupe_update_t){
            .key = &keys[i], .key_length = sizeof(keys[i]), .slot = slots[i], .deletion = deletion};
    CHECK(cdedupe_put(buffer, updates, count) == CDEDUPE_OK);
    for (size_t i = 0; i < count; i++)
        slots[i] = updates[i].displaced;
    cdedupe_discard(buffer, slots, count);
}

static void
put_all(cdedupe_t *buffer, uint32_t keys, bool at_random, bool deletion)
{
    uint32_t share[SHARE];

    for (uint32_t i = 0; i < keys; i += SHARE) {
        for (uint32_t j = 0; j < SHARE; j++)
            share[j] = at_random ? (uint32_t)random_below(keys) : i + j;
        put_numbers(buffer, share, SHARE, deletion);
    }
}

/*
 * Slots discarded first, one of every slab after replacing at random, stayed in a magazine and kept
 * the slabs.
 */
static void
memory_goes_back_after_replacing_at_random(void)
{
    enum { KEYS = 200000 };
    cdedupe_options_t options = cdedupe_options();
    cdedupe_statistics_t full, empty;
    cdedupe_t *buffer;

    random_state = 4711;
    options.payload_size = 256;
    buffer = open_buffer(options);
    put_all(buffer, KEYS, false, false);
    put_all(buffer, KEYS, true, false);
    put_all(buffer, KEYS, true, false);
    cdedupe_statistics(buffer, &full, sizeof(full));
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    while (take_some(buffer) > 0)
        continue;
    put_all(buffer, KEYS, false, true);
    while (take_some(buffer) > 0)
        continue;
    cdedupe_statistics(buffer, &empty, sizeof(empty));
    CHECK_EQ(empty.live_keys, 0);
    CHECK(empty.memory * 50 < full.memory);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* Other systems' faults                                                                          */

static cdedupe_statistics_t
statistics(cdedupe_t *buffer)
{
    cdedupe_statistics_t s;

    cdedupe_statistics(buffer, &s, sizeof(s));
    return s;
}

static bool
adds_up(cdedupe_t *buffer)
{
    cdedupe_statistics_t s = statistics(buffer);

    return s.received + s.synthesized_deletions ==
           s.delivered + s.replaced + s.cancelled + s.suppressed + s.dropped + s.pending_keys;
}

/* Takes up to `capacity` items and gives their payloads back; the keys stay lent. */
static size_t
take(cdedupe_t *buffer, cdedupe_item_t *items, size_t capacity)
{
    size_t count;
    cdedupe_result_t result = cdedupe_take(buffer, items, capacity, &count);

    CHECK_EQ(result, count > 0 ? CDEDUPE_OK : CDEDUPE_EMPTY);
    for (size_t i = 0; i < count; i++)
        cdedupe_discard(buffer, &items[i].slot, 1);
    return count;
}

static void
put_letters(cdedupe_t *buffer, const char *letters)
{
    for (; *letters != '\0'; letters++)
        put(buffer, (char[]){*letters, '\0'}, false);
}

/* A buffer with a loop that sleeps; `wake` counts the hook's calls. */
static cdedupe_t *
open_sleeping_loop(struct wake *wake)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_item_t item;

    options.wake = note_wake;
    options.wake_context = wake;
    wake->buffer = open_buffer(options);
    CHECK_EQ(cdedupe_claim(wake->buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(take(wake->buffer, &item, 1), 0);
    return wake->buffer;
}

/* ---------------------------------------------------------------------------------------------- */

enum { WAITS = 10000 };

struct waiters {
    cdedupe_t *buffer;
    sem_t wake;
    sem_t taken;
    unsigned timed_out, cancelled;
};

static void
post_wake(void *context)
{
    struct waiters *waiters = context;

    sem_post(&waiters->wake);
}

/* Every other wait gives up after some microseconds, and every other one of those its claim too. */
static void
wait_or_give_up(struct waiters *waiters, unsigned number)
{
    struct timespec until;

    if (number % 2 == 1) {
        while (sem_wait(&waiters->wake) != 0)
            continue;
        return;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += number % 40 * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (sem_timedwait(&waiters->wake, &until) == 0 || errno != ETIMEDOUT)
        return;
    waiters->timed_out++;
    if (number % 4 == 0) {
        waiters->cancelled++;
        cdedupe_release(waiters->buffer);
        CHECK_EQ(cdedupe_claim(waiters->buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    }
    /* The first wait gives up before anything is put. */
    if (number == 0)
        sem_post(&waiters->taken);
}

static void *
wait_for_all(void *argument)
{
    struct waiters *waiters = argument;
    cdedupe_item_t item;

    for (unsigned received = 0, waits = 0; received < WAITS;) {
        if (take(waiters->buffer, &item, 1) == 0) {
            wait_or_give_up(waiters, waits++);
        } else {
            received++;
            sem_post(&waiters->taken);
        }
    }
    return NULL;
}

/* A lost wake-up leaves both threads waiting, until the alarm ends the program. */
static void
conflation_a_waiter_that_gave_up_eats_a_wake_up(void)
{
    cdedupe_options_t options = cdedupe_options();
    struct waiters waiters = {0};
    pthread_t thread;

    sem_init(&waiters.wake, 0, 0);
    sem_init(&waiters.taken, 0, 0);
    options.wake = post_wake;
    options.wake_context = &waiters;
    waiters.buffer = open_buffer(options);
    CHECK_EQ(cdedupe_claim(waiters.buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    alarm(300);
    CHECK(pthread_create(&thread, NULL, wait_for_all, &waiters) == 0);
    while (sem_wait(&waiters.taken) != 0)
        continue;
    for (unsigned round = 0; round < WAITS; round++) {
        for (volatile unsigned pause = round * 37 % 1000; pause > 0; pause--)
            continue;
        put(waiters.buffer, "a", false);
        while (sem_wait(&waiters.taken) != 0)
            continue;
    }
    pthread_join(thread, NULL);
    alarm(0);
    CHECK(waiters.timed_out > 0 && waiters.cancelled > 0);
    cdedupe_destroy(waiters.buffer);
    sem_destroy(&waiters.wake);
    sem_destroy(&waiters.taken);
}

/* ---------------------------------------------------------------------------------------------- */

/* Whether the n-th allocation was one of those that a buffer and its first insertion need. */
static bool
insert_with_failure(uint64_t n)
{
    hooks_t hooks = {.fail_at = n};
    cdedupe_options_t options = cdedupe_options();
    cdedupe_update_t update = {.key = "a", .key_length = 1, .deletion = true};
    cdedupe_item_t item;
    cdedupe_t *buffer;

    hooks_use(&hooks, &options);
    if (cdedupe_create(&options, &buffer) == CDEDUPE_OK) {
        if (cdedupe_put(buffer, &update, 1) != CDEDUPE_OK) {
            CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_REJECTED);
            CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
        }
        CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_QUEUED);
        CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
        CHECK_EQ(take(buffer, &item, 1), 1);
        CHECK_EQ(item.kind, CDEDUPE_ITEM_DELETED);
        CHECK_NO_FAULT(cdedupe_validate(buffer));
        cdedupe_destroy(buffer);
    }
    hooks_close(&hooks);
    return hooks.failures > 0;
}

static void
nobark_a_key_whose_insertion_failed_is_stuck(void)
{
    uint64_t n = 1;

    while (insert_with_failure(n))
        n++;
    CHECK(n > 5);
}

/* As where it throws: it goes with part of a batch in its hands. What was taken is committed. */
static void
nobark_a_sink_that_gives_up_in_a_batch_leaves_broken_state(void)
{
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    cdedupe_item_t items[10];

    put_letters(buffer, "abc");
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(take(buffer, items, 2), 2);
    cdedupe_release(buffer);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    put_letters(buffer, "a");
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(take(buffer, items, 10), 2);
    CHECK_EQ(items[0].kind, CDEDUPE_ITEM_NEW);
    CHECK_EQ(items[1].kind, CDEDUPE_ITEM_UPDATED);
    CHECK(adds_up(buffer));
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------- */

enum { WRITERS = 4, WRITES = 20000 };

struct writer {
    cdedupe_t *buffer;
    uint64_t number;
    bool keys; /* Several, which come and go; else one that is written again and again. */
    pthread_t thread;
    atomic_bool *done;
};

/* The value says who wrote it, and when. */
static void
write_one(const struct writer *writer, uint64_t turn)
{
    uint64_t key = writer->keys ? turn % 7 : 0;
    cdedupe_update_t update = {.key = &key, .key_length = sizeof(key)};

    update.deletion = writer->keys && turn % 3 == 0;
    CHECK_EQ(cdedupe_acquire(writer->buffer, &update.slot, 1), CDEDUPE_OK);
    *(uint64_t *)cdedupe_payload(writer->buffer, update.slot) = turn * WRITERS + writer->number;
    CHECK_EQ(cdedupe_put(writer->buffer, &update, 1), CDEDUPE_OK);
    cdedupe_discard(writer->buffer, &update.slot, 1);
    cdedupe_discard(writer->buffer, &update.displaced, 1);
}

static void *
write_all(void *argument)
{
    struct writer *writer = argument;

    for (uint64_t turn = 1; turn <= WRITES; turn++)
        write_one(writer, turn);
    if (writer->done != NULL)
        atomic_store(writer->done, true);
    return NULL;
}

static void
lmax_a_size_read_from_two_counters_is_inconsistent(void)
{
    atomic_bool done = false;
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    struct writer writer = {.buffer = buffer, .keys = true, .done = &done};
    cdedupe_item_t items[10];
    bool all_add_up = true;

    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK(pthread_create(&writer.thread, NULL, write_all, &writer) == 0);
    for (unsigned look = 0; !atomic_load(&done); look++) {
        all_add_up = all_add_up && adds_up(buffer) && statistics(buffer).pending_keys <= 7;
        if (look % 10 == 0)
            take(buffer, items, 3);
    }
    pthread_join(writer.thread, NULL);
    CHECK(all_add_up);
    CHECK_EQ(statistics(buffer).received, WRITES);
    cdedupe_destroy(buffer);
}

static void
zmq_conflate_a_producer_that_gives_up_on_contention_strands_the_newest(void)
{
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    struct writer writers[WRITERS];
    cdedupe_item_t item;
    size_t count;

    for (uint64_t i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.buffer = buffer, .number = i};
        CHECK(pthread_create(&writers[i].thread, NULL, write_all, &writers[i]) == 0);
    }
    for (size_t i = 0; i < WRITERS; i++)
        pthread_join(writers[i].thread, NULL);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_take(buffer, &item, 1, &count), CDEDUPE_OK);
    CHECK_EQ(*(uint64_t *)cdedupe_payload(buffer, item.slot) / WRITERS, WRITES);
    cdedupe_discard(buffer, &item.slot, 1);
    CHECK_EQ(take(buffer, &item, 1), 0);
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------- */

static void
artemis_counters_are_wrong_after_replacing_and_updates_lost_or_doubled_by_a_restart(void)
{
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    cdedupe_item_t items[10];

    put_letters(buffer, "aabb");
    put(buffer, "b", true);
    CHECK_EQ(statistics(buffer).replaced, 2);
    CHECK_EQ(statistics(buffer).cancelled, 2);
    CHECK_EQ(statistics(buffer).pending_keys, 1);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(statistics(buffer).dropped, 1);
    CHECK_EQ(statistics(buffer).pending_keys, 0);
    put_letters(buffer, "aba");
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(take(buffer, items, 10), 2);
    CHECK_EQ(take(buffer, items, 10), 0);
    CHECK_EQ(statistics(buffer).delivered, 2);
    CHECK_EQ(statistics(buffer).replaced, 3);
    CHECK(adds_up(buffer));
    cdedupe_destroy(buffer);
}

/*
 * The sink has its batch in hand, and it is the same thread that puts: who waited for it would wait
 * forever.
 */
static void
kafka_and_controller_runtime_hold_a_lock_while_a_callback_runs(void)
{
    struct wake wake = {0};
    cdedupe_t *buffer = open_sleeping_loop(&wake);
    cdedupe_slot_t dropped[10];
    cdedupe_item_t items[10];
    size_t count;

    put_letters(buffer, "a");
    CHECK_EQ(take(buffer, items, 10), 1);
    put_letters(buffer, "abcdefgh");
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    while (cdedupe_collect(buffer, dropped, 10, &count) == CDEDUPE_OK)
        cdedupe_discard(buffer, dropped, count);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_BUSY);
    CHECK_EQ(cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    cdedupe_stop(buffer);
    CHECK(adds_up(buffer));
    CHECK(memcmp(items[0].key, "a", 1) == 0);
    CHECK_EQ(cdedupe_take(buffer, items, 10, &count), CDEDUPE_STOPPED);
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------- */

int
main(void)
{
    RUN(a_loop_that_ends_while_finishing_stops_the_buffer);
    RUN(a_sweep_wakes_the_loop_with_the_first_deletions);
    RUN(memory_goes_back_after_replacing_at_random);
    RUN(conflation_a_waiter_that_gave_up_eats_a_wake_up);
    RUN(nobark_a_key_whose_insertion_failed_is_stuck);
    RUN(nobark_a_sink_that_gives_up_in_a_batch_leaves_broken_state);
    RUN(lmax_a_size_read_from_two_counters_is_inconsistent);
    RUN(zmq_conflate_a_producer_that_gives_up_on_contention_strands_the_newest);
    RUN(artemis_counters_are_wrong_after_replacing_and_updates_lost_or_doubled_by_a_restart);
    RUN(kafka_and_controller_runtime_hold_a_lock_while_a_callback_runs);
    return check_finish();
}
