/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Corners of the contract that the tests of single rules do not reach: what two calls mean
 * together, which memory goes back and when, and callers that were compiled with other structs.
 */
#include <stddef.h>
#include <stdlib.h>

#include "CDedupe.h"
#include "check.h"
#include "hooks.h"

enum { BATCH = 100 };

static cdedupe_t *
open_buffer(cdedupe_options_t options)
{
    cdedupe_t *buffer = NULL;

    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    return buffer;
}

static cdedupe_outcome_t
put(cdedupe_t *buffer, uint32_t key, bool deletion)
{
    cdedupe_update_t update = {.key = &key, .key_length = sizeof(key), .deletion = deletion};

    if (!deletion)
        CHECK(cdedupe_acquire(buffer, &update.slot, 1) == CDEDUPE_OK);
    CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
    cdedupe_discard(buffer, &update.slot, 1);
    cdedupe_discard(buffer, &update.displaced, 1);
    return (cdedupe_outcome_t)update.outcome;
}

static size_t
take(cdedupe_t *buffer)
{
    cdedupe_item_t items[BATCH];
    size_t count;

    cdedupe_take(buffer, items, BATCH, &count);
    return count;
}

static cdedupe_statistics_t
statistics_of(cdedupe_t *buffer)
{
    cdedupe_statistics_t statistics;

    cdedupe_statistics(buffer, &statistics, sizeof(statistics));
    return statistics;
}

/* ---------------------------------------------------------------------------------------------- */
/* The end                                                                                        */

static void
put_afterAFinishIsDelivered_isDropped(void)
{
    cdedupe_t *buffer = open_buffer(cdedupe_options());

    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP) == CDEDUPE_OK);
    put(buffer, 1, false);
    CHECK(cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_DELIVERED) == CDEDUPE_OK);
    CHECK_EQ(take(buffer), 1);
    CHECK_EQ(put(buffer, 2, false), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(statistics_of(buffer).pending_keys, 0);
    cdedupe_destroy(buffer);
}

/* A queue that is never empty must not keep somebody waiting who asked for less. */
static void
a_finish_when_empty_does_not_weaken_another(void)
{
    cdedupe_t *buffer = open_buffer(cdedupe_options());

    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP) == CDEDUPE_OK);
    put(buffer, 1, false);
    CHECK(cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_DELIVERED) == CDEDUPE_OK);
    CHECK(cdedupe_finish(buffer, CDEDUPE_FINISH_WHEN_EMPTY) == CDEDUPE_OK);
    CHECK_EQ(put(buffer, 2, false), CDEDUPE_OUTCOME_DROPPED);
    CHECK_EQ(take(buffer), 1);
    CHECK_EQ(take(buffer), 0);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP) == CDEDUPE_STOPPED);
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* The sweep                                                                                      */

/* So many that a sweep takes several holds, and so few that it needs no memory in between. */
enum { SWEPT = 300 };

struct sweep {
    cdedupe_t *buffer;
    bool restart; /* The hook restarts. */
    unsigned wakes;
    uint64_t pending; /* At the first wake-up. */
};

static void
on_wake(void *context)
{
    struct sweep *sweep = context;

    if (sweep->wakes++ == 0)
        sweep->pending = statistics_of(sweep->buffer).pending_keys;
    if (sweep->restart)
        CHECK(cdedupe_restart(sweep->buffer) == CDEDUPE_OK);
    sweep->restart = false;
}

/* A loop that sleeps, and many keys that a restart has made unseen. */
static void
open_sweep(struct sweep *sweep)
{
    cdedupe_options_t options = cdedupe_options();

    options.wake = on_wake;
    options.wake_context = sweep;
    sweep->buffer = open_buffer(options);
    CHECK(cdedupe_claim(sweep->buffer, CDEDUPE_CLAIM_LOOP) == CDEDUPE_OK);
    for (uint32_t key = 0; key < SWEPT; key++)
        put(sweep->buffer, key, false);
    while (take(sweep->buffer) > 0)
        continue;
    CHECK(cdedupe_restart(sweep->buffer) == CDEDUPE_OK);
    CHECK_EQ(sweep->wakes, 0);
}

static void
a_sweep_wakes_the_loop_after_its_first_hold(void)
{
    struct sweep sweep = {0};

    open_sweep(&sweep);
    CHECK(cdedupe_put_status(sweep.buffer, CDEDUPE_STATUS_IN_SYNC) == CDEDUPE_OK);
    CHECK_EQ(sweep.wakes, 1);
    CHECK(sweep.pending > 0 && sweep.pending <= SWEPT / 2);
    cdedupe_destroy(sweep.buffer);
}

/*
 * The restart drops what was swept so far, and with it the in-sync that was on its way: it belongs
 * to the time before.
 */
static void
a_restart_during_a_sweep_drops_its_in_sync(void)
{
    struct sweep sweep = {.restart = true};

    open_sweep(&sweep);
    CHECK(cdedupe_put_status(sweep.buffer, CDEDUPE_STATUS_IN_SYNC) == CDEDUPE_OK);
    CHECK_EQ(sweep.wakes, 1);
    CHECK_EQ(statistics_of(sweep.buffer).pending_keys, 0);
    CHECK_EQ(statistics_of(sweep.buffer).pending_statuses, 0);
    CHECK_EQ(statistics_of(sweep.buffer).live_keys, SWEPT);
    CHECK_EQ(statistics_of(sweep.buffer).statuses_received, 1);
    CHECK_NO_FAULT(cdedupe_validate(sweep.buffer));

    CHECK(cdedupe_put_status(sweep.buffer, CDEDUPE_STATUS_IN_SYNC) == CDEDUPE_OK);
    CHECK_EQ(statistics_of(sweep.buffer).pending_keys, SWEPT);
    CHECK_EQ(statistics_of(sweep.buffer).pending_statuses, 1);
    cdedupe_destroy(sweep.buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* Memory                                                                                         */

/* Whoever never collects pays with one dropped update cleared up for each that is queued. */
static void
what_restarts_drop_is_bounded_without_collecting(void)
{
    enum { KEYS = 500, RESTARTS = 50 };
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    uint64_t memory = 0;

    for (uint32_t restart = 0; restart < RESTARTS; restart++) {
        for (uint32_t key = 0; key < KEYS; key++)
            put(buffer, restart * KEYS + key, false);
        CHECK(cdedupe_restart(buffer) == CDEDUPE_OK);
        if (restart == 4)
            memory = statistics_of(buffer).memory;
    }
    CHECK(statistics_of(buffer).memory <= memory);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* Values of the plain level that do not fit into a slot                                          */

/* Such a value has a block of its own, so that the hooks notice each one that is lost. */
enum { LONG = 100000 };

static const unsigned char long_value[LONG];

static hooks_t hooks;

static cdedupe_bytes_t *
open_bytes(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *buffer = NULL;

    memset(&hooks, 0, sizeof(hooks));
    hooks_use(&hooks, &options);
    CHECK(cdedupe_bytes_create(&options, &buffer) == CDEDUPE_OK);
    return buffer;
}

static cdedupe_result_t
put_long(cdedupe_bytes_t *buffer, uint32_t key, cdedupe_outcome_t wanted)
{
    cdedupe_outcome_t outcome = CDEDUPE_OUTCOME_UNTOUCHED;
    cdedupe_result_t result =
        cdedupe_bytes_put(buffer, &key, sizeof(key), long_value, LONG, 0, &outcome);

    CHECK_EQ(outcome, wanted);
    return result;
}

static cdedupe_outcome_t
delete_long(cdedupe_bytes_t *buffer, uint32_t key)
{
    cdedupe_outcome_t outcome = CDEDUPE_OUTCOME_UNTOUCHED;

    CHECK(cdedupe_bytes_delete(buffer, &key, sizeof(key), 0, &outcome) == CDEDUPE_OK);
    return outcome;
}

static void
long_values_are_freed_however_they_end(void)
{
    cdedupe_bytes_t *buffer = open_bytes();
    cdedupe_bytes_item_t items[BATCH];
    size_t count;

    put_long(buffer, 1, CDEDUPE_OUTCOME_QUEUED);
    put_long(buffer, 1, CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(delete_long(buffer, 1), CDEDUPE_OUTCOME_CANCELLED);
    put_long(buffer, 2, CDEDUPE_OUTCOME_QUEUED);
    put_long(buffer, 3, CDEDUPE_OUTCOME_QUEUED);
    CHECK(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    CHECK(cdedupe_bytes_take(buffer, items, BATCH, &count) == CDEDUPE_OK);
    CHECK_EQ(count, 2);
    put_long(buffer, 2, CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(delete_long(buffer, 2), CDEDUPE_OUTCOME_REPLACED);
    for (uint32_t key = 10; key < 20; key++)
        put_long(buffer, key, CDEDUPE_OUTCOME_QUEUED);
    cdedupe_bytes_stop(buffer);
    put_long(buffer, 10, CDEDUPE_OUTCOME_DROPPED);
    put_long(buffer, 99, CDEDUPE_OUTCOME_DROPPED);
    cdedupe_bytes_destroy(buffer);
    hooks_close(&hooks);
}

/* The slot of a value for which there is no memory is used again. */
static void
a_value_without_memory_keeps_nothing(void)
{
    cdedupe_bytes_t *buffer = open_bytes();
    uint64_t held;

    put_long(buffer, 1, CDEDUPE_OUTCOME_QUEUED);
    put_long(buffer, 1, CDEDUPE_OUTCOME_REPLACED);
    held = hooks.held_bytes;
    for (unsigned i = 0; i < 1000; i++) {
        hooks.fail_at = hooks.allocations + 1;
        CHECK(put_long(buffer, 1, CDEDUPE_OUTCOME_REJECTED) == CDEDUPE_NO_MEMORY);
        hooks.fail_at = 0;
    }
    CHECK_EQ(hooks.held_bytes, held);
    put_long(buffer, 1, CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(hooks.held_bytes, held);
    cdedupe_bytes_destroy(buffer);
    hooks_close(&hooks);
}

/* ---------------------------------------------------------------------------------------------- */
/* Callers compiled with other structs                                                            */

/*
 * An older caller's options end before the batch size; what lies behind them in its memory is not
 * ours to read.
 */
static void
options_of_an_older_caller_end_early(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *bytes = NULL;
    cdedupe_t *buffer = NULL;

    options.size = offsetof(cdedupe_options_t, batch_size);
    options.batch_size = 0;
    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    CHECK(cdedupe_bytes_create(&options, &bytes) == CDEDUPE_OK);
    cdedupe_destroy(buffer);
    cdedupe_bytes_destroy(bytes);
}

/*
 * A newer caller's counters that we do not know are zero; an older one's memory behind its own is
 * left alone.
 */
static void
statistics_are_as_long_as_the_caller_says(void)
{
    struct {
        cdedupe_statistics_t known;
        uint64_t unknown[8];
    } newer;
    struct {
        uint64_t known[2];
        uint64_t untouched;
    } older = {.untouched = 4711};
    cdedupe_t *buffer = open_buffer(cdedupe_options());

    memset(&newer, 0xff, sizeof(newer));
    put(buffer, 1, false);
    cdedupe_statistics(buffer, &newer.known, sizeof(newer));
    CHECK_EQ(newer.known.pending_keys, 1);
    for (size_t i = 0; i < 8; i++)
        CHECK_EQ(newer.unknown[i], 0);
    cdedupe_statistics(buffer, (cdedupe_statistics_t *)(void *)&older, sizeof(older.known));
    CHECK_EQ(older.known[0], 1);
    CHECK_EQ(older.untouched, 4711);
    cdedupe_destroy(buffer);
}

/* The sink still borrows the batch, and can put it back. */
static void
bytesTake_thatIsRejected_keepsTheLastBatch(void)
{
    cdedupe_bytes_t *buffer = open_bytes();
    cdedupe_bytes_item_t items[BATCH], rejected[BATCH];
    size_t count = 1;

    CHECK_EQ(put_long(buffer, 1, CDEDUPE_OUTCOME_QUEUED), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take_wait(buffer, items, BATCH, &count, 0), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(count, 0);
    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_BUSY);
    CHECK_EQ(cdedupe_bytes_take(buffer, items, BATCH, &count), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take(buffer, rejected, 0, &count), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(count, 0);
    CHECK_EQ(cdedupe_bytes_take_wait(buffer, rejected, BATCH, &count, 0), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(count, 0);
    CHECK(memcmp(items[0].value, long_value, LONG) == 0);
    count = 1;
    CHECK_EQ(cdedupe_bytes_put_back(buffer, &count), CDEDUPE_OK);
    cdedupe_bytes_release(buffer);

    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take_wait(buffer, items, BATCH, &count, 0), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take_wait(buffer, rejected, 0, &count, 0), CDEDUPE_INVALID_ARGUMENT);
    CHECK(memcmp(items[0].value, long_value, LONG) == 0);
    cdedupe_bytes_destroy(buffer);
    hooks_close(&hooks);
}

/* A call that runs out of slots halfway asks for one slab, not for two of which it frees one. */
static void
acquire_withManySlabs_allocatesEachOnce(void)
{
    enum { SLOTS = 20000, CALL = 100 };
    static cdedupe_slot_t slots[SLOTS];
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer;

    memset(&hooks, 0, sizeof(hooks));
    hooks_use(&hooks, &options);
    options.payload_size = 64;
    buffer = open_buffer(options);
    hooks.allocations = hooks.deallocations = 0;
    for (size_t i = 0; i < SLOTS; i += CALL)
        CHECK_EQ(cdedupe_acquire(buffer, slots + i, CALL), CDEDUPE_OK);
    CHECK(hooks.allocations >= SLOTS * 64 / (256 * 1024));
    CHECK_EQ(hooks.deallocations, 0);
    cdedupe_discard(buffer, slots, SLOTS);
    cdedupe_destroy(buffer);
    hooks_close(&hooks);
}

int
main(void)
{
    RUN(put_afterAFinishIsDelivered_isDropped);
    RUN(a_finish_when_empty_does_not_weaken_another);
    RUN(a_sweep_wakes_the_loop_after_its_first_hold);
    RUN(a_restart_during_a_sweep_drops_its_in_sync);
    RUN(what_restarts_drop_is_bounded_without_collecting);
    RUN(long_values_are_freed_however_they_end);
    RUN(a_value_without_memory_keeps_nothing);
    RUN(bytesTake_thatIsRejected_keepsTheLastBatch);
    RUN(acquire_withManySlabs_allocatesEachOnce);
    RUN(options_of_an_older_caller_end_early);
    RUN(statistics_are_as_long_as_the_caller_says);
    return check_finish();
}
