/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of values at the bytes level. After a peak it goes back to the system. A backlog that
 * a restart or an overflow dropped is freed in bounded steps.
 *
 *     test_value_memory [bytes]    the bytes of all values of a peak together; default 128 MB
 *
 * The test checks residency only for peaks of PEAK_TO_TELL bytes and more. Sanitizers and valgrind
 * keep freed memory, so with them the test runs with smaller peaks.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "CDedupe.h"
#include "check.h"
#include "hooks.h"
#include "memory/values.h"
#include "resident.h"

enum {
    BATCH = 100,
    SHORT = 8,
    KEYS_MAX = 300000,
    STANDING = 200000,
    PEAK_TO_TELL = 64 * 1000 * 1000
};

static size_t peak_bytes;
static unsigned char value_bytes[100000];

static void
put(cdedupe_bytes_t *buffer, uint32_t key, size_t length)
{
    CHECK(cdedupe_bytes_put(buffer, &key, sizeof(key), value_bytes, length, 1, NULL) == CDEDUPE_OK);
}

static uint64_t
held(cdedupe_bytes_t *buffer)
{
    cdedupe_statistics_t statistics;

    cdedupe_bytes_statistics(buffer, &statistics, sizeof(statistics));
    return statistics.memory;
}

/* A value's length: fixed, or, for zero, one of many, so that most size classes are used. */
static size_t
length_of(uint32_t key, size_t length)
{
    return length != 0 ? length : 49 + (size_t)key * 7919 % 4000;
}

/* Puts every key once. */
static void
put_all(cdedupe_bytes_t *buffer, uint32_t keys, size_t length)
{
    for (uint32_t i = 0; i < keys; i++)
        put(buffer, i, length_of(i, length));
}

static void
take_all(cdedupe_bytes_t *buffer)
{
    cdedupe_bytes_item_t items[BATCH];
    size_t count;

    CHECK(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    while (cdedupe_bytes_take(buffer, items, BATCH, &count) == CDEDUPE_OK)
        continue;
    cdedupe_bytes_release(buffer);
}

static void
delete_all(cdedupe_bytes_t *buffer, uint32_t keys)
{
    for (uint32_t i = 0; i < keys; i++)
        CHECK(cdedupe_bytes_delete(buffer, &i, sizeof(i), 2, NULL) == CDEDUPE_OK);
    take_all(buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* Residency                                                                                      */

/* Keys that are live all the time, with values that lie in the payload. Small peaks go with few. */
static void
put_standing(cdedupe_bytes_t *buffer)
{
    uint32_t count = peak_bytes >= PEAK_TO_TELL ? STANDING : STANDING / 100;

    for (uint32_t i = 0; i < count; i++)
        put(buffer, KEYS_MAX + i, SHORT);
}

struct emptying {
    const char *how;
    void (*empty)(cdedupe_bytes_t *buffer, uint32_t keys);
};

static void
empty_by_taking(cdedupe_bytes_t *buffer, uint32_t keys)
{
    take_all(buffer);
    delete_all(buffer, keys);
}

static void
empty_by_restart(cdedupe_bytes_t *buffer, uint32_t keys)
{
    (void)keys;
    CHECK(cdedupe_bytes_restart(buffer) == CDEDUPE_OK);
    put_standing(buffer);
    CHECK(cdedupe_bytes_put_status(buffer, CDEDUPE_STATUS_RESYNC_IN_PROGRESS) == CDEDUPE_OK);
    CHECK(cdedupe_bytes_put_status(buffer, CDEDUPE_STATUS_IN_SYNC) == CDEDUPE_OK);
    take_all(buffer);
}

static void
empty_by_replacing(cdedupe_bytes_t *buffer, uint32_t keys)
{
    put_all(buffer, keys, SHORT);
}

/*
 * "Before" is a buffer with live keys, after one peak of the same keys with values that lie in the
 * payload. What is compared is what long values leave behind, and not what keys do.
 */
static void
measure(const struct emptying *emptying, size_t length)
{
    size_t average = length != 0 ? length : 2000;
    uint32_t keys = (uint32_t)(peak_bytes / average < KEYS_MAX ? peak_bytes / average : KEYS_MAX);
    cdedupe_bytes_t *buffer;
    uint64_t before, peak, after;

    CHECK(cdedupe_bytes_create(NULL, &buffer) == CDEDUPE_OK);
    put_standing(buffer);
    take_all(buffer);
    put_all(buffer, keys, SHORT);
    emptying->empty(buffer, keys);
    before = resident_bytes();
    put_all(buffer, keys, length);
    peak = resident_bytes();
    emptying->empty(buffer, keys);
    after = resident_bytes();
    printf("  %6zu bytes, %6u keys, %-9s %8" PRIu64 " KiB before, %8" PRIu64 " at the peak, "
           "%8" PRIu64 " after; %6" PRIu64 " KiB held\n",
           length, keys, emptying->how, before / 1024, peak / 1024, after / 1024,
           held(buffer) / 1024);
    CHECK_NO_FAULT(cdedupe_bytes_validate(buffer));
    if (peak_bytes >= PEAK_TO_TELL)
        CHECK(after * 10 <= before * 11);
    cdedupe_bytes_destroy(buffer);
}

static void
longValues_afterAPeak_goBackToTheSystem(void)
{
    static const size_t lengths[] = {8, 100, 300, 2000, 100000, 0};
    static const struct emptying emptyings[] = {{"taken", empty_by_taking},
                                                {"restarted", empty_by_restart},
                                                {"replaced", empty_by_replacing}};

    printf("  %" PRIu64 " KiB resident at first\n", resident_bytes() / 1024);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        for (size_t j = 0; j < sizeof(emptyings) / sizeof(emptyings[0]); j++)
            measure(&emptyings[j], lengths[i]);
}

/* ---------------------------------------------------------------------------------------------- */
/* What is dropped is freed in steps                                                              */

/*
 * Values with blocks of their own, so that deallocations count them. A put clears up 8 dropped
 * updates, and may free two values more and two slabs; other calls clear up 64.
 */
enum {
    ALONE = VALUE_CELL_MAX + 1,
    DROPPED = 500,
    PUT_FREES = 12,
    CALL_FREES = 80,
    LITTLE = 8 * ALONE
};

static hooks_t hooks;

static cdedupe_bytes_t *
open_hooked(uint64_t maximum_keys)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *buffer = NULL;

    memset(&hooks, 0, sizeof(hooks));
    hooks_use(&hooks, &options);
    options.maximum_pending_keys = maximum_keys;
    CHECK_EQ(cdedupe_bytes_create(&options, &buffer), CDEDUPE_OK);
    return buffer;
}

static void
close_hooked(cdedupe_bytes_t *buffer)
{
    CHECK_NO_FAULT(cdedupe_bytes_validate(buffer));
    CHECK_EQ(held(buffer), hooks.held_bytes);
    cdedupe_bytes_destroy(buffer);
    hooks_close(&hooks);
}

/* A value of this length has a block of its own, so that the hooks notice each one that is lost. */
enum { LONG_VALUE = sizeof(value_bytes) };

static cdedupe_result_t
put_long(cdedupe_bytes_t *buffer, uint32_t key, cdedupe_outcome_t wanted)
{
    cdedupe_outcome_t outcome = CDEDUPE_OUTCOME_UNTOUCHED;
    cdedupe_result_t result =
        cdedupe_bytes_put(buffer, &key, sizeof(key), value_bytes, LONG_VALUE, 0, &outcome);

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
    cdedupe_bytes_t *buffer = open_hooked(0);
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
    cdedupe_bytes_t *buffer = open_hooked(0);
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

/* The first value needs the first slots. */
static void
put_withoutMemoryForASlot_isRejected(void)
{
    cdedupe_bytes_t *buffer = open_hooked(0);
    cdedupe_outcome_t outcome = CDEDUPE_OUTCOME_QUEUED;

    hooks.fail_at = hooks.allocations + 1;
    CHECK_EQ(cdedupe_bytes_put(buffer, "a", 1, "1", 1, 0, &outcome), CDEDUPE_NO_MEMORY);
    CHECK_EQ(outcome, CDEDUPE_OUTCOME_REJECTED);
    hooks.fail_at = 0;
    CHECK_EQ(cdedupe_bytes_put(buffer, "a", 1, "1", 1, 0, &outcome), CDEDUPE_OK);
    CHECK_EQ(outcome, CDEDUPE_OUTCOME_QUEUED);
    cdedupe_bytes_destroy(buffer);
    hooks_close(&hooks);
}

/* The sink still borrows the batch, and can put it back. */
static void
bytesTake_thatIsRejected_keepsTheLastBatch(void)
{
    cdedupe_bytes_t *buffer = open_hooked(0);
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
    CHECK(memcmp(items[0].value, value_bytes, LONG_VALUE) == 0);
    count = 1;
    CHECK_EQ(cdedupe_bytes_put_back(buffer, &count), CDEDUPE_OK);
    cdedupe_bytes_release(buffer);

    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take_wait(buffer, items, BATCH, &count, 0), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take_wait(buffer, rejected, 0, &count, 0), CDEDUPE_INVALID_ARGUMENT);
    CHECK(memcmp(items[0].value, value_bytes, LONG_VALUE) == 0);
    cdedupe_bytes_destroy(buffer);
    hooks_close(&hooks);
}

/* No later take has to come for that. */
static void
bytesRelease_freesTheLastBatch(void)
{
    cdedupe_bytes_t *buffer = open_hooked(0);
    cdedupe_bytes_item_t items[BATCH];
    uint64_t before;
    size_t count;

    put(buffer, 1, sizeof(value_bytes)); /* So long that it has a block of its own. */
    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take(buffer, items, BATCH, &count), CDEDUPE_OK);
    before = held(buffer);
    cdedupe_bytes_release(buffer);
    CHECK_EQ(before - held(buffer), sizeof(value_bytes));
    cdedupe_bytes_destroy(buffer);
    hooks_close(&hooks);
}

/* What the caller is told is what the allocator gave, however long the values are. */
static void
memory_ofLongValues_isWhatTheAllocatorGave(void)
{
    static unsigned char value[2 * 1000 * 1000];
    static const size_t lengths[] = {65536, 65537, 100000, 300000, 300001, 400000, sizeof(value)};
    cdedupe_bytes_t *buffer = open_hooked(0);
    uint64_t before;

    for (uint32_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        CHECK_EQ(cdedupe_bytes_put(buffer, &i, sizeof(i), value, lengths[i], 0, NULL), CDEDUPE_OK);
        CHECK_EQ(held(buffer), hooks.held_bytes);
    }
    for (uint32_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        before = held(buffer);
        put(buffer, i, SHORT);
        CHECK_EQ(held(buffer), hooks.held_bytes);
        CHECK(lengths[i] <= VALUE_CELL_MAX || before - held(buffer) == lengths[i]);
    }
    close_hooked(buffer);
}

static cdedupe_bytes_t *
open_with_dropped_values(void)
{
    cdedupe_bytes_t *buffer = open_hooked(0);
    uint64_t freed;

    put_all(buffer, DROPPED, ALONE);
    freed = hooks.deallocations;
    CHECK_EQ(cdedupe_bytes_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(hooks.deallocations, freed);
    CHECK(held(buffer) >= (uint64_t)DROPPED * ALONE);
    return buffer;
}

static void
restart_withPendingValues_freesNothingItself(void)
{
    close_hooked(open_with_dropped_values());
}

static void
puts_afterARestart_freeDroppedValuesInSteps(void)
{
    cdedupe_bytes_t *buffer = open_with_dropped_values();
    uint64_t freed;

    for (uint32_t i = 0; i < DROPPED / 8 + 1; i++) {
        freed = hooks.deallocations;
        put(buffer, KEYS_MAX + i, SHORT);
        CHECK(hooks.deallocations - freed <= PUT_FREES);
    }
    CHECK(held(buffer) < LITTLE);
    close_hooked(buffer);
}

static void
takes_afterARestart_freeDroppedValuesInSteps(void)
{
    cdedupe_bytes_t *buffer = open_with_dropped_values();
    cdedupe_bytes_item_t items[BATCH];
    uint64_t freed;
    size_t count;

    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    for (uint32_t i = 0; i < DROPPED / 64 + 1; i++) {
        freed = hooks.deallocations;
        CHECK_EQ(cdedupe_bytes_take(buffer, items, BATCH, &count), CDEDUPE_EMPTY);
        CHECK(hooks.deallocations - freed <= CALL_FREES);
    }
    CHECK(held(buffer) < LITTLE);
    close_hooked(buffer);
}

/*
 * The in-sync comes at the end of a resync that may have few updates: nothing is left to later
 * calls.
 */
static void
inSync_afterARestart_freesAllDroppedValues(void)
{
    cdedupe_bytes_t *buffer = open_with_dropped_values();
    uint64_t freed = hooks.deallocations;

    CHECK_EQ(cdedupe_bytes_put_status(buffer, CDEDUPE_STATUS_RESYNC_IN_PROGRESS), CDEDUPE_OK);
    CHECK(hooks.deallocations - freed <= CALL_FREES);
    CHECK(held(buffer) > 64 * ALONE);
    CHECK_EQ(cdedupe_bytes_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK(held(buffer) < LITTLE);
    close_hooked(buffer);
}

static void
putBack_afterARestart_freesDroppedValuesInSteps(void)
{
    cdedupe_bytes_t *buffer = open_hooked(0);
    cdedupe_bytes_item_t item;
    uint64_t freed;
    size_t count;

    put_all(buffer, DROPPED, ALONE);
    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take(buffer, &item, 1, &count), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_restart(buffer), CDEDUPE_OK);
    freed = hooks.deallocations;
    CHECK_EQ(cdedupe_bytes_put_back(buffer, &count), CDEDUPE_OK);
    CHECK(hooks.deallocations - freed > 60 && hooks.deallocations - freed <= CALL_FREES);
    close_hooked(buffer);
}

static void
put_whenItOverflows_freesDroppedValuesInSteps(void)
{
    cdedupe_bytes_t *buffer = open_hooked(DROPPED);
    cdedupe_outcome_t outcome;
    uint32_t key = KEYS_MAX;
    uint64_t freed;

    put_all(buffer, DROPPED, ALONE);
    for (uint32_t i = 0; i < DROPPED / 8 + 2; i++) {
        freed = hooks.deallocations;
        CHECK_EQ(cdedupe_bytes_put(buffer, &key, sizeof(key), value_bytes, ALONE, 1, &outcome),
                 CDEDUPE_OVERFLOWED);
        CHECK_EQ(outcome, i == 0 ? CDEDUPE_OUTCOME_OVERFLOWED : CDEDUPE_OUTCOME_DROPPED);
        CHECK(hooks.deallocations - freed <= PUT_FREES);
    }
    CHECK(held(buffer) < LITTLE);
    close_hooked(buffer);
}

/* Only tells: how long a call takes is no matter of passing. */
static void
restart_withManyKeys_isTimed(void)
{
    uint32_t keys = peak_bytes >= PEAK_TO_TELL ? 1000000 : 10000;
    struct timespec start, end;
    cdedupe_bytes_t *buffer;

    CHECK_EQ(cdedupe_bytes_create(NULL, &buffer), CDEDUPE_OK);
    put_all(buffer, keys, 100);
    clock_gettime(CLOCK_MONOTONIC, &start);
    CHECK_EQ(cdedupe_bytes_restart(buffer), CDEDUPE_OK);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("  restart with %u pending keys: %.1f us\n", keys,
           (double)(end.tv_sec - start.tv_sec) * 1e6 + (double)(end.tv_nsec - start.tv_nsec) / 1e3);
    cdedupe_bytes_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* Values that share slabs are not lost: there the hooks would not miss them                      */

static void
put_in_all_ways(cdedupe_bytes_t *buffer, uint32_t round)
{
    cdedupe_bytes_item_t items[BATCH];
    size_t length = 49 + round % 7 * 1000, count;
    uint32_t key = 1;

    put(buffer, 1, length);
    put(buffer, 1, length + 50);
    CHECK_EQ(cdedupe_bytes_delete(buffer, &key, sizeof(key), 0, NULL), CDEDUPE_OK);
    hooks.fail_at = hooks.allocations + 1;
    cdedupe_bytes_put(buffer, &key, sizeof(key), value_bytes, ALONE, 1, NULL);
    hooks.fail_at = 0;
    put(buffer, 1, length);
    put(buffer, 2, length);
    CHECK_EQ(cdedupe_bytes_take(buffer, items, BATCH, &count), CDEDUPE_OK);
    put(buffer, 2, length);
    CHECK_EQ(cdedupe_bytes_put_back(buffer, &count), CDEDUPE_OK);
    for (uint32_t i = 0; i < 50; i++)
        put(buffer, i, length);
    CHECK_EQ(cdedupe_bytes_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    cdedupe_bytes_take(buffer, items, BATCH, &count);
}

static void
longValues_howeverTheyEnd_takeConstantMemory(void)
{
    enum { ROUNDS = 700 };
    cdedupe_bytes_t *buffer = open_hooked(0);
    uint64_t early = 0;

    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        put_in_all_ways(buffer, round);
        if (round == ROUNDS / 5)
            early = held(buffer);
    }
    CHECK(held(buffer) <= early + early / 10);
    close_hooked(buffer);
}

/*
 * Lengths around those at which a value moves from the payload to a slab, and to a block of its
 * own.
 */
static void
valuesOfEveryKindOfLength_comeOutAsTheyWentIn(void)
{
    static const size_t lengths[] = {
        0, 1, 47, 48, 49, 64, 65, VALUE_CELL_MAX - 1, VALUE_CELL_MAX, ALONE};
    cdedupe_bytes_t *buffer = open_hooked(0);
    cdedupe_bytes_item_t item;
    size_t count;

    for (size_t i = 0; i < sizeof(value_bytes); i++)
        value_bytes[i] = (unsigned char)(i * 31 % 251 + 1);
    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        put(buffer, (uint32_t)i, lengths[i]);
        CHECK_EQ(cdedupe_bytes_take(buffer, &item, 1, &count), CDEDUPE_OK);
        CHECK_EQ(item.value_length, lengths[i]);
        CHECK(memcmp(item.value, value_bytes, lengths[i]) == 0);
    }
    close_hooked(buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* The store                                                                                      */

enum { STORED = 400 };

static struct memory memory;
static struct values values;
static struct stored_value stored[STORED];

static void
open_store(void)
{
    memset(&hooks, 0, sizeof(hooks));
    memory_init(&memory, hooks_allocate, hooks_deallocate, &hooks);
    memset(&values, 0, sizeof(values));
    values_init(&values, &memory);
}

static void
close_store(void)
{
    CHECK_NO_FAULT(values_validate(&values));
    CHECK(values.arena.used <= 1);
    values_free_many(&values, NULL, 0);
    CHECK_EQ(values.arena.used, 0);
    CHECK_EQ(values.arena.empty_bytes_max, 2 * SLAB_SIZE_MAX);
    CHECK(memory.bytes <= 3 * SLAB_SIZE_MAX);
    values_destroy(&values);
    CHECK_EQ(memory.bytes, 0);
    hooks_close(&hooks);
}

static void
everyLength_hasAClass_thatWastesAFifthAtMost(void)
{
    uint32_t last = values_class(VALUE_CELL_MAX);

    open_store();
    CHECK_EQ(values.arena.class_count, last + 1);
    CHECK(last < ARENA_CLASSES_MAX);
    for (size_t length = 1; length <= VALUE_CELL_MAX; length++) {
        uint32_t class_index = values_class(length);
        size_t stride = values.arena.classes[class_index].stride;

        CHECK(class_index <= last && stride >= length && stride % 16 == 0);
        CHECK(class_index == 0 || values.arena.classes[class_index - 1].stride < length);
        CHECK(length <= 48 || stride - length <= 15 || (stride - length) * 5 <= stride);
    }
    close_store();
}

static size_t
stored_length(unsigned i)
{
    return i % 50 == 7 ? VALUE_CELL_MAX + i : 49 + (size_t)i * i * 7919 % (20 << i % 12);
}

static void
free_some(unsigned from, unsigned step)
{
    static struct stored_value some[STORED];
    size_t count = 0;

    for (unsigned i = from; i < STORED; i += step) {
        const unsigned char *bytes = stored[i].bytes;

        for (size_t j = 0; j < stored[i].length; j += 37)
            CHECK(bytes[j] == i % 251);
        CHECK(bytes[stored[i].length - 1] == i % 251);
        some[count++] = stored[i];
    }
    if (from % 2 == 0) {
        values_free_many(&values, some, count);
        return;
    }
    for (size_t i = 0; i < count; i++)
        values_free(&values, &some[i]);
}

/* Every value is its owner's alone, whatever allocation failed before it. */
static void
values_whenAllocationsFail_keepTheirBytes(void)
{
    for (uint64_t fail_at = 1; fail_at < 100; fail_at += 3) {
        open_store();
        hooks.fail_at = fail_at;
        for (unsigned i = 0; i < STORED; i++) {
            size_t length = stored_length(i);
            uint64_t bytes = memory.bytes;

            while (!values_allocate(&values, length, &stored[i])) {
                CHECK(hooks.failures == 1 && memory.bytes == bytes);
                CHECK_NO_FAULT(values_validate(&values));
            }
            CHECK_EQ((uintptr_t)stored[i].bytes % 16, 0);
            memset(stored[i].bytes, (int)(i % 251), length);
        }
        CHECK_EQ(hooks.failures, 1);
        CHECK_EQ(memory.bytes, hooks.held_bytes);
        for (unsigned i = 0; i < 3; i++)
            free_some(i, 3);
        close_store();
    }
}

/* The spare cell is given to a value of its class only. */
static void
freedValue_isReusedByOneOfItsClass(void)
{
    struct stored_value first, second, third;

    open_store();
    CHECK(values_allocate(&values, 100, &first));
    CHECK(values_allocate(&values, 100, &second));
    values_free(&values, &first);
    values_free(&values, &second);
    CHECK(values_allocate(&values, 2000, &third) && third.cell != first.cell);
    values_free(&values, &third);
    CHECK(values_allocate(&values, 112, &second));
    CHECK_EQ(second.cell, first.cell);
    CHECK(values_allocate(&values, 112, &third) && third.cell != first.cell);
    values_free(&values, &second);
    CHECK_EQ(values.arena.used, 2);
    values_free_many(&values, &third, 1);
    CHECK_EQ(values.arena.used, 0);
    close_store();
}

static void *
exchange_values(void *argument)
{
    static void *shelf[16];
    unsigned random = (unsigned)(uintptr_t)argument;

    for (unsigned i = 0; i < 50000; i++) {
        struct stored_value value, *shelved;

        random = random * 1664525 + 1013904223;
        CHECK(values_allocate(&values, 49 + random % 300, &value));
        *(struct stored_value *)value.bytes = value;
        shelved = __atomic_exchange_n(&shelf[random >> 28], value.bytes, __ATOMIC_ACQ_REL);
        if (shelved != NULL) {
            value = *shelved;
            CHECK(value.bytes == (void *)shelved);
            values_free(&values, &value);
        }
    }
    for (unsigned i = 0; i < 16; i++) {
        struct stored_value *shelved = __atomic_exchange_n(&shelf[i], NULL, __ATOMIC_ACQ_REL), copy;

        if (shelved != NULL) {
            copy = *shelved;
            values_free(&values, &copy);
        }
    }
    return NULL;
}

static void
values_ofOneThread_areFreedByAnother(void)
{
    pthread_t threads[3];

    open_store();
    for (uintptr_t i = 0; i < 3; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, exchange_values, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    close_store();
}

int
main(int argc, char **argv)
{
    peak_bytes = argc > 1 ? strtoul(argv[1], NULL, 10) : 128 * 1000 * 1000;
    RUN(everyLength_hasAClass_thatWastesAFifthAtMost);
    RUN(values_whenAllocationsFail_keepTheirBytes);
    RUN(freedValue_isReusedByOneOfItsClass);
    RUN(values_ofOneThread_areFreedByAnother);
    RUN(valuesOfEveryKindOfLength_comeOutAsTheyWentIn);
    RUN(longValues_howeverTheyEnd_takeConstantMemory);
    RUN(long_values_are_freed_however_they_end);
    RUN(a_value_without_memory_keeps_nothing);
    RUN(put_withoutMemoryForASlot_isRejected);
    RUN(bytesTake_thatIsRejected_keepsTheLastBatch);
    RUN(bytesRelease_freesTheLastBatch);
    RUN(memory_ofLongValues_isWhatTheAllocatorGave);
    RUN(restart_withPendingValues_freesNothingItself);
    RUN(puts_afterARestart_freeDroppedValuesInSteps);
    RUN(takes_afterARestart_freeDroppedValuesInSteps);
    RUN(inSync_afterARestart_freesAllDroppedValues);
    RUN(putBack_afterARestart_freesDroppedValuesInSteps);
    RUN(put_whenItOverflows_freesDroppedValuesInSteps);
    RUN(restart_withManyKeys_isTimed);
    RUN(longValues_afterAPeak_goBackToTheSystem);
    return check_finish();
}
