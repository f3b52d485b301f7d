/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting back: some items of a batch, when memory runs out, and beside producers. The rules are in
 * put_back.scenarios.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "check.h"
#include "hooks.h"
#include "subject.h"

static subject_t subject;

static void
open_level(subject_level_t level)
{
    subject_options_t options = subject_defaults(level);

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

static void
close_level(void)
{
    subject_collect(&subject, 10);
    subject_close(&subject);
}

/* ---------------------------------------------------------------------------------------------- */

/* A caller may put back only some updates of a batch: it moves them behind the others. */
static void
updates_moved_behind_the_others_go_back(void)
{
    cdedupe_item_t *items, moved;

    open_level(SUBJECT_HANDLES);
    put(&subject, "a", 1);
    put(&subject, "b", 1);
    put(&subject, "c", 1);
    step(&subject);
    del(&subject, "a");
    put(&subject, "b", 2);
    del(&subject, "c");
    CHECK_TEXT(step(&subject), "-a ~b=2 -c");
    items = subject.core_items;
    moved = items[0];
    items[0] = items[1];
    items[1] = items[2];
    items[2] = moved;
    put_back(1);
    CHECK_EQ(subject_statistics(&subject).live_keys, 2);
    CHECK_TEXT(step(&subject), "-a");
    close_level();
}

static void
putBack_ofNothing_needsAClaim(void)
{
    size_t count = 0;

    open_level(SUBJECT_HANDLES);
    CHECK_EQ(cdedupe_put_back(subject.core, NULL, &count), CDEDUPE_OK);
    subject_release(&subject);
    CHECK_EQ(cdedupe_put_back(subject.core, NULL, &count), CDEDUPE_INVALID_ARGUMENT);
    close_level();
}

/* ---------------------------------------------------------------------------------------------- */
/* Memory runs out                                                                                */

enum { MANY = 3000 };

static void
put_many(cdedupe_bytes_t *buffer, bool deletion)
{
    char key[32];

    for (int i = 0; i < MANY; i++) {
        int length = snprintf(key, sizeof(key), "key %d", i);

        CHECK_EQ(deletion ? cdedupe_bytes_delete(buffer, key, (size_t)length, 0, NULL)
                          : cdedupe_bytes_put(buffer, key, (size_t)length, "v", 1, 0, NULL),
                 CDEDUPE_OK);
    }
}

/*
 * Deletions of all keys go back into an index that has shrunk meanwhile: it must grow, and cannot
 * at first.
 */
static void
it_goes_on_where_memory_ran_out(void)
{
    static cdedupe_bytes_item_t items[MANY];
    hooks_t hooks = {0};
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *buffer;
    unsigned failures = 0;
    size_t count, left;
    cdedupe_statistics_t statistics;

    hooks_use(&hooks, &options);
    options.batch_size = MANY;
    CHECK_EQ(cdedupe_bytes_create(&options, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    put_many(buffer, false);
    CHECK_EQ(cdedupe_bytes_take(buffer, items, MANY, &count), CDEDUPE_OK);
    put_many(buffer, true);
    CHECK_EQ(cdedupe_bytes_take(buffer, items, MANY, &count), CDEDUPE_OK);
    CHECK_EQ(count, MANY);
    for (left = count; left > 0;) {
        /* Later each time, so that one day what is wanted at once is there. */
        hooks.fail_at = hooks.allocations + 1 + failures;
        failures += cdedupe_bytes_put_back(buffer, &left) == CDEDUPE_NO_MEMORY;
        CHECK_NO_FAULT(cdedupe_bytes_validate(buffer));
    }
    hooks.fail_at = 0;
    CHECK(failures > 0);
    cdedupe_bytes_statistics(buffer, &statistics, sizeof(statistics));
    CHECK_EQ(statistics.pending_keys, MANY);
    CHECK_EQ(statistics.live_keys, MANY);
    CHECK_EQ(cdedupe_bytes_take(buffer, items, MANY, &count), CDEDUPE_OK);
    CHECK_EQ(count, MANY);
    cdedupe_bytes_destroy(buffer);
    hooks_close(&hooks);
}

/* ---------------------------------------------------------------------------------------------- */
/* Producers at work                                                                              */

enum { PRODUCERS = 3, KEYS = 40, CALLS = 20000 };

typedef struct world {
    cdedupe_bytes_t *buffer;
    atomic_uint running;
} world_t;

typedef struct producer {
    world_t *world;
    uint64_t random;
    uint32_t number;
    uint64_t last[KEYS]; /* Zero: a deletion, or nothing. */
} producer_t;

static uint64_t
next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717) >> 33;
}

/* Each producer has keys of its own, so that the newest of each is known. */
static void *
produce(void *argument)
{
    producer_t *producer = argument;

    for (uint64_t i = 1; i <= CALLS; i++) {
        uint32_t key = (uint32_t)(next_random(&producer->random) % KEYS),
                 id = producer->number * KEYS + key;

        if (next_random(&producer->random) % 4 == 0) {
            producer->last[key] = 0;
            CHECK_EQ(cdedupe_bytes_delete(producer->world->buffer, &id, sizeof(id), 0, NULL),
                     CDEDUPE_OK);
        } else {
            producer->last[key] = i;
            CHECK_EQ(
                cdedupe_bytes_put(producer->world->buffer, &id, sizeof(id), &i, sizeof(i), 0, NULL),
                CDEDUPE_OK);
        }
    }
    atomic_fetch_sub(&producer->world->running, 1);
    return NULL;
}

/* What the sink got and did not give back. */
static void
commit(const cdedupe_bytes_item_t *item, uint64_t *values)
{
    uint32_t id;

    memcpy(&id, item->key, sizeof(id));
    if (item->kind == CDEDUPE_ITEM_DELETED) {
        values[id] = 0;
        return;
    }
    CHECK_EQ(item->kind == CDEDUPE_ITEM_UPDATED, values[id] != 0);
    memcpy(&values[id], item->value, sizeof(values[id]));
}

static void
a_failing_sink_ends_with_the_newest_of_every_key(void)
{
    static producer_t producers[PRODUCERS];
    static uint64_t values[PRODUCERS * KEYS];
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_item_t items[60];
    pthread_t threads[PRODUCERS];
    world_t world;
    uint64_t random = 7;
    size_t count, back;

    options.batch_size = 60;
    CHECK_EQ(cdedupe_bytes_create(&options, &world.buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_claim(world.buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    atomic_init(&world.running, PRODUCERS);
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i].world = &world;
        producers[i].number = i;
        producers[i].random = i + 1;
        pthread_create(&threads[i], NULL, produce, &producers[i]);
    }
    for (;;) {
        bool last = atomic_load(&world.running) == 0;
        cdedupe_result_t result = cdedupe_bytes_take(world.buffer, items, 60, &count);

        if (result == CDEDUPE_EMPTY && last)
            break;
        back = count == 0 ? 0 : (size_t)(next_random(&random) % (count + 1));
        for (size_t i = 0; i < count - back; i++)
            commit(&items[i], values);
        CHECK_EQ(cdedupe_bytes_put_back(world.buffer, &back), CDEDUPE_OK);
    }
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
        for (uint32_t key = 0; key < KEYS; key++)
            CHECK_EQ(values[i * KEYS + key], producers[i].last[key]);
    }
    CHECK_NO_FAULT(cdedupe_bytes_validate(world.buffer));
    cdedupe_bytes_destroy(world.buffer);
}

int
main(void)
{
    RUN(updates_moved_behind_the_others_go_back);
    RUN(putBack_ofNothing_needsAClaim);
    RUN(it_goes_on_where_memory_ran_out);
    RUN(a_failing_sink_ends_with_the_newest_of_every_key);
    return check_finish();
}
