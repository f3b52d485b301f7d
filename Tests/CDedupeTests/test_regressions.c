/*
 * Faults that were found and mended, each by its name.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "CDedupe.h"
#include "check.h"

enum { SHARE = 100 };

static uint64_t random_state;

static uint64_t
random_below(uint64_t limit)
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
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

/* ---------------------------------------------------------------------------------------------------- */

/* Of two statuses that became neighbours the earlier went, and with it what a finish had owed. */
static void
a_finish_owes_the_status_that_superseded_an_owed_one(void)
{
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    cdedupe_item_t items[10];
    size_t count;

    CHECK(cdedupe_claim(buffer, CDEDUPE_LOOP) == CDEDUPE_OK);
    put(buffer, "z", false);
    CHECK(cdedupe_put_status(buffer, CDEDUPE_IN_SYNC) == CDEDUPE_OK);
    put(buffer, "a", false);
    CHECK(cdedupe_finish(buffer, CDEDUPE_WHEN_DELIVERED) == CDEDUPE_OK);
    CHECK(cdedupe_put_status(buffer, CDEDUPE_RESYNC_IN_PROGRESS) == CDEDUPE_OK);
    put(buffer, "a", true);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    CHECK(cdedupe_take(buffer, items, 10, &count) == CDEDUPE_OK);
    CHECK_EQ(count, 2);
    CHECK_EQ(items[1].kind, CDEDUPE_STATUS);
    CHECK_EQ(items[1].status, CDEDUPE_RESYNC_IN_PROGRESS);
    CHECK(cdedupe_take(buffer, items, 10, &count) == CDEDUPE_STOPPED);
    cdedupe_destroy(buffer);
}

/* A loop that ended in the middle of a finish left a buffer that was finishing for ever. */
static void
a_loop_that_ends_while_finishing_stops_the_buffer(void)
{
    cdedupe_t *buffer = open_buffer(cdedupe_options());

    CHECK(cdedupe_claim(buffer, CDEDUPE_LOOP) == CDEDUPE_OK);
    put(buffer, "a", false);
    CHECK(cdedupe_finish(buffer, CDEDUPE_WHEN_DELIVERED) == CDEDUPE_OK);
    CHECK(cdedupe_claim(buffer, CDEDUPE_LOOP) == CDEDUPE_BUSY);
    cdedupe_release(buffer);
    CHECK(cdedupe_claim(buffer, CDEDUPE_LOOP) == CDEDUPE_STOPPED);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------------- */

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
    CHECK(cdedupe_claim(wake.buffer, CDEDUPE_LOOP) == CDEDUPE_OK);
    for (unsigned i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "%u", i);
        put(wake.buffer, key, false);
    }
    while (cdedupe_take(wake.buffer, items, 100, &count) == CDEDUPE_OK)
        for (size_t i = 0; i < count; i++)
            cdedupe_discard(wake.buffer, &items[i].slot, 1);
    CHECK(cdedupe_restart(wake.buffer) == CDEDUPE_OK);
    CHECK_EQ(wake.calls, 0);
    CHECK(cdedupe_put_status(wake.buffer, CDEDUPE_IN_SYNC) == CDEDUPE_OK);
    CHECK_EQ(wake.calls, 1);
    CHECK(wake.pending < KEYS / 10);
    cdedupe_destroy(wake.buffer);
}

/* ---------------------------------------------------------------------------------------------------- */

enum { ORDER_KEYS = 6000, ORDER_STEPS = 60000 };

static size_t
take_some(cdedupe_t *buffer, uint32_t *deleted, size_t room)
{
    cdedupe_item_t items[100];
    size_t count, noted = 0;

    if (cdedupe_take(buffer, items, 100, &count) != CDEDUPE_OK)
        return 0;
    for (size_t i = 0; i < count; i++) {
        if (deleted != NULL && items[i].kind == CDEDUPE_DELETED && noted < room)
            memcpy(&deleted[noted++], items[i].key, sizeof(uint32_t));
        cdedupe_discard(buffer, &items[i].slot, 1);
    }
    return deleted != NULL ? noted : count;
}

/* Much coming and going, then a restart and an in-sync: the deletions in their order. */
static size_t
order_of_deletions(uint64_t seed, uint32_t *deleted)
{
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    size_t noted = 0, more;

    random_state = seed;
    CHECK(cdedupe_claim(buffer, CDEDUPE_BY_HAND) == CDEDUPE_OK);
    for (unsigned step = 0; step < ORDER_STEPS; step++) {
        uint32_t key = (uint32_t)random_below(ORDER_KEYS);
        cdedupe_update_t update = {.key = &key, .key_length = sizeof(key), .deletion = random_below(3) == 0};

        CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
    }
    while (take_some(buffer, NULL, 0) > 0)
        continue;
    CHECK(cdedupe_restart(buffer) == CDEDUPE_OK);
    CHECK(cdedupe_put_status(buffer, CDEDUPE_IN_SYNC) == CDEDUPE_OK);
    while ((more = take_some(buffer, deleted + noted, ORDER_KEYS - noted)) > 0)
        noted += more;
    cdedupe_destroy(buffer);
    return noted;
}

/* It depended on when tables of the index became free, and so on the hash function's random secret. */
static void
the_order_of_synthesized_deletions_does_not_depend_on_the_secret(void)
{
    static uint32_t first[ORDER_KEYS], second[ORDER_KEYS];

    for (uint64_t seed = 1; seed <= 3; seed++) {
        size_t one = order_of_deletions(seed, first), two = order_of_deletions(seed, second);

        CHECK(one > 1000);
        CHECK_EQ(one, two);
        CHECK(memcmp(first, second, one * sizeof(first[0])) == 0);
    }
}

/* ---------------------------------------------------------------------------------------------------- */

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

/* Slots discarded first, one of every slab after replacing at random, stayed in a magazine and kept the slabs. */
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
    CHECK(cdedupe_claim(buffer, CDEDUPE_BY_HAND) == CDEDUPE_OK);
    while (take_some(buffer, NULL, 0) > 0)
        continue;
    put_all(buffer, KEYS, false, true);
    while (take_some(buffer, NULL, 0) > 0)
        continue;
    cdedupe_statistics(buffer, &empty, sizeof(empty));
    CHECK_EQ(empty.live_keys, 0);
    CHECK(empty.memory * 50 < full.memory);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------------- */

int
main(void)
{
    RUN(a_finish_owes_the_status_that_superseded_an_owed_one);
    RUN(a_loop_that_ends_while_finishing_stops_the_buffer);
    RUN(a_sweep_wakes_the_loop_with_the_first_deletions);
    RUN(the_order_of_synthesized_deletions_does_not_depend_on_the_secret);
    RUN(memory_goes_back_after_replacing_at_random);
    return check_finish();
}
