/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Histories of real runs, judged. See history.h for the properties that must hold.
 *
 *     test_histories [seconds] [seed] [updates]
 *
 * Each round runs one buffer with other parameters: 1 to 8 producers, 3 to 100,000 keys, and calls
 * of 1 to 100 updates. The sink keeps up, stalls, or sleeps through most of the round. Restarts
 * come from the first producer and from the sink. The end is a finish, or a stop by any thread. All
 * of these follow from the seed, but the interleaving of the threads does not.
 *
 * Rounds go on for the given time, but there are at least ROUNDS_MIN of them. `updates` is roughly
 * the most updates of a round.
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "random.h"
#include "history.h"

enum {
    PRODUCERS_MAX = 8,
    CALL_MAX = 100,
    BATCH_MAX = 1000,
    KEY_MAX = 100,
    ROUNDS_MIN = 24,
    PATIENCE = 60
};

#define MAGIC UINT64_C(0x686973746f727921)

/* What a slot holds. */
typedef struct payload {
    uint64_t magic;
    history_name_t name;
    uint32_t unused;
} payload_t;

typedef enum stall {
    STALL_NEVER,
    STALL_BRIEFLY, /* Yields now and then. */
    STALL_LONG,    /* Sleeps through some hundredths of it after each batch. */
    STALLS,
} stall_t;

typedef enum ending {
    FINISH_DELIVERED,
    FINISH_EMPTY,
    STOP_BY_PRODUCER,
    STOP_BY_SINK,
    ENDINGS,
} ending_t;

struct world;

/* A thread, and what the watchdog says about it. */
typedef struct actor {
    struct world *world;
    unsigned lane;
    uint64_t random;
    uint64_t calls;
    const char *_Atomic doing;
} actor_t;

typedef struct world {
    cdedupe_t *buffer;
    history_t history;

    unsigned producers;
    uint32_t keys;
    uint64_t calls;     /* Per producer. */
    uint64_t call_max;  /* Updates. */
    uint64_t hot;       /* Not zero: every second update is of so few keys. */
    uint64_t deletions; /* Of 8 updates. */
    uint64_t restarts;  /* One in so many calls of the first producer, and batches; zero: never. */
    uint64_t statuses;  /* One in so many calls of the first producer. */
    size_t batch_size;
    stall_t stall;
    ending_t ending;
    uint64_t stop_after; /* Calls of the one that stops. */

    atomic_bool ending_now; /* Set before what ends the buffer is called. */
    atomic_uint working;    /* Producers. */
    sem_t wake;
    actor_t actors[HISTORY_LANES_MAX];
} world_t;

static uint64_t seed;
static uint64_t rounds;
static world_t *_Atomic watched; /* What the watchdog looks at, while threads are at work. */
static sem_t watch_end;          /* Posted when the watchdog must end. */

/* ---------------------------------------------------------------------------------------------- */
/* Small things                                                                                   */

static uint64_t
random_seed(uint64_t number)
{
    return (seed + number) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

static bool
one_in(uint64_t *state, uint64_t count)
{
    return count != 0 && random_below(state, count) == 0;
}

static void
describe(FILE *out)
{
    fprintf(out, "  round %" PRIu64 ", seed %" PRIu64 "\n", rounds, seed);
}

static void
describe_world(const world_t *world, FILE *out)
{
    fprintf(out,
            "  producers %u, keys %u, calls %" PRIu64 " of up to %" PRIu64 " updates, hot %" PRIu64
            ", deletions %" PRIu64 "/8, restarts 1/%" PRIu64 ", statuses 1/%" PRIu64
            ", batch %zu, stall %d, ending %d after %" PRIu64 "\n",
            world->producers, world->keys, world->calls, world->call_max, world->hot,
            world->deletions, world->restarts, world->statuses, world->batch_size,
            (int)world->stall, (int)world->ending, world->stop_after);
}

/* A key is its number and, so that lengths differ, some filling. */
static size_t
make_key(uint32_t number, unsigned char *key)
{
    size_t length = sizeof(number) + number * 7 % (KEY_MAX - sizeof(number));

    memset(key, 'k', length);
    memcpy(key, &number, sizeof(number));
    return length;
}

static uint32_t
number_of(const void *key, size_t length)
{
    unsigned char wanted[KEY_MAX];
    uint32_t number = UINT32_MAX;

    if (CHECK(length >= sizeof(number)))
        memcpy(&number, key, sizeof(number));
    if (make_key(number, wanted) != length || memcmp(wanted, key, length) != 0) {
        CHECK_TEXT("another key", "a key of this test");
        abort();
    }
    return number;
}

/* ---------------------------------------------------------------------------------------------- */
/* The watchdog: a hang is a failure, too                                                         */

/*
 * The threads' own words first: the buffer's counters need its lock, which may be what is missing.
 */
static void
tell_and_abort(world_t *world)
{
    cdedupe_statistics_t s;

    fprintf(stderr, "test_histories hangs at stamp %" PRIu64 "\n",
            (uint64_t)atomic_load(&world->history.stamp));
    describe(stderr);
    describe_world(world, stderr);
    for (unsigned lane = 0; lane < world->producers + 2; lane++)
        fprintf(stderr, "  lane %u: %s, call %" PRIu64 "\n", lane,
                atomic_load(&world->actors[lane].doing), world->actors[lane].calls);
    alarm(5);
    cdedupe_statistics(world->buffer, &s, sizeof(s));
    fprintf(stderr,
            "  pending %" PRIu64 " and %" PRIu64 " statuses, received %" PRIu64
            ", delivered %" PRIu64 "\n",
            s.pending_keys, s.pending_statuses, s.received, s.delivered);
    abort();
}

/* Waits for a second. True: the watch is over. */
static bool
watch_is_over(void)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec++;
    return sem_timedwait(&watch_end, &end) == 0;
}

static void *
watch(void *unused)
{
    uint64_t before = 0;

    for (unsigned quiet = 0; !watch_is_over(); quiet++) {
        world_t *world = atomic_load(&watched);
        uint64_t stamp = world == NULL ? 0 : atomic_load(&world->history.stamp);

        if (world == NULL || stamp != before)
            quiet = 0;
        if (quiet == PATIENCE)
            tell_and_abort(world);
        before = stamp;
    }
    return unused;
}

static void
do_now(actor_t *actor, const char *what)
{
    atomic_store_explicit(&actor->doing, what, memory_order_relaxed);
}

/* ---------------------------------------------------------------------------------------------- */
/* Payloads                                                                                       */

static void
construct(world_t *world, cdedupe_slot_t slot, history_name_t name)
{
    *(payload_t *)cdedupe_payload(world->buffer, slot) = (payload_t){.magic = MAGIC, .name = name};
}

/* Whose payload it is; zero for no slot. The slot goes back. */
static history_name_t
destroy(world_t *world, cdedupe_slot_t slot)
{
    payload_t *payload;
    history_name_t name;

    if (slot == 0)
        return 0;
    payload = cdedupe_payload(world->buffer, slot);
    name = payload->name;
    if (payload->magic != MAGIC)
        CHECK_EQ(payload->magic, MAGIC);
    payload->magic = 0;
    cdedupe_discard(world->buffer, &slot, 1);
    return name;
}

static void
collect(actor_t *actor)
{
    world_t *world = actor->world;
    cdedupe_slot_t slots[50];
    size_t count = 0;

    do_now(actor, "collects");
    cdedupe_collect(world->buffer, slots, 50, &count);
    for (size_t i = 0; i < count; i++) {
        history_name_t name = destroy(world, slots[i]);

        history_add(&world->history, actor->lane, HISTORY_RETURNED, 0)->other = name;
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Calls that are written down                                                                    */

static history_event_t *
begin_event(actor_t *actor, history_kind_t kind, uint32_t key)
{
    history_event_t *event = history_add(&actor->world->history, actor->lane, kind, key);

    event->begin = history_stamp(&actor->world->history);
    return event;
}

static void
end_event(actor_t *actor, history_event_t *event)
{
    event->end = history_stamp(&actor->world->history);
}

static void
put_status(actor_t *actor, cdedupe_status_t status)
{
    history_event_t *event = begin_event(actor, HISTORY_STATUS, 0);
    cdedupe_result_t result;

    do_now(actor, "sends a status");
    event->status = (uint8_t)status;
    result = cdedupe_put_status(actor->world->buffer, status);
    end_event(actor, event);
    CHECK(result == CDEDUPE_OK || result == CDEDUPE_STOPPED);
}

static void
restart(actor_t *actor)
{
    history_event_t *event = begin_event(actor, HISTORY_RESTART, 0);
    cdedupe_result_t result;

    do_now(actor, "restarts");
    result = cdedupe_restart(actor->world->buffer);
    end_event(actor, event);
    if (result == CDEDUPE_STOPPED) {
        event->kind = HISTORY_IGNORED;
        CHECK(atomic_load(&actor->world->ending_now));
    } else {
        CHECK_EQ(result, CDEDUPE_OK);
    }
}

static void
stop(actor_t *actor)
{
    history_event_t *event = begin_event(actor, HISTORY_STOP, 0);

    atomic_store(&actor->world->ending_now, true);
    do_now(actor, "stops");
    cdedupe_stop(actor->world->buffer);
    end_event(actor, event);
}

/* One call; `keys` and `deletions` say of what. */
static void
put(actor_t *actor, const uint32_t *keys, const bool *deletions, size_t count)
{
    world_t *world = actor->world;
    history_t *history = &world->history;
    size_t first = history->lanes[actor->lane].count;
    unsigned char texts[CALL_MAX][KEY_MAX];
    cdedupe_update_t updates[CALL_MAX];
    cdedupe_slot_t slots[CALL_MAX];
    uint64_t begin, end;

    do_now(actor, "acquires");
    CHECK_EQ(cdedupe_acquire(world->buffer, slots, count), CDEDUPE_OK);
    for (size_t i = 0; i < count; i++) {
        construct(world, slots[i], history_next_name(history, actor->lane));
        history_add(history, actor->lane, deletions[i] ? HISTORY_DELETION : HISTORY_VALUE, keys[i]);
        updates[i] =
            (cdedupe_update_t){.key = texts[i], .slot = slots[i], .deletion = deletions[i]};
        updates[i].key_length = make_key(keys[i], texts[i]);
    }
    do_now(actor, "puts");
    begin = history_stamp(history);
    CHECK_EQ(cdedupe_put(world->buffer, updates, count), CDEDUPE_OK);
    end = history_stamp(history);
    do_now(actor, "writes down");
    for (size_t i = 0; i < count; i++) {
        history_event_t *event = &history->lanes[actor->lane].events[first + i];

        event->begin = begin;
        event->end = end;
        event->outcome = updates[i].outcome;
        event->other = destroy(world, updates[i].displaced);
        event->back = destroy(world, updates[i].slot);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Producers                                                                                      */

static void
put_randomly(actor_t *actor)
{
    const world_t *world = actor->world;
    size_t count = (size_t)random_below(&actor->random, world->call_max) + 1;
    uint32_t keys[CALL_MAX];
    bool deletions[CALL_MAX];

    for (size_t i = 0; i < count; i++) {
        bool hot = world->hot != 0 && random_below(&actor->random, 2) == 0;

        keys[i] = (uint32_t)random_below(&actor->random, hot ? world->hot : world->keys);
        deletions[i] = random_below(&actor->random, 8) < world->deletions;
    }
    put(actor, keys, deletions, count);
}

/* Mostly with a marker before it. */
static void
send_status(actor_t *actor)
{
    history_t *history = &actor->world->history;

    if (!one_in(&actor->random, 4)) {
        uint32_t marker = history->keys + history->markers++;

        put(actor, &marker, &(bool){false}, 1);
    }
    put_status(actor, one_in(&actor->random, 3) ? CDEDUPE_STATUS_RESYNC_IN_PROGRESS
                                                : CDEDUPE_STATUS_IN_SYNC);
}

static void *
produce(void *argument)
{
    actor_t *actor = argument;
    world_t *world = actor->world;

    for (; actor->calls < world->calls; actor->calls++) {
        put_randomly(actor);
        if (actor->lane == 0 && one_in(&actor->random, world->statuses))
            send_status(actor);
        if (actor->lane == 0 && one_in(&actor->random, world->restarts))
            restart(actor);
        if (world->restarts != 0 && one_in(&actor->random, 30))
            collect(actor);
        if (world->ending == STOP_BY_PRODUCER && actor->lane == world->producers - 1 &&
            actor->calls == world->stop_after)
            stop(actor);
    }
    do_now(actor, "is done");
    atomic_fetch_sub(&world->working, 1);
    return NULL;
}

/* ---------------------------------------------------------------------------------------------- */
/* The sink                                                                                       */

static void
wake(void *context)
{
    world_t *world = context;

    sem_post(&world->wake);
}

static void
sleep_until_woken(actor_t *actor)
{
    do_now(actor, "sleeps");
    while (sem_wait(&actor->world->wake) != 0)
        continue;
}

static void
write_item(actor_t *actor, const cdedupe_item_t *item, uint64_t begin, uint64_t end)
{
    world_t *world = actor->world;
    bool is_status = item->kind == CDEDUPE_ITEM_STATUS;
    history_event_t *event = history_add(&world->history, actor->lane,
                                         is_status ? HISTORY_TAKEN_STATUS : HISTORY_TAKEN, 0);

    event->begin = begin;
    event->end = end;
    event->outcome = item->kind;
    event->status = item->status;
    if (!is_status) {
        event->key = number_of(item->key, item->key_length);
        event->other = destroy(world, item->slot);
    }
}

/* A finish or a stop may end a batch early. */
static cdedupe_result_t
take(actor_t *actor)
{
    world_t *world = actor->world;
    cdedupe_item_t items[BATCH_MAX];
    size_t capacity = (size_t)random_below(&actor->random, world->batch_size) + 1, count;
    uint64_t begin, end;
    cdedupe_result_t result;

    do_now(actor, "takes");
    begin = history_stamp(&world->history);
    result = cdedupe_take(world->buffer, items, capacity, &count);
    end = history_stamp(&world->history);
    for (size_t i = 0; i < count; i++)
        write_item(actor, &items[i], begin, end);
    if (result != CDEDUPE_STOPPED && count < capacity && !atomic_load(&world->ending_now)) {
        history_event_t *event = history_add(&world->history, actor->lane, HISTORY_EMPTIED, 0);

        event->begin = begin;
        event->end = end;
    }
    actor->calls++;
    return result;
}

/* Not by the time: others shall have got further. */
static void
stall(actor_t *actor)
{
    world_t *world = actor->world;
    uint64_t until = atomic_load(&world->history.stamp);

    if (world->stall == STALL_BRIEFLY && one_in(&actor->random, 4))
        until += random_below(&actor->random, 50);
    if (world->stall == STALL_LONG)
        until += random_below(&actor->random, world->calls * world->producers / 50 + 1);
    do_now(actor, "stalls");
    while (atomic_load(&world->history.stamp) < until && atomic_load(&world->working) > 0)
        sched_yield();
}

static void *
loop(void *argument)
{
    actor_t *actor = argument;
    world_t *world = actor->world;
    cdedupe_result_t result;

    while ((result = take(actor)) != CDEDUPE_STOPPED) {
        if (result == CDEDUPE_EMPTY) {
            sleep_until_woken(actor);
            continue;
        }
        CHECK_EQ(result, CDEDUPE_OK);
        if (one_in(&actor->random, world->restarts))
            restart(actor);
        if (world->restarts != 0 && one_in(&actor->random, 30))
            collect(actor);
        if (world->ending == STOP_BY_SINK && actor->calls >= world->stop_after)
            stop(actor);
        stall(actor);
    }
    do_now(actor, "is done");
    cdedupe_release(world->buffer);
    return NULL;
}

/* ---------------------------------------------------------------------------------------------- */
/* A round                                                                                        */

/* `updates`: about so many in all, but enough for each key to have one or two. */
static void
choose(world_t *world, uint64_t updates)
{
    static const uint32_t keys[] = {3, 10, 100, 1000, 10000, 100000};
    uint64_t random = random_seed(rounds);
    uint64_t share, most;

    random_below(&random, 2);
    world->producers = (unsigned)random_below(&random, PRODUCERS_MAX) + 1;
    world->keys = keys[rounds % 6 == 5 ? random_below(&random, 6) : rounds % 6];
    while (world->keys > updates)
        world->keys /= 10;
    world->hot = one_in(&random, 3) ? random_below(&random, 3) + 1 : 0;
    share = (updates / (1 + random_below(&random, 4)) + world->keys) / world->producers;
    /* With too many updates of a key under way there would be too many orders to try. */
    most = 40 * (world->hot != 0 ? 2 * world->hot : world->keys) / world->producers;
    most = most < CALL_MAX ? most : CALL_MAX;
    world->call_max = one_in(&random, 3) ? 1 : random_below(&random, most) + 1;
    world->calls = share * 2 / (world->call_max + 1) + 1;
    world->deletions = random_below(&random, 6);
    world->statuses = random_below(&random, 2) == 0 ? 5 : world->calls / 20 + 1;
    /* Every restart is looked at for every key. */
    world->restarts =
        random_below(&random, 5) < 2 ? 0 : world->calls / (1 + random_below(&random, 60)) + 1;
    if (world->restarts != 0 && world->keys <= 100 && one_in(&random, 3))
        world->restarts = 6;
    if (world->keys > 1000 && world->statuses < world->calls / 60)
        world->statuses = world->calls / 60;
    world->batch_size = one_in(&random, 3)
                            ? 100
                            : (size_t)random_below(&random, one_in(&random, 2) ? 8 : BATCH_MAX) + 1;
    world->stall = (stall_t)random_below(&random, STALLS);
    world->ending = (ending_t)random_below(&random, ENDINGS);
    world->stop_after = random_below(&random, world->ending == STOP_BY_SINK ? 2000 : world->calls);
}

static world_t *
world_open(uint64_t updates)
{
    world_t *world = calloc(1, sizeof(*world));
    cdedupe_options_t options = cdedupe_options();

    if (world == NULL)
        abort();
    choose(world, updates);
    options.payload_size = sizeof(payload_t);
    options.payload_alignment = _Alignof(payload_t);
    options.batch_size = world->batch_size;
    options.wake = wake;
    options.wake_context = world;
    if (cdedupe_create(&options, &world->buffer) != CDEDUPE_OK)
        abort();
    history_open(&world->history, world->producers + 2, world->producers, world->keys);
    sem_init(&world->wake, 0, 0);
    atomic_store(&world->working, world->producers);
    for (unsigned lane = 0; lane < world->producers + 2; lane++) {
        world->actors[lane] = (actor_t){
            .world = world, .lane = lane, .random = random_seed(rounds * 16 + lane + 1000)};
        do_now(&world->actors[lane], "has not begun");
    }
    return world;
}

static void
end_it(actor_t *actor)
{
    world_t *world = actor->world;

    atomic_store(&world->ending_now, true);
    do_now(actor, "ends it");
    if (world->ending == FINISH_DELIVERED)
        cdedupe_finish(world->buffer, CDEDUPE_FINISH_WHEN_DELIVERED);
    else if (world->ending == FINISH_EMPTY)
        cdedupe_finish(world->buffer, CDEDUPE_FINISH_WHEN_EMPTY);
    else
        stop(actor);
}

static void
start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    if (pthread_create(thread, NULL, function, argument) != 0)
        abort();
}

static void
run_threads(world_t *world)
{
    pthread_t threads[PRODUCERS_MAX + 1];

    atomic_store(&watched, world);
    CHECK_EQ(cdedupe_claim(world->buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    start(&threads[world->producers], loop, &world->actors[world->producers]);
    for (unsigned lane = 0; lane < world->producers; lane++)
        start(&threads[lane], produce, &world->actors[lane]);
    for (unsigned lane = 0; lane < world->producers; lane++)
        pthread_join(threads[lane], NULL);
    end_it(&world->actors[world->producers + 1]);
    pthread_join(threads[world->producers], NULL);
    atomic_store(&watched, NULL);
}

/* What the history does not know yet: what is left, and the counters. */
static void
complete_history(world_t *world)
{
    history_t *history = &world->history;
    uint64_t cursor = 0;
    cdedupe_slot_t slot;

    history->drained = world->ending == FINISH_DELIVERED || world->ending == FINISH_EMPTY;
    cdedupe_statistics(world->buffer, &history->statistics, sizeof(history->statistics));
    CHECK_NO_FAULT(cdedupe_validate(world->buffer));
    while ((slot = cdedupe_drain_next(world->buffer, &cursor)) != 0)
        history_add(history, world->producers + 1, HISTORY_RETURNED, 0)->other =
            ((payload_t *)cdedupe_payload(world->buffer, slot))->name;
}

typedef struct totals {
    uint64_t received;
    uint64_t delivered;
    uint64_t synthesized;
    uint64_t most_states;
    uint64_t undecided;
} totals_t;

static void
run_round(uint64_t updates, totals_t *totals)
{
    world_t *world = world_open(updates);
    history_verdict_t verdict;

    run_threads(world);
    complete_history(world);
    history_judge(&world->history, &verdict);
    if (!CHECK_NO_FAULT(verdict.fault)) {
        printf("  %s\n", verdict.detail);
        describe_world(world, stdout);
    }
    totals->received += world->history.statistics.received;
    totals->delivered += world->history.statistics.delivered;
    totals->synthesized += world->history.statistics.synthesized_deletions;
    totals->undecided += verdict.undecided;
    if (verdict.most_states > totals->most_states)
        totals->most_states = verdict.most_states;
    cdedupe_destroy(world->buffer);
    history_close(&world->history);
    sem_destroy(&world->wake);
    free(world);
}

static double
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
    double end = now() + (argc > 1 ? strtod(argv[1], NULL) : 10);
    uint64_t updates = argc > 3 ? strtoull(argv[3], NULL, 10) : 200000;
    totals_t totals = {0};
    pthread_t watchdog;

    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    check_describe = describe;
    check_test = "histories";
    sem_init(&watch_end, 0, 0);
    start(&watchdog, watch, NULL);
    for (; (rounds < ROUNDS_MIN || now() < end) && check_failed == 0; rounds++)
        run_round(updates, &totals);
    sem_post(&watch_end);
    pthread_join(watchdog, NULL);
    CHECK(totals.undecided <= rounds / 8);
    printf("%" PRIu64 " rounds: received %" PRIu64 ", delivered %" PRIu64 ", synthesized %" PRIu64
           "; at most %" PRIu64 " states at once, %" PRIu64 " keys undecided; seed %" PRIu64 "\n",
           rounds, totals.received, totals.delivered, totals.synthesized, totals.most_states,
           totals.undecided, seed);
    return check_finish();
}
