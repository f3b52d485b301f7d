/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CDedupe as an embedder would use it: payloads are written into slots, and displaced slots serve
 * the next call.
 */
#include <CDedupe.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "subject.h"

struct buffer {
    cdedupe_t *core;
    sem_t wakes;
};

struct producer {
    cdedupe_t *core;
    size_t spare_count;
    /* A call may leave CALL of them; a call brings back at most two for each update. */
    cdedupe_slot_t spare[3 * CALL];
    /* By the keys' numbers; only for values that are put by pins. */
    cdedupe_pin_t *pins;
    size_t pin_count;
    cdedupe_update_t updates[CALL];
};

struct consumer {
    struct buffer *buffer;
    bool loop;
    cdedupe_item_t items[CALL];
    cdedupe_slot_t slots[CALL];
};

static void
check(cdedupe_result_t result)
{
    if (result != CDEDUPE_OK)
        fail(cdedupe_result_text(result));
}

static void
wake(void *context)
{
    struct buffer *buffer = context;

    sem_post(&buffer->wakes);
}

static void *
create(void)
{
    struct buffer *buffer = malloc(sizeof(*buffer));
    cdedupe_options_t options = cdedupe_options();

    if (buffer == NULL || sem_init(&buffer->wakes, 0, 0) != 0)
        fail("no memory");
    options.payload_size = sizeof(struct payload);
    options.payload_alignment = _Alignof(struct payload);
    options.batch_size = CALL;
    /* Repeatable: the same collisions in every run. */
    options.hash_seed = 1;
    options.wake = wake;
    options.wake_context = buffer;
    check(cdedupe_create(&options, &buffer->core));
    return buffer;
}

static void
destroy(void *argument)
{
    struct buffer *buffer = argument;

    /* Payloads are plain memory: what is pending needs no destruction. */
    cdedupe_destroy(buffer->core);
    sem_destroy(&buffer->wakes);
    free(buffer);
}

static void
stop(void *argument)
{
    struct buffer *buffer = argument;

    cdedupe_stop(buffer->core);
}

static void *
producer_create(void *argument)
{
    struct buffer *buffer = argument;
    struct producer *producer = calloc(1, sizeof(*producer));

    if (producer == NULL)
        fail("no memory");
    producer->core = buffer->core;
    return producer;
}

static void
producer_destroy(void *argument)
{
    struct producer *producer = argument;

    cdedupe_discard(producer->core, producer->spare, producer->spare_count);
    for (size_t i = 0; i < producer->pin_count; i++)
        if (producer->pins[i] != 0)
            check(cdedupe_unpin(producer->core, producer->pins[i]));
    free(producer->pins);
    free(producer);
}

static void
submit(struct producer *producer, size_t count)
{
    check(cdedupe_put(producer->core, producer->updates, count));
    for (size_t i = 0; i < count; i++) {
        if (producer->updates[i].slot != 0)
            producer->spare[producer->spare_count++] = producer->updates[i].slot;
        if (producer->updates[i].displaced != 0)
            producer->spare[producer->spare_count++] = producer->updates[i].displaced;
    }
    if (producer->spare_count > CALL) {
        cdedupe_discard(producer->core, producer->spare + CALL, producer->spare_count - CALL);
        producer->spare_count = CALL;
    }
}

static void
have_slots(struct producer *producer, size_t count)
{
    if (producer->spare_count >= count)
        return;
    check(cdedupe_acquire(producer->core, producer->spare + producer->spare_count,
                          count - producer->spare_count));
    producer->spare_count = count;
}

/* A slot with the value of the call's update `i`. */
static cdedupe_slot_t
make_value(struct producer *producer, size_t i, uint64_t stamp)
{
    cdedupe_slot_t slot = producer->spare[--producer->spare_count];
    struct payload *payload = cdedupe_payload(producer->core, slot);

    *payload = (struct payload){stamp, {i, i, i}};
    return slot;
}

static void
put(void *argument, struct keys keys, uint64_t stamp)
{
    struct producer *producer = argument;

    have_slots(producer, keys.count);
    for (size_t i = 0; i < keys.count; i++) {
        cdedupe_update_t *update = &producer->updates[i];

        update->key = keys.bytes + i * keys.size;
        update->key_length = keys.size;
        update->slot = make_value(producer, i, stamp);
        update->deletion = false;
    }
    submit(producer, keys.count);
}

/* Pins a key when it is put for the first time. */
static void
pin(struct producer *producer, struct keys keys, size_t i)
{
    uint32_t number = keys.numbers[i];

    if (number >= producer->pin_count) {
        size_t count = 2 * (size_t)number + 1;

        producer->pins = realloc(producer->pins, count * sizeof(*producer->pins));
        if (producer->pins == NULL)
            fail("no memory");
        memset(producer->pins + producer->pin_count, 0,
               (count - producer->pin_count) * sizeof(*producer->pins));
        producer->pin_count = count;
    }
    if (producer->pins[number] == 0)
        check(cdedupe_pin(producer->core, keys.bytes + i * keys.size, keys.size,
                          &producer->pins[number]));
}

static void
put_pinned(void *argument, struct keys keys, uint64_t stamp)
{
    struct producer *producer = argument;

    have_slots(producer, keys.count);
    for (size_t i = 0; i < keys.count; i++) {
        cdedupe_update_t *update = &producer->updates[i];
        uint32_t number = keys.numbers[i];

        if (number >= producer->pin_count || producer->pins[number] == 0)
            pin(producer, keys, i);
        update->pin = producer->pins[number];
        update->slot = make_value(producer, i, stamp);
        update->deletion = false;
    }
    submit(producer, keys.count);
}

static void
delete_key(void *argument, struct keys keys)
{
    struct producer *producer = argument;

    producer->updates[0].key = keys.bytes;
    producer->updates[0].key_length = keys.size;
    producer->updates[0].slot = 0;
    producer->updates[0].deletion = true;
    submit(producer, 1);
}

static void
put_status(void *argument, int status)
{
    struct buffer *buffer = argument;

    check(cdedupe_put_status(buffer->core, (cdedupe_status_t)status));
}

static void
restart(void *argument)
{
    struct buffer *buffer = argument;

    check(cdedupe_restart(buffer->core));
}

static void *
consumer_create(void *argument, bool loop)
{
    struct consumer *consumer = calloc(1, sizeof(*consumer));

    if (consumer == NULL)
        fail("no memory");
    consumer->buffer = argument;
    consumer->loop = loop;
    check(cdedupe_claim(consumer->buffer->core,
                        loop ? CDEDUPE_CLAIM_LOOP : CDEDUPE_CLAIM_SINGLE_BATCH));
    return consumer;
}

static void
consumer_destroy(void *argument)
{
    struct consumer *consumer = argument;

    cdedupe_release(consumer->buffer->core);
    free(consumer);
}

static size_t
take(void *argument, sink_fn *each, void *context)
{
    struct consumer *consumer = argument;
    cdedupe_t *core = consumer->buffer->core;
    cdedupe_result_t result;
    size_t count;

    while ((result = cdedupe_take(core, consumer->items, CALL, &count)) == CDEDUPE_EMPTY) {
        if (!consumer->loop)
            return 0;
        sem_wait(&consumer->buffer->wakes);
    }
    if (result == CDEDUPE_STOPPED)
        return 0;
    check(result);
    for (size_t i = 0; i < count; i++) {
        const cdedupe_item_t *item = &consumer->items[i];

        consumer->slots[i] = item->slot;
        if (each != NULL)
            each(context,
                 &(struct delivered){item->key, item->key_length,
                                     item->slot == 0 ? NULL : cdedupe_payload(core, item->slot),
                                     item->kind, item->status});
    }
    cdedupe_discard(core, consumer->slots, count);
    return count;
}

static uint64_t
memory(void *argument)
{
    struct buffer *buffer = argument;
    cdedupe_statistics_t statistics;

    cdedupe_statistics(buffer->core, &statistics, sizeof(statistics));
    return statistics.memory;
}

const struct subject ours = {
    create,     destroy,    stop,    producer_create, producer_destroy, put,
    delete_key, put_status, restart, consumer_create, consumer_destroy, take,
    memory,
};

const struct subject ours_pinned = {
    .create = create,
    .destroy = destroy,
    .producer_create = producer_create,
    .producer_destroy = producer_destroy,
    .put = put_pinned,
};
