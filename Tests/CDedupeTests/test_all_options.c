/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All options of a buffer at once, with threads. A source has the truth and restarts now and then.
 * When a bound was exceeded, it sends everything again, of which the buffer suppresses much. A sink
 * fails on some of its batches. In the end the sink must have what the source has, and every
 * payload must have come out once.
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include "CDedupe.h"
#include "check.h"
#include "random.h"

enum { KEYS = 48, BATCH = 64, UPDATES = 16, GONE = 0xdead };

typedef struct value {
    uint64_t revision;
    uint64_t weight;
    uint64_t key;
} value_t;

typedef struct world {
    cdedupe_t *buffer;
    unsigned calls;
    sem_t woken;
    atomic_ullong payloads; /* That the buffer has, or somebody. */
    atomic_bool over;
    uint64_t random;
    uint64_t truth[KEYS]; /* Revisions; zero: it is not there. */
    uint64_t revision;
    uint64_t sunk[KEYS]; /* What the sink has. */
    int status;
} world_t;

static void
wake(void *context)
{
    sem_post(&((world_t *)context)->woken);
}

static cdedupe_slot_t
make_payload(world_t *world, uint64_t key, uint64_t revision)
{
    cdedupe_slot_t slot = 0;

    CHECK_EQ(cdedupe_acquire(world->buffer, &slot, 1), CDEDUPE_OK);
    *(value_t *)cdedupe_payload(world->buffer, slot) = (value_t){revision, 1 + key % 3, key};
    atomic_fetch_add(&world->payloads, 1);
    return slot;
}

static void
end_payload(world_t *world, cdedupe_slot_t slot)
{
    if (slot != 0) {
        value_t *value = cdedupe_payload(world->buffer, slot);

        CHECK(value->key < KEYS);
        value->key = GONE;
        atomic_fetch_sub(&world->payloads, 1);
        cdedupe_discard(world->buffer, &slot, 1);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Source                                                                                         */

/* Done with one that was put; whether it overflowed. */
static bool
settle(world_t *world, const cdedupe_update_t *update)
{
    CHECK(update->outcome != CDEDUPE_OUTCOME_UNTOUCHED &&
          update->outcome != CDEDUPE_OUTCOME_REJECTED);
    end_payload(world, update->slot);
    end_payload(world, update->displaced);
    return update->outcome == CDEDUPE_OUTCOME_OVERFLOWED;
}

/* Sends of some keys what is true, in one call. Whether it overflowed. */
static bool
put_truth(world_t *world, const uint64_t *keys, size_t count)
{
    cdedupe_update_t updates[UPDATES];
    bool overflowed = false;
    cdedupe_result_t result;

    for (size_t i = 0; i < count; i++) {
        uint64_t revision = world->truth[keys[i]];

        updates[i] = (cdedupe_update_t){
            .key = &keys[i], .key_length = sizeof(keys[i]), .deletion = revision == 0};
        if (revision != 0 || keys[i] % 2 != 0) {
            updates[i].slot = make_payload(world, keys[i], revision);
        }
    }
    result = cdedupe_put(world->buffer, updates, count);
    for (size_t i = 0; i < count; i++) {
        overflowed |= settle(world, &updates[i]);
    }
    CHECK_EQ(result, overflowed ? CDEDUPE_OVERFLOWED : CDEDUPE_OK);
    return overflowed;
}

static void
collect(world_t *world)
{
    cdedupe_slot_t slots[8];
    size_t count;

    while (cdedupe_collect(world->buffer, slots, 8, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++) {
            end_payload(world, slots[i]);
        }
    }
}

/* Until nothing overflows; the sink is given time. */
static void
send_all_again(world_t *world)
{
    bool overflowed = true;

    while (overflowed) {
        overflowed = false;
        CHECK_EQ(cdedupe_restart(world->buffer), CDEDUPE_OK);
        if (random_below(&world->random, 2) == 0) {
            collect(world);
        }
        CHECK_EQ(cdedupe_put_status(world->buffer, CDEDUPE_STATUS_RESYNC_IN_PROGRESS), CDEDUPE_OK);
        for (uint64_t key = 0; key < KEYS && !overflowed; key++) {
            overflowed = world->truth[key] != 0 && put_truth(world, &key, 1);
            if (random_below(&world->random, 4) == 0) {
                sched_yield();
            }
        }
    }
    CHECK_EQ(cdedupe_put_status(world->buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
}

/* A few keys change, or stay, or go. */
static void
change(world_t *world, uint64_t *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t which = random_below(&world->random, 3);

        keys[i] = random_below(&world->random, KEYS);
        if (which != 1) {
            world->truth[keys[i]] = which == 0 ? 0 : ++world->revision;
        }
    }
}

static void *
source(void *argument)
{
    world_t *world = argument;

    for (unsigned i = 0; i < world->calls; i++) {
        size_t count = 1 + random_below(&world->random, UPDATES);
        uint64_t keys[UPDATES];

        change(world, keys, count);
        if (put_truth(world, keys, count) || random_below(&world->random, 20) == 0) {
            send_all_again(world);
        }
    }
    send_all_again(world);
    CHECK_EQ(cdedupe_finish(world->buffer, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    atomic_store(&world->over, true);
    return NULL;
}

static void *
look(void *argument)
{
    world_t *world = argument;
    cdedupe_statistics_t s;

    while (!atomic_load(&world->over)) {
        CHECK_NO_FAULT(cdedupe_validate(world->buffer));
        cdedupe_statistics(world->buffer, &s, sizeof(s));
        CHECK_EQ(s.received + s.synthesized_deletions, s.delivered + s.replaced + s.cancelled +
                                                           s.suppressed + s.dropped +
                                                           s.pending_keys);
        sched_yield();
    }
    return NULL;
}

/* ---------------------------------------------------------------------------------------------- */
/* Sink                                                                                           */

static void
commit(world_t *world, const cdedupe_item_t *item)
{
    uint64_t key;

    if (item->kind == CDEDUPE_ITEM_STATUS) {
        world->status = item->status;
        return;
    }
    memcpy(&key, item->key, sizeof(key));
    if (item->kind == CDEDUPE_ITEM_DELETED) {
        world->sunk[key] = 0;
    } else {
        const value_t *value = cdedupe_payload(world->buffer, item->slot);

        CHECK_EQ(value->key, key);
        CHECK_EQ(item->kind == CDEDUPE_ITEM_UPDATED, world->sunk[key] != 0);
        world->sunk[key] = value->revision;
    }
}

/* The last of a batch go back, in one call or two. */
static void
give_back(world_t *world, cdedupe_item_t *items, size_t count, uint64_t *random)
{
    while (count > 0) {
        size_t part = 1 + random_below(random, count), left = part;

        CHECK_EQ(cdedupe_put_back(world->buffer, items + count - part, &left), CDEDUPE_OK);
        count -= part;
    }
}

static void
sink(world_t *world, uint64_t random)
{
    cdedupe_item_t items[BATCH];
    cdedupe_result_t result;
    size_t count;

    while ((result = cdedupe_take(world->buffer, items, 1 + random_below(&random, BATCH),
                                  &count)) != CDEDUPE_STOPPED) {
        size_t good =
            random_below(&random, 2) == 0 ? count : (size_t)random_below(&random, count + 1);

        if (result == CDEDUPE_EMPTY) {
            while (sem_wait(&world->woken) != 0) {
            }
        }
        for (size_t i = 0; i < good; i++) {
            commit(world, &items[i]);
        }
        /* Meanwhile the source may have sent all again. */
        for (uint64_t i = good < count ? random_below(&random, 30) : 0; i > 0; i--) {
            sched_yield();
        }
        give_back(world, items + good, count - good, &random);
        for (size_t i = 0; i < count; i++) {
            end_payload(world, items[i].slot);
        }
    }
}

/* ---------------------------------------------------------------------------------------------- */

typedef struct rules {
    bool suppress;
    uint64_t keys, bytes;
} rules_t;

static void
open_world(world_t *world, const rules_t *rules)
{
    cdedupe_options_t options = cdedupe_options();

    options.payload_size = sizeof(value_t);
    options.suppress_unchanged = rules->suppress;
    options.revision_offset = offsetof(value_t, revision);
    options.maximum_pending_keys = rules->keys;
    options.maximum_pending_bytes = rules->bytes;
    options.weight_offset = offsetof(value_t, weight);
    options.batch_size = BATCH;
    options.wake = wake;
    options.wake_context = world;
    sem_init(&world->woken, 0, 0);
    atomic_init(&world->payloads, 0);
    atomic_init(&world->over, false);
    CHECK_EQ(cdedupe_create(&options, &world->buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(world->buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
}

static uint64_t suppressed, overflows;

/*
 * A short life: what is lost on the way the source may send again, but not what is lost at the end.
 */
static void
run_world(const rules_t *rules, uint64_t seed)
{
    world_t world = {.random = seed, .status = -1};
    cdedupe_statistics_t s;
    pthread_t threads[2];

    world.calls = 1 + (unsigned)random_below(&world.random, 30);
    open_world(&world, rules);
    pthread_create(&threads[0], NULL, source, &world);
    pthread_create(&threads[1], NULL, look, &world);
    sink(&world, seed + 1);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    CHECK_EQ(world.status, CDEDUPE_STATUS_IN_SYNC);
    for (size_t key = 0; key < KEYS; key++) {
        CHECK_EQ(world.sunk[key], world.truth[key]);
    }
    collect(&world);
    CHECK_EQ(atomic_load(&world.payloads), 0);
    CHECK_NO_FAULT(cdedupe_validate(world.buffer));
    cdedupe_statistics(world.buffer, &s, sizeof(s));
    CHECK_EQ(s.pending_keys, 0);
    suppressed += s.suppressed;
    overflows += s.overflows;
    cdedupe_destroy(world.buffer);
    sem_destroy(&world.woken);
}

/* How many worlds, and a seed. */
int
main(int argc, char **argv)
{
    static const rules_t rules[] = {{true, 0, 0}, {true, 40, 0}, {true, 0, 60}, {false, 0, 60}};
    uint64_t worlds = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;

    check_test = "the_sink_has_in_the_end_what_the_source_has";
    for (uint64_t i = 0; i < worlds; i++) {
        run_world(&rules[i % 4], seed + i * 4096 + 1);
    }
    CHECK(worlds < 100 || (suppressed > 0 && overflows > 0));
    return check_finish();
}
