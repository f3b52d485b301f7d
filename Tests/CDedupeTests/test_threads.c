/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many producers, one sink, and every other call that a buffer allows, all at the same time.
 *
 *     test_threads [seconds] [seed]     default 10 seconds, seed from the clock
 *
 * Each update carries its producer, its key, and a number that counts up. So the sink can check,
 * for any interleaving of the threads, that
 *
 *     - for each key it sees a subsequence of what each producer wrote, in order,
 *     - the update types follow from what it saw before,
 *     - at the end it has the newest value of every key,
 *     - every payload comes back to exactly one owner (they are counted in and out).
 */
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "CDedupe.h"
#include "check.h"
#include "random.h"

enum {
    PRODUCERS_MAX = 4,
    WRITERS = PRODUCERS_MAX + 1,
    KEYS_MAX = 3000,
    CALL_MAX = 120,
    BATCH = 100
};

#define MAGIC UINT64_C(0x7468726561647321)

/* What a slot holds. */
typedef struct payload {
    uint64_t magic;
    uint64_t number; /* Counts up per writer. */
    uint32_t writer;
    uint32_t key;
    uint32_t deletion;
    uint32_t unused;
} payload_t;

struct world;

/*
 * Who writes, and what it wrote last under each key. Touched by its thread, and by main after
 * joining it.
 */
typedef struct writer {
    struct world *world;
    uint32_t id;
    uint64_t random;
    uint64_t written;
    uint64_t last_number[KEYS_MAX]; /* Zero: never wrote it. */
    bool last_was_deletion[KEYS_MAX];
    cdedupe_pin_t pins[KEYS_MAX]; /* Zero: this writer has not pinned the key. */
    cdedupe_status_t last_status;
} writer_t;

/* What the sink has seen. Touched by whoever holds the claim, and by main after the end. */
typedef struct seen {
    uint64_t random;
    uint64_t numbers[WRITERS][KEYS_MAX];
    uint32_t newest_writer[KEYS_MAX];
    bool live[KEYS_MAX];
    uint64_t live_count;
    uint64_t items;
    uint64_t batches;
    cdedupe_status_t last_status;
} seen_t;

typedef enum ender {
    BY_MAIN,
    BY_PRODUCER,
    BY_SINK,
    BY_HOOK,
    ENDERS,
} ender_t;

typedef enum ending {
    STOP,
    FINISH_DELIVERED,
    FINISH_EMPTY,
    ENDINGS,
} ending_t;

/* One buffer and all that goes on around it. */
typedef struct world {
    cdedupe_t *buffer;
    cdedupe_bytes_t *bytes; /* In place of it, in one scene. */
    unsigned producers;
    uint32_t keys;
    bool slow;      /* The sink sleeps now and then. */
    bool restarts;  /* Somebody restarts now and then. */
    bool meddling;  /* The sink calls the buffer back. */
    double seconds; /* Producers stop after this time, or ... */
    unsigned calls; /* ... if not zero, after so many calls. */

    ender_t ender;
    ending_t ending;
    unsigned end_after; /* Events of the ender's kind. */
    atomic_uint events;

    atomic_bool running;       /* Producers may still write. */
    pthread_mutex_t meddle;    /* Held by the sink while it meddles, and by main to end that. */
    sem_t wake;                /* Posted by the hook. */
    sem_t claimed;             /* Posted once the loop has the claim, or was refused. */
    atomic_uint_fast64_t made; /* Payloads. */
    atomic_uint_fast64_t destroyed;
    atomic_uint_fast64_t wakes;
    uint64_t sleeps;     /* By the loop. */
    atomic_int inside;   /* Sinks at work: never two. */
    atomic_bool blocked; /* The sink is in a long delivery. */

    writer_t writers[WRITERS]; /* The last one is the sink's, or main's. */
    seen_t seen;
} world_t;

static char key_texts[KEYS_MAX][64];
static uint64_t seed;
static const char *scene = "";
static unsigned long rounds;

/* ---------------------------------------------------------------------------------------------- */
/* Small things                                                                                   */

static void
describe(FILE *out)
{
    fprintf(out, "  %s, round %lu, seed %" PRIu64 "\n", scene, rounds, seed);
}

static double
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint64_t
random_seed(uint64_t number)
{
    return (seed + number) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

static void
sleep_microseconds(uint64_t microseconds)
{
    struct timespec time = {.tv_sec = (time_t)(microseconds / 1000000),
                            .tv_nsec = (long)(microseconds % 1000000) * 1000};

    nanosleep(&time, NULL);
}

/*
 * A hang is a failure, too: says where, and ends the program. Only calls that a signal handler may
 * make.
 */
static void
on_alarm(int signal_number)
{
    static const char text[] = "test_threads hangs in: ";

    (void)signal_number;
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0 ||
        write(STDERR_FILENO, scene, strlen(scene)) < 0 || write(STDERR_FILENO, "\n", 1) < 0) {
        _exit(4);
    }
    abort();
}

static unsigned patience = 60;

static void
feed_watchdog(void)
{
    alarm(patience);
}

static void
start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    if (pthread_create(thread, NULL, function, argument) != 0) {
        fprintf(stderr, "no thread\n");
        abort();
    }
}

static void
join(pthread_t thread)
{
    pthread_join(thread, NULL);
}

/* ---------------------------------------------------------------------------------------------- */
/* Payloads                                                                                       */

static void
construct(world_t *world, cdedupe_slot_t slot, const payload_t *value)
{
    *(payload_t *)cdedupe_payload(world->buffer, slot) = *value;
    atomic_fetch_add_explicit(&world->made, 1, memory_order_relaxed);
}

static payload_t
destroy(world_t *world, cdedupe_slot_t slot)
{
    payload_t *payload = cdedupe_payload(world->buffer, slot);
    payload_t value = *payload;

    if (value.magic != MAGIC) { /* Not constructed, or destroyed before. */
        CHECK_EQ(value.magic, MAGIC);
    }
    payload->magic = 0;
    atomic_fetch_add_explicit(&world->destroyed, 1, memory_order_relaxed);
    return value;
}

static void
give_back(world_t *world, cdedupe_slot_t slot)
{
    if (slot != 0) {
        destroy(world, slot);
        cdedupe_discard(world->buffer, &slot, 1);
    }
}

static void
collect(world_t *world)
{
    cdedupe_slot_t slots[16];
    size_t count = 0;
    size_t index;

    if (cdedupe_collect(world->buffer, slots, 16, &count) == CDEDUPE_OK) {
        for (index = 0; index < count; index++) {
            destroy(world, slots[index]);
        }
        cdedupe_discard(world->buffer, slots, count);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Ending                                                                                         */

static void
end_it(world_t *world)
{
    switch (world->ending) {
    case STOP:
        cdedupe_stop(world->buffer);
        break;
    case FINISH_DELIVERED:
        cdedupe_finish(world->buffer, CDEDUPE_FINISH_WHEN_DELIVERED);
        break;
    default:
        cdedupe_finish(world->buffer, CDEDUPE_FINISH_WHEN_EMPTY);
        break;
    }
}

/*
 * Called by every kind of thread at what it does; the one whose turn it is to end the buffer does
 * so.
 */
static void
event(world_t *world, ender_t who)
{
    if (world->end_after != 0 && world->ender == who &&
        atomic_fetch_add(&world->events, 1) + 1 == world->end_after) {
        end_it(world);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Writing                                                                                        */

/* Pins a random key, or unpins it if this writer has pinned it. */
static void
change_pins(writer_t *writer)
{
    uint32_t key = (uint32_t)random_below(&writer->random, writer->world->keys);
    cdedupe_t *buffer = writer->world->buffer;

    if (writer->pins[key] == 0) {
        CHECK_EQ(cdedupe_pin(buffer, key_texts[key], strlen(key_texts[key]), &writer->pins[key]),
                 CDEDUPE_OK);
    } else {
        CHECK_EQ(cdedupe_unpin(buffer, writer->pins[key]), CDEDUPE_OK);
        writer->pins[key] = 0;
    }
}

static void
fill(writer_t *writer, cdedupe_update_t *update, cdedupe_slot_t slot, uint32_t key, bool deletion)
{
    payload_t value = {.magic = MAGIC, .writer = writer->id, .key = key, .deletion = deletion};

    value.number = ++writer->written;
    writer->last_number[key] = value.number;
    writer->last_was_deletion[key] = deletion;
    construct(writer->world, slot, &value);
    memset(update, 0, sizeof(*update));
    update->key = key_texts[key];
    update->key_length = strlen(key_texts[key]);
    if (writer->pins[key] != 0 && random_below(&writer->random, 4) != 0) {
        update->pin = writer->pins[key];
        update->key = NULL;
    }
    update->slot = slot;
    update->deletion = deletion;
}

static void
put_filled(writer_t *writer, cdedupe_update_t *updates, size_t count)
{
    size_t index;

    CHECK_EQ(cdedupe_put(writer->world->buffer, updates, count), CDEDUPE_OK);
    for (index = 0; index < count; index++) {
        if (updates[index].outcome < CDEDUPE_OUTCOME_QUEUED ||
            updates[index].outcome > CDEDUPE_OUTCOME_DROPPED) {
            CHECK_EQ(updates[index].outcome, CDEDUPE_OUTCOME_QUEUED);
        }
        give_back(writer->world, updates[index].slot);
        give_back(writer->world, updates[index].displaced);
    }
}

/* One call of cdedupe_put() with up to `most` updates of random keys. */
static void
write_randomly(writer_t *writer, size_t most)
{
    cdedupe_update_t updates[CALL_MAX];
    cdedupe_slot_t slots[CALL_MAX];
    size_t count = (size_t)random_below(&writer->random, most) + 1;
    size_t index;

    change_pins(writer);
    CHECK_EQ(cdedupe_acquire(writer->world->buffer, slots, count), CDEDUPE_OK);
    for (index = 0; index < count; index++) {
        uint32_t key = (uint32_t)random_below(&writer->random, writer->world->keys);

        fill(writer, &updates[index], slots[index], key, random_below(&writer->random, 4) == 0);
    }
    put_filled(writer, updates, count);
}

static void
write_status(writer_t *writer, cdedupe_status_t status)
{
    cdedupe_result_t result = cdedupe_put_status(writer->world->buffer, status);

    CHECK(result == CDEDUPE_OK || result == CDEDUPE_STOPPED);
    writer->last_status = status;
}

static void *
produce(void *argument)
{
    writer_t *writer = argument;
    world_t *world = writer->world;
    double end = now() + world->seconds;
    unsigned calls = 0;

    while (world->calls != 0 ? calls < world->calls : now() < end) {
        write_randomly(writer, calls % 8 == 0 ? CALL_MAX : 8);
        calls++;
        event(world, BY_PRODUCER);
        if (writer->id == 0 && random_below(&writer->random, 6) == 0) {
            write_status(writer, (cdedupe_status_t)random_below(&writer->random, 3));
        }
        if (world->restarts && random_below(&writer->random, 20) == 0) {
            collect(world);
        }
    }
    return NULL;
}

/* Restarts and ends resyncs until the producers are done. */
static void *
restart_now_and_then(void *argument)
{
    world_t *world = argument;
    uint64_t random = random_seed(77);

    while (atomic_load(&world->running)) {
        cdedupe_result_t result = cdedupe_restart(world->buffer);

        CHECK(result == CDEDUPE_OK || result == CDEDUPE_STOPPED);
        sleep_microseconds(random_below(&random, 3000));
        if (random_below(&random, 3) != 0) {
            result = cdedupe_put_status(world->buffer, CDEDUPE_STATUS_IN_SYNC);
            CHECK(result == CDEDUPE_OK || result == CDEDUPE_STOPPED);
        }
        collect(world);
        sleep_microseconds(random_below(&random, 3000));
    }
    return NULL;
}

static void
check_statistics(world_t *world)
{
    cdedupe_statistics_t s;

    cdedupe_statistics(world->buffer, &s, sizeof(s));
    CHECK_EQ(s.received + s.synthesized_deletions,
             s.delivered + s.replaced + s.cancelled + s.suppressed + s.dropped + s.pending_keys);
    CHECK(s.pending_statuses <= s.pending_keys + 1);
    CHECK(s.pending_keys <= s.peak_pending_keys);
    CHECK(s.peak_pending_keys <= world->keys);
    CHECK(s.live_keys <= world->keys);
}

/* "Each snapshot is exact", whatever the others are doing. */
static void *
watch(void *argument)
{
    world_t *world = argument;
    unsigned count = 0;

    while (atomic_load(&world->running)) {
        check_statistics(world);
        if (++count % 16 == 0) {
            CHECK_NO_FAULT(cdedupe_validate(world->buffer));
        }
        cdedupe_has_dropped(world->buffer);
        sleep_microseconds(300);
    }
    return NULL;
}

/* ---------------------------------------------------------------------------------------------- */
/* The sink                                                                                       */

static void
on_wake(void *context)
{
    world_t *world = context;

    atomic_fetch_add(&world->wakes, 1);
    event(world, BY_HOOK);
    sem_post(&world->wake);
}

static uint32_t
number_of(const cdedupe_item_t *item)
{
    char text[64] = {0};
    uint32_t key;

    memcpy(text, item->key, item->key_length < sizeof(text) ? item->key_length : sizeof(text) - 1);
    key = (uint32_t)strtoul(text, NULL, 10);
    if (key >= KEYS_MAX || strlen(key_texts[key]) != item->key_length ||
        strcmp(key_texts[key], text) != 0) {
        CHECK_TEXT(text, "a key of this test");
        abort();
    }
    return key;
}

/*
 * What the payload says must fit the item; and of each writer, what comes is newer than what came.
 */
static void
see_payload(world_t *world, const cdedupe_item_t *item, uint32_t key)
{
    payload_t value = destroy(world, item->slot);

    cdedupe_discard(world->buffer, &item->slot, 1);
    if (value.writer >= WRITERS || value.key != key ||
        value.deletion != (item->kind == CDEDUPE_ITEM_DELETED)) {
        CHECK(value.writer < WRITERS);
        CHECK_EQ(value.key, key);
        CHECK_EQ(value.deletion, item->kind == CDEDUPE_ITEM_DELETED);
        return;
    }
    CHECK(value.number > world->seen.numbers[value.writer][key]);
    world->seen.numbers[value.writer][key] = value.number;
    world->seen.newest_writer[key] = value.writer;
}

static void
see_update(world_t *world, const cdedupe_item_t *item)
{
    seen_t *seen = &world->seen;
    uint32_t key = number_of(item);
    bool live = item->kind != CDEDUPE_ITEM_DELETED;

    if (live) {
        CHECK_EQ(item->kind, seen->live[key] ? CDEDUPE_ITEM_UPDATED : CDEDUPE_ITEM_NEW);
        CHECK(item->slot != 0);
    } else if (item->slot == 0) {
        CHECK(world->restarts); /* Only synthesized deletions carry nothing here, */
        CHECK(seen->live[key]); /* and they are of live keys. */
    }
    seen->live_count += (uint64_t)live - (uint64_t)seen->live[key];
    seen->live[key] = live;
    if (item->slot != 0) {
        see_payload(world, item, key);
    }
}

/* The core takes so many in one hold. */
enum { TAKEN_AT_ONCE = 32 };

static void
see_batch(world_t *world, const cdedupe_item_t *items, size_t count)
{
    size_t index;

    CHECK_EQ(atomic_fetch_add(&world->inside, 1), 0); /* Serially. */
    CHECK(count > 0 && count <= BATCH);
    for (index = 0; index < count; index++) {
        if (items[index].kind != CDEDUPE_ITEM_STATUS) {
            see_update(world, &items[index]);
            continue;
        }
        /*
         * Statuses are never neighbours in the queue (D3), and so not within what one hold of the
         * lock takes. But a batch is taken in several: between two of them the only update after a
         * status may be cancelled.
         */
        CHECK(index == 0 || index % TAKEN_AT_ONCE == 0 ||
              items[index - 1].kind != CDEDUPE_ITEM_STATUS);
        world->seen.last_status = (cdedupe_status_t)items[index].status;
    }
    world->seen.items += count;
    world->seen.batches++;
    if (world->slow && random_below(&world->seen.random, 4) == 0) {
        sleep_microseconds(random_below(&world->seen.random, 2000));
    }
    CHECK_EQ(atomic_fetch_sub(&world->inside, 1), 1);
}

/* From inside the sink, the buffer may be called as from anywhere. */
static void
meddle(world_t *world)
{
    writer_t *writer = &world->writers[PRODUCERS_MAX];

    pthread_mutex_lock(&world->meddle);
    if (atomic_load(&world->running)) {
        write_randomly(writer, 8);
        check_statistics(world);
        collect(world);
        CHECK_EQ(cdedupe_claim(world->buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_BUSY);
        if (world->restarts && random_below(&world->seen.random, 3) == 0) {
            CHECK_EQ(cdedupe_restart(world->buffer), CDEDUPE_OK);
        }
    }
    pthread_mutex_unlock(&world->meddle);
}

static void
wait_until(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0) {
    }
}

static void
sleep_until_woken(world_t *world)
{
    world->sleeps++;
    wait_until(&world->wake);
    CHECK(sem_trywait(&world->wake) != 0); /* Once per sleep. */
}

/* The loop of a sink, as a user would write it. */
static void *
loop(void *argument)
{
    world_t *world = argument;
    cdedupe_item_t items[BATCH];
    cdedupe_result_t result = cdedupe_claim(world->buffer, CDEDUPE_CLAIM_LOOP);
    size_t count;

    sem_post(&world->claimed);
    if (result != CDEDUPE_OK) {
        CHECK_EQ(result, CDEDUPE_STOPPED);
        return NULL;
    }
    while ((result = cdedupe_take(world->buffer, items, BATCH, &count)) != CDEDUPE_STOPPED) {
        if (result == CDEDUPE_EMPTY) {
            sleep_until_woken(world);
            continue;
        }
        CHECK_EQ(result, CDEDUPE_OK);
        see_batch(world, items, count);
        event(world, BY_SINK);
        if (world->meddling && world->seen.batches % 50 == 0) {
            meddle(world);
        }
    }
    cdedupe_release(world->buffer);
    return NULL;
}

/* ---------------------------------------------------------------------------------------------- */
/* A world                                                                                        */

static world_t *
world_open(unsigned producers, uint32_t keys)
{
    world_t *world = calloc(1, sizeof(*world));
    cdedupe_options_t options = cdedupe_options();
    uint32_t id;

    options.payload_size = sizeof(payload_t);
    options.payload_alignment = _Alignof(payload_t);
    options.batch_size = BATCH;
    options.wake = on_wake;
    options.wake_context = world;
    if (world == NULL || cdedupe_create(&options, &world->buffer) != CDEDUPE_OK) {
        abort();
    }
    world->producers = producers;
    world->keys = keys;
    atomic_store(&world->running, true);
    pthread_mutex_init(&world->meddle, NULL);
    sem_init(&world->wake, 0, 0);
    sem_init(&world->claimed, 0, 0);
    world->seen.random = random_seed(rounds * 8 + 7);
    for (id = 0; id < WRITERS; id++) {
        world->writers[id].world = world;
        world->writers[id].id = id;
        world->writers[id].random = random_seed(rounds * 8 + id);
    }
    return world;
}

static void
world_close(world_t *world)
{
    uint64_t cursor = 0;
    cdedupe_slot_t slot;

    check_statistics(world);
    CHECK_NO_FAULT(cdedupe_validate(world->buffer));
    while ((slot = cdedupe_drain_next(world->buffer, &cursor)) != 0) {
        destroy(world, slot);
    }
    CHECK_EQ(atomic_load(&world->made), atomic_load(&world->destroyed));
    cdedupe_destroy(world->buffer);
    pthread_mutex_destroy(&world->meddle);
    sem_destroy(&world->wake);
    sem_destroy(&world->claimed);
    free(world);
}

static uint64_t
written_by_all(const world_t *world)
{
    uint64_t sum = 0;
    size_t id;

    for (id = 0; id < WRITERS; id++) {
        sum += world->writers[id].written;
    }
    return sum;
}

static void
check_counters(world_t *world)
{
    cdedupe_statistics_t s;

    check_statistics(world);
    cdedupe_statistics(world->buffer, &s, sizeof(s));
    CHECK_EQ(s.received, written_by_all(world));
    CHECK_EQ(s.delivered + s.statuses_delivered, world->seen.items);
    CHECK_EQ(s.live_keys, world->seen.live_count);
    CHECK_EQ(s.batches, world->seen.batches);
    CHECK(atomic_load(&world->wakes) <= world->sleeps);
}

/* What the sink has of a key is what one of its writers wrote last; which one, they cannot know. */
static void
check_newest(const world_t *world, uint32_t key)
{
    const seen_t *seen = &world->seen;
    bool written = false;
    bool deleted = false;
    size_t id;

    if (seen->live[key]) {
        const writer_t *writer = &world->writers[seen->newest_writer[key]];

        CHECK_EQ(seen->numbers[writer->id][key], writer->last_number[key]);
        CHECK(!writer->last_was_deletion[key]);
        return;
    }
    for (id = 0; id < WRITERS; id++) {
        written = written || world->writers[id].last_number[key] != 0;
        deleted = deleted || world->writers[id].last_was_deletion[key];
    }
    CHECK(!written || deleted);
}

/* Runs all producers to their end, with a watcher, and a restarter if wished. */
static void
run_producers(world_t *world)
{
    pthread_t threads[PRODUCERS_MAX];
    pthread_t watcher;
    pthread_t restarter;
    unsigned id;

    start(&watcher, watch, world);
    if (world->restarts) {
        start(&restarter, restart_now_and_then, world);
    }
    for (id = 0; id < world->producers; id++) {
        start(&threads[id], produce, &world->writers[id]);
    }
    for (id = 0; id < world->producers; id++) {
        join(threads[id]);
    }
    pthread_mutex_lock(&world->meddle);
    atomic_store(&world->running, false);
    pthread_mutex_unlock(&world->meddle);
    join(watcher);
    if (world->restarts) {
        join(restarter);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Scenes                                                                                         */

/* Without restarts nothing may be lost: the sink ends up with the newest of every key. */
static void
run_steady(unsigned producers, uint32_t keys, bool slow, double seconds)
{
    world_t *world = world_open(producers, keys);
    pthread_t sink;
    uint32_t key;

    world->slow = slow;
    world->meddling = rounds % 2 == 0;
    world->seconds = seconds;
    start(&sink, loop, world);
    wait_until(&world->claimed);
    run_producers(world);
    /* What the sink itself wrote from inside its last batches may come after a mark. */
    CHECK_EQ(cdedupe_finish(world->buffer, world->meddling ? CDEDUPE_FINISH_WHEN_EMPTY
                                                           : CDEDUPE_FINISH_WHEN_DELIVERED),
             CDEDUPE_OK);
    join(sink);
    check_counters(world);
    for (key = 0; key < keys; key++) {
        check_newest(world, key);
    }
    CHECK_EQ(world->seen.last_status, world->writers[0].last_status);
    world_close(world);
}

/* Sends every third key under main's name. */
static void
send_snapshot(world_t *world)
{
    writer_t *writer = &world->writers[PRODUCERS_MAX];
    cdedupe_update_t update;
    cdedupe_slot_t slot;
    uint32_t key;

    memset(writer->last_number, 0, sizeof(writer->last_number));
    for (key = 0; key < world->keys; key += 3) {
        CHECK_EQ(cdedupe_acquire(world->buffer, &slot, 1), CDEDUPE_OK);
        fill(writer, &update, slot, key, false);
        put_filled(writer, &update, 1);
    }
}

/*
 * With restarts much is dropped; but a complete resync makes the sink exact, whatever went before.
 */
static void
run_restarts(unsigned producers, uint32_t keys, bool slow, double seconds)
{
    world_t *world = world_open(producers, keys);
    pthread_t sink;
    uint32_t key;

    world->slow = slow;
    world->restarts = true;
    world->meddling = rounds % 2 == 0;
    world->seconds = seconds;
    start(&sink, loop, world);
    wait_until(&world->claimed);
    run_producers(world);
    CHECK_EQ(cdedupe_restart(world->buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_put_status(world->buffer, CDEDUPE_STATUS_RESYNC_IN_PROGRESS), CDEDUPE_OK);
    send_snapshot(world);
    CHECK_EQ(cdedupe_put_status(world->buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_EQ(cdedupe_finish(world->buffer, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    join(sink);
    check_counters(world);
    for (key = 0; key < keys; key++) {
        const writer_t *writer = &world->writers[PRODUCERS_MAX];

        CHECK_EQ(world->seen.live[key], key % 3 == 0);
        CHECK_EQ(world->seen.numbers[writer->id][key] * (key % 3 == 0), writer->last_number[key]);
    }
    CHECK_EQ(world->seen.last_status, CDEDUPE_STATUS_IN_SYNC);
    world_close(world);
}

/*
 * Stop or finish, by anybody, at any time, with producers at work and a loop that sleeps, works or
 * comes late.
 */
static void
run_ending(uint64_t *random)
{
    world_t *world = world_open((unsigned)random_below(random, 3) + 1, 16);
    pthread_t threads[PRODUCERS_MAX];
    pthread_t sink;
    unsigned id;
    bool late = random_below(random, 4) == 0;

    world->calls = (unsigned)random_below(random, 20) + 1;
    world->ender = (ender_t)random_below(random, ENDERS);
    world->ending = (ending_t)random_below(random, ENDINGS);
    world->end_after = (unsigned)random_below(random, 6) + 1;
    if (!late) {
        start(&sink, loop, world);
    }
    for (id = 0; id < world->producers; id++) {
        start(&threads[id], produce, &world->writers[id]);
    }
    if (world->ender == BY_MAIN) {
        sleep_microseconds(random_below(random, 200));
        end_it(world);
        cdedupe_stop(world->buffer);
    }
    if (late) {
        start(&sink, loop, world);
    }
    for (id = 0; id < world->producers; id++) {
        join(threads[id]);
    }
    end_it(world); /* Again; or for the first time, if the ender never got to it. */
    end_it(world);
    if (random_below(random, 2) == 0) {
        cdedupe_stop(world->buffer);
    }
    join(sink);
    CHECK_EQ(cdedupe_claim(world->buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_STOPPED);
    CHECK_EQ(cdedupe_finish(world->buffer, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_STOPPED);
    write_randomly(&world->writers[0], 4); /* Dropped. */
    check_counters(world);
    world_close(world);
}

static void
run_endings(double end)
{
    uint64_t random = random_seed(5);

    for (; now() < end; rounds++) {
        feed_watchdog();
        run_ending(&random);
    }
}

/*
 * A loop, released and claimed again by threads that compete for it; what they share is guarded by
 * the claim.
 */
static void *
compete(void *argument)
{
    world_t *world = argument;
    cdedupe_item_t items[BATCH];
    size_t count;
    cdedupe_result_t result;

    while ((result = cdedupe_claim(world->buffer, CDEDUPE_CLAIM_SINGLE_BATCH)) != CDEDUPE_STOPPED) {
        if (result == CDEDUPE_BUSY) {
            sleep_microseconds(50);
            continue;
        }
        CHECK_EQ(result, CDEDUPE_OK);
        result = cdedupe_take(world->buffer, items, BATCH, &count);
        if (result == CDEDUPE_OK) {
            see_batch(world, items, count);
        }
        cdedupe_release(world->buffer);
    }
    return NULL;
}

static void
run_competition(double seconds)
{
    world_t *world = world_open(2, 50);
    pthread_t sinks[3];
    cdedupe_result_t result;
    size_t index;

    world->seconds = seconds;
    for (index = 0; index < 3; index++) {
        start(&sinks[index], compete, world);
    }
    run_producers(world);
    result = cdedupe_finish(world->buffer, CDEDUPE_FINISH_WHEN_EMPTY);
    CHECK(result == CDEDUPE_STOPPED || result == CDEDUPE_OK); /* No loop: it stops at once. */
    for (index = 0; index < 3; index++) {
        join(sinks[index]);
    }
    check_counters(world);
    CHECK_EQ(atomic_load(&world->wakes), 0); /* Never woken by hand. */
    world_close(world);
}

/* A sink that takes its time over a batch. */
static void *
block_once(void *argument)
{
    world_t *world = argument;
    cdedupe_item_t items[BATCH];
    size_t count = 0;

    CHECK_EQ(cdedupe_claim(world->buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    CHECK_EQ(cdedupe_take(world->buffer, items, BATCH, &count), CDEDUPE_OK);
    see_batch(world, items, count);
    atomic_store(&world->blocked, true);
    sem_post(&world->claimed);
    wait_until(&world->wake); /* Posted by main, in place of "done with the batch". */
    atomic_store(&world->blocked, false);
    CHECK_EQ(cdedupe_take(world->buffer, items, BATCH, &count), CDEDUPE_STOPPED);
    cdedupe_release(world->buffer);
    return NULL;
}

/*
 * While the sink is busy with a batch, nobody waits for it: all this returns before the sink goes
 * on.
 */
static void
run_blocked_sink(void)
{
    world_t *world = world_open(1, 500);
    pthread_t sink;
    unsigned count;

    write_randomly(&world->writers[0], 50);
    start(&sink, block_once, world);
    wait_until(&world->claimed);
    for (count = 0; count < 2000; count++) {
        write_randomly(&world->writers[0], 20);
    }
    write_status(&world->writers[0], CDEDUPE_STATUS_IN_SYNC);
    CHECK_EQ(cdedupe_restart(world->buffer), CDEDUPE_OK);
    world->restarts = true;
    write_status(&world->writers[0], CDEDUPE_STATUS_IN_SYNC);
    write_randomly(&world->writers[0], 20);
    collect(world);
    check_statistics(world);
    CHECK_EQ(cdedupe_finish(world->buffer, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    cdedupe_stop(world->buffer);
    CHECK(atomic_load(&world->blocked));
    sem_post(&world->wake);
    join(sink);
    world_close(world);
}

/* ---------------------------------------------------------------------------------------------- */
/* The bytes level                                                                                */

/* A value: this, and then as many bytes of filling as `number` says. */
typedef struct value {
    uint64_t number;
    uint32_t writer;
    uint32_t key;
} value_t;

static size_t
value_length(uint64_t number)
{
    return sizeof(value_t) + number * 37 % 300;
}

static void
write_value(writer_t *writer, uint32_t key)
{
    unsigned char bytes[sizeof(value_t) + 300];
    value_t value = {++writer->written, writer->id, key};
    size_t length = value_length(value.number);

    memset(bytes, (int)(value.number & 0xff), sizeof(bytes));
    memcpy(bytes, &value, sizeof(value));
    writer->last_number[key] = value.number;
    writer->last_was_deletion[key] = false;
    CHECK_EQ(cdedupe_bytes_put(writer->world->bytes, key_texts[key], strlen(key_texts[key]), bytes,
                               length, value.number, NULL),
             CDEDUPE_OK);
}

static void
write_deletion(writer_t *writer, uint32_t key)
{
    writer->last_number[key] = ++writer->written;
    writer->last_was_deletion[key] = true;
    CHECK_EQ(cdedupe_bytes_delete(writer->world->bytes, key_texts[key], strlen(key_texts[key]),
                                  writer->written, NULL),
             CDEDUPE_OK);
}

static void *
produce_bytes(void *argument)
{
    writer_t *writer = argument;
    world_t *world = writer->world;
    double end = now() + world->seconds;
    unsigned count;

    while (now() < end) {
        for (count = 0; count < 50; count++) {
            uint32_t key = (uint32_t)random_below(&writer->random, world->keys);

            if (random_below(&writer->random, 4) == 0) {
                write_deletion(writer, key);
            } else {
                write_value(writer, key);
            }
        }
        if (world->restarts && writer->id == 0) {
            cdedupe_bytes_restart(world->bytes);
            cdedupe_bytes_put_status(world->bytes, CDEDUPE_STATUS_IN_SYNC);
        }
    }
    return NULL;
}

static void
see_value(world_t *world, const cdedupe_bytes_item_t *item, uint32_t key)
{
    const unsigned char *bytes = item->value;
    value_t value;
    size_t index;

    if (!CHECK(item->value_length >= sizeof(value))) {
        return;
    }
    memcpy(&value, bytes, sizeof(value));
    CHECK_EQ(item->value_length, value_length(value.number));
    CHECK_EQ(item->revision, value.number);
    CHECK_EQ(value.key, key);
    for (index = sizeof(value); index < item->value_length && bytes[index] == (value.number & 0xff);
         index++) {
    }
    CHECK_EQ(index, item->value_length);
    if (CHECK(value.writer < WRITERS)) {
        CHECK(value.number > world->seen.numbers[value.writer][key]);
        world->seen.numbers[value.writer][key] = value.number;
        world->seen.newest_writer[key] = value.writer;
    }
}

static void
see_bytes(world_t *world, const cdedupe_bytes_item_t *from)
{
    const cdedupe_item_t item = {
        .key = from->key, .key_length = from->key_length, .kind = from->kind};
    uint32_t key;

    world->seen.items++;
    if (from->kind == CDEDUPE_ITEM_STATUS) {
        return;
    }
    key = number_of(&item);
    if (from->kind != CDEDUPE_ITEM_DELETED) {
        CHECK_EQ(from->kind, world->seen.live[key] ? CDEDUPE_ITEM_UPDATED : CDEDUPE_ITEM_NEW);
        see_value(world, from, key);
    }
    world->seen.live[key] = from->kind != CDEDUPE_ITEM_DELETED;
}

static void *
loop_bytes(void *argument)
{
    world_t *world = argument;
    cdedupe_bytes_item_t items[BATCH];
    cdedupe_result_t result;
    size_t count;
    size_t index;

    CHECK_EQ(cdedupe_bytes_claim(world->bytes, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    sem_post(&world->claimed);
    while ((result = cdedupe_bytes_take(world->bytes, items, BATCH, &count)) != CDEDUPE_STOPPED) {
        if (result == CDEDUPE_EMPTY) {
            sleep_until_woken(world);
            continue;
        }
        CHECK_EQ(result, CDEDUPE_OK);
        for (index = 0; index < count; index++) {
            see_bytes(world, &items[index]);
        }
    }
    cdedupe_bytes_release(world->bytes);
    return NULL;
}

static void
close_bytes(world_t *world)
{
    cdedupe_statistics_t s;

    cdedupe_bytes_statistics(world->bytes, &s, sizeof(s));
    CHECK_EQ(s.received, written_by_all(world));
    CHECK_EQ(s.received + s.synthesized_deletions,
             s.delivered + s.replaced + s.cancelled + s.suppressed + s.dropped + s.pending_keys);
    CHECK_EQ(s.delivered + s.statuses_delivered, world->seen.items);
    CHECK_NO_FAULT(cdedupe_bytes_validate(world->bytes));
    cdedupe_bytes_destroy(world->bytes);
    world->bytes = NULL;
    world_close(world);
}

static void
run_bytes(unsigned producers, uint32_t keys, bool restarts, double seconds)
{
    world_t *world = world_open(producers, keys);
    cdedupe_options_t options = cdedupe_options();
    pthread_t threads[PRODUCERS_MAX];
    pthread_t sink;
    unsigned id;
    uint32_t key;

    options.wake = on_wake;
    options.wake_context = world;
    CHECK_EQ(cdedupe_bytes_create(&options, &world->bytes), CDEDUPE_OK);
    world->restarts = restarts;
    world->seconds = seconds;
    start(&sink, loop_bytes, world);
    wait_until(&world->claimed);
    for (id = 0; id < producers; id++) {
        start(&threads[id], produce_bytes, &world->writers[id]);
    }
    for (id = 0; id < producers; id++) {
        join(threads[id]);
    }
    CHECK_EQ(cdedupe_bytes_finish(world->bytes, CDEDUPE_FINISH_WHEN_DELIVERED), CDEDUPE_OK);
    join(sink);
    for (key = 0; key < keys && !restarts; key++) {
        check_newest(world, key);
    }
    close_bytes(world);
}

/* ---------------------------------------------------------------------------------------------- */
/* A long sweep                                                                                   */

enum { SWEEP_KEYS = 200000 };

/* Puts values; returns the seconds that the longest call took. */
static double
put_sweep_keys(cdedupe_t *buffer, uint32_t from, uint32_t to)
{
    double longest = 0;

    for (; from < to; from++) {
        char text[16];
        cdedupe_update_t update = {text, 0, 0, 0, false, 0};
        double before = now();

        update.key_length = (size_t)snprintf(text, sizeof(text), "%u", from);
        CHECK_EQ(cdedupe_acquire(buffer, &update.slot, 1), CDEDUPE_OK);
        CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
        cdedupe_discard(buffer, &update.slot, 1);
        cdedupe_discard(buffer, &update.displaced, 1);
        longest = now() - before > longest ? now() - before : longest;
    }
    return longest;
}

static void
take_everything(cdedupe_t *buffer)
{
    cdedupe_item_t items[BATCH];
    size_t count;

    while (cdedupe_take(buffer, items, BATCH, &count) == CDEDUPE_OK) {
    }
}

typedef struct sweep {
    cdedupe_t *buffer;
    atomic_bool running;
    double seconds;
} sweep_t;

static void *
sweep(void *argument)
{
    sweep_t *it = argument;
    double before = now();

    CHECK_EQ(cdedupe_put_status(it->buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    it->seconds = now() - before;
    atomic_store(&it->running, false);
    return NULL;
}

/*
 * In-sync with very many deletions lets producers in (D6): they get many updates through before it
 * is done. How long they wait is for the benchmarks to say; on a busy machine a test cannot.
 */
static void
run_long_sweep(void)
{
    sweep_t it = {.running = true};
    pthread_t thread;
    uint32_t next = SWEEP_KEYS;
    double longest = 0;

    CHECK_EQ(cdedupe_create(NULL, &it.buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(it.buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    put_sweep_keys(it.buffer, 0, SWEEP_KEYS);
    take_everything(it.buffer);
    CHECK_EQ(cdedupe_restart(it.buffer), CDEDUPE_OK);
    start(&thread, sweep, &it);
    for (; atomic_load(&it.running); next++) {
        double took = put_sweep_keys(it.buffer, next, next + 1);

        longest = took > longest ? took : longest;
    }
    join(thread);
    printf("long sweep: %.1f ms, %u updates meanwhile, the longest took %.3f ms\n",
           it.seconds * 1e3, next - SWEEP_KEYS, longest * 1e3);
    CHECK(next - SWEEP_KEYS > 10 || it.seconds < 0.02);
    take_everything(it.buffer);
    CHECK_NO_FAULT(cdedupe_validate(it.buffer));
    cdedupe_destroy(it.buffer);
}

/* ---------------------------------------------------------------------------------------------- */

static void
make_keys(void)
{
    unsigned key;

    for (key = 0; key < KEYS_MAX; key++) {
        snprintf(key_texts[key], sizeof(key_texts[key]), "%u/%.*s", key, (int)(key * 7 % 50),
                 "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz");
    }
}

static void
run_scene(const char *name, void (*run)(unsigned, uint32_t, bool, double), double seconds)
{
    static const unsigned producers[] = {1, 2, 4};
    static const uint32_t keys[] = {1, 12, KEYS_MAX};
    size_t index;

    scene = name;
    check_test = name;
    for (index = 0; index < 18; index++, rounds++) {
        feed_watchdog();
        run(producers[index % 3], keys[index / 3 % 3], index >= 9, seconds / 18);
    }
    printf("%s: 18 rounds\n", name);
}

static void
run_all(double seconds)
{
    double end;
    unsigned long before;

    run_scene("steady", run_steady, seconds * 0.3);
    run_scene("restarts", run_restarts, seconds * 0.3);
    run_scene("bytes", run_bytes, seconds * 0.1);

    scene = check_test = "endings";
    feed_watchdog();
    before = rounds;
    end = now() + seconds * 0.25;
    run_endings(end);
    printf("endings: %lu rounds\n", rounds - before);

    scene = check_test = "competition";
    feed_watchdog();
    run_competition(seconds * 0.05);
    scene = check_test = "blocked_sink";
    run_blocked_sink();
    scene = check_test = "long_sweep";
    feed_watchdog();
    run_long_sweep();
}

int
main(int argc, char **argv)
{
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 10;

    patience += (unsigned)seconds;
    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    check_describe = describe;
    signal(SIGALRM, on_alarm);
    make_keys();
    run_all(seconds);
    printf("seed %" PRIu64 "\n", seed);
    return check_finish();
}
