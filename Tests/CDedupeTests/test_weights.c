/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounds of pending bytes: how values and payloads are weighed, at the ends of the numbers too; and
 * bounds while several producers exceed them. The rules of bounds are in bounds.scenarios.
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
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
}

static cdedupe_statistics_t
statistics(void)
{
    return subject_statistics(&subject);
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
    subject_close(&subject);
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
    subject_close(&subject);
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
what_is_merged_weighs_what_it_says(void)
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

/* The thread that is told of an overflow restarts the buffer. */
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

int
main(void)
{
    RUN(a_value_weighs_its_length);
    RUN(replacements_may_go_beyond_the_bytes);
    RUN(weight_aboveTheMaximum_countsAsTheMaximum);
    RUN(replacement_beyondTheBound_isAccepted_andTheNextKeyOverflows);
    RUN(replacement_byLess_makesRoomAgain);
    RUN(restart_beyondTheBound_dropsTheWeights);
    RUN(putBack_mayGoBeyondTheBound);
    RUN(what_is_merged_weighs_what_it_says);
    RUN(the_weight_lies_within_the_payload);
    RUN(of_every_overflow_somebody_is_told_and_the_bound_holds);
    return check_finish();
}
