/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a buffer at every bad moment: no thread hangs, as happened with controller-runtime's
 * priority queue, and nothing leaks.
 *
 *     test_shutdown [rounds] [seed]     rounds of each scene, default 1000; seed from the clock
 *
 * In each round, threads meet at a starting line and act after pauses of random length. They are a
 * loop that sleeps on a semaphore, producers, and threads that stop and finish the buffer. The test
 * joins the loop, so a loop that is not woken hangs the round. After the round, every payload must
 * have been destroyed once, and the allocator must have everything back. At the end of the program
 * there must be as many threads and file descriptors as at its beginning.
 *
 * A watchdog prints the stacks of all threads and aborts if no round ends for DEDUPE_TEST_PATIENCE
 * seconds, or up to twice as long. The default is 60.
 */
#include <dirent.h>
#include <execinfo.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "CDedupe.h"
#include "check.h"
#include "random.h"
#include "hooks.h"

enum { KEYS = 30, BATCH = 5, CALLS = 20, PAUSE = 3000, ACTORS_MAX = 4, FRAMES = 64 };

#define ALIVE UINT64_C(0x7368757464776e21)

/* One buffer and who acts on it. */
typedef struct world {
    cdedupe_t *buffer;
    hooks_t hooks;
    sem_t wake;                   /* Posted by the hook. */
    atomic_ulong made, destroyed; /* Payloads. */

    void (*in_first_batch)(struct world *world); /* What the sink does there, if anything. */
    unsigned batches;
    sem_t arrived; /* Posted by a sink that is blocked, */
    sem_t go_on;   /* and what it waits for. */

    atomic_uint missing; /* At the starting line. */
} world_t;

typedef struct actor {
    world_t *world;
    void (*deed)(world_t *world, uint64_t *random);
    uint64_t random;
    pthread_t thread;
} actor_t;

static uint64_t seed;
static unsigned long this_round;
static atomic_ulong rounds_ended;

static void
describe(FILE *out)
{
    fprintf(out, "  %s, round %lu, seed %" PRIu64 "\n", check_test, this_round, seed);
}

static void
wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        continue;
}

static size_t
count_files(const char *directory)
{
    DIR *files = opendir(directory);
    size_t count = 0;

    if (files == NULL)
        return 0;
    while (readdir(files) != NULL)
        count++;
    closedir(files);
    return count;
}

/* ---------------------------------------------------------------------------------------------- */
/* Watchdog                                                                                       */

static sem_t over;   /* Posted when there is nothing more to watch. */
static sem_t dumped; /* Posted by each thread that has printed its stack. */

static bool
wait_seconds(sem_t *semaphore, unsigned seconds)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    return sem_timedwait(semaphore, &until) == 0;
}

/* In each thread, by a signal. */
static void
dump_own_stack(int signal_number)
{
    void *frames[FRAMES];

    (void)signal_number;
    backtrace_symbols_fd(frames, backtrace(frames, FRAMES), STDERR_FILENO);
    sem_post(&dumped);
}

/* One after the other; a thread that does not answer is passed over. */
static void
dump_all_stacks(void)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;

    while (tasks != NULL && (task = readdir(tasks)) != NULL) {
        if (task->d_name[0] == '.')
            continue;
        fprintf(stderr, "thread %s:\n", task->d_name);
        syscall(SYS_tgkill, getpid(), atoi(task->d_name), SIGUSR2);
        wait_seconds(&dumped, 5);
    }
    fprintf(stderr, "addr2line -pfe <program> <offsets> says where that is\n");
}

static void *
watch(void *argument)
{
    const char *patience = getenv("DEDUPE_TEST_PATIENCE");
    unsigned seconds = patience != NULL ? (unsigned)atoi(patience) : 60;
    unsigned long seen;

    (void)argument;
    do {
        seen = atomic_load(&rounds_ended);
        if (wait_seconds(&over, seconds))
            return NULL;
    } while (atomic_load(&rounds_ended) != seen);
    fprintf(stderr, "test_shutdown hangs\n");
    describe(stderr);
    dump_all_stacks();
    abort();
}

static pthread_t
start_watchdog(void)
{
    struct sigaction action = {.sa_handler = dump_own_stack, .sa_flags = SA_RESTART};
    pthread_t thread;
    void *frame;

    backtrace(&frame, 1); /* The first call loads a library, which a signal handler may not. */
    sigaction(SIGUSR2, &action, NULL);
    sem_init(&over, 0, 0);
    sem_init(&dumped, 0, 0);
    if (pthread_create(&thread, NULL, watch, NULL) != 0)
        abort();
    return thread;
}

/* ---------------------------------------------------------------------------------------------- */
/* Payloads                                                                                       */

static void
destroy(world_t *world, cdedupe_slot_t slot)
{
    uint64_t *payload = cdedupe_payload(world->buffer, slot);

    CHECK_EQ(*payload, ALIVE);
    *payload = 0;
    atomic_fetch_add(&world->destroyed, 1);
}

static void
give_back(world_t *world, cdedupe_slot_t slot)
{
    if (slot == 0)
        return;
    destroy(world, slot);
    cdedupe_discard(world->buffer, &slot, 1);
}

static void
put(world_t *world, uint32_t key, bool deletion)
{
    cdedupe_update_t update = {.key = &key, .key_length = sizeof(key), .deletion = deletion};

    CHECK_EQ(cdedupe_acquire(world->buffer, &update.slot, 1), CDEDUPE_OK);
    *(uint64_t *)cdedupe_payload(world->buffer, update.slot) = ALIVE;
    atomic_fetch_add(&world->made, 1);
    CHECK_EQ(cdedupe_put(world->buffer, &update, 1), CDEDUPE_OK);
    give_back(world, update.slot);
    give_back(world, update.displaced);
}

static void
put_values(world_t *world, uint32_t count)
{
    for (uint32_t key = 0; key < count; key++)
        put(world, key, false);
}

/* ---------------------------------------------------------------------------------------------- */
/* Deeds                                                                                          */

static void
stop(world_t *world, uint64_t *random)
{
    (void)random;
    cdedupe_stop(world->buffer);
}

static void
finish(world_t *world, uint64_t *random)
{
    cdedupe_finish_t when =
        random_below(random, 2) == 0 ? CDEDUPE_FINISH_WHEN_DELIVERED : CDEDUPE_FINISH_WHEN_EMPTY;

    cdedupe_finish(world->buffer, when);
}

static void
produce(world_t *world, uint64_t *random)
{
    for (unsigned call = 0; call < CALLS; call++) {
        put(world, (uint32_t)random_below(random, KEYS), random_below(random, 4) == 0);
        if (random_below(random, 10) == 0)
            cdedupe_put_status(world->buffer, (cdedupe_status_t)random_below(random, 3));
        if (random_below(random, 20) == 0)
            cdedupe_restart(world->buffer);
    }
}

/* Nothing that this does empties the queue. */
static void
update(world_t *world, uint64_t *random)
{
    for (unsigned call = 0; call < CALLS; call++)
        put(world, (uint32_t)random_below(random, KEYS), false);
}

static void
deliver(world_t *world, const cdedupe_item_t *items, size_t count)
{
    if (world->batches++ == 0 && world->in_first_batch != NULL)
        world->in_first_batch(world);
    for (size_t i = 0; i < count; i++)
        give_back(world, items[i].slot);
}

static void
loop(world_t *world, uint64_t *random)
{
    cdedupe_item_t items[BATCH];
    cdedupe_result_t result = cdedupe_claim(world->buffer, CDEDUPE_CLAIM_LOOP);
    size_t count;

    (void)random;
    if (result != CDEDUPE_OK) {
        CHECK_EQ(result, CDEDUPE_STOPPED);
        return;
    }
    while ((result = cdedupe_take(world->buffer, items, BATCH, &count)) != CDEDUPE_STOPPED) {
        if (result == CDEDUPE_EMPTY)
            wait_for(&world->wake);
        else
            deliver(world, items, count);
    }
    cdedupe_release(world->buffer);
}

static void
block(world_t *world)
{
    sem_post(&world->arrived);
    wait_for(&world->go_on);
}

static void
stop_from_the_sink(world_t *world)
{
    cdedupe_stop(world->buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* Actors                                                                                         */

static void *
act(void *argument)
{
    actor_t *actor = argument;
    uint64_t pause = random_below(&actor->random, PAUSE);

    atomic_fetch_sub(&actor->world->missing, 1);
    while (atomic_load(&actor->world->missing) > 0)
        sched_yield();
    for (volatile uint64_t i = 0; i < pause; i++)
        continue;
    actor->deed(actor->world, &actor->random);
    return NULL;
}

static void
begin(actor_t *actor, world_t *world, void (*deed)(world_t *, uint64_t *), uint64_t *random)
{
    *actor = (actor_t){
        .world = world, .deed = deed, .random = *random + random_below(random, UINT32_MAX) + 1};
    if (pthread_create(&actor->thread, NULL, act, actor) != 0)
        abort();
}

static void
end(actor_t *actor)
{
    pthread_join(actor->thread, NULL);
}

/* All deeds at once, up to the first NULL; returns when all are done. */
static void
race(world_t *world, uint64_t *random, void (*const deeds[ACTORS_MAX])(world_t *, uint64_t *))
{
    actor_t actors[ACTORS_MAX];
    unsigned count = 0;

    while (count < ACTORS_MAX && deeds[count] != NULL)
        count++;
    atomic_store(&world->missing, count);
    for (unsigned i = 0; i < count; i++)
        begin(&actors[i], world, deeds[i], random);
    for (unsigned i = 0; i < count; i++)
        end(&actors[i]);
}

#define RACE(world, random, ...) \
    race(world, random, (void (*const[ACTORS_MAX])(world_t *, uint64_t *)){__VA_ARGS__})

/* ---------------------------------------------------------------------------------------------- */
/* Scenes                                                                                         */

/* All that is raced returns while the sink is blocked: it waits for us. */
static void
stop_beside_a_blocked_sink(world_t *world, uint64_t *random)
{
    actor_t sink;

    world->in_first_batch = block;
    put_values(world, 2 * BATCH);
    atomic_store(&world->missing, 1);
    begin(&sink, world, loop, random);
    wait_for(&world->arrived);
    RACE(world, random, stop, produce);
    sem_post(&world->go_on);
    end(&sink);
    CHECK_EQ(world->batches, 1);
}

static void
stop_by_the_sink(world_t *world, uint64_t *random)
{
    world->in_first_batch = stop_from_the_sink;
    put_values(world, 2 * BATCH);
    RACE(world, random, loop, update);
    CHECK_EQ(world->batches, 1);
}

static void
stop_beside_producers(world_t *world, uint64_t *random)
{
    RACE(world, random, loop, produce, produce, stop);
}

static void
stop_beside_a_loop_that_begins_or_sleeps(world_t *world, uint64_t *random)
{
    put_values(world, (uint32_t)random_below(random, 2 * BATCH));
    RACE(world, random, loop, stop);
}

static void
two_stops(world_t *world, uint64_t *random)
{
    put_values(world, (uint32_t)random_below(random, 2 * BATCH));
    RACE(world, random, loop, stop, stop);
}

static void
finish_beside_a_loop_that_begins_or_sleeps(world_t *world, uint64_t *random)
{
    put_values(world, (uint32_t)random_below(random, 2 * BATCH));
    RACE(world, random, loop, finish);
}

static void
finish_and_stop(world_t *world, uint64_t *random)
{
    put_values(world, (uint32_t)random_below(random, KEYS));
    RACE(world, random, loop, finish, stop, produce);
}

/* A batch is still with the sink, or its claim even, when the buffer is destroyed. */
static void
destroyed_with_a_batch_out(world_t *world, uint64_t *random)
{
    cdedupe_item_t items[BATCH];
    size_t count = 0;

    put_values(world, 2 * BATCH);
    put(world, 0, true);
    CHECK_EQ(cdedupe_claim(world->buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_take(world->buffer, items, BATCH, &count), CDEDUPE_OK);
    RACE(world, random, stop, produce);
    deliver(world, items, count);
    if (random_below(random, 2) == 0)
        cdedupe_release(world->buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* Rounds                                                                                         */

static void
on_wake(void *context)
{
    world_t *world = context;

    sem_post(&world->wake);
}

static void
open_world(world_t *world)
{
    cdedupe_options_t options = cdedupe_options();

    memset(world, 0, sizeof(*world));
    options.batch_size = BATCH;
    options.wake = on_wake;
    options.wake_context = world;
    hooks_use(&world->hooks, &options);
    sem_init(&world->wake, 0, 0);
    sem_init(&world->arrived, 0, 0);
    sem_init(&world->go_on, 0, 0);
    if (cdedupe_create(&options, &world->buffer) != CDEDUPE_OK)
        abort();
}

static void
close_world(world_t *world)
{
    cdedupe_statistics_t s;
    cdedupe_slot_t slot;
    uint64_t cursor = 0;

    cdedupe_statistics(world->buffer, &s, sizeof(s));
    CHECK_EQ(s.received + s.synthesized_deletions,
             s.delivered + s.replaced + s.cancelled + s.suppressed + s.dropped + s.pending_keys);
    CHECK_NO_FAULT(cdedupe_validate(world->buffer));
    CHECK_EQ(cdedupe_claim(world->buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_STOPPED);
    while ((slot = cdedupe_drain_next(world->buffer, &cursor)) != 0)
        destroy(world, slot);
    CHECK_EQ(atomic_load(&world->destroyed), atomic_load(&world->made));
    cdedupe_destroy(world->buffer);
    hooks_close(&world->hooks);
    sem_destroy(&world->wake);
    sem_destroy(&world->arrived);
    sem_destroy(&world->go_on);
}

static void
run_rounds(const char *name, void (*run)(world_t *, uint64_t *), unsigned long rounds)
{
    world_t world;

    check_test = name;
    for (this_round = 0; this_round < rounds; this_round++) {
        uint64_t random = (seed + this_round) * UINT64_C(0x9e3779b97f4a7c15) | 1;

        open_world(&world);
        run(&world, &random);
        close_world(&world);
        atomic_fetch_add(&rounds_ended, 1);
    }
}

#define ROUNDS_OF(run) run_rounds(#run, run, rounds)

int
main(int argc, char **argv)
{
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    size_t descriptors = count_files("/proc/self/fd");
    pthread_t watchdog;
    size_t threads;

    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    check_describe = describe;
    printf("seed %" PRIu64 "\n", seed);
    watchdog = start_watchdog();
    threads = count_files("/proc/self/task");
    ROUNDS_OF(stop_beside_a_blocked_sink);
    ROUNDS_OF(stop_by_the_sink);
    ROUNDS_OF(stop_beside_producers);
    ROUNDS_OF(stop_beside_a_loop_that_begins_or_sleeps);
    ROUNDS_OF(two_stops);
    ROUNDS_OF(finish_beside_a_loop_that_begins_or_sleeps);
    ROUNDS_OF(finish_and_stop);
    ROUNDS_OF(destroyed_with_a_batch_out);
    while (count_files("/proc/self/task") >
           threads) /* A thread leaves a little after it was joined. */
        sched_yield();
    CHECK_EQ(count_files("/proc/self/fd"), descriptors);
    sem_post(&over);
    pthread_join(watchdog, NULL);
    return check_finish();
}
