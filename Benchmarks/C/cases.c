/* SPDX-License-Identifier: Apache-2.0 */
#include "cases.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "measure.h"
#include "subject.h"

#define SIDES 2
#define MAX_THREADS 8

static const struct subject *const sides[SIDES] = {&ours, &yardstick};

/*
 * The side that goes first changes from one repetition to the next: neither always finds the
 * machine warm.
 */
static size_t
side_of(unsigned repetition, size_t turn)
{
    return (repetition + turn) % SIDES;
}

static void
put_range(const struct subject *subject, void *producer, const struct stream *stream, size_t call,
          size_t from, size_t to)
{
    for (size_t i = from; i < to; i += call)
        subject->put(producer, stream_keys(stream, i, to - i < call ? to - i : call), i);
}

static size_t
drain(const struct subject *subject, void *consumer)
{
    size_t total = 0, count;

    while ((count = subject->take(consumer, NULL, NULL)) > 0)
        total += count;
    return total;
}

/*
 * All keys once, in an order of their own. Buffers are filled from here: if what follows came in
 * the same order, it would walk through the buffer's memory from one end to the other.
 */
static void
first_stream(const struct parameters *parameters, struct stream *stream,
             const struct setting *setting)
{
    stream_make(stream, setting, 1, parameters->seed + 1000);
}

/* ---------------------------------------------------------------------------------------------- */
/* Threads that offer updates until they are told to stop                                         */

struct offerer {
    const struct subject *subject;
    void *producer;
    struct stream stream;
    size_t call;     /* Updates in a call. */
    size_t position; /* Kept from one repetition to the next. */
    atomic_bool *stop;
    pthread_t thread;
    /* On a line of its own, because the measuring thread looks at it. */
    _Alignas(128) atomic_uint_fast64_t count;
};

static void
offer_call(struct offerer *offerer)
{
    offerer->subject->put(offerer->producer,
                          stream_keys(&offerer->stream, offerer->position, offerer->call),
                          offerer->position);
    offerer->position += offerer->call;
    if (offerer->position == offerer->stream.length)
        offerer->position = 0;
}

static void *
offer(void *argument)
{
    struct offerer *offerer = argument;
    uint64_t count = 0;

    while (!atomic_load_explicit(offerer->stop, memory_order_relaxed)) {
        offer_call(offerer);
        atomic_store_explicit(&offerer->count, count += offerer->call, memory_order_relaxed);
    }
    return NULL;
}

static uint64_t
offered(struct offerer *offerers, unsigned count)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += atomic_load_explicit(&offerers[i].count, memory_order_relaxed);
    return sum;
}

static void
start_offering(struct offerer *offerers, unsigned count, const struct subject *subject,
               void **producers, atomic_bool *stop)
{
    atomic_store(stop, false);
    for (unsigned i = 0; i < count; i++) {
        offerers[i].subject = subject;
        offerers[i].producer = producers[i];
        offerers[i].stop = stop;
        atomic_store(&offerers[i].count, 0);
        if (pthread_create(&offerers[i].thread, NULL, offer, &offerers[i]) != 0)
            fail("cannot start a thread");
    }
    /* Until all of them run: starting a thread is not what is measured. */
    for (unsigned i = 0; i < count; i++) {
        while (atomic_load_explicit(&offerers[i].count, memory_order_relaxed) == 0)
            pause_for(50e-6);
    }
}

static void
stop_offering(struct offerer *offerers, unsigned count, atomic_bool *stop)
{
    atomic_store(stop, true);
    for (unsigned i = 0; i < count; i++)
        pthread_join(offerers[i].thread, NULL);
}

/* Updates per nanosecond of the calling thread's time, for about as long as asked. */
static double
offer_alone(struct offerer *offerer, double seconds)
{
    uint64_t start = thread_time(), now, count = 0;

    do {
        /* The clock is read seldom: reading it is a system call. */
        for (size_t i = 0; i < 64 * CALL; i += offerer->call)
            offer_call(offerer);
        count += 64 * CALL;
        now = thread_time();
    } while ((double)(now - start) < seconds * 1e9);
    return (double)count / (double)(now - start);
}

static double
offer_at_once(struct offerer *offerers, unsigned count, const struct subject *subject,
              void **producers, double seconds)
{
    atomic_bool stop;
    uint64_t start, end, updates;

    start_offering(offerers, count, subject, producers, &stop);
    updates = offered(offerers, count);
    start = wall_time();
    pause_for(seconds);
    updates = offered(offerers, count) - updates;
    end = wall_time();
    stop_offering(offerers, count, &stop);
    return (double)updates / (double)(end - start);
}

/* One repetition: updates per nanosecond. */
static double
replace_rate(struct offerer *offerers, const struct setting *setting, const struct subject *subject,
             void **producers, double seconds)
{
    if (setting->threads > 1)
        return offer_at_once(offerers, setting->threads, subject, producers, seconds);
    offerers[0].subject = subject;
    offerers[0].producer = producers[0];
    return offer_alone(&offerers[0], seconds);
}

static void
report_rates(const char *name, const struct setting *setting, struct series rates[SIDES])
{
    double ours_median = series_median(&rates[0]), plain_median = series_median(&rates[1]);

    if (setting->threads == 1)
        report(name, setting, "ns/update", LOWER_IS_BETTER, 1 / ours_median, 1 / plain_median);
    else
        report(name, setting, "M/s", HIGHER_IS_BETTER, 1e3 * ours_median, 1e3 * plain_median);
    for (size_t side = 0; side < SIDES; side++)
        series_free(&rates[side]);
}

/* Replacing what is pending; the sink has stalled. */
static void
replace(const struct parameters *parameters, const struct setting *setting, const char *name,
        const struct subject *const subjects[SIDES])
{
    static struct offerer offerers[MAX_THREADS];
    void *buffers[SIDES], *producers[SIDES][MAX_THREADS];
    struct series rates[SIDES] = {0};
    struct stream first;

    first_stream(parameters, &first, setting);
    for (unsigned i = 0; i < setting->threads; i++) {
        stream_make(&offerers[i].stream, setting, 0, parameters->seed + i);
        offerers[i].position = 0;
        offerers[i].call = setting->call;
    }
    for (size_t side = 0; side < SIDES; side++) {
        buffers[side] = subjects[side]->create();
        for (unsigned i = 0; i < setting->threads; i++)
            producers[side][i] = subjects[side]->producer_create(buffers[side]);
        put_range(subjects[side], producers[side][0], &first, 1, 0, setting->keys);
    }
    for (unsigned repetition = 0; repetition < parameters->repetitions; repetition++) {
        for (size_t turn = 0; turn < SIDES; turn++) {
            size_t side = side_of(repetition, turn);

            series_add(&rates[side], replace_rate(offerers, setting, subjects[side],
                                                  producers[side], parameters->seconds));
        }
    }
    report_rates(name, setting, rates);
    for (size_t side = 0; side < SIDES; side++) {
        for (unsigned i = 0; i < setting->threads; i++)
            subjects[side]->producer_destroy(producers[side][i]);
        subjects[side]->destroy(buffers[side]);
    }
    for (unsigned i = 0; i < setting->threads; i++)
        stream_free(&offerers[i].stream);
    stream_free(&first);
}

void
measure_replace(const struct parameters *parameters, const struct setting *setting)
{
    replace(parameters, setting, "replace", sides);
}

void
measure_replace_bytes(const struct parameters *parameters, const struct setting *setting)
{
    static const struct subject *const bytes_sides[SIDES] = {&our_bytes, &yardstick};

    replace(parameters, setting, "replace-bytes", bytes_sides);
}

void
measure_replace_pinned(const struct parameters *parameters, const struct setting *setting)
{
    static const struct subject *const pinned_sides[SIDES] = {&ours_pinned, &yardstick};

    replace(parameters, setting, "replace-pinned", pinned_sides);
}

/* ---------------------------------------------------------------------------------------------- */
/* Small and short-lived buffers                                                                  */

/* Makes a buffer and puts every key once. Returns the nanoseconds of both; destroys the buffer. */
static double
fill_fresh(const struct subject *subject, const struct stream *stream, size_t call, double *whole)
{
    uint64_t start = thread_time(), filled;
    void *buffer = subject->create(), *producer = subject->producer_create(buffer);

    put_range(subject, producer, stream, call, 0, stream->key_count);
    filled = thread_time() - start;
    subject->producer_destroy(producer);
    subject->destroy(buffer);
    *whole = (double)(thread_time() - start);
    return (double)filled;
}

/*
 * Buffers with few keys: from the creation to the last first insertion, and a whole life without
 * any key. Many buffers are measured together, because reading the clock takes as long as a put.
 */
void
measure_fresh(const struct parameters *parameters, const struct setting *setting)
{
    size_t rounds = parameters->small_updates / (setting->keys + 10);
    struct series fill[SIDES] = {0}, life[SIDES] = {0};
    struct stream stream;

    first_stream(parameters, &stream, setting);
    for (unsigned repetition = 0; repetition < 2 * parameters->repetitions; repetition++) {
        for (size_t turn = 0; turn < SIDES; turn++) {
            size_t side = side_of(repetition, turn);
            double sum = 0, whole_sum = 0, whole;

            for (size_t i = 0; i < rounds; i++) {
                sum += fill_fresh(sides[side], &stream, setting->call, &whole);
                whole_sum += whole;
            }
            series_add(&fill[side], sum / (double)(rounds * setting->keys));
            series_add(&life[side], whole_sum / (double)(rounds * setting->keys));
        }
    }
    report("fresh-insert", setting, "ns/update", LOWER_IS_BETTER, series_median(&fill[0]),
           series_median(&fill[1]));
    report("fresh-life", setting, "ns/update", LOWER_IS_BETTER, series_median(&life[0]),
           series_median(&life[1]));
    for (size_t side = 0; side < SIDES; side++) {
        series_free(&fill[side]);
        series_free(&life[side]);
    }
    stream_free(&stream);
}

/* Creating a buffer, and destroying it without a key; and the memory that it holds in between. */
void
measure_create(const struct parameters *parameters)
{
    static const struct setting setting = {
        .keys = 1, .key_size = KEY_SIZE, .call = 1, .threads = 1};
    size_t rounds = parameters->small_updates / 10;
    struct series times[SIDES] = {0};
    double empty[SIDES], one[SIDES];
    struct stream stream;

    first_stream(parameters, &stream, &setting);
    for (unsigned repetition = 0; repetition < 2 * parameters->repetitions; repetition++) {
        for (size_t turn = 0; turn < SIDES; turn++) {
            size_t side = side_of(repetition, turn);
            uint64_t start = thread_time();

            for (size_t i = 0; i < rounds; i++)
                sides[side]->destroy(sides[side]->create());
            series_add(&times[side], (double)(thread_time() - start) / (double)rounds);
        }
    }
    for (size_t side = 0; side < SIDES; side++) {
        const struct subject *subject = sides[side];
        /* For the yardstick all of malloc counts, so it is compared with itself. */
        double before = subject == &ours ? 0 : (double)subject->memory(NULL);
        void *buffer = subject->create(), *producer;

        empty[side] = (double)subject->memory(buffer) - before;
        producer = subject->producer_create(buffer);
        before += subject == &ours ? 0 : (double)subject->memory(buffer) - before - empty[side];
        put_range(subject, producer, &stream, 1, 0, 1);
        one[side] = (double)subject->memory(buffer) - before;
        subject->producer_destroy(producer);
        subject->destroy(buffer);
    }
    report("create", &setting, "ns/buffer", LOWER_IS_BETTER, series_median(&times[0]),
           series_median(&times[1]));
    report("memory-empty", &setting, "bytes/buffer", LOWER_IS_BETTER, empty[0], empty[1]);
    report("memory-one-key", &setting, "bytes/buffer", LOWER_IS_BETTER, one[0], one[1]);
    for (size_t side = 0; side < SIDES; side++)
        series_free(&times[side]);
    stream_free(&stream);
}

/* ---------------------------------------------------------------------------------------------- */
/* A buffer's life, step by step, on one thread                                                   */

enum step {
    INSERT,
    DELIVER,
    REQUEUE,
    DELIVER_AGAIN,
    RESTART,
    AFTER_RESTART,
    IN_SYNC,
    MEMORY_PENDING,
    MEMORY_LIVE,
    RESIDENT_PENDING,
    RESIDENT_LIVE,
    STEPS
};

static const struct {
    const char *name, *unit;
} steps[STEPS] = {
    [INSERT] = {"insert", "ns/update"},
    [DELIVER] = {"deliver", "ns/update"},
    [REQUEUE] = {"requeue", "ns/update"},
    [DELIVER_AGAIN] = {"deliver-again", "ns/update"},
    [RESTART] = {"restart", "us"},
    [AFTER_RESTART] = {"after-restart", "us"},
    [IN_SYNC] = {"in-sync", "us"},
    [MEMORY_PENDING] = {"memory-pending", "bytes/key"},
    [MEMORY_LIVE] = {"memory-live", "bytes/key"},
    [RESIDENT_PENDING] = {"resident-pending", "bytes/key"},
    [RESIDENT_LIVE] = {"resident-live", "bytes/key"},
};

static void
check_count(size_t count, size_t expected)
{
    if (count != expected)
        fail("not what should have been delivered");
}

static void
one_round(const struct subject *subject, const struct stream *first, const struct stream *stream,
          struct series *results)
{
    size_t keys = first->key_count, vanished = keys / 10 < CALL ? CALL : keys / 10 / CALL * CALL;
    double values[STEPS];
    uint64_t memory, in_memory, start;
    void *buffer, *producer, *consumer;

    settle();
    in_memory = resident();
    buffer = subject->create();
    producer = subject->producer_create(buffer);
    consumer = subject->consumer_create(buffer, false);
    /*
     * For the yardstick all of malloc counts, so it is compared with itself; what the core counts
     * is its own.
     */
    memory = subject == &ours ? 0 : subject->memory(buffer);

    start = thread_time();
    put_range(subject, producer, first, CALL, 0, keys);
    values[INSERT] = (double)(thread_time() - start) / (double)keys;
    values[MEMORY_PENDING] = (double)(subject->memory(buffer) - memory) / (double)keys;
    values[RESIDENT_PENDING] = ((double)resident() - (double)in_memory) / (double)keys;

    start = thread_time();
    check_count(drain(subject, consumer), keys);
    values[DELIVER] = (double)(thread_time() - start) / (double)keys;
    settle();
    values[MEMORY_LIVE] = (double)(subject->memory(buffer) - memory) / (double)keys;
    values[RESIDENT_LIVE] = ((double)resident() - (double)in_memory) / (double)keys;

    start = thread_time();
    put_range(subject, producer, stream, CALL, 0, keys);
    values[REQUEUE] = (double)(thread_time() - start) / (double)keys;
    start = thread_time();
    check_count(drain(subject, consumer), keys);
    values[DELIVER_AGAIN] = (double)(thread_time() - start) / (double)keys;

    start = thread_time();
    subject->restart(buffer);
    values[RESTART] = (double)(thread_time() - start) / 1e3;

    subject->put_status(buffer, STATUS_RESYNC);
    start = thread_time();
    put_range(subject, producer, stream, CALL, vanished, vanished + CALL);
    values[AFTER_RESTART] = (double)(thread_time() - start) / 1e3;
    put_range(subject, producer, stream, CALL, vanished + CALL, keys);
    check_count(drain(subject, consumer), keys - vanished + 1);
    start = thread_time();
    subject->put_status(buffer, STATUS_IN_SYNC);
    values[IN_SYNC] = (double)(thread_time() - start) / 1e3;
    check_count(drain(subject, consumer), vanished + 1);

    /* Not before: the samples take memory too. */
    for (size_t i = 0; i < STEPS; i++)
        series_add(&results[i], values[i]);
    subject->producer_destroy(producer);
    subject->consumer_destroy(consumer);
    subject->destroy(buffer);
}

void
measure_rounds(const struct parameters *parameters, const struct setting *setting)
{
    size_t key_count = setting->keys;
    size_t rounds =
        key_count >= parameters->small_updates ? 1 : parameters->small_updates / key_count;
    struct series results[SIDES][STEPS] = {0};
    struct stream first, stream;

    first_stream(parameters, &first, setting);
    stream_make(&stream, setting, 1, parameters->seed);
    for (unsigned repetition = 0; repetition < parameters->repetitions; repetition++) {
        for (size_t turn = 0; turn < SIDES; turn++) {
            size_t side = side_of(repetition, turn);

            for (size_t i = 0; i < rounds; i++)
                one_round(sides[side], &first, &stream, results[side]);
        }
    }
    for (size_t i = 0; i < STEPS; i++) {
        /* A few pages more or less are many bytes for each of a thousand keys. */
        if (key_count >= 100000 || i < RESIDENT_PENDING)
            report(steps[i].name, setting, steps[i].unit, LOWER_IS_BETTER,
                   series_median(&results[0][i]), series_median(&results[1][i]));
        series_free(&results[0][i]);
        series_free(&results[1][i]);
    }
    stream_free(&first);
    stream_free(&stream);
}

/* ---------------------------------------------------------------------------------------------- */

struct taker {
    const struct subject *subject;
    void *consumer;
    pthread_t thread;
    _Alignas(128) atomic_uint_fast64_t count;
};

static void *
take_all(void *argument)
{
    struct taker *taker = argument;
    uint64_t total = 0;
    size_t count;

    while ((count = taker->subject->take(taker->consumer, NULL, NULL)) > 0)
        atomic_store_explicit(&taker->count, total += count, memory_order_relaxed);
    return NULL;
}

/* One producer and a sink that does nothing, each as fast as it can. */
void
measure_together(const struct parameters *parameters, const struct setting *setting)
{
    size_t key_count = setting->keys;
    static struct offerer offerer;
    static struct taker taker;
    struct series in[SIDES] = {0}, out[SIDES] = {0}, ratio[SIDES] = {0};
    struct stream first;

    first_stream(parameters, &first, setting);
    stream_make(&offerer.stream, setting, 0, parameters->seed);
    offerer.position = 0;
    offerer.call = setting->call;
    for (unsigned repetition = 0; repetition < parameters->repetitions; repetition++) {
        for (size_t turn = 0; turn < SIDES; turn++) {
            size_t side = side_of(repetition, turn);
            const struct subject *subject = sides[side];
            void *buffer = subject->create(), *producer = subject->producer_create(buffer);
            uint64_t start, end, updates, taken;
            atomic_bool stop;

            taker.subject = subject;
            taker.consumer = subject->consumer_create(buffer, false);
            /* All keys are live: from here on the memory is there, and deliveries are updates. */
            put_range(subject, producer, &first, CALL, 0, key_count);
            drain(subject, taker.consumer);
            subject->consumer_destroy(taker.consumer);

            taker.consumer = subject->consumer_create(buffer, true);
            atomic_store(&taker.count, 0);
            if (pthread_create(&taker.thread, NULL, take_all, &taker) != 0)
                fail("cannot start a thread");
            start_offering(&offerer, 1, subject, &producer, &stop);
            updates = offered(&offerer, 1);
            taken = atomic_load(&taker.count);
            start = wall_time();
            pause_for(parameters->seconds);
            updates = offered(&offerer, 1) - updates;
            taken = atomic_load(&taker.count) - taken;
            end = wall_time();
            stop_offering(&offerer, 1, &stop);
            subject->stop(buffer);
            pthread_join(taker.thread, NULL);

            series_add(&in[side], 1e3 * (double)updates / (double)(end - start));
            series_add(&out[side], 1e3 * (double)taken / (double)(end - start));
            series_add(&ratio[side], (double)updates / (double)taken);
            subject->consumer_destroy(taker.consumer);
            subject->producer_destroy(producer);
            subject->destroy(buffer);
        }
    }
    report("together-offered", setting, "M/s", HIGHER_IS_BETTER, series_median(&in[0]),
           series_median(&in[1]));
    report("together-delivered", setting, "M/s", HIGHER_IS_BETTER, series_median(&out[0]),
           series_median(&out[1]));
    report("together-conflation", setting, "offered/delivered", NEITHER, series_median(&ratio[0]),
           series_median(&ratio[1]));
    for (size_t side = 0; side < SIDES; side++) {
        series_free(&in[side]);
        series_free(&out[side]);
        series_free(&ratio[side]);
    }
    stream_free(&first);
    stream_free(&offerer.stream);
}

/* ---------------------------------------------------------------------------------------------- */

/*
 * In the steady state: replacing what is pending; and all keys, which are live, going in and out
 * again.
 */
void
measure_allocations(const struct parameters *parameters, const struct setting *setting)
{
    size_t key_count = setting->keys;
    double replace[SIDES], cycle[SIDES];
    struct stream stream;

    stream_make(&stream, setting, 0, parameters->seed);
    for (size_t side = 0; side < SIDES; side++) {
        const struct subject *subject = sides[side];
        void *buffer = subject->create(), *producer = subject->producer_create(buffer);
        void *consumer = subject->consumer_create(buffer, false);
        uint64_t start;

        for (unsigned i = 0; i < 3; i++) {
            put_range(subject, producer, &stream, CALL, 0, key_count);
            drain(subject, consumer);
        }
        start = allocations();
        for (unsigned i = 0; i < 3; i++) {
            put_range(subject, producer, &stream, CALL, 0, key_count);
            drain(subject, consumer);
        }
        cycle[side] = (double)(allocations() - start) / (double)(3 * key_count);

        put_range(subject, producer, &stream, CALL, 0, key_count);
        start = allocations();
        put_range(subject, producer, &stream, CALL, 0, stream.length);
        replace[side] = (double)(allocations() - start) / (double)stream.length;

        subject->producer_destroy(producer);
        subject->consumer_destroy(consumer);
        subject->destroy(buffer);
    }
    report("allocations-replace", setting, "allocations/update", LOWER_IS_BETTER, replace[0],
           replace[1]);
    report("allocations-cycle", setting, "allocations/update", LOWER_IS_BETTER, cycle[0], cycle[1]);
    stream_free(&stream);
}

/* ---------------------------------------------------------------------------------------------- */

/* How long single calls take while the buffer grows from nothing, its sink having stalled. */
void
measure_growth(const struct parameters *parameters, const struct setting *setting)
{
    size_t key_count = setting->keys;
    static const struct {
        const char *name;
        double fraction;
    } percentiles[] = {{"grow-p50", 0.5},
                       {"grow-p99", 0.99},
                       {"grow-p99.9", 0.999},
                       {"grow-p99.99", 0.9999},
                       {"grow-longest", 1}};
    struct series wall[SIDES] = {0}, running[SIDES] = {0}, longest[SIDES] = {0};
    struct stream stream;

    first_stream(parameters, &stream, setting);
    for (unsigned round = 0; round < parameters->grow_rounds; round++) {
        for (size_t turn = 0; turn < SIDES; turn++) {
            size_t side = side_of(round, turn);
            const struct subject *subject = sides[side];
            void *buffer, *producer;
            double round_longest = 0;

            settle();
            buffer = subject->create();
            producer = subject->producer_create(buffer);
            for (size_t i = 0; i < key_count; i += CALL) {
                uint64_t run_start = thread_time(), start = wall_time();
                double time, run_time;

                subject->put(producer, stream_keys(&stream, i, CALL), i);
                time = (double)(wall_time() - start) / 1e3;
                run_time = (double)(thread_time() - run_start) / 1e3;
                series_add(&wall[side], time);
                series_add(&running[side], run_time);
                round_longest = time > round_longest ? time : round_longest;
            }
            series_add(&longest[side], round_longest);
            subject->producer_destroy(producer);
            subject->destroy(buffer);
        }
    }
    for (size_t i = 0; i < sizeof(percentiles) / sizeof(percentiles[0]); i++)
        report(percentiles[i].name, setting, "us", LOWER_IS_BETTER,
               series_percentile(&wall[0], percentiles[i].fraction),
               series_percentile(&wall[1], percentiles[i].fraction));
    report("grow-longest-median", setting, "us", LOWER_IS_BETTER, series_median(&longest[0]),
           series_median(&longest[1]));
    report("grow-longest-cpu", setting, "us", LOWER_IS_BETTER, series_percentile(&running[0], 1),
           series_percentile(&running[1], 1));
    for (size_t side = 0; side < SIDES; side++) {
        series_free(&wall[side]);
        series_free(&running[side]);
        series_free(&longest[side]);
    }
    stream_free(&stream);
}

/* ---------------------------------------------------------------------------------------------- */

struct listener {
    const struct subject *subject;
    void *consumer;
    pthread_t thread;
    struct series delays;
    atomic_uint heard;
};

static void
hear(void *context, const struct delivered *item)
{
    struct listener *listener = context;

    series_add(&listener->delays, (double)(wall_time() - item->payload->stamp) / 1e3);
    atomic_fetch_add(&listener->heard, 1);
}

static void *
listen_all(void *argument)
{
    struct listener *listener = argument;

    while (listener->subject->take(listener->consumer, hear, listener) > 0)
        ;
    return NULL;
}

/* From the put into an idle buffer to the sink, which has to be woken up. */
void
measure_wake(const struct parameters *parameters)
{
    static const struct setting setting = {
        .keys = 1, .key_size = KEY_SIZE, .call = 1, .threads = 1};
    static struct listener listeners[SIDES];
    struct stream stream;

    stream_make(&stream, &(struct setting){CALL, KEY_SIZE, 1, 1}, 1, parameters->seed);
    for (size_t side = 0; side < SIDES; side++) {
        const struct subject *subject = sides[side];
        void *buffer = subject->create(), *producer = subject->producer_create(buffer);
        struct listener *listener = &listeners[side];

        listener->subject = subject;
        listener->consumer = subject->consumer_create(buffer, true);
        if (pthread_create(&listener->thread, NULL, listen_all, listener) != 0)
            fail("cannot start a thread");
        for (unsigned i = 0; i < parameters->wakes; i++) {
            /* Long enough that the loop has gone to sleep, and the processor too. */
            pause_for(0.5e-3 + 10e-6 * (i % 50));
            subject->put(producer, stream_keys(&stream, i % CALL, 1), wall_time());
            while (atomic_load(&listener->heard) <= i)
                pause_for(50e-6);
        }
        subject->stop(buffer);
        pthread_join(listener->thread, NULL);
        subject->consumer_destroy(listener->consumer);
        subject->producer_destroy(producer);
        subject->destroy(buffer);
    }
    report("wake-p50", &setting, "us", LOWER_IS_BETTER,
           series_percentile(&listeners[0].delays, 0.5),
           series_percentile(&listeners[1].delays, 0.5));
    report("wake-p99", &setting, "us", LOWER_IS_BETTER,
           series_percentile(&listeners[0].delays, 0.99),
           series_percentile(&listeners[1].delays, 0.99));
    for (size_t side = 0; side < SIDES; side++)
        series_free(&listeners[side].delays);
    stream_free(&stream);
}
